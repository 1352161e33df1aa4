// What the software GPU takes for granted about hardware: layouts of operands, and what
// instructions promise. Each assumption is a small kernel, compiled for both as all kernels are,
// whose result is compared with plain loops on the host. On the software GPU this tests the model;
// on a GPU it tests what the model is made of (tools/gpu_check.sh).
//
// The files, and what they ask:
//   warp.cu      shuffles, votes, barriers of blocks, named barriers, atomics, shared memory
//   math.cu      roundings of conversions, errors of approximate instructions
//   matrix.cu    ldmatrix, mma.sync: fragments, and what its sums are
//   cp_async.cu  groups, sizes, zero fill
//   stmatrix.cu, mbarrier.cu, cluster.cu, tma.cu, wgmma.cu: Hopper
#pragma once

#include <cmath>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/cuda/device/platform.h"

namespace engine::kernels::hardware {

// What a check found to differ; nothing if all is as assumed.
class Report {
 public:
  // values[i] == expected(i) for all i (NaN equals NaN). `what` names the values.
  template <typename T, typename Expected>
  void compare(const char* what, const std::vector<T>& values, const Expected& expected) {
    compare_by(what, values, expected, [](double a, double b) { return a == b; });
  }
  // |values[i] - expected(i)| <= tolerance(i).
  template <typename T, typename Expected, typename Tolerance>
  void compare_near(const char* what, const std::vector<T>& values, const Expected& expected,
                    const Tolerance& tolerance) {
    size_t i = 0;
    compare_by(what, values, expected,
               [&](double a, double b) { return std::abs(a - b) <= tolerance(i++); });
  }
  void require(bool as_assumed, const std::string& what) {
    if (!as_assumed) add(what);
  }
  const std::string& differences() const { return differences_; }

 private:
  template <typename T, typename Expected, typename Same>
  void compare_by(const char* what, const std::vector<T>& values, const Expected& expected,
                  const Same& same) {
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const auto a = static_cast<double>(values[i]), b = static_cast<double>(expected(i));
      if (same(a, b) || (std::isnan(a) && std::isnan(b))) continue;
      if (wrong++ == 0) first = i;
    }
    if (wrong == 0) return;
    std::ostringstream text;
    text.precision(9);
    text << what << "[" << first << "] is " << static_cast<double>(values[first]) << ", expected "
         << static_cast<double>(expected(first)) << " (" << wrong << " of " << values.size()
         << " differ)";
    add(text.str());
  }
  void add(const std::string& text) {
    if (!differences_.empty()) differences_ += "; ";
    differences_ += text;
  }

  std::string differences_;
};

struct Assumption {
  const char* name;  // a word, for --gtest_filter
  const char* what;  // one line
  int capability;    // compute capability that it needs
  void (*check)(Report&);
};

}  // namespace engine::kernels::hardware

namespace engine::kernels::ENGINE_GPU::hardware {

using kernels::hardware::Assumption;
using kernels::hardware::Report;
using Assumptions = std::span<const Assumption>;

Assumptions warp_assumptions();
Assumptions math_assumptions();
Assumptions matrix_assumptions();
Assumptions cp_async_assumptions();
// Hopper.
Assumptions stmatrix_assumptions();
Assumptions mbarrier_assumptions();
Assumptions cluster_assumptions();
Assumptions tma_assumptions();
Assumptions wgmma_assumptions();

}  // namespace engine::kernels::ENGINE_GPU::hardware
