// FlashAttention-2, algorithm 2, on scores that lie [key][query] (attention_tile.h).
//
// A piece of work is one kv head of one sequence and a quarter (or all) of its queries. It takes up
// to eight query tiles of one head at a time, stages them once and runs over the keys that they
// see: d_q stays in cache and is finished there; d_k and d_v add up, over the heads of the group
// too, in the piece's own fp32 part of the workspace. A second pass adds the parts in order. Which
// queries make a part depends on the length of the sequence alone, and so do all sums.
#include "kernels/cpu/attention_amx.h"
#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu {
namespace attention {
namespace {

// Query tiles whose operands a piece holds at a time.
constexpr int64_t max_tiles(int64_t head_dim) {
  return head_dim <= 128 ? 8 : 4;
}

// How a sequence's queries are cut into parts.
struct Parts {
  static constexpr int64_t kMost = 4, kLeastTiles = 8;
  int64_t tiles_per_part, count;
  explicit Parts(int64_t num_queries) {
    const int64_t tiles = ceil_div(num_queries, kTile);
    tiles_per_part = std::max(kLeastTiles, ceil_div(tiles, kMost));
    count = ceil_div(tiles, tiles_per_part);
  }
};

// Key tiles whose sums a piece keeps in its own scratch, when the queries are all in one part.
int64_t cached_key_tiles(int64_t head_dim) {
  return 1024 / padded_dim(head_dim);
}

// fp32 sums of d_k and d_v: [part][kv head][key tile of any long sequence][kTile][padded_dim] each;
// then of d_distance_bias: [part][sequence][head][distance].
class Workspace {
 public:
  Workspace(const AttentionShape& shape, void* data)
      : shape_(shape),
        data_(static_cast<float*>(data)),
        parts_(Parts(shape.max_seqlen_q).count),
        cached_keys_(cached_key_tiles(shape.head_dim) * kTile),
        key_tiles_(parts_ == 1 && shape.max_seqlen_k <= cached_keys_
                       ? 0
                       : slot(shape.total_q, shape.total_k) + 1),
        tile_size_(kTile * padded_dim(shape.head_dim)) {}

  int64_t parts() const { return parts_; }
  int64_t tile_size() const { return tile_size_; }
  // Tiles of one sequence lie one after the other.
  float* d_k(int64_t part, int64_t kv_head, int64_t s) const {
    const int64_t first = slot(shape_.cu_seqlens_q[s], shape_.cu_seqlens_k[s]);
    return data_ + ((part * shape_.num_kv_heads + kv_head) * key_tiles_ + first) * tile_size_;
  }
  float* d_v(int64_t part, int64_t kv_head, int64_t s) const {
    return d_k(part, kv_head, s) + keys_size();
  }
  float* d_bias(int64_t part, int64_t s, int64_t head) const {
    return data_ + 2 * keys_size() +
           ((part * shape_.num_sequences + s) * shape_.num_heads + head) * shape_.distance_count;
  }
  size_t bytes() const {
    const int64_t bias = parts_ * shape_.num_sequences * shape_.num_heads * shape_.distance_count;
    return static_cast<size_t>(2 * keys_size() + bias) * sizeof(float);
  }

 private:
  // First tile of a sequence that begins at this query and this key. Only sequences with several
  // parts (more than kLeastTiles tiles of queries) or with more keys than are cached come here:
  // each makes one of the two extra terms grow by at least 1, which is the room for its last,
  // unfinished tile. The number of sequences does not matter: a batch may hold thousands.
  int64_t slot(int64_t query, int64_t key) const {
    return key / kTile + key / cached_keys_ + query / (Parts::kLeastTiles * kTile);
  }
  int64_t keys_size() const { return parts_ * shape_.num_kv_heads * key_tiles_ * tile_size_; }

