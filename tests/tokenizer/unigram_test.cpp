// The Unigram model of tokenizer.json; ids are those of tokenizers 0.23.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/frequent_substrings.h"
#include "tokenizer/prefix_trie.h"
#include "tokenizer/tokenizer.h"

namespace engine {
namespace {

using testing::Ids;
using tokenizer::PrefixTrie;

std::string unigram_json(const std::string& vocab, const std::string& options = "") {
  return fmt::format(
      R"({{"added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
           "decoder": null, "model": {{"type": "Unigram", {} "vocab": {}}}}})",
      options, vocab);
}

TEST(PrefixTrie, FindsWhatAMapFinds) {
  std::mt19937 random(4);
  std::vector<std::string> keys;
  for (int i = 0; i < 4000; ++i) {
    std::string key;
    for (unsigned n = 1 + random() % 6; n > 0; --n) {
      key += static_cast<char>(random() % 5 ? 'a' + random() % 4 : random() % 256);
    }
    keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  std::vector<std::pair<std::string_view, int32_t>> pairs;
  for (size_t i = 0; i < keys.size(); ++i) pairs.emplace_back(keys[i], static_cast<int32_t>(i));
  std::shuffle(pairs.begin(), pairs.end(), random);
  const PrefixTrie trie(pairs);
  for (int round = 0; round < 4000; ++round) {
    std::string text;
    for (int n = 0; n < 8; ++n) {
      text += static_cast<char>(random() % 5 ? 'a' + random() % 4 : random() % 256);
    }
    std::vector<std::pair<size_t, int32_t>> expected, found;
    for (size_t length = 1; length <= text.size(); ++length) {
      const auto key = std::lower_bound(keys.begin(), keys.end(), text.substr(0, length));
      if (key != keys.end() && *key == text.substr(0, length)) {
        expected.emplace_back(length, static_cast<int32_t>(key - keys.begin()));
      }
    }
    trie.for_each_prefix(text, [&](size_t length, int32_t id) { found.emplace_back(length, id); });
    EXPECT_EQ(found, expected);
    EXPECT_EQ(trie.longest_prefix(text), expected.empty() ? 0 : expected.back().first);
  }
  EXPECT_EQ(PrefixTrie().longest_prefix("abc"), 0u);
}

TEST(Unigram, BestPathAndTies) {
  const Tokenizer tokenizer = Tokenizer::from_json(unigram_json(
      R"([["<unk>", 0.0], ["a", 0.0], ["b", 0.0], ["c", 0.0], ["d", 0.0], ["cd", 1.0],
          ["ab", 2.0], ["abc", 5.0], ["abcd", 10.0]])",
      R"("unk_id": 0,)"));
  // The example of the tokenizers library.
  EXPECT_EQ(tokenizer.encode("abcdacdxx"), (Ids{8, 1, 5, 0}));
  // Equal scores: a position keeps the path that came from further left.
  const Tokenizer ties = Tokenizer::from_json(
      unigram_json(R"([["<unk>", 0], ["a", -1], ["aa", -2], ["aaa", -3]])", R"("unk_id": 0,)"));
  EXPECT_EQ(ties.encode("aaa"), (Ids{3}));
  EXPECT_EQ(ties.encode("aaaa"), (Ids{1, 3}));
  EXPECT_EQ(ties.encode("aaaaa"), (Ids{2, 3}));
}

TEST(Unigram, UnknownsAreFused) {
  const std::string vocab = R"([["<unk>", -2.5], ["a", -1], ["<0x78>", -30], ["<0x79>", -30]])";
  const Tokenizer plain = Tokenizer::from_json(unigram_json(vocab, R"("unk_id": 0,)"));
  EXPECT_EQ(plain.encode("xyaxx"), (Ids{0, 1, 0}));
  EXPECT_EQ(plain.encode("x<unk>y"), (Ids{0}));
  const Tokenizer bytes =
      Tokenizer::from_json(unigram_json(vocab, R"("unk_id": 0, "byte_fallback": true,)"));
  EXPECT_EQ(bytes.encode("xya"), (Ids{2, 3, 1}));
  // One byte of the run has no token: all of it is unknown.
  EXPECT_EQ(bytes.encode("xzya"), (Ids{0, 1}));
}

