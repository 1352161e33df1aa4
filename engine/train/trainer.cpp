#include "engine/train/trainer.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "engine/config/print.h"
#include "engine/core/crc32c.h"
#include "engine/core/file_io.h"
#include "engine/data/batch_iterator.h"
#include "engine/evaluate/evaluator.h"
#include "engine/generate/generator.h"
#include "engine/optim/schedule.h"
#include "engine/train/nonfinite.h"
#include "engine/train/report/banner.h"
#include "engine/train/report/flops.h"
#include "engine/train/report/format.h"
#include "engine/train/report/metrics.h"
#include "engine/train/report/tfevents.h"
#include "engine/train/report/trainer_state.h"
#include "engine/train/run_setup.h"
#include "engine/train/signals.h"
#include "engine/train/train_progress.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t mix_seed(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t z = a + 0x9e3779b97f4a7c15ull * (b + 1) + 0xbf58476d1ce4e5b9ull * (c + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

class TrainingRun {
 public:
  TrainingRun(const TrainRequest& request, Console& console)
      : request_(request),
        config_(request.config.config),
        console_(console),
        setup_(prepare_run(config_)),
        runtime_(kernels::DeviceType::cpu),
        progress_(config_),
        output_dir_(config_.train.output_dir) {}

  ExitCode run();

 private:
  // Pre-flight.
  void plan_steps();
  void plan_memory();
  void make_model();
  void find_resume_point();
  void try_longest_batch();
  void print_banner();

  // Loop.
  void open_outputs();
  void loop();
  void run_step();
  double step_denominator(const std::vector<Batch>& batches) const;
  ForwardOptions forward_options(int micro_batch, double denominator,
                                 const std::vector<Batch>& batches) const;
  void handle_nonfinite(const std::vector<Batch>& batches, double denominator, double loss,
                        double norm);
  void log_step();
  void evaluate_now();
  void sample_now();
  void save_now();
  bool evaluation_due() const;
  void finish(const std::string& stopped_by);

  double epoch() const;
  nlohmann::json shaping_settings() const;
  LineContext line_context() const;

  const TrainRequest& request_;
  const TrainConfig& config_;
  Console& console_;
  RunSetup setup_;
  Runtime runtime_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Schedule> schedule_;
  MemoryPlan plan_;
  TrainProgress progress_;
  fs::path output_dir_;
  std::optional<FoundCheckpoint> resumed_;

  int64_t batches_per_epoch_ = 0, steps_per_epoch_ = 0, total_steps_ = 0;
  double preflight_seconds_ = 0;
  uint64_t memory_limit_ = 0;

  std::unique_ptr<MetricsLog> metrics_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
  TrainerState trainer_state_;
  std::unique_ptr<BatchIterator> batches_;
  EpochPlan epoch_plan_;  // of the epoch the next step belongs to

  // Of this process, not of the run: none of it is restored.
  TrainRecord last_record_;
  TimeLeft time_left_;
  PercentileSample speeds_;
  Clock::time_point start_ = Clock::now();
  double train_seconds_ = 0, eval_seconds_ = 0, checkpoint_seconds_ = 0, data_seconds_ = 0;
  int64_t saved_step_ = -1, evaluated_step_ = -1;
};

// --- Pre-flight ---------------------------------------------------------------------------------

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
  memory_limit_ = told ? config_.train.memory_limit : available_host_memory();
  require_plan_fits(plan_, memory_limit_, told ? "train.memory_limit" : "available on this machine",
                    setup_.make_model, setup_.training_shape);
}

void TrainingRun::make_model() {
  model_ = setup_.make_model();
  runtime_.memory().reserve_arena(plan_.arena);
  model_->parameters().allocate(runtime_, setup_.precision, ParameterSet::Purpose::training);
  model_->prepare(runtime_, setup_.training_shape.max_positions);
  optimizer_ = std::make_unique<AdamW>(runtime_, model_->parameters(), config_.optimizer);
  if (resumed_) {
    restore_checkpoint(*resumed_, runtime_, *model_);
    optimizer_->set_steps(progress_.updates);
    if (setup_.checkpoint) {  // names and types as the first checkpoint had them
      setup_.files.stored.clear();
      for (const std::string& name : setup_.checkpoint->names()) {
        const TensorEntry* entry = setup_.checkpoint->find(name);
        for (const auto& p : model_->parameters()) {
          for (const ParameterPart& part : p->parts) {
            const std::vector<std::string> spellings = model_->spellings(part.name);
            if (std::find(spellings.begin(), spellings.end(), name) != spellings.end()) {
              setup_.files.stored[part.name] = {name, entry->dtype};
            }
          }
        }
      }
    }
    return;
  }
  model_->parameters().initialize(runtime_, config_.train.seed);
  if (!setup_.checkpoint) return;
  const LoadReport report = load_weights(runtime_, *model_, *setup_.checkpoint);
  setup_.files.stored = report.stored;
  for (const std::string& name : report.initialized) {
    console_.print("note    " + name + " is not in the checkpoint: newly initialised");
  }
  for (const std::string& name : report.unused) {
    console_.print("note    " + name + " of the checkpoint is not used by this model");
  }
}

