#include "engine/config/rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/core/device_name.h"

namespace engine {
namespace {

// At most one of each group.
constexpr std::pair<std::string_view, std::string_view> kExclusive[] = {
    {"model.path", "model.config"},
    {"model.num_labels", "model.label_names"},
    {"data.validation", "data.validation_fraction"},
    {"train.epochs", "train.max_steps"},
    {"train.eval_every", "train.evals_per_epoch"},
    {"schedule.warmup_steps", "schedule.warmup_ratio"},
    {"schedule.decay_steps", "schedule.decay_ratio"},
};

class Rules {
 public:
  Rules(const Schema& schema, LoadedTrainConfig& loaded)
      : schema_(schema), loaded_(loaded), config_(loaded.config) {}

  void apply(const TrainConfigSource& source) {
    for (const auto& [one, other] : kExclusive) exclude(one, other);
    complete();
    check_model(source);
    check_data(source);
    check_batches();
    check_run();
  }

 private:
  const Origin& origin(std::string_view key) const {
    static const Origin standard;
    const auto found = loaded_.origins.find(std::string(key));
    return found == loaded_.origins.end() ? standard : found->second;
  }

  bool given(std::string_view key) const {
    return is_set(schema_.at(key).slot) && origin(key).level != Origin::Level::standard;
  }

  // "train.epochs = 3.0 (run.yaml:4)"
  std::string shown(std::string_view key) const {
    return fmt::format("{} = {} ({})", key, value_text(schema_.at(key).slot), origin(key).text);
  }

  Error conflict(std::string what, std::initializer_list<std::string_view> keys) const {
    Error error(ExitCode::usage, "CFG-CONFLICT", std::move(what));
    std::string list;
    for (const auto key : keys) list += (list.empty() ? "" : "\n") + shown(key);
    return error.found(list);
  }

  void warn_unused(std::string_view key, std::string_view because) {
    if (given(key)) {
      loaded_.warnings.push_back(fmt::format("{} has no effect: {}", shown(key), because));
    }
  }

  void exclude(std::string_view one, std::string_view other) {
    if (!is_set(schema_.at(one).slot) || !is_set(schema_.at(other).slot)) return;
    if (origin(one).level == origin(other).level) {
      throw conflict(fmt::format("{} and {} exclude each other", one, other), {one, other})
          .fix("remove one of them");
    }
    const bool one_wins = origin(one).level > origin(other).level;
    const auto winner = one_wins ? one : other, loser = one_wins ? other : one;
    clear(schema_.at(loser).slot);
    loaded_.origins[std::string(loser)] = {Origin::Level::standard,
                                           "unset by " + origin(winner).text};
  }

  // Values that follow from others. Only such that a changed config can contradict loudly: the
  // resolved config is a config too, and somebody will edit it.
  void complete() {
    ModelConfig& model = config_.model;
    RunConfig& train = config_.train;
    ScheduleConfig& schedule = config_.schedule;
    if (model.init == ModelInit::automatic && (model.path || model.config)) {
      model.init = model.path ? ModelInit::pretrained : ModelInit::random;
      loaded_.origins["model.init"].text = model.path ? "from model.path" : "from model.config";
    }
    if (!train.epochs && !train.max_steps) train.epochs = 3.0;
    if (!train.micro_batch_tokens && !train.micro_batch_rows) {
      if (config_.data.packing == Packing::rows) {
        train.micro_batch_rows = 8;
      } else {
        train.micro_batch_tokens = 8 * config_.data.max_length;
        loaded_.origins["train.micro_batch_tokens"].text = "8 × data.max_length";
      }
    }
    if (!schedule.warmup_steps && !schedule.warmup_ratio) schedule.warmup_steps = 0;
    if (schedule.type == ScheduleType::wsd && !schedule.decay_steps && !schedule.decay_ratio) {
      schedule.decay_ratio = 0.1;
    }
  }

  void check_model(const TrainConfigSource& source) {
    const ModelConfig& model = config_.model;
    if (source.needs_model && !model.path && !model.config) {
      throw Error(ExitCode::usage, "CFG-MISSING", "no model: model.path is not set")
          .expected("model.path, a Hugging Face model directory, or model.config")
          .fix("model.path=DIRECTORY");
    }
    if (model.config && model.init == ModelInit::pretrained) {
      throw conflict("a model made from model.config has no pretrained weights",
                     {"model.config", "model.init"})
          .fix("model.init=random, or model.path instead of model.config");
    }
    if (model.task == ModelTask::causal_lm) {
      warn_unused("model.num_labels", "model.task is causal_lm");
      warn_unused("model.label_names", "model.task is causal_lm");
      warn_unused("model.problem_type", "model.task is causal_lm");
      return;
    }
    if (config_.data.packing == Packing::stream) {
      throw conflict("a stream has no rows to classify", {"model.task", "data.packing"})
          .fix("data.packing=packed");
    }
    if (config_.data.overflow == Overflow::split) {
      throw conflict("a piece of a row has no label of its own", {"model.task", "data.overflow"})
          .fix("data.overflow=truncate_right");
    }
    if (config_.train.sample.every > 0) {
      throw conflict("a classifier cannot generate samples", {"model.task", "train.sample.every"})
          .fix("train.sample.every=0");
    }
    std::vector<std::string> names = model.label_names;
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) {
      throw conflict("two classes have the name " + *twice, {"model.label_names"});
    }
  }

