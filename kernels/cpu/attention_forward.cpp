// FlashAttention-2, algorithm 1, on scores that lie [key][query] (attention_tile.h).
//
// A piece of work is a few (query tile, head) pairs that share one kv head. Keys are the outer
// loop: a tile of keys and values is staged once for all pairs of the piece.
#include "kernels/cpu/attention_amx.h"
#include "kernels/cpu/attention_decode.h"
#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu {
namespace attention {
namespace {

// The running softmax of one (query tile, head): fp32 [kTile] each, in units of log2.
struct RunningSoftmax {
  float* maximum;
  float* sum;
};

// P = exp2(scores · factor - maximum) for `V` vectors of queries; updates maximum and sum, and
// gives the factor by which earlier sums shrink. Returns nonzero bits where that is not 1.
template <int V, typename Weights>
ENGINE_INLINE U32x16 softmax_columns(const float* scores, float factor, int64_t rows, int64_t lane,
                                     const float* dropout, RunningSoftmax state, float* shrink,
                                     Weights& weights) {
  F32x16 maxima[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) maxima[v] = load(state.maximum + lane + 16 * v);
  for (int64_t row = 0; row < rows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      maxima[v] = maximum(load(scores + row * kTile + lane + 16 * v) * factor, maxima[v]);
    }
  }
  F32x16 sum[V];
  U32x16 changed = {};
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const F32x16 before = load(state.maximum + lane + 16 * v);
    store(state.maximum + lane + 16 * v, maxima[v]);
    maxima[v] = maxima[v] == -kInfinity ? F32x16{} : maxima[v];  // a query that has seen no key
    const F32x16 shrunk = exp2_of_nonpositive(before - maxima[v]);
    store(shrink + lane + 16 * v, shrunk);
    changed |= float_to_bits(shrunk) ^ std::bit_cast<uint32_t>(1.0f);
    sum[v] = load(state.sum + lane + 16 * v) * shrunk;
  }
  for (int64_t row = 0; row < rows; row += 2) {
    const float* const even = scores + row * kTile + lane;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      F32x16 p0 = exp2_of_nonpositive(load(even + 16 * v) * factor - maxima[v]);
      F32x16 p1 = exp2_of_nonpositive(load(even + kTile + 16 * v) * factor - maxima[v]);
      sum[v] += p0 + p1;
      if (dropout) {
        p0 *= load(dropout + row * kTile + lane + 16 * v);
        p1 *= load(dropout + (row + 1) * kTile + lane + 16 * v);
      }
      weights.put_for_gather(row, lane + 16 * v, p0, p1);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store(state.sum + lane + 16 * v, sum[v]);
  return changed;
}

// Returns whether some sum of the tile shrank.
template <typename Weights>
bool softmax(const float* scores, float factor, int64_t rows, int64_t lanes, const float* dropout,
             RunningSoftmax state, float* shrink, Weights& weights) {
  U32x16 changed = {};
  int64_t lane = 0;
  for (; lane + 64 <= lanes; lane += 64) {
    changed |= softmax_columns<4>(scores, factor, rows, lane, dropout, state, shrink, weights);
  }
  for (; lane < lanes; lane += 16) {
    changed |= softmax_columns<1>(scores, factor, rows, lane, dropout, state, shrink, weights);
  }
  return std::any_of(&changed[0], &changed[0] + 16, [](uint32_t bits) { return bits != 0; });
}

// The most (query tile, head) pairs of a piece: their sums fit the second-level cache.
constexpr int64_t max_pairs(int64_t head_dim) {
  return head_dim <= 128 ? 8 : 4;
}

template <typename Products, typename T>
class ForwardPiece {
 public:
  explicit ForwardPiece(const AttentionForward& arguments)
      : arguments_(arguments),
        shape_(arguments.shape),
        dim_(shape_.head_dim),
        padded_(padded_dim(dim_)),
        scratch_(scratch_bytes()),
        keys_(scratch_, padded_),
        values_(scratch_, padded_),
        weights_(scratch_),
        scores_(scratch_.take<float>(kTile * kTile)),
        dropout_(scratch_.take<float>(kTile * kTile)),
        shrink_(scratch_.take<float>(kTile)) {
    for (int64_t i = 0; i < max_pairs(dim_); ++i) {
      Pair& pair = pairs_[i];
      pair.queries = typename Products::Queries(scratch_, padded_);
      pair.out = scratch_.take<float>(padded_ * kTile);
      pair.softmax.maximum = scratch_.take<float>(kTile);
      pair.softmax.sum = scratch_.take<float>(kTile);
    }
  }

