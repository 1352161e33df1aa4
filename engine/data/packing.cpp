#include "engine/data/packing.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace engine {

Bins best_fit_decreasing(std::span<const uint32_t> order, std::span<const uint32_t> lengths,
                         uint32_t capacity) {
  std::vector<uint32_t> items(order.begin(), order.end());
  std::stable_sort(items.begin(), items.end(),
                   [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
  if (!items.empty() && (lengths[items.front()] > capacity || lengths[items.back()] == 0)) {
    throw std::logic_error("best_fit_decreasing: an item does not fit, or is empty");
  }
  // Open bins by their room: a first-in-first-out list for each value of it that occurs.
  constexpr uint32_t kNone = UINT32_MAX;
  std::vector<uint32_t> head(size_t{capacity} + 1, kNone), tail(size_t{capacity} + 1, kNone);
  std::vector<uint32_t> next;      // [bins]: the bin behind it in its list
  std::set<uint32_t> rooms;        // those with a list that is not empty
  std::vector<uint64_t> bin_size;  // [bins]: items
  std::vector<uint32_t> bin_of(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const uint32_t length = lengths[items[i]];
    const auto fit = rooms.lower_bound(length);
    uint32_t bin, room;
    if (fit == rooms.end()) {
      bin = static_cast<uint32_t>(next.size());
      room = capacity;
      next.push_back(kNone);
      bin_size.push_back(0);
    } else {
      room = *fit;
      bin = head[room];
      head[room] = next[bin];
      if (head[room] == kNone) rooms.erase(fit);
    }
    bin_of[i] = bin;
    ++bin_size[bin];
    room -= length;
    if (room == 0) continue;
    next[bin] = kNone;
    if (head[room] == kNone) {
      head[room] = bin;
      rooms.insert(room);
    } else {
      next[tail[room]] = bin;
    }
    tail[room] = bin;
  }
  Bins bins;
  for (uint64_t size : bin_size) bins.begin.push_back(bins.begin.back() + size);
  bins.items.resize(items.size());
  std::vector<uint64_t> place(bins.begin.begin(), bins.begin.end() - 1);
  for (size_t i = 0; i < items.size(); ++i) bins.items[place[bin_of[i]]++] = items[i];
  return bins;
}

}  // namespace engine
