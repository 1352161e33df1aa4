// vocab.json + merges.txt: the byte-level BPE files of GPT-2, also kept by Qwen2.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/bpe_files.h"
#include "tokenizer/json_document.h"
#include "tokenizer/loaders.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {

TokenizerParts load_vocab_merges(const VocabMergesFiles& files) {
  BpeLists lists;
  parse_vocab_json(files.vocab, files.vocab_name, &lists);
  size_t line_number = 0;
  for (size_t at = 0; at < files.merges.size();) {
    const size_t end = std::min(files.merges.find('\n', at), files.merges.size());
    std::string_view line = files.merges.substr(at, end - at);
    at = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t invalid = find_invalid_utf8(line);
    const size_t space = line.find(' ');
    if (invalid != std::string_view::npos || space == std::string_view::npos ||
        line.find(' ', space + 1) != std::string_view::npos) {
      throw Error(ExitCode::checkpoint, "TOK-MERGES",
                  fmt::format("{}:{}: a merge is not two tokens", files.merges_name, line_number))
          .expected("two tokens separated by one space");
    }
    lists.add_merge(line.substr(0, space), line.substr(space + 1));
  }
  if (lists.merges.empty()) {
    throw Error(ExitCode::checkpoint, "TOK-MERGES",
                fmt::format("{} holds no merges", files.merges_name));
  }

  TokenizerParts parts;
  const bool qwen2 = files.split_pattern == "qwen2";
  if (qwen2) parts.normalizer = make_unicode_normalizer(UnicodeForm::kNfc);
  parts.pre_tokenizer = make_split(Regex(qwen2 ? kQwen2Pattern : kGpt2Pattern), {});
  parts.decoder.push_back(make_byte_level_decoder());
  Vocabulary vocabulary = make_vocabulary(lists, files.vocab_name);
  MergeTable merges = make_merges(lists, vocabulary, files.merges_name);
  parts.model = std::make_unique<Bpe>(std::move(vocabulary), std::move(merges),
                                      BpeOptions{.byte_level = true});
  std::vector<AddedToken> added = files.added_tokens;
  // GPT-2 keeps its one special token in the vocabulary itself.
  const int32_t end_of_text = parts.model->vocabulary().find("<|endoftext|>");
  const bool listed = std::any_of(added.begin(), added.end(), [](const AddedToken& token) {
    return token.content == "<|endoftext|>";
  });
  if (end_of_text >= 0 && !listed) {
    added.push_back({.id = end_of_text, .content = "<|endoftext|>", .special = true});
  }
  parts.added_tokens.set(
      check_added_tokens(std::move(added), parts.model->vocabulary(), files.vocab_name), nullptr);
  guess_roles(&parts);
  if (!qwen2 && !parts.roles.bos && end_of_text >= 0) parts.roles.bos = end_of_text;
  return parts;
}

}  // namespace engine::tokenizer
