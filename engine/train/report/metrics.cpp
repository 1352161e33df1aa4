#include "engine/train/report/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/core/error.h"
#include "engine/core/file_io.h"

namespace engine {
namespace {

using nlohmann::ordered_json;

// A record under construction. Counts the numbers that JSON cannot hold.
class Line {
 public:
  Line(double time, const char* kind, int64_t step) {
    object_["t"] = iso_time(time);
    object_["kind"] = kind;
    object_["step"] = step;
  }

  template <typename T>
  void set(const char* key, T value) {
    object_[key] = std::move(value);
  }
  void set(const char* key, double value) { object_[key] = number(value); }
  template <typename T>
  void set(const char* key, const std::optional<T>& value) {
    if (value) {
      set(key, *value);
    } else {
      object_[key] = nullptr;
    }
  }

  ordered_json number(double value) {
    if (std::isfinite(value)) return value;
    ++nonfinite_;
    return nullptr;
  }

  std::string finish() const {
    return object_.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  }
  std::string finish(int64_t nonfinite) {
    object_["nonfinite"] = std::max(nonfinite, nonfinite_);
    return finish();
  }

 private:
  ordered_json object_;
  int64_t nonfinite_ = 0;
};

// Times have no use for sixteen digits.
double milliseconds(double seconds) {
  return std::round(seconds * 1e6) / 1e3;
}
double rounded_seconds(double seconds) {
  return std::round(seconds * 1e3) / 1e3;
}

struct ParsedRecord {
  std::string kind;
  int64_t step = 0;
};

std::optional<ParsedRecord> parse_record(std::string_view line) {
  const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return std::nullopt;
  const auto kind = object.find("kind");
  const auto step = object.find("step");
  if (kind == object.end() || !kind->is_string() || step == object.end() ||
      !step->is_number_integer()) {
    return std::nullopt;
  }
  return ParsedRecord{kind->get<std::string>(), step->get<int64_t>()};
}

std::string kept_text(const std::filesystem::path& path, int64_t last_step, MetricsResume& report) {
  const std::string text = read_text_file(path);
  std::string kept;
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const bool whole = newline != std::string::npos;
    const size_t end = whole ? newline + 1 : text.size();
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end;
    ++line_number;
    const std::optional<ParsedRecord> record = parse_record(line);
    if (!record && begin < text.size()) {
      throw Error(
          ExitCode::io, "LOG-CORRUPT",
          fmt::format("{}:{} is not a record of a training log", path.string(), line_number))
          .expected("{\"t\": ..., \"kind\": ..., \"step\": ...} on one line")
          .found(std::string(line.substr(0, 60)))
          .fix("repair that line, or move the file away to begin a new log");
    }
    // A record without its newline was not finished, even if what there is happens to parse.
    if (!record || !whole || record->step > last_step || record->kind == "summary") {
      ++report.dropped;
      continue;
    }
    ++report.kept;
    if (record->kind == "checkpoint" && record->step == last_step) {
      report.has_checkpoint_record = true;
    }
    kept += line;
  }
  return kept;
}

}  // namespace

double wall_time() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

std::string iso_time(double seconds_since_1970) {
  const auto milliseconds = static_cast<int64_t>(std::floor(seconds_since_1970 * 1000.0 + 0.5));
  const auto seconds = static_cast<time_t>(milliseconds / 1000);
  std::tm utc = {};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     milliseconds % 1000);
}

MetricsLog::MetricsLog(std::filesystem::path path, WallClock clock)
    : path_(std::move(path)), clock_(std::move(clock)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw write_error(path_, errno);
}