  const AttentionShape& shape_;
  float* data_;
  int64_t parts_, cached_keys_, key_tiles_, tile_size_;
};

// fp32 sums of one key tile, from one part of the queries or several.
struct KeySums {
  int64_t count = 0;
  const float* d_k[Parts::kMost];
  const float* d_v[Parts::kMost];
};

// d_k and d_v of one key tile: its sums, added in order.
template <typename T>
void write_keys(const AttentionBackward& arguments, const Sequence& sequence, int64_t kv_head,
                int64_t key, const KeySums& sums) {
  const int64_t dim = arguments.shape.head_dim;
  const int64_t rows = std::min<int64_t>(kTile, sequence.key_span - key);
  const auto write = [&](const float* const* parts, float scale, void* to, int64_t stride) {
    T* const first = static_cast<T*>(to) + (sequence.first_key + key) * stride + kv_head * dim;
    for (int64_t row = 0; row < rows; ++row) {
      // Keys that are not in use get zero, like those that no query sees.
      const int64_t count = key + row < sequence.num_keys ? sums.count : 0;
      T* const out = first + row * stride;
      prefetch_row<true>(out + kTile * stride, dim);
      for_vectors(
          dim, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
            F32x16 sum = {};
            for (int64_t i = 0; i < count; ++i) sum += load(parts[i] + row * padded_dim(dim) + d);
            store(out + d, sum * scale, lanes);
          });
    }
  };
  write(sums.d_k, arguments.shape.scale, arguments.d_k, arguments.d_k_stride);
  write(sums.d_v, 1.0f, arguments.d_v, arguments.d_v_stride);
}

template <typename Products, typename T>
class BackwardPiece {
 public:
  BackwardPiece(const AttentionBackward& arguments, const Workspace& workspace)
      : arguments_(arguments),
        shape_(arguments.shape),
        workspace_(workspace),
        dim_(shape_.head_dim),
        padded_(padded_dim(dim_)),
        scratch_(scratch_bytes()),
        keys_(scratch_, padded_),
        values_(scratch_, padded_),
        probabilities_(scratch_),
        d_scores_(scratch_),
        scores_(scratch_.take<float>(kTile * kTile)),
        d_probabilities_(scratch_.take<float>(kTile * kTile)),
        dropout_(scratch_.take<float>(kTile * kTile)),
        cached_(scratch_.take<float>(2 * cached_key_tiles(dim_) * kTile * padded_)) {
    for (int64_t i = 0; i < max_tiles(dim_); ++i) {
      QueryTile& tile = tiles_[i];
      tile.queries = typename Products::Queries(scratch_, padded_);
      tile.d_out = typename Products::Queries(scratch_, padded_);
      tile.d_q = scratch_.take<float>(padded_ * kTile);
      tile.lse = scratch_.take<float>(kTile);
      tile.row_sum = scratch_.take<float>(kTile);
    }
  }

  void run(int64_t s, int64_t kv_head, int64_t part) {
    sequence_ = sequence_of(shape_, s);
    kv_head_ = kv_head;
    const Parts parts(sequence_.num_queries);
    const int64_t first = part * parts.tiles_per_part;
    const int64_t last =
        std::min(first + parts.tiles_per_part, ceil_div(sequence_.num_queries, kTile));
    const TileRange seen = visible_tiles(shape_, sequence_, first * kTile,
                                         std::min(last * kTile, sequence_.num_queries) - 1);
    const int64_t tile_size = workspace_.tile_size();
    // All queries in one part, and few keys: the sums need not leave the cache.
    const bool in_cache = parts.count == 1 && seen.end <= cached_key_tiles(dim_);
    d_k_ = in_cache ? cached_ : workspace_.d_k(part, kv_head, s);
    d_v_ = in_cache ? cached_ + seen.end * tile_size : workspace_.d_v(part, kv_head, s);
    for (float* sums : {d_k_, d_v_}) {
      std::fill(sums + seen.begin * tile_size, sums + seen.end * tile_size, 0.0f);
    }
    const int64_t group = shape_.num_heads / shape_.num_kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      d_bias_ = arguments_.d_distance_bias ? workspace_.d_bias(part, s, head) : nullptr;
      if (d_bias_) std::fill_n(d_bias_, shape_.distance_count, 0.0f);
      for (int64_t tile = first; tile < last; tile += max_tiles(dim_)) {
        run_tiles(head, tile, std::min(tile + max_tiles(dim_), last));
      }
    }
    if (parts.count > 1) return;  // add_parts will
    for (int64_t key = 0; key < sequence_.key_span; key += kTile) {
      const int64_t offset = key / kTile * tile_size;
      KeySums sums;
      if (key / kTile >= seen.begin && key / kTile < seen.end) {
        sums = {.count = 1, .d_k = {d_k_ + offset}, .d_v = {d_v_ + offset}};
      }
      write_keys<T>(arguments_, sequence_, kv_head, key, sums);
    }
  }

