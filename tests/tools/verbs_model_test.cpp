// engine generate, eval, dump: what they compute, against transformers' numbers where there are
// some (tests/models/golden) and against each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/generate/settings.h"
#include "engine/generate/text_stream.h"
#include "tests/models/golden_model.h"
#include "tests/support/shared_data.h"
#include "tests/tools/verbs_support.h"
#include "weights/export.h"

namespace engine {
namespace {

using namespace testing;
using Json = nlohmann::json;

// A random llama with the tiny tokenizer's vocabulary: text in, text out. Made once.
const std::string& tiny_model() {
  static const std::string directory = [] {
    const auto config = nlohmann::ordered_json::parse(
        R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300,
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.5,
            "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": true})");
    Runtime runtime(kernels::DeviceType::cpu);
    const auto model = make_model(config, "config.json");
    model->parameters().allocate(runtime, PrecisionPolicy::fp32(),
                                 ParameterSet::Purpose::inference);
    model->parameters().initialize(runtime, 7);
    const std::string out = scratch() / "tiny";
    export_checkpoint(out, tensors_to_write(runtime, *model, {}, FileDtype::f32),
                      {.config_json = config.dump(),
                       .generation_config_json = "{\"eos_token_id\": [299, 0]}",
                       .tokenizer_directory = tiny_tokenizer()});
    return out;
  }();
  return directory;
}

std::vector<Json> json_lines(const std::string& text) {
  std::vector<Json> rows;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) rows.push_back(Json::parse(line));
  return rows;
}

TEST(Generate, ReproducesTheGreedyTextOfLlama2c) {
  ENGINE_REQUIRE_SHARED_DATA(directory, "weights/stories260K");
  const std::string model = scratch() / "stories";
  ASSERT_EQ(run("convert " + (directory / "stories260K.bin").string() + " " + model).code, 0);
  const Json golden_run = Json::parse(read(directory / "golden.json"));
  for (const std::string start : {"--ids 1", "--prompt ''"}) {
    const Result result =
        run("generate " + model + " " + start + " --greedy --max-new-tokens 255 --json");
    ASSERT_EQ(result.code, 0) << result.err;
    Json ids = Json::parse(result.out)["ids"];
    ids.insert(ids.begin(), 1);
    EXPECT_EQ(ids, golden_run["greedy_ids"]);
  }
  // The text goes on where the prompt ends, with the space that Llama 2 drops at the beginning.
  EXPECT_EQ(run("generate " + model + " -n 4 --prompt 'Once upon'").out, " a time, there\n");
  // The loss of a text, as computed in float64 from the same weights.
  Json row{{"input_ids", golden_run["text_ids"]}};
  const Result eval = run("eval " + model + " --json -d " + write("text.jsonl", row.dump()));
  ASSERT_EQ(eval.code, 0) << eval.err;
  EXPECT_NEAR(Json::parse(eval.out)["loss"].get<double>(),
              golden_run["text_mean_loss"].get<double>(), 1e-5);
}

TEST(Devices, TheSoftwareGpuSaysWhatTheCpuSays) {
  ENGINE_REQUIRE_SHARED_DATA(directory, "weights/stories260K");
  const std::string model = scratch() / "stories_simt";
  ASSERT_EQ(run("convert " + (directory / "stories260K.bin").string() + " " + model).code, 0);
  const Json golden_run = Json::parse(read(directory / "golden.json"));
  const Result result =
      run("generate " + model + " --ids 1 --greedy --max-new-tokens 40 --json --device simt");
  ASSERT_EQ(result.code, 0) << result.err;
  Json ids = Json::parse(result.out)["ids"];
  ids.insert(ids.begin(), 1);
  const Json expected(golden_run["greedy_ids"].begin(), golden_run["greedy_ids"].begin() + 41);
  EXPECT_EQ(ids, expected);
  EXPECT_TRUE(has(result.err, "note    simt simulates a GPU")) << result.err;
  Json row{{"input_ids", golden_run["text_ids"]}};
  const Result eval =
      run("eval -q " + model + " --json -d " + write("text.jsonl", row.dump()) + " --device simt");
  ASSERT_EQ(eval.code, 0) << eval.err;
  EXPECT_NEAR(Json::parse(eval.out)["loss"].get<double>(),
              golden_run["text_mean_loss"].get<double>(), 1e-5);
  EXPECT_FALSE(has(eval.err, "simulates")) << eval.err;
}

