// One model, as different versions of transformers write it: other names of tensors, other keys of
// the config, one file or several. All give the same logits to the bit. What the engine does not
// compute is refused, by name.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tests/models/golden_model.h"
#include "weights/export.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using testing::GoldenModel;
using testing::LoadedGolden;
using Json = nlohmann::ordered_json;

std::vector<float> logits_of(Runtime& runtime, Model& model, const GoldenModel& golden,
                             const PrecisionPolicy& precision = {}) {
  Graph graph(runtime, {.record = false, .training = false, .precision = precision});
  const Variable hidden =
      model.hidden_states(graph, upload_batch(runtime, model, golden.batch(2, 3)));
  return runtime.download(logits(graph, hidden, model.head()));
}

// What is different in a directory from the golden one.
struct Respelling {
  std::function<std::string(const std::string&)> rename;  // "" leaves the tensor out
  std::function<void(Json&)> edit;
  std::vector<std::string> extra;  // tensors of no use, of the shape [3]
  uint64_t max_shard_bytes = kDefaultMaxShardBytes;
};

// Writes the golden model anew and loads it.
void expect_same_logits(const GoldenModel& golden, const Respelling& respelling) {
  LoadedGolden original(golden, {}, ParameterSet::Purpose::inference);
  const std::vector<float> expected = logits_of(original.runtime, *original.model, golden);

  const fs::path directory = fs::path(::testing::TempDir()) / "respelled";
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : golden.checkpoint.names()) {
    TensorToWrite tensor = TensorToWrite::from_entry(*golden.checkpoint.find(name));
    if (respelling.rename) tensor.name = respelling.rename(name);
    if (!tensor.name.empty()) tensors.push_back(std::move(tensor));
  }
  static const float kGarbage[3] = {1e30f, -1e30f, 7.0f};
  for (const std::string& name : respelling.extra) {
    tensors.push_back(TensorToWrite::from_bytes(name, FileDtype::f32, {3}, kGarbage));
  }
  Json config = golden.config;
  if (respelling.edit) respelling.edit(config);
  export_checkpoint(directory, std::move(tensors),
                    {.config_json = config.dump(2),
                     .max_shard_bytes = respelling.max_shard_bytes,
                     .overwrite = true});

  const Checkpoint checkpoint = Checkpoint::open(directory.string());
  const bool sharded = respelling.max_shard_bytes < kDefaultMaxShardBytes;
  EXPECT_EQ(checkpoint.files().size() > 1, sharded);
  Runtime runtime(kernels::DeviceType::cpu);
  const auto model = make_model(Json::parse(checkpoint.config_text()), "config.json");
  model->parameters().allocate(runtime, {}, ParameterSet::Purpose::inference);
  model->prepare(runtime, 64);
  const LoadReport report = load_weights(runtime, *model, checkpoint);
  EXPECT_TRUE(report.unused.empty()) << report.unused.front();
  EXPECT_EQ(logits_of(runtime, *model, golden), expected);
  fs::remove_all(directory);
}

