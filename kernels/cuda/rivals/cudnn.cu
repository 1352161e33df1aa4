#include "kernels/cuda/rivals/cudnn.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/memory.h"
#include "kernels/cuda/rivals/cudnn_attention_graph.h"
#include "kernels/cuda/rivals/timing.h"

namespace engine::kernels::cuda {
namespace {

using cudnn::AttentionProblem;

// --- What cuDNN cannot do ------------------------------------------------------------------------

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

struct Pointers {
  const void *q, *k, *v, *out;
  int64_t q_stride, k_stride, v_stride;
};

// Why this is not for cuDNN, or null.
const char* cudnn_cannot(const AttentionShape& s, const Pointers& p) {
  if (s.dtype != DType::bf16) return "fp32";
  if (s.head_dim > 128 || s.head_dim % 8 != 0) return "heads wider than 128 or not a multiple of 8";
  if (s.distance_count > 0) return "a bias by distance";
  if (s.dropout_p > 0.0f) return "dropout by a counter";
  if (s.seqused_k) return "a cache that is not full";
  if (s.window > 0 && !s.causal) return "a window that is not causal";
  // Ours aligns the last query with the last key, cuDNN's masks here the first with the first.
  const bool same_lengths = s.cu_seqlens_q == s.cu_seqlens_k && s.total_q == s.total_k;
  if (s.causal && !same_lengths) return "a causal mask over more keys than queries";
  const int64_t strides[] = {p.q_stride, p.k_stride, p.v_stride};
  for (const int64_t stride : strides) {
    if (stride % 8 != 0) return "tokens that do not start at multiples of 16 bytes";
    if (stride * std::max(s.total_q, s.total_k) >= int64_t{1} << 31) return "2^31 elements or more";
  }
  if (!aligned(p.q) || !aligned(p.k) || !aligned(p.v) || !aligned(p.out)) {
    return "addresses that are not multiples of 16 bytes";
  }
  return nullptr;
}

void say_once(const char* why) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  if (said.insert(why).second) {
    std::fprintf(stderr, "attention: cuDNN does not do %s; computed by the engine's kernels\n",
                 why);
  }
}

// --- Plans and memory ----------------------------------------------------------------------------

// Lengths and numbers of sequences that share a plan.
int64_t plan_length(int64_t length) {
  return ceil_div<int64_t>(length, 256) * 256;
}
int64_t plan_batch(int64_t batch) {
  int64_t power = 1;
  while (power < batch) power *= 2;
  return power;
}

AttentionProblem problem_of(const AttentionShape& s) {
  AttentionProblem p{.batch = s.num_sequences,
                     .num_heads = s.num_heads,
                     .num_kv_heads = s.num_kv_heads,
                     .head_dim = s.head_dim,
                     .max_seqlen_q = s.max_seqlen_q,
                     .max_seqlen_k = s.max_seqlen_k,
                     .scale = s.scale,
                     .causal = s.causal,
                     .window = s.window};
  p.even = s.total_q == p.batch * p.max_seqlen_q && s.total_k == p.batch * p.max_seqlen_k;
  if (!p.even) {
    p.batch = plan_batch(p.batch);
    p.max_seqlen_q = plan_length(p.max_seqlen_q);
    p.max_seqlen_k = plan_length(p.max_seqlen_k);
  }
  return p;
}
AttentionProblem problem_of(const AttentionForward& a) {
  AttentionProblem p = problem_of(a.shape);
  p.q_stride = a.q_stride;
  p.k_stride = a.k_stride;
  p.v_stride = a.v_stride;
  return p;
}
AttentionProblem problem_of(const AttentionBackward& a) {
  AttentionProblem p = problem_of(a.shape);
  p.q_stride = a.q_stride;
  p.k_stride = a.k_stride;
  p.v_stride = a.v_stride;
  p.d_q_stride = a.d_q_stride;
  p.d_k_stride = a.d_k_stride;
  p.d_v_stride = a.d_v_stride;
  return p;
}

// Lengths and starts of sequences, as plans want them; those that a plan has more than the batch
// are empty, at the end.
constexpr int kOffsetLists = cudnn::kOffsetDV - cudnn::kOffsetQ + 1;
struct Lists {
  const int32_t *cu_seqlens_q, *cu_seqlens_k;
  int num_sequences, plan_sequences;
  int32_t stride[kOffsetLists];  // from kOffsetQ on
  bool of_keys[kOffsetLists];
  int32_t* seqlen_q;
  int32_t* seqlen_k;
  int32_t* offset[kOffsetLists];
};
__global__ void __launch_bounds__(256) make_lists_kernel(const Lists p) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i > p.plan_sequences) return;
  const int first = i < p.num_sequences ? i : p.num_sequences;
  const int last = i + 1 < p.num_sequences ? i + 1 : p.num_sequences;
  const int32_t q = load(p.cu_seqlens_q + first), k = load(p.cu_seqlens_k + first);
  if (i < p.plan_sequences) {
    store(p.seqlen_q + i, load(p.cu_seqlens_q + last) - q);
    store(p.seqlen_k + i, load(p.cu_seqlens_k + last) - k);
  }
