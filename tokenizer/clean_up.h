// Spaces that a decoder of words leaves before punctuation.
#pragma once

#include <memory>
#include <string>

#include "tokenizer/decoder.h"

namespace engine::tokenizer {

// transformers' clean_up_tokenization: removes the space before . ? ! , and before English
// contractions. It damages code ("a . b").
std::string clean_up_spaces(std::string text);
// What the decoder of WordPiece does within each token: that, and " do not" becomes " don't".
std::string clean_up_word_piece(std::string text);

// clean_up_spaces() of the whole text, as a last step: text is sent on as soon as what follows
// cannot change it.
std::shared_ptr<const DecoderStep> make_clean_up_decoder();

}  // namespace engine::tokenizer
