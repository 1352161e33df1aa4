// Rows of conversations, from files to tokens and targets.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/data/dataset.h"
#include "engine/data/text_encoder.h"
#include "tests/data/support.h"

namespace engine {
namespace {

using testing::contains;
using testing::error_of;
using testing::row_ids;
using testing::row_trainable;
using testing::TemporaryDirectory;

// Its template: <s><|turn|>user\n...<|end|>\n<|turn|>assistant\n(...<|end|>)
std::shared_ptr<const Tokenizer> tokenizer() {
  static const auto opened = std::make_shared<const Tokenizer>(
      Tokenizer::open(std::string(ENGINE_SOURCE_DIR) + "/tests/tokenizer/chat/golden/byte_level"));
  return opened;
}

const std::string kTwoTurns =
    R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"},)"
    R"( {"role": "user", "content": "d"}, {"role": "assistant", "content": "ef"}]})";

class Chat : public ::testing::Test {
 protected:
  std::shared_ptr<const TokenisedData> read(const std::string& rows, DataConfig config = {}) {
    return tokenise(tokenise_options(config, {directory.write("f.jsonl", rows)}),
                    make_text_encoder(tokenizer(), chat_template_options(config)));
  }
  // What is trained, passages joined by "|".
  std::string trained(const TokenisedData& data, uint64_t row = 0) {
    std::string text;
    const std::vector<int32_t> ids = row_ids(data.rows, row);
    const std::vector<int> bits = row_trainable(data.rows, row);
    bool inside = false;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (bits[i] && !inside && !text.empty()) text += "|";
      inside = bits[i] != 0;
      if (inside) text += tokenizer()->decode({&ids[i], 1});
    }
    return text;
  }
  std::string whole(const TokenisedData& data, uint64_t row = 0) {
    return tokenizer()->decode(row_ids(data.rows, row));
  }

