#include "tokenizer/llama2c.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tests/support/shared_data.h"
#include "tests/tokenizer/tokenizer_test_util.h"
#include "tokenizer/tokenizer.h"

namespace engine {
namespace {

using testing::Ids;

void append_entry(float score, std::string_view text, std::string* file) {
  const int32_t length = static_cast<int32_t>(text.size());
  file->append(reinterpret_cast<const char*>(&score), 4);
  file->append(reinterpret_cast<const char*>(&length), 4);
  file->append(text);
}

std::string small_file() {
  std::string file("\x08\0\0\0", 4);
  for (const char* control : {"<unk>", "\n<s>\n", "\n</s>\n"}) append_entry(0, control, &file);
  for (const std::string& byte : testing::byte_fallback_vocab()) append_entry(0, byte, &file);
  append_entry(0, " a", &file);   // 259
  append_entry(-1, "bc", &file);  // 260
  append_entry(-2, "ab", &file);  // 261
  append_entry(-3, " ", &file);   // 262
  append_entry(-4, "a", &file);
  append_entry(-5, "b", &file);  // 264
  append_entry(-6, "c", &file);
  return file;
}

TEST(Llama2c, MergesFollowTheScores) {
  const Tokenizer t = Tokenizer::from_json(llama2c_tokenizer_json(small_file(), "small.bin"));
  EXPECT_EQ(t.encode("abc"), (Ids{1, 259, 260}));  // " a" and "bc" before "ab"
  EXPECT_EQ(t.encode("cabb"), (Ids{1, 262, 265, 261, 264}));
  EXPECT_EQ(t.encode(""), Ids{1});
  EXPECT_EQ(t.encode("\u00e9"), (Ids{1, 262, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(t.decode(t.encode("abc a\u00e9\n"), true), "abc a\u00e9\n");
  EXPECT_EQ(t.bos_id(), 1);
  EXPECT_EQ(t.eos_id(), 2);
  EXPECT_EQ(t.vocab_size(), 266);
}

TEST(Llama2c, MalformedFiles) {
  const auto code = [](std::string_view contents) -> std::string {
    try {
      llama2c_tokenizer_json(contents, "bad.bin");
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
      return error.code();
    }
    return "";
  };
  const std::string good = small_file();
  EXPECT_EQ(code(good), "");
  EXPECT_EQ(code(""), "TOK-MALFORMED");
  for (size_t cut = 0; cut + 1 < good.size(); cut += 7) {
    // Cutting between two tokens leaves a smaller vocabulary, which is legal from 259 tokens on.
    const std::string result = code(std::string_view(good).substr(0, cut));
    EXPECT_TRUE(result == "TOK-MALFORMED" || (result.empty() && cut > 3000)) << cut;
  }
  std::string twice = good;
  append_entry(-7, "c", &twice);
  EXPECT_EQ(code(twice), "TOK-DUPLICATE");
  std::string negative = good;
  const int32_t length = -5;
  std::memcpy(negative.data() + 8, &length, 4);
  EXPECT_EQ(code(negative), "TOK-MALFORMED");
  std::string invalid = good;
  append_entry(-7, "\xFF", &invalid);
  EXPECT_EQ(code(invalid), "TOK-MALFORMED");
}

TEST(Llama2c, ReproducesStories260K) {
  ENGINE_REQUIRE_SHARED_DATA(file, "weights/stories260K/tok512.bin");
  ENGINE_REQUIRE_SHARED_DATA(golden_path, "weights/stories260K/golden.json");
  const Tokenizer t = Tokenizer::from_json(llama2c_tokenizer_json(file));
  const auto golden = nlohmann::json::parse(std::ifstream(golden_path));
  for (const auto& example : golden["encode_examples"]) {
    EXPECT_EQ(t.encode(example["text"].get<std::string>()), example["ids"].get<Ids>())
        << example["text"];
  }
  const Ids ids = golden["greedy_ids"].get<Ids>();
  EXPECT_EQ(t.decode(ids, true), golden["greedy_text"].get<std::string>());
  const std::string text = golden["text"].get<std::string>();
  EXPECT_EQ(t.encode(text), golden["text_ids"].get<Ids>());
  EXPECT_EQ(t.vocab_size(), 512);
}

}  // namespace
}  // namespace engine
