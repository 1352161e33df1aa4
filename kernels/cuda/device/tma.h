// The tensor memory accelerator (sm_90): one thread starts a copy of a whole tile between device
// and shared memory, and the hardware does it.
//
//   host:    TensorMap map = make_tensor_map({.base = x, .dtype = DType::bf16,
//                                             .size = {columns, rows}, .stride = {ld},
//                                             .box = {64, 128}, .swizzle = true});
//            launch(..., map) to a kernel with a parameter `const __grid_constant__ TensorMap map`
//            (or a struct that holds it), whose address is taken, never a copy's
//   loads:   mbarrier_arrive_expect(full, bytes);  tensor_load(tile, map, full, {column, row});
//            ... mbarrier_wait(full, parity)
//   stores:  store(tile ...); fence_async_proxy(); barrier;
//            one thread: tensor_store(map, tile, {column, row}); bulk_commit_group();
//                        bulk_wait_group_read<0>()  before the tile is written again or the block
//                        ends;  bulk_wait_group<0>()  before others may read device memory
//
// Coordinates and sizes are innermost first. In shared memory a box is dense, innermost first, from
// a 128-byte aligned address. Elements outside the tensor arrive as zeros (and their bytes count);
// stores leave them out. So tiles may hang over every edge, the front too.
//
// 128-byte swizzle: the innermost box is 128 bytes, one row. 16-byte chunk c of row r lies at chunk
// c ^ (r % 8) of that row, the tile starting at a multiple of 1024 bytes: eight rows at the same
// column are then in different banks. In addresses: bits 4-6 ^= bits 7-9 (swizzled_offset()).
//
// Device addresses must be multiples of 16, strides too (in bytes), and the larger of two strides a
// multiple of the smaller; a box is at most 256 wide in every dimension.
#pragma once

#include "kernels/cuda/device/mbarrier.h"
#if ENGINE_ON_GPU
#include <cuda.h>
#endif

namespace engine::kernels::ENGINE_GPU {

struct TensorMapConfig {
  const void* base = nullptr;
  DType dtype = DType::bf16;  // bf16 or f32
  int64_t size[3] = {};       // size[2] = 0: there are two dimensions
  int64_t stride[2] = {};     // elements between neighbours in dimension 1, 2
  int box[3] = {};
  bool swizzle = true;
};

#if ENGINE_ON_GPU
struct alignas(128) TensorMap {
  CUtensorMap map;
};
#else
struct alignas(128) TensorMap {
  TensorBox map;
};
#endif

// Host code. Device memory is not touched. Throws std::logic_error where TMA cannot do it
// (tensor_map_possible() says so before).
TensorMap make_tensor_map(const TensorMapConfig& config);
inline int tensor_map_rank(const TensorMapConfig& config) {
  return config.size[2] > 0 ? 3 : 2;
}
// Base and strides fit: multiples of 16 bytes, and each stride one of the stride before it.
inline bool tensor_map_possible(const TensorMapConfig& config) {
  const auto bytes = static_cast<int64_t>(size_of(config.dtype));
  if (reinterpret_cast<uintptr_t>(config.base) % 16 != 0) return false;
  for (int i = 0; i < tensor_map_rank(config); ++i) {
    if (config.size[i] < 1 || config.size[i] > int64_t{0xffffffff}) return false;
    if (i == 0) continue;
    const int64_t stride = config.stride[i - 1] * bytes;
    if (stride <= 0 || stride % 16 != 0 || stride >= int64_t{1} << 40) return false;
    if (i == 2 && config.stride[1] % config.stride[0] != 0) return false;
  }
  return true;
}
inline void check_tensor_map(const TensorMapConfig& config) {
  require(config.dtype == DType::bf16 || config.dtype == DType::f32,
          "make_tensor_map: bf16 or fp32 only");
  require(tensor_map_possible(config),
          "make_tensor_map: base and strides must be multiples of 16 bytes");
  for (int i = 0; i < tensor_map_rank(config); ++i) {
    require(config.box[i] >= 1 && config.box[i] <= 256,
            "make_tensor_map: boxes are 1 to 256 elements wide");
  }
  const int64_t row = config.box[0] * static_cast<int64_t>(size_of(config.dtype));
  require(row % 16 == 0, "make_tensor_map: the innermost box must be a multiple of 16 bytes");
  require(!config.swizzle || row == 128, "make_tensor_map: a swizzled box is 128 bytes wide");
}

// Where element `offset` bytes of a swizzled tile (from its 1024-byte aligned start) lies.
ENGINE_DEVICE constexpr uint32_t swizzled_offset(uint32_t offset) {
  return offset ^ ((offset >> 3) & 0x70);
}

struct Coordinate2 {
  int x, y;
};
struct Coordinate3 {
  int x, y, z;
};

// --- Order -------------------------------------------------------------------------------------

// What this thread has written to shared memory with ordinary stores is visible to TMA and wgmma
// after this and a barrier with the thread that starts them.
ENGINE_DEVICE void fence_async_proxy() {
#if ENGINE_ON_GPU
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#else
  fence_proxy();
#endif
}
ENGINE_DEVICE void prefetch_tensor_map(const TensorMap& map) {
#if ENGINE_ON_GPU
  asm volatile("prefetch.tensormap [%0];" : : "l"(&map) : "memory");
#else
  if (reinterpret_cast<uintptr_t>(&map) % 64 != 0) fault("a tensor map that is not aligned");
#endif
}

// --- Loads -------------------------------------------------------------------------------------

template <typename T>
ENGINE_DEVICE void tensor_load(Shared<T> to, const TensorMap& map, MbarrierAddress barrier,
                               Coordinate2 from) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];"
      :
      : "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(from.x), "r"(from.y)
      : "memory");
