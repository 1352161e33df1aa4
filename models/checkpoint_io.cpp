#include "models/checkpoint_io.h"

#include <algorithm>
#include <cstring>

namespace engine {
namespace {

// Elements converted at a time: bounded scratch whatever the tensor.
constexpr int64_t kChunk = int64_t{1} << 20;

void fill(Runtime& runtime, Parameter& parameter, const ParameterPart& part,
          const TensorEntry& entry) {
  const int64_t count = part.shape.count();
  const size_t width = static_cast<size_t>(bits_of(entry.dtype)) / 8;
  const bool half = parameter.value.dtype() == DType::bf16;
  std::vector<float> values;
  std::vector<uint16_t> rounded;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t n = std::min(kChunk, count - begin);
    const std::byte* source = entry.data + static_cast<size_t>(begin) * width;
    const int64_t offset = part.offset + begin;
    if (!half || parameter.master) {
      values.resize(static_cast<size_t>(n));
      to_float32(entry.dtype, source, values.size(), values.data());
      const Tensor& target = half ? parameter.master : parameter.value;
      runtime.upload(target.slice(offset, {n}), values.data());
    }
    if (half) {
      rounded.resize(static_cast<size_t>(n));
      to_bfloat16(entry.dtype, source, rounded.size(), rounded.data());
      runtime.upload(parameter.value.slice(offset, {n}), rounded.data());
    }
  }
}

}  // namespace

StoredTensors stored_tensors(const Model& model, const Checkpoint& checkpoint) {
  StoredTensors stored;
  for (const auto& parameter : model.parameters()) {
    for (const ParameterPart& part : parameter->parts) {
      for (const std::string& name : model.spellings(part.name)) {
        const TensorEntry* entry = checkpoint.find(name);
        if (!entry) continue;
        stored[part.name] = {model.saved_name(part.name, name), entry->dtype};
        break;  // of several spellings the first counts, as in CheckpointReader::take_any
      }
    }
  }
  return stored;
}

LoadReport load_weights(Runtime& runtime, Model& model, const Checkpoint& checkpoint) {
  LoadReport report;
  CheckpointReader reader(checkpoint, model.info().architecture);
  for (const std::string& name : checkpoint.names()) {
    if (model.ignorable(name)) reader.ignore(name);
  }
  for (const auto& parameter : model.parameters()) {
    for (const ParameterPart& part : parameter->parts) {
      const std::vector<std::string> names = model.spellings(part.name);
      const std::vector<int64_t> shape = part.shape.vector();
      const TensorEntry* entry;
      if (model.may_be_new(part.name)) {
        entry = reader.take_optional(part.name, shape);
        if (!entry) report.initialized.push_back(part.name);
      } else {
        entry = reader.take_any(names, shape);
      }
      if (!entry) continue;  // finish() reports all that are missing at once
      fill(runtime, *parameter, part, *entry);
    }
  }
  reader.finish();
  report.stored = stored_tensors(model, checkpoint);
  report.unused = reader.unused();
  return report;
}

std::vector<TensorToWrite> tensors_to_write(Runtime& runtime, Model& model,
                                            const StoredTensors& stored, FileDtype fallback,
                                            std::optional<FileDtype> forced) {
  std::vector<TensorToWrite> tensors;
  for (const auto& owned : model.parameters()) {
    const Parameter& parameter = *owned;
    for (const ParameterPart& part : parameter.parts) {
      const auto known = stored.find(part.name);
      TensorToWrite tensor;
      tensor.name = known != stored.end() ? known->second.name : part.name;
      tensor.dtype = forced ? *forced : known != stored.end() ? known->second.dtype : fallback;
      tensor.shape = part.shape.vector();
      tensor.source = [&runtime, &parameter, &part, dtype = tensor.dtype](const TensorSink& sink) {
        const Tensor& from = parameter.master ? parameter.master : parameter.value;
        const int64_t count = part.shape.count();
        std::vector<std::byte> bytes;
        for (int64_t begin = 0; begin < count; begin += kChunk) {
          const int64_t n = std::min(kChunk, count - begin);
          const std::vector<float> values = runtime.download(from.slice(part.offset + begin, {n}));
          bytes.resize(values.size() * static_cast<size_t>(bits_of(dtype)) / 8);
          from_float32(values.data(), values.size(), dtype, bytes.data());
          sink(bytes);
        }
      };
      tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

}  // namespace engine
