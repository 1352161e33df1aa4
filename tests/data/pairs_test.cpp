// Rows of encoder-decoder models: a source that the encoder reads, and a target.
#include "engine/data/batch_iterator.h"
#include "engine/data/batcher.h"
#include "tests/data/support.h"

namespace engine::testing {
namespace {

// As T5's tokenizer: </s> is put behind every text.
TextEncoder pair_encoder() {
  TextEncoder encoder = byte_encoder();
  encoder.suffix = {encoder.eos_id};
  return encoder;
}

std::shared_ptr<const TokenisedData> read_pairs(const std::string& file,
                                                const TextEncoder& encoder = pair_encoder(),
                                                TokeniseOptions options = {}) {
  options.files = {file};
  options.fields.pair_pad_id = 0;
  return tokenise(options, encoder);
}

std::vector<int32_t> bytes(const std::string& text, bool eos = true) {
  std::vector<int32_t> ids;
  for (const unsigned char c : text) ids.push_back(c + 3);
  if (eos) ids.push_back(2);
  return ids;
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

DatasetOptions limits(int64_t source, int64_t target, Overflow overflow) {
  DatasetOptions options;
  options.max_length = source;
  options.max_target_length = target;
  options.overflow = overflow;
  return options;
}

TEST(Pairs, TextsBecomeSourceAndTarget) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("rows.jsonl",
                                           "{\"prompt\": \"abc\", \"completion\": \"xy\"}\n"
                                           "{\"completion\": \"\", \"prompt\": \"q\"}\n");
  for (const bool cached : {false, true}) {
    TokeniseOptions options;
    if (cached) options.cache_dir = (directory.path() / "cache").string();
    const auto data = read_pairs(file, pair_encoder(), options);
    ASSERT_EQ(data->rows.num_rows(), 2u);
    EXPECT_EQ(row_ids(data->rows, 0), bytes("abc") + bytes("xy"));
    EXPECT_EQ(data->rows.source_length(0), 4u);
    EXPECT_EQ(row_trainable(data->rows, 0), (std::vector<int>{0, 0, 0, 0, 1, 1, 1}));
    EXPECT_EQ(row_ids(data->rows, 1), bytes("q") + bytes(""));
    EXPECT_EQ(data->rows.source_length(1), 2u);
    EXPECT_EQ(row_trainable(data->rows, 1), (std::vector<int>{0, 0, 1}));
  }
  // A tokenizer that adds nothing leaves the source as it is; the target ends all the same.
  const auto plain = read_pairs(file, byte_encoder());
  EXPECT_EQ(row_ids(plain->rows, 0), bytes("abc", false) + bytes("xy"));
  EXPECT_EQ(plain->rows.source_length(0), 3u);
  // Without pairs the same rows are one text each.
  TokeniseOptions causal;
  causal.files = {file};
  EXPECT_EQ(tokenise(causal, pair_encoder())->rows.source_length(0), 0u);
}

TEST(Pairs, UsualNamesOfTheTwoSides) {
  const TemporaryDirectory directory;
  for (const char* row :
       {R"({"prompt": "abc", "completion": "xy"})", R"({"source": "abc", "target": "xy"})",
        R"({"input": "abc", "target": "xy"})", R"({"inputs": "abc", "targets": "xy"})",
        R"({"input": "abc", "output": "xy", "text": "no"})",
        R"({"question": "abc", "answer": "xy"})"}) {
    const auto data = read_pairs(directory.write("row.jsonl", row));
    EXPECT_EQ(row_ids(data->rows, 0), bytes("abc") + bytes("xy")) << row;
  }
  TokeniseOptions named;
  named.fields.prompt = "Say {a}.";
  named.fields.completion = "b";
  const auto data =
      read_pairs(directory.write("row.jsonl", R"({"a": 7, "b": "xy"})"), pair_encoder(), named);
  EXPECT_EQ(row_ids(data->rows, 0), bytes("Say 7.") + bytes("xy"));
  EXPECT_EQ(error_of([&] {
              read_pairs(directory.write("row.jsonl",
                                         R"({"instruction": "i", "input": "a", "output": "b"})"));
            }).code(),
            "DATA-FIELD");
}

TEST(Pairs, TokensHaveLengthsOfTheirOwn) {
  const TemporaryDirectory directory;
  const auto data = read_pairs(directory.write(
      "rows.jsonl", "{\"input_ids\": [5, 6, 7], \"labels\": [8, -100, 9, 2, 4]}\n"));
  EXPECT_EQ(row_ids(data->rows, 0), (std::vector<int32_t>{5, 6, 7, 8, 0, 9, 2, 4}));
  EXPECT_EQ(data->rows.source_length(0), 3u);
  EXPECT_EQ(row_trainable(data->rows, 0), (std::vector<int>{0, 0, 0, 1, 0, 1, 1, 1}));
}

TEST(Pairs, BatchesHaveTheDecodersInputShiftedRight) {
  const TemporaryDirectory directory;
  const auto data =
      read_pairs(directory.write("rows.jsonl",
                                 "{\"input_ids\": [5, 6, 7], \"labels\": [8, -100, 9, 2]}\n"
                                 "{\"input_ids\": [10], \"labels\": [11]}\n"));
  const auto dataset = std::make_shared<Dataset>(data, limits(16, 16, Overflow::error));
  EXPECT_TRUE(dataset->pairs());
  EXPECT_EQ(dataset->audit().tokens, 9u);
  EXPECT_EQ(dataset->audit().targets, 4u);
  BatchOptions options;
  options.micro_batch_tokens = 64;
  options.shuffle = Shuffle::none;
  options.decoder_start_id = 1;
  const Batcher batcher(dataset, options);
  const EpochPlan plan = batcher.plan(0);
  ASSERT_EQ(batcher.num_batches(plan), 1u);
  const Batch batch = batcher.batch(plan, 0);
  EXPECT_EQ(batch.source.input_ids, (std::vector<int32_t>{5, 6, 7, 10}));
  EXPECT_EQ(batch.source.cu_seqlens, (std::vector<int32_t>{0, 3, 4}));
  EXPECT_EQ(batch.source.max_seqlen, 3);
  EXPECT_EQ(batch.input_ids, (std::vector<int32_t>{1, 8, 0, 9, 1}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{8, -100, 9, 2, 11}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{0, 1, 2, 3, 0}));
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int32_t>{0, 4, 5}));
  EXPECT_EQ(batch.num_targets, 4);
  EXPECT_EQ(batch.rows, (std::vector<uint32_t>{0, 1}));
  EXPECT_EQ(batcher.num_targets(plan, 0, 1), 4);
}

