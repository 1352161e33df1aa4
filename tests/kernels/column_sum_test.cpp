#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(ColumnSumTest);

TEST_P(ColumnSumTest, SumsRows) {
  Random random(7);
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t rows : {0, 1, 3, 65, 257}) {
      for (int64_t columns : {0, 1, 17, 63, 65, 300}) {
        for (bool accumulate : {false, true}) {
          for (int64_t extra : {0, 3}) {
            const int64_t ld = columns + extra;
            const Values x = random.normal(rows * ld, dtype);
            const Values before = random.normal(columns, DType::f32);
            DeviceArray device_x(stream(), dtype, x);
            DeviceArray out(stream(), DType::f32, before);
            ops().column_sum(stream(), {.x = device_x.data(),
                                        .out = out.as<float>(),
                                        .rows = rows,
                                        .columns = columns,
                                        .ld = extra ? ld : 0,
                                        .accumulate = accumulate,
                                        .dtype = dtype});
            Values expected = accumulate ? before : Values(before.size(), 0.0);
            std::vector<float> twin(expected.begin(), expected.end());
            for (int64_t i = 0; i < rows; ++i) {
              for (int64_t j = 0; j < columns; ++j) {
                expected[j] += x[i * ld + j];
                twin[j] += static_cast<float>(x[i * ld + j]);
              }
            }
            expect_close(out, expected, Values(twin.begin(), twin.end()), "sum");
          }
        }
      }
    }
  }
}

TEST_P(ColumnSumTest, SameBitsOnAnyThreadCount) {
  Random random(8);
  DeviceArray x(stream(), DType::f32, random.normal(500 * 700, DType::f32));
  const auto body = [&] {
    DeviceArray out(stream(), DType::f32, int64_t{700});
    ops().column_sum(
        stream(),
        {.x = x.data(), .out = out.as<float>(), .rows = 500, .columns = 700, .accumulate = false});
    return out.bytes();
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

}  // namespace
}  // namespace engine::kernels::testing
