// The steps of a run, and when its outputs are due.
#include "engine/train/training_run.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "engine/core/device.h"
#include "engine/core/profile_range.h"
#include "engine/train/nonfinite.h"
#include "engine/train/report/flops.h"
#include "engine/train/report/format.h"
#include "engine/train/signals.h"

namespace engine {
namespace {

// An unrelated number for each (seed, step, micro-batch).
uint64_t mix_seed(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t z = a + 0x9e3779b97f4a7c15ull * (b + 1) + 0xbf58476d1ce4e5b9ull * (c + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

double TrainingRun::epoch() const {
  return static_cast<double>(progress_.position.epoch) +
         static_cast<double>(progress_.position.index) / static_cast<double>(batches_per_epoch_);
}

double TrainingRun::step_denominator(const std::vector<Batch>& batches) const {
  double labels = 0;
  for (const Batch& batch : batches) {
    labels += static_cast<double>(trained_labels(*model_, batch));
    // Labels of an encoder-decoder model are not shifted; a classifier has one per row.
    if (config_.train.loss_reduction != LossReduction::hf || model_->info().encoder_decoder ||
        model_->info().task != Task::causal_lm) {
      continue;
    }
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
          .label_targets = setup_.class_names.empty() ? nullptr : &setup_.label_targets};
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

double TrainingRun::flops_of(const std::vector<Batch>& batches) const {
  const ModelInfo& info = model_->info();
  const int64_t attention_width = int64_t{info.num_heads} * info.head_dim;
  const auto length = [](const std::vector<int32_t>& cu_seqlens, int64_t s) -> int64_t {
    return cu_seqlens[s + 1] - cu_seqlens[s];
  };
  if (info.encoder_decoder) {
    const EncoderDecoderFlopsShape shape{.source_params = model_->source_matmul_parameters(),
                                         .target_params = model_->matmul_parameters(),
                                         .encoder_layers = info.num_encoder_layers,
                                         .decoder_layers = info.num_layers,
                                         .attention_width = attention_width};
    double flops = 0;
    for (const Batch& batch : batches) {
      for (int64_t s = 0; s < batch.num_sequences(); ++s) {
        flops +=
            example_flops(shape, length(batch.source.cu_seqlens, s), length(batch.cu_seqlens, s));
      }
    }
    return flops;
  }
  std::vector<int64_t> lengths;
  for (const Batch& batch : batches) {
    for (int64_t s = 0; s < batch.num_sequences(); ++s) {
      lengths.push_back(length(batch.cu_seqlens, s));
    }
  }
  return step_flops({.matmul_params = model_->matmul_parameters(),
                     .num_layers = info.num_layers,
                     .attention_width = attention_width,
                     .sliding_windows = info.windows,
                     .causal = info.causal},
                    lengths);
}

// Who asked for recordings should know that there are none.
void TrainingRun::warn_of_eager_graphs() {
  constexpr int64_t kPatience = 64;
  const StepGraphs::Counts& counts = graphs_->counts();
  if (warned_of_graphs_ || config_.train.cuda_graph != Toggle::on || counts.recorded > 0 ||
      counts.eager < kPatience) {
    return;
  }
  warned_of_graphs_ = true;
  console_.print(fmt::format(
      "warn    train.cuda_graph=true, but none of the first {} micro-batches had a shape that came "
      "back: nothing is recorded. data.packing=stream, or rows of one length, make such",
      counts.eager));
}

void TrainingRun::run_step() {
  const ProfileRange range(runtime_.ops(), "step", progress_.step + 1);
  const auto step_start = TrainingClock::now();
  const int64_t first = static_cast<int64_t>(progress_.position.index);
  const int64_t count = std::min(config_.train.accumulation, batches_per_epoch_ - first);
  const double waited = batches_->wait_seconds();
  std::vector<Batch> batches;
  for (int64_t i = 0; i < count; ++i) batches.push_back(batches_->next());
  const double data_seconds = batches_->wait_seconds() - waited;

  const double denominator = step_denominator(batches);
  // Nothing below waits for the device before update(): then the losses have arrived, too.
  struct Losses {
    std::span<const float> values;
    double scale;
  };
  std::vector<Losses> losses;
  int64_t tokens = 0, trained = 0, predictions = 0;
  for (const Batch& batch : batches) {
    predictions += batch.num_tokens();
    tokens += batch.num_tokens() + batch.num_source_tokens();
  }
  step_losses_.reserve(static_cast<size_t>(predictions) * sizeof(float));
  float* next_loss = step_losses_.as<float>();
  for (int micro = 0; micro < static_cast<int>(batches.size()); ++micro) {
    const Batch& batch = batches[micro];
    if (batch.num_tokens() == 0) continue;
    const ForwardOptions options = forward_options(micro, denominator, batches);
    const ProfileRange range(runtime_.ops(), "micro-batch", micro);
    const BatchLoss result = graphs_->run(batch, options);
    runtime_.download_later(result.losses, next_loss);
    optimizer_->watch(result.losses);
    losses.push_back({{next_loss, static_cast<size_t>(result.losses.count())},
                      static_cast<double>(options.grad_scale.value)});
    next_loss += result.losses.count();
    trained += trained_labels(*model_, batch);
    progress_.rows += batch.num_sequences();
  }
  const double lr = config_.optimizer.lr * schedule_->multiplier(progress_.step);
  const auto [norm, finite] =
      optimizer_->update(static_cast<float>(config_.train.max_grad_norm), lr);
  double loss = 0;
  for (const Losses& part : losses) loss += sum_losses(part.values) * part.scale;
  kernels::require(finite == (std::isfinite(loss) && std::isfinite(norm.norm)),
                   "run_step: device and host disagree on whether the step is finite");
  if (finite) {
    ++progress_.updates;
  } else {
    if (config_.train.on_nonfinite == OnNonfinite::stop) {
      handle_nonfinite(batches, denominator, loss, norm.norm);
    }
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
  const double flops = flops_of(batches);
  progress_.flops += flops;
  train_flops_ += flops;
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
  last_record_ = {
      .step = progress_.step,
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
      .mfu = peak_flops_ ? std::optional(flops / (seconds * *peak_flops_)) : std::nullopt,
      .peak_memory_bytes = runtime_.memory().peak_bytes()};
}

ExitCode TrainingRun::run() {
  if (config_.train.threads > 0) omp_set_num_threads(static_cast<int>(config_.train.threads));
  if (const std::string notice = device_notice(setup_.device); !notice.empty()) {
    console_.print("note    " + notice);
  }
  if (setup_.device.device == kernels::DeviceType::cuda) {
    peak_flops_ = peak_bf16_flops(runtime_.ops().device_info(setup_.device).name);
  }
  for (const auto part :
       {&TrainingRun::plan_steps, &TrainingRun::plan_memory, &TrainingRun::find_resume_point,
        &TrainingRun::make_model, &TrainingRun::try_longest_batch, &TrainingRun::print_banner}) {
    (this->*part)();
    InterruptGuard::stop_if_requested();
  }
  if (request_.dry_run) {
    console_.print("dry run: the pre-flight is complete, nothing was written");
    return ExitCode::ok;
  }

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
    warn_of_eager_graphs();
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

}  // namespace engine