TEST(Pairs, TheBudgetCountsSourceAndTarget) {
  std::string rows;
  for (int i = 0; i < 200; ++i) {
    rows += "{\"prompt\": \"" + std::string(1 + i * 7 % 31, 'a') + "\", \"completion\": \"" +
            std::string(i * 5 % 13, 'b') + "\"}\n";
  }
  const TemporaryDirectory directory;
  const auto data = read_pairs(directory.write("rows.jsonl", rows));
  const auto dataset = std::make_shared<Dataset>(data, limits(64, 64, Overflow::error));
  for (const Packing packing : {Packing::packed, Packing::rows}) {
    BatchOptions options;
    options.packing = packing;
    options.micro_batch_tokens = 96;
    const Batcher batcher(dataset, options);
    const Batcher::LargestPair largest = batcher.largest_pair();
    EXPECT_EQ(largest.longest_source, 32);
    EXPECT_EQ(largest.longest_target, 13);
    uint64_t sequences = 0;
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      const EpochPlan plan = batcher.plan(epoch);
      for (uint64_t b = 0; b < batcher.num_batches(plan); ++b) {
        const Batch batch = batcher.batch(plan, b);
        EXPECT_LE(batch.num_tokens() + batch.num_source_tokens(), 96);
        EXPECT_LE(batch.num_source_tokens(), largest.source_tokens);
        EXPECT_LE(batch.num_tokens(), largest.target_tokens);
        EXPECT_EQ(batch.source.cu_seqlens.size(), batch.cu_seqlens.size());
        sequences += static_cast<uint64_t>(batch.num_sequences());
      }
    }
    EXPECT_EQ(sequences, 600u);
    EXPECT_LE(largest.source_tokens, 96);
    EXPECT_LT(largest.target_tokens, 96);
  }
  // A number of rows bounds them too.
  BatchOptions options;
  options.packing = Packing::rows;
  options.micro_batch_rows = 2;
  EXPECT_EQ(Batcher(dataset, options).largest_pair().source_tokens, 64);
  EXPECT_EQ(Batcher(dataset, options).largest_pair().target_tokens, 26);
  BatchOptions small;
  small.micro_batch_tokens = 20;
  EXPECT_EQ(error_of([&] { Batcher(dataset, small); }).code(), "DATA-BUDGET");
}

// What the batch of the only row has.
Batch only_batch(const std::shared_ptr<const TokenisedData>& data, const DatasetOptions& options) {
  BatchOptions batching;
  batching.packing = Packing::rows;
  batching.micro_batch_rows = 1;
  const Batcher batcher(std::make_shared<Dataset>(data, options), batching);
  return batcher.batch(batcher.plan(0), 0);
}

