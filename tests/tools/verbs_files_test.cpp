// engine tokenize, convert, inspect: on files, without computing with a model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/shared_data.h"
#include "tests/tools/verbs_support.h"
#include "weights/checkpoint.h"
#include "weights/convert.h"

namespace engine {
namespace {

using namespace testing;
using Json = nlohmann::json;

TEST(Tokenize, TrainedVocabularyRoundTrips) {
  const Json json = Json::parse(read(tiny_tokenizer() + "/tokenizer.json"));
  EXPECT_EQ(json["model"]["vocab"]["<|endoftext|>"], 0);
  const Json config = Json::parse(read(tiny_tokenizer() + "/tokenizer_config.json"));
  EXPECT_EQ(config["eos_token"], "<|endoftext|>");

  const std::string rows =
      "{\"text\":\"the cat\"}\n\n{\"text\":\"h\xc3\xa9llo\\nthe \xf0\x9f\x90\x88<|endoftext|>\"}\n";
  const Result encoded = run("tokenize " + tiny_tokenizer() + " --jsonl", rows);
  ASSERT_EQ(encoded.code, 0) << encoded.err;
  const Result decoded = run("tokenize " + tiny_tokenizer() + " --jsonl --decode", encoded.out);
  ASSERT_EQ(decoded.code, 0) << decoded.err;
  std::istringstream a(encoded.out), b(decoded.out);
  int rows_seen = 0;
  for (std::string x, y; std::getline(a, x) && std::getline(b, y); ++rows_seen) {
    EXPECT_EQ(Json::parse(x), Json::parse(y));
  }
  EXPECT_EQ(rows_seen, 2);
  // The commonest words became single tokens, and the special token is one too.
  EXPECT_EQ(Json::parse(encoded.out.substr(0, encoded.out.find('\n')))["ids"].size(), 2u);
  EXPECT_TRUE(has(encoded.out, ",0]}"));
}

TEST(Tokenize, PrintsIdsAndTokens) {
  const Result plain = run("tokenize " + tiny_tokenizer() + " 'the the<|endoftext|>'");
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_TRUE(has(plain.out, "\"the\" \"\xc4\xa0the\" \"<|endoftext|>\"")) << plain.out;
  const std::string ids = plain.out.substr(0, plain.out.find('\n'));
  EXPECT_EQ(run("tokenize " + tiny_tokenizer() + " --decode '" + ids + "'").out,
            "the the<|endoftext|>\n");
  EXPECT_EQ(run("tokenize " + tiny_tokenizer() + " --decode --skip-special '" + ids + "'").out,
            "the the\n");
  // As plain characters the special token is many tokens.
  const Result verbatim =
      run("tokenize --no-parse-special " + tiny_tokenizer() + " '<|endoftext|>'");
  EXPECT_GT(verbatim.out.find('\n'), 10u);
}

TEST(Tokenize, Mistakes) {
  const std::string verb = "tokenize " + tiny_tokenizer() + " --jsonl";
  const Result field = run(verb, "{\"text\":\"a\"}\n{\"txt\":\"a\"}\n");
  EXPECT_EQ(field.code, 3);
  EXPECT_TRUE(has(field.err, "error[DATA-FIELD]: standard input:2: row has no field \"text\""));
  EXPECT_TRUE(has(field.err, "found     txt"));
  const Result syntax = run(verb, "{\"text\":\"a\"}\n\n{\"text\":\n");
  EXPECT_EQ(syntax.code, 3);
  EXPECT_TRUE(has(syntax.err, "error[DATA-JSON]: standard input:3: ")) << syntax.err;
  EXPECT_EQ(run(verb, "[1]\n").code, 3);
  EXPECT_EQ(run(verb, "{\"text\":\"\xff\"}\n").code, 3);
  EXPECT_EQ(run(verb + " --decode", "{\"ids\":[1,-2]}\n").code, 3);
  EXPECT_EQ(run(verb + " --decode", "{\"ids\":[4294967296]}\n").code, 3);
  // Deeper than any stack.
  const std::string deep(100000, '[');
  EXPECT_EQ(run(verb, "{\"text\":" + deep).code, 3);
  EXPECT_EQ(run(verb + " --decode", "{\"ids\":" + deep + std::string(100000, ']') + "}\n").code, 3);
  EXPECT_EQ(run("tokenize /no/such/dir x").code, 4);
  EXPECT_EQ(run("tokenize " + golden("gpt2") + " x").code, 4);
  EXPECT_EQ(run("tokenize").code, 2);
  const std::string corpus = write("small.txt", "aa aa");
  const std::string train = "tokenize train --files " + corpus + " --vocab-size ";
  EXPECT_EQ(run(train + "10 --out " + scratch() / "no").code, 2);
  EXPECT_EQ(run(train + "300 --out " + tiny_tokenizer()).code, 2);  // is there already
  EXPECT_EQ(run("tokenize train --files /no/such --vocab-size 300 --out " + scratch() / "no").code,
            3);
  // Settings of the other algorithm.
  EXPECT_EQ(run(train + "300 --algorithm unigram --split gpt2 --out " + scratch() / "no").code, 2);
  EXPECT_EQ(run(train + "300 --character-coverage 1 --out " + scratch() / "no").code, 2);
  EXPECT_EQ(run(train + "300 --algorithm markov --out " + scratch() / "no").code, 2);
  EXPECT_FALSE(fs::exists(scratch() / "no"));
}

TEST(Tokenize, TrainsUnigram) {
  const std::string corpus = write("walk.txt", "the walker walks and walked, the talker talks\n");
  const std::string out = scratch() / "unigram";
  const Result trained = run("tokenize train --files " + corpus +
                             " --vocab-size 360 --algorithm unigram --out " + out);
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_TRUE(has(trained.out, "wrote "));
  const Result ids = run("tokenize " + out + " --jsonl", "{\"text\":\"the  talks\"}\n");
  ASSERT_EQ(ids.code, 0) << ids.err;
  const std::string list = ids.out.substr(ids.out.find('['));
  const Result text = run("tokenize " + out + " --jsonl --decode", "{\"ids\":" + list);
  EXPECT_TRUE(has(text.out, "\"text\":\"the  talks\"")) << text.out << text.err;
}

TEST(Convert, HuggingFaceDirectoryKeepsEveryByte) {
  const std::string out = scratch() / "copy";
  ASSERT_EQ(run("convert " + golden("llama_untied_bias") + " " + out).code, 0);
  EXPECT_EQ(read(out + "/config.json"), read(golden("llama_untied_bias") + "/config.json"));
  const Checkpoint a = Checkpoint::open(golden("llama_untied_bias")), b = Checkpoint::open(out);
  ASSERT_EQ(a.names(), b.names());
  for (const std::string& name : a.names()) {
    ASSERT_EQ(a.find(name)->shape, b.find(name)->shape);
    EXPECT_EQ(0, memcmp(a.find(name)->data, b.find(name)->data, a.find(name)->bytes)) << name;
  }
}

TEST(Convert, ShardsAndTypes) {
  const std::string out = scratch() / "bf16", back = scratch() / "back";
  ASSERT_EQ(
      run("convert " + golden("gpt2") + " " + out + " --dtype bf16 --max-shard-size 10KB").code, 0);
  const Checkpoint half = Checkpoint::open(out), whole = Checkpoint::open(golden("gpt2"));
  EXPECT_GT(half.files().size(), 2u);
  EXPECT_EQ(half.config()["dtype"], "bfloat16");
  EXPECT_EQ(half.names(), whole.names());
  // fp32 -> bf16 -> fp32 is rounding to bf16: at most 2^-9 of the value away.
  ASSERT_EQ(run("convert " + out + " " + back + " --dtype fp32").code, 0);
  const Checkpoint rounded = Checkpoint::open(back);
  EXPECT_EQ(rounded.files().size(), 1u);
  for (const std::string& name : whole.names()) {
    const TensorEntry &x = *whole.find(name), &y = *rounded.find(name);
    ASSERT_EQ(half.find(name)->dtype, FileDtype::bf16);
    std::vector<float> a(x.num_elements()), b(y.num_elements());
    to_float32(x.dtype, x.data, a.size(), a.data());
    to_float32(y.dtype, y.data, b.size(), b.data());
    for (size_t i = 0; i < a.size(); ++i) ASSERT_LE(std::abs(a[i] - b[i]), std::abs(a[i]) / 256);
  }
}

TEST(Convert, Mistakes) {
  const std::string out = scratch() / "taken";
  fs::create_directories(out);
  std::ofstream(out + "/keep") << "mine";
  const Result taken = run("convert " + golden("gpt2") + " " + out);
  EXPECT_EQ(taken.code, 2);
  EXPECT_TRUE(has(taken.err, "EXPORT-EXISTS"));
  EXPECT_EQ(read(out + "/keep"), "mine");
  EXPECT_EQ(run("convert " + golden("gpt2") + " " + out + " --force").code, 0);
  EXPECT_FALSE(fs::exists(out + "/keep"));
  EXPECT_EQ(run("convert " + golden("gpt2") + " " + scratch() / "x --dtype int4").code, 2);
  EXPECT_EQ(run("convert " + golden("gpt2") + " " + scratch() / "x --max-shard-size big").code, 2);
  EXPECT_EQ(run("convert /no/such " + scratch() / "x").code, 4);
  const std::string bin = write("broken.bin", std::string(40, '\1'));
  EXPECT_EQ(run("convert --no-tokenizer " + bin + " " + scratch() / "x").code, 4);
  EXPECT_FALSE(fs::exists(scratch() / "x"));
}

TEST(Convert, ShardSizesAsTransformersWritesThem) {
  EXPECT_EQ(parse_shard_size("5GB"), 5'000'000'000u);
  EXPECT_EQ(parse_shard_size("200mb"), 200'000'000u);
  EXPECT_EQ(parse_shard_size("1.5KiB"), 1536u);
  EXPECT_EQ(parse_shard_size("77"), 77u);
  for (const char* wrong : {"", "GB", "0", "-1MB", "1XB", "nan", "1e30"}) {
    EXPECT_FALSE(parse_shard_size(wrong)) << wrong;
  }
}

TEST(Inspect, ParameterCountsOfPublishedModels) {
  const auto llama = [](int hidden, int feed_forward, int layers, int heads, int head_dim,
                        bool tied) {
    return Json{{"model_type", "llama"},
                {"architectures", {"LlamaForCausalLM"}},
                {"vocab_size", 128256},
                {"hidden_size", hidden},
                {"intermediate_size", feed_forward},
                {"num_hidden_layers", layers},
                {"num_attention_heads", heads},
                {"num_key_value_heads", 8},
                {"head_dim", head_dim},
                {"max_position_embeddings", 131072},
                {"tie_word_embeddings", tied}};
  };
  // models.md 8; FLOPs per token in G at the given row length: models.md 9, which also counts
  // position tables, norms and biases as matrices: 6e-3 of GPT-2.
  const struct {
    const char* name;
    Json config;
    int64_t parameters;
    int row_length;
    double palm;
  } models[] = {
      {"gpt2", Json{{"model_type", "gpt2"}}, 124'439'808, 1024, 0.8599},
      {"1b", llama(2048, 8192, 16, 32, 64, true), 1'235'814'400, 2048, 8.2202},
      {"3b", llama(3072, 8192, 28, 24, 128, true), 3'212'749'824, 2048, 21.3904},
      {"8b", llama(4096, 14336, 32, 32, 128, false), 8'030'261'248, 2048, 48.2508},
  };
  for (const auto& model : models) {
    const std::string path = write(std::string(model.name) + ".json", model.config.dump());
    const Result result =
        run("inspect --json " + path + " --row-length " + std::to_string(model.row_length));
    ASSERT_EQ(result.code, 0) << result.err;
    const Json json = Json::parse(result.out);
    EXPECT_EQ(json["weights"]["parameters"], model.parameters) << model.name;
    EXPECT_NEAR(json["flops_per_token"]["palm"].get<double>() * 1e-9 / model.palm, 1, 1e-2);
    // 16 bytes of state per parameter under fp32, 18 under bf16 (models.md 10.1).
    const Json& plans = json["training_memory"]["plans"];
    ASSERT_EQ(plans.size(), 6u);
    for (const Json& plan : plans) {
      const double bytes = plan["precision"] == "fp32" ? 16 : 18;
      EXPECT_NEAR(
          plan["persistent"].get<double>() / (bytes * static_cast<double>(model.parameters)), 1,
          0.01);
    }
    EXPECT_GT(plans[0]["bytes"], plans[2]["bytes"]);  // recompute=block needs less
  }
}

TEST(Inspect, CheckpointTensorsFolded) {
  const Result result = run("inspect " + golden("llama_tied_llama3rope"));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(has(result.out, "model.layers.*.mlp.up_proj.weight")) << result.out;
  EXPECT_TRUE(has(result.out, "tied to model.embed_tokens.weight"));
  EXPECT_FALSE(has(result.out, "missing in the checkpoint"));
  EXPECT_EQ(run("inspect " + write("other.json", "{\"model_type\":\"mixtral\"}")).code, 4);
  EXPECT_EQ(run("inspect " + write("not.json", "{")).code, 4);
  EXPECT_EQ(run("inspect " + golden("gpt2") + " --row-length 41").code, 2);
}

TEST(Inspect, EveryFamily) {
  std::set<std::string> families;
  for (const auto& entry : fs::directory_iterator(golden(""))) {
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const Result result = run("inspect --json --batch-tokens 64 --row-length 16 " + golden(name));
    ASSERT_EQ(result.code, 0) << result.err;
    const Json json = Json::parse(result.out);
    families.insert(json["model"]["family"].get<std::string>());
    EXPECT_TRUE(json["weights"]["missing"].empty());
    EXPECT_TRUE(json["weights"]["unused"].empty());
    EXPECT_EQ(json["training_memory"]["plans"].size(), 6u);
  }
  EXPECT_EQ(families, (std::set<std::string>{"gemma3", "gpt2", "llama", "mt5", "qwen2", "roberta",
                                             "t5", "xlm-roberta"}));
}

TEST(Inspect, TokenizerAndChatTemplate) {
  const std::string model = scratch() / "with_tokenizer";
  fs::copy(tiny_tokenizer(), model, fs::copy_options::recursive);
  std::ofstream(model + "/config.json") << R"({"model_type":"gpt2","n_layer":1,"vocab_size":300})";
  const std::string verb = "inspect " + model + " --batch-tokens 16 --row-length 8";
  const Result plain = run(verb);
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_TRUE(has(plain.out, "tokenizer   byte-level BPE, 279 tokens, 1 special\n")) << plain.out;
  EXPECT_TRUE(has(plain.out, "  puts nothing before a text, nothing after it\n")) << plain.out;
  EXPECT_TRUE(has(plain.out, "chat template   none\n"));

  const auto with_template = [&](const std::string& text) {
    std::ofstream(model + "/chat_template.jinja") << text;
  };
  with_template(
      "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% elif m['role'] in "
      "['assistant', 'tool'] %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}"
      "{% endfor %}");
  const Json chat = Json::parse(run(verb + " --json").out)["tokenizer"]["chat_templates"];
  EXPECT_EQ(chat, Json::parse(R"([{"name": "default", "generation_blocks": true,
                                   "roles": ["user", "assistant", "tool"]}])"));
  EXPECT_TRUE(has(run(verb).out, "roles       user, assistant, tool\n"));
  EXPECT_TRUE(has(run(verb).out, "marked by {% generation %}\n"));
  with_template("{% for m in messages %}{{ m.role == '\\x1b[31mred' }}{% endfor %}");
  EXPECT_TRUE(has(run(verb).out, "roles       \\x1b[31mred\n")) << "escaped, not obeyed";
  // A template that does not parse is told, and is no reason not to look at the model.
  with_template("{% for m in messages %}");
  const Result broken = run(verb);
  EXPECT_EQ(broken.code, 0) << broken.err;
  EXPECT_TRUE(has(broken.out, "CHAT-SYNTAX")) << broken.out;
}

// The kinds of tokenizers, and what they put around a text, of published files.
TEST(Inspect, PublishedTokenizers) {
  ENGINE_REQUIRE_SHARED_DATA(tokenizers, "tokenizers");
  const struct {
    const char* name;
    std::vector<const char*> files;
    const char* line;
    const char* around;
  } published[] = {
      {"gpt2",
       {"encoder.json", "vocab.bpe"},
       "byte-level BPE, 50,257 tokens, 1 special",
       "puts nothing before a text, nothing after it"},
      {"llama2",
       {"tokenizer.model"},
       "SentencePiece BPE with byte fallback, 32,000 tokens",
       "puts <s> (1) before a text, nothing after it"},
      {"llama3",
       {"tokenizer.model"},
       "byte-level BPE, 128,256 tokens, 256 special",
       "puts <|begin_of_text|> (128000) before a text, nothing after it"},
      {"t5", {"spiece.model"}, "Unigram, ", "nothing before a text, "},
  };
  for (const auto& one : published) {
    SCOPED_TRACE(one.name);
    const std::string model = scratch() / ("published_" + std::string(one.name));
    fs::create_directories(model);
    for (const char* file : one.files) {
      fs::copy_file(tokenizers / one.name / file, fs::path(model) / file);
    }
    std::ofstream(model + "/config.json") << R"({"model_type":"gpt2","n_layer":1})";
    const Result result = run("inspect " + model + " --batch-tokens 16 --row-length 8");
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(has(result.out, one.line)) << result.out;
    EXPECT_TRUE(has(result.out, one.around)) << result.out;
  }
}

TEST(Inspect, WindowsAndWhatIsIgnored) {
  const Result windows = run("inspect --row-length 32 " + golden("gemma3_text"));
  ASSERT_EQ(windows.code, 0) << windows.err;
  EXPECT_TRUE(has(windows.out, "7 tokens in 3 of 4 layers; all tokens in layers 2")) << windows.out;
  const Json flops = Json::parse(
      run("inspect --json --row-length 32 " + golden("gemma3_text")).out)["flops_per_token"];
  // 4 heads of 8; a causal window of 7 in 32 tokens: 7 · 8 / 2 + 25 · 7 pairs, all 32 · 33 / 2.
  const double pairs = 3 * 203 + 528;
  EXPECT_NEAR(flops["exact"].get<double>(),
              6.0 * flops["matmul_parameters"].get<double>() + 12 * 32 * pairs / 32, 1e-6);

  const Result tower = run("inspect " + golden("gemma3_multimodal"));
  ASSERT_EQ(tower.code, 0) << tower.err;
  EXPECT_TRUE(has(tower.out, "known to be of no use\n  multi_modal_projector.")) << tower.out;
  EXPECT_TRUE(has(tower.out, "tied to model.embed_tokens.weight"));
}

}  // namespace
}  // namespace engine
