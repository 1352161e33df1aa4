// Models against transformers: logits, hidden states, loss, every gradient, optimizer steps; and
// the exactness the engine promises of itself: packing, recompute, rerun, threads, accumulation.
//
// Tolerances: both sides compute in fp32 with sums in another order. 1e-4 absolute on logits of
// size ~10 is some 80 ulp; gradients are compared by relative Frobenius error.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/optim/adamw.h"
#include "engine/step/memory_plan.h"
#include "tests/models/golden_model.h"
#include "weights/export.h"

namespace engine {
namespace {

using testing::GoldenModel;
using testing::LoadedGolden;

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  }
  return worst;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// Logits of one row, [tokens or 1, vocab or labels].
std::vector<float> row_logits(LoadedGolden& m, const GoldenModel& golden, int row,
                              Probe probe = nullptr) {
  const Batch batch = golden.batch(row, row + 1);
  Graph graph(
      m.runtime,
      {.record = false, .training = false, .precision = m.precision, .probe = std::move(probe)});
  const ModelBatch inputs = upload_batch(m.runtime, *m.model, batch);
  const Variable hidden = m.model->hidden_states(graph, inputs);
  return m.runtime.download(
      golden.classifier() ? m.model->class_scores(graph, hidden, inputs).tensor()
                          : logits(graph, hidden, m.model->head(), m.model->info().logit_scale));
}

struct LossAndGrads {
  double loss = 0;
  std::map<std::string, std::vector<float>> grads;
};

LossAndGrads loss_and_grads(LoadedGolden& m, const std::vector<Batch>& batches,
                            RecomputePolicy recompute = RecomputePolicy::none) {
  for (const auto& p : m.model->parameters()) m.runtime.zero(p->grad);
  int64_t labels = 0;
  for (const Batch& batch : batches) labels += trained_labels(*m.model, batch);
  LossAndGrads out;
  for (const Batch& batch : batches) {
    const BatchLoss result =
        run_batch(m.runtime, *m.model, batch,
                  {.graph = {.recompute = recompute, .precision = m.precision},
                   .grad_scale = static_cast<float>(1.0 / static_cast<double>(labels)),
                   .label_targets = &m.targets});
    out.loss += sum_losses(m.runtime.download(result.losses)) / static_cast<double>(labels);
  }
  for (const auto& p : m.model->parameters()) {
    for (const ParameterPart& part : p->parts) {
      out.grads[part.name] = m.model->parameters().read_grad(m.runtime, *p, part);
    }
  }
  return out;
}

// A bias of the keys adds the same to every score of a query, which softmax cancels: its gradient
// is 0 but for rounding, and AdamW makes steps of that noise.
bool is_rounding_noise(const std::string& name) {
  return name.ends_with("attention.self.key.bias");
}

class Golden : public ::testing::TestWithParam<testing::DeviceAndModel> {
 protected:
  kernels::DeviceType device() const { return std::get<0>(GetParam()); }
  const std::string& model() const { return std::get<1>(GetParam()); }
  bool simulated() const { return device() == kernels::DeviceType::simt; }
  // Without the longest row on the software GPU, where the time goes.
  Batch some_rows(const GoldenModel& golden) const {
    return golden.batch(0, golden.rows() - (simulated() ? 1 : 0));
  }
};
INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::on_every_device(testing::golden_models()),
                         testing::device_and_model);

// The first hidden state of a row that is not what transformers has, "hidden.3 differs by 0.21", or
// nothing; `seen` counts them.
std::string first_departure(LoadedGolden& m, const GoldenModel& golden, int row,
                            std::vector<float>* logits = nullptr, int* seen = nullptr) {
  std::string first;
  const std::vector<float> z =
      row_logits(m, golden, row, [&](const std::string& name, const Tensor& value) {
        if (seen) ++*seen;
        const double d = max_difference(m.runtime.download(value),
                                        golden.floats(name + "." + std::to_string(row)));
        if (!(d <= 1e-4) && first.empty()) first = name + " differs by " + std::to_string(d);
      });
  if (logits) *logits = z;
  return first;
}

TEST_P(Golden, LogitsAndHiddenStates) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  ASSERT_GE(golden.rows(), 4);
  for (int row = 0; row < golden.rows(); ++row) {
    int seen = 0;
    std::vector<float> z;
    EXPECT_EQ(first_departure(m, golden, row, &z, &seen), "") << "row " << row;
    const ModelInfo& info = m.model->info();
    EXPECT_EQ(seen, info.num_layers + 1 + (info.encoder_decoder ? info.num_encoder_layers + 1 : 0));
    EXPECT_LE(max_difference(z, golden.floats("logits." + std::to_string(row))), 1e-4);
  }
}

