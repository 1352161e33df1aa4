// JSON that anybody may have written: configs beside weights, rows of data.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace engine {

// No real file has more levels. What walks over a document (copies, prints or renders it) calls
// itself for every level, and a hostile one could exhaust the stack.
inline constexpr size_t kMaxJsonDepth = 256;

// Where the first bracket stands that is nested deeper than that; npos if none is. Brackets within
// strings do not count.
size_t find_deep_nesting(std::string_view text);

// Json::parse, whose parse_error it also throws where the text is nested too deep. Json is
// nlohmann::json or ordered_json. Of a key that stands twice the last value counts.
template <typename Json>
Json parse_json(std::string_view text) {
  const size_t deep = find_deep_nesting(text);
  if (deep != std::string_view::npos) {
    throw Json::parse_error::create(
        101, deep + 1, "nested deeper than " + std::to_string(kMaxJsonDepth) + " levels", nullptr);
  }
  return Json::parse(text);
}

}  // namespace engine
