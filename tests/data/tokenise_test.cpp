// Which tokens a row has, the cache, and real files.
#include "engine/data/tokenise.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <sstream>

#include "engine/data/batcher.h"
#include "engine/data/dataset.h"
#include "tests/data/support.h"
#include "tests/support/shared_data.h"

namespace engine {
namespace {

using testing::byte_encoder;
using testing::contains;
using testing::error_of;
using testing::row_ids;
using testing::row_trainable;
using testing::TemporaryDirectory;

using Ids = std::vector<int32_t>;
using Bits = std::vector<int>;

struct Fixture : ::testing::Test {
  TemporaryDirectory directory;

  TokeniseOptions options_for(const std::string& content, const std::string& name = "f.jsonl") {
    TokeniseOptions options;
    options.files = {directory.write(name, content)};
    return options;
  }
};

using Tokenise = Fixture;
using Cache = Fixture;

int32_t id(char c) {
  return static_cast<unsigned char>(c) + 3;
}

TEST_F(Tokenise, TextRows) {
  const auto options = options_for("{\"text\": \"ab\"}\n{\"text\": \"\"}\n");
  const auto data = tokenise(options, byte_encoder());
  ASSERT_EQ(data->rows.num_rows(), 2u);
  EXPECT_EQ(row_ids(data->rows, 0), (Ids{id('a'), id('b'), 2}));
  EXPECT_EQ(row_trainable(data->rows, 0), (Bits{0, 1, 1}));  // nothing predicts the first token
  EXPECT_EQ(row_ids(data->rows, 1), Ids{2});
  EXPECT_EQ(data->place(1), directory.path().string() + "/f.jsonl:2");
  EXPECT_EQ(data->eos_id, 2);
  EXPECT_EQ(data->cache, CacheUse::off);
}

TEST_F(Tokenise, PromptIsMaskedAndEosTrained) {
  auto options = options_for("{\"prompt\": \"ab\", \"completion\": \"cd\"}");
  const auto data = tokenise(options, byte_encoder());
  EXPECT_EQ(row_ids(data->rows, 0), (Ids{id('a'), id('b'), id('c'), id('d'), 2}));
  EXPECT_EQ(row_trainable(data->rows, 0), (Bits{0, 0, 1, 1, 1}));
  options.train_on = TrainOn::all;
  EXPECT_EQ(row_trainable(tokenise(options, byte_encoder())->rows, 0), (Bits{0, 1, 1, 1, 1}));
  options.train_on = TrainOn::completion;
  TextEncoder encoder = byte_encoder();
  encoder.adds_bos = true;
  const auto with_bos = tokenise(options, encoder);
  EXPECT_EQ(row_ids(with_bos->rows, 0), (Ids{1, id('a'), id('b'), id('c'), id('d'), 2}));
  EXPECT_EQ(row_trainable(with_bos->rows, 0), (Bits{0, 0, 0, 1, 1, 1}));
}

TEST_F(Tokenise, PrefixMismatchesAreCounted) {
  TextEncoder encoder = byte_encoder();
  encoder.encode = [](std::string_view text) {  // "bc" is one token
    Ids ids;
    for (size_t i = 0; i < text.size(); ++i) {
      const bool merged = text.substr(i, 2) == "bc";
      ids.push_back(merged ? 300 : id(text[i]));
      i += merged;
    }
    return ids;
  };
  const auto data = tokenise(options_for("{\"prompt\": \"a\", \"completion\": \"bc\"}\n"
                                         "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n"),
                             encoder);
  EXPECT_EQ(row_ids(data->rows, 1), (Ids{id('a'), 300, id('d'), 2}));
  EXPECT_EQ(row_trainable(data->rows, 1), (Bits{0, 0, 1, 1}));  // as many as the prompt has, as TRL
  EXPECT_EQ(data->rows.statistics().prefix_mismatches, 1u);
  EXPECT_EQ(data->rows.statistics().first_mismatch, 1u);
  const Dataset dataset(data, {});
  EXPECT_TRUE(contains(dataset.audit().summary(), "f.jsonl:2"));
}

// <s> = 1 and </s> = 2 around a text, and </s></s> between two, as RoBERTa has it.
TextEncoder pair_encoder() {
  TextEncoder encoder = byte_encoder();
  encoder.prefix = {1};
  encoder.suffix = {2};
  encoder.pair = {{1}, {2, 2}, {2}};
  return encoder;
}

struct Classification : Fixture {
  std::shared_ptr<const TokenisedData> rows(const std::string& content, DataConfig config = {},
                                            bool labels_required = true) {
    const std::vector<std::string> files = {directory.write("f.jsonl", content)};
    return tokenise(classification_options(config, files, labels_required), pair_encoder());
  }
  static std::vector<std::string> labels(const TokenisedData& data) {
    std::vector<std::string> result;
    for (uint64_t row = 0; row < data.rows.num_rows(); ++row) {
      const int32_t label = data.rows.label(row);
      result.push_back(label < 0 ? "none" : data.rows.label_names()[static_cast<size_t>(label)]);
    }
    return result;
  }
};

TEST_F(Classification, TextsAndPairsHaveTheTokenizersSpecialTokens) {
  const auto texts = rows("{\"text\": \"ab\", \"label\": \"x\"}");
  EXPECT_EQ(row_ids(texts->rows, 0), (Ids{1, id('a'), id('b'), 2}));
  EXPECT_EQ(row_trainable(texts->rows, 0), (Bits{0, 0, 0, 0}));
  const auto pairs = rows("{\"text\": \"ab\", \"text_pair\": \"c\", \"label\": \"x\"}");
  EXPECT_EQ(row_ids(pairs->rows, 0), (Ids{1, id('a'), id('b'), 2, 2, id('c'), 2}));
  DataConfig config;
  config.fields = {{"text", "premise"}, {"text_pair", "<{hypothesis}>"}};
  const auto named = rows("{\"premise\": \"a\", \"hypothesis\": \"b\", \"label\": 1}", config);
  EXPECT_EQ(row_ids(named->rows, 0), (Ids{1, id('a'), 2, 2, id('<'), id('b'), id('>'), 2}));
  config = {};
  config.add_bos = config.add_eos = Toggle::off;
  EXPECT_EQ(row_ids(rows("{\"text\": \"ab\", \"label\": 1}", config)->rows, 0),
            (Ids{id('a'), id('b')}));
  // Ids are as they are, and `labels` is no list of tokens.
  const auto tokens = rows("{\"input_ids\": [7, 8], \"labels\": 3}");
  EXPECT_EQ(row_ids(tokens->rows, 0), (Ids{7, 8}));
  EXPECT_EQ(labels(*tokens), std::vector<std::string>{"3"});
}

// The lengths that tokenizers' LongestFirst leaves, with three, four or no tokens besides the
// texts.
TEST_F(Classification, LongTextsAreShortenedAndKeepTheirSpecialTokens) {
  DataConfig config;
  config.overflow = Overflow::truncate_right;
  config.max_length = 4;
  const auto one = rows("{\"text\": \"abcdef\", \"label\": 1}", config);
  EXPECT_EQ(row_ids(one->rows, 0), (Ids{1, id('a'), id('b'), 2}));
  EXPECT_EQ(one->rows.statistics().shortened_rows, 1u);
  EXPECT_EQ(one->rows.statistics().shortened_tokens, 4u);
  config.overflow = Overflow::truncate_left;
  EXPECT_EQ(row_ids(rows("{\"text\": \"abcdef\", \"label\": 1}", config)->rows, 0),
            (Ids{1, id('e'), id('f'), 2}));
  config.overflow = Overflow::truncate_right;
  // {first, second, room for both, what is left of them}
  const size_t cases[][5] = {{2, 3, 5, 2, 3}, {2, 9, 6, 2, 4}, {9, 2, 6, 4, 2}, {9, 9, 6, 3, 3},
                             {9, 9, 7, 3, 4}, {9, 8, 7, 4, 3}, {4, 9, 6, 3, 3}, {5, 5, 0, 0, 0}};
  for (const auto& [first, second, room, left_first, left_second] : cases) {
    config.max_length = static_cast<int64_t>(room) + 4;
    const auto pair = rows("{\"text\": \"" + std::string(first, 'a') + "\", \"text_pair\": \"" +
                               std::string(second, 'b') + "\", \"label\": 1}",
                           config);
    const Ids ids = row_ids(pair->rows, 0);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), id('a')), static_cast<int64_t>(left_first));
    EXPECT_EQ(std::count(ids.begin(), ids.end(), id('b')), static_cast<int64_t>(left_second));
    EXPECT_EQ(ids.size(), left_first + left_second + 4);
  }
}

