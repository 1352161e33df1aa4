#include "tokenizer/bpe.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/error.h"
#include "tokenizer/bpe_merging.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_cache.h"

namespace engine::tokenizer {

struct Bpe::Scratch final : ModelScratch {
  WordCache cache;
  std::vector<int32_t> symbols;
  BpeMergingScratch merging;
};

Bpe::Bpe(Vocabulary vocabulary, MergeTable merges, BpeOptions options)
    : vocabulary_(std::move(vocabulary)), merges_(std::move(merges)), options_(std::move(options)) {
  if (!options_.unk_token.empty()) unk_id_ = vocabulary_.find(options_.unk_token);
  if (options_.byte_level) {
    by_bytes_.reserve(vocabulary_.size(), vocabulary_.size() * 8);
    std::string bytes;
    for (int32_t id = 0; id < vocabulary_.id_limit(); ++id) {
      if (!vocabulary_.contains_id(id)) continue;
      bytes.clear();
      // Tokens that are no spelling of bytes cannot be reached by merging.
      if (append_unspelled_bytes(vocabulary_.token(id), &bytes)) by_bytes_.add(bytes, id);
    }
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    byte_ids_[byte] = options_.byte_level
                          ? by_bytes_.find(std::string_view(&raw, 1))
                          : vocabulary_.find(byte_token(static_cast<unsigned char>(byte)));
  }
  // Without a pre-tokenizer the piece is all of the text; words are as good, and repeat.
  splits_words_ = !options_.byte_level && !options_.ignore_merges && !has_affixes() &&
                  vocabulary_.find(kMetaspace) >= 0;
  for (int32_t id = 0; splits_words_ && id < vocabulary_.id_limit(); ++id) {
    if (vocabulary_.contains_id(id) && crosses_words(vocabulary_.token(id))) splits_words_ = false;
  }
}

std::unique_ptr<ModelScratch> Bpe::make_scratch() const {
  return std::make_unique<Scratch>();
}

void Bpe::encode(std::string_view piece, ModelScratch& model_scratch,
                 std::vector<int32_t>* ids) const {
  Scratch& scratch = static_cast<Scratch&>(model_scratch);
  const auto encode_word = [&](std::string_view word) {
    scratch.cache.lookup(word, ids, [&](std::string_view text, std::vector<int32_t>* out) {
      encode_uncached(text, scratch, out);
    });
  };
  if (splits_words_) {
    for_each_word(piece, encode_word);
  } else {
    encode_word(piece);
  }
}

void Bpe::encode_uncached(std::string_view piece, Scratch& scratch,
                          std::vector<int32_t>* ids) const {
  if (options_.ignore_merges) {
    const int32_t id = (options_.byte_level ? by_bytes_ : vocabulary_).find(piece);
    if (id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  scratch.symbols.clear();
  find_symbols(piece, &scratch.symbols);
  merge_symbols(merges_, scratch.symbols, scratch.merging);
  ids->insert(ids->end(), scratch.symbols.begin(), scratch.symbols.end());
}

int32_t Bpe::unknown_id() const {
  if (unk_id_ >= 0) return unk_id_;
  throw Error(ExitCode::checkpoint, "TOK-UNKNOWN",
              "the text has characters outside the vocabulary, and the unknown token is not in "
              "the vocabulary either")
      .expected(fmt::format("\"{}\" in model.vocab", options_.unk_token))
      .fix("add the token to model.vocab, or set model.unk_token to null to drop such characters");
}

void Bpe::find_symbols(std::string_view piece, std::vector<int32_t>* symbols) const {
  bool unknown_pending = false;
  const auto flush_unknown = [&] {
    if (unknown_pending) symbols->push_back(unk_id_);
    unknown_pending = false;
  };
  const auto add_unknown = [&] {
    if (options_.unk_token.empty()) return;
    const int32_t id = unknown_id();
    if (unknown_pending && !options_.fuse_unk) symbols->push_back(id);
    unknown_pending = true;
  };
  std::string with_affixes;
  for (size_t at = 0; at < piece.size();) {
    const size_t length = options_.byte_level ? 1 : character_length(piece, at);
    std::string_view character = piece.substr(at, length);
    if (has_affixes()) {
      with_affixes = at > 0 ? options_.continuing_prefix : "";
      with_affixes += character;
      if (at + length == piece.size()) with_affixes += options_.end_suffix;
      character = with_affixes;
    }
    at += length;
    const int32_t id = options_.byte_level ? byte_ids_[static_cast<unsigned char>(character[0])]
                                           : vocabulary_.find(character);
    if (id >= 0) {
      flush_unknown();
      symbols->push_back(id);
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (options_.byte_fallback && !options_.byte_level &&
        std::all_of(character.begin(), character.end(),
                    [&](char byte) { return byte_id(byte) >= 0; })) {
      // A waiting unknown stays behind the bytes: the order Hugging Face tokenizers give.
      for (const char byte : character) symbols->push_back(byte_id(byte));
      continue;
    }
    add_unknown();
  }
  flush_unknown();
}

MergeTable merges_from_ranks(const std::vector<RankedToken>& tokens, const Vocabulary& by_bytes) {
  MergeTable merges;
  merges.reserve(tokens.size() * 2);
  for (const RankedToken& token : tokens) {
    for (size_t cut = 1; cut < token.bytes.size(); ++cut) {
      const int32_t left = by_bytes.find(token.bytes.substr(0, cut));
      if (left < 0) continue;
      const int32_t right = by_bytes.find(token.bytes.substr(cut));
      if (right >= 0) merges.insert(left, right, {token.rank, token.id});
    }
  }
  return merges;
}

}  // namespace engine::tokenizer