// A matrix of one layer is changed: that layer is named, of every family and every layer.
TEST(GoldenModels, TheFirstLayerThatDepartsIsNamed) {
  for (const std::string& name : testing::golden_models()) {
    SCOPED_TRACE(name);
    const GoldenModel golden(name);
    LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
    const auto expect_named = [&](const std::string& matrix, const std::string& state) {
      const auto parameter = std::find_if(
          m.model->parameters().begin(), m.model->parameters().end(), [&](const auto& p) {
            return p->shape.rank() == 2 && p->name().find(matrix) != std::string::npos;
          });
      ASSERT_NE(parameter, m.model->parameters().end()) << matrix;
      const std::vector<float> before = m.runtime.download((*parameter)->value);
      std::vector<float> changed = before;
      // Not all by one factor: Gemma norms its queries.
      for (size_t i = 0; i < changed.size(); i += 3) changed[i] *= 1.2f;
      m.runtime.upload((*parameter)->value, changed.data());
      const std::string departure = first_departure(m, golden, 2);  // several tokens, to be seen
      EXPECT_TRUE(departure.starts_with(state + " differs by")) << matrix << ": " << departure;
      m.runtime.upload((*parameter)->value, before.data());
    };
    const ModelInfo& info = m.model->info();
    const auto expect_all = [&](const std::string& layers, int count, const std::string& states) {
      for (int i = 0; i < count; ++i) {
        expect_named(layers + std::to_string(i) + ".", states + std::to_string(i + 1));
      }
    };
    if (info.encoder_decoder) {
      expect_named("shared.", "encoder.hidden.0");
      expect_all("encoder.block.", info.num_encoder_layers, "encoder.hidden.");
      expect_all("decoder.block.", info.num_layers, "decoder.hidden.");
    } else {
      expect_named("", "hidden.0");  // the table comes first
      const bool gpt2 = info.family == "gpt2", roberta = !info.causal;
      expect_all(gpt2 ? ".h." : roberta ? ".layer." : ".layers.", info.num_layers, "hidden.");
    }
    EXPECT_EQ(first_departure(m, golden, 2), "");
  }
}

// What each is there for is written down, and nothing that is not there.
TEST(GoldenModels, AreThoseOfTheReadme) {
  std::ifstream file(std::filesystem::path(ENGINE_SOURCE_DIR) / "tests/models/README.md");
  std::vector<std::string> named;
  bool table = false;
  for (std::string line; std::getline(file, line);) {
    table |= line == "## Which golden covers what";
    if (!table || !line.starts_with("| `")) continue;
    named.push_back(line.substr(3, line.find('`', 3) - 3));
  }
  std::sort(named.begin(), named.end());
  EXPECT_EQ(named, testing::golden_models());
}

TEST_P(Golden, LossAndEveryGradient) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::training, device());
  const LossAndGrads ours = loss_and_grads(m, {golden.batch(0, golden.rows())});
  EXPECT_NEAR(ours.loss, golden.floats("loss")[0], 1e-5);
  int compared = 0;
  for (const auto& [name, grad] : ours.grads) {
    ASSERT_TRUE(golden.has("grad." + name)) << name;
    ++compared;
    if (is_rounding_noise(name)) {
      EXPECT_LE(max_difference(grad, std::vector<float>(grad.size())), 1e-6) << name;
      continue;
    }
    EXPECT_LE(relative_error(grad, golden.floats("grad." + name)), 1e-4) << name;
  }
  int expected = 0;
  for (const TensorEntry& entry : golden.golden.tensors())
    expected += entry.name.starts_with("grad.");
  EXPECT_EQ(compared, expected);
}

TEST_P(Golden, Bf16ErrorIsAtMostTwiceThatOfTransformers) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::bf16(), ParameterSet::Purpose::training, device());
  double logit_error = 0;
  for (int row = 0; row < golden.rows(); ++row) {
    logit_error = std::max(
        logit_error,
        max_difference(row_logits(m, golden, row), golden.floats("logits." + std::to_string(row))));
  }
  EXPECT_LE(logit_error, 2 * golden.floats("bf16.logits")[0]);
  const LossAndGrads ours = loss_and_grads(m, {golden.batch(0, golden.rows())});
  // One sample of a rounding error says little when it happens to be tiny: the floor is half a bf16
  // ulp of the loss.
  const double floor = std::abs(golden.floats("loss")[0]) / 512;
  EXPECT_LE(std::abs(ours.loss - golden.floats("loss")[0]),
            std::max(2.0 * golden.floats("bf16.loss")[0], floor));
  for (const auto& [name, grad] : ours.grads) {
    if (is_rounding_noise(name)) continue;
    EXPECT_LE(relative_error(grad, golden.floats("grad." + name)),
              2 * golden.floats("bf16.grad")[0])
        << name;
  }
}

