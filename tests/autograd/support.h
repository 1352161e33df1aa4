// Programs of engine/autograd operations and their gradients: those of the tape, and central
// differences of what the same program computes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "engine/autograd/ops.h"
#include "tests/support/devices.h"

namespace engine::testing {

// What a program leaves: values whose weighted sum is differentiated, and losses that sent their
// own gradient (times kLossScale) backward already.
struct Outputs {
  std::vector<Variable> values;
  std::vector<Tensor> losses;
};
inline constexpr float kLossScale = 0.5f;

// Numbers in (-1, 1) that depend on the seed and the index alone.
inline std::vector<float> numbers(int64_t count, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = 2.0f * kernels::philox_uniform(seed, i) - 1.0f;
  }
  return values;
}

class GradientCheck {
 public:
  using Program = std::function<Outputs(Graph& graph, const std::vector<Variable>& inputs)>;

  explicit GradientCheck(kernels::DeviceType device) : runtime(device) {}

  Parameter& parameter(const std::string& name, const Shape& shape) {
    return parameters.add(name, shape, Initializer::zeros());
  }
  // Call once, after the parameters.
  void fill() {
    parameters.allocate(runtime, PrecisionPolicy::fp32(), ParameterSet::Purpose::training);
    uint64_t seed = 1000;
    for (const auto& p : parameters) {
      parameter_values.push_back(numbers(p->count(), ++seed));
      runtime.upload(p->value, parameter_values.back().data());
    }
  }
  void input(const Shape& shape) { input_shapes.push_back(shape); }
  Tensor integers(const std::vector<int32_t>& values) {
    return runtime.upload_vector(values, kernels::DType::i32);
  }
  Sequences sequences(const std::vector<int32_t>& cu_seqlens) {
    Sequences out{integers(cu_seqlens), static_cast<int>(cu_seqlens.size()) - 1, 0,
                  cu_seqlens.back()};
    for (size_t s = 1; s < cu_seqlens.size(); ++s) {
      out.max_length = std::max(out.max_length, cu_seqlens[s] - cu_seqlens[s - 1]);
    }
    return out;
  }

  struct Gradients {
    std::vector<std::vector<float>> inputs, parameters;  // empty where there is none
  };

  // Gradients by the tape. Those of the parameters are zeroed before.
  Gradients by_tape(const Program& program, Graph::Options options = {}) {
    fill_inputs();
    for (const auto& p : parameters) {
      if (p->grad) runtime.zero(p->grad);
    }
    Graph graph(runtime, options);
    const std::vector<Variable> inputs = upload(graph);
    {
      const Outputs outputs = program(graph, inputs);
      for (size_t i = 0; i < outputs.values.size(); ++i) {
        const Variable& y = outputs.values[i];
        Tensor weights = runtime.transient(y.tensor().shape(), y.tensor().dtype());
        runtime.upload(weights, numbers(weights.count(), 77 + i).data());
        graph.accumulate(*y.grad, std::move(weights));
      }
    }
    graph.backward();
    Gradients out;
    for (const Variable& x : inputs) {
      out.inputs.push_back(x.grad->tensor ? runtime.download(x.grad->tensor)
                                          : std::vector<float>{});
    }
    for (const auto& p : parameters) {
      out.parameters.push_back(p->grad ? runtime.download(p->grad) : std::vector<float>{});
    }
    return out;
  }

  // The weighted sum itself, in fp64.
  double value(const Program& program) {
    Graph graph(runtime, {.record = false});
    const Outputs outputs = program(graph, upload(graph));
    double sum = 0;
    for (size_t i = 0; i < outputs.values.size(); ++i) {
      const std::vector<float> y = runtime.download(outputs.values[i].tensor());
      const std::vector<float> weights = numbers(static_cast<int64_t>(y.size()), 77 + i);
      for (size_t j = 0; j < y.size(); ++j) sum += double{y[j]} * weights[j];
    }
    for (const Tensor& losses : outputs.losses) {
      for (const float loss : runtime.download(losses)) sum += double{kLossScale} * loss;
    }
    return sum;
  }

  // Compares the two; on the software GPU a sample of the differences. An fp32 forward is off by
  // some 1e-6 of its sum, over 2h that is 1e-4; the third derivatives add h² = 6e-5 of their size.
  // Gradients here are of size 1.
  void check(const Program& program) {
    const Gradients tape = by_tape(program);
    for (size_t i = 0; i < input_values.size(); ++i) {
      ASSERT_EQ(tape.inputs[i].size(), input_values[i].size()) << "no gradient of input " << i;
      compare(program, tape.inputs[i], "input " + std::to_string(i),
              [&](size_t j, float change) { input_values[i][j] += change; });
    }
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!parameters[i].trainable) continue;
      ASSERT_EQ(tape.parameters[i].size(), parameter_values[i].size()) << parameters[i].name();
      compare(program, tape.parameters[i], parameters[i].name(), [&](size_t j, float change) {
        parameter_values[i][j] += change;
        runtime.upload(parameters[i].value, parameter_values[i].data());
      });
    }
  }

  Runtime runtime;
  ParameterSet parameters;
  std::vector<Shape> input_shapes;
  std::vector<std::vector<float>> input_values, parameter_values;

 private:
  static constexpr float kStep = 1.0f / 128;  // exact in binary

  void fill_inputs() {
    if (!input_values.empty()) return;
    for (size_t i = 0; i < input_shapes.size(); ++i) {
      input_values.push_back(numbers(input_shapes[i].count(), 500 + i));
    }
  }

  std::vector<Variable> upload(Graph& graph) {
    std::vector<Variable> inputs;
    for (size_t i = 0; i < input_shapes.size(); ++i) {
      Tensor tensor = runtime.transient(input_shapes[i], kernels::DType::f32);
      runtime.upload(tensor, input_values[i].data());
      inputs.push_back(graph.result(std::move(tensor)));
    }
    return inputs;
  }

  // Relative error of the tape's gradient against differences; `change` adds to one coordinate.
  void compare(const Program& program, const std::vector<float>& gradient, const std::string& what,
               const std::function<void(size_t, float)>& change) {
    constexpr size_t kSample = 12;
    const bool sampled = runtime.stream().device == kernels::DeviceType::simt;
    // A step prime to most sizes, so that all columns have their turn.
    const size_t step = sampled ? std::max<size_t>(1, gradient.size() / kSample) | 1 : 1;
    std::vector<float> tape, numeric;
    for (size_t j = 0; j < gradient.size(); j += step) {
      change(j, kStep);
      const double above = value(program);
      change(j, -2 * kStep);
      const double below = value(program);
      change(j, kStep);
      numeric.push_back(static_cast<float>((above - below) / (2 * kStep)));
      tape.push_back(gradient[j]);
    }
    expect_near(tape, numeric, what);
  }

  static void expect_near(const std::vector<float>& tape, const std::vector<float>& numeric,
                          const std::string& what) {
    double difference = 0, norm = 0;
    for (size_t j = 0; j < tape.size(); ++j) {
      difference += std::pow(double{tape[j]} - numeric[j], 2);
      norm += std::pow(double{numeric[j]}, 2);
    }
    EXPECT_GT(norm, 0) << what << ": a gradient of zero tests nothing";
    EXPECT_LE(std::sqrt(difference / norm), 1e-3) << what;
  }
};

}  // namespace engine::testing
