// The pre-flight: steps, memory, weights, resume point, one step on the longest batch, banner.
#include "engine/train/training_run.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "engine/config/choices.h"
#include "engine/config/print.h"
#include "engine/core/crc32c.h"
#include "engine/core/device.h"
#include "engine/train/report/banner.h"

namespace engine {

namespace {

std::string device_text(const kernels::Stream& device) {
  if (device.device == kernels::DeviceType::cpu) {
    return fmt::format("CPU {} threads", omp_get_max_threads());
  }
  return kernels::operations(device).device_info(device).name;
}

}  // namespace

void TrainingRun::plan_steps() {
  epoch_plan_ = setup_.train->plan(0);
  batches_per_epoch_ = static_cast<int64_t>(setup_.train->num_batches(epoch_plan_));
  steps_per_epoch_ = steps_per_epoch(batches_per_epoch_, config_.train.accumulation);
  total_steps_ = total_steps(config_.train.epochs.value_or(3.0), steps_per_epoch_,
                             config_.train.max_steps.value_or(0));
  schedule_ = std::make_unique<Schedule>(config_.schedule, total_steps_);
}

void TrainingRun::plan_memory() {
  plan_ = plan_training(setup_.make_model, setup_.training_shape);
  const bool told = config_.train.memory_limit > 0;
  memory_limit_ = told ? config_.train.memory_limit : available_memory(runtime_.stream());
  require_plan_fits(plan_, memory_limit_,
                    told ? "train.memory_limit" : memory_source(setup_.device), setup_.make_model,
                    setup_.training_shape);
}

void TrainingRun::make_model() {
  model_ = setup_.make_model();
  runtime_.memory().reserve_arena(plan_.arena);
  model_->parameters().allocate(runtime_, setup_.precision, ParameterSet::Purpose::training);
  model_->prepare(runtime_, setup_.training_shape.max_positions);
  optimizer_ = std::make_unique<AdamW>(runtime_, model_->parameters(), config_.optimizer,
                                       config_.train.seed);
  graphs_ = std::make_unique<StepGraphs>(runtime_, *model_, setup_.training_shape.step_graphs);
  if (resumed_) {
    restore_checkpoint(*resumed_, runtime_, *model_);
    optimizer_->set_steps(progress_.updates);
    // Tensors keep the names and types that they had before the first checkpoint.
    if (setup_.checkpoint) setup_.files.stored = stored_tensors(*model_, *setup_.checkpoint);
    return;
  }
  model_->parameters().initialize(runtime_, config_.train.seed);
  if (!setup_.checkpoint) return;
  const LoadReport report = load_weights(runtime_, *model_, *setup_.checkpoint);
  setup_.files.stored = report.stored;
  new_tensors_ = report.initialized;
  for (const std::string& name : report.unused) {
    console_.print("note    " + name + " of the checkpoint is not used by this model");
  }
}

nlohmann::json TrainingRun::shaping_settings() const {
  const RunConfig& train = config_.train;
  const DataAudit& audit = setup_.train->dataset().audit();
  const ScheduleConfig& s = config_.schedule;
  const std::string model = setup_.shape->config_json().dump();
  const auto optional = [](const auto& value) {
    return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
  };
  return {{"total_steps", total_steps_},
          {"train.accumulation", train.accumulation},
          {"train.micro_batch_tokens", train.micro_batch_tokens.value_or(0)},
          {"train.micro_batch_rows", train.micro_batch_rows.value_or(0)},
          {"train.seed", train.seed},
          {"train.device", kernels::name_of(setup_.device.device)},  // other sums, other bits
          {"train.precision",
           std::string(choice_name(train.precision)) +
               (config_.optimizer.stochastic_rounding ? ", stochastic rounding" : "")},
          {"train.residual", choice_name(train.residual)},
          {"train.max_grad_norm", train.max_grad_norm},
          {"train.loss_reduction", choice_name(train.loss_reduction)},
          {"data.seed", config_.data_seed()},
          {"data.max_length", config_.data.max_length},
          {"data.max_target_length", optional(config_.data.max_target_length)},
          {"data.packing", choice_name(config_.data.packing)},
          {"data.shuffle", choice_name(config_.data.shuffle)},
          {"training rows", audit.rows},
          {"data.drop_last", config_.data.drop_last},
          {"training tokens", audit.tokens},
          {"trained tokens", audit.targets},
          {"optimizer.lr", config_.optimizer.lr},
          {"optimizer.beta1", config_.optimizer.beta1},
          {"optimizer.beta2", config_.optimizer.beta2},
          {"optimizer.eps", config_.optimizer.eps},
          {"optimizer.weight_decay", config_.optimizer.weight_decay},
          {"optimizer.weight_decay_mode", choice_name(config_.optimizer.weight_decay_mode)},
          {"schedule.type", choice_name(s.type)},
          {"schedule.warmup_steps", schedule_->warmup_steps()},
          {"schedule.warmup_start", choice_name(s.warmup_start)},
          {"schedule.min_lr_ratio", s.min_lr_ratio},
          {"schedule.num_cycles", s.num_cycles},
          {"schedule.decay_steps", optional(s.decay_steps)},
          {"schedule.decay_ratio", optional(s.decay_ratio)},
          {"schedule.decay_shape", choice_name(s.decay_shape)},
          {"model.dropout", optional(config_.model.dropout)},
          {"model config (checksum)", fmt::format("{:08x}", crc32c(model.data(), model.size()))},
          {"parameters", setup_.shape->parameters().count()}};
}

void TrainingRun::find_resume_point() {
  if (config_.train.resume == Toggle::off) return;
  resumed_ = find_checkpoint(output_dir_);
  if (!resumed_) {
    if (config_.train.resume == Toggle::automatic) return;
    throw Error(ExitCode::checkpoint, "RESUME-NONE",
                "there is no checkpoint to resume from in " + output_dir_.string())
        .expected("a directory checkpoint-<step>")
        .fix("train.resume=auto starts anew when there is none, or correct train.output_dir");
  }
  for (const std::string& reason : resumed_->passed_over) {
    console_.print("warn    damaged checkpoint passed over: " + reason);
  }
  try {
    progress_.from_json(resumed_->state);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ExitCode::checkpoint, "CKPT-STATE", "engine_state/state.json cannot be read")
        .where(resumed_->directory)
        .found(error.what());
  }
  const nlohmann::json now = shaping_settings();
  const nlohmann::json then = resumed_->state.value("settings", nlohmann::json::object());
  std::string changes;
  for (const auto& [key, value] : now.items()) {
    if (then.contains(key) && then[key] == value) continue;
    changes += fmt::format("{}{}: {} -> {}", changes.empty() ? "" : "\n", key,
                           then.contains(key) ? then[key].dump() : "(absent)", value.dump());
  }
  if (changes.empty()) return;
  if (request_.resume_override) {
    console_.print("warn    settings changed since the checkpoint:\n        " + changes);
    return;
  }
  throw Error(ExitCode::usage, "RESUME-CHANGED",
              "settings that shape the run changed since the checkpoint")
      .where(resumed_->directory)
      .with("changed", changes)
      .why("the resumed run would not be the continuation of the old one")
      .fix("restore the settings, or pass --resume-override to go on all the same");
}

