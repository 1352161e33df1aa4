// Large numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace engine {

// 124439808 -> "124,439,808"; `value` is not negative.
inline std::string digits(int64_t value) {
  std::string text = std::to_string(value);
  for (int64_t at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3) {
    text.insert(static_cast<size_t>(at), ",");
  }
  return text;
}

}  // namespace engine
