// Values: types, spellings, positions, mistakes.
#include <filesystem>
#include <fstream>

#include "engine/config/choices.h"
#include "tests/config/support.h"

namespace engine {
namespace {

using testing::error_of;
using testing::load;

TEST(ConfigParse, EmptyIsDefaults) {
  for (const char* text : {"", "\n# only a comment\n", "{}", "train:\n", "---\n"}) {
    const TrainConfig config = load(text).config;
    EXPECT_EQ(config.train.seed, 42u) << text;
    EXPECT_EQ(config.optimizer.lr, 5e-5);
    EXPECT_EQ(config.train.epochs, 3.0);
    EXPECT_EQ(config.train.micro_batch_tokens, 8 * 1024);
  }
}

TEST(ConfigParse, EveryTypeOfValue) {
  const TrainConfig config = load(R"(
model:
  path: models/x
  label_names: [a, "b c", 'd']
data:
  train: one.jsonl
  validation:
    - two.jsonl
    - "3"
  fields: {prompt: question, completion: "{a} {b}"}
  add_bos: true
  add_eos: auto
  overflow: truncate_left
  seed: 18446744073709551615
train:
  max_grad_norm: .5
  max_steps: 1e6
  eval_at_start: True
  memory_limit: 8GiB
  sample: {every: 10, prompts: "Once: upon", max_new_tokens: +7}
optimizer: {lr: 1e-4, eps: 1.0E-6, weight_decay: 0}
)")
                                 .config;
  EXPECT_EQ(config.model.path, "models/x");
  EXPECT_EQ(config.model.init, ModelInit::pretrained);
  EXPECT_EQ(config.model.label_names, (std::vector<std::string>{"a", "b c", "d"}));
  EXPECT_EQ(config.data.train, std::vector<std::string>{"one.jsonl"});
  EXPECT_EQ(config.data.validation, (std::vector<std::string>{"two.jsonl", "3"}));
  EXPECT_EQ(config.data.fields.at("completion"), "{a} {b}");
  EXPECT_EQ(config.data.add_bos, Toggle::on);
  EXPECT_EQ(config.data.add_eos, Toggle::automatic);
  EXPECT_EQ(config.data.overflow, Overflow::truncate_left);
  EXPECT_EQ(config.data_seed(), UINT64_MAX);
  EXPECT_EQ(config.train.max_grad_norm, 0.5);
  EXPECT_EQ(config.train.max_steps, 1000000);
  EXPECT_FALSE(config.train.epochs.has_value());
  EXPECT_TRUE(config.train.eval_at_start);
  EXPECT_EQ(config.train.memory_limit, uint64_t{8} << 30);
  EXPECT_EQ(config.train.sample.prompts, std::vector<std::string>{"Once: upon"});
  EXPECT_EQ(config.train.sample.max_new_tokens, 7);
  EXPECT_EQ(config.optimizer.lr, 1e-4);
  EXPECT_EQ(config.optimizer.eps, 1e-6);
  EXPECT_EQ(config.optimizer.weight_decay, 0.0);
}

TEST(ConfigParse, JsonIsYaml) {
  const TrainConfig config = load(
                                 "{\"train\": {\"seed\": 7, \"output_dir\": \"a\\u00e9\\n\"},\n"
                                 "\t\"optimizer\":{\"lr\":1e-3}}")
                                 .config;
  EXPECT_EQ(config.train.seed, 7u);
  EXPECT_EQ(config.train.output_dir, "a\xc3\xa9\n");
  EXPECT_EQ(config.optimizer.lr, 1e-3);
}

TEST(ConfigParse, DottedKeysAndAnchors) {
  const TrainConfig config = load(
                                 "train.seed: 7\ntrain.sample.every: 0\n"
                                 "data:\n  train: &files [a, b]\n  validation: *files\n")
                                 .config;
  EXPECT_EQ(config.train.seed, 7u);
  EXPECT_EQ(config.data.validation, (std::vector<std::string>{"a", "b"}));
}

TEST(ConfigParse, TextIsTextWhateverItLooksLike) {
  const auto dir = [](const char* value) {
    return load(std::string("train: {output_dir: ") + value + "}").config.train.output_dir;
  };
  EXPECT_EQ(dir("no"), "no");
  EXPECT_EQ(dir("2024"), "2024");
  EXPECT_EQ(dir("1e-4"), "1e-4");
  EXPECT_EQ(dir("\"a\\tb\""), "a\tb");
  EXPECT_EQ(dir("'a\\tb'"), "a\\tb");
}

TEST(ConfigParse, Sizes) {
  const auto bytes = [](const char* value) {
    return load("", {std::string("train.memory_limit=") + value}).config.train.memory_limit;
  };
  EXPECT_EQ(bytes("123"), 123u);
  EXPECT_EQ(bytes("1.5KiB"), 1536u);
  EXPECT_EQ(bytes("2 GB"), 2000000000u);
  EXPECT_EQ(bytes("1TiB"), uint64_t{1} << 40);
  EXPECT_EQ(bytes("3e9"), 3000000000u);
  for (const char* wrong : {"8G", "GiB", "-1GiB", "1.5B", "1e30", "8 GiB!", "nan", ""}) {
    EXPECT_HAS(error_of("", {std::string("train.memory_limit=") + wrong}), "train.memory_limit");
  }
}

TEST(ConfigParse, BooleansAreThoseOfYaml12) {
  for (const char* yes : {"yes", "on", "Y", "On"}) {
    const std::string error = error_of(std::string("train:\n  eval_at_start: ") + yes + "\n");
    EXPECT_HAS(error, "error[CFG-TYPE]");
    EXPECT_HAS(error, "c.yaml:2:18");
    EXPECT_HAS(error, "write true (YAML 1.2");
  }
  EXPECT_HAS(error_of("train: {eval_at_start: off}"), "write false");
  EXPECT_HAS(error_of("train: {eval_at_start: \"true\"}"), "remove the quotes");
  EXPECT_HAS(error_of("train: {eval_at_start: maybe}"), "true|false");
  EXPECT_HAS(error_of("data: {add_bos: yes}"), "write true");
}

TEST(ConfigParse, WrongTypes) {
  const auto expect_type = [](const char* text, const char* part) {
    const std::string error = error_of(text);
    EXPECT_HAS(error, "error[CFG-TYPE]");
    EXPECT_HAS(error, part);
  };
  expect_type("optimizer:\n  lr: fast", "c.yaml:2:7");
  expect_type("optimizer:\n  lr: fast", "line        lr: fast");
  expect_type("optimizer: {lr: \"1e-4\"}", "remove the quotes");
  expect_type("optimizer: {lr: [1]}", "a list of 1");
  expect_type("optimizer: {lr: }", "nothing (null)");
  expect_type("optimizer: {lr: 1e-4x}", "1e-4x");
  expect_type("train: {accumulation: 2.5}", "whole number");
  expect_type("train: {seed: 0x10}", "0x10");
  expect_type("train: {output_dir: {a: b}}", "a map");
  expect_type("data: {train: {a: b}}", "list of text");
  expect_type("data: {train: [[a]]}", "list of text");
  expect_type("data: {fields: text}", "map of text");
  expect_type("data: {overflow: [drop]}", "a list of 1");
  expect_type("model: {path: \"\"}", "leave it out");
  expect_type("train: 5", "section");
  expect_type("- a\n- b", "not a map");
  expect_type("just words", "not a map");
}

TEST(ConfigParse, OutOfRange) {
  const auto expect_range = [](const char* text, const char* part) {
    const std::string error = error_of(text);
    EXPECT_HAS(error, "error[CFG-RANGE]");
    EXPECT_HAS(error, part);
  };
  expect_range("train:\n  accumulation: 0", "c.yaml:2:17");
  expect_range("train: {accumulation: 0}", "[1, 16777216]");
  expect_range("train: {seed: -1}", "18446744073709551615");
  expect_range("train: {seed: 18446744073709551616}", "18446744073709551615");
  expect_range("train: {max_steps: 99999999999999999999}", ">= 1");
  expect_range("train: {epochs: 0}", "> 0");
  expect_range("data: {validation_fraction: 1}", "(0, 1)");
  expect_range("optimizer: {beta1: 1.0}", "[0, 1)");
  expect_range("optimizer: {lr: nan}", "finite");
  expect_range("optimizer: {lr: inf}", "finite");
  expect_range("optimizer: {lr: 1e999}", "finite");
  expect_range("data: {overflow: truncate_rigth}", "did you mean truncate_right?");
  expect_range("data: {format: csv}", "auto, text, jsonl, json");
  expect_range("train: {device: tpu}", "auto, cpu, cuda, cuda:N or simt");
}

TEST(ConfigParse, UnknownSettings) {
  const auto expect_hint = [](const char* text, const char* hint) {
    const std::string error = error_of(text);
    EXPECT_HAS(error, "error[CFG-UNKNOWN]");
    EXPECT_HAS(error, std::string("did you mean ") + hint + "?");
  };
  expect_hint("train: {sede: 1}", "train.seed");
  expect_hint("trian: {seed: 1}", "train");
  expect_hint("train: {lr: 1}", "optimizer.lr");
  expect_hint("learning_rate: 1", "optimizer.lr");
  expect_hint("train: {per_device_train_batch_size: 4}", "train.micro_batch_rows");
  expect_hint("train: {sample: {evry: 1}}", "train.sample.every");
  expect_hint("model: {dropuot: 1}", "model.dropout");
  EXPECT_HAS(error_of("train:\n  sede: 1"), "c.yaml:2:3");
  EXPECT_HAS(error_of("zzzzqqqq: 1"), "engine config schema");
  EXPECT_HAS(error_of("base: &b {seed: 1}\ntrain: {<<: *b}"), "CFG-UNKNOWN");
}

TEST(ConfigParse, AllMistakesAtOnce) {
  const std::string error = error_of("train:\n  sede: 1\n  epochs: many\noptimizer: {lr: x}\n");
  EXPECT_HAS(error, "train.sede");
  EXPECT_HAS(error, "train.epochs cannot be many (c.yaml:3:11)");
  EXPECT_HAS(error, "optimizer.lr cannot be x (c.yaml:4:17)");
}

TEST(ConfigParse, Duplicates) {
  const std::string error = error_of("train:\n  seed: 1\n  epochs: 2\n  seed: 3\n");
  EXPECT_HAS(error, "error[CFG-DUPLICATE]");
  EXPECT_HAS(error, "c.yaml:4:3");
  EXPECT_HAS(error, "c.yaml:2");
  EXPECT_HAS(error_of("train: {seed: 1}\ntrain.seed: 1\n"), "error[CFG-DUPLICATE]");
}

TEST(ConfigParse, Syntax) {
  const auto expect_syntax = [](const char* text, const char* part) {
    const std::string error = error_of(text);
    EXPECT_HAS(error, "error[CFG-SYNTAX]");
    EXPECT_HAS(error, part);
  };
  expect_syntax("train: {seed: 1", "c.yaml:");
  expect_syntax("train:\n\tseed: 1\n", "tabs");
  expect_syntax("train: [\n", "c.yaml:");
  expect_syntax("train: *nowhere\n", "c.yaml:1");
  expect_syntax("train: &a {sample: *a}\n", "alias");
  expect_syntax("a: 1\n---\nb: 2\n", "second document");
  expect_syntax("train: {seed: !!int 1}", "tag");
  expect_syntax("[1]: 2\n", "key");
  expect_syntax("? {a: b}\n: 2\n", "key");
}

TEST(ConfigParse, HostileFilesAreBounded) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += "*a" + std::to_string(i - 1) + ", ";
    bomb += "]\n";
  }
  EXPECT_HAS(error_of(bomb), "error[CFG-LIMIT]");
  EXPECT_HAS(error_of("a: " + std::string(100, '[') + std::string(100, ']')), "error[CFG-LIMIT]");
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_HAS(error_of(deep), "error[CFG-LIMIT]");
  EXPECT_HAS(error_of(std::string(2 << 20, ' ')), "error[CFG-LIMIT]");
  EXPECT_HAS(error_of(std::string(100000, '[')), "error[CFG-");
  EXPECT_HAS(error_of(std::string(100000, '{')), "error[CFG-");
}

