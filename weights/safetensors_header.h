// The JSON header of a safetensors file, before it is compared with the data. Internal to the
// reader; use weights/safetensors.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"
#include "weights/safetensors.h"

namespace engine {

// What the header says about one tensor, before it is checked against the data.
struct HeaderTensor {
  std::string name;
  FileDtype dtype = FileDtype::f32;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
};

struct SafetensorsHeader {
  std::vector<HeaderTensor> tensors;  // in the order of the text
  SafetensorsMetadata metadata;
};

// Throws ST-UTF8, ST-JSON, ST-DTYPE or ST-DUPLICATE. Every tensor has exactly two offsets.
SafetensorsHeader read_safetensors_header(std::string_view text, const std::filesystem::path& path);

// An error of exit code `checkpoint` whose message begins with the path.
Error safetensors_error(std::string code, const std::filesystem::path& path,
                        const std::string& problem);

// `name`, cut when it is very long: names in a hostile file may be megabytes.
std::string shortened_name(std::string_view name);

}  // namespace engine