std::string code_of_json(const std::string& json) {
  try {
    Tokenizer::from_json(json).encode("a?");
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

TEST(Unigram, Malformed) {
  EXPECT_EQ(code_of_json(unigram_json(R"([["a", -1]])")), "TOK-UNKNOWN");
  EXPECT_EQ(code_of_json(unigram_json(R"([["a", -1], ["?", -1]])")), "");
  const std::pair<const char*, const char*> kCases[] = {
      {R"([["a", -1], ["a", -2]])", "TOK-DUPLICATE"},
      {R"([["a"]])", "TOK-MALFORMED"},
      {R"([["a", "b"]])", "TOK-MALFORMED"},
      {R"([[1, "b"]])", "TOK-MALFORMED"},
      {R"([["a", -1, 2]])", "TOK-MALFORMED"},
      {R"([["a", null]])", "TOK-MALFORMED"},
      {R"(["a", -1])", "TOK-MALFORMED"},
      {R"([["a", [-1]]])", "TOK-MALFORMED"},
      {R"({"a": 1})", "TOK-MALFORMED"},
      {"7", "TOK-MALFORMED"},
  };
  for (const auto& [vocab, code] : kCases) {
    EXPECT_EQ(code_of_json(unigram_json(vocab, R"("unk_id": 0,)")), code) << vocab;
  }
  EXPECT_EQ(code_of_json(unigram_json(R"([["a", -1]])", R"("unk_id": 1,)")), "TOK-MALFORMED");
  EXPECT_EQ(code_of_json(unigram_json(R"([["a", -1]])", R"("unk_id": -1,)")), "TOK-MALFORMED");
  EXPECT_EQ(code_of_json(unigram_json(fmt::format(R"([["{}", -1]])", std::string(5000, 'a')), "")),
            "TOK-MALFORMED");
}

// Scores are read as serde_json reads them: sixteen digits are rounded twice, as an integer and by
// the division, which makes this one larger than the same number written with a zero more.
TEST(Unigram, ScoresAsSerdeReadsThem) {
  const auto encode = [](const char* ab, const char* b) {
    return Tokenizer::from_json(
               unigram_json(
                   fmt::format(R"([["<unk>", 0], ["a", 0], ["ab", {}], ["b", {}]])", ab, b),
                   R"("unk_id": 0,)"))
        .encode("ab");
  };
  EXPECT_EQ(encode("-9.4785144227477610", "-9.478514422747761"), (Ids{1, 3}));
  EXPECT_EQ(encode("-9.478514422747761", "-9.478514422747761"), (Ids{2}));
  EXPECT_EQ(encode("-9.478514422747761", "-9.4785144227477610"), (Ids{2}));
  EXPECT_EQ(encode("-0.0009e4", "-9"), (Ids{2}));
  EXPECT_EQ(encode("-9.0000000000000000000000000001", "-9"), (Ids{2}));
}

TEST(FrequentSubstrings, AreTheInnerNodesOfTheSuffixTree) {
  const auto find = [](const std::vector<tokenizer::CountedWord>& words, size_t limit = 100) {
    std::vector<std::pair<std::string, uint64_t>> found;
    for (const auto& s : tokenizer::find_frequent_substrings(words, 4, limit)) {
      found.emplace_back(s.text, s.count);
    }
    std::sort(found.begin(), found.end());
    return found;
  };
  using Found = std::vector<std::pair<std::string, uint64_t>>;
  EXPECT_EQ(find({{"abc", 1}, {"xbc", 1}}), (Found{{"bc", 2}}));
  EXPECT_EQ(find({{"abc", 3}}), (Found{{"abc", 3}, {"bc", 3}}));
  EXPECT_EQ(find({{"abab", 1}}), (Found{{"ab", 2}}));
  EXPECT_EQ(find({{"ab", 2}, {"abc", 3}}), (Found{{"ab", 5}, {"abc", 3}, {"bc", 3}}));
  // Not longer than four characters, whatever their bytes.
  EXPECT_EQ(find({{"éàèùô", 2}}), (Found{{"àèùô", 2}, {"èùô", 2}, {"éàèù", 2}, {"ùô", 2}}));
  // Characters are not cut where only their first bytes agree.
  EXPECT_EQ(find({{"aé", 1}, {"aè", 1}}), Found{});
  EXPECT_EQ(find({{"abc", 3}, {"xy", 2}}, 1), (Found{{"abc", 3}}));
  EXPECT_EQ(find({}), Found{});
}

}  // namespace
}  // namespace engine
