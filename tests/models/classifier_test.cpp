// What classifiers have of their own: which token is classified, positions, names, new heads,
// sizes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/step/run_batch.h"
#include "models/registry.h"
#include "tests/models/golden_model.h"
#include "weights/export.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<int32_t>;
using testing::GoldenModel;
using testing::LoadedGolden;

Json roberta(Json changes = Json::object()) {
  Json json = {{"model_type", "roberta"},        {"vocab_size", 50265},
               {"max_position_embeddings", 514}, {"type_vocab_size", 1},
               {"layer_norm_eps", 1e-5},         {"pad_token_id", 1}};
  json.update(changes);
  return json;
}

int64_t parameters(const Json& json) {
  return make_model(json, "config.json", Task::sequence_classification)->parameters().count();
}

// models.md 8, and for those that are not there transformers' num_parameters().
TEST(Classifiers, ParameterCountsOfNamedCheckpoints) {
  EXPECT_EQ(parameters(roberta()), 124'647'170);  // roberta-base, 2 labels
  const Json large = roberta({{"hidden_size", 1024},
                              {"num_hidden_layers", 24},
                              {"num_attention_heads", 16},
                              {"intermediate_size", 4096}});
  EXPECT_EQ(parameters(large), 355'361'794);
  EXPECT_EQ(parameters(roberta(
                {{"model_type", "xlm-roberta"}, {"vocab_size", 250002}, {"num_labels", 3}})),
            278'045'955);  // xlm-roberta-base
  // Llama 3.1 8B as a reward model: one label.
  const Json llama = {
      {"model_type", "llama"},      {"vocab_size", 128256},    {"hidden_size", 4096},
      {"intermediate_size", 14336}, {"num_hidden_layers", 32}, {"num_attention_heads", 32},
      {"num_key_value_heads", 8},   {"num_labels", 1},         {"max_position_embeddings", 131072}};
  EXPECT_EQ(parameters(llama), 7'504'928'768);
}

TEST(Classifiers, PooledTokens) {
  Batch batch;
  batch.input_ids = {5, 6, 9, /**/ 9, 9, /**/ 7, 9, 8, /**/ 6};
  batch.cu_seqlens = {0, 3, 5, 8, 9};
  batch.rows = {0, 1, 2, 3};
  ModelInfo info;
  EXPECT_EQ(pooled_rows(info, batch), (Ids{2, 4, 7, 8}));
  info.pad_ids = {9};
  // The rightmost token that is not padding, also where padding stands before it; the first one
  // where there is nothing else.
  EXPECT_EQ(pooled_rows(info, batch), (Ids{1, 3, 7, 8}));
  info.pooling = Pooling::first_token;
  EXPECT_EQ(pooled_rows(info, batch), (Ids{0, 3, 5, 8}));
}

TEST(Roberta, PositionsLeaveOutPadding) {
  const auto model = make_model(roberta(), "config.json");
  EXPECT_EQ(model->info().task, Task::sequence_classification);
  EXPECT_EQ(model->info().max_positions, 512);
  const Ids ids = {0, 7, 1, 8, 2, /**/ 1, 0, 2}, starts = {0, 5, 8}, counted(8);
  EXPECT_EQ(model->position_ids(ids, starts, counted), (Ids{2, 3, 1, 4, 5, /**/ 1, 2, 3}));
}

TEST(Roberta, OtherNamesOfItsTensors) {
  const auto model = make_model(roberta(), "config.json");
  const auto names = model->spellings("roberta.encoder.layer.3.output.LayerNorm.weight");
  EXPECT_EQ(names, (std::vector<std::string>{"roberta.encoder.layer.3.output.LayerNorm.weight",
                                             "encoder.layer.3.output.LayerNorm.weight",
                                             "roberta.encoder.layer.3.output.LayerNorm.gamma",
                                             "encoder.layer.3.output.LayerNorm.gamma"}));
  for (const char* name :
       {"lm_head.dense.weight", "lm_head.bias", "roberta.pooler.dense.weight", "pooler.dense.bias",
        "roberta.embeddings.position_ids", "embeddings.token_type_ids"}) {
    EXPECT_TRUE(model->ignorable(name)) << name;
  }
  EXPECT_FALSE(model->ignorable("roberta.encoder.layer.0.output.dense.weight"));
  EXPECT_TRUE(model->may_be_new("classifier.dense.weight"));
  EXPECT_FALSE(model->may_be_new("roberta.embeddings.LayerNorm.weight"));
}

// A checkpoint of the bare encoder, with its pooler and old names, and without a head.
TEST(Roberta, LoadsAnEncoderWithoutAHead) {
  const GoldenModel golden("roberta_classifier");
  LoadedGolden source(golden, PrecisionPolicy::fp32());
  const std::filesystem::path out =
      std::filesystem::path(::testing::TempDir()) / "roberta_encoder_only";
  std::vector<TensorToWrite> tensors;
  for (TensorToWrite& tensor :
       tensors_to_write(source.runtime, *source.model, source.report.stored, FileDtype::f32)) {
    if (tensor.name.starts_with("classifier.")) continue;
    tensor.name = tensor.name.substr(std::string("roberta.").size());
    const size_t norm = tensor.name.find("LayerNorm.weight");
    if (norm != std::string::npos) tensor.name.replace(norm, 16, "LayerNorm.gamma");
    tensors.push_back(std::move(tensor));
  }
  const float pooler[4] = {};
  tensors.push_back(TensorToWrite::from_bytes("pooler.dense.bias", FileDtype::f32, {4}, pooler));
  export_checkpoint(out, tensors,
                    {.config_json = golden.checkpoint.config_text(), .overwrite = true});

  const Checkpoint checkpoint = Checkpoint::open(out.string());
  Runtime runtime(kernels::DeviceType::cpu);
  const auto model = make_model(golden.config, "config.json");
  model->parameters().allocate(runtime, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
  model->parameters().initialize(runtime, 1);
  const LoadReport report = load_weights(runtime, *model, checkpoint);
  EXPECT_EQ(report.initialized,
            (std::vector<std::string>{"classifier.dense.weight", "classifier.dense.bias",
                                      "classifier.out_proj.weight", "classifier.out_proj.bias"}));
  EXPECT_TRUE(report.unused.empty());
  for (size_t i = 0; i < model->parameters().size(); ++i) {
    Parameter &ours = model->parameters()[i], &theirs = source.model->parameters()[i];
    if (ours.name().starts_with("classifier.")) continue;
    EXPECT_EQ(runtime.download(ours.value), source.runtime.download(theirs.value)) << ours.name();
  }
  std::filesystem::remove_all(out);
}

TEST(Roberta, Mistakes) {
  const auto code = [](const Json& json, std::optional<Task> task = std::nullopt) {
    try {
      make_model(json, "config.json", task);
    } catch (const Error& error) {
      return error.code();
    }
    return std::string("none");
  };
  EXPECT_EQ(code(roberta()), "none");
  EXPECT_EQ(code(roberta(), Task::causal_lm), "MODEL-TASK");
  EXPECT_EQ(code(roberta({{"hidden_act", "mish"}})), "CONFIG-UNSUPPORTED");
  EXPECT_EQ(code(roberta({{"position_embedding_type", "relative_key"}})), "CONFIG-UNSUPPORTED");
  EXPECT_EQ(code(roberta({{"is_decoder", true}})), "CONFIG-UNSUPPORTED");
  EXPECT_EQ(code(roberta({{"pad_token_id", nullptr}})), "CONFIG-INVALID");
  EXPECT_EQ(code(roberta({{"pad_token_id", 50265}})), "CONFIG-INVALID");
  EXPECT_EQ(code(roberta({{"max_position_embeddings", 2}})), "CONFIG-INVALID");
  EXPECT_EQ(code(roberta({{"num_attention_heads", 7}})), "CONFIG-INVALID");
  EXPECT_EQ(code(roberta({{"problem_type", "ranking"}})), "CONFIG-INVALID");
}

}  // namespace
}  // namespace engine
