// The inner kernels of matmul, one table per instruction set, chosen at run time.
//
// Operands are packed into panels: A into panels of `mr` rows, B into panels of `nr` columns, both
// zero-padded, with k running through a panel from start to end. `multiply` then computes one
// mr x nr tile of C from a panel of each (Goto & van de Geijn 2008; Van Zee & van de Geijn 2015).
// A panel is a sequence of 32-bit words per row or column: one fp32, or a pair of bf16 of
// consecutive k, which is what the bf16 dot-product instructions take. AMX loads its left tiles
// with any distance between rows, so it takes A where it lies when that is row-major.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/types.h"

namespace engine::kernels::cpu {

// A strip of a matrix: `width` rows of A (or columns of B) over `k` values each.
struct Strip {
  const void* data = nullptr;
  int64_t stride = 0;         // elements between rows as stored
  bool k_contiguous = false;  // element (i, p) at i * stride + p, else at p * stride + i
  int64_t width = 0, k = 0;
  int64_t panel_k = 0;  // of the whole panel, of which this may be a part along k
};

// One tile: C = A B, or C += A B when `add`.
struct TileProduct {
  int64_t k = 0;            // a multiple of k_unit
  const void* a = nullptr;  // panel of A from some k on
  int64_t a_stride = 0;     // bytes between rows of A; only where the kernel `reads_rows`
  const void* b = nullptr;  // panel of B from the same k on
  float* c = nullptr;
  int64_t ldc = 0;  // floats between rows of C
  bool add = false;
};

struct MatmulKernel {
  const char* name;
  int mr, nr;
  int k_unit;           // k is padded to a multiple of this
  int bytes_per_k;      // of one packed value
  int64_t k_block;      // most k values in one call of multiply: a panel of B stays in L1
  int64_t k_single;     // but up to this many k go in one call: no sums to keep
  int64_t k_pass;       // most k values in one pass over the operands: sums go to D between them
  int64_t block_bytes;  // of the packed operand that stays in L2 during a piece of work
  bool reads_rows;      // A may be row-major where it lies; panels of A are row-major too
  void (*pack_a)(const Strip&, void* to);
  void (*pack_b)(const Strip&, void* to);
  void (*multiply)(const TileProduct&);
  void (*begin)();  // around the calls of multiply on a thread; may be null
  void (*end)();
};

// Bytes between rows in a panel of A of a kernel that reads rows: not a power of two, so that the
// rows of a tile spread over the sets of the cache.
inline int64_t packed_row_bytes(int64_t k) {
  return (k + 31) / 32 * 64 + 64;
}

enum class InstructionSet : uint8_t { portable, avx2, avx512, avx512_bf16, amx_bf16 };

// The best that this processor and operating system have, unless limited below.
InstructionSet instruction_set();

// For tests and benchmarks: use at most this one. Not thread-safe.
void limit_instruction_set(InstructionSet most);

// The kernel for inputs of this type.
const MatmulKernel& matmul_kernel(DType input);

// By file: null where the compiler cannot build them (another architecture).
const MatmulKernel* portable_kernel(DType input);
const MatmulKernel* avx2_kernel(DType input);
const MatmulKernel* avx512_kernel(DType input);
const MatmulKernel* avx512_bf16_kernel();
const MatmulKernel* amx_bf16_kernel();

}  // namespace engine::kernels::cpu
