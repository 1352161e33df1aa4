#include "engine/autograd/parameter.h"

#include <cmath>
#include <numbers>

namespace engine {
namespace {

// FNV-1a: a stable 64-bit number for a name.
uint64_t hash_name(const std::string& name) {
  uint64_t hash = 14695981039346656037ull;
  for (unsigned char c : name) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}

// Box-Muller on the counter-based generator: value i depends on (seed, i) only.
void fill_normal(std::vector<float>& values, float stddev, uint64_t seed) {
  for (size_t i = 0; i < values.size(); i += 2) {
    const kernels::Philox4 bits = kernels::philox4x32(seed, i / 2);
    const double u = (bits.word[0] + 0.5) / 4294967296.0;
    const double angle = 2.0 * std::numbers::pi * (bits.word[1] / 4294967296.0);
    const double radius = stddev * std::sqrt(-2.0 * std::log(u));
    values[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < values.size()) values[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace

Parameter& ParameterSet::add(std::string name, Shape shape, Initializer init) {
  return add_stacked({ParameterPart{std::move(name), shape, 0, init}});
}

Parameter& ParameterSet::add_stacked(std::vector<ParameterPart> parts) {
  auto parameter = std::make_unique<Parameter>();
  int64_t rows = 0, offset = 0;
  for (ParameterPart& part : parts) {
    kernels::require(part.shape.rank() == parts[0].shape.rank(), "stacked parts differ in rank");
    kernels::require(part.shape.rank() < 2 || part.shape[-1] == parts[0].shape[-1],
                     "stacked parts differ in columns");
    part.offset = offset;
    offset += part.shape.count();
    rows += part.shape[0];
  }
  parameter->shape = parts[0].shape.rank() == 2 ? Shape{rows, parts[0].shape[1]} : Shape{rows};
  parameter->parts = std::move(parts);
  parameters_.push_back(std::move(parameter));
  return *parameters_.back();
}

int64_t ParameterSet::count() const {
  int64_t total = 0;
  for (const auto& parameter : parameters_) total += parameter->count();
  return total;
}

void ParameterSet::allocate(Runtime& runtime, const PrecisionPolicy& precision, Purpose purpose) {
  const bool training = purpose == Purpose::training;
  for (auto& p : parameters_) {
    p->value = runtime.persistent(p->shape, precision.compute, MemoryCategory::weights);
    if (!training || !p->trainable) continue;
    if (precision.compute == DType::f32) {
      p->master = p->value;
    } else if (precision.masters) {
      p->master = runtime.persistent(p->shape, DType::f32, MemoryCategory::master);
    }
    p->grad = runtime.persistent(p->shape, DType::f32, MemoryCategory::gradients);
    p->m = runtime.persistent(p->shape, DType::f32, MemoryCategory::optimizer);
    p->v = runtime.persistent(p->shape, DType::f32, MemoryCategory::optimizer);
    for (const Tensor& tensor : {p->grad, p->m, p->v}) runtime.zero(tensor);
  }
}

void ParameterSet::initialize(Runtime& runtime, uint64_t seed) {
  for (auto& parameter : parameters_) {
    for (const ParameterPart& part : parameter->parts) {
      std::vector<float> values(static_cast<size_t>(part.shape.count()));
      switch (part.init.kind) {
        case Initializer::Kind::constant:
          values.assign(values.size(), part.init.value);
          break;
        case Initializer::Kind::normal:
          fill_normal(values, part.init.value, seed ^ hash_name(part.name));
          break;
      }
      if (parameter->padding_row >= 0) {
        const int64_t columns = part.shape[-1];
        for (int64_t i = 0; i < columns; ++i) values[parameter->padding_row * columns + i] = 0.0f;
      }
      assign(runtime, *parameter, part, values.data());
    }
  }
}

void ParameterSet::assign(Runtime& runtime, Parameter& parameter, const ParameterPart& part,
                          const float* values) {
  const Tensor value = parameter.value.slice(part.offset, part.shape);
  if (parameter.master) runtime.upload(parameter.master.slice(part.offset, part.shape), values);
  if (value.dtype() == DType::f32) {
    runtime.upload(value, values);
    return;
  }
  std::vector<kernels::BFloat16> rounded(static_cast<size_t>(part.shape.count()));
  for (size_t i = 0; i < rounded.size(); ++i) rounded[i] = kernels::BFloat16(values[i]);
  runtime.upload(value, rounded.data());
}

std::vector<float> ParameterSet::read(Runtime& runtime, const Parameter& parameter,
                                      const ParameterPart& part) const {
  const Tensor& source = parameter.master ? parameter.master : parameter.value;
  return runtime.download(source.slice(part.offset, part.shape));
}

std::vector<float> ParameterSet::read_grad(Runtime& runtime, const Parameter& parameter,
                                           const ParameterPart& part) const {
  return runtime.download(parameter.grad.slice(part.offset, part.shape));
}

}  // namespace engine
