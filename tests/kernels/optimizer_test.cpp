#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include "tests/kernels/reference/optimizer.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(OptimizerTest);

// tests/reference/adamw_trace.py prints this: parameters after steps 1 to 5, fp64.
constexpr double kTraceGradients[5][3] = {{0.5, -1.0, 0.001},
                                          {0.25, 2.0, -0.002},
                                          {-0.125, 0.0, 0.0},
                                          {1.0, -3.0, 0.0005},
                                          {0.0625, 0.5, 100.0}};
constexpr double kTorchTrace[5][3] = {
    {0.98900000020000001, -0.4895000001, 0.23975009999900002},
    {0.97861806975633969, -0.49264423958186632, 0.24314406659689997},
    {0.97189931342152724, -0.49499680533141177, 0.24574611038211996},
    {0.96374270309233268, -0.49128309323346853, 0.24650861876954214},
    {0.95634290715599801, -0.48878110763262206, 0.24106797127686264},
};
constexpr AdamW kTraceConfig = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};

TEST(AdamWReference, MatchesTorchInDoublePrecision) {
  reference::AdamWState state{{1.0, -0.5, 0.25}, {0, 0, 0}, {0, 0, 0}};
  AdamW config = kTraceConfig;
  for (int t = 0; t < 5; ++t) {
    config.step = t + 1;
    reference::adamw<double>(state, Values(kTraceGradients[t], kTraceGradients[t] + 3), config, 0.1,
                             1.0);
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(state.p[i], kTorchTrace[t][i], 1e-15);
  }
}

// Tensors of one model on the device.
struct Tensors {
  Tensors(Stream stream, const std::vector<int64_t>& counts, Random& random, bool bf16 = false) {
    for (size_t s = 0; s < counts.size(); ++s) {
      const int64_t count = counts[s];
      const auto add = [&](DType dtype, const Values& values) {
        arrays.push_back(std::make_unique<DeviceArray>(stream, dtype, values));
        return arrays.back().get();
      };
      DeviceArray* const p = add(DType::f32, random.normal(count, DType::f32));
      DeviceArray* const g = add(DType::f32, random.normal(count, DType::f32, 0.3));
      DeviceArray* const m = add(DType::f32, random.normal(count, DType::f32, 0.1));
      DeviceArray* const v = add(DType::f32, random.uniform(count, DType::f32, 0.0, 0.1));
      DeviceArray* const value = add(DType::bf16, Values(count, 7.0));
      segments.push_back({.master = p->as<float>(),
                          .value_bf16 = bf16 ? value->as<BFloat16>() : nullptr,
                          .grad = g->as<float>(),
                          .m = m->as<float>(),
                          .v = v->as<float>(),
                          .count = count,
                          .weight_decay = s % 2 == 0 ? 0.1f : 0.0f});
    }
  }
  const DeviceArray& p(size_t s) const { return *arrays[5 * s]; }
  const DeviceArray& g(size_t s) const { return *arrays[5 * s + 1]; }
  const DeviceArray& m(size_t s) const { return *arrays[5 * s + 2]; }
  const DeviceArray& v(size_t s) const { return *arrays[5 * s + 3]; }
  const DeviceArray& value(size_t s) const { return *arrays[5 * s + 4]; }
  int count() const { return static_cast<int>(segments.size()); }

  std::vector<std::unique_ptr<DeviceArray>> arrays;
  std::vector<TensorSegment> segments;
};

struct Table : DeviceArray {
  Table(const Operations& ops, Stream stream, const TensorSegment* segments, int num_segments)
      : DeviceArray(stream, DType::u8,
                    static_cast<int64_t>(ops.optimizer_table_bytes(num_segments))) {
    ops.make_optimizer_table(stream,
                             {.segments = segments, .num_segments = num_segments, .table = data()});
  }
};

void adamw(const Operations& ops, Stream stream, AdamW arguments) {
  const Table table(ops, stream, arguments.segments, arguments.num_segments);
  arguments.table = table.data();
  ops.adamw(stream, arguments);
}

