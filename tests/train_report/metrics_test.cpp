#include "engine/train/report/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/core/error.h"
#include "engine/train/report/trackers.h"
#include "tests/train_report/temporary_directory.h"

namespace engine {
namespace {

using nlohmann::ordered_json;
using testing::read_all;
using testing::TemporaryDirectory;
using testing::write_all;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double fixed_time() {
  return 1776765624.213;
}

TrainRecord example_record() {
  TrainRecord record;
  record.step = 60;
  record.epoch = 0.594;
  record.loss = 1.8421;
  record.loss_ema = 1.874;
  record.grad_norm = 1.12;
  record.clipped = true;
  record.lr = 1.9e-5;
  record.tokens = 33920;
  record.tokens_trained = 20114;
  record.tokens_total = 2035200;
  record.step_seconds = 0.3811;
  record.data_seconds = 0.0011;
  record.tokens_per_second = 89006;
  record.mfu = 0.314;
  record.peak_memory_bytes = 20293877760;
  return record;
}

std::vector<ordered_json> parse_lines(const std::string& text) {
  std::vector<ordered_json> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(ordered_json::parse(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return lines;
}

TEST(MetricsLog, TrainRecordHasExactlyTheDocumentedText) {
  const TemporaryDirectory directory;
  MetricsLog log = MetricsLog::create(directory / "metrics.jsonl", fixed_time);
  log.write(example_record());
  // Read while the log is open: every record is on its way out when write() returns.
  EXPECT_EQ(read_all(directory / "metrics.jsonl"),
            "{\"t\":\"2026-04-21T10:00:24.213Z\",\"kind\":\"train\",\"step\":60,\"epoch\":0.594,"
            "\"loss\":1.8421,\"loss_ema\":1.874,\"grad_norm\":1.12,\"clipped\":true,\"lr\":1.9e-05,"
            "\"tokens\":33920,\"tokens_trained\":20114,\"tokens_total\":2035200,\"step_ms\":381.1,"
            "\"data_ms\":1.1,\"tok_s\":89006.0,\"mfu\":0.314,\"mem_peak_bytes\":20293877760,"
            "\"nonfinite\":0}\n");
}

TEST(MetricsLog, NonFiniteNumbersAreNullAndCounted) {
  const TemporaryDirectory directory;
  MetricsLog log = MetricsLog::create(directory / "m", fixed_time);
  TrainRecord record = example_record();
  record.loss = kNaN;
  record.grad_norm = std::numeric_limits<double>::infinity();
  log.write(record);
  record.nonfinite = 7;
  log.write(record);
  EvalRecord eval;
  eval.loss = 1000;  // its perplexity overflows
  eval.groups = {{"news", kNaN, 3}};
  eval.metrics = {{"f1", kNaN}};
  log.write(eval);
  const auto lines = parse_lines(read_all(directory / "m"));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(lines[0].at("loss").is_null());
  EXPECT_TRUE(lines[0].at("grad_norm").is_null());
  EXPECT_EQ(lines[0].at("nonfinite"), 2);
  EXPECT_EQ(lines[1].at("nonfinite"), 7);
  EXPECT_TRUE(lines[2].at("ppl").is_null());
  EXPECT_TRUE(lines[2].at("groups").at("news").at("loss").is_null());
  EXPECT_EQ(lines[2].at("nonfinite"), 3);
}

TEST(MetricsLog, AllKindsAreOneLegalLineEach) {
  const TemporaryDirectory directory;
  MetricsLog log = MetricsLog::create(directory / "m", fixed_time);
  SampleRecord sample;
  sample.step = 60;
  sample.text = "two\nlines \xff \"quoted\"";  // not UTF-8
  log.write(sample);
  CheckpointRecord checkpoint;
  checkpoint.step = 60;
  checkpoint.path = "checkpoint-60";
  checkpoint.is_best = true;
  log.write(checkpoint);
  SummaryRecord summary;
  summary.step = 60;
  summary.train_loss = kNaN;
  log.write(summary);
  const auto lines = parse_lines(read_all(directory / "m"));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].at("kind"), "sample");
  EXPECT_EQ(lines[0].at("text"), "two\nlines \xef\xbf\xbd \"quoted\"");
  EXPECT_EQ(lines[1].at("best"), true);
  EXPECT_EQ(lines[2].at("kind"), "summary");
  EXPECT_TRUE(lines[2].at("best_metric").is_null());
  EXPECT_EQ(lines[2].at("nonfinite"), 1);
}

TEST(MetricsLog, NeverOverwritesAnotherLog) {
  const TemporaryDirectory directory;
  write_all(directory / "m", "");
  EXPECT_NO_THROW(MetricsLog::create(directory / "m"));
  write_all(directory / "m", "{}\n");
  try {
    MetricsLog::create(directory / "m");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOG-EXISTS");
    EXPECT_EQ(error.exit_code(), ExitCode::usage);
  }
  EXPECT_EQ(read_all(directory / "m"), "{}\n");
}

// A small trainer: logs every step, evaluates every third, checkpoints every fourth with its
// trackers' state, and dies after `die_after` steps in the middle of writing a line.
struct ToyRun {
  std::filesystem::path path;
  std::string state;  // of the newest checkpoint

