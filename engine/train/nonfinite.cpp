#include "engine/train/nonfinite.h"

#include <fmt/format.h>

namespace engine {
namespace {

int64_t first_bad(Runtime& runtime, const Tensor& tensor) {
  int64_t index = -1;
  runtime.ops().find_nonfinite(
      runtime.stream(),
      {.x = tensor.data(), .count = tensor.count(), .dtype = tensor.dtype(), .index = &index});
  return index;
}

void set_token(NonfiniteFinding& finding, const Batch& batch, int64_t token) {
  finding.token = token;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    if (token < batch.cu_seqlens[s] || token >= batch.cu_seqlens[s + 1]) continue;
    finding.sequence = s;
    finding.position = token - batch.cu_seqlens[s];
  }
}

std::string describe_probe(const std::string& name, int num_layers) {
  const std::string number = name.substr(name.rfind('.') + 1);
  if (number == "0") return "the embeddings";
  if (std::stoi(number) == num_layers) return "the final norm (after the last layer)";
  return fmt::format("the output of layer {} of {}", std::stoi(number) - 1, num_layers);
}

const ParameterPart& part_at(const Parameter& parameter, int64_t index) {
  const ParameterPart* found = &parameter.parts.front();
  for (const ParameterPart& part : parameter.parts) {
    if (part.offset <= index) found = &part;
  }
  return *found;
}

}  // namespace

std::optional<NonfiniteFinding> find_nonfinite(
    Runtime& runtime, Model& model, const std::vector<Batch>& batches,
    const std::function<ForwardOptions(int micro_batch)>& options_of) {
  for (const auto& p : model.parameters()) {
    if (const int64_t i = first_bad(runtime, p->value); i >= 0) {
      return NonfiniteFinding{.place = "the weight " + part_at(*p, i).name};
    }
  }
  for (int micro = 0; micro < static_cast<int>(batches.size()); ++micro) {
    const Batch& batch = batches[micro];
    std::optional<NonfiniteFinding> finding;
    for (const auto& p : model.parameters()) {
      if (p->grad) runtime.zero(p->grad);
    }
    ForwardOptions options = options_of(micro);
    options.graph.probe = [&](const std::string& name, const Tensor& value) {
      if (finding) return;
      const int64_t index = first_bad(runtime, value);
      if (index < 0) return;
      finding = NonfiniteFinding{.micro_batch = micro,
                                 .place = describe_probe(name, model.info().num_layers)};
      set_token(*finding, batch, index / value.columns());
    };
    const BatchLoss loss = run_batch(runtime, model, batch, options);
    if (finding) return finding;
    if (const int64_t index = first_bad(runtime, loss.losses); index >= 0) {
      finding = NonfiniteFinding{.micro_batch = micro, .place = "the loss"};
      if (model.info().task == Task::causal_lm) set_token(*finding, batch, index);
      return finding;
    }
    // The backward runs from the last parameter to the first.
    const ParameterSet& parameters = model.parameters();
    for (size_t i = parameters.size(); i-- > 0;) {
      const Parameter& p = parameters[i];
      if (!p.grad) continue;
      if (const int64_t index = first_bad(runtime, p.grad); index >= 0) {
        return NonfiniteFinding{.micro_batch = micro,
                                .place = "the gradient of " + part_at(p, index).name};
      }
    }
  }
  return std::nullopt;
}

}  // namespace engine