std::string without(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

TEST(Variants, BareModelsHaveNoPrefix) {
  for (const auto& [name, prefix] : {std::pair{"llama_untied_bias", "model."},
                                     {"qwen2_tied", "model."},
                                     {"gemma3_text", "model."},
                                     {"gpt2", "transformer."}}) {
    SCOPED_TRACE(name);
    expect_same_logits(GoldenModel(name),
                       {.rename = [&](const std::string& n) { return without(n, prefix); }});
  }
}

TEST(Variants, StoredHeadsOfTiedModelsAndOldBuffersAreIgnored) {
  for (const char* name : {"llama_tied_llama3rope", "qwen2_tied", "gemma3_text"}) {
    SCOPED_TRACE(name);
    expect_same_logits(
        GoldenModel(name),
        {.extra = {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}});
  }
  expect_same_logits(GoldenModel("gpt2"), {.extra = {"lm_head.weight", "transformer.h.0.attn.bias",
                                                     "transformer.h.1.attn.masked_bias"}});
}

TEST(Variants, Shards) {
  expect_same_logits(GoldenModel("gemma3_text"), {.max_shard_bytes = 20000});
}

TEST(Variants, DtypeKeys) {
  // What is stored counts, whatever the key says and whether there is one.
  for (const char* key : {"torch_dtype", "dtype", ""}) {
    for (const char* dtype : {"float32", "bfloat16", "auto"}) {
      expect_same_logits(GoldenModel("qwen2_tied"), {.edit = [&](Json& config) {
                           config.erase("dtype");
                           if (*key) config[key] = dtype;
                         }});
    }
  }
}

TEST(Variants, RopeKeysOfTransformers4) {
  const auto flatten = [](Json& config) {
    Json rope = config["rope_parameters"];
    config.erase("rope_parameters");
    config["rope_theta"] = rope["rope_theta"];
    rope.erase("rope_theta");
    config["rope_scaling"] = rope["rope_type"] == "default" ? Json(nullptr) : rope;
  };
  for (const char* name : {"llama_tied_llama3rope", "llama_untied_bias", "qwen2_tied"}) {
    SCOPED_TRACE(name);
    const GoldenModel golden(name);
    expect_same_logits(golden, {.edit = flatten});
    expect_same_logits(golden, {.edit = [&](Json& config) {
                         flatten(config);
                         if (config["rope_scaling"].is_null()) return;
                         config["rope_scaling"]["type"] = config["rope_scaling"]["rope_type"];
                         config["rope_scaling"].erase("rope_type");
                       }});
  }
}

TEST(Variants, WindowsOfQwen2WithoutLayerTypes) {
  expect_same_logits(GoldenModel("qwen2_untied_window"),
                     {.edit = [](Json& config) { config.erase("layer_types"); }});
  // Switched off, whatever the width.
  expect_same_logits(GoldenModel("qwen2_tied"), {.edit = [](Json& config) {
                       config.erase("layer_types");
                       config["use_sliding_window"] = false;
                       config["sliding_window"] = 3;
                       config["max_window_layers"] = 0;
                     }});
}

// As published: keys of transformers 4, layer types by a pattern, defaults left out.
void make_gemma_old(Json& text) {
  const Json rope = text["rope_parameters"];
  text["rope_theta"] = rope["full_attention"]["rope_theta"];
  text["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"];
  Json scaling = rope["full_attention"];
  scaling.erase("rope_theta");
  text["rope_scaling"] = scaling["rope_type"] == "default" ? Json(nullptr) : scaling;
  for (const char* key :
       {"rope_parameters", "layer_types", "_sliding_window_pattern", "tie_word_embeddings",
        "pad_token_id", "bos_token_id", "eos_token_id", "hidden_activation", "rms_norm_eps",
        "attention_bias", "attention_dropout", "use_bidirectional_attention"}) {
    text.erase(key);
  }
}

TEST(Variants, GemmaAsPublished) {
  expect_same_logits(GoldenModel("gemma3_text"), {.edit = make_gemma_old});
  const GoldenModel golden("gemma3_multimodal");
  // In memory transformers 5 puts the tower elsewhere; some files are written so.
  const auto tower_inside = [](const std::string& name) {
    const std::string rest = without(name, "language_model.model.");
    return rest != name ? "model.language_model." + rest : "model." + name;
  };
  const auto old = [](Json& config) { make_gemma_old(config["text_config"]); };
  expect_same_logits(golden, {.edit = old});
  expect_same_logits(golden, {.rename = tower_inside});
  expect_same_logits(golden, {.extra = {"language_model.lm_head.weight"}});
  // The tower cut out of the multimodal checkpoint: a text model.
  expect_same_logits(golden, {.rename =
                                  [](const std::string& name) {
                                    const std::string rest = without(name, "language_model.");
                                    return rest != name ? rest : std::string();
                                  },
                              .edit =
                                  [](Json& config) {
                                    const Json text = config["text_config"];
                                    config = text;
                                  }});
}

TEST(Variants, EmbeddingScaleIsRoundedAsTheTableIs) {
  const GoldenModel golden("gemma3_text");
  LoadedGolden m(golden, PrecisionPolicy::bf16(), ParameterSet::Purpose::inference);
  std::vector<float> embedded;
  Graph graph(m.runtime, {.record = false,
                          .training = false,
                          .precision = m.precision,
                          .probe = [&](const std::string& name, const Tensor& value) {
                            if (name == "hidden.0") embedded = m.runtime.download(value);
                          }});
  m.model->hidden_states(graph, upload_batch(m.runtime, *m.model, golden.batch(2, 3)));
  const std::vector<float> table = m.model->parameters().read(m.runtime, m.model->parameters()[0],
                                                              m.model->parameters()[0].parts[0]);
  // sqrt(24) = 4.8990 is 4.90625 in bf16.
  EXPECT_EQ(static_cast<float>(kernels::BFloat16(std::sqrt(24.0f))), 4.90625f);
  EXPECT_EQ(static_cast<float>(kernels::BFloat16(std::sqrt(1152.0f))), 34.0f);
  EXPECT_EQ(static_cast<float>(kernels::BFloat16(std::sqrt(2560.0f))), 50.5f);
  const std::vector<int32_t> ids = golden.ints("input_ids.2");
  ASSERT_EQ(embedded.size(), ids.size() * 24);
  for (size_t i = 0; i < embedded.size(); ++i) {
    const float exact = 4.90625f * table[static_cast<size_t>(ids[i / 24]) * 24 + i % 24];
    ASSERT_EQ(embedded[i], static_cast<float>(kernels::BFloat16(exact))) << i;
  }
}

TEST(Variants, InitialisationFromScratch) {
  for (const char* name : {"llama_untied_bias", "qwen2_untied_window", "gemma3_text"}) {
    SCOPED_TRACE(name);
    const GoldenModel golden(name);
    Json config = golden.config;
    config["vocab_size"] = 1000;  // enough numbers for a standard deviation
    Runtime runtime(kernels::DeviceType::cpu);
    const auto model = make_model(config, "config.json");
    model->parameters().allocate(runtime, {}, ParameterSet::Purpose::training);
    model->parameters().initialize(runtime, 1);
    for (const auto& p : model->parameters()) {
      for (const ParameterPart& part : p->parts) {
        const std::vector<float> values = model->parameters().read(runtime, *p, part);
        double squares = 0;
        for (const float v : values) squares += double{v} * v;
        const double deviation = std::sqrt(squares / static_cast<double>(values.size()));
        if (part.shape.rank() == 2) {
          // Five standard deviations of the estimate, 0.02 / sqrt(2 n).
          const double n = static_cast<double>(values.size());
          EXPECT_NEAR(deviation, 0.02, 0.1 / std::sqrt(2 * n) + 0.02 / 1000) << part.name;
        } else {
          const bool one =
              part.name.ends_with("norm.weight") && config["model_type"] != "gemma3_text";
          EXPECT_EQ(deviation, one ? 1.0 : 0.0) << part.name;
        }
      }
    }
    // The row of the padding token: nn.Embedding(padding_idx) is zero there.
    const int32_t pad = model->info().pad_ids.at(0);
    const Parameter& table = model->parameters()[0];
    const std::vector<float> values = model->parameters().read(runtime, table, table.parts[0]);
    const int64_t columns = table.shape[1];
    for (int64_t i = 0; i < columns; ++i) ASSERT_EQ(values[pad * columns + i], 0.0f);
  }
}

struct Refusal {
  const char* model;
  std::function<void(Json&)> edit;
  const char* code;
  const char* named;  // what the message must name
};

TEST(Variants, WhatIsNotSupportedIsRefusedByName) {
  const auto rope = [](const char* type) {
    return [type](Json& config) {
      config["rope_parameters"] = {{"rope_type", type}, {"rope_theta", 1e4}, {"factor", 2}};
    };
  };
  const auto set = [](const char* key, const Json& value) {
    return [key, value](Json& config) { config[key] = value; };
  };
  const auto old_rope = [](const char* key, const char* type) {
    return [key, type](Json& config) {
      config.erase("rope_parameters");
      config["rope_scaling"] = {{key, type}, {"factor", 2}};
    };
  };
  const auto architecture = [&](const char* name) {
    return set("architectures", Json::array({name}));
  };
  const Refusal refusals[] = {
      {"llama_untied_bias", rope("yarn"), "CONFIG-UNSUPPORTED", "yarn"},
      {"qwen2_tied", rope("dynamic"), "CONFIG-UNSUPPORTED", "dynamic"},
      {"qwen2_tied", rope("longrope"), "CONFIG-UNSUPPORTED", "longrope"},
      {"qwen2_tied", rope("mrope"), "CONFIG-UNSUPPORTED", "mrope"},
      // As transformers 4 writes it, and under each type of layer.
      {"llama_untied_bias", old_rope("rope_type", "yarn"), "CONFIG-UNSUPPORTED", "yarn"},
      {"qwen2_tied", old_rope("type", "dynamic"), "CONFIG-UNSUPPORTED", "dynamic"},
      {"llama_untied_bias", old_rope("type", "longrope"), "CONFIG-UNSUPPORTED", "longrope"},
      {"llama_untied_bias", old_rope("type", "su"), "CONFIG-UNSUPPORTED", "\"su\""},
      {"gemma3_text", [](Json& c) { c["rope_parameters"]["full_attention"]["rope_type"] = "yarn"; },
       "CONFIG-UNSUPPORTED", "yarn"},
      {"gemma3_multimodal",
       [](Json& c) {
         c["text_config"]["rope_parameters"]["sliding_attention"]["rope_type"] = "dynamic";
       },
       "CONFIG-UNSUPPORTED", "dynamic"},
      {"llama_untied_bias", set("partial_rotary_factor", 0.5), "CONFIG-UNSUPPORTED",
       "partial_rotary_factor"},
      {"llama_untied_bias", set("hidden_act", "relu6"), "CONFIG-UNSUPPORTED", "relu6"},
      {"llama_untied_bias", set("quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}),
       "CONFIG-UNSUPPORTED", "gptq"},
      {"qwen2_tied",
       set("quantization_config", {{"load_in_4bit", true}, {"quant_method", "bitsandbytes"}}),
       "CONFIG-UNSUPPORTED", "bitsandbytes"},
      {"llama_classifier", set("quantization_config", {{"quant_method", "fp8"}}),
       "CONFIG-UNSUPPORTED", "fp8"},
      {"t5_relu_tied", set("quantization_config", {{"quant_method", "compressed-tensors"}}),
       "CONFIG-UNSUPPORTED", "compressed-tensors"},
      {"roberta_classifier", set("compression_config", {{"format", "int-quantized"}}),
       "CONFIG-UNSUPPORTED", "int-quantized"},
      {"gpt2", set("quantization_config", {{"load_in_8bit", true}}), "CONFIG-UNSUPPORTED",
       "load_in_8bit"},
      {"gemma3_multimodal",
       [](Json& config) {
         config["text_config"]["quantization_config"] = {{"quant_method", "awq"}};
       },
       "CONFIG-UNSUPPORTED", "awq"},
      {"gemma3_text", set("final_logit_softcapping", 30.0), "CONFIG-UNSUPPORTED",
       "final_logit_softcapping"},
      {"gemma3_text", set("attn_logit_softcapping", 50.0), "CONFIG-UNSUPPORTED",
       "attn_logit_softcapping"},
      {"gemma3_text", set("use_bidirectional_attention", true), "CONFIG-UNSUPPORTED",
       "use_bidirectional_attention"},
      {"gemma3_text",
       set("layer_types",
           {"full_attention", "chunked_attention", "full_attention", "full_attention"}),
       "CONFIG-UNSUPPORTED", "chunked_attention"},
      {"gemma3_text", set("layer_types", {"full_attention"}), "CONFIG-INVALID", "layer_types"},
      {"gemma3_text", set("sliding_window", nullptr), "CONFIG-INVALID", "sliding_window"},
      {"gemma3_text", rope("default"), "CONFIG-INVALID", "full_attention"},
      {"gemma3_multimodal", set("text_config", 3), "CONFIG-INVALID", "text_config"},
      {"qwen2_tied", set("model_type", "qwen2_moe"), "MODEL-UNKNOWN", "qwen2_moe"},
      {"llama_untied_bias", set("model_type", "mixtral"), "MODEL-UNKNOWN", "mixtral"},
      {"llama_untied_bias", set("model_type", "deepseek_v3"), "MODEL-UNKNOWN", "deepseek_v3"},
      {"t5_relu_tied", set("model_type", "switch_transformers"), "MODEL-UNKNOWN",
       "switch_transformers"},
      {"gemma3_text", set("model_type", "gemma2"), "MODEL-UNKNOWN", "gemma2"},
      {"gemma3_text", set("model_type", "gemma3n"), "MODEL-UNKNOWN", "gemma3n"},
      {"roberta_classifier", set("model_type", "bert"), "MODEL-UNKNOWN", "bert"},
      {"gpt2", set("model_type", nullptr), "MODEL-UNKNOWN", "model_type"},
      // Heads that are others.
      {"llama_untied_bias", architecture("LlamaForTokenClassification"), "MODEL-TASK",
       "LlamaForTokenClassification"},
      {"qwen2_tied", architecture("Qwen2ForQuestionAnswering"), "MODEL-TASK",
       "Qwen2ForQuestionAnswering"},
      {"gpt2", architecture("GPT2DoubleHeadsModel"), "MODEL-TASK", "GPT2DoubleHeadsModel"},
      {"roberta_classifier", architecture("RobertaForMultipleChoice"), "MODEL-TASK",
       "RobertaForMultipleChoice"},
      {"gpt2", architecture("GPT2ForSequenceClassification"), "MODEL-TASK", "gpt2"},
      {"gpt2", set("add_cross_attention", true), "CONFIG-UNSUPPORTED", "add_cross_attention"},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.named);
    Json config = GoldenModel(refusal.model).config;
    refusal.edit(config);
    try {
      make_model(config, "config.json");
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), refusal.code);
      EXPECT_NE(std::string(error.what()).find(refusal.named), std::string::npos) << error.what();
    }
  }
}

