// Sorting the tokens of a batch by the row of a table that they name, for the embedding's gradient.
#pragma once

#include <span>

#include "kernels/api/types.h"
#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {

// The row of a table, and the token that names it.
using Entry = Vector<int32_t, 2>;

struct TokenSort {
  const int32_t* rows = nullptr;  // [tokens], within [0, num_rows)
  int64_t num_rows = 0;
  void* workspace = nullptr;  // token_sort_workspace(tokens) bytes, aligned to 16
};

inline constexpr int kMostTokenSorts = 2;

// A multiple of 16.
size_t token_sort_workspace(int64_t tokens);
// Sorts up to kMostTokenSorts lists of as many tokens in the same launches, stably: tokens of a row
// keep their order. sorted_tokens() says where the results lie.
void sort_tokens(Stream stream, int64_t tokens, std::span<const TokenSort> sorts);
const Entry* sorted_tokens(const TokenSort& sort, int64_t tokens);

}  // namespace engine::kernels::ENGINE_GPU
