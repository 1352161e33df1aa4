// bf16 products on Hopper: which tile, and the kernels without an epilogue (wgmma_kernel.h).
#include "kernels/cuda/matmul/wgmma_kernel.h"

namespace engine::kernels::ENGINE_GPU {
namespace wgmma_matmul {
namespace {

// Cycles by a model: whole waves of tiles, each step of 64 k bound by tensor cores or L2.
double cycles_of(const MatmulProblem& p, const Plan& plan, int multiprocessors) {
  const int64_t tiles =
      p.parts * ceil_div<int64_t>(p.m, kRows * plan.cluster) * ceil_div<int64_t>(p.n, plan.columns);
  const int64_t waves = ceil_div<int64_t>(tiles, multiprocessors / plan.cluster);
  const double multiply = 2.0 * kRows * plan.columns * kDepth / 4096.0;
  const double load = 2.0 * kDepth * (kRows + plan.columns / plan.cluster) / 46.0;
  const double store = kRows * plan.columns * (p.output_bf16 ? 2.0 : 4.0) / 32.0;
  return static_cast<double>(waves) *
         (ceil_div(p.k < p.part_k ? p.k : p.part_k, kDepth) * (multiply > load ? multiply : load) +
          store);
}

Plan choose_plan(const MatmulProblem& p, int multiprocessors) {
  constexpr Plan kPlans[] = {{256, 2}, {256, 1}, {128, 2}, {128, 1}};
  Plan best = kPlans[3];
  for (const Plan& plan : kPlans) {
    if (plan.cluster > multiprocessors) continue;
    if (cycles_of(p, plan, multiprocessors) < cycles_of(p, best, multiprocessors)) best = plan;
  }
  return best;
}

// op(X) with `rows` of m or n: rows of k when K-major, else k rows.
TensorMapConfig operand(const void* x, int64_t ld, int rows, int k, bool k_contiguous) {
  return {.base = x,
          .dtype = DType::bf16,
          .size = {k_contiguous ? k : rows, k_contiguous ? rows : k},
          .stride = {ld},
          .box = {64, 64}};
}

template <int Columns, typename T>
void launch_transposes(Stream stream, const Arguments& arguments, const Plan& plan,
                       int multiprocessors) {
  const MatmulProblem& p = arguments.problem;
  if (p.transpose_a) {
    launch_kernel<Columns, Major::mn, Major::mn, T, false>(stream, arguments, plan,
                                                           multiprocessors);
  } else if (p.transpose_b) {
    launch_kernel<Columns, Major::k, Major::k, T, false>(stream, arguments, plan, multiprocessors);
  } else {
    launch_kernel<Columns, Major::k, Major::mn, T, false>(stream, arguments, plan, multiprocessors);
  }
}

}  // namespace
}  // namespace wgmma_matmul

bool matmul_wgmma(Stream stream, const MatmulProblem& p) {
  using namespace wgmma_matmul;
  if (compute_capability(stream) != 90) return false;
  if (p.transpose_a && p.transpose_b) return false;  // no product of a transformer
  if (p.m < 64 || p.n < 64 || p.k < 64) return false;
  if (p.output_bf16 && p.accumulate) return false;
  const int d_width = static_cast<int>(128 / (p.output_bf16 ? 2 : 4));
  const TensorMapConfig a = operand(p.a, p.lda, p.m, p.k, !p.transpose_a);
  const TensorMapConfig b = operand(p.b, p.ldb, p.n, p.k, p.transpose_b);
  const bool finish = p.finish.kind != MatmulFinish::Kind::none;
  const bool by_threads = finish && p.output_bf16;  // epilogues write D themselves
  const TensorMapConfig d{.base = p.d,
                          .dtype = p.output_bf16 ? DType::bf16 : DType::f32,
                          .size = {p.n, p.parts == 1 ? p.m : p.parts * rows_of_part(p)},
                          .stride = {p.ldd},
                          .box = {d_width, 16}};
  if (!tensor_map_possible(a) || !tensor_map_possible(b)) return false;
  if (!by_threads && !tensor_map_possible(d)) return false;
  const Arguments arguments{make_tensor_map(a), make_tensor_map(b),
                            make_tensor_map(by_threads ? a : d), p};
  const int available = multiprocessors(stream);
  const Plan plan = choose_plan(p, available);
  if (finish) return launch_finish(stream, arguments, plan, available);
  if (plan.columns == 256) {
    if (p.output_bf16) {
      launch_transposes<256, BFloat16>(stream, arguments, plan, available);
    } else {
      launch_transposes<256, float>(stream, arguments, plan, available);
    }
  } else if (p.output_bf16) {
    launch_transposes<128, BFloat16>(stream, arguments, plan, available);
  } else {
    launch_transposes<128, float>(stream, arguments, plan, available);
  }
  return true;
}

}  // namespace engine::kernels::ENGINE_GPU
