// Decoding with a cache against the full forward; sampling rules.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/core/error.h"
#include "engine/generate/generator.h"
#include "tests/models/golden_model.h"

namespace engine {
namespace {

using testing::GoldenModel;
using testing::LoadedGolden;

std::vector<float> last_logits(LoadedGolden& m, const std::vector<int32_t>& ids) {
  Batch batch;
  GoldenModel::add_row(batch, ids, ids, -1);
  Graph graph(m.runtime, {.record = false, .training = false, .precision = m.precision});
  const Variable hidden = m.model->hidden_states(graph, upload_batch(m.runtime, *m.model, batch));
  const std::vector<float> z =
      m.runtime.download(logits(graph, hidden, m.model->head(), m.model->info().logit_scale));
  return {z.end() - m.model->info().vocab_size, z.end()};
}

// Logits of every token, [tokens, vocab]: the first `prompt` tokens at once, the others one by one
// against the keys and values of those before. Of an encoder-decoder model the tokens are the
// decoder's, and `source` the encoder's: it is encoded with the first of them.
std::vector<float> cached_logits(LoadedGolden& m, const std::vector<int32_t>& ids, size_t prompt,
                                 const std::vector<int32_t>& source) {
  Runtime& runtime = m.runtime;
  const auto upload = [&](const std::vector<int32_t>& values) {
    return runtime.upload_vector(values, DType::i32);
  };
  // Tokens [begin, end) of a sequence that has the whole cache.
  const auto positions = [&](size_t begin, size_t end) {
    std::vector<int32_t> numbers(end - begin);
    std::iota(numbers.begin(), numbers.end(), static_cast<int32_t>(begin));
    return upload(numbers);
  };
  const auto sequence = [&](size_t tokens) {
    const auto count = static_cast<int32_t>(tokens);
    return Sequences{
        .cu_seqlens = upload({0, count}), .count = 1, .max_length = count, .tokens = count};
  };
  const auto step = [&](KvCache& cache, size_t begin, size_t end) {
    return CacheStep{.cache = &cache,
                     .rows = positions(begin, end),
                     .starts = upload({0, static_cast<int32_t>(cache.capacity)}),
                     .used = upload({static_cast<int32_t>(end)}),
                     .max_used = static_cast<int>(end)};
  };
  const auto make_cache = [&](size_t capacity) {
    return make_kv_cache(runtime, m.model->info(), m.precision, 1, static_cast<int64_t>(capacity));
  };
  KvCache cache = make_cache(ids.size());
  KvCache source_cache = make_cache(std::max<size_t>(source.size(), 1));
  std::vector<float> all;
  for (size_t begin = 0, end = prompt; begin < ids.size(); begin = end++) {
    ModelBatch batch;
    batch.input_ids = upload({ids.begin() + begin, ids.begin() + end});
    batch.positions = positions(begin, end);
    batch.sequences = sequence(end - begin);
    batch.cache = step(cache, begin, end);
    if (!source.empty()) {
      batch.source_cache = step(source_cache, 0, source.size());
      if (begin == 0) {
        batch.source_ids = upload(source);
        batch.source_sequences = sequence(source.size());
      }
    }
    Graph graph(runtime, {.record = false, .training = false, .precision = m.precision});
    const Variable hidden = m.model->hidden_states(graph, batch);
    const std::vector<float> z =
        runtime.download(logits(graph, hidden, m.model->head(), m.model->info().logit_scale));
    all.insert(all.end(), z.begin(), z.end());
  }
  return all;
}

class Cached : public ::testing::TestWithParam<testing::DeviceAndModel> {
 protected:
  kernels::DeviceType device() const { return std::get<0>(GetParam()); }
  const std::string& model() const { return std::get<1>(GetParam()); }
};
const std::vector<std::string> kDecoders = testing::golden_models({testing::GoldenKind::decoder});
INSTANTIATE_TEST_SUITE_P(Models, Cached, testing::on_every_device(kDecoders),
                         testing::device_and_model);

class CachedLogits : public Cached {};
INSTANTIATE_TEST_SUITE_P(
    Models, CachedLogits,
    testing::on_every_device(testing::golden_models({testing::GoldenKind::language_model})),
    testing::device_and_model);

// 37 tokens: past the windows of 5, 7 and 13 keys, also with prompts that end at, before and behind
// the edge of a window. Of the decoders of T5 30 and 131: past the largest distance of its buckets.
TEST_P(CachedLogits, AreThoseOfTheFullForwardAtEveryToken) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  const bool simulated = device() == kernels::DeviceType::simt;
  const std::string row = simulated && golden.encoder_decoder() ? ".2" : ".3";
  std::vector<int32_t> ids = golden.ints("input_ids" + row), source;
  if (golden.encoder_decoder()) {
    source = ids;
    ids = shift_right(golden.ints("labels" + row), 0, 0);
  }
  const std::vector<float> full = golden.floats("logits" + row);
  for (const size_t prompt : simulated ? std::vector<size_t>{6}
                             : golden.encoder_decoder()
                                 ? std::vector<size_t>{1, 8}
                                 : std::vector<size_t>{1, 4, 5, 6, 7, 8, 12, 13, 14}) {
    const std::vector<float> cached = cached_logits(m, ids, prompt, source);
    ASSERT_EQ(cached.size(), full.size());
    double worst = 0;
    size_t where = 0;
    for (size_t i = 0; i < full.size(); ++i) {
      const double d = std::abs(double{cached[i]} - full[i]);
      if (d > worst) worst = d, where = i;
    }
    // As in golden_test.cpp: 80 ulp of the largest logits.
    EXPECT_LE(worst, 1e-4) << "prompt of " << prompt << ", token "
                           << where / static_cast<size_t>(m.model->info().vocab_size);
  }
}

TEST_P(Cached, GreedyEqualsTheFullForwardAtEveryToken) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  const std::vector<int32_t> prompt = golden.ints("input_ids.2");
  const auto results = generate(m.runtime, *m.model, m.precision, {{prompt, 0}},
                                {.max_new_tokens = 20, .eos_ids = {}});
  ASSERT_EQ(results[0].tokens.size(), 20u);
  EXPECT_EQ(results[0].stop, StopReason::length);
  std::vector<int32_t> ids = prompt;
  for (const int32_t token : results[0].tokens) {
    const std::vector<float> z = last_logits(m, ids);
    const float best = *std::max_element(z.begin(), z.end());
    // Equal up to the rounding of another order of sums.
    EXPECT_NEAR(z[token], best, 1e-5);
    ids.push_back(token);
  }
}

