// A model as the rest of the engine sees it: a shape, named parameters, and a forward pass written
// with the operations of engine/autograd. Families live in one file each; models/registry.h finds
// the right one for a config.json.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/autograd/ops.h"

namespace engine {

// causal_lm: the next token, also of the decoder of an encoder-decoder model.
enum class Task : uint8_t { causal_lm, sequence_classification };

// What the scores of a classifier mean, HF's config.problem_type: one class of several, a number
// (or several), or any number of classes at once.
enum class ProblemType : uint8_t { single_label, regression, multi_label };
// HF's word, "single_label_classification".
const char* name_of(ProblemType type);

// Which token of a sequence a classifier looks at.
enum class Pooling : uint8_t {
  last_token,   // the rightmost one that is not the pad id, as HF's decoders do (models.md 1.6)
  first_token,  // <s> of an encoder
};

// What every part of the engine may want to know of any model. Families keep their own details.
struct ModelInfo {
  std::string family;        // "llama", "gpt2"
  std::string architecture;  // "LlamaForCausalLM"
  Task task = Task::causal_lm;
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_positions = 0;
  bool learned_positions =
      false;  // positions beyond max_positions are impossible, not just untrained
  bool tied_head = false;
  float logit_scale = 1.0f;      // logits = logit_scale · hidden · headᵀ
  std::vector<int64_t> windows;  // keys each layer sees, 0 = all; empty: all layers see all
  // An encoder reads the source; a decoder, which the numbers above describe, predicts the target.
  bool encoder_decoder = false;
  int num_encoder_layers = 0;
  int32_t decoder_start_id = -1;  // the decoder's first input
  bool causal = true;             // false: every token sees its whole sequence
  // Classifiers.
  int num_labels = 0;
  ProblemType problem_type = ProblemType::single_label;
  Pooling pooling = Pooling::last_token;
  std::vector<int32_t> bos_ids, eos_ids, pad_ids;
};

// What stands in the decoder's input where a label is not trained; nothing without an encoder.
inline std::optional<int32_t> pair_pad_id(const ModelInfo& info) {
  if (!info.encoder_decoder) return std::nullopt;
  return info.pad_ids.empty() ? info.decoder_start_id : info.pad_ids.front();
}

// Keys and values of the tokens already seen, for generation. Sequence b owns the rows
// [b · capacity, (b + 1) · capacity) of each layer; keys are stored after RoPE.
struct KvCache {
  struct Layer {
    Tensor k, v;  // [sequences · capacity, num_kv_heads · head_dim]
  };
  int64_t sequences = 0, capacity = 0;
  std::vector<Layer> layers;
};

// Where the tokens of one forward pass go in a cache. The pass may hold some of the cache's
// sequences only (the unfinished ones).
struct CacheStep {
  KvCache* cache = nullptr;
  Tensor rows;  // i32 [N]: cache row of each token
  Tensor
      starts;   // i32 [S + 1]: first cache row of each sequence of the pass, ascending, and an end
  Tensor used;  // i32 [S]: keys of each sequence, these tokens included
  int max_used = 0;
};

// A flat batch on the device: N tokens, no padding.
struct ModelBatch {
  Tensor input_ids;  // i32 [N]
  Tensor positions;  // i32 [N], restarting at every sequence: Model::position_ids
  Tensor targets;    // i32 [N], the id to predict at each token, or -100
  Sequences sequences;
  Tensor pooled_rows;  // i32 [S], classifiers: the token of each sequence that is classified
  CacheStep cache;     // generation only

  // Encoder-decoder models: the tokens above are the decoder's, these the encoder's, sequence for
  // sequence.
  Tensor source_ids;  // i32 [M]; in generation only with the first tokens of the decoder
  Sequences source_sequences;
  CacheStep source_cache;  // generation only: the keys and values of cross-attention
};

class Model {
 public:
  virtual ~Model() = default;

  const ModelInfo& info() const { return info_; }
  ParameterSet& parameters() { return parameters_; }
  const ParameterSet& parameters() const { return parameters_; }
  // lm_head or score; the embedding table itself when tied.
  Parameter& head() { return *head_; }
  // Parameters that take part in matmuls of one token (models.md 9); of an encoder-decoder model,
  // of one token of the decoder.
  virtual int64_t matmul_parameters() const = 0;
  // The same of one token of the encoder, the keys and values of cross-attention included.
  virtual int64_t source_matmul_parameters() const { return 0; }

  // Tables that depend on the longest position in use (RoPE). Call once, before any forward.
  virtual void prepare(Runtime& runtime, int64_t max_positions) = 0;
  // Hidden states after the final norm: [N, hidden] in the compute dtype. Probes are HF's
  // hidden_states: "hidden.0" the embedding, "hidden.<i>" the residual stream after layer i - 1,
  // "hidden.<num_layers>" after the final norm; "encoder.hidden.<i>" and "decoder.hidden.<i>" in an
  // encoder-decoder model.
  virtual Variable hidden_states(Graph& graph, const ModelBatch& batch) = 0;
  // Classifiers: scores [S, num_labels] in the compute dtype of the tokens batch.pooled_rows. The
  // head alone unless a family has more.
  virtual Variable class_scores(Graph& graph, const Variable& hidden, const ModelBatch& batch);

  // Positions of the tokens of a flat batch, given those counted from 0 in every sequence: these,
  // unless a family counts otherwise (RoBERTa leaves out padding and begins behind its id).
  virtual std::vector<int32_t> position_ids(std::span<const int32_t> input_ids,
                                            std::span<const int32_t> cu_seqlens,
                                            std::span<const int32_t> counted) const;

  // Other spellings of a tensor's name that checkpoints use.
  virtual std::vector<std::string> spellings(const std::string& name) const { return {name}; }
  // What to save the tensor `name` as that a checkpoint had as `found`: that again, unless the
  // model is saved as another class than it came from.
  virtual std::string saved_name(const std::string& name, const std::string& found) const {
    (void)name;
    return found;
  }
  // Is this tensor of a checkpoint known to be of no use?
  virtual bool ignorable(const std::string& name) const = 0;
  // May this tensor be absent from a checkpoint that is fine-tuned, and begin anew? The head of a
  // classifier.
  virtual bool may_be_new(const std::string& name) const;
  // The config.json that describes the model, for saving.
  const nlohmann::ordered_json& config_json() const { return *config_json_; }

 protected:
  explicit Model(const nlohmann::ordered_json& config);

  ModelInfo info_;
  ParameterSet parameters_;
  Parameter* head_ = nullptr;
  std::shared_ptr<const nlohmann::ordered_json> config_json_;
};

// An empty cache for so many sequences of at most `capacity` tokens, out of the arena.
KvCache make_kv_cache(Runtime& runtime, const ModelInfo& info, const PrecisionPolicy& precision,
                      int64_t sequences, int64_t capacity);

}  // namespace engine
