#include "weights/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <unordered_set>

namespace engine {

namespace {

namespace fs = std::filesystem;

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
          throw safetensors_error("ST-DUPLICATE", path_,
                                  "\"" + shortened_name(name) + "\" appears twice")
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
          throw safetensors_error("ST-DUPLICATE", path_,
                                  "metadata key \"" + shortened_name(name) + "\" appears twice");
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
    throw safetensors_error("ST-JSON", path_, "the header is not valid JSON")
        .where(fmt::format("byte {} of the file", position + 7))  // positions count from 1
        .found(shortened_name(error.what()));
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
      throw safetensors_error("ST-DUPLICATE", path_, "a field appears twice")
          .where("tensor " + shortened_name(tensors.back().name));
    }
    fields_seen_ |= field;
    state_ = value;
  }

  void finish_tensor() {
    const HeaderTensor& tensor = tensors.back();
    if (fields_seen_ != (kDtypeField | kShapeField | kOffsetsField)) {
      throw safetensors_error("ST-JSON", path_, "a tensor needs dtype, shape and data_offsets")
          .where("tensor " + shortened_name(tensor.name));
    }
    if (tensor.offsets.size() != 2) {
      throw safetensors_error("ST-JSON", path_, "data_offsets must have two numbers, begin and end")
          .where("tensor " + shortened_name(tensor.name));
    }
  }

  Error unknown_dtype(const std::string& value) const {
    std::vector<std::string> known;
    for (int i = 0; i < kFileDtypeCount; ++i) {
      known.emplace_back(name_of(static_cast<FileDtype>(i)));
    }
    return safetensors_error("ST-DTYPE", path_, "unknown dtype \"" + shortened_name(value) + "\"")
        .where("tensor " + shortened_name(tensors.back().name))
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
    Error error =
        safetensors_error("ST-JSON", path_, "the header is JSON but not a safetensors header");
    if (!tensors.empty() && state_ != State::metadata_value && state_ != State::metadata_string) {
      error.where("tensor " + shortened_name(tensors.back().name));
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

}  // namespace

Error safetensors_error(std::string code, const fs::path& path, const std::string& problem) {
  return Error(ExitCode::checkpoint, std::move(code), path.string() + ": " + problem);
}

std::string shortened_name(std::string_view name) {
  constexpr size_t kLongest = 200;
  return name.size() <= kLongest ? std::string(name)
                                 : std::string(name.substr(0, kLongest)) + "...";
}

SafetensorsHeader read_safetensors_header(std::string_view text, const fs::path& path) {
  if (const size_t invalid = find_invalid_utf8(text); invalid != std::string_view::npos) {
    throw safetensors_error("ST-UTF8", path, "the header is not valid UTF-8")
        .where(fmt::format("byte {} of the file", invalid + 8));
  }
  // The JSON parser takes a NUL for the end of its input and skips a byte order mark; neither is
  // legal in JSON.
  const size_t first = text.find_first_not_of(" \t\r\n");
  const size_t nul = text.find('\0');
  if (first == std::string_view::npos || text[first] != '{' || nul != std::string_view::npos) {
    Error error = safetensors_error("ST-JSON", path, "the header is not valid JSON");
    error.expected("a JSON object");
    if (nul != std::string_view::npos) error.found(fmt::format("a NUL at byte {}", nul + 8));
    throw error;
  }
  HeaderHandler handler(path);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  return {std::move(handler.tensors), std::move(handler.metadata)};
}

}  // namespace engine
