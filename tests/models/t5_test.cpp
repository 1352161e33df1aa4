// T5's own: the buckets of relative positions, cached decoding, spellings of configs and names,
// initialisation, and the sizes of the released checkpoints.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/generate/generator.h"
#include "models/blocks/relative_bias.h"
#include "models/describe.h"
#include "tests/models/golden_model.h"
#include "weights/export.h"

namespace engine {
namespace {

using testing::GoldenModel;
using testing::LoadedGolden;
using Json = nlohmann::ordered_json;

// First distance of every bucket up to 4999, as T5Attention._relative_position_bucket of
// transformers has them.
struct BucketTable {
  bool bidirectional;
  int num_buckets;
  int64_t max_distance;
  std::vector<int64_t> first;
};

TEST(RelativeBuckets, AreThoseOfTransformers) {
  const BucketTable tables[] = {
      {true, 32, 128, {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91}},
      {false, 32, 128, {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                        16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113}},
      {true, 8, 20, {0, 1, 2, 7}},
      {false, 8, 20, {0, 1, 2, 3, 4, 6, 9, 14}},
      {true, 32, 256, {0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 20, 30, 46, 70, 108, 166}},
      {false, 32, 1000, {0,  1,  2,  3,  4,  5,  6,  7,  8,   9,   10,  11,  12,  13,  14,  15,
                         16, 21, 27, 35, 45, 59, 76, 98, 127, 164, 213, 275, 356, 461, 597, 773}},
      {true, 12, 50, {0, 1, 2, 3, 8, 20}},
      {false, 10, 30, {0, 1, 2, 3, 4, 5, 8, 11, 15, 21}},
      {false, 7, 9, {0, 1, 2, 3, 4, 6, 7}},
      {true, 30, 100, {0, 1, 2, 3, 4, 5, 6, 7, 10, 14, 19, 27, 37, 52, 72}},
      {false, 30, 77, {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14,
                       15, 17, 19, 21, 24, 26, 29, 33, 36, 41, 45, 50, 56, 62, 70}}};
  for (const BucketTable& table : tables) {
    const RelativeBuckets buckets{table.num_buckets, table.max_distance, table.bidirectional};
    SCOPED_TRACE(table.num_buckets * 100000 + table.max_distance);
    int expected = 0;
    for (int64_t d = 0; d < 5000; ++d) {
      for (int next = expected + 1; next < static_cast<int>(table.first.size()); ++next) {
        if (table.first[next] == d) expected = next;
      }
      ASSERT_EQ(buckets.bucket(-d), expected) << "distance " << -d;
      const int behind = table.bidirectional ? (d > 0 ? table.num_buckets / 2 + expected : 0) : 0;
      ASSERT_EQ(buckets.bucket(d), behind) << "distance " << d;
    }
    EXPECT_EQ(buckets.bucket(-(int64_t{1} << 40)), static_cast<int>(table.first.size()) - 1);
  }
}

class Seq2Seq : public ::testing::TestWithParam<testing::DeviceAndModel> {
 protected:
  kernels::DeviceType device() const { return std::get<0>(GetParam()); }
  const std::string& model() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(
    Models, Seq2Seq,
    testing::on_every_device(testing::golden_models({testing::GoldenKind::encoder_decoder})),
    testing::device_and_model);

// Logits of the last position when the decoder has read `ids`, without a cache.
std::vector<float> last_logits(LoadedGolden& m, const std::vector<int32_t>& source,
                               const std::vector<int32_t>& ids) {
  Batch batch;
  append_pair(batch, source, ids, ids);
  batch.rows = {0};
  Graph graph(m.runtime, {.record = false, .training = false, .precision = m.precision});
  const Variable hidden = m.model->hidden_states(graph, upload_batch(m.runtime, *m.model, batch));
  const std::vector<float> z =
      m.runtime.download(logits(graph, hidden, m.model->head(), m.model->info().logit_scale));
  return {z.end() - m.model->info().vocab_size, z.end()};
}

TEST_P(Seq2Seq, GreedyTokensAreThoseOfTransformers) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  std::vector<GenerationRequest> requests;
  for (int row = 0; row < golden.rows(); ++row) {
    requests.push_back({golden.ints("input_ids." + std::to_string(row)), 0});
  }
  const auto results =
      generate(m.runtime, *m.model, m.precision, requests, {.max_new_tokens = 12, .eos_ids = {1}});
  for (int row = 0; row < golden.rows(); ++row) {
    EXPECT_EQ(results[row].tokens, golden.ints("generate." + std::to_string(row))) << row;
  }
  // What the dry run found was enough.
  EXPECT_EQ(m.runtime.memory().unplanned_peak(), 0u);
}

TEST_P(Seq2Seq, CachedDecodingEqualsTheFullForwardAtEveryToken) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  const std::vector<int32_t> source = golden.ints("input_ids.2");
  // Longer than the largest distance of the first model, and past the edges of the other.
  const int64_t count = device() == kernels::DeviceType::cpu ? 40 : 24;
  const auto results = generate(m.runtime, *m.model, m.precision, {{source, 0}},
                                {.max_new_tokens = count, .eos_ids = {}});
  ASSERT_EQ(results[0].tokens.size(), static_cast<size_t>(count));
  std::vector<int32_t> ids = {0};
  for (const int32_t token : results[0].tokens) {
    const std::vector<float> z = last_logits(m, source, ids);
    // Equal up to the rounding of another order of sums.
    EXPECT_NEAR(z[token], *std::max_element(z.begin(), z.end()), 1e-5);
    ids.push_back(token);
  }
}

TEST_P(Seq2Seq, BatchOfSourcesGivesWhatEachGivesAlone) {
  const GoldenModel golden(model());
  LoadedGolden m(golden, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference, device());
  std::vector<GenerationRequest> requests;
  for (int row = 0; row < 3; ++row) {
    requests.push_back(
        {golden.ints("input_ids." + std::to_string(row)), static_cast<uint64_t>(row)});
  }
  GenerationOptions options{
      .sampling = {.do_sample = true, .temperature = 0.9f, .top_k = 20, .top_p = 0.95f},
      .seed = 7,
      .max_new_tokens = 10,
      .eos_ids = {1}};
  const auto together = generate(m.runtime, *m.model, m.precision, requests, options);
  options.max_batch = 1;
  const auto alone = generate(m.runtime, *m.model, m.precision, requests, options);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].tokens, alone[i].tokens) << i;
  }
}