#else
  tensor_load(to.pointer, map.map, {{from.x, from.y}}, barrier.pointer, 0);
#endif
}
template <typename T>
ENGINE_DEVICE void tensor_load(Shared<T> to, const TensorMap& map, MbarrierAddress barrier,
                               Coordinate3 from) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];"
      :
      : "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(from.x), "r"(from.y),
        "r"(from.z)
      : "memory");
#else
  tensor_load(to.pointer, map.map, {{from.x, from.y, from.z}}, barrier.pointer, 0);
#endif
}
// To the same place in every block of the cluster whose bit is set, each with its own barrier at
// the place of `barrier`; device memory is read once.
template <typename T>
ENGINE_DEVICE void tensor_load_multicast(Shared<T> to, const TensorMap& map,
                                         MbarrierAddress barrier, Coordinate2 from,
                                         uint16_t blocks) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;"
      :
      : "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(from.x), "r"(from.y),
        "h"(blocks)
      : "memory");
#else
  tensor_load(to.pointer, map.map, {{from.x, from.y}}, barrier.pointer, blocks);
#endif
}
template <typename T>
ENGINE_DEVICE void tensor_load_multicast(Shared<T> to, const TensorMap& map,
                                         MbarrierAddress barrier, Coordinate3 from,
                                         uint16_t blocks) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;"
      :
      : "r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(from.x), "r"(from.y),
        "r"(from.z), "h"(blocks)
      : "memory");
#else
  tensor_load(to.pointer, map.map, {{from.x, from.y, from.z}}, barrier.pointer, blocks);
#endif
}
// `count` neighbouring elements; addresses and size are multiples of 16 bytes.
template <typename T>
ENGINE_DEVICE void bulk_load(Shared<T> to, const T* from, int count, MbarrierAddress barrier) {
  const int bytes = count * static_cast<int>(sizeof(T));
#if ENGINE_ON_GPU
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
      :
      : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes),
        "r"(shared_address(barrier))
      : "memory");