// The golden runs of the others have no steps.
class GoldenSteps : public Golden {};
INSTANTIATE_TEST_SUITE_P(
    Models, GoldenSteps,
    testing::on_every_device(testing::golden_models({testing::GoldenKind::with_steps})),
    testing::device_and_model);

TEST_P(GoldenSteps, WarmUpClippingAndAccumulation) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::training, device());
  OptimizerConfig config;
  config.lr = 0.02;
  config.beta1 = 0.9;
  config.beta2 = 0.95;
  config.eps = 1e-8;
  config.weight_decay = 0.1;
  AdamW optimizer(m.runtime, m.model->parameters(), config);
  const std::vector<int32_t> ids = golden.ints("steps.ids");
  const std::vector<float> losses = golden.floats("steps.loss");
  const bool pairs = golden.encoder_decoder();
  const std::vector<int32_t> labels = pairs ? golden.ints("steps.labels") : std::vector<int32_t>{};
  constexpr int kLength = 11, kTarget = 7, kSteps = 20;
  const int of_a_row = golden.classifier() ? 1 : pairs ? kTarget : kLength - 1;
  const float targets = 2 * 2 * static_cast<float>(of_a_row);
  for (int step = 0; step < kSteps; ++step) {
    double loss = 0;
    for (int micro = 0; micro < 2; ++micro) {
      Batch batch;
      for (int row = 0; row < 2; ++row) {
        const int index = (step * 2 + micro) * 2 + row;
        const auto begin = ids.begin() + index * kLength;
        const std::vector<int32_t> tokens(begin, begin + kLength);
        if (pairs) {
          const auto target = labels.begin() + index * kTarget;
          GoldenModel::add_pair(batch, tokens, {target, target + kTarget});
        } else {
          GoldenModel::add_row(batch, tokens, tokens,
                               golden.classifier() ? golden.rows() + index : -1);
        }
      }
      const BatchLoss result = run_batch(m.runtime, *m.model, batch,
                                         {.graph = {.precision = m.precision},
                                          .grad_scale = 1.0f / targets,
                                          .label_targets = &m.targets});
      loss += sum_losses(m.runtime.download(result.losses)) / targets;
    }
    EXPECT_NEAR(loss, losses[step], 1e-4) << "step " << step;
    optimizer.measure(0.5f);
    const double multiplier = step < 5 ? step / 5.0 : (kSteps - step) / 15.0;
    optimizer.step(static_cast<float>(config.lr * multiplier));
  }
  for (const auto& p : m.model->parameters()) {
    for (const ParameterPart& part : p->parts) {
      std::vector<float> ours = m.model->parameters().read(m.runtime, *p, part);
      std::vector<float> theirs = golden.floats("step." + part.name);
      if (is_rounding_noise(part.name)) continue;
      if (part.name.ends_with("attn.c_attn.bias")) {  // the keys' third is such noise
        const size_t c = ours.size() / 3;
        for (std::vector<float>* values : {&ours, &theirs}) {
          values->erase(values->begin() + c, values->begin() + 2 * c);
        }
      }
      // RoPE rotates that bias, but its slow frequencies by next to nothing: nearly the same holds.
      const double tolerance = part.name.ends_with("k_proj.bias") ? 1e-3 : 1e-4;
      EXPECT_LE(relative_error(ours, theirs), tolerance) << part.name;
    }
  }
}

// Bits of everything a step computes.
void expect_same_bits(const LossAndGrads& a, const LossAndGrads& b, const char* what) {
  EXPECT_EQ(std::memcmp(&a.loss, &b.loss, sizeof a.loss), 0) << what;
  for (const auto& [name, grad] : a.grads) {
    const std::vector<float>& other = b.grads.at(name);
    EXPECT_EQ(std::memcmp(grad.data(), other.data(), grad.size() * sizeof(float)), 0)
        << what << ": " << name;
  }
}

