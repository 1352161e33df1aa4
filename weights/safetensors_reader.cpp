#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "engine/core/crc32c.h"
#include "weights/safetensors.h"
#include "weights/safetensors_header.h"

namespace engine {

namespace {

namespace fs = std::filesystem;

// What a file that cannot be safetensors may be instead.
std::string guess_format(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()),
                              std::min<size_t>(file.size(), 64));
  if (text.starts_with("version https://git-lfs")) {
    return "this is a git-lfs pointer: run `git lfs pull` to fetch the real file";
  }
  if (text.starts_with("PK\x03\x04")) {
    return "this looks like a zip archive, such as a PyTorch .bin or .pth file";
  }
  if (text.starts_with("\x80\x02")) return "this looks like a Python pickle";
  if (text.starts_with("GGUF")) return "this is a GGUF file";
  if (text.starts_with("\x89HDF")) return "this is an HDF5 file";
  if (text.starts_with("<")) return "this looks like an HTML page saved by a failed download";
  if (text.starts_with("{")) return "this looks like plain JSON";
  return "";
}

// The element count and the size in bytes, both checked for overflow in the reference's order.
uint64_t checked_bytes(const HeaderTensor& tensor, const fs::path& path) {
  uint64_t elements = 1, bits = 0;
  bool overflow = false;
  for (const uint64_t dimension : tensor.shape) {
    overflow |= __builtin_mul_overflow(elements, dimension, &elements) || dimension > INT64_MAX;
    if (overflow) break;
  }
  overflow = overflow ||
             __builtin_mul_overflow(elements, static_cast<uint64_t>(bits_of(tensor.dtype)), &bits);
  if (overflow) {
    throw safetensors_error("ST-OVERFLOW", path, "the size of a tensor overflows 64 bits")
        .where("tensor " + shortened_name(tensor.name))
        .found(fmt::format(
            "shape [{}]",
            fmt::join(tensor.shape.begin(),
                      tensor.shape.begin() + std::min<size_t>(tensor.shape.size(), 16), ", ")));
  }
  if (bits % 8 != 0) {
    throw safetensors_error("ST-MISALIGNED", path, "a tensor does not fill whole bytes")
        .where("tensor " + shortened_name(tensor.name))
        .found(fmt::format("{} elements of {}, {} bits", elements, name_of(tensor.dtype), bits));
  }
  return bits / 8;
}

[[noreturn]] void throw_truncated(const std::vector<HeaderTensor>& tensors, uint64_t data_bytes,
                                  uint64_t data_start, const fs::path& path) {
  const uint64_t promised = tensors.back().offsets[1];
  const auto first_incomplete =
      std::find_if(tensors.begin(), tensors.end(),
                   [&](const HeaderTensor& tensor) { return tensor.offsets[1] > data_bytes; });
  Error error = safetensors_error(
      "ST-TRUNCATED", path,
      fmt::format("the file has {} bytes, its header promises {} ({} missing)",
                  data_start + data_bytes, data_start + promised, promised - data_bytes));
  error.with("complete", first_incomplete == tensors.begin()
                             ? "no tensor"
                             : fmt::format("{} of {} tensors, the last is {}",
                                           first_incomplete - tensors.begin(), tensors.size(),
                                           shortened_name((first_incomplete - 1)->name)));
  std::string incomplete = fmt::format("{}: ", tensors.end() - first_incomplete);
  constexpr ptrdiff_t kListed = 5;
  for (auto it = first_incomplete; it != tensors.end(); ++it) {
    if (it - first_incomplete == kListed) {
      incomplete += ", ...";
      break;
    }
    incomplete += (it == first_incomplete ? "" : ", ") + shortened_name(it->name);
  }
  error.with("incomplete", incomplete);
  const uint64_t free_bytes = free_disk_bytes(path);
  throw error
      .why(free_bytes == UINT64_MAX ? "an interrupted download or a full disk"
                                    : "an interrupted download or a full disk (free now: " +
                                          format_bytes(free_bytes) + ")")
      .fix("download or copy the file again");
}

}  // namespace

int64_t TensorEntry::num_elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

