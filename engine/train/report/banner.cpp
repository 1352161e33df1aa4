#include "engine/train/report/banner.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/train/report/format.h"

namespace engine {
namespace {

std::string count(int64_t value, int decimals = 1) {
  return human_count(static_cast<double>(value), decimals);
}

std::string label(const char* name, const TextStyle& style) {
  return style.bold(fmt::format("{:<8}", name));
}

std::string model_line(const BannerModel& model, const TextStyle& style) {
  return label("model", style) +
         fmt::format("{}  {} params ({} matmul) {}, {}, wd {} on {} / 0 on {} (norm,bias)",
                     model.name, count(model.num_params), count(model.matmul_params),
                     model.precision, model.optimizer, model.weight_decay,
                     count(model.decayed_params), count(model.exempt_params));
}

std::string data_line(const BannerData& data, bool labels, const TextStyle& style) {
  std::string line =
      label("data", style) +
      fmt::format("train {} rows {} tok ({} {})", grouped(data.train_rows),
                  count(data.train_tokens, 2),
                  labels ? grouped(data.trained_tokens) : count(data.trained_tokens, 2),
                  labels ? "labelled" : "trained");
  if (data.validation_rows > 0)
    line += fmt::format(" | eval {} rows", grouped(data.validation_rows));
  int64_t dropped = 0;
  std::string reasons;
  for (const auto& [reason, rows] : data.dropped) {
    if (rows == 0) continue;
    dropped += rows;
    reasons += fmt::format("{}{} {}", reasons.empty() ? "" : ", ", grouped(rows), reason);
  }
  if (dropped > 0) {
    line += " | " + style.warn(fmt::format("{} rows dropped: {}", grouped(dropped), reasons));
  }
  if (data.batch_fill) {
    line += fmt::format(" | token-budget batches {} % full, 0 padding computed",
                        percent(*data.batch_fill));
  }
  return line;
}

std::string head_line(const BannerHead& head, const TextStyle& style) {
  constexpr size_t kShown = 8;
  std::string line =
      label("head", style) + head.problem +
      fmt::format(", {} label{}: ", head.classes.size(), head.classes.size() == 1 ? "" : "s");
  for (size_t i = 0; i < std::min(kShown, head.classes.size()); ++i) {
    line += (i > 0 ? ", " : "") + escape_line(head.classes[i]);
  }
  if (head.classes.size() > kShown) line += ", ...";
  if (!head.new_tensors.empty()) {
    std::string names;
    for (const std::string& name : head.new_tensors) names += (names.empty() ? "" : ", ") + name;
    line += " | " + style.warn("not in the checkpoint, newly initialised: " + names);
  }
  return line;
}

std::string plan_line(const BannerPlan& plan, const TextStyle& style) {
  const bool gpu = plan.device.find("CPU") == std::string::npos;
  const int64_t per_step = plan.tokens_per_micro_batch * plan.accumulation * plan.num_devices;
  const std::string times = style.pick("×", "x");
  std::string line =
      label("plan", style) +
      fmt::format(
          "{} tok/{} {} {} accum {} {} {} = {} tok/step {} {} steps/epoch {} {:g} = {} steps",
          grouped(plan.tokens_per_micro_batch), style.pick("µbatch", "ubatch"), times,
          plan.accumulation, times, plan.num_devices, gpu ? "GPU" : "CPU", count(per_step),
          style.pick("→", "->"), grouped(plan.steps_per_epoch), times, plan.epochs,
          grouped(plan.total_steps));
  if (plan.estimated_seconds) line += "   est " + duration(*plan.estimated_seconds);
  return line + (gpu ? fmt::format(" ({}{}{})", plan.num_devices, times, plan.device)
                     : fmt::format(" ({})", plan.device));
}

std::string memory_line(const BannerMemory& memory, const TextStyle& style) {
  // Small runs in MiB: "0.0 GiB" tells nothing.
  constexpr double kMiB = 1024.0 * 1024;
  uint64_t total = 0;
  for (const auto& [name, bytes] : memory.categories) total += bytes;
  const bool small = static_cast<double>(total) < 1024 * kMiB;
  const auto amount = [&](uint64_t bytes) {
    return small ? fmt::format("{:.1f}", static_cast<double>(bytes) / kMiB) : gib(bytes);
  };
  std::string parts;
  for (const auto& [name, bytes] : memory.categories) {
    parts += fmt::format("{}{} {}", parts.empty() ? "" : " | ", name, amount(bytes));
  }
  std::string line = label("memory", style) + fmt::format("{} = {}", parts, amount(total));
  if (small) line += " MiB";
  if (memory.available_bytes > 0) {
    const double share = static_cast<double>(total) / static_cast<double>(memory.available_bytes);
    line += fmt::format(" of {} GiB ({} %)", gib(memory.available_bytes), percent(share, 0));
  } else if (!small) {
    line += " GiB";
  }
  return line;
}

std::string stop_line(const BannerStop& stop, const TextStyle& style) {
  std::string line = label("stop", style);
  if (stop.rows_ending_in_stop) {
    line += fmt::format("{} % rows end in trained {} ({})", percent(*stop.rows_ending_in_stop, 0),
                        stop.stop_token, stop.stop_token_id);
    const bool known = std::find(stop.generation_eos.begin(), stop.generation_eos.end(),
                                 stop.stop_token_id) != stop.generation_eos.end();
    const std::string list = fmt::format("[{}]", fmt::join(stop.generation_eos, ","));
    line += known ? style.good(style.pick(" ✓", " ok")) + " in generation eos " + list
                  : style.warn(style.pick(" ✗", " !!")) + " not in generation eos " + list;
  } else {
    line += style.warn("no row ends in a stop token: the model will not learn to stop");
  }
  if (!stop.bos.empty()) line += "   bos: " + stop.bos;
  return line;
}

}  // namespace

std::string banner_text(const Banner& banner, const TextStyle& style) {
  std::string text = style.bold(fmt::format("engine {} train", banner.version)) +
                     fmt::format("  run={}  seed={}  determinism={}", banner.run_name, banner.seed,
                                 banner.determinism);
  if (!banner.config_sha.empty()) text += "   config sha " + banner.config_sha;
  if (banner.resumed_step) text += fmt::format("   resumed at step {}", *banner.resumed_step);
  text += "\n" + model_line(banner.model, style);
  if (banner.head) text += "\n" + head_line(*banner.head, style);
  text += "\n" + data_line(banner.data, banner.head.has_value(), style);
  text += "\n" + plan_line(banner.plan, style);
  if (!banner.memory.categories.empty()) text += "\n" + memory_line(banner.memory, style);
  if (banner.stop) text += "\n" + stop_line(*banner.stop, style);
  return text;
}

}  // namespace engine
