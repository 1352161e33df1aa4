#include "tokenizer/sentencepiece_bpe.h"

#include <algorithm>
#include <unordered_map>

#include "tokenizer/bpe_merging.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_cache.h"

namespace engine::tokenizer {
namespace {

// Symbols from here on never merge: user-defined pieces, and characters that no piece is made of.
constexpr int32_t kFirstOpaque = 1 << 30;

}  // namespace

struct SentencePieceBpe::Scratch final : ModelScratch {
  struct Opaque {
    std::string_view text;
    int32_t id;  // -1 = unknown
  };
  WordCache cache;
  BpeMergingScratch merging;
  std::vector<int32_t> symbols;
  std::vector<Opaque> opaque;
  // How unused pieces came about last.
  std::unordered_map<int32_t, std::pair<int32_t, int32_t>> parts_of_unused;
};

SentencePieceBpe::SentencePieceBpe(Vocabulary vocabulary, SentencePieceBpeOptions options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  std::vector<std::pair<std::string_view, int32_t>> user_defined;
  splits_words_ = true;
  for (int32_t id = 0; id < vocabulary_.id_limit(); ++id) {
    const PieceKind kind = options_.kinds[id];
    if (kind == PieceKind::kUserDefined) user_defined.emplace_back(vocabulary_.token(id), id);
    has_unused_ = has_unused_ || kind == PieceKind::kUnused;
    if (is_searched(kind) && crosses_words(vocabulary_.token(id))) splits_words_ = false;
  }
  // How an unused piece is taken apart depends on all of the text.
  if (has_unused_) splits_words_ = false;
  if (!user_defined.empty()) user_defined_ = PrefixTrie(std::move(user_defined));
  if (options_.byte_fallback) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      byte_ids_.push_back(vocabulary_.find(byte_token(static_cast<unsigned char>(byte))));
    }
  }
  add_merges();
}

int32_t SentencePieceBpe::find_symbol(std::string_view text) const {
  const int32_t id = vocabulary_.find(text);
  if (id >= 0 && is_searched(options_.kinds[id])) return id;
  const int32_t character = characters_.find(text);
  return character >= 0 ? vocabulary_.id_limit() + character : -1;
}

void SentencePieceBpe::add_merges() {
  std::vector<float> scores;
  size_t num_pieces = 0;
  for (int32_t id = 0; id < vocabulary_.id_limit(); ++id) {
    if (!is_searched(options_.kinds[id])) continue;
    scores.push_back(options_.scores[id]);
    ++num_pieces;
  }
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  // Characters first, so that a character that is no piece is a symbol in all merges.
  for (int32_t id = 0; id < vocabulary_.id_limit(); ++id) {
    if (!is_searched(options_.kinds[id])) continue;
    const std::string_view piece = vocabulary_.token(id);
    for (size_t at = 0; at < piece.size(); at += character_length(piece, at)) {
      const std::string_view character = piece.substr(at, character_length(piece, at));
      if (find_symbol(character) < 0) characters_.add(character, characters_.id_limit());
    }
  }
  merges_.reserve(num_pieces * 2);
  for (int32_t id = 0; id < vocabulary_.id_limit(); ++id) {
    if (!is_searched(options_.kinds[id])) continue;
    const std::string_view piece = vocabulary_.token(id);
    const auto place =
        std::lower_bound(scores.begin(), scores.end(), options_.scores[id], std::greater<>());
    const uint32_t rank = static_cast<uint32_t>(place - scores.begin());
    for (size_t cut = character_length(piece, 0); cut < piece.size();
         cut += character_length(piece, cut)) {
      const int32_t left = find_symbol(piece.substr(0, cut));
      if (left < 0) continue;
      const int32_t right = find_symbol(piece.substr(cut));
      if (right >= 0) merges_.insert(left, right, {rank, id});
    }
  }
}

std::unique_ptr<ModelScratch> SentencePieceBpe::make_scratch() const {
  return std::make_unique<Scratch>();
}

