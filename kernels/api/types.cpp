#include "kernels/api/types.h"

namespace engine::kernels {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "fp32";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
  }
  return "?";
}

const char* name_of(DeviceType device) {
  switch (device) {
    case DeviceType::cpu:
      return "cpu";
    case DeviceType::cuda:
      return "cuda";
    case DeviceType::simt:
      return "simt";
    case DeviceType::meta:
      return "meta";
  }
  return "?";
}

}  // namespace engine::kernels