TEST_F(Classification, LabelsOfEveryKind) {
  const auto data = rows(
      "{\"text\": \"a\", \"label\": \"x y\"}\n{\"text\": \"b\", \"label\": 0.50}\n"
      "{\"text\": \"c\", \"label\": [\"p\\\"q\", 1, 0.5, true]}\n{\"text\": \"d\", \"label\": []}\n"
      "{\"text\": \"e\", \"label\": null}\n{\"text\": \"f\", \"label\": -3}\n");
  EXPECT_EQ(labels(*data), (std::vector<std::string>{"x y", "0.50", "[\"p\\\"q\",1,0.5,true]", "[]",
                                                     "none", "-3"}));
  const auto fails = [&](const std::string& row, const char* code) {
    EXPECT_EQ(error_of([&] { rows(row); }).code(), code) << row;
  };
  fails("{\"text\": \"a\"}", "DATA-FIELD");
  fails("{\"text\": \"a\", \"label\": {\"x\": 1}}", "DATA-TYPE");
  fails("{\"text\": \"a\", \"label\": [[1]]}", "DATA-TYPE");
  fails("{\"text\": \"a\", \"text_pair\": 3, \"label\": 1}", "DATA-TYPE");
  fails("{\"text\": \"a\", \"text_pair\": \"b\", \"label\": 1}\n{\"text\": \"a\", \"label\": 1}",
        "DATA-FIELD");
  EXPECT_EQ(labels(*rows("{\"text\": \"a\"}", {}, false)), std::vector<std::string>{"none"});
  // Numbers may be as many as rows; names that are give the field away.
  std::string numbers, names;
  for (int i = 0; i < 5000; ++i) {
    numbers += "{\"text\": \"a\", \"label\": " + std::to_string(i) + ".5}\n";
    names += "{\"text\": \"a\", \"label\": \"row " + std::to_string(i) + "\"}\n";
  }
  EXPECT_EQ(rows(numbers)->rows.label_names().size(), 5000u);
  fails(names, "DATA-LABELS");
}