void SentencePieceBpe::encode(std::string_view piece, ModelScratch& model_scratch,
                              std::vector<int32_t>* ids) const {
  Scratch& scratch = static_cast<Scratch&>(model_scratch);
  if (!splits_words_) return encode_word(piece, scratch, ids);
  const size_t first = ids->size();
  for_each_word(piece, [&](std::string_view word) {
    const size_t before = ids->size();
    scratch.cache.lookup(word, ids, [&](std::string_view text, std::vector<int32_t>* out) {
      encode_word(text, scratch, out);
    });
    // Unknown characters on both sides of the boundary are one run.
    if (before > first && (*ids)[before - 1] == options_.unk_id && before < ids->size() &&
        (*ids)[before] == options_.unk_id) {
      ids->erase(ids->begin() + static_cast<std::ptrdiff_t>(before));
    }
  });
}

void SentencePieceBpe::find_symbols(std::string_view text, Scratch& scratch) const {
  scratch.symbols.clear();
  scratch.opaque.clear();
  const auto add_opaque = [&](std::string_view part, int32_t id) {
    scratch.symbols.push_back(kFirstOpaque + static_cast<int32_t>(scratch.opaque.size()));
    scratch.opaque.push_back({part, id});
  };
  for (size_t at = 0; at < text.size();) {
    if (const size_t length = user_defined_.longest_prefix(text.substr(at)); length > 0) {
      const std::string_view part = text.substr(at, length);
      add_opaque(part, vocabulary_.find(part));
      at += length;
      continue;
    }
    const std::string_view character = text.substr(at, character_length(text, at));
    const int32_t symbol = find_symbol(character);
    if (symbol >= 0) {
      scratch.symbols.push_back(symbol);
    } else {
      add_opaque(character, -1);
    }
    at += character.size();
  }
}

void SentencePieceBpe::encode_word(std::string_view word, Scratch& scratch,
                                   std::vector<int32_t>* ids) const {
  find_symbols(word, scratch);
  if (has_unused_) {
    scratch.parts_of_unused.clear();
    merge_symbols(merges_, scratch.symbols, scratch.merging,
                  [&](int32_t left, int32_t right, int32_t merged) {
                    if (options_.kinds[merged] != PieceKind::kUnused) return;
                    scratch.parts_of_unused[merged] = {left, right};
                  });
    take_unused_apart(scratch);
  } else {
    merge_symbols(merges_, scratch.symbols, scratch.merging);
  }
  const size_t first = ids->size();
  for (const int32_t symbol : scratch.symbols) append_symbol(symbol, scratch, ids);
  // Neighbouring unknown pieces are one.
  const auto begin = ids->begin() + static_cast<std::ptrdiff_t>(first);
  ids->erase(std::unique(begin, ids->end(),
                         [&](int32_t a, int32_t b) { return a == b && a == options_.unk_id; }),
             ids->end());
}

void SentencePieceBpe::append_symbol(int32_t symbol, Scratch& scratch,
                                     std::vector<int32_t>* ids) const {
  if (symbol >= kFirstOpaque) {
    const Scratch::Opaque& opaque = scratch.opaque[symbol - kFirstOpaque];
    if (opaque.id >= 0) {
      ids->push_back(opaque.id);
    } else {
      append_unknown(opaque.text, ids);
    }
  } else if (symbol >= vocabulary_.id_limit()) {
    append_unknown(characters_.token(symbol - vocabulary_.id_limit()), ids);
  } else {
    ids->push_back(symbol);
  }
}

// Unused pieces are replaced by their parts until none has any.
void SentencePieceBpe::take_unused_apart(Scratch& scratch) const {
  std::vector<int32_t> waiting(scratch.symbols.rbegin(), scratch.symbols.rend());
  scratch.symbols.clear();
  while (!waiting.empty()) {
    const int32_t symbol = waiting.back();
    waiting.pop_back();
    const auto parts = scratch.parts_of_unused.find(symbol);
    if (parts == scratch.parts_of_unused.end()) {
      scratch.symbols.push_back(symbol);
    } else {
      waiting.push_back(parts->second.second);
      waiting.push_back(parts->second.first);
    }
  }
}

void SentencePieceBpe::append_unknown(std::string_view text, std::vector<int32_t>* ids) const {
  if (!options_.byte_fallback) {
    ids->push_back(options_.unk_id);
    return;
  }
  for (const char byte : text) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    ids->push_back(id >= 0 ? id : options_.unk_id);
  }
}

}  // namespace engine::tokenizer
