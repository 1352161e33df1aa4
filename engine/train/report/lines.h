// The lines of the console as text: metric line, evaluation, sample, checkpoint and the summary at
// the end. Pure functions; console.h decides where and when they appear.
//
// Columns are fixed over a run, so that the eye can run down them. Nothing is told by colour alone:
// `!` before gnorm marks a jump (z > 5) or a clip rate above 90 %, `~` before loss one that was
// interpolated. Columns that do not apply to the whole run (no peak known, CPU) are left out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/train/report/records.h"

namespace engine {

struct TextStyle {
  bool unicode = true;  // false: ASCII only, for terminals and log collectors without UTF-8
  bool color = false;
  int width = 100;  // columns; 0 = unlimited

  // For a file descriptor: ANSI colour on a terminal unless NO_COLOR is set or TERM is dumb,
  // or as `color` says; Unicode when the locale says UTF-8; the width of the terminal.
  static TextStyle detect(int descriptor, ColorMode color = ColorMode::automatic);

  const char* pick(const char* rich, const char* ascii) const { return unicode ? rich : ascii; }
  std::string bold(const std::string& text) const { return paint(text, "1"); }
  std::string dim(const std::string& text) const { return paint(text, "2"); }
  std::string warn(const std::string& text) const { return paint(text, "33"); }
  std::string good(const std::string& text) const { return paint(text, "32"); }

 private:
  std::string paint(const std::string& text, const char* code) const {
    return color ? "\x1b[" + std::string(code) + "m" + text + "\x1b[0m" : text;
  }
};

// What the metric line needs to know of the whole run.
struct LineContext {
  int64_t total_steps = 0;
  double total_epochs = 0;
  std::optional<uint64_t> device_memory_bytes;
};

struct MetricExtras {
  double clipped_share = 0;   // of the last 100 steps
  bool interpolated = false;  // the loss is carried over, not measured
  std::optional<double> seconds_left;
};

std::string metric_line(const TrainRecord& record, const LineContext& context,
                        const MetricExtras& extras, const TextStyle& style);
std::string eval_line(const EvalRecord& record, const LineContext& context, const TextStyle& style);
std::string sample_line(const SampleRecord& record, const TextStyle& style);
std::string checkpoint_line(const CheckpointRecord& record, const LineContext& context,
                            const TextStyle& style);

struct RunSummary {
  SummaryRecord record;
  std::optional<double> first_train_loss;  // mean of the first 20 steps
  std::optional<double> last_train_loss;   // mean of the last 20 steps
  std::optional<double> first_eval_loss;
  std::optional<double> last_eval_loss;
  std::optional<double> best_eval_loss;
  std::optional<double> median_tokens_per_second;
  std::optional<double> slow_tokens_per_second;  // 5th percentile
  std::optional<double> mfu;
  std::optional<double> peak_flops;
  std::string flops_convention = "titan";
  std::optional<uint64_t> peak_memory_bytes;
  std::optional<uint64_t> predicted_memory_bytes;
  double clipped_share = 0;  // of all steps
  std::optional<double> max_grad_norm_z;
  int64_t max_grad_norm_z_step = 0;
  std::string output_dir;
  std::vector<std::string> saved;  // names in output_dir besides best/: "last/", "metrics.jsonl"
  std::string repro;               // command line
  std::vector<std::string> provenance;  // "git 1a2b3c4", "cuda 13.0", "H200"
  std::vector<std::string> next;        // commands worth running now
};

// Several lines, without a final newline.
std::string summary_text(const RunSummary& summary, const TextStyle& style);

}  // namespace engine
