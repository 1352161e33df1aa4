#include "tokenizer/unicode.h"

#include <gtest/gtest.h>

#include "tokenizer/byte_level.h"

namespace engine::tokenizer {
namespace {

constexpr size_t kValid = std::string_view::npos;

TEST(Utf8, FindsTheFirstMalformedByte) {
  EXPECT_EQ(find_invalid_utf8(""), kValid);
  EXPECT_EQ(find_invalid_utf8("plain ascii, longer than eight bytes"), kValid);
  EXPECT_EQ(find_invalid_utf8("\u00e9\u20ac\U0010FFFF"), kValid);
  EXPECT_EQ(find_invalid_utf8("abcdefgh\x80"), 8u);      // stray continuation
  EXPECT_EQ(find_invalid_utf8("\xC0\xAF"), 0u);          // overlong
  EXPECT_EQ(find_invalid_utf8("a\xE0\x9F\xBF"), 1u);     // overlong, three bytes
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);      // surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("ab\xE2\x82"), 2u);        // cut short
  EXPECT_EQ(find_invalid_utf8("\u00e9\xFF"), 2u);
}

TEST(Utf8, CodePointsRoundTrip) {
  for (char32_t c : {U'\0', U'a', U'\u007f', U'\u0080', U'\u07ff', U'\u0800', U'\uffff',
                     U'\U00010000', U'\U0010ffff'}) {
    std::string text;
    append_utf8(c, &text);
    EXPECT_EQ(decode_code_point(text, 0).value, c);
    EXPECT_EQ(decode_code_point(text, 0).length, text.size());
    EXPECT_EQ(decode_code_point_before("x" + text, text.size() + 1).value, c);
  }
}

std::string lossy(std::initializer_list<std::string_view> parts) {
  LossyUtf8 stream;
  std::string out;
  for (const std::string_view part : parts) stream.push(part, &out);
  stream.finish(&out);
  return out;
}

// The examples of the Unicode standard, table 3-8 and following.
TEST(LossyUtf8, ReplacesMaximalMalformedParts) {
  EXPECT_EQ(lossy({"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"}),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(lossy({"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"}), "\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(lossy({"\xED\xA0\x80"}), "\uFFFD\uFFFD\uFFFD");
}

TEST(LossyUtf8, DoesNotDependOnHowBytesArrive) {
  const std::string bytes = "a\u00e9\xE2\x82\xF0\x9F\x98\x80\xF0\x9F\x98 b\xC3";
  const std::string whole = lossy({bytes});
  for (size_t i = 0; i <= bytes.size(); ++i) {
    for (size_t j = i; j <= bytes.size(); ++j) {
      const std::string_view view = bytes;
      EXPECT_EQ(lossy({view.substr(0, i), view.substr(i, j - i), view.substr(j)}), whole);
    }
  }
}

TEST(LossyUtf8, HoldsBackAnUnfinishedCharacter) {
  LossyUtf8 stream;
  std::string out;
  stream.push("ab\xE2\x82", &out);
  EXPECT_EQ(out, "ab");
  stream.push("\xAC", &out);
  EXPECT_EQ(out, "ab\u20ac");
}

TEST(Properties, WordAndSpace) {
  EXPECT_TRUE(is_white_space(U'\u00a0'));
  EXPECT_TRUE(is_white_space(U'\u3000'));
  EXPECT_FALSE(is_white_space(U'\u180e'));
  EXPECT_FALSE(is_white_space(U'\u200b'));
  EXPECT_TRUE(is_word_character(U'_'));
  EXPECT_TRUE(is_word_character(U'\u0301'));
  EXPECT_TRUE(is_word_character(U'\u24b6'));  // circled A
  EXPECT_FALSE(is_word_character(U'\u00b2'));
  EXPECT_FALSE(is_word_character(U'-'));
  EXPECT_TRUE(is_numeric(U'\u00bd'));
  EXPECT_FALSE(is_numeric(U'a'));
}

TEST(Excerpt, DoesNotCutCharacters) {
  EXPECT_EQ(excerpt("abc", 3), "abc");
  EXPECT_EQ(excerpt("ab\u20acd", 4), "ab");
  EXPECT_EQ(excerpt("ab\u20acd", 5), "ab\u20ac");
}

TEST(ByteLevel, SpellsEveryByteAsOneCharacter) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  const std::string spelled = spell_bytes(all);
  EXPECT_EQ(find_invalid_utf8(spelled), kValid);
  EXPECT_EQ(unspell_bytes(spelled), all);
  EXPECT_EQ(spell_bytes(" a\n"), "\u0120a\u010a");  // the space of GPT-2 vocabularies is U+0120
  EXPECT_EQ(spell_bytes("\xAD"), "\u0143");
  EXPECT_EQ(unspell_bytes("a b"), std::nullopt);  // a space stands for nothing
  EXPECT_EQ(unspell_bytes("\u0144"), std::nullopt);
}

}  // namespace
}  // namespace engine::tokenizer
