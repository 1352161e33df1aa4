// Published vocabularies against ids from independent implementations. Needs the shared data.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "tests/support/shared_data.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace engine {
namespace {

using nlohmann::json;
using testing::Ids;

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Rows {"text", "ids"[, "parse_special"]}.
void expect_rows(const Tokenizer& tokenizer, const std::filesystem::path& path,
                 bool add_special_tokens = false) {
  std::ifstream in(path);
  int rows = 0;
  for (std::string line; std::getline(in, line); ++rows) {
    const json row = json::parse(line);
    const std::string text = row["text"];
    const EncodeOptions options = {.add_special_tokens = add_special_tokens,
                                   .parse_special_tokens = row.value("parse_special", false)};
    EXPECT_EQ(tokenizer.encode(text, options), row["ids"].get<Ids>()) << row["text"];
  }
  EXPECT_GT(rows, 5);
}

void expect_round_trips(const Tokenizer& tokenizer, const std::filesystem::path& rows) {
  std::ifstream in(rows);
  for (std::string line; std::getline(in, line);) {
    const std::string text = json::parse(line)["text"];
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, {.add_special_tokens = false})), text);
  }
}

void expect_streaming_equals_decoding(const Tokenizer& tokenizer) {
  std::mt19937 random(9);
  for (int round = 0; round < 300; ++round) {
    Ids ids(random() % 30);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % tokenizer.vocab_size());
    StreamDecoder stream(tokenizer);
    std::string text;
    for (const int32_t id : ids) {
      const std::string part = stream.push(id);
      EXPECT_EQ(tokenizer::find_invalid_utf8(part), std::string_view::npos);
      text += part;
    }
    text += stream.finish();
    EXPECT_EQ(text, tokenizer.decode(ids));
  }
}

// Texts separated by a line, one line of ids for each.
void expect_llama_cpp_vectors(const Tokenizer& tokenizer, const std::filesystem::path& input,
                              const std::filesystem::path& output) {
  const std::string texts = read(input);
  std::ifstream expected(output);
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  int count = 0;
  for (size_t at = 0; at <= texts.size();) {
    const size_t end = std::min(texts.find(kSeparator, at), texts.size());
    std::string line;
    // The last text is empty and has no line of ids.
    ASSERT_TRUE(std::getline(expected, line) || end == at);
    std::istringstream numbers(line);
    const Ids ids{std::istream_iterator<int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer.encode(std::string_view(texts).substr(at, end - at),
                               {.add_special_tokens = false}),
              ids);
    ++count;
    at = end + kSeparator.size();
  }
  EXPECT_EQ(count, 47);
}

struct RealVocabulary {
  const char* directory;
  const char* llama_cpp;  // name of the vectors of llama.cpp
  int32_t vocab_size;
};

class RealVocabularies : public ::testing::TestWithParam<RealVocabulary> {};

TEST_P(RealVocabularies, ExpectedIds) {
  const std::string base = fmt::format("tokenizers/{}", GetParam().directory);
  ENGINE_REQUIRE_SHARED_DATA(directory, base);
  const Tokenizer tokenizer = Tokenizer::open(directory);
  EXPECT_EQ(tokenizer.vocab_size(), GetParam().vocab_size);
  expect_rows(tokenizer, directory / "expected.jsonl");
  if (std::filesystem::exists(directory / "expected_special.jsonl")) {
    expect_rows(tokenizer, directory / "expected_special.jsonl");
  }
  expect_streaming_equals_decoding(tokenizer);
  // Qwen2.5 normalizes, and Llama 2 puts a space behind special tokens: texts need not come back.
  if (GetParam().directory != std::string_view("qwen2.5") &&
      GetParam().directory != std::string_view("llama2")) {
    expect_round_trips(tokenizer, directory / "expected.jsonl");
  }
}

TEST_P(RealVocabularies, LlamaCppVectors) {
  const std::string base = fmt::format("tokenizers/{}", GetParam().directory);
  const std::string vectors =
      fmt::format("tokenizers/llama.cpp/ggml-vocab-{}.gguf", GetParam().llama_cpp);
  ENGINE_REQUIRE_SHARED_DATA(directory, base);
  ENGINE_REQUIRE_SHARED_DATA(input, vectors + ".inp");
  ENGINE_REQUIRE_SHARED_DATA(output, vectors + ".out");
  expect_llama_cpp_vectors(Tokenizer::open(directory), input, output);
}

