// engine tokenize --chat and engine generate --chat, run as a program: against transformers' ids
// and masks (tests/tokenizer/chat/golden) and the published templates of the shared data.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "models/checkpoint_io.h"
#include "models/registry.h"
#include "tests/support/shared_chat.h"
#include "tests/support/shared_data.h"
#include "tests/tools/verbs_support.h"
#include "weights/export.h"

namespace engine {
namespace {

using namespace testing;
using Json = nlohmann::ordered_json;

std::string chat_golden(const std::string& name) {
  return std::string(ENGINE_SOURCE_DIR) + "/tests/tokenizer/chat/golden/" + name;
}

std::vector<Json> rows_of(const std::string& text) {
  std::vector<Json> rows;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
  return rows;
}

std::string lines_of(const std::vector<Json>& rows) {
  std::string text;
  for (const Json& row : rows) text += row.dump() + "\n";
  return text;
}

std::string message(const std::string& role, const std::string& content) {
  return Json{{"role", role}, {"content", content}}.dump();
}

// A directory with the tokenizer of the goldens and another template.
std::string tokenizer_with(const std::string& name, const std::string& chat_template) {
  const std::string directory = scratch() / name;
  fs::create_directories(directory);
  fs::copy_file(chat_golden("byte_level") + "/tokenizer.json", directory + "/tokenizer.json",
                fs::copy_options::overwrite_existing);
  Json config = {{"bos_token", "<s>"}, {"eos_token", "<|end|>"}};
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  std::ofstream(directory + "/tokenizer_config.json") << config.dump();
  return directory;
}

// --- engine tokenize --chat ---

TEST(TokenizeChat, EqualsTransformers) {
  int rows_seen = 0;
  for (const std::string name : {"byte_level", "metaspace"}) {
    std::map<std::string, std::vector<Json>> by_template;
    for (const Json& row : rows_of(read(chat_golden(name) + "/expected.jsonl"))) {
      by_template[row["template"]].push_back(row);
    }
    EXPECT_EQ(by_template.size(), 3u);
    for (const auto& [chosen, expected] : by_template) {
      SCOPED_TRACE(name + " " + chosen);
      std::vector<Json> rows;
      for (const Json& row : expected) rows.push_back({{"messages", row["messages"]}});
      const Result result =
          run("tokenize " + chat_golden(name) + " --chat --template " + chosen, lines_of(rows));
      ASSERT_EQ(result.code, 0) << result.err;
      EXPECT_EQ(result.err, "");
      const std::vector<Json> found = rows_of(result.out);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i, ++rows_seen) {
        EXPECT_EQ(found[i]["rendered"], expected[i]["rendered"]);
        std::vector<int> ids = found[i]["ids"], mask = found[i]["assistant_mask"];
        if (ids.front() == 1 && expected[i]["ids"].front() != 1) {
          // Metaspace's tokenizer puts BOS before texts: it is added where the template has none.
          EXPECT_EQ(name + chosen, "metaspaceragged");
          ids.erase(ids.begin());
          EXPECT_EQ(mask.front(), 0);
          mask.erase(mask.begin());
        }
        EXPECT_EQ(Json(ids), expected[i]["ids"]);
        EXPECT_EQ(Json(mask), expected[i]["mask"]);
        EXPECT_EQ(found[i].size(), 3u);
      }
    }
  }
  EXPECT_GT(rows_seen, 50);
}

TEST(TokenizeChat, WhatARowMayHold) {
  const std::string file = write("all.jinja",
                                 "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
                                 "{% if tools %}{{ tools|length }}{{ tools[0].name }}{% endif %}"
                                 "{% if documents %}{{ documents[0].title }}{% endif %}{{ mode }}"
                                 "{% if add_generation_prompt %}assistant:{% endif %}"
                                 "{{ strftime_now('%d %b %Y') if strftime_now is defined }}");
  const std::string verb = "tokenize " + chat_golden("byte_level") + " --chat --template " + file;
  const std::string user = message("user", "a");
  const std::string input =
      "{\"messages\":[" + user + "]}\n\n" +  //
      "{\"messages\":[" + user + "],\"add_generation_prompt\":true}\n" + "{\"messages\":[" + user +
      "],\"tools\":[{\"name\":\"f\"},{}]}\n" + "{\"messages\":[" + user +
      "],\"tools\":\"[{\\\"name\\\":\\\"g\\\"}]\"}\n" + "{\"messages\":[" + user +
      "],\"documents\":[{\"title\":\"T\"}]}\n" + "{\"messages\":[" + user +
      "],\"chat_template_kwargs\":{\"mode\":7}}\n" + "{\"messages\":[" + message("assistant", "b") +
      "],\"continue_final_message\":true}\n" +
      "{\"messages\":[{\"from\":\"human\",\"value\":\"a\"}],\"tools\":null}\n";
  const Result result = run(verb, input);
  ASSERT_EQ(result.code, 0) << result.err;
  std::vector<std::string> texts;
  for (const Json& row : rows_of(result.out)) texts.push_back(row["rendered"]);
  EXPECT_EQ(texts,
            (std::vector<std::string>{"user:a;", "user:a;assistant:", "user:a;2f", "user:a;1g",
                                      "user:a;T", "user:a;7", "assistant:b", "user:a;"}));
  EXPECT_EQ(rows_of(result.out)[6]["mask_error"], "the last message is left open");
  EXPECT_TRUE(rows_of(result.out)[6]["assistant_mask"].is_null());
  // From a file, with a date.
  const Result dated = run(verb + " --date 2024-07-26 --input " + write("rows.jsonl", input));
  EXPECT_EQ(rows_of(dated.out)[0]["rendered"], "user:a;26 Jul 2024");
  EXPECT_EQ(rows_of(dated.out).size(), 8u);
}

TEST(TokenizeChat, ARowThatFailsIsAnErrorInItsPlace) {
  const std::string directory =
      tokenizer_with("refuses",
                     "{% for m in messages %}{% if m.role == 'system' %}"
                     "{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}"
                     "{% endfor %}");
  const std::string good = "{\"messages\":[" + message("user", "a") + "]}\n";
  const Result result =
      run("tokenize " + directory + " --chat",
          good + "{\"messages\":[" + message("system", "s") + "]}\n" + "{\"messages\":[]}\n" +
              "{\"messages\":[{\"content\":\"a\"}]}\n" + "{\"text\":\"a\"}\n" + "{\"messages\":[" +
              message("user", "a") + "],\"add_generation_prompt\":1}\n" + good);
  ASSERT_EQ(result.code, 0) << result.err;
  const std::vector<Json> rows = rows_of(result.out);
  ASSERT_EQ(rows.size(), 7u);
  EXPECT_EQ(rows[1], (Json{{"error", "TemplateError: System role not supported"}}));
  EXPECT_EQ(rows[2], (Json{{"error", "the conversation has no messages"}}));
  EXPECT_EQ(rows[3], (Json{{"error", "messages[0] has no \"role\""}}));
  EXPECT_EQ(rows[4], (Json{{"error", "\"messages\" is not a list of messages"}}));
  EXPECT_EQ(rows[5], (Json{{"error", "\"add_generation_prompt\" is not true or false"}}));
  EXPECT_EQ(rows[0], rows[6]);
  EXPECT_EQ(rows[0]["rendered"], "a");
  EXPECT_TRUE(has(result.err, "warn    5 of 7 conversations have errors")) << result.err;
  EXPECT_EQ(run("-q tokenize " + directory + " --chat", "{\"messages\":[]}\n").err, "");
}

TEST(TokenizeChat, MasksThatCannotBeTold) {
  const std::string rewrites = tokenizer_with(
      "rewrites",
      "{% for m in messages %}{{ m.role }}{% if loop.last %}!{% endif %}{{ m.content }}"
      "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}");
  const std::string row = "{\"messages\":[" + message("user", "a") + "," +
                          message("assistant", "b") + "," + message("user", "c") + "]}\n";
  Json found = rows_of(run("tokenize " + rewrites + " --chat", row).out).at(0);
  EXPECT_EQ(found["rendered"], "useraassistantbuser!c");
  EXPECT_TRUE(found["assistant_mask"].is_null());
  EXPECT_TRUE(has(found["mask_error"], "messages[1]"));
  const std::string in_macro = tokenizer_with(
      "in_macro",
      "{% macro say(m) %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endmacro %}"
      "{% for m in messages %}{{ say(m) }}{% endfor %}");
  found = rows_of(run("tokenize " + in_macro + " --chat", row).out).at(0);
  EXPECT_EQ(found["rendered"], "[a][b][c]");
  EXPECT_TRUE(found["assistant_mask"].is_null());
  EXPECT_TRUE(has(found["mask_error"], "out of place"));
}

TEST(TokenizeChat, Mistakes) {
  const std::string directory = chat_golden("byte_level");
  const std::string row = "{\"messages\":[" + message("user", "a") + "]}\n";
  const Result syntax = run("tokenize " + directory + " --chat", row + "\n{\"messages\":[\n");
  EXPECT_EQ(syntax.code, 3);
  EXPECT_TRUE(has(syntax.err, "error[DATA-JSON]: standard input:3: ")) << syntax.err;
  EXPECT_EQ(rows_of(syntax.out).size(), 1u);
  EXPECT_EQ(run("tokenize " + directory + " --chat", "[1]\n").code, 3);
  EXPECT_EQ(run("tokenize " + directory + " --chat", "{\"messages\":[{\"role\":\"\xff\"}]}\n").code,
            3);
  EXPECT_EQ(run("tokenize " + directory + " --chat --input /no/such.jsonl").code, 3);
  EXPECT_EQ(run("tokenize " + directory + " --chat --jsonl", row).code, 2);
  EXPECT_EQ(run("tokenize " + directory + " --chat --decode", row).code, 2);
  EXPECT_EQ(run("tokenize " + directory + " --template x.jinja", row).code, 2);
  EXPECT_EQ(run("tokenize " + directory + " --chat --date today", row).code, 2);
  EXPECT_EQ(run("tokenize " + directory + " --chat --template /no/such.jinja", row).code, 2);
  const Result name = run("tokenize " + directory + " --chat --template nosuch", row);
  EXPECT_EQ(name.code, 4);
  EXPECT_TRUE(has(name.err, "error[CHAT-TEMPLATE]")) << name.err;
  EXPECT_TRUE(has(name.err, "ragged")) << name.err;  // what there is
  const Result broken =
      run("tokenize " + directory + " --chat --template " + write("b.jinja", "a\n{% for %}"), row);
  EXPECT_EQ(broken.code, 4);
  EXPECT_TRUE(has(broken.err, "error[CHAT-SYNTAX]")) << broken.err;
  EXPECT_TRUE(has(broken.err, "b.jinja:2")) << broken.err;
  const Result bytes =
      run("tokenize " + directory + " --chat --template " + write("c.jinja", "a\xff"), row);
  EXPECT_EQ(bytes.code, 4);
  EXPECT_TRUE(has(bytes.err, "error[CHAT-SYNTAX]")) << bytes.err;
  EXPECT_EQ(run("tokenize " + tokenizer_with("none", "") + " --chat", row).code, 4);
}

TEST(TokenizeChat, HostileTemplatesEndWithAnError) {
  const std::string row = "{\"messages\":[" + message("user", "a") + "]}\n";
  std::string nested, brackets = "{{ ";
  for (int i = 0; i < 100000; ++i) nested += "{% if 1 %}";
  brackets += std::string(100000, '[');
  for (const auto& [text, code] : std::vector<std::pair<std::string, int>>{
           {nested, 4},
           {brackets, 4},
           {"{{ 99999999999999999999999 }}", 4},
           {"{% for i in range(10 ** 9) %}{% endfor %}", 0},
           {"{% set s = 'x' * 10 ** 6 %}{% for i in range(99999) %}{% if s|length %}{% endif %}"
            "{% endfor %}",
            0},
           {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", 0},
           {"{{ 'x' * 10 ** 9 }}", 0},
           {"{{ 9 ** 9 ** 9 }}", 0},
           {"{% set ns = namespace(s='xy') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
            "{% endfor %}",
            0}}) {
    SCOPED_TRACE(text.substr(0, 60));
    const Result result = run("tokenize " + chat_golden("byte_level") + " --chat --template " +
                                  write("hostile.jinja", text),
                              row);
    ASSERT_EQ(result.code, code) << result.err;
    if (code != 0) {
      EXPECT_TRUE(has(result.err, "error[CHAT-SYNTAX]")) << result.err;
    } else {
      EXPECT_EQ(rows_of(result.out).at(0).size(), 1u);
      EXPECT_TRUE(rows_of(result.out).at(0).contains("error")) << result.out;
    }
  }
}

// Rows of the shared data by the tokenizer and template that they need.
class SharedRows {
 public:
  explicit SharedRows(const fs::path& expected)
      : data_(expected.parent_path().parent_path()), tokenizers_(data_) {
    for (Json& row : rows_of(read(expected))) {
      const std::string key = tokenizers_.directory(row);
      groups_[{key, data_ / "chat_templates" / row["template"].get<std::string>()}].push_back(
          std::move(row));
    }
  }
  const auto& groups() const { return groups_; }

 private:
  fs::path data_;
  SharedChatTokenizers tokenizers_;
  std::map<std::pair<std::string, std::string>, std::vector<Json>> groups_;
};

// Ids of tokens that hold a character of a span are what the mask must select: those whose texts,
// joined, are the text of the spans.
std::string masked_text(const std::string& directory, const Json& row) {
  std::vector<int> ids;
  for (size_t i = 0; i < row["ids"].size(); ++i) {
    if (row["assistant_mask"][i] == 1) ids.push_back(row["ids"][i]);
  }
  const Result decoded =
      run("tokenize " + directory + " --jsonl --decode", Json{{"ids", ids}}.dump() + "\n");
  return rows_of(decoded.out).at(0)["text"];
}

// `text` from character `begin` to `end`.
std::string characters(const std::string& text, size_t begin, size_t end) {
  size_t count = 0, from = 0, to = text.size();
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) continue;
    if (count == begin) from = i;
    if (count == end) to = i;
    ++count;
  }
  return text.substr(from, to - from);
}