TEST(Devices, Mistakes) {
  for (const std::string& verb : {"generate " + golden("gpt2") + " --ids 1",
                                  "dump " + golden("gpt2") + " -o " + scratch() / "none"}) {
    const Result unknown = run(verb + " --device gpu");
    EXPECT_EQ(unknown.code, 2);
    EXPECT_TRUE(has(unknown.err, "DEV-NAME")) << unknown.err;
    EXPECT_TRUE(has(unknown.err, "auto, cpu, cuda, cuda:N or simt")) << unknown.err;
    // No machine has so many GPUs: without CUDA, without a driver and with both it is a mistake.
    const Result absent = run(verb + " --device cuda:4095");
    EXPECT_EQ(absent.code, 2);
    EXPECT_TRUE(has(absent.err, "error[DEV-")) << absent.err;
    EXPECT_TRUE(has(absent.err, "--device cpu") || has(absent.err, "DEV-INDEX")) << absent.err;
  }
  EXPECT_TRUE(has(run("env").out, "cpu, simt"));
}

TEST(Generate, BatchesStreamsAndSeeds) {
  const std::string verb = "generate " + tiny_model() + " -n 12 --ignore-eos --json ";
  const Result one = run(verb + "--prompt 'the cat'");
  ASSERT_EQ(one.code, 0) << one.err;
  const Json alone = Json::parse(one.out);
  EXPECT_EQ(alone["ids"].size(), 12u);
  EXPECT_EQ(alone["stop"], "length");
  // Streaming prints the same text; so does a batch, in any batch size.
  EXPECT_EQ(run("generate " + tiny_model() + " -n 12 --ignore-eos", "the cat\n").out,
            alone["text"].get<std::string>() + "\n");
  for (const char* size : {"1", "2", "16"}) {
    const Result batch = run(verb + "--prompts " + write("prompts.txt", "a dog\nthe cat\n\nhat") +
                             " --batch-size " + size);
    const std::vector<Json> rows = json_lines(batch.out);
    ASSERT_EQ(rows.size(), 3u) << batch.err;
    EXPECT_EQ(rows[1], alone);
  }
  // Draws depend on the seed and the sequence, not on the batch.
  const std::string draw = verb + "--sample temperature=0.9 top_k=0 --num-return-sequences 3 ";
  const std::vector<Json> a = json_lines(run(draw + "--prompt the --batch-size 3").out);
  const std::vector<Json> b = json_lines(run(draw + "--prompt the --batch-size 2").out);
  const std::vector<Json> c = json_lines(run(draw + "--prompt the --seed 1").out);
  ASSERT_EQ(a.size(), 3u);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  EXPECT_NE(a[0]["ids"], a[1]["ids"]);
}

TEST(Generate, StopsWhereTold) {
  const std::string verb = "generate " + tiny_model() + " --json --ids 5,6 ";
  const Json free = Json::parse(run(verb + "--ignore-eos -n 20").out);
  const std::string text = free["text"].get<std::string>();
  // Stop at a letter: what comes before it stays, and tokens end there.
  size_t at = 1;
  while (at < text.size() && !std::isalnum(static_cast<unsigned char>(text[at]))) ++at;
  ASSERT_LT(at, text.size()) << text;
  const std::string piece = text.substr(at, 1);
  const Json stopped = Json::parse(run(verb + "--ignore-eos -n 20 --stop " + piece).out);
  EXPECT_EQ(stopped["stop"], "stop");
  EXPECT_EQ(stopped["text"], text.substr(0, text.find(piece)));
  EXPECT_LT(stopped["ids"].size(), 20u);
  // A positions limit of 64: two in the prompt, 62 new ones.
  const Json full = Json::parse(run(verb + "--ignore-eos -n 100").out);
  EXPECT_EQ(full["stop"], "context");
  EXPECT_EQ(full["ids"].size(), 62u);
}

