#include "engine/core/tensor.h"

#include <algorithm>

namespace engine {

Shape::Shape(std::initializer_list<int64_t> dims) : Shape(std::vector<int64_t>(dims)) {}

Shape::Shape(const std::vector<int64_t>& dims) : rank_(static_cast<int>(dims.size())) {
  kernels::require(rank_ <= kMaxRank, "Shape: more than four dimensions");
  std::copy(dims.begin(), dims.end(), dims_);
}

int64_t Shape::count() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= dims_[i];
  return product;
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? "," : "") + std::to_string(dims_[i]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && std::equal(dims_, dims_ + rank_, other.dims_);
}

Tensor Tensor::reshaped(const Shape& shape) const {
  kernels::require(shape.count() == count(), "Tensor::reshaped: another number of elements");
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::slice(int64_t offset, const Shape& shape) const {
  kernels::require(offset >= 0 && offset + shape.count() <= count(), "Tensor::slice: outside");
  Tensor view = *this;
  view.shape_ = shape;
  view.data_ = static_cast<char*>(data_) + offset * static_cast<int64_t>(kernels::size_of(dtype_));
  return view;
}

Runtime::Queue::Queue(const kernels::Stream& device) : stream(device) {
  stream.handle = kernels::operations(device).create_stream(device);
}

Runtime::Queue::~Queue() {
  kernels::operations(stream).destroy_stream(stream);
}

Runtime::Runtime(const kernels::Stream& device) : queue_(device), memory_(queue_.stream) {
  const bool gpu =
      device.device == kernels::DeviceType::cuda || device.device == kernels::DeviceType::simt;
  if (gpu) staging_ = std::make_unique<Staging>(queue_.stream);
}

Tensor Runtime::make(const Shape& shape, DType dtype, MemoryCategory category, bool persistent) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  const Memory::Block block = memory_.allocate(tensor.bytes(), category, persistent);
  tensor.storage_ = std::make_shared<Tensor::Storage>(&memory_, block);
  tensor.data_ = block.data;
  return tensor;
}

Tensor Runtime::transient(const Shape& shape, DType dtype, MemoryCategory category) {
  return make(shape, dtype, category, false);
}

Tensor Runtime::workspace(size_t bytes) {
  return make({static_cast<int64_t>(bytes)}, DType::u8, MemoryCategory::workspace, false);
}

Tensor Runtime::persistent(const Shape& shape, DType dtype, MemoryCategory category) {
  return make(shape, dtype, category, true);
}

void Runtime::upload(const Tensor& to, const void* from) {
  if (staging_) {
    staging_->upload(to.data(), from, to.bytes());
  } else {
    ops().copy_to_device(stream(), to.data(), from, to.bytes());
  }
}

void Runtime::synchronize() const {
  ops().synchronize(stream());
  if (staging_) staging_->synchronized();
}

void Runtime::copy_to_host(void* to, const Tensor& from) const {
  ops().copy_to_host(stream(), to, from.data(), from.bytes());
  if (staging_) staging_->synchronized();
}

std::vector<float> Runtime::download(const Tensor& tensor) const {
  std::vector<float> values(static_cast<size_t>(tensor.count()));
  if (tensor.dtype() == DType::f32) {
    copy_to_host(values.data(), tensor);
    return values;
  }
  kernels::require(tensor.dtype() == DType::bf16, "Runtime::download: f32 or bf16");
  std::vector<kernels::BFloat16> raw(values.size());
  copy_to_host(raw.data(), tensor);
  std::transform(raw.begin(), raw.end(), values.begin(),
                 [](kernels::BFloat16 x) { return float(x); });
  return values;
}

std::vector<int32_t> Runtime::download_ints(const Tensor& tensor) const {
  kernels::require(tensor.dtype() == DType::i32, "Runtime::download_ints: i32");
  std::vector<int32_t> values(static_cast<size_t>(tensor.count()));
  copy_to_host(values.data(), tensor);
  return values;
}

}  // namespace engine