TEST(TokenizeChat, EveryRowOfTheSharedTemplates) {
  ENGINE_REQUIRE_SHARED_DATA(path, "chat_templates/expected.jsonl");
  ENGINE_REQUIRE_SHARED_DATA(ranks, "tokenizers/llama3/tokenizer.model");
  const SharedRows shared(path);
  int rendered = 0, errors = 0, ids = 0, spans = 0;
  for (const auto& [key, rows] : shared.groups()) {
    const Result result =
        run("tokenize " + key.first + " --chat --date 2024-07-26 --template " + key.second,
            lines_of(rows));
    ASSERT_EQ(result.code, 0) << result.err;
    const std::vector<Json> found = rows_of(result.out);
    ASSERT_EQ(found.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const Json &row = rows[i], &out = found[i];
      SCOPED_TRACE(row["template"].get<std::string>() + " " + row["case"].get<std::string>());
      if (row.contains("error")) {
        EXPECT_EQ(out.size(), 1u);
        EXPECT_TRUE(has(out.value("error", ""), row["error"])) << out.dump();
        ++errors;
        continue;
      }
      EXPECT_EQ(out["rendered"], row["rendered"]);
      ++rendered;
      if (row.contains("ids")) {
        EXPECT_EQ(out["ids"], row["ids"]);
        ++ids;
      }
      if (row.contains("ids") && row.contains("assistant_spans")) {
        std::string said;
        for (const Json& span : row["assistant_spans"]) {
          said += characters(row["rendered"], span[0], span[1]);
        }
        EXPECT_EQ(masked_text(key.first, out), said);
        ++spans;
      }
    }
  }
  EXPECT_EQ(rendered, 117);
  EXPECT_EQ(errors, 5);
  EXPECT_EQ(ids, 84);
  EXPECT_EQ(spans, 14);
}

