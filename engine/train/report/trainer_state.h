// trainer_state.json as the Hugging Face Trainer writes it into checkpoints: notebooks and plotting
// scripts read its log_history. The engine reads it back on resume so that the history goes on.
//
// The file is JSON with sorted keys, two spaces of indentation and a final newline. Values that
// JSON cannot hold (NaN) are null; the Hugging Face file has a bare NaN there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "engine/train/report/records.h"

namespace engine {

struct TrainerStateFields {
  int64_t global_step = 0;
  double epoch = 0;
  int64_t max_steps = 0;
  double num_train_epochs = 0;
  int64_t logging_steps = 0;
  int64_t eval_steps = 0;
  int64_t save_steps = 0;
  int64_t train_batch_size = 0;  // rows per device; 0 when a micro-batch is counted in tokens
  int64_t num_input_tokens_seen = 0;
  double total_flops = 0;  // "total_flos" in the file
  std::optional<double> best_metric;
  std::optional<int64_t> best_global_step;
  std::optional<std::string> best_model_checkpoint;
};

class TrainerState {
 public:
  TrainerState();
  TrainerState(TrainerState&&) noexcept;
  TrainerState& operator=(TrainerState&&) noexcept;
  ~TrainerState();

  // Throws Error CKPT-STATE (exit code checkpoint) if it is not such a file. Files written by
  // Hugging Face are accepted, bare NaN included.
  static TrainerState read(const std::filesystem::path& path);
  // Atomic. Throws Error (exit code io).
  void write(const std::filesystem::path& path) const;
  std::string to_text() const;

  TrainerStateFields fields;

  // Rows of log_history with the keys of Hugging Face: {epoch, grad_norm, learning_rate, loss,
  // step}, {epoch, eval_loss, eval_runtime, eval_samples_per_second, eval_steps_per_second, step}
  // and, at the end of the run, {epoch, step, total_flos, train_loss, train_runtime,
  // train_samples_per_second, train_steps_per_second}.
  void add(const TrainRecord& record);
  void add(const EvalRecord& record);
  void add(const SummaryRecord& record, int64_t train_rows_seen);

  int64_t history_size() const;
  // Drops the rows of later steps and of the end of a finished run.
  void truncate_history(int64_t last_step);

 private:
  struct History;
  std::unique_ptr<History> history_;
};

}  // namespace engine
