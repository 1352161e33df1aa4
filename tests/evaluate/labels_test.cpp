// What the labels of rows mean to a classifier.
#include "engine/step/labels.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;
using Names = std::vector<std::string>;
using Values = std::vector<float>;

LabelScheme choose(const Names& labels, const Json& json = Json::object(),
                   const ModelConfig& config = {}) {
  return choose_labels(config, json, labels);
}

// Rows with these labels, one each.
TokenisedData data_of(const Names& labels) {
  TokenWriter writer{Hash128{}};
  for (size_t i = 0; i < labels.size(); ++i) {
    TokenWriter::Row row;
    row.line = i + 1;
    row.label = static_cast<int32_t>(i);
    writer.add(row);
  }
  TokenisedData data{TokenisedRows::from_memory(writer.finish(labels, {}), Hash128{})};
  data.files = {"rows.jsonl"};
  return data;
}

TEST(LabelScheme, IsToldByTheLabels) {
  const LabelScheme names = choose({"spam", "ham"});
  EXPECT_EQ(names.problem_type, ProblemType::single_label);
  EXPECT_EQ(names.names, (Names{"ham", "spam"}));
  const LabelScheme ids = choose({"2", "0"});
  EXPECT_EQ(ids.problem_type, ProblemType::single_label);
  EXPECT_EQ(ids.names, (Names{"0", "1", "2"}));
  const LabelScheme numbers = choose({"1", "0.5"});
  EXPECT_EQ(numbers.problem_type, ProblemType::regression);
  EXPECT_EQ(numbers.names, Names{"LABEL_0"});
  const LabelScheme sets = choose({"[\"b\",\"a\"]", "[]", "[\"c\"]"});
  EXPECT_EQ(sets.problem_type, ProblemType::multi_label);
  EXPECT_EQ(sets.names, (Names{"a", "b", "c"}));
  const LabelScheme bits = choose({"[0,1]", "[1,1]"});
  EXPECT_EQ(bits.problem_type, ProblemType::multi_label);
  EXPECT_EQ(bits.names, (Names{"LABEL_0", "LABEL_1"}));
}

TEST(LabelScheme, IsToldByTheCheckpoint) {
  const Json three = {{"id2label", {{"0", "neg"}, {"1", "neu"}, {"2", "pos"}}},
                      {"label2id", {{"neg", 0}, {"neu", 1}, {"pos", 2}}}};
  EXPECT_EQ(choose({"pos", "neg"}, three).names, (Names{"neg", "neu", "pos"}));
  EXPECT_EQ(choose({"0", "1"}, three).names, (Names{"neg", "neu", "pos"}));
  EXPECT_EQ(choose({"good", "bad"}, three).names, (Names{"bad", "good"}));  // not its names
  // HF: one label is regression, whatever the labels look like.
  const Json one = {{"id2label", {{"0", "LABEL_0"}}}, {"label2id", {{"LABEL_0", 0}}}};
  EXPECT_EQ(choose({"0", "1"}, one).problem_type, ProblemType::regression);
  const Json several = {{"problem_type", "multi_label_classification"}};
  EXPECT_EQ(choose({"[1,0,0]"}, several).names.size(), 3u);
}

TEST(LabelScheme, IsToldByTheSettings) {
  ModelConfig config;
  config.num_labels = 1;
  EXPECT_EQ(choose({"3", "4"}, Json::object(), config).problem_type, ProblemType::regression);
  config = {};
  config.label_names = {"x", "y", "z"};
  EXPECT_EQ(choose({"x"}, Json::object(), config).names, (Names{"x", "y", "z"}));
  config = {};
  config.num_labels = 3;
  EXPECT_EQ(choose({"0", "1"}, Json::object(), config).names, (Names{"0", "1", "2"}));
  EXPECT_EQ(choose({"a", "b"}, Json::object(), config).names, (Names{"a", "b", "LABEL_2"}));
  config = {};
  config.problem_type = ModelProblem::regression;
  EXPECT_EQ(choose({"[0.5,1]"}, Json::object(), config).names.size(), 2u);
  EXPECT_THROW(choose({}), Error);
}

TEST(LabelTargets, OfEachProblem) {
  const LabelScheme one{ProblemType::single_label, {"neg", "pos"}};
  EXPECT_EQ(label_targets(one, data_of({"pos", "neg", "1"})).classes,
            (std::vector<int32_t>{1, 0, 1}));
  const LabelScheme number{ProblemType::regression, {"LABEL_0"}};
  EXPECT_EQ(label_targets(number, data_of({"0.25", "-3", "1e2"})).values, (Values{0.25f, -3, 100}));
  const LabelScheme pair{ProblemType::regression, {"LABEL_0", "LABEL_1"}};
  EXPECT_EQ(label_targets(pair, data_of({"[1,0.5]"})).values, (Values{1, 0.5f}));
  const LabelScheme sets{ProblemType::multi_label, {"a", "b", "c"}};
  EXPECT_EQ(label_targets(sets, data_of({"[\"c\",\"a\"]", "[]", "[0,1,0.5]", "[true,false,true]"}))
                .values,
            (Values{1, 0, 1, 0, 0, 0, 0, 1, 0.5f, 1, 0, 1}));
}

TEST(LabelTargets, MistakesNameTheRow) {
  const auto fails = [](const LabelScheme& scheme, const std::string& label) {
    try {
      label_targets(scheme, data_of({scheme.problem_type == ProblemType::single_label ? "a"
                                     : scheme.problem_type == ProblemType::regression ? "1"
                                                                                      : "[\"a\"]",
                                     label}));
    } catch (const Error& error) {
      return error.code() == "DATA-LABEL" &&
             std::string(error.what()).find("rows.jsonl:2") != std::string::npos;
    }
    return false;
  };
  const LabelScheme one{ProblemType::single_label, {"a", "b"}};
  for (const char* label : {"c", "2", "-1", "0.5", "[0]", ""})
    EXPECT_TRUE(fails(one, label)) << label;
  const LabelScheme number{ProblemType::regression, {"LABEL_0"}};
  for (const char* label : {"x", "[1,2]", "[\"1\"]", ""})
    EXPECT_TRUE(fails(number, label)) << label;
  const LabelScheme sets{ProblemType::multi_label, {"a", "b"}};
  for (const char* label : {"a", "1", "[\"c\"]", "[1]", "[1,2]", "[\"a\",1]", "[1,\"a\"]"}) {
    EXPECT_TRUE(fails(sets, label)) << label;
  }
}

TEST(LabelScheme, IsWrittenAndReadAsHuggingFaceDoes) {
  Json json = Json::object();
  write_labels({ProblemType::multi_label, {"x", "y"}}, json);
  EXPECT_EQ(json["id2label"], (Json{{"0", "x"}, {"1", "y"}}));
  EXPECT_EQ(json["label2id"], (Json{{"x", 0}, {"y", 1}}));
  EXPECT_EQ(json["problem_type"], "multi_label_classification");
}

}  // namespace
}  // namespace engine
