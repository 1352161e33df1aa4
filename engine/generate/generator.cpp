#include "engine/generate/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/file_io.h"
#include "models/registry.h"

namespace engine {
namespace {

int64_t longest_prompt(const std::vector<GenerationRequest>& requests) {
  size_t longest = 0;
  for (const GenerationRequest& r : requests) longest = std::max(longest, r.prompt.size());
  return static_cast<int64_t>(longest);
}

// Tokens of the list that grows: behind the prompt, or behind a decoder's start token.
int64_t decoded_positions(const ModelInfo& info, const std::vector<GenerationRequest>& requests,
                          const GenerationOptions& options) {
  const int64_t given = info.encoder_decoder ? 1 : longest_prompt(requests);
  return std::min(info.max_positions, given + std::max<int64_t>(options.max_new_tokens, 0));
}

struct Sequence {
  size_t request;
  int64_t cache_index;
  std::vector<int32_t> ids;  // prompt and what followed; of a decoder: its start and what followed
  size_t prompt_length;      // of ids
  int64_t in_cache = 0;      // tokens of ids whose keys the cache holds
  std::span<const int32_t> source = {};  // encoder-decoder models: the request's prompt
};

// What is kept of the tokens seen. Encoder-decoder models: the keys and values that cross-attention
// reads are made of the encoder's output once, and kept beside those of the decoder's own tokens.
struct Caches {
  KvCache tokens, source;
};

Caches make_caches(Runtime& runtime, const ModelInfo& info, const PrecisionPolicy& precision,
                   const std::vector<GenerationRequest>& requests, const GenerationOptions& options,
                   int64_t batch_size) {
  Caches caches;
  caches.tokens = make_kv_cache(runtime, info, precision, batch_size,
                                decoded_positions(info, requests, options));
  if (info.encoder_decoder) {
    caches.source = make_kv_cache(runtime, info, precision, batch_size, longest_prompt(requests));
  }
  return caches;
}

// A list of tokens on the host, sequence after sequence, and its place in a cache.
struct FlatTokens {
  std::vector<int32_t> ids, positions, rows, cu_seqlens = {0}, starts, used;
  int max_length = 0, max_used = 0;

  // Tokens begin .. ids.size() - 1 of a sequence whose earlier ones the cache holds already.
  void add(std::span<const int32_t> sequence, int64_t begin, int64_t cache_index,
           const KvCache& cache) {
    const auto end = static_cast<int64_t>(sequence.size());
    for (int64_t t = begin; t < end; ++t) {
      ids.push_back(sequence[t]);
      positions.push_back(static_cast<int32_t>(t));
      rows.push_back(static_cast<int32_t>(cache_index * cache.capacity + t));
    }
    cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
    starts.push_back(static_cast<int32_t>(cache_index * cache.capacity));
    used.push_back(static_cast<int32_t>(end));
    max_length = std::max(max_length, static_cast<int>(end - begin));
    max_used = std::max(max_used, static_cast<int>(end));
  }

