#include "engine/core/tensor.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace engine {
namespace {

TEST(Shape, CountsAndPrints) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.count(), 24);
  EXPECT_EQ(shape[0], 2);
  EXPECT_EQ(shape[-1], 4);
  EXPECT_EQ(shape.str(), "[2,3,4]");
  EXPECT_EQ(shape.vector(), (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(shape, Shape(std::vector<int64_t>{2, 3, 4}));
  EXPECT_FALSE(shape == (Shape{2, 3}));
  EXPECT_FALSE(shape == (Shape{2, 3, 5}));
  EXPECT_EQ(Shape().count(), 1);
  EXPECT_EQ((Shape{3, 0}).count(), 0);
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), std::logic_error);
}

TEST(Tensor, ViewsShareTheirMemory) {
  Runtime runtime(kernels::DeviceType::cpu);
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  Tensor tensor = runtime.transient({3, 4}, DType::f32);
  runtime.upload(tensor, values.data());
  EXPECT_EQ(tensor.rows(), 3);
  EXPECT_EQ(tensor.columns(), 4);
  EXPECT_EQ(tensor.bytes(), 48u);
  EXPECT_EQ(runtime.download(tensor), values);

  const Tensor flat = tensor.reshaped({12});
  EXPECT_EQ(flat.data(), tensor.data());
  EXPECT_THROW(tensor.reshaped({11}), std::logic_error);
  const Tensor middle = tensor.slice(5, {2, 3});
  EXPECT_EQ(runtime.download(middle), (std::vector<float>{5, 6, 7, 8, 9, 10}));
  EXPECT_THROW(tensor.slice(7, {2, 3}), std::logic_error);
  EXPECT_THROW(tensor.slice(-1, {1}), std::logic_error);
  middle.as<float>()[0] = 50;
  EXPECT_EQ(runtime.download(flat)[5], 50);
}

TEST(Tensor, MemoryLivesAsLongAsItsLastHandle) {
  Runtime runtime(kernels::DeviceType::cpu);
  runtime.memory().reserve_arena(1024);
  const auto in_use = [&] {
    runtime.memory().reset_peak();
    return runtime.memory().arena_peak();
  };
  Tensor view;
  EXPECT_FALSE(view);
  {
    const Tensor tensor = runtime.transient({100}, DType::f32);
    EXPECT_TRUE(tensor.unique());
    view = tensor.slice(10, {5});
    EXPECT_FALSE(tensor.unique());
  }
  EXPECT_TRUE(view.unique());
  EXPECT_EQ(in_use(), 448u);  // 400 bytes in units of 64
  view = Tensor();
  EXPECT_EQ(in_use(), 0u);
}

TEST(Tensor, BFloat16ComesBackAsFloat) {
  Runtime runtime(kernels::DeviceType::cpu);
  const Tensor tensor = runtime.transient({3}, DType::bf16);
  const kernels::BFloat16 values[] = {kernels::BFloat16(1.0f), kernels::BFloat16(-0.5f),
                                      kernels::BFloat16(3.0f)};
  runtime.upload(tensor, values);
  EXPECT_EQ(runtime.download(tensor), (std::vector<float>{1.0f, -0.5f, 3.0f}));
}

TEST(Tensor, TheMetaDeviceHasShapesWithoutMemory) {
  Runtime runtime(kernels::DeviceType::meta);
  const Tensor large = runtime.transient({int64_t{1} << 20, 1 << 15}, DType::f32);
  EXPECT_EQ(large.bytes(), size_t{1} << 37);
  EXPECT_GE(runtime.memory().arena_peak(), size_t{1} << 37);
  const Tensor small = runtime.transient({2, 2}, DType::f32);
  EXPECT_EQ(runtime.download(small), std::vector<float>(4, 0.0f));
  EXPECT_TRUE(runtime.is_meta());
}

}  // namespace
}  // namespace engine
