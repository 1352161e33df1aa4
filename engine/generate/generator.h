// Generation with a KV cache: a batch of prompts in, tokens out as they come.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/generate/sampler.h"
#include "models/model.h"

namespace engine {

struct GenerationRequest {
  // What is continued; of an encoder-decoder model, what the encoder reads.
  std::vector<int32_t> prompt;
  // Names the sequence for the random generator: the tokens drawn are a function of (seed,
  // stream, step), whatever else is in the batch.
  uint64_t stream = 0;
};

struct GenerationOptions {
  SamplingOptions sampling;
  uint64_t seed = 42;
  int64_t max_new_tokens = 128;
  std::vector<int32_t> eos_ids;  // a token of these ends the sequence and is part of the result
  int64_t max_batch = 16;        // sequences decoded together
};

enum class StopReason : uint8_t {
  eos,
  length,    // max_new_tokens
  context,   // the model has no more positions
  callback,  // on_token said so
};
const char* name_of(StopReason reason);

struct GenerationResult {
  std::vector<int32_t> tokens;  // without the prompt
  StopReason stop = StopReason::length;
};

// Called for every new token with the index of its request; returning false ends that sequence.
using OnToken = std::function<bool(size_t request, int32_t id)>;

// Throws Error GEN-PROMPT (usage) for an empty prompt, an id outside the vocabulary or a prompt
// longer than the model's positions.
void check_requests(const ModelInfo& info, const std::vector<GenerationRequest>& requests);

// Throws what check_requests does, and NUM-LOGITS (numerical) when logits are not finite.
std::vector<GenerationResult> generate(Runtime& runtime, Model& model,
                                       const PrecisionPolicy& precision,
                                       const std::vector<GenerationRequest>& requests,
                                       const GenerationOptions& options,
                                       const OnToken& on_token = nullptr);

// Runs those passes of generate() that need the most memory, with made-up tokens: on the meta
// device, finds what it will need.
void rehearse_generation(Runtime& runtime, Model& model, const PrecisionPolicy& precision,
                         const std::vector<GenerationRequest>& requests,
                         const GenerationOptions& options);

// Positions that generating needs at most: for Model::prepare.
int64_t generation_positions(const ModelInfo& info, const std::vector<GenerationRequest>& requests,
                             const GenerationOptions& options);

}  // namespace engine