TEST_P(OptimizerTest, AdamWFollowsTheTorchTrace) {
  DeviceArray p(stream(), DType::f32, Values{1.0, -0.5, 0.25}), g(stream(), DType::f32, 3);
  DeviceArray m(stream(), DType::f32, Values(3)), v(stream(), DType::f32, Values(3));
  const TensorSegment segment = {.master = p.as<float>(),
                                 .grad = g.as<float>(),
                                 .m = m.as<float>(),
                                 .v = v.as<float>(),
                                 .count = 3,
                                 .weight_decay = 0.1f};
  AdamW arguments = kTraceConfig;
  arguments.segments = &segment;
  arguments.num_segments = 1;
  for (int t = 0; t < 5; ++t) {
    const float gradient[3] = {static_cast<float>(kTraceGradients[t][0]),
                               static_cast<float>(kTraceGradients[t][1]),
                               static_cast<float>(kTraceGradients[t][2])};
    ops().copy_to_device(stream(), g.data(), gradient, sizeof gradient);
    arguments.step = t + 1;
    adamw(ops(), stream(), arguments);
    const Values actual = p.values();
    // half an ulp per rounding of p (2 a step) plus a few of the update, which is 1 % of p
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(actual[i], kTorchTrace[t][i], (t + 1) * 6e-8);
  }
}

TEST_P(OptimizerTest, AdamWUpdatesAllTensors) {
  Random random(1);
  const std::vector<int64_t> counts = {1, 3, 0, 17, 63, 65, 1000, 8192, 16385, 70001};
  for (bool bf16 : {false, true}) {
    for (bool zero_grad : {false, true}) {
      for (int64_t t : {1, 2, 1000}) {
        Tensors tensors(stream(), counts, random, bf16);
        DeviceArray scale(stream(), DType::f32, Values{0.5});
        std::vector<reference::AdamWState> exact, twin;
        std::vector<Values> grads;
        for (size_t s = 0; s < counts.size(); ++s) {
          exact.push_back({tensors.p(s).values(), tensors.m(s).values(), tensors.v(s).values()});
          grads.push_back(tensors.g(s).values());
        }
        twin = exact;
        const AdamW arguments = {.segments = tensors.segments.data(),
                                 .num_segments = tensors.count(),
                                 .lr = 3e-3,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .eps = 1e-8,
                                 .step = t,
                                 .grad_scale = scale.as<float>(),
                                 .zero_grad = zero_grad};
        adamw(ops(), stream(), arguments);
        for (size_t s = 0; s < counts.size(); ++s) {
          const double decay = tensors.segments[s].weight_decay;
          reference::adamw<double>(exact[s], grads[s], arguments, decay, 0.5);
          reference::adamw<float>(twin[s], grads[s], arguments, decay, 0.5);
          expect_close(tensors.p(s), exact[s].p, twin[s].p, "master");
          expect_close(tensors.m(s), exact[s].m, twin[s].m, "m");
          expect_close(tensors.v(s), exact[s].v, twin[s].v, "v");
          expect_equal(tensors.g(s).values(), zero_grad ? Values(counts[s]) : grads[s], "grad");
          expect_equal(tensors.value(s).values(),
                       bf16 ? rounded(DType::bf16, tensors.p(s).values()) : Values(counts[s], 7.0),
                       "value");
        }
      }
    }
  }
}

TEST_P(OptimizerTest, AdamWWithoutGradientOnlyDecays) {
  DeviceArray p(stream(), DType::f32, Values{1.0, -2.0, 0.0}), g(stream(), DType::f32, Values(3));
  DeviceArray m(stream(), DType::f32, Values(3)), v(stream(), DType::f32, Values(3));
  const TensorSegment segment = {.master = p.as<float>(),
                                 .grad = g.as<float>(),
                                 .m = m.as<float>(),
                                 .v = v.as<float>(),
                                 .count = 3,
                                 .weight_decay = 0.5f};
  adamw(ops(), stream(), {.segments = &segment, .num_segments = 1, .lr = 0.5});
  expect_equal(p.values(), {0.75, -1.5, 0.0}, "master");
}

