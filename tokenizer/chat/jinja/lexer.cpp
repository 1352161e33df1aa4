#include "tokenizer/chat/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"
#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

using tokenizer::append_utf8;
using tokenizer::CodePoint;
using tokenizer::decode_code_point;

// Every line break as \n, and without the last one.
std::string with_unix_lines(std::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      result += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      result += source[i];
    }
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(with_unix_lines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) lex_text();
    add(TokenKind::end);
    return std::move(tokens_);
  }

 private:
  enum class Mark : uint8_t { none, block, comment, print, raw };

  [[noreturn]] void fail(const std::string& message) const {
    throw TemplateError("TemplateSyntaxError", message, line_);
  }

  void add(TokenKind kind, std::string text = "", Value number = {}) {
    tokens_.push_back({kind, line_, std::move(text), std::move(number)});
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool looking_at(std::string_view text) const { return rest().starts_with(text); }

  // Passes `count` bytes.
  void advance(size_t count) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                    source_.begin() + static_cast<ptrdiff_t>(at_ + count), '\n'));
    at_ += count;
  }

  void skip_space() {
    const size_t size = rest().size() - strip_left(rest()).size();
    advance(size);
  }

  // Is there "raw" and the end of its tag behind the {% and the sign before `at`? Then where it
  // ends, before white space that it strips.
  size_t raw_tag(std::string_view word, size_t at, bool* strips, bool* keeps) const {
    std::string_view text = std::string_view(source_).substr(at);
    text = strip_left(text);
    if (!text.starts_with(word)) return 0;
    text = strip_left(text.substr(word.size()));
    *strips = text.starts_with("-%}");
    *keeps = text.starts_with("+%}");
    if (!*strips && !*keeps && !text.starts_with("%}")) return 0;
    const size_t size = *strips || *keeps ? 3 : 2;
    return static_cast<size_t>(text.data() - source_.data()) + size;
  }

  // Text up to the next tag, and that tag.
  void lex_text() {
    size_t open = at_;
    Mark mark = Mark::none;
    for (; open + 1 < source_.size(); ++open) {
      if (source_[open] != '{') continue;
      const char next = source_[open + 1];
      mark = next == '%' ? Mark::block : next == '#' ? Mark::comment : Mark::print;
      if (next == '%' || next == '#' || next == '{') break;
      mark = Mark::none;
    }
    if (mark == Mark::none) {
      emit_text(rest());
      advance(rest().size());
      return;
    }
    const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    std::string_view text = std::string_view(source_).substr(at_, open - at_);
    if (sign == '-') {
      text = strip_right(text);
    } else if (sign != '+' && mark != Mark::print) {
      text = without_indentation(text);
    }
    emit_text(text);
    advance(open - at_);
    const size_t after = open + 2 + has_sign;
    if (mark == Mark::block) {
      bool strips = false, keeps = false;
      const size_t end = raw_tag("raw", after, &strips, &keeps);
      if (end != 0 && !keeps) {
        advance(end - at_);
        if (strips) skip_space();
        return lex_raw();
      }
    }
    advance(after - at_);
    if (mark == Mark::comment) return lex_comment();
    lex_tag(mark == Mark::block);
  }

  void emit_text(std::string_view text) {
    if (!text.empty()) add(TokenKind::text, std::string(text));
  }

  // lstrip_blocks: white space between the start of a line and a tag does not count.
  std::string_view without_indentation(std::string_view text) const {
    const size_t line_begin = text.rfind('\n') + 1;  // npos + 1 is 0
    if (line_begin == 0 && !line_starting_) return text;
    return strip(text.substr(line_begin)).empty() ? text.substr(0, line_begin) : text;
  }

  // Behind the end of a block or a comment.
  void end_block(bool strips, bool keeps) {
    const size_t begin = at_;
    if (strips) {
      skip_space();
    } else if (!keeps && looking_at("\n")) {
      advance(1);
    }
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void lex_comment() {
    const size_t end = source_.find("#}", at_);
    if (at_ == source_.size()) return;  // as Jinja, where nothing follows
    if (end == std::string::npos) fail("Missing end of comment tag");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    advance(end + 2 - at_);
    end_block(sign == '-', sign == '+');
  }

  void lex_raw() {
    for (size_t open = at_; (open = source_.find("{%", open)) != std::string::npos; ++open) {
      const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
      const bool has_sign = sign == '-' || sign == '+';
      bool strips = false, keeps = false;
      const size_t end = raw_tag("endraw", open + 2 + has_sign, &strips, &keeps);
      if (end == 0) continue;
      std::string_view text = std::string_view(source_).substr(at_, open - at_);
      line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
      if (sign == '-') {
        text = strip_right(text);
      } else if (sign != '+') {
        text = without_indentation(text);
      }
      emit_text(text);
      advance(end - at_);
      return end_block(strips, keeps);
    }
    if (at_ < source_.size()) fail("Missing end of raw directive");
  }

  void lex_tag(bool block) {
    add(block ? TokenKind::block_begin : TokenKind::print_begin);
    std::string brackets;  // that are still open
    while (true) {
      skip_space();
      if (at_ >= source_.size()) return;
      if (brackets.empty()) {
        const std::string_view close = block ? "%}" : "}}";
        const bool strips = looking_at("-") && rest().substr(1).starts_with(close);
        const bool keeps = block && looking_at("+") && rest().substr(1).starts_with(close);
        if (strips || keeps || looking_at(close)) {
          add(block ? TokenKind::block_end : TokenKind::print_end);
          advance(close.size() + (strips || keeps));
          if (block) return end_block(strips, keeps);
          const size_t begin = at_;
          if (strips) skip_space();
          line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
          return;
        }
      }
      lex_token(brackets);
    }
  }

  void lex_token(std::string& brackets) {
    const char c = source_[at_];
    if (is_digit(c)) return lex_number();
    if (c == '"' || c == '\'') return lex_string();
    const CodePoint point = decode_code_point(source_, at_);
    if (is_word(point.value)) return lex_name();
    lex_symbol(brackets);
  }

  void lex_name() {
    size_t end = at_;
    while (end < source_.size()) {
      const CodePoint point = decode_code_point(source_, end);
      if (!is_word(point.value)) break;
      end += point.length;
    }
    const std::string name = source_.substr(at_, end - at_);
    if (!is_all(name, CharacterClass::identifier)) fail("Invalid character in identifier");
    add(TokenKind::name, name);
    advance(end - at_);
  }

  // Bytes of digits with single underscores between them, from `at` on.
  template <class IsDigit>
  size_t digits(size_t at, const IsDigit& accepts) const {
    size_t end = at;
    while (end < source_.size()) {
      if (accepts(source_[end])) {
        ++end;
      } else if (source_[end] == '_' && end > at && end + 1 < source_.size() &&
                 accepts(source_[end + 1])) {
        end += 2;
      } else {
        break;
      }
    }
    return end - at;
  }

  void lex_number() {
    // A real number, unless it stands behind a dot: x.0.1 is x[0][1].
    if (at_ == 0 || source_[at_ - 1] != '.') {
      size_t end = at_ + digits(at_, is_digit);
      bool real = false;
      if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
        end += 1 + digits(end + 1, is_digit);
        real = true;
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        size_t exponent = end + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
          ++exponent;
        }
        if (const size_t size = digits(exponent, is_digit)) {
          end = exponent + size;
          real = true;
        }
      }
      if (real) {
        std::string text = source_.substr(at_, end - at_);
        std::erase(text, '_');
        double value = 0;
        const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
        if (result.ec == std::errc::result_out_of_range) {
          const size_t e = text.find_first_of("eE");
          value = e != std::string::npos && text[e + 1] == '-' ? 0 : HUGE_VAL;
        }
        add(TokenKind::number, text, Value::real(value));
        return advance(end - at_);
      }
    }
    lex_integer();
  }

  void lex_integer() {
    struct Base {
      char letter;
      int base;
    };
    size_t begin = at_, size = 0;
    int base = 10;
    if (source_[at_] == '0' && at_ + 2 < source_.size()) {
      for (const Base& entry : {Base{'b', 2}, Base{'o', 8}, Base{'x', 16}}) {
        if ((source_[at_ + 1] | 0x20) != entry.letter) continue;
        const auto accepts = [&entry](char c) {
          if (is_digit(c)) return c - '0' < entry.base;
          return entry.base == 16 && (c | 0x20) >= 'a' && (c | 0x20) <= 'f';
        };
        const size_t start = at_ + 2 + (source_[at_ + 2] == '_');
        if (start < source_.size() && accepts(source_[start])) {
          begin = start;
          size = digits(start, accepts);
          base = entry.base;
        }
      }
    }
    if (size == 0) {
      // 0 is followed by zeros only: 012 is 0 and then 12.
      size = source_[at_] == '0' ? digits(at_, [](char c) { return c == '0'; })
                                 : digits(at_, is_digit);
    }
    std::string text = source_.substr(begin, size);
    std::erase(text, '_');
    int64_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (result.ec != std::errc()) fail("integer needs more than 64 bits");
    add(TokenKind::number, text, Value::integer(value));
    advance(begin + size - at_);
  }

  void lex_string();

  void lex_symbol(std::string& brackets) {
    static constexpr std::string_view kSymbols[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (const std::string_view symbol : kSymbols) {
      if (!looking_at(symbol)) continue;
      const char c = symbol.size() == 1 ? symbol[0] : ' ';
      if (c == '(' || c == '[' || c == '{') {
        brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
      } else if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty()) fail(fmt::format("unexpected '{}'", c));
        if (brackets.back() != c) {
          fail(fmt::format("unexpected '{}', expected '{}'", c, brackets.back()));
        }
        brackets.pop_back();
      }
      add(TokenKind::symbol, std::string(symbol));
      return advance(symbol.size());
    }
    fail("unexpected char " + quoted(rest().substr(0, decode_code_point(source_, at_).length)));
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what was passed last ended a line
  std::vector<Token> tokens_;
};

