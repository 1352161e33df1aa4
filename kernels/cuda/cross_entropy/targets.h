// Rows that have a target: listed, gathered, and the others cleared.
#pragma once

#include "kernels/cuda/cuda.h"

namespace engine::kernels::ENGINE_GPU {

struct TargetList {
  const int32_t* targets;
  int32_t* rows;   // [tokens]: those with a target, ascending
  int32_t* count;  // how many
  int tokens;
};
void list_targets(Stream stream, const TargetList& list);

// Loss 0, argmax -1 and no gradient for rows without a target.
struct Ignored {
  const int32_t* targets;
  float* losses;
  int32_t* argmax;  // or null
  void* d_hidden;   // or null
  int tokens, width;
  bool vectors;
};
void clear_ignored(Stream stream, const Ignored& rows, DType dtype);

struct ChunkRows {
  const int32_t* rows;  // of the chunk
  const int32_t* count;
  int first, chunk_rows, width;
  const void* from;
  void* to;
  bool scatter;  // to[rows[i]] = from[i], else to[i] = from[rows[i]]
  bool vectors;
};
void move_rows(Stream stream, const ChunkRows& rows, DType dtype);

// Host side: do all rows of this array start on 16-byte boundaries?
inline bool on_vectors(const void* data, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_bytes % 16 == 0;
}

}  // namespace engine::kernels::ENGINE_GPU
