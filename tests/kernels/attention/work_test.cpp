// How much attention computes, moves and keeps.
#include <gtest/gtest.h>

#include "kernels/simt/counters.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionWorkTest);

TEST_P(AttentionWorkTest, WorkspaceDependsOnShapesAlone) {
  AttentionShape shape = {.num_sequences = 4,
                          .total_q = 2048,
                          .total_k = 2048,
                          .max_seqlen_q = 512,
                          .max_seqlen_k = 512,
                          .num_heads = 12,
                          .num_kv_heads = 12,
                          .head_dim = 64};
  const Operations& plan = operations({.device = DeviceType::meta, .planned = GetParam()});
  for (const int longest : {512, 2048}) {
    shape.max_seqlen_q = shape.max_seqlen_k = longest;
    const size_t bytes = ops().attention_backward_workspace(shape);
    EXPECT_EQ(bytes, plan.attention_backward_workspace(shape));
    EXPECT_EQ(ops().attention_forward_workspace(shape), plan.attention_forward_workspace(shape));
    // The CPU keeps the sums of short sequences in cache.
    if (GetParam() == DeviceType::cpu) {
      EXPECT_EQ(bytes > 0, longest > 512);
    }
    // The number of sequences plays no part: a plan made for thousands of short ones must not be
    // larger.
    shape.num_sequences = 2048;
    EXPECT_EQ(bytes, ops().attention_backward_workspace(shape));
  }
}

// What the software GPU counts: no tile is computed that no query sees, shared memory is read
// without conflicts, device memory in whole sectors.
TEST_P(AttentionWorkTest, DoesNoMoreThanItMust) {
  if (!simulated()) return;
  // Lanes in order: the accesses of a warp can be put together only so.
  const simt::Schedule before = simt::current_schedule();
  simt::set_schedule({});
  const int length = 300;
  // Pairs of a query and a key in tiles of rows x columns that hold a visible pair.
  const auto pairs = [=](int window, int rows, int columns) {
    double sum = 0;
    for (int row = 0; row < length; row += rows) {
      const int last = std::min(row + rows, length) - 1;
      for (int column = 0; column < length; column += columns) {
        const bool after = column > last;
        const bool before = window > 0 && column + columns - 1 <= row - window;
        if (!after && !before) sum += rows * columns;
      }
    }
    return sum;
  };
  for (DType dtype : kFloats) {
    for (int dim : {32, 64, 96, 128, 256}) {
      if (dtype == DType::f32 && dim != 64) continue;
      for (int window : {0, 65}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " head_dim " + std::to_string(dim) + " window " +
                     std::to_string(window));
        const AttentionProblem problem = with_scale({.query_lengths = {length},
                                                     .key_lengths = {length},
                                                     .num_heads = 2,
                                                     .num_kv_heads = 1,
                                                     .head_dim = dim,
                                                     .window = window});
        Random random(25);
        const AttentionInputs inputs = random_inputs(problem, dtype, random);
        const Values d_out = random.normal(problem.query_values(), dtype);
        AttentionOnDevice device(stream(), ops(), problem, inputs, dtype, Layout::kAligned);
        simt::start_counting();
        device.forward();
        {
          const WithAttention with(AttentionBackend::mma);
          device.forward();
        }
        device.backward(d_out);
        auto counted = simt::stop_counting();
        for (const auto& [kernel, work] : counted) {
          // Padded heads: lanes that have nothing to write are left out, and what remains is put
          // together as it is not on hardware.
          const bool padded = kernel == "attention_forward_wgmma" && dim % 64 != 0;
          EXPECT_LT(work.shared_conflicts(), padded ? 1.15 : 1.05) << kernel;
          // lse and D are four bytes per row, beside rows of 64 bytes and more
          EXPECT_GT(work.global_efficiency(), 0.85) << kernel;
        }
        if (dtype == DType::f32) continue;
        // Two launches where no wgmma takes it.
        const bool wgmma = counted.contains("attention_forward_wgmma");
        EXPECT_EQ(wgmma, device.fits_wgmma());
        if (!wgmma) counted.at("attention_forward").tensor_flops /= 2;
        // Two products forward; three for d_q; four for d_k and d_v, or five in two passes.
        const bool large = dim > 128;
        const double product = 2.0 * dim * problem.num_heads;
        const auto flops = [&](const char* kernel) {
          return static_cast<double>(counted.at(kernel).tensor_flops);
        };
        EXPECT_EQ(flops("attention_forward"), 2 * product * pairs(window, large ? 64 : 128, 64));
        if (wgmma) {  // heads are padded to 64 or 128
          const double padded = product / dim * (dim <= 64 ? 64 : 128);
          EXPECT_EQ(flops("attention_forward_wgmma"), 2 * padded * pairs(window, 128, 128));
        }
        const double queries = large       ? pairs(window, 64, 32)
                               : dim == 32 ? pairs(window, 128, 64)
                                           : pairs(window, 128, 32);
        EXPECT_EQ(flops("attention_backward_queries"), 3 * product * queries);
        const double keys = large       ? 5 * pairs(window, 32, 64)
                            : dim == 32 ? 4 * pairs(window, 64, 128)
                            : dim == 64 ? 4 * pairs(window, 32, 128)
                                        : 4 * pairs(window, 64, 64);
        EXPECT_EQ(flops("attention_backward_keys"), product * keys);
      }
    }
  }
  simt::set_schedule(before);
}

}  // namespace
}  // namespace engine::kernels::testing