TEST_F(Classification, TheTargetOfARowIsItsLabel) {
  const auto data = rows(
      "{\"text\": \"\", \"label\": \"x\"}\n{\"text\": \"abc\", \"label\": null}\n"
      "{\"text\": \"d\", \"label\": \"y\"}\n");
  DatasetOptions options;
  options.row_labels = true;
  const Error error = error_of([&] { Dataset(data, options); });
  EXPECT_EQ(error.code(), "DATA-NO-TARGET");
  EXPECT_TRUE(contains(error.what(), "1 of 3 rows have no label"));
  EXPECT_TRUE(contains(error.what(), "f.jsonl:2"));
  options.on_no_target = OnNoTarget::drop;
  auto dataset = std::make_shared<Dataset>(data, options);
  EXPECT_EQ(dataset->audit().rows, 2u);
  EXPECT_EQ(dataset->audit().targets, 2u);
  EXPECT_TRUE(contains(dataset->audit().summary(), "2 rows 5 tok (2 labelled)"));
  BatchOptions batching;
  batching.micro_batch_tokens = 64;
  const Batcher batcher(dataset, batching);
  const Batch batch = batcher.batch(batcher.plan(0), 0);
  EXPECT_EQ(batch.num_targets, 2);
  EXPECT_EQ(std::count(batch.targets.begin(), batch.targets.end(), -100), 5);
}

TEST_F(Tokenise, ASecondTextIsForClassification) {
  DataConfig config;
  config.fields = {{"text_pair", "b"}};
  const auto options = tokenise_options(config, {directory.write("f.jsonl", "{\"text\": \"a\"}")});
  EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-FIELDS");
}

