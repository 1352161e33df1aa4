// A graph of cuDNN operations, by the descriptors of its backend API (cuDNN 9; the C++ frontend is
// not needed). Tensors are described, operations between them are added, and cuDNN compiles the
// whole.
//
//   Graph graph;
//   const Tensor x = graph.tensor({.id = 1, .size = ..., .stride = ..., .dtype = ...});
//   const Tensor y = graph.tensor({.id = 2, ...});
//   graph.pointwise(CUDNN_POINTWISE_MUL, {.x = x, .b = graph.number(0.5f), .y = y});
//   const Plan plan = graph.compile({.handle = handle});
//   plan.run(handle, {{1, x_data}, {2, y_data}}, workspace);
//
// What cuDNN refuses throws GpuError with its own words.
#pragma once

#include <cudnn.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace engine::kernels::cuda::cudnn {

void check(cudnnStatus_t status, const char* what);

class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const void* values,
           int64_t count = 1);
  void set(cudnnBackendAttributeName_t name, const Descriptor& value);
  void set(cudnnBackendAttributeName_t name, int64_t value);
  void set(cudnnBackendAttributeName_t name, bool value);
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value);
  cudnnStatus_t try_finalize() { return cudnnBackendFinalize(descriptor_); }
  void finalize(const char* what);
  cudnnBackendDescriptor_t get() const { return descriptor_; }

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

using Extents = std::array<int64_t, 4>;

class TensorDescription;
using Tensor = std::shared_ptr<const TensorDescription>;

struct TensorOptions {
  int64_t id = 0;  // of the data that run() gets; 0: an intermediate result without memory
  Extents size{}, stride{};
  cudnnDataType_t dtype = CUDNN_DATA_FLOAT;
  Tensor ragged_offset = nullptr;  // where each batch entry starts, in elements
};

class TensorDescription {
 public:
  explicit TensorDescription(const TensorOptions& options, bool by_value = false);
  const TensorOptions& options() const { return options_; }
  const Descriptor& descriptor() const { return descriptor_; }

 private:
  TensorOptions options_;
  Descriptor descriptor_;
};

// For what a graph is compiled: a handle's device; or one described in cuDNN's JSON, without a GPU.
// Then the plan cannot run.
struct Target {
  cudnnHandle_t handle = nullptr;
  std::string device_json;
};

class Plan {
 public:
  size_t workspace_bytes() const { return workspace_bytes_; }
  void run(cudnnHandle_t handle, const std::map<int64_t, void*>& data, void* workspace) const;

 private:
  friend class Graph;
  std::shared_ptr<Descriptor> plan_;
  std::map<int64_t, float> numbers_;
  size_t workspace_bytes_ = 0;
};

class Graph {
 public:
  Tensor tensor(const TensorOptions& options);
  // An fp32 number of one element.
  Tensor number(float value);

  struct Pointwise {
    Tensor x, b = nullptr, t = nullptr;  // t chooses x or b (CUDNN_POINTWISE_BINARY_SELECT)
    Tensor y = nullptr;                  // null: an intermediate result as x
    cudnnDataType_t compute = CUDNN_DATA_FLOAT, result = CUDNN_DATA_FLOAT;
    int64_t axis = -1;  // of CUDNN_POINTWISE_GEN_INDEX
  };
  Tensor pointwise(cudnnPointwiseMode_t mode, const Pointwise& operands);
  Tensor reduce(cudnnReduceTensorOp_t operation, const Tensor& x, const Tensor& y);
  struct Matmul {
    Tensor a, b, c;
    Tensor m = nullptr, n = nullptr, k = nullptr;  // extents of each batch entry, int32
  };
  Tensor matmul(const Matmul& operands);
  Tensor reshape(const Tensor& x, const Tensor& y);

  Plan compile(const Target& target);

 private:
  Tensor intermediate(const Tensor& like, cudnnDataType_t dtype);
  Descriptor& add(cudnnBackendDescriptorType_t type);

  std::vector<Tensor> tensors_;                          // alive until compiled
  std::vector<std::shared_ptr<Descriptor>> attributes_;  // of operations
  std::vector<std::shared_ptr<Descriptor>> operations_;
  std::map<int64_t, float> numbers_;
  int64_t next_id_ = 1 << 20;  // of what has none: ids are unique within a graph
};

}  // namespace engine::kernels::cuda::cudnn
