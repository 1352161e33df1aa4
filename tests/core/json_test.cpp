#include "engine/core/json.h"

#include <gtest/gtest.h>

namespace engine {
namespace {

std::string nested(size_t levels, const std::string& open, const std::string& close) {
  std::string text;
  for (size_t i = 0; i < levels; ++i) text += open;
  for (size_t i = 0; i < levels; ++i) text += close;
  return text;
}

TEST(Json, NestingHasALimit) {
  EXPECT_EQ(find_deep_nesting(nested(kMaxJsonDepth, "[", "]")), std::string_view::npos);
  EXPECT_EQ(find_deep_nesting(nested(kMaxJsonDepth + 1, "[", "]")), kMaxJsonDepth);
  EXPECT_EQ(find_deep_nesting("[" + nested(300, "{},", "")), std::string_view::npos);
  const std::string brackets = nested(300, "[", "");
  EXPECT_EQ(find_deep_nesting("[\"" + brackets + "\", \"\\\"" + brackets + "\"]"),
            std::string_view::npos);
  EXPECT_EQ(find_deep_nesting("\"never closed " + brackets), std::string_view::npos);
  EXPECT_EQ(find_deep_nesting("]]]]" + brackets), 4 + kMaxJsonDepth);
}

TEST(Json, DeepDocumentsAreNotParsed) {
  EXPECT_EQ(parse_json<nlohmann::json>("{\"a\": [1, 2]}")["a"][1], 2);
  EXPECT_THROW(parse_json<nlohmann::json>("{"), nlohmann::json::parse_error);
  try {
    parse_json<nlohmann::ordered_json>(nested(100000, "{\"a\":[", "]}"));
    FAIL() << "parsed";
  } catch (const nlohmann::ordered_json::parse_error& error) {
    EXPECT_NE(std::string(error.what()).find("nested deeper than 256 levels"), std::string::npos);
  }
}

}  // namespace
}  // namespace engine