MetricsLog::MetricsLog(MetricsLog&& other) noexcept
    : path_(std::move(other.path_)),
      clock_(std::move(other.clock_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

MetricsLog& MetricsLog::operator=(MetricsLog&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(clock_, other.clock_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

MetricsLog::~MetricsLog() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

MetricsLog MetricsLog::create(const std::filesystem::path& path, WallClock clock) {
  std::error_code ignored;
  const uintmax_t size = std::filesystem::file_size(path, ignored);
  if (!ignored && size > 0) {
    throw Error(ExitCode::usage, "LOG-EXISTS", path.string() + " already holds a training log")
        .fix("continue that run with train.resume=true, or choose another train.output_dir");
  }
  return MetricsLog(path, std::move(clock));
}

MetricsLog MetricsLog::resume(const std::filesystem::path& path, int64_t step,
                              MetricsResume* report, WallClock clock) {
  MetricsResume counts;
  if (std::filesystem::exists(path)) {
    const std::string kept = kept_text(path, step, counts);
    if (counts.dropped > 0) write_file_atomically(path, std::string_view(kept));
  }
  if (report != nullptr) *report = counts;
  return MetricsLog(path, std::move(clock));
}

void MetricsLog::append(std::string line) {
  struct stat status = {};
  const bool known_size = ::fstat(descriptor_, &status) == 0;
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t n = ::write(descriptor_, line.data() + written, line.size() - written);
    if (n >= 0) {
      written += static_cast<size_t>(n);
      continue;
    }
    if (errno == EINTR) continue;
    const int error_number = errno;
    // Half a line would make the file unreadable from here on.
    if (written > 0 && known_size && ::ftruncate(descriptor_, status.st_size) != 0) {
      written = 0;  // nothing more can be done: resume drops a torn last line
    }
    throw write_error(path_, error_number, line.size());
  }
}

void MetricsLog::sync() {
  // EINVAL: a pipe or a device, which has no disk to wait for.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) throw write_error(path_, errno);
}

void MetricsLog::write(const TrainRecord& record) {
  Line line(clock_(), "train", record.step);
  line.set("epoch", record.epoch);
  line.set("loss", record.loss);
  line.set("loss_ema", record.loss_ema);
  line.set("grad_norm", record.grad_norm);
  line.set("clipped", record.clipped);
  line.set("lr", record.lr);
  line.set("tokens", record.tokens);
  line.set("tokens_trained", record.tokens_trained);
  line.set("tokens_total", record.tokens_total);
  line.set("step_ms", milliseconds(record.step_seconds));
  line.set("data_ms", milliseconds(record.data_seconds));
  line.set("tok_s", std::round(record.tokens_per_second * 10) / 10);
  line.set("mfu", record.mfu);
  line.set("mem_peak_bytes", record.peak_memory_bytes);
  append(line.finish(record.nonfinite));
}

void MetricsLog::write(const EvalRecord& record) {
  Line line(clock_(), "eval", record.step);
  line.set("epoch", record.epoch);
  line.set("name", record.name);
  line.set("loss", record.loss);
  line.set("ppl", record.per_token ? std::optional(std::exp(record.loss)) : std::nullopt);
  line.set("acc", record.accuracy);
  line.set("rows", record.rows);
  line.set("tokens_trained", record.tokens_trained);
  ordered_json groups = ordered_json::object();
  for (const EvalGroup& group : record.groups) {
    ordered_json& entry = groups[group.name];
    entry = {{"loss", line.number(group.loss)}, {"n", group.rows}};
    if (!group.scores) continue;
    entry["precision"] = group.scores->precision;
    entry["recall"] = group.scores->recall;
    entry["f1"] = group.scores->f1;
  }
  line.set("groups", std::move(groups));
  ordered_json metrics = ordered_json::object();
  for (const auto& [name, value] : record.metrics) metrics[name] = line.number(value);
  line.set("metrics", std::move(metrics));
  line.set("best", record.is_best);
  line.set("seconds", rounded_seconds(record.seconds));
  append(line.finish(0));
}

void MetricsLog::write(const SampleRecord& record) {
  Line line(clock_(), "sample", record.step);
  line.set("name", record.name);
  line.set("prompt", record.prompt);
  line.set("text", record.text);
  line.set("reference", record.reference);
  line.set("tokens", record.tokens);
  line.set("stop", record.stop);
  append(line.finish());
}

void MetricsLog::write(const CheckpointRecord& record) {
  Line line(clock_(), "checkpoint", record.step);
  line.set("path", record.path);
  line.set("bytes", record.bytes);
  line.set("best", record.is_best);
  line.set("seconds", rounded_seconds(record.seconds));
  append(line.finish());
}

void MetricsLog::write(const SummaryRecord& record) {
  Line line(clock_(), "summary", record.step);
  line.set("epoch", record.epoch);
  line.set("train_loss", record.train_loss);
  line.set("best_metric", record.best_metric);
  line.set("best_step", record.best_step);
  line.set("tokens_total", record.tokens_total);
  line.set("tokens_trained_total", record.tokens_trained_total);
  line.set("total_flops", record.total_flops);
  line.set("skipped", record.skipped);
  line.set("stopped_by", record.stopped_by);
  line.set("seconds", rounded_seconds(record.seconds));
  line.set("train_seconds", rounded_seconds(record.train_seconds));
  line.set("eval_seconds", rounded_seconds(record.eval_seconds));
  line.set("checkpoint_seconds", rounded_seconds(record.checkpoint_seconds));
  line.set("data_seconds", rounded_seconds(record.data_seconds));
  append(line.finish(record.nonfinite));
}

}  // namespace engine
