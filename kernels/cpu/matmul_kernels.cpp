// Which matmul kernel to use, and the kernels written without intrinsics: for AVX2, and for
// anything at all.
#include "kernels/cpu/matmul_kernels.h"

#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace engine::kernels::cpu {
namespace {

template <typename T, int kWidth>
void pack(const Strip& s, void* to) {
  const auto* x = static_cast<const T*>(s.data);
  auto* out = static_cast<float*>(to);
  const int64_t along_k = s.k_contiguous ? 1 : s.stride;
  const int64_t along_width = s.k_contiguous ? s.stride : 1;
  for (int64_t p = 0; p < s.k; ++p) {
    for (int64_t i = 0; i < s.width; ++i) {
      out[i] = static_cast<float>(x[i * along_width + p * along_k]);
    }
    for (int64_t i = s.width; i < kWidth; ++i) out[i] = 0.0f;
    out += kWidth;
  }
}

template <typename Vector, int kRows, int kVectors>
inline __attribute__((always_inline)) void multiply(const TileProduct& t) {
  constexpr int kLanes = sizeof(Vector) / sizeof(float);
  typedef Vector Unaligned __attribute__((aligned(4), may_alias));
  const auto* a = static_cast<const float*>(t.a);
  const auto* b = static_cast<const float*>(t.b);
  Vector sum[kRows][kVectors] = {};
  for (int64_t p = 0; p < t.k; ++p, a += kRows, b += kVectors * kLanes) {
    Vector y[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) y[j] = *reinterpret_cast<const Unaligned*>(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vector x = a[i] - Vector{};
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += x * y[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      auto* to = reinterpret_cast<Unaligned*>(t.c + i * t.ldc + j * kLanes);
      *to = t.add ? *to + sum[i][j] : sum[i][j];
    }
  }
}

typedef float Vector4 __attribute__((vector_size(16)));
typedef float Vector8 __attribute__((vector_size(32)));

void multiply_portable(const TileProduct& t) {
  multiply<Vector4, 4, 2>(t);
}

template <typename T>
constexpr MatmulKernel portable(const char* name) {
  return {.name = name,
          .mr = 4,
          .nr = 8,
          .k_unit = 1,
          .bytes_per_k = 4,
          .k_block = 256,
          .k_single = 256,
          .k_pass = 1024,
          .block_bytes = 128 << 10,
          .reads_rows = false,
          .pack_a = pack<T, 4>,
          .pack_b = pack<T, 8>,
          .multiply = multiply_portable,
          .begin = nullptr,
          .end = nullptr};
}
constexpr MatmulKernel kPortable[2] = {portable<float>("portable"),
                                       portable<BFloat16>("portable (bf16 widened)")};

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void multiply_avx2(const TileProduct& t) {
  multiply<Vector8, 6, 2>(t);
}

template <typename T>
constexpr MatmulKernel avx2(const char* name) {
  MatmulKernel kernel = portable<T>(name);
  kernel.mr = 6;
  kernel.nr = 16;
  kernel.pack_a = pack<T, 6>;
  kernel.pack_b = pack<T, 16>;
  kernel.multiply = multiply_avx2;
  return kernel;
}
constexpr MatmulKernel kAvx2[2] = {avx2<float>("avx2"), avx2<BFloat16>("avx2 (bf16 widened)")};

// Linux lets a process use the tile registers only after it asked (arch_prctl, since 5.16).
bool request_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

InstructionSet detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return InstructionSet::portable;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return InstructionSet::avx2;
  }
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || !(eax & (1u << 5))) {
    return InstructionSet::avx512;
  }
  constexpr unsigned kTiles = 1u << 24, kTilesBFloat16 = 1u << 22;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  const bool amx = (edx & kTiles) && (edx & kTilesBFloat16) && request_tiles();
  if (amx) return InstructionSet::amx_bf16;
  // On Intel's cores two fp32 multiply-adds outrun the bf16 dot product (210 against 115 GFLOP/s
  // on Sapphire Rapids), so bf16 is widened there.
  return __builtin_cpu_is("amd") ? InstructionSet::avx512_bf16 : InstructionSet::avx512;
}
#else
InstructionSet detect() {
  return InstructionSet::portable;
}
#endif

std::atomic<InstructionSet> limit{InstructionSet::amx_bf16};

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet best = detect();
  const InstructionSet most = limit.load(std::memory_order_relaxed);
  return best < most ? best : most;
}

void limit_instruction_set(InstructionSet most) {
  limit.store(most);
}

const MatmulKernel* portable_kernel(DType input) {
  return &kPortable[input == DType::bf16];
}

const MatmulKernel* avx2_kernel(DType input) {
#if defined(__x86_64__)
  return &kAvx2[input == DType::bf16];
#else
  return nullptr;
#endif
}

const MatmulKernel& matmul_kernel(DType input) {
  const InstructionSet best = instruction_set();
  if (input == DType::bf16) {
    if (best == InstructionSet::amx_bf16) return *amx_bf16_kernel();
    if (best == InstructionSet::avx512_bf16) return *avx512_bf16_kernel();
  }
  if (best >= InstructionSet::avx512) return *avx512_kernel(input);
  if (best == InstructionSet::avx2) return *avx2_kernel(input);
  return *portable_kernel(input);
}

}  // namespace engine::kernels::cpu
