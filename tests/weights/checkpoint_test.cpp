#include "weights/checkpoint.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/weights/support.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using testing::code_of;
using testing::error_of;
using testing::spit;
using testing::TemporaryDirectory;

const std::vector<float> kZeros(1000);

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  FileDtype dtype = FileDtype::f32;
};

void write_tensors(const fs::path& path, const std::vector<Tensor>& tensors) {
  fs::create_directories(path.parent_path());
  std::vector<TensorToWrite> to_write;
  for (const Tensor& tensor : tensors) {
    to_write.push_back(
        TensorToWrite::from_bytes(tensor.name, tensor.dtype, tensor.shape, kZeros.data()));
  }
  SafetensorsWriter(std::move(to_write)).write(path);
}

void write_index(const fs::path& path, const std::map<std::string, std::string>& weight_map) {
  nlohmann::json index;
  index["metadata"]["total_size"] = 1;
  index["weight_map"] = weight_map;
  spit(path, index.dump());
}

// Two shards, a in the first, b and c in the second.
void write_sharded(const fs::path& directory) {
  spit(directory / "config.json", R"({"model_type": "llama"})");
  write_tensors(directory / "model-00001-of-00002.safetensors", {{"a", {2, 3}}});
  write_tensors(directory / "model-00002-of-00002.safetensors", {{"b", {4}}, {"c", {}}});
  write_index(directory / "model.safetensors.index.json",
              {{"a", "model-00001-of-00002.safetensors"},
               {"b", "model-00002-of-00002.safetensors"},
               {"c", "model-00002-of-00002.safetensors"}});
}

std::string open_code(const fs::path& directory) {
  return code_of([&] { Checkpoint::open(directory.string()); });
}
std::string open_text(const fs::path& directory) {
  return error_of([&] { Checkpoint::open(directory.string()); }).what();
}
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Checkpoint, OpensASingleFile) {
  const TemporaryDirectory directory;
  spit(directory / "config.json", R"({"model_type": "llama", "hidden_size": 64})");
  write_tensors(directory / "model.safetensors", {{"b", {2, 3}}, {"a", {4}}});
  // A single file wins over an index, as in transformers.
  write_index(directory / "model.safetensors.index.json", {{"a", "none.safetensors"}});
  Checkpoint opened = Checkpoint::open(directory.path().string());
  const Checkpoint checkpoint = std::move(opened);
  EXPECT_EQ(checkpoint.config().at("hidden_size"), 64);
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
  ASSERT_NE(checkpoint.find("b"), nullptr);
  EXPECT_EQ(checkpoint.find("b")->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_EQ(checkpoint.total_bytes(), 40u);
  EXPECT_EQ(checkpoint.file_of("a"), "model.safetensors");
}

TEST(Checkpoint, OpensShards) {
  const TemporaryDirectory directory;
  write_sharded(directory.path());
  const Checkpoint checkpoint = Checkpoint::open(directory.path().string());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(checkpoint.file_of("c"), "model-00002-of-00002.safetensors");
  EXPECT_EQ(checkpoint.find("c")->num_elements(), 1);
  EXPECT_TRUE(checkpoint.warnings().empty());
}

TEST(Checkpoint, ConfigMissingOrMalformed) {
  const TemporaryDirectory directory;
  write_tensors(directory / "model.safetensors", {{"a", {4}}});
  EXPECT_EQ(open_code(directory.path()), "CKPT-CONFIG");
  spit(directory / "adapter_config.json", "{}");
  EXPECT_TRUE(contains(open_text(directory.path()), "adapter"));
  spit(directory / "config.json", "{\n\"a\": 1,\n}");
  EXPECT_EQ(open_code(directory.path()), "CKPT-CONFIG");
  EXPECT_TRUE(contains(open_text(directory.path()), "line 3")) << open_text(directory.path());
  spit(directory / "config.json", "[]");
  EXPECT_EQ(open_code(directory.path()), "CKPT-CONFIG");
  spit(directory / "config.json", "{\"a\":" + std::string(100000, '['));
  EXPECT_EQ(open_code(directory.path()), "CKPT-CONFIG");
  EXPECT_TRUE(contains(open_text(directory.path()), "nested deeper than 256 levels"));
  EXPECT_EQ(open_code(directory / "none"), "CKPT-DIR");
  EXPECT_EQ(open_code(directory / "model.safetensors"), "CKPT-DIR");
}

TEST(Checkpoint, NoWeightsSaysWhatIsThere) {
  const TemporaryDirectory directory;
  spit(directory / "config.json", "{}");
  EXPECT_EQ(open_code(directory.path()), "CKPT-NO-WEIGHTS");
  spit(directory / "weights.safetensors", "");
  EXPECT_TRUE(contains(open_text(directory.path()), "rename"));
  spit(directory / "pytorch_model.bin", "");
  const std::string text = open_text(directory.path());
  EXPECT_TRUE(contains(text, "pytorch_model.bin")) << text;
  EXPECT_TRUE(contains(text, "convert it offline")) << text;
}

TEST(Checkpoint, IndexIsChecked) {
  const TemporaryDirectory directory;
  const fs::path index = directory / "model.safetensors.index.json";
  write_sharded(directory.path());
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";

  for (const char* text : {"{", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})",
                           R"({"weight_map": {"a": 1}})"}) {
    spit(index, text);
    EXPECT_EQ(open_code(directory.path()), "CKPT-INDEX") << text;
  }
  for (const std::string& escape :
       {std::string("../x.safetensors"), (directory / first).string(), std::string("a/../../x"),
        std::string(), std::string("a\0b", 3)}) {
    write_index(index, {{"a", escape}});
    EXPECT_EQ(open_code(directory.path()), "CKPT-PATH") << escape;
  }

  write_index(index, {{"a", first}, {"b", second}, {"d", "other.safetensors"}});
  EXPECT_EQ(open_code(directory.path()), "CKPT-SHARD-MISSING");
  EXPECT_TRUE(contains(open_text(directory.path()), "other.safetensors"));

  write_index(index, {{"a", first}, {"b", first}, {"c", second}});
  EXPECT_EQ(open_code(directory.path()), "CKPT-INDEX");
  EXPECT_TRUE(contains(open_text(directory.path()), "b (in " + first + ")"));

  // Not in the index at all: found, with a word.
  write_index(index, {{"a", first}, {"b", second}});
  const Checkpoint omitted = Checkpoint::open(directory.path().string());
  ASSERT_NE(omitted.find("c"), nullptr);
  ASSERT_EQ(omitted.warnings().size(), 1u);
  EXPECT_TRUE(contains(omitted.warnings()[0], "tensor c"));

  // In two shards: the index decides.
  write_tensors(directory / first, {{"a", {2, 3}}, {"b", {5}}});
  write_index(index, {{"a", first}, {"b", second}, {"c", second}});
  const Checkpoint twice = Checkpoint::open(directory.path().string());
  EXPECT_EQ(twice.find("b")->shape, std::vector<int64_t>{4});
  ASSERT_EQ(twice.warnings().size(), 1u);

  spit(directory / second, "damaged");
  EXPECT_EQ(open_code(directory.path()), "ST-HEADER-TOO-SMALL");
}

