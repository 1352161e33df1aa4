// Bin packing of samples into token budgets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engine {

// Items in bins: bin b has items[begin[b]] .. items[begin[b + 1] - 1].
struct Bins {
  std::vector<uint32_t> items;
  std::vector<uint64_t> begin = {0};

  size_t size() const { return begin.size() - 1; }
  std::span<const uint32_t> operator[](size_t bin) const {
    return std::span(items).subspan(begin[bin], begin[bin + 1] - begin[bin]);
  }
};

// Best-fit decreasing: items by falling length (equal ones in the order of `order`), each into the
// bin with the least room that it still fits in (of equal ones the one that waited longest), else
// into a new bin. Bins are in the order of their making, items in the order of their placing. The
// lengths of the bins' items do not depend on `order`. O(n log n).
// `lengths[i]` is the length of item i, at most `capacity` and at least 1.
Bins best_fit_decreasing(std::span<const uint32_t> order, std::span<const uint32_t> lengths,
                         uint32_t capacity);

}  // namespace engine
