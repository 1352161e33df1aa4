// Steps that are stopped on the device (kernels/api/optimizer.h).
#include <cmath>

#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(OptimizerStopTest);

TEST_P(OptimizerStopTest, FlagRisesForOneBadValueAndStays) {
  Random random(1);
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{33}, int64_t{70001}}) {
    const Values good = random.normal(count, DType::f32);
    const auto flag_after = [&](const Values& values, double before) {
      const DeviceArray x(stream(), DType::f32, values);
      DeviceArray flag(stream(), DType::f32, Values{before});
      ops().flag_nonfinite(stream(),
                           {.x = x.as<float>(), .count = count, .flag = flag.as<float>()});
      return flag.values()[0];
    };
    EXPECT_EQ(flag_after(good, 0), 0.0);
    EXPECT_EQ(flag_after(good, 1), 1.0) << "it stays up";
    for (const double bad : {double{NAN}, double{INFINITY}, -double{INFINITY}}) {
      for (const int64_t at : {int64_t{0}, count / 2, count - 1}) {
        if (count == 0) continue;
        Values values = good;
        values[at] = bad;
        EXPECT_EQ(flag_after(values, 0), 1.0) << bad << " at " << at << " of " << count;
      }
    }
  }
  const DeviceArray largest(stream(), DType::f32, Values{3.4028234663852886e38});
  DeviceArray flag(stream(), DType::f32, Values{0});
  ops().flag_nonfinite(stream(), {.x = largest.as<float>(), .count = 1, .flag = flag.as<float>()});
  EXPECT_EQ(flag.values()[0], 0.0) << "the largest float is one";
}

// Masters with a bf16 copy, or bf16 alone; beginning on 16 bytes or 4 further.
TEST_P(OptimizerStopTest, AStoppedUpdateZeroesGradientsAndNothingElse) {
  Random random(2);
  for (const bool masters : {true, false}) {
    for (const int64_t from : {0, 1}) {
      const int64_t count = 20001, all = count + from;
      const auto fp32 = [&] {
        return DeviceArray(stream(), DType::f32, random.uniform(all, DType::f32, 0.1, 1.0));
      };
      const DeviceArray p = fp32(), g = fp32(), m = fp32(), v = fp32();
      const DeviceArray value(stream(), DType::bf16, random.normal(all, DType::bf16));
      const TensorSegment segment{.master = masters ? p.as<float>() + from : nullptr,
                                  .value_bf16 = value.as<BFloat16>() + from,
                                  .grad = g.as<float>() + from,
                                  .m = m.as<float>() + from,
                                  .v = v.as<float>() + from,
                                  .count = count,
                                  .weight_decay = 0.1f};
      DeviceArray table(stream(), DType::u8, static_cast<int64_t>(ops().optimizer_table_bytes(1)));
      ops().make_optimizer_table(stream(),
                                 {.segments = &segment, .num_segments = 1, .table = table.data()});
      DeviceArray workspace(stream(), DType::u8,
                            static_cast<int64_t>(ops().global_norm_workspace(count, 1)));
      DeviceArray norm(stream(), DType::f32, Values{0, 0, 0});
      const auto step = [&](float max_norm, bool zero_grad) {
        ops().global_norm(stream(), {.segments = &segment,
                                     .num_segments = 1,
                                     .table = table.data(),
                                     .max_norm = max_norm,
                                     .out = norm.as<float>(),
                                     .stop = norm.as<float>() + 2,
                                     .workspace = workspace.data()});
        ops().adamw(stream(), {.segments = &segment,
                               .num_segments = 1,
                               .table = table.data(),
                               .lr = 1e-2,
                               .grad_scale = norm.as<float>() + 1,
                               .stop = norm.as<float>() + 2,
                               .zero_grad = zero_grad});
      };
      const auto state = [&] {
        Bytes bytes;
        for (const DeviceArray* array : {&p, &m, &v, &value}) {
          const Bytes one = array->bytes();
          bytes.insert(bytes.end(), one.begin(), one.end());
        }
        return bytes;
      };
      step(1.0f, false);
      EXPECT_EQ(norm.values()[2], 0.0);
      const Bytes after_one = state();
      Values gradients = g.values();
      gradients.back() = NAN;
      const std::vector<float> raw(gradients.begin(), gradients.end());
      ops().copy_to_device(stream(), g.data(), raw.data(), raw.size() * sizeof(float));
      ops().synchronize(stream());
      for (const bool zero_grad : {false, true}) {
        step(0.0f, zero_grad);
        EXPECT_EQ(norm.values()[2], 1.0);
        EXPECT_TRUE(state() == after_one) << "masters " << masters << " from " << from;
        Values expected = zero_grad ? Values(all) : gradients;
        if (from) expected[0] = gradients[0];
        const Values found = g.values();
        for (int64_t i = 0; i < all; ++i) {
          const double actual = found[i];
          if (std::isnan(expected[i]) ? std::isnan(actual) : actual == expected[i]) continue;
          FAIL() << "gradient " << i << " is " << actual;
        }
      }
    }
  }
}

}  // namespace
}  // namespace engine::kernels::testing