TEST(Checkpoint, FindsModelsInTheHubCache) {
  const TemporaryDirectory cache;
  const fs::path repository = cache / "models--some-org--tiny.model";
  spit(repository / "refs/main", "0123abc\n");
  const fs::path snapshot = repository / "snapshots/0123abc";
  fs::create_directories(snapshot);
  // As the hub client lays it out: snapshots link to blobs.
  spit(repository / "blobs/config", R"({"model_type": "x"})");
  write_tensors(repository / "blobs/weights", {{"a", {4}}});
  fs::create_symlink("../../blobs/config", snapshot / "config.json");
  fs::create_symlink("../../blobs/weights", snapshot / "model.safetensors");

  setenv("HF_HUB_CACHE", cache.path().c_str(), 1);
  EXPECT_EQ(Checkpoint::open("some-org/tiny.model").directory(), snapshot);
  EXPECT_EQ(resolve_checkpoint_directory("some-org/tiny.model@0123abc"), snapshot);
  for (const char* absent : {"some-org/other", "some-org/tiny.model@v2", "a/b/c", "../x", "",
                             "some-org/tiny.model@../../x"}) {
    EXPECT_EQ(code_of([&] { resolve_checkpoint_directory(absent); }), "CKPT-DIR") << absent;
  }
  const Error error = error_of([] { Checkpoint::open("some-org/other"); });
  EXPECT_TRUE(contains(error.what(), "hf download some-org/other")) << error.what();
  unsetenv("HF_HUB_CACHE");
}

