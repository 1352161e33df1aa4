#include "tokenizer/unigram_trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"

namespace engine {
namespace {

using nlohmann::json;
using testing::Ids;

std::vector<std::string> documents() {
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) {
    texts.push_back("the walker walked and talked; the talker walks, the walking talks\n");
    texts.push_back("  return value + index * " + std::to_string(i * 37 % 100) + ";\n");
  }
  texts.emplace_back(testing::kSampleText);
  return texts;
}

std::string train(const std::vector<std::string>& texts, UnigramTrainerOptions options) {
  UnigramTrainer trainer(std::move(options));
  for (const std::string& text : texts) trainer.add(text);
  return trainer.train();
}

TEST(UnigramTrainer, TextsComeBack) {
  const Tokenizer tokenizer = Tokenizer::from_json(train(documents(), {.vocab_size = 400}));
  EXPECT_EQ(tokenizer.vocab_size(), 400);
  for (const std::string& text : documents()) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  // Characters never seen, special tokens and bytes written out.
  for (const char* text :
       {"Ωμέγα \u4e2d\u6587 \U0001F680", "<0x41><unk>", "a  b\n\n c\t", " ", "\n"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, {.parse_special_tokens = false})), text);
  }
  EXPECT_EQ(tokenizer.encode("a<|endoftext|>").back(), 0);
  for (const int32_t id : tokenizer.encode("<0x41>", {.parse_special_tokens = false})) {
    EXPECT_GE(id, 258);
  }
}

// Words of 200 stems and six endings, with room for about as many pieces.
TEST(UnigramTrainer, LearnsStemsAndEndings) {
  std::mt19937 random(2);
  std::vector<std::string> stems, texts;
  for (int i = 0; i < 200; ++i) {
    std::string stem;
    for (int n = 0; n < 5; ++n) stem += static_cast<char>('a' + random() % 26);
    stems.push_back(stem);
  }
  const std::vector<std::string> endings = {"ing", "ed", "er", "able", "ness", ""};
  for (int i = 0; i < 4000; ++i) {
    texts.push_back(stems[random() % stems.size()] + endings[random() % endings.size()]);
  }
  const size_t characters = 95;  // printable ASCII and "▁"
  const json model = json::parse(train(texts, {.vocab_size = 258 + characters + 215}))["model"];
  std::set<std::string> pieces;
  double previous = 0;
  double sum = 0;
  for (size_t id = 0; id < model["vocab"].size(); ++id) {
    const double score = model["vocab"][id][1];
    if (id > 258) {
      EXPECT_LE(score, previous);
    }
    if (id >= 258) sum += std::exp(score);
    previous = score;
    pieces.insert(model["vocab"][id][0].get<std::string>());
  }
  EXPECT_EQ(model["vocab"][0][0], "<|endoftext|>");
  EXPECT_EQ(model["vocab"][1][0], "<unk>");
  EXPECT_EQ(model["vocab"][2][0], "<0x00>");
  size_t found = 0;
  for (const std::string& stem : stems) {
    found += pieces.contains("▁" + stem);
  }
  EXPECT_GE(found, 180u);
  size_t found_endings = 0;
  for (const char* ending : {"ing", "ed", "er", "able", "ness"}) {
    found_endings += pieces.contains(ending);
  }
  EXPECT_EQ(found_endings, 5u);
  EXPECT_LE(sum, 1);  // probabilities; the last choice drops some
}

TEST(UnigramTrainer, OrderOfTextsDoesNotMatter) {
  std::vector<std::string> texts = documents();
  const std::string first = train(texts, {.vocab_size = 400});
  std::reverse(texts.begin(), texts.end());
  EXPECT_EQ(train(texts, {.vocab_size = 400}), first);
}

TEST(UnigramTrainer, RareCharactersBecomeBytes) {
  std::vector<std::string> texts(1000, "common text of plain letters");
  texts.push_back("\u03A9");
  const Tokenizer all =
      Tokenizer::from_json(train(texts, {.vocab_size = 450, .character_coverage = 1}));
  const Tokenizer most = Tokenizer::from_json(train(texts, {.vocab_size = 450}));
  EXPECT_TRUE(all.token_to_id("\u03A9"));
  EXPECT_FALSE(most.token_to_id("\u03A9"));
  EXPECT_EQ(most.decode(most.encode("\u03A9")), "\u03A9");
}

TEST(UnigramTrainer, FewTexts) {
  for (const std::vector<std::string>& texts : {std::vector<std::string>{},
                                                {""},
                                                {"a"},
                                                {"\n"},
                                                {" "},
                                                {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}) {
    const Tokenizer tokenizer = Tokenizer::from_json(train(texts, {.vocab_size = 1000}));
    EXPECT_GE(tokenizer.vocab_size(), 258);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("xyz aaaa")), "xyz aaaa");
  }
}

TEST(UnigramTrainer, BadOptions) {
  const auto code = [](UnigramTrainerOptions options) -> std::string {
    try {
      UnigramTrainer trainer(std::move(options));
      trainer.add("abcdefghijklmnopqrstuvwxyz");
      trainer.train();
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::usage);
      return error.code();
    }
    return "";
  };
  EXPECT_EQ(code({.vocab_size = 258}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 340}), "TOK-TRAIN");  // no room for the characters
  EXPECT_EQ(code({.vocab_size = size_t{1} << 40}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400, .max_piece_length = 0}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400, .character_coverage = 0}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400, .special_tokens = {"<unk>"}}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400, .special_tokens = {"<x>", "<x>"}}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400, .special_tokens = {"<0x41>"}}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400, .shrinking_factor = 1}), "TOK-TRAIN");
  EXPECT_EQ(code({.vocab_size = 400}), "");
}

TEST(UnigramTrainer, RefusesWhatIsNoText) {
  UnigramTrainer trainer({.vocab_size = 400});
  EXPECT_THROW(trainer.add("\xFF"), Error);
}

}  // namespace
}  // namespace engine
