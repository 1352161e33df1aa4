// The llama2.c checkpoint format (legacy version 0), read as a Hugging Face Llama model.
//
//   7 x i32      dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
//                (vocab_size < 0: the output head is a matrix of its own)
//   fp32         tok_embeddings [V, d], rms_att [L, d], wq [L, d, d], wk, wv [L, kv, d],
//                wo [L, d, d], rms_ffn [L, d], w1 [L, h, d], w2 [L, d, h], w3 [L, h, d],
//                rms_final [d], freq_cis_real, freq_cis_imag [seq_len, head_dim / 2],
//                output [V, d] when vocab_size < 0
//
// with d = dim, h = hidden_dim, kv = n_kv_heads * head_dim, head_dim = d / n_heads. Its rotary
// embedding turns neighbouring pairs (2i, 2i + 1) of a head, that of Hugging Face the halves
// (i, i + head_dim / 2); the rows of q and k are reordered accordingly.
//
// Errors have exit code `checkpoint`: L2C-HEADER, L2C-TRUNCATED, L2C-TRAILING.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/core/file_io.h"
#include "weights/safetensors.h"

namespace engine {

struct Llama2cConfig {
  int64_t dim = 0;
  int64_t hidden_dim = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t vocab_size = 0;
  int64_t seq_len = 0;
  bool tied_embeddings = true;

  int64_t head_dim() const { return dim / num_heads; }
  int64_t kv_dim() const { return num_kv_heads * head_dim(); }
};

class Llama2cFile {
 public:
  static Llama2cFile open(const std::filesystem::path& path);

  const Llama2cConfig& config() const { return config_; }
  // config.json for LlamaForCausalLM: rms_norm_eps 1e-5, rope_theta 10000, bos 1, eos 2, fp32.
  std::string config_json() const;
  // All tensors under their Hugging Face names, fp32; they refer to this file, so it must outlive
  // them. Ready for export_checkpoint.
  std::vector<TensorToWrite> tensors() const;

 private:
  MappedFile file_;
  Llama2cConfig config_;
};

}  // namespace engine