TEST_P(Cached, BatchOfPromptsGivesWhatEachGivesAlone) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  std::vector<GenerationRequest> requests;
  for (int row = 0; row < golden.rows(); ++row) {
    std::vector<int32_t> ids = golden.ints("input_ids." + std::to_string(row));
    ids.resize(std::min<size_t>(ids.size(), 12));
    requests.push_back({ids, static_cast<uint64_t>(row)});
  }
  GenerationOptions options{
      .sampling = {.do_sample = true, .temperature = 0.9f, .top_k = 20, .top_p = 0.95f},
      .seed = 7,
      .max_new_tokens = 10,
      .eos_ids = {}};
  const auto together = generate(m.runtime, *m.model, m.precision, requests, options);
  options.max_batch = 1;
  const auto alone = generate(m.runtime, *m.model, m.precision, requests, options);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].tokens, alone[i].tokens) << i;
    const auto single = generate(m.runtime, *m.model, m.precision, {requests[i]}, options);
    EXPECT_EQ(single[0].tokens, alone[i].tokens) << i;
  }
}

class CachedOnGpu : public Cached {};
INSTANTIATE_TEST_SUITE_P(Models, CachedOnGpu, testing::on_every_gpu(kDecoders),
                         testing::device_and_model);

// No two logits of these models are so near that rounding decides.
TEST_P(CachedOnGpu, GreedyTokensAreThoseOfTheCpu) {
  const GoldenModel golden(model());
  LoadedGolden here(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
  LoadedGolden there(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  std::vector<GenerationRequest> requests;
  for (int row = 1; row < golden.rows(); ++row) {
    std::vector<int32_t> ids = golden.ints("input_ids." + std::to_string(row));
    ids.resize(std::min<size_t>(ids.size(), 10));
    requests.push_back({ids, static_cast<uint64_t>(row)});
  }
  const GenerationOptions options{.max_new_tokens = 16, .eos_ids = {}};
  const auto ours = generate(here.runtime, *here.model, here.precision, requests, options);
  const auto theirs = generate(there.runtime, *there.model, there.precision, requests, options);
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(theirs[i].tokens, ours[i].tokens) << i;
  // Nothing was taken from the device between operations.
  EXPECT_EQ(there.runtime.memory().unplanned_peak(), 0u);
}

TEST(Generate, StopsAtEosAtTheContextAndWhenTold) {
  const GoldenModel golden("gpt2");
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
  const std::vector<int32_t> prompt = golden.ints("input_ids.2");
  const auto free_run = generate(m.runtime, *m.model, m.precision, {{prompt, 0}},
                                 {.max_new_tokens = 8, .eos_ids = {}});
  const int32_t third = free_run[0].tokens[2];
  const auto stopped = generate(m.runtime, *m.model, m.precision, {{prompt, 0}},
                                {.max_new_tokens = 8, .eos_ids = {third}});
  EXPECT_EQ(stopped[0].stop, StopReason::eos);
  EXPECT_EQ(stopped[0].tokens.back(), third);
  EXPECT_LE(stopped[0].tokens.size(), 3u);
  const auto full = generate(m.runtime, *m.model, m.precision, {{prompt, 0}},
                             {.max_new_tokens = 1000, .eos_ids = {}});
  EXPECT_EQ(full[0].stop, StopReason::context);
  EXPECT_EQ(prompt.size() + full[0].tokens.size(), 40u);
  const auto told =
      generate(m.runtime, *m.model, m.precision, {{prompt, 0}},
               {.max_new_tokens = 8, .eos_ids = {}}, [](size_t, int32_t) { return false; });
  EXPECT_EQ(told[0].stop, StopReason::callback);
  EXPECT_EQ(told[0].tokens.size(), 1u);
  EXPECT_THROW(generate(m.runtime, *m.model, m.precision, {{{}, 0}}, {}), Error);
  EXPECT_THROW(generate(m.runtime, *m.model, m.precision, {{{101}, 0}}, {}), Error);
}

void expect_rehearsal_holds(const std::string& model) {
  const GoldenModel golden(model);
  std::vector<GenerationRequest> requests;
  for (int row = 0; row < golden.rows(); ++row) {
    std::vector<int32_t> ids = golden.ints("input_ids." + std::to_string(row));
    ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(4 + 3 * row)));
    requests.push_back({ids, static_cast<uint64_t>(row)});
  }
  for (const int64_t max_batch : {1, 2, 16}) {
    const GenerationOptions options{.max_new_tokens = 9, .eos_ids = {}, .max_batch = max_batch};
    LoadedGolden m(golden, PrecisionPolicy::bf16(), ParameterSet::Purpose::inference);
    Runtime meta(kernels::DeviceType::meta);
    const std::unique_ptr<Model> shape = make_model(golden.config, "config.json");
    shape->parameters().allocate(meta, m.precision, ParameterSet::Purpose::inference);
    shape->prepare(meta, shape->info().max_positions);
    rehearse_generation(meta, *shape, m.precision, requests, options);
    m.runtime.memory().reset_peak();
    m.runtime.memory().reserve_arena(meta.memory().arena_peak());
    generate(m.runtime, *m.model, m.precision, requests, options);
    EXPECT_EQ(m.runtime.memory().unplanned_peak(), 0u) << max_batch;
    EXPECT_EQ(m.runtime.memory().arena_peak(), meta.memory().arena_peak()) << max_batch;
    EXPECT_EQ(m.runtime.memory().peak_breakdown(), meta.memory().peak_breakdown()) << max_batch;
  }
}