// --- engine generate --chat ---

// A random llama with the vocabulary of `tokenizer`.
std::string model_with(const std::string& tokenizer, const std::string& name, int vocab_size) {
  const Json config = {{"model_type", "llama"},    {"architectures", {"LlamaForCausalLM"}},
                       {"vocab_size", vocab_size}, {"hidden_size", 16},
                       {"intermediate_size", 16},  {"num_hidden_layers", 1},
                       {"num_attention_heads", 2}, {"max_position_embeddings", 4096},
                       {"initializer_range", 0.5}, {"bos_token_id", 0},
                       {"eos_token_id", 0},        {"tie_word_embeddings", true}};
  Runtime runtime(kernels::DeviceType::cpu);
  const auto model = make_model(config, "config.json");
  model->parameters().allocate(runtime, PrecisionPolicy::fp32(), ParameterSet::Purpose::inference);
  model->parameters().initialize(runtime, 7);
  const std::string out = scratch() / name;
  export_checkpoint(out, tensors_to_write(runtime, *model, {}, FileDtype::f32),
                    {.config_json = config.dump(), .tokenizer_directory = tokenizer});
  return out;
}

const std::string& chat_model() {
  static const std::string directory = model_with(chat_golden("byte_level"), "chat_model", 430);
  return directory;
}

