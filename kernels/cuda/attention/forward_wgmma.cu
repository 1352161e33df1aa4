// The forward of attention on Hopper: FlashAttention-3 (Shah et al. 2024), in bf16.
//
// A block computes tiles of 128 queries of one head, one after the other:
//
//   warpgroup 0       one thread loads by TMA: Q, and K and V of 128 keys at a time, into rings
//   warpgroups 1, 2   64 queries each: scores by wgmma from shared memory, online softmax, and P·V
//                     with P from registers, where the scores were
//
// Two things keep the tensor cores busy while exponentials are computed (16 per cycle, against 4096
// FLOPs: at head_dim 128 half as long as both products):
//   within a warpgroup   the next scores and the last P·V are issued together; the softmax of those
//                        runs beside this product
//   between the two      they issue in turn, so that the softmax of one runs beside the products
//                        of the other
//
// Keys are walked from the last to the first: where the sequence ends within a tile, that is the
// first, and the rows of V beyond it, which belong to another sequence or to nobody, are set to
// zero (a probability of 0 does not silence NaN). The others need no such care.
//
// TMA reads heads in place: a map is {head_dim, heads, tokens}, a box 64 dimensions of one head for
// 64 queries or 128 keys, zeros beyond head_dim. The result goes through the warp's own rows of Q's
// buffer, and by 16-byte stores to its tokens: the next sequence begins where this one ends.
//
// Floor: 4 · (visible pairs) · head_dim FLOPs per head at the rate of wgmma. Shared memory: 160 KiB
// for heads of up to 128, 112 KiB up to 64. Not measured.
#include "kernels/cuda/attention/forward.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/wgmma.h"

namespace engine::kernels::ENGINE_GPU::attention {
namespace {

constexpr int kGroups = 2;           // that multiply
constexpr int kRows = 64 * kGroups;  // queries of a tile
constexpr int kColumns = 128;        // keys of a tile
constexpr int kThreads = (1 + kGroups) * kWarpgroup;
constexpr int kMultiplyingWarps = 4 * kGroups;
constexpr int kPanel = 64;  // dimensions of a box: 128 bytes

// Named barriers.
constexpr int kBothBarrier = 1;   // the multiplying warpgroups
constexpr int kTurnBarrier = 2;   // and the next: a warpgroup's turn to issue
constexpr int kGroupBarrier = 4;  // and the next: the warps of a warpgroup

template <int kDim>
constexpr int kSlots = kDim <= 64 ? 3 : 2;

struct WgmmaArguments {
  TensorMap q, k, v;
  Problem problem;
  Heads<BFloat16> out;
  float* lse;
  int slots, tiles;  // tiles: of all slots and heads
};

template <int kDim>
struct Buffers {
  static constexpr int kKeys = kColumns * kDim;  // elements of a slot of K, or of V
  Shared<BFloat16> q, k, v;
  // A slot is full when TMA has filled it, empty when all warps that read it have said so.
  MbarrierAddress q_full, q_empty, k_full, k_empty, v_full, v_empty;

