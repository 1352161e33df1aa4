// Tape autograd by hand.
//
// Running an operation of engine/autograd/ops.h computes its result at once and, when the tape is
// recording, notes a closure: its hand-written backward together with the values that needs.
// Graph::backward() runs the closures last to first and drops each as it goes, so memory falls
// while gradients flow. There is no graph compiler: the order of the model's code is the graph.
//
// A Variable is a value slot and a gradient slot. Closures hold only the slots they need, so a
// value that no backward reads is freed as soon as the model lets go of it.
//
// Recompute, in two depths:
//   discard(v)     frees a value that can be made again from others kept anyway (norms,
//                  activations); the backward that reads it first makes it again
//   checkpoint(f)  runs a whole segment without recording, keeps its inputs, and runs it again,
//                  recording, when its backward is due
// Both repeat the same operations on the same bits, so gradients do not change by a bit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/autograd/parameter.h"
#include "engine/core/tensor.h"

namespace engine {

enum class RecomputePolicy : uint8_t { none, norms, block };

struct ValueSlot {
  Tensor tensor;
  std::function<Tensor()> rematerialize;  // set by operations that can be repeated cheaply

  // The value, made again if it was discarded.
  const Tensor& get() {
    if (!tensor && rematerialize) tensor = rematerialize();
    return tensor;
  }
};

struct GradSlot {
  Tensor tensor;       // empty: no gradient has arrived (zero)
  bool needed = true;  // false for inputs that need none
};

struct Variable {
  std::shared_ptr<ValueSlot> value;
  std::shared_ptr<GradSlot> grad;

  explicit operator bool() const { return value != nullptr; }
  const Tensor& tensor() const { return value->get(); }
  const Shape& shape() const { return value->tensor.shape(); }
};

// Watches the values of named places (layers) as they are computed: dumps, and the search for the
// first non-finite value. `name` is e.g. "layers.3.attention".
using Probe = std::function<void(const std::string& name, const Tensor& value)>;

class Graph {
 public:
  struct Options {
    bool record = true;    // forward only when false
    bool training = true;  // dropout is active
    RecomputePolicy recompute = RecomputePolicy::none;
    uint64_t dropout_seed = 0;  // of this micro-batch; each site derives its own
    // Device memory with the seed of each site (dropout_site_seed): what a recorded step reads,
    // because the next replay needs others.
    const uint64_t* dropout_site_seeds = nullptr;
    PrecisionPolicy precision;
    Probe probe;
  };

  Graph(Runtime& runtime, Options options) : runtime_(runtime), options_(std::move(options)) {}

  Runtime& runtime() { return runtime_; }
  const kernels::Operations& ops() const { return runtime_.ops(); }
  kernels::Stream stream() const { return runtime_.stream(); }
  const Options& options() const { return options_; }
  const PrecisionPolicy& precision() const { return options_.precision; }
  bool recording() const { return options_.record && paused_ == 0; }

  // A value without history.
  Variable constant(Tensor tensor) const;
  // The result of an operation, to which a gradient may come.
  Variable result(Tensor tensor) const;

  // Notes a backward. Called by operations, only while recording().
  void record(std::function<void()> backward) { tape_.push_back(std::move(backward)); }
  // Runs all backwards noted so far, last to first.
  void backward();

  // Adds a gradient to a slot; takes the tensor over when it is the first.
  void accumulate(GradSlot& slot, Tensor gradient);

  // Frees a value under RecomputePolicy::norms, if it can be made again. Call after the last
  // forward use.
  void discard(const Variable& variable) const;

  // Runs `segment` on `input`; under RecomputePolicy::block only its input is kept.
  Variable checkpoint(const Variable& input,
                      const std::function<Variable(const Variable&)>& segment);

  // A seed for one dropout site: a function of the micro-batch's seed and the order of calls, which
  // a checkpointed segment repeats.
  kernels::Scalar<uint64_t> next_dropout_seed();
  uint64_t dropout_sites() const { return dropout_sites_; }  // seeds given out

  void probe(const std::string& name, const Variable& variable) const {
    if (options_.probe) options_.probe(name, variable.tensor());
  }
  bool probing() const { return static_cast<bool>(options_.probe); }

 private:
  Runtime& runtime_;
  Options options_;
  std::vector<std::function<void()>> tape_;
  int paused_ = 0;
  uint64_t dropout_sites_ = 0;
  int64_t segments_ = 0;  // begun by checkpoint(): layers, for profilers
};

// Seed of the site of that number, from 0.
uint64_t dropout_site_seed(uint64_t seed, uint64_t site);

}  // namespace engine
