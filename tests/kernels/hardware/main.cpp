// Compares the software GPU's assumptions with a device, one line each:
//
//   hardware_test [--device simt|cuda|all] [--gtest_filter=...]
//
// all (the default): on the software GPU under every schedule, and on a GPU where this build and
// this machine have one. Exit status 1 if an assumption does not hold.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/api/device.h"
#include "kernels/api/operations.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels {

#if ENGINE_HAS_CUDA
// assumption.h of the other compiler.
namespace cuda::hardware {
using kernels::hardware::Assumption;
std::span<const Assumption> warp_assumptions();
std::span<const Assumption> math_assumptions();
std::span<const Assumption> matrix_assumptions();
std::span<const Assumption> cp_async_assumptions();
#if ENGINE_HAS_HOPPER
std::span<const Assumption> stmatrix_assumptions();
std::span<const Assumption> mbarrier_assumptions();
std::span<const Assumption> cluster_assumptions();
std::span<const Assumption> tma_assumptions();
std::span<const Assumption> wgmma_assumptions();
#endif
}  // namespace cuda::hardware
#endif

namespace hardware {
namespace {

std::vector<Assumption> joined(std::initializer_list<std::span<const Assumption>> lists) {
  std::vector<Assumption> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

std::vector<Assumption> assumptions_of(DeviceType device) {
#if ENGINE_HAS_CUDA
  if (device == DeviceType::cuda) {
    using namespace cuda::hardware;
    return joined({
      warp_assumptions(), math_assumptions(), matrix_assumptions(), cp_async_assumptions(),
#if ENGINE_HAS_HOPPER
          stmatrix_assumptions(), mbarrier_assumptions(), cluster_assumptions(), tma_assumptions(),
          wgmma_assumptions()
#endif
    });
  }
#endif
  using namespace simt::hardware;
  return joined({warp_assumptions(), math_assumptions(), matrix_assumptions(),
                 cp_async_assumptions(), stmatrix_assumptions(), mbarrier_assumptions(),
                 cluster_assumptions(), tma_assumptions(), wgmma_assumptions()});
}

class AssumptionTest : public ::testing::Test {
 public:
  AssumptionTest(DeviceType device, const Assumption& assumption)
      : device_(device), assumption_(assumption) {}

  void TestBody() override {
    if (device_ == DeviceType::simt) {
      const simt::Schedule before = simt::current_schedule();
      for (const char* const schedule : {"eager", "lazy", "random:1", "random:2", "random:3"}) {
        simt::set_schedule(simt::parse_schedule(schedule));
        check(std::string(", schedule ") + schedule);
      }
      simt::set_schedule(before);
      return;
    }
    const Operations& ops = operations(device_);
    const int capability = ops.device_info(Stream{.device = device_}).compute_capability;
    if (capability < assumption_.capability) {
      GTEST_SKIP() << "needs compute capability " << assumption_.capability << ", this GPU has "
                   << capability;
    }
    check("");
  }

 private:
  void check(const std::string& where) {
    Report report;
    try {
      assumption_.check(report);
    } catch (const std::exception& error) {
      FAIL() << error.what() << where;
    }
    if (!report.differences().empty()) ADD_FAILURE() << report.differences() << where;
  }

  DeviceType device_;
  Assumption assumption_;
};

// One line per assumption.
class Lines : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.passed()) return;
    std::string text = result.message();
    const std::string title = "Failed\n";  // of gtest
    if (text.starts_with(title)) text.erase(0, title.size());
    found_ += "\n        " + text;
  }
  void OnTestEnd(const ::testing::TestInfo& test) override {
    const char* const state = test.result()->Skipped()  ? "skipped"
                              : test.result()->Passed() ? "ok"
                                                        : "DIFFERS";
    std::printf("%-8s%-5s %-20s %s%s\n", state, test.test_suite_name(), test.name(),
                test.value_param(), found_.c_str());
    std::fflush(stdout);
    found_.clear();
  }
  void OnTestProgramEnd(const ::testing::UnitTest& all) override {
    std::printf("%d as assumed, %d different, %d skipped\n", all.successful_test_count(),
                all.failed_test_count(), all.skipped_test_count());
  }

  std::string found_;
};

int usage() {
  std::fprintf(stderr, "hardware_test [--device simt|cuda|all] [--gtest_filter=...]\n");
  return 2;
}

int run(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::string device = "all";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--device" && i + 1 < argc) {
      device = argv[++i];
    } else if (argument.starts_with("--device=")) {
      device = argument.substr(std::strlen("--device="));
    } else {
      return usage();
    }
  }
  if (device != "simt" && device != "cuda" && device != "all") return usage();
  std::vector<DeviceType> devices;
  if (device != "cuda") devices.push_back(DeviceType::simt);
  if (device != "simt") {
    const bool built = has_device(DeviceType::cuda);
    if (built && operations(DeviceType::cuda).count_devices().count > 0) {
      devices.push_back(DeviceType::cuda);
    } else if (device == "cuda") {
      std::fprintf(stderr, "hardware_test: %s\n",
                   built ? "this machine has no GPU" : "this build has no CUDA");
      return 2;
    }
  }
  for (const DeviceType type : devices) {
    for (const Assumption& assumption : assumptions_of(type)) {
      ::testing::RegisterTest(
          name_of(type), assumption.name, nullptr, assumption.what, __FILE__, __LINE__,
          [type, assumption]() -> AssumptionTest* { return new AssumptionTest(type, assumption); });
    }
  }
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new Lines);
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace hardware
}  // namespace engine::kernels

int main(int argc, char** argv) {
  return engine::kernels::hardware::run(argc, argv);
}
