#include "tokenizer/chat/jinja/literals.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

using tokenizer::append_utf8;
using tokenizer::CodePoint;
using tokenizer::decode_code_point;

[[noreturn]] void fail(const std::string& message) {
  throw TemplateError("TemplateSyntaxError", message);
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Bytes of digits with single underscores between them, from `at` on.
template <class IsDigit>
size_t digits(std::string_view source, size_t at, const IsDigit& accepts) {
  size_t end = at;
  while (end < source.size()) {
    if (accepts(source[end])) {
      ++end;
    } else if (source[end] == '_' && end > at && end + 1 < source.size() &&
               accepts(source[end + 1])) {
      end += 2;
    } else {
      break;
    }
  }
  return end - at;
}

Literal read_integer(std::string_view source, size_t at) {
  struct Base {
    char letter;
    int base;
  };
  size_t begin = at, size = 0;
  int base = 10;
  if (source[at] == '0' && at + 2 < source.size()) {
    for (const Base& entry : {Base{'b', 2}, Base{'o', 8}, Base{'x', 16}}) {
      if ((source[at + 1] | 0x20) != entry.letter) continue;
      const auto accepts = [&entry](char c) {
        if (is_digit(c)) return c - '0' < entry.base;
        return entry.base == 16 && (c | 0x20) >= 'a' && (c | 0x20) <= 'f';
      };
      const size_t start = at + 2 + (source[at + 2] == '_');
      if (start < source.size() && accepts(source[start])) {
        begin = start;
        size = digits(source, start, accepts);
        base = entry.base;
      }
    }
  }
  if (size == 0) {
    // 0 is followed by zeros only: 012 is 0 and then 12.
    size = source[at] == '0' ? digits(source, at, [](char c) { return c == '0'; })
                             : digits(source, at, is_digit);
  }
  std::string text(source.substr(begin, size));
  std::erase(text, '_');
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (result.ec != std::errc()) fail("integer needs more than 64 bits");
  return {begin + size - at, text, Value::integer(value)};
}

}  // namespace

Literal read_number(std::string_view source, size_t at) {
  // A real number, unless it stands behind a dot: x.0.1 is x[0][1].
  if (at == 0 || source[at - 1] != '.') {
    size_t end = at + digits(source, at, is_digit);
    bool real = false;
    if (end + 1 < source.size() && source[end] == '.' && is_digit(source[end + 1])) {
      end += 1 + digits(source, end + 1, is_digit);
      real = true;
    }
    if (end < source.size() && (source[end] == 'e' || source[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source.size() && (source[exponent] == '+' || source[exponent] == '-')) {
        ++exponent;
      }
      if (const size_t size = digits(source, exponent, is_digit)) {
        end = exponent + size;
        real = true;
      }
    }
    if (real) {
      std::string text(source.substr(at, end - at));
      std::erase(text, '_');
      double value = 0;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      if (result.ec == std::errc::result_out_of_range) {
        const size_t e = text.find_first_of("eE");
        value = e != std::string::npos && text[e + 1] == '-' ? 0 : HUGE_VAL;
      }
      return {end - at, text, Value::real(value)};
    }
  }
  return read_integer(source, at);
}

// The escapes of Python's strings.
Literal read_string(std::string_view source, size_t at) {
  const char quote = source[at];
  size_t end = at + 1;
  while (end < source.size() && source[end] != quote) end += source[end] == '\\' ? 2 : 1;
  if (end >= source.size()) fail("unexpected char " + quoted(source.substr(at, 1)));
  std::string text;
  const auto hex = [&](size_t at, size_t size) {
    uint32_t value = 0;
    const char* begin = source.data() + at;
    const bool fits = at + size <= end;
    const auto result = std::from_chars(begin, begin + (fits ? size : 0), value, 16);
    if (!fits || result.ptr != begin + size) fail("truncated escape in a string");
    if ((value >= 0xD800 && value < 0xE000) || value > 0x10FFFF) {
      fail("a string has an escape that is no character");
    }
    append_utf8(value, &text);
    return size;
  };
  for (size_t i = at + 1; i < end; ++i) {
    if (source[i] != '\\') {
      text += source[i];
      continue;
    }
    const char c = source[++i];
    static constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t at = kLetters.find(c); at != std::string_view::npos) {
      text += kMeanings[at];
    } else if (c == 'x') {
      i += hex(i + 1, 2);
    } else if (c == 'u') {
      i += hex(i + 1, 4);
    } else if (c == 'U') {
      i += hex(i + 1, 8);
    } else if (c == 'N') {
      fail("\\N escapes are not supported");
    } else if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      size_t size = 0;
      for (; size < 3 && i + size < end && source[i + size] >= '0' && source[i + size] <= '7';
           ++size) {
        value = value * 8 + static_cast<uint32_t>(source[i + size] - '0');
      }
      append_utf8(value, &text);
      i += size - 1;
    } else if (c == '\n') {  // a continued line
    } else if (static_cast<unsigned char>(c) < 0x80) {
      text += '\\';
      text += c;
    } else {
      // Jinja writes other characters as escapes before it reads escapes.
      const CodePoint point = decode_code_point(source, i);
      const auto value = static_cast<uint32_t>(point.value);
      text += value < 0x100     ? fmt::format("\\x{:02x}", value)
              : value < 0x10000 ? fmt::format("\\u{:04x}", value)
                                : fmt::format("\\U{:08x}", value);
      i += point.length - 1;
    }
  }
  return {end + 1 - at, std::move(text), {}};
}

}  // namespace engine::jinja
