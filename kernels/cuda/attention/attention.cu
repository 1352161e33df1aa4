// Attention on GPUs: checks, and the choice of kernels, by compute_capability(stream) and shape.
// All but forward_wgmma.cu run from sm_80 on.
//   forward.h         any shape
//   forward_wgmma.cu  the same on Hopper, for bf16 heads of 33 to 128, without bias and dropout
//   decode.h          few queries against more than a few keys, without bias and dropout
//   backward.h        any shape
//   backward_bias.h   the gradient of distance_bias
#include "kernels/cuda/attention/backward.h"
#include "kernels/cuda/attention/backward_bias.h"
#include "kernels/cuda/attention/decode.h"
#include "kernels/cuda/attention/forward.h"
#include "kernels/cuda/cuda.h"

namespace engine::kernels::ENGINE_GPU {
namespace attention {
namespace {

void check_shape(const AttentionShape& shape) {
  require(shape.dtype == DType::f32 || shape.dtype == DType::bf16, "attention takes f32 or bf16");
  require(shape.num_kv_heads > 0 && shape.num_heads % shape.num_kv_heads == 0,
          "attention: num_heads is not a multiple of num_kv_heads");
  require(shape.head_dim > 0 && shape.head_dim <= 256,
          "attention: head_dim is not within 1 .. 256");
  require(shape.max_seqlen_k <= 1 << 20, "attention: a sequence has more than 2^20 keys");
  require(shape.dropout_p >= 0.0f && shape.dropout_p < 1.0f,
          "attention: dropout_p is not within [0, 1)");
}

// Is this work for the kernel that cuts keys into chunks? Not where a block would have too little.
bool is_decode(const AttentionShape& shape) {
  return shape.max_seqlen_q <= 4 && shape.max_seqlen_k > 128 && shape.distance_count == 0 &&
         shape.dropout_p == 0.0f && shape.scale > 0.0f;
}

struct DecodeCounts {
  int chunks, rows;
  explicit DecodeCounts(const AttentionShape& shape)
      : chunks(ceil_div(shape.max_seqlen_k, kDecodeChunk)),
        rows(shape.max_seqlen_q * (shape.num_heads / shape.num_kv_heads)) {}
};

template <typename T>
void forward_of(const Stream& stream, const AttentionForward& arguments, bool allow_wgmma) {
  const AttentionShape& shape = arguments.shape;
  const int dim = shape.head_dim;
  const ForwardArguments<T> of_device{
      .problem = problem_of(shape),
      .q = heads_of<T>(arguments.q, arguments.q_stride, dim),
      .k = heads_of<T>(arguments.k, arguments.k_stride, dim),
      .v = heads_of<T>(arguments.v, arguments.v_stride, dim),
      .out = heads_of<T>(arguments.out, int64_t{shape.num_heads} * dim, dim),
      .lse = arguments.lse,
      .total_k = shape.total_k,
      .slots = 0};
  if (is_decode(shape)) {
    const DecodeCounts counts(shape);
    decode(stream, DecodeArguments<T>{.forward = of_device,
                                      .parts = static_cast<float*>(arguments.workspace),
                                      .chunks = counts.chunks,
                                      .rows = counts.rows});
    return;
  }
  if constexpr (sizeof(T) == 2) {
    if (allow_wgmma && forward_wgmma(stream, of_device)) return;
  }
  forward(stream, of_device);
}

void choose_forward(const Stream& stream, const AttentionForward& arguments, bool allow_wgmma) {
  check_shape(arguments.shape);
  require(arguments.workspace || attention_forward_workspace(arguments.shape) == 0,
          "attention_forward needs a workspace");
  if (arguments.shape.total_q == 0 || arguments.shape.num_sequences == 0) return;
  if (arguments.shape.dtype == DType::f32) {
    forward_of<float>(stream, arguments, allow_wgmma);
  } else {
    forward_of<BFloat16>(stream, arguments, allow_wgmma);
  }
}

// What a backward keeps between its kernels.
struct BackwardWorkspace {
  float* row_sums;   // [num_heads, total_q]
  float* bias_sums;  // backward_bias.h
  size_t bytes;

  BackwardWorkspace(const AttentionShape& shape, void* data) : row_sums(static_cast<float*>(data)) {
    const int64_t rows = shape.num_heads * shape.total_q;
    bias_sums = row_sums + rows;
    bytes = static_cast<size_t>(rows) * sizeof(float);
    if (shape.distance_count > 0) {
      const Problem problem = problem_of(shape);
      bytes += BiasBands(problem, bias_tile_rows(shape.dtype, shape.head_dim)).bytes(problem);
    }
  }
};

template <typename T>
void backward_of(const Stream& stream, const AttentionBackward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const int dim = shape.head_dim;
  const int64_t dense = int64_t{shape.num_heads} * dim;
  const BackwardWorkspace workspace(shape, arguments.workspace);
  const BackwardArguments<T> of_device{.problem = problem_of(shape),
                                       .q = heads_of<T>(arguments.q, arguments.q_stride, dim),
                                       .k = heads_of<T>(arguments.k, arguments.k_stride, dim),
                                       .v = heads_of<T>(arguments.v, arguments.v_stride, dim),
                                       .out = heads_of<T>(arguments.out, dense, dim),
                                       .d_out = heads_of<T>(arguments.d_out, dense, dim),
                                       .d_q = heads_of<T>(arguments.d_q, arguments.d_q_stride, dim),
                                       .d_k = heads_of<T>(arguments.d_k, arguments.d_k_stride, dim),
                                       .d_v = heads_of<T>(arguments.d_v, arguments.d_v_stride, dim),
                                       .lse = arguments.lse,
                                       .row_sums = workspace.row_sums,
                                       .d_bias = arguments.d_distance_bias,
                                       .bias_sums = workspace.bias_sums,
                                       .total_k = shape.total_k,
                                       .slots = 0};
  launch_row_sums(stream, of_device);
  backward_keys(stream, of_device);
  backward_queries(stream, of_device);
  if (arguments.d_distance_bias && shape.distance_count > 0) bias_gradient(stream, of_device);
}

}  // namespace
}  // namespace attention

size_t attention_forward_workspace(const AttentionShape& shape) {
  using namespace attention;
  if (!is_decode(shape)) return 0;
  const DecodeCounts counts(shape);
  if (counts.chunks == 1) return 0;
  return static_cast<size_t>(shape.num_sequences) * static_cast<size_t>(shape.num_kv_heads) *
         static_cast<size_t>(counts.chunks) * static_cast<size_t>(counts.rows) *
         static_cast<size_t>(shape.head_dim + 2) * sizeof(float);
}

void attention_forward(Stream stream, const AttentionForward& arguments) {
  attention::choose_forward(stream, arguments, true);
}

void attention_forward_mma(Stream stream, const AttentionForward& arguments) {
  attention::choose_forward(stream, arguments, false);
}

size_t attention_backward_workspace(const AttentionShape& shape) {
  return attention::BackwardWorkspace(shape, nullptr).bytes;
}

void attention_backward(Stream stream, const AttentionBackward& arguments) {
  using namespace attention;
  const AttentionShape& shape = arguments.shape;
  check_shape(shape);
  require(arguments.lse || shape.total_q == 0, "attention_backward needs lse");
  require(arguments.workspace || attention_backward_workspace(shape) == 0,
          "attention_backward needs a workspace");
  if (shape.num_sequences == 0) return;
  if (shape.dtype == DType::f32) {
    backward_of<float>(stream, arguments);
  } else {
    backward_of<BFloat16>(stream, arguments);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
