#include "tokenizer/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"

namespace engine {
namespace {

using testing::kSampleText;

std::vector<std::string> sample_texts() {
  std::vector<std::string> texts;
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (unsigned n = 1 + random() % 40; n > 0; --n) {
      static const char* kWords[] = {"the",        " the",          " lower", " lowest", " new",
                                     "est",        " aaaa",         " 1999",  "!!",      "\n",
                                     " caf\u00e9", " \u65e5\u672c", " abab"};
      text += kWords[random() % std::size(kWords)];
    }
    texts.push_back(text);
  }
  return texts;
}

std::string train(const std::vector<std::string>& texts, const BpeTrainerOptions& options) {
  size_t next = 0;
  return train_byte_level_bpe(
      [&]() -> std::optional<std::string_view> {
        if (next == texts.size()) return std::nullopt;
        return texts[next++];
      },
      options);
}

// Learns merges by counting all pairs afresh every time. `pieces` are words as symbol lists.
std::vector<std::string> merges_by_definition(std::map<std::vector<std::string>, int> pieces,
                                              const nlohmann::json& ids, size_t num_merges) {
  std::vector<std::string> merges;
  while (merges.size() < num_merges) {
    std::map<std::pair<std::string, std::string>, int> counts;
    for (const auto& [piece, count] : pieces) {
      for (size_t i = 0; i + 1 < piece.size(); ++i) counts[{piece[i], piece[i + 1]}] += count;
    }
    const auto best = std::max_element(counts.begin(), counts.end(), [&](auto& a, auto& b) {
      if (a.second != b.second) return a.second < b.second;
      const auto key = [&](const auto& pair) {
        return std::pair(ids[pair.first.first].template get<int>(),
                         ids[pair.first.second].template get<int>());
      };
      return key(a) > key(b);
    });
    if (best == counts.end() || best->second < 2) break;
    const auto [left, right] = best->first;
    merges.push_back(left + " " + right);
    std::map<std::vector<std::string>, int> merged;
    for (const auto& [piece, count] : pieces) {
      std::vector<std::string> next;
      for (size_t i = 0; i < piece.size(); ++i) {
        if (i + 1 < piece.size() && piece[i] == left && piece[i + 1] == right) {
          next.push_back(left + right);
          ++i;
        } else {
          next.push_back(piece[i]);
        }
      }
      merged[next] += count;
    }
    pieces = std::move(merged);
  }
  return merges;
}

TEST(BpeTrainer, LearnsTheMergesOfTheDefinition) {
  // Pieces of letters only, so that the test need not know the splitting pattern.
  std::mt19937 random(6);
  std::vector<std::string> texts;
  std::map<std::vector<std::string>, int> pieces;
  for (int i = 0; i < 400; ++i) {
    std::string word;
    for (unsigned n = 1 + random() % 12; n > 0; --n) word += static_cast<char>('a' + random() % 4);
    texts.push_back(word);
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    ++pieces[symbols];
  }
  const auto model = nlohmann::json::parse(train(texts, {.vocab_size = 257 + 120}))["model"];
  const std::vector<std::string> expected = merges_by_definition(pieces, model["vocab"], 120);
  EXPECT_EQ(model["merges"].get<std::vector<std::string>>(), expected);
  EXPECT_EQ(model["vocab"].size(), 257u + expected.size());
}

TEST(BpeTrainer, DoesNotDependOnTheOrderOfTexts) {
  std::vector<std::string> texts = sample_texts();
  const BpeTrainerOptions options = {.vocab_size = 320};
  const std::string json = train(texts, options);
  EXPECT_EQ(train(texts, options), json);
  std::shuffle(texts.begin(), texts.end(), std::mt19937(7));
  EXPECT_EQ(train(texts, options), json);
}

TEST(BpeTrainer, GivesATokenizerThatRoundTrips) {
  for (const char* pattern : {"gpt2", "llama3", "qwen2", "\\p{L}+|\\P{L}"}) {
    const Tokenizer t = Tokenizer::from_json(
        train(sample_texts(), {.vocab_size = 340,
                               .special_tokens = {"<|endoftext|>", "<|im_start|>"},
                               .split_pattern = pattern}));
    EXPECT_LE(t.vocab_size(), 340);
    EXPECT_GT(t.vocab_size(), 290);
    EXPECT_EQ(t.token_to_id("<|im_start|>"), 1);
    EXPECT_EQ(t.eos_id(), 0);
    EXPECT_EQ(t.decode(t.encode(kSampleText)), kSampleText);
    // The pattern of our own cuts off spaces.
    EXPECT_EQ(t.encode(" lowest").size(), pattern[0] == '\\' ? 2u : 1u) << pattern;
    EXPECT_EQ(t.encode("<|im_start|>"), testing::Ids{1});
  }
}

TEST(BpeTrainer, RespectsLimits) {
  const std::vector<std::string> texts = {"abcabcabc abc", "xy"};
  const auto vocab = [&](BpeTrainerOptions options) {
    return nlohmann::json::parse(train(texts, options))["model"]["vocab"].size();
  };
  EXPECT_EQ(vocab({.vocab_size = 1000, .min_frequency = 1000}), 257u);
  EXPECT_EQ(vocab({.vocab_size = 258, .min_frequency = 1}), 258u);
  const Tokenizer short_tokens =
      Tokenizer::from_json(train(texts, {.vocab_size = 400, .max_token_length = 2}));
  for (int32_t id = 257; id < short_tokens.vocab_size(); ++id) {
    EXPECT_LE(short_tokens.decode(testing::Ids{id}).size(), 2u);
  }
  // A pair seen once is no pattern, unless asked for.
  EXPECT_FALSE(Tokenizer::from_json(train(texts, {.vocab_size = 400})).token_to_id("xy"));
  EXPECT_TRUE(Tokenizer::from_json(train(texts, {.vocab_size = 400, .min_frequency = 1}))
                  .token_to_id("xy"));
}

TEST(BpeTrainer, NothingToLearn) {
  EXPECT_EQ(Tokenizer::from_json(train({}, {})).vocab_size(), 257);
  EXPECT_EQ(Tokenizer::from_json(train({"", "a"}, {})).vocab_size(), 257);
}

TEST(BpeTrainer, RefusesContradictions) {
  const auto code = [](BpeTrainerOptions options) -> std::string {
    try {
      BpeTrainer trainer(std::move(options));
    } catch (const Error& error) {
      return error.code();
    }
    return "";
  };
  EXPECT_EQ(code({.vocab_size = 256}), "TOK-TRAIN");
  EXPECT_EQ(code({.special_tokens = {"<a>", "<a>"}}), "TOK-TRAIN");
  EXPECT_EQ(code({.special_tokens = {"a"}}), "TOK-TRAIN");
  EXPECT_EQ(code({.special_tokens = {""}}), "TOK-TRAIN");
  EXPECT_EQ(code({.split_pattern = "(unclosed"}), "TOK-REGEX");
  EXPECT_EQ(code({}), "");
  BpeTrainer trainer({});
  EXPECT_THROW(trainer.add("\xFF"), Error);
}

}  // namespace
}  // namespace engine
