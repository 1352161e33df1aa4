#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/core/crc32c.h"
#include "weights/safetensors.h"

namespace engine {

namespace {

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump();
}

}  // namespace

uint64_t TensorToWrite::bytes() const {
  uint64_t elements = 1;
  for (const int64_t dimension : shape) elements *= static_cast<uint64_t>(dimension);
  return elements * static_cast<uint64_t>(bits_of(dtype)) / 8;
}

TensorToWrite TensorToWrite::from_bytes(std::string name, FileDtype dtype,
                                        std::vector<int64_t> shape, const void* data) {
  TensorToWrite tensor{std::move(name), dtype, std::move(shape), nullptr};
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(data), tensor.bytes());
  tensor.source = [bytes](const TensorSink& sink) { sink(bytes); };
  return tensor;
}

TensorToWrite TensorToWrite::from_entry(const TensorEntry& entry) {
  return from_bytes(entry.name, entry.dtype, entry.shape, entry.data);
}

SafetensorsWriter::SafetensorsWriter(std::vector<TensorToWrite> tensors)
    : SafetensorsWriter(std::move(tensors), Options()) {}

SafetensorsWriter::SafetensorsWriter(std::vector<TensorToWrite> tensors, Options options)
    : tensors_(std::move(tensors)), options_(std::move(options)) {
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  std::vector<std::string_view> names;
  for (const TensorToWrite& tensor : tensors_) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  if (std::adjacent_find(names.begin(), names.end()) != names.end()) {
    throw std::logic_error("SafetensorsWriter: a tensor name appears twice");
  }
  if (std::binary_search(names.begin(), names.end(), "__metadata__")) {
    throw std::logic_error("SafetensorsWriter: a tensor cannot be called __metadata__");
  }
}

std::string SafetensorsWriter::header(const std::vector<uint32_t>& checksums) const {
  SafetensorsMetadata metadata = options_.metadata;
  if (options_.checksums) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      metadata["crc32c:" + tensors_[i].name] = fmt::format("{:08x}", checksums[i]);
    }
  }
  std::string text = "{";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (text.back() != '{') text += ',';
      text += quoted(key) + ":" + quoted(value);
    }
    text += "}";
  }
  uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors_) {
    if (text.size() > 1) text += ',';
    const uint64_t end = offset + tensor.bytes();
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        quoted(tensor.name), name_of(tensor.dtype), fmt::join(tensor.shape, ","),
                        offset, end);
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxSafetensorsHeaderBytes) {
    throw std::logic_error("SafetensorsWriter: the header is over the format's limit");
  }
  return text;
}

uint64_t SafetensorsWriter::file_bytes() const {
  uint64_t bytes = 8 + header(std::vector<uint32_t>(tensors_.size())).size();
  for (const TensorToWrite& tensor : tensors_) bytes += tensor.bytes();
  return bytes;
}

void SafetensorsWriter::write(const std::filesystem::path& path) const {
  std::vector<uint32_t> checksums(tensors_.size());
  const std::string first_header = header(checksums);
  AtomicFile file(path, file_bytes());
  FileWriter& writer = file.writer();
  const uint64_t header_bytes = first_header.size();
  writer.write(&header_bytes, sizeof(header_bytes));
  writer.write(first_header);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorToWrite& tensor = tensors_[i];
    const uint64_t end = writer.position() + tensor.bytes();
    tensor.source([&](std::span<const std::byte> piece) {
      if (writer.position() + piece.size() > end) {
        throw std::logic_error("SafetensorsWriter: too many bytes for " + tensor.name);
      }
      if (options_.checksums) checksums[i] = crc32c(piece.data(), piece.size(), checksums[i]);
      writer.write(piece.data(), piece.size());
    });
    if (writer.position() != end) {
      throw std::logic_error("SafetensorsWriter: too few bytes for " + tensor.name);
    }
  }
  if (options_.checksums) {
    // Checksums are known only after the data; they have a fixed width, so the header has too.
    writer.overwrite(8, header(checksums));
  }
  file.commit();
}

}  // namespace engine