TEST_P(OptimizerTest, AdamWTakesItsConstantsFromFp64) {
  // 1 - 0.999f would make v 1.3e-5 too small
  DeviceArray p(stream(), DType::f32, Values{1.0}), g(stream(), DType::f32, Values{1.0});
  DeviceArray m(stream(), DType::f32, Values(1)), v(stream(), DType::f32, Values(1));
  const TensorSegment segment = {.master = p.as<float>(),
                                 .grad = g.as<float>(),
                                 .m = m.as<float>(),
                                 .v = v.as<float>(),
                                 .count = 1};
  adamw(ops(), stream(), {.segments = &segment, .num_segments = 1, .lr = 1e-3});
  expect_equal(m.values(), {rounded(DType::f32, 1 - 0.9)}, "m");
  expect_equal(v.values(), {rounded(DType::f32, 1 - 0.999)}, "v");
}

TEST_P(OptimizerTest, AnyAlignmentGivesTheSameNumbers) {
  // the arrays start one element off a boundary: element by element on a GPU, elsewhere vectors
  constexpr int64_t kCount = 9000;
  Values results[2];
  for (int shift : {0, 1}) {
    Random random(5);
    const auto make = [&](double low, double high) {
      Values values(static_cast<size_t>(shift), 1.0);
      for (int64_t i = 0; i < kCount; ++i) {
        values.push_back(rounded(DType::f32, low + (high - low) * random.uniform()));
      }
      return values;
    };
    DeviceArray p(stream(), DType::f32, make(-1, 1)), g(stream(), DType::f32, make(-1, 1));
    DeviceArray m(stream(), DType::f32, make(-1, 1)), v(stream(), DType::f32, make(0, 1));
    const TensorSegment segment = {.master = p.as<float>() + shift,
                                   .grad = g.as<float>() + shift,
                                   .m = m.as<float>() + shift,
                                   .v = v.as<float>() + shift,
                                   .count = kCount};
    adamw(ops(), stream(), {.segments = &segment, .num_segments = 1, .lr = 1e-2});
    Values after = p.values();
    after.erase(after.begin(), after.begin() + shift);
    results[shift] = after;
  }
  expect_close(results[1], DType::f32, results[0], results[0], "master");
}

// Every product and sum of the contract is rounded by itself, so devices do not differ.
TEST_P(OptimizerTest, AdamWHasTheBitsOfTheCpu) {
  const Stream cpu{.device = DeviceType::cpu};
  const std::vector<int64_t> counts = {1, 63, 1000, 16385};
  for (const bool masters : {true, false}) {
    std::vector<Bytes> results[2];
    for (const int here : {0, 1}) {
      const Stream on = here ? stream() : cpu;
      Random random(6);
      Tensors tensors(on, counts, random, true);
      int64_t first_index = 0;
      for (TensorSegment& segment : tensors.segments) {
        segment.first_index = first_index;
        first_index += (segment.count + 63) / 64 * 64;
        if (!masters) segment.master = nullptr;
      }
      const DeviceArray scale(on, DType::f32, Values{0.7});
      for (int64_t t : {1, 2, 900}) {
        adamw(operations(on), on,
              {.segments = tensors.segments.data(),
               .num_segments = tensors.count(),
               .lr = 3e-3,
               .step = t,
               .grad_scale = scale.as<float>(),
               .zero_grad = false,
               .rounding_seed = 5});
      }
      for (const auto& array : tensors.arrays) results[here].push_back(array->bytes());
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
      EXPECT_TRUE(results[0][i] == results[1][i]) << "array " << i << ", masters " << masters;
    }
  }
}