// The continuation of ids, which `engine generate --chat` must give for the text that has them.
Json continued(const std::string& model, const std::string& rows) {
  const Result result = run("generate " + model + " --prompts " + write("prompts.jsonl", rows) +
                            " -n 3 --json --ignore-eos");
  EXPECT_EQ(result.code, 0) << result.err;
  Json ids = Json::array();
  for (const Json& row : rows_of(result.out)) ids.push_back(row["ids"]);
  return ids;
}

TEST(GenerateChat, PromptsAreWhatTheUserSays) {
  const std::string verb = "generate " + chat_model() + " --chat --json -n 3 --ignore-eos ";
  const std::string conversation = "{\"messages\":[" + message("system", "Be brief.") + "," +
                                   message("user", "thank you") +
                                   "],\"add_generation_prompt\":true}\n";
  const Json tokenized =
      rows_of(run("tokenize " + chat_model() + " --chat", conversation).out).at(0);
  const Result result = run(verb + "--system 'Be brief.' -p 'thank you'");
  ASSERT_EQ(result.code, 0) << result.err;
  const Json answer = rows_of(result.out).at(0);
  EXPECT_EQ(answer["prompt"], tokenized["rendered"]);
  EXPECT_TRUE(
      has(answer["prompt"], "<s><|turn|>system\nBe brief.<|end|>\n<|turn|>user\nthank you"));
  EXPECT_TRUE(answer["prompt"].get<std::string>().ends_with("<|turn|>assistant\n"));
  EXPECT_EQ(Json::array({answer["ids"]}),
            continued(chat_model(), Json{{"ids", tokenized["ids"]}}.dump() + "\n"));
  // Standard input, lines of a file, and rows with "prompt" are prompts too.
  const std::string text = write("p.txt", "thank you\n"),
                    rows = write("p.jsonl", "{\"prompt\":\"thank you\"}\n");
  EXPECT_EQ(run(verb + "--system 'Be brief.'", "thank you\n").out, result.out);
  EXPECT_EQ(run(verb + "--system 'Be brief.' --prompts " + text).out, result.out);
  EXPECT_EQ(run(verb + "--system 'Be brief.' --prompts " + rows).out, result.out);
  EXPECT_FALSE(has(rows_of(run(verb + "-p 'thank you'").out).at(0)["prompt"], "system"));
}

