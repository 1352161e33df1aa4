// Writing: resolved configs, the JSON Schema, the page of settings.
#include <nlohmann/json.hpp>
#include <set>

#include "engine/config/print.h"
#include "engine/config/schema.h"
#include "engine/config/yaml_text.h"
#include "engine/core/file_io.h"
#include "tests/config/support.h"

namespace engine {
namespace {

using testing::load;

constexpr const char* kFull = R"(
model:
  config: {hidden_size: 8, name: "a: b", deep: {list: [1, 2.5, null, "x\ty", true]}, "odd key": 1}
  tokenizer: "t #1"
  dropout: 0.1
data:
  train: ["a,b.jsonl", "c d", "é", "-", "null", "1.5", "yes", "~", "[x]", "*", "a: b", " lead"]
  validation_fraction: 1e-3
  fields: {prompt: "{q}\nA:", "no": "true"}
  cache_dir: "C:\\x \"y\""
train:
  max_steps: 1e6
  memory_limit: 1.5GiB
  resume: auto
  sample: {every: 3, prompts: ["line\nbreak", "", "tab\t", "bell\u0007", "\x7f"]}
optimizer: {lr: 0.1234567890123456789, eps: 1e-300}
schedule: {type: wsd, decay_steps: 10}
)";

// Every value as text, which is exact for all types.
std::map<std::string, std::string> values(TrainConfig config) {
  std::map<std::string, std::string> values;
  const Schema schema = train_schema(config);
  for (const Field& field : schema.fields) values[field.key] = value_text(field.slot);
  return values;
}

TEST(ConfigPrint, ResolvedConfigReadsBackTheSame) {
  for (const char* text : {"", kFull}) {
    const LoadedTrainConfig first = load(text);
    for (const bool origins : {false, true}) {
      const std::string yaml = to_yaml(first, {.origins = origins});
      const LoadedTrainConfig second = load(yaml);
      EXPECT_EQ(values(first.config), values(second.config)) << yaml;
      EXPECT_EQ(first.config.data.train, second.config.data.train);
      EXPECT_EQ(first.config.data.fields, second.config.data.fields);
      EXPECT_EQ(first.config.train.sample.prompts, second.config.train.sample.prompts);
      EXPECT_EQ(first.config.model.config, second.config.model.config);
      EXPECT_EQ(first.config.optimizer.lr, second.config.optimizer.lr);
      EXPECT_EQ(first.config.train.memory_limit, second.config.train.memory_limit);
    }
    EXPECT_EQ(to_yaml(first), to_yaml(first.config));
  }
}

TEST(ConfigPrint, ChangedOnly) {
  const LoadedTrainConfig loaded =
      load("train: {sample: {every: 0}}", {"train.early_stopping.threshold=0.5"});
  EXPECT_EQ(to_yaml(loaded, {.origins = false, .changed_only = true}),
            "train:\n  early_stopping:\n    threshold: 0.5\n  sample:\n    every: 0\n");
}

TEST(ConfigPrint, Origins) {
  const std::string yaml =
      to_yaml(load("train:\n  seed: 7\n", {"optimizer.lr=1e-4"}), {.origins = true});
  EXPECT_HAS(yaml, "  seed: 7                                   # c.yaml:2\n");
  EXPECT_HAS(yaml, "# option optimizer.lr=1e-4\n");
  EXPECT_HAS(yaml, "# 8 × data.max_length\n");
}

TEST(ConfigPrint, ScalarsThatNeedQuotesHaveThem) {
  EXPECT_EQ(yaml_scalar("models/llama-3.2_1B"), "models/llama-3.2_1B");
  EXPECT_EQ(yaml_scalar("../x"), "../x");
  for (const char* text : {"", "no", "True", "1", "-", "a b", "a:", "#", "~", ".5", ".inf"}) {
    EXPECT_EQ(yaml_scalar(text).front(), '"') << text;
  }
}

// A field that is added to a struct but not to the schema breaks these lines: count it there too.
TEST(ConfigSchema, HasEveryField) {
  TrainConfig c;
  const Schema schema = train_schema(c);
  std::map<std::string, size_t> count;
  for (const Field& field : schema.fields) ++count[field.key.substr(0, field.key.rfind('.'))];
  {
    [[maybe_unused]] auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10] = c.model;
    EXPECT_EQ(count["model"], 10u);
  }
  {
    [[maybe_unused]] auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16,
                            f17, f18, f19, f20, f21] = c.data;
    EXPECT_EQ(count["data"], 21u);
  }
  {
    [[maybe_unused]] auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16,
                            f17, f18, f19, f20, f21, f22, f23, f24, f25, f26, f27, f28, f29, f30] =
        c.train;
    EXPECT_EQ(count["train"], 30u - 2);  // early_stopping and sample are sections
  }
  {
    [[maybe_unused]] auto& [f1, f2] = c.train.early_stopping;
    EXPECT_EQ(count["train.early_stopping"], 2u);
  }
  {
    [[maybe_unused]] auto& [f1, f2, f3] = c.train.sample;
    EXPECT_EQ(count["train.sample"], 3u);
  }
  {
    [[maybe_unused]] auto& [f1, f2, f3, f4, f5, f6, f7] = c.optimizer;
    EXPECT_EQ(count["optimizer"], 7u);
  }
  {
    [[maybe_unused]] auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9] = c.schedule;
    EXPECT_EQ(count["schedule"], 9u);
  }
  {
    [[maybe_unused]] auto& [f1, f2] = c.logging;
    EXPECT_EQ(count["logging"], 2u);
  }
  {
    GenerateConfig generate;
    [[maybe_unused]] auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11] = generate;
    EXPECT_EQ(generate_schema(generate).fields.size(), 11u);
  }
}

