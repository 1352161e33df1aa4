#include <cmath>

#include "tests/kernels/reference/activation.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(ActivationTest);

constexpr Activation kKinds[] = {Activation::gelu_erf, Activation::gelu_tanh, Activation::silu,
                                 Activation::relu, Activation::tanh};
constexpr int64_t kShapes[][2] = {{0, 5},  {1, 1},  {1, 3},   {3, 17},
                                  {3, 20}, {2, 63}, {65, 65}, {7, 1000}};

// Mostly around zero, some far out, where the exponentials saturate.
Values inputs(Random& random, int64_t count, DType dtype) {
  Values x = random.normal(count, dtype, 3.0);
  for (int64_t i = 0; i < count; i += 13) x[i] = rounded(dtype, x[i] * 40);
  return x;
}

TEST_P(ActivationTest, ForwardAndBackwardMatchTheReference) {
  Random random(1);
  for (Activation kind : kKinds) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (bool gated : {false, true}) {
        for (const auto& [tokens, width] : kShapes) {
          const reference::ActivationInputs in{kind, gated, tokens, width};
          const int64_t x_count = tokens * width * (gated ? 2 : 1);
          const Values x_values = inputs(random, x_count, dtype);
          const Values dy_values = random.normal(tokens * width, dtype);
          DeviceArray x(stream(), dtype, x_values), dy(stream(), dtype, dy_values);
          DeviceArray y(stream(), dtype, tokens * width), dx(stream(), dtype, x_count);
          ops().activation_forward(stream(), {.kind = kind,
                                              .gated = gated,
                                              .tokens = tokens,
                                              .width = width,
                                              .x = x.data(),
                                              .y = y.data(),
                                              .dtype = dtype});
          expect_close(y, reference::activation_forward<double>(in, x_values, no_rounding()),
                       reference::activation_forward<float>(in, x_values, rounding_to(dtype)), "y");
          ops().activation_backward(stream(), {.kind = kind,
                                               .gated = gated,
                                               .tokens = tokens,
                                               .width = width,
                                               .x = x.data(),
                                               .dy = dy.data(),
                                               .dx = dx.data(),
                                               .dtype = dtype});
          expect_close(
              dx, reference::activation_backward<double>(in, x_values, dy_values, no_rounding()),
              reference::activation_backward<float>(in, x_values, dy_values, rounding_to(dtype)),
              "dx");

          const Bytes y_bytes = y.bytes(), dx_bytes = dx.bytes();
          // in place: dx in x, and without a gate dx in dy and y in x
          {
            DeviceArray both(stream(), dtype, x_values);
            ops().activation_backward(stream(), {.kind = kind,
                                                 .gated = gated,
                                                 .tokens = tokens,
                                                 .width = width,
                                                 .x = both.data(),
                                                 .dy = dy.data(),
                                                 .dx = both.data(),
                                                 .dtype = dtype});
            EXPECT_EQ(both.bytes(), dx_bytes) << "dx = x";
          }
          if (gated) continue;
          ops().activation_backward(stream(), {.kind = kind,
                                               .tokens = tokens,
                                               .width = width,
                                               .x = x.data(),
                                               .dy = dy.data(),
                                               .dx = dy.data(),
                                               .dtype = dtype});
          EXPECT_EQ(dy.bytes(), dx_bytes) << "dx = dy";
          ops().activation_forward(stream(), {.kind = kind,
                                              .tokens = tokens,
                                              .width = width,
                                              .x = x.data(),
                                              .y = x.data(),
                                              .dtype = dtype});
          EXPECT_EQ(x.bytes(), y_bytes) << "y = x";
        }
      }
    }
  }
}