TEST(Seq2SeqGeneration, RehearsalFindsTheMemoryItTakes) {
  for (const std::string& name : testing::golden_models({testing::GoldenKind::encoder_decoder})) {
    const GoldenModel golden(name);
    std::vector<GenerationRequest> requests;
    for (int row = 0; row < golden.rows(); ++row) {
      requests.push_back({golden.ints("input_ids." + std::to_string(row)), 0});
    }
    for (const int64_t max_batch : {1, 3}) {
      const GenerationOptions options{.max_new_tokens = 9, .eos_ids = {}, .max_batch = max_batch};
      LoadedGolden m(golden, PrecisionPolicy::bf16(), ParameterSet::Purpose::inference);
      Runtime meta(kernels::DeviceType::meta);
      const std::unique_ptr<Model> shape = make_model(golden.config, "config.json");
      shape->parameters().allocate(meta, m.precision, ParameterSet::Purpose::inference);
      shape->prepare(meta, 192);
      rehearse_generation(meta, *shape, m.precision, requests, options);
      m.runtime.memory().reset_peak();
      m.runtime.memory().reserve_arena(meta.memory().arena_peak());
      generate(m.runtime, *m.model, m.precision, requests, options);
      EXPECT_EQ(m.runtime.memory().unplanned_peak(), 0u) << max_batch;
      EXPECT_EQ(m.runtime.memory().arena_peak(), meta.memory().arena_peak()) << max_batch;
    }
  }
}

// d_model, d_ff, layers, heads, d_kv, gated and untied; parameters of the released checkpoints.
struct Released {
  const char* name;
  int64_t d_model, d_ff, layers, heads, d_kv;
  bool v11;
  int64_t parameters;
};

Json released_config(const Released& r) {
  Json config{{"model_type", "t5"},     {"d_model", r.d_model},       {"d_ff", r.d_ff},
              {"num_layers", r.layers}, {"num_heads", r.heads},       {"d_kv", r.d_kv},
              {"vocab_size", 32128},    {"pad_token_id", 0},          {"eos_token_id", 1},
              {"dropout_rate", 0.1},    {"decoder_start_token_id", 0}};
  if (r.v11) {
    config["feed_forward_proj"] = "gated-gelu";
    config["tie_word_embeddings"] = false;
  }
  return config;
}

