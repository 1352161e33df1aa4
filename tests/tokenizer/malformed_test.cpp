// Files that are wrong: each gives one error of a known kind, and none a crash.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using testing::TinyTokenizer;

TinyTokenizer good() {
  TinyTokenizer t;
  t.pre_tokenizer = testing::kByteLevel;
  t.decoder = testing::kByteLevelDecoder;
  t.vocab = {"a", "b", "ab"};
  t.merges = {"a b"};
  t.added_tokens = R"([{"id": 3, "content": "<end>", "special": true}])";
  return t;
}

std::string code_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::checkpoint) << error.what();
    EXPECT_GT(std::string(error.what()).size(), error.code().size() + 10);
    return error.code();
  }
  return "";
}

std::string code_of_json(const std::string& json) {
  return code_of([&] { Tokenizer::from_json(json); });
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Malformed, TheGoodOneIsGood) {
  EXPECT_EQ(code_of_json(to_json(good())), "");
}

TEST(Malformed, Table) {
  const std::string json = to_json(good());
  struct Case {
    const char* from;
    const char* to;
    const char* code;
  };
  const Case kCases[] = {
      // Missing and mistyped fields.
      {R"("model")", R"("modell")", "TOK-MALFORMED"},
      {R"("vocab")", R"("vocabulary")", "TOK-MALFORMED"},
      {R"("merges")", R"("merge")", "TOK-MALFORMED"},
      {R"("type": "BPE")", R"("type": 7)", "TOK-MALFORMED"},
      {R"("type": "BPE")", R"("type": "Unigram")", "TOK-MALFORMED"},  // no scores
      {R"("type": "BPE")", R"("type": "Markov")", "TOK-UNSUPPORTED"},
      {R"("type": "BPE",)", R"("type": "BPE", "byte_fallback": "yes",)", "TOK-MALFORMED"},
      {R"("type": "BPE",)", R"("type": "BPE", "dropout": 0.1,)", "TOK-UNSUPPORTED"},
      {R"("type": "BPE",)", R"("type": "BPE", "end_of_word_suffix": 7,)", "TOK-MALFORMED"},
      {R"("content": "<end>")", R"("contents": "<end>")", "TOK-MALFORMED"},
      {R"("normalizer": null)", R"("normalizer": 1)", "TOK-MALFORMED"},
      {R"("normalizer": null)", R"("normalizer": {"kind": "NFC"})", "TOK-MALFORMED"},
      {R"("decoder": {)", R"("decoder": [], "d": {)", "TOK-MALFORMED"},
      {R"("post_processor": null)", R"("post_processor": {"type": "TemplateProcessing"})",
       "TOK-MALFORMED"},
      {R"("post_processor": null)",
       R"("post_processor": {"type": "BertProcessing", "sep": ["b", 9], "cls": ["a", 0]})",
       "TOK-MALFORMED"},
      // Kinds we do not know, by name.
      {R"("normalizer": null)", R"("normalizer": {"type": "Rot13"})", "TOK-UNSUPPORTED"},
      {R"("type": "ByteLevel", "add)", R"("type": "UnicodeScripts", "add)", "TOK-UNSUPPORTED"},
      {R"("decoder": {"type": "ByteLevel"})", R"("decoder": {"type": "CTC"})", "TOK-UNSUPPORTED"},
      {R"("post_processor": null)", R"("post_processor": {"type": "Mystery"})", "TOK-UNSUPPORTED"},
      {R"("post_processor": null)",
       R"("post_processor": {"type": "Sequence", "processors": [
           {"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]},
           {"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]}]})",
       "TOK-UNSUPPORTED"},
      // Regular expressions.
      {R"({"type": "ByteLevel", "add_prefix_space")",
       R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "x")", "TOK-REGEX"},
      {R"({"type": "ByteLevel", "add_prefix_space")",
       R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Sideways", "x")",
       "TOK-UNSUPPORTED"},
      {R"({"type": "ByteLevel", "add_prefix_space")",
       R"({"type": "Split", "pattern": "a", "behavior": "Isolated", "x")", "TOK-MALFORMED"},
      // Ids and tokens.
      {R"("ab":2)", R"("ab":-2)", "TOK-MALFORMED"},
      {R"("ab":2)", R"("ab":4000000000)", "TOK-MALFORMED"},
      {R"("ab":2)", R"("ab":18446744073709551615)", "TOK-MALFORMED"},
      {R"("ab":2)", R"("ab":2.5)", "TOK-MALFORMED"},
      {R"("ab":2)", R"("ab":"2")", "TOK-MALFORMED"},
      {R"("ab":2)", R"("ab":{"id":2})", "TOK-MALFORMED"},
      {R"("ab":2)", R"("ab":1)", "TOK-DUPLICATE"},
      {R"("ab":2)", R"("ab":2,"ab":4)", "TOK-DUPLICATE"},
      {R"("normalizer": null)", R"("normalizer": null, "normalizer": null)", "TOK-DUPLICATE"},
      {R"("id": 3)", R"("id": 2)", "TOK-DUPLICATE"},
      {R"("id": 3)", R"("id": -3)", "TOK-MALFORMED"},
      {R"("id": 3)", R"("id": 99999999999)", "TOK-MALFORMED"},
      {R"("content": "<end>")", R"("content": "ab")", "TOK-DUPLICATE"},
      {R"([{"id": 3)", R"([{"id": 4, "content": "<end>"}, {"id": 3)", "TOK-DUPLICATE"},
      {R"([{"id": 3)", R"([{"id": 3, "content": "<x>"}, {"id": 3)", "TOK-DUPLICATE"},
      // Merges.
      {R"("merges": [)", R"("merges": ["a c")", "TOK-JSON"},
      {R"("merges": ["a b")", R"("merges": ["a c")", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": ["b a")", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": ["ab")", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": ["a  b")", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": [["a"])", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": [["a", "b", "ab"])", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": [["a", 2])", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": [7)", "TOK-MERGES"},
      {R"("merges": ["a b")", R"("merges": [{"a": "b"})", "TOK-MERGES"},
      // Not JSON, not UTF-8.
      {R"("version": "1.0",)", R"("version": "1.0")", "TOK-JSON"},
      {R"("version": "1.0")", "\"version\": \"1.\xFF\"", "TOK-JSON"},
      {R"("a":0)", "\"\xC3\":0", "TOK-JSON"},
      {R"("a":0)", R"("\ud800":0)", "TOK-JSON"},
  };
  for (const Case& c : kCases) {
    const std::string broken = replaced(json, c.from, c.to);
    EXPECT_EQ(code_of_json(broken), c.code) << broken;
  }
}

TEST(Malformed, WholeDocuments) {
  EXPECT_EQ(code_of_json(""), "TOK-JSON");
  EXPECT_EQ(code_of_json("null"), "TOK-MALFORMED");
  EXPECT_EQ(code_of_json("[]"), "TOK-MALFORMED");
  EXPECT_EQ(code_of_json("{}"), "TOK-MALFORMED");
  EXPECT_EQ(code_of_json(R"({"model": []})"), "TOK-MALFORMED");
  EXPECT_EQ(code_of_json(R"({"model": {"vocab": [], "merges": []}})"), "TOK-MALFORMED");
  for (const char* bracket : {"[", "{\"a\":"}) {
    std::string deep;
    for (int i = 0; i < 200000; ++i) deep += bracket;
    EXPECT_EQ(code_of_json(deep), "TOK-MALFORMED");
    EXPECT_EQ(code_of_json(R"({"model": {"vocab": )" + deep), "TOK-MALFORMED");
    EXPECT_EQ(code_of_json(R"({"model": {"merges": [)" + deep), "TOK-MERGES");
  }
}

TEST(Malformed, EveryTruncationIsAnError) {
  const std::string json = to_json(good());
  for (size_t cut = 0; cut < json.size(); ++cut) {
    EXPECT_EQ(code_of_json(json.substr(0, cut)), "TOK-JSON") << cut;
  }
}

TEST(Malformed, RandomDamageNeverCrashes) {
  const std::string json = to_json(good());
  std::mt19937 random(8);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = json;
    for (unsigned n = 1 + random() % 3; n > 0; --n) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    refused += !code_of([&] { Tokenizer::from_json(damaged).encode("abab <end>"); }).empty();
  }
  EXPECT_GT(refused, 1000);
}

class MalformedFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() /
            ("engine_malformed_test_" + std::to_string(std::random_device()()));
    fs::create_directories(path_);
  }
  void TearDown() override { fs::remove_all(path_); }
  void write(const char* name, std::string_view contents) {
    std::ofstream(path_ / name, std::ios::binary) << contents;
  }
  std::string open() {
    return code_of([&] { Tokenizer::open(path_); });
  }
  fs::path path_;
};