TEST_F(Tokenise, BosAndEosPolicies) {
  auto options = options_for("{\"text\": \"ab\"}");
  TextEncoder encoder = byte_encoder();
  const auto ids = [&] { return row_ids(tokenise(options, encoder)->rows, 0); };
  const Ids plain = {id('a'), id('b')};
  options.add_eos = Toggle::off;
  EXPECT_EQ(ids(), plain);
  options.add_bos = Toggle::on;
  EXPECT_EQ(ids(), (Ids{1, id('a'), id('b')}));
  encoder.encode = [](std::string_view) { return Ids{1, 7, 2}; };  // has both already
  options.add_eos = Toggle::on;
  EXPECT_EQ(ids(), (Ids{1, 7, 2}));
  encoder.bos_id = -1;
  EXPECT_EQ(error_of(ids).code(), "DATA-SPECIAL");
  options.add_bos = Toggle::automatic;
  encoder.eos_id = -1;
  EXPECT_EQ(error_of(ids).code(), "DATA-SPECIAL");
  options.add_eos = Toggle::automatic;
  encoder.adds_bos = true;  // without a BOS token there is nothing to add
  EXPECT_EQ(ids(), (Ids{1, 7, 2}));
}

TEST_F(Tokenise, TokenRowsAreLeftAloneUnlessAsked) {
  auto options = options_for("{\"input_ids\": [9, 2, 8], \"labels\": [9, -100, 8]}");
  TextEncoder encoder = byte_encoder();
  encoder.adds_bos = true;
  const auto data = tokenise(options, encoder);
  EXPECT_EQ(row_ids(data->rows, 0), (Ids{9, 2, 8}));
  EXPECT_EQ(row_trainable(data->rows, 0), (Bits{0, 0, 1}));
  options.add_bos = options.add_eos = Toggle::on;
  const auto asked = tokenise(options, encoder);
  EXPECT_EQ(row_ids(asked->rows, 0), (Ids{1, 9, 2, 8, 2}));
  EXPECT_EQ(row_trainable(asked->rows, 0), (Bits{0, 1, 0, 1, 1}));
  encoder.vocab_size = 9;
  EXPECT_EQ(error_of([&] { tokenise(options, encoder); }).code(), "DATA-ID");
}

TEST_F(Tokenise, TextsHoldNoTokenThatTheModelLacks) {
  const auto options = options_for("{\"text\": \"ab\"}\n{\"text\": \"az\"}\n");
  TextEncoder encoder = byte_encoder();
  encoder.vocab_size = id('z');
  const Error error = error_of([&] { tokenise(options, encoder); });
  EXPECT_EQ(error.code(), "DATA-ID");
  EXPECT_TRUE(contains(error.what(), "f.jsonl:2")) << error.what();
  encoder.vocab_size = id('z') + 1;
  EXPECT_EQ(tokenise(options, encoder)->rows.num_rows(), 2u);
}

TEST_F(Tokenise, MaskingIsByPositionEvenWhenPaddingIsEos) {
  // EOS in the middle of a text and at its end stays a target.
  const auto data = tokenise(options_for("{\"input_ids\": [5, 2, 6, 2]}"), byte_encoder());
  EXPECT_EQ(row_trainable(data->rows, 0), (Bits{0, 1, 1, 1}));
}

TEST_F(Tokenise, LabelsAndSeveralFiles) {
  TokeniseOptions options = options_for("{\"text\":\"a\",\"kind\":\"x\"}\n", "1.jsonl");
  options.files.push_back(
      directory.write("2.json", "[{\"text\":\"b\",\"kind\":4},\n{\"text\":\"c\",\"kind\":\"x\"}]"));
  options.files.push_back(directory.write("3.txt", "d\n\ne\n"));
  options.fields.label = "kind";
  const auto data = tokenise(options, byte_encoder());
  ASSERT_EQ(data->rows.num_rows(), 5u);
  EXPECT_EQ(data->rows.label_names(), (std::vector<std::string>{"x", "4"}));
  EXPECT_EQ(data->rows.label(0), 0);
  EXPECT_EQ(data->rows.label(1), 1);
  EXPECT_EQ(data->rows.label(2), 0);
  EXPECT_EQ(data->rows.label(3), -1);
  EXPECT_TRUE(data->place(2).ends_with("2.json:2"));
  EXPECT_TRUE(data->place(4).ends_with("3.txt:3"));
  std::string many;
  for (int i = 0; i < 5000; ++i) many += "{\"text\":\"a\",\"kind\":" + std::to_string(i) + "}\n";
  options.files = {directory.write("many.jsonl", many)};
  EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-LABELS");
}

