// Fuzz entry for SentencePiece models: a file opens or throws engine::Error; what opens encodes and
// decodes texts, whole and streamed alike, with ids of its vocabulary.
// Link with -fsanitize=fuzzer (clang), or with driver.cpp.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer.h"

namespace {

using engine::Tokenizer;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void check(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  for (const int32_t id : ids) {
    require(id >= 0 && id < tokenizer.vocab_size(), "an id lies outside the vocabulary");
  }
  engine::StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  require(streamed == tokenizer.decode(ids), "streamed and whole decoding differ");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view contents(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer(
        engine::tokenizer::load_sentencepiece({.contents = contents, .name = "fuzz.model"}));
    for (const std::string_view text :
         {"Hello, world!  It's 42.\n", "caf\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x98\x80", "",
          " ab</s>aab \xe2\x96\x81q<tool>ba", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
      check(tokenizer, text);
    }
    std::vector<int32_t> all;
    for (int32_t id = -1; id < 300; ++id) all.push_back(id);
    tokenizer.decode(all, /*skip_special_tokens=*/true);
  } catch (const engine::Error&) {
  }
  return 0;
}
