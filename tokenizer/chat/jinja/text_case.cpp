// Upper and lower case, and classes of characters.
#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "tokenizer/chat/jinja/special_casing.h"
#include "tokenizer/chat/jinja/text.h"
#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

using tokenizer::append_utf8;
using tokenizer::CodePoint;
using tokenizer::decode_code_point;

constexpr char32_t kSigma = 0x3A3, kFinalSigma = 0x3C2;

utf8proc_int32_t raw(char32_t c) {
  return static_cast<utf8proc_int32_t>(c);
}

bool is_lower(char32_t c) {
  return utf8proc_islower(raw(c)) != 0;
}
bool is_upper(char32_t c) {
  return utf8proc_isupper(raw(c)) != 0;
}
bool is_title(char32_t c) {
  return utf8proc_category(raw(c)) == UTF8PROC_CATEGORY_LT;
}
bool is_cased(char32_t c) {
  return is_lower(c) || is_upper(c) || is_title(c);
}

const SpecialCase* special_case(char32_t c) {
  const auto* at =
      std::lower_bound(std::begin(kSpecialCasing), std::end(kSpecialCasing), c,
                       [](const SpecialCase& entry, char32_t value) { return entry.from < value; });
  return at != std::end(kSpecialCasing) && at->from == c ? at : nullptr;
}

void append_all(const char32_t (&characters)[3], std::string* out) {
  for (const char32_t c : characters) {
    if (c != 0) append_utf8(c, out);
  }
}

void append_upper(char32_t c, std::string* out) {
  if (const SpecialCase* special = special_case(c)) return append_all(special->upper, out);
  append_utf8(static_cast<char32_t>(utf8proc_toupper(raw(c))), out);
}

void append_title(char32_t c, std::string* out) {
  if (const SpecialCase* special = special_case(c)) return append_all(special->title, out);
  append_utf8(static_cast<char32_t>(utf8proc_totitle(raw(c))), out);
}

// Characters that the rule of the final sigma looks through.
bool is_case_ignorable(char32_t c) {
  switch (utf8proc_category(raw(c))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || c == 0x2018;
  }
}

bool is_final_sigma(std::string_view text, size_t at) {
  bool before = false;
  for (size_t end = at; end > 0;) {
    const CodePoint point = tokenizer::decode_code_point_before(text, end);
    end -= point.length;
    if (is_case_ignorable(point.value)) continue;
    before = is_cased(point.value);
    break;
  }
  if (!before) return false;
  for (size_t i = at + 2; i < text.size();) {
    const CodePoint point = decode_code_point(text, i);
    i += point.length;
    if (is_case_ignorable(point.value)) continue;
    return !is_cased(point.value);
  }
  return true;
}

// The lower case of the character `c` at `at`.
void append_lower(std::string_view text, size_t at, char32_t c, std::string* out) {
  if (c == 0x130) {
    *out += "i\xCC\x87";
  } else if (c == kSigma && is_final_sigma(text, at)) {
    append_utf8(kFinalSigma, out);
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_tolower(raw(c))), out);
  }
}

// Calls `append(at, character, out)` for each character.
template <class Append>
std::string map_characters(std::string_view text, const Append& append) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = decode_code_point(text, at);
    append(at, point.value, &result);
    at += point.length;
  }
  return result;
}

bool is_digit(char32_t c) {
  struct Range {
    char32_t first, last;
  };
  // Numeric_Type=Digit; decimal digits are category Nd.
  static constexpr Range kDigits[] = {
      {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
      {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
      {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
      {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
      {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
  if (utf8proc_category(raw(c)) == UTF8PROC_CATEGORY_ND) return true;
  return std::any_of(std::begin(kDigits), std::end(kDigits),
                     [c](const Range& range) { return c >= range.first && c <= range.last; });
}

bool is_member(char32_t c, CharacterClass what) {
  const auto category = utf8proc_category(raw(c));
  const bool letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
  const bool number = category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
  switch (what) {
    case CharacterClass::alphabetic:
      return letter;
    case CharacterClass::decimal:
      return category == UTF8PROC_CATEGORY_ND;
    case CharacterClass::digit:
      return is_digit(c);
    case CharacterClass::numeric:
      return number;
    case CharacterClass::alphanumeric:
      return letter || number;
    case CharacterClass::space:
      return is_space(c);
    default:
      return false;
  }
}

}  // namespace

std::string to_upper(std::string_view text) {
  return map_characters(text, [](size_t, char32_t c, std::string* out) { append_upper(c, out); });
}

std::string to_lower(std::string_view text) {
  return map_characters(
      text, [text](size_t at, char32_t c, std::string* out) { append_lower(text, at, c, out); });
}

std::string capitalize(std::string_view text) {
  return map_characters(text, [text](size_t at, char32_t c, std::string* out) {
    if (at == 0) {
      append_title(c, out);
    } else {
      append_lower(text, at, c, out);
    }
  });
}

std::string title_case(std::string_view text) {
  bool in_word = false;
  return map_characters(text, [text, &in_word](size_t at, char32_t c, std::string* out) {
    if (in_word) {
      append_lower(text, at, c, out);
    } else {
      append_title(c, out);
    }
    in_word = is_cased(c);
  });
}

std::string swap_case(std::string_view text) {
  return map_characters(text, [text](size_t at, char32_t c, std::string* out) {
    if (is_upper(c)) {
      append_lower(text, at, c, out);
    } else if (is_lower(c)) {
      append_upper(c, out);
    } else {
      append_utf8(c, out);
    }
  });
}

bool is_all(std::string_view text, CharacterClass what) {
  if (what == CharacterClass::ascii) return is_ascii(text);
  if (text.empty()) return false;
  bool cased = false, previous_cased = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = decode_code_point(text, at);
    const char32_t c = point.value;
    const bool upper = is_upper(c), lower = is_lower(c), title = is_title(c);
    switch (what) {
      case CharacterClass::lower:
        if (upper || title) return false;
        cased |= lower;
        break;
      case CharacterClass::upper:
        if (lower || title) return false;
        cased |= upper;
        break;
      case CharacterClass::title:
        if ((upper || title) ? previous_cased : (lower && !previous_cased)) return false;
        previous_cased = upper || title || lower;
        cased |= previous_cased;
        break;
      case CharacterClass::identifier:
        if (!is_word(c) || (at == 0 && is_digit(c))) return false;
        cased = true;
        break;
      default:
        if (!is_member(c, what)) return false;
        cased = true;
    }
    at += point.length;
  }
  return cased;
}

}  // namespace engine::jinja
