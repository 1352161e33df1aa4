// The current value of a field, as text.
#include <fmt/format.h>

#include "engine/config/schema.h"
#include "engine/config/yaml_text.h"

namespace engine {
namespace {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};

// Shortest text that reads back as the same number, and that looks like a float: 1.0, 5e-05.
std::string number_text(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string bytes_text(uint64_t bytes) {
  constexpr std::string_view kUnits[] = {"TiB", "GiB", "MiB", "KiB"};
  for (int i = 0; i < 4; ++i) {
    const uint64_t unit = uint64_t{1} << (10 * (4 - i));
    if (bytes >= unit && bytes % unit == 0) return fmt::format("{}{}", bytes / unit, kUnits[i]);
  }
  return std::to_string(bytes);
}

std::string list_text(const std::vector<std::string>& list) {
  std::string text = "[";
  for (const std::string& item : list) {
    if (text.size() > 1) text += ", ";
    text += yaml_scalar(item);
  }
  return text + "]";
}

std::string map_text(const std::map<std::string, std::string>& map) {
  std::string text = "{";
  for (const auto& [key, value] : map) {
    if (text.size() > 1) text += ", ";
    text += yaml_scalar(key) + ": " + yaml_scalar(value);
  }
  return text + "}";
}

template <class T>
std::string optional_text(const std::optional<T>* value) {
  if (!value->has_value()) return "null";
  if constexpr (std::is_same_v<T, double>) {
    return number_text(**value);
  } else if constexpr (std::is_same_v<T, bool>) {
    return **value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return yaml_scalar(**value);
  } else if constexpr (std::is_same_v<T, PathOrMap>) {
    return (*value)->json.empty() ? yaml_scalar((*value)->path) : (*value)->json;
  } else {
    return std::to_string(**value);
  }
}

}  // namespace

std::string type_name(const Field& field) {
  return std::visit(
      Overloaded{
          [](bool*) -> std::string { return "true|false"; },
          [](std::optional<bool>*) -> std::string { return "true|false"; },
          [](int64_t*) -> std::string { return "int"; },
          [](uint64_t*) -> std::string { return "int"; },
          [](std::optional<int64_t>*) -> std::string { return "int"; },
          [](std::optional<uint64_t>*) -> std::string { return "int"; },
          [](double*) -> std::string { return "float"; },
          [](std::optional<double>*) -> std::string { return "float"; },
          [](std::string*) -> std::string { return "text"; },
          [](std::optional<std::string>*) -> std::string { return "text"; },
          [](std::optional<PathOrMap>*) -> std::string { return "path or map"; },
          [](std::vector<std::string>*) -> std::string { return "list of text"; },
          [](std::map<std::string, std::string>*) -> std::string { return "map of text"; },
          [](const ChoiceSlot& choice) -> std::string {
            return fmt::format("{}", fmt::join(choice.names, "|"));
          },
          [](const BytesSlot&) -> std::string { return "size"; },
      },
      field.slot);
}

std::string range_text(const Range& range) {
  const bool has_min = range.min > -std::numeric_limits<double>::infinity();
  const bool has_max = range.max < std::numeric_limits<double>::infinity();
  if (has_min && has_max) {
    return fmt::format("{}{}, {}{}", range.min_open ? "(" : "[", range.min, range.max,
                       range.max_open ? ")" : "]");
  }
  if (has_min) return fmt::format("{} {}", range.min_open ? ">" : ">=", range.min);
  if (has_max) return fmt::format("{} {}", range.max_open ? "<" : "<=", range.max);
  return "";
}

std::string value_text(const Slot& slot) {
  return std::visit(
      Overloaded{
          [](const bool* v) -> std::string { return *v ? "true" : "false"; },
          [](const int64_t* v) { return std::to_string(*v); },
          [](const uint64_t* v) { return std::to_string(*v); },
          [](const double* v) { return number_text(*v); },
          [](const std::string* v) { return yaml_scalar(*v); },
          [](const std::vector<std::string>* v) { return list_text(*v); },
          [](const std::map<std::string, std::string>* v) { return map_text(*v); },
          [](const ChoiceSlot& v) { return std::string(v.names.data()[v.get(v.member)]); },
          [](const BytesSlot& v) { return bytes_text(*v.member); },
          [](const auto* v) { return optional_text(v); },
      },
      slot);
}

bool is_set(const Slot& slot) {
  return std::visit(Overloaded{
                        [](std::string* v) { return !v->empty(); },
                        [](std::vector<std::string>* v) { return !v->empty(); },
                        [](std::map<std::string, std::string>* v) { return !v->empty(); },
                        []<class T>(std::optional<T>* v) { return v->has_value(); },
                        [](const auto&) { return true; },
                    },
                    slot);
}

void clear(const Slot& slot) {
  std::visit(Overloaded{
                 [](std::string* v) { v->clear(); },
                 [](std::vector<std::string>* v) { v->clear(); },
                 [](std::map<std::string, std::string>* v) { v->clear(); },
                 []<class T>(std::optional<T>* v) { v->reset(); },
                 [](const auto&) {},
             },
             slot);
}

}  // namespace engine