TEST(ConfigParse, Files) {
  const auto dir = std::filesystem::temp_directory_path() / "engine_config_test";
  std::filesystem::create_directories(dir);
  const std::string path = dir / "run.yaml";
  std::ofstream(path) << "train: {seed: 5}\n";
  const auto load_file = [](const std::string& file) {
    return load_train_config(
        {.path = file, .options = {}, .needs_model = false, .needs_train_data = false});
  };
  EXPECT_EQ(load_file(path).config.train.seed, 5u);
  for (const std::string& wrong : {dir.string(), path + ".not"}) {
    try {
      load_file(wrong);
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "CFG-FILE");
      EXPECT_EQ(error.exit_code(), ExitCode::usage);
      EXPECT_HAS(error.what(), wrong);
    }
  }
  std::filesystem::remove_all(dir);
}

TEST(ConfigOptions, WinOverTheFile) {
  const LoadedTrainConfig loaded =
      load("train: {seed: 1, output_dir: a}\nmodel: {dropout: 0.5}\n",
           {"train.seed=2", "train.seed=3", "train.output_dir=b: [c] # d", "model.dropout=null",
            "data.train=[x, y]", "data.validation=z", "data.fields={text: body}"});
  EXPECT_EQ(loaded.config.train.seed, 3u);
  EXPECT_EQ(loaded.config.train.output_dir, "b: [c] # d");
  EXPECT_FALSE(loaded.config.model.dropout.has_value());
  EXPECT_EQ(loaded.config.data.train, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(loaded.config.data.validation, std::vector<std::string>{"z"});
  EXPECT_EQ(loaded.config.data.fields.at("text"), "body");
  EXPECT_EQ(loaded.origins.at("train.seed").text, "option train.seed=3");
}

TEST(ConfigOptions, Mistakes) {
  EXPECT_HAS(error_of("", {"train.seed=x"}), "option train.seed=x");
  EXPECT_HAS(error_of("", {"train.sede=1"}), "did you mean train.seed?");
  EXPECT_HAS(error_of("", {"train.seed"}), "section.setting=value");
  EXPECT_HAS(error_of("", {"train=1"}), "section");
  EXPECT_HAS(error_of("", {"data.train=[a"}), "CFG-SYNTAX");
  EXPECT_HAS(error_of("", {"train.seed=null"}), "CFG-TYPE");
}

TEST(ConfigOptions, ReachIntoAMap) {
  const std::string file = "model: {config: {hidden_size: 8, rope: {theta: 1}, n: \"5\"}}";
  EXPECT_EQ(load(file, {"model.config.hidden_size=16", "model.config.rope.theta=1e4",
                        "model.config.new=[1, a]"})
                .config.model.config->json,
            R"({"hidden_size":16,"rope":{"theta":10000.0},"n":"5","new":[1,"a"]})");
  EXPECT_EQ(load("", {"model.config.a=1"}).config.model.config->json, R"({"a":1})");
  EXPECT_HAS(error_of("model: {config: c.json}", {"model.config.a=1"}), "CFG-CONFLICT");
}

TEST(ConfigOptions, AreTakenFromTheCommandLine) {
  TrainConfig config;
  std::vector<std::string> arguments{"run.yaml",
                                     "train.seed=1",
                                     "--train.epochs",
                                     "2",
                                     "--optimizer.lr=1e-4",
                                     "-o",
                                     "out.yaml",
                                     "--train.eval_at_start",
                                     "--typo.key",
                                     "5",
                                     "x.y=z",
                                     "--plain",
                                     "plain=1",
                                     "--data.drop-last",
                                     "false",
                                     "--",
                                     "train.seed=9"};
  const std::vector<std::string> options = take_options(arguments, train_schema(config));
  EXPECT_EQ(options, (std::vector<std::string>{"train.seed=1", "train.epochs=2",
                                               "optimizer.lr=1e-4", "train.eval_at_start=true",
                                               "typo.key=5", "x.y=z", "data.drop_last=false"}));
  EXPECT_EQ(arguments, (std::vector<std::string>{"run.yaml", "-o", "out.yaml", "--plain", "plain=1",
                                                 "--", "train.seed=9"}));
  std::vector<std::string> unfinished{"--train.seed"};
  EXPECT_THROW(take_options(unfinished, train_schema(config)), Error);
}

TEST(GenerateConfigOptions, AreTyped) {
  GenerateConfig bound;
  std::vector<std::string> arguments{"model",
                                     "--temperature",
                                     "0.7",
                                     "top_k=5",
                                     "--do-sample",
                                     "--stop=[\"\\n\", end]",
                                     "--max-new-tokens",
                                     "9",
                                     "-p",
                                     "hi"};
  const GenerateConfig config =
      load_generate_config(take_options(arguments, generate_schema(bound)));
  EXPECT_EQ(arguments, (std::vector<std::string>{"model", "-p", "hi"}));
  EXPECT_EQ(config.temperature, 0.7);
  EXPECT_EQ(config.top_k, 5);
  EXPECT_EQ(config.do_sample, true);
  EXPECT_EQ(config.stop, (std::vector<std::string>{"\n", "end"}));
  EXPECT_EQ(config.max_new_tokens, 9);
  EXPECT_FALSE(config.top_p.has_value());
  EXPECT_THROW(load_generate_config({"temperature=0"}), Error);
  EXPECT_THROW(load_generate_config({"top_p=0"}), Error);
}

}  // namespace
}  // namespace engine