TEST_F(Tokenise, TheFirstBadRowIsReportedWhateverTheThreads) {
  std::string text;
  for (int i = 1; i <= 9000; ++i) {
    text += i % 4500 == 700 ? "{\"txt\": 1}\n" : "{\"text\": \"row\"}\n";
  }
  text += "{\"text\": \"\xff\"}\n";
  auto options = options_for(text);
  for (int threads : {1, 2, 7}) {
    options.threads = threads;
    const Error error = error_of([&] { tokenise(options, byte_encoder()); });
    EXPECT_EQ(error.code(), "DATA-FIELD");
    EXPECT_TRUE(contains(error.what(), "f.jsonl:700: "));
  }
  // A scanner error comes after errors in the rows before it, not before.
  options = options_for("{\"text\": \"a\"}\n{\"no\": 1}\n{\"text\": \"\xff\"}\n");
  EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-FIELD");
}

TEST_F(Tokenise, EmptyFiles) {
  for (const char* content : {"", "\n \n", "[]"}) {
    const auto options = options_for(content);
    EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-EMPTY");
  }
  TokeniseOptions options;
  options.files = {"/dev/null"};
  EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-OPEN");
}

TEST_F(Tokenise, ConfigRoles) {
  DataConfig config;
  config.fields = {{"source", "q"}, {"target", "a"}};
  config.label_field = "l";
  const TokeniseOptions options = tokenise_options(config, {"x"});
  EXPECT_EQ(options.fields.prompt, "q");
  EXPECT_EQ(options.fields.completion, "a");
  EXPECT_EQ(options.fields.label, "l");
  config.fields = {{"promt", "q"}};
  const Error error = error_of([&] { tokenise_options(config, {"x"}); });
  EXPECT_EQ(error.code(), "DATA-FIELDS");
  EXPECT_TRUE(contains(error.what(), "did you mean prompt?"));
  config.fields = {{"prompt", "q"}, {"source", "q"}};
  EXPECT_EQ(error_of([&] { tokenise_options(config, {"x"}); }).code(), "DATA-FIELDS");
}

std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

TEST_F(Cache, HitGivesTheSameAndEncodesNothing) {
  auto options = options_for(
      "{\"prompt\":\"ab\",\"completion\":\"c\",\"k\":\"\\u00e9\"}\n"
      "{\"prompt\":\"\",\"completion\":\"dd\",\"k\":\"y\"}\n");
  options.fields.label = "k";
  options.cache_dir = (directory.path() / "cache/deep").string();
  std::atomic<int> calls = 0;
  TextEncoder encoder = byte_encoder();
  const auto bytes = encoder.encode;
  encoder.encode = [&](std::string_view text) { return ++calls, bytes(text); };
  const auto built = tokenise(options, encoder);
  EXPECT_EQ(built->cache, CacheUse::built);
  EXPECT_EQ(calls, 4);
  const auto hit = tokenise(options, encoder);
  EXPECT_EQ(hit->cache, CacheUse::hit);
  EXPECT_EQ(calls, 4);
  for (uint64_t row = 0; row < 2; ++row) {
    EXPECT_EQ(row_ids(hit->rows, row), row_ids(built->rows, row));
    EXPECT_EQ(row_trainable(hit->rows, row), row_trainable(built->rows, row));
    EXPECT_EQ(hit->rows.label(row), built->rows.label(row));
    EXPECT_EQ(hit->rows.content(row), built->rows.content(row));
    EXPECT_EQ(hit->place(row), built->place(row));
  }
  EXPECT_EQ(hit->rows.label_names(), (std::vector<std::string>{"\xc3\xa9", "y"}));
  // In memory the same bytes would be there.
  options.cache_dir.clear();
  EXPECT_EQ(row_ids(tokenise(options, encoder)->rows, 1), row_ids(hit->rows, 1));
}

TEST_F(Cache, EveryDamagedByteIsFoundAndRepaired) {
  auto options = options_for("{\"text\":\"abcdefghij\"}\n{\"text\":\"x\"}\n");
  options.cache_dir = directory.path().string();
  const std::string path = tokenise(options, byte_encoder())->cache_path;
  const std::string good = slurp(path);
  for (size_t at = 0; at < good.size(); at += 7) {
    std::string bad = good;
    bad[at] ^= 0x40;
    std::ofstream(path, std::ios::binary) << bad;
    const auto data = tokenise(options, byte_encoder());
    ASSERT_EQ(data->cache, CacheUse::rebuilt) << "byte " << at;
    ASSERT_FALSE(data->cache_note.empty());
    ASSERT_EQ(slurp(path), good);
  }
  for (size_t size : {size_t{0}, size_t{7}, good.size() / 2, good.size() - 1}) {
    std::ofstream(path, std::ios::binary) << good.substr(0, size);
    ASSERT_EQ(tokenise(options, byte_encoder())->cache, CacheUse::rebuilt);
    ASSERT_EQ(slurp(path), good);
  }
  EXPECT_EQ(tokenise(options, byte_encoder())->cache, CacheUse::hit);
}

