#include "tokenizer/json_scanner.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include "engine/core/error.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

// Bytes that a string cannot simply go on with: its end, an escape, control characters.
constexpr std::array<bool, 256> kEndsRun = [] {
  std::array<bool, 256> ends{};
  for (int c = 0; c < 0x20; ++c) ends[static_cast<size_t>(c)] = true;
  ends['"'] = ends['\\'] = true;
  return ends;
}();

class Scanner {
 public:
  Scanner(std::string_view text, const std::string& file, JsonEvents& events)
      : text_(text), file_(file), events_(events) {}

  void run() {
    const size_t invalid = find_invalid_utf8(text_);
    if (invalid != std::string_view::npos) fail(invalid, "a byte that is not UTF-8");
    if (text_.starts_with("\xEF\xBB\xBF")) at_ = 3;
    value();
    while (!open_.empty()) {
      if (open_.back() == '{') {
        next_member();
      } else {
        next_element();
      }
    }
    skip_space();
    if (at_ < text_.size()) fail(at_, "more behind the end of the document");
  }

 private:
  [[noreturn]] void fail(size_t at, std::string found) const {
    throw Error(ExitCode::checkpoint, "TOK-JSON", fmt::format("{} is not valid JSON", file_))
        .where(fmt::format("byte {}", at))
        .found(std::move(found))
        .why("interrupted download, or edited by hand")
        .fix("download the file again");
  }
  [[noreturn]] void unexpected(const char* expected) const {
    if (at_ >= text_.size()) fail(at_, fmt::format("the end instead of {}", expected));
    size_t end = at_ + 1;
    while (end < text_.size() && (static_cast<unsigned char>(text_[end]) & 0xC0) == 0x80) ++end;
    const bool printable = static_cast<unsigned char>(text_[at_]) >= 0x20;
    fail(at_, fmt::format("{} instead of {}",
                          printable ? fmt::format("'{}'", text_.substr(at_, end - at_))
                                    : fmt::format("byte 0x{:02X}", text_[at_]),
                          expected));
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  // A value; of an object or array only the beginning.
  void value() {
    skip_space();
    switch (peek()) {
      case '{':
        ++at_;
        open_.push_back('{');
        fresh_ = true;
        return events_.start_object();
      case '[':
        ++at_;
        open_.push_back('[');
        fresh_ = true;
        return events_.start_array();
      case '"':
        return events_.string(read_string());
      case 't':
        word("true");
        return events_.boolean(true);
      case 'f':
        word("false");
        return events_.boolean(false);
      case 'n':
        word("null");
        return events_.null();
      default:
        return number();
    }
  }

  void next_member() {
    skip_space();
    if (peek() == '}') return close();
    separator("',' or '}'");
    if (peek() != '"') unexpected("a key in quotes");
    const std::string_view key = read_string();
    events_.key(key);
    skip_space();
    if (peek() != ':') unexpected("':'");
    ++at_;
    value();
  }

  void next_element() {
    skip_space();
    if (peek() == ']') return close();
    separator("',' or ']'");
    value();
  }

  // The comma before all but the first.
  void separator(const char* expected) {
    if (fresh_) {
      fresh_ = false;
      return;
    }
    if (peek() != ',') unexpected(expected);
    ++at_;
    skip_space();
  }

  void close() {
    ++at_;
    const char opened = open_.back();
    open_.pop_back();
    fresh_ = false;
    if (opened == '{') {
      events_.end_object();
    } else {
      events_.end_array();
    }
  }

  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) unexpected("a value");
    at_ += expected.size();
  }

  void number() {
    const size_t begin = at_;
    const auto digits = [&] {
      const size_t from = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == from) unexpected(from == begin ? "a value" : "a digit");
    };
    if (peek() == '-') ++at_;
    const size_t first = at_;
    digits();
    if (text_[first] == '0' && at_ > first + 1) fail(first, "a number that begins with 0");
    bool is_integer = true;
    if (peek() == '.') {
      is_integer = false;
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      is_integer = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const char* from = text_.data() + begin;
    const char* to = text_.data() + at_;
    int64_t integer = 0;
    if (is_integer && std::from_chars(from, to, integer).ec == std::errc()) {
      return events_.integer(integer);
    }
    double real = 0;
    if (std::from_chars(from, to, real).ec != std::errc()) fail(begin, "a number out of range");
    events_.real(real, text_.substr(begin, at_ - begin));
  }

  // The string that begins at the quote `at_`: in the text itself when nothing is escaped.
  std::string_view read_string() {
    const size_t begin = ++at_;
    skip_run();
    if (peek() == '"' && at_ < text_.size()) {
      ++at_;
      return text_.substr(begin, at_ - 1 - begin);
    }
    unescaped_.assign(text_, begin, at_ - begin);
    for (;;) {
      if (at_ >= text_.size()) fail(at_, "the end inside a string");
      if (text_[at_] == '"') break;
      if (text_[at_] != '\\') unexpected("an escaped control character");
      escape();
      const size_t run = at_;
      skip_run();
      unescaped_.append(text_, run, at_ - run);
    }
    ++at_;
    return unescaped_;
  }
  void skip_run() {
    while (at_ < text_.size() && !kEndsRun[static_cast<unsigned char>(text_[at_])]) ++at_;
  }

  void escape() {
    const size_t begin = at_++;
    const char c = peek();
    ++at_;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        unescaped_ += c;
        return;
      case 'b':
        unescaped_ += '\b';
        return;
      case 'f':
        unescaped_ += '\f';
        return;
      case 'n':
        unescaped_ += '\n';
        return;
      case 'r':
        unescaped_ += '\r';
        return;
      case 't':
        unescaped_ += '\t';
        return;
      case 'u':
        break;
      default:
        fail(begin, "an unknown escape");
    }
    char32_t code = hexadecimal(begin);
    if (code >= 0xDC00 && code <= 0xDFFF) fail(begin, "half a surrogate pair");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (text_.substr(at_, 2) != "\\u") fail(begin, "half a surrogate pair");
      at_ += 2;
      const char32_t low = hexadecimal(begin);
      if (low < 0xDC00 || low > 0xDFFF) fail(begin, "half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(code, &unescaped_);
  }
  char32_t hexadecimal(size_t begin) {
    uint32_t value = 0;
    const std::string_view digits = text_.substr(std::min(at_, text_.size()), 4);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() < 4 || error != std::errc() || end != digits.data() + 4) {
      fail(begin, "\\u without four hexadecimal digits");
    }
    at_ += 4;
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
  const std::string& file_;
  JsonEvents& events_;
  std::vector<char> open_;  // '{' and '['
  bool fresh_ = false;      // the innermost container has had no member yet
  std::string unescaped_;
};

}  // namespace

void scan_json(std::string_view text, const std::string& file, JsonEvents& events) {
  Scanner(text, file, events).run();
}

}  // namespace engine::tokenizer
