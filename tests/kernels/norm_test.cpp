#include <cmath>

#include "tests/kernels/norm_support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(NormTest);

constexpr NormKind kKinds[] = {NormKind::layer_norm, NormKind::rms_llama, NormKind::rms_gemma,
                               NormKind::rms_t5};
constexpr Types kTypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};
// {33, 129} and those after it have more than one partial sum of the weight's gradient; the second
// half are whole vectors, with rows of 1, 2, 8, 32 threads, of several warps, and longer than the
// registers of a GPU's block
constexpr int64_t kShapes[][2] = {
    {0, 8},    {1, 1},     {3, 3},    {4, 11},   {2, 17},   {5, 63},    {4, 65},
    {33, 129}, {1100, 48}, {70, 520}, {9, 8},    {19, 16},  {6, 256},   {2, 1000},
    {5, 1024}, {3, 2056},  {3, 4096}, {2, 8192}, {2, 8200}, {1, 16384}, {2, 16392}};

TEST_P(NormTest, ForwardMatchesTheReference) {
  Random random(1);
  for (NormKind kind : kKinds) {
    for (Types types : kTypes) {
      for (const auto& [tokens, hidden] : kShapes) {
        const auto in = inputs(kind, tokens, hidden, types.compute, random);
        const Data d = data(in, types, random);
        DeviceArray weight(stream(), types.compute, in.weight);
        DeviceArray bias(stream(), types.compute, in.bias);
        DeviceArray delta(stream(), types.compute, d.delta);
        const int64_t count = tokens * hidden;
        for (bool with_delta : {false, true}) {
          const Values& delta_values = with_delta ? d.delta : Values{};
          const auto exact =
              reference::norm_forward<double>(in, d.x, delta_values, no_rounding(), no_rounding());
          const auto twin = reference::norm_forward<float>(
              in, d.x, delta_values, rounding_to(types.compute), rounding_to(types.residual));
          DeviceArray x(stream(), types.residual, d.x), r(stream(), types.residual, count);
          DeviceArray y(stream(), types.compute, count);
          DeviceArray mean(stream(), DType::f32, tokens), rstd(stream(), DType::f32, tokens);
          NormForward arguments = forward_arguments(in, types);
          arguments.x = x.data();
          arguments.delta = with_delta ? delta.data() : nullptr;
          arguments.residual_out = r.data();
          arguments.weight = weight.data();
          arguments.bias = in.bias.empty() ? nullptr : bias.data();
          arguments.y = y.data();
          arguments.mean = mean.as<float>();
          arguments.rstd = rstd.as<float>();
          ops().norm_forward(stream(), arguments);
          expect_equal(r.values(), twin.r, "residual_out is x + delta, rounded once");
          expect_close(y, exact.y, twin.y, "y");
          if (types.compute == DType::bf16 && count >= 1000) {
            // Same rounding points, so same bits but where fp32 sums fall beside a tie. Rounding
            // once more or less would change a third of the elements.
            const Values values = y.values();
            int64_t different = 0;
            for (int64_t i = 0; i < count; ++i) different += values[i] != twin.y[i];
            EXPECT_LT(different, count / 100) << "not rounded where the contract says";
          }
          // statistics are of r as stored, in fp32
          const auto stored =
              reference::norm_forward<double>(in, twin.r, {}, no_rounding(), no_rounding());
          const auto stored_twin = reference::norm_forward<float>(
              in, twin.r, {}, rounding_to(types.compute), rounding_to(types.residual));
          expect_close(rstd, stored.rstd, stored_twin.rstd, "rstd");
          if (kind == NormKind::layer_norm) {
            expect_close(mean, stored.mean, stored_twin.mean, "mean");
          }
          const Bytes y_bytes = y.bytes(), r_bytes = r.bytes();

          // residual_out = x, no statistics
          DeviceArray y2(stream(), types.compute, count);
          arguments.residual_out = with_delta ? x.data() : nullptr;
          arguments.y = y2.data();
          arguments.mean = arguments.rstd = nullptr;
          ops().norm_forward(stream(), arguments);
          EXPECT_EQ(y2.bytes(), y_bytes) << "in place";
          EXPECT_EQ(x.bytes(), r_bytes) << "in place";
        }
      }
    }
  }
}

