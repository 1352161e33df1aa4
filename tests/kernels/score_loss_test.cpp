#include "tests/kernels/reference/score_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(ScoreLossTest);

constexpr ScoreLossKind kKinds[] = {ScoreLossKind::squared_error,
                                    ScoreLossKind::binary_cross_entropy};

// Of several labels, zeros and ones; of regression, any numbers. One row in four has none.
Values some_targets(Random& random, ScoreLossKind kind, int64_t rows, int64_t outputs) {
  Values targets = kind == ScoreLossKind::squared_error
                       ? random.normal(rows * outputs, DType::f32, 3.0)
                       : random.integers(rows * outputs, 0, 1);
  for (int64_t row = 3; row < rows; row += 4) targets[row * outputs] = NAN;
  return targets;
}

TEST(ScoreLossReference, GradientIsThatOfTheLoss) {
  Random random(1);
  for (const ScoreLossKind kind : kKinds) {
    const Values scores = random.normal(20, DType::f32, 2.0);
    const Values targets = some_targets(random, kind, 5, 4);
    const auto run = [&](const Values& s) {
      return reference::score_loss<double>(kind, s, targets, 4, 0.3, no_rounding());
    };
    expect_gradient(
        [&](const Values& s) {
          const Values losses = run(s).losses;
          return 0.3 * std::accumulate(losses.begin(), losses.end(), 0.0);
        },
        scores, run(scores).d_scores, "d_scores");
  }
}

TEST_P(ScoreLossTest, LossAndGradientMatchTheReference) {
  Random random(2);
  for (const ScoreLossKind kind : kKinds) {
    for (const int64_t rows : {0, 1, 3, 9}) {
      for (const int64_t outputs : {1, 2, 31, 33, 300}) {
        for (const double spread : {1.0, 30.0}) {
          const Values scores = random.normal(rows * outputs, DType::f32, spread);
          const Values targets = some_targets(random, kind, rows, outputs);
          const auto expected =
              reference::score_loss<double>(kind, scores, targets, outputs, 0.25, no_rounding());
          const auto twin = reference::score_loss<float>(kind, scores, targets, outputs, 0.25f,
                                                         rounding_to(DType::f32));
          for (const bool gradient : {false, true}) {
            DeviceArray s(stream(), DType::f32, scores), t(stream(), DType::f32, targets);
            DeviceArray losses(stream(), DType::f32, rows);
            ops().score_loss(stream(), {.kind = kind,
                                        .rows = rows,
                                        .outputs = outputs,
                                        .scores = s.as<float>(),
                                        .targets = t.as<float>(),
                                        .grad_scale = 0.25f,
                                        .losses = losses.as<float>(),
                                        .d_scores = gradient});
            expect_close(losses, expected.losses, twin.losses, "losses");
            if (gradient) {
              expect_close(s, expected.d_scores, twin.d_scores, "d_scores");
            } else {
              expect_equal(s.values(), scores, "scores are kept");
            }
          }
        }
      }
    }
  }
}

TEST_P(ScoreLossTest, NanReachesTheLoss) {
  for (const ScoreLossKind kind : kKinds) {
    DeviceArray s(stream(), DType::f32, Values{0.5, NAN}), t(stream(), DType::f32, Values{1, 0});
    DeviceArray losses(stream(), DType::f32, 1);
    ops().score_loss(stream(), {.kind = kind,
                                .rows = 1,
                                .outputs = 2,
                                .scores = s.as<float>(),
                                .targets = t.as<float>(),
                                .losses = losses.as<float>()});
    EXPECT_TRUE(std::isnan(losses.values()[0]));
  }
}

TEST_P(ScoreLossTest, SameBitsOnAnyThreadCount) {
  Random random(3);
  const Values scores = random.normal(40 * 70, DType::f32);
  const auto body = [&] {
    DeviceArray s(stream(), DType::f32, scores), t(stream(), DType::f32, scores);
    DeviceArray losses(stream(), DType::f32, 40);
    ops().score_loss(stream(), {.kind = ScoreLossKind::binary_cross_entropy,
                                .rows = 40,
                                .outputs = 70,
                                .scores = s.as<float>(),
                                .targets = t.as<float>(),
                                .losses = losses.as<float>(),
                                .d_scores = true});
    return bytes_of({&s, &losses});
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

}  // namespace
}  // namespace engine::kernels::testing