  Sequences sequences(Runtime& runtime) const {
    return {.cu_seqlens = runtime.upload_vector(cu_seqlens, DType::i32),
            .count = static_cast<int>(cu_seqlens.size()) - 1,
            .max_length = max_length,
            .tokens = static_cast<int64_t>(ids.size())};
  }
  CacheStep step(Runtime& runtime, KvCache& cache) const {
    std::vector<int32_t> ends = starts;
    ends.push_back(starts.back() + static_cast<int32_t>(cache.capacity));
    return {.cache = &cache,
            .rows = runtime.upload_vector(rows, DType::i32),
            .starts = runtime.upload_vector(ends, DType::i32),
            .used = runtime.upload_vector(used, DType::i32),
            .max_used = max_used};
  }
};

// All tokens of `active` that the cache lacks, as one flat batch. Returns the logits of the last
// token of each, [active, vocab].
std::vector<float> forward(Runtime& runtime, Model& model, const PrecisionPolicy& precision,
                           Caches& caches, std::vector<Sequence*>& active) {
  FlatTokens tokens, source;
  std::vector<int32_t> last;
  // All sequences of a batch begin together.
  const bool first = active.front()->in_cache == 0;
  for (Sequence* s : active) {
    tokens.add(s->ids, s->in_cache, s->cache_index, caches.tokens);
    last.push_back(static_cast<int32_t>(tokens.ids.size()) - 1);
    s->in_cache = static_cast<int64_t>(s->ids.size());
    if (s->source.empty()) continue;
    // Encoded with the first tokens, afterwards only read from the cache.
    source.add(s->source, first ? 0 : static_cast<int64_t>(s->source.size()), s->cache_index,
               caches.source);
  }

  Graph graph(runtime, {.record = false, .training = false, .precision = precision});
  ModelBatch batch;
  batch.input_ids = runtime.upload_vector(tokens.ids, DType::i32);
  batch.positions = runtime.upload_vector(tokens.positions, DType::i32);
  batch.sequences = tokens.sequences(runtime);
  batch.cache = tokens.step(runtime, caches.tokens);
  if (model.info().encoder_decoder) {
    if (first) {
      batch.source_ids = runtime.upload_vector(source.ids, DType::i32);
      batch.source_sequences = source.sequences(runtime);
    }
    batch.source_cache = source.step(runtime, caches.source);
  }
  Variable hidden = model.hidden_states(graph, batch);
  hidden = gather_rows(graph, hidden, runtime.upload_vector(last, DType::i32));
  return runtime.download(logits(graph, hidden, model.head(), model.info().logit_scale));
}

// The requests that are decoded together, from number `first` on.
std::vector<Sequence> sequences_from(const ModelInfo& info,
                                     const std::vector<GenerationRequest>& requests, size_t first,
                                     int64_t batch_size) {
  std::vector<Sequence> sequences;
  const size_t end = std::min(requests.size(), first + static_cast<size_t>(batch_size));
  for (size_t i = first; i < end; ++i) {
    Sequence sequence{.request = i, .cache_index = static_cast<int64_t>(i - first)};
    if (info.encoder_decoder) {
      sequence.ids = {info.decoder_start_id};
      sequence.source = requests[i].prompt;
    } else {
      sequence.ids = requests[i].prompt;
    }
    sequence.prompt_length = sequence.ids.size();
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

std::vector<Sequence*> pointers(std::vector<Sequence>& sequences) {
  std::vector<Sequence*> all;
  for (Sequence& s : sequences) all.push_back(&s);
  return all;
}

int64_t batch_size_of(const std::vector<GenerationRequest>& requests,
                      const GenerationOptions& options) {
  return std::min(static_cast<int64_t>(requests.size()), std::max<int64_t>(1, options.max_batch));
}

void check_request(const ModelInfo& info, const GenerationRequest& request, size_t index) {
  const auto bad = [&](const std::string& what) {
    return Error(ExitCode::usage, "GEN-PROMPT", fmt::format("prompt {}: {}", index, what));
  };
  if (request.prompt.empty()) {
    throw bad("has no tokens").fix("give some text, or a tokenizer that adds a BOS token");
  }
  if (static_cast<int64_t>(request.prompt.size()) > info.max_positions) {
    throw bad("is longer than the model's positions")
        .expected(fmt::format("at most {} tokens (config.json)", info.max_positions))
        .found(fmt::format("{} tokens", request.prompt.size()))
        .fix("shorten the prompt");
  }
  for (const int32_t id : request.prompt) {
    if (id >= 0 && id < info.vocab_size) continue;
    throw bad(fmt::format("token id {} is outside the model's vocabulary", id))
        .expected(fmt::format("ids from 0 to {}", info.vocab_size - 1))
        .why("the tokenizer belongs to another model")
        .fix("use the tokenizer of this checkpoint");
  }
}

}  // namespace

void check_requests(const ModelInfo& info, const std::vector<GenerationRequest>& requests) {
  for (size_t i = 0; i < requests.size(); ++i) check_request(info, requests[i], i);
}

const char* name_of(StopReason reason) {
  switch (reason) {
    case StopReason::eos:
      return "eos";
    case StopReason::length:
      return "length";
    case StopReason::context:
      return "context";
    case StopReason::callback:
      return "stop";
  }
  return "?";
}

int64_t generation_positions(const ModelInfo& info, const std::vector<GenerationRequest>& requests,
                             const GenerationOptions& options) {
  const int64_t decoded = decoded_positions(info, requests, options);
  return info.encoder_decoder ? std::max(decoded, longest_prompt(requests)) : decoded;
}

void rehearse_generation(Runtime& runtime, Model& model, const PrecisionPolicy& precision,
                         const std::vector<GenerationRequest>& requests,
                         const GenerationOptions& options) {
  if (requests.empty() || options.max_new_tokens <= 0) return;
  const ModelInfo& info = model.info();
  const int64_t batch_size = batch_size_of(requests, options);
  Caches caches = make_caches(runtime, info, precision, requests, options, batch_size);
  for (size_t first = 0; first < requests.size(); first += static_cast<size_t>(batch_size)) {
    std::vector<Sequence> sequences = sequences_from(info, requests, first, batch_size);
    std::vector<Sequence*> all = pointers(sequences);
    forward(runtime, model, precision, caches, all);  // the prompts: the most tokens at once
    for (Sequence& s : sequences) {
      const size_t end = std::min(static_cast<size_t>(caches.tokens.capacity),
                                  s.prompt_length + static_cast<size_t>(options.max_new_tokens));
      s.ids.resize(end);
      s.in_cache = static_cast<int64_t>(end) - 1;
    }
    forward(runtime, model, precision, caches, all);  // the last tokens: the most keys
  }
}

namespace {

// Takes the memory that generating will need, unless as much is held: by a training run, or since
// longer prompts before.
void reserve(Runtime& runtime, const Model& model, const PrecisionPolicy& precision,
             const std::vector<GenerationRequest>& requests, const GenerationOptions& options) {
  const kernels::Stream device = runtime.stream();
  Runtime meta({.device = kernels::DeviceType::meta, .planned = device.device});
  const std::unique_ptr<Model> shape = make_model_like(model);
  shape->parameters().allocate(meta, precision, ParameterSet::Purpose::inference);
  shape->prepare(meta, generation_positions(model.info(), requests, options));
  rehearse_generation(meta, *shape, precision, requests, options);
  const size_t arena = meta.memory().arena_peak();
  const size_t held = runtime.memory().arena_capacity();
  if (arena <= held) return;
  if (const size_t available = available_memory(device) + held; arena > available) {
    const size_t cache = meta.memory().peak_breakdown()[static_cast<int>(MemoryCategory::kv_cache)];
    throw Error(ExitCode::out_of_memory, "MEM-PLAN",
                fmt::format("generating needs {}, {} of it for keys and values",
                            format_bytes(arena), format_bytes(cache)))
        .expected("at most " + format_bytes(available) + ", " + memory_source(device))
        .fix("a smaller --batch-size, or fewer --max-new-tokens");
  }
  runtime.memory().reserve_arena(arena);
}

}  // namespace

std::vector<GenerationResult> generate(Runtime& runtime, Model& model,
                                       const PrecisionPolicy& precision,
                                       const std::vector<GenerationRequest>& requests,
                                       const GenerationOptions& options, const OnToken& on_token) {
  const ModelInfo& info = model.info();
  check_requests(info, requests);
  std::vector<GenerationResult> results(requests.size());
  if (requests.empty() || options.max_new_tokens <= 0) return results;

  reserve(runtime, model, precision, requests, options);
  const int64_t batch_size = batch_size_of(requests, options);
  Caches caches = make_caches(runtime, info, precision, requests, options, batch_size);
  const int64_t vocab = model.head().shape[0];

  for (size_t first = 0; first < requests.size(); first += static_cast<size_t>(batch_size)) {
    std::vector<Sequence> sequences = sequences_from(info, requests, first, batch_size);
    std::vector<Sequence*> active = pointers(sequences);
    while (!active.empty()) {
      std::vector<float> values = forward(runtime, model, precision, caches, active);
      std::vector<Sequence*> unfinished;
      for (size_t i = 0; i < active.size(); ++i) {
        Sequence& s = *active[i];
        GenerationResult& result = results[s.request];
        const std::span<float> row(values.data() + i * vocab, static_cast<size_t>(vocab));
        const uint64_t step = s.ids.size() - s.prompt_length;
        // An own counter range per (stream, step): the draw does not know the batch.
        const float uniform = kernels::philox_uniform(
            options.seed ^ (requests[s.request].stream * 0x9e3779b97f4a7c15ull), step * 4);
        if (std::all_of(row.begin(), row.end(), [](float z) { return !std::isfinite(z); })) {
          throw Error(ExitCode::numerical, "NUM-LOGITS", "the model's logits are not finite")
              .where(fmt::format("prompt {}, new token {}", s.request, step))
              .why("the weights hold NaN or Inf, or overflow in this precision");
        }
        const int32_t id = choose_token(row, s.ids, options.sampling, uniform);
        s.ids.push_back(id);
        result.tokens.push_back(id);
        const bool wanted = !on_token || on_token(s.request, id);
        if (std::find(options.eos_ids.begin(), options.eos_ids.end(), id) !=
            options.eos_ids.end()) {
          result.stop = StopReason::eos;
        } else if (!wanted) {
          result.stop = StopReason::callback;
        } else if (static_cast<int64_t>(result.tokens.size()) >= options.max_new_tokens) {
          result.stop = StopReason::length;
        } else if (static_cast<int64_t>(s.ids.size()) >= info.max_positions) {
          result.stop = StopReason::context;
        } else {
          unfinished.push_back(&s);
        }
      }
      active = std::move(unfinished);
    }
  }
  return results;
}

}  // namespace engine