TEST_P(NormTest, BackwardMatchesTheReference) {
  Random random(2);
  for (NormKind kind : kKinds) {
    for (Types types : kTypes) {
      for (const auto& [tokens, hidden] : kShapes) {
        if (hidden < 8) continue;  // dx is then a difference of nearly equal numbers
        const auto in = inputs(kind, tokens, hidden, types.compute, random);
        const Data d = data(in, types, random);
        const auto statistics =
            reference::norm_forward<double>(in, d.x, {}, no_rounding(), no_rounding());
        const Values mean_values = rounded(DType::f32, statistics.mean);
        const Values rstd_values = rounded(DType::f32, statistics.rstd);
        const Values start = random.integers(hidden, -3, 3);  // gradients accumulate
        const int64_t count = tokens * hidden;
        DeviceArray weight(stream(), types.compute, in.weight);
        DeviceArray x(stream(), types.residual, d.x), dy(stream(), types.compute, d.dy);
        DeviceArray mean(stream(), DType::f32, mean_values);
        DeviceArray rstd(stream(), DType::f32, rstd_values);
        for (bool with_residual : {false, true}) {
          const Values& residual_values = with_residual ? d.d_residual : Values{};
          auto exact = reference::norm_backward<double>(in, d.x, mean_values, rstd_values, d.dy,
                                                        residual_values, no_rounding());
          auto twin = reference::norm_backward<float>(in, d.x, mean_values, rstd_values, d.dy,
                                                      residual_values, rounding_to(types.residual));
          for (int64_t i = 0; i < hidden; ++i) {
            for (auto* g : {&exact, &twin}) {
              g->d_weight[i] += start[i];
              g->d_bias[i] += start[i];
            }
          }
          DeviceArray d_residual(stream(), types.residual, d.d_residual);
          DeviceArray dx(stream(), types.residual, count);
          const WeightGradients gradients(ops(), stream(), in, start);
          NormBackward arguments = backward_arguments(in, types);
          arguments.dy = dy.data();
          arguments.d_residual = with_residual ? d_residual.data() : nullptr;
          arguments.x = x.data();
          arguments.weight = weight.data();
          arguments.mean = mean.as<float>();
          arguments.rstd = rstd.as<float>();
          arguments.dx = dx.data();
          gradients.set(arguments);
          ops().norm_backward(stream(), arguments);
          expect_close(dx, exact.dx, twin.dx, "dx");
          expect_close(gradients.d_weight, exact.d_weight, twin.d_weight, "d_weight");
          if (kind == NormKind::layer_norm) {
            expect_close(gradients.d_bias, exact.d_bias, twin.d_bias, "d_bias");
          }
          if (!with_residual) continue;
          // frozen weights, and dx in d_residual
          const Bytes dx_bytes = dx.bytes();
          arguments.dx = d_residual.data();
          arguments.d_weight = arguments.d_bias = nullptr;
          arguments.workspace = nullptr;
          ops().norm_backward(stream(), arguments);
          EXPECT_EQ(d_residual.bytes(), dx_bytes) << "dx = d_residual";
        }
      }
    }
  }
}

TEST_P(NormTest, RowsOfEqualMagnitudeAreExact) {
  // r = ±2 with as many of each: mean 0, mean square 4, eps 0: x̂ = ±1 exactly, y = ±w.
  for (NormKind kind : kKinds) {
    Values x, weight, expected;
    for (int i = 0; i < 64; ++i) weight.push_back(0.25 * (i % 7) - 0.5);
    for (int i = 0; i < 128; ++i) {
      x.push_back(i % 2 == 0 ? 2 : -2);
      const double gain = weight[i % 64] + (kind == NormKind::rms_gemma ? 1 : 0);
      expected.push_back(i % 2 == 0 ? gain : -gain);
    }
    DeviceArray x_array(stream(), DType::bf16, x), w(stream(), DType::bf16, weight);
    DeviceArray y(stream(), DType::bf16, 128);
    ops().norm_forward(stream(), {.kind = kind,
                                  .tokens = 2,
                                  .hidden = 64,
                                  .eps = 0.0f,
                                  .x = x_array.data(),
                                  .weight = w.data(),
                                  .y = y.data(),
                                  .compute_dtype = DType::bf16,
                                  .residual_dtype = DType::bf16});
    expect_equal(y.values(), expected, "y");
  }
}

