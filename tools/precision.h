// --precision of the verbs that run a model.
#pragma once

#include <string>

#include "engine/autograd/parameter.h"
#include "engine/core/error.h"

namespace engine {

// Throws CLI-USAGE.
inline PrecisionPolicy parse_precision(const std::string& name) {
  if (name == "fp32") return PrecisionPolicy::fp32();
  if (name == "tf32") return PrecisionPolicy::fp32_as_tf32();
  if (name == "bf16") return PrecisionPolicy::bf16();
  throw Error(ExitCode::usage, "CLI-USAGE", "--precision cannot be " + name)
      .expected("fp32, tf32 or bf16");
}

}  // namespace engine