// Quantised weights without a word in config.json, as early GPTQ and fp8 exports are.
TEST(Variants, QuantisedTensorsAreRefusedByName) {
  const GoldenModel golden("llama_untied_bias");
  const std::string quantised = "model.layers.1.mlp.down_proj.weight";
  const fs::path directory = fs::path(::testing::TempDir()) / "quantised";
  for (const FileDtype dtype : {FileDtype::i8, FileDtype::u8, FileDtype::f8_e4m3}) {
    std::vector<TensorToWrite> tensors;
    for (const std::string& name : golden.checkpoint.names()) {
      const TensorEntry* entry = golden.checkpoint.find(name);
      tensors.push_back(TensorToWrite::from_bytes(name, name == quantised ? dtype : entry->dtype,
                                                  entry->shape, entry->data));
    }
    export_checkpoint(directory, std::move(tensors),
                      {.config_json = golden.checkpoint.config_text(), .overwrite = true});
    const Checkpoint checkpoint = Checkpoint::open(directory.string());
    Runtime runtime(kernels::DeviceType::cpu);
    const auto model = make_model(golden.config, "config.json");
    model->parameters().allocate(runtime, {}, ParameterSet::Purpose::inference);
    try {
      load_weights(runtime, *model, checkpoint);
      ADD_FAILURE() << "not refused: " << name_of(dtype);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "CKPT-DTYPE");
      EXPECT_NE(std::string(error.what()).find(quantised), std::string::npos) << error.what();
    }
  }
  fs::remove_all(directory);
}

}  // namespace
}  // namespace engine