TEST_F(Cache, WhatChangesTheTokensChangesTheName) {
  auto options = options_for("{\"text\":\"ab\",\"body\":\"cd\"}\n");
  options.cache_dir = (directory.path() / "cache").string();
  const auto use = [&](const TextEncoder& encoder = byte_encoder()) {
    return tokenise(options, encoder)->cache;
  };
  EXPECT_EQ(use(), CacheUse::built);
  EXPECT_EQ(use(), CacheUse::hit);
  options.fields.text = "body";
  EXPECT_EQ(use(), CacheUse::built);
  options.add_eos = Toggle::off;
  EXPECT_EQ(use(), CacheUse::built);
  TextEncoder other = byte_encoder();
  other.identity = "other";
  EXPECT_EQ(use(other), CacheUse::built);
  other = byte_encoder();
  other.bos_id = 9;
  EXPECT_EQ(use(other), CacheUse::built);
  directory.write("f.jsonl", "{\"text\":\"ab\",\"body\":\"ce\"}\n");
  EXPECT_EQ(use(), CacheUse::built);
  options.threads = 3;
  EXPECT_EQ(use(), CacheUse::hit);
  // A moved file is the same data; places in messages follow it.
  std::filesystem::rename(directory.path() / "f.jsonl", directory.path() / "g.jsonl");
  options.files = {(directory.path() / "g.jsonl").string()};
  const auto moved = tokenise(options, byte_encoder());
  EXPECT_EQ(moved->cache, CacheUse::hit);
  EXPECT_TRUE(moved->place(0).ends_with("g.jsonl:1"));
}

TEST_F(Cache, AFailedRunLeavesNothingAndAnUnwritableDirectoryIsNoError) {
  auto options = options_for("{\"text\":\"ab\"}\n{\"text\":1}\n");
  options.cache_dir = (directory.path() / "cache").string();
  EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-TYPE");
  EXPECT_TRUE(std::filesystem::is_empty(options.cache_dir));
  options = options_for("{\"text\":\"ab\"}\n");
  options.cache_dir = directory.write("a-file", "") + "/cache";
  const auto data = tokenise(options, byte_encoder());
  EXPECT_EQ(data->cache, CacheUse::off);
  EXPECT_TRUE(contains(data->cache_note, "cannot write the cache"));
  EXPECT_EQ(data->rows.num_rows(), 1u);
}

TEST_F(Cache, TheFileDoesNotDependOnThreads) {
  std::string text;
  for (int i = 0; i < 10000; ++i) {
    text += "{\"prompt\":\"" + std::to_string(i * 7919) + "\",\"completion\":\"" +
            std::string(static_cast<size_t>(i % 17), 'z') + "\"}\n";
  }
  auto options = options_for(text);
  std::string first;
  for (int threads : {1, 2, 5}) {
    options.threads = threads;
    options.cache_dir = (directory.path() / std::to_string(threads)).string();
    const std::string bytes = slurp(tokenise(options, byte_encoder())->cache_path);
    if (first.empty()) first = bytes;
    EXPECT_TRUE(bytes == first) << threads << " threads";
  }
}

TEST_F(Tokenise, GzipGivesTheSameRows) {
  const std::string text = "{\"text\":\"ab\"}\n{\"text\":\"cd\"}\n";
  auto options = options_for(text);
  const auto plain = tokenise(options, byte_encoder());
  const std::string path = (directory.path() / "f.jsonl.gz").string();
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  options.files = {path};
  const auto packed = tokenise(options, byte_encoder());
  ASSERT_EQ(packed->rows.num_rows(), 2u);
  EXPECT_EQ(row_ids(packed->rows, 1), row_ids(plain->rows, 1));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 6);
  EXPECT_EQ(error_of([&] { tokenise(options, byte_encoder()); }).code(), "DATA-GZIP");
}

