#include "engine/config/schema.h"

#include <stdexcept>

namespace engine {
namespace {

constexpr Range kAny{};
constexpr Range at_least(double min) {
  return {.min = min};
}
constexpr Range above(double min) {
  return {.min = min, .min_open = true};
}
constexpr Range between(double min, double max) {
  return {.min = min, .max = max};
}
constexpr Range kFraction{.min = 0, .max = 1, .max_open = true};                          // [0, 1)
constexpr Range kProperFraction{.min = 0, .max = 1, .min_open = true, .max_open = true};  // (0, 1)

class Builder {
 public:
  void section(std::string key, std::string doc) {
    prefix_ = key + ".";
    schema_.sections.push_back({std::move(key), std::move(doc)});
  }

  template <class Member>
  void add(const char* name, Member& member, std::string doc, Range range = kAny,
           std::string default_text = "") {
    schema_.fields.push_back(
        {prefix_ + name, slot(member), range, std::move(doc), std::move(default_text)});
  }

  // Only the first `count` spellings may be written.
  template <class Enum>
  void add_choice(const char* name, Enum& member, size_t count, std::string doc) {
    add(name, member, std::move(doc));
    ChoiceSlot& choice = std::get<ChoiceSlot>(schema_.fields.back().slot);
    choice.names = choice.names.first(count);
  }

  void add_bytes(const char* name, uint64_t& member, std::string doc, std::string default_text) {
    schema_.fields.push_back(
        {prefix_ + name, BytesSlot{&member}, kAny, std::move(doc), std::move(default_text)});
  }

  Schema take() { return std::move(schema_); }

 private:
  template <class Member>
  static Slot slot(Member& member) {
    if constexpr (std::is_enum_v<Member>) {
      return ChoiceSlot{
          Choices<Member>::names, &member,
          [](const void* m) { return static_cast<size_t>(*static_cast<const Member*>(m)); },
          [](void* m, size_t index) { *static_cast<Member*>(m) = static_cast<Member>(index); }};
    } else {
      return &member;
    }
  }

