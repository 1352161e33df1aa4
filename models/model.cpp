#include "models/model.h"

#include <nlohmann/json.hpp>

namespace engine {

Model::Model(const nlohmann::ordered_json& config)
    : config_json_(std::make_shared<const nlohmann::ordered_json>(config)) {}

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
