// Numbers in JSON. Plain JSON has no NaN and no infinities, and a state that is restored must be
// the state that was saved, so in *states* (not in reports) these are the strings "nan", "inf" and
// "-inf". Private to the .cpp files of this folder: it needs the whole of nlohmann/json.
#pragma once

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace engine {

inline nlohmann::json number_to_json(double value) {
  if (std::isfinite(value)) return value;
  if (std::isnan(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

inline nlohmann::json number_to_json(const std::optional<double>& value) {
  return value ? number_to_json(*value) : nlohmann::json();
}

// null is no number.
inline std::optional<double> number_from_json(const nlohmann::json& value) {
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    if (text == "inf") return std::numeric_limits<double>::infinity();
    if (text == "-inf") return -std::numeric_limits<double>::infinity();
    return std::numeric_limits<double>::quiet_NaN();
  }
  return value.get<double>();
}

}  // namespace engine
