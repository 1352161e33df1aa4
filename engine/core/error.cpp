#include "engine/core/error.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

namespace engine {

Error::Error(ExitCode exit_code, std::string code, std::string what)
    : exit_code_(exit_code), code_(std::move(code)), message_(std::move(what)) {
  render();
}

Error& Error::with(std::string label, std::string text) {
  details_.emplace_back(std::move(label), std::move(text));
  render();
  return *this;
}

void Error::render() {
  constexpr size_t kLabelWidth = 8;
  rendered_ = "error[" + code_ + "]: " + message_;
  for (const auto& [label, text] : details_) {
    rendered_ += "\n  " + label +
                 std::string(label.size() < kLabelWidth ? kLabelWidth - label.size() : 0, ' ') +
                 "  ";
    for (char c : text) {  // further lines of a text stay under its first
      rendered_ += c;
      if (c == '\n') rendered_ += std::string(kLabelWidth + 4, ' ');
    }
  }
}

std::string Error::json() const {
  nlohmann::ordered_json object;
  object["error"] = code_;
  object["message"] = message_;
  object["exit_code"] = static_cast<int>(exit_code_);
  for (const auto& [label, text] : details_) {  // a label may come twice
    object[label] = object.contains(label) ? object[label].get<std::string>() + "\n" + text : text;
  }
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // Levenshtein distance, one row at a time.
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t above = row[j];
        row[j] =
            std::min({above + 1, row[j - 1] + 1, diagonal + (word[i - 1] != candidate[j - 1])});
        diagonal = above;
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace engine