TEST(Generate, Mistakes) {
  EXPECT_EQ(run("generate " + golden("gpt2") + " --prompt x").code, 4);  // no tokenizer
  const Result ids = run("generate " + golden("gpt2") + " --ids '1, 2' -n 3");
  EXPECT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(std::count(ids.out.begin(), ids.out.end(), ','), 2);
  EXPECT_EQ(run("generate " + golden("gpt2") + " --ids 101").code, 2);
  EXPECT_EQ(run("generate " + golden("gpt2") + " --ids 1,x").code, 2);
  EXPECT_EQ(run("generate " + golden("llama_classifier") + " --ids 1").code, 2);
  const Result bare = run("generate " + tiny_model() + " hello");
  EXPECT_EQ(bare.code, 2);
  EXPECT_TRUE(has(bare.err, "--prompt 'hello'")) << bare.err;
  const Result typo = run("generate " + tiny_model() + " --prompt a temprature=1");
  EXPECT_EQ(typo.code, 2);
  EXPECT_TRUE(has(typo.err, "did you mean temperature?")) << typo.err;
  EXPECT_EQ(run("generate " + tiny_model() + " --prompt a top_p=2").code, 2);
  EXPECT_EQ(run("generate " + tiny_model() + " --prompt a --precision int8").code, 2);
  EXPECT_EQ(run("generate " + tiny_model() + " --prompts /no/such").code, 3);
  EXPECT_EQ(run("generate " + tiny_model() + " --prompts " + write("p.jsonl", "{\"p\":1}")).code,
            3);
}

TEST(GenerationSettings, InheritFromTheCheckpoint) {
  ModelInfo info;
  info.eos_ids = {2};
  const std::string file =
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [128001, 128009],
          "num_beams": 4})";
  GenerateConfig config;
  config.top_p = 0.5;
  const GenerationSettings inherited = resolve_generation(config, file, "x", info);
  EXPECT_TRUE(inherited.options.sampling.do_sample);
  EXPECT_FLOAT_EQ(inherited.options.sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(inherited.options.sampling.top_p, 0.5f);  // the user's wins
  EXPECT_EQ(inherited.options.sampling.top_k, 50);          // the library's default
  EXPECT_EQ(inherited.options.eos_ids, (std::vector<int32_t>{128001, 128009}));
  ASSERT_EQ(inherited.warnings.size(), 1u);
  EXPECT_TRUE(has(inherited.warnings[0], "num_beams=4"));

  config.inherit = GenerationInherit::none;
  const GenerationSettings own = resolve_generation(config, file, "x", info);
  EXPECT_FALSE(own.options.sampling.do_sample);
  EXPECT_FLOAT_EQ(own.options.sampling.temperature, 1.0f);
  EXPECT_EQ(own.options.eos_ids.size(), 2u);
  EXPECT_EQ(resolve_generation(config, "", "x", info).options.eos_ids, std::vector<int32_t>{2});
  config.ignore_eos = true;
  EXPECT_TRUE(resolve_generation(config, file, "x", info).options.eos_ids.empty());
  EXPECT_THROW(resolve_generation(config, "[]", "x", info), Error);
  EXPECT_THROW(resolve_generation({}, R"({"top_k": "many"})", "x", info), Error);
}

TEST(TextStream, EveryCutGivesTheSameText) {
  const Tokenizer tokenizer = Tokenizer::open(tiny_tokenizer());
  const std::string text = "the cat sat \xf0\x9f\x90\x88 on the mat. STOP and more";
  const std::vector<int32_t> ids = tokenizer.encode(text);
  const auto stream = [&](std::vector<std::string> stop) {
    TextStream out(tokenizer, {}, std::move(stop), true);
    std::string joined;
    for (const int32_t id : ids) {
      joined += out.push(id);
      if (out.stopped()) break;
    }
    joined += out.finish();
    EXPECT_EQ(joined, out.text());
    return joined;
  };
  EXPECT_EQ(stream({}), text);
  EXPECT_EQ(stream({"STOP"}), text.substr(0, text.find("STOP")));
  EXPECT_EQ(stream({"more", "STOP", ""}), text.substr(0, text.find("STOP")));
  EXPECT_EQ(stream({"more!"}), text);  // held back at the end, then given
  EXPECT_EQ(stream({" and m", "."}), text.substr(0, text.find('.')));
}

// Rows of a golden model as `engine dump` takes them.
std::string dump_rows(const GoldenModel& model) {
  std::string rows;
  for (int i = 0; i < model.rows(); ++i) {
    const std::string n = std::to_string(i);
    Json row{{"input_ids", model.ints("input_ids." + n)}};
    const bool numbers =
        model.classifier() &&
        make_model(model.config, "config.json")->info().problem_type != ProblemType::single_label;
    if (numbers) {
      row["labels"] = model.floats("labels." + n);
    } else {
      row["labels"] = model.ints("labels." + n);  // of a classifier, a list of one
    }
    rows += row.dump() + "\n";
  }
  return rows;
}

