// The merging loop of byte-pair encoding, shared by its variants.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <vector>

#include "tokenizer/merge_table.h"

namespace engine::tokenizer {

struct BpeMergingScratch {
  std::vector<Merge> pairs;  // pairs[i] = merge of symbols i and i + 1
};

// Scanning all pairs for the minimum is quadratic, but unbeaten on words.
template <typename OnPair>
void merge_few_symbols(const MergeTable& merges, std::vector<int32_t>& symbols,
                       BpeMergingScratch& scratch, OnPair on_pair) {
  std::vector<Merge>& pairs = scratch.pairs;
  size_t n = symbols.size();
  if (n < 2) return;
  const auto find = [&](size_t i) {
    const Merge merge = merges.find(symbols[i], symbols[i + 1]);
    if (merge.rank != Merge::kNone) on_pair(symbols[i], symbols[i + 1], merge.id);
    return merge;
  };
  pairs.resize(n - 1);
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = find(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == Merge::kNone) break;
    symbols[best] = pairs[best].id;
    std::copy(symbols.begin() + best + 2, symbols.begin() + n, symbols.begin() + best + 1);
    std::copy(pairs.begin() + best + 1, pairs.begin() + n - 1, pairs.begin() + best);
    --n;
    if (best > 0) pairs[best - 1] = find(best - 1);
    if (best + 1 < n) pairs[best] = find(best);
  }
  symbols.resize(n);
}

// With a queue of candidates: n log n.
template <typename OnPair>
void merge_many_symbols(const MergeTable& merges, std::vector<int32_t>& symbols, OnPair on_pair) {
  constexpr int32_t kMerged = -1;  // a symbol that its left neighbour has swallowed
  const uint32_t n = static_cast<uint32_t>(symbols.size());
  struct Candidate {
    uint32_t rank;
    uint32_t position;  // of the left symbol
    int32_t id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  // A list through the surviving symbols.
  std::vector<uint32_t> next(n), previous(n);
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // wraps for i = 0, never read
  }
  std::vector<Candidate> initial;
  initial.reserve(n);
  const auto propose = [&](uint32_t left, uint32_t right, auto&& push) {
    const Merge merge = merges.find(symbols[left], symbols[right]);
    if (merge.rank == Merge::kNone) return;
    on_pair(symbols[left], symbols[right], merge.id);
    push(Candidate{merge.rank, left, merge.id});
  };
  for (uint32_t i = 0; i + 1 < n; ++i) {
    propose(i, i + 1, [&](const Candidate& candidate) { initial.push_back(candidate); });
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(initial));
  const auto push = [&](const Candidate& candidate) { queue.push(candidate); };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t left = top.position;
    if (symbols[left] == kMerged) continue;
    const uint32_t right = next[left];
    if (right == n) continue;
    // Stale: one of the two has merged with another neighbour since.
    const Merge now = merges.find(symbols[left], symbols[right]);
    if (now.rank != top.rank || now.id != top.id) continue;
    symbols[left] = top.id;
    symbols[right] = kMerged;
    next[left] = next[right];
    if (next[left] != n) previous[next[left]] = left;
    if (left > 0) propose(previous[left], left, push);
    if (next[left] != n) propose(left, next[left], push);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kMerged), symbols.end());
}

// Merges neighbours in `symbols`, earliest rank first and leftmost of equal ranks, until no pair is
// in the table. Calls on_pair(left, right, merged) for every pair that could merge, as it turns up.
// Symbols are not negative.
template <typename OnPair>
void merge_symbols(const MergeTable& merges, std::vector<int32_t>& symbols,
                   BpeMergingScratch& scratch, OnPair on_pair) {
  constexpr size_t kFew = 64;
  if (symbols.size() <= kFew) {
    merge_few_symbols(merges, symbols, scratch, on_pair);
  } else {
    merge_many_symbols(merges, symbols, on_pair);
  }
}

inline void merge_symbols(const MergeTable& merges, std::vector<int32_t>& symbols,
                          BpeMergingScratch& scratch) {
  merge_symbols(merges, symbols, scratch, [](int32_t, int32_t, int32_t) {});
}

}  // namespace engine::tokenizer
