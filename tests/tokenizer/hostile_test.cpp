// Inputs made to be slow or large: time and memory stay in proportion to them. Each test would take
// minutes if a step were quadratic.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <functional>

#include "engine/core/error.h"
#include "tests/tokenizer/sentencepiece_test_util.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/unigram_trainer.h"

namespace engine {
namespace {

using testing::Ids;
using testing::TinyTokenizer;

constexpr size_t kMegabyte = 1 << 20;

std::string repeated(std::string_view part, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += part;
  return text;
}

// One word, one kind of character, or nothing that a splitting pattern would cut.
const std::string_view kParts[] = {"a",  "ab", " ",  "\n", " \n",       "\u0301", "e\u0301",
                                   "1",  "_",  "<",  "'s", "\u2581",    "\u00e9", "\u4e2d",
                                   "aA", "a ", "\r", "<|", "\U0001F1E6"};

void expect_bounded(const Tokenizer& tokenizer) {
  for (const std::string_view part : kParts) {
    // One of them in full; a quarter of a million steps squared would be long enough.
    const std::string text = repeated(part, part == "a" ? kMegabyte : kMegabyte / 8);
    const Ids ids = tokenizer.encode(text);
    EXPECT_LE(ids.size(), 4 * text.size() + 2);
    tokenizer.decode(ids);
  }
}

TEST(Hostile, ByteLevel) {
  for (const char* pattern : {"gpt2", "llama3", "qwen2"}) {
    BpeTrainer trainer({.vocab_size = 400, .split_pattern = pattern});
    trainer.add(testing::kSampleText);
    trainer.add("aaaa aaaaaaaa    \n\n\n\n");
    expect_bounded(Tokenizer::from_json(trainer.train()));
  }
}

TEST(Hostile, Unigram) {
  UnigramTrainer trainer({.vocab_size = 500});
  trainer.add(testing::kSampleText);
  trainer.add("aaaa aaaaaaaa    \n\n\n\n");
  expect_bounded(Tokenizer::from_json(trainer.train()));
}

TEST(Hostile, NormalizersAndAddedTokens) {
  TinyTokenizer t;
  t.normalizer =
      R"({"type": "Sequence", "normalizers": [{"type": "BertNormalizer"}, {"type": "NFKC"},
          {"type": "Nmt"}, {"type": "Strip", "strip_left": true, "strip_right": true},
          {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}]})";
  t.pre_tokenizer =
      R"({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, {"type": "Digits"},
          {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}]})";
  t.vocab = {"a", "b", "aa", "\u2581"};
  t.merges = {"a a"};
  t.added_tokens =
      R"([{"id": 9, "content": "<end>", "lstrip": true, "rstrip": true, "special": true},
          {"id": 10, "content": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"}])";
  expect_bounded(Tokenizer::from_json(to_json(t)));
}

// A vocabulary that is itself hostile: all powers of one character.
TEST(Hostile, NestedPieces) {
  testing::SpmModel model{.pieces = testing::reserved_pieces()};
  for (size_t length = 1; length <= 600; ++length) {
    const testing::PieceType type = length % 3 ? testing::kNormal : testing::kUnused;
    model.pieces.push_back({std::string(length, 'a'), -static_cast<float>(length), type});
  }
  for (const testing::ModelType type : {testing::kUnigram, testing::kBpe}) {
    model.type = type;
    const Tokenizer tokenizer = testing::open_sentencepiece(model);
    EXPECT_LE(tokenizer.encode(std::string(kMegabyte / 8, 'a')).size(), kMegabyte);
  }
}

TEST(Hostile, AddedTokensOfAbsurdLength) {
  TinyTokenizer t;
  t.vocab = {"a"};
  t.added_tokens = fmt::format(R"([{{"id": 1, "content": "{}"}}])", std::string(kMegabyte, 'a'));
  try {
    Tokenizer::from_json(to_json(t));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "TOK-MALFORMED");
  }
}

// A pattern with exponential backtracking gives up.
TEST(Hostile, Backtracking) {
  TinyTokenizer t;
  t.pre_tokenizer =
      R"({"type": "Split", "pattern": {"Regex": "(a|aa)+(a|aa)+(a|aa)+[bc]"}, "behavior": "Isolated"})";
  t.vocab = {"a"};
  const Tokenizer tokenizer = Tokenizer::from_json(to_json(t));
  try {
    tokenizer.encode(std::string(200, 'a'));
    FAIL() << "finished";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "TOK-REGEX");
  }
}

}  // namespace
}  // namespace engine
