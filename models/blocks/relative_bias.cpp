#include "models/blocks/relative_bias.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace engine {

int RelativeBuckets::bucket(int64_t distance) const {
  int count = num_buckets, base = 0;
  int64_t d = std::max<int64_t>(-distance, 0);
  if (bidirectional) {
    count /= 2;
    if (distance > 0) base = count;
    d = std::abs(distance);
  }
  const int exact = count / 2;
  if (d < exact) return base + static_cast<int>(d);
  const float ratio = static_cast<float>(d) / static_cast<float>(exact);
  const auto range =
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const float position = std::log(ratio) / range * static_cast<float>(count - exact);
  // Compared before the conversion: far distances exceed an int.
  if (position >= static_cast<float>(count - exact)) return base + count - 1;
  return base + std::min(count - 1, exact + static_cast<int>(position));
}

RelativeBuckets read_relative_buckets(const ConfigReader& config, bool bidirectional) {
  RelativeBuckets buckets{.bidirectional = bidirectional};
  buckets.num_buckets = static_cast<int>(config.integer("relative_attention_num_buckets", 32));
  buckets.max_distance = config.integer("relative_attention_max_distance", 128);
  if (buckets.num_buckets < 4 || buckets.num_buckets > 4096) {
    config.invalid("relative_attention_num_buckets", "4 to 4096",
                   std::to_string(buckets.num_buckets));
  }
  // The decoder has the larger exact part; one rule for both stacks of a model.
  if (buckets.max_distance <= buckets.num_buckets / 2) {
    config.invalid(
        "relative_attention_max_distance",
        "more than half of relative_attention_num_buckets = " + std::to_string(buckets.num_buckets),
        std::to_string(buckets.max_distance));
  }
  return buckets;
}

void RelativeBias::prepare(Runtime& runtime, int64_t max_positions) {
  const int64_t last = buckets_.bidirectional ? max_positions - 1 : 0;
  const int64_t first = 1 - max_positions, count = last - first + 1;
  prepared_.first = static_cast<int>(first);
  prepared_.one_hot =
      runtime.persistent({buckets_.num_buckets, count}, DType::f32, MemoryCategory::weights);
  std::vector<float> one_hot(static_cast<size_t>(buckets_.num_buckets * count));
  for (int64_t i = 0; i < count; ++i) one_hot[buckets_.bucket(first + i) * count + i] = 1.0f;
  runtime.upload(prepared_.one_hot, one_hot.data());
}

DistanceBias RelativeBias::of_length(Graph& graph, int length) const {
  return distance_bias(graph, *table_, prepared_, 1 - length,
                       buckets_.bidirectional ? 2 * length - 1 : length);
}

}  // namespace engine
