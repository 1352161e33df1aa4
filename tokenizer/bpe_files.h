// What the loaders of BPE files share: from lists to checked tables.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/json_document.h"
#include "tokenizer/merge_table.h"
#include "tokenizer/tokenizer_parts.h"

namespace engine::tokenizer {

// Throws TOK-MERGES if a merge names a token that is not in the vocabulary. `prefix_bytes` is the
// length of the prefix that right parts lose when they are merged.
MergeTable make_merges(const ModelLists& lists, const Vocabulary& vocabulary,
                       const std::string& file, size_t prefix_bytes = 0);

// Checks added tokens against each other and the vocabulary; drops empty ones, as Hugging Face
// does. Throws TOK-DUPLICATE, or TOK-MALFORMED for a token of more than kMaxPieceBytes.
std::vector<AddedToken> check_added_tokens(std::vector<AddedToken> tokens,
                                           const Vocabulary& vocabulary, const std::string& file);

// Sets the roles by the conventional names of special tokens, for files that do not say which
// token plays which role.
void guess_roles(TokenizerParts* parts);

}  // namespace engine::tokenizer
