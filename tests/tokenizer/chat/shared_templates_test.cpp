// Published chat templates over conversations, against what Jinja made of them. Needs the shared
// data.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tests/support/shared_chat.h"
#include "tests/support/shared_data.h"
#include "tokenizer/chat/assistant_spans.h"
#include "tokenizer/chat/jinja/text.h"
#include "tokenizer/chat/token_mask.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Tokenizers with the special tokens that rows were rendered with.
class Tokenizers {
 public:
  explicit Tokenizers(const std::filesystem::path& data) : directories_(data) {}
  std::shared_ptr<const Tokenizer> of(const Json& row) {
    const std::string directory = directories_.directory(row);
    std::shared_ptr<const Tokenizer>& tokenizer = opened_[directory];
    if (!tokenizer) tokenizer = std::make_shared<const Tokenizer>(Tokenizer::open(directory));
    return tokenizer;
  }

 private:
  testing::SharedChatTokenizers directories_;
  std::map<std::string, std::shared_ptr<const Tokenizer>> opened_;
};

TEST(SharedChatTemplates, EveryRowIsEqual) {
  ENGINE_REQUIRE_SHARED_DATA(path, "chat_templates/expected.jsonl");
  ENGINE_REQUIRE_SHARED_DATA(ranks, "tokenizers/llama3/tokenizer.model");
  const std::filesystem::path data = path.parent_path().parent_path();
  Tokenizers tokenizers(data);
  const std::tm date = *chat_template_options("", "2024-07-26", "date").date;
  std::ifstream rows(path);
  int rendered = 0, errors = 0, spans = 0, ids = 0;
  for (std::string line; std::getline(rows, line);) {
    const Json row = Json::parse(line);
    SCOPED_TRACE(row["template"].get<std::string>() + " " + row["case"].get<std::string>());
    const auto tokenizer = tokenizers.of(row);
    ChatTemplateOptions options;
    options.text = read(data / "chat_templates" / row["template"].get<std::string>());
    options.date = date;
    const ChatTemplate chat_template = ChatTemplate::open(*tokenizer, options);
    const Conversation conversation = read_conversation(row);
    const ChatRenderOptions how{.add_generation_prompt = row["add_generation_prompt"]};
    if (row.contains("error")) {
      try {
        chat_template.render(conversation, how);
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), "CHAT-RENDER");
        EXPECT_NE(std::string(error.what()).find(row["error"].get<std::string>()),
                  std::string::npos)
            << error.what();
      }
      ++errors;
      continue;
    }
    const RenderedChat chat = chat_template.render(conversation, how);
    EXPECT_EQ(chat.text, row["rendered"].get<std::string>());
    ++rendered;
    if (row.contains("assistant_spans")) {
      Json found = Json::array();
      for (const jinja::Span& span : chat.assistant) {
        found.push_back({jinja::count_characters(chat.text.substr(0, span.begin)),
                         jinja::count_characters(chat.text.substr(0, span.end))});
      }
      EXPECT_EQ(found, row["assistant_spans"]);
      ++spans;
    }
    if (row.contains("ids")) {
      const EncodedChat encoded = encode_chat(*tokenizer, chat);
      EXPECT_EQ(encoded.ids, row["ids"].get<std::vector<int32_t>>());
      // The masked tokens are the text of the spans, no more and no less.
      std::string said, spoken;
      for (const jinja::Span& span : chat.assistant) {
        said += chat.text.substr(span.begin, span.end - span.begin);
      }
      std::vector<int32_t> masked;
      for (size_t i = 0; i < encoded.ids.size(); ++i) {
        if (encoded.assistant_mask[i]) masked.push_back(encoded.ids[i]);
      }
      EXPECT_EQ(tokenizer->decode(masked), said);
      ++ids;
    }
  }
  EXPECT_EQ(rendered, 117);
  EXPECT_EQ(errors, 5);
  EXPECT_EQ(spans, 18);
  EXPECT_GT(ids, 80);
}

// Where a template has no generation blocks, the renderings of prefixes tell what the training
// variant of the same template marks.
TEST(SharedChatTemplates, PrefixesFindTheSpansOfGenerationBlocks) {
  ENGINE_REQUIRE_SHARED_DATA(path, "chat_templates/expected.jsonl");
  const std::filesystem::path data = path.parent_path().parent_path();
  Tokenizers tokenizers(data);
  std::ifstream rows(path);
  int compared = 0;
  for (std::string line; std::getline(rows, line);) {
    const Json row = Json::parse(line);
    if (row["template"] != "trl_llama3_training.jinja" || row.contains("error")) continue;
    SCOPED_TRACE(row["case"].get<std::string>());
    const auto tokenizer = tokenizers.of(row);
    ChatTemplateOptions training, plain;
    training.text = read(data / "chat_templates/trl_llama3_training.jinja");
    plain.text = read(data / "chat_templates/trl_llama3.jinja");
    const Conversation conversation = read_conversation(row);
    const AssistantSpanOptions options{.add_generation_prompt = row["add_generation_prompt"]};
    const RenderedChat expected =
        render_with_spans(ChatTemplate::open(*tokenizer, training), conversation, options);
    const RenderedChat found =
        render_with_spans(ChatTemplate::open(*tokenizer, plain), conversation, options);
    EXPECT_EQ(found.text, expected.text);
    EXPECT_EQ(found.assistant, expected.assistant);
    ++compared;
  }
  EXPECT_EQ(compared, 12);
}

}  // namespace
}  // namespace engine
