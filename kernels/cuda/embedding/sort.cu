// A stable radix sort, 9 bits per pass: two passes for 262144 rows.
//
// The tokens are cut into at most 64 tiles of 2048 or more, a block each, as the number of tokens
// alone decides. A pass is two launches: every block counts the digits of its tile; then every
// block adds up the counts of the tiles before it (64 x 512 numbers from L2 at most, which is
// cheaper than a launch of its own) and puts its tokens where they belong. Within a tile each warp
// has a run of the tokens, and finds their places 32 at a time. Eight bytes per token are read
// twice and written once per pass: a few microseconds for any batch.
#include "kernels/cuda/embedding/sort.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kDigitBits = 9, kDigits = 1 << kDigitBits;
constexpr int kThreads = kDigits, kWarps = kThreads / kWarp;  // a thread per digit where it counts
constexpr int kMostTiles = 64, kLeastTile = 2048;

struct Pass {
  struct List {
    const int32_t* rows;
    const Entry* from;  // unused in the first pass
    Entry* to;
    int32_t* counts;  // [tiles][kDigits]
    int passes;
  };
  List list[kMostTokenSorts];
  int64_t tokens;
  int tiles, tile, pass;  // tile: tokens of one
};

// Tokens [begin, end) of a tile, one warp's run of them, and what they are.
struct Run {
  Pass::List list;
  int pass;
  int64_t begin, end;

  ENGINE_DEVICE Run(const Pass& p, const Pass::List& which)
      : list(which), pass(p.pass), begin(0), end(0) {
    const int per_warp = p.tile / kWarps;
    begin = blockIdx.x * static_cast<int64_t>(p.tile) + warp_index() * per_warp;
    end = begin + per_warp < p.tokens ? begin + per_warp : p.tokens;
  }
  ENGINE_DEVICE Entry entry(int64_t i) const {
    if (pass > 0) return load_vector<2>(list.from[i].element);
    Entry first;
    first[0] = load(list.rows + i);
    first[1] = static_cast<int32_t>(i);
    return first;
  }
  ENGINE_DEVICE int digit(const Entry& e) const {
    return static_cast<int>(static_cast<uint32_t>(e[0]) >> (pass * kDigitBits)) & (kDigits - 1);
  }
  // Adds up the digits of the run in counts[kDigits].
  ENGINE_DEVICE void count(Shared<int32_t> counts) const {
#pragma unroll 4
    for (int64_t i = begin + lane_index(); i < end; i += kWarp) {
      atomic_add(counts + digit(entry(i)), 1);
    }
  }
};

__global__ void __launch_bounds__(kThreads) count_digits_kernel(const Pass p) {
  const Pass::List list = blockIdx.y == 0 ? p.list[0] : p.list[1];
  if (p.pass >= list.passes) return;
  SharedMemory shared;
  const Shared<int32_t> counts = shared.take<int32_t>(kDigits);
  const int digit = static_cast<int>(threadIdx.x);
  store(counts + digit, 0);
  sync_threads();
  Run(p, list).count(counts);
  sync_threads();
  store(list.counts + static_cast<int64_t>(blockIdx.x) * kDigits + digit, load(counts + digit));
}

// Lanes whose digit is this lane's, among those of `lanes`.
ENGINE_DEVICE uint32_t lanes_of_digit(int digit, uint32_t lanes) {
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool set = digit >> bit & 1;
    const uint32_t with = ballot(set);
    lanes &= set ? with : ~with;
  }
  return lanes;
}

