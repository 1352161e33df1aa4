// Where lines go, and the progress bar below them.
//
// On a terminal the last line is a live bar, redrawn in place at most ten times a second, cut to
// the width of the terminal, and removed while another line is printed. Anywhere else (a pipe, a
// log file) there is no bar and no control character: only whole lines, one per log.every.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "engine/train/report/lines.h"

namespace engine {

struct Progress {
  int64_t step = 0;  // may be any unit: rows tokenised, evaluation batches
  int64_t total_steps = 0;
  std::string label = "train";
  std::string text;  // such as "loss 1.8421 | 89.0k tok/s"
  std::optional<double> seconds_left;
};

struct ConsoleOptions {
  TextStyle style;
  bool live = false;  // a bar may be drawn: only on a terminal
  // Replaceable for tests.
  std::function<void(std::string_view)> sink;  // must not throw
  std::function<double()> monotonic_seconds;
  std::function<int()> width;  // current terminal width; 0 = not known
};

class Console {
 public:
  // To a file descriptor, usually standard error or standard output. A write that fails (closed
  // pipe) is ignored: losing the console must not lose the run.
  explicit Console(int descriptor, ColorMode color = ColorMode::automatic);
  explicit Console(ConsoleOptions options);
  ~Console();  // removes the bar

  const TextStyle& style() const { return options_.style; }
  bool live() const { return options_.live; }

  // All may be called from any thread.
  void print(std::string_view text);        // one or more lines; a newline is added
  void progress(const Progress& progress);  // cheap: returns at once within 0.1 s of the last
  void clear_progress();

 private:
  void erase();

  ConsoleOptions options_;
  std::mutex mutex_;
  std::string bar_;
  bool drawn_ = false;
  std::optional<double> last_draw_;
};

// The bar itself, cut to `width` columns (0 = 80): "train  20% [####......] 60/303 ...".
std::string progress_bar(const Progress& progress, int width, const TextStyle& style);

}  // namespace engine