// What a dry run found is enough for generating, whatever the tokens are.
TEST(Generate, RehearsalFindsTheMemoryItTakes) {
  for (const std::string& model : kDecoders) {
    SCOPED_TRACE(model);
    expect_rehearsal_holds(model);
  }
}

TEST(Sampler, TopKKeepsTies) {
  const std::vector<float> z = {1, 3, 2, 2, 0};
  const auto kept = candidates(z, {.do_sample = true, .top_k = 2});
  ASSERT_EQ(kept.size(), 3u);
  EXPECT_EQ(kept[0].id, 1);
  EXPECT_EQ(kept[1].id, 2);
  EXPECT_EQ(kept[2].id, 3);
}

TEST(Sampler, TopPKeepsTheTokenThatCrosses) {
  const std::vector<float> z = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  EXPECT_EQ(candidates(z, {.top_k = 0, .top_p = 0.6f}).size(), 2u);
  EXPECT_EQ(candidates(z, {.top_k = 0, .top_p = 0.4f}).size(), 1u);
  EXPECT_EQ(candidates(z, {.top_k = 0, .top_p = 0.0f}).size(), 1u);
  EXPECT_EQ(candidates(z, {.top_k = 0, .top_p = 0.9f}).size(), 3u);
  EXPECT_EQ(candidates(z, {.top_k = 0, .min_p = 0.2f}).size(), 3u);
}

TEST(Sampler, PenaltyOnceForEachIdOfTheSequence) {
  std::vector<float> z = {2, -2, 1};
  apply_repetition_penalty(z, std::vector<int32_t>{0, 1, 0, 1}, 2.0f);
  EXPECT_EQ(z, (std::vector<float>{1, -4, 1}));
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> z = {std::log(0.6f), std::log(0.3f), std::log(0.1f)};
  std::map<int32_t, int> counts;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> copy = z;
    counts[choose_token(copy, {}, {.do_sample = true, .top_k = 0},
                        kernels::philox_uniform(3, i))]++;
  }
  // Four standard deviations of a binomial count.
  EXPECT_NEAR(counts[0], 0.6 * kDraws, 4 * std::sqrt(kDraws * 0.24));
  EXPECT_NEAR(counts[1], 0.3 * kDraws, 4 * std::sqrt(kDraws * 0.21));
  EXPECT_NEAR(counts[2], 0.1 * kDraws, 4 * std::sqrt(kDraws * 0.09));
}

}  // namespace
}  // namespace engine
