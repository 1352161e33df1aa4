// SentencePiece models: ids and texts are those of sentencepiece for the same models.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "engine/core/error.h"
#include "tests/tokenizer/sentencepiece_test_util.h"
#include "tests/tokenizer/tokenizer_test_util.h"

namespace engine {
namespace {

using testing::Ids;
using testing::open_sentencepiece;
using testing::SpmModel;

constexpr EncodeOptions kPlain = {.add_special_tokens = false, .parse_special_tokens = false};

void add_pieces(SpmModel* model, std::vector<testing::SpmPiece> pieces) {
  model->pieces.insert(model->pieces.end(), pieces.begin(), pieces.end());
}

SpmModel bpe() {
  SpmModel model{.pieces = testing::reserved_pieces(), .type = testing::kBpe};
  add_pieces(&model, {{"▁", -9},
                      {"a", -10},
                      {"b", -11},
                      {"c", -12},
                      {"ab", -1},
                      {"bc", -2},
                      {"abc", -3},
                      {"▁a", -4},
                      {"xy", -5},
                      {"cc", -1, testing::kUnused},
                      {"ccc", -0.5f},
                      {"<tool>", 0, testing::kUserDefined}});
  return model;
}

SpmModel unigram() {
  SpmModel model{.pieces = testing::reserved_pieces()};
  add_pieces(&model, {{"▁", -2},
                      {"a", -3},
                      {"b", -3.5f},
                      {"ab", -6.5f},
                      {"abc", -20},
                      {"c", -4},
                      {"▁ab", -7},
                      {"bb", -7, testing::kUnused},
                      {"<tool>", 0, testing::kUserDefined},
                      {"aa", -6}});
  return model;
}

void expect_ids(const SpmModel& model, const std::vector<std::pair<const char*, Ids>>& rows) {
  const Tokenizer tokenizer = open_sentencepiece(model);
  for (const auto& [text, ids] : rows) EXPECT_EQ(tokenizer.encode(text, kPlain), ids) << text;
}

TEST(SentencePieceBpe, HighestScoreFirst) {
  expect_ids(bpe(), {{"abc", {3, 9}},
                     {"abcbc", {3, 9, 8}},
                     {"  a  b ", {10, 3, 5}},
                     {"", {}},
                     {"  ", {}},
                     {"▁a", {3, 10}}});
}

TEST(SentencePieceBpe, CharactersThatAreNoPieces) {
  expect_ids(bpe(), {{"xy", {3, 11}}, {"x", {3, 0}}, {"xyx", {3, 11, 0}}, {"zz", {3, 0}}});
}

TEST(SentencePieceBpe, UnusedPiecesAreTakenApart) {
  expect_ids(bpe(), {{"cc", {3, 6, 6}},
                     {"ccc", {3, 13}},
                     {"cccc", {3, 13, 6}},
                     {"ccccc", {3, 13, 6, 6}},
                     {"c c", {3, 6, 3, 6}}});
}

TEST(SentencePieceBpe, UserDefinedAndControlPieces) {
  expect_ids(bpe(), {{"a<tool>b", {10, 14, 5}}, {"<tool>", {3, 14}}, {"<s>a", {3, 0, 4}}});
  // Control pieces are special tokens; text behind them has its own prefix.
  const Tokenizer tokenizer = open_sentencepiece(bpe());
  EXPECT_EQ(tokenizer.encode("a</s>a"), (Ids{1, 10, 2, 10}));
}

TEST(SentencePieceNormalizer, Whitespace) {
  SpmModel model = bpe();
  model.remove_extra_whitespaces = model.dummy_prefix = false;
  expect_ids(model, {{"  a  b ", {3, 10, 3, 3, 5, 3}}, {" a", {10}}});
  EXPECT_EQ(open_sentencepiece(model).decode(Ids{3, 10, 3, 3, 5, 3}), "  a  b ");
  model = bpe();
  model.suffix = true;
  expect_ids(model, {{" a  b ", {4, 3, 5, 3}}, {"a", {4, 3}}});
  model = bpe();
  model.escape_whitespaces = false;
  expect_ids(model, {{"a b", {0, 4, 0, 5}}});
}

TEST(SentencePieceNormalizer, Charsmap) {
  SpmModel model = bpe();
  model.charsmap = testing::one_rule_charsmap('q', "ab c");
  expect_ids(model, {{"q", {3, 7, 3, 6}}, {"aqb", {10, 7, 3, 6, 5}}});
  model.charsmap = testing::one_rule_charsmap('q', "");
  expect_ids(model, {{"aqb", {3, 7}}, {"q", {}}});
}

TEST(SentencePieceUnigram, BestPath) {
  expect_ids(unigram(), {{"ab", {9}},
                         {"abc", {9, 8}},
                         {"abb", {9, 5}},
                         {"aaa", {3, 4, 12}},
                         {"ab ab", {9, 9}},
                         {"a<tool>b", {3, 4, 11, 5}}});
}

TEST(SentencePieceUnigram, Unknown) {
  expect_ids(unigram(), {{"z", {3, 0}}, {"zz", {3, 0}}, {"zaz", {3, 0, 4, 0}}});
}

TEST(SentencePieceBytes, FallbackAndBack) {
  for (const testing::ModelType type : {testing::kUnigram, testing::kBpe}) {
    SpmModel model{.pieces = testing::reserved_pieces(/*with_bytes=*/true),
                   .type = type,
                   .byte_fallback = true};
    add_pieces(&model, {{"▁", -2}, {"a", -3}});
    expect_ids(
        model,
        {{"aé", {259, 260, 198, 172}}, {"\n", {259, 13}}, {"日a", {259, 233, 154, 168, 260}}});
    const Tokenizer tokenizer = open_sentencepiece(model);
    const std::pair<Ids, const char*> kTexts[] = {
        {{198, 172}, "é"},
        {{198, 259}, "\uFFFD "},
        {{258, 68}, "\uFFFDA"},
        {{259, 260, 259}, "a "},
        {{259, 259, 260}, "a"},
        {{233, 154, 260}, "\uFFFD\uFFFDa"},
        {{243, 162, 155}, "\uFFFD\uFFFD\uFFFD"},
    };
    for (const auto& [ids, text] : kTexts) {
      EXPECT_EQ(tokenizer.decode(ids), text);
      StreamDecoder stream(tokenizer);
      std::string streamed;
      for (const int32_t id : ids) streamed += stream.push(id);
      EXPECT_EQ(streamed + stream.finish(), text);
    }
    EXPECT_EQ(tokenizer.decode(Ids{1, 259, 260}, /*skip_special_tokens=*/true), "a");
  }
}

TEST(SentencePieceBytes, CharactersComeWhenComplete) {
  SpmModel model{.pieces = testing::reserved_pieces(/*with_bytes=*/true), .byte_fallback = true};
  add_pieces(&model, {{"a", -3}});
  const Tokenizer tokenizer = open_sentencepiece(model);
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(3 + 0xE6), "");
  EXPECT_EQ(stream.push(3 + 0x97), "");
  EXPECT_EQ(stream.push(3 + 0xA5), "日");
  EXPECT_EQ(stream.push(259), "a");
  EXPECT_EQ(stream.push(-1), "");
  EXPECT_EQ(stream.push(1 << 30), "");
  EXPECT_EQ(stream.push(3 + 0xE6), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
}

std::string code_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::checkpoint) << error.what();
    return error.code();
  }
  return "";
}

