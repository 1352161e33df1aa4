#include "engine/train/report/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "engine/train/report/format.h"

namespace engine {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr std::string_view kEraseLine = "\r\x1b[K";

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(descriptor, text.data(), text.size());
    if (n > 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return;
    }
  }
}

int columns(int descriptor) {
  winsize size = {};
  return ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

ConsoleOptions options_for(int descriptor, ColorMode color) {
  ConsoleOptions options;
  options.style = TextStyle::detect(descriptor, color);
  const char* term = std::getenv("TERM");
  options.live = ::isatty(descriptor) == 1 && term != nullptr && std::string_view(term) != "dumb";
  options.sink = [descriptor](std::string_view text) { write_all(descriptor, text); };
  options.monotonic_seconds = steady_seconds;
  options.width = [descriptor] { return columns(descriptor); };
  return options;
}

}  // namespace

std::string progress_bar(const Progress& progress, int width, const TextStyle& style) {
  constexpr int kDefaultWidth = 80;
  constexpr int kBarWidth = 24;
  constexpr int kSmallestBar = 5;
  // The last column stays free: some terminals wrap when it is written.
  const int room = (width > 0 ? width : kDefaultWidth) - 1;
  const double share = progress.total_steps > 0
                           ? std::clamp(static_cast<double>(progress.step) /
                                            static_cast<double>(progress.total_steps),
                                        0.0, 1.0)
                           : 0.0;
  const std::string head = fmt::format("{} {:>3.0f}%", progress.label, std::floor(share * 100));
  std::string tail = fmt::format("{}/{}", progress.step, progress.total_steps);
  if (progress.seconds_left) tail += " eta " + duration(*progress.seconds_left);
  if (!progress.text.empty()) tail += " | " + escape_line(progress.text);
  const int left = room - display_width(head) - display_width(tail) - 4;
  const int bar = std::min(kBarWidth, left);
  std::string line = head + " ";
  if (bar >= kSmallestBar) {
    const int filled = static_cast<int>(share * bar);
    line += style.pick("▕", "[");
    for (int i = 0; i < bar; ++i) line += i < filled ? style.pick("█", "#") : style.pick("·", ".");
    line += style.pick("▏", "]");
    line += " ";
  }
  return cut_to_width(line + tail, std::max(0, room));
}

Console::Console(int descriptor, ColorMode color) : Console(options_for(descriptor, color)) {}

Console::Console(ConsoleOptions options) : options_(std::move(options)) {}

Console::~Console() {
  clear_progress();
}

void Console::erase() {
  if (drawn_) options_.sink(kEraseLine);
  drawn_ = false;
}

void Console::print(std::string_view text) {
  const std::lock_guard lock(mutex_);
  // One write, so that lines of several processes on one terminal do not mix.
  std::string out = drawn_ ? std::string(kEraseLine) : std::string();
  out += text;
  out += '\n';
  if (drawn_) out += bar_;
  options_.sink(out);
}

void Console::progress(const Progress& progress) {
  if (!options_.live) return;
  const std::lock_guard lock(mutex_);
  const double now = options_.monotonic_seconds();
  const bool finished = progress.step >= progress.total_steps;
  if (last_draw_ && now - *last_draw_ < kRedrawSeconds && !finished) return;
  last_draw_ = now;
  bar_ = progress_bar(progress, options_.width(), options_.style);
  drawn_ = true;
  options_.sink(std::string(kEraseLine) + bar_);
}

void Console::clear_progress() {
  const std::lock_guard lock(mutex_);
  erase();
  bar_.clear();
}

}  // namespace engine
