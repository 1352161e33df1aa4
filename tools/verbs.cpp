#include "tools/verbs.h"

namespace engine {

std::span<const Verb> verbs() {
  static constexpr Verb kVerbs[] = {
      {"train", "Train a model from a config", run_train},
      {"generate", "Continue texts with a model", run_generate},
      {"eval", "Loss and accuracy of a model on data", run_eval},
      {"tokenize", "Texts to token ids and back; train a vocabulary", run_tokenize},
      {"convert", "Write a model as a Hugging Face directory", run_convert},
      {"inspect", "What a model is made of, and what training it takes", run_inspect},
      {"dump", "Write logits, hidden states and gradients to a file", run_dump},
      {"bench", "Tokens per second, kernels and memory on this machine", run_bench},
      {"config", "Show, check and explain settings; write example configs", run_config},
      {"env", "Describe this machine and build, for bug reports", run_env},
  };
  return kVerbs;
}

}  // namespace engine