  TemporaryDirectory directory;
};

TEST_F(Chat, TheAssistantIsTrained) {
  const auto data = read(kTwoTurns);
  EXPECT_EQ(whole(*data),
            "<s><|turn|>user\na<|end|>\n<|turn|>assistant\nbc<|end|><|turn|>user\nd<|end|>\n"
            "<|turn|>assistant\nef<|end|>");
  EXPECT_EQ(trained(*data), "bc<|end|>|ef<|end|>");
  DataConfig config;
  config.train_on = TrainOn::assistant;
  EXPECT_EQ(trained(*read(kTwoTurns, config)), "bc<|end|>|ef<|end|>");
  config.train_on = TrainOn::last;
  EXPECT_EQ(trained(*read(kTwoTurns, config)), "ef<|end|>");
  config.train_on = TrainOn::all;
  EXPECT_EQ("<s>" + trained(*read(kTwoTurns, config)), whole(*data));  // nothing predicts BOS
}

TEST_F(Chat, OtherShapesOfRows) {
  EXPECT_EQ(trained(*read(R"({"conversations": [{"from": "human", "value": "a"},)"
                          R"( {"from": "gpt", "value": "bc"}]})")),
            "bc<|end|>");
  DataConfig config;
  config.fields = {{"messages", "chat"}, {"role", "who"}, {"content", "what"}};
  EXPECT_EQ(trained(*read(R"({"chat": [{"who": "user", "what": "a"},)"
                          R"( {"who": "assistant", "what": "bc"}]})",
                          config)),
            "bc<|end|>");
  EXPECT_EQ(trained(*read(R"({"messages": [{"role": "assistant", "content": "x", "weight": 0},)"
                          R"( {"role": "assistant", "content": "bc"}]})")),
            "bc<|end|>");
  config.fields["text"] = "t";
  EXPECT_EQ(error_of([&] { read(kTwoTurns, config); }).code(), "DATA-FIELDS");
}

// --- Prompt and completion as lists of messages. ---

const std::string kInTwoParts =
    R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant",)"
    R"( "content": "bc"}, {"role": "user", "content": "d"}, {"role": "assistant", "content": "ef"}]})";

TEST_F(Chat, TheCompletionIsTrained) {
  const auto data = read(kInTwoParts);
  EXPECT_EQ(row_ids(data->rows, 0), row_ids(read(kTwoTurns)->rows, 0));
  EXPECT_EQ(trained(*data),
            "bc<|end|><|turn|>user\nd<|end|>\n<|turn|>assistant\nef<|end|>");  // to the end
  DataConfig config;
  config.train_on = TrainOn::assistant;
  EXPECT_EQ(trained(*read(kInTwoParts, config)), "bc<|end|>|ef<|end|>");
  config.train_on = TrainOn::last;
  EXPECT_EQ(trained(*read(kInTwoParts, config)), "ef<|end|>");
  config.train_on = TrainOn::all;
  EXPECT_EQ("<s>" + trained(*read(kInTwoParts, config)), whole(*data));
  // What the assistant has said before is part of the prompt.
  const std::string later =
      R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"},)"
      R"( {"role": "user", "content": "d"}], "completion": [{"role": "assistant", "content": "ef"}]})";
  for (const TrainOn train_on : {TrainOn::completion, TrainOn::assistant, TrainOn::last}) {
    config.train_on = train_on;
    EXPECT_EQ(trained(*read(later, config)), "ef<|end|>");
    EXPECT_EQ(whole(*read(later, config)), whole(*data));
  }
  // Messages that say so are left out.
  EXPECT_EQ(trained(*read(R"({"prompt": [{"role": "user", "content": "a"}], "completion": [)"
                          R"({"role": "assistant", "content": "bc", "train": false},)"
                          R"( {"role": "assistant", "content": "ef"}]})")),
            "ef<|end|>");
  EXPECT_EQ(Dataset(data, {}).audit().ends_in_trained_eos, 1u);
}

TEST_F(Chat, CompletionsEqualThoseOfTrl) {
  for (const char* name : {"byte_level", "metaspace"}) {
    const std::string directory_of_goldens =
        std::string(ENGINE_SOURCE_DIR) + "/tests/tokenizer/chat/golden/" + name;
    const auto other = std::make_shared<const Tokenizer>(Tokenizer::open(directory_of_goldens));
    std::ifstream rows(directory_of_goldens + "/completions.jsonl");
    int count = 0, mismatches = 0;
    for (std::string line; std::getline(rows, line); ++count) {
      const auto row = nlohmann::json::parse(line);
      SCOPED_TRACE(line);
      const TextEncoder encoder =
          make_text_encoder(other, {.name = row["template"].get<std::string>()});
      TokeniseOptions options = tokenise_options({}, {directory.write("f.jsonl", line)});
      options.add_bos = Toggle::off;
      const auto data = tokenise(options, encoder);
      EXPECT_EQ(row_ids(data->rows, 0), row["ids"].get<std::vector<int32_t>>());
      std::vector<int> mask = row["mask"];
      mask[0] = 0;  // nothing predicts it
      EXPECT_EQ(row_trainable(data->rows, 0), mask);
      EXPECT_EQ(data->rows.statistics().prefix_mismatches, row["mismatch"].get<bool>() ? 1u : 0u);
      mismatches += row["mismatch"].get<bool>();
    }
    EXPECT_EQ(count, 16);
    EXPECT_GT(mismatches, 0);
  }
}

TEST_F(Chat, CompletionsInOtherFields) {
  DataConfig config;
  config.fields = {{"prompt", "ask"}, {"completion", "say"}};
  const std::string row = R"({"ask": [{"role": "user", "content": "a"}],)"
                          R"( "say": [{"role": "assistant", "content": "bc"}]})";
  EXPECT_EQ(trained(*read(row, config)), "bc<|end|>");
  config.fields = {{"prompt", "{ask}"}, {"completion", "say"}};
  EXPECT_EQ(error_of([&] { read(row, config); }).code(), "DATA-TYPE");
}

TEST_F(Chat, AMismatchOfPromptAndWholeIsCounted) {
  DataConfig config;
  config.chat_template =
      directory.write("glued.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
  const auto data = read(R"({"prompt": [{"role": "user", "content": "thank yo"}],)"
                         R"( "completion": [{"role": "assistant", "content": "u, too"}]})",
                         config);
  EXPECT_EQ(data->rows.statistics().prefix_mismatches, 1u);
  EXPECT_TRUE(contains(Dataset(data, {}).audit().summary(), "a token there mixes both"));
}

TEST_F(Chat, CompletionsThatCannotBeToldApart) {
  const auto code = [&](const std::string& rows, DataConfig config = {}) {
    return error_of([&] { read(rows, config); }).code();
  };
  const std::string good = R"({"prompt": [{"role": "user", "content": "a"}],)"
                           R"( "completion": [{"role": "assistant", "content": "bc"}]})";
  const Error mixed = error_of(
      [&] { read(R"({"prompt": [{"role": "user", "content": "a"}], "completion": "bc"})"); });
  EXPECT_EQ(mixed.code(), "DATA-TYPE");
  EXPECT_TRUE(
      contains(mixed.what(), "f.jsonl:1: field \"prompt\" is a list[1], expected a string"));
  EXPECT_TRUE(contains(mixed.what(), "lists of messages both"));
  EXPECT_EQ(code(good + "\n" + R"({"prompt": "a", "completion": "b"})"), "DATA-TYPE");
  EXPECT_EQ(code(R"({"prompt": "a", "completion": "b"})"
                 "\n" +
                 good),
            "DATA-TYPE");
  EXPECT_EQ(code(good + "\n" + R"({"prompt": []})"), "DATA-FIELD");
  EXPECT_EQ(code(R"({"prompt": [], "completion": []})"), "CHAT-MESSAGES");
  const Error place = error_of([&] {
    read(R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"content": "b"}]})");
  });
  EXPECT_TRUE(contains(place.what(), "f.jsonl:1: completion[0] has no \"role\""));
  DataConfig config;
  config.chat_template =
      directory.write("rewrites.jinja",
                      "{% for m in messages %}{{ m.role }}{% if loop.last %}!{% endif %}"
                      "{{ m.content }}{% endfor %}");
  const Error prefix = error_of([&] { read(good, config); });
  EXPECT_EQ(prefix.code(), "CHAT-PREFIX");
  EXPECT_TRUE(contains(prefix.what(), "f.jsonl:1: completion[0]"));
}

