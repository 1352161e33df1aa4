// Rows of conversations, from files to tokens and targets.
#include <gtest/gtest.h>

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
}

}  // namespace
}  // namespace engine
