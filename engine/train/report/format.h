// Numbers as people read them: short, of steady width, never in exponent form where a unit will do.
#pragma once

#include <cstdint>
#include <string>

namespace engine {

// 494032768 → "494.0M", 3.41e6 with two decimals → "3.41M", 57 → "57". Units k, M, B, T (10^3
// steps).
std::string human_count(double value, int decimals = 1);

// Three significant digits, at most five characters: 89012 → "89.0k", 1234567 → "1.23M".
std::string human_rate(double per_second);

// 11942 → "11 942".
std::string grouped(int64_t value);

// Bytes as GiB without the unit: 20293877760 → "18.9".
std::string gib(uint64_t bytes, int decimals = 1);

// 0.3 → "0.3s", 9 → "9s", 42.4 → "42s", 116 → "1m56s", 3720 → "1h02m", 183600 → "2d03h".
std::string duration(double seconds);

// 0.0000191 → "1.9e-05": always seven characters.
std::string learning_rate(double value);

// Right-aligned in exactly `width` characters with as many decimals as fit, so that columns do not
// move: (1.8421, 6) → "1.8421", (10.82, 6) → "10.820", (NaN, 6) → "   nan", (1e9, 4) → "1e+9".
std::string fixed_width(double value, int width);

// 0.314 → "31.4"; negative or non-finite values print as such.
std::string percent(double share, int decimals = 1);

// Characters on a terminal: code points, for text without wide or combining characters.
int display_width(const std::string& utf8);

// Cut to `width` columns on a code point boundary.
std::string cut_to_width(const std::string& utf8, int width);

// One line of text: control characters as \n, \t or \xNN.
std::string escape_line(const std::string& utf8);

}  // namespace engine
