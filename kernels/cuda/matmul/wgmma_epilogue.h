// How the sums of a warp leave the kernel of wgmma_kernel.h.
//
// Per warp: 16 rows by 128 bytes of columns go through 2 KiB of shared memory, two of them in turn,
// to TMA; accumulating into fp32 is TMA's reduce-add, so D is not read (sums that are subnormal
// become 0). Every element belongs to one block: nothing depends on order.
//
// With an epilogue (finish.h) what passes through shared memory is the product rounded to bf16, and
// the warp reads it back from there. Gate and up of a gated activation alternate, 64 columns of one
// and 64 of the other, so that a warp has both; TMA loads each from where it lies in B.
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/device/tma.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/device/wgmma.h"
#include "kernels/cuda/matmul/finish.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU::wgmma_matmul {

// A warp's 16 rows of 128 bytes on their way to D.
inline constexpr int kStageBytes = 2048;

struct Arguments {
  TensorMap a, b, d;
  MatmulProblem problem;
};

// Where the sums of a part of k lie: rows from one part to the next.
ENGINE_DEVICE constexpr int rows_of_part(const MatmulProblem& p) {
  return static_cast<int>(p.part_stride / p.ldd);
}

// The first of 64 columns of op(B), `group` of a tile that begins at `column`. Pairs of columns
// take turns: 64 of the gate, 64 of up.
ENGINE_DEVICE int group_column(const MatmulProblem& p, int column, int group) {
  if (!p.finish.pairs()) return column + 64 * group;
  return column + 64 * (group / 2) + (group % 2 == 0 ? 0 : p.n / 2);
}

// The bias of a tile, over the lanes of a warp: lane l has columns 64 i + 2 l and the next in
// pairs[i]. Loaded before the sums are, so that the epilogue does not wait for it.
template <int Columns>
ENGINE_DEVICE void load_bias(uint32_t (&pairs)[Columns / 64], const MatmulProblem& p, int column) {
  const auto* const bias = static_cast<const uint16_t*>(p.bias);
#pragma unroll
  for (int i = 0; i < Columns / 64; ++i) {
    const int at = group_column(p, column, i) + 2 * lane_index();
    const uint32_t low = bias && at < p.n ? load(bias + at) : 0;
    const uint32_t high = bias && at + 1 < p.n ? load(bias + at + 1) : 0;
    pairs[i] = low | high << 16;
  }
}

// 16 rows by 128 bytes of a warp's sums to shared memory, swizzled.
template <typename T>
ENGINE_DEVICE void stage_sums(Shared<uint8_t> stage, const float* sums) {
  const int lane = lane_index();
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* const x = sums + 8 * j;
      const uint32_t packed[4] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                                  pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
      const auto offset = static_cast<uint32_t>(lane % 16 * 128 + (2 * j + lane / 16) * 16);
      store_matrix_x4((stage + swizzled_offset(offset)).as<BFloat16>(), packed);
    }
  } else {
    // Half a warp at a time writes 8 bytes per lane. Odd rows take the columns in another order, so
    // that four rows fill four different quarters of the banks.
    const bool odd = lane / 4 % 2 != 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float* const even_x = sums + 4 * j + 2 * h;
        const float* const odd_x = sums + 4 * (j ^ 2) + 2 * h;
        const Vector<float, 2> x{{odd ? odd_x[0] : even_x[0], odd ? odd_x[1] : even_x[1]}};
        const int row = lane / 4 + 8 * h, block = odd ? j ^ 2 : j;
        const auto offset = static_cast<uint32_t>(row * 128 + block * 32 + lane % 4 * 8);
        store_vector((stage + swizzled_offset(offset)).as<float>(), x);
      }
    }
  }
}

// The first `rows` of them to D, where TMA would write all 16.
template <typename T>
ENGINE_DEVICE void write_rows(const MatmulProblem& p, Shared<uint8_t> stage, int row, int rows,
                              int column) {
  constexpr int kWidth = 128 / sizeof(T);
  auto* const d = static_cast<T*>(p.d);
  for (int i = lane_index(); i < rows * kWidth; i += kWarp) {
    if (column + i % kWidth >= p.n) continue;
    const auto offset = swizzled_offset(static_cast<uint32_t>(i * sizeof(T)));
    float x = to_float(load((stage + offset).template as<T>()));
    T* const to = d + (row + i / kWidth) * p.ldd + column + i % kWidth;
    if (p.accumulate) x += to_float(load(to));
    store(to, from_float<T>(x));
  }
}

// Bias of `width` columns, from column `from` of the 64 whose bias the warp has in `pairs`.
template <int width>
ENGINE_DEVICE void add_bias(float* x, const MatmulProblem& p, uint32_t pairs, int from) {
  if (!p.bias) return;
#pragma unroll
  for (int j = 0; j < width / 8; ++j) {
    const uint32_t two = shuffle(pairs, from / 2 + 4 * j + lane_index() % 4);
    x[4 * j] += low_bf16(two);
    x[4 * j + 1] += high_bf16(two);
    x[4 * j + 2] += low_bf16(two);
    x[4 * j + 3] += high_bf16(two);
  }
}

