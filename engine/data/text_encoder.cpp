#include "engine/data/text_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/core/error.h"
#include "tokenizer/chat/assistant_spans.h"
#include "tokenizer/chat/token_mask.h"

namespace engine {
namespace {

// Opens the template when it is needed first, and once.
class ChatEncoder {
 public:
  ChatEncoder(std::shared_ptr<const Tokenizer> tokenizer, const ChatTemplateOptions& options)
      : tokenizer_(std::move(tokenizer)), options_(options) {}

  EncodedChatRow encode(const ChatRow& row) {
    const ChatTemplate& chat_template = opened();
    ConversationFields fields;
    fields.messages = row.messages;
    if (!row.tools.empty()) fields.tools = row.tools;
    fields.role = row.role;
    fields.content = row.content;
    fields.completion = row.completion;
    Conversation conversation = read_conversation(nlohmann::ordered_json::parse(row.json), fields);
    if (row.train_on == TrainOn::all) {
      EncodedChat encoded = encode_chat(*tokenizer_, chat_template.render(conversation, {}));
      const size_t count = encoded.ids.size();
      return {std::move(encoded.ids), std::vector<uint8_t>(count, 1)};
    }
    if (!row.completion.empty()) {
      bool selective = row.train_on != TrainOn::completion;
      for (size_t i = 0; i < conversation.messages.size(); ++i) {
        Conversation::Message& message = conversation.messages[i];
        if (i >= conversation.prompt_size) {
          selective |= !message.train;
        } else {
          message.train = false;
        }
      }
      if (!selective) return encode_completion(chat_template, conversation);
    }
    const AssistantTurns turns =
        row.train_on == TrainOn::last ? AssistantTurns::last : AssistantTurns::all;
    EncodedChat encoded =
        encode_chat(*tokenizer_, render_with_spans(chat_template, conversation, {.turns = turns}));
    return {std::move(encoded.ids), std::move(encoded.assistant_mask)};
  }

 private:
  EncodedChatRow encode_completion(const ChatTemplate& chat_template,
                                   const Conversation& conversation) const {
    const RenderedChat rendered = render_with_completion(chat_template, conversation);
    const std::string prompt = rendered.text.substr(0, rendered.assistant.front().begin);
    const std::vector<int32_t> prompt_ids = encode_chat(*tokenizer_, {prompt, {}}).ids;
    EncodedChatRow result;
    result.ids = encode_chat(*tokenizer_, rendered).ids;
    const size_t masked = std::min(prompt_ids.size(), result.ids.size());
    result.trained.assign(result.ids.size(), 1);
    std::fill_n(result.trained.begin(), masked, uint8_t{0});
    result.prefix_mismatch = masked < prompt_ids.size() ||
                             !std::equal(prompt_ids.begin(), prompt_ids.end(), result.ids.begin());
    return result;
  }

  const ChatTemplate& opened() {
    const std::lock_guard lock(mutex_);
    if (!chat_template_) chat_template_ = ChatTemplate::open(*tokenizer_, options_);
    return *chat_template_;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  ChatTemplateOptions options_;
  std::mutex mutex_;
  std::optional<ChatTemplate> chat_template_;
};

}  // namespace

TextEncoder make_text_encoder(std::shared_ptr<const Tokenizer> tokenizer,
                              const ChatTemplateOptions& chat) {
  TextEncoder encoder;
  if (!tokenizer) {
    encoder.identity = "none";
    encoder.encode = [](std::string_view) -> std::vector<int32_t> {
      throw Error(ExitCode::usage, "CFG-MISSING", "these rows are text, and there is no tokenizer")
          .fix("set model.tokenizer to a directory with a tokenizer.json");
    };
    encoder.encode_chat = [encode = encoder.encode](const ChatRow& row) -> EncodedChatRow {
      return {encode(row.json), {}};
    };
    return encoder;
  }
  encoder.identity = fmt::format("{:016x}{}", tokenizer->fingerprint(), chat.identity());
  encoder.bos_id = tokenizer->bos_id().value_or(-1);
  encoder.eos_id = tokenizer->eos_id().value_or(-1);
  encoder.adds_bos = !tokenizer->prefix_ids().empty() && tokenizer->bos_id() &&
                     tokenizer->prefix_ids().front() == *tokenizer->bos_id();
  encoder.prefix = tokenizer->prefix_ids();
  encoder.suffix = tokenizer->suffix_ids();
  PairIds pair = tokenizer->pair_ids();
  encoder.pair = {std::move(pair.before), std::move(pair.between), std::move(pair.after)};
  encoder.vocab_size = tokenizer->vocab_size();
  encoder.encode = [tokenizer](std::string_view text) {
    return tokenizer->encode(text, {.add_special_tokens = false});
  };
  encoder.encode_chat = [chats = std::make_shared<ChatEncoder>(tokenizer, chat)](
                            const ChatRow& row) { return chats->encode(row); };
  return encoder;
}

ChatTemplateOptions chat_template_options(const DataConfig& config) {
  return chat_template_options(config.chat_template, config.chat_date, "data.chat_date");
}

}  // namespace engine
