// The stages one by one: normalizers, added tokens, pre-tokenizers, decoders, vocabulary.
#include <gtest/gtest.h>

#include <random>

#include "tests/tokenizer/sentencepiece_test_util.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {
namespace {

std::string normal(const Normalizer& normalizer, std::string_view text) {
  RegexScratch scratch;
  std::string out = "untouched";
  if (normalizer.normalize(text, scratch, &out)) return out;
  EXPECT_EQ(out, "untouched");
  return std::string(text);
}

TEST(Normalizer, UnicodeForms) {
  const auto nfc = make_unicode_normalizer(UnicodeForm::kNfc);
  EXPECT_EQ(normal(*nfc, "plain"), "plain");
  EXPECT_EQ(normal(*nfc, "e\u0301"), "\u00e9");
  EXPECT_EQ(normal(*nfc, "\u212b"), "\u00c5");
  EXPECT_EQ(normal(*nfc, "\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(normal(*nfc, "\uac00\u11a8"), "\uac01");  // a syllable takes up a following jamo
  EXPECT_EQ(normal(*nfc, "\u304b\u3099"), "\u304c");
  EXPECT_EQ(normal(*nfc, "\ufb01"), "\ufb01");
  EXPECT_EQ(normal(*make_unicode_normalizer(UnicodeForm::kNfkc), "\ufb01\u00b2"), "fi2");
  EXPECT_EQ(normal(*make_unicode_normalizer(UnicodeForm::kNfd), "\u00e9"), "e\u0301");
  EXPECT_EQ(normal(*make_unicode_normalizer(UnicodeForm::kNfkd), "\u1e9b\u0323"), "s\u0323\u0307");
}

TEST(Normalizer, NfcShortcutAgreesWithTheTables) {
  // Characters that the shortcut calls stable must not change, alone or behind a letter or a
  // combining mark. A neighbour outside the shortcut forces the slow path.
  const auto nfc = make_unicode_normalizer(UnicodeForm::kNfc);
  const auto slow = [&](const std::string& text) {
    std::string out = normal(*nfc, text + "\u0344");  // always changes, to U+0308 U+0301
    EXPECT_TRUE(out.ends_with("\u0308\u0301"));
    return out;
  };
  for (char32_t c = 0x80; c < 0x20000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text = "a ";
    text += c < 0x800     ? std::string{static_cast<char>(0xC0 | c >> 6),
                                    static_cast<char>(0x80 | (c & 0x3F))}
            : c < 0x10000 ? std::string{static_cast<char>(0xE0 | c >> 12),
                                        static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                                        static_cast<char>(0x80 | (c & 0x3F))}
                          : std::string{static_cast<char>(0xF0 | c >> 18),
                                        static_cast<char>(0x80 | (c >> 12 & 0x3F)),
                                        static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                                        static_cast<char>(0x80 | (c & 0x3F))};
    text += " ";
    ASSERT_EQ(normal(*nfc, text) + "\u0308\u0301", slow(text)) << "U+" << std::hex << uint32_t(c);
  }
}

TEST(Normalizer, PrependReplaceStripSequence) {
  std::vector<std::unique_ptr<Normalizer>> steps;
  steps.push_back(make_prepend_normalizer("\u2581"));
  steps.push_back(make_literal_replace_normalizer(" ", "\u2581"));
  const auto llama2 = make_normalizer_sequence(std::move(steps));
  EXPECT_EQ(normal(*llama2, ""), "");
  EXPECT_EQ(normal(*llama2, " a  b"), "\u2581\u2581a\u2581\u2581b");
  EXPECT_EQ(normal(*make_replace_normalizer(Regex("\\s+"), " "), "a \n\tb  "), "a b ");
  EXPECT_EQ(normal(*make_replace_normalizer(Regex("x"), "y"), "abc"), "abc");
  EXPECT_EQ(normal(*make_strip_normalizer(true, false), "\u00a0 a "), "a ");
  EXPECT_EQ(normal(*make_strip_normalizer(true, true), " \t "), "");
}

// Pieces separated by bars.
std::string pieces(const PreTokenizer& splitter, std::string_view text) {
  struct Collector final : PieceSink {
    std::string list;
    void piece(Piece piece) override { list += std::string(piece.text) + "|"; }
  } collector;
  RegexScratch scratch;
  splitter.split({text, true}, scratch, collector);
  return collector.list;
}

TEST(Normalizer, CharacterByCharacter) {
  EXPECT_EQ(normal(*make_lowercase_normalizer(), "\u00c0\u0130\u03a3 \u1e9eX"),
            "\u00e0i\u0307\u03c3 \u00dfx");
  EXPECT_EQ(normal(*make_lowercase_normalizer(), "low"), "low");
  EXPECT_EQ(normal(*make_strip_accents_normalizer(), "e\u0301a\u0903\u20dd"), "ea");
  EXPECT_EQ(normal(*make_nmt_normalizer(),
                   "a\x01"
                   "b\tc\u200bd\ufeff\u2581e\u0085"),
            "ab c d  e\u0085");
  EXPECT_EQ(normal(*make_byte_spelling_normalizer(), "a\u00e9 \n"), "a\u00c3\u00a9\u0120\u010a");
}

TEST(Normalizer, Bert) {
  const std::string text("\u00c0b\0\ufffd\u200b\t\u6f22\u5b57\u00a0\u00df", 21);
  EXPECT_EQ(normal(*make_bert_normalizer({}), text), "ab  \u6f22  \u5b57  \u00df");
  EXPECT_EQ(
      normal(*make_bert_normalizer(
                 {.clean_text = false, .handle_chinese_chars = false, .strip_accents = false}),
             "\u00c0B\t\u6f22"),
      "\u00e0b\t\u6f22");
}

TEST(Normalizer, PrecompiledTakesTheShortestRuleForAWholeCluster) {
  const Charsmap map(testing::one_rule_charsmap('e', "E!"), "test");
  const auto precompiled = make_precompiled_normalizer(map);
  EXPECT_EQ(normal(*precompiled, "abc"), "abc");
  EXPECT_EQ(normal(*precompiled, "bed"), "bE!d");
  EXPECT_EQ(normal(*precompiled, "e\u0301"), "E!");  // the accent goes with it
  EXPECT_EQ(normal(*precompiled, "e\u0301\u0301\u0301"), "E!\u0301\u0301\u0301");  // seven bytes
}

TEST(PreTokenizer, KnownPatterns) {
  EXPECT_EQ(pieces(*make_split(Regex(kGpt2Pattern), {}), "I'll  go, 1234 times\n\n x"),
            "I|'ll| | go|,| 1234| times|\n\n| x|");
  EXPECT_EQ(pieces(*make_split(Regex(kLlama3Pattern), {}), "I'LL  go, 1234 times.\n\n x"),
            "I|'LL| | go|,| |123|4| times|.\n\n| x|");
  EXPECT_EQ(pieces(*make_split(Regex(kQwen2Pattern), {}), "12 a"), "1|2| a|");
}

TEST(PreTokenizer, SplitBehaviors) {
  const auto split = [](SplitBehavior behavior, bool invert) {
    return pieces(*make_split(Regex("-"), {.behavior = behavior, .invert = invert}),
                  "the-final--x");
  };
  EXPECT_EQ(split(SplitBehavior::kRemoved, false), "the|final|x|");
  EXPECT_EQ(split(SplitBehavior::kIsolated, false), "the|-|final|-|-|x|");
  EXPECT_EQ(split(SplitBehavior::kMergedWithPrevious, false), "the-|final-|-|x|");
  EXPECT_EQ(split(SplitBehavior::kMergedWithNext, false), "the|-final|-|-x|");
  EXPECT_EQ(split(SplitBehavior::kContiguous, false), "the|-|final|--|x|");
  EXPECT_EQ(split(SplitBehavior::kRemoved, true), "-|-|-|");
}

TEST(PreTokenizer, MetaspaceAndPrefix) {
  EXPECT_EQ(pieces(*make_metaspace({}), "a  b"), "\u2581a|\u2581|\u2581b|");
  EXPECT_EQ(pieces(*make_metaspace({.prepend_scheme = PrependScheme::kNever}), "a b"),
            "a|\u2581b|");
  EXPECT_EQ(pieces(*make_metaspace({.split = false}), "a b"), "\u2581a\u2581b|");
  EXPECT_EQ(pieces(*make_space_prefix(), "a"), " a|");
  EXPECT_EQ(pieces(*make_space_prefix(), " a"), " a|");
}

TEST(PreTokenizer, ByKindsOfCharacters) {
  EXPECT_EQ(pieces(*make_split(CharacterKind::kPunctuation,
                               {.behavior = SplitBehavior::kMergedWithPrevious}),
                   "a, b$c\u2014d"),
            "a,| b$|c\u2014|d|");
  EXPECT_EQ(pieces(*make_split(CharacterKind::kWhiteSpace, {.behavior = SplitBehavior::kRemoved}),
                   " a,b \u3000c\n"),
            "a,b|c|");
  EXPECT_EQ(pieces(*make_word_split(), "Hello, w\u00f6rld_1  ++x\u200d"),
            "Hello|,|w\u00f6rld_1|++|x\u200d|");
  EXPECT_EQ(pieces(*make_fixed_length_split(2), "a\u00e9bcd"), "a\u00e9|bc|d|");
  EXPECT_EQ(pieces(*make_byte_spelling(), "\u00e9 \n"), "\u00c3\u00a9\u0120\u010a|");
}

// Segments as text; tokens as <id>.
std::string segments(const AddedTokens& tokens, std::string_view text, bool parse_special = true) {
  std::vector<Segment> list;
  tokens.split(text, /*match_normalized=*/false, parse_special, &list);
  std::string out;
  for (const Segment& s : list) {
    out += s.id >= 0 ? "<" + std::to_string(s.id) + ">" : std::string(s.text);
    out += "|";
  }
  return out;
}

TEST(AddedTokens, LongestAtTheLeftmostPlace) {
  AddedTokens tokens;
  tokens.set({{.id = 1, .content = "ab"},
              {.id = 2, .content = "abcd"},
              {.id = 3, .content = "bc"},
              {.id = 4, .content = "\u00e9", .special = true}},
             nullptr);
  EXPECT_EQ(segments(tokens, "xabcdbc\u00e9y"), "x|<2>|<3>|<4>|y|");
  EXPECT_EQ(segments(tokens, "abcab"), "<1>|c|<1>|");
  EXPECT_EQ(segments(tokens, "abc\u00e9", false), "<1>|c\u00e9|");
  EXPECT_EQ(segments(tokens, ""), "");
}

TEST(AddedTokens, Flags) {
  AddedTokens tokens;
  tokens.set({{.id = 1, .content = "[L]", .lstrip = true},
              {.id = 2, .content = "[R]", .rstrip = true},
              {.id = 3, .content = "word", .single_word = true}},
             nullptr);
  EXPECT_EQ(segments(tokens, "a \n[L] b"), "a|<1>| b|");
  EXPECT_EQ(segments(tokens, "a [R] \u00a0b"), "a |<2>|b|");
  EXPECT_EQ(segments(tokens, "[R]  [L]x"), "<2>|<1>|x|");
  EXPECT_EQ(segments(tokens, "word sword word_ (word)"), "<3>| sword word_ (|<3>|)|");
}

TEST(AddedTokens, NormalizedTokensMatchNormalText) {
  const auto nfc = make_unicode_normalizer(UnicodeForm::kNfc);
  AddedTokens tokens;
  tokens.set({{.id = 7, .content = "e\u0301", .normalized = true}}, nfc.get());
  std::vector<Segment> list;
  tokens.split("x\u00e9", /*match_normalized=*/true, true, &list);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[1].id, 7);
  EXPECT_EQ(tokens.decoded_form(*tokens.find(7)), "\u00e9");
}

std::string decoded(const Decoder& steps, const std::vector<std::string>& tokens) {
  struct Sink final : DecoderStream {
    std::string text;
    void push(Fragment fragment) override { text += fragment.text; }
    void finish() override {}
  } sink;
  std::vector<std::unique_ptr<DecoderStream>> streams;
  DecoderStream* first = &sink;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    streams.push_back((*step)->make_stream(first));
    first = streams.back().get();
  }
  for (const std::string& token : tokens) first->push({token, true});
  first->finish();
  return sink.text;
}

TEST(Decoder, ByteFallbackRuns) {
  const Decoder steps = {make_byte_fallback_decoder()};
  EXPECT_EQ(decoded(steps, {"<0xE2>", "<0x82>", "<0xAC>", "x"}), "\u20acx");
  EXPECT_EQ(decoded(steps, {"<0x41>", "<0xFF>", "x", "<0x42>"}), "\uFFFD\uFFFDxB");
  EXPECT_EQ(decoded(steps, {"<0xGG>", "<0x4>"}), "<0xGG><0x4>");
}

TEST(Decoder, LlamaSequence) {
  const Decoder steps = {make_replace_decoder("\u2581", " "), make_byte_fallback_decoder(),
                         make_fuse_decoder(),
                         make_strip_decoder({.character = " ", .start = 1, .stop = 0})};
  EXPECT_EQ(decoded(steps, {"\u2581Hello", "\u2581\u2581world", "<0x0A>"}), "Hello  world\n");
  EXPECT_EQ(decoded(steps, {"\u2581", "\u2581a"}), " a");
}

TEST(Decoder, StripPerTokenAndAtTheEnd) {
  EXPECT_EQ(decoded({make_strip_decoder({.character = "_", .start = 1, .stop = 2})},
                    {"__a___", "_", "b_"}),
            "_a_b");
  EXPECT_EQ(
      decoded({make_fuse_decoder(), make_strip_decoder({.character = "_", .start = 0, .stop = 2})},
              {"a_", "_", "_b", "__", "_"}),
      "a___b_");
}

TEST(Decoder, ReplaceAcrossFragmentsOfOneToken) {
  EXPECT_EQ(decoded({make_fuse_decoder(), make_replace_decoder("abc", "X")},
                    {"a", "b", "cab", "ab", "c"}),
            "XabX");
  EXPECT_EQ(decoded({make_replace_decoder("abc", "X")}, {"ab", "c", "abc"}), "abcX");
}

TEST(Decoder, MetaspaceAndJoin) {
  EXPECT_EQ(decoded({make_metaspace_decoder("\u2581", true)}, {"\u2581a", "\u2581b"}), "a b");
  EXPECT_EQ(decoded({make_metaspace_decoder("\u2581", false)}, {"\u2581a"}), " a");
  EXPECT_EQ(decoded({make_join_decoder()}, {"a", "b", "c"}), "a b c");
}

TEST(Decoder, WholeTokens) {
  EXPECT_EQ(decoded({make_word_piece_decoder("##", true)},
                    {"do", "n", "##'", "##t", "stop", "!", "it", " 's"}),
            "do n't stop! it 's");
  EXPECT_EQ(decoded({make_word_piece_decoder("@", false)}, {"a", "@b", "c", "."}), "ab c .");
  EXPECT_EQ(decoded({make_word_end_decoder("</w>")}, {"he", "llo</w>", "wor", "ld</w>"}),
            "hello world");
  EXPECT_EQ(decoded({make_regex_replace_decoder(Regex("[aeiou]+"), "_")}, {"hello", " queue"}),
            "h_ll_ q_");
}

TEST(Vocabulary, FindsWhatWasAdded) {
  Vocabulary vocabulary;
  EXPECT_EQ(vocabulary.find("a"), -1);
  for (int32_t id = 0; id < 5000; ++id) {
    ASSERT_EQ(vocabulary.add("token" + std::to_string(id), id * 2), Vocabulary::Added::kYes);
  }
  EXPECT_EQ(vocabulary.add("token7", 1), Vocabulary::Added::kDuplicateToken);
  EXPECT_EQ(vocabulary.add("new", 14), Vocabulary::Added::kDuplicateId);
  EXPECT_EQ(vocabulary.find("token4999"), 9998);
  EXPECT_EQ(vocabulary.find("token5000"), -1);
  EXPECT_EQ(vocabulary.token(14), "token7");
  EXPECT_FALSE(vocabulary.contains_id(15));
  EXPECT_EQ(vocabulary.id_limit(), 9999);
}

TEST(MergeTable, KeepsTheLaterOfTwoEntries) {
  MergeTable table;
  EXPECT_EQ(table.find(1, 2).rank, Merge::kNone);
  for (int32_t i = 0; i < 1000; ++i) table.insert(i, i + 1, {static_cast<uint32_t>(i), i});
  table.insert(5, 6, {77, 9});
  EXPECT_EQ(table.find(5, 6).rank, 77u);
  EXPECT_EQ(table.find(999, 1000).id, 999);
  EXPECT_EQ(table.find(6, 5).rank, Merge::kNone);
}

}  // namespace
}  // namespace engine::tokenizer
