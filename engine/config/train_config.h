// Everything a training run can be told, as plain structs.
//
// A TrainConfig comes from load_train_config (engine/config/load.h), which has then checked types,
// ranges and conflicts and filled in what follows from other settings; the trainer and the tests
// may also make one by hand. The one-line documentation that users see, ranges and key names are in
// engine/config/schema.cpp: a field added here needs its line there (a test counts them).
//
// Key names are the field names, dotted: train.max_grad_norm, data.fields. Words are those of the
// Hugging Face Trainer where it has the term. "One of" below means: after loading exactly one of
// the optional fields of the group has a value, and setting two is an error.
//
// Relative paths are relative to the working directory, not to the file they are written in.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace engine {

// Choices. Their spellings in files are in engine/config/choices.h: `automatic` is "auto", `on` is
// "true" and `off` is "false" everywhere.
enum class Toggle { automatic, on, off };

enum class ModelInit { automatic, pretrained, random };
enum class ModelTask { causal_lm, sequence_classification };
enum class ModelProblem {
  automatic,
  single_label_classification,
  multi_label_classification,
  regression
};
enum class SaveDtype { automatic, float32, bfloat16 };

// csv and tsv are recognised by the names of files, in order to be refused; no config can ask for
// them.
enum class DataFormat { automatic, text, jsonl, json, csv, tsv };
enum class TextSplit { lines, blank_lines, whole };
enum class Overflow { error, drop, truncate_right, truncate_left, split };
enum class OnNoTarget { error, drop, keep };
enum class Packing { packed, rows, stream };
enum class Shuffle { seeded, torch, none };
enum class TrainOn { all, completion, assistant, last };

enum class Precision { fp32, tf32, bf16 };
enum class ResidualPrecision { compute, fp32 };
enum class Recompute { none, norms, block };
enum class Determinism { exact, fast };
enum class OnNonfinite { stop, skip_step };
enum class LossReduction { token, hf, hf_microbatch_mean };
enum class MetricDirection { automatic, minimize, maximize };

enum class WeightDecayMode { hf, none, all };
enum class ScheduleType { constant, linear, cosine, wsd };
enum class WarmupStart { zero, one_over_w };
enum class DecayShape { linear, cosine, sqrt };
enum class ColorMode { automatic, always, never };
enum class GenerationInherit { checkpoint, none };

// A value that is either a path or written inline as a map, e.g. model.config.
struct PathOrMap {
  std::string path;  // a file, or empty
  std::string json;  // the inline map as JSON text, or empty
  bool empty() const { return path.empty() && json.empty(); }
  bool operator==(const PathOrMap&) const = default;
};

struct ModelConfig {
  // One of path and config. `path` is a Hugging Face model directory.
  std::optional<std::string> path;
  // Architecture for a model made from nothing: a config.json, or its content as a map.
  std::optional<PathOrMap> config;
  // After loading never automatic: pretrained with path, random with config.
  ModelInit init = ModelInit::automatic;
  // Tokenizer directory or file; empty = model.path.
  std::string tokenizer;
  ModelTask task = ModelTask::causal_lm;
  // sequence_classification: number of classes, or their names in the order of their ids. Neither
  // = what the checkpoint says, else the labels found in the training data, sorted.
  std::optional<int64_t> num_labels;
  // sequence_classification: what labels are; automatic is decided by engine/step/labels.h.
  ModelProblem problem_type = ModelProblem::automatic;
  std::vector<std::string> label_names;
  // Overrides every dropout probability of the model's own config.json.
  std::optional<double> dropout;
  // Of the weights that are written; automatic = as they were read (float32 from scratch).
  SaveDtype save_dtype = SaveDtype::automatic;
};

struct DataConfig {
  std::vector<std::string> train;       // files; never empty after loading
  std::vector<std::string> validation;  // files; empty = none
  // At most one of validation and validation_fraction: this part of the training rows is held out.
  std::optional<double> validation_fraction;
  DataFormat format = DataFormat::automatic;
  // Role to name of the field in the file, or to a template of several fields:
  // {prompt: "Question: {question}\nAnswer:", completion: answer}.
  std::map<std::string, std::string> fields;
  TextSplit split = TextSplit::blank_lines;  // text files: what one document is
  std::string label_field;    // class label, or group for per-label loss; empty = none
  int64_t max_length = 1024;  // tokens per row; of the source, for an encoder-decoder model
  std::optional<int64_t> max_target_length;     // tokens of its target; unset = max_length
  Overflow overflow = Overflow::error;          // rows longer than max_length
  OnNoTarget on_no_target = OnNoTarget::error;  // rows without a single trained token
  Packing packing = Packing::packed;
  Shuffle shuffle = Shuffle::seeded;
  bool drop_last = false;  // packing rows: leave out the last, smaller micro-batch of an epoch
  Toggle add_bos = Toggle::automatic;  // automatic = as the tokenizer does
  Toggle add_eos = Toggle::automatic;  // automatic = at the end of every document
  // Which tokens have labels: of prompt/completion rows those of the completion, of conversations
  // what the assistant says (completion and assistant), or its last turn; or all.
  TrainOn train_on = TrainOn::completion;
  // Conversations: a file with a Jinja template, or the name of one of the tokenizer's; empty = the
  // tokenizer's own.
  std::string chat_template;
  std::string chat_date;  // what templates take for today, YYYY-MM-DD; empty = their fallback
  std::string cache_dir;  // tokenised data; empty = no cache
  std::optional<uint64_t> seed;  // order of the rows; unset = train.seed
};

