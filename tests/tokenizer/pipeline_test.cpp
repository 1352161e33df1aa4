// The whole Tokenizer, on small vocabularies written here.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace engine {
namespace {

using testing::Ids;
using testing::TinyTokenizer;

// Llama 2 in small: characters, "▁" for spaces, byte fallback.
TinyTokenizer byte_fallback_tokenizer() {
  TinyTokenizer t;
  t.normalizer = R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})";
  t.decoder = R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
  t.model_options = R"("byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true,)";
  t.vocab = testing::byte_fallback_vocab();
  for (const char* token : {"<unk>", "▁", "t", "h", "e", "▁t", "he", "▁the"}) {
    t.vocab.push_back(token);
  }
  t.merges = {"▁ t", "h e", "▁t he"};
  t.added_tokens = R"([{"id": 256, "content": "<unk>", "special": true, "normalized": false}])";
  return t;
}

TEST(Tokenizer, ByteLevel) {
  const Tokenizer t = Tokenizer::from_json(to_json(testing::byte_level_tokenizer()));
  EXPECT_EQ(t.encode("the the'll<|end|>"), (Ids{261, 257, 258, 260, 261, 261}));
  EXPECT_EQ(t.encode("the the'll<|end|>", {.add_special_tokens = false}),
            (Ids{257, 258, 260, 261}));
  const Ids plain =
      t.encode("<|end|><tool>", {.add_special_tokens = false, .parse_special_tokens = false});
  EXPECT_EQ(plain.size(), 8u);  // the special token as bytes, the other one still found
  EXPECT_EQ(plain.back(), 262);
  EXPECT_EQ(t.encode("", {.add_special_tokens = false}), Ids{});
  EXPECT_EQ(t.decode(t.encode("the x"), true), "the x");
  EXPECT_EQ(t.decode(Ids{261, 257, 262}), "<|end|>the<tool>");
  EXPECT_EQ(t.decode(Ids{261, 257, 262}, true), "the<tool>");
  EXPECT_EQ(t.vocab_size(), 263);
  EXPECT_EQ(t.token_to_id("\u0120the"), 258);
  EXPECT_EQ(t.id_to_token(258), "\u0120the");
  EXPECT_EQ(t.id_to_token(261), "<|end|>");
  EXPECT_EQ(t.id_to_token(263), std::nullopt);
  EXPECT_EQ(t.id_to_token(-1), std::nullopt);
  EXPECT_EQ(t.token_to_id("nothing"), std::nullopt);
  EXPECT_EQ(t.prefix_ids(), Ids{261});
  EXPECT_EQ(t.suffix_ids(), Ids{261});
  ASSERT_EQ(t.special_tokens().size(), 1u);
  EXPECT_EQ(t.special_tokens()[0].content, "<|end|>");
  EXPECT_TRUE(t.is_special(261));
  EXPECT_FALSE(t.is_special(262));
}

TEST(Tokenizer, ByteFallback) {
  const Tokenizer t = Tokenizer::from_json(to_json(byte_fallback_tokenizer()));
  EXPECT_EQ(t.encode("the the"), (Ids{263, 263}));
  EXPECT_EQ(t.encode("\u00e9"), (Ids{257, 0xC3, 0xA9}));
  EXPECT_EQ(t.decode(Ids{263, 263, 0xC3, 0xA9}), "the the\u00e9");
  EXPECT_EQ(t.decode(Ids{263, 0xC3}), "the\uFFFD");
  EXPECT_EQ(t.roles().unk, 256);
}

// As in Hugging Face tokenizers, each found by comparing random files.
TEST(Tokenizer, AddedTokensOfWhiteSpace) {
  TinyTokenizer tiny;
  tiny.vocab = {"a", " "};
  const auto encode = [&](const char* flags, const char* text) {
    tiny.added_tokens =
        std::string(R"([{"id": 2, "content": "  ", "special": true)") + flags + "}]";
    return Tokenizer::from_json(to_json(tiny)).encode(text);
  };
  EXPECT_EQ(encode("", "a     a"), (Ids{0, 2, 2, 1, 0}));
  // One that is swallowed whole by the token before it vanishes.
  EXPECT_EQ(encode(R"(, "lstrip": true, "rstrip": true)", "a     a"), (Ids{0, 2, 0}));
  EXPECT_EQ(encode(R"(, "lstrip": true)", "a     a"), (Ids{0, 2, 2, 1, 0}));
}

TEST(Tokenizer, TheStartOfATextMayBeRemoved) {
  TinyTokenizer tiny;
  tiny.normalizer = R"({"type": "Replace", "pattern": {"Regex": "\\s"}, "content": ""})";
  tiny.pre_tokenizer = R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"})";
  tiny.vocab = {"_", "a"};
  const Tokenizer t = Tokenizer::from_json(to_json(tiny));
  EXPECT_EQ(t.encode("a a"), (Ids{0, 1, 1}));
  EXPECT_EQ(t.encode(" aa"), (Ids{1, 1}));
  for (const bool left : {true, false}) {
    tiny.normalizer = std::string(R"({"type": "Strip", "strip_right": true, "strip_left": )") +
                      (left ? "true}" : "false}");
    tiny.vocab = {"_", "a", "\n"};
    EXPECT_EQ(Tokenizer::from_json(to_json(tiny)).encode("\na"), left ? Ids{1} : (Ids{0, 2, 1}));
  }
}