#else
  bulk_load(static_cast<void*>(to.pointer), from, static_cast<uint32_t>(bytes), barrier.pointer);
#endif
}

// --- Stores ------------------------------------------------------------------------------------
// They belong to the thread that starts them, in groups that it commits and waits for.

template <typename T>
ENGINE_DEVICE void tensor_store(const TensorMap& map, Shared<T> from, Coordinate2 to) {
#if ENGINE_ON_GPU
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
               :
               : "l"(&map), "r"(shared_address(from)), "r"(to.x), "r"(to.y)
               : "memory");
#else
  tensor_store(map.map, {{to.x, to.y}}, from.pointer, StoreKind::plain);
#endif
}
template <typename T>
ENGINE_DEVICE void tensor_store(const TensorMap& map, Shared<T> from, Coordinate3 to) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];"
      :
      : "l"(&map), "r"(shared_address(from)), "r"(to.x), "r"(to.y), "r"(to.z)
      : "memory");
#else
  tensor_store(map.map, {{to.x, to.y, to.z}}, from.pointer, StoreKind::plain);
#endif
}
// Adds to fp32 device memory, rounding once (subnormal sums become 0). The order of several adds to
// one element is not defined: give each element to one block of a launch.
ENGINE_DEVICE void tensor_add(const TensorMap& map, Shared<float> from, Coordinate2 to) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];"
      :
      : "l"(&map), "r"(shared_address(from)), "r"(to.x), "r"(to.y)
      : "memory");
#else
  tensor_store(map.map, {{to.x, to.y}}, from.pointer, StoreKind::add_f32);
#endif
}
ENGINE_DEVICE void tensor_add(const TensorMap& map, Shared<float> from, Coordinate3 to) {
#if ENGINE_ON_GPU
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
      "[%0, {%2, %3, %4}], [%1];"
      :
      : "l"(&map), "r"(shared_address(from)), "r"(to.x), "r"(to.y), "r"(to.z)
      : "memory");
#else
  tensor_store(map.map, {{to.x, to.y, to.z}}, from.pointer, StoreKind::add_f32);
#endif
}
template <typename T>
ENGINE_DEVICE void bulk_store(T* to, Shared<T> from, int count) {
  const int bytes = count * static_cast<int>(sizeof(T));
#if ENGINE_ON_GPU
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(shared_address(from)), "r"(bytes)
               : "memory");
#else
  bulk_store(to, static_cast<const void*>(from.pointer), static_cast<uint32_t>(bytes),
             StoreKind::plain);
#endif
}
ENGINE_DEVICE void bulk_add(float* to, Shared<float> from, int count) {
  const int bytes = count * static_cast<int>(sizeof(float));
#if ENGINE_ON_GPU
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(shared_address(from)), "r"(bytes)
               : "memory");
#else
  bulk_store(to, static_cast<const void*>(from.pointer), static_cast<uint32_t>(bytes),
             StoreKind::add_f32);
#endif
}
ENGINE_DEVICE void bulk_commit_group() {
#if ENGINE_ON_GPU
  asm volatile("cp.async.bulk.commit_group;" : : : "memory");
#else
  commit_bulk_group();
#endif
}
// Until at most `groups` of this thread's groups are unfinished.
template <int groups>
ENGINE_DEVICE void bulk_wait_group() {
#if ENGINE_ON_GPU
  asm volatile("cp.async.bulk.wait_group %0;" : : "n"(groups) : "memory");
#else
  wait_bulk_group(groups, false);
#endif
}
// Only until their shared memory has been read and may be written again.
template <int groups>
ENGINE_DEVICE void bulk_wait_group_read() {
#if ENGINE_ON_GPU
  asm volatile("cp.async.bulk.wait_group.read %0;" : : "n"(groups) : "memory");
#else
  wait_bulk_group(groups, true);
#endif
}

}  // namespace engine::kernels::ENGINE_GPU
