// Choosing a device by name, on machines of every kind: what a machine has is given here.
#include "engine/core/device.h"

#include <gtest/gtest.h>

#include "engine/core/device_name.h"
#include "engine/core/error.h"
#include "engine/core/tensor.h"
#include "tests/support/devices.h"

namespace engine {
namespace {

using kernels::DeviceCount;
using kernels::DeviceType;

CudaSurvey without(DeviceCount::Problem problem, const char* message) {
  return {.built = true, .count = {.count = 0, .problem = problem, .message = message}};
}

CudaSurvey machine(std::vector<kernels::DeviceInfo> devices) {
  CudaSurvey survey{.built = true, .count = {.count = static_cast<int>(devices.size())}};
  survey.devices = std::move(devices);
  return survey;
}

const CudaSurvey kNoCuda{};
const kernels::DeviceInfo kHopper{.name = "NVIDIA H200", .compute_capability = 90};
const kernels::DeviceInfo kTuring{.name = "Tesla T4", .compute_capability = 75};

void expect_error(const std::string& name, const CudaSurvey& survey, const std::string& code,
                  const std::vector<std::string>& parts) {
  try {
    choose_device(name, survey);
    FAIL() << name << " should be " << code;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(error.exit_code(), ExitCode::usage);
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " is not in:\n"
                                                                         << error.what();
    }
  }
}

TEST(DeviceName, Grammar) {
  for (const char* good : {"auto", "cpu", "cuda", "cuda:0", "cuda:17", "simt"}) {
    EXPECT_TRUE(parse_device_name(good)) << good;
  }
  EXPECT_EQ(parse_device_name("cuda:17")->index, 17);
  for (const char* bad : {"", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999",
                          "cuda1", "meta", " cpu", "simt:0"}) {
    EXPECT_FALSE(parse_device_name(bad)) << bad;
    expect_error(bad, kNoCuda, "DEV-NAME", {"auto, cpu, cuda, cuda:N or simt"});
  }
}

TEST(Device, EveryMistakeSaysWhatToDo) {
  using Problem = DeviceCount::Problem;
  expect_error("cuda", kNoCuda, "DEV-NO-CUDA", {"--preset cuda", "--device cpu"});
  expect_error("cuda", without(Problem::no_driver, "CUDA driver version is insufficient"),
               "DEV-NO-DRIVER", {"insufficient", "nvidia-smi", "--device cpu"});
  expect_error("cuda:1", without(Problem::no_device, "no CUDA-capable device"), "DEV-NO-GPU",
               {"no CUDA-capable device", "CUDA_VISIBLE_DEVICES"});
  expect_error("cuda", without(Problem::other, "system not yet initialized"), "DEV-FAILED",
               {"system not yet initialized"});
  expect_error("cuda:2", machine({kHopper, kTuring}), "DEV-INDEX",
               {"cuda:0  NVIDIA H200", "cuda:1  Tesla T4", "cuda:0 to cuda:1"});
  expect_error("cuda:1", machine({kHopper, kTuring}), "DEV-OLD", {"8.0", "Tesla T4", "7.5"});
}

TEST(Device, Choices) {
  EXPECT_EQ(choose_device("cpu", machine({kHopper})).device, DeviceType::cpu);
  EXPECT_EQ(choose_device("simt", kNoCuda).device, DeviceType::simt);
  const kernels::Stream second = choose_device("cuda:1", machine({kTuring, kHopper}));
  EXPECT_EQ(second.device, DeviceType::cuda);
  EXPECT_EQ(second.device_index, 1);
  EXPECT_EQ(name_of(second), "cuda:1");
  // auto: the first GPU that can be used, else the CPU; never an error.
  EXPECT_EQ(choose_device("auto", kNoCuda).device, DeviceType::cpu);
  EXPECT_EQ(choose_device("auto", without(DeviceCount::Problem::no_driver, "")).device,
            DeviceType::cpu);
  EXPECT_EQ(choose_device("auto", machine({kTuring})).device, DeviceType::cpu);
  EXPECT_EQ(choose_device("auto", machine({kTuring, kHopper})).device_index, 1);
  EXPECT_EQ(choose_device("auto", machine({kTuring, kHopper})).device, DeviceType::cuda);
}

TEST(Device, OnlyTheSoftwareGpuNeedsANotice) {
  EXPECT_NE(device_notice({.device = DeviceType::simt}).find("simulates"), std::string::npos);
  EXPECT_EQ(device_notice({.device = DeviceType::cpu}), "");
  EXPECT_EQ(device_notice({.device = DeviceType::cuda}), "");
  EXPECT_EQ(available_memory({.device = DeviceType::simt}) > 0, true);
}

class OnDevice : public ::testing::TestWithParam<DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Devices, OnDevice, ::testing::ValuesIn(testing::test_devices()),
                         testing::device_name);

// The caller's memory is free again as soon as upload() returns, however many uploads are under
// way: more here than staging holds at once, of all sizes, and one larger than it takes.
TEST_P(OnDevice, UploadsKeepTheirValues) {
  Runtime runtime(GetParam());
  std::vector<Tensor> tensors;
  std::vector<int32_t> values;
  int64_t total = 0;
  for (int i = 0; i < 60; ++i) {
    const int64_t count = i == 30 ? 300'000 : 1 + i * 2500;
    values.assign(static_cast<size_t>(count), i);
    values.back() = -i;
    tensors.push_back(runtime.upload_vector(values, DType::i32));
    total += count * 4;
  }
  EXPECT_GT(total, static_cast<int64_t>(Staging::kCapacity));
  for (int i = 0; i < 60; ++i) {
    const std::vector<int32_t> back = runtime.download_ints(tensors[static_cast<size_t>(i)]);
    EXPECT_EQ(back.front(), back.size() == 1 ? -i : i);
    EXPECT_EQ(back.back(), -i);
  }
}

// The tensor may be gone before its values have arrived.
TEST_P(OnDevice, DownloadsLaterAreCompleteAfterAWait) {
  Runtime runtime(GetParam());
  PinnedBuffer buffer(runtime.stream());
  buffer.reserve(3 * 1000 * sizeof(float));
  for (int part = 0; part < 3; ++part) {
    const std::vector<float> values(1000, static_cast<float>(part));
    Tensor tensor = runtime.upload_vector(values, DType::f32);
    runtime.download_later(tensor, buffer.as<float>() + 1000 * part);
    tensor = Tensor();
    const Tensor next = runtime.upload_vector(std::vector<float>(1000, -1.0f), DType::f32);
  }
  runtime.synchronize();
  for (int i = 0; i < 3000; ++i) ASSERT_EQ(buffer.as<float>()[i], static_cast<float>(i / 1000));
}

}  // namespace
}  // namespace engine
