#include "engine/optim/adamw.h"

#include "engine/optim/decay_groups.h"

namespace engine {

AdamW::AdamW(Runtime& runtime, ParameterSet& parameters, const OptimizerConfig& config,
             uint64_t seed)
    : runtime_(runtime), config_(config), seed_(seed) {
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
  norm_ = runtime.persistent({2}, DType::f32, MemoryCategory::optimizer);
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

AdamW::Norm AdamW::measure(float max_norm) {
  runtime_.ops().global_norm(runtime_.stream(), {.segments = segments_.data(),
                                                 .num_segments = static_cast<int>(segments_.size()),
                                                 .table = table_.data(),
                                                 .max_norm = max_norm,
                                                 .out = norm_.as<float>(),
                                                 .workspace = workspace_.data()});
  const std::vector<float> values = runtime_.download(norm_);
  return {values[0], values[1]};
}

void AdamW::step(double lr) {
  ++steps_;
  runtime_.ops().adamw(runtime_.stream(), {.segments = segments_.data(),
                                           .num_segments = static_cast<int>(segments_.size()),
                                           .table = table_.data(),
                                           .lr = lr,
                                           .beta1 = config_.beta1,
                                           .beta2 = config_.beta2,
                                           .eps = config_.eps,
                                           .step = steps_,
                                           .grad_scale = norm_.as<float>() + 1,
                                           .zero_grad = true,
                                           .rounding_seed = seed_});
}

void AdamW::discard_gradients() {
  for (const kernels::TensorSegment& s : segments_) {
    runtime_.ops().set_zero(runtime_.stream(), s.grad,
                            static_cast<size_t>(s.count) * sizeof(float));
  }
}

}  // namespace engine