TEST(ConfigSchema, EverySettingIsDocumentedOnceAndPointsSomewhereElse) {
  TrainConfig config;
  const Schema schema = train_schema(config);
  std::set<std::string> keys;
  for (const Field& field : schema.fields) {
    EXPECT_TRUE(keys.insert(field.key).second) << field.key;
    EXPECT_GE(field.doc.size(), 10u) << field.key;
    EXPECT_NE(field.doc.back(), '.') << field.key;
    EXPECT_TRUE(schema.has_section(field.key.substr(0, field.key.rfind('.')))) << field.key;
  }
  // Setting one field changes that one and no other.
  for (const Field& field : schema.fields) {
    TrainConfig changed;
    const Schema bound = train_schema(changed);
    const auto before = values(changed);
    const std::string type = type_name(field);
    ConfigNode node;
    node.kind = ConfigNode::Kind::scalar;
    if (const auto* choice = std::get_if<ChoiceSlot>(&field.slot)) {
      node.scalar = choice->names[value_text(field.slot) == choice->names[0] ? 1 : 0];
    } else if (type == "true|false") {
      node.scalar = value_text(field.slot) == "true" ? "false" : "true";
    } else if (type == "map of text") {
      node = read_config_document("{a: b}", "test");
    } else {
      node.scalar = field.range.max <= 1 ? "0.25" : "77";
    }
    assign(bound.at(field.key), node, Place{});
    auto after = values(changed);
    EXPECT_NE(after.at(field.key), before.at(field.key)) << field.key;
    after[field.key] = before.at(field.key);
    EXPECT_EQ(after, before) << field.key;
  }
}

TEST(ConfigSchema, HintsForOtherToolsNameSettingsThatExist) {
  TrainConfig config;
  const Schema schema = train_schema(config);
  for (const char* foreign : {"learning_rate", "num_train_epochs", "gradient_checkpointing",
                              "early_stopping_patience", "cutoff_len", "grad_clip"}) {
    EXPECT_NE(schema.find(setting_for_foreign_name(foreign)), nullptr) << foreign;
  }
}

TEST(ConfigSchema, IsAJsonSchema) {
  const auto schema = nlohmann::json::parse(train_json_schema());
  const auto& train = schema.at("properties").at("train");
  EXPECT_EQ(train.at("additionalProperties"), false);
  EXPECT_EQ(train.at("properties").at("seed").at("default"), 42);
  EXPECT_EQ(train.at("properties").at("accumulation").at("minimum"), 1);
  EXPECT_EQ(train.at("properties").at("sample").at("properties").at("every").at("type"), "integer");
  EXPECT_EQ(schema.at("properties").at("data").at("properties").at("add_bos").at("enum"),
            nlohmann::json({"auto", true, false}));
  EXPECT_EQ(
      schema.at("properties").at("optimizer").at("properties").at("beta1").at("exclusiveMaximum"),
      1.0);
}

TEST(ConfigSchema, PageIsUpToDate) {
  EXPECT_EQ(read_text_file(std::string(ENGINE_SOURCE_DIR) + "/docs/config.md"), train_markdown())
      << "engine config schema --markdown > docs/config.md";
}

TEST(ConfigSchema, HelpNamesEverySetting) {
  TrainConfig config;
  const Schema schema = train_schema(config);
  const std::string help = schema_help(schema);
  for (const std::string& key : schema.keys()) EXPECT_HAS(help, "  " + key + " ");
}

}  // namespace
}  // namespace engine
