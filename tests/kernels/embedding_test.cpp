#include <cmath>

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(EmbeddingTest);

constexpr int64_t kShapes[][2] = {{0, 8}, {1, 1}, {3, 3}, {17, 63}, {65, 65}, {9, 20}, {40, 1000}};
constexpr int64_t kRows = 23, kPositions = 70;

struct Inputs {
  int64_t tokens, hidden;
  Values ids, positions, table, position_table;
};
Inputs inputs(Random& random, int64_t tokens, int64_t hidden, DType dtype) {
  return {tokens,
          hidden,
          random.integers(tokens, 0, kRows - 1),
          random.integers(tokens, 0, kPositions - 1),
          random.normal(kRows * hidden, dtype),
          random.normal(kPositions * hidden, dtype)};
}

// scale·table rounded to the output, then the sum rounded to the output.
Values embed(const Inputs& in, float scale, bool with_positions, Rounding round) {
  Values out;
  for (int64_t t = 0; t < in.tokens; ++t) {
    for (int64_t i = 0; i < in.hidden; ++i) {
      double v = scale * in.table[static_cast<int64_t>(in.ids[t]) * in.hidden + i];
      if (with_positions) {
        v = round(v) + in.position_table[static_cast<int64_t>(in.positions[t]) * in.hidden + i];
      }
      out.push_back(round(v));
    }
  }
  return out;
}

TEST_P(EmbeddingTest, ForwardLooksUpScalesAndAddsPositions) {
  Random random(1);
  for (DType table_type : {DType::f32, DType::bf16}) {
    for (DType output_type : {DType::f32, DType::bf16}) {
      for (const auto& [tokens, hidden] : kShapes) {
        const Inputs in = inputs(random, tokens, hidden, table_type);
        DeviceArray ids(stream(), DType::i32, in.ids);
        DeviceArray positions(stream(), DType::i32, in.positions);
        DeviceArray table(stream(), table_type, in.table);
        DeviceArray position_table(stream(), table_type, in.position_table);
        for (float scale : {1.0f, 11.3125f}) {
          for (bool with_positions : {false, true}) {
            DeviceArray out(stream(), output_type, tokens * hidden);
            ops().embedding_forward(
                stream(), {.tokens = tokens,
                           .hidden = hidden,
                           .ids = ids.as<int32_t>(),
                           .table = table.data(),
                           .scale = scale,
                           .positions = with_positions ? positions.as<int32_t>() : nullptr,
                           .position_table = with_positions ? position_table.data() : nullptr,
                           .out = out.data(),
                           .table_dtype = table_type,
                           .output_dtype = output_type});
            const Values twin = embed(in, scale, with_positions, rounding_to(output_type));
            expect_close(out, embed(in, scale, with_positions, no_rounding()), twin, "out");
            // one exact operation, one rounding: no freedom
            if (!with_positions || scale == 1.0f) expect_equal(out.values(), twin, "out");
          }
        }
      }
    }
  }
}

struct Gradients {
  Values table, positions;
};
Gradients gradients(const Inputs& in, const Values& d_out, double scale, int64_t padding_id,
                    const Values& start_table, const Values& start_positions) {
  Gradients g{start_table, start_positions};
  for (int64_t t = 0; t < in.tokens; ++t) {
    for (int64_t i = 0; i < in.hidden; ++i) {
      const double d = d_out[t * in.hidden + i];
      const auto id = static_cast<int64_t>(in.ids[t]);
      if (id != padding_id) g.table[id * in.hidden + i] += scale * d;
      g.positions[static_cast<int64_t>(in.positions[t]) * in.hidden + i] += d;
    }
  }
  return g;
}