  // Pairs [first, last) of (query tile, head of the group), heads innermost.
  void run(const Sequence& sequence, int64_t kv_head, int64_t first, int64_t last) {
    sequence_ = sequence;
    const int64_t group = shape_.num_heads / shape_.num_kv_heads;
    const int64_t count = last - first;
    int64_t tile_begin = std::numeric_limits<int64_t>::max(), tile_end = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = first + i;
      begin(pairs_[i], kv_head * group + index % group, index / group * kTile);
      const TileRange& tiles = pairs_[i].tiles;
      if (tiles.begin == tiles.end) continue;
      tile_begin = std::min(tile_begin, tiles.begin);
      tile_end = std::max(tile_end, tiles.end);
    }
    const T* const k = static_cast<const T*>(arguments_.k) + kv_head * dim_;
    const T* const v = static_cast<const T*>(arguments_.v) + kv_head * dim_;
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      const int64_t key = tile * kTile;
      const int64_t num_keys = std::min<int64_t>(kTile, sequence.num_keys - key);
      const int64_t token = sequence.first_key + key;
      const int64_t k_stride = arguments_.k_stride, v_stride = arguments_.v_stride;
      keys_.stage({k + token * k_stride, k_stride, num_keys, dim_}, padded_);
      values_.stage_for_gather({v + token * v_stride, v_stride, num_keys, dim_}, padded_);
      for (int64_t i = 0; i < count; ++i) {
        const TileRange& tiles = pairs_[i].tiles;
        if (tile >= tiles.begin && tile < tiles.end) add_keys(pairs_[i], key, num_keys);
      }
    }
    for (int64_t i = 0; i < count; ++i) finish(pairs_[i]);
  }

 private:
  struct Pair {
    int64_t head, query, num_queries;  // query: of the sequence
    int64_t lanes;
    TileRange tiles;  // keys that it sees
    typename Products::Queries queries;
    float* out;  // [dim][kTile], not yet divided by the sum
    RunningSoftmax softmax;
  };

  size_t scratch_bytes() const {
    return static_cast<size_t>(2 * Products::Keys::bytes(padded_) + Products::Weights::bytes() +
                               (2 * kTile + 1) * kTile * 4 +
                               max_pairs(dim_) *
                                   (Products::Queries::bytes(padded_) + (padded_ + 2) * kTile * 4));
  }

  void begin(Pair& pair, int64_t head, int64_t query) {
    pair.head = head;
    pair.query = query;
    pair.num_queries = std::min<int64_t>(kTile, sequence_.num_queries - query);
    pair.lanes = round_up(pair.num_queries, Products::kLaneMultiple);
    pair.tiles = visible_tiles(shape_, sequence_, query, query + pair.num_queries - 1);
    const T* const q = static_cast<const T*>(arguments_.q) + head * dim_ +
                       (sequence_.first_query + query) * arguments_.q_stride;
    pair.queries.stage({q, arguments_.q_stride, pair.num_queries, dim_}, padded_);
    std::fill_n(pair.softmax.maximum, kTile, -kInfinity);
    std::fill_n(pair.softmax.sum, kTile, 0.0f);
    if (pair.tiles.begin == pair.tiles.end) std::fill_n(pair.out, padded_ * kTile, 0.0f);
  }

  void add_keys(Pair& pair, int64_t key, int64_t num_keys) {
    const int64_t rows = round_up(num_keys, Products::kRowMultiple);
    Products::scores(keys_, pair.queries, rows, pair.lanes, dim_, padded_, scores_);
    const TilePlace place = {.key = key,
                             .num_keys = num_keys,
                             .position = sequence_.position(pair.query),
                             .num_queries = pair.num_queries};
    float factor = shape_.scale * kLog2e;
    if (shape_.distance_bias || needs_mask(shape_, place)) {
      const float* bias =
          shape_.distance_bias ? shape_.distance_bias + pair.head * shape_.distance_count : nullptr;
      bias_and_mask(shape_, place, bias, rows, pair.lanes, scores_);
      factor = 1.0f;
    }
    const float* dropout = nullptr;
    if (shape_.dropout_p > 0.0f) {
      draw_dropout(shape_, pair.head, sequence_.first_query + pair.query, key, rows, pair.lanes,
                   dropout_);
      dropout = dropout_;
    }
    const bool shrunk =
        softmax(scores_, factor, rows, pair.lanes, dropout, pair.softmax, shrink_, weights_);
    if (key / kTile == pair.tiles.begin) {
      Products::template gather<false>(values_, weights_, rows, pair.lanes, dim_, padded_,
                                       pair.out);
      return;
    }
    if (shrunk) {
      for (int64_t d = 0; d < dim_; ++d) {
        float* const row = pair.out + d * kTile;
        for (int64_t lane = 0; lane < pair.lanes; lane += 16) {
          store(row + lane, load(row + lane) * load(shrink_ + lane));
        }
      }
    }
    Products::template gather<true>(values_, weights_, rows, pair.lanes, dim_, padded_, pair.out);
  }

  void finish(const Pair& pair) {
    const int64_t token = sequence_.first_query + pair.query;
    float* const lse =
        arguments_.lse ? arguments_.lse + pair.head * shape_.total_q + token : nullptr;
    float inverse[kTile] = {};
    for (int64_t i = 0; i < pair.num_queries; ++i) {
      const float sum = pair.softmax.sum[i];
      const bool sees_nothing = pair.softmax.maximum[i] == -kInfinity && sum == 0.0f;
      inverse[i] = sees_nothing ? 0.0f : 1.0f / sum;
      if (lse) {
        lse[i] = sees_nothing ? -kInfinity : pair.softmax.maximum[i] * kLn2 + std::log(sum);
      }
    }
    const int64_t stride = shape_.num_heads * dim_;
    store_transposed(pair.out, inverse,
                     static_cast<T*>(arguments_.out) + token * stride + pair.head * dim_, stride,
                     pair.num_queries, dim_);
  }

  const AttentionForward& arguments_;
  const AttentionShape& shape_;
  int64_t dim_, padded_;
  Scratch scratch_;
  typename Products::Keys keys_, values_;
  typename Products::Weights weights_;
  float *scores_, *dropout_, *shrink_;
  Sequence sequence_{};
  Pair pairs_[8];
};