INSTANTIATE_TEST_SUITE_P(, RealVocabularies,
                         ::testing::Values(RealVocabulary{"gpt2", "gpt-2", 50257},
                                           RealVocabulary{"llama3", "llama-bpe", 128256},
                                           RealVocabulary{"qwen2.5", "qwen2", 151665},
                                           RealVocabulary{"llama2", "llama-spm", 32000},
                                           RealVocabulary{"qwen2.5", "deepseek-r1-qwen", 151665}),
                         [](const auto& info) {
                           std::string name = info.param.llama_cpp;
                           std::erase(name, '-');
                           return name;
                         });

TEST(RealFiles, HuggingFaceJson) {
  for (const char* name : {"torchtune_llama3style_tokenizer", "torchtune_tiny_bpe_tokenizer"}) {
    const std::string base = fmt::format("tokenizers/hf_json/{}", name);
    ENGINE_REQUIRE_SHARED_DATA(path, base + ".json");
    ENGINE_REQUIRE_SHARED_DATA(rows, base + ".expected.jsonl");
    const Tokenizer tokenizer = Tokenizer::open(path);
    expect_rows(tokenizer, rows);
    ASSERT_EQ(tokenizer.files().size(), 1u);
    EXPECT_EQ(tokenizer.files()[0].contents, read(path));
  }
}

TEST(RealFiles, CroppedGemma) {
  ENGINE_REQUIRE_SHARED_DATA(path, "tokenizers/gemma/torchtune_tokenizer_gemma_cropped.json");
  const Tokenizer tokenizer = Tokenizer::open(path);
  EXPECT_EQ(tokenizer.bos_id(), 2);
  EXPECT_EQ(tokenizer.encode("", {}), Ids{2});
  EXPECT_EQ(tokenizer.prefix_ids(), Ids{2});
}

TEST(RealFiles, Llama3Roles) {
  ENGINE_REQUIRE_SHARED_DATA(directory, "tokenizers/llama3");
  const Tokenizer tokenizer = Tokenizer::open(directory);
  EXPECT_EQ(tokenizer.encode("Hello"), (Ids{128000, 9906}));
  EXPECT_EQ(tokenizer.bos_id(), 128000);
  EXPECT_EQ(tokenizer.pad_id(), 128004);
  EXPECT_EQ(tokenizer.token_to_id("<|eot_id|>"), 128009);
  EXPECT_EQ(tokenizer.special_tokens().size(), 256u);
}

struct RealModel {
  const char* name;
  const char* file;
  const char* rows;
  int32_t vocab_size;
};

// Ids and texts of sentencepiece itself.
class RealSentencePiece : public ::testing::TestWithParam<RealModel> {};

TEST_P(RealSentencePiece, ExpectedIdsAndTexts) {
  ENGINE_REQUIRE_SHARED_DATA(path, fmt::format("tokenizers/{}", GetParam().file));
  ENGINE_REQUIRE_SHARED_DATA(rows, fmt::format("tokenizers/{}", GetParam().rows));
  const Tokenizer tokenizer = Tokenizer::open(path);
  EXPECT_EQ(tokenizer.vocab_size(), GetParam().vocab_size);
  expect_rows(tokenizer, rows);
  expect_streaming_equals_decoding(tokenizer);
  ASSERT_EQ(tokenizer.files().size(), 1u);
  EXPECT_EQ(tokenizer.files()[0].contents, read(path));
  std::ifstream in(rows);
  int compared = 0;
  for (std::string line; std::getline(in, line);) {
    const json row = json::parse(line);
    const Ids ids = row["ids"].get<Ids>();
    // sentencepiece prints an unknown token as U+2047, Hugging Face and the engine as its text.
    if (std::count(ids.begin(), ids.end(), tokenizer.roles().unk) > 0) continue;
    EXPECT_EQ(tokenizer.decode(ids), row["decoded"].get<std::string>());
    ++compared;
  }
  EXPECT_GT(compared, 50);
}

INSTANTIATE_TEST_SUITE_P(
    , RealSentencePiece,
    ::testing::Values(RealModel{"t5", "t5/spiece.model", "t5/expected.jsonl", 32100},
                      RealModel{"llama2", "llama2/tokenizer.model", "llama2/expected.jsonl", 32000},
                      RealModel{"small", "small_sp/torchtune_m.model",
                                "small_sp/torchtune_m.expected.jsonl", 2000},
                      RealModel{"gemma_like", "gemma/gemma_like_synthetic.model",
                                "gemma/gemma_like_synthetic.expected.jsonl", 4096},
                      RealModel{"gemma_export", "gemma/keras_gemma_export_vocab.spm",
                                "gemma/keras_gemma_export_vocab.expected.jsonl", 290}),
    [](const auto& info) { return info.param.name; });

