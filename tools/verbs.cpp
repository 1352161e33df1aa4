#include "tools/verbs.h"

namespace engine {

std::span<const Verb> verbs() {
  static constexpr Verb kVerbs[] = {
      {"train", "Train a model from a config", run_train},
      {"config", "Show, check and explain settings; write example configs", run_config},
      {"env", "Describe this machine and build, for bug reports", run_env},
  };
  return kVerbs;
}

}  // namespace engine