  void check_data(const TrainConfigSource& source) {
    const DataConfig& data = config_.data;
    if (source.needs_train_data && data.train.empty()) {
      throw Error(ExitCode::usage, "CFG-MISSING", "no training data: data.train is not set")
          .expected("data.train, a file or a list of files")
          .fix("data.train=FILE");
    }
    for (const auto* files : {&data.train, &data.validation}) {
      if (std::find(files->begin(), files->end(), "") != files->end()) {
        const auto key = files == &data.train ? "data.train" : "data.validation";
        throw Error(ExitCode::usage, "CFG-RANGE", fmt::format("{} has an empty file name", key))
            .found(shown(key));
      }
    }
    if (data.packing == Packing::stream) {
      warn_unused("data.overflow", "a stream is cut to data.max_length");
    }
  }

  void check_batches() {
    const RunConfig& train = config_.train;
    const DataConfig& data = config_.data;
    if (data.packing == Packing::packed && train.micro_batch_rows) {
      throw conflict("with data.packing=packed a micro-batch is a number of tokens",
                     {"data.packing", "train.micro_batch_rows"})
          .fix("train.micro_batch_tokens, or data.packing=rows");
    }
    if (data.drop_last && (data.packing != Packing::rows || !train.micro_batch_rows)) {
      throw conflict("data.drop_last needs micro-batches of a fixed number of rows",
                     {"data.drop_last", "data.packing", "train.micro_batch_rows"})
          .fix("data.drop_last=false, or data.packing=rows and train.micro_batch_rows");
    }
    if (train.micro_batch_tokens && *train.micro_batch_tokens < data.max_length) {
      throw conflict("a row of data.max_length does not fit into a micro-batch",
                     {"train.micro_batch_tokens", "data.max_length"})
          .fix(fmt::format("train.micro_batch_tokens={}", data.max_length));
    }
  }

  bool has_validation() const {
    return !config_.data.validation.empty() || config_.data.validation_fraction.has_value();
  }

  void check_run() {
    const RunConfig& train = config_.train;
    if (!parse_device_name(train.device)) {
      throw Error(ExitCode::usage, "CFG-RANGE",
                  fmt::format("train.device cannot be {}", train.device))
          .where(origin("train.device").text)
          .expected(kDeviceNames);
    }
    if (train.output_dir.empty()) {
      throw Error(ExitCode::usage, "CFG-RANGE", "train.output_dir cannot be empty")
          .where(origin("train.output_dir").text)
          .expected("a directory, made if it is not there");
    }
    if (!has_validation()) {
      if (train.early_stopping.patience > 0) {
        throw conflict("early stopping needs validation data", {"train.early_stopping.patience"})
            .fix("data.validation=FILE, or data.validation_fraction=0.05");
      }
      for (const auto key : {"train.eval_every", "train.evals_per_epoch", "train.eval_at_start"}) {
        warn_unused(key, "there is no validation data");
      }
    }
    if (train.sample.every > 0 && train.sample.prompts.empty()) {
      throw conflict("there are no prompts to sample from",
                     {"train.sample.every", "train.sample.prompts"})
          .fix("train.sample.prompts='[\"Once upon a time\"]'");
    }
    if (train.precision != Precision::bf16) {
      warn_unused("train.residual", "train.precision is not bf16");
      if (config_.optimizer.stochastic_rounding) {
        throw conflict("stochastic rounding is for weights of bf16",
                       {"optimizer.stochastic_rounding", "train.precision"})
            .fix("train.precision=bf16");
      }
    }
    if (config_.schedule.type != ScheduleType::wsd) {
      for (const auto key :
           {"schedule.decay_steps", "schedule.decay_ratio", "schedule.decay_shape"}) {
        warn_unused(key, "schedule.type is not wsd");
      }
    }
    if (config_.schedule.type != ScheduleType::cosine) {
      warn_unused("schedule.num_cycles", "schedule.type is not cosine");
    }
  }

  const Schema& schema_;
  LoadedTrainConfig& loaded_;
  TrainConfig& config_;
};

}  // namespace

void apply_rules(const Schema& schema, const TrainConfigSource& source, LoadedTrainConfig& loaded) {
  Rules(schema, loaded).apply(source);
}

}  // namespace engine