void TrainingRun::try_longest_batch() {
  const std::vector<Batch> batches = {setup_.train->largest_batch()};
  const double denominator = std::max(1.0, step_denominator(batches));
  // The first time touches all memory for the first time and is slow for it: a short batch is run
  // again, for an honest estimate of the time that the run will take.
  constexpr double kShort = 5.0;
  for (int round = 0; round == 0 || (round == 1 && preflight_seconds_ < kShort); ++round) {
    const auto start = TrainingClock::now();
    const BatchLoss result =
        run_batch(runtime_, *model_, batches[0], forward_options(0, denominator, batches));
    const double loss = sum_losses(runtime_.download(result.losses)) / denominator;
    const AdamW::Norm norm = optimizer_->measure(0.0f);
    preflight_seconds_ = seconds_since(start);
    if (!std::isfinite(loss) || !std::isfinite(norm.norm)) {
      handle_nonfinite(batches, denominator, loss, norm.norm);
    }
    optimizer_->discard_gradients();
  }
}

void TrainingRun::print_banner() {
  const DataAudit& audit = setup_.train->dataset().audit();
  Banner banner;
  constexpr std::string_view kProgram = "engine ";  // the banner begins with it
  banner.version = request_.version;
  if (banner.version.starts_with(kProgram)) banner.version.erase(0, kProgram.size());
  banner.run_name = output_dir_.filename().empty() ? output_dir_.parent_path().filename().string()
                                                   : output_dir_.filename().string();
  banner.seed = config_.train.seed;
  banner.determinism = config_.train.determinism == Determinism::exact ? "exact" : "fast";
  const std::string yaml = to_yaml(request_.config);
  banner.config_sha = fmt::format("{:08x}", crc32c(yaml.data(), yaml.size()));
  if (resumed_) banner.resumed_step = resumed_->step;
  const char* const precision =
      config_.train.precision == Precision::fp32   ? "fp32"
      : config_.train.precision == Precision::tf32 ? "fp32, products in tf32"
      : config_.optimizer.stochastic_rounding      ? "bf16, stochastic rounding"
                                                   : "bf16 + fp32 master";
  banner.model = {
      .name = setup_.model_name + " (" + setup_.shape->info().architecture + ")",
      .num_params = setup_.shape->parameters().count(),
      .matmul_params = setup_.shape->matmul_parameters() + setup_.shape->source_matmul_parameters(),
      .precision = precision,
      .optimizer = "AdamW fp32 m/v",
      .weight_decay = config_.optimizer.weight_decay,
      .decayed_params = optimizer_->decayed_count(),
      .exempt_params = optimizer_->exempt_count()};
  const ModelInfo& info = setup_.shape->info();
  if (info.task == Task::sequence_classification) {
    banner.head = {.problem = name_of(info.problem_type),
                   .classes = setup_.class_names,
                   .new_tensors = new_tensors_};
  }
  banner.data = {.train_rows = static_cast<int64_t>(audit.rows),
                 .train_tokens = static_cast<int64_t>(audit.tokens),
                 .trained_tokens = static_cast<int64_t>(audit.targets)};
  if (setup_.validation) {
    banner.data.validation_rows = static_cast<int64_t>(setup_.validation->dataset().audit().rows);
  }
  if (audit.dropped_over_length > 0) {
    banner.data.dropped.emplace_back(fmt::format("over {}", config_.data.max_length),
                                     audit.dropped_over_length);
  }
  if (audit.dropped_no_target > 0) {
    banner.data.dropped.emplace_back("no target", audit.dropped_no_target);
  }
  const int64_t budget = setup_.train->options().micro_batch_tokens;
  const BatchShape& shape = setup_.training_shape.train;
  int64_t tokens_per_micro_batch = shape.tokens + shape.source_tokens;
  if (budget > 0) tokens_per_micro_batch = std::min(tokens_per_micro_batch, budget);
  if (budget > 0) {
    banner.data.batch_fill =
        static_cast<double>(audit.tokens) /
        (static_cast<double>(batches_per_epoch_) * static_cast<double>(budget));
  }
  banner.plan = {
      .tokens_per_micro_batch = tokens_per_micro_batch,
      .accumulation = config_.train.accumulation,
      .device = device_text(setup_.device),
      .steps_per_epoch = steps_per_epoch_,
      .epochs = static_cast<double>(total_steps_) / static_cast<double>(steps_per_epoch_),
      .total_steps = total_steps_,
      .estimated_seconds = preflight_seconds_ * static_cast<double>(config_.train.accumulation) *
                           static_cast<double>(total_steps_ - progress_.step)};
  for (int i = 0; i < kMemoryCategories; ++i) {
    if (plan_.breakdown[i] > 0) {
      banner.memory.categories.emplace_back(name_of(static_cast<MemoryCategory>(i)),
                                            plan_.breakdown[i]);
    }
  }
  banner.memory.available_bytes = memory_limit_;
  if (setup_.tokenizer && setup_.tokenizer->eos_id() &&
      setup_.shape->info().task == Task::causal_lm) {
    BannerStop stop;
    stop.rows_ending_in_stop = audit.rows > 0 ? static_cast<double>(audit.ends_in_trained_eos) /
                                                    static_cast<double>(audit.rows)
                                              : 0.0;
    const int32_t eos = *setup_.tokenizer->eos_id();
    stop.stop_token_id = eos;
    stop.stop_token = setup_.tokenizer->id_to_token(eos).value_or("");
    for (const int32_t id : setup_.generation_eos) stop.generation_eos.push_back(id);
    stop.bos = setup_.tokenizer->prefix_ids().empty() ? "none (tokenizer adds none)"
                                                      : "added by the tokenizer";
    banner.stop = stop;
  }
  console_.print(banner_text(banner, console_.style()));
  if (audit.prefix_mismatches > 0) {
    console_.print(fmt::format(
        "warn    {} rows tokenise differently with and without their completion (first: {})",
        audit.prefix_mismatches, audit.first_mismatch));
  }
}

}  // namespace engine