class Dump : public ::testing::TestWithParam<DeviceAndModel> {};
INSTANTIATE_TEST_SUITE_P(Models, Dump, on_every_device(golden_models()), device_and_model);

// Tolerances as in tests/models/golden_test.cpp: fp32 on both sides, sums in another order.
TEST_P(Dump, AgreesWithTransformers) {
  const auto [device, name] = GetParam();
  const GoldenModel model(name);
  const std::string out = scratch() / "dump.safetensors";
  const Result result =
      run("dump " + golden(name) + " --out " + out + " --device " + kernels::name_of(device),
          dump_rows(model));
  ASSERT_EQ(result.code, 0) << result.err;
  const SafetensorsFile dump = SafetensorsFile::open(out);
  int compared = 0;
  for (const TensorEntry& entry : dump.tensors()) {
    ASSERT_TRUE(model.has(entry.name)) << entry.name;
    ASSERT_EQ(entry.dtype, FileDtype::f32);
    EXPECT_EQ(entry.shape, model.golden.find(entry.name)->shape) << entry.name;
    std::vector<float> ours(entry.num_elements());
    std::memcpy(ours.data(), entry.data, entry.bytes);
    const std::vector<float> theirs = model.floats(entry.name);
    double worst = 0, difference = 0, norm = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      const double d = double{ours[i]} - theirs[i];
      worst = std::max(worst, std::abs(d));
      difference += d * d;
      norm += double{theirs[i]} * theirs[i];
    }
    if (entry.name.ends_with("self.key.bias")) {
      EXPECT_LE(worst, 1e-6) << entry.name;  // 0 but for rounding: softmax cancels it
    } else if (entry.name.starts_with("grad.")) {
      EXPECT_LE(std::sqrt(difference), 1e-4 * std::sqrt(norm)) << entry.name;
    } else {
      EXPECT_LE(worst, 1e-4) << entry.name;
    }
    ++compared;
  }
  int expected = 0;
  for (const TensorEntry& entry : model.golden.tensors()) {
    for (const char* kind : {"logits.", "hidden.", "encoder.", "decoder.", "grad.", "loss"}) {
      expected += entry.name.starts_with(kind);
    }
  }
  EXPECT_EQ(compared, expected);
}

TEST(DumpRows, DecoderInputsOfAnEncoderDecoderModel) {
  const std::string shifted = scratch() / "shifted", given = scratch() / "given";
  const std::string verb = "dump " + golden("t5_relu_tied") + " --no-grad --out ";
  const std::string labels = R"({"input_ids":[5,6,1],"labels":[7,-100,1])";
  ASSERT_EQ(run(verb + shifted, labels + "}").code, 0);
  // What the labels shifted right are: the start, and the pad id where nothing is predicted.
  ASSERT_EQ(run(verb + given, labels + R"(,"decoder_input_ids":[0,7,0]})").code, 0);
  EXPECT_EQ(read(shifted), read(given));
  // Without labels there are logits, but no loss.
  ASSERT_EQ(run(verb + given, R"({"input_ids":[5,6,1],"decoder_input_ids":[0,7]})").code, 0);
  const SafetensorsFile dump = SafetensorsFile::open(given);
  EXPECT_EQ(dump.find("logits.0")->shape, (std::vector<int64_t>{2, 97}));
  EXPECT_EQ(dump.find("loss"), nullptr);
  for (const char* row : {R"({"input_ids":[5,6]})", R"({"input_ids":[5],"labels":[97]})",
                          R"({"input_ids":[5],"labels":[1,2],"decoder_input_ids":[0]})"}) {
    EXPECT_EQ(run(verb + given, row).code, 3) << row;
  }
}