TEST(GenerateChat, RowsAreConversations) {
  const std::string verb =
      "generate " + chat_model() + " --chat --json -n 3 --ignore-eos --prompts ";
  const std::string user = message("user", "a"), assistant = message("assistant", "It is");
  const std::string file =
      write("chats.jsonl", "{\"messages\":[" + user + "," + assistant + "," + user + "]}\n" +
                               "{\"messages\":[" + user + "," + assistant + "]}\n" +
                               "{\"messages\":[" + user + "],\"tools\":[{\"name\":\"f\"}]}\n");
  const Result result = run(verb + file);
  ASSERT_EQ(result.code, 0) << result.err;
  const std::vector<Json> rows = rows_of(result.out);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["prompt"],
            "<s><|turn|>user\na<|end|>\n<|turn|>assistant\nIt is<|end|><|turn|>user\na<|end|>\n"
            "<|turn|>assistant\n");
  // The last message is the assistant's: the model goes on with it.
  EXPECT_EQ(rows[1]["prompt"], "<s><|turn|>user\na<|end|>\n<|turn|>assistant\nIt is");
  const std::string with_tools = write("tools.jinja",
                                       "{% for t in tools or [] %}{{ t.name }}{% endfor %}"
                                       "{% for m in messages %}{{ m.content }}{% endfor %}");
  EXPECT_EQ(rows_of(run(verb + file + " --template " + with_tools).out).at(2)["prompt"], "fa");
}

