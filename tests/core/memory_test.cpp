// The arena: best fit, merging, exact dry runs, and what happens when a plan does not hold.
#include "engine/core/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "engine/core/error.h"

// A request that the system refuses must come back as such; AddressSanitizer would end the program.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}

namespace engine {
namespace {

using kernels::DeviceType;
using Block = Memory::Block;

constexpr auto kActivations = MemoryCategory::activations;
constexpr size_t kA = Memory::kAlignment;

Block take(Memory& memory, size_t bytes, MemoryCategory category = kActivations) {
  return memory.allocate(bytes, category, false);
}

size_t offset(const Block& block, const Block& first) {
  return static_cast<size_t>(static_cast<char*>(block.data) - static_cast<char*>(first.data));
}

TEST(Arena, BlocksAreAlignedAndRoundedUp) {
  Memory memory(DeviceType::cpu);
  memory.reserve_arena(10 * kA);
  const Block a = take(memory, 1), b = take(memory, kA + 1), c = take(memory, 0);
  for (const Block& block : {a, b, c}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data) % kA, 0u);
  }
  EXPECT_EQ(a.bytes, kA);
  EXPECT_EQ(b.bytes, 2 * kA);
  EXPECT_EQ(c.bytes, kA);  // distinct blocks have distinct addresses
  EXPECT_EQ(offset(b, a), kA);
  EXPECT_EQ(offset(c, a), 3 * kA);
  EXPECT_EQ(memory.arena_peak(), 4 * kA);
  for (const Block& block : {a, b, c}) memory.release(block);
}

TEST(Arena, BestFitTakesTheSmallestHoleAndTheLowestOfEquals) {
  Memory memory(DeviceType::meta);
  std::vector<Block> blocks;
  // Holes of 3, 1, 2 and 2 units, with walls between.
  for (const size_t units : {3, 1, 1, 1, 2, 1, 2, 1}) blocks.push_back(take(memory, units * kA));
  for (const int hole : {0, 2, 4, 6}) memory.release(blocks[hole]);
  const Block& first = blocks[0];
  EXPECT_EQ(offset(take(memory, 2 * kA), first), 6 * kA);   // the first hole of 2, not that of 3
  EXPECT_EQ(offset(take(memory, kA), first), 4 * kA);       // the hole of 1
  EXPECT_EQ(offset(take(memory, kA), first), 9 * kA);       // half of the other hole of 2
  EXPECT_EQ(offset(take(memory, kA), first), 10 * kA);      // the rest of it
  EXPECT_EQ(offset(take(memory, 3 * kA), first), 0u);       // the hole of 3
  EXPECT_EQ(offset(take(memory, 2 * kA), first), 12 * kA);  // none left: at the end
  EXPECT_EQ(memory.arena_peak(), 14 * kA);
}

TEST(Arena, FreeNeighboursMerge) {
  Memory memory(DeviceType::meta);
  std::vector<Block> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(take(memory, kA));
  // Left, right, then both sides.
  memory.release(blocks[0]);
  memory.release(blocks[2]);
  memory.release(blocks[1]);
  const Block three = take(memory, 3 * kA);
  EXPECT_EQ(three.data, blocks[0].data);
  memory.release(three);
  memory.release(blocks[4]);  // the end moves back
  memory.release(blocks[3]);  // and over the hole before it
  EXPECT_EQ(memory.arena_peak(), 5 * kA);
  memory.reset_peak();
  EXPECT_EQ(memory.arena_peak(), 0u);
  EXPECT_EQ(take(memory, 5 * kA).data, blocks[0].data);
}

// A sequence of calls that looks like training steps: long-lived, nested and scratch blocks.
struct Peaks {
  size_t arena, total, unplanned;
  MemoryBreakdown breakdown;
};
Peaks play(Memory& memory, uint32_t seed, bool write) {
  std::mt19937 random(seed);
  std::vector<Block> live;
  for (int i = 0; i < 2000; ++i) {
    const bool grow = live.empty() || random() % (i % 200 < 100 ? 3 : 2) != 0;
    if (grow && live.size() < 60) {
      const size_t bytes = 1 + random() % 5000;
      live.push_back(take(memory, bytes, static_cast<MemoryCategory>(4 + random() % 2)));
      if (write) std::memset(live.back().data, static_cast<int>(live.size()), bytes);
    } else {
      const size_t which = random() % live.size();
      memory.release(live[which]);
      live.erase(live.begin() + static_cast<ptrdiff_t>(which));
    }
  }
  for (const Block& block : live) memory.release(block);
  return {memory.arena_peak(), memory.peak_bytes(), memory.unplanned_peak(),
          memory.peak_breakdown()};
}

TEST(Arena, ADryRunFindsTheExactSize) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    Memory meta(DeviceType::meta), again(DeviceType::meta), real(DeviceType::cpu);
    const Peaks plan = play(meta, seed, false);
    EXPECT_EQ(play(again, seed, false).arena, plan.arena);
    real.reserve_arena(plan.arena);
    const Peaks run = play(real, seed, true);
    EXPECT_EQ(run.arena, plan.arena);
    EXPECT_EQ(run.total, plan.total);
    EXPECT_EQ(run.breakdown, plan.breakdown);
    EXPECT_EQ(run.unplanned, 0u);
    EXPECT_GE(plan.arena, plan.total);
    // One unit less does not hold it.
    Memory small(DeviceType::cpu);
    small.reserve_arena(plan.arena - kA);
    EXPECT_GT(play(small, seed, true).unplanned, 0u);
  }
}