// Untrained, but from text to text and back: the source is read once, the answer begins anew.
TEST(Generate, EncoderDecoder) {
  const Result result = run("generate " + golden("t5_gated_untied") + " --ids 61,84,1 -n 5 --json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["ids"].size(), 5u);
  const Result facts = run("inspect --json " + golden("t5_gated_untied"));
  ASSERT_EQ(facts.code, 0) << facts.err;
  const Json json = Json::parse(facts.out);
  EXPECT_EQ(json["model"]["task"], "seq2seq_lm");
  EXPECT_EQ(json["model"]["position_embeddings"], "relative");
  EXPECT_TRUE(json["weights"]["missing"].empty());
  EXPECT_TRUE(json["weights"]["unused"].empty());
  EXPECT_GT(json["flops"]["example"].get<double>(), 0);
}

TEST(Eval, EncoderDecoder) {
  const GoldenModel model("t5_relu_tied");
  const Result result = run("eval " + golden("t5_relu_tied") + " --json -d " +
                            write("pairs.jsonl", dump_rows(model)));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NEAR(Json::parse(result.out)["loss"].get<double>(), model.floats("loss")[0], 1e-5);
}

TEST(DumpRows, Mistakes) {
  const std::string verb =
      "dump " + golden("gpt2") + " --out " + scratch() / "bad.safetensors" + " ";
  const std::string fine = "{\"input_ids\":[1,2,3],\"labels\":[1,2,3]}\n";
  const struct {
    const char* row;
    const char* message;
  } rows[] = {
      {"{\"input_ids\":[1,2,101],\"labels\":[1,2,3]}", "error[DATA-ID]: standard input:2: "},
      {"{\"input_ids\":[1,2,3],\"labels\":[1,2,-1]}", "error[DATA-ID]: standard input:2: "},
      {"{\"input_ids\":[1,2,3],\"labels\":[1,2]}", "error[DATA-LENGTH]: standard input:2: "},
      {"{\"input_ids\":[1,\"2\"]}", "error[DATA-TYPE]: standard input:2: "},
      {"{\"input_ids\":[]}", "error[DATA-FIELD]: standard input:2: "},
      {"{\"ids\":[1]}", "error[DATA-FIELD]: standard input:2: "},
      {"{\"input_ids\":[1", "error[DATA-JSON]: standard input:2: "},
  };
  for (const auto& row : rows) {
    const Result result = run(verb, fine + row.row);
    EXPECT_EQ(result.code, 3) << row.row;
    EXPECT_TRUE(has(result.err, row.message)) << result.err;
  }
  std::string long_row = "{\"input_ids\":[1";
  for (int i = 0; i < 40; ++i) long_row += ",1";
  EXPECT_TRUE(has(run(verb, long_row + "]}").err, "DATA-OVERFLOW"));  // 40 learned positions
  EXPECT_TRUE(has(run(verb, "").err, "DATA-EMPTY"));
  EXPECT_TRUE(has(run(verb, "{\"input_ids\":[1,2,3]}").err, "DATA-NO-TARGET"));
  EXPECT_FALSE(fs::exists(scratch() / "bad.safetensors"));
  EXPECT_EQ(run(verb + "--no-grad --no-hidden", "{\"input_ids\":[1,2,3]}").code, 0);
  EXPECT_EQ(SafetensorsFile::open(scratch() / "bad.safetensors").tensors().size(), 1u);
  EXPECT_EQ(run("dump " + golden("llama_classifier") + " --out " + scratch() / "c",
                "{\"input_ids\":[1,2],\"labels\":3}")
                .code,
            3);
  for (const char* labels : {"[1,0,1]", "[1,0,2,0]", "\"LABEL_0\"", "1"}) {
    const Result result =
        run("dump " + golden("roberta_multilabel_classifier") + " --out " + scratch() / "c",
            std::string("{\"input_ids\":[7],\"labels\":") + labels + "}");
    EXPECT_TRUE(has(result.err, "expected  4 numbers from 0 to 1")) << labels << result.err;
  }
}

TEST(Eval, TokenWeightedLossAndGroups) {
  const GoldenModel model("gpt2");
  std::string rows;
  for (int i = 1; i < model.rows(); ++i) {  // row 0 has one token and no target
    const std::string n = std::to_string(i);
    rows += Json{{"input_ids", model.ints("input_ids." + n)},
                 {"labels", model.ints("labels." + n)},
                 {"kind", i == 1 ? "short" : "long"}}
                .dump() +
            "\n";
  }
  const std::string verb =
      "eval " + golden("gpt2") + " --json -d " + write("eval.jsonl", rows) + " ";
  double loss = 0;
  for (const char* batching : {"", "data.packing=rows train.micro_batch_rows=1"}) {
    const Result result = run(verb + batching);
    ASSERT_EQ(result.code, 0) << result.err;
    const Json json = Json::parse(result.out);
    loss = json["loss"].get<double>();
    EXPECT_NEAR(loss, model.floats("loss")[0], 1e-5);
    EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(loss), 1e-9);
    EXPECT_EQ(json["rows"], model.rows() - 1);
  }
  const Json grouped = Json::parse(run(verb + "data.label_field=kind").out);
  EXPECT_EQ(grouped["groups"]["short"]["rows"], 1);
  EXPECT_EQ(grouped["groups"]["long"]["rows"], 2);
  // The groups' losses, weighted by their labels (1 and the others), are the whole loss.
  const double labels = grouped["labels"].get<double>();
  EXPECT_NEAR(grouped["groups"]["short"]["loss"].get<double>() / labels +
                  grouped["groups"]["long"]["loss"].get<double>() * (labels - 1) / labels,
              loss, 1e-6);  // fp32 losses of other batches
}

