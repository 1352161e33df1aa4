// Trainable tensors of a model, with their master copy, gradient and optimizer state.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/tensor.h"

namespace engine {

// What each kind of value is stored as (design idea 8).
struct PrecisionPolicy {
  DType compute = DType::f32;   // weights used by matmuls, and activations
  DType residual = DType::f32;  // the residual stream
  bool tf32 = false;  // fp32 products may round their inputs to TF32 (kernels/api/matmul.h)
  // fp32 masters of bf16 parameters. Without them an update is rounded to bf16 at random
  // (kernels/api/optimizer.h). Moments and gradient accumulation are fp32 always.
  bool masters = true;
  static PrecisionPolicy fp32() { return {}; }
  static PrecisionPolicy fp32_as_tf32() { return {.tf32 = true}; }
  static PrecisionPolicy bf16() { return {DType::bf16, DType::bf16}; }
  static PrecisionPolicy bf16_residual_fp32() { return {DType::bf16, DType::f32}; }
  PrecisionPolicy without_masters() const {
    PrecisionPolicy policy = *this;
    policy.masters = false;
    return policy;
  }
};

// How a parameter is filled when training from scratch.
struct Initializer {
  enum class Kind : uint8_t { constant, normal } kind = Kind::constant;
  float value = 0.0f;  // the constant, or the standard deviation
  static Initializer constant(float value) { return {Kind::constant, value}; }
  static Initializer zeros() { return constant(0.0f); }
  static Initializer ones() { return constant(1.0f); }
  static Initializer normal(float stddev) { return {Kind::normal, stddev}; }
};

// A tensor of the checkpoint inside a parameter. Llama's q, k and v are three tensors there and
// one matrix [(H+2K)·D, hidden] here, so that one matmul makes all three.
struct ParameterPart {
  std::string name;    // HF tensor name
  Shape shape;         // as stored in the checkpoint
  int64_t offset = 0;  // elements from the start of the parameter
  Initializer init;
};

struct Parameter {
  std::vector<ParameterPart> parts;
  Shape shape;
  bool is_layer_norm = false;  // HF's decay rule goes by module type too
  bool trainable = true;
  int64_t padding_row = -1;  // embedding row whose lookup gradient is always zero

  Tensor value;   // compute dtype; the master itself under fp32
  Tensor master;  // fp32; empty for inference, and where the policy has none
  Tensor grad;    // fp32, accumulated over the micro-batches of a step
  Tensor m, v;    // AdamW moments, fp32

  const std::string& name() const { return parts.front().name; }
  int64_t count() const { return shape.count(); }
};

// The parameters of one model, in checkpoint order. Addresses are stable.
class ParameterSet {
 public:
  // One tensor of the checkpoint.
  Parameter& add(std::string name, Shape shape, Initializer init);
  // Several matrices with the same number of columns, stacked by rows (or vectors, end to end).
  Parameter& add_stacked(std::vector<ParameterPart> parts);

  size_t size() const { return parameters_.size(); }
  Parameter& operator[](size_t i) { return *parameters_[i]; }
  const Parameter& operator[](size_t i) const { return *parameters_[i]; }
  auto begin() const { return parameters_.begin(); }
  auto end() const { return parameters_.end(); }
  int64_t count() const;  // elements, each once

  enum class Purpose : uint8_t { inference, training };
  // Takes memory for values (and, for training, master, gradients and moments, zeroed).
  void allocate(Runtime& runtime, const PrecisionPolicy& precision, Purpose purpose);

  // Fills every part by its initializer. The numbers depend on seed and part name alone.
  void initialize(Runtime& runtime, uint64_t seed);
  // Writes one part from fp32 values (rounded to the compute dtype for `value`).
  void assign(Runtime& runtime, Parameter& parameter, const ParameterPart& part,
              const float* values);
  // fp32 copy of a part: of the master where there is one.
  std::vector<float> read(Runtime& runtime, const Parameter& parameter,
                          const ParameterPart& part) const;
  std::vector<float> read_grad(Runtime& runtime, const Parameter& parameter,
                               const ParameterPart& part) const;

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
};

}  // namespace engine
