#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "engine/core/crc32c.h"
#include "weights/safetensors.h"

namespace engine {

namespace {

namespace fs = std::filesystem;

// What the header says about one tensor, before it is checked against the data.
struct HeaderTensor {
  std::string name;
  FileDtype dtype = FileDtype::f32;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
};

Error header_error(std::string code, const fs::path& path, const std::string& problem) {
  return Error(ExitCode::checkpoint, std::move(code), path.string() + ": " + problem);
}

// Names in a hostile file may be megabytes long.
std::string shortened(std::string_view name) {
  constexpr size_t kLongest = 200;
  return name.size() <= kLongest ? std::string(name)
                                 : std::string(name.substr(0, kLongest)) + "...";
}

// Offset of the first byte that is not UTF-8 (RFC 3629), or npos.
size_t find_invalid_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    const unsigned char lead = bytes[i];
    if (lead < 0x80) {
      ++i;
      continue;
    }
    size_t length;
    unsigned char low = 0x80, high = 0xbf;  // of the second byte
    if (lead >= 0xc2 && lead <= 0xdf) {
      length = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      length = 3;
      if (lead == 0xe0) low = 0xa0;   // overlong
      if (lead == 0xed) high = 0x9f;  // surrogates
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      length = 4;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xf4) high = 0x8f;  // above U+10FFFF
    } else {
      return i;
    }
    if (i + length > text.size() || bytes[i + 1] < low || bytes[i + 1] > high) return i;
    for (size_t k = 2; k < length; ++k) {
      if ((bytes[i + k] & 0xc0) != 0x80) return i;
    }
    i += length;
  }
  return std::string_view::npos;
}

