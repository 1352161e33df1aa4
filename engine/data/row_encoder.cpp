#include "engine/data/row_encoder.h"

#include <algorithm>
#include <utility>

#include "engine/data/data_error.h"
#include "engine/data/hash.h"

namespace engine {
namespace {

// How many tokens of two texts stay when `budget` are left for both: the longer one loses first,
// then both alike (tokenizers' LongestFirst).
std::pair<size_t, size_t> longest_first(size_t first, size_t second, size_t budget) {
  size_t shorter = std::min(first, second), longer = std::max(first, second);
  if (shorter + longer > budget) {
    longer = shorter > budget ? shorter : std::max(shorter, budget - shorter);
    if (shorter + longer > budget) {
      shorter = budget / 2;
      longer = shorter + budget % 2;
    }
  }
  return first <= second ? std::pair(shorter, longer) : std::pair(longer, shorter);
}

// What the settings make of the tokenizer's own way.
Wrapping toggled(Wrapping wrapping, const TokeniseOptions& options, const TextEncoder& encoder) {
  if (options.add_bos == Toggle::off) wrapping.before.clear();
  if (options.add_bos == Toggle::on && wrapping.before.empty()) {
    wrapping.before = {encoder.bos_id};
  }
  if (options.add_eos == Toggle::off) wrapping.after.clear();
  if (options.add_eos == Toggle::on && wrapping.after.empty()) {
    wrapping.after = {encoder.eos_id};
  }
  return wrapping;
}

}  // namespace

RowEncoder::RowEncoder(const TokeniseOptions& options, const TextEncoder& encoder)
    : encoder_(encoder),
      fields_(options.fields),
      train_on_(options.train_on),
      pairs_(options.fields.pair_pad_id.has_value()),
      classification_(options.classification) {
  const auto need = [](int32_t id, const char* option, const char* name) {
    if (id >= 0) return;
    throw Error(
        ExitCode::usage, "DATA-SPECIAL",
        std::string("data.") + option + "=true, but the tokenizer has no " + name + " token");
  };
  if (options.add_bos == Toggle::on) need(encoder.bos_id, "add_bos", "BOS");
  if (options.add_eos == Toggle::on) need(encoder.eos_id, "add_eos", "EOS");
  const bool automatic_bos = encoder.adds_bos && encoder.bos_id >= 0;
  bos_text_ =
      options.add_bos == Toggle::on || (options.add_bos == Toggle::automatic && automatic_bos);
  eos_text_ = options.add_eos == Toggle::on ||
              (options.add_eos == Toggle::automatic && encoder.eos_id >= 0);
  bos_given_ = options.add_bos == Toggle::on;
  eos_given_ = options.add_eos == Toggle::on;
  if (classification_) {
    single_ = toggled({encoder.prefix, {}, encoder.suffix}, options, encoder);
    pair_ = toggled(encoder.pair, options, encoder);
  }
}

EncodedRow RowEncoder::encode(ParsedRow row) const {
  EncodedRow result;
  result.label = std::move(row.label);
  result.conversation = row.kind == RowKind::conversation;
  Hasher content;
  content.add(static_cast<uint64_t>(row.kind));
  content.add(row.prompt);
  content.add(row.text);
  content.update(row.input_ids.data(), row.input_ids.size() * sizeof(int32_t));
  content.update(row.target_ids.data(), row.target_ids.size() * sizeof(int32_t));
  if (row.text_pair) content.add(*row.text_pair);
  result.content = content.finish().low;
  if (classification_) {
    encode_whole(row, result);
    return result;
  }
  if (pairs_) {
    encode_pair(std::move(row), result);
    return result;
  }

  size_t masked = 0;  // tokens of the prompt
  if (row.kind == RowKind::tokens) {
    result.ids = std::move(row.input_ids);
  } else if (row.kind == RowKind::conversation) {
    EncodedChatRow chat = encode_conversation(row, train_on_);
    result.ids = std::move(chat.ids);
    row.trained = std::move(chat.trained);
    result.prefix_mismatch = chat.prefix_mismatch;
  } else if (row.kind == RowKind::prompt_completion && train_on_ != TrainOn::all) {
    const std::vector<int32_t> prompt = encoder_.encode(row.prompt);
    result.ids = encoder_.encode(row.prompt + row.text);
    masked = std::min(prompt.size(), result.ids.size());
    result.prefix_mismatch = prompt.size() > result.ids.size() ||
                             !std::equal(prompt.begin(), prompt.end(), result.ids.begin());
  } else {
    result.ids = encoder_.encode(row.prompt + row.text);
  }
  if (row.trained.empty()) {
    result.trainable.assign(result.ids.size(), 1);
    std::fill_n(result.trainable.begin(), masked, uint8_t{0});
  } else {
    result.trainable = std::move(row.trained);
  }
  const bool adds_bos = row.kind == RowKind::tokens ? bos_given_ : bos_text_;
  const bool adds_eos =
      row.kind == RowKind::tokens || row.kind == RowKind::conversation ? eos_given_ : eos_text_;
  if (adds_bos && (result.ids.empty() || result.ids.front() != encoder_.bos_id)) {
    result.ids.insert(result.ids.begin(), encoder_.bos_id);
    result.trainable.insert(result.trainable.begin(), uint8_t{0});
  }
  if (adds_eos && (result.ids.empty() || result.ids.back() != encoder_.eos_id)) {
    result.ids.push_back(encoder_.eos_id);
    result.trainable.push_back(1);
  }
  return result;
}

void RowEncoder::encode_pair(ParsedRow row, EncodedRow& result) const {
  const bool tokens = row.kind == RowKind::tokens;
  std::vector<int32_t> source = std::move(row.input_ids), target = std::move(row.target_ids);
  if (!tokens) {
    source = encoder_.prefix;
    const std::vector<int32_t> text = encoder_.encode(row.prompt);
    source.insert(source.end(), text.begin(), text.end());
    source.insert(source.end(), encoder_.suffix.begin(), encoder_.suffix.end());
    target = encoder_.encode(row.text);
    row.trained.assign(target.size(), 1);
  }
  if ((tokens ? eos_given_ : eos_text_) && (target.empty() || target.back() != encoder_.eos_id)) {
    target.push_back(encoder_.eos_id);
    row.trained.push_back(1);
  }
  result.source_length = static_cast<uint32_t>(source.size());
  result.ids = std::move(source);
  result.ids.insert(result.ids.end(), target.begin(), target.end());
  result.trainable.assign(result.source_length, 0);
  result.trainable.insert(result.trainable.end(), row.trained.begin(), row.trained.end());
}

EncodedChatRow RowEncoder::encode_conversation(const ParsedRow& row, TrainOn train_on) const {
  const ChatRow chat{.json = row.text,
                     .messages = row.messages_field,
                     .tools = fields_.tools,
                     .role = fields_.role,
                     .content = fields_.content,
                     .completion = row.completion_field,
                     .train_on = train_on};
  if (!encoder_.encode_chat) {
    throw data_error("DATA-FORMAT", "conversations need a tokenizer with a chat template");
  }
  return encoder_.encode_chat(chat);
}

// A row to classify.
void RowEncoder::encode_whole(ParsedRow& row, EncodedRow& result) const {
  const bool tokens = row.kind == RowKind::tokens;
  const bool conversation = row.kind == RowKind::conversation;
  const Wrapping& around = row.text_pair ? pair_ : single_;
  std::vector<int32_t> first = tokens         ? std::move(row.input_ids)
                               : conversation ? encode_conversation(row, TrainOn::all).ids
                                              : encoder_.encode(row.prompt + row.text);
  std::vector<int32_t> second;
  if (row.text_pair) second = encoder_.encode(*row.text_pair);
  const auto begins_with = [&](const std::vector<int32_t>& ids) {
    return first.size() >= ids.size() && std::equal(ids.begin(), ids.end(), first.begin());
  };
  const auto ends_with = [](const std::vector<int32_t>& text, const std::vector<int32_t>& ids) {
    return text.size() >= ids.size() && std::equal(ids.rbegin(), ids.rend(), text.rbegin());
  };
  std::vector<int32_t> before, after;
  if (!tokens || bos_given_) before = around.before;
  if ((!tokens && !conversation) || eos_given_) after = around.after;
  // A rendered conversation brings its own.
  if (begins_with(before)) before.clear();
  if (ends_with(row.text_pair ? second : first, after)) after.clear();
  const size_t whole = first.size() + second.size();
  if (classification_->max_length > 0) {
    const size_t special =
        before.size() + after.size() + (row.text_pair ? around.between.size() : 0);
    const auto limit = static_cast<size_t>(classification_->max_length);
    const auto [keep_first, keep_second] =
        longest_first(first.size(), second.size(), limit > special ? limit - special : 0);
    shorten(first, keep_first);
    shorten(second, keep_second);
  }
  result.cut_tokens = whole - first.size() - second.size();
  result.ids = std::move(before);
  const auto append = [&](const std::vector<int32_t>& ids) {
    result.ids.insert(result.ids.end(), ids.begin(), ids.end());
  };
  append(first);
  if (row.text_pair) append(around.between);
  append(second);
  append(after);
  result.trainable.assign(result.ids.size(), 0);
}

void RowEncoder::shorten(std::vector<int32_t>& ids, size_t length) const {
  if (ids.size() <= length) return;
  if (classification_->keep_end) {
    ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(length));
  } else {
    ids.resize(length);
  }
}

}  // namespace engine