TEST_P(ActivationTest, AnyAlignmentGivesTheSameBits) {
  Random random(4);
  constexpr int64_t kTokens = 5, kWidth = 40;
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (bool gated : {false, true}) {
      const int64_t count = kTokens * kWidth, x_count = count * (gated ? 2 : 1);
      const Values x_values = inputs(random, x_count, dtype);
      const Values dy_values = random.normal(count, dtype);
      Values y_values[2], dx_values[2];
      for (const int shift : {0, 1}) {
        // Everything begins on a boundary of 16 bytes, or one element behind it.
        const auto behind = [&](Values values) {
          values.insert(values.begin(), static_cast<size_t>(shift), 3.0);
          return values;
        };
        const auto at = [&](const DeviceArray& array) {
          return array.as<std::byte>() + static_cast<size_t>(shift) * size_of(dtype);
        };
        DeviceArray x(stream(), dtype, behind(x_values)), dy(stream(), dtype, behind(dy_values));
        DeviceArray y(stream(), dtype, behind(Values(count)));
        DeviceArray dx(stream(), dtype, behind(Values(x_count)));
        ops().activation_forward(stream(), {.kind = Activation::silu,
                                            .gated = gated,
                                            .tokens = kTokens,
                                            .width = kWidth,
                                            .x = at(x),
                                            .y = at(y),
                                            .dtype = dtype});
        ops().activation_backward(stream(), {.kind = Activation::silu,
                                             .gated = gated,
                                             .tokens = kTokens,
                                             .width = kWidth,
                                             .x = at(x),
                                             .dy = at(dy),
                                             .dx = at(dx),
                                             .dtype = dtype});
        y_values[shift] = y.values();
        dx_values[shift] = dx.values();
      }
      for (Values* const aligned : {&y_values[0], &dx_values[0]}) {
        aligned->insert(aligned->begin(), 3.0);
      }
      expect_equal(y_values[1], y_values[0], "y");
      expect_equal(dx_values[1], dx_values[0], "dx");
    }
  }
}

TEST_P(ActivationTest, LimitsAndZero) {
  for (Activation kind : kKinds) {
    DeviceArray x(stream(), DType::f32, Values{0.0, 1e4, -1e4, NAN});
    DeviceArray y(stream(), DType::f32, 4), dx(stream(), DType::f32, 4);
    DeviceArray dy(stream(), DType::f32, Values{1, 1, 1, 1});
    ops().activation_forward(stream(),
                             {.kind = kind, .tokens = 1, .width = 4, .x = x.data(), .y = y.data()});
    ops().activation_backward(
        stream(),
        {.kind = kind, .tokens = 1, .width = 4, .x = x.data(), .dy = dy.data(), .dx = dx.data()});
    const Values values = y.values(), slopes = dx.values();
    EXPECT_EQ(values[0], 0.0);
    const bool bounded = kind == Activation::tanh;
    EXPECT_EQ(values[1], bounded ? 1.0 : 1e4);
    EXPECT_EQ(values[2], bounded ? -1.0 : 0.0);
    EXPECT_TRUE(std::isnan(values[3])) << "a NaN must not be hidden";
    EXPECT_EQ(slopes[0], kind == Activation::relu ? 0.0 : bounded ? 1.0 : 0.5);
    EXPECT_EQ(slopes[1], bounded ? 0.0 : 1.0);
    EXPECT_EQ(slopes[2], 0.0);
  }
}

TEST(ActivationReference, BackwardIsTheGradient) {
  Random random(2);
  for (Activation kind : kKinds) {
    for (bool gated : {false, true}) {
      const reference::ActivationInputs in{kind, gated, 4, 8};
      const Values x = random.normal(gated ? 64 : 32, DType::f32, 1.5);
      const Values dy = random.normal(32, DType::f32);
      expect_gradient(
          [&](const Values& v) {
            return dot(reference::activation_forward<double>(in, v, no_rounding()), dy);
          },
          x, reference::activation_backward<double>(in, x, dy, no_rounding()), "x");
    }
  }
}

TEST_P(ActivationTest, SameBitsOnAnyThreadCount) {
  Random random(3);
  constexpr int64_t kTokens = 70, kWidth = 1003;
  const Values x_values = inputs(random, kTokens * kWidth * 2, DType::bf16);
  const Values dy_values = random.normal(kTokens * kWidth, DType::bf16);
  const auto body = [&] {
    DeviceArray x(stream(), DType::bf16, x_values), dy(stream(), DType::bf16, dy_values);
    DeviceArray y(stream(), DType::bf16, kTokens * kWidth);
    DeviceArray dx(stream(), DType::bf16, kTokens * kWidth * 2);
    ops().activation_forward(stream(), {.kind = Activation::silu,
                                        .gated = true,
                                        .tokens = kTokens,
                                        .width = kWidth,
                                        .x = x.data(),
                                        .y = y.data(),
                                        .dtype = DType::bf16});
    ops().activation_backward(stream(), {.kind = Activation::silu,
                                         .gated = true,
                                         .tokens = kTokens,
                                         .width = kWidth,
                                         .x = x.data(),
                                         .dy = dy.data(),
                                         .dx = dx.data(),
                                         .dtype = DType::bf16});
    return bytes_of({&y, &dx});
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

}  // namespace
}  // namespace engine::kernels::testing