struct EarlyStoppingConfig {
  int64_t patience = 0;  // evaluations without improvement before stopping; 0 = never stop
  double threshold = 0;  // an improvement must exceed this, counted from the last reset
};

struct SampleConfig {
  int64_t every = 0;  // steps between samples; 0 = never
  std::vector<std::string> prompts;
  int64_t max_new_tokens = 64;
};

struct RunConfig {  // section `train`
  std::string output_dir = "output";
  uint64_t seed = 42;
  // One of epochs and max_steps (default: 3 epochs).
  std::optional<double> epochs;
  std::optional<int64_t> max_steps;
  // What is computed at once. packed: tokens (default 8 × data.max_length). rows: rows (default 8),
  // or tokens, or both: whichever is reached first. stream: the same, by default tokens.
  std::optional<int64_t> micro_batch_tokens;
  std::optional<int64_t> micro_batch_rows;
  int64_t accumulation = 1;    // micro-batches per optimizer step
  double max_grad_norm = 1.0;  // 0 = no clipping
  Precision precision = Precision::fp32;
  ResidualPrecision residual = ResidualPrecision::compute;
  Recompute recompute = Recompute::none;
  std::string device = "auto";  // engine/core/device_name.h
  int64_t threads = 0;          // 0 = every core this process may use
  int64_t log_every = 10;       // steps

  // At most one of the two; neither = once per epoch when there is validation data.
  std::optional<int64_t> eval_every;  // steps
  std::optional<int64_t> evals_per_epoch;
  bool eval_at_start = false;
  int64_t eval_max_batches = 0;  // 0 = all

  int64_t save_every = 0;        // steps; 0 = only at the end and when interrupted
  int64_t keep_checkpoints = 2;  // newest ones kept, besides best/ and last/; 0 = all
  EarlyStoppingConfig early_stopping;
  std::string best_metric = "loss";  // of the evaluation: "loss", "accuracy", ...
  MetricDirection best_direction = MetricDirection::automatic;  // see lower_is_better()
  // off: start anew; on: continue from output_dir, an error without a checkpoint there;
  // automatic: continue if there is one.
  Toggle resume = Toggle::off;

  // Recording of the computation of micro-batches (engine/step/step_graphs.h). automatic: on CUDA.
  Toggle cuda_graph = Toggle::automatic;
  Determinism determinism = Determinism::exact;
  OnNonfinite on_nonfinite = OnNonfinite::stop;
  // token: Σ loss / number of predicted, unmasked tokens of the whole step. hf: the denominator
  // also counts a label in position 0 of a row, as the HF Trainer does. hf_microbatch_mean: mean of
  // the means of the micro-batches (HF for models that take no loss arguments, such as T5).
  LossReduction loss_reduction = LossReduction::token;
  SampleConfig sample;
  uint64_t memory_limit = 0;  // bytes; 0 = what is available

  // Whether a smaller best_metric is better: as told, else for "perplexity" and what ends in
  // "loss".
  bool lower_is_better() const {
    if (best_direction != MetricDirection::automatic) {
      return best_direction == MetricDirection::minimize;
    }
    return best_metric.ends_with("loss") || best_metric.ends_with("perplexity");
  }
};

struct OptimizerConfig {  // AdamW
  double lr = 5e-5;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  // hf: not on biases and norms; none: on no parameter; all: on every parameter.
  WeightDecayMode weight_decay_mode = WeightDecayMode::hf;
  bool stochastic_rounding = false;  // bf16: no fp32 master weights
};

struct ScheduleConfig {
  ScheduleType type = ScheduleType::linear;
  // One of the two (default: 0 steps). The ratio is of all optimizer steps, rounded up.
  std::optional<int64_t> warmup_steps;
  std::optional<double> warmup_ratio;
  WarmupStart warmup_start = WarmupStart::zero;  // first update: lr 0 (HF), or lr / warmup_steps
  double min_lr_ratio = 0.0;                     // the floor, as a part of optimizer.lr
  double num_cycles = 0.5;                       // cosine: waves between warmup and end
  // wsd: the final decay. One of the two (default: a tenth of all steps).
  std::optional<int64_t> decay_steps;
  std::optional<double> decay_ratio;
  DecayShape decay_shape = DecayShape::linear;  // wsd
};

struct LoggingConfig {  // metrics.jsonl is always written
  bool tensorboard = true;
  ColorMode color = ColorMode::automatic;
};

struct TrainConfig {
  ModelConfig model;
  DataConfig data;
  RunConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  LoggingConfig logging;

  uint64_t data_seed() const { return data.seed.value_or(train.seed); }
};

// Settings of `engine generate`. Unset means: from the checkpoint's generation_config.json when
// inherit is `checkpoint` and it has the setting, else the value behind the field.
struct GenerateConfig {
  GenerationInherit inherit = GenerationInherit::checkpoint;
  std::optional<int64_t> max_new_tokens;     // 128
  std::optional<bool> do_sample;             // false: greedy
  std::optional<double> temperature;         // 1.0; applied before top_k and top_p, as in HF
  std::optional<int64_t> top_k;              // 50; 0 = off
  std::optional<double> top_p;               // 1.0 = off
  std::optional<double> min_p;               // 0 = off
  std::optional<double> repetition_penalty;  // 1.0 = off
  uint64_t seed = 42;
  std::vector<std::string> stop;  // strings that end the text
  bool ignore_eos = false;
};

}  // namespace engine
