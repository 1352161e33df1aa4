// The last stage, from token texts back to text. Every step works on a stream, so that decoding
// token by token and decoding at once are the same computation.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"

namespace engine::tokenizer {

// What flows between decoder steps: token texts, possibly in several fragments.
struct Fragment {
  std::string_view text;
  bool begins_token = true;
};

class DecoderStream {
 public:
  virtual ~DecoderStream() = default;
  virtual void push(Fragment fragment) = 0;
  virtual void finish() = 0;
};

// A step of the decoder; `make_stream` gives its state for one text, writing to `next`.
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;
  virtual std::unique_ptr<DecoderStream> make_stream(DecoderStream* next) const = 0;
};
using Decoder = std::vector<std::shared_ptr<const DecoderStep>>;

// Spelled bytes -> text; malformed UTF-8 becomes U+FFFD. All tokens become one.
std::shared_ptr<const DecoderStep> make_byte_level_decoder();
// Runs of <0xXX> tokens -> text; a run that is not valid UTF-8 becomes one U+FFFD per byte.
std::shared_ptr<const DecoderStep> make_byte_fallback_decoder();
// All tokens become one.
std::shared_ptr<const DecoderStep> make_fuse_decoder();
// Replaces `text` (not empty) by `content` within each token.
std::shared_ptr<const DecoderStep> make_replace_decoder(std::string text, std::string content);
// Replaces every match of `pattern` within each token, which waits until it is whole.
std::shared_ptr<const DecoderStep> make_regex_replace_decoder(Regex pattern, std::string content);
struct StripOptions {
  std::string character;
  size_t start = 0;  // at most so many at the start of each token
  size_t stop = 0;   // and at its end
};
std::shared_ptr<const DecoderStep> make_strip_decoder(StripOptions options);
// `replacement` -> space, except that the first token loses it when `drop_first`.
std::shared_ptr<const DecoderStep> make_metaspace_decoder(std::string replacement, bool drop_first);
// Tokens with `prefix` continue the word before them, others begin a new one after a space. With
// `cleanup` spaces before punctuation and English contractions are removed within each token.
std::shared_ptr<const DecoderStep> make_word_piece_decoder(std::string prefix, bool cleanup);
// `suffix` ends a word: it becomes a space, nothing in the last token.
std::shared_ptr<const DecoderStep> make_word_end_decoder(std::string suffix);
// Puts a space between tokens: what a tokenizer without a decoder does.
std::shared_ptr<const DecoderStep> make_join_decoder();

}  // namespace engine::tokenizer