// The softmax's parts of 16 rows by 32 columns of logits.
ENGINE_DEVICE void store_softmax_parts(const MatmulProblem& p, const MatmulSizes& sizes,
                                       const float* x, int row, int column) {
  const int lane = lane_index();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float z[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int at = column + 8 * (j / 2) + 2 * (lane % 4) + j % 2;
      z[j] = at < sizes.n ? x[4 * (j / 2) + 2 * h + j % 2] * p.finish.scale : -infinity();
    }
    const SoftmaxPart softmax = softmax_part<4>(z);
    const int r = row + lane / 4 + 8 * h;
    if (lane % 4 == 0 && r < sizes.m) store_softmax_part(p, r, column, softmax);
  }
}

// A warp's part of D, from registers through two stages in turn. `leader`: this lane starts the
// stores; one group for each part, so that waiting for all but one frees the other stage.
template <int Columns, typename T, bool Finish>
ENGINE_DEVICE void write_tile(const Arguments& arguments, const MatmulSizes& sizes,
                              float (&sums)[Columns / 2], const uint32_t (&bias)[Columns / 64],
                              Shared<uint8_t> stages, int row, int column, int part_of_k,
                              bool leader) {
  constexpr int kWidth = 128 / sizeof(T);  // columns that go together
  const MatmulProblem& p = arguments.problem;
  const int target = part_of_k == 0 ? row : row + part_of_k * rows_of_part(p);
#pragma unroll
  for (int part = 0; part < Columns / kWidth; ++part) {
    const int first = column + part * kWidth;
    const Shared<uint8_t> stage = stages + part % 2 * kStageBytes;
    float* const x = sums + part * kWidth / 2;
    if (first < sizes.n && row < sizes.m) {
      if (leader) bulk_wait_group_read<1>();
      sync_warp();
      add_bias<kWidth>(x, p, bias[part * kWidth / 64], part * kWidth % 64);
      if constexpr (Finish) store_softmax_parts(p, sizes, x, row, first);
      stage_sums<T>(stage, x);
      fence_async_proxy();
      sync_warp();
      if (row + 16 > sizes.m && sizes.m < p.m) {
        write_rows<T>(p, stage, target, sizes.m - row, first);
        sync_warp();
      } else if (leader) {
        const Coordinate2 to{first, target};
        if constexpr (sizeof(T) == 4) {
          if (p.accumulate) {
            tensor_add(arguments.d, stage.template as<float>(), to);
          } else {
            tensor_store(arguments.d, stage.template as<float>(), to);
          }
        } else {
          tensor_store(arguments.d, stage.template as<BFloat16>(), to);
        }
      }
    }
    if (leader) bulk_commit_group();
  }
}

// The same with an epilogue: the product, rounded to bf16, goes to a stage and comes back by rows.
template <int Columns>
ENGINE_DEVICE void finish_tile(const MatmulProblem& p, const MatmulSizes& sizes,
                               float (&sums)[Columns / 2], const uint32_t (&bias)[Columns / 64],
                               Shared<uint8_t> stages, int row, int column) {
  const bool pairs = p.finish.pairs();
  const int lane = lane_index();
  const auto read = [&](float(&four)[4], Shared<uint8_t> stage, int pass) {
    const auto offset =
        swizzled_offset(static_cast<uint32_t>((pass * 2 + lane / 16) * 128 + lane % 16 * 8));
    const auto raw = load_vector<4>((stage + offset).as<BFloat16>());
#pragma unroll
    for (int e = 0; e < 4; ++e) four[e] = to_float(raw[e]);
  };
#pragma unroll
  for (int part = 0; part < Columns / 64; ++part) {
    const int first = pairs ? column + 64 * (part / 2) : column + 64 * part;
    if (first >= sizes.n || row >= sizes.m) continue;
    const auto at = [&](int pass) {
      const int r = row + pass * 2 + lane / 16, c = first + lane % 16 * 4;
      return FourColumns{r, c, r < sizes.m ? sizes.n - c : 0};
    };
    FinishInputs next = read_inputs<BFloat16>(p, at(0));
    const Shared<uint8_t> stage = stages + part % 2 * kStageBytes;
    float* const x = sums + part * 32;
    sync_warp();
    add_bias<64>(x, p, bias[part], 0);
    stage_sums<BFloat16>(stage, x);
    sync_warp();
    if (pairs && part % 2 == 0) continue;  // up is still to come
#pragma unroll 1
    for (int pass = 0; pass < 8; ++pass) {
      float product[4];
      if (pairs) {
        float up[4];
        read(product, stages, pass);
        read(up, stages + kStageBytes, pass);
        finish_pairs<BFloat16>(p, at(pass), product, up);
      } else {
        const FinishInputs inputs = next;
        if (pass < 7) next = read_inputs<BFloat16>(p, at(pass + 1));
        read(product, stage, pass);
        finish_four<BFloat16>(p, at(pass), inputs, product);
      }
    }
  }
}

}  // namespace engine::kernels::ENGINE_GPU::wgmma_matmul
