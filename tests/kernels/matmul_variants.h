// The kernels that a matrix product may take on each device, for suites that run on all of them:
//
//   ENGINE_MATMUL_TEST_SUITE(MatmulTest);
//   TEST_P(MatmulTest, ...)
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/matmul_kernels.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {

// Every suite runs on each device: on the CPU with each instruction set that this processor has, on
// the software GPU with the kernels for Hopper and with those for all others.
struct Variant {
  DeviceType device;
  cpu::InstructionSet set = cpu::InstructionSet::portable;
  int capability = 0;  // compute capability that the software GPU claims
};

class MatmulVariantTest : public ::testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    if (GetParam().device == DeviceType::cpu) cpu::limit_instruction_set(GetParam().set);
    if (simulated()) simt::set_claimed_capability(GetParam().capability);
  }
  void TearDown() override {
    cpu::limit_instruction_set(cpu::InstructionSet::amx_bf16);
    simt::set_claimed_capability(90);
  }
  Stream stream() const { return {.device = GetParam().device}; }
  const Operations& ops() const { return operations(GetParam().device); }
  bool simulated() const { return GetParam().device == DeviceType::simt; }
};

inline std::vector<Variant> variants() {
  std::vector<Variant> variants;
  for (DeviceType device : test_devices()) {
    if (device == DeviceType::cpu) {
      for (int set = 0; set <= static_cast<int>(cpu::instruction_set()); ++set) {
        variants.push_back({.device = device, .set = static_cast<cpu::InstructionSet>(set)});
      }
    } else if (device == DeviceType::simt) {
      for (int capability : {80, 90}) {
        variants.push_back({.device = device, .capability = capability});
      }
    } else {
      variants.push_back({.device = device});
    }
  }
  return variants;
}

inline std::string name_of_variant(const ::testing::TestParamInfo<Variant>& info) {
  constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx_bf16"};
  if (info.param.device == DeviceType::simt) {
    return "simt" + (info.param.capability == 90 ? "" : std::to_string(info.param.capability));
  }
  if (info.param.device != DeviceType::cpu) return name_of(info.param.device);
  return kNames[static_cast<int>(info.param.set)];
}

#define ENGINE_MATMUL_TEST_SUITE(Suite)                                                 \
  class Suite : public ::engine::kernels::testing::MatmulVariantTest {};                \
  INSTANTIATE_TEST_SUITE_P(Devices, Suite,                                              \
                           ::testing::ValuesIn(::engine::kernels::testing::variants()), \
                           ::engine::kernels::testing::name_of_variant)

}  // namespace engine::kernels::testing