TEST(GenerateChat, Mistakes) {
  const std::string verb = "generate " + chat_model() + " -n 2 ";
  EXPECT_EQ(run(verb + "-p a --system b").code, 2);
  EXPECT_EQ(run(verb + "-p a --template b.jinja").code, 2);
  const std::string refuses = write("refuses.jinja", "{{ raise_exception('No.') }}");
  const Result refused = run(verb + "--chat -p a --template " + refuses);
  EXPECT_EQ(refused.code, 3);
  EXPECT_TRUE(
      has(refused.err, "error[CHAT-RENDER]: the chat template refuses the conversation: No."))
      << refused.err;
  const std::string rows = write("rows.jsonl", "{\"messages\":[" + message("user", "a") +
                                                   "]}\n\n{\"messages\":[{\"content\":\"a\"}]}\n");
  const Result malformed = run(verb + "--chat --prompts " + rows);
  EXPECT_EQ(malformed.code, 3);
  EXPECT_TRUE(has(malformed.err, "rows.jsonl:3: messages[0] has no \"role\"")) << malformed.err;
  // Without --chat a row of messages is no prompt; a model without a template does not converse.
  EXPECT_EQ(run(verb + "--prompts " + rows).code, 3);
  const std::string plain = model_with(tokenizer_with("plain", ""), "plain_model", 430);
  const Result none = run("generate " + plain + " --chat -p a");
  EXPECT_EQ(none.code, 4);
  EXPECT_TRUE(has(none.err, "error[CHAT-TEMPLATE]")) << none.err;
}

TEST(GenerateChat, EveryRowOfTheSharedTemplates) {
  ENGINE_REQUIRE_SHARED_DATA(path, "chat_templates/expected.jsonl");
  ENGINE_REQUIRE_SHARED_DATA(ranks, "tokenizers/llama3/tokenizer.model");
  const SharedRows shared(path);
  int compared = 0, refused = 0;
  std::map<std::string, std::string> models;  // by tokenizer
  for (const auto& [key, rows] : shared.groups()) {
    const std::string options =
        " --chat --json -n 3 --ignore-eos --date 2024-07-26 --template " + key.second;
    // What generate renders: up to the assistant's turn.
    std::vector<Json> chats, ids, texts;
    for (const Json& row : rows) {
      const Json chat = {{"messages", row["messages"]}, {"tools", row["tools"]}};
      if (row.contains("error")) {
        const Result result = run("generate " + chat_model() + options + " --prompts " +
                                  write("chat.jsonl", lines_of({chat})));
        EXPECT_EQ(result.code, 3);
        EXPECT_TRUE(has(result.err, "error[CHAT-RENDER]")) << result.err;
        EXPECT_TRUE(has(result.err, row["error"])) << result.err;
        ++refused;
      } else if (row["add_generation_prompt"] == true && row.contains("ids") &&
                 row["messages"].back()["role"] != "assistant") {
        chats.push_back(chat);
        ids.push_back({{"ids", row["ids"]}});
        texts.push_back(row["rendered"]);
      }
    }
    if (chats.empty()) continue;
    std::string& model = models[key.first];
    if (model.empty()) {
      model = model_with(key.first, "shared" + std::to_string(models.size()), 151936);
    }
    const Result result =
        run("generate " + model + options + " --prompts " + write("chat.jsonl", lines_of(chats)));
    ASSERT_EQ(result.code, 0) << result.err;
    const std::vector<Json> found = rows_of(result.out);
    ASSERT_EQ(found.size(), texts.size());
    const Json continuations = continued(model, lines_of(ids));
    for (size_t i = 0; i < texts.size(); ++i, ++compared) {
      SCOPED_TRACE(key.second);
      EXPECT_EQ(found[i]["prompt"], texts[i]);
      EXPECT_EQ(Json(found[i]["ids"]), continuations[i]);
    }
  }
  EXPECT_EQ(compared, 26);
  EXPECT_EQ(refused, 5);
}

}  // namespace
}  // namespace engine