// --- Conversations elsewhere. ---

TEST_F(Chat, EncoderDecoderModelsRefuseConversations) {
  for (const std::string& row : {kTwoTurns, kInTwoParts}) {
    TokeniseOptions options = tokenise_options({}, {directory.write("f.jsonl", row)});
    options.fields.pair_pad_id = 0;
    const Error error = error_of([&] { tokenise(options, make_text_encoder(tokenizer())); });
    EXPECT_EQ(error.code(), "DATA-FORMAT");
    EXPECT_EQ(error.exit_code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), "f.jsonl:1: the row is a conversation"));
  }
}

// Reward models: a label for a whole conversation. No spans are looked for: the template may print
// earlier turns otherwise once others follow.
TEST_F(Chat, ConversationsAreClassified) {
  DataConfig config;
  config.chat_template = directory.write("rewrites.jinja",
                                         "{{ bos_token }}{% for m in messages %}{{ m.role }}:"
                                         "{% if loop.last %}last{% endif %}{{ m.content }}"
                                         "{% endfor %}");
  const std::string label = R"(, "label": 0.5})";
  for (const std::string& row : {kTwoTurns, kInTwoParts}) {
    const std::string labelled = row.substr(0, row.size() - 1) + label;
    const auto data =
        tokenise(classification_options(config, {directory.write("f.jsonl", labelled)}),
                 make_text_encoder(tokenizer(), chat_template_options(config)));
    EXPECT_EQ(whole(*data), "<s>user:aassistant:bcuser:dassistant:lastef");
    EXPECT_EQ(row_trainable(data->rows, 0), std::vector<int>(row_ids(data->rows, 0).size(), 0));
    EXPECT_EQ(data->rows.label_names(), std::vector<std::string>{"0.5"});
    EXPECT_EQ(data->rows.label(0), 0);
    const Error missing = error_of([&] {
      tokenise(classification_options(config, {directory.write("f.jsonl", row)}),
               make_text_encoder(tokenizer(), chat_template_options(config)));
    });
    EXPECT_EQ(missing.code(), "DATA-FIELD");
  }
}

TEST_F(Chat, ATemplateOfOnesOwn) {
  DataConfig config;
  config.chat_template =
      directory.write("own.jinja",
                      "{{ strftime_now('%Y ') if strftime_now is defined }}"
                      "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
                      "{% if add_generation_prompt %}a:{% endif %}");
  EXPECT_EQ(whole(*read(kTwoTurns, config)), "u:a;a:bc;u:d;a:ef;");
  EXPECT_EQ(trained(*read(kTwoTurns, config)), "bc;|ef;");
  config.train_on = TrainOn::last;
  config.chat_date = "2024-07-26";
  EXPECT_EQ(whole(*read(kTwoTurns, config)), "2024 u:a;a:bc;u:d;a:ef;");
}