TEST(RealFiles, T5Directory) {
  ENGINE_REQUIRE_SHARED_DATA(directory, "tokenizers/t5");
  const Tokenizer tokenizer = Tokenizer::open(directory);
  EXPECT_EQ(tokenizer.encode("Hello world"), (Ids{8774, 296, 1}));
  EXPECT_EQ(tokenizer.encode("x</s> y"), (Ids{3, 226, 1, 3, 63, 1}));
  EXPECT_EQ(tokenizer.encode("<extra_id_0> q<extra_id_1>r"),
            (Ids{32099, 3, 1824, 32098, 3, 52, 1}));
  EXPECT_EQ(tokenizer.token_to_id("<extra_id_99>"), 32000);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.pad_id(), 0);
  EXPECT_EQ(tokenizer.bos_id(), std::nullopt);
  EXPECT_EQ(tokenizer.decode(Ids{8774, 6, 3, 2, 1}, /*skip_special_tokens=*/true), "Hello, ");
}

TEST(RealFiles, Llama2Directory) {
  ENGINE_REQUIRE_SHARED_DATA(directory, "tokenizers/llama2");
  const Tokenizer tokenizer = Tokenizer::open(directory);
  EXPECT_EQ(tokenizer.encode("Hello world"), (Ids{1, 15043, 3186}));
  EXPECT_EQ(tokenizer.decode(Ids{1, 15043, 3186}, /*skip_special_tokens=*/true), "Hello world");
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.roles().unk, 0);
}

TEST(RealFiles, GemmaLike) {
  ENGINE_REQUIRE_SHARED_DATA(path, "tokenizers/gemma/gemma_like_synthetic.model");
  const Tokenizer tokenizer = Tokenizer::open(path);
  EXPECT_EQ(tokenizer.encode("Hello world"), (Ids{2, 2059, 1235}));
  EXPECT_EQ(tokenizer.bos_id(), 2);
  EXPECT_EQ(tokenizer.pad_id(), 0);
}

// RoBERTa's files as transformers saves them: vocab.json beside the merges of GPT-2.
TEST(RealFiles, Roberta) {
  ENGINE_REQUIRE_SHARED_DATA(vocab, "tokenizers/roberta/vocab.json");
  ENGINE_REQUIRE_SHARED_DATA(merges, "tokenizers/gpt2/vocab.bpe");
  ENGINE_REQUIRE_SHARED_DATA(rows, "tokenizers/roberta/expected.jsonl");
  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() /
      ("engine_roberta_test_" + std::to_string(std::random_device()()));
  std::filesystem::create_directories(directory);
  std::filesystem::copy_file(vocab, directory / "vocab.json");
  std::filesystem::copy_file(merges, directory / "merges.txt");
  const Tokenizer tokenizer = Tokenizer::open(directory);
  std::filesystem::remove_all(directory);
  EXPECT_EQ(tokenizer.vocab_size(), 50265);
  EXPECT_EQ(tokenizer.pad_id(), 1);
  expect_rows(tokenizer, rows, /*add_special_tokens=*/true);
  const auto texts = testing::shared_data("tokenizers/llama.cpp/ggml-vocab-roberta-bpe.gguf.inp");
  const auto ids = testing::shared_data("tokenizers/llama.cpp/ggml-vocab-roberta-bpe.gguf.out");
  if (!texts.empty() && !ids.empty()) expect_llama_cpp_vectors(tokenizer, texts, ids);
  EXPECT_EQ(tokenizer.encode("a <mask> b"), (Ids{0, 102, 50264, 741, 2}));
  EXPECT_EQ(tokenizer.decode(Ids{0, 31414, 232, 2}, /*skip_special_tokens=*/true), "Hello world");
}

TEST(RealFiles, TinyShakespeareRoundTrips) {
  ENGINE_REQUIRE_SHARED_DATA(path, "datasets/tinyshakespeare/input.txt");
  ENGINE_REQUIRE_SHARED_DATA(directory, "tokenizers/gpt2");
  const Tokenizer tokenizer = Tokenizer::open(directory);
  const std::string text = read(path);
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_EQ(ids.size(), 338025u);  // the count nanoGPT publishes (301,966 train + 36,059 val)
}

}  // namespace
}  // namespace engine
