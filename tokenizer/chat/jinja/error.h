// What goes wrong inside a template, and the bounds that make every rendering end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

namespace engine::jinja {

// Carries the name of the Python exception that Jinja would raise ("TemplateError",
// "UndefinedError", "TypeError", ...): authors of templates know those. Two are our own:
// "LimitError", a bound below was passed, and "UnsupportedError", a part of Jinja left out here.
class TemplateError : public std::exception {
 public:
  TemplateError(std::string type, std::string message, int line = 0)
      : type_(std::move(type)), message_(std::move(message)), line_(line) {
    full_ = type_ + ": " + message_;
  }
  const std::string& type() const { return type_; }
  const std::string& message() const { return message_; }
  // Line of the template, from 1; 0 = not known.
  int line() const { return line_; }
  void set_line(int line) {
    if (line_ == 0) line_ = line;
  }
  // "TemplateError: System role not supported"
  const char* what() const noexcept override { return full_.c_str(); }

 private:
  std::string type_, message_, full_;
  int line_;
};

// A template is untrusted code. All bounds are far above what conversations need.
struct Limits {
  uint64_t steps = 20'000'000;       // evaluations, elements and 64-byte stretches of text
  size_t bytes = size_t{512} << 20;  // of all values made while rendering, freed ones too
  size_t output_bytes = size_t{64} << 20;
  int depth = 500;  // nested statements, expressions and macro calls
};

// Counts one rendering down.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}

  void step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.steps) throw TemplateError("LimitError", "the template runs for too long");
  }
  // Comes before the memory is taken.
  void take(size_t bytes) {
    if (bytes > limits_.bytes || bytes_ > limits_.bytes - bytes) {
      throw TemplateError("LimitError", "the template makes too much data");
    }
    bytes_ += bytes;
    step(bytes / 64);
  }
  void output(size_t bytes) {
    if (bytes > limits_.output_bytes) {
      throw TemplateError("LimitError", "the rendered text is too long");
    }
  }
  void enter() {
    if (++depth_ > limits_.depth) {
      --depth_;
      throw TemplateError("LimitError", "the template is nested too deep, or calls itself forever");
    }
    step();
  }
  void leave() { --depth_; }

 private:
  Limits limits_;
  uint64_t steps_ = 0;
  size_t bytes_ = 0;
  int depth_ = 0;
};

class DepthGuard {
 public:
  explicit DepthGuard(Budget& budget) : budget_(budget) { budget.enter(); }
  ~DepthGuard() { budget_.leave(); }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Budget& budget_;
};

}  // namespace engine::jinja