// The escapes of Python's strings.
void Lexer::lex_string() {
  const char quote = source_[at_];
  size_t end = at_ + 1;
  while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
  if (end >= source_.size()) fail(fmt::format("unexpected char {}", quoted(rest().substr(0, 1))));
  std::string text;
  const auto hex = [&](size_t at, size_t size) {
    uint32_t value = 0;
    const char* begin = source_.data() + at;
    const bool fits = at + size <= end;
    const auto result = std::from_chars(begin, begin + (fits ? size : 0), value, 16);
    if (!fits || result.ptr != begin + size) fail("truncated escape in a string");
    if ((value >= 0xD800 && value < 0xE000) || value > 0x10FFFF) {
      fail("a string has an escape that is no character");
    }
    append_utf8(value, &text);
    return size;
  };
  for (size_t i = at_ + 1; i < end; ++i) {
    if (source_[i] != '\\') {
      text += source_[i];
      continue;
    }
    const char c = source_[++i];
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
      for (; size < 3 && i + size < end && source_[i + size] >= '0' && source_[i + size] <= '7';
           ++size) {
        value = value * 8 + static_cast<uint32_t>(source_[i + size] - '0');
      }
      append_utf8(value, &text);
      i += size - 1;
    } else if (c == '\n') {  // a continued line
    } else if (static_cast<unsigned char>(c) < 0x80) {
      text += '\\';
      text += c;
    } else {
      // Jinja writes other characters as escapes before it reads escapes.
      const CodePoint point = decode_code_point(source_, i);
      const auto value = static_cast<uint32_t>(point.value);
      text += value < 0x100     ? fmt::format("\\x{:02x}", value)
              : value < 0x10000 ? fmt::format("\\u{:04x}", value)
                                : fmt::format("\\U{:08x}", value);
      i += point.length - 1;
    }
  }
  add(TokenKind::string, std::move(text));
  advance(end + 1 - at_);
}

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace engine::jinja
