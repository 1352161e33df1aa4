// The one error type that reaches users, and the exit codes of the command.
//
// An error says, on one screen: what happened, where, what was expected and what was found, the
// likely cause and what to do about it. It renders as
//
//   error[ST-TRUNCATED]: model.safetensors is 812 bytes, its header promises 9 804
//     file      models/x/model.safetensors
//     expected  9804 bytes
//     found     812 bytes
//     why       interrupted download or full disk
//     fix       download the file again
//
// Programming mistakes inside the engine are std::logic_error instead and exit with `internal`.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine {

enum class ExitCode : int {
  ok = 0,
  internal = 1,       // a bug of ours
  usage = 2,          // command line or config
  data = 3,           // dataset
  checkpoint = 4,     // checkpoint or tokenizer files
  out_of_memory = 5,  // predicted or real
  numerical = 6,      // NaN, Inf, divergence
  distributed = 7,    // timeout or lost peer
  interrupted = 8,    // SIGINT/SIGTERM: a checkpoint was written, or no step was made
  io = 74,            // EX_IOERR: full or read-only disk while writing
  retry = 75,         // EX_TEMPFAIL: requeue me
};

class Error : public std::exception {
 public:
  // `code` is a stable upper-case identifier such as "CKPT-SHAPE"; `what` one sentence.
  Error(ExitCode exit_code, std::string code, std::string what);

  // Adds a labelled line. Labels are short words; the usual ones have a shorthand below.
  Error& with(std::string label, std::string text);
  Error& where(std::string text) { return with("where", std::move(text)); }
  Error& expected(std::string text) { return with("expected", std::move(text)); }
  Error& found(std::string text) { return with("found", std::move(text)); }
  Error& why(std::string text) { return with("why", std::move(text)); }
  Error& fix(std::string text) { return with("fix", std::move(text)); }

  ExitCode exit_code() const { return exit_code_; }
  const std::string& code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::vector<std::pair<std::string, std::string>>& details() const { return details_; }

  // The whole text as shown above, without a trailing newline.
  const char* what() const noexcept override { return rendered_.c_str(); }
  // {"error": code, "message": ..., "exit_code": n, "<label>": ...} on one line.
  std::string json() const;

 private:
  void render();

  ExitCode exit_code_;
  std::string code_;
  std::string message_;
  std::vector<std::pair<std::string, std::string>> details_;
  std::string rendered_;
};

// "did you mean ...?": the candidate nearest to `word` by edit distance, or "" if none is near.
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace engine
