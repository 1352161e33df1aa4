// The safetensors format: reading by memory map, writing by streaming.
//
//   u64 header_bytes | header: JSON, UTF-8, space-padded | data of the tensors, back to back
//   header = {"__metadata__": {string: string}, "<name>": {"dtype", "shape", "data_offsets"}, ...}
//
// A file is accepted exactly when the reference implementation (Rust, `tensor.rs`) accepts it, with
// two differences: duplicate names are refused, and so is a dimension of 2^63 or more. What it
// refuses here, and the code of the engine::Error (exit code `checkpoint`):
//
//   ST-HEADER-TOO-SMALL  fewer than 8 bytes          ST-OFFSET     gap, overlap, or end < begin
//   ST-HEADER-TOO-LARGE  header above 100 000 000    ST-OVERFLOW   product of the shape above 2^64
//   ST-HEADER-LENGTH     header longer than the file ST-MISALIGNED sub-byte type, no whole bytes
//   ST-UTF8              header is not UTF-8         ST-SIZE       shape and offsets disagree
//   ST-JSON              not JSON, not this layout   ST-TRUNCATED  file ends before the data does
//   ST-DTYPE             unknown element type        ST-TRAILING   bytes after the last tensor
//   ST-DUPLICATE         a name or key twice         ST-CHECKSUM   a tensor's CRC-32C is wrong
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/core/file_io.h"
#include "weights/file_dtype.h"

namespace engine {

constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// One tensor of a mapped file.
struct TensorEntry {
  std::string name;
  FileDtype dtype = FileDtype::f32;
  std::vector<int64_t> shape;  // empty for a scalar; a dimension may be 0
  // Row-major and little-endian. The address has no alignment guarantee at all (the header may
  // have any length): copy or convert the bytes, never cast the pointer to a wider type.
  const std::byte* data = nullptr;
  size_t bytes = 0;

  int64_t num_elements() const;
};

// "[4096, 896]"
std::string format_shape(std::span<const int64_t> shape);

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsContents {
  std::vector<TensorEntry> tensors;  // in the order of their data
  SafetensorsMetadata metadata;
};

// Validates a whole file in memory. The entries point into `file`; `path` is for messages.
SafetensorsContents parse_safetensors(std::span<const std::byte> file,
                                      const std::filesystem::path& path);

// A memory-mapped, validated file. Move-only; entries live as long as it does.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::vector<TensorEntry>& tensors() const { return contents_.tensors; }
  const TensorEntry* find(std::string_view name) const;  // nullptr when absent
  const SafetensorsMetadata& metadata() const { return contents_.metadata; }
  const MappedFile& file() const { return file_; }
  const std::filesystem::path& path() const { return file_.path(); }

  // Compares every tensor that has one with its checksum (SafetensorsWriter::Options::checksums)
  // and returns how many had. Reads all data. Throws ST-CHECKSUM.
  size_t verify_checksums() const;

 private:
  MappedFile file_;
  SafetensorsContents contents_;
  std::unordered_map<std::string_view, size_t> index_;
};

// Receives consecutive pieces of one tensor's bytes.
using TensorSink = std::function<void(std::span<const std::byte>)>;
// Hands all bytes of one tensor to the sink, in any number of pieces, so that a model on another
// device or in another type need never exist twice.
using TensorSource = std::function<void(const TensorSink&)>;

// A tensor about to be written.
struct TensorToWrite {
  std::string name;
  FileDtype dtype = FileDtype::f32;
  std::vector<int64_t> shape;
  TensorSource source;

  uint64_t bytes() const;

  static TensorToWrite from_bytes(std::string name, FileDtype dtype, std::vector<int64_t> shape,
                                  const void* data);          // `data` must outlive the write
  static TensorToWrite from_entry(const TensorEntry& entry);  // so must the entry's file
};

// Writes the same bytes as the reference implementation: tensors by type (the enum backwards), then
// by name; header padded with spaces to a multiple of 8. With wider types first every tensor is
// aligned to its type.
class SafetensorsWriter {
 public:
  struct Options {
    // {"format": "pt"} is what older loaders insist on.
    SafetensorsMetadata metadata = {{"format", "pt"}};
    // Adds metadata "crc32c:<name>": "<8 hexadecimal digits>" for every tensor.
    bool checksums = false;
  };

  explicit SafetensorsWriter(std::vector<TensorToWrite> tensors);
  SafetensorsWriter(std::vector<TensorToWrite> tensors, Options options);

  uint64_t file_bytes() const;  // of the file that write() makes

  // Replaces `path` when everything is on disk; a failure leaves the old file as it was.
  // Throws what FileWriter throws; std::logic_error when a source gives too few or many bytes.
  void write(const std::filesystem::path& path) const;

 private:
  std::string header(const std::vector<uint32_t>& checksums) const;

  std::vector<TensorToWrite> tensors_;
  Options options_;
};

}  // namespace engine
