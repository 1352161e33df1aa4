// WordPiece, WordLevel, and BPE with affixes; ids are those of tokenizers 0.23.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"

namespace engine {
namespace {

using testing::Ids;

std::string words_json(const std::string& model) {
  return fmt::format(R"({{"pre_tokenizer": {{"type": "Whitespace"}}, "model": {{{}}}}})", model);
}

TEST(WordPiece, LongestPieceFirst) {
  const Tokenizer tokenizer = Tokenizer::from_json(words_json(
      R"("type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 6,
         "vocab": {"[UNK]": 0, "un": 1, "##able": 2, "##a": 3, "b": 4, "##b": 5})"));
  EXPECT_EQ(tokenizer.encode("unable una unb"), (Ids{1, 2, 1, 3, 1, 5}));
  EXPECT_EQ(tokenizer.encode("unx b bb"), (Ids{0, 4, 4, 5}));
  EXPECT_EQ(tokenizer.encode("unablea"), (Ids{0}));  // seven characters
}

TEST(WordLevel, WordsAreTokens) {
  const Tokenizer tokenizer = Tokenizer::from_json(words_json(
      R"("type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1, "bc": 2})"));
  EXPECT_EQ(tokenizer.encode("a bc d"), (Ids{1, 2, 0}));
  EXPECT_EQ(tokenizer.decode(Ids{1, 2}), "a bc");
}

TEST(BpeAffixes, EndOfWord) {
  const Tokenizer tokenizer = Tokenizer::from_json(words_json(
      R"("type": "BPE", "unk_token": "<u>", "end_of_word_suffix": "</w>",
         "vocab": {"<u>": 0, "a": 1, "b</w>": 2, "ab</w>": 3, "a</w>": 4, "b": 5},
         "merges": ["a b</w>"])"));
  EXPECT_EQ(tokenizer.encode("ab a abb x"), (Ids{3, 4, 1, 5, 2, 0}));
}

TEST(BpeAffixes, Continuation) {
  const Tokenizer tokenizer = Tokenizer::from_json(words_json(
      R"("type": "BPE", "unk_token": "<u>", "continuing_subword_prefix": "##",
         "vocab": {"<u>": 0, "a": 1, "##b": 2, "ab": 3, "##a": 4}, "merges": ["a ##b"])"));
  EXPECT_EQ(tokenizer.encode("ab aab b"), (Ids{3, 1, 4, 2, 0}));
}

// ByteLevel behind which another step cuts, and in front of a model that reads characters.
TEST(ByteSpelling, StepsBehindByteLevel) {
  const Tokenizer tokenizer = Tokenizer::from_json(
      R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
            {"type": "Punctuation"}]},
          "decoder": {"type": "ByteLevel"},
          "model": {"type": "WordLevel", "unk_token": "<unk>",
                    "vocab": {"<unk>": 0, "\u00c3\u00a9": 1, "\u0120x": 2, "!": 3}}})");
  EXPECT_EQ(tokenizer.encode("\u00e9 x!y"), (Ids{1, 2, 3, 0}));
  EXPECT_EQ(tokenizer.decode(Ids{1, 2, 3}), "\u00e9 x!");
}

TEST(WordModels, Malformed) {
  const auto code = [](const std::string& model) -> std::string {
    try {
      Tokenizer::from_json(words_json(model)).encode("word");
    } catch (const Error& error) {
      return error.code();
    }
    return "";
  };
  EXPECT_EQ(code(R"("type": "WordPiece", "unk_token": "?", "vocab": {"a": 0})"), "TOK-MALFORMED");
  EXPECT_EQ(code(R"("type": "WordPiece", "max_input_chars_per_word": -1,
                    "vocab": {"[UNK]": 0})"),
            "TOK-MALFORMED");
  EXPECT_EQ(code(R"("type": "WordLevel", "unk_token": "?", "vocab": {"a": 0})"), "TOK-UNKNOWN");
  EXPECT_EQ(code(R"("type": "WordLevel", "vocab": [["a", 0.5]])"), "TOK-MALFORMED");
}

}  // namespace
}  // namespace engine
