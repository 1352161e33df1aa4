#include "kernels/simt/async.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <utility>

#include "kernels/simt/wgmma.h"

namespace engine::kernels::simt {
namespace {

constexpr const char* kMbarrierWait = "mbarrier at offset";
constexpr int64_t kMostBytes = (1 << 20) - 1;  // of one phase
// What the 8 bytes of an mbarrier hold, so that overwriting it shows.
constexpr uint64_t kMagic = 0x6d62617272696572;

struct Place {
  Block* block;
  uint32_t offset;
};

// Where an address of shared memory lies. `what` is for the message.
Place place_of(const void* address, size_t bytes, const char* what) {
  Block& own = *self().block;
  const auto* const begin = static_cast<const std::byte*>(address);
  for (const auto& block : own.cluster->blocks) {
    if (begin >= block->shared && begin + bytes <= block->shared + block->shared_bytes) {
      if (block->num_done == block->num_threads) {
        fault("%s in the shared memory of block %d of the cluster, which has already returned",
              what, block->rank);
      }
      return {block.get(), static_cast<uint32_t>(begin - block->shared)};
    }
  }
  fault("%s of %zu bytes is not in shared memory: offset %td of %zu bytes", what, bytes,
        begin - own.shared, own.shared_bytes);
}

Mbarrier* find(const Block& block, uint32_t offset) {
  for (const auto& barrier : block.mbarriers) {
    if (barrier->offset == offset) return barrier.get();
  }
  return nullptr;
}

Mbarrier& mbarrier_at(const Place& place, const char* operation) {
  Mbarrier* const barrier = find(*place.block, place.offset);
  if (!barrier) {
    fault("%s: there is no initialised mbarrier at shared memory offset %u of block %d", operation,
          place.offset, place.block->rank);
  }
  uint64_t content;
  std::memcpy(&content, place.block->shared + place.offset, sizeof content);
  if (content != kMagic) {
    fault("%s: the mbarrier at shared memory offset %u was overwritten", operation, place.offset);
  }
  return *barrier;
}

void complete_if_due(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  const uint32_t parity = barrier.phase & 1;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  std::erase_if(barrier.waiters, [&](const Mbarrier::Waiter& waiter) {
    if (waiter.parity != parity) return false;
    wake(*waiter.thread);
    return true;
  });
  this_cluster().progress = true;
}

void bytes_arrive(const Place& place, uint32_t bytes) {
  Mbarrier& barrier = mbarrier_at(place, "completion of a load");
  barrier.bytes -= bytes;
  if (barrier.bytes < 0 && barrier.pending == 0) {
    fault("the mbarrier at shared memory offset %u expected %lld bytes fewer than arrived",
          place.offset, static_cast<long long>(-barrier.bytes));
  }
  complete_if_due(barrier);
}

void expect(Mbarrier& barrier, int64_t bytes) {
  barrier.bytes += bytes;
  if (barrier.bytes > kMostBytes) {
    fault("an mbarrier cannot expect %lld bytes: more than 2^20 - 1",
          static_cast<long long>(barrier.bytes));
  }
}

}  // namespace

void init_mbarrier(void* address, uint32_t arrivals) {
  check_shared(address, 8, Access::write);  // also the alignment
  const Place place = place_of(address, 8, "an mbarrier");
  if (place.block != self().block) fault("an mbarrier of another block cannot be initialised");
  if (arrivals == 0 || arrivals > 0xfffff) fault("an mbarrier for %u arrivals", arrivals);
  if (find(*place.block, place.offset)) {
    fault("the mbarrier at shared memory offset %u is initialised twice", place.offset);
  }
  std::memcpy(address, &kMagic, sizeof kMagic);
  auto barrier = std::make_shared<Mbarrier>();
  barrier->offset = place.offset;
  barrier->expected = barrier->pending = arrivals;
  barrier->initialiser = &self();
  place.block->mbarriers.push_back(std::move(barrier));
}

void fence_mbarriers() {
  for (const auto& barrier : self().block->mbarriers) {
    if (barrier->initialiser == &self()) barrier->fenced = true;
  }
}

void arrive_mbarrier(void* address, int64_t bytes) {
  const Place place = place_of(address, 8, "an mbarrier");
  Mbarrier& barrier = mbarrier_at(place, "arrive");
  if (place.block != self().block && !barrier.fenced) {
    fault("arrive: the mbarrier at offset %u of block %d was initialised without a fence",
          place.offset, place.block->rank);
  }
  if (barrier.pending == 0) {
    fault("mbarrier underflow at shared memory offset %u: more than %u arrivals in phase %u",
          place.offset, barrier.expected, barrier.phase);
  }
  expect(barrier, bytes);
  --barrier.pending;
  complete_if_due(barrier);
  if (bytes == 0) hold_back();  // an arrival that expects bytes announces work, it ends none
}

void expect_mbarrier(void* address, int64_t bytes) {
  expect(mbarrier_at(place_of(address, 8, "an mbarrier"), "expect_tx"), bytes);
}

void wait_mbarrier(void* address, uint32_t parity) {
  const Place place = place_of(address, 8, "an mbarrier");
  if (place.block != self().block) fault("waiting on an mbarrier of another block");
  Mbarrier& barrier = mbarrier_at(place, "wait");
  if (parity > 1) fault("wait: the parity of a phase is 0 or 1, not %u", parity);
  if ((barrier.phase & 1) != parity) return;
  barrier.waiters.push_back({&self(), parity});
  wait_for(kMbarrierWait, place.offset);
}

std::string describe_mbarrier_wait(const Thread& thread) {
  if (thread.waits_for != kMbarrierWait) return {};
  const Mbarrier* const barrier = find(*thread.block, static_cast<uint32_t>(thread.wait_detail));
  if (!barrier) return {};
  char text[160];
  std::snprintf(text, sizeof text,
                " (parity %u; phase %u has %u of %u arrivals and misses %lld bytes)",
                barrier->phase & 1, barrier->phase, barrier->expected - barrier->pending,
                barrier->expected, static_cast<long long>(barrier->bytes));
  return text;
}

void* map_to_rank(void* address, int rank) {
  const Block& own = *self().block;
  if (rank < 0 || rank >= static_cast<int>(own.cluster->blocks.size())) {
    fault("there is no block %d in a cluster of %zu", rank, own.cluster->blocks.size());
  }
  return own.cluster->blocks[rank]->shared + (static_cast<std::byte*>(address) - own.shared);
}

void set_registers(int count) {
  gather_warp("setmaxnreg", [](Warp&) {});
  Block& block = *self().block;
  const int warpgroups = block.num_threads / 128;
  if (block.num_threads % 128 != 0) fault("setmaxnreg in a block of incomplete warpgroups");
  block.warpgroup_registers[self().linear / 128] = count;
  int sum = 0;
  for (int w = 0; w < warpgroups; ++w) {
    if (block.warpgroup_registers[w] == 0) return;
    sum += block.warpgroup_registers[w];
  }
  if (128 * sum > 64512) {
    fault("setmaxnreg: %d registers per thread in %d warpgroups are more than a multiprocessor has",
          sum, warpgroups);
  }
}

void fence_proxy() {
  ++self().proxy_fences;
}

void check_fenced(const Block& block, uint32_t offset, uint32_t bytes, const char* what) {
  constexpr uint32_t kThreadMask = (1 << 11) - 1, kFenceMask = 0xffffffffu >> 11;
  for (uint32_t i = offset / 4; i < (offset + bytes + 3) / 4; ++i) {
    const uint32_t mark = block.writers[i];
    if (mark == 0) continue;
    const int writer = static_cast<int>(mark & kThreadMask) - 1;
    if ((block.threads[writer]->proxy_fences & kFenceMask) == mark >> 11) {
      fault(
          "%s shared memory at offset %u, which thread %d wrote without a fence.proxy.async after "
          "it",
          what, 4 * i, writer);
    }
  }
}

namespace {

void forget_writers(Block& block, uint32_t offset, uint32_t bytes) {
  std::fill_n(block.writers.begin() + offset / 4, bytes / 4, 0u);
}

void check_tensor(const TensorBox& tensor, const Place& place) {
  if (place.offset % 128 != 0) {
    fault("TMA: shared memory offset %u is not a multiple of 128", place.offset);
  }
  if (tensor.rank < 1 || tensor.rank > 3) fault("TMA: not a tensor map");
}

uint32_t box_bytes(const TensorBox& tensor) {
  return static_cast<uint32_t>(tensor.box[0] * tensor.box[1] * tensor.box[2]) *
         tensor.element_bytes;
}

// Calls visit(offset in shared memory, address or null if outside, bytes) for the box's pieces of
// at most 16 bytes: no piece is torn by the swizzle.
template <typename Visit>
void for_each_piece(const TensorBox& tensor, Coordinates at, uint32_t base, Visit visit) {
  const auto inner = static_cast<uint32_t>(tensor.box[0]) * tensor.element_bytes;
  const uint32_t width = std::min(16u, inner);
  uint32_t row = base;
  for (int32_t z = 0; z < tensor.box[2]; ++z) {
    for (int32_t y = 0; y < tensor.box[1]; ++y, row += inner) {
      const int64_t gy = int64_t{at.at[1]} + y, gz = int64_t{at.at[2]} + z;
      const bool row_inside = gy >= 0 && gy < tensor.size[1] && gz >= 0 && gz < tensor.size[2];
      for (uint32_t b = 0; b < inner; b += width) {
        const uint32_t linear = row + b;
        const uint32_t offset = tensor.swizzle ? swizzle_128(linear) : linear;
        // In element steps only where the edge of the tensor goes through the piece.
        const int64_t gx = int64_t{at.at[0]} + b / tensor.element_bytes;
        const int64_t last = gx + width / tensor.element_bytes - 1;
        std::byte* const address = tensor.base + gz * tensor.stride[2] + gy * tensor.stride[1] +
                                   gx * static_cast<int64_t>(tensor.element_bytes);
        if (!row_inside || last < 0 || gx >= tensor.size[0]) {
          visit(offset, nullptr, width);
        } else if (gx >= 0 && last < tensor.size[0]) {
          visit(offset, address, width);
        } else {
          for (uint32_t e = 0; e < width; e += tensor.element_bytes) {
            const int64_t x = gx + e / tensor.element_bytes;
            visit(offset + e, x >= 0 && x < tensor.size[0] ? address + e : nullptr,
                  tensor.element_bytes);
          }
        }
      }
    }
  }
}

// check_global_range for many pieces, of one allocation mostly.
class RangeCheck {
 public:
  explicit RangeCheck(Access access) : access_(access) {}
  void operator()(const std::byte* address, uint32_t bytes) {
    if (address >= last_.begin && address + bytes <= last_.end) return;
    check_global_range(address, bytes, access_);
    last_ = find_device_allocation(address);
  }

