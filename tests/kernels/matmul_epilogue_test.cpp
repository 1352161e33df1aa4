// Epilogues of products, and TF32.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>

#include "kernels/api/matmul_steps.h"
#include "kernels/simt/counters.h"
#include "tests/kernels/matmul_variants.h"
#include "tests/kernels/reference/activation.h"
#include "tests/kernels/reference/matmul.h"

namespace engine::kernels::testing {
namespace {

using Kind = MatmulEpilogue::Kind;

ENGINE_MATMUL_TEST_SUITE(MatmulEpilogueTest);

constexpr DType kFloats[] = {DType::f32, DType::bf16};
constexpr Activation kActivations[] = {Activation::gelu_erf, Activation::gelu_tanh,
                                       Activation::silu, Activation::relu};

struct Case {
  int64_t m, n, k;  // n: columns of the product
  Kind kind = Kind::add;
  Activation activation = Activation::silu;
  bool gated = false, keep_x = true, in_place = false;
  bool transpose_b = false, bias = false, tf32 = false;
  DType dtype = DType::bf16, residual = DType::bf16;
  int64_t shift = 0;  // elements that operands start behind a 16-byte boundary

  std::string text() const {
    constexpr const char* kKinds[] = {"none", "add", "activation", "activation_gradient"};
    constexpr const char* kNames[] = {"gelu_erf", "gelu_tanh", "silu", "relu"};
    return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " " +
           kKinds[static_cast<int>(kind)] + " " + kNames[static_cast<int>(activation)] +
           (gated ? " gated" : "") + (keep_x ? "" : " x not kept") + (in_place ? " in place" : "") +
           (transpose_b ? " TB" : "") + (bias ? " bias" : "") + (tf32 ? " tf32" : "") + " " +
           name_of(dtype) + " residual " + name_of(residual) + " shift " + std::to_string(shift);
  }
  // Elements of x (activation's input) and of D.
  int64_t x_columns() const { return kind == Kind::activation_gradient && gated ? 2 * n : n; }
  int64_t d_columns() const { return kind == Kind::activation && gated ? n / 2 : x_columns(); }
};

struct Data {
  Values a, b, bias, residual, x;
};
Data draw(Random& random, const Case& c) {
  return {.a = random.normal(c.m * c.k, c.dtype),
          .b = random.normal(c.n * c.k, c.dtype, 1.0 / std::sqrt(std::max<double>(c.k, 1))),
          .bias = random.normal(c.n, c.dtype),
          .residual = random.normal(c.m * c.n, c.residual),
          .x = random.normal(c.m * c.x_columns(), c.dtype)};
}

Values shifted(const Values& values, int64_t shift) {
  Values all(static_cast<size_t>(shift), NAN);
  all.insert(all.end(), values.begin(), values.end());
  return all;
}
Values without(const Values& values, int64_t shift) {
  return {values.begin() + shift, values.end()};
}

struct Result {
  Bytes bytes;  // of D, and of x where it is kept
  Values d, x;
};

// The product by the device's own epilogue, or in steps.
Result run(Stream stream, const Case& c, const Data& data, bool steps) {
  const Operations& ops = operations(stream);
  const auto on_device = [&](DType dtype, const Values& values) {
    return std::make_unique<DeviceArray>(stream, dtype, shifted(values, c.shift));
  };
  const auto at = [&](const std::unique_ptr<DeviceArray>& array) {
    return array->as<char>() + c.shift * static_cast<int64_t>(size_of(array->dtype()));
  };
  const DType d_dtype = c.kind == Kind::add ? c.residual : c.dtype;
  const auto a = on_device(c.dtype, data.a), b = on_device(c.dtype, data.b);
  const auto bias = on_device(c.dtype, data.bias), residual = on_device(c.residual, data.residual);
  const Values nothing(data.x.size(), NAN);
  const auto x = on_device(c.dtype, c.kind == Kind::activation ? nothing : data.x);
  const auto d = on_device(d_dtype, Values(static_cast<size_t>(c.m * c.d_columns()), NAN));
  Matmul p{.a = at(a),
           .b = at(b),
           .bias = c.bias ? at(bias) : nullptr,
           .d = c.in_place ? at(x) : at(d),
           .m = c.m,
           .n = c.n,
           .k = c.k,
           .transpose_b = c.transpose_b,
           .input_dtype = c.dtype,
           .output_dtype = c.dtype,
           .allow_tf32 = c.tf32,
           .epilogue = {.kind = c.kind,
                        .residual = at(residual),
                        .residual_dtype = c.residual,
                        .activation = c.activation,
                        .gated = c.gated,
                        .x = at(x),
                        .keep_x = c.keep_x}};
  const auto bytes =
      static_cast<int64_t>(steps ? matmul_steps_workspace(p) : ops.matmul_workspace(p));
  DeviceArray workspace(stream, DType::u8, bytes);
  if (bytes > 0) p.workspace = workspace.data();
  if (steps) {
    matmul_steps(stream, ops, p, ops.matmul);
  } else {
    ops.matmul(stream, p);
  }
  const auto& out = c.in_place ? x : d;
  Result result{bytes_of({out.get()}), without(out->values(), c.shift),
                without(x->values(), c.shift)};
  if (c.kind == Kind::activation) {
    if (c.keep_x) {
      const Bytes kept = bytes_of({x.get()});
      result.bytes.insert(result.bytes.end(), kept.begin(), kept.end());
    } else {
      for (double value : result.x) EXPECT_TRUE(std::isnan(value)) << "x was written";
    }
  }
  return result;
}

void expect_bits_of_steps(Stream stream, const Case& c, Random& random) {
  SCOPED_TRACE(c.text());
  const Data data = draw(random, c);
  const Result fused = run(stream, c, data, false), steps = run(stream, c, data, true);
  EXPECT_EQ(fused.bytes, steps.bytes);
  if (fused.bytes != steps.bytes) expect_equal(fused.d, steps.d, "D");
}

// All kinds of epilogues for one shape; the options take turns.
void each_epilogue(Stream stream, const Case& shape, Random& random) {
  static int turn = 0;
  Case c = shape;
  for (DType residual : kFloats) {
    if (c.dtype == DType::f32 && residual == DType::bf16) continue;
    c.kind = Kind::add;
    c.residual = residual;
    c.bias = ++turn % 2 == 0;
    expect_bits_of_steps(stream, c, random);
  }
  c.residual = c.dtype;
  for (bool gated : {false, true}) {
    if (gated && shape.n % 2 != 0) continue;
    c.gated = gated;
    c.activation = kActivations[++turn / 2 % 4];
    c.kind = Kind::activation;
    c.keep_x = turn % 3 != 0;
    c.bias = turn % 2 == 0;
    expect_bits_of_steps(stream, c, random);
    c.kind = Kind::activation_gradient;
    c.keep_x = c.bias = false;
    c.in_place = turn % 2 == 0;
    expect_bits_of_steps(stream, c, random);
    c.in_place = false;
  }
}

// An epilogue rounds where the operations that it stands for round: not a bit differs.
TEST_P(MatmulEpilogueTest, BitsOfTheStepsAlone) {
  Random random(1);
  simt::start_counting();
  for (DType dtype : kFloats) {
    for (bool transpose_b : {true, false}) {
      for (auto [m, n, k] : {std::array<int64_t, 3>{70, 90, 45},
                             {64, 64, 64},
                             {65, 200, 72},
                             {5, 6, 3},
                             {1, 34, 40}}) {
        each_epilogue(stream(),
                      {.m = m, .n = n, .k = k, .transpose_b = transpose_b, .dtype = dtype}, random);
      }
    }
    // gate and up begin within a tile, and D and x on other boundaries than the operands
    each_epilogue(stream(), {.m = 33, .n = 152, .k = 40, .transpose_b = true, .dtype = dtype},
                  random);
    each_epilogue(stream(),
                  {.m = 33, .n = 40, .k = 24, .transpose_b = true, .dtype = dtype, .shift = 1},
                  random);
  }
  const auto kernels = simt::stop_counting();
  if (simulated()) {
    for (const char* kernel : {"matmul_mma_unaligned", "matmul_fma_64x64"}) {
      EXPECT_TRUE(kernels.contains(kernel)) << kernel << " was not chosen";
    }
    EXPECT_TRUE(kernels.contains(GetParam().capability == 90 ? "matmul_wgmma_finish_128x128_pairs"
                                                             : "matmul_mma_finish_64x64"));
  }
}

// Enough tiles for the large ones and for pairs of blocks, and edges in both directions.
TEST_P(MatmulEpilogueTest, LargeTiles) {
  Random random(2);
  simt::start_counting();
  int number = 0;
  // one shape for each tile, with several tiles for each of the software GPU's multiprocessors
  for (auto [m, n, k] : {std::array<int64_t, 3>{264, 1032, 72}, {260, 200, 72}, {130, 528, 136}}) {
    for (DType dtype : kFloats) {
      if (dtype == DType::f32 && simulated() && ++number > 1) continue;  // one shape will do
      each_epilogue(stream(), {.m = m, .n = n, .k = k, .transpose_b = m != 264, .dtype = dtype},
                    random);
    }
  }
  const auto kernels = simt::stop_counting();
  if (GetParam().capability == 90) {
    for (const char* kernel : {"matmul_wgmma_finish_128x256_pairs", "matmul_wgmma_finish_128x256",
                               "matmul_wgmma_finish_128x128_pairs"}) {
      EXPECT_TRUE(kernels.contains(kernel)) << kernel << " was not chosen";
    }
  } else if (simulated()) {
    for (const char* kernel : {"matmul_mma_finish_128x128"}) {
      EXPECT_TRUE(kernels.contains(kernel)) << kernel << " was not chosen";
    }
  }
}

// Against fp64, with a twin that rounds the product and the result.
TEST_P(MatmulEpilogueTest, Formulas) {
  Random random(3);
  for (DType dtype : kFloats) {
    for (Activation activation : kActivations) {
      for (bool gated : {false, true}) {
        for (Kind kind : {Kind::add, Kind::activation, Kind::activation_gradient}) {
          if (kind == Kind::add && (gated || activation != Activation::relu)) continue;
          const Case c{.m = 72,
                       .n = 80,
                       .k = 64,
                       .kind = kind,
                       .activation = activation,
                       .gated = gated,
                       .transpose_b = true,
                       .bias = kind != Kind::activation_gradient,
                       .dtype = dtype,
                       .residual = dtype};
          SCOPED_TRACE(c.text());
          const Data data = draw(random, c);
          const Result actual = run(stream(), c, data, false);
          const reference::MatmulInputs in{c.m, c.n, c.k, c.k, c.k, false, true};
          Values product = reference::matmul<double>(in, data.a, data.b);
          Values product_twin = reference::matmul<float>(in, data.a, data.b);
          for (size_t i = 0; i < product.size(); ++i) {
            const double bias = c.bias ? data.bias[i % c.n] : 0.0;
            product[i] += bias;
            product_twin[i] = rounded(dtype, product_twin[i] + bias);
          }
          if (kind == Kind::add) {
            for (size_t i = 0; i < product.size(); ++i) {
              product[i] += data.residual[i];
              product_twin[i] = rounded(dtype, product_twin[i] + data.residual[i]);
            }
            expect_close(actual.d, dtype, product, product_twin, "D");
          } else if (kind == Kind::activation) {
            const reference::ActivationInputs of{activation, gated, c.m, c.d_columns()};
            expect_close(actual.x, dtype, product, product_twin, "x");
            expect_close(
                actual.d, dtype, reference::activation_forward<double>(of, product, no_rounding()),
                reference::activation_forward<float>(of, product_twin, rounding_to(dtype)), "D");
          } else {
            const reference::ActivationInputs of{activation, gated, c.m, c.n};
            expect_close(
                actual.d, dtype,
                reference::activation_backward<double>(of, data.x, product, no_rounding()),
                reference::activation_backward<float>(of, data.x, product_twin, rounding_to(dtype)),
                "D");
          }
        }
      }
    }
  }
}

TEST_P(MatmulEpilogueTest, EmptySizes) {
  Random random(4);
  for (DType dtype : kFloats) {
    for (auto [m, n, k] : {std::array<int64_t, 3>{0, 6, 7}, {5, 0, 7}, {5, 70, 0}}) {
      each_epilogue(stream(), {.m = m, .n = n, .k = k, .transpose_b = true, .dtype = dtype},
                    random);
    }
  }
}

TEST_P(MatmulEpilogueTest, RefusesWhatItIsNot) {
  float x[16] = {};
  const Matmul good{.a = x,
                    .b = x,
                    .d = x,
                    .m = 2,
                    .n = 2,
                    .k = 2,
                    .epilogue = {.kind = Kind::activation, .gated = true, .x = x}};
  Matmul accumulating = good, strided = good, odd = good, other_dtype = good;
  accumulating.accumulate = true;
  strided.ldd = 7;
  odd.n = 3;
  other_dtype.output_dtype = DType::bf16;
  for (const Matmul& bad : {accumulating, strided, odd, other_dtype}) {
    EXPECT_THROW(ops().matmul(stream(), bad), std::logic_error);
  }
}

ENGINE_MATMUL_TEST_SUITE(MatmulTf32Test);

Values to_tf32(Values values) {
  for (double& value : values) {
    const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
    value = std::bit_cast<float>((bits + 0x1000u) & 0xffffe000u);
  }
  return values;
}

struct Tf32Case {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, accumulate = false, workspace = false;
};

// Whole numbers are exact; others are the product of inputs rounded to TF32, with fp32 sums.
TEST_P(MatmulTf32Test, RoundsInputsOnly) {
  Random random(1);
  simt::start_counting();
  for (Tf32Case c : {Tf32Case{64, 64, 16},
                     {72, 136, 100},
                     {132, 200, 44},
                     {260, 516, 36},
                     {64, 72, 1100, false, false, false, true}}) {
    for (int transposes = 0; transposes < 4; ++transposes) {
      c.transpose_a = (transposes & 1) != 0;
      c.transpose_b = (transposes & 2) != 0;
      for (bool integers : {true, false}) {
        c.accumulate = integers == c.transpose_b;
        SCOPED_TRACE(std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) +
                     " transposes " + std::to_string(transposes) + (integers ? " integers" : ""));
        const auto draw_values = [&](int64_t count) {
          return integers ? random.integers(count, -4, 4) : random.normal(count, DType::f32);
        };
        const Values a = draw_values(c.m * c.k), b = draw_values(c.n * c.k);
        const Values before = draw_values(c.m * c.n);
        DeviceArray device_a(stream(), DType::f32, a), device_b(stream(), DType::f32, b);
        DeviceArray d(stream(), DType::f32, before);
        Matmul p{.a = device_a.data(),
                 .b = device_b.data(),
                 .d = d.data(),
                 .m = c.m,
                 .n = c.n,
                 .k = c.k,
                 .transpose_a = c.transpose_a,
                 .transpose_b = c.transpose_b,
                 .accumulate = c.accumulate,
                 .allow_tf32 = true};
        const auto bytes = static_cast<int64_t>(ops().matmul_workspace(p));
        DeviceArray workspace(stream(), DType::u8, c.workspace ? bytes : 0);
        if (c.workspace && bytes > 0) p.workspace = workspace.data();
        ops().matmul(stream(), p);
        const bool rounds =
            GetParam().device != DeviceType::cpu && !(c.transpose_a && c.transpose_b);
        const reference::MatmulInputs in{
            c.m,           c.n,          c.k, c.transpose_a ? c.m : c.k, c.transpose_b ? c.k : c.n,
            c.transpose_a, c.transpose_b};
        const Values used_a = rounds ? to_tf32(a) : a, used_b = rounds ? to_tf32(b) : b;
        Values expected = reference::matmul<double>(in, used_a, used_b);
        Values twin = reference::matmul<float>(in, used_a, used_b);
        for (size_t i = 0; c.accumulate && i < expected.size(); ++i) {
          expected[i] += before[i];
          twin[i] = rounded(DType::f32, twin[i] + before[i]);
        }
        if (integers) {
          expect_equal(d.values(), expected, "D");
        } else {
          expect_close(d, expected, twin, "D");
        }
      }
    }
  }
  const auto kernels = simt::stop_counting();
  if (simulated()) {
    for (const char* kernel : {"matmul_tf32_128x128", "matmul_tf32_64x64", "matmul_sum_parts"}) {
      EXPECT_TRUE(kernels.contains(kernel)) << kernel << " was not chosen";
    }
  }
}

TEST_P(MatmulTf32Test, EpiloguesToo) {
  Random random(2);
  for (auto [m, n, k] : {std::array<int64_t, 3>{72, 88, 40}, {260, 520, 36}}) {
    for (bool transpose_b : {true, false}) {
      each_epilogue(stream(),
                    {.m = m,
                     .n = n,
                     .k = k,
                     .transpose_b = transpose_b,
                     .tf32 = true,
                     .dtype = DType::f32,
                     .residual = DType::f32},
                    random);
    }
  }
}

// A NaN must not be rounded to a number: the hardware's own, 7fffffff, would become -0.
TEST_P(MatmulTf32Test, NaNAndInfinityReachTheirRowOnly) {
  Values a_values(64 * 48, 1.0), b_values(48 * 64, 1.0);
  a_values[9 * 48 + 4] = INFINITY;
  DeviceArray a(stream(), DType::f32, a_values), b(stream(), DType::f32, b_values);
  DeviceArray d(stream(), DType::f32, int64_t{64 * 64});
  const uint32_t nan = 0x7fffffff;
  ops().copy_to_device(stream(), a.as<float>() + 7 * 48 + 3, &nan, sizeof nan);
  ops().synchronize(stream());
  ops().matmul(
      stream(),
      {.a = a.data(), .b = b.data(), .d = d.data(), .m = 64, .n = 64, .k = 48, .allow_tf32 = true});
  const Values values = d.values();
  for (int64_t i = 0; i < 64 * 64; ++i) {
    if (i / 64 == 7) {
      EXPECT_TRUE(std::isnan(values[i]));
    } else {
      EXPECT_EQ(values[i], i / 64 == 9 ? INFINITY : 48.0);
    }
  }
}

}  // namespace
}  // namespace engine::kernels::testing
