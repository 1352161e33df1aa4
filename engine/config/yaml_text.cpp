#include "engine/config/yaml_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <iterator>

namespace engine {
namespace {

// Words that a YAML 1.1 or 1.2 reader takes for something other than text, lower case.
constexpr std::string_view kReserved[] = {"null", "true", "false", "yes", "no", "on",
                                          "off",  "y",    "n",     "nan", "inf"};

bool is_plain(std::string_view text) {
  if (text.empty()) return false;
  const auto is_word = [](unsigned char c) { return std::isalpha(c) || c == '_' || c == '/'; };
  const bool path_start = text.starts_with("./") || text.starts_with("../");
  if (!is_word(static_cast<unsigned char>(text[0])) && !path_start) return false;
  const auto is_safe = [&](unsigned char c) {
    return is_word(c) || std::isdigit(c) || c == '.' || c == '-' || c == '+' || c == '@';
  };
  if (!std::all_of(text.begin(), text.end(), is_safe)) return false;
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::find(std::begin(kReserved), std::end(kReserved), lower) == std::end(kReserved);
}

}  // namespace

std::string yaml_scalar(std::string_view text) {
  if (is_plain(text)) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        quoted += "\\\"";
        break;
      case '\\':
        quoted += "\\\\";
        break;
      case '\n':
        quoted += "\\n";
        break;
      case '\t':
        quoted += "\\t";
        break;
      case '\r':
        quoted += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          quoted += c;
        }
    }
  }
  return quoted + "\"";
}

}  // namespace engine
