// Byte-pair encoding as sentencepiece does it: there are no merge rules, two neighbours merge when
// the piece they make is in the vocabulary, the piece of the highest score first.
//
// User-defined pieces are found before and never merge. A piece marked unused may form on the way
// to a larger one; where it stays it is taken apart again.
#pragma once

#include <memory>
#include <vector>

#include "tokenizer/merge_table.h"
#include "tokenizer/model.h"
#include "tokenizer/piece_kind.h"
#include "tokenizer/prefix_trie.h"

namespace engine::tokenizer {

struct SentencePieceBpeOptions {
  std::vector<float> scores;     // by id
  std::vector<PieceKind> kinds;  // by id
  int32_t unk_id = 0;
  // Characters outside the vocabulary become the pieces <0x00>...<0xFF> of their bytes; otherwise a
  // run of them becomes one unknown piece.
  bool byte_fallback = false;
};

class SentencePieceBpe final : public Model {
 public:
  SentencePieceBpe(Vocabulary vocabulary, SentencePieceBpeOptions options);

  bool is_bpe() const override { return true; }
  std::string name() const override {
    return byte_ids_.empty() ? "SentencePiece BPE" : "SentencePiece BPE with byte fallback";
  }
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::unique_ptr<ModelScratch> make_scratch() const override;
  void encode(std::string_view piece, ModelScratch& scratch,
              std::vector<int32_t>* ids) const override;

 private:
  struct Scratch;

  int32_t find_symbol(std::string_view text) const;
  void add_merges();
  void find_symbols(std::string_view text, Scratch& scratch) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>* ids) const;
  void take_unused_apart(Scratch& scratch) const;
  void append_symbol(int32_t symbol, Scratch& scratch, std::vector<int32_t>* ids) const;
  void append_unknown(std::string_view text, std::vector<int32_t>* ids) const;

  Vocabulary vocabulary_;
  // Characters that are no pieces, but of which pieces are made; ids from 0, as symbols from the
  // end of the vocabulary on.
  Vocabulary characters_;
  SentencePieceBpeOptions options_;
  MergeTable merges_;
  PrefixTrie user_defined_;
  std::vector<int32_t> byte_ids_;  // of <0x00>...<0xFF>; empty without fallback
  bool has_unused_ = false;
  bool splits_words_ = false;  // no merge crosses from one word to the next
};

}  // namespace engine::tokenizer
