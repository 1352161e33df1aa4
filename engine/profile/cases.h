// The cases of one model and one dtype, in the making. Private to kernel_cases*.cpp.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/profile/case_buffers.h"
#include "engine/profile/kernel_cases.h"
#include "kernels/api/operations.h"

namespace engine {

class Cases {
 public:
  Cases(const kernels::Stream& stream, const KernelShapes& shapes, DType dtype, std::string only)
      : stream_(stream),
        s_(shapes),
        dtype_(dtype),
        size_(static_cast<double>(kernels::size_of(dtype))),
        only_(std::move(only)) {}

  std::vector<KernelCase> all();
  // The forward of attention in its steps, or one of them.
  std::vector<KernelCase> attention_steps(const std::string& step);

 private:
  // `make` fills buffers and returns the call; it gets the buffers it may keep.
  template <typename Make>
  void add(KernelCase info, const Make& make) {
    if (!only_.empty() && info.op != only_) return;
    info.stream = stream_;
    info.prepare = [make, stream = stream_] {
      auto buffers = std::make_shared<Buffers>(stream);
      const std::function<void()> run = make(*buffers);
      return std::function<void()>([buffers, run] { run(); });
    };
    cases_.push_back(std::move(info));
  }

  void matmuls();
  // The three products of Y[tokens, out] = X[tokens, in] W. GPT-2 stores W as [in, out].
  void linear(const std::string& name, int64_t out, int64_t in);
  // Products with the residual or the activation in their epilogue, as the layers use them.
  void fused_matmuls();
  // [tokens, in] times a weight with `out` columns in the product.
  void fused(const std::string& name, int64_t out, int64_t in, kernels::MatmulEpilogue::Kind kind);
  void attention();
  void norms();
  void activations();
  void rope();
  void embeddings();
  // Head and loss, forward and backward in one: three products of the head.
  void cross_entropy();
  void optimizer();

  kernels::Stream stream_;
  KernelShapes s_;
  DType dtype_;
  double size_;
  std::string only_;
  bool steps_only_ = false;  // of attention: its steps instead of forward and backward
  std::string step_;
  std::vector<KernelCase> cases_;
};

}  // namespace engine
