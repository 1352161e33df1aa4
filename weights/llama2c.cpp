#include "weights/llama2c.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

namespace engine {

namespace {

namespace fs = std::filesystem;

constexpr size_t kHeaderBytes = 7 * sizeof(int32_t);

Llama2cConfig read_header(const MappedFile& file) {
  const auto bad_header = [&](const std::string& problem) {
    return Error(ExitCode::checkpoint, "L2C-HEADER", file.path().string() + ": " + problem);
  };
  if (file.size() < kHeaderBytes) {
    throw bad_header("too short for a llama2.c checkpoint")
        .expected(fmt::format("at least {} bytes", kHeaderBytes))
        .found(fmt::format("{} bytes", file.size()));
  }
  int32_t fields[7];
  std::memcpy(fields, file.data(), kHeaderBytes);
  if (fields[0] == 0x616b3432) {  // "ak42"
    throw bad_header("this is version 1 or 2 of the llama2.c format")
        .expected("the legacy version 0")
        .fix("export the model with --version 0, or straight to Hugging Face format");
  }
  Llama2cConfig config;
  config.dim = fields[0];
  config.hidden_dim = fields[1];
  config.num_layers = fields[2];
  config.num_heads = fields[3];
  config.num_kv_heads = fields[4];
  config.vocab_size = fields[5] < 0 ? -static_cast<int64_t>(fields[5]) : fields[5];
  config.tied_embeddings = fields[5] > 0;
  config.seq_len = fields[6];

  const std::string found = fmt::format(
      "dim {}, hidden_dim {}, n_layers {}, n_heads {}, n_kv_heads {}, vocab_size {}, seq_len {}",
      fields[0], fields[1], fields[2], fields[3], fields[4], fields[5], fields[6]);
  const auto reject = [&](const char* expected) {
    throw bad_header("the header is not that of a llama2.c checkpoint")
        .expected(expected)
        .found(found)
        .why("another format, or a damaged file");
  };
  for (const int64_t size : {config.dim, config.hidden_dim, config.num_layers, config.num_heads,
                             config.num_kv_heads, config.vocab_size, config.seq_len}) {
    // The upper bound keeps every product below far from overflow.
    if (size <= 0 || size > (int64_t{1} << 20)) reject("sizes from 1 to 1048576");
  }
  if (config.num_layers > 10'000) reject("at most 10000 layers");
  if (config.dim % config.num_heads != 0) reject("dim that is a multiple of n_heads");
  if (config.num_heads % config.num_kv_heads != 0) {
    reject("n_heads that is a multiple of n_kv_heads");
  }
  if (config.head_dim() % 2 != 0) reject("dim / n_heads that is even");
  return config;
}

// Walks over the file's arrays in their order.
struct Cursor {
  const std::byte* position;

  const std::byte* take(uint64_t floats) {
    const std::byte* array = position;
    position += floats * sizeof(float);
    return array;
  }
};

uint64_t expected_floats(const Llama2cConfig& c) {
  const uint64_t d = c.dim, h = c.hidden_dim, kv = c.kv_dim();
  const uint64_t per_layer = 2 * d + 2 * d * d + 2 * kv * d + 3 * h * d;
  uint64_t floats = static_cast<uint64_t>(c.vocab_size) * d * (c.tied_embeddings ? 1 : 2) + d;
  floats += static_cast<uint64_t>(c.seq_len) * c.head_dim();  // both freq_cis tables
  // 10^4 layers of at most 7 * 2^40 + 2^22 floats are far below 2^62.
  return floats + static_cast<uint64_t>(c.num_layers) * per_layer;
}

// A projection whose rows are head by head, in neighbouring pairs in the file, in halves outside:
// row j * head_dim / 2 + i of a head is the file's row 2 i + j.
TensorToWrite in_halves(std::string name, const std::byte* data, int64_t num_heads,
                        int64_t head_dim, int64_t dim) {
  TensorToWrite tensor{std::move(name), FileDtype::f32, {num_heads * head_dim, dim}, nullptr};
  tensor.source = [=](const TensorSink& sink) {
    const size_t row_bytes = static_cast<size_t>(dim) * sizeof(float);
    for (int64_t head = 0; head < num_heads; ++head) {
      for (int64_t j = 0; j < 2; ++j) {
        for (int64_t i = 0; i < head_dim / 2; ++i) {
          const int64_t row = head * head_dim + 2 * i + j;
          sink({data + static_cast<size_t>(row) * row_bytes, row_bytes});
        }
      }
    }
  };
  return tensor;
}

}  // namespace

Llama2cFile Llama2cFile::open(const fs::path& path) {
  Llama2cFile file;
  file.file_ = MappedFile::open(path, ExitCode::checkpoint);
  file.config_ = read_header(file.file_);
  const uint64_t expected = kHeaderBytes + sizeof(float) * expected_floats(file.config_);
  if (file.file_.size() != expected) {
    const bool truncated = file.file_.size() < expected;
    throw Error(ExitCode::checkpoint, truncated ? "L2C-TRUNCATED" : "L2C-TRAILING",
                fmt::format("{} is too {} for what its header says", path.string(),
                            truncated ? "short" : "long"))
        .expected(fmt::format("{} bytes", expected))
        .found(fmt::format("{} bytes", file.file_.size()))
        .why(truncated ? "an interrupted download, or another format"
                       : "another format, or a damaged header")
        .fix("download the file again");
  }
  return file;
}

std::string Llama2cFile::config_json() const {
  nlohmann::ordered_json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["vocab_size"] = config_.vocab_size;
  json["hidden_size"] = config_.dim;
  json["intermediate_size"] = config_.hidden_dim;
  json["num_hidden_layers"] = config_.num_layers;
  json["num_attention_heads"] = config_.num_heads;
  json["num_key_value_heads"] = config_.num_kv_heads;
  json["head_dim"] = config_.head_dim();
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = config_.seq_len;
  json["rms_norm_eps"] = 1e-5;
  json["rope_theta"] = 10000.0;
  json["rope_scaling"] = nullptr;
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["tie_word_embeddings"] = config_.tied_embeddings;
  json["bos_token_id"] = 1;
  json["eos_token_id"] = 2;
  json["torch_dtype"] = "float32";
  return json.dump(2) + "\n";
}

std::vector<TensorToWrite> Llama2cFile::tensors() const {
  const int64_t d = config_.dim, h = config_.hidden_dim, kv = config_.kv_dim();
  const int64_t vocab = config_.vocab_size, layers = config_.num_layers;
  Cursor cursor{file_.data() + kHeaderBytes};
  const std::byte* embedding = cursor.take(vocab * d);
  const std::byte* rms_attention = cursor.take(layers * d);
  const std::byte* wq = cursor.take(layers * d * d);
  const std::byte* wk = cursor.take(layers * kv * d);
  const std::byte* wv = cursor.take(layers * kv * d);
  const std::byte* wo = cursor.take(layers * d * d);
  const std::byte* rms_ffn = cursor.take(layers * d);
  const std::byte* w1 = cursor.take(layers * h * d);
  const std::byte* w2 = cursor.take(layers * d * h);
  const std::byte* w3 = cursor.take(layers * h * d);
  const std::byte* rms_final = cursor.take(d);
  cursor.take(config_.seq_len * config_.head_dim());  // the freq_cis tables follow from rope_theta
  const std::byte* output = cursor.position;

  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, const std::byte* data) {
    tensors.push_back(TensorToWrite::from_bytes(name, FileDtype::f32, std::move(shape), data));
  };
  const auto of_layer = [](const std::byte* stacked, int64_t layer, int64_t floats) {
    return stacked + static_cast<size_t>(layer * floats) * sizeof(float);
  };
  add("model.embed_tokens.weight", {vocab, d}, embedding);
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    add(layer + "input_layernorm.weight", {d}, of_layer(rms_attention, i, d));
    tensors.push_back(in_halves(layer + "self_attn.q_proj.weight", of_layer(wq, i, d * d),
                                config_.num_heads, config_.head_dim(), d));
    tensors.push_back(in_halves(layer + "self_attn.k_proj.weight", of_layer(wk, i, kv * d),
                                config_.num_kv_heads, config_.head_dim(), d));
    add(layer + "self_attn.v_proj.weight", {kv, d}, of_layer(wv, i, kv * d));
    add(layer + "self_attn.o_proj.weight", {d, d}, of_layer(wo, i, d * d));
    add(layer + "post_attention_layernorm.weight", {d}, of_layer(rms_ffn, i, d));
    add(layer + "mlp.gate_proj.weight", {h, d}, of_layer(w1, i, h * d));
    add(layer + "mlp.up_proj.weight", {h, d}, of_layer(w3, i, h * d));
    add(layer + "mlp.down_proj.weight", {d, h}, of_layer(w2, i, d * h));
  }
  add("model.norm.weight", {d}, rms_final);
  if (!config_.tied_embeddings) add("lm_head.weight", {vocab, d}, output);
  return tensors;
}

}  // namespace engine