TEST(MatchesPattern, Stars) {
  EXPECT_TRUE(matches_pattern("*.rotary_emb.inv_freq", "model.layers.0.rotary_emb.inv_freq"));
  EXPECT_FALSE(matches_pattern("*.rotary_emb.inv_freq", "model.rotary_emb.inv_freq2"));
  EXPECT_TRUE(matches_pattern("*.attn.bias", "h.0.attn.bias"));
  EXPECT_FALSE(matches_pattern("*.attn.bias", "h.0.attn.c_attn.bias"));
  EXPECT_TRUE(matches_pattern("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(matches_pattern("a*b*c", "aXbYbZ"));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("abc", "abc"));
  EXPECT_FALSE(matches_pattern("", "a"));
}

Checkpoint checkpoint_of(const TemporaryDirectory& directory, const std::vector<Tensor>& tensors,
                         const std::string& config = "{}") {
  spit(directory / "config.json", config);
  write_tensors(directory / "model.safetensors", tensors);
  return Checkpoint::open(directory.path().string());
}

TEST(CheckpointReader, KeepsTheAccount) {
  const TemporaryDirectory directory;
  const Checkpoint checkpoint = checkpoint_of(
      directory, {{"norm.gamma", {4}}, {"w", {2, 3}}, {"x.inv_freq", {2}}, {"extra", {1}}});
  CheckpointReader reader(checkpoint, "TestModel");
  reader.ignore("*.inv_freq");
  EXPECT_EQ(reader.take("w", {2, 3}), checkpoint.find("w"));
  const int64_t four[] = {4};
  EXPECT_EQ(reader.take_any({"norm.weight", "norm.gamma"}, four), checkpoint.find("norm.gamma"));
  EXPECT_EQ(reader.take_optional("bias", four), nullptr);
  EXPECT_TRUE(reader.missing().empty());
  EXPECT_EQ(reader.unused(), std::vector<std::string>{"extra"});
  EXPECT_NO_THROW(reader.finish());
  EXPECT_EQ(reader.take("absent", {1}), nullptr);
  EXPECT_EQ(reader.missing(), std::vector<std::string>{"absent"});
  const Error error = error_of([&] { reader.finish(); });
  EXPECT_EQ(error.code(), "CKPT-MISSING");
  EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
  EXPECT_TRUE(contains(error.what(), "lacks 1 of the 3 tensors of TestModel")) << error.what();
  EXPECT_TRUE(contains(error.what(), "absent [1]")) << error.what();
  EXPECT_TRUE(contains(error.what(), "1: extra")) << error.what();
}

TEST(CheckpointReader, ShapesSayWhatIsWrong) {
  const TemporaryDirectory directory;
  const Checkpoint checkpoint = checkpoint_of(
      directory,
      {{"model.embed_tokens.weight", {10, 4}}, {"w", {2, 3}}, {"q", {2, 2}, FileDtype::f8_e4m3}});
  CheckpointReader reader(checkpoint, "TestModel");
  const Error vocabulary = error_of([&] { reader.take("model.embed_tokens.weight", {8, 4}); });
  EXPECT_EQ(vocabulary.code(), "CKPT-SHAPE");
  EXPECT_TRUE(contains(vocabulary.what(), "[10, 4]")) << vocabulary.what();
  EXPECT_TRUE(contains(vocabulary.what(), "[8, 4]")) << vocabulary.what();
  EXPECT_TRUE(contains(vocabulary.what(), "set vocab_size to 10")) << vocabulary.what();
  EXPECT_TRUE(contains(error_of([&] { reader.take("w", {3, 2}); }).what(), "transposed"));
  EXPECT_EQ(code_of([&] { reader.take("w", {2, 3, 1}); }), "CKPT-SHAPE");
  EXPECT_EQ(code_of([&] { reader.take("w", {6}); }), "CKPT-SHAPE");
  EXPECT_EQ(code_of([&] { reader.take("q", {2, 2}); }), "CKPT-DTYPE");
}

// What finish() says when `names` are in the file and `wanted` is asked for.
std::string advice(const std::vector<std::string>& names, const std::vector<std::string>& wanted) {
  const TemporaryDirectory directory;
  std::vector<Tensor> tensors;
  for (const std::string& name : names) tensors.push_back({name, {1}});
  const Checkpoint checkpoint =
      checkpoint_of(directory, tensors, R"({"model_type": "qwen2", "num_hidden_layers": 24})");
  CheckpointReader reader(checkpoint, "TestModel");
  for (const std::string& name : wanted) reader.take(name, {1});
  return error_of([&] { reader.finish(); }).what();
}

TEST(CheckpointReader, AdviceFitsTheCase) {
  EXPECT_TRUE(contains(advice({"a"}, {"a", "lm_head.weight"}), "tie_word_embeddings to true"));
  EXPECT_TRUE(contains(advice({"a.weight_scale", "b"}, {"a.weight"}), "quantised"));
  EXPECT_TRUE(contains(advice({"a.lora_A.weight"}, {"a.weight"}), "adapter"));
  EXPECT_TRUE(contains(advice({"base.model.a", "base.model.b"}, {"model.a", "model.b"}),
                       "prefix \"base.\" before"));
  EXPECT_TRUE(contains(advice({"wte", "wpe"}, {"transformer.wte", "transformer.wpe"}),
                       "prefix \"transformer.\" missing"));
  EXPECT_TRUE(contains(advice({"a"}, {"a", "b"}), "fewer layers"));
  EXPECT_TRUE(contains(advice({"a", "x"}, {"a", "b"}), "different models"));
  EXPECT_TRUE(contains(advice({"a"}, {"b"}), "model_type=qwen2, num_hidden_layers=24"));
  std::vector<std::string> many;
  for (int i = 0; i < 100; ++i) many.push_back("layer." + std::to_string(i));
  const std::string text = advice({"a"}, many);
  EXPECT_TRUE(contains(text, "and 92 more")) << text;
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 20) << "one screen";
}

}  // namespace
}  // namespace engine