TEST_P(EmbeddingTest, BackwardSumsExactlyOnIntegers) {
  Random random(2);
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [tokens, hidden] : kShapes) {
      const Inputs in = inputs(random, tokens, hidden, dtype);
      const Values d_out_values = random.integers(tokens * hidden, -8, 8);
      const Values start_table = random.integers(kRows * hidden, -8, 8);
      const Values start_positions = random.integers(kPositions * hidden, -8, 8);
      DeviceArray ids(stream(), DType::i32, in.ids);
      DeviceArray positions(stream(), DType::i32, in.positions);
      DeviceArray d_out(stream(), dtype, d_out_values);
      DeviceArray workspace(stream(), DType::u8,
                            static_cast<int64_t>(ops().embedding_backward_workspace(
                                tokens, hidden, kRows, kPositions)));
      for (int64_t padding_id : {int64_t{-1}, tokens > 0 ? int64_t(in.ids[0]) : int64_t{0}}) {
        DeviceArray d_table(stream(), DType::f32, start_table);
        DeviceArray d_positions(stream(), DType::f32, start_positions);
        ops().embedding_backward(stream(), {.tokens = tokens,
                                            .hidden = hidden,
                                            .rows = kRows,
                                            .position_rows = kPositions,
                                            .ids = ids.as<int32_t>(),
                                            .positions = positions.as<int32_t>(),
                                            .d_out = d_out.data(),
                                            .d_table = d_table.as<float>(),
                                            .d_position_table = d_positions.as<float>(),
                                            .scale = 0.5f,
                                            .padding_id = padding_id,
                                            .workspace = workspace.data(),
                                            .output_dtype = dtype});
        const Gradients expected =
            gradients(in, d_out_values, 0.5, padding_id, start_table, start_positions);
        expect_equal(d_table.values(), expected.table, "d_table");
        expect_equal(d_positions.values(), expected.positions, "d_position_table");
      }
    }
  }
}

// Rows of whole fours that are no whole eights, in arrays that begin on a boundary of 16 bytes or
// one element behind it.
TEST_P(EmbeddingTest, BackwardOfAnyAlignment) {
  Random random(8);
  constexpr int64_t kTokens = 70;
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t hidden : {12, 260}) {
      const Inputs in = inputs(random, kTokens, hidden, dtype);
      const Values d_out_values = random.integers(kTokens * hidden, -8, 8);
      const Values start = random.integers(kRows * hidden, -8, 8);
      const Values expected =
          gradients(in, d_out_values, 0.5, -1, start, Values(kPositions * hidden)).table;
      DeviceArray ids(stream(), DType::i32, in.ids);
      DeviceArray workspace(
          stream(), DType::u8,
          static_cast<int64_t>(ops().embedding_backward_workspace(kTokens, hidden, kRows, 0)));
      for (const bool shift_d_out : {false, true}) {
        for (const bool shift_table : {false, true}) {
          Values padded_d_out = d_out_values, padded_table = start, padded_expected = expected;
          if (shift_d_out) padded_d_out.insert(padded_d_out.begin(), 3.0);
          if (shift_table) {
            padded_table.insert(padded_table.begin(), 3.0);
            padded_expected.insert(padded_expected.begin(), 3.0);
          }
          DeviceArray d_out(stream(), dtype, padded_d_out);
          DeviceArray d_table(stream(), DType::f32, padded_table);
          ops().embedding_backward(
              stream(), {.tokens = kTokens,
                         .hidden = hidden,
                         .rows = kRows,
                         .ids = ids.as<int32_t>(),
                         .d_out = d_out.as<std::byte>() + (shift_d_out ? size_of(dtype) : 0),
                         .d_table = d_table.as<float>() + shift_table,
                         .scale = 0.5f,
                         .workspace = workspace.data(),
                         .output_dtype = dtype});
          expect_equal(d_table.values(), padded_expected, "d_table");
        }
      }
    }
  }
}

