#include "engine/train/report/tfevents.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <system_error>

#include "engine/core/crc32c.h"
#include "engine/core/file_io.h"

namespace engine {
namespace tfevents {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie");

template <typename T>
void append_raw(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

// Protobuf: a field is a varint (number << 3 | wire type) and its payload.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  out += static_cast<char>(value);
}

void append_key(std::string& out, uint32_t field, WireType type) {
  append_varint(out, field << 3 | type);
}

void append_integer(std::string& out, uint32_t field, int64_t value) {
  append_key(out, field, kVarint);
  append_varint(out, static_cast<uint64_t>(value));
}

void append_double(std::string& out, uint32_t field, double value) {
  append_key(out, field, kFixed64);
  append_raw(out, value);
}

void append_float(std::string& out, uint32_t field, float value) {
  append_key(out, field, kFixed32);
  append_raw(out, value);
}

void append_bytes(std::string& out, uint32_t field, std::string_view value) {
  append_key(out, field, kBytes);
  append_varint(out, value.size());
  out += value;
}

std::string event_header(double wall_time, std::optional<int64_t> step) {
  std::string event;
  append_double(event, 1, wall_time);
  if (step) append_integer(event, 2, *step);
  return event;
}

}  // namespace

std::string frame_record(std::string_view data) {
  std::string record;
  append_raw<uint64_t>(record, data.size());
  append_raw<uint32_t>(record, masked_crc32c(crc32c(record.data(), record.size())));
  record += data;
  append_raw<uint32_t>(record, masked_crc32c(crc32c(data.data(), data.size())));
  return record;
}

std::string version_event(double wall_time, std::optional<int64_t> step) {
  std::string event = event_header(wall_time, step);
  append_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    append_bytes(value, 1, tag);
    append_float(value, 2, static_cast<float>(number));  // simple_value
    append_bytes(summary, 1, value);
  }
  std::string event = event_header(wall_time, step);
  append_bytes(event, 5, summary);
  return event;
}

std::string text_event(double wall_time, int64_t step, std::string_view tag,
                       std::string_view markdown) {
  std::string plugin;  // SummaryMetadata.PluginData
  append_bytes(plugin, 1, "text");
  std::string metadata;
  append_bytes(metadata, 1, plugin);
  std::string dimension;
  append_integer(dimension, 1, 1);
  std::string shape;
  append_bytes(shape, 2, dimension);
  std::string tensor;
  append_integer(tensor, 1, 7);  // DT_STRING
  append_bytes(tensor, 2, shape);
  append_bytes(tensor, 8, markdown);
  std::string value;
  append_bytes(value, 1, tag);
  append_bytes(value, 8, tensor);
  append_bytes(value, 9, metadata);
  std::string summary;
  append_bytes(summary, 1, value);
  std::string event = event_header(wall_time, step);
  append_bytes(event, 5, summary);
  return event;
}

std::string restart_event(double wall_time, int64_t step) {
  std::string log;
  append_integer(log, 1, 1);  // SessionStatus START
  std::string event = event_header(wall_time, step);
  append_bytes(event, 7, log);
  return event;
}

}  // namespace tfevents

std::string huggingface_tag(std::string_view metric) {
  for (const std::string_view prefix : {"eval_", "test_"}) {
    if (metric.starts_with(prefix)) {
      return fmt::format("{}/{}", prefix.substr(0, prefix.size() - 1),
                         metric.substr(prefix.size()));
    }
  }
  return fmt::format("train/{}", metric);
}

struct TensorBoardWriter::File {
  explicit File(const std::filesystem::path& path) : writer(path) {}
  FileWriter writer;
};

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory,
                                     std::optional<int64_t> resumed_step, WallClock clock)
    : clock_(std::move(clock)), last_flush_(clock_()) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw write_error(directory, error.value());
  std::array<char, 256> host = {};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') {
    std::strcpy(host.data(), "localhost");
  }
  static std::atomic<int> next_number = 0;
  do {
    path_ = directory / fmt::format("events.out.tfevents.{:.0f}.{}.{}.{}", std::floor(last_flush_),
                                    host.data(), ::getpid(), next_number++);
  } while (std::filesystem::exists(path_));
  file_ = std::make_unique<File>(path_);
  if (resumed_step) {
    append(tfevents::version_event(last_flush_, *resumed_step + 1));
    append(tfevents::restart_event(last_flush_, *resumed_step + 1));
  } else {
    append(tfevents::version_event(last_flush_));
  }
  flush();
}

TensorBoardWriter::~TensorBoardWriter() {
  try {
    close();
  } catch (const std::exception&) {  // documented: a destructor has nobody to tell
  }
}

void TensorBoardWriter::append(std::string_view event) {
  file_->writer.write(tfevents::frame_record(event));
}

void TensorBoardWriter::scalars(int64_t step, const tfevents::Scalars& values) {
  constexpr double kFlushSeconds = 30;
  const double now = clock_();
  append(tfevents::scalar_event(now, step, values));
  if (now - last_flush_ >= kFlushSeconds) flush();
}

void TensorBoardWriter::text(int64_t step, std::string_view tag, std::string_view markdown) {
  append(tfevents::text_event(clock_(), step, tag, markdown));
}

void TensorBoardWriter::write(const TrainRecord& record) {
  tfevents::Scalars values = {{"train/loss", record.loss},
                              {"train/learning_rate", record.lr},
                              {"train/epoch", record.epoch}};
  if (record.grad_norm) values.emplace_back("train/grad_norm", *record.grad_norm);
  values.emplace_back("train/tokens_per_second", record.tokens_per_second);
  values.emplace_back("train/step_ms", record.step_seconds * 1000);
  if (record.mfu) values.emplace_back("train/mfu", *record.mfu);
  if (record.peak_memory_bytes) {
    values.emplace_back("train/memory_peak_gib",
                        static_cast<double>(*record.peak_memory_bytes) / (1024.0 * 1024 * 1024));
  }
  scalars(record.step, values);
}

void TensorBoardWriter::write(const EvalRecord& record) {
  const auto tag = [&](std::string_view metric) {
    return huggingface_tag(fmt::format("{}_{}", record.name, metric));
  };
  tfevents::Scalars values = {{tag("loss"), record.loss}};
  if (record.accuracy) values.emplace_back(tag("accuracy"), *record.accuracy);
  for (const EvalGroup& group : record.groups)
    values.emplace_back(tag(group.name + "_loss"), group.loss);
  for (const auto& [name, value] : record.metrics) values.emplace_back(tag(name), value);
  scalars(record.step, values);
  flush();
}

void TensorBoardWriter::write(const SampleRecord& record) {
  // Indented by four columns: Markdown shows it as it is.
  std::string markdown = "    ";
  for (const char c : record.prompt + record.text) {
    markdown += c;
    if (c == '\n') markdown += "    ";
  }
  text(record.step, record.name.empty() ? "sample" : "sample/" + record.name, markdown);
}

void TensorBoardWriter::flush() {
  file_->writer.flush();
  last_flush_ = clock_();
}

void TensorBoardWriter::close() {
  if (!file_) return;
  const std::unique_ptr<File> file = std::move(file_);
  file->writer.close();
}

}  // namespace engine
