// The events of a training run, as every output of this folder takes them: the same struct becomes
// a line of metrics.jsonl, points in TensorBoard, a row of trainer_state.json and a line on the
// console. Fields that do not apply are empty. Units: seconds, bytes, tokens, shares in 0..1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace engine {

struct TrainRecord {
  int64_t step = 0;  // optimizer steps completed, this one included
  double epoch = 0;
  double loss = 0;  // mean over the steps since the last record
  std::optional<double> loss_ema;
  std::optional<double> loss_z;       // console only
  std::optional<double> grad_norm;    // before clipping
  std::optional<double> grad_norm_z;  // console only
  bool clipped = false;
  double lr = 0;               // used by this step
  int64_t tokens = 0;          // of this step, all ranks
  int64_t tokens_trained = 0;  // of those, with a label
  int64_t tokens_total = 0;    // since the start of training
  double step_seconds = 0;
  double data_seconds = 0;  // of those, waiting for data
  double tokens_per_second = 0;
  std::optional<double> mfu;
  std::optional<uint64_t> peak_memory_bytes;
  int64_t nonfinite = 0;  // steps since the last record with a non-finite loss or gradient norm
};

struct ClassScores {
  double precision = 0, recall = 0, f1 = 0;
};

struct EvalGroup {
  std::string name;  // a dataset or a label
  double loss = 0;
  int64_t rows = 0;
  std::optional<ClassScores> scores = std::nullopt;  // of classifiers
};

struct EvalRecord {
  int64_t step = 0;
  double epoch = 0;
  std::string name = "eval";       // prefix of the metrics: eval_loss
  double loss = 0;                 // Σ losses / Σ labels
  bool per_token = true;           // the labels are tokens: exp(loss) is the perplexity
  std::optional<double> accuracy;  // of the next token or the class, over what has a label
  int64_t rows = 0;
  int64_t tokens_trained = 0;
  int64_t batches = 0;
  std::vector<EvalGroup> groups;
  std::vector<std::pair<std::string, double>> metrics;  // further ones: {"exact_match", 0.4}
  bool is_best = false;
  std::optional<double> best_value;     // the metric that chooses the best checkpoint, if not loss
  std::optional<double> previous_best;  // of the same metric
  std::optional<int64_t> previous_best_step;
  double seconds = 0;
};

struct SampleRecord {
  int64_t step = 0;
  std::string name;  // such as "dialog#3"; may be empty
  std::string prompt;
  std::string text;
  std::string reference;  // may be empty
  int64_t tokens = 0;
  std::string stop;  // "eos", "length", "stop"
};

struct CheckpointRecord {
  int64_t step = 0;
  std::string path;
  uint64_t bytes = 0;
  bool is_best = false;
  double seconds = 0;
};

struct SummaryRecord {
  int64_t step = 0;
  double epoch = 0;
  double train_loss = 0;  // mean over the whole run, as in Hugging Face
  std::optional<double> best_metric;
  std::optional<int64_t> best_step;
  int64_t tokens_total = 0;
  int64_t tokens_trained_total = 0;
  double total_flops = 0;
  int64_t nonfinite = 0;   // steps of the whole run
  int64_t skipped = 0;     // steps without an update
  std::string stopped_by;  // "end", "early_stopping", "interrupted"
  double seconds = 0;
  double train_seconds = 0;
  double eval_seconds = 0;
  double checkpoint_seconds = 0;
  double data_seconds = 0;
};

}  // namespace engine
