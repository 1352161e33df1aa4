// Which library or kernel computes what: api/backends.h, api/attention_variants.h.
#include "kernels/api/backends.h"

#include "kernels/api/attention_variants.h"

#include <atomic>
#include <stdexcept>
#include <vector>

namespace engine::kernels {

// kernels/cuda/attention/steps.cu, compiled for each.
namespace simt {
AttentionVariants attention_variants();
}
#if ENGINE_HAS_CUDA
namespace cuda {
AttentionVariants attention_variants();
#if ENGINE_HAS_CUDNN
void attention_forward_cudnn(Stream stream, const AttentionForward& arguments);  // rivals
#endif
}  // namespace cuda
#endif

namespace {
std::atomic<MatmulBackend> matmul_backend = MatmulBackend::engine;
std::atomic<AttentionBackend> attention_backend = AttentionBackend::engine;
}  // namespace

bool has_cublas() {
#if ENGINE_HAS_CUBLAS
  return true;
#else
  return false;
#endif
}

void select_matmul(MatmulBackend backend) {
  if (backend != MatmulBackend::engine && !has_cublas()) {
    throw std::logic_error("select_matmul: this build has no cuBLAS");
  }
  matmul_backend = backend;
}

MatmulBackend selected_matmul() {
  return matmul_backend.load(std::memory_order_relaxed);
}

bool has_cudnn() {
#if ENGINE_HAS_CUDNN
  return true;
#else
  return false;
#endif
}

bool needs_cudnn(AttentionBackend backend) {
  return backend == AttentionBackend::cudnn || backend == AttentionBackend::automatic;
}

void select_attention(AttentionBackend backend) {
  if (needs_cudnn(backend) && !has_cudnn()) {
    throw std::logic_error("select_attention: this build has no cuDNN");
  }
  attention_backend = backend;
}

AttentionBackend selected_attention() {
  return attention_backend.load(std::memory_order_relaxed);
}

AttentionBackend parse_attention_backend(const std::string& name) {
  if (name == "engine") return AttentionBackend::engine;
  if (name == "mma") return AttentionBackend::mma;
  if (name == "cudnn") return AttentionBackend::cudnn;
  if (name == "auto") return AttentionBackend::automatic;
  throw std::invalid_argument("attention backend \"" + name +
                              "\": there are engine, mma, cudnn and auto");
}

AttentionVariants attention_variants(DeviceType device) {
#if ENGINE_HAS_CUDA
  if (device == DeviceType::cuda) {
    static const std::vector<AttentionVariant> all = [] {
      const AttentionVariants ours = cuda::attention_variants();
      std::vector<AttentionVariant> variants(ours.begin(), ours.end());
#if ENGINE_HAS_CUDNN
      variants.push_back({"cudnn", cuda::attention_forward_cudnn});
#endif
      return variants;
    }();
    return {all.data(), static_cast<int>(all.size())};
  }
#endif
  return device == DeviceType::simt ? simt::attention_variants() : AttentionVariants{};
}

MatmulBackend parse_matmul_backend(const std::string& name) {
  if (name == "engine") return MatmulBackend::engine;
  if (name == "cublas") return MatmulBackend::cublas;
  if (name == "auto") return MatmulBackend::automatic;
  throw std::invalid_argument("matmul backend \"" + name + "\": there are engine, cublas and auto");
}

}  // namespace engine::kernels
