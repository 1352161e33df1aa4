// Mutations of valid configs: each is a config or an Error, never a crash, a hang or a leak.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/config/support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr std::string_view kSeeds[] = {
    R"(model:
  config: {model_type: gpt2, n_embd: 64, list: [1, 2.5, "x", null, true]}
  tokenizer: 'tok'
data:
  train: &x [a.txt, "b c", d]
  validation: *x
)",
    R"(# comment
model: {path: models/x, dropout: 0.1}
data:
  train: &files
    - a.jsonl
    - "b\tc"
  validation: *files
  fields:
    prompt: "{q}: {a}"
    completion: |
      text
  overflow: drop
train:
  max_steps: 100
  memory_limit: 8GiB
  sample: {every: 5, prompts: ["x: y", 'it''s', "\u00e9"]}
optimizer: {lr: 1e-4, eps: 1.0e-8}
)",
    R"({"train": {"seed": 7, "epochs": 1.5, "resume": true}, "schedule": {"type": "wsd"}})",
    "data:\n  fields:\n    prompt: >-\n      folded\n      text\n    completion: |+\n      kept\n\n"
    "train:\n  output_dir: plain words here\n  sample:\n    prompts:\n    - one\n    -   two\n"};

TEST(ConfigFuzz, MutatedConfigs) {
  std::mt19937 random(7);
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  constexpr std::string_view kTokens[] = {
      "&a ", "*a",   "[",    "]",    "{",      "}",    ": ",  "- ",  "\n",   "\t",          "\"",
      "'",   "#",    "|",    ">",    "!!str ", "? ",   "---", "...", "\x00", "~",           "%",
      "\\x", "\xff", "1e99", "null", "true",   "<<: ", "  ",  ",",   "\r",   "\xef\xbb\xbf"};
  for (int i = 0; i < 6000; ++i) {
    std::string text(kSeeds[below(std::size(kSeeds))]);
    for (size_t edits = 1 + below(6); edits > 0; --edits) {
      const size_t at = below(text.size() + 1);
      switch (below(5)) {
        case 0:
          if (at < text.size()) text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        case 2:
          text.insert(at, kTokens[below(std::size(kTokens))]);
          break;
        case 3: {  // a piece from elsewhere
          const size_t from = below(text.size() + 1);
          text.insert(at, text.substr(from, below(40)));
          break;
        }
        case 4:
          text.insert(at, 1, static_cast<char>(random()));
          break;
      }
    }
    SCOPED_TRACE(text);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
}

// The mutations must start from configs that load, or the round trip is never tried.
TEST(ConfigFuzz, SeedsAreValid) {
  for (const std::string_view seed : kSeeds) EXPECT_NO_THROW(engine::testing::load(seed));
}

TEST(ConfigFuzz, RandomBytes) {
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::vector<uint8_t> bytes(random() % 200);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
}

}  // namespace
