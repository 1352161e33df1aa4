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

void set_token(NonfiniteFinding& finding, const std::vector<int32_t>& cu_seqlens, int64_t token) {
  finding.token = token;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    if (token < cu_seqlens[s] || token >= cu_seqlens[s + 1]) continue;
    finding.sequence = static_cast<int64_t>(s);
    finding.position = token - cu_seqlens[s];
  }
}

bool in_encoder(const std::string& probe) {
  return probe.starts_with("encoder.");
}

std::string describe_probe(const std::string& name, const ModelInfo& info) {
  const std::string stack = !info.encoder_decoder ? ""
                            : in_encoder(name)    ? "encoder's "
                                                  : "decoder's ";
  const int num_layers = in_encoder(name) ? info.num_encoder_layers : info.num_layers;
  const std::string number = name.substr(name.rfind('.') + 1);
  if (number == "0") return "the " + stack + "embeddings";
  if (std::stoi(number) == num_layers) return "the " + stack + "final norm (after the last layer)";
  return fmt::format("the output of {}layer {} of {}", stack.empty() ? "" : "the " + stack,
                     std::stoi(number) - 1, num_layers);
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
      finding = NonfiniteFinding{.micro_batch = micro, .place = describe_probe(name, model.info())};
      set_token(*finding, in_encoder(name) ? batch.source.cu_seqlens : batch.cu_seqlens,
                index / value.columns());
    };
    const BatchLoss loss = run_batch(runtime, model, batch, options);
    if (finding) return finding;
    if (const int64_t index = first_bad(runtime, loss.losses); index >= 0) {
      finding = NonfiniteFinding{.micro_batch = micro, .place = "the loss"};
      if (model.info().task == Task::causal_lm) set_token(*finding, batch.cu_seqlens, index);
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
