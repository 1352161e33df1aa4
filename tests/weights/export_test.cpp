#include "weights/export.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/weights/support.h"
#include "weights/checkpoint.h"

namespace engine {
namespace {

using testing::code_of;
using testing::error_of;
using testing::FileSizeLimit;
using testing::ReadOnlyDirectory;
using testing::slurp;
using testing::spit;
using testing::TemporaryDirectory;

constexpr const char* kConfig = "{\n  \"model_type\": \"llama\",\n \"odd\":   [1,2]\n}\n";

std::vector<uint8_t> counted_bytes() {
  std::vector<uint8_t> bytes(4096);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 13 + 5);
  return bytes;
}
const std::vector<uint8_t> kBytes = counted_bytes();

// One tensor of every type, with different contents.
std::vector<TensorToWrite> every_dtype() {
  std::vector<TensorToWrite> tensors;
  for (int i = 0; i < kFileDtypeCount; ++i) {
    const auto dtype = static_cast<FileDtype>(i);
    tensors.push_back(TensorToWrite::from_bytes("layers." + std::to_string(i) + ".weight", dtype,
                                                {4, 8}, kBytes.data() + 16 * i));
  }
  return tensors;
}

void expect_same_tensors(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.names(), b.names());
  for (const std::string& name : a.names()) {
    const TensorEntry &x = *a.find(name), &y = *b.find(name);
    EXPECT_EQ(x.dtype, y.dtype) << name;
    EXPECT_EQ(x.shape, y.shape) << name;
    ASSERT_EQ(x.bytes, y.bytes) << name;
    EXPECT_EQ(std::memcmp(x.data, y.data, x.bytes), 0) << name;
  }
}

TEST(Export, LoadSaveLoadKeepsEveryTypeBitForBit) {
  const TemporaryDirectory directory;
  ExportOptions options;
  options.config_json = kConfig;
  export_checkpoint(directory / "a", every_dtype(), options);
  const Checkpoint first = Checkpoint::open((directory / "a").string());
  EXPECT_EQ(first.names().size(), static_cast<size_t>(kFileDtypeCount));
  for (const TensorToWrite& tensor : every_dtype()) {
    ASSERT_NE(first.find(tensor.name), nullptr);
    tensor.source([&](std::span<const std::byte> bytes) {
      EXPECT_EQ(std::memcmp(first.find(tensor.name)->data, bytes.data(), bytes.size()), 0);
    });
  }

  std::vector<TensorToWrite> again;
  for (const std::string& name : first.names()) {
    again.push_back(TensorToWrite::from_entry(*first.find(name)));
  }
  options.config_json = first.config_text();
  export_checkpoint(directory / "b", again, options);
  expect_same_tensors(first, Checkpoint::open((directory / "b").string()));
  EXPECT_EQ(slurp(directory / "b/config.json"), kConfig);
  EXPECT_EQ(slurp(directory / "a/model.safetensors"), slurp(directory / "b/model.safetensors"));

  // In shards of at most 200 bytes, and back into one file.
  options.max_shard_bytes = 200;
  options.checksums = true;
  export_checkpoint(directory / "c", again, options);
  const Checkpoint sharded = Checkpoint::open((directory / "c").string());
  EXPECT_GT(sharded.files().size(), 5u);
  size_t verified = 0;
  for (const SafetensorsFile& file : sharded.files()) verified += file.verify_checksums();
  EXPECT_EQ(verified, first.names().size());
  EXPECT_TRUE(sharded.warnings().empty());
  expect_same_tensors(first, sharded);
}