nlohmann::json TrainingRun::shaping_settings() const {
  const RunConfig& train = config_.train;
  const DataAudit& audit = setup_.train->dataset().audit();
  const ScheduleConfig& s = config_.schedule;
  return {{"total_steps", total_steps_},
          {"train.accumulation", train.accumulation},
          {"train.micro_batch_tokens", train.micro_batch_tokens.value_or(0)},
          {"train.micro_batch_rows", train.micro_batch_rows.value_or(0)},
          {"train.seed", train.seed},
          {"train.precision", static_cast<int>(train.precision)},
          {"train.max_grad_norm", train.max_grad_norm},
          {"train.loss_reduction", static_cast<int>(train.loss_reduction)},
          {"data.seed", config_.data_seed()},
          {"data.max_length", config_.data.max_length},
          {"data.packing", static_cast<int>(config_.data.packing)},
          {"data.shuffle", static_cast<int>(config_.data.shuffle)},
          {"training rows", audit.rows},
          {"training tokens", audit.tokens},
          {"optimizer.lr", config_.optimizer.lr},
          {"optimizer.beta1", config_.optimizer.beta1},
          {"optimizer.beta2", config_.optimizer.beta2},
          {"optimizer.weight_decay", config_.optimizer.weight_decay},
          {"schedule.type", static_cast<int>(s.type)},
          {"schedule.warmup_steps", schedule_->warmup_steps()},
          {"schedule.min_lr_ratio", s.min_lr_ratio},
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
  const Batch batch = setup_.train->largest_batch();
  const std::vector<Batch> batches = {batch};
  const auto start = Clock::now();
  const double denominator = std::max(1.0, step_denominator(batches));
  const BatchLoss result =
      run_batch(runtime_, *model_, batch, forward_options(0, denominator, batches));
  const double loss = sum_losses(runtime_.download(result.losses)) / denominator;
  const AdamW::Norm norm = optimizer_->measure(0.0f);
  preflight_seconds_ = seconds_since(start);
  if (!std::isfinite(loss) || !std::isfinite(norm.norm)) {
    handle_nonfinite(batches, denominator, loss, norm.norm);
  }
  optimizer_->discard_gradients();
}

void TrainingRun::print_banner() {
  const DataAudit& audit = setup_.train->dataset().audit();
  Banner banner;
  banner.version = request_.version;
  banner.run_name = output_dir_.filename().empty() ? output_dir_.parent_path().filename().string()
                                                   : output_dir_.filename().string();
  banner.seed = config_.train.seed;
  banner.determinism = config_.train.determinism == Determinism::exact ? "exact" : "fast";
  const std::string yaml = to_yaml(request_.config);
  banner.config_sha = fmt::format("{:08x}", crc32c(yaml.data(), yaml.size()));
  if (resumed_) banner.resumed_step = resumed_->step;
  banner.model = {
      .name = setup_.model_name + " (" + setup_.shape->info().architecture + ")",
      .num_params = setup_.shape->parameters().count(),
      .matmul_params = setup_.shape->matmul_parameters(),
      .precision = config_.train.precision == Precision::fp32 ? "fp32" : "bf16 + fp32 master",
      .optimizer = "AdamW fp32 m/v",
      .weight_decay = config_.optimizer.weight_decay,
      .decayed_params = optimizer_->decayed_count(),
      .exempt_params = optimizer_->exempt_count()};
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
  if (budget > 0) {
    banner.data.batch_fill =
        static_cast<double>(audit.tokens) /
        (static_cast<double>(batches_per_epoch_) * static_cast<double>(budget));
  }
  banner.plan = {
      .tokens_per_micro_batch = setup_.training_shape.train.tokens,
      .accumulation = config_.train.accumulation,
      .device = fmt::format("CPU {} threads", omp_get_max_threads()),
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
  if (setup_.tokenizer && setup_.shape->info().task == Task::causal_lm) {
    BannerStop stop;
    stop.rows_ending_in_stop = audit.rows > 0 ? static_cast<double>(audit.ends_in_trained_eos) /
                                                    static_cast<double>(audit.rows)
                                              : 0.0;
    if (const auto eos = setup_.tokenizer->eos_id()) {
      stop.stop_token_id = *eos;
      stop.stop_token = setup_.tokenizer->id_to_token(*eos).value_or("");
    }
    for (const int32_t id : setup_.shape->info().eos_ids) stop.generation_eos.push_back(id);
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

// --- Loop ---------------------------------------------------------------------------------------

double TrainingRun::epoch() const {
  return static_cast<double>(progress_.position.epoch) +
         static_cast<double>(progress_.position.index) / static_cast<double>(batches_per_epoch_);
}

LineContext TrainingRun::line_context() const {
  return {.total_steps = total_steps_,
          .total_epochs = static_cast<double>(total_steps_) / static_cast<double>(steps_per_epoch_),
          .device_memory_bytes = memory_limit_};
}

void TrainingRun::open_outputs() {
  std::error_code error;
  fs::create_directories(output_dir_, error);
  if (error) throw write_error(output_dir_, error.value());
  const fs::path metrics = output_dir_ / "metrics.jsonl";
  if (resumed_) {
    metrics_ = std::make_unique<MetricsLog>(MetricsLog::resume(metrics, resumed_->step));
    const fs::path history = resumed_->directory / "trainer_state.json";
    if (fs::exists(history)) trainer_state_ = TrainerState::read(history);
  } else {
    if (config_.train.resume == Toggle::automatic && fs::exists(metrics)) {
      fs::remove(metrics, error);  // a run that died before its first checkpoint
    }
    metrics_ = std::make_unique<MetricsLog>(MetricsLog::create(metrics));
  }
  if (config_.logging.tensorboard) {
    tensorboard_ = std::make_unique<TensorBoardWriter>(
        output_dir_ / "tb", resumed_ ? std::optional<int64_t>(resumed_->step) : std::nullopt);
  }
  write_file_atomically(output_dir_ / "config.resolved.yaml", to_yaml(request_.config));
  rotate_checkpoints(output_dir_, 0);
}

double TrainingRun::step_denominator(const std::vector<Batch>& batches) const {
  double labels = 0;
  for (const Batch& batch : batches) {
    labels += static_cast<double>(trained_labels(*model_, batch));
    if (config_.train.loss_reduction != LossReduction::hf) continue;
    // The HF Trainer counts unshifted labels: a row trained from its first token counts one more.
    for (int64_t s = 0; s < batch.num_sequences(); ++s) {
      labels += batch.targets[batch.cu_seqlens[s]] != kernels::kIgnoreIndex;
    }
  }
  return labels;
}

ForwardOptions TrainingRun::forward_options(int micro_batch, double denominator,
                                            const std::vector<Batch>& batches) const {
  double divisor = denominator;
  if (config_.train.loss_reduction == LossReduction::hf_microbatch_mean) {
    divisor = static_cast<double>(trained_labels(*model_, batches[micro_batch])) *
              static_cast<double>(batches.size());
  }
  return {.graph = {.recompute = setup_.recompute,
                    .dropout_seed = mix_seed(config_.train.seed, progress_.step, micro_batch),
                    .precision = setup_.precision},
          .grad_scale = divisor > 0 ? static_cast<float>(1.0 / divisor) : 0.0f,
          .class_of_label = setup_.class_of_label.empty() ? nullptr : &setup_.class_of_label};
}

void TrainingRun::handle_nonfinite(const std::vector<Batch>& batches, double denominator,
                                   double loss, double norm) {
  const auto finding = find_nonfinite(runtime_, *model_, batches, [&](int micro) {
    return forward_options(micro, denominator, batches);
  });
  optimizer_->discard_gradients();
  Error error(ExitCode::numerical, "NUM-NAN",
              fmt::format("{} became {} at step {}; the weights were not updated",
                          std::isfinite(loss) ? "the gradient norm" : "the loss",
                          std::isfinite(loss) ? norm : loss, progress_.step + 1));
  if (finding) {
    std::string first =
        "in " + finding->place +
        fmt::format(", micro-batch {} of {}", finding->micro_batch + 1, batches.size());
    if (finding->sequence >= 0) {
      const uint32_t row = batches[finding->micro_batch].rows[finding->sequence];
      first += fmt::format("\nrow {} position {}", setup_.train->dataset().data().place(row),
                           finding->position);
    }
    error.with("first", first);
  } else {
    error.with("first", "every value is finite when the step is run again: a sum overflowed");
  }
  if (last_record_.step > 0) {
    error.with("history",
               fmt::format("loss {:.4f}, gradient norm {:.3g} at step {}", last_record_.loss,
                           last_record_.grad_norm.value_or(0), last_record_.step));
  }
  error.with("kept", saved_step_ >= 0 || resumed_
                         ? fmt::format("checkpoint of step {}",
                                       saved_step_ >= 0 ? saved_step_ : resumed_->step)
                         : "no checkpoint was due before");
  throw error
      .fix("a smaller optimizer.lr or a longer warm-up; train.on_nonfinite=skip_step goes on")
      .why(finding && finding->place.starts_with("the weight")
               ? "the weights themselves are not finite: check the checkpoint"
               : "divergence, or values too large for this precision");
}

void TrainingRun::run_step() {
  const auto step_start = Clock::now();
  const int64_t first = static_cast<int64_t>(progress_.position.index);
  const int64_t count = std::min(config_.train.accumulation, batches_per_epoch_ - first);
  const double waited = batches_->wait_seconds();
  std::vector<Batch> batches;
  for (int64_t i = 0; i < count; ++i) batches.push_back(batches_->next());
  const double data_seconds = batches_->wait_seconds() - waited;

  const double denominator = step_denominator(batches);
  double loss = 0;
  int64_t tokens = 0, trained = 0;
  for (int micro = 0; micro < static_cast<int>(batches.size()); ++micro) {
    const Batch& batch = batches[micro];
    if (batch.num_tokens() == 0) continue;
    const ForwardOptions options = forward_options(micro, denominator, batches);
    const BatchLoss result = run_batch(runtime_, *model_, batch, options);
    loss += sum_losses(runtime_.download(result.losses)) * static_cast<double>(options.grad_scale);
    tokens += batch.num_tokens();
    trained += trained_labels(*model_, batch);
    progress_.rows += batch.num_sequences();
  }
  const AdamW::Norm norm = optimizer_->measure(static_cast<float>(config_.train.max_grad_norm));
  const double lr = config_.optimizer.lr * schedule_->multiplier(progress_.step);
  const bool finite = std::isfinite(loss) && std::isfinite(norm.norm);
  if (finite) {
    optimizer_->step(lr);
    ++progress_.updates;
  } else {
    if (config_.train.on_nonfinite == OnNonfinite::stop) {
      handle_nonfinite(batches, denominator, loss, norm.norm);
    }
    optimizer_->discard_gradients();
    ++progress_.nonfinite;
    ++progress_.skipped;
    ++progress_.interval.nonfinite;
    console_.print(fmt::format("warn    step {} skipped: loss {}, gradient norm {}",
                               progress_.step + 1, loss, norm.norm));
  }
  const double seconds = seconds_since(step_start);

  ++progress_.step;
  progress_.position = batches_->position();
  if (progress_.position.epoch != epoch_plan_.epoch) {
    epoch_plan_ = setup_.train->plan(progress_.position.epoch);
    batches_per_epoch_ = static_cast<int64_t>(setup_.train->num_batches(epoch_plan_));
  }
  progress_.tokens += tokens;
  progress_.tokens_trained += trained;
  std::vector<int64_t> lengths;
  for (const Batch& batch : batches) {
    for (int64_t s = 0; s < batch.num_sequences(); ++s) {
      lengths.push_back(batch.cu_seqlens[s + 1] - batch.cu_seqlens[s]);
    }
  }
  const ModelInfo& info = model_->info();
  progress_.flops += step_flops({.matmul_params = model_->matmul_parameters(),
                                 .num_layers = info.num_layers,
                                 .attention_width = int64_t{info.num_heads} * info.head_dim},
                                lengths);
  const bool clipped = finite && norm.clip_scale < 1.0f;
  if (finite) {
    progress_.loss_sum += loss;
    progress_.interval.loss_sum += loss;
    ++progress_.interval.steps;
    if (progress_.first_losses.size() < 20) progress_.first_losses.push_back(loss);
    progress_.last_losses.push_back(loss);
    if (progress_.last_losses.size() > 20) {
      progress_.last_losses.erase(progress_.last_losses.begin());
    }
  }
  progress_.clipped += clipped;
  progress_.recent_clipped.add(clipped);
  progress_.loss_ema.add(loss);
  const auto loss_z = progress_.loss_z.add(loss);
  const auto norm_z = progress_.norm_z.add(norm.norm);
  if (norm_z && std::isfinite(*norm_z) && *norm_z > progress_.max_norm_z) {
    progress_.max_norm_z = *norm_z;
    progress_.max_norm_z_step = progress_.step;
  }

  train_seconds_ += seconds;
  data_seconds_ += data_seconds;
  time_left_.add_step(seconds);
  speeds_.add(static_cast<double>(tokens) / seconds);
  last_record_ = {.step = progress_.step,
                  .epoch = epoch(),
                  .loss = loss,
                  .loss_ema = progress_.loss_ema.value(),
                  .loss_z = loss_z,
                  .grad_norm = norm.norm,
                  .grad_norm_z = norm_z,
                  .clipped = clipped,
                  .lr = lr,
                  .tokens = tokens,
                  .tokens_trained = trained,
                  .tokens_total = progress_.tokens,
                  .step_seconds = seconds,
                  .data_seconds = data_seconds,
                  .tokens_per_second = static_cast<double>(tokens) / seconds,
                  .mfu = std::nullopt,
                  .peak_memory_bytes = runtime_.memory().peak_bytes()};
}

void TrainingRun::log_step() {
  TrainRecord record = last_record_;
  const TrainProgress::Interval& interval = progress_.interval;
  // Steps without a finite loss leave the mean to the others; a NaN is never hidden by it, because
  // `nonfinite` counts them.
  record.loss =
      interval.steps > 0 ? interval.loss_sum / static_cast<double>(interval.steps) : std::nan("");
  record.nonfinite = interval.nonfinite;
  progress_.interval = {};
  metrics_->write(record);
  if (tensorboard_) tensorboard_->write(record);
  trainer_state_.add(record);
  console_.print(metric_line(record, line_context(),
                             {.clipped_share = progress_.recent_clipped.share(),
                              .seconds_left = time_left_.seconds(total_steps_ - progress_.step)},
                             console_.style()));
}

bool TrainingRun::evaluation_due() const {
  if (!setup_.validation) return false;
  if (progress_.step == total_steps_) return true;
  if (config_.train.eval_every) return progress_.step % *config_.train.eval_every == 0;
  const int64_t per_epoch = config_.train.evals_per_epoch.value_or(1);
  const int64_t k = (progress_.step - 1) % steps_per_epoch_ + 1;  // step of its epoch, from 1
  return k * per_epoch / steps_per_epoch_ > (k - 1) * per_epoch / steps_per_epoch_;
}

void TrainingRun::evaluate_now() {
  EvalRecord record = evaluate(
      runtime_, *model_, *setup_.validation,
      {.precision = setup_.precision,
       .max_batches = config_.train.eval_max_batches,
       .class_of_label =
           setup_.validation_class_of_label.empty() ? nullptr : &setup_.validation_class_of_label,
       .progress = [this](int64_t done, int64_t total) {
         console_.progress({.step = done, .total_steps = total, .label = "eval"});
       }});
  evaluated_step_ = progress_.step;
  eval_seconds_ += record.seconds;
  time_left_.add_other(record.seconds);
  record.step = progress_.step;
  record.epoch = epoch();
  record.previous_best = progress_.best.best_metric();
  record.previous_best_step = progress_.best.best_step();
  const std::string& metric = config_.train.best_metric;
  const double value = metric == "accuracy"     ? record.accuracy.value_or(std::nan(""))
                       : metric == "perplexity" ? std::exp(record.loss)
                                                : record.loss;
  if (!progress_.first_eval) progress_.first_eval = record.loss;
  progress_.last_eval = record.loss;
  const BestTracker::Update update = progress_.best.update(progress_.step, value);
  record.is_best = update.is_best;
  if (update.is_best && progress_.step > 0) {
    const auto start = Clock::now();
    save_model(output_dir_ / "best", runtime_, *model_, setup_.files);
    checkpoint_seconds_ += seconds_since(start);
  }
  metrics_->write(record);
  if (tensorboard_) tensorboard_->write(record);
  trainer_state_.add(record);
  console_.print(eval_line(record, line_context(), console_.style()));
}

void TrainingRun::sample_now() {
  std::vector<GenerationRequest> requests;
  for (size_t i = 0; i < setup_.sample_prompts.size(); ++i) {
    requests.push_back({setup_.sample_prompts[i], i});
  }
  const auto start = Clock::now();
  const std::vector<GenerationResult> results =
      generate(runtime_, *model_, setup_.precision, requests,
               {.sampling = {},
                .seed = config_.train.seed,
                .max_new_tokens = config_.train.sample.max_new_tokens,
                .eos_ids = model_->info().eos_ids});
  for (size_t i = 0; i < results.size(); ++i) {
    const SampleRecord record{.step = progress_.step,
                              .name = fmt::format("prompt#{}", i + 1),
                              .prompt = config_.train.sample.prompts[i],
                              .text = setup_.tokenizer->decode(results[i].tokens, true),
                              .tokens = static_cast<int64_t>(results[i].tokens.size()),
                              .stop = name_of(results[i].stop)};
    metrics_->write(record);
    if (tensorboard_) tensorboard_->write(record);
    console_.print(sample_line(record, console_.style()));
  }
  time_left_.add_other(seconds_since(start));
}

void TrainingRun::save_now() {
  const auto start = Clock::now();
  trainer_state_.fields = {.global_step = progress_.step,
                           .epoch = epoch(),
                           .max_steps = total_steps_,
                           .num_train_epochs = line_context().total_epochs,
                           .logging_steps = config_.train.log_every,
                           .eval_steps = config_.train.eval_every.value_or(0),
                           .save_steps = config_.train.save_every,
                           .train_batch_size = config_.train.micro_batch_rows.value_or(0),
                           .num_input_tokens_seen = progress_.tokens,
                           .total_flops = progress_.flops,
                           .best_metric = progress_.best.best_metric(),
                           .best_global_step = progress_.best.best_step()};
  if (progress_.best.best_step()) {
    trainer_state_.fields.best_model_checkpoint = (output_dir_ / "best").string();
  }
  nlohmann::json state = progress_.to_json();
  state["settings"] = shaping_settings();
  metrics_->sync();
  const uint64_t bytes =
      save_checkpoint(output_dir_, progress_.step, runtime_, *model_, setup_.files,
                      {.state = state, .trainer_state_json = trainer_state_.to_text()});
  saved_step_ = progress_.step;
  const double seconds = seconds_since(start);
  checkpoint_seconds_ += seconds;
  time_left_.add_other(seconds);
  const CheckpointRecord record{
      .step = progress_.step,
      .path = (output_dir_ / fmt::format("checkpoint-{}", progress_.step)).string(),
      .bytes = bytes,
      .is_best = progress_.best.best_step() == progress_.step,
      .seconds = seconds};
  metrics_->write(record);
  console_.print(checkpoint_line(record, line_context(), console_.style()));
  rotate_checkpoints(output_dir_, config_.train.keep_checkpoints);
}

void TrainingRun::finish(const std::string& stopped_by) {
  RunSummary summary;
  SummaryRecord& record = summary.record;
  const auto mean = [](const std::vector<double>& values) -> std::optional<double> {
    if (values.empty()) return std::nullopt;
    double sum = 0;
    for (double value : values) sum += value;
    return sum / static_cast<double>(values.size());
  };
  record = {.step = progress_.step,
            .epoch = epoch(),
            .train_loss = progress_.updates > 0
                              ? progress_.loss_sum / static_cast<double>(progress_.updates)
                              : 0.0,
            .best_metric = progress_.best.best_metric(),
            .best_step = progress_.best.best_step(),
            .tokens_total = progress_.tokens,
            .tokens_trained_total = progress_.tokens_trained,
            .total_flops = progress_.flops,
            .nonfinite = progress_.nonfinite,
            .skipped = progress_.skipped,
            .stopped_by = stopped_by,
            .seconds = seconds_since(start_),
            .train_seconds = train_seconds_,
            .eval_seconds = eval_seconds_,
            .checkpoint_seconds = checkpoint_seconds_,
            .data_seconds = data_seconds_};
  summary.first_train_loss = mean(progress_.first_losses);
  summary.last_train_loss = mean(progress_.last_losses);
  summary.first_eval_loss = progress_.first_eval;
  summary.last_eval_loss = progress_.last_eval;
  if (config_.train.best_metric == "loss") summary.best_eval_loss = progress_.best.best_metric();
  summary.median_tokens_per_second = speeds_.percentile(50);
  summary.slow_tokens_per_second = speeds_.percentile(5);
  summary.peak_memory_bytes = runtime_.memory().peak_bytes();
  summary.predicted_memory_bytes = plan_.total();
  summary.clipped_share = progress_.step > 0 ? static_cast<double>(progress_.clipped) /
                                                   static_cast<double>(progress_.step)
                                             : 0.0;
  if (progress_.max_norm_z > 0) {
    summary.max_grad_norm_z = progress_.max_norm_z;
    summary.max_grad_norm_z_step = progress_.max_norm_z_step;
  }
  summary.output_dir = output_dir_.string();
  summary.saved = {"last/", "trainer_state.json", "metrics.jsonl"};
  if (tensorboard_) summary.saved.push_back("tb/");
  summary.repro = request_.repro;
  const std::string model_dir =
      (output_dir_ / (progress_.best.best_step() ? "best" : "last")).string();
  if (setup_.shape->info().task == Task::causal_lm) {
    summary.next.push_back("engine generate " + model_dir + " --prompt \"...\"");
  }
  summary.next.push_back("engine inspect " + model_dir);
  metrics_->write(record);
  trainer_state_.add(record, progress_.rows);
  trainer_state_.write(output_dir_ / "trainer_state.json");
  if (tensorboard_) tensorboard_->close();
  console_.print(summary_text(summary, console_.style()));
}

ExitCode TrainingRun::run() {
  if (config_.train.threads > 0) omp_set_num_threads(static_cast<int>(config_.train.threads));
  plan_steps();
  plan_memory();
  find_resume_point();
  make_model();
  try_longest_batch();
  print_banner();
  if (request_.dry_run) {
    console_.print("dry run: the pre-flight is complete, nothing was written");
    return ExitCode::ok;
  }

  const InterruptGuard interrupts;
  open_outputs();
  if (progress_.position.epoch > 0) {
    epoch_plan_ = setup_.train->plan(progress_.position.epoch);
    batches_per_epoch_ = static_cast<int64_t>(setup_.train->num_batches(epoch_plan_));
  }
  batches_ = std::make_unique<BatchIterator>(setup_.train, progress_.position);
  if (config_.train.eval_at_start && setup_.validation && progress_.step == 0) evaluate_now();

  std::string stopped_by = "end";
  if (progress_.best.should_stop()) stopped_by = "early_stopping";
  while (progress_.step < total_steps_ && stopped_by == "end") {
    run_step();
    const bool last = progress_.step == total_steps_;
    const int signal = InterruptGuard::requested();
    console_.progress({.step = progress_.step,
                       .total_steps = total_steps_,
                       .text = fmt::format("loss {:.4f} | {} tok/s", last_record_.loss,
                                           human_rate(last_record_.tokens_per_second)),
                       .seconds_left = time_left_.seconds(total_steps_ - progress_.step)});
    if (progress_.step % config_.train.log_every == 0 || last) log_step();
    if (evaluation_due()) {
      evaluate_now();
      if (progress_.best.should_stop()) stopped_by = "early_stopping";
    }
    const int64_t sample_every = config_.train.sample.every;
    if (sample_every > 0 && (progress_.step % sample_every == 0 || last)) sample_now();
    if (signal != 0) stopped_by = "interrupted";
    const int64_t save_every = config_.train.save_every;
    if ((save_every > 0 && progress_.step % save_every == 0) || last || stopped_by != "end") {
      save_now();
    }
  }
  console_.clear_progress();
  finish(stopped_by);
  if (stopped_by != "interrupted") return ExitCode::ok;
  console_.print(
      fmt::format("interrupted by {} after step {}: the checkpoint is complete; "
                  "continue with --resume",
                  signal_name(InterruptGuard::requested()), progress_.step));
  return ExitCode::interrupted;
}

}  // namespace

ExitCode train(const TrainRequest& request, Console& console) {
  return TrainingRun(request, console).run();
}

}  // namespace engine
