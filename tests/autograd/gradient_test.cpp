// Every operation of engine/autograd/ops.h against central differences of its own forward, on every
// device.
#include "tests/autograd/support.h"

namespace engine::testing {
namespace {

using kernels::Activation;
using kernels::NormKind;

class Gradient : public ::testing::TestWithParam<kernels::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Devices, Gradient, ::testing::ValuesIn(test_devices()), device_name);

TEST_P(Gradient, Embedding) {
  GradientCheck c(GetParam());
  Parameter& table = c.parameter("table", {6, 5});
  Parameter& positions = c.parameter("positions", {4, 5});
  c.fill();
  // Ids and positions that come more than once, and some that do not come.
  const Tensor ids = c.integers({3, 1, 3, 0, 5, 3}), at = c.integers({0, 1, 2, 0, 1, 2});
  const auto program = [&](Graph& graph, const std::vector<Variable>&) {
    return Outputs{{embedding(graph, {.ids = ids,
                                      .positions = at,
                                      .table = &table,
                                      .position_table = &positions,
                                      .scale = 1.5f})},
                   {}};
  };
  c.check(program);
  // The row of a padding token gets nothing, the others the same as before.
  std::vector<float> expected = c.by_tape(program).parameters[0];
  for (int i = 0; i < 5; ++i) {
    EXPECT_NE(expected[3 * 5 + i], 0);
    expected[3 * 5 + i] = 0;
  }
  table.padding_row = 3;
  EXPECT_EQ(c.by_tape(program).parameters[0], expected);
}

TEST_P(Gradient, LinearInBothLayouts) {
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    for (const bool with_bias : {true, false}) {
      GradientCheck c(GetParam());
      Parameter& weight =
          c.parameter("weight", layout == WeightLayout::out_in ? Shape{7, 5} : Shape{5, 7});
      Parameter* bias = with_bias ? &c.parameter("bias", {7}) : nullptr;
      c.fill();
      c.input({3, 5});
      c.check([&](Graph& graph, const std::vector<Variable>& x) {
        return Outputs{{linear(graph, x[0], weight, bias, layout)}, {}};
      });
    }
  }
}

TEST_P(Gradient, Norms) {
  for (const NormKind kind : {NormKind::rms_llama, NormKind::rms_gemma, NormKind::layer_norm}) {
    for (const bool with_delta : {true, false}) {
      GradientCheck c(GetParam());
      const bool layer_norm = kind == NormKind::layer_norm;
      const NormParameters norm{.kind = kind,
                                .weight = &c.parameter("weight", {6}),
                                .bias = layer_norm ? &c.parameter("bias", {6}) : nullptr};
      c.fill();
      c.input({4, 6});
      if (with_delta) c.input({4, 6});
      c.check([&](Graph& graph, const std::vector<Variable>& x) {
        const Normed out = add_norm(graph, x[0], with_delta ? x[1] : Variable(), norm);
        return Outputs{{out.residual, out.y}, {}};
      });
      // Only one of the two results is used: the other has no gradient.
      c.check([&](Graph& graph, const std::vector<Variable>& x) {
        return Outputs{{add_norm(graph, x[0], with_delta ? x[1] : Variable(), norm).y}, {}};
      });
    }
  }
}

TEST_P(Gradient, RopeAndAttention) {
  for (const bool causal : {true, false}) {
    for (const int window : {0, 2}) {
      if (!causal && window > 0) continue;
      for (const float dropout : {0.0f, 0.3f}) {
        GradientCheck c(GetParam());
        constexpr int kHeads = 4, kKvHeads = 2, kHeadDim = 4, kTokens = 7;
        c.input({kTokens, (kHeads + 2 * kKvHeads) * kHeadDim});
        const Tensor positions = c.integers({0, 1, 2, 3, 0, 1, 2});
        std::vector<float> cos, sin;
        for (int p = 0; p < 4; ++p) {
          for (int i = 0; i < kHeadDim / 2; ++i) {
            cos.push_back(std::cos(p / std::pow(10.0f, i)));
            sin.push_back(std::sin(p / std::pow(10.0f, i)));
          }
        }
        RopeTable table{c.runtime.transient({4, kHeadDim / 2}, DType::f32),
                        c.runtime.transient({4, kHeadDim / 2}, DType::f32)};
        c.runtime.upload(table.cos, cos.data());
        c.runtime.upload(table.sin, sin.data());
        const Sequences sequences = c.sequences({0, 4, 7});
        c.check([&](Graph& graph, const std::vector<Variable>& x) {
          const Variable qkv = rope(graph, x[0], positions, table, kHeads + kKvHeads, kHeadDim);
          return Outputs{{self_attention(graph, qkv,
                                         {.num_heads = kHeads,
                                          .num_kv_heads = kKvHeads,
                                          .head_dim = kHeadDim,
                                          .scale = 0.5f,
                                          .causal = causal,
                                          .window = window,
                                          .dropout = dropout},
                                         sequences)},
                         {}};
        });
      }
    }
  }
}