#pragma unroll
  for (int list = 0; list < kOffsetLists; ++list) {
    store(p.offset[list] + i, (p.of_keys[list] ? k : q) * p.stride[list]);
  }
}

// lse [heads, tokens] of our contract and [tokens, heads] of ragged plans.
__global__ void __launch_bounds__(256)
    transpose_kernel(const float* from, float* to, int64_t rows, int64_t columns) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * columns) return;
  const int64_t row = i / columns;
  store(to + (i - row * columns) * rows + row, load(from + i));
}
void transpose(const Stream& stream, const float* from, float* to, int64_t rows, int64_t columns) {
  launch(stream, "attention, lse for cuDNN", transpose_kernel,
         {.grid = {static_cast<unsigned>(ceil_div<int64_t>(rows * columns, 256))}, .block = {256}},
         from, to, rows, columns);
}

class Library {
 public:
  explicit Library(const Stream& stream) {
    if (cudnnGetVersion() < 91000) {
      throw GpuError("cuDNN " + std::to_string(cudnnGetVersion()) + " is older than 9.10");
    }
    check(cudaSetDevice(stream.device_index), "cudaSetDevice");
    cudnn::check(cudnnCreate(&handle_), "cudnnCreate");
  }

  void forward(const Stream& stream, const AttentionForward& a) {
    const AttentionProblem problem = problem_of(a);
    const cudnn::Plan& plan = plan_of(forward_plans_, problem, cudnn::forward_plan);
    const int64_t rows = a.shape.num_heads * a.shape.total_q;
    Memory memory;
    const size_t lse = memory.take(static_cast<size_t>(rows) * sizeof(float));
    const size_t lists = memory.take(problem.even ? 0 : list_bytes(problem));
    const size_t workspace = memory.take(plan.workspace_bytes());
    std::byte* const base = reserve(stream, memory.bytes);
    float* const own_lse = reinterpret_cast<float*>(base + lse);
    float* const plan_lse = problem.even && a.lse ? a.lse : own_lse;

    std::map<int64_t, void*> data = {{cudnn::kQ, const_cast<void*>(a.q)},
                                     {cudnn::kK, const_cast<void*>(a.k)},
                                     {cudnn::kV, const_cast<void*>(a.v)},
                                     {cudnn::kOut, a.out},
                                     {cudnn::kLse, plan_lse}};
    if (!problem.even) {
      const int64_t strides[] = {a.q_stride, a.k_stride, a.v_stride, dense(a.shape)};
      make_lists(stream, a.shape, problem, strides, base + lists, data);
      data.erase(cudnn::kOffsetDQ);
      data.erase(cudnn::kOffsetDK);
      data.erase(cudnn::kOffsetDV);
    }
    run(stream, plan, data, base + workspace);
    if (!problem.even && a.lse) {
      transpose(stream, own_lse, a.lse, a.shape.total_q, a.shape.num_heads);
    }
  }

