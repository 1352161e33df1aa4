// T5's relative position bias: scores get a trained number per head and bucket of distances, exact
// for near keys and logarithmically wider for far ones (T5 paper, section 2.1; bucket formula of
// Mesh TensorFlow, as transformers has it).
#pragma once

#include "engine/autograd/ops.h"
#include "models/config_reader.h"

namespace engine {

struct RelativeBuckets {
  int num_buckets = 32;
  int64_t max_distance = 128;  // from here on all distances share the last bucket
  bool bidirectional = true;   // half of the buckets for keys behind the query; else those are none

  // Bucket of a key at `distance` = its position - the query's.
  //   n = num_buckets, halved when bidirectional;  m = n / 2;  d = |distance| (or max(-distance,
  //   0)) d < m: d, else min(n - 1, m + trunc(ln(d / m) / ln(max_distance / m) · (n - m)))  in fp32
  //   plus n for distance > 0 when bidirectional
  // The fp32 steps are those of transformers, so that distances at the edges fall as they do there.
  int bucket(int64_t distance) const;
};

// relative_attention_num_buckets and relative_attention_max_distance of a config.json. Throws
// CONFIG-INVALID for values that leave a bucket without distances.
RelativeBuckets read_relative_buckets(const ConfigReader& config, bool bidirectional);

// The bias of one stack of layers.
class RelativeBias {
 public:
  RelativeBias() = default;
  // `table` [num_buckets, H].
  RelativeBias(const RelativeBuckets& buckets, Parameter& table)
      : buckets_(buckets), table_(&table) {}

  // For sequences of up to so many tokens.
  void prepare(Runtime& runtime, int64_t max_positions);
  // Of all distances within sequences of `length` tokens.
  DistanceBias of_length(Graph& graph, int length) const;

 private:
  RelativeBuckets buckets_;
  Parameter* table_ = nullptr;
  DistanceBuckets prepared_;
};

}  // namespace engine
