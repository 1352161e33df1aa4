#include "models/model.h"

#include <nlohmann/json.hpp>

namespace engine {

const char* name_of(ProblemType type) {
  switch (type) {
    case ProblemType::single_label:
      return "single_label_classification";
    case ProblemType::regression:
      return "regression";
    case ProblemType::multi_label:
      return "multi_label_classification";
  }
  return "";
}

Model::Model(const nlohmann::ordered_json& config)
    : config_json_(std::make_shared<const nlohmann::ordered_json>(config)) {}

Variable Model::class_scores(Graph& graph, const Variable& hidden, const ModelBatch& batch) {
  return linear(graph, gather_rows(graph, hidden, batch.pooled_rows), *head_, nullptr);
}

std::vector<int32_t> Model::position_ids(std::span<const int32_t>, std::span<const int32_t>,
                                         std::span<const int32_t> counted) const {
  return {counted.begin(), counted.end()};
}

bool Model::may_be_new(const std::string& name) const {
  return info_.task == Task::sequence_classification && name == head_->name();
}

KvCache make_kv_cache(Runtime& runtime, const ModelInfo& info, const PrecisionPolicy& precision,
                      int64_t sequences, int64_t capacity) {
  KvCache cache{.sequences = sequences, .capacity = capacity, .layers = {}};
  const int64_t width = int64_t{info.num_kv_heads} * info.head_dim;
  for (int i = 0; i < info.num_layers; ++i) {
    const Shape shape{sequences * capacity, width};
    cache.layers.push_back({runtime.transient(shape, precision.compute, MemoryCategory::kv_cache),
                            runtime.transient(shape, precision.compute, MemoryCategory::kv_cache)});
  }
  return cache;
}

}  // namespace engine
