#include "kernels/cuda/rivals/cudnn_graph.h"

#include "kernels/api/device.h"

namespace engine::kernels::cuda::cudnn {

void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char words[512] = {};
  cudnnGetLastErrorString(words, sizeof words);
  throw GpuError(std::string("cuDNN, ") + what + ": " + cudnnGetErrorString(status) +
                 (words[0] ? std::string(", ") + words : ""));
}

// --- Descriptors -------------------------------------------------------------------------------

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) {
  check(cudnnBackendCreateDescriptor(type, &descriptor_), "cudnnBackendCreateDescriptor");
}
Descriptor::~Descriptor() {
  cudnnBackendDestroyDescriptor(descriptor_);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     const void* values, int64_t count) {
  check(cudnnBackendSetAttribute(descriptor_, name, type, count, values),
        "cudnnBackendSetAttribute");
}
void Descriptor::set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  const cudnnBackendDescriptor_t pointer = value.get();
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &pointer);
}
void Descriptor::set(cudnnBackendAttributeName_t name, int64_t value) {
  set(name, CUDNN_TYPE_INT64, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, bool value) {
  set(name, CUDNN_TYPE_BOOLEAN, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
  set(name, CUDNN_TYPE_DATA_TYPE, &value);
}
void Descriptor::finalize(const char* what) {
  check(try_finalize(), what);
}

TensorDescription::TensorDescription(const TensorOptions& options, bool by_value)
    : options_(options), descriptor_(CUDNN_BACKEND_TENSOR_DESCRIPTOR) {
  descriptor_.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, options.id);
  descriptor_.set(CUDNN_ATTR_TENSOR_DATA_TYPE, options.dtype);
  descriptor_.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, options.size.data(), 4);
  descriptor_.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, options.stride.data(), 4);
  descriptor_.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, int64_t{16});
  descriptor_.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, options.id >= 1 << 20 && !by_value);
  descriptor_.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, by_value);
  if (options.ragged_offset) {
    descriptor_.set(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, options.ragged_offset->descriptor());
  }
  descriptor_.finalize("a tensor");
}

// --- Operations --------------------------------------------------------------------------------

Tensor Graph::tensor(const TensorOptions& options) {
  TensorOptions own = options;
  if (own.id == 0) own.id = next_id_++;
  tensors_.push_back(std::make_shared<TensorDescription>(own));
  return tensors_.back();
}

Tensor Graph::number(float value) {
  const int64_t id = next_id_++;
  numbers_[id] = value;
  tensors_.push_back(std::make_shared<TensorDescription>(
      TensorOptions{.id = id, .size = {1, 1, 1, 1}, .stride = {1, 1, 1, 1}}, true));
  return tensors_.back();
}

Tensor Graph::intermediate(const Tensor& like, cudnnDataType_t dtype) {
  return tensor({.size = like->options().size, .stride = like->options().stride, .dtype = dtype});
}

Descriptor& Graph::add(cudnnBackendDescriptorType_t type) {
  operations_.push_back(std::make_shared<Descriptor>(type));
  return *operations_.back();
}

Tensor Graph::pointwise(cudnnPointwiseMode_t mode, const Pointwise& o) {
  const Tensor y = o.y ? o.y : intermediate(o.x, o.result);
  auto attributes = std::make_shared<Descriptor>(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  attributes->set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, &mode);
  attributes->set(CUDNN_ATTR_POINTWISE_MATH_PREC, o.compute);
  if (o.axis >= 0) attributes->set(CUDNN_ATTR_POINTWISE_AXIS, o.axis);
  attributes->finalize("a pointwise operation");
  attributes_.push_back(attributes);
  Descriptor& operation = add(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, *attributes);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, o.x->descriptor());
  if (o.b) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, o.b->descriptor());
  if (o.t) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, o.t->descriptor());
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y->descriptor());
  operation.finalize("a pointwise operation");
  return y;
}

