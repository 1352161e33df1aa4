#include "kernels/cpu/attention_tile.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu::attention {

namespace {

struct Words {
  U32x16 high, low;
};
// The 64-bit products of sixteen words with one.
ENGINE_INLINE Words multiply_wide(U32x16 a, uint32_t b) {
#if defined(__AVX512F__)
  const __m512i words = reinterpret_cast<__m512i>(a);
  const __m512i factor = _mm512_set1_epi64(b);
  const auto upper = [](__m512i x) { return _mm512_maskz_srli_epi64(0xff, x, 32); };
  const __m512i even = _mm512_maskz_mul_epu32(0xff, words, factor);
  const __m512i odd = _mm512_maskz_mul_epu32(0xff, upper(words), factor);
  constexpr __mmask16 kOdd = 0xaaaa;
  return {reinterpret_cast<U32x16>(_mm512_mask_mov_epi32(upper(even), kOdd, odd)),
          reinterpret_cast<U32x16>(
              _mm512_mask_mov_epi32(even, kOdd, _mm512_maskz_slli_epi64(0xff, odd, 32)))};
#else
  Words result;
  for (int i = 0; i < 16; ++i) {
    const uint64_t product = uint64_t{a[i]} * b;
    result.high[i] = static_cast<uint32_t>(product >> 32);
    result.low[i] = static_cast<uint32_t>(product);
  }
  return result;
#endif
}

// Distances of a tile pair, biggest first: entry lane - row + kTile - 1 is that of row and lane.
struct TileDistances {
  int64_t first;  // bias index of entry 0; entry t has index first - t
  TileDistances(const AttentionShape& shape, const TilePlace& place)
      : first(place.key - place.position + shape.distance_offset + kTile - 1) {}
};

}  // namespace

void check_shape(const AttentionShape& shape) {
  require(shape.dtype == DType::f32 || shape.dtype == DType::bf16, "attention takes f32 or bf16");
  require(shape.num_kv_heads > 0 && shape.num_heads % shape.num_kv_heads == 0,
          "attention: num_heads is not a multiple of num_kv_heads");
  require(shape.head_dim > 0 && shape.head_dim <= kMaxHeadDim,
          "attention: head_dim is not within 1 .. 256");
  require(shape.max_seqlen_k <= 1 << 20, "attention: a sequence has more than 2^20 keys");
  require(shape.dropout_p >= 0.0f && shape.dropout_p < 1.0f,
          "attention: dropout_p is not within [0, 1)");
}

void bias_and_mask(const AttentionShape& shape, const TilePlace& place, const float* head_bias,
                   int64_t rows, int64_t lanes, float* scores) {
  const F32x16 factor = splat(shape.scale * kLog2e);
  float bias[2 * kTile] = {};
  if (head_bias) {
    const TileDistances distances(shape, place);
    for (int64_t t = 0; t < 2 * kTile - 1; ++t) {
      const int64_t index = distances.first - t;
      if (index >= 0 && index < shape.distance_count) bias[t] = head_bias[index] * kLog2e;
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    // Lanes [from, to) see this key.
    int64_t from = 0, to = kTile;
    const int64_t relative = place.key + row - place.position;
    if (shape.causal) from = relative;
    if (shape.window > 0) to = relative + shape.window;
    if (row >= place.num_keys) to = 0;
    const auto clamp = [](int64_t x) {
      return static_cast<int32_t>(std::clamp<int64_t>(x, 0, kTile));
    };
    const int32_t first = clamp(from), last = clamp(to);
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      float* s = scores + row * kTile + lane;
      const F32x16 value = load(s) * factor + load(bias + lane - row + kTile - 1);
      const I32x16 index = lane_index() + static_cast<int32_t>(lane);
      store(s, ((index >= first) & (index < last)) ? value : splat(-kInfinity));
    }
  }
}

void add_bias_gradient(const AttentionShape& shape, const TilePlace& place, int64_t lanes,
                       const float* d_scores, float* d_head_bias) {
  float sum[2 * kTile] = {};
  for (int64_t row = 0; row < place.num_keys; ++row) {
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      float* s = sum + lane - row + kTile - 1;
      store(s, load(s) + load(d_scores + row * kTile + lane));
    }
  }
  const TileDistances distances(shape, place);
  for (int64_t t = 0; t < 2 * kTile - 1; ++t) {
    const int64_t index = distances.first - t;
    if (index >= 0 && index < shape.distance_count) d_head_bias[index] += sum[t];
  }
}

void draw_dropout(const AttentionShape& shape, int64_t head, int64_t query_token, int64_t key,
                  int64_t rows, int64_t lanes, float* factor) {
  // Index (row of P) · 2^20 + key: four neighbouring keys share the counter index / 4.
  const uint64_t first_row = static_cast<uint64_t>(head * shape.total_q + query_token);
  const F32x16 kept = splat(1.0f / (1.0f - shape.dropout_p));
  const uint64_t seed = shape.dropout_seed.get();
  for (int64_t lane = 0; lane < lanes; lane += 16) {
    U32x16 row_low, row_high;
    for (int i = 0; i < 16; ++i) {
      const uint64_t counter = (first_row + static_cast<uint64_t>(lane + i)) << 18;
      row_low[i] = static_cast<uint32_t>(counter);
      row_high[i] = static_cast<uint32_t>(counter >> 32);
    }
    for (int64_t row = 0; row < rows; row += 4) {
      U32x16 c0 = row_low + static_cast<uint32_t>((key + row) / 4);
      U32x16 c1 = row_high, c2 = {}, c3 = {};
      uint32_t k0 = static_cast<uint32_t>(seed);
      uint32_t k1 = static_cast<uint32_t>(seed >> 32);
      for (int round = 0; round < 10; ++round) {  // as philox4x32 of dropout.h
        const Words p0 = multiply_wide(c0, 0xD2511F53u);
        const Words p1 = multiply_wide(c2, 0xCD9E8D57u);
        c0 = p1.high ^ c1 ^ k0;
        c1 = p1.low;
        c2 = p0.high ^ c3 ^ k1;
        c3 = p0.low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      const U32x16 words[4] = {c0, c1, c2, c3};
      for (int i = 0; i < 4; ++i) {
        const I32x16 bits = reinterpret_cast<I32x16>(words[i] >> 8);
        const F32x16 uniform = __builtin_convertvector(bits, F32x16) * (1.0f / 16777216.0f);
        store(factor + (row + i) * kTile + lane, uniform >= shape.dropout_p ? kept : F32x16{});
      }
    }
  }
}

Scratch::Scratch(size_t bytes) {
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  struct Memory {
    std::unique_ptr<std::byte, Free> data;
    size_t size = 0;
  };
  thread_local Memory memory;
  if (memory.size < bytes) {
    memory.size = static_cast<size_t>(round_up(static_cast<int64_t>(bytes), 4096));
    memory.data.reset(static_cast<std::byte*>(std::aligned_alloc(4096, memory.size)));
    if (!memory.data) throw std::bad_alloc();
  }
  next_ = memory.data.get();
  end_ = next_ + memory.size;
}

}  // namespace engine::kernels::cpu::attention

#pragma GCC diagnostic pop