TEST_F(MalformedFiles, Directories) {
  EXPECT_EQ(code_of([&] { Tokenizer::open(path_ / "absent"); }), "TOK-MISSING");
  EXPECT_EQ(open(), "TOK-MISSING");
  write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  EXPECT_EQ(open(), "TOK-MISSING");  // no merges
  write("merges.txt", "#version: 0.2\na b\n");
  EXPECT_EQ(open(), "");
  write("merges.txt", "#version: 0.2\n");
  EXPECT_EQ(open(), "TOK-MERGES");
  write("merges.txt", "a b c\n");
  EXPECT_EQ(open(), "TOK-MERGES");
  write("merges.txt", "a \xFF\n");
  EXPECT_EQ(open(), "TOK-MERGES");
  write("merges.txt", "a x\n");
  EXPECT_EQ(open(), "TOK-MERGES");
  write("merges.txt", "a b\n");
  write("vocab.json", "[]");
  EXPECT_EQ(open(), "TOK-MALFORMED");
  write("vocab.json", R"({"a": 0, "b": 1, "ab": 2)");
  EXPECT_EQ(open(), "TOK-JSON");
  write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  write("added_tokens.json", R"({"<x>": "3"})");
  EXPECT_EQ(open(), "TOK-MALFORMED");
  write("added_tokens.json", R"({"<x>": 2})");
  EXPECT_EQ(open(), "TOK-DUPLICATE");
  write("added_tokens.json", R"({"<x>": -1})");
  EXPECT_EQ(open(), "TOK-MALFORMED");
  write("added_tokens.json", "{}");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})");
  EXPECT_EQ(open(), "TOK-MALFORMED");
  write("tokenizer_config.json", "{");
  EXPECT_EQ(open(), "TOK-JSON");
}

