// Which library or kernel computes what: api/backends.h, api/attention_variants.h.
#include "kernels/api/backends.h"

#include "kernels/api/attention_variants.h"

#include <atomic>
#include <stdexcept>

namespace engine::kernels {

// kernels/cuda/attention/steps.cu, compiled for each.
namespace simt {
AttentionVariants attention_variants();
}
#if ENGINE_HAS_CUDA
namespace cuda {
AttentionVariants attention_variants();
}
#endif

namespace {
std::atomic<MatmulBackend> matmul_backend = MatmulBackend::engine;
}

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

AttentionVariants attention_variants(DeviceType device) {
#if ENGINE_HAS_CUDA
  if (device == DeviceType::cuda) return cuda::attention_variants();
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
