// The text of a sequence while its tokens arrive, up to the first stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace engine {

class TextStream {
 public:
  // `tokenizer` must outlive it. The text is what follows that of `prompt`: a token may decode
  // differently at the very beginning (Llama 2 drops the space there). Stop strings are looked for
  // behind the prompt and are not part of the text.
  TextStream(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
             std::vector<std::string> stop, bool skip_special_tokens);

  // The text that is certain now: what may be the beginning of a stop string is held back.
  std::string push(int32_t id);
  // What was held back; nothing after a stop string. Nothing may be pushed afterwards.
  std::string finish();

  bool stopped() const { return stopped_; }          // a stop string was found
  const std::string& text() const { return text_; }  // everything that push and finish gave

 private:
  std::string release(bool all);

  StreamDecoder decoder_;
  std::vector<std::string> stop_;
  std::string held_, text_;
  bool stopped_ = false;
};

}  // namespace engine