 private:
  Access access_;
  DeviceAllocation last_;
};

void count_bulk_bytes(uint32_t bytes, Access access) {
  if (KernelWork* const work = this_cluster().work) {
    (access == Access::read ? work->bulk_read_bytes : work->bulk_write_bytes) += bytes;
  }
}

void check_barrier_for_load(const Place& barrier) {
  if (!mbarrier_at(barrier, "load").fenced) {
    fault(
        "load: the mbarrier at shared memory offset %u was initialised without "
        "fence.mbarrier_init",
        barrier.offset);
  }
}

void check_alive(const Block& block, const char* what) {
  if (block.num_done == block.num_threads) {
    fault("%s of block %d of the cluster, which has already returned", what, block.rank);
  }
}

void start_store(const std::shared_ptr<BulkStore>& store) {
  Thread& thread = self();
  store->block = thread.block;
  store->group = thread.bulk_group;
  RangeCheck check(Access::write);
  for (const BulkStore::Run& run : store->runs) {
    check_fenced(*thread.block, run.from, run.bytes, "a bulk store reads");
    check(run.to, run.bytes);
    watch_write(run.to, run.bytes);
    count_bulk_bytes(run.bytes, Access::write);
  }
  thread.bulk_stores.push_back(store);
  start_async([store] {
    store->read();
    store->write();
  });
}

}  // namespace

void tensor_load(void* to, const TensorBox& tensor, Coordinates from, void* barrier,
                 uint16_t blocks) {
  Cluster& cluster = this_cluster();
  const Place place = place_of(to, box_bytes(tensor), "the destination of a TMA load");
  const Place signal = place_of(barrier, 8, "the mbarrier of a TMA load");
  check_tensor(tensor, place);
  std::vector<Block*> targets;
  if (blocks == 0) {
    if (place.block != self().block) fault("TMA: a load into another block without multicast");
    targets.push_back(place.block);
  }
  for (int rank = 0; rank < 16; ++rank) {
    if (!(blocks >> rank & 1)) continue;
    if (rank >= static_cast<int>(cluster.blocks.size())) {
      fault("TMA: multicast to block %d of a cluster of %zu", rank, cluster.blocks.size());
    }
    targets.push_back(cluster.blocks[rank].get());
  }
  const uint32_t bytes = box_bytes(tensor);
  for (Block* target : targets) {
    check_alive(*target, "TMA: a load into the shared memory");
    check_barrier_for_load({target, signal.offset});
    check_fenced(*target, place.offset, bytes, "a TMA load overwrites");
    std::memset(target->shared + place.offset, 0xFF, bytes);
    forget_writers(*target, place.offset, bytes);
  }
  RangeCheck check(Access::read);
  uint32_t inside = 0;
  for_each_piece(tensor, from, place.offset, [&](uint32_t, const std::byte* address, uint32_t n) {
    if (!address) return;
    check(address, n);
    inside += n;
  });
  count_bulk_bytes(inside, Access::read);  // multicast reads once
  start_async([=] {
    for (Block* target : targets) {
      check_alive(*target, "a TMA load arrives in the shared memory");
      std::byte* const shared = target->shared;
      for_each_piece(tensor, from, place.offset,
                     [&](uint32_t offset, const std::byte* address, uint32_t n) {
                       if (address) {
                         std::memcpy(shared + offset, address, n);
                       } else {
                         std::memset(shared + offset, 0, n);
                       }
                     });
      bytes_arrive({target, signal.offset}, bytes);
    }
  });
}

void tensor_store(const TensorBox& tensor, Coordinates to, const void* from, StoreKind kind) {
  const Place place = place_of(from, box_bytes(tensor), "the source of a TMA store");
  if (place.block != self().block) fault("TMA: a store from another block's shared memory");
  check_tensor(tensor, place);
  if (kind == StoreKind::add_f32 && !tensor.is_float) fault("TMA: this reduction is for fp32");
  auto store = std::make_shared<BulkStore>();
  store->kind = kind;
  for_each_piece(tensor, to, place.offset, [&](uint32_t offset, std::byte* address, uint32_t n) {
    if (address) store->runs.push_back({offset, address, n});
  });
  start_store(store);
}

void bulk_load(void* to, const void* from, uint32_t bytes, void* barrier) {
  const Place place = place_of(to, bytes, "the destination of a bulk load");
  const Place signal = place_of(barrier, 8, "the mbarrier of a bulk load");
  if (place.block != self().block) fault("a bulk load into another block");
  if ((place.offset | bytes | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    fault("bulk load: addresses and size (%u) must be multiples of 16", bytes);
  }
  check_global_range(from, bytes, Access::read);
  check_barrier_for_load(signal);
  check_fenced(*place.block, place.offset, bytes, "a bulk load overwrites");
  std::memset(to, 0xFF, bytes);
  forget_writers(*place.block, place.offset, bytes);
  start_async([=] {
    check_alive(*place.block, "a bulk load arrives in the shared memory");
    std::memcpy(to, from, bytes);
    bytes_arrive(signal, bytes);
  });
  count_bulk_bytes(bytes, Access::read);
}

void bulk_store(void* to, const void* from, uint32_t bytes, StoreKind kind) {
  const Place place = place_of(from, bytes, "the source of a bulk store");
  if (place.block != self().block) fault("a bulk store from another block's shared memory");
  if ((place.offset | bytes | reinterpret_cast<uintptr_t>(to)) % 16 != 0) {
    fault("bulk store: addresses and size (%u) must be multiples of 16", bytes);
  }
  auto store = std::make_shared<BulkStore>();
  store->kind = kind;
  store->runs.push_back({place.offset, static_cast<std::byte*>(to), bytes});
  start_store(store);
}

void BulkStore::read() {
  if (was_read) return;
  was_read = true;
  check_alive(*block, "a bulk store reads (forgotten wait?) the shared memory");
  size_t total = 0;
  for (const Run& run : runs) total += run.bytes;
  data.resize(total);
  size_t position = 0;
  for (const Run& run : runs) {
    check_fenced(*block, run.from, run.bytes, "a bulk store that is still under way reads");
    std::memcpy(data.data() + position, block->shared + run.from, run.bytes);
    position += run.bytes;
  }
}

void BulkStore::write() {
  if (was_written) return;
  was_written = true;
  size_t position = 0;
  for (const Run& run : runs) {
    if (kind == StoreKind::plain) {
      std::memcpy(run.to, data.data() + position, run.bytes);
    } else {
      for (uint32_t i = 0; i < run.bytes; i += 4) {
        float term;
        std::memcpy(&term, data.data() + position + i, 4);
        // Blocks on other OS threads may add to the same element.
        std::atomic_ref<float>(*reinterpret_cast<float*>(run.to + i)).fetch_add(term);
      }
    }
    position += run.bytes;
  }
  data.clear();
}

void commit_bulk_group() {
  ++self().bulk_group;
}

void wait_bulk_group(int groups, bool read_only) {
  Thread& thread = self();
  const int last = thread.bulk_group - 1 - groups;
  for (const auto& store : thread.bulk_stores) {
    if (store->group > last) break;
    store->read();
    if (!read_only) store->write();
  }
  std::erase_if(thread.bulk_stores, [](const auto& store) { return store->was_written; });
}

void check_end(Cluster& cluster) {
  for (const auto& block : cluster.blocks) {
    current_thread = block->threads[0].get();
    check_warpgroups(*block);
    for (const auto& barrier : block->mbarriers) {
      if (barrier->bytes != 0) {
        fault("the kernel ends while the mbarrier at shared memory offset %u has %lld bytes %s",
              barrier->offset, static_cast<long long>(std::abs(barrier->bytes)),
              barrier->bytes > 0 ? "still to come" : "that nobody expected");
      }
    }
  }
}

}  // namespace engine::kernels::simt