TEST(Eval, Classifier) {
  const GoldenModel model("llama_classifier");
  std::string rows;
  for (int i = 0; i < model.rows(); ++i) {
    const std::string n = std::to_string(i);
    rows += Json{{"input_ids", model.ints("input_ids." + n)},
                 {"label", "LABEL_" + std::to_string(model.ints("labels." + n)[0])}}
                .dump() +
            "\n";
  }
  const std::string verb = "eval " + golden("llama_classifier") + " --json -d ";
  const Result result = run(verb + write("classes.jsonl", rows) + " data.on_no_target=keep");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NEAR(Json::parse(result.out)["loss"].get<double>(), model.floats("loss")[0], 1e-5);
  const Result unknown =
      run(verb + write("class.jsonl", "{\"input_ids\":[5,6],\"label\":\"LABEL_3\"}"));
  EXPECT_EQ(unknown.code, 3);
  EXPECT_TRUE(has(unknown.err, "DATA-LABEL"));
}

TEST(Eval, PredictionsOfEveryProblem) {
  for (const char* name :
       {"llama_reward_classifier", "roberta_classifier", "roberta_multilabel_classifier"}) {
    const GoldenModel model(name);
    std::string rows;
    for (int i = 0; i < model.rows(); ++i) {
      Json row{{"input_ids", model.ints("input_ids." + std::to_string(i))}};
      if (i > 0) row["label"] = nullptr;  // the first row does not even have the field
      rows += row.dump() + "\n";
    }
    const std::string out = scratch() / "predictions.jsonl";
    const Result result = run("eval " + golden(name) + " -d " + write("unlabelled.jsonl", rows) +
                              " --predictions " + out);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(has(result.out, "no row has a label: 4 rows"));
    std::istringstream lines(read(out));
    int i = 0;
    for (std::string line; std::getline(lines, line); ++i) {
      const Json json = Json::parse(line);
      EXPECT_EQ(json["line"], i + 1);
      EXPECT_FALSE(json.contains("label"));
      const std::vector<float> expected = model.floats("logits." + std::to_string(i));
      if (expected.size() == 1) {
        EXPECT_NEAR(json["prediction"].get<float>(), expected[0], 1e-4);
        continue;
      }
      double sum = 0;
      for (size_t c = 0; c < expected.size(); ++c) {
        EXPECT_NEAR(json["logits"][c].get<float>(), expected[c], 1e-4);
        sum += json["probabilities"]["LABEL_" + std::to_string(c)].get<double>();
      }
      if (name == std::string("roberta_classifier")) {
        EXPECT_NEAR(sum, 1.0, 1e-12);
        const auto best = std::max_element(expected.begin(), expected.end()) - expected.begin();
        EXPECT_EQ(json["prediction"], "LABEL_" + std::to_string(best));
      } else {
        EXPECT_EQ(json["prediction"].size(),
                  std::count_if(expected.begin(), expected.end(), [](float z) { return z > 0; }));
      }
    }
    EXPECT_EQ(i, model.rows());
  }
  EXPECT_EQ(run("eval " + golden("gpt2") + " -d " + scratch() / "eval.jsonl" + " --predictions " +
                scratch() / "p.jsonl")
                .code,
            2);
}

TEST(Eval, Mistakes) {
  EXPECT_EQ(run("eval " + golden("gpt2")).code, 2);
  EXPECT_EQ(run("eval " + golden("gpt2") + " -d /no/such.jsonl").code, 3);
  EXPECT_EQ(run("eval /no/such -d x.jsonl").code, 4);
  EXPECT_EQ(run("eval " + golden("gpt2") + " -d x.jsonl data.max_lenght=3").code, 2);
  // Text rows without a tokenizer.
  EXPECT_EQ(run("eval " + golden("gpt2") + " -d " + write("t.jsonl", "{\"text\":\"a\"}")).code, 2);
}

}  // namespace
}  // namespace engine