TEST_F(MalformedFiles, RankFiles) {
  const auto with = [&](std::string_view contents) {
    write("tokenizer.model", contents);
    return code_of(
        [&] { Tokenizer::open(path_ / "tokenizer.model", {.split_pattern = "llama3"}); });
  };
  EXPECT_EQ(with("YQ== 0\nYg== 1\n"), "");
  EXPECT_EQ(with("\n\x0e\n\x05<unk>\x15\0\0"), "TOK-MALFORMED");  // SentencePiece, cut
  EXPECT_EQ(with(""), "TOK-MALFORMED");
  EXPECT_EQ(with("YQ== 0\nYg== \n"), "TOK-MALFORMED");
  EXPECT_EQ(with("YQ== 0\nYg 1\n"), "TOK-MALFORMED");
  EXPECT_EQ(with("YQ== 0\nYg== 1 2\n"), "TOK-MALFORMED");
  EXPECT_EQ(with("YQ== 0\nYg== -1\n"), "TOK-MALFORMED");
  EXPECT_EQ(with("YQ== 0\nYg== 99999999999999999999\n"), "TOK-MALFORMED");
  EXPECT_EQ(with("YQ== 0\nYQ== 1\n"), "TOK-DUPLICATE");
  EXPECT_EQ(with("YQ== 0\nYg== 0\n"), "TOK-DUPLICATE");
  // An unknown number of ranks and no pattern.
  EXPECT_EQ(code_of([&] {
              write("tokenizer.model", "YQ== 0\n");
              Tokenizer::open(path_ / "tokenizer.model");
            }),
            "TOK-UNSUPPORTED");
  EXPECT_EQ(code_of([&] {
              Tokenizer::open(path_ / "tokenizer.model",
                              {.split_pattern = "llama3", .special_tokens = {{"<x>", 0}}});
            }),
            "TOK-DUPLICATE");
}

}  // namespace
}  // namespace engine
