#include "engine/data/shuffle.h"

#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include "engine/data/hash.h"
#include "kernels/api/dropout.h"

namespace engine {
namespace {

class PhiloxStream {
 public:
  explicit PhiloxStream(uint64_t key) : key_(key) {}

  uint32_t next() {
    if (used_ == 4) {
      block_ = kernels::philox4x32(key_, counter_++);
      used_ = 0;
    }
    return block_.word[used_++];
  }

  // Uniform in [0, bound): Lemire's multiplication, drawing again in the biased part.
  uint32_t below(uint32_t bound) {
    uint64_t product = uint64_t{next()} * bound;
    if (static_cast<uint32_t>(product) < bound) {
      const uint32_t threshold = (0u - bound) % bound;
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{next()} * bound;
    }
    return static_cast<uint32_t>(product >> 32);
  }

 private:
  uint64_t key_, counter_ = 0;
  kernels::Philox4 block_{};
  int used_ = 4;
};

}  // namespace

std::vector<uint32_t> philox_permutation(uint32_t n, uint64_t seed, uint64_t epoch,
                                         uint64_t stream) {
  PhiloxStream random(mix64(mix64(mix64(seed) + epoch) + stream));
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t i = 0; i + 1 < n; ++i) std::swap(order[i], order[i + random.below(n - i)]);
  return order;
}

std::vector<uint32_t> torch_permutation(uint32_t n, uint64_t seed) {
  if (n >= UINT32_MAX / 20) throw std::logic_error("torch_permutation: n is too large");
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t i = 0; i + 1 < n; ++i) {
    std::swap(order[i], order[i + static_cast<uint32_t>(random()) % (n - i)]);
  }
  return order;
}

}  // namespace engine
