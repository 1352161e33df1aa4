#include "weights/llama2c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/support/shared_data.h"
#include "tests/weights/support.h"
#include "weights/checkpoint.h"
#include "weights/export.h"

namespace engine {
namespace {

using testing::code_of;
using testing::error_of;
using testing::slurp;
using testing::spit;
using testing::TemporaryDirectory;

// dim 8, hidden 6, 2 layers, 2 heads, 1 key/value head, vocabulary 5, 3 positions: the floats are
// 0, 1, 2, ... in file order.
std::string small_file(int vocab_size = 5, std::array<int32_t, 2> edit = {-1, 0}) {
  int32_t header[7] = {8, 6, 2, 2, 1, vocab_size, 3};
  const size_t per_layer = 2 * 8 + 2 * 64 + 2 * 32 + 3 * 48;
  const size_t floats = 40 + 2 * per_layer + 8 + 3 * 4 + (vocab_size < 0 ? 40 : 0);
  std::string file(28 + 4 * floats, '\0');
  if (edit[0] >= 0) header[edit[0]] = edit[1];
  std::memcpy(file.data(), header, 28);
  for (size_t i = 0; i < floats; ++i) {
    const float value = static_cast<float>(i);
    std::memcpy(file.data() + 28 + 4 * i, &value, 4);
  }
  return file;
}

std::vector<float> values_of(const Llama2cFile& file, const std::string& name) {
  std::vector<float> values;
  for (const TensorToWrite& tensor : file.tensors()) {
    if (tensor.name != name) continue;
    tensor.source([&](std::span<const std::byte> bytes) {
      const size_t before = values.size();
      values.resize(before + bytes.size() / 4);
      std::memcpy(values.data() + before, bytes.data(), bytes.size());
    });
  }
  return values;
}

TEST(Llama2c, TensorsLieWhereTheFormatSays) {
  const TemporaryDirectory directory;
  spit(directory / "m.bin", small_file());
  const Llama2cFile file = Llama2cFile::open(directory / "m.bin");
  EXPECT_EQ(file.tensors().size(), 2u + 2u * 9u);
  const auto first = [&](const std::string& name) { return values_of(file, name).at(0); };
  EXPECT_EQ(first("model.embed_tokens.weight"), 0);
  EXPECT_EQ(first("model.layers.1.input_layernorm.weight"), 40 + 8);
  EXPECT_EQ(first("model.layers.1.self_attn.q_proj.weight"), 56 + 64);
  EXPECT_EQ(first("model.layers.1.self_attn.k_proj.weight"), 184 + 32);
  EXPECT_EQ(first("model.layers.1.self_attn.v_proj.weight"), 248 + 32);
  EXPECT_EQ(first("model.layers.1.self_attn.o_proj.weight"), 312 + 64);
  EXPECT_EQ(first("model.layers.1.post_attention_layernorm.weight"), 440 + 8);
  EXPECT_EQ(first("model.layers.1.mlp.gate_proj.weight"), 456 + 48);
  EXPECT_EQ(first("model.layers.1.mlp.down_proj.weight"), 552 + 48);
  EXPECT_EQ(first("model.layers.1.mlp.up_proj.weight"), 648 + 48);
  EXPECT_EQ(first("model.norm.weight"), 744);

  // q has two heads of 4 rows of 8: rows 0 1 2 3 of a head become 0 2 1 3.
  const std::vector<float> query = values_of(file, "model.layers.0.self_attn.q_proj.weight");
  ASSERT_EQ(query.size(), 64u);
  const int rows[] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (int row = 0; row < 8; ++row) {
    for (int i = 0; i < 8; ++i) EXPECT_EQ(query[row * 8 + i], 56 + rows[row] * 8 + i);
  }
}

TEST(Llama2c, SeparateOutputHead) {
  const TemporaryDirectory directory;
  spit(directory / "m.bin", small_file(-5));
  const Llama2cFile file = Llama2cFile::open(directory / "m.bin");
  EXPECT_EQ(file.config().vocab_size, 5);
  EXPECT_EQ(values_of(file, "lm_head.weight").at(0), 744 + 8 + 12);
  const auto config = nlohmann::json::parse(file.config_json());
  EXPECT_EQ(config.at("tie_word_embeddings"), false);
  EXPECT_EQ(config.at("num_key_value_heads"), 1);
  EXPECT_EQ(config.at("max_position_embeddings"), 3);
}

TEST(Llama2c, MalformedFiles) {
  const TemporaryDirectory directory;
  const auto code = [&](const std::string& content) {
    spit(directory / "m.bin", content);
    return code_of([&] { Llama2cFile::open(directory / "m.bin"); });
  };
  const std::string good = small_file();
  EXPECT_EQ(code(good), "");
  EXPECT_EQ(code(""), "L2C-HEADER");
  EXPECT_EQ(code(good.substr(0, 27)), "L2C-HEADER");
  EXPECT_EQ(code(good.substr(0, 28)), "L2C-TRUNCATED");
  EXPECT_EQ(code(good.substr(0, good.size() - 1)), "L2C-TRUNCATED");
  EXPECT_EQ(code(good + "x"), "L2C-TRAILING");
  EXPECT_EQ(code(good + std::string(160, 'x')), "L2C-TRAILING");
  for (int field = 0; field < 7; ++field) {
    EXPECT_EQ(code(small_file(5, {field, 0})), "L2C-HEADER") << field;
    EXPECT_EQ(code(small_file(5, {field, INT32_MIN})), "L2C-HEADER") << field;
    EXPECT_EQ(code(small_file(5, {field, INT32_MAX})), "L2C-HEADER") << field;
    if (field != 5) {
      EXPECT_EQ(code(small_file(5, {field, -2})), "L2C-HEADER") << field;
    }
  }
  EXPECT_EQ(code(small_file(5, {0, 9})), "L2C-HEADER");  // 9 does not divide by 2 heads
  EXPECT_EQ(code(small_file(5, {3, 8})), "L2C-HEADER");  // head_dim 1 is odd
  EXPECT_EQ(code(small_file(5, {4, 4})), "L2C-HEADER");  // more kv heads than heads
  EXPECT_EQ(code(small_file(5, {1, 1000})), "L2C-TRUNCATED");
  EXPECT_EQ(code(small_file(5, {0, 0x616b3432})), "L2C-HEADER");
  EXPECT_EQ(code(slurp("/proc/self/exe").substr(0, 4096)), "L2C-HEADER");
}

// The real model of the llama2.c author. tests/reference/weights_llama2c_check.py compares the
// directory written here (WEIGHTS_TEST_EXPORT names it) with transformers and with known losses.
TEST(Llama2c, StoriesModelBecomesACheckpoint) {
  ENGINE_REQUIRE_SHARED_DATA(path, "weights/stories260K/stories260K.bin");
  const TemporaryDirectory temporary;
  const char* kept = std::getenv("WEIGHTS_TEST_EXPORT");
  const std::filesystem::path directory = kept ? kept : temporary / "stories260K";
  const Llama2cFile file = Llama2cFile::open(path);
  ExportOptions options;
  options.config_json = file.config_json();
  options.overwrite = kept != nullptr;
  export_checkpoint(directory, file.tensors(), options);

  const Checkpoint checkpoint = Checkpoint::open(directory.string());
  EXPECT_EQ(checkpoint.config().at("num_hidden_layers"), 5);
  CheckpointReader reader(checkpoint, "LlamaForCausalLM");
  reader.take("model.embed_tokens.weight", {512, 64});
  reader.take("model.norm.weight", {64});
  for (int i = 0; i < 5; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    reader.take(layer + "input_layernorm.weight", {64});
    reader.take(layer + "self_attn.q_proj.weight", {64, 64});
    reader.take(layer + "self_attn.k_proj.weight", {32, 64});
    reader.take(layer + "self_attn.v_proj.weight", {32, 64});
    reader.take(layer + "self_attn.o_proj.weight", {64, 64});
    reader.take(layer + "post_attention_layernorm.weight", {64});
    reader.take(layer + "mlp.gate_proj.weight", {172, 64});
    reader.take(layer + "mlp.up_proj.weight", {172, 64});
    reader.take(layer + "mlp.down_proj.weight", {64, 172});
  }
  EXPECT_NO_THROW(reader.finish());
  EXPECT_TRUE(reader.unused().empty());
}

}  // namespace
}  // namespace engine