// A parameter of bf16 alone is what fp32 arithmetic gives, rounded as the contract says.
TEST_P(OptimizerTest, WithoutAMasterIsRoundedStochastically) {
  constexpr int64_t kCount = 9001, kFirst = 64 * 1000;
  constexpr uint64_t kSeed = 77;
  for (const int64_t t : {1, 5}) {
    Random random(7);
    Values p = random.normal(kCount, DType::bf16);
    p[11] = INFINITY;
    p[12] = NAN;
    const Values g = random.normal(kCount, DType::f32, 0.3);
    const Values m = random.normal(kCount, DType::f32, 0.1);
    const Values v = random.uniform(kCount, DType::f32, 0.0, 0.1);
    Values exact, rounded_bits;
    for (const bool master : {true, false}) {
      const DeviceArray fp32(stream(), DType::f32, p), bf16(stream(), DType::bf16, p);
      const DeviceArray grad(stream(), DType::f32, g), first(stream(), DType::f32, m),
          second(stream(), DType::f32, v);
      const TensorSegment segment = {.master = master ? fp32.as<float>() : nullptr,
                                     .value_bf16 = bf16.as<BFloat16>(),
                                     .grad = grad.as<float>(),
                                     .m = first.as<float>(),
                                     .v = second.as<float>(),
                                     .count = kCount,
                                     .weight_decay = 0.1f,
                                     .first_index = kFirst};
      adamw(
          ops(), stream(),
          {.segments = &segment, .num_segments = 1, .lr = 1e-2, .step = t, .rounding_seed = kSeed});
      (master ? exact : rounded_bits) = (master ? fp32 : bf16).values();
      if (!master) expect_equal(grad.values(), Values(kCount), "gradients are zeroed");
    }
    int64_t away = 0;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < kCount; ++i) {
      const Philox4 draw =
          philox4x32(rounding_key(kSeed, t), static_cast<uint64_t>(kFirst + i) / 4);
      BFloat16 expected;
      expected.bits = round_stochastically(static_cast<float>(exact[i]), draw.word[i % 4] >> 16);
      if (i == 12) {
        EXPECT_TRUE(std::isnan(rounded_bits[i]));
        continue;
      }
      ASSERT_EQ(rounded_bits[i], static_cast<double>(static_cast<float>(expected))) << i;
      away += rounded_bits[i] != rounded(DType::bf16, exact[i]);
      const uint32_t low = std::bit_cast<uint32_t>(static_cast<float>(exact[i])) & 0xffffu;
      const double farther = std::min(low, 65536u - low) / 65536.0;
      mean += farther;
      variance += farther * (1 - farther);
    }
    EXPECT_EQ(rounded_bits[11], INFINITY);
    // as often to the farther neighbour as their distances say: 4 standard deviations
    EXPECT_NEAR(static_cast<double>(away), mean, 4 * std::sqrt(variance));
  }
}

// Decay alone moves 1.0 by a part of the distance to its lower neighbour, which rounding to nearest
// would lose: the mean of many must be what was asked for.
TEST_P(OptimizerTest, StochasticRoundingIsUnbiased) {
  constexpr int64_t kCount = 1 << 15;
  const double spacing = 1.0 / 256;  // of bf16 below 1
  for (const double part : {0.02, 0.3, 0.5, 0.9}) {
    const DeviceArray p(stream(), DType::bf16, Values(kCount, 1.0));
    const DeviceArray g(stream(), DType::f32, Values(kCount)),
        m(stream(), DType::f32, Values(kCount)), v(stream(), DType::f32, Values(kCount));
    const TensorSegment segment = {.value_bf16 = p.as<BFloat16>(),
                                   .grad = g.as<float>(),
                                   .m = m.as<float>(),
                                   .v = v.as<float>(),
                                   .count = kCount,
                                   .weight_decay = 1.0f};
    adamw(ops(), stream(), {.segments = &segment, .num_segments = 1, .lr = part * spacing});
    double sum = 0, down = 0;
    for (const double value : p.values()) {
      ASSERT_TRUE(value == 1.0 || value == 1.0 - spacing) << value;
      sum += value;
      down += value != 1.0;
    }
    // 4 standard deviations, and the resolution of 16 random bits
    const double tolerance = 4 * std::sqrt(part * (1 - part) / kCount) + 1.0 / 65536;
    EXPECT_NEAR(down / kCount, part, tolerance);
    EXPECT_NEAR(sum / kCount, 1.0 - part * spacing, tolerance * spacing);
  }
}

TEST_P(OptimizerTest, MastersAreAllOrNone) {
  const DeviceArray p(stream(), DType::f32, 64), b(stream(), DType::bf16, 64);
  const TensorSegment segments[2] = {{.master = p.as<float>(), .count = 64},
                                     {.value_bf16 = b.as<BFloat16>(), .count = 64}};
  EXPECT_THROW(ops().adamw(stream(), {.segments = segments, .num_segments = 2}), std::logic_error);
}

