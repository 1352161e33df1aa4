#include <cmath>

#include "tests/kernels/reference/rope.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(RopeTest);

struct Case {
  int64_t tokens;
  int num_heads, head_dim;
  int64_t gap;  // elements between the last head and the next token
};
constexpr Case kCases[] = {{0, 2, 64, 0},  {1, 1, 2, 0},    {3, 3, 6, 5}, {17, 12, 64, 1536},
                           {63, 2, 80, 8}, {65, 1, 128, 0}, {5, 4, 34, 1}};
constexpr int64_t kMaxPosition = 100;

reference::RopeInputs inputs(const Case& c, Random& random, bool inverse) {
  reference::RopeInputs in{c.tokens,
                           c.num_heads * c.head_dim + c.gap,
                           c.num_heads,
                           c.head_dim,
                           random.integers(c.tokens, 0, kMaxPosition - 1),
                           {},
                           {},
                           inverse};
  for (int64_t p = 0; p < kMaxPosition; ++p) {
    for (int64_t i = 0; i < c.head_dim / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / c.head_dim);
      in.cos.push_back(rounded(DType::f32, std::cos(angle)));
      in.sin.push_back(rounded(DType::f32, std::sin(angle)));
    }
  }
  return in;
}

void run(const Operations& ops, Stream stream, const reference::RopeInputs& in, DeviceArray& x) {
  DeviceArray positions(stream, DType::i32, in.positions);
  DeviceArray cos(stream, DType::f32, in.cos), sin(stream, DType::f32, in.sin);
  ops.rope(stream, {.x = x.data(),
                    .tokens = in.tokens,
                    .stride = in.stride,
                    .num_heads = static_cast<int>(in.num_heads),
                    .head_dim = static_cast<int>(in.head_dim),
                    .positions = positions.as<int32_t>(),
                    .cos = cos.as<float>(),
                    .sin = sin.as<float>(),
                    .inverse = in.inverse,
                    .dtype = x.dtype()});
}

TEST_P(RopeTest, MatchesTheReference) {
  Random random(1);
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c : kCases) {
      for (bool inverse : {false, true}) {
        const auto in = inputs(c, random, inverse);
        const Values x = random.normal(in.tokens * in.stride, dtype);
        DeviceArray y(stream(), dtype, x);
        run(ops(), stream(), in, y);
        const Values expected = reference::rope<double>(in, x, no_rounding());
        expect_close(y, expected, reference::rope<float>(in, x, rounding_to(dtype)), "rope");
        const Values actual = y.values();
        for (int64_t t = 0; t < in.tokens; ++t) {  // the gap (k or v of a fused buffer) is kept
          for (int64_t i = in.stride - c.gap; i < in.stride; ++i) {
            ASSERT_EQ(actual[t * in.stride + i], x[t * in.stride + i]);
          }
        }
      }
    }
  }
}

TEST_P(RopeTest, QuarterTurnsAreExactAndInvert) {
  Random random(2);
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto in = inputs({33, 3, 48, 7}, random, false);
    for (size_t i = 0; i < in.cos.size(); ++i) {
      const int quarter = static_cast<int>(i % 4);
      in.cos[i] = quarter == 0 ? 1 : quarter == 2 ? -1 : 0;
      in.sin[i] = quarter == 1 ? 1 : quarter == 3 ? -1 : 0;
    }
    const Values x = random.normal(in.tokens * in.stride, dtype);
    DeviceArray y(stream(), dtype, x);
    run(ops(), stream(), in, y);
    expect_equal(y.values(), reference::rope<double>(in, x, no_rounding()), "turned");
    in.inverse = true;
    run(ops(), stream(), in, y);
    expect_equal(y.values(), x, "turned back");
  }
}

TEST(RopeReference, InverseIsTheGradient) {
  Random random(3);
  auto in = inputs({3, 2, 10, 1}, random, false);
  const Values x = random.normal(in.tokens * in.stride, DType::f32);
  const Values dy = random.normal(in.tokens * in.stride, DType::f32);
  auto backward = in;
  backward.inverse = true;
  expect_gradient(
      [&](const Values& v) { return dot(reference::rope<double>(in, v, no_rounding()), dy); }, x,
      reference::rope<double>(backward, dy, no_rounding()), "x");
}

TEST_P(RopeTest, SameBitsOnAnyThreadCount) {
  Random random(4);
  const auto in = inputs({257, 4, 64, 0}, random, false);
  const Values x = random.normal(in.tokens * in.stride, DType::bf16);
  const auto body = [&] {
    DeviceArray y(stream(), DType::bf16, x);
    run(ops(), stream(), in, y);
    return y.bytes();
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

}  // namespace
}  // namespace engine::kernels::testing
