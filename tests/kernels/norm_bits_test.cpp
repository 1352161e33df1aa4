// Norms: bits that do not depend on threads or alignment, and what the backward moves.
#include "kernels/simt/counters.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/norm_support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(NormBitsTest);

TEST_P(NormBitsTest, AnyAlignmentGivesTheSameNumbers) {
  // 264 elements: whole vectors on a GPU, unless the arrays start off their boundaries
  constexpr int64_t kTokens = 7, kHidden = 264, kCount = kTokens * kHidden;
  Random random(5);
  const Types types{DType::bf16, DType::bf16};
  const auto in = inputs(NormKind::layer_norm, kTokens, kHidden, types.compute, random);
  const Data d = data(in, types, random);
  const auto shifted = [](Values values) {
    values.insert(values.begin(), 0.0);
    return values;
  };
  DeviceArray weight(stream(), DType::bf16, in.weight), bias(stream(), DType::bf16, in.bias);
  Values forward[2], backward[2];
  for (int shift : {0, 1}) {
    DeviceArray x(stream(), DType::bf16, shift ? shifted(d.x) : d.x);
    DeviceArray dy(stream(), DType::bf16, shift ? shifted(d.dy) : d.dy);
    DeviceArray y(stream(), DType::bf16, kCount), dx(stream(), DType::bf16, kCount);
    DeviceArray mean(stream(), DType::f32, kTokens), rstd(stream(), DType::f32, kTokens);
    NormForward arguments = forward_arguments(in, types);
    arguments.x = x.as<BFloat16>() + shift;
    arguments.weight = weight.data();
    arguments.bias = bias.data();
    arguments.y = y.data();
    arguments.mean = mean.as<float>();
    arguments.rstd = rstd.as<float>();
    ops().norm_forward(stream(), arguments);
    forward[shift] = y.values();
    NormBackward gradient = backward_arguments(in, types);
    gradient.dy = dy.as<BFloat16>() + shift;
    gradient.x = x.as<BFloat16>() + shift;
    gradient.weight = weight.data();
    gradient.mean = mean.as<float>();
    gradient.rstd = rstd.as<float>();
    gradient.dx = dx.data();
    ops().norm_backward(stream(), gradient);
    backward[shift] = dx.values();
  }
  expect_close(forward[1], DType::bf16, forward[0], forward[0], "y");
  expect_close(backward[1], DType::bf16, backward[0], backward[0], "dx");
}

TEST_P(NormBitsTest, SameBitsOnAnyThreadCount) {
  Random random(4);
  // odd rows, whole vectors in several rows of a block, and rows longer than a block's registers
  std::vector<std::pair<int64_t, int64_t>> shapes = {{301, 257}, {70, 520}, {9, 8200}};
  if (on_gpu()) shapes.insert(shapes.end(), {{4096, 1024}, {300, 12288}});
  for (const auto& [tokens, hidden] : shapes) {
    const Types types{DType::bf16, DType::f32};
    const auto in = inputs(NormKind::layer_norm, tokens, hidden, types.compute, random);
    const Data d = data(in, types, random);
    const int64_t count = in.tokens * in.hidden;
    const auto body = [&] {
      DeviceArray weight(stream(), types.compute, in.weight);
      DeviceArray bias(stream(), types.compute, in.bias), delta(stream(), types.compute, d.delta);
      DeviceArray x(stream(), types.residual, d.x), y(stream(), types.compute, count);
      DeviceArray mean(stream(), DType::f32, in.tokens), rstd(stream(), DType::f32, in.tokens);
      NormForward forward = forward_arguments(in, types);
      forward.residual_out = x.data();
      forward.x = x.data();
      forward.delta = delta.data();
      forward.weight = weight.data();
      forward.bias = bias.data();
      forward.y = y.data();
      forward.mean = mean.as<float>();
      forward.rstd = rstd.as<float>();
      ops().norm_forward(stream(), forward);
      DeviceArray dy(stream(), types.compute, d.dy), dx(stream(), types.residual, d.d_residual);
      const WeightGradients gradients(ops(), stream(), in, Values(in.hidden));
      NormBackward backward = backward_arguments(in, types);
      backward.dy = dy.data();
      backward.d_residual = backward.dx = dx.data();
      backward.x = x.data();
      backward.weight = weight.data();
      backward.mean = mean.as<float>();
      backward.rstd = rstd.as<float>();
      gradients.set(backward);
      ops().norm_backward(stream(), backward);
      return bytes_of({&x, &y, &mean, &rstd, &dx, &gradients.d_weight, &gradients.d_bias});
    };
    expect_same_on_any_thread_count(body);
    expect_repeatable(stream(), body);
  }
}

// What the software GPU counts: shared memory without bank conflicts, whole sectors of device
// memory, and no value more often than it must.
TEST_P(NormBitsTest, BackwardDoesNoMoreThanItMust) {
  if (!simulated()) return;
  // Lanes in order: the accesses of a warp can be put together only so.
  const simt::Schedule before = simt::current_schedule();
  simt::set_schedule({});
  const Types types{DType::bf16, DType::bf16};
  for (const auto& [tokens, hidden] :
       {std::pair<int64_t, int64_t>{200, 128}, {150, 520}, {40, 2048}, {12, 8192}, {12, 8200}}) {
    SCOPED_TRACE("hidden " + std::to_string(hidden));
    Random random(7);
    const auto in = inputs(NormKind::layer_norm, tokens, hidden, types.compute, random);
    const Data d = data(in, types, random);
    DeviceArray weight(stream(), types.compute, in.weight), x(stream(), types.residual, d.x);
    DeviceArray dy(stream(), types.compute, d.dy), dx(stream(), types.residual, tokens * hidden);
    DeviceArray mean(stream(), DType::f32, Values(tokens)),
        rstd(stream(), DType::f32, Values(tokens));
    const WeightGradients gradients(ops(), stream(), in, Values(hidden));
    NormBackward arguments = backward_arguments(in, types);
    arguments.dy = dy.data();
    arguments.x = x.data();
    arguments.weight = weight.data();
    arguments.mean = mean.as<float>();
    arguments.rstd = rstd.as<float>();
    arguments.dx = dx.data();
    gradients.set(arguments);
    simt::start_counting();
    ops().norm_backward(stream(), arguments);
    for (const auto& [kernel, work] : simt::stop_counting()) {
      EXPECT_LT(work.shared_conflicts(), 1.05) << kernel;
      // the parts of a row that fills a block are stored in halves of sectors: few rows here
      EXPECT_GT(work.global_efficiency(), 0.7) << kernel;
      if (kernel.find("sum of parts") != std::string::npos) continue;
      // dy, x and dx once: 6 bytes; longer rows come a second time from L1 for dx. Parts: 8 bytes
      // per column, of at least four rows. Weights, mean and rstd are shared by many.
      const double bytes =
          32.0 * static_cast<double>(work.global_read_sectors + work.global_write_sectors);
      EXPECT_LT(bytes, 14.5 * static_cast<double>(tokens * hidden)) << kernel;
    }
  }
  simt::set_schedule(before);
}

}  // namespace
}  // namespace engine::kernels::testing