std::string code_of_model(const SpmModel& model) {
  return code_of([&] { open_sentencepiece(model); });
}

TEST(SentencePieceMalformed, Pieces) {
  EXPECT_EQ(code_of_model(bpe()), "");
  const auto with = [](testing::SpmPiece piece) {
    SpmModel model = bpe();
    model.pieces.push_back(std::move(piece));
    return code_of_model(model);
  };
  EXPECT_EQ(with({"abc", -1}), "TOK-DUPLICATE");
  EXPECT_EQ(with({"<tool>", -1, testing::kUserDefined}), "TOK-DUPLICATE");  // found by fuzzing
  EXPECT_EQ(with({"", -1}), "TOK-MALFORMED");
  EXPECT_EQ(with({"\xFF", -1}), "TOK-MALFORMED");
  EXPECT_EQ(with({"n", std::numeric_limits<float>::quiet_NaN()}), "TOK-MALFORMED");
  EXPECT_EQ(with({"n", -1, static_cast<testing::PieceType>(7)}), "TOK-MALFORMED");
  EXPECT_EQ(with({"<other>", -1, testing::kUnknown}), "TOK-MALFORMED");
  EXPECT_EQ(with({"<0x41>", -1, testing::kByte}), "TOK-MALFORMED");
  EXPECT_EQ(with({std::string(2000, 'x'), -1}), "TOK-MALFORMED");
  SpmModel model = bpe();
  model.byte_fallback = true;
  EXPECT_EQ(code_of_model(model), "TOK-MALFORMED");  // without bytes
  model = bpe();
  model.pieces.erase(model.pieces.begin());
  EXPECT_EQ(code_of_model(model), "TOK-MALFORMED");  // no unknown piece
  model = bpe();
  model.type = static_cast<testing::ModelType>(3);
  EXPECT_EQ(code_of_model(model), "TOK-UNSUPPORTED");  // words
  model.type = static_cast<testing::ModelType>(9);
  EXPECT_EQ(code_of_model(model), "TOK-MALFORMED");
}

