// What a run writes: metrics, TensorBoard, evaluations, samples, checkpoints, the summary.
#include "engine/train/training_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/config/print.h"
#include "engine/core/file_io.h"
#include "engine/core/profile_range.h"
#include "engine/evaluate/evaluator.h"
#include "engine/generate/generator.h"

namespace engine {
namespace fs = std::filesystem;

void TrainingRun::open_outputs() {
  std::error_code error;
  fs::create_directories(output_dir_, error);
  if (error) throw write_error(output_dir_, error.value());
  const fs::path metrics = output_dir_ / "metrics.jsonl";
  if (resumed_) {
    MetricsResume log;
    metrics_ = std::make_unique<MetricsLog>(MetricsLog::resume(metrics, resumed_->step, &log));
    // The process may have died when the checkpoint was there and nothing pointed at it yet.
    if (!log.has_checkpoint_record) {
      metrics_->write(CheckpointRecord{.step = resumed_->step,
                                       .path = resumed_->directory.string(),
                                       .bytes = tensor_bytes(resumed_->directory),
                                       .is_best = progress_.best.best_step() == resumed_->step,
                                       .seconds = 0});
    }
    point_last_at(output_dir_, resumed_->directory.filename());
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
  rotate_checkpoints(output_dir_, resumed_ ? config_.train.keep_checkpoints : 0, progress_.step);
}

LineContext TrainingRun::line_context() const {
  return {.total_steps = total_steps_,
          .total_epochs = static_cast<double>(total_steps_) / static_cast<double>(steps_per_epoch_),
          .device_memory_bytes = memory_limit_};
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
  const ProfileRange range(runtime_.ops(), "evaluation");
  EvalRecord record = evaluate(
      runtime_, *model_, *setup_.validation,
      {.precision = setup_.precision,
       .max_batches = config_.train.eval_max_batches,
       .label_targets = setup_.class_names.empty() ? nullptr : &setup_.validation_label_targets,
       .class_names = setup_.class_names,
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
  const double value = metric_of(record, metric);
  if (metric != "loss") record.best_value = value;
  if (!progress_.first_eval) progress_.first_eval = record.loss;
  progress_.last_eval = record.loss;
  const BestTracker::Update update = progress_.best.update(progress_.step, value);
  // The model as it came is not worth a copy.
  record.is_best = update.is_best && progress_.step > 0;
  if (record.is_best) {
    const auto start = TrainingClock::now();
    save_model(output_dir_ / "best", runtime_, *model_, setup_.files);
    checkpoint_seconds_ += seconds_since(start);
  }
  metrics_->write(record);
  if (tensorboard_) tensorboard_->write(record);
  trainer_state_.add(record);
  console_.print(eval_line(record, line_context(), console_.style()));
}

void TrainingRun::sample_now() {
  const ProfileRange range(runtime_.ops(), "samples");
  const auto start = TrainingClock::now();
  const std::vector<GenerationResult> results =
      generate(runtime_, *model_, setup_.precision, setup_.training_shape.samples,
               setup_.training_shape.sample_options);
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
  const ProfileRange range(runtime_.ops(), "checkpoint");
  const auto start = TrainingClock::now();
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
  rotate_checkpoints(output_dir_, config_.train.keep_checkpoints, progress_.step);
}

void TrainingRun::finish(const std::string& stopped_by) {
  if (graphs_->enabled()) {
    const StepGraphs::Counts& counts = graphs_->counts();
    console_.print(fmt::format("graphs  {} of {} micro-batches were replays of {} recordings",
                               counts.replayed, counts.eager + counts.recorded + counts.replayed,
                               counts.recorded));
  }
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
  if (peak_flops_ && train_seconds_ > 0) {
    summary.mfu = train_flops_ / (train_seconds_ * *peak_flops_);
    summary.peak_flops = peak_flops_;
    summary.flops_convention = "exact";
  }
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

}  // namespace engine
