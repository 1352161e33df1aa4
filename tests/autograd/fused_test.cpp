// Layers whose products end in an activation or a residual: their gradients, and that they are the
// operations one after the other to the last bit, under every precision and recompute policy.
#include "tests/autograd/support.h"

namespace engine::testing {
namespace {

using kernels::Activation;

class Fused : public ::testing::TestWithParam<kernels::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Devices, Fused, ::testing::ValuesIn(test_devices()), device_name);

constexpr Activation kActivations[] = {Activation::gelu_erf, Activation::gelu_tanh,
                                       Activation::silu, Activation::relu};

// A feed-forward block with its parameters, of some widths.
FeedForward make_block(ParameterSet& parameters, WeightLayout layout, bool gated, bool bias,
                       Activation activation, int64_t hidden, int64_t width) {
  const auto matrix = [&](const char* name, int64_t out, int64_t in) {
    return &parameters.add(name, layout == WeightLayout::out_in ? Shape{out, in} : Shape{in, out},
                           Initializer::zeros());
  };
  const auto vector = [&](const char* name, int64_t count) {
    return bias ? &parameters.add(name, {count}, Initializer::zeros()) : nullptr;
  };
  const int64_t up = gated ? 2 * width : width;
  return {.up = matrix("up", up, hidden),
          .up_bias = vector("up_bias", up),
          .down = matrix("down", hidden, width),
          .down_bias = vector("down_bias", hidden),
          .layout = layout,
          .activation = activation,
          .gated = gated};
}

TEST_P(Fused, Gradients) {
  int turn = 0;
  for (const WeightLayout layout : {WeightLayout::out_in, WeightLayout::in_out}) {
    for (const bool gated : {true, false}) {
      for (const bool with_residual : {true, false}) {
        GradientCheck c(GetParam());
        ++turn;
        const FeedForward block =
            make_block(c.parameters, layout, gated, turn % 2 == 0, kActivations[turn % 4], 5, 6);
        c.fill();
        c.input({4, 5});
        if (with_residual) c.input({4, 5});
        c.check([&](Graph& graph, const std::vector<Variable>& x) {
          return Outputs{{feed_forward(graph, with_residual ? x[1] : Variable(), x[0], block)}, {}};
        });
      }
    }
    GradientCheck c(GetParam());
    Parameter& weight =
        c.parameter("weight", layout == WeightLayout::out_in ? Shape{7, 5} : Shape{5, 7});
    Parameter& bias = c.parameter("bias", {7});
    c.fill();
    c.input({3, 5});
    c.input({3, 7});
    c.check([&](Graph& graph, const std::vector<Variable>& x) {
      return Outputs{{linear_add(graph, x[1], x[0], weight, &bias, layout)}, {}};
    });
  }
}

// What a block gives and sends backward, as it is stored.
struct Bits {
  std::vector<float> y, d_x, d_residual;
  std::vector<std::vector<float>> parameters;
  bool operator==(const Bits&) const = default;
};

struct Setting {
  PrecisionPolicy precision;
  RecomputePolicy recompute = RecomputePolicy::none;
  bool gated = true, bias = false, freeze_up = false, freeze_down = false;
  WeightLayout layout = WeightLayout::out_in;
  Activation activation = Activation::silu;
  bool post_norm = false;  // the block reads a norm, and adds to it
  float dropout = 0.0f;    // of the activation's result
};

Bits run(kernels::DeviceType device, const Setting& setting, bool fused) {
  constexpr int64_t kTokens = 70, kHidden = 72, kWidth = 136;
  Runtime runtime(device);
  ParameterSet parameters;
  FeedForward block = make_block(parameters, setting.layout, setting.gated, setting.bias,
                                 setting.activation, kHidden, kWidth);
  block.dropout = setting.dropout;
  const NormParameters norm{.weight = &parameters.add("norm", {kHidden}, Initializer::ones())};
  Parameter& out = parameters.add("out", {kHidden, kHidden}, Initializer::zeros());
  block.up->trainable = !setting.freeze_up;
  block.down->trainable = !setting.freeze_down;
  parameters.allocate(runtime, setting.precision, ParameterSet::Purpose::training);
  uint64_t seed = 1;
  for (const auto& p : parameters) {
    std::vector<float> values = numbers(p->count(), ++seed);
    for (float& value : values) value *= 0.2f;
    for (const ParameterPart& part : p->parts) parameters.assign(runtime, *p, part, values.data());
    if (p->grad) runtime.zero(p->grad);
  }
  Graph graph(runtime,
              {.recompute = setting.recompute, .dropout_seed = 5, .precision = setting.precision});
  const auto input = [&](DType dtype, uint64_t from) {
    Tensor values = runtime.transient({kTokens, kHidden}, DType::f32);
    runtime.upload(values, numbers(values.count(), from).data());
    Tensor tensor = runtime.transient({kTokens, kHidden}, dtype);
    graph.ops().cast(graph.stream(), {.x = values.data(),
                                      .out = tensor.data(),
                                      .count = values.count(),
                                      .from = DType::f32,
                                      .to = dtype});
    return tensor;
  };
  const auto read = [&](const Tensor& tensor) {
    if (!tensor) return std::vector<float>{};
    Tensor values = runtime.transient(tensor.shape(), DType::f32);
    graph.ops().cast(graph.stream(), {.x = tensor.data(),
                                      .out = values.data(),
                                      .count = values.count(),
                                      .from = tensor.dtype(),
                                      .to = DType::f32});
    return runtime.download(values);
  };
  const DType compute = setting.precision.compute, residual = setting.precision.residual;
  const Variable x = graph.result(input(compute, 100)), r = graph.result(input(residual, 200));
  Bits bits;
  {
    Variable y, middle = fused ? linear_add(graph, r, x, out, nullptr)
                               : add(graph, r, linear(graph, x, out, nullptr));
    if (setting.post_norm) middle = add_norm(graph, middle, {}, norm).y;
    const Variable input_of_block = setting.post_norm ? middle : x;
    if (fused) {
      y = feed_forward(graph, middle, input_of_block, block);
    } else {
      const Variable up = linear(graph, input_of_block, *block.up, block.up_bias, block.layout);
      const Variable hidden =
          dropout(graph, activation(graph, up, block.activation, block.gated), block.dropout);
      const Variable down = linear(graph, hidden, *block.down, block.down_bias, block.layout);
      graph.discard(hidden);
      y = add(graph, middle, down);
    }
    bits.y = read(y.tensor());
    graph.accumulate(*y.grad, input(y.tensor().dtype(), 300));
  }
  graph.backward();
  bits.d_x = read(x.grad->tensor);
  bits.d_residual = read(r.grad->tensor);
  for (const auto& p : parameters) bits.parameters.push_back(read(p->grad));
  return bits;
}

TEST_P(Fused, BitsOfTheOperationsAlone) {
  std::vector<Setting> settings;
  for (const PrecisionPolicy precision :
       {PrecisionPolicy::fp32(), PrecisionPolicy::fp32_as_tf32(), PrecisionPolicy::bf16(),
        PrecisionPolicy::bf16_residual_fp32()}) {
    settings.push_back({.precision = precision});
  }
  const PrecisionPolicy bf16 = PrecisionPolicy::bf16();
  settings.push_back({.precision = bf16, .recompute = RecomputePolicy::norms});
  settings.push_back({.precision = bf16, .gated = false, .bias = true});
  settings.push_back(
      {.precision = bf16, .gated = false, .bias = true, .layout = WeightLayout::in_out});
  settings.push_back({.precision = bf16, .freeze_up = true});
  settings.push_back({.precision = bf16, .freeze_down = true});
  // As in T5 and RoBERTa. ReLU's input is not kept.
  for (const RecomputePolicy recompute : {RecomputePolicy::none, RecomputePolicy::norms}) {
    for (const float dropout : {0.0f, 0.3f}) {
      for (const bool gated : {false, true}) {
        settings.push_back({.precision = bf16,
                            .recompute = recompute,
                            .gated = gated,
                            .activation = Activation::relu,
                            .dropout = dropout});
      }
      settings.push_back({.precision = dropout > 0 ? PrecisionPolicy::fp32() : bf16,
                          .recompute = recompute,
                          .gated = false,
                          .bias = true,
                          .activation = Activation::gelu_erf,
                          .post_norm = true,
                          .dropout = dropout});
    }
  }
  for (size_t i = 0; i < settings.size(); ++i) {
    SCOPED_TRACE("setting " + std::to_string(i));
    const Bits fused = run(GetParam(), settings[i], true);
    const Bits alone = run(GetParam(), settings[i], false);
    EXPECT_TRUE(fused.y == alone.y);
    EXPECT_TRUE(fused.d_x == alone.d_x);
    EXPECT_TRUE(fused.d_residual == alone.d_residual);
    EXPECT_TRUE(fused.parameters == alone.parameters);
    double sum = 0;
    for (float g : fused.d_x) sum += std::abs(g);
    EXPECT_GT(sum, 1.0);
  }
}

}  // namespace
}  // namespace engine::testing
