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
namespace {

bool begins_as_roberta(const Vocabulary& vocabulary) {
  return vocabulary.find("<s>") == 0 && vocabulary.find("<pad>") == 1 &&
         vocabulary.find("</s>") == 2 && vocabulary.find("<unk>") == 3 &&
         vocabulary.find("<mask>") >= 0;
}

// Special tokens that the vocabulary itself holds. <mask> takes the space on its left with it, as
// in the tokenizer.json of the published models.
void add_own_special_tokens(const Vocabulary& vocabulary, bool is_roberta,
                            std::vector<AddedToken>* added) {
  const auto add = [&](const char* content, bool lstrip) {
    const int32_t id = vocabulary.find(content);
    const bool listed = std::any_of(added->begin(), added->end(), [&](const AddedToken& token) {
      return token.content == content;
    });
    if (id < 0 || listed) return;
    added->push_back({.id = id, .content = content, .special = true, .lstrip = lstrip});
  };
  if (!is_roberta) return add("<|endoftext|>", false);
  for (const char* content : {"<s>", "<pad>", "</s>", "<unk>"}) add(content, false);
  add("<mask>", true);
}

}  // namespace

TokenizerParts load_vocab_merges(const VocabMergesFiles& files) {
  ModelLists lists;
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
  if (files.add_prefix_space) {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    steps.push_back(make_space_prefix());
    steps.push_back(std::move(parts.pre_tokenizer));
    parts.pre_tokenizer = make_pre_tokenizer_sequence(std::move(steps));
  }
  parts.decoder.push_back(make_byte_level_decoder());
  Vocabulary vocabulary = make_vocabulary(lists, files.vocab_name);
  MergeTable merges = make_merges(lists, vocabulary, files.merges_name);
  parts.model = std::make_unique<Bpe>(std::move(vocabulary), std::move(merges),
                                      BpeOptions{.byte_level = true});
  const Vocabulary& known = parts.model->vocabulary();
  const bool is_roberta = files.is_roberta || begins_as_roberta(known);
  std::vector<AddedToken> added = files.added_tokens;
  add_own_special_tokens(known, is_roberta, &added);
  parts.added_tokens.set(check_added_tokens(std::move(added), known, files.vocab_name), nullptr);
  guess_roles(&parts);
  TokenRoles& roles = parts.roles;
  if (is_roberta) {
    if (roles.bos) parts.post_processor.prefix = {*roles.bos};
    if (roles.eos) parts.post_processor.suffix = {*roles.eos};
    if (roles.bos && roles.eos) {
      parts.post_processor.pair = PairIds{{*roles.bos}, {*roles.eos, *roles.eos}, {*roles.eos}};
    }
  } else if (const AddedToken* end = parts.added_tokens.find("<|endoftext|>"); end && !qwen2) {
    if (!roles.bos) roles.bos = end->id;
  }
  return parts;
}

}  // namespace engine::tokenizer