 private:
  struct QueryTile {
    int64_t query, num_queries, lanes;
    TileRange tiles;  // keys that it sees
    typename Products::Queries queries, d_out;
    float* d_q;      // [dim][kTile], without the scale
    float* lse;      // in units of log2; +inf where P is 0
    float* row_sum;  // D of the contract
  };

  // Key tiles whose d_k and d_v take half a mebibyte.
  size_t scratch_bytes() const {
    return static_cast<size_t>(
        2 * cached_key_tiles(dim_) * kTile * padded_ * 4 + 2 * Products::Keys::bytes(padded_) +
        2 * Products::Weights::bytes() + 3 * kTile * kTile * 4 +
        max_tiles(dim_) * (2 * Products::Queries::bytes(padded_) + (padded_ + 2) * kTile * 4));
  }

  // Query tiles [first, last) of a head, at most max_tiles.
  void run_tiles(int64_t head, int64_t first, int64_t last) {
    const int64_t count = last - first;
    int64_t tile_begin = std::numeric_limits<int64_t>::max(), tile_end = 0;
    for (int64_t i = 0; i < count; ++i) {
      begin(tiles_[i], head, (first + i) * kTile);
      const TileRange& tiles = tiles_[i].tiles;
      if (tiles.begin == tiles.end) continue;
      tile_begin = std::min(tile_begin, tiles.begin);
      tile_end = std::max(tile_end, tiles.end);
    }
    const T* const k = static_cast<const T*>(arguments_.k) + kv_head_ * dim_;
    const T* const v = static_cast<const T*>(arguments_.v) + kv_head_ * dim_;
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      const int64_t key = tile * kTile;
      const int64_t num_keys = std::min<int64_t>(kTile, sequence_.num_keys - key);
      const int64_t token = sequence_.first_key + key;
      const int64_t k_stride = arguments_.k_stride, v_stride = arguments_.v_stride;
      keys_.stage_for_both({k + token * k_stride, k_stride, num_keys, dim_}, padded_);
      values_.stage({v + token * v_stride, v_stride, num_keys, dim_}, padded_);
      for (int64_t i = 0; i < count; ++i) {
        const TileRange& tiles = tiles_[i].tiles;
        if (tile >= tiles.begin && tile < tiles.end) add_keys(tiles_[i], head, key, num_keys);
      }
    }
    for (int64_t i = 0; i < count; ++i) finish(tiles_[i], head);
  }

  void begin(QueryTile& tile, int64_t head, int64_t query) {
    tile.query = query;
    tile.num_queries = std::min<int64_t>(kTile, sequence_.num_queries - query);
    tile.lanes = round_up(tile.num_queries, Products::kLaneMultiple);
    tile.tiles = visible_tiles(shape_, sequence_, query, query + tile.num_queries - 1);
    const int64_t token = sequence_.first_query + query;
    const T* const q =
        static_cast<const T*>(arguments_.q) + token * arguments_.q_stride + head * dim_;
    const int64_t stride = shape_.num_heads * dim_;
    const int64_t offset = token * stride + head * dim_;
    const T* const out = static_cast<const T*>(arguments_.out) + offset;
    const T* const d_out = static_cast<const T*>(arguments_.d_out) + offset;
    tile.queries.stage({q, arguments_.q_stride, tile.num_queries, dim_}, padded_);
    tile.d_out.stage({d_out, stride, tile.num_queries, dim_}, padded_);
    const float* const lse = arguments_.lse + head * shape_.total_q + token;
    for (int64_t i = 0; i < kTile; ++i) {
      const bool exists = i < tile.num_queries;
      tile.lse[i] = exists && lse[i] != -kInfinity ? lse[i] * kLog2e : kInfinity;
      F32x16 sum = {};
      if (exists) {
        prefetch_row(out + (i + kTile) * stride, dim_);
        for_vectors(
            dim_, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
              sum += load(out + i * stride + d, lanes) * load(d_out + i * stride + d, lanes);
            });
      }
      tile.row_sum[i] = sum_of_lanes(sum);
    }
    if (tile.tiles.begin == tile.tiles.end) std::fill_n(tile.d_q, padded_ * kTile, 0.0f);
  }

  // P and dS of a tile pair, rounded to T, as the products take them. fp32 dS replaces the scores.
  template <bool kDropout>
  void differentiate(const QueryTile& tile, float factor, int64_t rows) {
    const auto pair = [&](int64_t row, int64_t lane) __attribute__((always_inline)) {
      const F32x16 lse = load(tile.lse + lane), row_sum = load(tile.row_sum + lane);
      F32x16 p[2], ds[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const int64_t at = (row + i) * kTile + lane;
        p[i] = exp2_of_nonpositive(load(scores_ + at) * factor - lse);
        F32x16 dp = load(d_probabilities_ + at);
        F32x16 dropped = p[i];
        if constexpr (kDropout) {
          dp *= load(dropout_ + at);
          dropped *= load(dropout_ + at);
        }
        ds[i] = p[i] * (dp - row_sum);
        p[i] = dropped;
        if (d_bias_) store(scores_ + at, ds[i]);
      }
      probabilities_.put_for_scatter(row, lane, p[0], p[1]);
      d_scores_.put_for_both(row, lane, ds[0], ds[1]);
    };
    for (int64_t row = 0; row < rows; row += 2) {
      if (tile.lanes == kTile) {
#pragma GCC unroll 4
        for (int64_t lane = 0; lane < kTile; lane += 16) pair(row, lane);
      } else {
        for (int64_t lane = 0; lane < tile.lanes; lane += 16) pair(row, lane);
      }
    }
  }

  void add_keys(QueryTile& tile, int64_t head, int64_t key, int64_t num_keys) {
    const int64_t rows = round_up(num_keys, Products::kRowMultiple);
    Products::scores(keys_, tile.queries, rows, tile.lanes, dim_, padded_, scores_);
    Products::scores(values_, tile.d_out, rows, tile.lanes, dim_, padded_, d_probabilities_);
    const TilePlace place = {.key = key,
                             .num_keys = num_keys,
                             .position = sequence_.position(tile.query),
                             .num_queries = tile.num_queries};
    float factor = shape_.scale * kLog2e;
    if (shape_.distance_bias || needs_mask(shape_, place)) {
      const float* const bias =
          shape_.distance_bias ? shape_.distance_bias + head * shape_.distance_count : nullptr;
      bias_and_mask(shape_, place, bias, rows, tile.lanes, scores_);
      factor = 1.0f;
    }
    if (shape_.dropout_p > 0.0f) {
      draw_dropout(shape_, head, sequence_.first_query + tile.query, key, rows, tile.lanes,
                   dropout_);
      differentiate<true>(tile, factor, rows);
    } else {
      differentiate<false>(tile, factor, rows);
    }
    if (d_bias_) add_bias_gradient(shape_, place, tile.lanes, scores_, d_bias_);
    const int64_t at = key / kTile * workspace_.tile_size();
    Products::scatter(probabilities_, tile.d_out, rows, tile.lanes, dim_, padded_, d_v_ + at);
    Products::scatter(d_scores_, tile.queries, rows, tile.lanes, dim_, padded_, d_k_ + at);
    if (key / kTile == tile.tiles.begin) {
      Products::template gather<false>(keys_, d_scores_, rows, tile.lanes, dim_, padded_, tile.d_q);
    } else {
      Products::template gather<true>(keys_, d_scores_, rows, tile.lanes, dim_, padded_, tile.d_q);
    }
  }

  void finish(const QueryTile& tile, int64_t head) {
    float scale[kTile];
    std::fill_n(scale, kTile, shape_.scale);
    const int64_t token = sequence_.first_query + tile.query;
    store_transposed(tile.d_q, scale,
                     static_cast<T*>(arguments_.d_q) + token * arguments_.d_q_stride + head * dim_,
                     arguments_.d_q_stride, tile.num_queries, dim_);
  }

  const AttentionBackward& arguments_;
  const AttentionShape& shape_;
  const Workspace& workspace_;
  int64_t dim_, padded_;
  Scratch scratch_;
  typename Products::Keys keys_, values_;
  typename Products::Weights probabilities_, d_scores_;
  float *scores_, *d_probabilities_, *dropout_, *cached_;
  float *d_k_ = nullptr, *d_v_ = nullptr, *d_bias_ = nullptr;
  Sequence sequence_{};
  int64_t kv_head_ = 0;
  QueryTile tiles_[8];
};

