// How the choices of train_config.h are spelled in config files and on the command line.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "engine/config/train_config.h"

namespace engine {

// The spellings, in the order of the enumerators.
template <class Enum>
struct Choices;

#define ENGINE_CHOICES(ENUM, ...)                                               \
  template <>                                                                   \
  struct Choices<ENUM> {                                                        \
    static constexpr auto names = std::to_array<std::string_view>(__VA_ARGS__); \
  }

ENGINE_CHOICES(Toggle, {"auto", "true", "false"});
ENGINE_CHOICES(ModelInit, {"auto", "pretrained", "random"});
ENGINE_CHOICES(ModelTask, {"causal_lm", "sequence_classification"});
ENGINE_CHOICES(ModelProblem,
               {"auto", "single_label_classification", "multi_label_classification", "regression"});
ENGINE_CHOICES(SaveDtype, {"auto", "float32", "bfloat16"});
ENGINE_CHOICES(DataFormat, {"auto", "text", "jsonl", "json", "csv", "tsv"});
ENGINE_CHOICES(TextSplit, {"lines", "blank_lines", "whole"});
ENGINE_CHOICES(Overflow, {"error", "drop", "truncate_right", "truncate_left", "split"});
ENGINE_CHOICES(OnNoTarget, {"error", "drop", "keep"});
ENGINE_CHOICES(Packing, {"packed", "rows", "stream"});
ENGINE_CHOICES(Shuffle, {"seeded", "torch", "none"});
ENGINE_CHOICES(TrainOn, {"all", "completion", "assistant", "last"});
ENGINE_CHOICES(Precision, {"fp32", "tf32", "bf16"});
ENGINE_CHOICES(ResidualPrecision, {"compute", "fp32"});
ENGINE_CHOICES(Recompute, {"none", "norms", "block"});
ENGINE_CHOICES(Determinism, {"exact", "fast"});
ENGINE_CHOICES(OnNonfinite, {"stop", "skip_step"});
ENGINE_CHOICES(LossReduction, {"token", "hf", "hf_microbatch_mean"});
ENGINE_CHOICES(MetricDirection, {"auto", "minimize", "maximize"});
ENGINE_CHOICES(WeightDecayMode, {"hf", "none", "all"});
ENGINE_CHOICES(ScheduleType, {"constant", "linear", "cosine", "wsd"});
ENGINE_CHOICES(WarmupStart, {"zero", "one_over_w"});
ENGINE_CHOICES(DecayShape, {"linear", "cosine", "sqrt"});
ENGINE_CHOICES(ColorMode, {"auto", "always", "never"});
ENGINE_CHOICES(GenerationInherit, {"checkpoint", "none"});
#undef ENGINE_CHOICES

// choice_name(Overflow::truncate_left) is "truncate_left".
template <class Enum>
constexpr std::string_view choice_name(Enum value) {
  return Choices<Enum>::names[static_cast<size_t>(value)];
}

}  // namespace engine
