// The whole Tokenizer, on small vocabularies written here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "engine/core/error.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using testing::Ids;
using testing::TinyTokenizer;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    path_ = fs::temp_directory_path() /
            ("engine_tokenizer_test_" + std::to_string(std::random_device()()));
    fs::create_directories(path_);
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  void write(const std::string& name, std::string_view contents) const {
    std::ofstream(path_ / name, std::ios::binary) << contents;
  }
  std::string read(const std::string& name) const {
    std::ifstream in(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  fs::path path_;
};

// Bytes, a few merges, and an end-of-text token in front of everything.
TinyTokenizer byte_level_tokenizer() {
  TinyTokenizer t;
  t.pre_tokenizer = testing::kByteLevel;
  t.decoder = testing::kByteLevelDecoder;
  t.vocab = testing::byte_vocab();
  for (const char* merge : {"t h", "th e", "\u0120 the", "l l", "'l l"}) {
    std::string text = merge;
    t.merges.push_back(text);
    text.erase(text.find(' '), 1);
    t.vocab.push_back(text);
  }
  t.merges[4] = "' ll";
  t.added_tokens =
      R"([{"id": 261, "content": "<|end|>", "special": true, "normalized": false},
          {"id": 262, "content": "<tool>", "special": false, "normalized": false}])";
  t.post_processor = R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "<|end|>", "type_id": 0}}],
      "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [261], "tokens": ["<|end|>"]}}})";
  return t;
}

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
  const Tokenizer t = Tokenizer::from_json(to_json(byte_level_tokenizer()));
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

TEST(Tokenizer, IdsOutsideTheVocabularyDecodeToNothing) {
  const Tokenizer t = Tokenizer::from_json(to_json(byte_level_tokenizer()));
  EXPECT_EQ(t.decode(Ids{257, 99999, -100, 257}), "thethe");
}

TEST(Tokenizer, InvalidUtf8NamesTheOffset) {
  const Tokenizer t = Tokenizer::from_json(to_json(byte_level_tokenizer()));
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
  const Tokenizer bytes = Tokenizer::from_json(to_json(byte_level_tokenizer()));
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
  for (const TinyTokenizer& tiny : {byte_level_tokenizer(), byte_fallback_tokenizer()}) {
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
  const Tokenizer t = Tokenizer::from_json(to_json(byte_level_tokenizer()));
  StreamDecoder stream(t);
  EXPECT_EQ(stream.push(257), "the");
  EXPECT_EQ(stream.push(0xC3), "");
  EXPECT_EQ(stream.push(0xA9), "\u00e9");
  EXPECT_EQ(stream.push(0xC3), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_THROW(stream.push(257), std::logic_error);
}

TEST(Tokenizer, EncodesFromSeveralThreads) {
  const Tokenizer t = Tokenizer::from_json(to_json(byte_level_tokenizer()));
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

TEST(Directory, TokenizerJsonWithConfig) {
  const TemporaryDirectory directory;
  const std::string json = to_json(byte_level_tokenizer()) + "\n \n";
  directory.write("tokenizer.json", json);
  directory.write("tokenizer_config.json", R"({
      "eos_token": {"content": "<|end|>", "lstrip": false}, "pad_token": "<|pad|>",
      "clean_up_tokenization_spaces": true,
      "added_tokens_decoder": {"261": {"content": "<|end|>", "special": true},
                               "263": {"content": "<|pad|>", "special": true}}})");
  directory.write("special_tokens_map.json", R"({"bos_token": "<|end|>", "pad_token": "<tool>"})");
  directory.write("unrelated.bin", "x");
  const Tokenizer t = Tokenizer::open(directory.path());
  EXPECT_EQ(t.eos_id(), 261);
  EXPECT_EQ(t.bos_id(), 261);
  EXPECT_EQ(t.pad_id(), 263);
  EXPECT_EQ(t.encode("<|pad|>", {.add_special_tokens = false}), Ids{263});
  EXPECT_TRUE(t.wants_clean_up_spaces());

  const TemporaryDirectory copy;
  t.save(copy.path() / "saved");
  EXPECT_EQ(copy.read("saved/tokenizer.json"), json);
  EXPECT_EQ(t.files().size(), 3u);
  const Tokenizer again = Tokenizer::open(copy.path() / "saved");
  EXPECT_EQ(again.fingerprint(), t.fingerprint());
  directory.write("special_tokens_map.json", "{}");
  EXPECT_NE(Tokenizer::open(directory.path()).fingerprint(), t.fingerprint());
}

TEST(Directory, VocabAndMerges) {
  const TemporaryDirectory directory;
  directory.write("vocab.json",
                  R"({"a": 0, "b": 1, "ab": 2, "1": 3, "11": 4, "<|endoftext|>": 5})");
  directory.write("merges.txt", "#version: 0.2\na b\n1 1\n");
  const Tokenizer gpt2 = Tokenizer::open(directory.path());
  EXPECT_EQ(gpt2.encode("ab11<|endoftext|>"), (Ids{2, 4, 5}));
  EXPECT_EQ(gpt2.eos_id(), 5);
  EXPECT_EQ(gpt2.bos_id(), 5);
  directory.write("added_tokens.json", R"({"<|im_start|>": 6})");
  const Tokenizer qwen = Tokenizer::open(directory.path());  // splits digits one by one
  EXPECT_EQ(qwen.encode("ab11<|im_start|>"), (Ids{2, 3, 3, 6}));
  EXPECT_EQ(qwen.bos_id(), std::nullopt);
  const Tokenizer asked = Tokenizer::open(directory.path(), {.split_pattern = "gpt2"});
  EXPECT_EQ(asked.encode("11"), Ids{4});
}

TEST(Directory, TiktokenRanks) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.model", "YQ== 0\nYg== 1\nYWI= 2\nIGFi 3\nIA== 4\n");
  const Tokenizer t = Tokenizer::open(
      directory.path(), {.split_pattern = "llama3", .special_tokens = {{"<|begin_of_text|>", 5}}});
  EXPECT_EQ(t.encode("ab ab"), (Ids{5, 2, 3}));
  EXPECT_EQ(t.decode(Ids{5, 2, 3}, true), "ab ab");
  EXPECT_EQ(t.bos_id(), 5);
}

TEST(CleanUpSpaces, FollowsTransformers) {
  EXPECT_EQ(clean_up_spaces("this . issuer , do n't , it 's ' a ' we 've !"),
            "this. issuer, don't, it's'a'we've!");
}

}  // namespace
}  // namespace engine
