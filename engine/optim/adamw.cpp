#include "engine/optim/adamw.h"

#include "engine/core/profile_range.h"
#include "engine/optim/decay_groups.h"

namespace engine {

AdamW::AdamW(Runtime& runtime, ParameterSet& parameters, const OptimizerConfig& config,
             uint64_t seed)
    : runtime_(runtime),
      config_(config),
      seed_(seed),
      arrived_(runtime.stream()),
      norm_is_there_(runtime.stream()) {
  int64_t total = 0, first_index = 0;
  for (const auto& p : parameters) {
    if (!p->trainable) continue;
    const bool decayed = is_weight_decayed(p->name(), p->is_layer_norm, config.weight_decay_mode);
    (decayed ? decayed_ : exempt_) += p->count();
    total += p->count();
    segments_.push_back(
        {.master = p->master.as<float>(),
         .value_bf16 = p->value.dtype() == DType::bf16 ? p->value.as<kernels::BFloat16>() : nullptr,
         .grad = p->grad.as<float>(),
         .m = p->m.as<float>(),
         .v = p->v.as<float>(),
         .count = p->count(),
         .weight_decay = decayed ? static_cast<float>(config.weight_decay) : 0.0f,
         .first_index = first_index});
    first_index += (p->count() + 63) / 64 * 64;
  }
  norm_ = runtime.persistent({3}, DType::f32, MemoryCategory::optimizer);
  runtime.zero(norm_);
  const int num_segments = static_cast<int>(segments_.size());
  const auto scratch = [&](size_t bytes) {
    return runtime.persistent({static_cast<int64_t>(bytes)}, DType::u8, MemoryCategory::workspace);
  };
  workspace_ = scratch(runtime.ops().global_norm_workspace(total, num_segments));
  table_ = scratch(runtime.ops().optimizer_table_bytes(num_segments));
  runtime.ops().make_optimizer_table(
      runtime.stream(),
      {.segments = segments_.data(), .num_segments = num_segments, .table = table_.data()});
}

void AdamW::queue_norm(float max_norm, float* stop) {
  const ProfileRange range(runtime_.ops(), "gradient norm");
  runtime_.ops().global_norm(runtime_.stream(), {.segments = segments_.data(),
                                                 .num_segments = static_cast<int>(segments_.size()),
                                                 .table = table_.data(),
                                                 .max_norm = max_norm,
                                                 .out = norm_.as<float>(),
                                                 .stop = stop,
                                                 .workspace = workspace_.data()});
}

void AdamW::queue_update(double lr, int64_t step, const float* stop) {
  const ProfileRange range(runtime_.ops(), "optimizer");
  runtime_.ops().adamw(runtime_.stream(), {.segments = segments_.data(),
                                           .num_segments = static_cast<int>(segments_.size()),
                                           .table = table_.data(),
                                           .lr = lr,
                                           .beta1 = config_.beta1,
                                           .beta2 = config_.beta2,
                                           .eps = config_.eps,
                                           .step = step,
                                           .grad_scale = norm_.as<float>() + 1,
                                           .stop = stop,
                                           .zero_grad = true,
                                           .rounding_seed = seed_});
}

void AdamW::watch(const Tensor& losses) {
  kernels::require(losses.dtype() == DType::f32, "AdamW::watch: losses are fp32");
  runtime_.ops().flag_nonfinite(runtime_.stream(),
                                {.x = losses.as<float>(), .count = losses.count(), .flag = stop()});
}

AdamW::Outcome AdamW::update(float max_norm, double lr) {
  arrived_.reserve(norm_.bytes());
  queue_norm(max_norm, stop());
  runtime_.download_later(norm_, arrived_.as<float>());
  norm_is_there_.record();
  queue_update(lr, steps_ + 1, stop());
  runtime_.ops().set_zero(runtime_.stream(), stop(), sizeof(float));
  norm_is_there_.wait();
  const float* const values = arrived_.as<float>();
  const bool applied = values[2] == 0.0f;
  if (applied) ++steps_;
  return {.norm = {values[0], values[1]}, .applied = applied};
}

AdamW::Norm AdamW::measure(float max_norm) {
  queue_norm(max_norm, nullptr);
  const std::vector<float> values = runtime_.download(norm_);
  return {values[0], values[1]};
}

void AdamW::step(double lr) {
  queue_update(lr, ++steps_, nullptr);
}

void AdamW::discard_gradients() {
  for (const kernels::TensorSegment& s : segments_) {
    runtime_.ops().set_zero(runtime_.stream(), s.grad,
                            static_cast<size_t>(s.count) * sizeof(float));
  }
}

}  // namespace engine