// d_k and d_v of a sequence whose queries are several parts: those that see a key tile, in order.
template <typename T>
void add_parts(const AttentionBackward& arguments, const Workspace& workspace, int64_t s,
               int64_t kv_head, int64_t key_tile) {
  const Sequence sequence = sequence_of(arguments.shape, s);
  const Parts parts(sequence.num_queries);
  KeySums sums;
  const int64_t offset = key_tile * workspace.tile_size();
  for (int64_t part = 0; part < parts.count; ++part) {
    const int64_t first = part * parts.tiles_per_part * kTile;
    const int64_t last = std::min(first + parts.tiles_per_part * kTile, sequence.num_queries) - 1;
    const TileRange seen = visible_tiles(arguments.shape, sequence, first, last);
    if (key_tile < seen.begin || key_tile >= seen.end) continue;
    sums.d_k[sums.count] = workspace.d_k(part, kv_head, s) + offset;
    sums.d_v[sums.count++] = workspace.d_v(part, kv_head, s) + offset;
  }
  write_keys<T>(arguments, sequence, kv_head, key_tile * kTile, sums);
}

template <typename Products, typename T>
void backward(const AttentionBackward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const Workspace workspace(shape, arguments.workspace);
  const int64_t lists = int64_t{shape.num_sequences} * shape.num_kv_heads;
  parallel_for(workspace.parts() * lists, [&](int64_t index) {
    // Late queries first: under a causal mask they are the most work.
    const int64_t part = workspace.parts() - 1 - index / lists;
    const int64_t s = index % lists / shape.num_kv_heads;
    if (part >= Parts(sequence_of(shape, s).num_queries).count) return;
    [[maybe_unused]] const typename Products::Session session;
    BackwardPiece<Products, T>(arguments, workspace).run(s, index % shape.num_kv_heads, part);
  });
  parallel_for(lists, [&](int64_t index) {
    const int64_t s = index / shape.num_kv_heads;
    const Sequence sequence = sequence_of(shape, s);
    // One part has written them; without queries there is none, and the gradient is zero.
    if (Parts(sequence.num_queries).count == 1) return;
    const int64_t tiles = ceil_div(sequence.key_span, kTile);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      add_parts<T>(arguments, workspace, s, index % shape.num_kv_heads, tile);
    }
  });
  if (!arguments.d_distance_bias) return;
  parallel_for(shape.num_heads, [&](int64_t head) {
    float* const d_bias = arguments.d_distance_bias + head * shape.distance_count;
    for (int64_t s = 0; s < shape.num_sequences; ++s) {
      const int64_t parts = Parts(sequence_of(shape, s).num_queries).count;
      for (int64_t part = 0; part < parts; ++part) {
        const float* const sums = workspace.d_bias(part, s, head);
        for (int64_t i = 0; i < shape.distance_count; ++i) d_bias[i] += sums[i];
      }
    }
  });
}

}  // namespace
}  // namespace attention

size_t attention_backward_workspace(const AttentionShape& shape) {
  return attention::Workspace(shape, nullptr).bytes();
}

void attention_backward(Stream, const AttentionBackward& arguments) {
  using namespace attention;
  check_shape(arguments.shape);
  require(arguments.lse, "attention_backward needs lse");
  require(arguments.workspace || attention_backward_workspace(arguments.shape) == 0,
          "attention_backward needs a workspace");
  if (arguments.shape.dtype == DType::f32) return backward<VectorProducts<float>, float>(arguments);
#ifdef ENGINE_ATTENTION_AMX
  if (amx_is_usable()) return backward<AmxProducts, BFloat16>(arguments);
#endif
  backward<VectorProducts<BFloat16>, BFloat16>(arguments);
}

}  // namespace engine::kernels::cpu

#pragma GCC diagnostic pop
