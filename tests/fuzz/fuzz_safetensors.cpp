// Fuzz entry for the safetensors parser: any bytes either parse or throw engine::Error, and every
// entry lies inside the input. Link with -fsanitize=fuzzer (clang) or call it over a corpus.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "engine/core/error.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const engine::SafetensorsContents contents = engine::parse_safetensors(file, "fuzz");
    for (const engine::TensorEntry& entry : contents.tensors) {
      const bool inside =
          entry.data >= file.data() && entry.data + entry.bytes <= file.data() + file.size();
      if (!inside || (entry.bytes > 0 && entry.num_elements() <= 0)) std::abort();
    }
  } catch (const engine::Error&) {
  }
  return 0;
}
