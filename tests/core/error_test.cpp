#include "engine/core/error.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace engine {
namespace {

TEST(Error, RendersLikeTheManual) {
  const Error error = Error(ExitCode::checkpoint, "ST-TRUNCATED", "the file is cut off")
                          .with("file", "a.safetensors")
                          .expected("9804 bytes")
                          .why("disk full\nor download broke off");
  EXPECT_STREQ(error.what(),
               "error[ST-TRUNCATED]: the file is cut off\n"
               "  file      a.safetensors\n"
               "  expected  9804 bytes\n"
               "  why       disk full\n"
               "            or download broke off");
  EXPECT_EQ(static_cast<int>(error.exit_code()), 4);
}

TEST(Error, JsonIsOneLineWithEverything) {
  const Error error = Error(ExitCode::data, "DATA-UTF8", "bad \"bytes\" \xff")
                          .found("first")
                          .fix("save as\nUTF-8")
                          .found("second");
  const std::string line = error.json();
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const nlohmann::json object = nlohmann::json::parse(line);
  EXPECT_EQ(object["error"], "DATA-UTF8");
  EXPECT_EQ(object["message"], "bad \"bytes\" \xef\xbf\xbd");
  EXPECT_EQ(object["exit_code"], 3);
  EXPECT_EQ(object["fix"], "save as\nUTF-8");
  EXPECT_EQ(object["found"], "first\nsecond");
}

TEST(Error, NearestWord) {
  const std::vector<std::string> words = {"weight_decay", "warmup_steps", "lr"};
  EXPECT_EQ(nearest_word("weight_decy", words), "weight_decay");
  EXPECT_EQ(nearest_word("warmupsteps", words), "warmup_steps");
  EXPECT_EQ(nearest_word("lr_", words), "lr");
  EXPECT_EQ(nearest_word("tokenizer_path", words), "");
  EXPECT_EQ(nearest_word("", {}), "");
}

}  // namespace
}  // namespace engine
