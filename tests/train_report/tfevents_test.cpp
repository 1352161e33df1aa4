#include "engine/train/report/tfevents.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>

#include "tests/train_report/temporary_directory.h"

namespace engine {
namespace {

using testing::read_all;
using testing::TemporaryDirectory;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// An independent reader: its own bitwise checksum and its own protobuf walk.
uint32_t slow_crc32c(const std::string& bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0);
  }
  return ~crc;
}

uint32_t masked(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <typename T>
T load(const std::string& bytes, size_t at) {
  T value;
  if (at + sizeof(T) > bytes.size()) throw std::runtime_error("short file");
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::vector<std::string> read_records(const std::string& file) {
  std::vector<std::string> records;
  for (size_t at = 0; at < file.size();) {
    const auto length = load<uint64_t>(file, at);
    if (load<uint32_t>(file, at + 8) != masked(slow_crc32c(file.substr(at, 8)))) {
      throw std::runtime_error("length checksum");
    }
    const std::string data = file.substr(at + 12, length);
    if (load<uint32_t>(file, at + 12 + length) != masked(slow_crc32c(data))) {
      throw std::runtime_error("data checksum");
    }
    records.push_back(data);
    at += 16 + length;
  }
  return records;
}

// Fields of one message: number → payloads (varints and fixed-width values as 8 bytes or fewer).
using Message = std::multimap<uint32_t, std::string>;

uint64_t read_varint(const std::string& bytes, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.at(at++));
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

Message parse(const std::string& bytes) {
  Message message;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t key = read_varint(bytes, at);
    std::string payload;
    switch (key & 7) {
      case 0: {
        const uint64_t value = read_varint(bytes, at);
        payload.assign(reinterpret_cast<const char*>(&value), sizeof(value));
        break;
      }
      case 1:
        payload = bytes.substr(at, 8);
        at += 8;
        break;
      case 2: {
        const uint64_t length = read_varint(bytes, at);
        payload = bytes.substr(at, length);
        at += length;
        break;
      }
      case 5:
        payload = bytes.substr(at, 4);
        at += 4;
        break;
      default:
        throw std::runtime_error("wire type");
    }
    message.emplace(static_cast<uint32_t>(key >> 3), payload);
  }
  return message;
}

const std::string& field(const Message& message, uint32_t number) {
  const auto found = message.find(number);
  if (found == message.end()) throw std::runtime_error("missing field");
  return found->second;
}

std::map<std::string, float> scalars_of(const Message& event) {
  std::map<std::string, float> result;
  const Message summary = parse(field(event, 5));
  for (auto [at, end] = summary.equal_range(1); at != end; ++at) {
    const Message value = parse(at->second);
    result[field(value, 1)] = load<float>(field(value, 2), 0);
  }
  return result;
}

TEST(TensorBoard, BytesEqualTheGoldens) {
  // Made by an independent Python encoder.
  EXPECT_EQ(
      tfevents::frame_record(tfevents::version_event(1.0)),
      from_hex("1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a"));
  EXPECT_EQ(
      tfevents::frame_record(tfevents::scalar_event(2.0, 3, {{"train/loss", 0.5}})),
      from_hex("200000000000000029eda95009000000000000004010032a130a110a0a747261696e2f6c6f7373"
               "150000003f89c6b87d"));
}

TEST(TensorBoard, FileEqualsTheGoldenFile) {
  const TemporaryDirectory directory;
  double now = 1.0;
  TensorBoardWriter writer(directory / "tb", std::nullopt, [&] { return now; });
  now = 2.0;
  writer.scalars(3, {{"train/loss", 0.5}});
  writer.close();
  EXPECT_EQ(
      read_all(writer.path()),
      from_hex("1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a"
               "200000000000000029eda95009000000000000004010032a130a110a0a747261696e2f6c6f7373"
               "150000003f89c6b87d"));
}

TEST(TensorBoard, RecordsReadBack) {
  const TemporaryDirectory directory;
  TensorBoardWriter writer(directory / "tb", std::nullopt, [] { return 1776765624.25; });
  TrainRecord train;
  train.step = 300;  // a varint of two bytes
  train.loss = 1.8421;
  train.lr = 1.9e-5;
  train.grad_norm = std::numeric_limits<double>::quiet_NaN();
  writer.write(train);
  EvalRecord eval;
  eval.step = 300;
  eval.loss = 1.9033;
  eval.accuracy = 0.588;
  eval.groups = {{"news", 1.71, 400}};
  eval.metrics = {{"exact_match", 0.25}};
  writer.write(eval);
  SampleRecord sample;
  sample.step = 300;
  sample.name = "dialog#3";
  sample.prompt = "A: noon?\n";
  sample.text = "B: yes";
  writer.write(sample);
  writer.close();

  const std::vector<std::string> records = read_records(read_all(writer.path()));
  ASSERT_EQ(records.size(), 4u);
  EXPECT_EQ(field(parse(records[0]), 3), "brain.Event:2");
  const Message event = parse(records[1]);
  EXPECT_EQ(load<double>(field(event, 1), 0), 1776765624.25);
  EXPECT_EQ(load<int64_t>(field(event, 2), 0), 300);
  const auto points = scalars_of(event);
  EXPECT_EQ(points.at("train/loss"), 1.8421f);
  EXPECT_EQ(points.at("train/learning_rate"), 1.9e-5f);
  EXPECT_TRUE(std::isnan(points.at("train/grad_norm")));
  EXPECT_EQ(points.count("train/mfu"), 0u);
  const auto evaluation = scalars_of(parse(records[2]));
  EXPECT_EQ(evaluation.at("eval/loss"), 1.9033f);
  EXPECT_EQ(evaluation.at("eval/accuracy"), 0.588f);
  EXPECT_EQ(evaluation.at("eval/news_loss"), 1.71f);
  EXPECT_EQ(evaluation.at("eval/exact_match"), 0.25f);
  const Message value = parse(field(parse(field(parse(records[3]), 5)), 1));
  EXPECT_EQ(field(value, 1), "sample/dialog#3");
  EXPECT_EQ(field(parse(field(parse(field(value, 9)), 1)), 1), "text");
  const Message tensor = parse(field(value, 8));
  EXPECT_EQ(load<int64_t>(field(tensor, 1), 0), 7);
  EXPECT_EQ(field(tensor, 8), "    A: noon?\n    B: yes");
}

TEST(TensorBoard, ResumeOpensANewFileThatVoidsLaterSteps) {
  const TemporaryDirectory directory;
  TensorBoardWriter first(directory / "tb", std::nullopt, [] { return 100.0; });
  first.scalars(41, {{"train/loss", 2.0}});
  first.close();
  const std::string before = read_all(first.path());
  TensorBoardWriter second(directory / "tb", 40, [] { return 100.0; });  // the same second
  second.close();
  EXPECT_NE(first.path(), second.path());
  EXPECT_EQ(read_all(first.path()), before);
  const std::vector<std::string> records = read_records(read_all(second.path()));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(field(parse(records[0]), 3), "brain.Event:2");
  EXPECT_EQ(load<int64_t>(field(parse(records[1]), 2), 0), 41);
  const Message session = parse(field(parse(records[1]), 7));
  EXPECT_EQ(load<int64_t>(field(session, 1), 0), 1);  // START
}

TEST(TensorBoard, FlushesEveryThirtySeconds) {
  const TemporaryDirectory directory;
  double now = 0;
  TensorBoardWriter writer(directory / "tb", std::nullopt, [&] { return now; });
  EXPECT_EQ(read_records(read_all(writer.path())).size(), 1u);
  writer.scalars(1, {{"train/loss", 1}});
  now = 31;
  writer.scalars(2, {{"train/loss", 1}});
  EXPECT_EQ(read_records(read_all(writer.path())).size(), 3u);
}

TEST(TensorBoard, Tags) {
  EXPECT_EQ(huggingface_tag("eval_loss"), "eval/loss");
  EXPECT_EQ(huggingface_tag("test_acc"), "test/acc");
  EXPECT_EQ(huggingface_tag("loss"), "train/loss");
  EXPECT_EQ(huggingface_tag("evaluated"), "train/evaluated");
}

}  // namespace
}  // namespace engine