// Queries and keys from lists of their own; sequences of one that are longer or shorter than the
// other's.
TEST_P(Gradient, CrossAttention) {
  for (const float dropout : {0.0f, 0.3f}) {
    GradientCheck c(GetParam());
    constexpr int kHeads = 4, kKvHeads = 2, kHeadDim = 4;
    c.input({6, kHeads * kHeadDim});
    c.input({7, 2 * kKvHeads * kHeadDim});
    const Sequences queries = c.sequences({0, 2, 6}), keys = c.sequences({0, 5, 7});
    c.check([&](Graph& graph, const std::vector<Variable>& x) {
      return Outputs{{cross_attention(graph, x[0], x[1],
                                      {.num_heads = kHeads,
                                       .num_kv_heads = kKvHeads,
                                       .head_dim = kHeadDim,
                                       .scale = 0.5f,
                                       .causal = false,
                                       .dropout = dropout},
                                      queries, keys)},
                     {}};
    });
  }
}

// A table of biases that two layers share: their gradients add up.
TEST_P(Gradient, DistanceBias) {
  for (const bool causal : {true, false}) {
    GradientCheck c(GetParam());
    constexpr int kHeads = 2, kHeadDim = 4, kBuckets = 3;
    Parameter& table = c.parameter("table", {kBuckets, kHeads});
    c.fill();
    c.input({7, 3 * kHeads * kHeadDim});
    c.input({7, 3 * kHeads * kHeadDim});
    // Distances -5 .. 5, of which 4 tokens need -3 .. 3, in buckets 2 1 1 0 0 0 1 1 2 2 2.
    constexpr int kDistances = 11;
    constexpr int kBucketOf[kDistances] = {2, 1, 1, 0, 0, 0, 1, 1, 2, 2, 2};
    std::vector<float> one_hot(kBuckets * kDistances);
    for (int i = 0; i < kDistances; ++i) one_hot[kBucketOf[i] * kDistances + i] = 1.0f;
    const DistanceBuckets buckets{c.runtime.transient({kBuckets, kDistances}, DType::f32), -5};
    c.runtime.upload(buckets.one_hot, one_hot.data());
    const Sequences sequences = c.sequences({0, 4, 7});
    c.check([&](Graph& graph, const std::vector<Variable>& x) {
      const AttentionConfig config{
          .num_heads = kHeads,
          .num_kv_heads = kHeads,
          .head_dim = kHeadDim,
          .scale = 0.5f,
          .causal = causal,
          .bias = distance_bias(graph, table, buckets, -3, causal ? 4 : 7)};
      return Outputs{{self_attention(graph, x[0], config, sequences),
                      self_attention(graph, x[1], config, sequences)},
                     {}};
    });
  }
}

TEST_P(Gradient, Activations) {
  for (const Activation kind : {Activation::gelu_erf, Activation::gelu_tanh, Activation::silu}) {
    for (const bool gated : {false, true}) {
      GradientCheck c(GetParam());
      c.input({3, 8});
      c.check([&](Graph& graph, const std::vector<Variable>& x) {
        return Outputs{{activation(graph, x[0], kind, gated)}, {}};
      });
    }
  }
}

TEST_P(Gradient, DropoutDrawsTheSameMaskBackward) {
  GradientCheck c(GetParam());
  c.input({16, 8});
  const auto program = [&](Graph& graph, const std::vector<Variable>& x) {
    return Outputs{{dropout(graph, x[0], 0.4f)}, {}};
  };
  c.check(program);
  const std::vector<float> gradient = c.by_tape(program).inputs[0];
  const int64_t dropped = std::count(gradient.begin(), gradient.end(), 0.0f);
  EXPECT_GT(dropped, 128 * 0.2);
  EXPECT_LT(dropped, 128 * 0.6);
  // Off when not training.
  const std::vector<float> off = c.by_tape(program, {.training = false}).inputs[0];
  EXPECT_EQ(std::count(off.begin(), off.end(), 0.0f), 0);
}

TEST_P(Gradient, GatherRows) {
  GradientCheck c(GetParam());
  c.input({5, 4});
  const Tensor rows = c.integers({4, 1});
  c.check([&](Graph& graph, const std::vector<Variable>& x) {
    return Outputs{{gather_rows(graph, x[0], rows)}, {}};
  });
}

