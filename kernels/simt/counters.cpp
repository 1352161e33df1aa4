#include "kernels/simt/counters.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "kernels/simt/machine.h"

namespace engine::kernels::simt {
namespace {

std::mutex mutex;
std::map<std::string, KernelWork>& totals() {
  static std::map<std::string, KernelWork> map;
  return map;
}

// One warp instruction: at most 32 lanes, each with an address and the same or another size.
struct Instruction {
  std::array<AccessRecord, kWarpSize> lanes;
  int count = 0;
};

int64_t sectors_of(const Instruction& instruction) {
  std::array<uintptr_t, 2 * kWarpSize> sectors;
  int count = 0;
  for (int i = 0; i < instruction.count; ++i) {
    const AccessRecord& access = instruction.lanes[i];
    sectors[count++] = access.address / 32;
    sectors[count++] = (access.address + access.bytes - 1) / 32;
  }
  std::sort(sectors.begin(), sectors.begin() + count);
  return std::unique(sectors.begin(), sectors.begin() + count) - sectors.begin();
}

// Lanes are served in groups whose accesses make up 128 bytes: all 32 for words, 16 for 8 bytes, 8
// for 16 bytes. Within a group each bank gives one word per pass.
void count_passes(const Instruction& instruction, KernelWork& work) {
  ++work.shared_accesses;
  const int bytes = std::max<int>(instruction.lanes[0].bytes, 4);
  const int group = 128 / bytes;
  for (int first = 0; first < instruction.count; first += group) {
    std::array<uintptr_t, 4 * kWarpSize> words;
    int count = 0;
    for (int i = first; i < std::min(first + group, instruction.count); ++i) {
      const AccessRecord& access = instruction.lanes[i];
      for (uintptr_t word = access.address / 4; word <= (access.address + access.bytes - 1) / 4;
           ++word) {
        if (count < static_cast<int>(words.size())) words[count++] = word;
      }
    }
    std::sort(words.begin(), words.begin() + count);
    count = static_cast<int>(std::unique(words.begin(), words.begin() + count) - words.begin());
    std::array<int, 32> per_bank{};
    int passes = 0;
    for (int i = 0; i < count; ++i) passes = std::max(passes, ++per_bank[words[i] % 32]);
    work.shared_passes += passes;
    work.shared_passes_needed += (count + 31) / 32;
  }
}

// Bytes that lanes asked for, those that several lanes share counted once.
int64_t distinct_bytes(const Instruction& instruction) {
  std::array<std::pair<uintptr_t, uintptr_t>, kWarpSize> ranges;
  for (int i = 0; i < instruction.count; ++i) {
    const AccessRecord& access = instruction.lanes[i];
    ranges[i] = {access.address, access.address + access.bytes};
  }
  std::sort(ranges.begin(), ranges.begin() + instruction.count);
  int64_t bytes = 0;
  uintptr_t end = 0;
  for (int i = 0; i < instruction.count; ++i) {
    const uintptr_t begin = std::max(ranges[i].first, end);
    if (ranges[i].second > begin) bytes += static_cast<int64_t>(ranges[i].second - begin);
    end = std::max(end, ranges[i].second);
  }
  return bytes;
}

void count(const Instruction& instruction, AccessKind kind, KernelWork& work) {
  const int64_t bytes = distinct_bytes(instruction);
  switch (kind) {
    case AccessKind::global_read:
      ++work.global_reads;
      work.global_read_bytes += bytes;
      work.global_read_sectors += sectors_of(instruction);
      break;
    case AccessKind::global_write:
      ++work.global_writes;
      work.global_write_bytes += bytes;
      work.global_write_sectors += sectors_of(instruction);
      break;
    case AccessKind::shared:
      count_passes(instruction, work);
      break;
  }
}

}  // namespace

std::atomic<bool> counting = false;

KernelWork& KernelWork::operator+=(const KernelWork& other) {
  launches += other.launches;
  blocks += other.blocks;
  global_reads += other.global_reads;
  global_read_bytes += other.global_read_bytes;
  global_read_sectors += other.global_read_sectors;
  global_writes += other.global_writes;
  global_write_bytes += other.global_write_bytes;
  global_write_sectors += other.global_write_sectors;
  bulk_read_bytes += other.bulk_read_bytes;
  bulk_write_bytes += other.bulk_write_bytes;
  shared_accesses += other.shared_accesses;
  shared_passes += other.shared_passes;
  shared_passes_needed += other.shared_passes_needed;
  tensor_flops += other.tensor_flops;
  special_functions += other.special_functions;
  return *this;
}

void start_counting() {
  const std::lock_guard lock(mutex);
  totals().clear();
  counting = true;
}

std::map<std::string, KernelWork> stop_counting() {
  const std::lock_guard lock(mutex);
  counting = false;
  return std::move(totals());
}

void add_to_totals(const std::string& kernel, const KernelWork& work) {
  const std::lock_guard lock(mutex);
  totals()[kernel] += work;
}

void note_access(const void* address, size_t bytes, AccessKind kind) {
  self().accesses[static_cast<size_t>(kind)].push_back(
      {reinterpret_cast<uintptr_t>(address), static_cast<uint32_t>(bytes)});
}

void count_accesses(Warp& warp) {
  KernelWork& work = *warp.block->cluster->work;
  for (size_t kind = 0; kind < kAccessKinds; ++kind) {
    for (size_t k = 0;; ++k) {
      Instruction instruction;
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const auto& accesses = warp.block->threads[warp.first_thread + lane]->accesses[kind];
        if (k < accesses.size()) instruction.lanes[instruction.count++] = accesses[k];
      }
      if (instruction.count == 0) break;
      count(instruction, static_cast<AccessKind>(kind), work);
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      warp.block->threads[warp.first_thread + lane]->accesses[kind].clear();
    }
  }
}

}  // namespace engine::kernels::simt