TEST(Export, ShardsAreNamedFilledAndIndexed) {
  const TemporaryDirectory directory;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, size] : std::vector<std::pair<std::string, int64_t>>{
           {"a", 40}, {"b", 60}, {"c", 1}, {"d", 300}, {"e", 100}}) {
    tensors.push_back(TensorToWrite::from_bytes(name, FileDtype::u8, {size}, kBytes.data()));
  }
  ExportOptions options;
  options.config_json = kConfig;
  options.max_shard_bytes = 100;
  export_checkpoint(directory / "m", tensors, options);
  const auto index = nlohmann::json::parse(slurp(directory / "m/model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), 501);
  EXPECT_EQ(index.at("metadata").at("total_parameters"), 501);
  const nlohmann::json expected = {{"a", "model-00001-of-00004.safetensors"},
                                   {"b", "model-00001-of-00004.safetensors"},
                                   {"c", "model-00002-of-00004.safetensors"},
                                   {"d", "model-00003-of-00004.safetensors"},
                                   {"e", "model-00004-of-00004.safetensors"}};
  EXPECT_EQ(index.at("weight_map"), expected);
}

TEST(Export, CopiesTokenizerFilesByteForByte) {
  const TemporaryDirectory directory;
  const std::string odd("{\"a\" :\r\n 1}\0\xff", 13);
  spit(directory / "base/tokenizer.json", odd);
  spit(directory / "base/vocab.txt", "x\n");
  spit(directory / "base/chat_template.jinja", "{{ x }}");
  spit(directory / "base/additional_chat_templates/rag.jinja", "{{ y }}");
  spit(directory / "base/model.safetensors", "not this one");
  EXPECT_EQ(tokenizer_files(directory / "base"),
            (std::vector<std::string>{"additional_chat_templates/rag.jinja", "chat_template.jinja",
                                      "tokenizer.json", "vocab.txt"}));
  ExportOptions options;
  options.config_json = kConfig;
  options.generation_config_json = "{\"eos_token_id\": [1, 2]}";
  options.tokenizer_directory = directory / "base";
  options.extra_files = {{"engine_state/state.json", "{}"}};
  export_checkpoint(directory / "m", every_dtype(), options);
  for (const std::string& name : tokenizer_files(directory / "base")) {
    EXPECT_EQ(slurp(directory / "m" / name), slurp(directory / "base" / name)) << name;
  }
  EXPECT_EQ(slurp(directory / "m/generation_config.json"), options.generation_config_json);
  EXPECT_EQ(slurp(directory / "m/engine_state/state.json"), "{}");
}

TEST(Export, ReplacesOnlyWhenAsked) {
  const TemporaryDirectory directory;
  ExportOptions options;
  options.config_json = kConfig;
  std::filesystem::create_directories(directory / "m");  // empty: fine
  export_checkpoint(directory / "m", every_dtype(), options);
  const Error error = error_of([&] { export_checkpoint(directory / "m", {}, options); });
  EXPECT_EQ(error.code(), "EXPORT-EXISTS");
  EXPECT_EQ(error.exit_code(), ExitCode::usage);

  // Over the very checkpoint that the tensors come from.
  const Checkpoint opened = Checkpoint::open((directory / "m").string());
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : opened.names()) {
    tensors.push_back(TensorToWrite::from_entry(*opened.find(name)));
  }
  spit(directory / "m/stale.txt", "");
  options.overwrite = true;
  export_checkpoint(directory / "m", tensors, options);
  EXPECT_FALSE(std::filesystem::exists(directory / "m/stale.txt"));
  expect_same_tensors(opened, Checkpoint::open((directory / "m").string()));
}

TEST(Export, FailuresLeaveTheOldDirectory) {
  const TemporaryDirectory directory;
  ExportOptions options;
  options.config_json = kConfig;
  options.overwrite = true;
  export_checkpoint(directory / "m", every_dtype(), options);
  const std::string before = slurp(directory / "m/model.safetensors");

  const std::vector<uint8_t> large(2'000'000);
  const std::vector<TensorToWrite> too_large = {
      TensorToWrite::from_bytes("w", FileDtype::u8, {2'000'000}, large.data())};
  {
    const FileSizeLimit limit(1'000'000);
    EXPECT_EQ(code_of([&] { export_checkpoint(directory / "m", too_large, options); }), "IO-FULL");
  }
  // A tensor larger than any disk is refused before anything is written.
  const std::vector<TensorToWrite> huge = {
      TensorToWrite::from_bytes("w", FileDtype::u8, {int64_t{1} << 50}, large.data())};
  const Error error = error_of([&] { export_checkpoint(directory / "m", huge, options); });
  EXPECT_EQ(error.code(), "IO-FULL");
  EXPECT_NE(std::string(error.what()).find("needed"), std::string::npos) << error.what();
  {
    const ReadOnlyDirectory read_only(directory.path());
    EXPECT_EQ(code_of([&] { export_checkpoint(directory / "m", too_large, options); }),
              "IO-READONLY");
  }
  EXPECT_EQ(slurp(directory / "m/model.safetensors"), before);
  EXPECT_EQ(directory.names(), std::set<std::string>{"m"});
}

}  // namespace
}  // namespace engine