std::string format_shape(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

SafetensorsContents parse_safetensors(std::span<const std::byte> file, const fs::path& path) {
  // 1. The length of the header.
  if (file.size() < 8) {
    Error error =
        safetensors_error("ST-HEADER-TOO-SMALL", path, "too short to be a safetensors file");
    throw error.expected("at least 8 bytes").found(fmt::format("{} bytes", file.size()));
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, file.data(), 8);
  const auto bad_length = [&](const char* code, const std::string& expected) {
    Error error = safetensors_error(code, path, "the header length makes no sense");
    error.expected(expected).found(fmt::format("a header of {} bytes", header_bytes));
    const std::string guess = guess_format(file);
    if (!guess.empty()) error.why(guess);
    return error;
  };
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    throw bad_length("ST-HEADER-TOO-LARGE",
                     fmt::format("at most {} bytes of header", kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > file.size() - 8) {
    Error error = bad_length("ST-HEADER-LENGTH",
                             fmt::format("at most the {} bytes of the file", file.size() - 8));
    if (guess_format(file).empty()) {
      error.why("an interrupted download, or not a safetensors file").fix("download it again");
    }
    throw error;
  }

  // 2. The header: UTF-8, then JSON, then its layout.
  SafetensorsHeader header =
      read_safetensors_header({reinterpret_cast<const char*>(file.data()) + 8, header_bytes}, path);
  std::vector<HeaderTensor>& tensors = header.tensors;

  // 3. The data: contiguous from 0 to the end of the file.
  std::stable_sort(
      tensors.begin(), tensors.end(),
      [](const HeaderTensor& a, const HeaderTensor& b) { return a.offsets < b.offsets; });
  const uint64_t data_start = 8 + header_bytes;
  const uint64_t data_bytes = file.size() - data_start;
  uint64_t previous_end = 0;
  for (const HeaderTensor& tensor : tensors) {
    const uint64_t begin = tensor.offsets[0], end = tensor.offsets[1];
    if (begin != previous_end || end < begin) {
      const char* problem = end < begin            ? "a tensor ends before it begins"
                            : begin > previous_end ? "unused bytes before a tensor"
                                                   : "two tensors overlap";
      throw safetensors_error("ST-OFFSET", path, problem)
          .where("tensor " + shortened_name(tensor.name))
          .expected(fmt::format("data_offsets that begin at {}", previous_end))
          .found(fmt::format("data_offsets [{}, {}]", begin, end));
    }
    const uint64_t bytes = checked_bytes(tensor, path);
    if (end - begin != bytes) {
      throw safetensors_error("ST-SIZE", path, "shape and data_offsets of a tensor disagree")
          .where("tensor " + shortened_name(tensor.name))
          .expected(fmt::format("{} bytes for {} elements of {}", bytes,
                                bytes * 8 / bits_of(tensor.dtype), name_of(tensor.dtype)))
          .found(fmt::format("{} bytes, data_offsets [{}, {}]", end - begin, begin, end));
    }
    previous_end = end;
  }
  if (previous_end > data_bytes) throw_truncated(tensors, data_bytes, data_start, path);
  if (previous_end < data_bytes) {
    throw safetensors_error("ST-TRAILING", path, "there are bytes after the last tensor")
        .expected(fmt::format("{} bytes", data_start + previous_end))
        .found(fmt::format("{} bytes", file.size()))
        .why("a damaged download, or a file written in place over a longer one")
        .fix("download or copy the file again");
  }

  SafetensorsContents contents;
  contents.metadata = std::move(header.metadata);
  contents.tensors.reserve(tensors.size());
  for (HeaderTensor& tensor : tensors) {
    TensorEntry& entry = contents.tensors.emplace_back();
    entry.name = std::move(tensor.name);
    entry.dtype = tensor.dtype;
    entry.shape.assign(tensor.shape.begin(), tensor.shape.end());
    entry.data = file.data() + data_start + tensor.offsets[0];
    entry.bytes = tensor.offsets[1] - tensor.offsets[0];
  }
  return contents;
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.file_ = MappedFile::open(path, ExitCode::checkpoint);
  file.contents_ = parse_safetensors(file.file_.bytes(), path);
  file.index_.reserve(file.contents_.tensors.size());
  for (size_t i = 0; i < file.contents_.tensors.size(); ++i) {
    file.index_.emplace(file.contents_.tensors[i].name, i);
  }
  return file;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &contents_.tensors[found->second];
}

size_t SafetensorsFile::verify_checksums() const {
  size_t verified = 0;
  for (const TensorEntry& entry : contents_.tensors) {
    const auto stored = contents_.metadata.find("crc32c:" + entry.name);
    if (stored == contents_.metadata.end()) continue;
    const std::string actual = fmt::format("{:08x}", crc32c(entry.data, entry.bytes));
    if (stored->second != actual) {
      throw safetensors_error("ST-CHECKSUM", path(),
                              "the data of a tensor has changed since it was written")
          .where("tensor " + shortened_name(entry.name))
          .expected("crc32c " + shortened_name(stored->second))
          .found("crc32c " + actual)
          .why("a damaged copy or a failing disk")
          .fix("use an earlier checkpoint, or copy the file again");
    }
    ++verified;
  }
  return verified;
}

}  // namespace engine