TEST_P(Golden, SameBitsOnRerunRecomputeAndAnyNumberOfThreads) {
  const GoldenModel golden(model());
  // The software GPU takes seconds for a model: the precision with the most kinds of kernels there.
  const std::vector<PrecisionPolicy> all = {PrecisionPolicy::fp32(), PrecisionPolicy::bf16(),
                                            PrecisionPolicy::bf16_residual_fp32()};
  for (const PrecisionPolicy& precision : simulated() ? std::vector{all.back()} : all) {
    LoadedGolden m(golden, precision, ParameterSet::Purpose::training, device());
    const std::vector<Batch> batches = {some_rows(golden)};
    const LossAndGrads first = loss_and_grads(m, batches);
    expect_same_bits(first, loss_and_grads(m, batches), "rerun");
    expect_same_bits(first, loss_and_grads(m, batches, RecomputePolicy::norms), "recompute norms");
    expect_same_bits(first, loss_and_grads(m, batches, RecomputePolicy::block), "recompute block");
    const int threads = omp_get_max_threads();
    for (const int n : simulated() ? std::vector{3} : std::vector{1, 3, 5}) {
      omp_set_num_threads(n);
      expect_same_bits(first, loss_and_grads(m, batches), "threads");
    }
    omp_set_num_threads(threads);
  }
}

TEST_P(Golden, PackedEqualsUnpacked) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::training, device());
  const LossAndGrads packed = loss_and_grads(m, {golden.batch(0, golden.rows())});
  std::vector<Batch> alone;
  for (int row = 0; row < golden.rows(); ++row) alone.push_back(golden.batch(row, row + 1));
  const LossAndGrads unpacked = loss_and_grads(m, alone);
  EXPECT_NEAR(packed.loss, unpacked.loss, 1e-6);
  // The same sums, taken in one matmul or accumulated over four: a few fp32 ulp (1.2e-7) each.
  for (const auto& [name, grad] : packed.grads) {
    if (is_rounding_noise(name)) continue;
    EXPECT_LE(relative_error(grad, unpacked.grads.at(name)), 3e-6) << name;
  }
}

TEST_P(Golden, LoadAndSaveKeepEveryByte) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::training, device());
  const std::filesystem::path out =
      std::filesystem::path(::testing::TempDir()) / ("export_" + model());
  // As a training run: what is stored how, asked of a model of the config that will be saved.
  const StoredTensors stored =
      stored_tensors(*make_model(m.model->config_json(), "saved"), golden.checkpoint);
  EXPECT_EQ(stored.size(), m.report.stored.size());
  export_checkpoint(out, tensors_to_write(m.runtime, *m.model, stored, FileDtype::f32),
                    {.config_json = m.model->config_json().dump(2), .overwrite = true});
  const Checkpoint again = Checkpoint::open(out.string());
  // Of a multimodal checkpoint the text model is saved, as transformers names it alone.
  const std::string tower = "language_model.";
  size_t kept = 0;
  for (const std::string& name : golden.checkpoint.names()) {
    const TensorEntry* b = golden.checkpoint.find(name);
    const TensorEntry* a = again.find(name.starts_with(tower) ? name.substr(tower.size()) : name);
    if (!a) {
      EXPECT_TRUE(m.model->ignorable(name)) << name;
      continue;
    }
    ++kept;
    ASSERT_EQ(a->bytes, b->bytes) << name;
    EXPECT_EQ(std::memcmp(a->data, b->data, a->bytes), 0) << name;
  }
  EXPECT_EQ(kept, again.names().size());
  // What was saved is a model of its own, with the same parameters.
  const auto reloaded = make_model(nlohmann::ordered_json::parse(again.config_text()), "again");
  EXPECT_EQ(reloaded->info().architecture, m.model->info().architecture);
  EXPECT_EQ(stored_tensors(*reloaded, again).size(), m.report.stored.size());
  std::filesystem::remove_all(out);
}

TEST_P(Golden, MemoryPlanIsExact) {
  const GoldenModel golden(model());
  const Batch batch = some_rows(golden);
  for (const RecomputePolicy recompute :
       {RecomputePolicy::none, RecomputePolicy::norms, RecomputePolicy::block}) {
    TrainingShape shape{.precision = PrecisionPolicy::bf16(),
                        .recompute = recompute,
                        .train = {.tokens = batch.num_tokens(),
                                  .sequences = batch.num_sequences(),
                                  .longest = batch.max_seqlen,
                                  .source_tokens = batch.num_source_tokens(),
                                  .source_longest = batch.source.max_seqlen},
                        .max_positions = 192,
                        .device = device()};
    const MemoryPlan plan =
        plan_training([&] { return make_model(golden.config, "golden"); }, shape);
    LoadedGolden m(golden, PrecisionPolicy::bf16(), ParameterSet::Purpose::training, device());
    m.runtime.memory().reserve_arena(plan.arena);
    m.runtime.memory().reset_peak();
    loss_and_grads(m, {batch}, recompute);
    // The example batch and this one have the same sizes, so the plan holds to the byte.
    EXPECT_EQ(m.runtime.memory().arena_peak(), plan.arena);
    EXPECT_EQ(m.runtime.memory().unplanned_peak(), 0u);
  }
}

}  // namespace
}  // namespace engine
