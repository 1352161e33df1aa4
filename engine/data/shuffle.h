// Reproducible permutations of [0, n).
#pragma once

#include <cstdint>
#include <vector>

namespace engine {

// Fisher-Yates with Philox4x32-10 and unbiased bounds. (seed, epoch, stream) give independent
// permutations; the same three give the same one on every machine.
std::vector<uint32_t> philox_permutation(uint32_t n, uint64_t seed, uint64_t epoch,
                                         uint64_t stream);

// torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for the CPU: MT19937 seeded with
// seed mod 2^32, then swap(r[i], r[i + draw % (n - i)]) for i = 0 .. n - 2. torch itself takes
// another way from about n = 2^32 / 20 on; larger n throw std::logic_error.
std::vector<uint32_t> torch_permutation(uint32_t n, uint64_t seed);

}  // namespace engine
