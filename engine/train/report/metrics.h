// metrics.jsonl: one JSON object per line for everything that happened, the source of truth from
// which TensorBoard, CSV and plots can be made again.
//
//   {"t":"2026-04-21T10:00:24.213Z","kind":"train","step":60,"epoch":0.594,"loss":1.8421,
//    "loss_ema":1.874,"grad_norm":1.12,"clipped":true,"lr":1.9e-05,"tokens":33920,
//    "tokens_trained":20114,"tokens_total":2035200,"step_ms":381.1,"data_ms":1.1,"tok_s":89006.0,
//    "mfu":0.314,"mem_peak_bytes":20293877760,"nonfinite":0}
//   {"t":...,"kind":"eval","step":60,"epoch":0.594,"name":"eval","loss":1.9033,"ppl":6.708,
//    "acc":0.588,"rows":580,"tokens_trained":30211,"groups":{"news":{"loss":1.71,"n":400}},
//    "metrics":{"exact_match":0.4},"best":true,"seconds":2.1,"nonfinite":0}
//   {"t":...,"kind":"sample","step":60,"name":"dialog#3","prompt":...,"text":...,
//    "reference":...,"tokens":32,"stop":"eos"}
//   {"t":...,"kind":"checkpoint","step":60,"path":...,"bytes":...,"best":true,"seconds":1.3}
//   {"t":...,"kind":"summary","step":303,...}
//
// Values that do not exist are null. Non-finite numbers are null too, and `nonfinite` then counts
// at least them: a run that breaks must not look like one that was not measured.
//
// Each record is one write() of one whole line, so a killed run leaves at most its last line torn.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "engine/train/report/records.h"

namespace engine {

// Seconds since 1970, UTC.
using WallClock = std::function<double()>;
double wall_time();
// "2026-04-21T10:00:24.213Z".
std::string iso_time(double seconds_since_1970);

// The keys whose values depend on when and where a run ran. All others of an interrupted and
// resumed run equal those of an uninterrupted one.
inline constexpr std::array<std::string_view, 11> kTimingKeys = {"t",
                                                                 "step_ms",
                                                                 "data_ms",
                                                                 "tok_s",
                                                                 "mfu",
                                                                 "mem_peak_bytes",
                                                                 "seconds",
                                                                 "train_seconds",
                                                                 "eval_seconds",
                                                                 "checkpoint_seconds",
                                                                 "data_seconds"};

// What resuming did to the file.
struct MetricsResume {
  int64_t kept = 0;     // records
  int64_t dropped = 0;  // records after the checkpoint, a torn last line included
  // False when the run was killed after the checkpoint was complete and before it was logged:
  // write its record again.
  bool has_checkpoint_record = false;
};

class MetricsLog {
 public:
  // A new file. Throws Error LOG-EXISTS (exit code usage) if there are records already: a log is
  // never overwritten silently.
  static MetricsLog create(const std::filesystem::path& path, WallClock clock = wall_time);

  // Continues after the checkpoint of `step`: records of later steps and the summary of a finished
  // run are removed (the file is replaced in one step, so that a crash here loses nothing). The
  // trainer must have written what belongs to `step` in the order train, eval, sample, checkpoint.
  // A missing file is begun anew. Throws Error LOG-CORRUPT (exit code io) for a line that is not a
  // record, except the last one, which a killed run may have left unfinished.
  static MetricsLog resume(const std::filesystem::path& path, int64_t step,
                           MetricsResume* report = nullptr, WallClock clock = wall_time);

  MetricsLog(MetricsLog&& other) noexcept;
  MetricsLog& operator=(MetricsLog&& other) noexcept;
  ~MetricsLog();

  // All throw Error IO-FULL, IO-READONLY or IO-WRITE (exit code io); a line that did not fit on the
  // disk is taken back first.
  void write(const TrainRecord& record);
  void write(const EvalRecord& record);
  void write(const SampleRecord& record);
  void write(const CheckpointRecord& record);
  void write(const SummaryRecord& record);

  void sync();  // wait for the disk; before a checkpoint refers to what was logged

  const std::filesystem::path& path() const { return path_; }

 private:
  MetricsLog(std::filesystem::path path, WallClock clock);
  void append(std::string line);

  std::filesystem::path path_;
  WallClock clock_;
  int descriptor_ = -1;
};

}  // namespace engine
