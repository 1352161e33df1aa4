// Fuzz entry for config files: any bytes are either a config or an engine::Error, and a config that
// is written out and read again is the same. Link with -fsanitize=fuzzer (clang); the tests call it
// with mutations of a valid config.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/config/load.h"
#include "engine/config/print.h"
#include "engine/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const engine::TrainConfigSource source{
      .path = "fuzz", .options = {}, .needs_model = false, .needs_train_data = false};
  std::string written;
  try {
    written = to_yaml(engine::parse_train_config(
        std::string_view(reinterpret_cast<const char*>(data), size), source));
  } catch (const engine::Error&) {
    return 0;
  }
  try {
    if (to_yaml(engine::parse_train_config(written, source)) == written) return 0;
    std::fprintf(stderr, "reads back differently:\n%s\n", written.c_str());
  } catch (const engine::Error& error) {
    std::fprintf(stderr, "%s\n%s\n", written.c_str(), error.what());
  }
  std::abort();
}
