// Device memory and shared memory: load() and store(), scalars and vectors of up to 16 bytes.
//
//   float x = load(p + i);                          // 4 bytes of device memory
//   Vector<BFloat16, 8> v = load_vector<8>(p + i);  // one 16-byte access, aligned to 16
//   store_vector(shared_tile + i, v);               // the same for shared memory
//
// Shared memory is laid out by the kernel from one dynamic block:
//   SharedMemory shared;
//   Shared<float> partial = shared.take<float>(32);
//   Shared<BFloat16> tile = shared.take<BFloat16>(128 * 64, 1024);   // 1024-byte aligned
// launch() is told the size; SharedSize computes it with the same calls.
#pragma once

#include "kernels/cuda/device/platform.h"

namespace engine::kernels::ENGINE_GPU {

// --- Conversions -------------------------------------------------------------------------------

ENGINE_DEVICE float to_float(float x) {
  return x;
}
ENGINE_DEVICE float to_float(BFloat16 x) {
#if ENGINE_ON_GPU
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
#else
  return static_cast<float>(x);
#endif
}

// Two floats to bf16, round to nearest even: `low` in the lower half.
ENGINE_DEVICE uint32_t pack_bf16(float low, float high) {
#if ENGINE_ON_GPU
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return BFloat16(low).bits | static_cast<uint32_t>(BFloat16(high).bits) << 16;
#endif
}
ENGINE_DEVICE float low_bf16(uint32_t packed) {
#if ENGINE_ON_GPU
  return __uint_as_float(packed << 16);
#else
  return std::bit_cast<float>(packed << 16);
#endif
}
ENGINE_DEVICE float high_bf16(uint32_t packed) {
#if ENGINE_ON_GPU
  return __uint_as_float(packed & 0xffff0000u);
#else
  return std::bit_cast<float>(packed & 0xffff0000u);
#endif
}

template <typename T>
ENGINE_DEVICE T from_float(float x);
template <>
ENGINE_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
ENGINE_DEVICE BFloat16 from_float<BFloat16>(float x) {
  BFloat16 result;
  result.bits = static_cast<uint16_t>(pack_bf16(x, 0.0f));
  return result;
}
// x as it will be stored in a T: rounded, and back.
template <typename T>
ENGINE_DEVICE float rounded_to(float x) {
  return to_float(from_float<T>(x));
}

// --- Vectors -----------------------------------------------------------------------------------

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  static_assert(sizeof(T) * N <= 16 && (N & (N - 1)) == 0, "an access is 1 to 16 bytes");
  T element[N];
  ENGINE_DEVICE T& operator[](int i) { return element[i]; }
  ENGINE_DEVICE const T& operator[](int i) const { return element[i]; }
};

// Elements of T in a 16-byte access.
template <typename T>
inline constexpr int kVectorWidth = static_cast<int>(16 / sizeof(T));

// --- Device memory -----------------------------------------------------------------------------

namespace detail {
// The access as an unsigned type of its size, so that the compiler makes one instruction of it.
template <size_t bytes>
struct Word;
template <>
struct Word<1> {
  using type = uint8_t;
};
template <>
struct Word<2> {
  using type = uint16_t;
};
template <>
struct Word<4> {
  using type = uint32_t;
};
template <>
struct Word<8> {
  using type = uint64_t;
};
struct alignas(16) Quad {
  uint32_t x, y, z, w;
};
template <>
struct Word<16> {
#if ENGINE_ON_GPU
  using type = uint4;
#else
  using type = Quad;
#endif
};
}  // namespace detail

template <typename T>
ENGINE_DEVICE T load(const T* address) {
#if !ENGINE_ON_GPU
  check_global(address, sizeof(T), Access::read);
#endif
  return *address;
}
template <typename T>
ENGINE_DEVICE void store(T* address, T value) {
#if !ENGINE_ON_GPU
  check_global(address, sizeof(T), Access::write);
#endif
  *address = value;
}

template <typename T>
ENGINE_DEVICE T read(const Scalar<T>& scalar) {
  return scalar.memory ? load(scalar.memory) : scalar.value;
}

template <int N, typename T>
ENGINE_DEVICE Vector<T, N> load_vector(const T* address) {
#if ENGINE_ON_GPU
  using Word = typename detail::Word<sizeof(T) * N>::type;
  union {
    Word word;
    Vector<T, N> vector;
  } u;
  u.word = *reinterpret_cast<const Word*>(address);
  return u.vector;
#else
  check_global(address, sizeof(T) * N, Access::read);
  Vector<T, N> vector;
  std::memcpy(&vector, address, sizeof vector);
  return vector;
#endif
}
// Data that is read once: past L1. What a thread reads it may overwrite, with what it made of it.
template <int N, typename T>
ENGINE_DEVICE Vector<T, N> load_once(const T* address) {
#if ENGINE_ON_GPU
  if constexpr (sizeof(T) * N == 16) {
    union {
      uint4 word;
      Vector<T, N> vector;
    } u;
    asm("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(u.word.x), "=r"(u.word.y), "=r"(u.word.z), "=r"(u.word.w)
        : "l"(__cvta_generic_to_global(address)));
    return u.vector;
  } else {
    return load_vector<N>(address);
  }
#else
  return load_vector<N>(address);
#endif
}
template <typename T, int N>
ENGINE_DEVICE void store_vector(T* address, const Vector<T, N>& vector) {
#if ENGINE_ON_GPU
  using Word = typename detail::Word<sizeof(T) * N>::type;
  union U {
    Word word;
    Vector<T, N> vector;
    __device__ U() {}
  } u;
  u.vector = vector;
  *reinterpret_cast<Word*>(address) = u.word;
#else
  check_global(address, sizeof(T) * N, Access::write);
  std::memcpy(address, &vector, sizeof vector);
#endif
}
// Asks for the line of 128 bytes that holds `address` to be in L2 soon.
ENGINE_DEVICE void prefetch_l2(const void* address) {
#if ENGINE_ON_GPU
  asm volatile("prefetch.global.L2 [%0];" : : "l"(__cvta_generic_to_global(address)));
#else
  check_global_range(address, 1, Access::read);  // moves nothing that counts
#endif
}
// Results that no kernel reads soon: evicted from L2 first.
template <typename T, int N>
ENGINE_DEVICE void store_streaming(T* address, const Vector<T, N>& vector) {
#if ENGINE_ON_GPU
  if constexpr (sizeof(T) * N == 16) {
    union U {
      uint4 word;
      Vector<T, N> vector;
      __device__ U() {}
    } u;
    u.vector = vector;
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(address)), "r"(u.word.x), "r"(u.word.y),
                   "r"(u.word.z), "r"(u.word.w)
                 : "memory");
  } else {
    store_vector(address, vector);
  }