  void backward(const Stream& stream, const AttentionBackward& a) {
    const AttentionProblem problem = problem_of(a);
    const cudnn::Plan& plan = plan_of(backward_plans_, problem, cudnn::backward_plan);
    const auto rows = static_cast<size_t>(problem.batch * problem.num_heads * problem.max_seqlen_q);
    const int64_t lse_rows = a.shape.num_heads * a.shape.total_q;
    Memory memory;
    const size_t lse = memory.take(static_cast<size_t>(lse_rows) * sizeof(float));
    const size_t row_sums = memory.take(rows * sizeof(float));
    const size_t d_q_sums =
        memory.take(rows * static_cast<size_t>(problem.head_dim) * sizeof(float));
    const size_t lists = memory.take(problem.even ? 0 : list_bytes(problem));
    const size_t workspace = memory.take(plan.workspace_bytes());
    std::byte* const base = reserve(stream, memory.bytes);

    std::map<int64_t, void*> data = {{cudnn::kQ, const_cast<void*>(a.q)},
                                     {cudnn::kK, const_cast<void*>(a.k)},
                                     {cudnn::kV, const_cast<void*>(a.v)},
                                     {cudnn::kOut, const_cast<void*>(a.out)},
                                     {cudnn::kDOut, const_cast<void*>(a.d_out)},
                                     {cudnn::kLse, const_cast<float*>(a.lse)},
                                     {cudnn::kDQ, a.d_q},
                                     {cudnn::kDK, a.d_k},
                                     {cudnn::kDV, a.d_v},
                                     {cudnn::kRowSums, base + row_sums},
                                     {cudnn::kDQSums, base + d_q_sums}};
    if (!problem.even) {
      const int64_t strides[] = {a.q_stride,   a.k_stride,   a.v_stride,  dense(a.shape),
                                 a.d_q_stride, a.d_k_stride, a.d_v_stride};
      make_lists(stream, a.shape, problem, strides, base + lists, data);
      float* const own_lse = reinterpret_cast<float*>(base + lse);
      transpose(stream, a.lse, own_lse, a.shape.num_heads, a.shape.total_q);
      data[cudnn::kLse] = own_lse;
    }
    run(stream, plan, data, base + workspace);
  }

 private:
  // Places in one allocation.
  struct Memory {
    size_t bytes = 0;
    size_t take(size_t count) {
      const size_t place = bytes;
      bytes += (count + 255) / 256 * 256;
      return place;
    }
  };

  static int64_t dense(const AttentionShape& s) { return int64_t{s.num_heads} * s.head_dim; }
  static size_t list_bytes(const AttentionProblem& p) {
    return static_cast<size_t>((p.batch + 4) / 4 * 4) * sizeof(int32_t) * (2 + kOffsetLists);
  }

  // `strides`: of q, k, v, out and, for the backward, d_q, d_k, d_v.
  template <size_t count>
  static void make_lists(const Stream& stream, const AttentionShape& s,
                         const AttentionProblem& problem, const int64_t (&strides)[count],
                         std::byte* memory, std::map<int64_t, void*>& data) {
    const int64_t room = (problem.batch + 4) / 4 * 4;  // of a list, multiples of 16 bytes
    auto* next = reinterpret_cast<int32_t*>(memory);
    const auto list = [&](int64_t id) {
      data[id] = next;
      next += room;
      return next - room;
    };
    Lists lists{.cu_seqlens_q = s.cu_seqlens_q,
                .cu_seqlens_k = s.cu_seqlens_k,
                .num_sequences = s.num_sequences,
                .plan_sequences = static_cast<int>(problem.batch)};
    lists.seqlen_q = list(cudnn::kSeqlenQ);
    lists.seqlen_k = list(cudnn::kSeqlenK);
    // In the order of DataId, where lse comes after out.
    const auto stride_of = [&](int64_t id) -> int64_t {
      if (id == cudnn::kOffsetLse) return s.num_heads;
      const size_t i = static_cast<size_t>(id - cudnn::kOffsetQ) - (id > cudnn::kOffsetLse);
      return i < count ? strides[i] : 0;
    };
    for (int i = 0; i < kOffsetLists; ++i) {
      const int64_t id = cudnn::kOffsetQ + i;
      lists.offset[i] = list(id);
      lists.stride[i] = static_cast<int32_t>(stride_of(id));
      lists.of_keys[i] = id == cudnn::kOffsetK || id == cudnn::kOffsetV || id == cudnn::kOffsetDK ||
                         id == cudnn::kOffsetDV;
    }
    launch(stream, "attention, lists for cuDNN", make_lists_kernel,
           {.grid = {static_cast<unsigned>(ceil_div<int64_t>(problem.batch + 1, 256))},
            .block = {256}},
           lists);
  }

  using Plans = std::map<AttentionProblem, cudnn::Plan>;
  template <typename Make>
  const cudnn::Plan& plan_of(Plans& plans, const AttentionProblem& problem, const Make& make) {
    const auto known = plans.find(problem);
    if (known != plans.end()) return known->second;
    return plans.emplace(problem, make(problem, cudnn::Target{.handle = handle_})).first->second;
  }