  ENGINE_DEVICE Buffers() {
    SharedMemory memory;
    q = memory.take<BFloat16>(kRows * kDim, 1024);
    k = memory.take<BFloat16>(kSlots<kDim> * kKeys, 1024);
    v = memory.take<BFloat16>(kSlots<kDim> * kKeys, 1024);
    q_full = memory.take<uint64_t>(2 + 4 * kSlots<kDim>);
    q_empty = q_full + 1;
    k_full = q_full + 2;
    k_empty = k_full + kSlots<kDim>;
    v_full = k_empty + kSlots<kDim>;
    v_empty = v_full + kSlots<kDim>;
  }
  ENGINE_DEVICE Shared<BFloat16> k_slot(int slot) const { return k + slot * kKeys; }
  ENGINE_DEVICE Shared<BFloat16> v_slot(int slot) const { return v + slot * kKeys; }
  static size_t bytes() {
    SharedSize size;
    size.take<BFloat16>(kRows * kDim, 1024);
    size.take<BFloat16>(2 * kSlots<kDim> * kKeys, 1024);
    size.take<uint64_t>(2 + 4 * kSlots<kDim>);
    return size.bytes();
  }
  // By one thread.
  ENGINE_DEVICE void init_barriers() const {
    mbarrier_init(q_full, 1);
    mbarrier_init(q_empty, kMultiplyingWarps);
    for (int slot = 0; slot < kSlots<kDim>; ++slot) {
      mbarrier_init(k_full + slot, 1);
      mbarrier_init(v_full + slot, 1);
      mbarrier_init(k_empty + slot, kMultiplyingWarps);
      mbarrier_init(v_empty + slot, kMultiplyingWarps);
    }
    fence_mbarrier_init();
  }
};

// A tile: queries of one head, and the tiles of keys that some of them see. One at least: where
// there is no such key all scores are masked, and what a wgmma is given or not depends on nothing.
struct Work {
  Sequence sequence;
  int head, first_query, queries;  // queries = 0: there is nothing
  int first_key, key_tiles;
  Range all_see;  // the keys that every query sees
};
ENGINE_DEVICE Work find_work(const WgmmaArguments& arguments, int tile) {
  const Problem& problem = arguments.problem;
  Work work;
  work.head = tile % problem.num_heads;
  // Long ones first: the last queries of a causal sequence see most keys.
  const Slot slot = find_slot(problem.cu_seqlens_q, problem.num_sequences, kRows,
                              arguments.slots - 1 - tile / problem.num_heads);
  work.sequence = load_sequence(problem, slot.sequence);
  work.first_query = slot.tile * kRows;
  work.queries = larger(0, smaller(kRows, work.sequence.num_queries - work.first_query));
  const int position = work.first_query + work.sequence.offset();
  const Range first = visible_keys(problem, work.sequence.num_keys, position);
  const Range last = visible_keys(problem, work.sequence.num_keys, position + work.queries - 1);
  work.first_key = first.begin / kColumns * kColumns;
  work.key_tiles = larger(1, ceil_div(last.end - work.first_key, kColumns));
  work.all_see = {last.begin, first.end};
  return work;
}

// One warp: all lanes find the work, `leader` loads it.
template <int kDim>
ENGINE_DEVICE void load_tiles(const WgmmaArguments& arguments, const Buffers<kDim>& buffers) {
  constexpr int kPanels = kDim / kPanel;
  const bool leader = elect_lane();
  RingPosition<1> q_at;
  RingPosition<kSlots<kDim>> k_at, v_at;
  for (int tile = static_cast<int>(blockIdx.x); tile < arguments.tiles;
       tile += static_cast<int>(gridDim.x)) {
    const Work work = find_work(arguments, tile);
    if (work.queries == 0 || !leader) continue;
    const int kv_head = work.head / arguments.problem.group;
    mbarrier_wait(buffers.q_empty, q_at.parity ^ 1);
    mbarrier_arrive_expect(buffers.q_full, kRows * kDim * 2);
    for (int group = 0; group < kGroups; ++group) {
      for (int panel = 0; panel < kPanels; ++panel) {
        tensor_load(buffers.q + (group * kPanels + panel) * 64 * kPanel, arguments.q,
                    buffers.q_full,
                    Coordinate3{panel * kPanel, work.head,
                                work.sequence.first_query + work.first_query + 64 * group});
      }
    }
    q_at.advance();
    const auto load_keys = [&](Shared<BFloat16> ring, const TensorMap& map, MbarrierAddress full,
                               MbarrierAddress empty, RingPosition<kSlots<kDim>>& at, int i) {
      mbarrier_wait(empty + at.slot, at.parity ^ 1);
      mbarrier_arrive_expect(full + at.slot, Buffers<kDim>::kKeys * 2);
      const int key = work.sequence.first_key + work.first_key + i * kColumns;
      for (int panel = 0; panel < kPanels; ++panel) {
        tensor_load(ring + at.slot * Buffers<kDim>::kKeys + panel * kColumns * kPanel, map,
                    full + at.slot, Coordinate3{panel * kPanel, kv_head, key});
      }
      at.advance();
    };
    // In the order in which they are asked for: K of the next tile before V of this one.
    for (int i = work.key_tiles - 1; i >= -1; --i) {
      if (i >= 0) {
        load_keys(buffers.k, arguments.k, buffers.k_full, buffers.k_empty, k_at, i);
      }
      if (i < work.key_tiles - 1) {
        load_keys(buffers.v, arguments.v, buffers.v_full, buffers.v_empty, v_at, i + 1);
      }
    }
  }
}

// Fragments as the flat array that wgmma takes.
template <int NT>
ENGINE_DEVICE float (&flat(float (&c)[1][NT][4]))[NT * 4] {
  return reinterpret_cast<float(&)[NT * 4]>(c);
}

// Starts s = Q · Kᵀ for the warpgroup's 64 queries.
template <int kDim>
ENGINE_DEVICE void start_scores(float (&s)[1][kColumns / 8][4], Shared<BFloat16> q,
                                Shared<BFloat16> k) {
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    const MatrixTile<Major::k> a(q + d / kPanel * 64 * kPanel);
    const MatrixTile<Major::k> b(k + d / kPanel * kColumns * kPanel);
    wgmma<kColumns>(flat(s), a.at_k(d % kPanel), b.at_k(d % kPanel), d > 0);
  }
  warpgroup_commit();
}

// Starts out += P · V.
template <int kDim>
ENGINE_DEVICE void start_output(float (&out)[1][kDim / 8][4], const uint32_t (&p)[kColumns / 16][4],
                                Shared<BFloat16> v) {
  const MatrixTile<Major::mn> b(v, kColumns * kPanel * 2);
#pragma unroll
  for (int i = 0; i < kColumns / 16; ++i) {
    wgmma<kDim>(flat(out), p[i], b.at_k(16 * i), true);
  }
  warpgroup_commit();
}

// Probabilities rounded to bf16: scores of two neighbouring 8 keys are an A fragment of 16.
ENGINE_DEVICE void pack_probabilities(uint32_t (&p)[kColumns / 16][4],
                                      const float (&s)[1][kColumns / 8][4]) {
#pragma unroll
  for (int i = 0; i < kColumns / 16; ++i) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float* const x = s[0][2 * i + r / 2] + r % 2 * 2;
      p[i][r] = pack_bf16(x[0], x[1]);
    }
  }
}