#else
  store_vector(address, vector);
#endif
}

// Adds to an integer counter; returns what was there. Floating-point atomics do not exist here on
// purpose: their order, and with it the bits of the sum, is not promised.
ENGINE_DEVICE int32_t atomic_add(int32_t* address, int32_t value) {
#if ENGINE_ON_GPU
  return atomicAdd(address, value);
#else
  check_global(address, sizeof(int32_t), Access::write);
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
#endif
}
ENGINE_DEVICE int64_t atomic_min(int64_t* address, int64_t value) {
#if ENGINE_ON_GPU
  return atomicMin(reinterpret_cast<long long*>(address), static_cast<long long>(value));
#else
  check_global(address, sizeof(int64_t), Access::write);
  int64_t old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED,
                                                     __ATOMIC_RELAXED)) {
  }
  return old;
#endif
}

// --- Shared memory -----------------------------------------------------------------------------

// A pointer into the shared memory of the block.
template <typename T>
struct Shared {
  T* pointer = nullptr;

  ENGINE_DEVICE Shared operator+(int64_t offset) const { return {pointer + offset}; }
  template <typename U>
  ENGINE_DEVICE Shared<U> as() const {
    return {reinterpret_cast<U*>(pointer)};
  }
};

// The 32-bit address that PTX wants. On the software GPU: the offset in the block's memory.
template <typename T>
ENGINE_DEVICE uint32_t shared_address(Shared<T> shared) {
#if ENGINE_ON_GPU
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared.pointer));
#else
  return static_cast<uint32_t>(reinterpret_cast<std::byte*>(shared.pointer) - self().block->shared);
#endif
}

template <typename T>
ENGINE_DEVICE T load(Shared<T> shared) {
#if !ENGINE_ON_GPU
  check_shared(shared.pointer, sizeof(T), Access::read);
#endif
  return *shared.pointer;
}
template <typename T>
ENGINE_DEVICE void store(Shared<T> shared, T value) {
#if !ENGINE_ON_GPU
  check_shared(shared.pointer, sizeof(T), Access::write);
#endif
  *shared.pointer = value;
}
template <int N, typename T>
ENGINE_DEVICE Vector<T, N> load_vector(Shared<T> shared) {
#if !ENGINE_ON_GPU
  check_shared(shared.pointer, sizeof(T) * N, Access::read);
#endif
  return *reinterpret_cast<const Vector<T, N>*>(shared.pointer);
}
template <typename T, int N>
ENGINE_DEVICE void store_vector(Shared<T> shared, const Vector<T, N>& vector) {
#if !ENGINE_ON_GPU
  check_shared(shared.pointer, sizeof(T) * N, Access::write);
#endif
  *reinterpret_cast<Vector<T, N>*>(shared.pointer) = vector;
}
ENGINE_DEVICE int32_t atomic_add(Shared<int32_t> shared, int32_t value) {
#if ENGINE_ON_GPU
  return atomicAdd(shared.pointer, value);
#else
  check_shared(shared.pointer, sizeof(int32_t), Access::write);
  const int32_t old = *shared.pointer;  // the threads of a block share an OS thread
  *shared.pointer = old + value;
  return old;
#endif
}

// Hands out the block's dynamic shared memory, from its start. The same order of take() calls in
// every thread.
class SharedMemory {
 public:
  ENGINE_DEVICE SharedMemory() {
#if ENGINE_ON_GPU
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    base_ = dynamic_shared_memory;
#else
    base_ = reinterpret_cast<unsigned char*>(self().block->shared);
#endif
  }
  template <typename T>
  ENGINE_DEVICE Shared<T> take(int64_t count, int alignment = 16) {
    offset_ = (offset_ + alignment - 1) / alignment * alignment;
    Shared<T> result{reinterpret_cast<T*>(base_ + offset_)};
    offset_ += static_cast<int>(count * sizeof(T));
    return result;
  }

 private:
  unsigned char* base_;
  int offset_ = 0;
};

// Host side of SharedMemory: how many bytes the same take() calls need.
class SharedSize {
 public:
  template <typename T>
  SharedSize& take(int64_t count, int alignment = 16) {
    bytes_ = (bytes_ + alignment - 1) / alignment * alignment;
    bytes_ += static_cast<size_t>(count) * sizeof(T);
    return *this;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace engine::kernels::ENGINE_GPU