TEST_P(Gradient, CrossEntropyWithIgnoredRows) {
  GradientCheck c(GetParam());
  c.input({4, 5});
  const Tensor targets = c.integers({2, -100, 0, 4});
  const auto program = [&](Graph& graph, const std::vector<Variable>& x) {
    return Outputs{{}, {cross_entropy(graph, x[0], targets, {.grad_scale = kLossScale}).losses}};
  };
  c.check(program);
  const std::vector<float> gradient = c.by_tape(program).inputs[0];
  for (int i = 5; i < 10; ++i) EXPECT_EQ(gradient[i], 0) << "the ignored row";
}

TEST_P(Gradient, LinearCrossEntropyWithIgnoredRows) {
  GradientCheck c(GetParam());
  Parameter& head = c.parameter("head", {9, 6});
  c.fill();
  c.input({5, 6});
  const Tensor targets = c.integers({2, -100, 0, 8, -100});
  const auto program = [&](Graph& graph, const std::vector<Variable>& x) {
    const CrossEntropyOptions options{.logit_scale = 0.7f, .grad_scale = kLossScale};
    return Outputs{{}, {linear_cross_entropy(graph, x[0], head, targets, options).losses}};
  };
  c.check(program);
  const std::vector<float> gradient = c.by_tape(program).inputs[0];
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(gradient[6 + i], 0);
    EXPECT_EQ(gradient[24 + i], 0);
  }
}

// --- Values that are used more than once
// ----------------------------------------------------------

TEST_P(Gradient, OfAValueUsedTwiceIsTheSum) {
  GradientCheck c(GetParam());
  Parameter& a = c.parameter("a", {4, 4});
  Parameter& b = c.parameter("b", {4, 4});
  c.fill();
  c.input({3, 4});
  const Tensor rows = c.integers({2, 0, 1});
  c.check([&](Graph& graph, const std::vector<Variable>& x) {
    const Variable y = linear(graph, x[0], a, nullptr);
    // y four times: in two products (one by the weight that made it), gathered, and added.
    const Variable sum = add(graph, linear(graph, y, b, nullptr), linear(graph, y, a, nullptr));
    return Outputs{{add(graph, add(graph, sum, gather_rows(graph, y, rows)), y)}, {}};
  });
}

// An addition hands one tensor to both its inputs. Backwards that work in place must not write into
// what the other input still needs.
TEST_P(Gradient, SharedByTheInputsOfAnAddition) {
  GradientCheck c(GetParam());
  c.input({4, 8});
  c.input({4, 8});
  const Tensor positions = c.integers({0, 1, 2, 3});
  RopeTable table{c.runtime.transient({4, 2}, DType::f32), c.runtime.transient({4, 2}, DType::f32)};
  std::vector<float> cos, sin;
  for (int i = 0; i < 8; ++i) {
    cos.push_back(std::cos(0.3f * static_cast<float>(i)));
    sin.push_back(std::sin(0.3f * static_cast<float>(i)));
  }
  c.runtime.upload(table.cos, cos.data());
  c.runtime.upload(table.sin, sin.data());
  c.check([&](Graph& graph, const std::vector<Variable>& x) {
    const Variable dropped = dropout(graph, x[0], 0.5f);
    const Variable rotated = rope(graph, x[1], positions, table, 2, 4);
    return Outputs{{add(graph, dropped, rotated)}, {}};
  });
  c.check([&](Graph& graph, const std::vector<Variable>& x) {
    // The result's own gradient is kept by a second use of it.
    const Variable sum = add(graph, x[0], dropout(graph, x[1], 0.5f));
    return Outputs{{add(graph, dropout(graph, sum, 0.25f), sum)}, {}};
  });
}

// The same with a norm, whose backward would like to write over the residual's gradient.
TEST_P(Gradient, OfAResidualSharedWithALeaf) {
  GradientCheck c(GetParam());
  const NormParameters norm{.kind = NormKind::rms_llama, .weight = &c.parameter("weight", {4})};
  c.fill();
  for (int i = 0; i < 3; ++i) c.input({3, 4});
  c.check([&](Graph& graph, const std::vector<Variable>& x) {
    const Normed out = add_norm(graph, x[0], x[1], norm);
    return Outputs{{add(graph, out.residual, x[2]), out.y}, {}};
  });
}

