// TensorBoard event files, written without TensorFlow or protobuf.
//
// A file is a sequence of records: u64 length, u32 masked CRC-32C of the length, data, u32 masked
// CRC-32C of the data, all little-endian. The data are protobuf messages tensorflow.Event, of which
// this writes wall_time (1), step (2), file_version (3), summary (5) and session_log (7).
// Tags are those of the Hugging Face Trainer: train/loss, train/learning_rate, eval/loss.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/train/report/metrics.h"

namespace engine {

// The encoding, for tests and other writers.
namespace tfevents {

using Scalars = std::vector<std::pair<std::string, double>>;

std::string frame_record(std::string_view data);
std::string version_event(double wall_time, std::optional<int64_t> step = std::nullopt);
std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars);
std::string text_event(double wall_time, int64_t step, std::string_view tag,
                       std::string_view markdown);
// Tells TensorBoard that points at `step` and later of earlier files of the run are void.
std::string restart_event(double wall_time, int64_t step);

}  // namespace tfevents

// "eval_loss" → "eval/loss", "test_x" → "test/x", anything else → "train/...".
std::string huggingface_tag(std::string_view metric);

class TensorBoardWriter {
 public:
  // Opens a new file events.out.tfevents.<seconds>.<host>.<pid>.<n> in `directory`, which is made
  // if needed. After a resume at `resumed_step` completed steps it begins with a restart event for
  // the step after, so that a chart shows each step once. Throws Error (exit code io).
  explicit TensorBoardWriter(const std::filesystem::path& directory,
                             std::optional<int64_t> resumed_step = std::nullopt,
                             WallClock clock = wall_time);
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;
  ~TensorBoardWriter();  // closes; what cannot be written any more is lost silently: close() throws

  // Points of one step, as one event. Values are stored in single precision; non-finite ones too,
  // TensorBoard marks them.
  void scalars(int64_t step, const tfevents::Scalars& values);
  void text(int64_t step, std::string_view tag, std::string_view markdown);

  void write(const TrainRecord& record);
  void write(const EvalRecord& record);
  void write(const SampleRecord& record);

  // Data reaches the file at least every 30 s of use, at flush() and at close().
  void flush();
  void close();

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(std::string_view event);

  std::filesystem::path path_;
  WallClock clock_;
  struct File;
  std::unique_ptr<File> file_;
  double last_flush_ = 0;
};

}  // namespace engine
