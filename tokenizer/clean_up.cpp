#include "tokenizer/clean_up.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <string_view>
#include <utility>

namespace engine::tokenizer {
namespace {

using Replacement = std::pair<std::string_view, std::string_view>;

constexpr Replacement kSpaces[] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                   {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                   {" 've", "'ve"}, {" 're", "'re"}};
constexpr Replacement kWordPiece[] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                      {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                      {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                      {" 've", "'ve"}, {" 're", "'re"}};

std::string replace_all(std::string_view text, const Replacement& replacement) {
  const auto& [from, to] = replacement;
  std::string out;
  size_t copied = 0;
  for (size_t at; (at = text.find(from, copied)) != std::string_view::npos;
       copied = at + from.size()) {
    out += text.substr(copied, at - copied);
    out += to;
  }
  out += text.substr(copied);
  return out;
}

// One after the other, each over all of the text.
std::string replace_all(std::string text, std::span<const Replacement> replacements) {
  for (const Replacement& replacement : replacements) text = replace_all(text, replacement);
  return text;
}

// What may stand between the last space and a place within something that is replaced, also once
// other replacements have removed spaces: "x  ' ve" becomes "x 've", and that "x've".
bool may_be_in_replacement(std::string_view tail) {
  constexpr std::string_view kTails[] = {"", "'", "n", "n'", "v", "'v", "r", "'r"};
  return std::find(std::begin(kTails), std::end(kTails), tail) != std::end(kTails);
}

// The last place behind `from` where nothing that is replaced, now or later, begins before and ends
// behind: text up to there can be cleaned on its own. 0 if there is none.
size_t last_cut(std::string_view text, size_t from) {
  for (size_t at = text.size(); at > from; --at) {
    const bool in_character =
        at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
    size_t tail = 0;  // its length, as far as it matters
    while (tail < 3 && tail < at && text[at - tail - 1] != ' ') ++tail;
    if (!in_character && !may_be_in_replacement(text.substr(at - tail, tail))) return at;
  }
  return 0;
}

class CleanUpStream final : public DecoderStream {
 public:
  explicit CleanUpStream(DecoderStream* next) : next_(next) {}
  void push(Fragment fragment) override {
    const size_t searched = waiting_.size();
    waiting_ += fragment.text;
    send(last_cut(waiting_, searched));
  }
  void finish() override {
    send(waiting_.size());
    next_->finish();
  }

 private:
  void send(size_t length) {
    if (length == 0) return;
    next_->push({clean_up_spaces(waiting_.substr(0, length)), true});
    waiting_.erase(0, length);
  }
  DecoderStream* next_;
  std::string waiting_;  // has no cut
};

class CleanUpDecoder final : public DecoderStep {
 public:
  std::unique_ptr<DecoderStream> make_stream(DecoderStream* next) const override {
    return std::make_unique<CleanUpStream>(next);
  }
};

}  // namespace

std::string clean_up_spaces(std::string text) {
  return replace_all(std::move(text), kSpaces);
}
std::string clean_up_word_piece(std::string text) {
  return replace_all(std::move(text), kWordPiece);
}
std::shared_ptr<const DecoderStep> make_clean_up_decoder() {
  return std::make_shared<CleanUpDecoder>();
}

}  // namespace engine::tokenizer
