// Published vocabularies against ids from independent implementations. Needs the shared data.
#include <fmt/core.h>
#include <gtest/gtest.h>

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
void expect_rows(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  std::ifstream in(path);
  int rows = 0;
  for (std::string line; std::getline(in, line); ++rows) {
    const json row = json::parse(line);
    const std::string text = row["text"];
    const EncodeOptions options = {.add_special_tokens = false,
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
  expect_rows(tokenizer, directory / "expected_special.jsonl");
  expect_streaming_equals_decoding(tokenizer);
  // Qwen2.5 normalizes, so its texts need not come back.
  if (GetParam().directory != std::string_view("qwen2.5")) {
    expect_round_trips(tokenizer, directory / "expected.jsonl");
  }
}

// Texts separated by a line, one line of ids for each.
TEST_P(RealVocabularies, LlamaCppVectors) {
  const std::string base = fmt::format("tokenizers/{}", GetParam().directory);
  const std::string vectors =
      fmt::format("tokenizers/llama.cpp/ggml-vocab-{}.gguf", GetParam().llama_cpp);
  ENGINE_REQUIRE_SHARED_DATA(directory, base);
  ENGINE_REQUIRE_SHARED_DATA(input, vectors + ".inp");
  ENGINE_REQUIRE_SHARED_DATA(output, vectors + ".out");
  const Tokenizer tokenizer = Tokenizer::open(directory);
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

INSTANTIATE_TEST_SUITE_P(, RealVocabularies,
                         ::testing::Values(RealVocabulary{"gpt2", "gpt-2", 50257},
                                           RealVocabulary{"llama3", "llama-bpe", 128256},
                                           RealVocabulary{"qwen2.5", "qwen2", 151665},
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

TEST(RealFiles, SentencePieceIsRefusedByName) {
  ENGINE_REQUIRE_SHARED_DATA(directory, "tokenizers/llama2");
  try {
    Tokenizer::open(directory);
    FAIL() << "accepted";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("SentencePiece"), std::string::npos);
  }
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
