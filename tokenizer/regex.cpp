#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/core.h>
#include <pcre2.h>

#include <cctype>
#include <vector>

#include "engine/core/error.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

Error regex_error(std::string_view pattern, std::string what) {
  return Error(ExitCode::checkpoint, "TOK-REGEX", std::move(what))
      .with("pattern", std::string(pattern));
}

pcre2_code* compile(std::string_view pattern, int* error, size_t* offset) {
  // Oniguruma's ^ and $ match at every line.
  return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, error, offset, nullptr);
}

bool compiles(std::string_view pattern) {
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = compile(pattern, &error, &offset);
  pcre2_code_free(code);
  return code != nullptr;
}

// Contents of bracket expressions.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Oniguruma counts the Latin-1 superscript digits and fractions as word characters, but not in a
// bracket expression.
constexpr std::string_view kWordAlone =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
constexpr std::string_view kHexDigit = "0-9A-Fa-f";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        begin_atom();
        escape();
      } else if (in_set_) {
        set_member(c);
      } else if (c == '[') {
        begin_atom();
        open_set();
      } else if (c == '(') {
        open_group();
      } else if (c == ')') {
        if (!group_starts_.empty()) {
          atom_ = group_starts_.back();
          group_starts_.pop_back();
        }
        copy(1);
      } else if (c == '{') {
        interval();
      } else {
        if (c != '*' && c != '+' && c != '?' && c != '|') begin_atom();
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  void copy(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }
  void begin_atom() {
    if (!in_set_) atom_ = out_.size();
  }
  [[noreturn]] void refuse(std::string_view construct) const {
    throw regex_error(in_, fmt::format("{} in a regular expression is not supported", construct));
  }

  void emit_set(std::string_view members, std::string_view consumed, bool negated) {
    at_ += consumed.size();
    if (in_set_) {
      if (negated) refuse(std::string(consumed) + " inside [...]");
      out_ += members;
    } else {
      out_ += negated ? "[^" : "[";
      out_ += members;
      out_ += ']';
    }
  }

  void escape() {
    if (at_ + 1 >= in_.size()) throw regex_error(in_, "regular expression ends in a backslash");
    const std::string_view both = in_.substr(at_, 2);
    switch (both[1]) {
      case 's':
        return emit_set(kSpace, both, false);
      case 'S':
        return emit_set(kNotSpace, both, false);
      case 'w':
        return emit_set(in_set_ ? kWord : kWordAlone, both, false);
      case 'W':
        return emit_set(kWordAlone, both, true);
      case 'h':
        return emit_set(kHexDigit, both, false);
      case 'H':
        return emit_set(kHexDigit, both, true);
      case 'd':
        at_ += 2;
        out_ += "\\p{Nd}";
        return;
      case 'D':
        at_ += 2;
        out_ += "\\P{Nd}";
        return;
      case 'b':
      case 'B':
        if (!in_set_) refuse(both);
        return copy(2);
      case 'u':
        if (at_ + 6 > in_.size()) throw regex_error(in_, "\\u needs four hexadecimal digits");
        out_ += fmt::format("\\x{{{}}}", in_.substr(at_ + 2, 4));
        at_ += 6;
        return;
      case 'p':
      case 'P':
        return property();
      default:
        return copy(2);
    }
  }

  void property() {
    const size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos) {
      return copy(2);
    }
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    bool negated = in_[at_ + 1] == 'P';
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    const bool is_script = name.size() > 2 && compiles(fmt::format("\\p{{sc:{}}}", name));
    out_ += fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', is_script ? "sc:" : "", name);
    at_ = close + 1;
  }

  void open_set() {
    in_set_ = true;
    copy(1);
    if (at_ < in_.size() && in_[at_] == '^') copy(1);
    if (at_ < in_.size() && in_[at_] == ']') {  // a literal bracket when it comes first
      out_ += "\\]";
      ++at_;
    }
  }

  void set_member(char c) {
    if (c == ']') in_set_ = false;
    if (c == '&' && in_.substr(at_, 2) == "&&") refuse("set intersection (&&)");
    if (c == '[') {
      const size_t close = in_.find(":]", at_);
      if (in_.substr(at_, 2) != "[:" || close == std::string_view::npos) refuse("a nested set");
      return copy(close + 2 - at_);
    }
    copy(1);
  }

  void open_group() {
    group_starts_.push_back(out_.size());
    copy(1);
    if (at_ >= in_.size() || in_[at_] != '?') return;
    size_t end = at_ + 1;  // inline options: (?i) (?i:...) (?-x)
    while (end < in_.size() &&
           (std::isalpha(static_cast<unsigned char>(in_[end])) || in_[end] == '-')) {
      if (in_[end] == 'm') refuse("(?m)");
      ++end;
    }
    copy(end - at_);
    // The punctuation of (?: (?= (?! (?> (?< belongs to the group, not to its contents.
    if (at_ < in_.size() && in_[at_] != ')') copy(1);
    if (at_ < in_.size() && out_.back() == '<' && (in_[at_] == '=' || in_[at_] == '!')) copy(1);
  }

  // {n,m} followed by + means "repeat the whole interval" to Oniguruma, "possessive" to PCRE2;
  // {,m} means {0,m}.
  void interval() {
    size_t at = at_ + 1;
    const auto digits = [&] {
      const size_t from = at;
      while (at < in_.size() && std::isdigit(static_cast<unsigned char>(in_[at]))) ++at;
      return in_.substr(from, at - from);
    };
    const std::string_view low = digits();
    const bool has_comma = at < in_.size() && in_[at] == ',';
    if (has_comma) ++at;
    const std::string_view high = has_comma ? digits() : std::string_view();
    if (at >= in_.size() || in_[at] != '}' || (low.empty() && high.empty())) {
      begin_atom();
      return copy(1);  // a literal brace
    }
    out_ += fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, has_comma ? "," : "", high);
    at_ = at + 1;
    if (at_ < in_.size() && in_[at_] == '+') {
      out_.insert(atom_, "(?:");
      out_ += ')';
      copy(1);
    }
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  bool in_set_ = false;
  size_t atom_ = 0;  // where in `out_` the atom that a quantifier would repeat begins
  std::vector<size_t> group_starts_;
};

}  // namespace

