// Byte-pair encoding: start from single symbols, repeat the earliest-ranked merge (leftmost first)
// until none applies.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "tokenizer/merge_table.h"
#include "tokenizer/model.h"

namespace engine::tokenizer {

struct BpeOptions {
  // Symbols are bytes and vocabulary texts are spelled in the byte alphabet (GPT-2, Llama 3,
  // Qwen); otherwise symbols are characters.
  bool byte_level = false;
  // A character outside the vocabulary becomes its UTF-8 bytes <0x00>...<0xFF> (Llama 2, Gemma).
  bool byte_fallback = false;
  // A piece that is itself in the vocabulary is taken whole, whatever the merges say.
  bool ignore_merges = false;
  // Token of what has no other; empty: such symbols vanish.
  std::string unk_token = "";
  bool fuse_unk = false;  // neighbouring unknowns become one token
  // Spelled before every character of a piece but the first, and behind the last one, in the
  // vocabulary (old GPT: "</w>"). Not with `byte_level`.
  std::string continuing_prefix = "";
  std::string end_suffix = "";
};

class Bpe final : public Model {
 public:
  Bpe(Vocabulary vocabulary, MergeTable merges, BpeOptions options);

  bool is_bpe() const override { return true; }
  std::string name() const override {
    return options_.byte_level      ? "byte-level BPE"
           : options_.byte_fallback ? "BPE with byte fallback"
                                    : "BPE";
  }
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::unique_ptr<ModelScratch> make_scratch() const override;
  // Throws TOK-UNKNOWN if a symbol is unknown and `unk_token` is not in the vocabulary.
  void encode(std::string_view piece, ModelScratch& scratch,
              std::vector<int32_t>* ids) const override;

 private:
  struct Scratch;

  void encode_uncached(std::string_view piece, Scratch& scratch, std::vector<int32_t>* ids) const;
  void find_symbols(std::string_view piece, std::vector<int32_t>* symbols) const;
  bool has_affixes() const {
    return !options_.continuing_prefix.empty() || !options_.end_suffix.empty();
  }
  int32_t unknown_id() const;

  Vocabulary vocabulary_;
  Vocabulary by_bytes_;  // the same ids by raw bytes, byte-level only
  MergeTable merges_;
  BpeOptions options_;
  int32_t unk_id_ = -1;
  bool splits_words_ = false;  // no merge crosses from one word, beginning with "▁", to the next
  std::array<int32_t, 256> byte_ids_;  // of single bytes, or of <0xXX>; -1 = not in the vocabulary
};

// All merges of a vocabulary in which a token's rank says when it forms (tiktoken, SentencePiece):
// every way to cut a token in two tokens merges at the token's rank.
struct RankedToken {
  std::string_view bytes;
  int32_t id;
  uint32_t rank;
};
MergeTable merges_from_ranks(const std::vector<RankedToken>& tokens, const Vocabulary& by_bytes);

}  // namespace engine::tokenizer