TEST_P(OptimizerTest, AdamWCountsStepsFromOne) {
  EXPECT_THROW(ops().adamw(stream(), {.step = 0}), std::logic_error);
}

Values global_norm(const Operations& ops, Stream stream, const std::vector<TensorSegment>& segments,
                   float max_norm) {
  int64_t total = 0;
  for (const TensorSegment& segment : segments) total += segment.count;
  const int num_segments = static_cast<int>(segments.size());
  DeviceArray workspace(stream, DType::u8,
                        static_cast<int64_t>(ops.global_norm_workspace(total, num_segments)));
  const Table table(ops, stream, segments.data(), num_segments);
  DeviceArray out(stream, DType::f32, 2);
  ops.global_norm(stream, {.segments = segments.data(),
                           .num_segments = num_segments,
                           .table = table.data(),
                           .max_norm = max_norm,
                           .out = out.as<float>(),
                           .workspace = workspace.data()});
  return out.values();
}

TEST_P(OptimizerTest, GlobalNormSumsAllTensors) {
  Random random(2);
  for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
           {}, {0}, {1}, {0, 3, 0}, {17, 63, 65, 1000}, {32768, 32769, 1, 100000}}) {
    const Tensors tensors(stream(), counts, random);
    double sum = 0;
    for (size_t s = 0; s < counts.size(); ++s) {
      const Values g = tensors.g(s).values();
      sum += dot(g, g);
    }
    const double norm = std::sqrt(sum);
    const Values actual = global_norm(ops(), stream(), tensors.segments, 0.5f);
    // fp64 inside: only the result's rounding
    EXPECT_NEAR(actual[0], norm, ulp(DType::f32, norm));
    EXPECT_NEAR(actual[1], std::min(1.0, 0.5 / (norm + 1e-6)), 1e-7);
    EXPECT_EQ(global_norm(ops(), stream(), tensors.segments, 0.0f)[1], 1.0) << "no clipping";
    EXPECT_EQ(global_norm(ops(), stream(), tensors.segments, 1e6f)[1], 1.0) << "below the limit";
  }
}

TEST_P(OptimizerTest, GlobalNormIsExactOnIntegersAndDoesNotOverflow) {
  DeviceArray g(stream(), DType::f32, Values{3, 4}), h(stream(), DType::f32, Values(144, 1.0));
  EXPECT_EQ(
      global_norm(ops(), stream(),
                  {{.grad = g.as<float>(), .count = 2}, {.grad = h.as<float>(), .count = 144}},
                  0.0f)[0],
      13.0);
  DeviceArray big(stream(), DType::f32, Values(4, 0x1p100));  // squares leave fp32
  EXPECT_EQ(global_norm(ops(), stream(), {{.grad = big.as<float>(), .count = 4}}, 0.0f)[0],
            0x1p101);
}

TEST_P(OptimizerTest, GlobalNormShowsNanAndInfinity) {
  Random random(3);
  for (double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
    for (int64_t at : {0, 31, 40000, 69999}) {
      Values values = random.normal(70000, DType::f32);
      values[at] = bad;
      DeviceArray g(stream(), DType::f32, values);
      EXPECT_FALSE(std::isfinite(
          global_norm(ops(), stream(), {{.grad = g.as<float>(), .count = 70000}}, 1.0f)[0]));
    }
  }
}

TEST_P(OptimizerTest, SameBitsOnAnyThreadCount) {
  const int64_t largest = on_gpu() ? 1000003 : 100003;
  const auto body = [&] {
    Random random(4);
    const Tensors tensors(stream(), {largest, 5, 40000}, random, true);
    Bytes all;
    const auto append = [&](const Bytes& bytes) {
      all.insert(all.end(), bytes.begin(), bytes.end());
    };
    DeviceArray norm(stream(), DType::f32, global_norm(ops(), stream(), tensors.segments, 1.0f));
    append(norm.bytes());
    adamw(ops(), stream(),
          {.segments = tensors.segments.data(),
           .num_segments = tensors.count(),
           .lr = 1e-3,
           .step = 3,
           .grad_scale = norm.as<float>() + 1});
    for (const auto& array : tensors.arrays) append(array->bytes());
    return all;
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

}  // namespace
}  // namespace engine::kernels::testing