struct RegexScratch::Buffers {
  // One pair of offsets is all we ask for.
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, 16 * 1024 * 1024, nullptr);

  Buffers() {
    if (!data || !context || !stack) throw std::bad_alloc();
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Buffers() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

RegexScratch::RegexScratch() : buffers_(std::make_unique<Buffers>()) {}
RegexScratch::~RegexScratch() = default;

struct Regex::Code {
  std::string pattern;
  pcre2_code* code = nullptr;
  bool jit = false;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex::Regex(std::string_view pattern) : code_(std::make_unique<Code>()) {
  code_->pattern = std::string(pattern);
  const std::string translated = translate(pattern);
  int error = 0;
  size_t offset = 0;
  code_->code = compile(translated, &error, &offset);
  if (!code_->code) {
    char message[128] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
    throw regex_error(pattern, fmt::format("regular expression does not compile: {}", message))
        .with("compiled", translated)
        .found(fmt::format("error at byte {}", offset));
  }
  code_->jit = pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE) == 0;
}

Regex Regex::literal(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte < 0x80 && !std::isalnum(byte))
      pattern += fmt::format("\\x{:02x}", byte);
    else
      pattern += c;
  }
  return Regex(pattern);
}

std::string Regex::translate(std::string_view pattern) {
  return Translator(pattern).run();
}

bool Regex::search(std::string_view subject, size_t from, RegexScratch& scratch,
                   Match* match) const {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  pcre2_match_data* data = scratch.buffers_->data;
  int rc = PCRE2_ERROR_JIT_STACKLIMIT;
  if (code_->jit) {
    rc = pcre2_jit_match(code_->code, text, subject.size(), from, PCRE2_NO_UTF_CHECK, data,
                         scratch.buffers_->context);
  }
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    rc = pcre2_match(code_->code, text, subject.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                     data, nullptr);
  }
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0) {
    char message[128] = "";
    pcre2_get_error_message(rc, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
    throw regex_error(code_->pattern, fmt::format("regular expression gave up: {}", message))
        .found(fmt::format("a text of {} bytes, from byte {} on", subject.size(), from));
  }
  const size_t* offsets = pcre2_get_ovector_pointer(data);
  *match = {offsets[0], offsets[1]};
  return true;
}

bool MatchIterator::next(Match* match) {
  while (from_ <= subject_.size()) {
    if (!regex_.search(subject_, from_, scratch_, match)) break;
    if (match->begin == match->end && match->end == last_end_) {
      from_ += from_ < subject_.size() ? decode_code_point(subject_, from_).length : 1;
      continue;
    }
    from_ = last_end_ = match->end;
    return true;
  }
  from_ = subject_.size() + 1;
  return false;
}

}  // namespace engine::tokenizer
