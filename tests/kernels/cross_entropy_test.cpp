#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/simt/launch.h"
#include "tests/kernels/reference/cross_entropy.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(CrossEntropyTest);

constexpr DType kFloats[] = {DType::f32, DType::bf16};

// The software GPU has the matrix products of Hopper, or those of all others.
class ClaimedCapability {
 public:
  explicit ClaimedCapability(int capability) { simt::set_claimed_capability(capability); }
  ~ClaimedCapability() { simt::set_claimed_capability(90); }
  static std::vector<int> all(bool simulated) {
    return simulated ? std::vector{80, 90} : std::vector{90};
  }
};

double sum_of(const Values& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// Targets of which about one in three is ignored.
Values some_targets(Random& random, int64_t count, int64_t classes) {
  Values targets = random.integers(count, 0, classes - 1);
  const Values ignored = random.integers(count, 0, 2);
  for (int64_t i = 0; i < count; ++i) {
    if (ignored[i] == 0) targets[i] = kIgnoreIndex;
  }
  return targets;
}

TEST(CrossEntropyReference, GradientsAreThoseOfTheLoss) {
  Random random(1);
  const reference::LinearCrossEntropyInputs in{5, 4, 7, 0.7, 0.3};
  const Values hidden = random.normal(20, DType::f32), weight = random.normal(28, DType::f32);
  const Values targets = {3, kIgnoreIndex, 0, 6, 2};
  const auto run = [&](const Values& h, const Values& w) {
    return reference::linear_cross_entropy<double>(in, h, w, targets, no_rounding());
  };
  const auto result = run(hidden, weight);
  expect_gradient([&](const Values& x) { return 0.3 * sum_of(run(x, weight).losses); }, hidden,
                  result.d_hidden, "d_hidden");
  expect_gradient([&](const Values& x) { return 0.3 * sum_of(run(hidden, x).losses); }, weight,
                  result.d_weight, "d_weight");
}

TEST_P(CrossEntropyTest, LogitsAlone) {
  Random random(2);
  for (int64_t rows : {0, 1, 17}) {
    for (int64_t classes : {1, 3, 17, 63, 65, 257, 2500}) {
      for (double spread : {1.0, 30.0}) {
        for (int64_t extra : {0, 5}) {
          const int64_t stride = classes + extra;
          const Values logits = random.normal(rows * classes, DType::f32, spread);
          const Values targets = some_targets(random, rows, classes);
          Values wide(static_cast<size_t>(rows * stride), NAN);
          for (int64_t i = 0; i < rows * classes; ++i) {
            wide[i / classes * stride + i % classes] = logits[i];
          }
          const auto expected =
              reference::cross_entropy<double>(logits, targets, classes, 0.25, no_rounding());
          const auto twin = reference::cross_entropy<float>(logits, targets, classes, 0.25f,
                                                            rounding_to(DType::f32));
          for (bool gradient : {false, true}) {
            DeviceArray z(stream(), DType::f32, wide), y(stream(), DType::i32, targets);
            DeviceArray losses(stream(), DType::f32, rows), argmax(stream(), DType::i32, rows);
            ops().cross_entropy(stream(), {.rows = rows,
                                           .classes = classes,
                                           .logits = z.as<float>(),
                                           .stride = stride,
                                           .targets = y.as<int32_t>(),
                                           .grad_scale = 0.25f,
                                           .losses = losses.as<float>(),
                                           .argmax = argmax.as<int32_t>(),
                                           .d_logits = gradient});
            expect_close(losses, expected.losses, twin.losses, "loss");
            expect_equal(argmax.values(), expected.argmax, "argmax");
            const Values after = z.values();
            Values dense(static_cast<size_t>(rows * classes));
            for (int64_t i = 0; i < rows * stride; ++i) {
              if (i % stride < classes) {
                dense[i / stride * classes + i % stride] = after[i];
              } else {
                EXPECT_TRUE(std::isnan(after[i])) << "wrote between rows";
              }
            }
            if (gradient) {
              expect_close(dense, DType::f32, expected.d_logits, twin.d_logits, "d_logits");
            } else {
              expect_equal(dense, logits, "logits");
            }
          }
        }
      }
    }
  }
}

TEST_P(CrossEntropyTest, FirstOfEqualMaximaWins) {
  Values logits(2000, -1.0);
  logits[1030] = logits[1031] = logits[1900] = 5.0;
  DeviceArray z(stream(), DType::f32, logits), y(stream(), DType::i32, Values{0});
  DeviceArray loss(stream(), DType::f32, int64_t{1}), argmax(stream(), DType::i32, int64_t{1});
  ops().cross_entropy(stream(), {.rows = 1,
                                 .classes = 2000,
                                 .logits = z.as<float>(),
                                 .stride = 2000,
                                 .targets = y.as<int32_t>(),
                                 .losses = loss.as<float>(),
                                 .argmax = argmax.as<int32_t>()});
  expect_equal(argmax.values(), {1030}, "argmax");
}

// Masked logits (-inf) have no share; NaN must not go unnoticed.
TEST_P(CrossEntropyTest, InfiniteAndNaNLogits) {
  Values logits(3 * 1500, -INFINITY);
  logits[1200] = 2.0;
  logits[1300] = 1.0;          // row 0: everything else is masked, the whole first block too
  logits[2 * 1500 - 1] = NAN;  // row 1
  logits[2 * 1500 + 7] = 3.0;  // row 2: one class is left
  DeviceArray z(stream(), DType::f32, logits), y(stream(), DType::i32, Values{1300, 3, 7});
  DeviceArray losses(stream(), DType::f32, int64_t{3});
  ops().cross_entropy(stream(), {.rows = 3,
                                 .classes = 1500,
                                 .logits = z.as<float>(),
                                 .stride = 1500,
                                 .targets = y.as<int32_t>(),
                                 .grad_scale = 1.0f,
                                 .losses = losses.as<float>(),
                                 .d_logits = true});
  const Values loss = losses.values(), gradient = z.values();
  EXPECT_NEAR(loss[0], 1.0 + std::log1p(std::exp(-1.0)), 2e-7);
  EXPECT_TRUE(std::isnan(loss[1]));
  EXPECT_EQ(loss[2], 0.0);
  EXPECT_EQ(gradient[0], 0.0);
  EXPECT_NEAR(gradient[1200], 1 / (1 + std::exp(-1.0)), 2e-7);
  EXPECT_TRUE(std::isnan(gradient[1500]));
  EXPECT_EQ(gradient[2 * 1500 + 7], 0.0);
}

struct Case {
  int64_t tokens, hidden_size, vocab_size, chunk_rows;
  bool d_hidden = true, d_weight = true;
  DType dtype = DType::f32;
};

// Losses, argmax, d_hidden and d_weight of the fused operation, as bytes and as values.
struct Fused {
  Values losses, argmax, d_hidden, d_weight;
  Bytes bytes;
};

Fused run_fused(Stream stream, const Case& c, const Values& hidden, const Values& weight,
                const Values& targets, const Values& d_weight_before) {
  DeviceArray h(stream, c.dtype, hidden), w(stream, c.dtype, weight);
  DeviceArray y(stream, DType::i32, targets), losses(stream, DType::f32, c.tokens);
  DeviceArray argmax(stream, DType::i32, c.tokens);
  DeviceArray d_hidden(stream, c.dtype, c.tokens * c.hidden_size);
  DeviceArray d_weight(stream, DType::f32, d_weight_before);
  LinearCrossEntropy p{.tokens = c.tokens,
                       .hidden_size = c.hidden_size,
                       .vocab_size = c.vocab_size,
                       .chunk_rows = c.chunk_rows,
                       .dtype = c.dtype};
  const size_t bytes = operations(stream).linear_cross_entropy_workspace(p);
  DeviceArray workspace(stream, DType::u8, static_cast<int64_t>(bytes));
  p.hidden = h.data();
  p.weight = w.data();
  p.targets = y.as<int32_t>();
  p.logit_scale = 0.5f;
  p.grad_scale = 0.125f;
  p.losses = losses.as<float>();
  p.argmax = argmax.as<int32_t>();
  p.d_hidden = c.d_hidden ? d_hidden.data() : nullptr;
  p.d_weight = c.d_weight ? d_weight.as<float>() : nullptr;
  p.workspace = workspace.data();
  operations(stream).linear_cross_entropy(stream, p);
  return {losses.values(), argmax.values(), d_hidden.values(), d_weight.values(),
          bytes_of({&losses, &argmax, &d_hidden, &d_weight})};
}

TEST_P(CrossEntropyTest, FusedWithTheHead) {
  Random random(3);
  const std::vector<int> capabilities = ClaimedCapability::all(simulated());
  for (DType dtype : kFloats) {
    for (const Case& shape :
         {Case{1, 3, 17, 0}, Case{17, 33, 65, 0}, Case{65, 48, 257, 7}, Case{130, 64, 1500, 64},
          Case{150, 136, 300, 128}, Case{33, 17, 4500, 0}}) {
      Case c = shape;
      c.dtype = dtype;
      const Values hidden = random.normal(c.tokens * c.hidden_size, dtype);
      const Values weight = random.normal(c.vocab_size * c.hidden_size, dtype, 0.5);
      const Values targets = some_targets(random, c.tokens, c.vocab_size);
      const Values before = random.normal(c.vocab_size * c.hidden_size, DType::f32, 0.01);
      const reference::LinearCrossEntropyInputs in{c.tokens, c.hidden_size, c.vocab_size, 0.5,
                                                   0.125};
      auto expected =
          reference::linear_cross_entropy<double>(in, hidden, weight, targets, no_rounding());
      auto twin =
          reference::linear_cross_entropy<float>(in, hidden, weight, targets, rounding_to(dtype));
      for (size_t i = 0; i < before.size(); ++i) {
        expected.d_weight[i] += before[i];
        twin.d_weight[i] = rounded(DType::f32, twin.d_weight[i] + before[i]);
      }
      for (int parts = 0; parts < 4 * static_cast<int>(capabilities.size()); ++parts) {
        const ClaimedCapability claimed(capabilities[parts / 4]);
        c.d_hidden = (parts & 1) != 0;
        c.d_weight = (parts & 2) != 0;
        SCOPED_TRACE(std::to_string(c.tokens) + "x" + std::to_string(c.hidden_size) + "x" +
                     std::to_string(c.vocab_size) + " " + name_of(dtype) + " parts " +
                     std::to_string(parts));
        const Fused actual = run_fused(stream(), c, hidden, weight, targets, before);
        expect_close(actual.losses, DType::f32, expected.losses, twin.losses, "loss");
        expect_equal(actual.argmax, expected.argmax, "argmax");
        if (c.d_hidden) {
          expect_close(actual.d_hidden, dtype, expected.d_hidden, twin.d_hidden, "d_hidden");
        }
        if (c.d_weight) {
          // fp32, but of dz rounded to bf16: the bound of bf16 on the Frobenius norm
          expect_close(actual.d_weight, dtype, expected.d_weight, twin.d_weight, "d_weight");
        } else {
          expect_equal(actual.d_weight, before, "d_weight");
        }
      }
    }
  }
}

// Ignored rows may hold anything, cost nothing and change nothing for the others.
TEST_P(CrossEntropyTest, IgnoredRows) {
  Random random(4);
  const Case c{9, 5, 33, 0};
  Values hidden = random.normal(45, DType::f32);
  for (int64_t i = 0; i < 5; ++i) hidden[2 * 5 + i] = NAN;
  const Values weight = random.normal(33 * 5, DType::f32), zeros(33 * 5, 0.0);
  Values targets = random.integers(9, 0, 32);
  targets[2] = kIgnoreIndex;
  const Fused one = run_fused(stream(), c, hidden, weight, targets, zeros);
  EXPECT_EQ(one.losses[2], 0.0);
  EXPECT_EQ(one.argmax[2], -1.0);
  for (int64_t i = 0; i < 45; ++i) EXPECT_EQ(one.d_hidden[i] == 0.0, i / 5 == 2) << i;
  for (double g : one.d_weight) EXPECT_TRUE(std::isfinite(g));

  // all ignored: no operand is read, so NaN everywhere goes nowhere
  const Values nan_hidden(45, NAN), nan_weight(33 * 5, NAN), ignored(9, kIgnoreIndex);
  const Fused none = run_fused(stream(), c, nan_hidden, nan_weight, ignored, zeros);
  expect_equal(none.losses, Values(9, 0.0), "loss");
  expect_equal(none.argmax, Values(9, -1.0), "argmax");
  expect_equal(none.d_hidden, Values(45, 0.0), "d_hidden");
  expect_equal(none.d_weight, zeros, "d_weight");
}

// Vocabularies that no device goes through in one step, with dz taking the place of the logits.
TEST_P(CrossEntropyTest, LargeVocabularies) {
  Random random(6);
  for (DType dtype : kFloats) {
    for (int64_t vocab_size : {int64_t{16384}, int64_t{50257}}) {
      const Case c{3, 8, vocab_size, 0, true, true, dtype};
      SCOPED_TRACE(std::to_string(vocab_size) + " " + name_of(dtype));
      const Values hidden = random.normal(c.tokens * c.hidden_size, dtype);
      const Values weight = random.normal(c.vocab_size * c.hidden_size, dtype);
      const Values targets = {static_cast<double>(vocab_size - 1), kIgnoreIndex, 0};
      const Values before(weight.size(), 0.0);
      const reference::LinearCrossEntropyInputs in{c.tokens, c.hidden_size, vocab_size, 0.5, 0.125};
      const auto expected =
          reference::linear_cross_entropy<double>(in, hidden, weight, targets, no_rounding());
      const auto twin =
          reference::linear_cross_entropy<float>(in, hidden, weight, targets, rounding_to(dtype));
      const Fused actual = run_fused(stream(), c, hidden, weight, targets, before);
      expect_close(actual.losses, DType::f32, expected.losses, twin.losses, "loss");
      expect_equal(actual.argmax, expected.argmax, "argmax");
      expect_close(actual.d_hidden, dtype, expected.d_hidden, twin.d_hidden, "d_hidden");
      expect_close(actual.d_weight, dtype, expected.d_weight, twin.d_weight, "d_weight");
    }
  }
}

// Few targets among many tokens: in runs, alone, at both ends, and whole chunks without any. What
// is computed is that of the targets alone, in their order.
TEST_P(CrossEntropyTest, FewTargetsAmongManyTokens) {
  Random random(7);
  const int64_t tokens = 20011, hidden_size = 64, vocab_size = 72;
  for (DType dtype : kFloats) {
    Values targets(static_cast<size_t>(tokens), kIgnoreIndex);
    Values hidden(static_cast<size_t>(tokens * hidden_size), NAN);
    Values few_targets, few_hidden;
    std::vector<int64_t> rows = {0, 7, 8, 9, 8191, 8192, 8193, 16383, 16384, tokens - 1};
    for (int64_t row = 12000; row < 12100; ++row) rows.push_back(row);
    std::sort(rows.begin(), rows.end());
    for (int64_t row : rows) {
      const Values x = random.normal(hidden_size, dtype);
      std::copy(x.begin(), x.end(), hidden.begin() + row * hidden_size);
      few_hidden.insert(few_hidden.end(), x.begin(), x.end());
      targets[row] = random.integers(1, 0, vocab_size - 1)[0];
      few_targets.push_back(targets[row]);
    }
    const Values weight = random.normal(vocab_size * hidden_size, dtype);
    const Values before(weight.size(), 0.0);
    const auto count = static_cast<int64_t>(rows.size());
    for (int64_t chunk_rows : {int64_t{64}, int64_t{4096}}) {
      if (simulated() && chunk_rows == 64) continue;  // grids are for all tokens, on GPUs
      for (int capability : ClaimedCapability::all(simulated())) {
        const ClaimedCapability claimed(capability);
        const Case many{tokens, hidden_size, vocab_size, chunk_rows, true, true, dtype};
        const Case few{count, hidden_size, vocab_size, chunk_rows, true, true, dtype};
        const Fused actual = run_fused(stream(), many, hidden, weight, targets, before);
        const Fused expected = run_fused(stream(), few, few_hidden, weight, few_targets, before);
        EXPECT_EQ(actual.d_weight, expected.d_weight);
        Values losses(static_cast<size_t>(tokens), 0.0), argmax(static_cast<size_t>(tokens), -1.0);
        Values d_hidden(hidden.size(), 0.0);
        for (int64_t i = 0; i < count; ++i) {
          losses[rows[i]] = expected.losses[i];
          argmax[rows[i]] = expected.argmax[i];
          std::copy_n(expected.d_hidden.begin() + i * hidden_size, hidden_size,
                      d_hidden.begin() + rows[i] * hidden_size);
        }
        expect_equal(actual.losses, losses, "loss");
        expect_equal(actual.argmax, argmax, "argmax");
        expect_equal(actual.d_hidden, d_hidden, "d_hidden");
      }
    }
  }
}

TEST_P(CrossEntropyTest, NoTokens) {
  const Fused none =
      run_fused(stream(), {0, 5, 33, 0}, {}, Values(33 * 5, 1.0), {}, Values(33 * 5, 2.0));
  expect_equal(none.d_weight, Values(33 * 5, 2.0), "d_weight");
}

TEST_P(CrossEntropyTest, SameBitsOnAnyThreadCount) {
  Random random(5);
  for (DType dtype : kFloats) {
    std::vector<Case> cases = {{70, 40, 1100, 32, true, true, dtype}};
    if (on_gpu()) cases.push_back({600, 256, 8000, 320, true, true, dtype});
    for (const Case& c : cases) {
      const Values hidden = random.normal(c.tokens * c.hidden_size, dtype);
      const Values weight = random.normal(c.vocab_size * c.hidden_size, dtype);
      const Values targets = some_targets(random, c.tokens, c.vocab_size);
      const Values before(static_cast<size_t>(c.vocab_size * c.hidden_size), 0.0);
      const auto body = [&] {
        return run_fused(stream(), c, hidden, weight, targets, before).bytes;
      };
      expect_same_on_any_thread_count(body);
      expect_repeatable(stream(), body);
    }
  }
}

TEST(LinearCrossEntropyChunk, IsAMultipleOf64ThatFits) {
  EXPECT_EQ(linear_cross_entropy_chunk_rows(10, 100), 64);
  EXPECT_EQ(linear_cross_entropy_chunk_rows(100000, int64_t{1} << 40), 64);
  for (int64_t vocab : {100, 32000, 50257, 256000}) {
    const int64_t rows = linear_cross_entropy_chunk_rows(1 << 20, vocab);
    EXPECT_EQ(rows % 64, 0);
    EXPECT_GE(rows, 64);
    EXPECT_LE(rows * vocab * static_cast<int64_t>(sizeof(float)), int64_t{256} << 20);
  }
  // 1280 rows fit, but two chunks are needed either way
  EXPECT_EQ(linear_cross_entropy_chunk_rows(2048, 50257), 1024);
}

}  // namespace
}  // namespace engine::kernels::testing
