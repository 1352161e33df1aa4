// What make_tensor_map() refuses. What TMA does is in tests/kernels/hardware.
#include "kernels/cuda/device/tma.h"

#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

TEST(TensorMap, SaysWhatTmaCannotDo) {
  OnDevice<float> x(1024);
  const TensorMapConfig good{
      .base = x.data(), .dtype = DType::f32, .size = {32, 32}, .stride = {32}, .box = {32, 8}};
  EXPECT_TRUE(tensor_map_possible(good));
  EXPECT_NO_THROW(make_tensor_map(good));
  for (const auto& spoil : std::vector<std::function<void(TensorMapConfig&)>>{
           [&](TensorMapConfig& c) { c.base = x.data() + 1; },
           [](TensorMapConfig& c) { c.stride[0] = 33; }, [](TensorMapConfig& c) { c.size[1] = 0; },
           [](TensorMapConfig& c) { c.stride[0] = 0; }}) {
    TensorMapConfig bad = good;
    spoil(bad);
    EXPECT_FALSE(tensor_map_possible(bad));
    EXPECT_THROW(make_tensor_map(bad), std::logic_error);
  }
  TensorMapConfig wide = good;
  wide.box[1] = 257;
  EXPECT_THROW(make_tensor_map(wide), std::logic_error);
  wide.box[1] = 8;
  wide.box[0] = 16;  // swizzled boxes are 128 bytes wide
  EXPECT_THROW(make_tensor_map(wide), std::logic_error);
}

}  // namespace
}  // namespace engine::kernels::simt::testing