// Characters that spell bytes fall back to bytes like all others.
TEST(Tokenizer, ByteLevelWithFallback) {
  TinyTokenizer tiny;
  tiny.pre_tokenizer = testing::kByteLevel;
  tiny.model_options = R"("byte_fallback": true,)";
  tiny.vocab = testing::byte_fallback_vocab();
  tiny.vocab.push_back("\u00c3");
  const Tokenizer t = Tokenizer::from_json(to_json(tiny));
  EXPECT_EQ(t.encode("a\u00e9"), (Ids{'a', 256, 0xC2, 0xA9}));
}

TEST(Tokenizer, TokensThatADecoderEmptiesStayTokens) {
  TinyTokenizer tiny;
  tiny.vocab = {"aa", "b"};
  for (const char* step : {R"({"type": "Strip", "content": "a", "start": 2, "stop": 0})",
                           R"({"type": "Replace", "pattern": {"String": "a"}, "content": ""})"}) {
    tiny.decoder = std::string(R"({"type": "Sequence", "decoders": [)") + step +
                   R"(, {"type": "WordPiece", "prefix": "##", "cleanup": false}]})";
    const Tokenizer t = Tokenizer::from_json(to_json(tiny));
    EXPECT_EQ(t.decode(Ids{1, 0, 1}), "b  b");
    EXPECT_EQ(t.decode(Ids{0, 1}), " b");
    EXPECT_EQ(t.decode(Ids{1, 0}), "b ");
  }
}

TEST(Tokenizer, IdsOutsideTheVocabularyDecodeToNothing) {
  const Tokenizer t = Tokenizer::from_json(to_json(testing::byte_level_tokenizer()));
  EXPECT_EQ(t.decode(Ids{257, 99999, -100, 257}), "thethe");
}

TEST(Tokenizer, InvalidUtf8NamesTheOffset) {
  const Tokenizer t = Tokenizer::from_json(to_json(testing::byte_level_tokenizer()));
  try {
    t.encode("abc\xFFxyz");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "TOK-UTF8");
    EXPECT_EQ(error.exit_code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("at byte 3 of 7"), std::string::npos) << error.what();
  }
}

TEST(Tokenizer, RoundTripsAnyText) {
  const Tokenizer bytes = Tokenizer::from_json(to_json(testing::byte_level_tokenizer()));
  const Tokenizer fallback = Tokenizer::from_json(to_json(byte_fallback_tokenizer()));
  std::mt19937 random(3);
  std::vector<std::string> texts = {std::string(testing::kSampleText), std::string("\0a\0", 3)};
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (unsigned n = random() % 30; n > 0; --n) {
      char32_t c = random() % (random() % 2 ? 0x80 : 0x110000);
      if (c >= 0xD800 && c < 0xE000) c = U'x';
      if (c == 0x2581) c = U' ';  // Llama 2 spells spaces with it
      tokenizer::append_utf8(c, &text);
    }
    texts.push_back(text);
  }
  for (const std::string& text : texts) {
    EXPECT_EQ(bytes.decode(bytes.encode(text), true), text);
    EXPECT_EQ(fallback.decode(fallback.encode(text)), text);
  }
}

TEST(StreamDecoder, EqualsWholeDecodeAndNeverCutsCharacters) {
  std::mt19937 random(4);
  for (const TinyTokenizer& tiny : {testing::byte_level_tokenizer(), byte_fallback_tokenizer()}) {
    const Tokenizer t = Tokenizer::from_json(to_json(tiny));
    for (int round = 0; round < 2000; ++round) {
      Ids ids(random() % 20);
      for (int32_t& id : ids) {
        // Mostly pieces of characters.
        id = static_cast<int32_t>(random() % 4 ? 0x80 + random() % 0x80
                                               : random() % (t.vocab_size() + 2));
      }
      const bool skip = random() % 2;
      StreamDecoder stream(t, skip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string part = stream.push(id);
        EXPECT_EQ(tokenizer::find_invalid_utf8(part), std::string_view::npos);
        text += part;
      }
      text += stream.finish();
      EXPECT_EQ(text, t.decode(ids, skip));
    }
  }
}

TEST(StreamDecoder, EmitsAsSoonAsACharacterIsWhole) {
  const Tokenizer t = Tokenizer::from_json(to_json(testing::byte_level_tokenizer()));
  StreamDecoder stream(t);
  EXPECT_EQ(stream.push(257), "the");
  EXPECT_EQ(stream.push(0xC3), "");
  EXPECT_EQ(stream.push(0xA9), "\u00e9");
  EXPECT_EQ(stream.push(0xC3), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_THROW(stream.push(257), std::logic_error);
}

TEST(Tokenizer, EncodesFromSeveralThreads) {
  const Tokenizer t = Tokenizer::from_json(to_json(testing::byte_level_tokenizer()));
  const Ids expected = t.encode(testing::kSampleText);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 200; ++i) wrong[thread] += t.encode(testing::kSampleText) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace engine
