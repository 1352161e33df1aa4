#include "tokenizer/sentencepiece_text.h"

#include "tokenizer/byte_level.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/prefix_trie.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

class SentencePieceNormalizer final : public Normalizer {
 public:
  explicit SentencePieceNormalizer(SentencePieceNormalizerOptions options)
      : options_(std::move(options)) {
    std::vector<std::pair<std::string_view, int32_t>> keys;
    for (const std::string& text : options_.user_defined) keys.emplace_back(text, 0);
    if (!keys.empty()) user_defined_ = PrefixTrie(std::move(keys));
  }

  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    using DummySpace = SentencePieceNormalizerOptions::DummySpace;
    const std::string_view space = options_.escape_whitespaces ? kMetaspace : " ";
    out->clear();
    if (is_blank(text)) return true;
    out->reserve(text.size() + text.size() / 2);
    if (options_.dummy_space == DummySpace::kPrefix) *out += space;
    // With `remove_extra_whitespaces` a space is wanted only behind something else.
    bool previous_space = options_.remove_extra_whitespaces;
    for (size_t at = 0; at < text.size();) {
      const Part part = next_part(text, at);
      at += part.length;
      std::string_view rest = part.text;
      while (previous_space && !rest.empty() && rest[0] == ' ') rest.remove_prefix(1);
      if (rest.empty()) continue;
      for (const char c : rest) {
        if (c == ' ') {
          *out += space;
        } else {
          *out += c;
        }
      }
      previous_space = options_.remove_extra_whitespaces && rest.back() == ' ';
      check_charsmap_growth(text.size(), out->size());
    }
    if (options_.remove_extra_whitespaces) {
      while (out->ends_with(space)) out->resize(out->size() - space.size());
    }
    if (options_.dummy_space == DummySpace::kSuffix) *out += space;
    return true;
  }
  bool keeps_start(std::string_view, RegexScratch&) const override { return true; }

 private:
  struct Part {
    size_t length;  // in the text
    std::string_view text;
  };

  // Nothing but spaces that are removed: not even the dummy prefix is left.
  bool is_blank(std::string_view text) const {
    if (!options_.remove_extra_whitespaces) return text.empty();
    size_t at = 0;
    while (at < text.size()) {
      const Part part = next_part(text, at);
      if (part.text != " ") return false;
      at += part.length;
    }
    return true;
  }

  Part next_part(std::string_view text, size_t at) const {
    if (!user_defined_.empty()) {
      const size_t length = user_defined_.longest_prefix(text.substr(at));
      if (length > 0) return {length, text.substr(at, length)};
    }
    if (options_.charsmap.empty() || options_.charsmap.is_plain_ascii(text, at)) {
      return character(text, at);
    }
    const Charsmap::Rule rule = options_.charsmap.longest(text.substr(at));
    if (rule.length > 0) return {rule.length, rule.replacement};
    return character(text, at);
  }
  static Part character(std::string_view text, size_t at) {
    const size_t length = character_length(text, at);
    const std::string_view part = text.substr(at, length);
    if (length == 1 ? static_cast<unsigned char>(part[0]) < 0x80
                    : find_invalid_utf8(part) == std::string_view::npos) {
      return {length, part};
    }
    return {1, kReplacementCharacter};
  }

  SentencePieceNormalizerOptions options_;
  PrefixTrie user_defined_;
};

class DummyPrefixAtStart final : public PreTokenizer {
 public:
  void split(Piece piece, RegexScratch&, PieceSink& sink) const override {
    if (!piece.at_text_start) return sink.piece(piece);
    std::string text(kMetaspace);
    text += piece.text;
    sink.piece({text, true});
  }
};

class SentencePieceStream final : public DecoderStream {
 public:
  SentencePieceStream(SentencePieceDecoderOptions options, DecoderStream* next)
      : options_(options), next_(next) {}

  void push(Fragment fragment) override {
    if (const int byte = byte_of_token(fragment.text); byte >= 0) {
      bytes_ += static_cast<char>(byte);
      send_complete_characters(/*at_end=*/false);
      return;
    }
    send_complete_characters(/*at_end=*/true);
    if (dropped_prefix_ || has_text_) at_start_ = false;
    std::string_view piece = fragment.text;
    dropped_prefix_ = false;
    if (at_start_ && (options_.drop_dummy_prefix || options_.remove_extra_whitespaces) &&
        piece.starts_with(kMetaspace)) {
      piece.remove_prefix(kMetaspace.size());
      dropped_prefix_ = !options_.remove_extra_whitespaces;
    }
    text_.clear();
    for (size_t at = 0; at < piece.size();) {
      if (piece.substr(at, kMetaspace.size()) == kMetaspace) {
        text_ += ' ';
        at += kMetaspace.size();
      } else {
        text_ += piece[at++];
      }
    }
    send(text_, true);
  }
  void finish() override {
    send_complete_characters(/*at_end=*/true);
    next_->finish();
  }

 private:
  // Sends the characters whose bytes are all there. At the end of a run of bytes the rest is
  // malformed.
  void send_complete_characters(bool at_end) {
    if (bytes_.empty()) return;
    text_.clear();
    size_t at = 0;
    while (at < bytes_.size()) {
      const std::string_view rest = std::string_view(bytes_).substr(at);
      const unsigned char lead = static_cast<unsigned char>(rest[0]);
      const size_t wanted = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
      const std::string_view part = rest.substr(0, wanted);
      const size_t valid = find_invalid_utf8(part);
      if (part.size() == wanted && valid == std::string_view::npos) {
        text_ += part;
        at += wanted;
      } else if (!at_end && part.size() < wanted && is_unfinished_utf8(part)) {
        break;
      } else {
        text_ += kReplacementCharacter;
        ++at;
      }
    }
    bytes_.erase(0, at);
    send(text_, true);
  }
  void send(std::string_view text, bool begins_token) {
    if (text.empty()) return;
    has_text_ = true;
    next_->push({text, begins_token});
  }

  SentencePieceDecoderOptions options_;
  DecoderStream* next_;
  std::string bytes_;  // of byte pieces, not sent yet
  std::string text_;
  bool at_start_ = true;
  bool dropped_prefix_ = false;
  bool has_text_ = false;
};

class SentencePieceDecoder final : public DecoderStep {
 public:
  explicit SentencePieceDecoder(SentencePieceDecoderOptions options) : options_(options) {}
  std::unique_ptr<DecoderStream> make_stream(DecoderStream* next) const override {
    return std::make_unique<SentencePieceStream>(options_, next);
  }

 private:
  SentencePieceDecoderOptions options_;
};

}  // namespace

std::unique_ptr<Normalizer> make_sentencepiece_normalizer(SentencePieceNormalizerOptions options) {
  return std::make_unique<SentencePieceNormalizer>(std::move(options));
}
std::unique_ptr<PreTokenizer> make_dummy_prefix_at_start() {
  return std::make_unique<DummyPrefixAtStart>();
}
std::shared_ptr<const DecoderStep> make_sentencepiece_decoder(SentencePieceDecoderOptions options) {
  return std::make_shared<SentencePieceDecoder>(options);
}

}  // namespace engine::tokenizer