TEST(Arena, BlocksNeverOverlap) {
  Memory memory(DeviceType::cpu);
  memory.reserve_arena(1 << 20);
  std::mt19937 random(4);
  std::vector<std::pair<Block, unsigned char>> live;
  for (int i = 0; i < 3000; ++i) {
    if (live.size() < 40 && random() % 2 == 0) {
      const auto mark = static_cast<unsigned char>(random());
      live.emplace_back(take(memory, 1 + random() % 3000), mark);
      std::memset(live.back().first.data, mark, live.back().first.bytes);
    } else if (!live.empty()) {
      const size_t which = random() % live.size();
      const auto [block, mark] = live[which];
      const auto* bytes = static_cast<const unsigned char*>(block.data);
      for (size_t j = 0; j < block.bytes; ++j) ASSERT_EQ(bytes[j], mark);
      memory.release(block);
      live.erase(live.begin() + static_cast<ptrdiff_t>(which));
    }
  }
  for (const auto& [block, mark] : live) memory.release(block);
}

TEST(Arena, WhatDoesNotFitIsTakenFromTheSystemAndCounted) {
  Memory memory(DeviceType::cpu);
  memory.reserve_arena(2 * kA);
  const Block a = take(memory, kA), b = take(memory, 3 * kA), c = take(memory, kA);
  std::memset(b.data, 1, b.bytes);
  EXPECT_EQ(memory.unplanned_peak(), 3 * kA);
  EXPECT_EQ(offset(c, a), kA);
  EXPECT_EQ(memory.peak_bytes(), 5 * kA);
  memory.release(b);
  const Block d = take(memory, 2 * kA);
  EXPECT_EQ(memory.unplanned_peak(), 3 * kA);
  memory.release(d);
  memory.reset_peak();
  EXPECT_EQ(memory.unplanned_peak(), 0u);
  memory.release(a);
  memory.release(c);
}

TEST(Arena, IsOnlyReplacedWhenNothingLives) {
  Memory memory(DeviceType::cpu);
  memory.reserve_arena(kA);
  const Block a = take(memory, kA);
  EXPECT_THROW(memory.reserve_arena(2 * kA), std::logic_error);
  memory.release(a);
  memory.reserve_arena(100);  // rounded up
  EXPECT_EQ(memory.arena_capacity(), 2 * kA);
  memory.reserve_arena(0);
  EXPECT_EQ(memory.arena_capacity(), 0u);
}

TEST(Persistent, IsAccountedForByCategory) {
  Memory memory(DeviceType::cpu);
  memory.reserve_arena(4 * kA);
  const Block weights = memory.allocate(1000, MemoryCategory::weights, true);
  const Block adam = memory.allocate(2000, MemoryCategory::optimizer, true);
  std::memset(weights.data, 0, weights.bytes);
  EXPECT_EQ(memory.persistent_bytes(), 1024u + 2048u);
  const Block a = take(memory, 2 * kA);
  memory.release(a);
  const Block b = take(memory, kA, MemoryCategory::workspace);
  const MemoryBreakdown& peak = memory.peak_breakdown();
  EXPECT_EQ(memory.peak_bytes(), 1024u + 2048u + 2 * kA);
  EXPECT_EQ(peak[static_cast<int>(MemoryCategory::weights)], 1024u);
  EXPECT_EQ(peak[static_cast<int>(MemoryCategory::optimizer)], 2048u);
  EXPECT_EQ(peak[static_cast<int>(MemoryCategory::activations)], 2 * kA);
  EXPECT_EQ(peak[static_cast<int>(MemoryCategory::workspace)], 0u);  // came after the peak
  memory.release(b);
  memory.release(adam);
  memory.release(weights);
  EXPECT_EQ(memory.persistent_bytes(), 0u);
  memory.reset_peak();
  EXPECT_EQ(memory.peak_bytes(), 0u);
}

TEST(Persistent, ARefusalIsAnErrorOfTheUsersMachine) {
  Memory memory(DeviceType::cpu);
  try {
    memory.allocate(size_t{1} << 60, MemoryCategory::weights, true);
    FAIL() << "an exbibyte was granted";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::out_of_memory);
    EXPECT_EQ(error.code(), "MEM-ALLOC");
  }
  EXPECT_EQ(memory.persistent_bytes(), 0u);
}

TEST(HostMemory, IsOfAPlausibleSize) {
  const size_t available = available_host_memory(), resident = peak_resident_memory();
  EXPECT_GT(available, size_t{16} << 20);
  EXPECT_LT(available, size_t{1} << 50);
  EXPECT_GT(resident, size_t{1} << 20);
  EXPECT_LT(resident, size_t{1} << 40);
  // What is used counts.
  std::vector<char> used(64 << 20);
  for (size_t i = 0; i < used.size(); i += 4096) used[i] = 1;
  EXPECT_GE(peak_resident_memory(), size_t{64} << 20);
}

}  // namespace
}  // namespace engine