TEST(T5, ParameterCountsOfReleasedCheckpoints) {
  const Released released[] = {
      {"t5-small", 512, 2048, 6, 8, 64, false, 60'506'624},
      {"t5-base", 768, 3072, 12, 12, 64, false, 222'903'552},
      {"flan-t5-small", 512, 1024, 8, 6, 64, true, 76'961'152},
      {"flan-t5-base", 768, 2048, 12, 12, 64, true, 247'577'856},
      {"flan-t5-large", 1024, 2816, 24, 16, 64, true, 783'150'080},
      {"flan-t5-xl", 2048, 5120, 24, 32, 64, true, 2'849'757'184},
  };
  for (const Released& r : released) {
    const auto model = make_model(released_config(r), r.name);
    EXPECT_EQ(model->parameters().count(), r.parameters) << r.name;
    // Everything but the lookup table (untied), the norms and the bias tables is multiplied by.
    const int64_t norms = r.d_model * (5 * r.layers + 2), tables = 2 * 32 * r.heads;
    const int64_t lookup = r.v11 ? 32128 * r.d_model : 0;
    EXPECT_EQ(model->matmul_parameters() + model->source_matmul_parameters(),
              r.parameters - norms - tables - lookup)
        << r.name;
  }
}

TEST(T5, SpellingsOfTheConfig) {
  Json config = released_config({"", 64, 128, 2, 4, 16, false, 0});
  const auto make = [&] { return make_model(config, "config.json"); };
  EXPECT_TRUE(make()->info().tied_head);
  EXPECT_FLOAT_EQ(make()->info().logit_scale, 0.125f);
  EXPECT_EQ(make()->info().num_encoder_layers, 2);
  EXPECT_EQ(make()->info().num_layers, 2);
  const auto has = [&](const char* name) {
    const auto model = make();
    for (const auto& p : model->parameters()) {
      for (const ParameterPart& part : p->parts) {
        if (part.name == name) return true;
      }
    }
    return false;
  };
  EXPECT_TRUE(has("encoder.block.0.layer.1.DenseReluDense.wi.weight"));
  EXPECT_FALSE(has("lm_head.weight"));
  // transformers 5 writes true for the old key in every file.
  config["tie_word_embeddings"] = true;
  config["scale_decoder_outputs"] = false;
  EXPECT_FALSE(make()->info().tied_head);
  EXPECT_EQ(make()->info().logit_scale, 1.0f);
  EXPECT_TRUE(has("lm_head.weight"));
  config["num_decoder_layers"] = 5;
  EXPECT_EQ(make()->info().num_layers, 5);
  EXPECT_TRUE(has("decoder.block.4.layer.2.DenseReluDense.wi.weight"));
  for (const char* gated : {"gated-gelu", "gated-silu", "gated-gelu_new", "gated-relu"}) {
    config["feed_forward_proj"] = gated;
    EXPECT_TRUE(has("encoder.block.1.layer.1.DenseReluDense.wi_1.weight")) << gated;
  }
  config["is_gated_act"] = false;  // what is written down counts
  EXPECT_TRUE(has("encoder.block.1.layer.1.DenseReluDense.wi.weight"));
  config["model_type"] = "mt5";
  EXPECT_EQ(make()->info().architecture, "MT5ForConditionalGeneration");
  config["tie_word_embeddings"] = true;
  config["scale_decoder_outputs"] = true;
  EXPECT_FALSE(make()->info().tied_head);  // never, in this family
  const auto code = [&](const char* key, const Json& value) {
    Json changed = config;
    changed[key] = value;
    try {
      make_model(changed, "config.json");
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("none");
  };
  EXPECT_EQ(code("feed_forward_proj", "gated-mish"), "CONFIG-UNSUPPORTED");
  EXPECT_EQ(code("relative_attention_num_buckets", 3), "CONFIG-INVALID");
  EXPECT_EQ(code("relative_attention_max_distance", 16), "CONFIG-INVALID");
  EXPECT_EQ(code("decoder_start_token_id", 32128), "CONFIG-INVALID");
  EXPECT_EQ(code("architectures", Json::array({"T5ForSequenceClassification"})), "MODEL-TASK");
}

TEST(T5, DuplicatesOfTheTableAndUnusedBiasesAreOfNoUse) {
  const GoldenModel tied("t5_relu_tied"), untied("t5_gated_untied");
  const auto a = make_model(tied.config, "tied"), b = make_model(untied.config, "untied");
  for (const auto* model : {a.get(), b.get()}) {
    EXPECT_TRUE(model->ignorable("encoder.embed_tokens.weight"));
    EXPECT_TRUE(model->ignorable("decoder.embed_tokens.weight"));
    EXPECT_TRUE(
        model->ignorable("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"));
    EXPECT_FALSE(model->ignorable("shared.weight"));
    EXPECT_EQ(model->spellings("shared.weight").size(), 3u);
  }
  EXPECT_TRUE(a->ignorable("lm_head.weight"));
  EXPECT_FALSE(b->ignorable("lm_head.weight"));
  const ModelDescription description = describe_model(*a, &tied.checkpoint);
  ASSERT_EQ(description.tied.size(), 1u);
  EXPECT_EQ(description.tied[0].to, "shared.weight");
  EXPECT_TRUE(description.missing.empty());
  EXPECT_TRUE(description.unused.empty());
}

// A file with nothing but one of the table's other names for it, and no head.
TEST(T5, TableUnderAnotherNameAndHeadThatIsNotStored) {
  const GoldenModel golden("t5_gated_untied");
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : golden.checkpoint.names()) {
    if (name == "lm_head.weight") continue;
    const TensorEntry* entry = golden.checkpoint.find(name);
    tensors.push_back(
        TensorToWrite::from_bytes(name == "shared.weight" ? "decoder.embed_tokens.weight" : name,
                                  entry->dtype, entry->shape, entry->data));
  }
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / "t5_other_names";
  export_checkpoint(directory, tensors,
                    {.config_json = golden.checkpoint.config_text(), .overwrite = true});
  const Checkpoint checkpoint = Checkpoint::open(directory.string());
  Runtime runtime(kernels::DeviceType::cpu);
  const auto model = make_model(golden.config, "config.json");
  model->parameters().allocate(runtime, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
  const LoadReport report = load_weights(runtime, *model, checkpoint);
  EXPECT_EQ(report.stored.at("shared.weight").name, "decoder.embed_tokens.weight");
  EXPECT_EQ(report.stored.at("lm_head.weight").name, "lm_head.weight");
  const Parameter& head = model->head();
  const std::vector<float> values = model->parameters().read(runtime, head, head.parts[0]);
  std::vector<float> table(values.size());
  const TensorEntry* entry = golden.checkpoint.find("shared.weight");
  to_float32(entry->dtype, entry->data, table.size(), table.data());
  EXPECT_EQ(values, table);
  std::filesystem::remove_all(directory);
}

// Standard deviations of models.md 5.7, from d_model = 64, d_kv = 16, 4 heads, d_ff = 128.
TEST(T5, InitialisationFromScratch) {
  Json config = released_config({"", 64, 128, 2, 4, 16, true, 0});
  config["vocab_size"] = 500;
  config["initializer_factor"] = 0.5;
  Runtime runtime(kernels::DeviceType::cpu);
  const auto model = make_model(config, "config.json");
  model->parameters().allocate(runtime, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
  model->parameters().initialize(runtime, 1);
  const auto expected = [](const std::string& name) {
    if (name == "shared.weight" || name == "lm_head.weight") return 1.0;
    if (name.ends_with(".q.weight")) return 1.0 / 32;
    if (name.ends_with(".wo.weight")) return 1.0 / std::sqrt(128.0);
    return 1.0 / 8;  // also .o: its input is as wide as d_model here
  };
  for (const auto& p : model->parameters()) {
    for (const ParameterPart& part : p->parts) {
      const std::vector<float> values = model->parameters().read(runtime, *p, part);
      double sum = 0;
      for (const float v : values) sum += double{v} * v;
      const double root = std::sqrt(sum / static_cast<double>(values.size()));
      if (part.name.ends_with("norm.weight")) {
        EXPECT_EQ(root, 0.5) << part.name;
      } else {
        // The estimate of a standard deviation from n draws is off by 1 / sqrt(2 n): four of those.
        const double off = 4 / std::sqrt(2.0 * static_cast<double>(values.size()));
        EXPECT_NEAR(root / (0.5 * expected(part.name)), 1.0, off) << part.name;
      }
    }
  }
}

}  // namespace
}  // namespace engine
