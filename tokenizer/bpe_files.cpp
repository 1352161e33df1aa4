#include "tokenizer/bpe_files.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>

#include "engine/core/error.h"
#include "tokenizer/piece_kind.h"

namespace engine::tokenizer {

MergeTable make_merges(const ModelLists& lists, const Vocabulary& vocabulary,
                       const std::string& file, size_t prefix_bytes) {
  MergeTable merges;
  merges.reserve(lists.merges.size());
  // Left part, right part and merged token of a batch of merges.
  constexpr size_t kBatch = 64;
  std::array<std::string_view, 3 * kBatch> texts;
  std::array<int32_t, 3 * kBatch> ids;
  std::array<std::string, kBatch> merged;
  for (size_t begin = 0; begin < lists.merges.size(); begin += kBatch) {
    const size_t size = std::min(kBatch, lists.merges.size() - begin);
    for (size_t i = 0; i < size; ++i) {
      const std::string_view left = lists.left(lists.merges[begin + i]);
      const std::string_view right = lists.right(lists.merges[begin + i]);
      merged[i].assign(left);
      merged[i] += right.substr(std::min(prefix_bytes, right.size()));
      texts[3 * i] = left;
      texts[3 * i + 1] = right;
      texts[3 * i + 2] = merged[i];
    }
    vocabulary.find_many(std::span(texts).first(3 * size), ids);
    for (size_t i = 0; i < 3 * size; ++i) {
      if (ids[i] >= 0) continue;
      const size_t rank = begin + i / 3;
      throw Error(ExitCode::checkpoint, "TOK-MERGES",
                  fmt::format("merge {} names a token that is not in the vocabulary", rank))
          .with("file", file)
          .where(fmt::format("\"{}\" + \"{}\"", texts[i / 3 * 3], texts[i / 3 * 3 + 1]))
          .expected(fmt::format("\"{}\" among the {} tokens of the vocabulary", texts[i],
                                vocabulary.size()))
          .why("vocabulary and merges come from different tokenizers, or one was cut");
    }
    for (size_t i = 0; i < size; ++i) {
      merges.insert(ids[3 * i], ids[3 * i + 1], {static_cast<uint32_t>(begin + i), ids[3 * i + 2]});
    }
  }
  return merges;
}

std::vector<AddedToken> check_added_tokens(std::vector<AddedToken> tokens,
                                           const Vocabulary& vocabulary, const std::string& file) {
  std::erase_if(tokens, [](const AddedToken& token) { return token.content.empty(); });
  std::set<std::string_view> contents;
  std::set<int32_t> ids;
  for (const AddedToken& token : tokens) {
    const auto duplicate = [&](std::string what) {
      return Error(ExitCode::checkpoint, "TOK-DUPLICATE", std::move(what))
          .with("file", file)
          .where("added_tokens");
    };
    if (token.content.size() > kMaxPieceBytes) {
      throw Error(ExitCode::checkpoint, "TOK-MALFORMED",
                  fmt::format("added token {} has {} bytes", token.id, token.content.size()))
          .with("file", file)
          .expected(fmt::format("at most {}", kMaxPieceBytes));
    }
    if (!contents.insert(token.content).second) {
      throw duplicate(fmt::format("added token \"{}\" stands twice", token.content));
    }
    if (!ids.insert(token.id).second) {
      throw duplicate(fmt::format("two added tokens have id {}", token.id))
          .found(fmt::format("the second is \"{}\"", token.content));
    }
    const int32_t known = vocabulary.find(token.content);
    if (known >= 0 && known != token.id) {
      throw duplicate(fmt::format("added token \"{}\" has two ids", token.content))
          .found(fmt::format("{} in added_tokens, {} in the vocabulary", token.id, known));
    }
    if (known < 0 && vocabulary.contains_id(token.id)) {
      throw duplicate(fmt::format("id {} belongs to two tokens", token.id))
          .found(fmt::format("added token \"{}\" and \"{}\" of the vocabulary", token.content,
                             vocabulary.token(token.id)));
    }
  }
  return tokens;
}

void guess_roles(TokenizerParts* parts) {
  const auto first_of = [&](std::initializer_list<const char*> names) -> std::optional<int32_t> {
    for (const char* name : names) {
      const AddedToken* token = parts->added_tokens.find(name);
      if (token && token->special) return token->id;
    }
    return std::nullopt;
  };
  TokenRoles& roles = parts->roles;
  roles.bos = first_of({"<|begin_of_text|>", "<bos>", "<s>"});
  roles.eos = first_of({"<|end_of_text|>", "<eos>", "</s>", "<|endoftext|>"});
  roles.pad = first_of({"<pad>", "<|finetune_right_pad_id|>", "[PAD]"});
  roles.unk = first_of({"<unk>"});
}

}  // namespace engine::tokenizer
