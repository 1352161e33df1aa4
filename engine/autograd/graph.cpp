#include "engine/autograd/graph.h"

#include <cstdio>
#include <utility>

#include "engine/core/profile_range.h"

namespace engine {

Variable Graph::constant(Tensor tensor) const {
  Variable variable = result(std::move(tensor));
  variable.grad->needed = false;
  return variable;
}

Variable Graph::result(Tensor tensor) const {
  return {std::make_shared<ValueSlot>(ValueSlot{std::move(tensor), nullptr}),
          std::make_shared<GradSlot>()};
}

void Graph::backward() {
  while (!tape_.empty()) {
    const std::function<void()> step = std::move(tape_.back());
    tape_.pop_back();
    step();
  }
}

void Graph::accumulate(GradSlot& slot, Tensor gradient) {
  if (!slot.needed) return;
  if (!slot.tensor) {
    slot.tensor = std::move(gradient);
    return;
  }
  // A gradient may be shared by two slots (the two inputs of an addition): then it is not ours to
  // change.
  Tensor sum = slot.tensor.unique() ? slot.tensor
               : gradient.unique()  ? gradient
                                    : runtime_.transient(slot.tensor.shape(), slot.tensor.dtype());
  ops().add(stream(), {.a = slot.tensor.data(),
                       .b = gradient.data(),
                       .out = sum.data(),
                       .count = sum.count(),
                       .a_dtype = slot.tensor.dtype(),
                       .b_dtype = gradient.dtype(),
                       .out_dtype = sum.dtype()});
  slot.tensor = std::move(sum);
}

void Graph::discard(const Variable& variable) const {
  if (!recording() || options_.recompute != RecomputePolicy::norms) return;
  if (variable.value->rematerialize) variable.value->tensor = Tensor();
}

Variable Graph::checkpoint(const Variable& input,
                           const std::function<Variable(const Variable&)>& segment) {
  const int64_t number = segments_++;
  const ProfileRange range(ops(), "layer", number);
  if (!recording()) return segment(input);
  // The tape runs backwards: what ends the range is noted first.
  record([this] { ops().end_range(); });
  const auto begin_backward = [this, number] {
    char name[64];
    std::snprintf(name, sizeof name, "layer %lld backward", static_cast<long long>(number));
    ops().begin_range(name);
  };
  if (options_.recompute != RecomputePolicy::block) {
    Variable output = segment(input);
    record(begin_backward);
    return output;
  }
  const uint64_t sites_before = dropout_sites_;
  ++paused_;
  const Variable inner = segment(input);
  --paused_;
  Variable output = result(inner.tensor());
  record([this, input, segment, sites_before, grad = output.grad] {
    if (!grad->tensor) return;
    // Run again on a tape of its own. The input's slots are shared, so gradients arrive there.
    std::vector<std::function<void()>> outer = std::exchange(tape_, {});
    const uint64_t sites_now = std::exchange(dropout_sites_, sites_before);
    Probe probe = std::exchange(options_.probe, nullptr);  // it has seen these values already
    const Variable again = segment(input);
    again.grad->tensor = std::move(grad->tensor);
    // The segment's value is not read any more.
    again.value->tensor = Tensor();
    backward();
    options_.probe = std::move(probe);
    dropout_sites_ = sites_now;
    tape_ = std::move(outer);
  });
  record(begin_backward);
  return output;
}

kernels::Scalar<uint64_t> Graph::next_dropout_seed() {
  const uint64_t site = dropout_sites_++;
  if (options_.dropout_site_seeds) {
    return kernels::Scalar<uint64_t>::at(options_.dropout_site_seeds + site);
  }
  return dropout_site_seed(options_.dropout_seed, site);
}

uint64_t dropout_site_seed(uint64_t seed, uint64_t site) {
  // SplitMix64 of (seed, site): neighbouring sites get unrelated streams.
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (site + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace engine