  void go(MetricsLog& log, int64_t first_step, int64_t die_after, ExponentialAverage ema) {
    for (int64_t step = first_step; step <= 12; ++step) {
      if (step > die_after) return;
      TrainRecord record = example_record();
      record.step = step;
      record.loss = 3.0 / std::sqrt(static_cast<double>(step));
      ema.add(record.loss);
      record.loss_ema = ema.value();
      log.write(record);
      if (step % 3 == 0) {
        EvalRecord eval;
        eval.step = step;
        eval.loss = record.loss * 1.1;
        log.write(eval);
      }
      if (step % 4 == 0) {
        state = ema.to_json().dump();
        CheckpointRecord checkpoint;
        checkpoint.step = step;
        log.write(checkpoint);
      }
    }
    SummaryRecord summary;
    summary.step = 12;
    log.write(summary);
  }
};

std::vector<ordered_json> without_times(const std::filesystem::path& path) {
  std::vector<ordered_json> lines = parse_lines(read_all(path));
  for (ordered_json& line : lines) {
    for (const std::string_view key : kTimingKeys) line.erase(std::string(key));
  }
  return lines;
}

TEST(MetricsLog, ResumedRunEqualsUninterruptedRun) {
  const TemporaryDirectory directory;
  ToyRun whole = {directory / "whole", ""};
  {
    MetricsLog log = MetricsLog::create(whole.path, fixed_time);
    whole.go(log, 1, 99, ExponentialAverage());
  }
  for (const int64_t die_after : {4, 5, 6, 7, 8, 11, 12}) {
    SCOPED_TRACE(die_after);
    const int64_t checkpoint = die_after / 4 * 4;
    ToyRun cut = {directory / ("cut" + std::to_string(die_after)), ""};
    {
      MetricsLog log = MetricsLog::create(cut.path, fixed_time);
      cut.go(log, 1, die_after, ExponentialAverage());
    }
    const std::string before = read_all(cut.path);
    write_all(cut.path, before + "{\"t\":\"2026-04-2");  // killed inside a write
    MetricsResume report;
    MetricsLog log = MetricsLog::resume(cut.path, checkpoint, &report, [] { return 1.8e9; });
    EXPECT_TRUE(report.has_checkpoint_record);
    EXPECT_EQ(report.kept, checkpoint + checkpoint / 3 + checkpoint / 4);
    EXPECT_EQ(report.kept + report.dropped, 1 + static_cast<int64_t>(parse_lines(before).size()));
    ExponentialAverage ema;
    ema.from_json(nlohmann::json::parse(cut.state));
    cut.go(log, checkpoint + 1, 99, ema);
    EXPECT_EQ(without_times(cut.path), without_times(whole.path));
  }
}

TEST(MetricsLog, ResumeSaysWhenTheCheckpointWasNotLogged) {
  const TemporaryDirectory directory;
  {
    MetricsLog log = MetricsLog::create(directory / "m", fixed_time);
    TrainRecord record = example_record();
    for (record.step = 1; record.step <= 3; ++record.step) log.write(record);
  }
  MetricsResume report;
  MetricsLog::resume(directory / "m", 2, &report);
  EXPECT_EQ(report.kept, 2);
  EXPECT_EQ(report.dropped, 1);
  EXPECT_FALSE(report.has_checkpoint_record);
  MetricsLog::resume(directory / "absent", 2, &report);
  EXPECT_EQ(report.kept, 0);
}

TEST(MetricsLog, AnUnfinishedLineIsDroppedEvenIfItParses) {
  const TemporaryDirectory directory;
  write_all(directory / "m", "{\"kind\":\"train\",\"step\":1}\n{\"kind\":\"train\",\"step\":2}");
  MetricsResume report;
  MetricsLog::resume(directory / "m", 9, &report);
  EXPECT_EQ(report.kept, 1);
  EXPECT_EQ(read_all(directory / "m"), "{\"kind\":\"train\",\"step\":1}\n");
}

TEST(MetricsLog, RefusesToTruncateWhatItDoesNotUnderstand) {
  const TemporaryDirectory directory;
  const std::string text =
      "{\"kind\":\"train\",\"step\":1}\nhello\n{\"kind\":\"train\",\"step\":2}\n";
  write_all(directory / "m", text);
  try {
    MetricsLog::resume(directory / "m", 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "LOG-CORRUPT");
    EXPECT_NE(std::string(error.what()).find("m:2"), std::string::npos) << error.what();
  }
  EXPECT_EQ(read_all(directory / "m"), text);
}

TEST(MetricsLog, FullDiskIsOneClearError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TemporaryDirectory directory;
  std::filesystem::create_symlink("/dev/full", directory / "m");
  MetricsLog full = MetricsLog::create(directory / "m");
  try {
    full.write(example_record());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::io);
    EXPECT_EQ(error.code(), "IO-FULL");
  }
}

TEST(MetricsLog, ALineThatDoesNotFitIsTakenBack) {
  const TemporaryDirectory directory;
  MetricsLog log = MetricsLog::create(directory / "m", fixed_time);
  log.write(example_record());
  const std::string one_line = read_all(directory / "m");
  rlimit old = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit small = old;
  small.rlim_cur = one_line.size() + 100;  // the next line fits in part
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string code;
  try {
    log.write(example_record());
  } catch (const Error& error) {
    code = error.code();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(code, "IO-FULL");
  EXPECT_EQ(read_all(directory / "m"), one_line);
  log.write(example_record());
  EXPECT_EQ(read_all(directory / "m"), one_line + one_line);
}

TEST(IsoTime, RoundsToMilliseconds) {
  EXPECT_EQ(iso_time(0), "1970-01-01T00:00:00.000Z");
  EXPECT_EQ(iso_time(951782399.9996), "2000-02-29T00:00:00.000Z");
}

}  // namespace
}  // namespace engine