TEST(Pairs, TruncationKeepsTheEndOfTheSourceAndNoFalseEndOfTheTarget) {
  const TemporaryDirectory directory;
  const auto data = read_pairs(
      directory.write("rows.jsonl", "{\"prompt\": \"abcdef\", \"completion\": \"uvwxyz\"}\n"));
  const Batch right = only_batch(data, limits(4, 3, Overflow::truncate_right));
  EXPECT_EQ(right.source.input_ids, bytes("abc"));
  EXPECT_EQ(right.targets, bytes("uvw", false));
  const Batch left = only_batch(data, limits(4, 3, Overflow::truncate_left));
  EXPECT_EQ(left.source.input_ids, bytes("def"));
  EXPECT_EQ(left.targets, bytes("uvw", false));
  const Batch whole = only_batch(data, limits(7, 7, Overflow::error));
  EXPECT_EQ(whole.source.input_ids, bytes("abcdef"));
  EXPECT_EQ(whole.targets, bytes("uvwxyz"));
  // A source without an EOS is cut like any text.
  const auto plain = read_pairs((directory.path() / "rows.jsonl").string(), byte_encoder());
  EXPECT_EQ(only_batch(plain, limits(4, 9, Overflow::truncate_right)).source.input_ids,
            bytes("abcd", false));

  DatasetOptions options = limits(4, 3, Overflow::truncate_right);
  const Dataset dataset(data, options);
  EXPECT_EQ(dataset.audit().truncated, 1u);
  EXPECT_EQ(dataset.audit().truncated_tokens, 7u);
  EXPECT_EQ(dataset.audit().over_length, 1u);
  EXPECT_EQ(dataset.audit().ends_in_trained_eos, 0u);
  const Error error = error_of([&] { Dataset(data, limits(9, 3, Overflow::error)); });
  EXPECT_EQ(error.code(), "DATA-OVERFLOW");
  EXPECT_TRUE(contains(error.what(), "data.max_length=7 data.max_target_length=7"));
  EXPECT_EQ(error_of([&] { Dataset(data, limits(9, 3, Overflow::drop)); }).code(), "DATA-EMPTY");
}

TEST(Pairs, Mistakes) {
  const TemporaryDirectory directory;
  const auto code = [&](const std::string& name, const std::string& text) {
    return error_of([&] { read_pairs(directory.write(name, text), byte_encoder()); });
  };
  Error error = code("a.jsonl", "{\"text\": \"abc\"}\n");
  EXPECT_EQ(error.code(), "DATA-FORMAT");
  EXPECT_TRUE(contains(error.what(), "a.jsonl:1"));
  EXPECT_EQ(code("b.txt", "some text\n").code(), "DATA-FORMAT");
  EXPECT_EQ(code("c.jsonl", "{\"input_ids\": [1, 2]}\n").code(), "DATA-FORMAT");
  EXPECT_EQ(code("d.jsonl", "{\"input_ids\": [1, 2], \"labels\": [-1]}\n").code(), "DATA-ID");
  error = code("e.jsonl",
               "{\"prompt\": \"a\", \"completion\": \"b\"}\n"
               "{\"prompt\": \"\", \"completion\": \"b\"}\n");
  EXPECT_EQ(error.code(), "DATA-NO-SOURCE");
  EXPECT_TRUE(contains(error.what(), "e.jsonl:2"));
  DataConfig config;
  config.packing = Packing::stream;
  EXPECT_EQ(error_of([&] { check_pair_settings(config); }).code(), "CFG-CONFLICT");
  config.packing = Packing::packed;
  config.overflow = Overflow::split;
  EXPECT_EQ(error_of([&] { check_pair_settings(config); }).code(), "CFG-CONFLICT");
  config.overflow = Overflow::drop;
  check_pair_settings(config);

  // A target without a trained token is a row without a target, as elsewhere.
  const auto data = read_pairs(directory.write("f.jsonl",
                                               "{\"input_ids\": [4], \"labels\": [5]}\n"
                                               "{\"input_ids\": [4], \"labels\": [-100]}\n"
                                               "{\"input_ids\": [4], \"labels\": []}\n"));
  EXPECT_EQ(error_of([&] { Dataset(data, limits(8, 8, Overflow::error)); }).code(),
            "DATA-NO-TARGET");
  DatasetOptions drop = limits(8, 8, Overflow::error);
  drop.on_no_target = OnNoTarget::drop;
  EXPECT_EQ(Dataset(data, drop).audit().dropped_no_target, 2u);
}

TEST(Pairs, ShiftRightIsThatOfTransformers) {
  const std::vector<int32_t> labels = {7, -100, 9, 1};
  EXPECT_EQ(shift_right(labels, 3, 0), (std::vector<int32_t>{3, 7, 0, 9}));
  EXPECT_TRUE(shift_right({}, 3, 0).empty());
}

}  // namespace
}  // namespace engine::testing