// The heads of tokens in wider buffers: the bits of dense rows, nothing beside the heads touched.
TEST_P(NormTest, HeadsOfTokensAreDenseRows) {
  Random random(6);
  constexpr int64_t kTokens = 21;
  struct Case {
    int64_t head_dim, heads, stride, column;
  };
  // whole vectors on a GPU; rows that are not; a start off the boundaries; one head
  for (const Case& c :
       {Case{64, 3, 448, 64}, {10, 4, 90, 20}, {16, 2, 56, 4}, {256, 1, 512, 256}}) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const int64_t rows = kTokens * c.heads, dense = rows * c.head_dim, wide = kTokens * c.stride;
      const auto in = inputs(NormKind::rms_gemma, rows, c.head_dim, dtype, random);
      const Values x_values = random.normal(wide, dtype, 2.0),
                   dy_values = random.normal(wide, dtype);
      const auto heads_of = [&](const Values& values) {
        Values out;
        for (int64_t t = 0; t < kTokens; ++t) {
          const auto from = values.begin() + t * c.stride + c.column;
          out.insert(out.end(), from, from + c.heads * c.head_dim);
        }
        return out;
      };
      const auto at = [&](const DeviceArray& array) {
        return array.as<char>() + c.column * static_cast<int64_t>(size_of(dtype));
      };
      DeviceArray weight(stream(), dtype, in.weight);
      DeviceArray workspace(stream(), DType::u8,
                            static_cast<int64_t>(ops().norm_backward_workspace(rows, c.head_dim)));
      const Values background = random.normal(wide, dtype);
      DeviceArray x(stream(), dtype, x_values), y(stream(), dtype, background);
      DeviceArray d(stream(), dtype, dy_values);  // dy, then dx
      DeviceArray rstd(stream(), DType::f32, rows);
      DeviceArray d_weight(stream(), DType::f32, Values(c.head_dim));
      DeviceArray dense_x(stream(), dtype, heads_of(x_values)), dense_y(stream(), dtype, dense);
      DeviceArray dense_dy(stream(), dtype, heads_of(dy_values)), dense_dx(stream(), dtype, dense);
      DeviceArray dense_d_weight(stream(), DType::f32, Values(c.head_dim));
      NormForward forward{.kind = in.kind,
                          .tokens = rows,
                          .hidden = c.head_dim,
                          .eps = static_cast<float>(in.eps),
                          .x = dense_x.data(),
                          .weight = weight.data(),
                          .y = dense_y.data(),
                          .rstd = rstd.as<float>(),
                          .compute_dtype = dtype,
                          .residual_dtype = dtype};
      NormBackward backward{.kind = in.kind,
                            .tokens = rows,
                            .hidden = c.head_dim,
                            .dy = dense_dy.data(),
                            .x = dense_x.data(),
                            .weight = weight.data(),
                            .rstd = rstd.as<float>(),
                            .dx = dense_dx.data(),
                            .d_weight = dense_d_weight.as<float>(),
                            .workspace = workspace.data(),
                            .compute_dtype = dtype,
                            .residual_dtype = dtype};
      ops().norm_forward(stream(), forward);
      ops().norm_backward(stream(), backward);
      const Values dense_rstd = rstd.values();

      forward.heads = backward.heads = c.heads;
      forward.token_stride = backward.token_stride = c.stride;
      forward.x = backward.x = at(x);
      forward.y = at(y);
      backward.dy = backward.dx = at(d);
      backward.d_weight = d_weight.as<float>();
      ops().norm_forward(stream(), forward);
      ops().norm_backward(stream(), backward);
      const auto expect_heads = [&](const DeviceArray& result, const DeviceArray& expected,
                                    Values before, const char* what) {
        const Values heads = expected.values();
        for (int64_t t = 0; t < kTokens; ++t) {
          std::copy_n(heads.begin() + t * c.heads * c.head_dim, c.heads * c.head_dim,
                      before.begin() + t * c.stride + c.column);
        }
        expect_equal(result.values(), before, what);
      };
      // Unaligned rows take another kernel of a GPU: other sums, so compare with tolerance there.
      if (c.head_dim % 8 != 0 || c.column % 8 == 0) {
        expect_heads(y, dense_y, background, "y");
        expect_heads(d, dense_dx, dy_values, "dx");
        expect_equal(rstd.values(), dense_rstd, "rstd");
        EXPECT_EQ(d_weight.bytes(), dense_d_weight.bytes());
      } else {
        expect_close(heads_of(y.values()), dtype, dense_y.values(), dense_y.values(), "y");
        expect_close(heads_of(d.values()), dtype, dense_dx.values(), dense_dx.values(), "dx");
        expect_close(rstd, dense_rstd, "rstd");
        expect_close(d_weight, dense_d_weight.values(), "d_weight");
      }
    }
  }
}

TEST(NormReference, BackwardIsTheGradient) {
  Random random(3);
  for (NormKind kind : kKinds) {
    auto in = inputs(kind, 3, 7, DType::f32, random);
    const Data d = data(in, {DType::f32, DType::f32}, random);
    // r reaches the loss through y and through the residual
    const auto loss = [&](const Values& x) {
      const auto out =
          reference::norm_forward<double>(in, x, d.delta, no_rounding(), no_rounding());
      return dot(out.y, d.dy) + dot(out.r, d.d_residual);
    };
    const auto out =
        reference::norm_forward<double>(in, d.x, d.delta, no_rounding(), no_rounding());
    const auto gradients = reference::norm_backward<double>(in, out.r, out.mean, out.rstd, d.dy,
                                                            d.d_residual, no_rounding());
    expect_gradient(loss, d.x, gradients.dx, "x");
    const Values weight = in.weight;
    expect_gradient(
        [&](const Values& w) {
          in.weight = w;
          return loss(d.x);
        },
        weight, gradients.d_weight, "weight");
    in.weight = weight;
    if (kind != NormKind::layer_norm) continue;
    expect_gradient(
        [&](const Values& b) {
          in.bias = b;
          return loss(d.x);
        },
        Values(in.bias), gradients.d_bias, "bias");
  }
}

}  // namespace
}  // namespace engine::kernels::testing
