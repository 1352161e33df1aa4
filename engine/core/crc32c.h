// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78): the checksum of tfevents records and of
// the tensors in our own checkpoints. crc32c("123456789") = 0xe3069283.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine {

// The checksum of `size` bytes. To go through data in pieces, pass the result for the pieces
// before as `previous`: crc32c(b, crc32c(a)) = crc32c(a followed by b).
uint32_t crc32c(const void* data, size_t size, uint32_t previous = 0);

// The form stored in tfevents and TFRecord files: rotated and offset, so that a checksum of data
// that contains checksums stays useful.
inline uint32_t masked_crc32c(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace engine
