#include "kernels/cuda/rivals/cublas.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/api/matmul_steps.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/rivals/timing.h"

namespace engine::kernels::cuda {
namespace {

void check_cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw GpuError(std::string("cuBLASLt, ") + what + ": " + cublasLtGetStatusString(status));
}

// What decides descriptors and algorithm. Pointers only by their alignment.
using ShapeKey = std::array<int64_t, 9>;

int64_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<int64_t>(address ? std::min<uintptr_t>(address & (~address + 1), 256) : 256);
}

ShapeKey key_of(const Matmul& p) {
  const int64_t flags = int64_t{p.transpose_a} | int64_t{p.transpose_b} << 1 |
                        int64_t{p.accumulate} << 2 | int64_t{p.bias != nullptr} << 3 |
                        static_cast<int64_t>(p.input_dtype) << 4 |
                        static_cast<int64_t>(p.output_dtype) << 8 | int64_t{p.allow_tf32} << 12;
  const int64_t alignment = std::min({alignment_of(p.a), alignment_of(p.b), alignment_of(p.d)});
  const MatmulEpilogue& e = p.epilogue;
  const int64_t epilogue = static_cast<int64_t>(e.kind) | int64_t{e.gated} << 4 |
                           int64_t{e.keep_x} << 5 | static_cast<int64_t>(e.activation) << 8 |
                           static_cast<int64_t>(e.residual_dtype) << 12;
  return {p.m, p.n, p.k, p.lda, p.ldb, p.ldd, flags, alignment, epilogue};
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

// cuBLAS thinks in columns. Our row-major D = op(A) op(B) is its Dᵀ = op(B)ᵀ op(A)ᵀ: the operands
// change places, and a row-major matrix is a column-major one with its dimensions exchanged.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm;

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    cublasLtMatrixLayoutDestroy(result);
    cublasLtMatrixLayoutDestroy(second);
    cublasLtMatrixLayoutDestroy(first);
    cublasLtMatmulDescDestroy(product);
  }
};

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper

class Library {
 public:
  explicit Library(const Stream& stream) {
    check_cublas(cublasLtCreate(&handle_), "cublasLtCreate");
    workspace_ = allocate(stream, kWorkspaceBytes);
    if (!workspace_) throw GpuError("cuBLASLt: no device memory for its workspace of 32 MiB");
  }

  void run(const Stream& stream, const Matmul& p) {
    Plan& plan = plan_for(p);
    if (p.bias) {
      check_cublas(cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                  &p.bias, sizeof p.bias),
                   "bias");
    }
    const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
    check_cublas(
        cublasLtMatmul(handle_, plan.product, &one, p.b, plan.first, p.a, plan.second, &beta, p.d,
                       plan.result, p.d, plan.result, &plan.algorithm, workspace_, kWorkspaceBytes,
                       static_cast<cudaStream_t>(stream.handle)),
        "cublasLtMatmul");
  }

 private:
  static cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, int64_t stride) {
    cublasLtMatrixLayout_t result = nullptr;
    check_cublas(cublasLtMatrixLayoutCreate(&result, type_of(dtype), static_cast<uint64_t>(columns),
                                            static_cast<uint64_t>(rows), stride),
                 "layout");
    return result;
  }

  Plan& plan_for(const Matmul& p) {
    std::unique_ptr<Plan>& slot = plans_[key_of(p)];
    if (slot) return *slot;
    auto plan = std::make_unique<Plan>();
    const bool tf32 = p.allow_tf32 && p.input_dtype == DType::f32;
    check_cublas(
        cublasLtMatmulDescCreate(
            &plan->product, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "descriptor");
    const cublasOperation_t first = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const auto set = [&](cublasLtMatmulDescAttributes_t which, const auto& value) {
      check_cublas(cublasLtMatmulDescSetAttribute(plan->product, which, &value, sizeof value),
                   "attribute");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, first);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second);
    if (p.bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      const cudaDataType_t bias_type = type_of(p.input_dtype);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias_type);
    }
    const int64_t a_rows = p.transpose_a ? p.k : p.m, a_columns = p.transpose_a ? p.m : p.k;
    const int64_t b_rows = p.transpose_b ? p.n : p.k, b_columns = p.transpose_b ? p.k : p.n;
    plan->first = layout(p.input_dtype, b_rows, b_columns, p.ldb ? p.ldb : b_columns);
    plan->second = layout(p.input_dtype, a_rows, a_columns, p.lda ? p.lda : a_columns);
    plan->result = layout(p.output_dtype, p.m, p.n, p.ldd ? p.ldd : p.n);

    cublasLtMatmulPreference_t preference = nullptr;
    check_cublas(cublasLtMatmulPreferenceCreate(&preference), "preference");
    const size_t bytes = kWorkspaceBytes;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &bytes, sizeof bytes);
    const auto limit = [&](cublasLtMatmulPreferenceAttributes_t which, const void* pointer) {
      const auto alignment = static_cast<uint32_t>(alignment_of(pointer));
      cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof alignment);
    };
    limit(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.b);
    limit(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.a);
    limit(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.d);
    limit(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.d);
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, plan->product, plan->first, plan->second,
                                       plan->result, plan->result, preference, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    check_cublas(status, "heuristic");
    if (count == 0) throw GpuError("cuBLASLt has no algorithm for this product");
    plan->algorithm = found.algo;
    slot = std::move(plan);
    return *slot;
  }

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<ShapeKey, std::unique_ptr<Plan>> plans_;
};

std::mutex mutex;

// Never destroyed: the driver may be gone when statics are.
Library& library(const Stream& stream) {
  static std::map<int, Library*> libraries;
  Library*& one = libraries[stream.device_index];
  if (!one) one = new Library(stream);
  return *one;
}

}  // namespace

void matmul_cublas(Stream stream, const Matmul& arguments) {
  if (arguments.m == 0 || arguments.n == 0 || arguments.k == 0) {
    matmul(stream, arguments);  // cuBLAS has no empty products
    return;
  }
  // Our epilogues round the product first, and its have no gated forms: in steps.
  matmul_steps(stream, table(), arguments, [](Stream where, const Matmul& plain) {
    const std::lock_guard lock(mutex);
    library(where).run(where, plain);
  });
}

void matmul_auto(Stream stream, const Matmul& arguments) {
  static std::map<ShapeKey, bool> cublas_wins;
  const ShapeKey key = key_of(arguments);
  bool decided = false, wins = false;
  {
    const std::lock_guard lock(mutex);
    const auto known = cublas_wins.find(key);
    if (known != cublas_wins.end()) {
      wins = known->second;
      decided = true;
    }
  }
  if (decided) return wins ? matmul_cublas(stream, arguments) : matmul(stream, arguments);
  if (is_capturing(stream)) return matmul(stream, arguments);
  // Accumulating again and again would change the result, and so would a gradient over its input:
  // time into another matrix. (It may have more columns than D: fp32, and gate and up.)
  Matmul trial = arguments;
  const int64_t ldd = arguments.ldd ? arguments.ldd : 2 * arguments.n;
  trial.d = allocate(stream, static_cast<size_t>(arguments.m * ldd) * sizeof(float));
  if (trial.d && arguments.m * arguments.n * arguments.k > 0) {
    const float ours = milliseconds(stream, [&] { matmul(stream, trial); });
    const float theirs = milliseconds(stream, [&] { matmul_cublas(stream, trial); });
    wins = theirs < ours;
  }
  release(stream, trial.d);
  {
    const std::lock_guard lock(mutex);
    cublas_wins[key] = wins;
  }
  matmul_auto(stream, arguments);
}

}  // namespace engine::kernels::cuda
