// cuDNN recognises the graphs of attention and makes kernels for them: asked with the description
// of a device instead of one. It needs libcuda.so.1 for that, of which the stub of the CUDA toolkit
// will do.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/api/device.h"
#include "kernels/cuda/rivals/cudnn_attention_graph.h"

namespace engine::kernels::cuda::cudnn {
namespace {

constexpr const char* kH200 = R"({
  "deviceName": "NVIDIA H200", "cudaDeviceId": 0, "deviceVer": 900, "driverVer": 13000,
  "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
  "regsPerBlock": 65536, "multiProcessorCount": 132, "warpSize": 32,
  "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
  "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32,
  "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
  "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000,
  "l2CacheSize": 62914560, "totalGlobalMem": 150754820096})";

AttentionProblem problem(int64_t num_kv_heads, int64_t head_dim) {
  const int64_t stride = (16 + 2 * num_kv_heads) * head_dim;  // one buffer of queries, keys, values
  return {.batch = 4,
          .num_heads = 16,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim,
          .max_seqlen_q = 1024,
          .max_seqlen_k = 1024,
          .q_stride = stride,
          .k_stride = stride,
          .v_stride = stride,
          .d_q_stride = stride,
          .d_k_stride = stride,
          .d_v_stride = stride,
          .scale = 0.1f};
}

// What cuDNN has against a graph; nothing if it only lacks the driver of a GPU to compile it with.
template <typename Make>
std::string objection(const Make& make) {
  try {
    make();
  } catch (const GpuError& error) {
    const std::string words = error.what();
    return words.find("cuLibraryLoadData") != std::string::npos ? "" : words;
  }
  return "";
}

class CudnnGraphTest : public ::testing::Test {
  void SetUp() override {
    void* const driver = dlopen("libcuda.so.1", RTLD_LAZY);
    if (!driver) GTEST_SKIP() << "needs libcuda.so.1, or the toolkit's stub of it";
    dlclose(driver);
  }
};

TEST_F(CudnnGraphTest, HasKernelsForEveryMask) {
  struct Mask {
    bool causal;
    int64_t window;
  };
  const Target target{.device_json = kH200};
  for (const bool even : {true, false}) {
    for (const auto& [causal, window] : {Mask{false, 0}, Mask{true, 0}, Mask{true, 256}}) {
      for (const auto& [num_kv_heads, head_dim] : {std::pair<int64_t, int64_t>{16, 64}, {4, 128}}) {
        AttentionProblem p = problem(num_kv_heads, head_dim);
        p.even = even;
        p.causal = causal;
        p.window = window;
        SCOPED_TRACE(testing::Message() << "even " << even << " causal " << causal << " window "
                                        << window << " kv heads " << num_kv_heads);
        EXPECT_EQ(objection([&] { forward_plan(p, target); }), "");
        EXPECT_EQ(objection([&] { backward_plan(p, target); }), "");
      }
    }
  }
}

TEST_F(CudnnGraphTest, RefusesWhatItCannotDo) {
  const Target target{.device_json = kH200};
  EXPECT_NE(objection([&] { forward_plan(problem(16, 4), target); }), "");  // rows of 8 bytes
  EXPECT_NE(objection([&] { backward_plan(problem(16, 320), target); }), "");
  const Target nothing{.device_json = "{}"};
  EXPECT_NE(objection([&] { forward_plan(problem(16, 64), nothing); }), "");
}

}  // namespace
}  // namespace engine::kernels::cuda::cudnn
