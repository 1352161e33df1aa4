#include "weights/convert.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"

namespace engine {
namespace {

// Elements converted at a time: bounded scratch whatever the tensor.
constexpr size_t kChunk = size_t{1} << 20;

bool is_float(FileDtype dtype) {
  return dtype == FileDtype::f16 || dtype == FileDtype::bf16 || dtype == FileDtype::f32 ||
         dtype == FileDtype::f64;
}

bool is_integer(FileDtype dtype) {
  switch (dtype) {
    case FileDtype::boolean:
    case FileDtype::u8:
    case FileDtype::i8:
    case FileDtype::i16:
    case FileDtype::u16:
    case FileDtype::i32:
    case FileDtype::u32:
    case FileDtype::i64:
    case FileDtype::u64:
      return true;
    default:
      return false;
  }
}

// `bytes`, whole elements of `from`, as `to`.
void convert(FileDtype from, const std::byte* bytes, size_t count, FileDtype to,
             const TensorSink& sink) {
  const size_t width = static_cast<size_t>(bits_of(from)) / 8;
  std::vector<float> values;
  std::vector<std::byte> out;
  for (size_t begin = 0; begin < count; begin += kChunk) {
    const size_t n = std::min(kChunk, count - begin);
    values.resize(n);
    to_float32(from, bytes + begin * width, n, values.data());
    out.resize(n * static_cast<size_t>(bits_of(to)) / 8);
    from_float32(values.data(), n, to, out.data());
    sink(out);
  }
}

std::string_view config_name(FileDtype dtype) {
  return dtype == FileDtype::f16    ? "float16"
         : dtype == FileDtype::bf16 ? "bfloat16"
         : dtype == FileDtype::f64  ? "float64"
                                    : "float32";
}

}  // namespace

std::optional<FileDtype> parse_float_dtype(std::string_view name) {
  if (name == "fp32" || name == "float32") return FileDtype::f32;
  if (name == "bf16" || name == "bfloat16") return FileDtype::bf16;
  if (name == "fp16" || name == "float16") return FileDtype::f16;
  return std::nullopt;
}

std::vector<TensorToWrite> checkpoint_tensors(const Checkpoint& checkpoint,
                                              std::optional<FileDtype> dtype) {
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : checkpoint.names()) {
    const TensorEntry& entry = *checkpoint.find(name);
    TensorToWrite tensor = TensorToWrite::from_entry(entry);
    if (dtype && *dtype != entry.dtype && !is_integer(entry.dtype)) {
      if (!is_float(entry.dtype)) {
        throw Error(ExitCode::checkpoint, "CKPT-DTYPE",
                    name + " is " + std::string(name_of(entry.dtype)))
            .where(checkpoint.file_of(name))
            .why("quantised weights mean nothing without their scales")
            .fix("leave --dtype out, or start from the checkpoint before quantisation");
      }
      tensor.dtype = *dtype;
      tensor.source = [&entry, to = *dtype](const TensorSink& sink) {
        convert(entry.dtype, entry.data, static_cast<size_t>(entry.num_elements()), to, sink);
      };
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

TensorToWrite in_dtype(TensorToWrite tensor, FileDtype dtype) {
  if (tensor.dtype != FileDtype::f32) throw std::logic_error("in_dtype: not f32: " + tensor.name);
  if (dtype == FileDtype::f32) return tensor;
  tensor.dtype = dtype;
  tensor.source = [from = std::move(tensor.source), dtype](const TensorSink& sink) {
    std::vector<std::byte> rest;  // a piece may end inside an element
    from([&](std::span<const std::byte> piece) {
      rest.insert(rest.end(), piece.begin(), piece.end());
      const size_t count = rest.size() / sizeof(float);
      convert(FileDtype::f32, rest.data(), count, dtype, sink);
      rest.erase(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(count * sizeof(float)));
    });
  };
  return tensor;
}

std::string config_with_dtype(const std::string& config_json, FileDtype dtype) {
  auto json = nlohmann::ordered_json::parse(config_json);
  const bool newer = json.contains("dtype") && !json.contains("torch_dtype");
  json[newer ? "dtype" : "torch_dtype"] = config_name(dtype);
  if (!newer && json.contains("dtype")) json["dtype"] = config_name(dtype);
  return json.dump(2) + "\n";
}

std::optional<uint64_t> parse_shard_size(std::string_view text) {
  double number = 0;
  const auto [rest, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc() || !std::isfinite(number)) return std::nullopt;
  std::string unit(rest, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(), [](char c) {
    return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  });
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},
      {"B", 1},
      {"KB", 1e3},
      {"MB", 1e6},
      {"GB", 1e9},
      {"TB", 1e12},
      {"KIB", 1024.0},
      {"MIB", 1048576.0},
      {"GIB", 1073741824.0},
      {"TIB", 1099511627776.0},
  };
  for (const auto& [name, bytes] : kUnits) {
    if (unit != name) continue;
    const double size = number * bytes;
    if (size < 1 || size > 9e18) return std::nullopt;
    return static_cast<uint64_t>(size);
  }
  return std::nullopt;
}

}  // namespace engine