// Both multiplying warpgroups: zeros in the rows of V from `valid` on.
template <int kDim>
ENGINE_DEVICE void clear_beyond(Shared<BFloat16> v, int valid, int thread) {
  constexpr int kChunks = kDim / 8;
  for (int i = larger(0, valid) * kChunks + thread; i < kColumns * kChunks;
       i += kGroups * kWarpgroup) {
    const int row = i / kChunks, chunk = i % kChunks;
    // Rows of a panel are whole: the swizzle only changes the order of their chunks.
    const Shared<BFloat16> at = v + chunk / 8 * kColumns * kPanel + row * kPanel + chunk % 8 * 8;
    store_vector(at.template as<uint32_t>(), Vector<uint32_t, 4>{});
  }
  fence_async_proxy();
}

// The warp's 16 rows, times factor, through its rows of the group's part of Q's buffer.
template <int kDim>
ENGINE_DEVICE void write_rows(const WgmmaArguments& arguments, const Work& work,
                              const float (&out)[1][kDim / 8][4], const float (&factor)[2],
                              Shared<BFloat16> q, int group, int warp) {
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < kDim / 16; ++n) {
    uint32_t packed[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float* const x = out[0][2 * n + r / 2] + r % 2 * 2;
      packed[r] = pack_bf16(x[0] * factor[r % 2], x[1] * factor[r % 2]);
    }
    const int chunk = 2 * n + lane / 16, row = 16 * warp + lane % 16;
    const auto offset = static_cast<uint32_t>(row * 128 + chunk % 8 * 16);
    store_matrix_x4(q + chunk / 8 * 64 * kPanel + static_cast<int>(swizzled_offset(offset)) / 2,
                    packed);
  }
  sync_warp();
  const int dim = arguments.problem.head_dim;
  const int first = work.first_query + 64 * group + 16 * warp;  // in the sequence
  BFloat16* const to = arguments.out.at(work.sequence.first_query + first, work.head, dim);
  constexpr int kChunks = kDim / 8;
#pragma unroll 4
  for (int i = lane; i < 16 * kChunks; i += kWarp) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (first + row >= work.sequence.num_queries || chunk * 8 >= dim) continue;
    const auto offset = static_cast<uint32_t>((16 * warp + row) * 128 + chunk % 8 * 16);
    const auto values =
        load_vector<8>(q + chunk / 8 * 64 * kPanel + static_cast<int>(swizzled_offset(offset)) / 2);
    store_vector(to + row * arguments.out.stride + chunk * 8, values);
  }
}

