#include "tokenizer/chat/token_mask.h"

#include <algorithm>

namespace engine {
namespace {

// Finds the tokens around places within a text, from the ids of the whole text.
class TokenPlaces {
 public:
  TokenPlaces(const Tokenizer& tokenizer, std::string_view text)
      : tokenizer_(tokenizer), text_(text) {
    tokenizer.encode(text, {.add_special_tokens = false}, &ids, &parts_);
  }

  struct Place {
    size_t first;  // tokens before it hold nothing at or behind the place
    size_t last;   // tokens from it on hold nothing before the place
  };
  // first < last where a token holds characters of both sides. `at` is at the start of a character.
  Place find(size_t at) const {
    const auto part = std::partition_point(parts_.begin(), parts_.end(),
                                           [at](const EncodedPart& p) { return p.text_end <= at; });
    if (part == parts_.end()) return {ids.size(), ids.size()};
    if (part->text_begin >= at) return {part->ids_begin, part->ids_begin};
    if (part->is_added_token) return {part->ids_begin, part->ids_end};
    return find_within(*part, at);
  }

  std::vector<int32_t> ids;

 private:
  // The beginning of the part, encoded alone, ends where the place is. Where its tokens are not
  // those of the whole, texts are compared.
  Place find_within(const EncodedPart& part, size_t at) const {
    const std::string_view beginning = text_.substr(part.text_begin, at - part.text_begin);
    std::vector<int32_t> alone;
    tokenizer_.encode(beginning,
                      {.add_special_tokens = false, .at_text_start = part.text_begin == 0}, &alone);
    const auto whole_begin = ids.begin() + static_cast<ptrdiff_t>(part.ids_begin);
    const auto whole_end = ids.begin() + static_cast<ptrdiff_t>(part.ids_end);
    const auto same = std::mismatch(alone.begin(), alone.end(), whole_begin, whole_end);
    size_t count = static_cast<size_t>(same.second - whole_begin);
    if (same.first == alone.end()) return {part.ids_begin + count, part.ids_begin + count};
    const std::string wanted = tokenizer_.decode(alone);
    const size_t size = part.ids_end - part.ids_begin;
    while (count < size) {
      ++count;
      const std::string text = tokenizer_.decode({&*whole_begin, count});
      if (text == wanted) return {part.ids_begin + count, part.ids_begin + count};
      if (text.size() >= wanted.size() && text.starts_with(wanted)) break;
      if (text.size() > wanted.size() + 64) break;  // normalised otherwise
    }
    return {part.ids_begin + count - 1, part.ids_begin + count};
  }

  const Tokenizer& tokenizer_;
  std::string_view text_;
  std::vector<EncodedPart> parts_;
};

}  // namespace

EncodedChat encode_chat(const Tokenizer& tokenizer, const RenderedChat& chat) {
  TokenPlaces places(tokenizer, chat.text);
  EncodedChat result;
  result.assistant_mask.assign(places.ids.size(), 0);
  for (const jinja::Span& span : chat.assistant) {
    const size_t begin = places.find(span.begin).first, end = places.find(span.end).last;
    for (size_t i = begin; i < end; ++i) result.assistant_mask[i] = 1;
  }
  result.ids = std::move(places.ids);
  return result;
}

void ensure_bos(const Tokenizer& tokenizer, EncodedChat& chat) {
  const std::vector<int32_t>& prefix = tokenizer.prefix_ids();
  const bool wanted =
      tokenizer.bos_id() && !prefix.empty() && prefix.front() == *tokenizer.bos_id();
  if (!wanted || (!chat.ids.empty() && chat.ids.front() == *tokenizer.bos_id())) return;
  chat.ids.insert(chat.ids.begin(), *tokenizer.bos_id());
  chat.assistant_mask.insert(chat.assistant_mask.begin(), uint8_t{0});
}

}  // namespace engine
