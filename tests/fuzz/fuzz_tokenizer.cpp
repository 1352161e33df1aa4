// Fuzz entry for tokenizers. The first byte chooses what the others are:
//   '0'  a text for a byte-level vocabulary: what is UTF-8 comes back the same, whole or streamed
//   '1'  a tokenizer.json: it opens or throws engine::Error; what opens encodes and decodes texts
//   '2'  a tiktoken rank file: the same
//   '3'  vocab.json, a zero byte and merges.txt: the same
// Link with -fsanitize=fuzzer (clang), or with driver.cpp.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer.h"

namespace {

using engine::Tokenizer;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void check_ids(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) {
    require(id >= 0 && id < tokenizer.vocab_size(), "an id lies outside the vocabulary");
  }
}

// decode() gives what the stream gives, piece by piece.
void check_stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  engine::StreamDecoder stream(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += stream.push(id);
  text += stream.finish();
  require(text == tokenizer.decode(ids), "streamed and whole decoding differ");
}

const Tokenizer& byte_level() {
  static const Tokenizer tokenizer = [] {
    engine::BpeTrainer trainer({.vocab_size = 320});
    trainer.add(
        "The quick brown fox jumps over the lazy dog's back 12345 times.\n\n  Don't\tstop. ");
    trainer.add(
        "caf\xc3\xa9 na\xc3\xafve \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80\xf0\x9f\x98\x80");
    trainer.add("for (int i = 0; i < n; ++i) { sum += values[i]; }\n");
    return Tokenizer::from_json(trainer.train());
  }();
  return tokenizer;
}

void try_text(std::string_view text) {
  const Tokenizer& tokenizer = byte_level();
  // Any ids decode, those of no token too.
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    ids.push_back((static_cast<uint8_t>(text[i]) << 8 | static_cast<uint8_t>(text[i + 1])) % 400);
  }
  check_stream(tokenizer, ids);
  try {
    ids = tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = false});
  } catch (const engine::Error& error) {
    require(error.code() == "TOK-UTF8", error.what());
    return;
  }
  check_ids(tokenizer, ids);
  require(tokenizer.decode(ids) == text, "a text changed on its way through ids");
  check_stream(tokenizer, ids);
}

template <typename Open>
void try_file(Open open) {
  try {
    const Tokenizer tokenizer = open();
    for (const std::string_view text :
         {"Hello, world!  It's 42.\n", "caf\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x98\x80", "", " <end>ab",
          "a    a<s>   [M]\xe2\x96\x81the do n't . ab12"}) {
      const std::vector<int32_t> ids = tokenizer.encode(text);
      check_ids(tokenizer, ids);
      check_stream(tokenizer, ids);
    }
  } catch (const engine::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  using engine::tokenizer::load_tiktoken;
  using engine::tokenizer::load_vocab_merges;
  switch (data[0] % 4) {
    case 0:
      try_text(rest);
      break;
    case 1:
      try_file([&] { return Tokenizer::from_json(std::string(rest)); });
      break;
    case 2:
      try_file([&] {
        return Tokenizer(load_tiktoken({.ranks = rest,
                                        .name = "ranks",
                                        .added_tokens = {{.id = 7, .content = "<s>"}},
                                        .split_pattern = "llama3"}));
      });
      break;
    case 3:
      try_file([&] {
        const size_t end = std::min(rest.find('\0'), rest.size());
        return Tokenizer(
            load_vocab_merges({.vocab = rest.substr(0, end),
                               .merges = rest.substr(std::min(end + 1, rest.size())),
                               .vocab_name = "vocab.json",
                               .merges_name = "merges.txt",
                               .added_tokens = {{.id = 9, .content = "[M]", .lstrip = true}},
                               .split_pattern = rest.size() % 2 ? "qwen2" : "gpt2",
                               .add_prefix_space = rest.size() % 3 == 0}));
      });
      break;
  }
  return 0;
}