TEST_P(EmbeddingTest, BackwardOfOneHotTokenAndFrozenTables) {
  // every token names the same row: the worst case for sums and for races
  Random random(3);
  constexpr int64_t kTokens = 1000, kHidden = 200;
  const Values d_out_values = random.normal(kTokens * kHidden, DType::bf16);
  DeviceArray ids(stream(), DType::i32, Values(kTokens, 5.0));
  DeviceArray d_out(stream(), DType::bf16, d_out_values);
  DeviceArray workspace(
      stream(), DType::u8,
      static_cast<int64_t>(ops().embedding_backward_workspace(kTokens, kHidden, kRows, 0)));
  DeviceArray d_table(stream(), DType::f32, Values(kRows * kHidden));
  ops().embedding_backward(stream(), {.tokens = kTokens,
                                      .hidden = kHidden,
                                      .rows = kRows,
                                      .ids = ids.as<int32_t>(),
                                      .d_out = d_out.data(),
                                      .d_table = d_table.as<float>(),
                                      .workspace = workspace.data(),
                                      .output_dtype = DType::bf16});
  Values exact(kRows * kHidden), twin(kRows * kHidden);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t i = 0; i < kHidden; ++i) {
      exact[5 * kHidden + i] += d_out_values[t * kHidden + i];
      twin[5 * kHidden + i] =
          rounded(DType::f32, twin[5 * kHidden + i] + d_out_values[t * kHidden + i]);
    }
  }
  expect_close(d_table, exact, twin, "d_table");
}

// Many rows and tokens, few of the rows frequent: ids that differ in every digit of a radix sort,
// and runs over many of its pieces.
TEST_P(EmbeddingTest, BackwardOfALargeVocabulary) {
  Random random(6);
  struct Case {
    int64_t tokens, rows, hidden;
  };
  // one tile of the sort and four of them, the last one nearly empty
  for (const auto& [tokens, rows, hidden] :
       {Case{2048, 600, 264}, {3001, 300007, 3}, {6145, 5000, 8}}) {
    Values ids;
    for (int64_t t = 0; t < tokens; ++t) {
      ids.push_back(std::floor(std::pow(random.uniform(), 12) * static_cast<double>(rows)));
    }
    const Values d_out_values = random.integers(tokens * hidden, -8, 8);
    DeviceArray device_ids(stream(), DType::i32, ids);
    DeviceArray d_out(stream(), DType::bf16, d_out_values);
    DeviceArray d_table(stream(), DType::f32, Values(rows * hidden));
    DeviceArray workspace(
        stream(), DType::u8,
        static_cast<int64_t>(ops().embedding_backward_workspace(tokens, hidden, rows, 0)));
    ops().embedding_backward(stream(), {.tokens = tokens,
                                        .hidden = hidden,
                                        .rows = rows,
                                        .ids = device_ids.as<int32_t>(),
                                        .d_out = d_out.data(),
                                        .d_table = d_table.as<float>(),
                                        .workspace = workspace.data(),
                                        .output_dtype = DType::bf16});
    Values expected(rows * hidden);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < hidden; ++i) {
        expected[static_cast<int64_t>(ids[t]) * hidden + i] += d_out_values[t * hidden + i];
      }
    }
    expect_equal(d_table.values(), expected, "d_table");
  }
}

TEST_P(EmbeddingTest, GatherAndScatterRows) {
  Random random(4);
  for (DType dtype : {DType::f32, DType::bf16, DType::i32}) {
    for (int64_t width : {1, 3, 64, 65}) {
      const Values rows_values = {7, 0, 22, 3, 9, 15};  // distinct
      const int64_t count = static_cast<int64_t>(rows_values.size());
      const Values x_values = random.integers(kRows * width, -100, 100);
      DeviceArray rows(stream(), DType::i32, rows_values), x(stream(), dtype, x_values);
      DeviceArray gathered(stream(), dtype, count * width);
      ops().gather_rows(stream(), {.count = count,
                                   .width = width,
                                   .rows = rows.as<int32_t>(),
                                   .x = x.data(),
                                   .out = gathered.data(),
                                   .dtype = dtype});
      Values expected;
      for (double row : rows_values) {
        const auto from = x_values.begin() + static_cast<int64_t>(row) * width;
        expected.insert(expected.end(), from, from + width);
      }
      expect_equal(gathered.values(), expected, "gathered");

      Values target = random.integers(kRows * width, -100, 100);
      DeviceArray out(stream(), dtype, target);
      ops().scatter_rows(stream(), {.count = count,
                                    .width = width,
                                    .rows = rows.as<int32_t>(),
                                    .x = gathered.data(),
                                    .out = out.data(),
                                    .dtype = dtype});
      for (int64_t i = 0; i < count; ++i) {
        std::copy_n(expected.begin() + i * width, width,
                    target.begin() + static_cast<int64_t>(rows_values[i]) * width);
      }
      expect_equal(out.values(), target, "scattered");
    }
  }
}

