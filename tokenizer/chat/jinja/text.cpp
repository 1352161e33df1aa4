#include "tokenizer/chat/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

using tokenizer::append_utf8;
using tokenizer::CodePoint;
using tokenizer::decode_code_point;
using tokenizer::decode_code_point_before;

// The characters to strip.
class Stripped {
 public:
  explicit Stripped(std::optional<std::string_view> characters) : space_(!characters) {
    for (size_t at = 0; characters && at < characters->size();) {
      const CodePoint point = decode_code_point(*characters, at);
      set_.insert(point.value);
      at += point.length;
    }
  }
  bool contains(char32_t c) const { return space_ ? is_space(c) : set_.contains(c); }

 private:
  bool space_;
  std::unordered_set<char32_t> set_;
};

// Bytes of the line break at `at`, 0 if there is none.
size_t line_break(std::string_view text, size_t at) {
  const CodePoint point = decode_code_point(text, at);
  const char32_t c = point.value;
  if (c == '\r' && at + 1 < text.size() && text[at + 1] == '\n') return 2;
  const bool is_break = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                        c == 0x2028 || c == 0x2029;
  return is_break ? point.length : 0;
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_word(char32_t c) {
  if (c == '_') return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
         (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool is_ascii(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

size_t character_offset(std::string_view text, int64_t index) {
  if (index <= 0) return 0;
  size_t at = 0;
  while (at < text.size() && index > 0) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
    --index;
  }
  return at;
}

std::vector<std::string_view> split_characters(std::string_view text) {
  std::vector<std::string_view> result;
  for (size_t at = 0; at < text.size();) {
    const size_t size = decode_code_point(text, at).length;
    result.push_back(text.substr(at, size));
    at += size;
  }
  return result;
}

size_t find_text(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (!found) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t find_last_text(std::string_view text, std::string_view part) {
  constexpr size_t kShort = 16;
  if (part.size() <= kShort) return text.rfind(part);
  const std::string backwards(text.rbegin(), text.rend()), wanted(part.rbegin(), part.rend());
  const size_t at = find_text(backwards, wanted);
  return at == std::string::npos ? at : text.size() - at - part.size();
}

std::string_view strip_left(std::string_view text, std::optional<std::string_view> characters) {
  const Stripped stripped(characters);
  while (!text.empty()) {
    const CodePoint point = decode_code_point(text, 0);
    if (!stripped.contains(point.value)) break;
    text.remove_prefix(point.length);
  }
  return text;
}

std::string_view strip_right(std::string_view text, std::optional<std::string_view> characters) {
  const Stripped stripped(characters);
  while (!text.empty()) {
    const CodePoint point = decode_code_point_before(text, text.size());
    if (!stripped.contains(point.value)) break;
    text.remove_suffix(point.length);
  }
  return text;
}

std::string_view strip(std::string_view text, std::optional<std::string_view> characters) {
  return strip_right(strip_left(text, characters), characters);
}

std::vector<std::string_view> split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit) {
  std::vector<std::string_view> parts;
  if (separator) {
    for (size_t at; limit != 0 && (at = find_text(text, *separator)) != std::string_view::npos;
         --limit) {
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator->size());
    }
    parts.push_back(text);
    return parts;
  }
  for (text = strip_left(text); !text.empty(); text = strip_left(text)) {
    if (limit == 0) {
      parts.push_back(strip_right(text));
      break;
    }
    --limit;
    size_t end = 0;
    while (end < text.size()) {
      const CodePoint point = decode_code_point(text, end);
      if (is_space(point.value)) break;
      end += point.length;
    }
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

std::vector<std::string_view> split_from_right(std::string_view text,
                                               std::optional<std::string_view> separator,
                                               int64_t limit) {
  std::vector<std::string_view> parts;
  if (separator) {
    const std::string backwards(text.rbegin(), text.rend());
    const std::string wanted(separator->rbegin(), separator->rend());
    const size_t size = text.size();
    size_t from = 0;
    for (size_t at;
         limit != 0 && (at = find_text(backwards, wanted, from)) != std::string_view::npos;
         --limit) {
      parts.push_back(text.substr(size - at, at - from));
      from = at + wanted.size();
    }
    text = text.substr(0, size - from);
    parts.push_back(text);
  } else {
    for (text = strip_right(text); !text.empty(); text = strip_right(text)) {
      if (limit == 0) {
        parts.push_back(strip_left(text));
        break;
      }
      --limit;
      size_t begin = text.size();
      while (begin > 0) {
        const CodePoint point = decode_code_point_before(text, begin);
        if (is_space(point.value)) break;
        begin -= point.length;
      }
      parts.push_back(text.substr(begin));
      text = text.substr(0, begin);
    }
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t size = line_break(text, at);
    if (size == 0) {
      at += decode_code_point(text, at).length;
      continue;
    }
    lines.push_back(text.substr(begin, (keep_ends ? at + size : at) - begin));
    begin = at += size;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to,
                        int64_t count) {
  std::string result;
  if (from.empty()) {  // between all characters, and at both ends
    for (size_t at = 0; count != 0; --count) {
      result += to;
      if (at >= text.size()) return result;
      const size_t size = decode_code_point(text, at).length;
      result += text.substr(at, size);
      text.remove_prefix(at + size);
      at = 0;
    }
    return result.append(text);
  }
  for (size_t at; count != 0 && (at = find_text(text, from)) != std::string_view::npos; --count) {
    result.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return result.append(text);
}

std::string pad_to(std::string_view text, int64_t width, std::string_view fill, Side text_side) {
  const int64_t missing = width - count_characters(text);
  if (missing <= 0) return std::string(text);
  int64_t left = 0;
  if (text_side == Side::right) left = missing;
  // CPython: the odd one goes to the left when the width is odd.
  if (text_side == Side::both) left = missing / 2 + (missing & width & 1);
  std::string result;
  for (int64_t i = 0; i < left; ++i) result += fill;
  result += text;
  for (int64_t i = left; i < missing; ++i) result += fill;
  return result;
}

std::string zero_fill(std::string_view text, int64_t width) {
  const bool sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  std::string result = pad_to(text, width, "0", Side::right);
  if (sign && result.size() > text.size()) {
    result[result.size() - text.size()] = '0';
    result[0] = text[0];
  }
  return result;
}

std::string escape_html(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '\'':
        result += "&#39;";
        break;
      case '"':
        result += "&#34;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

}  // namespace engine::jinja