__global__ void __launch_bounds__(kThreads) place_tokens_kernel(const Pass p) {
  const Pass::List list = blockIdx.y == 0 ? p.list[0] : p.list[1];
  if (p.pass >= list.passes) return;
  SharedMemory shared;
  // Of each warp and digit: how many tokens, then where the next one goes.
  const Shared<int32_t> places = shared.take<int32_t>(kWarps * kDigits);
  const Shared<int32_t> warp_sums = shared.take<int32_t>(kWarps);
  const int digit = static_cast<int>(threadIdx.x), lane = lane_index(), warp = warp_index();
  const Shared<int32_t> own = places + warp * kDigits;
  for (int w = 0; w < kWarps; ++w) store(places + w * kDigits + digit, 0);
  sync_threads();
  const Run run(p, list);
  run.count(own);

  // This thread's digit in all tiles, and in those before.
  int total = 0, before = 0;
#pragma unroll 4
  for (int tile = 0; tile < p.tiles; ++tile) {
    const int32_t count = load(list.counts + static_cast<int64_t>(tile) * kDigits + digit);
    total += count;
    if (tile < static_cast<int>(blockIdx.x)) before += count;
  }
  int up_to = total;  // of the digits of this warp up to this lane's
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const int below = shuffle_up(up_to, delta);
    if (lane >= delta) up_to += below;
  }
  if (lane == kWarp - 1) store(warp_sums + warp, up_to);
  sync_threads();  // also: every warp has counted
  int place = before + up_to - total;
  for (int w = 0; w < warp; ++w) place += load(warp_sums + w);
  for (int w = 0; w < kWarps; ++w) {
    const Shared<int32_t> at = places + w * kDigits + digit;
    const int32_t count = load(at);
    store(at, place);
    place += count;
  }
  sync_threads();

  Entry next{};  // on its way while the one before finds its place
  if (run.begin + lane < run.end) next = run.entry(run.begin + lane);
  for (int64_t first = run.begin; first < run.end; first += kWarp) {
    const bool exists = first + lane < run.end;
    const Entry e = next;
    if (first + kWarp + lane < run.end) next = run.entry(first + kWarp + lane);
    const int own_digit = run.digit(e);
    const uint32_t same = lanes_of_digit(own_digit, ballot(exists));
    const int rank = count_bits(same & ((1u << lane) - 1));
    int32_t to = 0;
    if (exists) {
      to = load(own + own_digit);
      store_vector(list.to[to + rank].element, e);
    }
    sync_warp();
    if (exists && rank == 0) store(own + own_digit, to + count_bits(same));
    sync_warp();
  }
}

// --- Host --------------------------------------------------------------------------------------

int passes_of(int64_t rows) {
  int passes = 1;
  while (rows > int64_t{1} << (passes * kDigitBits)) ++passes;
  return passes;
}

// Tokens of a tile: whole steps of every warp.
int tile_of(int64_t tokens) {
  const int64_t even =
      ceil_div<int64_t>(ceil_div<int64_t>(tokens, kMostTiles), kThreads) * kThreads;
  return static_cast<int>(even > kLeastTile ? even : kLeastTile);
}
int tiles_of(int64_t tokens) {
  return static_cast<int>(ceil_div<int64_t>(tokens, tile_of(tokens)));
}

// What a workspace holds: two buffers, of which even and odd passes write the first and the second,
// and the counts.
struct Workspace {
  Entry* buffer[2];
  int32_t* counts;
  size_t bytes;

  Workspace(void* data, int64_t tokens) {
    const int64_t entries = ceil_div<int64_t>(tokens, 2) * 2;  // what follows stays aligned
    buffer[0] = static_cast<Entry*>(data);
    buffer[1] = buffer[0] + entries;
    counts = reinterpret_cast<int32_t*>(buffer[1] + entries);
    bytes = static_cast<size_t>(2 * entries) * sizeof(Entry) +
            static_cast<size_t>(tiles_of(tokens)) * kDigits * sizeof(int32_t);
  }
};

}  // namespace

size_t token_sort_workspace(int64_t tokens) {
  return Workspace(nullptr, tokens).bytes;
}

const Entry* sorted_tokens(const TokenSort& sort, int64_t tokens) {
  return Workspace(sort.workspace, tokens).buffer[(passes_of(sort.num_rows) + 1) % 2];
}

void sort_tokens(Stream stream, int64_t tokens, std::span<const TokenSort> sorts) {
  require(sorts.size() <= kMostTokenSorts, "sort_tokens: too many lists");
  if (tokens == 0 || sorts.empty()) return;
  Pass pass{.tokens = tokens, .tiles = tiles_of(tokens), .tile = tile_of(tokens)};
  int passes = 0;
  for (size_t i = 0; i < sorts.size(); ++i) {
    pass.list[i].rows = sorts[i].rows;
    pass.list[i].counts = Workspace(sorts[i].workspace, tokens).counts;
    pass.list[i].passes = passes_of(sorts[i].num_rows);
    passes = pass.list[i].passes > passes ? pass.list[i].passes : passes;
  }
  const Extent grid{static_cast<unsigned>(pass.tiles), static_cast<unsigned>(sorts.size())};
  for (pass.pass = 0; pass.pass < passes; ++pass.pass) {
    for (size_t i = 0; i < sorts.size(); ++i) {
      const Workspace workspace(sorts[i].workspace, tokens);
      pass.list[i].from = workspace.buffer[(pass.pass + 1) % 2];
      pass.list[i].to = workspace.buffer[pass.pass % 2];
    }
    launch(stream, "embedding_backward, count", count_digits_kernel,
           {.grid = grid,
            .block = {kThreads},
            .shared_bytes = SharedSize().take<int32_t>(kDigits).bytes()},
           pass);
    launch(stream, "embedding_backward, sort", place_tokens_kernel,
           {.grid = grid,
            .block = {kThreads},
            .shared_bytes =
                SharedSize().take<int32_t>(kWarps * kDigits).take<int32_t>(kWarps).bytes()},
           pass);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
