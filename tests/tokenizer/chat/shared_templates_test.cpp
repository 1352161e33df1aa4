// Published chat templates over conversations, against what Jinja made of them. Needs the shared
// data.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
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

// A tokenizer with the special tokens that the row was rendered with.
std::shared_ptr<const Tokenizer> tokenizer_of(const Json& row, const std::filesystem::path& data) {
  const std::string name = row["template"];
  const bool llama = name.find("lama") != std::string::npos;
  const bool qwen3 = name.find("qwen3") != std::string::npos;
  static std::map<std::string, std::shared_ptr<const Tokenizer>> opened;
  const std::string bos = row["bos_token"], eos = row["eos_token"];
  std::shared_ptr<const Tokenizer>& tokenizer = opened[bos + "|" + eos +
                                                       (llama   ? "l"
                                                        : qwen3 ? "3"
                                                                : "q")];
  if (tokenizer) return tokenizer;
  const auto directory =
      std::filesystem::temp_directory_path() /
      ("engine_chat_" + std::to_string(::getpid()) + "_" + std::to_string(opened.size()));
  std::filesystem::create_directories(directory);
  const auto copy = [&](const std::string& from, const std::string& to) {
    std::filesystem::copy_file(data / "tokenizers" / from, directory / to,
                               std::filesystem::copy_options::overwrite_existing);
  };
  Json config = {{"eos_token", eos}};
  if (!bos.empty()) config["bos_token"] = bos;
  config["pad_token"] = nullptr;
  config["unk_token"] = nullptr;
  if (llama) {
    copy("llama3/tokenizer.model", "tokenizer.model");
    config["added_tokens_decoder"] = Json::object();
    const Json tables = Json::parse(read(data / "tokenizers/llama3/special_tokens.json"));
    for (const auto& [table, tokens] : tables.items()) {
      if (table.find("hf") == std::string::npos && table.find("HF") == std::string::npos) continue;
      for (const auto& [content, id] : tokens.items()) {
        config["added_tokens_decoder"][std::to_string(id.get<int>())] = {{"content", content},
                                                                         {"special", true}};
      }
    }
  } else {
    copy("qwen2.5/vocab.json", "vocab.json");
    copy("qwen2.5/merges.txt", "merges.txt");
    Json added = Json::parse(read(data / "tokenizers/qwen2.5/added_tokens.json"));
    if (qwen3) {
      added["<tool_response>"] = 151665;
      added["</tool_response>"] = 151666;
      added["<think>"] = 151667;
      added["</think>"] = 151668;
    }
    std::ofstream(directory / "added_tokens.json") << added.dump();
  }
  std::ofstream(directory / "tokenizer_config.json") << config.dump();
  tokenizer = std::make_shared<const Tokenizer>(Tokenizer::open(directory));
  std::filesystem::remove_all(directory);
  return tokenizer;
}

TEST(SharedChatTemplates, EveryRowIsEqual) {
  ENGINE_REQUIRE_SHARED_DATA(path, "chat_templates/expected.jsonl");
  ENGINE_REQUIRE_SHARED_DATA(ranks, "tokenizers/llama3/tokenizer.model");
  const std::filesystem::path data = path.parent_path().parent_path();
  const std::tm date = *chat_template_options("", "2024-07-26", "date").date;
  std::ifstream rows(path);
  int rendered = 0, errors = 0, spans = 0, ids = 0;
  for (std::string line; std::getline(rows, line);) {
    const Json row = Json::parse(line);
    SCOPED_TRACE(row["template"].get<std::string>() + " " + row["case"].get<std::string>());
    const auto tokenizer = tokenizer_of(row, data);
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
  std::ifstream rows(path);
  int compared = 0;
  for (std::string line; std::getline(rows, line);) {
    const Json row = Json::parse(line);
    if (row["template"] != "trl_llama3_training.jinja" || row.contains("error")) continue;
    SCOPED_TRACE(row["case"].get<std::string>());
    const auto tokenizer = tokenizer_of(row, data);
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