template <int kDim>
ENGINE_DEVICE void multiply_tiles(const WgmmaArguments& arguments, const Buffers<kDim>& buffers) {
  const Problem& problem = arguments.problem;
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int group = thread / kWarpgroup, warp = thread / kWarp % 4, lane = lane_index();
  const Shared<BFloat16> q = buffers.q + group * 64 * kDim;
  const float log2_factor = problem.scale * kLog2E;
  const auto release = [&](MbarrierAddress empty) {
    if (lane == 0) mbarrier_arrive(empty);
  };
  // Each issues when the other has.
  const auto wait_for_turn = [&] {
    sync_named_barrier(kTurnBarrier + group, kGroups * kWarpgroup);
  };
  const auto pass_turn = [&] {
    arrive_named_barrier(kTurnBarrier + (group ^ 1), kGroups * kWarpgroup);
  };
  if (group == 1) pass_turn();  // the first begins

  RingPosition<1> q_at;
  RingPosition<kSlots<kDim>> k_at, v_at;
  for (int tile = static_cast<int>(blockIdx.x); tile < arguments.tiles;
       tile += static_cast<int>(gridDim.x)) {
    const Work work = find_work(arguments, tile);
    if (work.queries == 0) continue;
    const int first_row = work.first_query + 64 * group + 16 * warp;  // of the warp
    const auto mask = [&](float(&s)[1][kColumns / 8][4], int key) {
      if (key >= work.all_see.begin && key + kColumns <= work.all_see.end) return;
      mask_scores(s, first_row + work.sequence.offset() - key, [&](int position) {
        return visible_keys(problem, work.sequence.num_keys - key, position);
      });
    };
    float s[1][kColumns / 8][4], out[1][kDim / 8][4];
    uint32_t p[kColumns / 16][4];
    OnlineSoftmax<BFloat16, 1> softmax;
    clear(out);
    mbarrier_wait(buffers.q_full, q_at.parity);
    q_at.advance();

    // The last keys.
    int key = work.first_key + (work.key_tiles - 1) * kColumns;
    mbarrier_wait(buffers.k_full + k_at.slot, k_at.parity);
    wait_for_turn();
    warpgroup_fence();
    start_scores<kDim>(s, q, buffers.k_slot(k_at.slot));
    pass_turn();
    warpgroup_wait<0>();
    release(buffers.k_empty + k_at.slot);
    k_at.advance();
    mask(s, key);
    softmax.add_with(s, log2_factor, [](int, int, float) {});
    pack_probabilities(p, s);
    if (key + kColumns > work.sequence.num_keys) {
      mbarrier_wait(buffers.v_full + v_at.slot, v_at.parity);
      clear_beyond<kDim>(buffers.v_slot(v_at.slot), work.sequence.num_keys - key, thread);
      sync_named_barrier(kBothBarrier, kGroups * kWarpgroup);
    }

    // Each turn: scores of these keys, and P · V of those after them.
    for (int i = work.key_tiles - 2; i >= 0; --i) {
      key -= kColumns;
      mbarrier_wait(buffers.k_full + k_at.slot, k_at.parity);
      mbarrier_wait(buffers.v_full + v_at.slot, v_at.parity);
      wait_for_turn();
      warpgroup_fence();
      start_scores<kDim>(s, q, buffers.k_slot(k_at.slot));
      start_output<kDim>(out, p, buffers.v_slot(v_at.slot));
      pass_turn();
      warpgroup_wait<1>();
      release(buffers.k_empty + k_at.slot);
      k_at.advance();
      mask(s, key);
      float rescale[2];
      softmax.add_with(s, log2_factor,
                       [&](int, int half, float factor) { rescale[half] = factor; });
      warpgroup_wait<0>();
      release(buffers.v_empty + v_at.slot);
      v_at.advance();
      rescale_row(out, 0, 0, rescale[0]);
      rescale_row(out, 0, 1, rescale[1]);
      pack_probabilities(p, s);
    }
    mbarrier_wait(buffers.v_full + v_at.slot, v_at.parity);
    warpgroup_fence();
    start_output<kDim>(out, p, buffers.v_slot(v_at.slot));
    warpgroup_wait<0>();
    release(buffers.v_empty + v_at.slot);
    v_at.advance();

    softmax.finish();
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = softmax.sum[0][half];
      factor[half] = sum == 0.0f ? 0.0f : 1.0f / sum;
      const int row = first_row + 8 * half + lane / 4;
      if (arguments.lse && lane % 4 == 0 && row < work.sequence.num_queries) {
        store(arguments.lse + work.head * problem.total_q + work.sequence.first_query + row,
              sum == 0.0f ? -infinity() : softmax.maximum[0][half] * problem.scale + logf(sum));
      }
    }
    // All warps of the group are done with its part of Q.
    sync_named_barrier(kGroupBarrier + group, kWarpgroup);
    write_rows<kDim>(arguments, work, out, factor, q, group, warp);
    fence_async_proxy();
    sync_warp();
    release(buffers.q_empty);
  }
  if (group == 0) wait_for_turn();  // takes the turn that the other passed last
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward_wgmma_kernel(const __grid_constant__ WgmmaArguments arguments) {
  const Buffers<kDim> buffers;
  if (threadIdx.x == 0) {
    prefetch_tensor_map(arguments.q);
    prefetch_tensor_map(arguments.k);
    prefetch_tensor_map(arguments.v);
    buffers.init_barriers();
  }
  sync_threads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<40>();
    if (warp_index() == 0) load_tiles(arguments, buffers);
  } else {
    take_registers<232>();
    multiply_tiles(arguments, buffers);
  }
}

