// Real data for tests (tokenizers, datasets, small weights) that the project does not contain.
// It lies at $ENGINE_SHARED_DATA or ../shared/data beside the checkout; tests skip without it.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace engine::testing {

// The path of `relative` in the shared data, or an empty path when it is absent.
inline std::filesystem::path shared_data(const std::filesystem::path& relative) {
  const char* overridden = std::getenv("ENGINE_SHARED_DATA");
  const std::filesystem::path root =
      overridden ? std::filesystem::path(overridden)
                 : std::filesystem::path(ENGINE_SOURCE_DIR) / ".." / "shared" / "data";
  const std::filesystem::path path = root / relative;
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

}  // namespace engine::testing

// Skips the current test, saying which file is missing. `variable` receives the path.
#define ENGINE_REQUIRE_SHARED_DATA(variable, relative)                             \
  const std::filesystem::path variable = ::engine::testing::shared_data(relative); \
  if (variable.empty()) GTEST_SKIP() << "no shared data: " << (relative)
