#include "tokenizer/regex.h"

#include <gtest/gtest.h>

#include "engine/core/error.h"
#include "tokenizer/pre_tokenizer.h"

namespace engine::tokenizer {
namespace {

// What `pattern` finds in `text`, separated by bars. Expectations come from Oniguruma 6.9.
std::string found(std::string_view pattern, std::string_view text) {
  const Regex regex(pattern);
  RegexScratch scratch;
  MatchIterator matches(regex, text, scratch);
  std::string list;
  for (Match match; matches.next(&match);) {
    list += std::string(text.substr(match.begin, match.end - match.begin)) + "|";
  }
  return list;
}

TEST(Regex, SpaceIsUnicodeWhiteSpace) {
  EXPECT_EQ(found("\\s", "a\u180e\u00a0\u0085\u200b\u3000"), "\u00a0|\u0085|\u3000|");
  EXPECT_EQ(found("\\S+", "ab\u180e c\u2028d"), "ab\u180e|c|d|");
  EXPECT_EQ(found("[^\\S\\n]+", "a \t\n b"), " \t| |");
  EXPECT_EQ(found("[^\\s\\p{L}]+", "a.\u180e b!"), ".\u180e|!|");
}

TEST(Regex, OtherClasses) {
  EXPECT_EQ(found("\\d+", "12\u0663a\u00b2"), "12\u0663|");
  EXPECT_EQ(found("\\h+", "abz fg 12"), "ab|f|12|");
  EXPECT_EQ(found("\\w+", "a\u00e9_1\u00b2\u2460\u203fx"), "a\u00e9_1\u00b2|\u203fx|");
  EXPECT_EQ(found("[\\w]+", "a\u00b2b"), "a|b|");
  EXPECT_EQ(found("[^\\s\\w]", "a\u00b2 \u00bd!"), "\u00b2|\u00bd|!|");
  EXPECT_EQ(found("\\W", "a\u00b2 !"), " |!|");
  EXPECT_EQ(found("\\p{Han}+", "\u3005\u3007\u6f22\u3021x\u30fb"), "\u3005\u3007\u6f22\u3021|");
  EXPECT_EQ(found("\\p{^L}+", "a12b"), "12|");
  EXPECT_EQ(found("[[:alpha:]]+", "abc1\u00e9"), "abc|\u00e9|");
  EXPECT_EQ(found("\\u0041", "xA"), "A|");
}

TEST(Regex, IntervalPlusRepeats) {
  // To PCRE2 {1,3}+ is possessive and would find nothing here.
  EXPECT_EQ(found("a{1,2}+a", "aaaa"), "aaaa|");
  EXPECT_EQ(found("\\p{N}{1,3}+", "1234567 12"), "1234567|12|");
  EXPECT_EQ(found("(ab){2}+", "ababab"), "abab|");
  EXPECT_EQ(found("x{,2}y", "xxxy"), "xxy|");
  EXPECT_EQ(found("a{b", "a{b"), "a{b|");
}

TEST(Regex, AnchorsMatchAtLines) {
  EXPECT_EQ(found("^a", "a\na a"), "a|a|");
  EXPECT_EQ(found("a$", "a\na a"), "a|a|");
  EXPECT_EQ(found("a.b", "a\nb axb"), "axb|");
}

TEST(Regex, CaseFolding) {
  // U+017F long s folds to s, U+212A to k.
  EXPECT_EQ(found("(?i:'s|k)", "'S '\u017f \u212a"), "'S|'\u017f|\u212a|");
}

TEST(Regex, EmptyMatches) {
  EXPECT_EQ(found("a*", "baab"), "|aa||");
  EXPECT_EQ(found("(?=b)", "ab\u00e9b"), "||");
  EXPECT_EQ(found("", "\u00e9x"), "|||");
}

TEST(Regex, Literal) {
  RegexScratch scratch;
  Match match;
  EXPECT_TRUE(Regex::literal("a.b [x]").search("aab [x] a.b [x]", 0, scratch, &match));
  EXPECT_EQ(match.begin, 8u);
  EXPECT_TRUE(Regex::literal("\u2581").search("x\u2581", 0, scratch, &match));
  EXPECT_EQ(match.end, 4u);
}

TEST(Regex, RefusesWhatItWouldMisread) {
  for (const char* pattern :
       {"[a-z&&[^b]]", "[a[bc]]", "\\bword", "(?m:a.b)", "(unclosed", "a\\", "[x\\W]", "\\u00"}) {
    try {
      Regex regex(pattern);
      ADD_FAILURE() << pattern << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "TOK-REGEX") << pattern;
      EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
    }
  }
}

TEST(Regex, LongRunsDoNotExhaustTheStack) {
  // Backtracks over the whole run in the branch \s*[\r\n]+.
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(found(kLlama3Pattern, spaces + "x").size(), spaces.size() + 1 + 2);
  const Regex nested("(?:a|b)*c");
  RegexScratch scratch;
  Match match;
  EXPECT_TRUE(nested.search(std::string(100000, 'a') + "c", 0, scratch, &match));
}

}  // namespace
}  // namespace engine::tokenizer