TEST_F(Chat, ErrorsNameTheRow) {
  const Error roles =
      error_of([&] { read(kTwoTurns + "\n" + R"({"messages": [{"content": "a"}]})"); });
  EXPECT_EQ(roles.code(), "CHAT-MESSAGES");
  EXPECT_TRUE(contains(roles.what(), "f.jsonl:2: messages[0] has no \"role\""));
  const Error type = error_of([&] { read(kTwoTurns + "\n" + R"({"messages": "a"})"); });
  EXPECT_EQ(type.code(), "DATA-TYPE");
  EXPECT_TRUE(contains(type.what(), "f.jsonl:2: field \"messages\" is a str"));
  const Error field = error_of([&] { read(kTwoTurns + "\n" + R"({"massages": []})"); });
  EXPECT_EQ(field.code(), "DATA-FIELD");
  DataConfig config;
  config.chat_template = directory.write("own.jinja", "{{ raise_exception('never') }}");
  const Error raised = error_of([&] { read(kTwoTurns, config); });
  EXPECT_EQ(raised.code(), "CHAT-RENDER");
  EXPECT_TRUE(
      contains(raised.what(), "f.jsonl:1: the chat template refuses the conversation: never"));
  config.chat_template = directory.write("rewrites.jinja",
                                         "{% for m in messages %}{{ m.role }}{% if loop.last %}!{% "
                                         "endif %}{{ m.content }}{% endfor %}");
  const Error prefix = error_of([&] { read(kTwoTurns, config); });
  EXPECT_EQ(prefix.code(), "CHAT-PREFIX");
  EXPECT_TRUE(contains(prefix.what(), "f.jsonl:1: messages[1]"));
}

TEST_F(Chat, WithoutATemplateOrATokenizer) {
  DataConfig config;
  const std::string file = directory.write("f.jsonl", kTwoTurns);
  const auto plain =
      std::make_shared<const Tokenizer>(Tokenizer::from_json(tokenizer()->files()[0].contents));
  EXPECT_EQ(error_of([&] {
              tokenise(tokenise_options(config, {file}), make_text_encoder(plain));
            }).code(),
            "CHAT-TEMPLATE");
  EXPECT_EQ(error_of([&] {
              tokenise(tokenise_options(config, {file}), make_text_encoder(nullptr));
            }).code(),
            "CFG-MISSING");
  EXPECT_EQ(
      error_of([&] { tokenise(tokenise_options(config, {file}), testing::byte_encoder()); }).code(),
      "DATA-FORMAT");
}

TEST_F(Chat, TheCacheKnowsTheTemplate) {
  DataConfig config;
  config.cache_dir = (directory.path() / "cache").string();
  EXPECT_EQ(read(kTwoTurns, config)->cache, CacheUse::built);
  EXPECT_EQ(read(kTwoTurns, config)->cache, CacheUse::hit);
  config.train_on = TrainOn::last;
  EXPECT_EQ(read(kTwoTurns, config)->cache, CacheUse::built);
  config.chat_date = "2024-07-26";
  EXPECT_EQ(read(kTwoTurns, config)->cache, CacheUse::built);
  config.chat_template = directory.write("own.jinja", "{{ messages[0].content }}");
  config.train_on = TrainOn::all;
  EXPECT_EQ(read(kTwoTurns, config)->cache, CacheUse::built);
  directory.write("own.jinja", "{{ messages[1].content }}");
  EXPECT_EQ(read(kTwoTurns, config)->cache, CacheUse::built);
  EXPECT_EQ(whole(*read(kTwoTurns, config)), "bc");
}

TEST_F(Chat, TurnsThatEndInEosAreCounted) {
  EXPECT_EQ(Dataset(read(kTwoTurns), {}).audit().ends_in_trained_eos, 1u);
  DataConfig config;
  config.chat_template = directory.write(
      "lines.jinja",
      "{% for m in messages %}{{ m.role }}:{{ m.content }}<|end|>{{ '\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}assistant:{% endif %}");
  EXPECT_EQ(trained(*read(kTwoTurns, config)), "bc<|end|>\n|ef<|end|>\n");
  EXPECT_EQ(Dataset(read(kTwoTurns, config), {}).audit().ends_in_trained_eos, 1u);
  // Only conversations have something behind it: this text goes on.
  config = {};
  config.add_eos = Toggle::off;
  EXPECT_EQ(Dataset(read(R"({"text": "a<|end|>b"})", config), {}).audit().ends_in_trained_eos, 0u);
  EXPECT_EQ(Dataset(read(R"({"text": "ab<|end|>"})", config), {}).audit().ends_in_trained_eos, 1u);
}

}  // namespace
}  // namespace engine
