// The steps of a tokenizer.json, read: normalizers, pre-tokenizers, decoders, post-processors. A
// kind that is not known is refused by name (TOK-UNSUPPORTED) rather than guessed.
#pragma once

#include <memory>
#include <vector>

#include "tokenizer/json_node.h"
#include "tokenizer/tokenizer_parts.h"

namespace engine::tokenizer {

std::unique_ptr<Normalizer> read_normalizer(const Node& node);

// Null when there is nothing to cut. Where ByteLevel is the last step and `bytes_stay_bytes`, the
// spelling of bytes as characters is left out and `*byte_level` set: the model reads bytes.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Node& node, bool bytes_stay_bytes,
                                                 bool* byte_level);

Decoder read_decoder(const Node& node);

PostProcessor read_post_processor(const Node& node);

// "always" unless the node or the older field "add_prefix_space" says otherwise.
PrependScheme read_prepend_scheme(const Node& node);

}  // namespace engine::tokenizer
