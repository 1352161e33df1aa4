#include "engine/train/report/lines.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "engine/train/report/format.h"

namespace engine {
namespace {

constexpr double kJump = 5;  // z-score of the gradient norm that deserves a mark
constexpr double kMostlyClipped = 0.9;

bool locale_is_utf8() {
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') continue;  // the first one that is set decides
    const std::string_view name(value);
    return name.find("UTF-8") != std::string_view::npos ||
           name.find("utf8") != std::string_view::npos ||
           name.find("utf-8") != std::string_view::npos ||
           name.find("UTF8") != std::string_view::npos;
  }
  return false;
}

int terminal_width(int descriptor) {
  winsize size = {};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 0;
}

int digits(int64_t value) {
  return static_cast<int>(fmt::format("{}", value).size());
}

// "step  " or "eval  " and the step, right-aligned below the largest one of the run.
std::string head(const char* label, int64_t step, const LineContext& context) {
  return fmt::format("{:<6}{:>{}}", label, step, digits(context.total_steps));
}

// Up to the first separator, so that "| loss" of an evaluation stands below that of a step.
std::string pad_head(const std::string& text, const LineContext& context) {
  const int epoch_width = static_cast<int>(fmt::format("{:.2f}", context.total_epochs).size());
  const int width = 6 + 2 * digits(context.total_steps) + 1 + 5 + 4 + epoch_width;
  return fmt::format("{:<{}}", text, width);
}

std::string signed_z(const std::optional<double>& z) {
  if (!z) return "   -";
  if (!std::isfinite(*z)) return *z > 0 ? "+inf" : "-inf";
  const std::string text = fmt::format("{:+.1f}", *z);
  return text.size() <= 4 ? text : fmt::format("{:+4.0f}", std::min(999.0, std::max(-999.0, *z)));
}

std::string optional_number(const std::optional<double>& value, int width) {
  return value ? fixed_width(*value, width) : fmt::format("{:>{}}", "-", width);
}

std::string join(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

}  // namespace

TextStyle TextStyle::detect(int descriptor, ColorMode color) {
  TextStyle style;
  const bool terminal = ::isatty(descriptor) == 1;
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  const bool refused = (no_color != nullptr && *no_color != '\0') ||
                       (term != nullptr && std::string_view(term) == "dumb");
  style.color =
      color == ColorMode::always || (color == ColorMode::automatic && terminal && !refused);
  style.unicode = locale_is_utf8();
  style.width = terminal ? terminal_width(descriptor) : 0;
  return style;
}

std::string metric_line(const TrainRecord& record, const LineContext& context,
                        const MetricExtras& extras, const TextStyle& style) {
  const double share = context.total_steps > 0 ? static_cast<double>(record.step) /
                                                     static_cast<double>(context.total_steps)
                                               : 0;
  const int epoch_width = static_cast<int>(fmt::format("{:.2f}", context.total_epochs).size());
  std::string line = style.bold(
      pad_head(fmt::format("{}/{} {:>4} ep {:>{}.2f}", head("step", record.step, context),
                           context.total_steps, fmt::format("{:.0f}%", std::floor(share * 100)),
                           record.epoch, epoch_width),
               context));
  const std::string loss =
      fmt::format("{}loss {}", extras.interpolated ? "~" : " ", fixed_width(record.loss, 6));
  line += fmt::format(" |{} (ema {}, z {})",
                      std::isfinite(record.loss) ? style.bold(loss) : style.warn(loss),
                      optional_number(record.loss_ema, 5), signed_z(record.loss_z));
  if (record.grad_norm) {
    const bool marked = !std::isfinite(*record.grad_norm) ||
                        record.grad_norm_z.value_or(0) > kJump ||
                        extras.clipped_share > kMostlyClipped;
    const std::string norm =
        fmt::format("{}gnorm {}", marked ? "!" : " ", fixed_width(*record.grad_norm, 4));
    line += " |" + (marked ? style.warn(norm) : norm);
  }
  line += fmt::format(
      " | lr {} | {:>5} tok/s {}", learning_rate(record.lr), human_rate(record.tokens_per_second),
      record.step_seconds < 9.9995 ? fmt::format("{:>4.0f} ms", record.step_seconds * 1000)
                                   : fmt::format("{:>5} s", fixed_width(record.step_seconds, 5)));
  if (record.mfu) line += fmt::format(" | mfu {:>4}%", percent(*record.mfu));
  if (record.peak_memory_bytes) {
    line += fmt::format(
        " | mem {}G",
        fixed_width(static_cast<double>(*record.peak_memory_bytes) / (1024.0 * 1024 * 1024), 4));
    if (context.device_memory_bytes && *context.device_memory_bytes > 0) {
      line += fmt::format(" {:>2.0f}%", 100.0 * static_cast<double>(*record.peak_memory_bytes) /
                                            static_cast<double>(*context.device_memory_bytes));
    }
  }
  const double waiting =
      record.step_seconds > 0 ? 100 * record.data_seconds / record.step_seconds : 0;
  line += fmt::format(" | data {}%", fixed_width(waiting, 3));
  if (extras.seconds_left) line += " | eta " + duration(*extras.seconds_left);
  return line;
}

std::string eval_line(const EvalRecord& record, const LineContext& context,
                      const TextStyle& style) {
  std::string start = head("eval", record.step, context);
  if (record.name != "eval") start += " " + record.name;
  std::string line = style.bold(pad_head(start, context)) + " | " +
                     style.bold("loss " + fixed_width(record.loss, 6));
  if (record.per_token) line += " ppl " + fixed_width(std::exp(record.loss), 4);
  if (record.accuracy) line += fmt::format(" acc {:.3f}", *record.accuracy);
  for (const auto& [name, value] : record.metrics) line += fmt::format(" {} {:.4g}", name, value);
  if (!record.groups.empty()) {
    std::vector<std::string> groups;
    for (const EvalGroup& group : record.groups) {
      groups.push_back(
          fmt::format("{} {:.2f} (n={})", escape_line(group.name), group.loss, group.rows));
    }
    line += " | " + join(groups, " ");
  }
  if (record.is_best) {
    std::string best = "best";
    if (record.previous_best) {
      best += fmt::format(" {} (was {:.4f} @{})",
                          *record.previous_best > record.best_value.value_or(record.loss)
                              ? style.pick("↓", "v")
                              : style.pick("↑", "^"),
                          *record.previous_best, record.previous_best_step.value_or(0));
    }
    line += " | " + style.good(best + style.pick(" → ckpt best", " -> ckpt best"));
  }
  return line + " | " + duration(record.seconds);
}

std::string sample_line(const SampleRecord& record, const TextStyle& style) {
  const std::string arrow = style.pick("→", "->");
  const std::string ellipsis = style.pick("…", "...");
  std::string start = fmt::format("sample {}", record.step);
  if (!record.name.empty()) start += " [" + escape_line(record.name) + "]";
  // The end of the prompt is what the text continues.
  constexpr size_t kPromptBytes = 24;
  std::string prompt = escape_line(record.prompt);
  if (prompt.size() > kPromptBytes) {
    size_t from = prompt.size() - kPromptBytes;
    while (from < prompt.size() && (static_cast<unsigned char>(prompt[from]) & 0xc0) == 0x80)
      ++from;
    prompt = ellipsis + prompt.substr(from);
  }
  std::string text = escape_line(record.text);
  std::string reference = escape_line(record.reference);
  const std::string stop = fmt::format("  {} tok  stop={}", record.tokens, record.stop);
  if (style.width > 0) {
    // What is left is for the text; the reference may take up to half of it.
    constexpr int kPunctuation = 7;
    constexpr int kReferencePunctuation = 10;
    const auto shorten = [&](std::string& words, int room) {
      if (display_width(words) <= room) return;
      words = cut_to_width(words, std::max(0, room - display_width(ellipsis))) + ellipsis;
    };
    int room = style.width - display_width(start) - display_width(prompt) - display_width(arrow) -
               display_width(stop) - kPunctuation;
    if (!reference.empty()) {
      room -= kReferencePunctuation;
      shorten(reference, std::max(room / 2, room - display_width(text)));
      room -= display_width(reference);
    }
    shorten(text, room);
  }
  std::string end = reference.empty() ? "" : "  (ref \"" + reference + "\")";
  end += stop;
  return fmt::format("{} \"{}\" {} \"{}\"{}", style.bold(start), prompt, arrow, text,
                     style.dim(end));
}

std::string checkpoint_line(const CheckpointRecord& record, const LineContext& context,
                            const TextStyle& style) {
  return style.bold(pad_head(head("ckpt", record.step, context), context)) +
         fmt::format(" | {} {} GiB{} | {}", record.path, gib(record.bytes, 2),
                     record.is_best ? " best" : "", duration(record.seconds));
}

std::string summary_text(const RunSummary& summary, const TextStyle& style) {
  const SummaryRecord& record = summary.record;
  const std::string arrow = style.pick("→", "->");
  std::vector<std::string> lines;
  const auto label = [&](const char* name) { return style.bold(fmt::format("{:<7}", name)); };

  std::string done =
      label("done") + fmt::format("{} steps, {:.2f} epochs, {} tok ({} trained) in {}", record.step,
                                  record.epoch,
                                  human_count(static_cast<double>(record.tokens_total)),
                                  human_count(static_cast<double>(record.tokens_trained_total)),
                                  duration(record.seconds));
  done += fmt::format("  (train {}, eval {}, ckpt {}, data wait {})",
                      duration(record.train_seconds), duration(record.eval_seconds),
                      duration(record.checkpoint_seconds), duration(record.data_seconds));
  if (!record.stopped_by.empty() && record.stopped_by != "end") {
    done += "  stopped by " + style.warn(record.stopped_by);
  }
  lines.push_back(done);

  std::string loss = label("loss");
  if (summary.first_train_loss && summary.last_train_loss) {
    loss += fmt::format("train {:.3f} {} {:.3f} (last 20 avg)", *summary.first_train_loss, arrow,
                        *summary.last_train_loss);
  } else {
    loss += fmt::format("train {:.4f} (mean)", record.train_loss);
  }
  if (summary.first_eval_loss && summary.last_eval_loss) {
    loss += fmt::format("   eval {:.3f} {} {:.4f}", *summary.first_eval_loss, arrow,
                        *summary.last_eval_loss);
    if (summary.best_eval_loss && record.best_step) {
      loss += fmt::format(" (best {:.4f} @ step {})", *summary.best_eval_loss, *record.best_step);
    }
    if (summary.last_train_loss) {
      loss +=
          fmt::format("   gap {:+.2f} at end", *summary.last_eval_loss - *summary.last_train_loss);
    }
    if (summary.best_eval_loss && record.best_step &&
        *record.best_step<record.step&& * summary.last_eval_loss> * summary.best_eval_loss) {
      loss += fmt::format(" {} overfit after step {}", style.pick("—", "-"), *record.best_step);
    }
  }
  lines.push_back(loss);

  std::vector<std::string> speed;
  if (summary.median_tokens_per_second) {
    std::string text = human_rate(*summary.median_tokens_per_second) + " tok/s median";
    if (summary.slow_tokens_per_second) {
      text += fmt::format(" (p5 {})", human_rate(*summary.slow_tokens_per_second));
    }
    speed.push_back(text);
  }
  if (summary.mfu) {
    std::string text = fmt::format("mfu {} % ({}", percent(*summary.mfu), summary.flops_convention);
    if (summary.peak_flops)
      text += fmt::format(", peak {:.0f} TF bf16", *summary.peak_flops / 1e12);
    speed.push_back(text + ")");
  }
  if (summary.peak_memory_bytes) {
    std::string text = fmt::format("peak mem {} GiB", gib(*summary.peak_memory_bytes));
    if (summary.predicted_memory_bytes) {
      text += fmt::format(" (predicted {})", gib(*summary.predicted_memory_bytes));
    }
    speed.push_back(text);
  }
  if (!speed.empty()) lines.push_back(label("speed") + join(speed, "  "));

  std::string health =
      label("health") + fmt::format("clipped {} % of steps, {} non-finite, {} skipped",
                                    percent(summary.clipped_share, 0), record.nonfinite,
                                    record.skipped);
  if (summary.max_grad_norm_z) {
    health += fmt::format(", max gnorm z {:.1f} @ step {}", *summary.max_grad_norm_z,
                          summary.max_grad_norm_z_step);
  }
  lines.push_back(record.nonfinite > 0 ? style.warn(health) : health);

  std::vector<std::string> saved;
  if (record.best_step) {
    saved.push_back(fmt::format("{}/best  (step {}, HF format, loads in transformers)",
                                summary.output_dir, *record.best_step));
  } else if (!summary.output_dir.empty()) {
    saved.push_back(summary.output_dir + "/");
  }
  saved.insert(saved.end(), summary.saved.begin(), summary.saved.end());
  if (!saved.empty()) lines.push_back(label("saved") + join(saved, "  "));
  if (!summary.next.empty()) lines.push_back(label("next") + join(summary.next, "     "));
  if (!summary.repro.empty()) {
    std::string repro = label("repro") + summary.repro;
    if (!summary.provenance.empty()) repro += "   (" + join(summary.provenance, ", ") + ")";
    lines.push_back(repro);
  }
  return join(lines, "\n");
}

}  // namespace engine