  // Grows with the largest shape so far. Outside the memory plan of the engine.
  std::byte* reserve(const Stream& stream, size_t bytes) {
    if (bytes <= reserved_) return memory_;
    if (is_capturing(stream)) {
      throw GpuError("cuDNN: a CUDA graph is recorded with a shape that has not run before");
    }
    synchronize(stream);
    release(stream, memory_);
    reserved_ = 0;
    memory_ = static_cast<std::byte*>(allocate(stream, bytes));
    if (!memory_) {
      throw GpuError("cuDNN: no device memory for its workspace of " + std::to_string(bytes >> 20) +
                     " MiB");
    }
    reserved_ = bytes;
    return memory_;
  }

  void run(const Stream& stream, const cudnn::Plan& plan, const std::map<int64_t, void*>& data,
           void* workspace) {
    cudnn::check(cudnnSetStream(handle_, static_cast<cudaStream_t>(stream.handle)),
                 "cudnnSetStream");
    plan.run(handle_, data, workspace);
  }

  cudnnHandle_t handle_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t reserved_ = 0;
  Plans forward_plans_, backward_plans_;
};

std::mutex mutex;

// Never destroyed: the driver may be gone when statics are.
Library& library(const Stream& stream) {
  static std::map<int, Library*> libraries;
  Library*& one = libraries[stream.device_index];
  if (!one) one = new Library(stream);
  return *one;
}

const char* cannot(const AttentionForward& a) {
  return cudnn_cannot(a.shape, {a.q, a.k, a.v, a.out, a.q_stride, a.k_stride, a.v_stride});
}
const char* cannot(const AttentionBackward& a) {
  const char* const inputs =
      cudnn_cannot(a.shape, {a.q, a.k, a.v, a.out, a.q_stride, a.k_stride, a.v_stride});
  if (inputs) return inputs;
  return cudnn_cannot(a.shape,
                      {a.d_q, a.d_k, a.d_v, a.d_out, a.d_q_stride, a.d_k_stride, a.d_v_stride});
}

bool is_empty(const AttentionShape& s) {
  return s.total_q == 0 || s.total_k == 0 || s.num_sequences == 0;
}

// Runs the faster one; `theirs_wins` remembers.
template <typename Arguments>
void run_faster(const Stream& stream, const Arguments& arguments,
                void (*ours)(Stream, const Arguments&), void (*theirs)(Stream, const Arguments&),
                std::map<AttentionProblem, bool>& theirs_wins) {
  if (is_empty(arguments.shape) || cannot(arguments)) return ours(stream, arguments);
  const AttentionProblem problem = problem_of(arguments);
  bool known = false, wins = false;
  {
    const std::lock_guard lock(mutex);
    const auto found = theirs_wins.find(problem);
    known = found != theirs_wins.end();
    if (known) wins = found->second;
  }
  if (!known && is_capturing(stream)) return ours(stream, arguments);
  if (!known) {
    // Both write the same results again and again.
    const float our_time = milliseconds(stream, [&] { ours(stream, arguments); });
    try {
      wins = milliseconds(stream, [&] { theirs(stream, arguments); }) < our_time;
    } catch (const GpuError& error) {
      say_once((std::string("this shape (") + error.what() + ")").c_str());
    }
    const std::lock_guard lock(mutex);
    theirs_wins[problem] = wins;
  }
  (wins ? theirs : ours)(stream, arguments);
}

}  // namespace

void attention_forward_cudnn(Stream stream, const AttentionForward& arguments) {
  const char* const why = cannot(arguments);
  if (why) say_once(why);
  if (why || is_empty(arguments.shape)) return attention_forward(stream, arguments);
  const std::lock_guard lock(mutex);
  library(stream).forward(stream, arguments);
}

void attention_backward_cudnn(Stream stream, const AttentionBackward& arguments) {
  const char* const why = cannot(arguments);
  if (why) say_once(why);
  if (why || is_empty(arguments.shape)) return attention_backward(stream, arguments);
  const std::lock_guard lock(mutex);
  library(stream).backward(stream, arguments);
}

void attention_forward_auto(Stream stream, const AttentionForward& arguments) {
  static std::map<AttentionProblem, bool> theirs_wins;
  run_faster(stream, arguments, attention_forward, attention_forward_cudnn, theirs_wins);
}

void attention_backward_auto(Stream stream, const AttentionBackward& arguments) {
  static std::map<AttentionProblem, bool> theirs_wins;
  run_faster(stream, arguments, attention_backward, attention_backward_cudnn, theirs_wins);
}

}  // namespace engine::kernels::cuda
