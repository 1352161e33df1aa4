// What sentencepiece does to a text before its model sees it, and to pieces afterwards.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/charsmap.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"

namespace engine::tokenizer {

struct SentencePieceNormalizerOptions {
  Charsmap charsmap;
  bool remove_extra_whitespaces = true;  // at both ends, and all but one of a run
  bool escape_whitespaces = true;        // spaces become "▁"
  enum class DummySpace { kNone, kPrefix, kSuffix };
  DummySpace dummy_space = DummySpace::kPrefix;  // one more space, so that all words have one
  std::vector<std::string> user_defined;         // left as they are
};
// Any bytes will do: malformed ones become U+FFFD. Throws TOK-MALFORMED when a damaged charsmap
// blows the text up.
std::unique_ptr<Normalizer> make_sentencepiece_normalizer(SentencePieceNormalizerOptions options);

// The dummy prefix for the beginning of a text alone, not for what follows a special token: put by
// a pre-tokenizer, since a normalizer does not know where it is.
std::unique_ptr<PreTokenizer> make_dummy_prefix_at_start();

struct SentencePieceDecoderOptions {
  // The dummy prefix: one "▁" in front of the text is dropped.
  bool drop_dummy_prefix = true;
  // Text is never begun with a space: one "▁" goes from every piece before the first text.
  bool remove_extra_whitespaces = true;
};
// "▁" becomes a space; runs of <0xXX> become their bytes, every malformed byte one U+FFFD.
std::shared_ptr<const DecoderStep> make_sentencepiece_decoder(SentencePieceDecoderOptions options);

}  // namespace engine::tokenizer
