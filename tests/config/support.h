// Shorthand for tests of configs.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "engine/config/load.h"
#include "engine/core/error.h"

namespace engine::testing {

// A config named c.yaml in errors, which needs neither model nor data.
inline LoadedTrainConfig load(std::string_view text, std::vector<std::string> options = {}) {
  return parse_train_config(text, {.path = "c.yaml",
                                   .options = std::move(options),
                                   .needs_model = false,
                                   .needs_train_data = false});
}

// The whole text of the error that loading `text` ends with; the test fails if there is none.
inline std::string error_of(std::string_view text, std::vector<std::string> options = {}) {
  try {
    load(text, std::move(options));
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::usage);
    return error.what();
  }
  ADD_FAILURE() << "no error for:\n" << text;
  return "";
}

#define EXPECT_HAS(TEXT, PART) EXPECT_PRED_FORMAT2(engine::testing::has_part, TEXT, PART)

inline ::testing::AssertionResult has_part(const char*, const char*, const std::string& text,
                                           const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << part << "\" is not in:\n" << text;
}

}  // namespace engine::testing
