// A problem of attention on a device, beside its reference.
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/api/backends.h"
#include "tests/kernels/reference/attention.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {

inline constexpr DType kFloats[] = {DType::f32, DType::bf16};
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

AttentionInputs random_inputs(const AttentionProblem& problem, DType dtype, Random& random);
// scale = 1 / sqrt(head_dim), as fp32.
AttentionProblem with_scale(AttentionProblem problem);

enum class Layout {
  kSeparate,  // q, k, v each with unused columns
  kAligned,   // the same, rows on 16-byte boundaries if a head is a multiple of that
  kFused,     // one [tokens, (H + 2K)·D + unused] buffer; needs as many queries as keys
  kFusedAligned,
};

// Which of our kernels, for its lifetime.
class WithAttention {
 public:
  explicit WithAttention(AttentionBackend backend) : before_(selected_attention()) {
    select_attention(backend);
  }
  ~WithAttention() { select_attention(before_); }
  WithAttention(const WithAttention&) = delete;
  WithAttention& operator=(const WithAttention&) = delete;

 private:
  AttentionBackend before_;
};

// A problem on a device, in strided buffers whose unused columns, unused keys, outputs and
// workspace are NaN.
class AttentionOnDevice {
 public:
  AttentionOnDevice(Stream stream, const Operations& ops, const AttentionProblem& problem,
                    const AttentionInputs& inputs, DType dtype, Layout layout = Layout::kSeparate);

  AttentionOutputs forward();
  // Is there a forward by wgmma, on a GPU that has it?
  bool fits_wgmma() const;
  // After forward().
  AttentionGradients backward(const Values& d_out_values);

 private:
  struct Slice {
    int64_t columns, stride, column;
  };
  using Slices = std::array<Slice, 3>;
  void* at(const std::shared_ptr<DeviceArray>& array, int slice) const {
    return array->as<std::byte>() + slices_[slice].column * size_of(dtype_);
  }

  bool fused() const { return layout_ == Layout::kFused || layout_ == Layout::kFusedAligned; }

  Stream stream_;
  const Operations& ops_;
  AttentionProblem problem_;
  DType dtype_;
  Layout layout_;
  AttentionShape shape_;
  std::unique_ptr<DeviceArray> cu_q_, cu_k_, used_, bias_;
  Slices slices_;
  std::shared_ptr<DeviceArray> inputs_[3];
  std::unique_ptr<DeviceArray> out_, lse_;
};

// lse has -inf where a query sees no key: the same queries must have it; then it counts as 0.
void expect_close_lse(Values actual, Values reference, Values twin);
// Kernel, fp64 reference and twin: the forward, by wgmma and by mma.sync where the device has both.
void expect_forward_matches_reference(Stream stream, const Operations& ops,
                                      const AttentionProblem& problem, DType dtype, uint64_t seed,
                                      Layout layout = Layout::kSeparate);
// The same and backward.
void expect_matches_reference(Stream stream, const Operations& ops, const AttentionProblem& problem,
                              DType dtype, uint64_t seed, Layout layout = Layout::kSeparate);

}  // namespace engine::kernels::testing