TEST_P(EmbeddingTest, SameBitsOnAnyThreadCount) {
  Random random(5);
  const Inputs in = inputs(random, on_gpu() ? 8000 : 300, 640, DType::bf16);
  const Values d_out_values = random.normal(in.tokens * in.hidden, DType::f32);
  const auto body = [&] {
    DeviceArray ids(stream(), DType::i32, in.ids);
    DeviceArray positions(stream(), DType::i32, in.positions);
    DeviceArray d_out(stream(), DType::f32, d_out_values);
    DeviceArray d_table(stream(), DType::f32, Values(kRows * in.hidden));
    DeviceArray d_positions(stream(), DType::f32, Values(kPositions * in.hidden));
    DeviceArray workspace(stream(), DType::u8,
                          static_cast<int64_t>(ops().embedding_backward_workspace(
                              in.tokens, in.hidden, kRows, kPositions)));
    ops().embedding_backward(stream(), {.tokens = in.tokens,
                                        .hidden = in.hidden,
                                        .rows = kRows,
                                        .position_rows = kPositions,
                                        .ids = ids.as<int32_t>(),
                                        .positions = positions.as<int32_t>(),
                                        .d_out = d_out.data(),
                                        .d_table = d_table.as<float>(),
                                        .d_position_table = d_positions.as<float>(),
                                        .scale = 1.7f,
                                        .workspace = workspace.data(),
                                        .output_dtype = DType::f32});
    return bytes_of({&d_table, &d_positions});
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

// A column slice of a fused buffer goes to its rows, and back: strides wider than the rows.
TEST_P(EmbeddingTest, GatherAndScatterWithStrides) {
  constexpr int64_t kCount = 3, kWidth = 5, kXStride = 11, kOutStride = 7;
  constexpr int64_t kTargetRows = 4;
  Values x(kCount * kXStride), target(kTargetRows * kOutStride, -1.0);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
  const Values rows = {2, 0, 3};
  DeviceArray from(stream(), DType::f32, x), to(stream(), DType::f32, target);
  DeviceArray ids(stream(), DType::i32, rows);
  ops().scatter_rows(stream(), {.count = kCount,
                                .width = kWidth,
                                .rows = ids.as<int32_t>(),
                                .x = from.as<float>() + 2,
                                .out = to.data(),
                                .x_stride = kXStride,
                                .out_stride = kOutStride,
                                .dtype = DType::f32});
  for (int64_t i = 0; i < kCount; ++i) {
    for (int64_t c = 0; c < kWidth; ++c)
      target[static_cast<int64_t>(rows[i]) * kOutStride + c] = x[i * kXStride + 2 + c];
  }
  expect_equal(to.values(), target, "scattered");
  // without rows: a copy between strides
  for (auto* copy : {ops().gather_rows, ops().scatter_rows}) {
    DeviceArray dense(stream(), DType::f32, kCount * kWidth);
    copy(stream(), {.count = kCount,
                    .width = kWidth,
                    .x = from.as<float>() + 2,
                    .out = dense.data(),
                    .x_stride = kXStride,
                    .dtype = DType::f32});
    Values columns;
    for (int64_t i = 0; i < kCount; ++i) {
      for (int64_t c = 0; c < kWidth; ++c) columns.push_back(x[i * kXStride + 2 + c]);
    }
    expect_equal(dense.values(), columns, "copied");
  }
  DeviceArray back(stream(), DType::f32, kCount * kWidth);
  ops().gather_rows(stream(), {.count = kCount,
                               .width = kWidth,
                               .rows = ids.as<int32_t>(),
                               .x = to.data(),
                               .out = back.data(),
                               .x_stride = kOutStride,
                               .dtype = DType::f32});
  Values expected;
  for (int64_t i = 0; i < kCount; ++i) {
    for (int64_t c = 0; c < kWidth; ++c) expected.push_back(x[i * kXStride + 2 + c]);
  }
  expect_equal(back.values(), expected, "gathered");
}

}  // namespace
}  // namespace engine::kernels::testing