TEST(SentencePieceMalformed, Truncation) {
  const std::string file = serialize(bpe());
  int refused = 0;
  for (size_t cut = 0; cut < file.size(); ++cut) {
    const std::string code = code_of([&] { open_sentencepiece(file.substr(0, cut)); });
    EXPECT_TRUE(code.empty() || code == "TOK-MALFORMED") << cut << code;
    refused += !code.empty();
  }
  // Between two fields a cut is a shorter file.
  EXPECT_GT(refused, static_cast<int>(file.size()) * 3 / 4);
}

TEST(SentencePieceMalformed, RandomDamageNeverCrashes) {
  SpmModel model = unigram();
  model.charsmap = testing::one_rule_charsmap('q', "ab c");
  std::mt19937 random(3);
  for (const std::string& file : {serialize(bpe()), serialize(model)}) {
    int refused = 0;
    for (int round = 0; round < 800; ++round) {
      std::string damaged = file;
      for (unsigned n = 1 + random() % 3; n > 0; --n) {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
      refused += !code_of([&] {
                    const Tokenizer tokenizer = open_sentencepiece(damaged);
                    tokenizer.decode(tokenizer.encode("a qab<tool> é\n cccc"));
                  }).empty();
    }
    EXPECT_GT(refused, 50);
  }
}

TEST(SentencePieceMalformed, Wire) {
  for (const std::string& file : {
           std::string("version https://git-lfs.github.com/spec/v1\n"),  // a pointer, no model
           std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 12),
           std::string("\x0A\x80", 2),
           std::string("\x00\x00", 2),
           testing::integer_field(1, 7),
           testing::bytes_field(1, testing::integer_field(1, 7)),
       }) {
    EXPECT_EQ(code_of([&] { open_sentencepiece(file); }), "TOK-MALFORMED");
  }
}

TEST(SentencePieceMalformed, Charsmaps) {
  const auto with = [](std::string charsmap, std::string_view text) {
    SpmModel model = bpe();
    model.charsmap = std::move(charsmap);
    return code_of([&] { open_sentencepiece(model).encode(text); });
  };
  const auto blob = [](std::vector<uint32_t> units, std::string_view replacements) {
    const uint32_t size = static_cast<uint32_t>(units.size() * 4);
    std::string bytes(reinterpret_cast<const char*>(&size), 4);
    bytes.append(reinterpret_cast<const char*>(units.data()), size);
    return bytes + std::string(replacements);
  };
  EXPECT_EQ(with("abc", "q"), "TOK-MALFORMED");
  EXPECT_EQ(with(std::string("\xFF\xFF\xFF\x7F....", 8), "q"), "TOK-MALFORMED");
  EXPECT_EQ(with(std::string("\x03\0\0\0abcd", 8), "q"), "TOK-MALFORMED");
  EXPECT_EQ(with(testing::one_rule_charsmap('q', std::string(5000, 'a')), "q"), "TOK-MALFORMED");
  // A bomb: every character becomes a thousand.
  EXPECT_EQ(with(testing::one_rule_charsmap('q', std::string(1000, 'a')), std::string(100000, 'q')),
            "TOK-MALFORMED");
  // Walks that leave the trie, values beyond the replacements, and a trie that goes in circles:
  // every unit has the label q, a leaf and the offset of itself.
  EXPECT_EQ(with(blob({0xFFFFFC00u}, std::string(1, '\0')), "qqq"), "");
  std::vector<uint32_t> circle(1024, 0);
  for (uint32_t& unit : circle) unit = 0x100u << 10 | 1u << 8 | 'q';
  EXPECT_EQ(with(blob(circle, std::string("x\0", 2)), std::string(1 << 20, 'q')), "");
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<uint32_t> units(64 + random() % 512);
    for (uint32_t& unit : units) unit = static_cast<uint32_t>(random());
    with(blob(units, std::string("ab\0\xFF\xC3\0", 6)), "the quick brown \xC3\xA9\xE6\x97\xA5 fox");
  }
}

// The model, text and limit of a megabyte that is one word.
TEST(SentencePieceHostile, OneLongWord) {
  for (const SpmModel& model : {bpe(), unigram()}) {
    const Tokenizer tokenizer = open_sentencepiece(model);
    for (const char* part : {"a", "ab", "c", "z", "<tool>", "▁", " ", "aq"}) {
      std::string text;
      while (text.size() < (part[0] == 'a' ? 1 << 20 : 1 << 17)) text += part;
      const Ids ids = tokenizer.encode(text, kPlain);
      EXPECT_LE(ids.size(), text.size() + 1);
    }
  }
}

}  // namespace
}  // namespace engine
