#include "tokenizer/chat/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/chat/jinja/literals.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"
#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

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
    if (c >= '0' && c <= '9') return lex_literal(TokenKind::number, read_number);
    if (c == '"' || c == '\'') return lex_literal(TokenKind::string, read_string);
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
    constexpr size_t kLongestName = 1000;  // bytes; looking one up counts as one step
    if (end - at_ > kLongestName) throw TemplateError("LimitError", "a name is too long", line_);
    const std::string name = source_.substr(at_, end - at_);
    if (!is_all(name, CharacterClass::identifier)) fail("Invalid character in identifier");
    add(TokenKind::name, name);
    advance(end - at_);
  }

  // A number or a string.
  template <class Literal>
  void lex_literal(TokenKind kind, Literal (*read)(std::string_view source, size_t at)) {
    Literal literal;
    try {
      literal = read(source_, at_);
    } catch (TemplateError& error) {
      error.set_line(line_);
      throw;
    }
    add(kind, std::move(literal.text), std::move(literal.value));
    advance(literal.size);
  }

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

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace engine::jinja