TEST_P(Gradient, OfAValueAddedToItself) {
  GradientCheck c(GetParam());
  const NormParameters norm{.kind = NormKind::rms_llama, .weight = &c.parameter("weight", {4})};
  c.fill();
  c.input({3, 4});
  c.check([&](Graph& graph, const std::vector<Variable>& x) {
    const Variable twice = add(graph, x[0], x[0]);
    const Normed out = add_norm(graph, twice, twice, norm);
    return Outputs{{out.residual, out.y}, {}};
  });
}

// Two blocks of a pre-norm transformer, in which residual and delta share gradients all along.
TEST_P(Gradient, ResidualStream) {
  GradientCheck c(GetParam());
  Parameter& up = c.parameter("up", {8, 4});
  Parameter& down = c.parameter("down", {4, 8});
  const NormParameters norm{.kind = NormKind::layer_norm,
                            .weight = &c.parameter("weight", {4}),
                            .bias = &c.parameter("bias", {4})};
  c.fill();
  c.input({3, 4});
  const auto program = [&](Graph& graph, const std::vector<Variable>& x) {
    Variable residual = x[0], delta;
    for (int block = 0; block < 2; ++block) {
      const Normed in = add_norm(graph, residual, delta, norm);
      const Variable hidden =
          activation(graph, linear(graph, in.y, up, nullptr), Activation::gelu_tanh, false);
      delta = dropout(graph, linear(graph, hidden, down, nullptr), 0.1f);
      graph.discard(in.y);
      graph.discard(hidden);
      residual = in.residual;
    }
    const Normed out = add_norm(graph, residual, delta, norm);
    return Outputs{{out.y}, {}};
  };
  c.check(program);
  // Making values again gives the same bits.
  const auto kept = c.by_tape(program),
             again = c.by_tape(program, {.recompute = RecomputePolicy::norms});
  EXPECT_EQ(kept.inputs, again.inputs);
  EXPECT_EQ(kept.parameters, again.parameters);
}

TEST_P(Gradient, FrozenParametersGetNoneAndChangeNothingElse) {
  const auto run = [](bool frozen) {
    GradientCheck c(GetParam());
    Parameter& table = c.parameter("table", {5, 4});
    Parameter& weight = c.parameter("weight", {4, 4});
    Parameter& bias = c.parameter("bias", {4});
    const NormParameters norm{.kind = NormKind::layer_norm,
                              .weight = &c.parameter("norm.weight", {4}),
                              .bias = &c.parameter("norm.bias", {4})};
    Parameter& last = c.parameter("last", {4, 4});
    Parameter& head = c.parameter("head", {5, 4});
    for (Parameter* p : {&weight, &bias, norm.weight, norm.bias, &head}) p->trainable = !frozen;
    c.fill();
    const Tensor ids = c.integers({1, 0, 4}), targets = c.integers({0, 4, 2});
    return c.by_tape([&](Graph& graph, const std::vector<Variable>&) {
      const Variable x = embedding(graph, {.ids = ids, .table = &table});
      const Variable y = linear(graph, x, weight, &bias);
      const Variable z = linear(graph, add_norm(graph, x, y, norm).y, last, nullptr);
      linear_cross_entropy(graph, z, head, targets, {});
      return Outputs{};
    });
  };
  const auto all = run(false), some = run(true);
  ASSERT_EQ(all.parameters.size(), 7u);
  for (const size_t i : {0, 5}) {  // table, last
    EXPECT_EQ(some.parameters[i], all.parameters[i]);
    EXPECT_FALSE(all.parameters[i].empty());
  }
  for (const size_t i : {1, 2, 3, 4, 6}) EXPECT_TRUE(some.parameters[i].empty());
}

TEST_P(Gradient, OfParametersAddsUpOverMicroBatches) {
  GradientCheck c(GetParam());
  Parameter& weight = c.parameter("weight", {4, 4});
  c.fill();
  c.input({3, 4});
  const auto program = [&](Graph& graph, const std::vector<Variable>& x) {
    return Outputs{{linear(graph, x[0], weight, nullptr)}, {}};
  };
  const std::vector<float> once = c.by_tape(program).parameters[0];
  const std::vector<float> twice =
      c.by_tape([&](Graph& graph, const std::vector<Variable>& x) {
         Graph other(c.runtime, {});
         const Variable input = other.constant(x[0].tensor());
         const Variable y = linear(other, input, weight, nullptr);
         Tensor weights = c.runtime.transient(y.shape(), DType::f32);
         c.runtime.upload(weights, numbers(weights.count(), 77).data());
         other.accumulate(*y.grad, std::move(weights));
         other.backward();
         EXPECT_FALSE(input.grad->tensor) << "a constant needs no gradient";
         return program(graph, x);
       }).parameters[0];
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(twice[i], 2 * once[i]);
}

}  // namespace
}  // namespace engine::testing
