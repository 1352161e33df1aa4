// Directories: which files count, and what the configs say about the tokenizer.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/clean_up.h"
#include "tokenizer/tokenizer.h"

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

TEST(Directory, TokenizerJsonWithConfig) {
  const TemporaryDirectory directory;
  const std::string json = to_json(testing::byte_level_tokenizer()) + "\n \n";
  directory.write("tokenizer.json", json);
  directory.write("tokenizer_config.json", R"({
      "eos_token": {"content": "<|end|>", "lstrip": false}, "pad_token": "<|pad|>",
      "added_tokens_decoder": {"261": {"content": "<|end|>", "special": true},
                               "263": {"content": "<|pad|>", "special": true}}})");
  directory.write("special_tokens_map.json", R"({"bos_token": "<|end|>", "pad_token": "<tool>"})");
  directory.write("unrelated.bin", "x");
  const Tokenizer t = Tokenizer::open(directory.path());
  EXPECT_EQ(t.eos_id(), 261);
  EXPECT_EQ(t.bos_id(), 261);
  EXPECT_EQ(t.pad_id(), 263);
  EXPECT_EQ(t.encode("<|pad|>", {.add_special_tokens = false}), Ids{263});

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
  // What stands around a text.
  directory.write("tokenizer_config.json",
                  R"({"eos_token": "<|im_start|>", "add_eos_token": true})");
  EXPECT_EQ(Tokenizer::open(directory.path()).encode("ab"), (Ids{2, 6}));
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

// The letters "a" and "b", and tokens with flags of their own.
std::string flagged_json() {
  TinyTokenizer t;
  t.vocab = {"a", "b", " ", "<s>", "[", "]"};
  t.added_tokens = R"([{"id": 6, "content": "[M]", "special": true},
                       {"id": 7, "content": "[T]", "special": false}])";
  return to_json(t);
}

// As in transformers: tokenizer_config.json has the last word about flags, not about ids, and what
// it names is special.
TEST(Directory, ConfigDecidesAboutFlags) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", flagged_json());
  const auto open = [&](const char* config) {
    directory.write("tokenizer_config.json", config);
    return Tokenizer::open(directory.path());
  };
  EXPECT_EQ(open("{}").encode("a [M]<s>b"), (Ids{0, 2, 6, 1}));
  const Tokenizer config = open(R"({"added_tokens_decoder": {
      "6": {"content": "[M]", "special": true, "lstrip": true},
      "70": {"content": "[T]", "special": true, "rstrip": true}}})");
  EXPECT_EQ(config.encode("a [M][T] b"), (Ids{0, 6, 7, 1}));
  EXPECT_EQ(config.decode(Ids{7, 0}, /*skip_special_tokens=*/true), "a");
  const Tokenizer named = open(R"({"bos_token": "<s>", "eos_token": "[T]", "pad_token": "[new]"})");
  EXPECT_EQ(named.encode("a<s>b"), (Ids{0, 3, 1}));
  EXPECT_EQ(named.decode(Ids{3, 7, 0}, /*skip_special_tokens=*/true), "a");
  EXPECT_EQ(named.bos_id(), 3);
  EXPECT_EQ(named.eos_id(), 7);
  EXPECT_EQ(named.pad_id(), std::nullopt);  // no such token: an id would have no embedding
  EXPECT_EQ(named.vocab_size(), 8);
}

TEST(Directory, AddedTokensFile) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", flagged_json());
  directory.write("added_tokens.json", R"({"[T]": 7, "[U]": 8, "[V]": 9, "[W]": 10})");
  const auto kept = [&] {  // by skip_special_tokens
    const Tokenizer t = Tokenizer::open(directory.path());
    EXPECT_EQ(t.encode("[U][V][W]"), (Ids{8, 9, 10}));
    return t.decode(Ids{7, 8, 9, 10}, /*skip_special_tokens=*/true);
  };
  EXPECT_EQ(kept(), "[T]");  // nobody says more
  directory.write("tokenizer_config.json", R"({"eos_token": "[U]"})");
  EXPECT_EQ(kept(), "[T] [V] [W]");
  directory.write("special_tokens_map.json",
                  R"({"additional_special_tokens": ["[V]", {"content": "[W]"}]})");
  EXPECT_EQ(kept(), "[T]");
}

TEST(CleanUpSpaces, FollowsTransformers) {
  EXPECT_EQ(tokenizer::clean_up_spaces("this . issuer , do n't , it 's ' a ' we 've !"),
            "this. issuer, don't, it's'a'we've!");
}

// A vocabulary of words, which its decoder puts spaces between.
std::string word_json() {
  nlohmann::json vocab;
  for (const char* word :
       {"a", "bc", ".", "?", "!",  ",", "'", "n't", "'m", "'s", "'ve", "'re",
        "n", "t",  "m", "v", "ve", "e", "r", "'v",  "n'", "",   " ",   "\u00e9"}) {
    vocab[word] = vocab.size();
  }
  return R"({"model": {"type": "WordLevel", "unk_token": "a", "vocab": )" + vocab.dump() + "}}";
}

TEST(Directory, CleansUpWhereTheConfigAsks) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", word_json());
  const Tokenizer plain = Tokenizer::open(directory.path());
  directory.write("tokenizer_config.json", R"({"clean_up_tokenization_spaces": true})");
  const Tokenizer cleaning = Tokenizer::open(directory.path());
  std::mt19937 random(4);
  int changed = 0;
  for (int round = 0; round < 3000; ++round) {
    Ids ids(random() % 12);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % plain.vocab_size());
    const std::string expected = tokenizer::clean_up_spaces(plain.decode(ids));
    StreamDecoder stream(cleaning);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    ASSERT_EQ(streamed + stream.finish(), expected);
    changed += expected != plain.decode(ids);
  }
  EXPECT_GT(changed, 1500);
  // What the next token cannot change is there at once.
  StreamDecoder stream(cleaning);
  EXPECT_EQ(stream.push(0), "a");
  EXPECT_EQ(stream.push(1), " bc");
  EXPECT_EQ(stream.push(6), "");  // " '", perhaps of " ' "
  EXPECT_EQ(stream.push(2), " '.");
  EXPECT_EQ(stream.finish(), "");
}

// transformers ignores the wish of BPE tokenizers, which have it by an old default.
TEST(Directory, NeverCleansUpBpe) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", to_json(testing::byte_level_tokenizer()));
  directory.write("tokenizer_config.json", R"({"clean_up_tokenization_spaces": true})");
  const Tokenizer t = Tokenizer::open(directory.path());
  EXPECT_EQ(t.decode(t.encode("f(a , b) . c", {.add_special_tokens = false})), "f(a , b) . c");
  directory.write("tokenizer_config.json",
                  R"({"clean_up_tokenization_spaces": true,
      "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": true})");
  EXPECT_EQ(
      Tokenizer::open(directory.path()).decode(t.encode("a . b", {.add_special_tokens = false})),
      "a. b");
}

}  // namespace
}  // namespace engine