TEST(RealData, Gsm8kAsPromptAndCompletion) {
  ENGINE_REQUIRE_SHARED_DATA(path, "datasets/gsm8k/train_first1500.jsonl");
  DataConfig config;
  config.fields = {{"prompt", "Question: {question}\nAnswer:"}, {"completion", " {answer}"}};
  const auto data = tokenise(tokenise_options(config, {path.string()}), byte_encoder());
  ASSERT_EQ(data->rows.num_rows(), 1500u);
  std::string first;
  for (int32_t token : row_ids(data->rows, 0)) {
    if (token > 2) first += static_cast<char>(token - 3);
  }
  EXPECT_TRUE(first.starts_with("Question: Natalia sold clips to 48 of her friends in April"));
  EXPECT_TRUE(first.ends_with("April and May.\n#### 72"));
  const auto dataset = std::make_shared<Dataset>(data, DatasetOptions{});
  EXPECT_EQ(dataset->audit().rows, 1500u);
  EXPECT_EQ(dataset->audit().ends_in_trained_eos, 1500u);
  EXPECT_EQ(dataset->audit().prefix_mismatches, 0u);
  BatchOptions options;
  options.micro_batch_tokens = 8192;
  const Batcher batcher(dataset, options);
  const EpochPlan plan = batcher.plan(0);
  const auto tokens = static_cast<double>(dataset->audit().tokens);
  // Best-fit decreasing fills the budget but for the last bins.
  EXPECT_LE(static_cast<double>(batcher.num_batches(plan)), std::ceil(tokens / 8192) + 1);
}

TEST(RealData, TinyShakespeareAsAStream) {
  ENGINE_REQUIRE_SHARED_DATA(path, "datasets/tinyshakespeare/input.txt");
  DataConfig config;
  config.split = TextSplit::whole;
  const auto data = tokenise(tokenise_options(config, {path.string()}), byte_encoder());
  ASSERT_EQ(data->rows.num_rows(), 1u);
  EXPECT_EQ(data->rows.num_tokens(), 1115394u + 1);  // bytes and EOS
  DatasetOptions dataset_options;
  dataset_options.packing = Packing::stream;
  dataset_options.max_length = 256;
  const auto dataset = std::make_shared<Dataset>(data, dataset_options);
  EXPECT_EQ(dataset->num_samples(), (1115395u + 255) / 256);
  EXPECT_EQ(dataset->audit().targets, 1115394u);
  config.split = TextSplit::blank_lines;
  const auto speeches = tokenise(tokenise_options(config, {path.string()}), byte_encoder());
  EXPECT_EQ(speeches->rows.num_rows(), 7222u);  // runs of lines, counted with awk 'RS=""'
}

TEST(RealData, EveryJsonFileOfTheCollectionReadsOrIsRefusedClearly) {
  ENGINE_REQUIRE_SHARED_DATA(root, "datasets");
  struct Case {
    const char* path;
    std::map<std::string, std::string> fields;
    uint64_t rows;
  };
  const Case cases[] = {
      {"svamp/SVAMP.json", {{"prompt", "{Body} {Question}"}, {"completion", "{Answer}"}}, 1000},
      {"concode/dev.json", {{"source", "nl"}, {"target", "code"}}, 2000},
      {"llamafactory_demo/alpaca_en_demo.json",
       {{"prompt", "{instruction}\n{input}"}, {"completion", "output"}},
       999}};
  for (const Case& test : cases) {
    if (!std::filesystem::exists(root / test.path)) continue;
    DataConfig config;
    const std::string path = (root / test.path).string();
    EXPECT_EQ(error_of([&] { tokenise(tokenise_options(config, {path}), byte_encoder()); }).code(),
              "DATA-FIELD");
    config.fields = test.fields;
    const auto data = tokenise(tokenise_options(config, {path}), byte_encoder());
    EXPECT_EQ(data->rows.num_rows(), test.rows) << test.path;
  }
  const auto preferences = root / "llamafactory_demo/dpo_en_demo_first100.json";
  if (std::filesystem::exists(preferences)) {
    const Error error =
        error_of([&] { tokenise(tokenise_options({}, {preferences.string()}), byte_encoder()); });
    EXPECT_EQ(error.code(), "DATA-FORMAT");
  }
}

}  // namespace
}  // namespace engine
