// Regular expressions of tokenizer.json files. They are written for Oniguruma; PCRE2 with JIT is
// four times faster and agrees with it once a few constructs are spelled out (see translate()).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace engine::tokenizer {

// Match buffers of one thread.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

struct Match {
  size_t begin = 0;
  size_t end = 0;
};

class Regex {
 public:
  // Throws TOK-REGEX, naming `pattern`, when it does not compile or uses a construct whose meaning
  // differs between the two engines and is not translated.
  explicit Regex(std::string_view pattern);
  // A pattern that matches `text` literally.
  static Regex literal(std::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Finds the first match at or after byte `from` of `subject`, which must be valid UTF-8.
  bool search(std::string_view subject, size_t from, RegexScratch& scratch, Match* match) const;

  // The Oniguruma pattern in PCRE2 syntax. \s, \w, \d, \h become explicit sets (PCRE2 counts U+180E
  // as space), script names become \p{sc:...} (not script extensions), {n,m}+ repeats instead
  // of being possessive. Set intersections, nested sets, \b and (?m) are refused.
  static std::string translate(std::string_view pattern);

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

// Walks over the matches of a pattern from left to right, skipping an empty match that touches
// the one before it.
class MatchIterator {
 public:
  MatchIterator(const Regex& regex, std::string_view subject, RegexScratch& scratch)
      : regex_(regex), subject_(subject), scratch_(scratch) {}
  bool next(Match* match);

 private:
  const Regex& regex_;
  std::string_view subject_;
  RegexScratch& scratch_;
  size_t from_ = 0;
  size_t last_end_ = std::string_view::npos;
};

}  // namespace engine::tokenizer