Tensor Graph::reduce(cudnnReduceTensorOp_t operator_, const Tensor& x, const Tensor& y) {
  auto attributes = std::make_shared<Descriptor>(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  attributes->set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &operator_);
  attributes->set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  attributes->finalize("a reduction");
  attributes_.push_back(attributes);
  Descriptor& operation = add(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, *attributes);
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x->descriptor());
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y->descriptor());
  operation.finalize("a reduction");
  return y;
}

Tensor Graph::matmul(const Matmul& o) {
  auto attributes = std::make_shared<Descriptor>(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  attributes->set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  attributes->finalize("a product");
  attributes_.push_back(attributes);
  Descriptor& operation = add(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, o.a->descriptor());
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, o.b->descriptor());
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, o.c->descriptor());
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, *attributes);
  if (o.m) operation.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, o.m->descriptor());
  if (o.n) operation.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, o.n->descriptor());
  if (o.k) operation.set(CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, o.k->descriptor());
  operation.finalize("a product");
  return o.c;
}

Tensor Graph::reshape(const Tensor& x, const Tensor& y) {
  Descriptor& operation = add(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x->descriptor());
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y->descriptor());
  operation.finalize("a reshape");
  return y;
}

// --- Plans -------------------------------------------------------------------------------------

Plan Graph::compile(const Target& target) {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const auto& operation : operations_) operations.push_back(operation->get());
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations.data(),
            static_cast<int64_t>(operations.size()));
  if (target.handle) {
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, &target.handle);
  }
  graph.finalize("the graph");

  std::unique_ptr<Descriptor> device;
  if (!target.device_json.empty()) {
    device = std::make_unique<Descriptor>(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    device->set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                target.device_json.c_str(), static_cast<int64_t>(target.device_json.size()) + 1);
    device->finalize("the description of a device");
  }
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode);
  if (device) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device);
  heuristic.finalize("the heuristic: it has no kernel for this graph");

  // Best first; the first that can be compiled.
  constexpr int kMostConfigurations = 8;
  std::vector<std::unique_ptr<Descriptor>> configurations;
  std::vector<cudnnBackendDescriptor_t> pointers;
  for (int i = 0; i < kMostConfigurations; ++i) {
    configurations.push_back(std::make_unique<Descriptor>(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    pointers.push_back(configurations.back()->get());
  }
  int64_t count = 0;
  check(cudnnBackendGetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, kMostConfigurations, &count,
                                 pointers.data()),
        "the heuristic");
  cudnnStatus_t status = CUDNN_STATUS_NOT_SUPPORTED;
  for (int64_t i = 0; i < count; ++i) {
    auto candidate = std::make_shared<Descriptor>(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    candidate->set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, *configurations[i]);
    if (target.handle) {
      candidate->set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, &target.handle);
    }
    if (device) candidate->set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *device);
    status = candidate->try_finalize();
    if (status != CUDNN_STATUS_SUCCESS) continue;
    Plan plan;
    plan.plan_ = candidate;
    plan.numbers_ = numbers_;
    int64_t bytes = 0, returned = 0;
    check(cudnnBackendGetAttribute(candidate->get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                   CUDNN_TYPE_INT64, 1, &returned, &bytes),
          "the size of the workspace");
    plan.workspace_bytes_ = static_cast<size_t>(bytes);
    return plan;
  }
  check(status, "no kernel could be compiled for this graph");
  return {};
}

void Plan::run(cudnnHandle_t handle, const std::map<int64_t, void*>& data, void* workspace) const {
  std::vector<int64_t> ids;
  std::vector<void*> pointers;
  for (const auto& [id, pointer] : data) {
    ids.push_back(id);
    pointers.push_back(pointer);
  }
  for (const auto& [id, value] : numbers_) {  // read on the host, before the call returns
    ids.push_back(id);
    pointers.push_back(const_cast<float*>(&value));
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.data(),
           static_cast<int64_t>(ids.size()));
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.data(),
           static_cast<int64_t>(pointers.size()));
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, &workspace);
  pack.finalize("the arguments");
  check(cudnnBackendExecute(handle, plan_->get(), pack.get()), "cudnnBackendExecute");
}

}  // namespace engine::kernels::cuda::cudnn
