// Bytes of a file from beginning to end, decompressed when the file is gzip (recognised by its
// first bytes, whatever its name). Errors: DATA-OPEN (missing, a directory, no permission, a
// compression that is not supported), DATA-GZIP (truncated or damaged gzip), DATA-READ.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace engine {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Gives between 1 and `size` bytes, 0 at the end.
  virtual size_t read(char* buffer, size_t size) = 0;
};

std::unique_ptr<ByteSource> open_byte_source(const std::string& path);

// Reads from `bytes`, which must outlive it.
std::unique_ptr<ByteSource> memory_byte_source(std::string_view bytes);

}  // namespace engine