// {head_dim, heads, tokens}, in boxes of 64 dimensions and `rows` tokens.
TensorMapConfig heads_map(const Heads<BFloat16>& heads, int head_dim, int num_heads, int64_t tokens,
                          int rows) {
  return {.base = heads.data,
          .dtype = DType::bf16,
          .size = {head_dim, num_heads, tokens},
          .stride = {head_dim, heads.stride},
          .box = {kPanel, 1, rows}};
}

}  // namespace

bool forward_wgmma(const Stream& stream, const ForwardArguments<BFloat16>& arguments) {
  const Problem& problem = arguments.problem;
  const int dim = problem.head_dim;
  if (compute_capability(stream) != 90) return false;
  if (dim <= 32 || dim > 128) return false;  // narrower heads would be half zeros
  if (problem.distance_bias || problem.dropout_p > 0.0f || !(problem.scale > 0.0f)) return false;
  const int64_t slots = count_slots(problem.total_q, problem.num_sequences, kRows);
  const int64_t tiles = slots * problem.num_heads;
  if (arguments.total_k < 1 || tiles > 1 << 30) return false;
  const TensorMapConfig q = heads_map(arguments.q, dim, problem.num_heads, problem.total_q, 64);
  const TensorMapConfig k =
      heads_map(arguments.k, dim, problem.num_kv_heads, arguments.total_k, kColumns);
  const TensorMapConfig v =
      heads_map(arguments.v, dim, problem.num_kv_heads, arguments.total_k, kColumns);
  if (!arguments.out.aligned || !tensor_map_possible(q) || !tensor_map_possible(k) ||
      !tensor_map_possible(v)) {
    return false;
  }
  const WgmmaArguments of_kernel{.q = make_tensor_map(q),
                                 .k = make_tensor_map(k),
                                 .v = make_tensor_map(v),
                                 .problem = problem,
                                 .out = arguments.out,
                                 .lse = arguments.lse,
                                 .slots = static_cast<int>(slots),
                                 .tiles = static_cast<int>(tiles)};
  const auto available = static_cast<int64_t>(multiprocessors(stream));
  const auto blocks = static_cast<unsigned>(tiles < available ? tiles : available);
  for_padded_dim<64, 128>(dim, [&](auto padded) {
    constexpr int kDim = decltype(padded)::value;
    launch(stream, "attention_forward_wgmma", attention_forward_wgmma_kernel<kDim>,
           {.grid = {blocks}, .block = {kThreads}, .shared_bytes = Buffers<kDim>::bytes()},
           of_kernel);
  });
  return true;
}

}  // namespace engine::kernels::ENGINE_GPU::attention