template <typename Products, typename T>
void forward(const AttentionForward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  const int64_t lists = int64_t{shape.num_sequences} * shape.num_kv_heads;
  const int64_t most_pairs = ceil_div(shape.max_seqlen_q, kTile) * group;
  // Few lists: smaller pieces, so that many threads find work. Results do not depend on it.
  int64_t piece = max_pairs(shape.head_dim);
  // (Decoding keeps heads together, which read the same keys.)
  const int64_t wanted = shape.max_seqlen_q <= kMaxDecodeQueries ? 8 : 64;
  while (piece > 1 && lists * ceil_div(most_pairs, piece) < wanted) piece /= 2;
  const int64_t pieces = ceil_div(most_pairs, piece);
  parallel_for(pieces * lists, [&](int64_t index) {
    // Late queries first: under a causal mask they are the most work.
    const int64_t first = (pieces - 1 - index / lists) * piece;
    const Sequence sequence = sequence_of(shape, index % lists / shape.num_kv_heads);
    const int64_t kv_head = index % shape.num_kv_heads;
    if (sequence.num_queries <= kMaxDecodeQueries) {
      const int64_t last = std::min(first + piece, group);
      if (first < last) {
        decode<T>(arguments, sequence, kv_head * group + first, kv_head * group + last);
      }
      return;
    }
    const int64_t last = std::min(first + piece, ceil_div(sequence.num_queries, kTile) * group);
    if (first >= last) return;
    [[maybe_unused]] const typename Products::Session session;
    ForwardPiece<Products, T>(arguments).run(sequence, kv_head, first, last);
  });
}

}  // namespace
}  // namespace attention

void attention_forward(Stream, const AttentionForward& arguments) {
  using namespace attention;
  check_shape(arguments.shape);
  if (arguments.shape.dtype == DType::f32) return forward<VectorProducts<float>, float>(arguments);
#ifdef ENGINE_ATTENTION_AMX
  if (amx_is_usable()) return forward<AmxProducts, BFloat16>(arguments);
#endif
  forward<VectorProducts<BFloat16>, BFloat16>(arguments);
}

}  // namespace engine::kernels::cpu

#pragma GCC diagnostic pop
