// A product and what it must be: run on a device, compared with the fp64 reference.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "tests/kernels/reference/matmul.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {

struct Case {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false, accumulate = false, bias = false;
  DType input = DType::f32, output = DType::f32;
  int64_t extra = 0;  // elements between rows that are not part of the matrix
  bool workspace = false;

  std::string text() const {
    return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
           (transpose_a ? " TA" : "") + (transpose_b ? " TB" : "") + (accumulate ? " +=" : "") +
           (bias ? " bias" : "") + (workspace ? " workspace" : "") + " " + name_of(input) + " -> " +
           name_of(output) + " extra " + std::to_string(extra);
  }
};

enum class Data { normal, integers };

inline Values draw(Random& random, Data data, int64_t count, DType dtype) {
  return data == Data::integers ? random.integers(count, -4, 4) : random.normal(count, dtype);
}

// Elements between rows are NaN in the inputs; in D they must survive.
inline Values with_gaps(const Values& dense, int64_t rows, int64_t columns, int64_t ld) {
  Values wide(static_cast<size_t>(rows * ld), NAN);
  for (int64_t i = 0; i < rows; ++i) {
    std::copy_n(dense.begin() + i * columns, columns, wide.begin() + i * ld);
  }
  return wide;
}

inline void run_case(Stream stream, const Case& c, Data data, Random& random) {
  SCOPED_TRACE(c.text());
  const int64_t a_rows = c.transpose_a ? c.k : c.m, a_columns = c.transpose_a ? c.m : c.k;
  const int64_t b_rows = c.transpose_b ? c.n : c.k, b_columns = c.transpose_b ? c.k : c.n;
  const int64_t lda = a_columns + c.extra, ldb = b_columns + c.extra, ldd = c.n + c.extra;
  const Values a = draw(random, data, a_rows * a_columns, c.input);
  const Values b = draw(random, data, b_rows * b_columns, c.input);
  const Values bias = draw(random, data, c.n, c.input);
  const Values before = draw(random, data, c.m * c.n, c.output);

  DeviceArray device_a(stream, c.input, with_gaps(a, a_rows, a_columns, lda));
  DeviceArray device_b(stream, c.input, with_gaps(b, b_rows, b_columns, ldb));
  DeviceArray device_bias(stream, c.input, bias);
  const Values nothing(static_cast<size_t>(c.m * c.n), NAN);
  DeviceArray d(stream, c.output, with_gaps(c.accumulate ? before : nothing, c.m, c.n, ldd));
  Matmul arguments{.a = device_a.data(),
                   .b = device_b.data(),
                   .bias = c.bias ? device_bias.data() : nullptr,
                   .d = d.data(),
                   .m = c.m,
                   .n = c.n,
                   .k = c.k,
                   .lda = c.extra ? lda : 0,
                   .ldb = c.extra ? ldb : 0,
                   .ldd = c.extra ? ldd : 0,
                   .transpose_a = c.transpose_a,
                   .transpose_b = c.transpose_b,
                   .accumulate = c.accumulate,
                   .input_dtype = c.input,
                   .output_dtype = c.output};
  const size_t bytes = operations(stream).matmul_workspace(arguments);
  DeviceArray workspace(stream, DType::u8, static_cast<int64_t>(c.workspace ? bytes : 0));
  if (c.workspace && bytes > 0) arguments.workspace = workspace.data();
  operations(stream).matmul(stream, arguments);

  const reference::MatmulInputs in{c.m,       c.n,           c.k,          a_columns,
                                   b_columns, c.transpose_a, c.transpose_b};
  Values expected = reference::matmul<double>(in, a, b);
  Values twin = data == Data::integers ? expected : reference::matmul<float>(in, a, b);
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    const double rest = (c.bias ? bias[i % c.n] : 0.0) + (c.accumulate ? before[i] : 0.0);
    expected[i] += rest;
    twin[i] = rounded(c.output, twin[i] + rest);
  }
  const Values all = d.values();
  Values actual(static_cast<size_t>(c.m * c.n));
  for (int64_t i = 0; i < c.m; ++i) {
    std::copy_n(all.begin() + i * ldd, c.n, actual.begin() + i * c.n);
    for (int64_t j = c.n; j < ldd; ++j) {
      ASSERT_TRUE(std::isnan(all[i * ldd + j])) << "wrote between rows, at row " << i;
    }
  }
  if (data == Data::integers) {
    expect_equal(actual, rounded(c.output, expected), "D");
  } else {
    expect_close(actual, c.output, expected, twin, "D");
  }
}

}  // namespace engine::kernels::testing
