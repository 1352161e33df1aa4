// The rows of ids of the shared data through the command, and back.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/shared_data.h"
#include "tests/tools/verbs_support.h"

namespace engine {
namespace {

using namespace testing;
using Json = nlohmann::json;

std::vector<Json> parse_rows(const std::string& text) {
  std::vector<Json> rows;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
  return rows;
}

// `engine tokenize <arguments>` with `rows` as standard input, and its rows.
std::vector<Json> tokenize(const std::string& arguments, const std::vector<Json>& rows) {
  std::string input;
  for (const Json& row : rows) input += row.dump() + "\n";
  const Result result = run("tokenize --jsonl " + arguments, input);
  EXPECT_EQ(result.code, 0) << result.err;
  return parse_rows(result.out);
}

struct Rows {
  std::string tokenizer, rows;
  bool special_tokens = false;  // around a text
};

void expect_rows(const Rows& given) {
  const std::vector<Json> rows = parse_rows(read(given.rows));
  ASSERT_GT(rows.size(), 5u);
  const bool parses = rows[0].value("parse_special", false);
  const std::vector<Json> encoded =
      tokenize(given.tokenizer + (given.special_tokens ? "" : " --no-special-tokens") +
                   (parses ? "" : " --no-parse-special"),
               rows);
  ASSERT_EQ(encoded.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(encoded[i]["text"], rows[i]["text"]);
    EXPECT_EQ(encoded[i]["ids"], rows[i]["ids"]) << rows[i]["text"];
  }
  const std::vector<Json> decoded = tokenize(
      "--decode " + given.tokenizer + (given.special_tokens ? " --skip-special" : ""), rows);
  ASSERT_EQ(decoded.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(decoded[i]["ids"], rows[i]["ids"]);
    std::string expected = rows[i].value("decoded", rows[i]["text"].get<std::string>());
    // sentencepiece prints U+2047 for an unknown token.
    const std::string kUnknown = " \u2047 ";
    for (size_t at; (at = expected.find(kUnknown)) != std::string::npos;) {
      expected.replace(at, kUnknown.size(), "<unk>");
    }
    // The texts that NFC changes come back changed.
    if (!rows[i].contains("ids_no_nfc")) {
      EXPECT_EQ(decoded[i]["text"], expected);
    }
  }
}

class TokenizeRows : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(TokenizeRows, EqualTheExpectedOnes) {
  const std::string base = "tokenizers/";
  ENGINE_REQUIRE_SHARED_DATA(tokenizer, base + GetParam().first);
  ENGINE_REQUIRE_SHARED_DATA(rows, base + GetParam().second);
  expect_rows({.tokenizer = tokenizer, .rows = rows});
}

INSTANTIATE_TEST_SUITE_P(
    , TokenizeRows,
    ::testing::Values(
        std::pair("gpt2", "gpt2/expected.jsonl"), std::pair("gpt2", "gpt2/expected_special.jsonl"),
        std::pair("llama3", "llama3/expected.jsonl"),
        std::pair("llama3", "llama3/expected_special.jsonl"),
        std::pair("qwen2.5", "qwen2.5/expected.jsonl"),
        std::pair("qwen2.5", "qwen2.5/expected_special.jsonl"),
        std::pair("hf_json/torchtune_llama3style_tokenizer.json",
                  "hf_json/torchtune_llama3style_tokenizer.expected.jsonl"),
        std::pair("hf_json/torchtune_tiny_bpe_tokenizer.json",
                  "hf_json/torchtune_tiny_bpe_tokenizer.expected.jsonl"),
        std::pair("t5/spiece.model", "t5/expected.jsonl"),
        std::pair("llama2/tokenizer.model", "llama2/expected.jsonl"),
        std::pair("small_sp/torchtune_m.model", "small_sp/torchtune_m.expected.jsonl"),
        std::pair("gemma/gemma_like_synthetic.model", "gemma/gemma_like_synthetic.expected.jsonl"),
        std::pair("gemma/keras_gemma_export_vocab.spm",
                  "gemma/keras_gemma_export_vocab.expected.jsonl")),
    [](const auto& info) {
      std::string name = info.param.second;
      for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
      return name;
    });

// RoBERTa's files as transformers saves them: vocab.json beside the merges of GPT-2.
const std::string& roberta_directory() {
  static const std::string directory = [] {
    const std::string out = scratch() / "roberta";
    fs::create_directories(out);
    fs::copy_file(shared_data("tokenizers/roberta/vocab.json"), out + "/vocab.json");
    fs::copy_file(shared_data("tokenizers/gpt2/vocab.bpe"), out + "/merges.txt");
    return out;
  }();
  return directory;
}

TEST(Tokenize, RowsOfRoberta) {
  ENGINE_REQUIRE_SHARED_DATA(rows, "tokenizers/roberta/expected.jsonl");
  ENGINE_REQUIRE_SHARED_DATA(merges, "tokenizers/gpt2/vocab.bpe");
  expect_rows({.tokenizer = roberta_directory(), .rows = rows, .special_tokens = true});
}

// Texts separated by a line, one line of ids for each, without special tokens around them.
TEST(Tokenize, LlamaCppVectors) {
  const std::pair<const char*, const char*> kVectors[] = {
      {"gpt2", "gpt-2"},    {"llama3", "llama-bpe"},         {"llama2", "llama-spm"},
      {"qwen2.5", "qwen2"}, {"qwen2.5", "deepseek-r1-qwen"}, {"roberta", "roberta-bpe"}};
  int compared = 0;
  for (const auto& [name, vectors] : kVectors) {
    const fs::path tokenizer = shared_data(std::string("tokenizers/") + name);
    const std::string base = std::string("tokenizers/llama.cpp/ggml-vocab-") + vectors + ".gguf";
    const fs::path input = shared_data(base + ".inp"), output = shared_data(base + ".out");
    if (tokenizer.empty() || input.empty() || output.empty()) continue;
    ++compared;
    constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
    const std::string texts = read(input);
    std::vector<Json> rows;
    for (size_t at = 0, end; at <= texts.size(); at = end + kSeparator.size()) {
      end = std::min(texts.find(kSeparator, at), texts.size());
      rows.push_back({{"text", texts.substr(at, end - at)}});
    }
    ASSERT_EQ(rows.size(), 47u);
    const std::string path =
        name == std::string("roberta") ? roberta_directory() : tokenizer.string();
    const std::vector<Json> encoded = tokenize("--no-special-tokens " + path, rows);
    const std::vector<Json> decoded = tokenize("--decode " + path, encoded);
    ASSERT_EQ(encoded.size(), rows.size());
    ASSERT_EQ(decoded.size(), rows.size());
    std::istringstream lines(read(output));
    for (size_t i = 0; i < rows.size(); ++i) {
      std::string line;
      std::getline(lines, line);  // none for the last text, which is empty
      std::istringstream numbers(line);
      const std::vector<int> ids{std::istream_iterator<int>(numbers), {}};
      EXPECT_EQ(encoded[i]["ids"], Json(ids)) << name << rows[i]["text"];
      EXPECT_EQ(decoded[i]["text"], rows[i]["text"]) << name;
    }
  }
  if (compared == 0) GTEST_SKIP() << "no shared data: tokenizers/llama.cpp";
}

}  // namespace
}  // namespace engine
