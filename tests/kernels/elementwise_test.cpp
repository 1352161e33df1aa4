#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(ElementwiseTest);

constexpr DType kFloats[] = {DType::f32, DType::bf16};
constexpr int64_t kCounts[] = {0, 1, 3, 17, 63, 65, 1000, 1004, 70001};

Values sum_of(const Values& a, const Values& b, DType out) {
  Values result(a.size());
  for (size_t i = 0; i < a.size(); ++i) result[i] = rounded(out, rounded(DType::f32, a[i] + b[i]));
  return result;
}

TEST_P(ElementwiseTest, AddRoundsOnce) {
  Random random(1);
  for (DType a_type : kFloats) {
    for (DType b_type : kFloats) {
      for (DType out_type : kFloats) {
        for (int64_t count : kCounts) {
          const Values a_values = random.normal(count, a_type);
          const Values b_values = random.normal(count, b_type);
          DeviceArray a(stream(), a_type, a_values), b(stream(), b_type, b_values);
          DeviceArray out(stream(), out_type, count);
          ops().add(stream(), {.a = a.data(),
                               .b = b.data(),
                               .out = out.data(),
                               .count = count,
                               .a_dtype = a_type,
                               .b_dtype = b_type,
                               .out_dtype = out_type});
          expect_equal(out.values(), sum_of(a_values, b_values, out_type), "out");
          expect_equal(a.values(), a_values, "a");
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, AddInPlace) {
  Random random(2);
  const Values a_values = random.normal(1000, DType::f32);
  const Values b_values = random.normal(1000, DType::bf16);
  for (bool into_a : {true, false}) {
    DeviceArray a(stream(), DType::f32, a_values), b(stream(), DType::bf16, b_values);
    const DeviceArray& out = into_a ? a : b;
    ops().add(stream(), {.a = a.data(),
                         .b = b.data(),
                         .out = out.data(),
                         .count = 1000,
                         .a_dtype = DType::f32,
                         .b_dtype = DType::bf16,
                         .out_dtype = out.dtype()});
    expect_equal(out.values(), sum_of(a_values, b_values, out.dtype()), "out");
  }
}

// Each array in turn begins one element behind a boundary of 16 bytes.
TEST_P(ElementwiseTest, AddOfAnyAlignment) {
  Random random(7);
  constexpr int64_t kCount = 3000;
  for (DType a_type : kFloats) {
    for (DType b_type : kFloats) {
      for (DType out_type : kFloats) {
        const Values a_values = random.normal(kCount, a_type);
        const Values b_values = random.normal(kCount, b_type);
        Values expected = sum_of(a_values, b_values, out_type);
        expected.insert(expected.begin(), 3.0);
        for (int shifted = 0; shifted < 3; ++shifted) {
          // Values from element `first` on, behind a 3 where that is 1.
          const auto array = [&](DType dtype, Values values, int first) {
            if (first) values.insert(values.begin(), 3.0);
            return std::make_unique<DeviceArray>(stream(), dtype, values);
          };
          const auto at = [](const DeviceArray& x, int first) {
            return x.as<std::byte>() + static_cast<size_t>(first) * size_of(x.dtype());
          };
          const auto a = array(a_type, a_values, shifted == 0);
          const auto b = array(b_type, b_values, shifted == 1);
          const auto out = array(out_type, Values(kCount), shifted == 2);
          ops().add(stream(), {.a = at(*a, shifted == 0),
                               .b = at(*b, shifted == 1),
                               .out = at(*out, shifted == 2),
                               .count = kCount,
                               .a_dtype = a_type,
                               .b_dtype = b_type,
                               .out_dtype = out_type});
          const auto from = expected.begin() + (shifted == 2 ? 0 : 1);
          expect_equal(out->values(), Values(from, expected.end()), "out");
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, CastRoundsToNearestEven) {
  Random random(3);
  for (DType from : kFloats) {
    for (DType to : kFloats) {
      for (int64_t count : kCounts) {
        Values x_values = random.normal(count, from);
        // halfway cases, subnormals, the overflow to infinity, and infinity itself
        const Values special = {1.00390625, 1.01171875, -1.00390625, 1e-40, 9.2e-41,  3.4e38,
                                -0.0,       0x1.ffp127, INFINITY,    1e-45, 1.17e-38, -INFINITY};
        for (size_t i = 0; i < special.size() && i < x_values.size(); ++i) {
          x_values[x_values.size() - 1 - i] = rounded(from, special[i]);
        }
        DeviceArray x(stream(), from, x_values), out(stream(), to, count);
        ops().cast(stream(),
                   {.x = x.data(), .out = out.data(), .count = count, .from = from, .to = to});
        expect_equal(out.values(), rounded(to, x_values), "out");
      }
    }
  }
}

TEST_P(ElementwiseTest, CastScales) {
  Random random(5);
  constexpr float kScale = 0.044194173824159216f;  // 512^-0.5
  for (DType from : kFloats) {
    for (DType to : kFloats) {
      for (int64_t count : kCounts) {
        const Values x_values = random.normal(count, from);
        Values expected(x_values.size());
        for (size_t i = 0; i < expected.size(); ++i) {
          expected[i] = rounded(to, static_cast<float>(x_values[i]) * kScale);
        }
        DeviceArray x(stream(), from, x_values), out(stream(), to, count);
        ops().cast(stream(), {.x = x.data(),
                              .out = out.data(),
                              .count = count,
                              .scale = kScale,
                              .from = from,
                              .to = to});
        expect_equal(out.values(), expected, "out");
        if (from != to) continue;
        ops().cast(stream(), {.x = x.data(),
                              .out = x.data(),
                              .count = count,
                              .scale = kScale,
                              .from = from,
                              .to = to});
        expect_equal(x.values(), expected, "in place");
      }
    }
  }
}

TEST_P(ElementwiseTest, CastKeepsNan) {
  // a NaN whose payload lies only in the bits that bf16 drops must not become infinity
  const float payload_low = std::bit_cast<float>(0x7f800001u);
  std::vector<float> host(33, payload_low);
  DeviceArray x(stream(), DType::f32, 33), out(stream(), DType::bf16, 33);
  ops().copy_to_device(stream(), x.data(), host.data(), host.size() * sizeof(float));
  ops().cast(
      stream(),
      {.x = x.data(), .out = out.data(), .count = 33, .from = DType::f32, .to = DType::bf16});
  for (double value : out.values()) EXPECT_TRUE(std::isnan(value));
}

TEST_P(ElementwiseTest, FindsTheFirstNonfinite) {
  Random random(4);
  for (DType dtype : kFloats) {
    for (int64_t count : kCounts) {
      const Values finite = random.normal(count, dtype, 1e30);
      int64_t found = -2;
      {
        DeviceArray x(stream(), dtype, finite);
        ops().find_nonfinite(stream(),
                             {.x = x.data(), .count = count, .dtype = dtype, .index = &found});
        EXPECT_EQ(found, -1);
      }
      if (count == 0) continue;
      for (double bad : {double{INFINITY}, -double{INFINITY}, double{NAN}}) {
        for (int64_t at : {int64_t{0}, count / 2, count - 1}) {
          Values values = finite;
          values[at] = bad;
          values[count - 1] = bad;  // a later one does not matter
          DeviceArray x(stream(), dtype, values);
          ops().find_nonfinite(stream(),
                               {.x = x.data(), .count = count, .dtype = dtype, .index = &found});
          EXPECT_EQ(found, at) << "of " << count;
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, SameBitsOnAnyThreadCount) {
  Random random(6);
  const int64_t count = 30001;
  const Values a_values = random.normal(count, DType::f32);
  const Values b_values = random.normal(count, DType::bf16);
  const auto body = [&] {
    DeviceArray a(stream(), DType::f32, a_values), b(stream(), DType::bf16, b_values);
    DeviceArray rounded(stream(), DType::bf16, count);
    ops().add(stream(), {.a = a.data(),
                         .b = b.data(),
                         .out = a.data(),
                         .count = count,
                         .a_dtype = DType::f32,
                         .b_dtype = DType::bf16,
                         .out_dtype = DType::f32});
    ops().cast(stream(), {.x = a.data(),
                          .out = rounded.data(),
                          .count = count,
                          .from = DType::f32,
                          .to = DType::bf16});
    return bytes_of({&a, &rounded});
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

TEST_P(ElementwiseTest, ZeroAndCopyTouchTheirBytesOnly) {
  Random random(5);
  for (int64_t count : {0, 1, 3, 17, 1000, 600001}) {  // the last is more than one piece
    const Values values = random.integers(count, 0, 255);
    DeviceArray x(stream(), DType::u8, values), y(stream(), DType::u8, count);
    ops().copy(stream(), y.data(), x.data(), static_cast<size_t>(count));
    ops().synchronize(stream());
    expect_equal(y.values(), values, "copy");
    ops().set_zero(stream(), x.data(), static_cast<size_t>(count));
    ops().synchronize(stream());
    expect_equal(x.values(), Values(static_cast<size_t>(count), 0.0), "zero");
    expect_equal(y.values(), values, "copy after its source was zeroed");
  }
}

}  // namespace
}  // namespace engine::kernels::testing
