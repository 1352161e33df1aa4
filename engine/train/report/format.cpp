#include "engine/train/report/format.h"

#include <fmt/format.h>

#include <cmath>

namespace engine {
namespace {

struct Unit {
  double scale;
  const char* suffix;
};
constexpr Unit kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};

// The unit in which `value`, printed with `decimals`, does not round up to 1000 of the unit.
Unit unit_for(double value, int decimals) {
  const double magnitude = std::abs(value);
  Unit chosen = {1, ""};
  for (const Unit& unit : kUnits) {
    // 999 960 prints as 1000.0k with one decimal: that is 1.0M.
    const double smallest = unit.scale - 0.5 * std::pow(10.0, -decimals) * unit.scale / 1e3;
    if (magnitude >= (unit.scale == 1e3 ? 1e3 - 0.5 : smallest)) {
      chosen = unit;
      break;
    }
  }
  return chosen;
}

bool is_continuation_byte(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

}  // namespace

std::string human_count(double value, int decimals) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  const Unit unit = unit_for(value, decimals);
  if (unit.scale == 1) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}{}", value / unit.scale, decimals, unit.suffix);
}

std::string human_rate(double per_second) {
  if (!std::isfinite(per_second)) return fmt::format("{}", per_second);
  const Unit unit = unit_for(per_second, 0);
  std::string text;
  for (const int decimals : {2, 1, 0}) {
    text = fmt::format("{:.{}f}", per_second / unit.scale, decimals);
    if (text.size() <= 4) break;
  }
  return text + unit.suffix;
}

std::string grouped(int64_t value) {
  std::string digits = fmt::format("{}", value);
  const std::ptrdiff_t first = value < 0 ? 1 : 0;
  for (std::ptrdiff_t at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > first; at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ' ');
  }
  return digits;
}

std::string gib(uint64_t bytes, int decimals) {
  return fmt::format("{:.{}f}", static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0), decimals);
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.95) {
    const std::string text = fmt::format("{:.1f}", seconds);
    return (text.ends_with(".0") ? text.substr(0, text.size() - 2) : text) + "s";
  }
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  const int64_t minutes = whole / 60;
  if (minutes < 24 * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  const int64_t hours = minutes / 60;
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

std::string learning_rate(double value) {
  return fmt::format("{:.1e}", value);
}

std::string fixed_width(double value, int width) {
  if (std::isfinite(value)) {
    for (int decimals = width - 2; decimals >= 0; --decimals) {
      const std::string text = fmt::format("{:.{}f}", value, decimals);
      if (static_cast<int>(text.size()) <= width) return fmt::format("{:>{}}", text, width);
    }
    // Too long for digits: one digit and the shortest exponent, 3.2e+12 → "3e+12" or "3e12".
    int exponent = static_cast<int>(std::floor(std::log10(std::abs(value))));
    double mantissa = std::round(value / std::pow(10.0, exponent));
    if (std::abs(mantissa) >= 10) {  // 9.9e12 → 1e13
      mantissa /= 10;
      ++exponent;
    }
    const std::string full = fmt::format("{:.0f}e{:+}", mantissa, exponent);
    if (static_cast<int>(full.size()) <= width) return fmt::format("{:>{}}", full, width);
    return fmt::format("{:>{}}", fmt::format("{:.0f}e{}", mantissa, exponent), width);
  }
  return fmt::format("{:>{}}", std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf", width);
}

std::string percent(double share, int decimals) {
  return fmt::format("{:.{}f}", share * 100, decimals);
}

int display_width(const std::string& utf8) {
  int width = 0;
  for (const char c : utf8) width += is_continuation_byte(c) ? 0 : 1;
  return width;
}

std::string cut_to_width(const std::string& utf8, int width) {
  int columns = 0;
  for (size_t i = 0; i < utf8.size(); ++i) {
    if (is_continuation_byte(utf8[i])) continue;
    if (columns == width) return utf8.substr(0, i);
    ++columns;
  }
  return utf8;
}

std::string escape_line(const std::string& utf8) {
  std::string line;
  for (const char c : utf8) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace engine