// Reads the header's JSON as a stream of events: no tree is built for the tens of thousands of
// tensors of a large model, and nesting, however deep, costs no stack.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const fs::path& path) : path_(path) {}

  std::vector<HeaderTensor> tensors;
  SafetensorsMetadata metadata;

  bool start_object(size_t) override {
    if (ignored_depth_ > 0 || state_ == State::ignored_value) return enter_ignored();
    switch (state_) {
      case State::document:
        state_ = State::top;
        return true;
      case State::metadata_value:
        state_ = State::metadata;
        return true;
      case State::tensor_value:
        state_ = State::tensor;
        return true;
      default:
        unexpected("an object");
    }
  }

  bool end_object() override {
    if (ignored_depth_ > 0) return leave_ignored();
    switch (state_) {
      case State::tensor:
        finish_tensor();
        [[fallthrough]];
      case State::metadata:
        state_ = State::top;
        return true;
      default:  // State::top
        state_ = State::end;
        return true;
    }
  }

  bool start_array(size_t) override {
    if (ignored_depth_ > 0 || state_ == State::ignored_value) return enter_ignored();
    if (state_ == State::shape_value) {
      state_ = State::shape;
    } else if (state_ == State::offsets_value) {
      state_ = State::offsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (ignored_depth_ > 0) return leave_ignored();
    state_ = State::tensor;
    return true;
  }

  bool key(std::string& name) override {
    if (ignored_depth_ > 0) return true;
    switch (state_) {
      case State::top:
        if (!names_.insert(name).second) {
          throw header_error("ST-DUPLICATE", path_, "\"" + shortened(name) + "\" appears twice")
              .why("a name must mean one tensor; readers would disagree about which");
        }
        if (name == "__metadata__") {
          state_ = State::metadata_value;
        } else {
          state_ = State::tensor_value;
          tensors.emplace_back().name = name;
          fields_seen_ = 0;
        }
        return true;
      case State::metadata:
        if (metadata.contains(name)) {
          throw header_error("ST-DUPLICATE", path_,
                             "metadata key \"" + shortened(name) + "\" appears twice");
        }
        metadata_key_ = name;
        state_ = State::metadata_string;
        return true;
      default:  // State::tensor
        if (name == "dtype") {
          start_field(kDtypeField, State::dtype_value);
        } else if (name == "shape") {
          start_field(kShapeField, State::shape_value);
        } else if (name == "data_offsets") {
          start_field(kOffsetsField, State::offsets_value);
        } else {
          state_ = State::ignored_value;  // the reference tolerates further fields
        }
        return true;
    }
  }

  bool string(std::string& value) override {
    if (ignored_depth_ > 0) return true;
    switch (state_) {
      case State::metadata_string:
        metadata.emplace(metadata_key_, value);
        state_ = State::metadata;
        return true;
      case State::dtype_value: {
        const auto dtype = file_dtype_from_name(value);
        if (!dtype) throw unknown_dtype(value);
        tensors.back().dtype = *dtype;
        state_ = State::tensor;
        return true;
      }
      case State::ignored_value:
        state_ = State::tensor;
        return true;
      default:
        unexpected("a string");
    }
  }

  bool number_unsigned(uint64_t value) override {
    if (ignored_depth_ > 0) return true;
    if (state_ == State::shape) {
      tensors.back().shape.push_back(value);
    } else if (state_ == State::offsets) {
      // Two are legal; keep no more than needed to see that there are too many.
      if (tensors.back().offsets.size() < 3) tensors.back().offsets.push_back(value);
    } else {
      return scalar("a number");
    }
    return true;
  }

  bool number_integer(int64_t) override { return scalar("a negative number"); }
  bool number_float(double, const std::string&) override {
    return scalar("a number that is not a 64-bit unsigned integer");
  }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool null() override {
    if (ignored_depth_ == 0 && state_ == State::metadata_value) {  // as the reference reads it
      state_ = State::top;
      return true;
    }
    return scalar("null");
  }
  bool binary(nlohmann::json::binary_t&) override { return false; }  // not in JSON text

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    throw header_error("ST-JSON", path_, "the header is not valid JSON")
        .where(fmt::format("byte {} of the file", position + 7))  // positions count from 1
        .found(shortened(error.what()));
  }

 private:
  enum class State {
    document,
    top,
    metadata_value,
    metadata,
    metadata_string,
    tensor_value,
    tensor,
    dtype_value,
    shape_value,
    shape,
    offsets_value,
    offsets,
    ignored_value,
    end,
  };
  static constexpr unsigned kDtypeField = 1, kShapeField = 2, kOffsetsField = 4;

  // A scalar is legal only as the value of a field that nobody reads.
  bool scalar(const char* what) {
    if (ignored_depth_ > 0) return true;
    if (state_ != State::ignored_value) unexpected(what);
    state_ = State::tensor;
    return true;
  }

  bool enter_ignored() {
    ++ignored_depth_;
    return true;
  }
  bool leave_ignored() {
    if (--ignored_depth_ == 0) state_ = State::tensor;
    return true;
  }

  void start_field(unsigned field, State value) {
    if (fields_seen_ & field) {
      throw header_error("ST-DUPLICATE", path_, "a field appears twice")
          .where("tensor " + shortened(tensors.back().name));
    }
    fields_seen_ |= field;
    state_ = value;
  }

  void finish_tensor() {
    const HeaderTensor& tensor = tensors.back();
    if (fields_seen_ != (kDtypeField | kShapeField | kOffsetsField)) {
      throw header_error("ST-JSON", path_, "a tensor needs dtype, shape and data_offsets")
          .where("tensor " + shortened(tensor.name));
    }
    if (tensor.offsets.size() != 2) {
      throw header_error("ST-JSON", path_, "data_offsets must have two numbers, begin and end")
          .where("tensor " + shortened(tensor.name));
    }
  }

  Error unknown_dtype(const std::string& value) const {
    std::vector<std::string> known;
    for (int i = 0; i < kFileDtypeCount; ++i) {
      known.emplace_back(name_of(static_cast<FileDtype>(i)));
    }
    return header_error("ST-DTYPE", path_, "unknown dtype \"" + shortened(value) + "\"")
        .where("tensor " + shortened(tensors.back().name))
        .expected(fmt::format("{}", fmt::join(known, ", ")));
  }

  [[noreturn]] void unexpected(const char* found) const {
    const char* expected = "an object of tensors";
    switch (state_) {
      case State::metadata_value:
        expected = "\"__metadata__\": an object of strings";
        break;
      case State::metadata_string:
        expected = "metadata values that are strings";
        break;
      case State::tensor_value:
        expected = "an object with dtype, shape and data_offsets";
        break;
      case State::dtype_value:
        expected = "dtype: a string";
        break;
      case State::shape_value:
      case State::shape:
        expected = "shape: an array of unsigned integers";
        break;
      case State::offsets_value:
      case State::offsets:
        expected = "data_offsets: an array of two unsigned integers";
        break;
      default:
        break;
    }
    Error error = header_error("ST-JSON", path_, "the header is JSON but not a safetensors header");
    if (!tensors.empty() && state_ != State::metadata_value && state_ != State::metadata_string) {
      error.where("tensor " + shortened(tensors.back().name));
    }
    throw error.expected(expected).found(found);
  }

  const fs::path& path_;
  State state_ = State::document;
  size_t ignored_depth_ = 0;
  unsigned fields_seen_ = 0;
  std::string metadata_key_;
  std::unordered_set<std::string> names_;
};

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
    throw header_error("ST-OVERFLOW", path, "the size of a tensor overflows 64 bits")
        .where("tensor " + shortened(tensor.name))
        .found(fmt::format(
            "shape [{}]",
            fmt::join(tensor.shape.begin(),
                      tensor.shape.begin() + std::min<size_t>(tensor.shape.size(), 16), ", ")));
  }
  if (bits % 8 != 0) {
    throw header_error("ST-MISALIGNED", path, "a tensor does not fill whole bytes")
        .where("tensor " + shortened(tensor.name))
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
  Error error = header_error(
      "ST-TRUNCATED", path,
      fmt::format("the file has {} bytes, its header promises {} ({} missing)",
                  data_start + data_bytes, data_start + promised, promised - data_bytes));
  error.with("complete", first_incomplete == tensors.begin()
                             ? "no tensor"
                             : fmt::format("{} of {} tensors, the last is {}",
                                           first_incomplete - tensors.begin(), tensors.size(),
                                           shortened((first_incomplete - 1)->name)));
  std::string incomplete = fmt::format("{}: ", tensors.end() - first_incomplete);
  constexpr ptrdiff_t kListed = 5;
  for (auto it = first_incomplete; it != tensors.end(); ++it) {
    if (it - first_incomplete == kListed) {
      incomplete += ", ...";
      break;
    }
    incomplete += (it == first_incomplete ? "" : ", ") + shortened(it->name);
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
    Error error = header_error("ST-HEADER-TOO-SMALL", path, "too short to be a safetensors file");
    throw error.expected("at least 8 bytes").found(fmt::format("{} bytes", file.size()));
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, file.data(), 8);
  const auto bad_length = [&](const char* code, const std::string& expected) {
    Error error = header_error(code, path, "the header length makes no sense");
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
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  if (const size_t invalid = find_invalid_utf8(header); invalid != std::string_view::npos) {
    throw header_error("ST-UTF8", path, "the header is not valid UTF-8")
        .where(fmt::format("byte {} of the file", invalid + 8));
  }
  // The JSON parser takes a NUL for the end of its input and skips a byte order mark; neither is
  // legal in JSON.
  const size_t first = header.find_first_not_of(" \t\r\n");
  const size_t nul = header.find('\0');
  if (first == std::string_view::npos || header[first] != '{' || nul != std::string_view::npos) {
    Error error = header_error("ST-JSON", path, "the header is not valid JSON");
    error.expected("a JSON object");
    if (nul != std::string_view::npos) error.found(fmt::format("a NUL at byte {}", nul + 8));
    throw error;
  }
  HeaderHandler handler(path);
  nlohmann::json::sax_parse(header.begin(), header.end(), &handler);
  std::vector<HeaderTensor>& tensors = handler.tensors;

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
      throw header_error("ST-OFFSET", path, problem)
          .where("tensor " + shortened(tensor.name))
          .expected(fmt::format("data_offsets that begin at {}", previous_end))
          .found(fmt::format("data_offsets [{}, {}]", begin, end));
    }
    const uint64_t bytes = checked_bytes(tensor, path);
    if (end - begin != bytes) {
      throw header_error("ST-SIZE", path, "shape and data_offsets of a tensor disagree")
          .where("tensor " + shortened(tensor.name))
          .expected(fmt::format("{} bytes for {} elements of {}", bytes,
                                bytes * 8 / bits_of(tensor.dtype), name_of(tensor.dtype)))
          .found(fmt::format("{} bytes, data_offsets [{}, {}]", end - begin, begin, end));
    }
    previous_end = end;
  }
  if (previous_end > data_bytes) throw_truncated(tensors, data_bytes, data_start, path);
  if (previous_end < data_bytes) {
    throw header_error("ST-TRAILING", path, "there are bytes after the last tensor")
        .expected(fmt::format("{} bytes", data_start + previous_end))
        .found(fmt::format("{} bytes", file.size()))
        .why("a damaged download, or a file written in place over a longer one")
        .fix("download or copy the file again");
  }

  SafetensorsContents contents;
  contents.metadata = std::move(handler.metadata);
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
      throw header_error("ST-CHECKSUM", path(),
                         "the data of a tensor has changed since it was written")
          .where("tensor " + shortened(entry.name))
          .expected("crc32c " + shortened(stored->second))
          .found("crc32c " + actual)
          .why("a damaged copy or a failing disk")
          .fix("use an earlier checkpoint, or copy the file again");
    }
    ++verified;
  }
  return verified;
}

}  // namespace engine