  Schema schema_;
  std::string prefix_;
};

void add_model(Builder& b, ModelConfig& c) {
  b.section("model", "What is trained");
  b.add("path", c.path, "Hugging Face model directory; one of this and `model.config`");
  b.add("config", c.config,
        "Architecture of a model made from nothing: a config.json, or its content as a map");
  b.add("init", c.init,
        "Weights: read from `model.path`, or random; auto is pretrained with a path and random "
        "with a config");
  b.add("tokenizer", c.tokenizer, "Tokenizer directory or file", kAny, "model.path");
  b.add("task", c.task, "What the model predicts: the next token, or the class of a row");
  b.add("num_labels", c.num_labels, "Classes of sequence_classification", between(1, 1e6),
        "as the checkpoint or the data say");
  b.add("label_names", c.label_names,
        "Names of the classes in the order of their ids; instead of `model.num_labels`");
  b.add("problem_type", c.problem_type,
        "What a label is: a class, classes, or a number; auto is as the checkpoint or, if it does "
        "not say, the labels are, and regression with one label");
  b.add("dropout", c.dropout, "Overrides every dropout probability of the model", kFraction,
        "as in config.json");
  b.add("save_dtype", c.save_dtype,
        "Type of the weights that are written; auto is the type they were read in");
}

void add_data(Builder& b, DataConfig& c) {
  b.section("data", "Rows, and how they become batches");
  b.add("train", c.train, "Training files; a single one may be given as text");
  b.add("validation", c.validation, "Validation files");
  b.add("validation_fraction", c.validation_fraction,
        "Part of the training rows held out for validation; instead of `data.validation`",
        kProperFraction);
  b.add_choice("format", c.format, 4, "Format of the files; auto goes by name and content");
  b.add("fields", c.fields,
        "Role (text, prompt, completion, input_ids, labels) to name of the field, or to a template "
        "of "
        "fields: {prompt: \"Q: {question}\", completion: answer}");
  b.add("split", c.split, "What one document of a text file is");
  b.add("label_field", c.label_field,
        "Field with the class of a row, or with the group that its loss is reported under");
  b.add("max_length", c.max_length, "Longest row, in tokens", between(1, 1 << 30));
  b.add("max_target_length", c.max_target_length,
        "Longest target of an encoder-decoder model, in tokens; `data.max_length` is of its source",
        between(1, 1 << 30), "data.max_length");
  b.add("overflow", c.overflow, "What happens to rows longer than `data.max_length`");
  b.add("on_no_target", c.on_no_target, "What happens to rows without a single trained token");
  b.add("packing", c.packing,
        "packed: whole rows share a token budget; rows: a number of rows; stream: rows are joined "
        "and cut to length, for pretraining");
  b.add("shuffle", c.shuffle,
        "Order of the rows in each epoch: seeded; torch, the order of the HF Trainer; or as in the "
        "files");
  b.add("drop_last", c.drop_last,
        "packing rows: leave out the last, smaller micro-batch of an epoch");
  b.add("add_bos", c.add_bos, "Begin each document with BOS; auto is as the tokenizer does");
  b.add("add_eos", c.add_eos, "End each document with EOS; auto adds it where it is missing");
  b.add("train_on", c.train_on,
        "Which tokens have labels: those of completions, and of conversations what the assistant "
        "says (completion and assistant) or its last turn; or all");
  b.add("chat_template", c.chat_template,
        "Conversations: a file with a Jinja template, or the name of one of the tokenizer's", kAny,
        "the tokenizer's own");
  b.add("chat_date", c.chat_date, "What chat templates take for today, YYYY-MM-DD", kAny,
        "what they fall back to");
  b.add("cache_dir", c.cache_dir, "Directory for tokenised data", kAny, "no cache");
  b.add("seed", c.seed, "Seed of the order of rows", kAny, "train.seed");
}

void add_train(Builder& b, RunConfig& c) {
  b.section("train", "The run");
  b.add("output_dir", c.output_dir, "Where checkpoints, logs and the resolved config go");
  b.add("seed", c.seed, "Seed of everything random");
  b.add("epochs", c.epochs, "Passes over the data; may be a fraction; or give `train.max_steps`",
        above(0), "3.0 unless max_steps is set");
  b.add("max_steps", c.max_steps, "Optimizer steps; or give `train.epochs`", at_least(1));
  b.add("micro_batch_tokens", c.micro_batch_tokens, "Tokens computed at once, at most",
        between(1, 1 << 30), "8 × data.max_length, unless packing rows");
  b.add("micro_batch_rows", c.micro_batch_rows,
        "Rows computed at once, at most; for packing rows and stream", between(1, 1 << 24),
        "8 for packing rows");
  b.add("accumulation", c.accumulation, "Micro-batches per optimizer step", between(1, 1 << 24));
  b.add("max_grad_norm", c.max_grad_norm, "Gradients with a larger norm are scaled down; 0 is off",
        at_least(0));
  b.add("precision", c.precision,
        "Of compute; tf32 is fp32 whose products round their inputs to 10 bits of mantissa, on "
        "GPUs (the "
        "CPU computes in fp32); bf16 keeps fp32 master weights and optimizer state");
  b.add("residual", c.residual, "Precision of the residual stream; compute is that of compute");
  b.add("recompute", c.recompute,
        "Activations computed again in the backward pass instead of kept: none, norms, or whole "
        "blocks");
  b.add("device", c.device,
        "auto, cpu, cuda, cuda:N or simt. auto is the first GPU that this build can use, else the "
        "CPU; simt runs the GPU's kernels on a software GPU, slowly");
  b.add("threads", c.threads, "CPU threads; 0 is every core the process may use", between(0, 4096));
  b.add("log_every", c.log_every, "Steps between lines of metrics", at_least(1));
  b.add("eval_every", c.eval_every, "Steps between evaluations; or give `train.evals_per_epoch`",
        at_least(1), "each epoch, if there is validation data");
  b.add("evals_per_epoch", c.evals_per_epoch, "Evaluations per epoch, evenly spread", at_least(1));
  b.add("eval_at_start", c.eval_at_start, "Evaluate before the first step");
  b.add("eval_max_batches", c.eval_max_batches, "Stop an evaluation after this many; 0 is all",
        at_least(0));
  b.add("save_every", c.save_every,
        "Steps between checkpoints; 0 is only at the end and when interrupted", at_least(0));
  b.add("keep_checkpoints", c.keep_checkpoints,
        "Newest checkpoints kept, besides the best and the last; 0 is all", at_least(0));
  b.add("best_metric", c.best_metric, "Metric of the evaluation that decides which is best");
  b.add("best_direction", c.best_direction,
        "Whether less or more of it is better; auto minimises losses and perplexity");
  b.add("resume", c.resume,
        "Continue from the newest checkpoint in `train.output_dir`; auto does if there is one");
  b.add(
      "cuda_graph", c.cuda_graph,
      "Replay micro-batches of a shape that comes again as one recording: the same bits with less "
      "work for the host. auto does on CUDA; docs/devices.md says which shapes come again");
  b.add("determinism", c.determinism,
        "exact: the same config, seed and device give the same bits; fast may not");
  b.add("on_nonfinite", c.on_nonfinite, "What happens when the loss or a gradient is NaN or Inf");
  b.add("loss_reduction", c.loss_reduction,
        "Denominator of the loss: predicted tokens of the whole step; as the HF Trainer counts "
        "them; or a mean of the means of micro-batches");
  b.add_bytes("memory_limit", c.memory_limit, "Most memory the run may plan for, e.g. 8GiB",
              "what is available");

  b.section("train.early_stopping", "When to give up");
  b.add("patience", c.early_stopping.patience,
        "Evaluations without an improvement of `train.best_metric`; 0 never stops", at_least(0));
  b.add("threshold", c.early_stopping.threshold, "What an improvement must exceed", at_least(0));

  b.section("train.sample", "Text generated while training");
  b.add("every", c.sample.every, "Steps between samples; 0 is never", at_least(0));
  b.add("prompts", c.sample.prompts, "Prompts to continue");
  b.add("max_new_tokens", c.sample.max_new_tokens, "Tokens generated for each",
        between(1, 1 << 24));
}

void add_optimizer(Builder& b, OptimizerConfig& c) {
  b.section("optimizer", "AdamW");
  b.add("lr", c.lr, "Learning rate at the top of the schedule", at_least(0));
  b.add("beta1", c.beta1, "Decay of the mean of gradients", kFraction);
  b.add("beta2", c.beta2, "Decay of the mean of squared gradients", kFraction);
  b.add("eps", c.eps, "Added to the root of the mean of squares", at_least(0));
  b.add("weight_decay", c.weight_decay, "Decoupled weight decay", at_least(0));
  b.add("weight_decay_mode", c.weight_decay_mode,
        "What decays: all but biases and norms as in HF, nothing, or everything");
  b.add(
      "stochastic_rounding", c.stochastic_rounding,
      "For bf16: keep no fp32 master weights (4 bytes less per parameter); updates are rounded to "
      "bf16 at random, right on average");
}

void add_schedule(Builder& b, ScheduleConfig& c) {
  b.section("schedule", "Learning rate over time");
  b.add("type", c.type, "Shape after the warmup; wsd is warmup, stable, decay");
  b.add("warmup_steps", c.warmup_steps, "Steps of linear warmup; or give `schedule.warmup_ratio`",
        at_least(0), "0");
  b.add("warmup_ratio", c.warmup_ratio, "Warmup as a part of all steps, rounded up", between(0, 1));
  b.add("warmup_start", c.warmup_start,
        "Rate of the first of w warmup steps: zero as in HF, or one w-th");
  b.add("min_lr_ratio", c.min_lr_ratio, "Lowest rate as a part of `optimizer.lr`", between(0, 1));
  b.add("num_cycles", c.num_cycles, "cosine: waves until the end", above(0));
  b.add("decay_steps", c.decay_steps, "wsd: steps of the final decay; or `schedule.decay_ratio`",
        at_least(0));
  b.add("decay_ratio", c.decay_ratio, "wsd: final decay as a part of all steps, rounded up",
        between(0, 1), "0.1 for wsd");
  b.add("decay_shape", c.decay_shape, "wsd: shape of the final decay");
}

void add_logging(Builder& b, LoggingConfig& c) {
  b.section("logging", "What is written besides metrics.jsonl, which always is");
  b.add("tensorboard", c.tensorboard, "Write TensorBoard event files");
  b.add("color", c.color, "Colour on the console; auto is on a terminal without NO_COLOR");
}

}  // namespace

const Field* Schema::find(std::string_view key) const {
  for (const Field& field : fields) {
    if (field.key == key) return &field;
  }
  return nullptr;
}

const Field& Schema::at(std::string_view key) const {
  const Field* field = find(key);
  if (field == nullptr) throw std::logic_error("no setting " + std::string(key));
  return *field;
}

bool Schema::has_section(std::string_view key) const {
  for (const Section& section : sections) {
    if (section.key == key) return true;
  }
  return false;
}

std::vector<std::string> Schema::keys() const {
  std::vector<std::string> keys;
  for (const Field& field : fields) keys.push_back(field.key);
  return keys;
}

Schema train_schema(TrainConfig& config) {
  Builder b;
  add_model(b, config.model);
  add_data(b, config.data);
  add_train(b, config.train);
  add_optimizer(b, config.optimizer);
  add_schedule(b, config.schedule);
  add_logging(b, config.logging);
  return b.take();
}

Schema generate_schema(GenerateConfig& c) {
  Builder b;
  b.add("inherit", c.inherit,
        "Where unset settings come from: the checkpoint's generation_config.json, or nowhere");
  b.add("max_new_tokens", c.max_new_tokens, "Most tokens to generate", between(1, 1 << 30), "128");
  b.add("do_sample", c.do_sample, "Draw tokens at random; otherwise always the likeliest", kAny,
        "false");
  b.add("temperature", c.temperature, "Divides the logits; applied before top_k and top_p",
        above(0), "1.0");
  b.add("top_k", c.top_k, "Draw from the k likeliest tokens; 0 is off", at_least(0), "50");
  b.add("top_p", c.top_p, "Draw from the fewest tokens with this probability together; 1 is off",
        Range{.min = 0, .max = 1, .min_open = true}, "1.0");
  b.add("min_p", c.min_p, "Drop tokens less likely than this part of the likeliest; 0 is off",
        kFraction, "0.0");
  b.add("repetition_penalty", c.repetition_penalty,
        "Divides positive and multiplies negative logits of tokens seen before; 1 is off", above(0),
        "1.0");
  b.add("seed", c.seed, "Seed of the draws");
  b.add("stop", c.stop, "Texts that end the generation");
  b.add("ignore_eos", c.ignore_eos, "Go on after an end-of-text token");
  return b.take();
}

}  // namespace engine
