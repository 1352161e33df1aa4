#include "engine/data/data_error.h"

namespace engine {

Error data_error(std::string code, std::string what) {
  return Error(ExitCode::data, std::move(code), std::move(what));
}

Error data_error(std::string code, std::string_view file, uint64_t line, std::string_view what) {
  return Error(ExitCode::data, std::move(code),
               std::string(file) + ":" + std::to_string(line) + ": " + std::string(what));
}

std::string group_digits(int64_t value) {
  std::string digits = std::to_string(value);
  for (int i = static_cast<int>(digits.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<size_t>(i), " ");
  }
  return digits;
}

}  // namespace engine
