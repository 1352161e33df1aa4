#include "tokenizer/bpe.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <queue>

#include "engine/core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

// Remembers the ids of short pieces. Direct-mapped, one cache line per entry: natural text repeats
// a few thousand words, and a miss costs no more than the merge it would have saved.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 26;
  static constexpr size_t kMaxIds = 8;

  WordCache() : entries_(size_t{1} << kBits) {}

  bool find(std::string_view piece, uint64_t hash, std::vector<int32_t>* ids) const {
    const Entry& entry = entries_[slot(hash)];
    if (entry.hash != static_cast<uint32_t>(hash) || entry.num_bytes != piece.size() ||
        std::memcmp(entry.bytes, piece.data(), piece.size()) != 0) {
      return false;
    }
    ids->insert(ids->end(), entry.ids, entry.ids + entry.num_ids);
    return true;
  }

  void store(std::string_view piece, uint64_t hash, const int32_t* ids, size_t num_ids) {
    if (num_ids > kMaxIds) return;
    Entry& entry = entries_[slot(hash)];
    entry.hash = static_cast<uint32_t>(hash);
    entry.num_bytes = static_cast<uint8_t>(piece.size());
    entry.num_ids = static_cast<uint8_t>(num_ids);
    std::memcpy(entry.bytes, piece.data(), piece.size());
    std::copy_n(ids, num_ids, entry.ids);
  }

 private:
  static constexpr int kBits = 15;
  struct alignas(64) Entry {
    uint32_t hash = 0;
    uint8_t num_bytes = 0;  // 0 = free: no piece is empty
    uint8_t num_ids = 0;
    char bytes[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  static_assert(sizeof(Entry) == 64);
  static size_t slot(uint64_t hash) { return hash >> (64 - kBits); }

  std::vector<Entry> entries_;
};

std::string byte_token(unsigned byte) {
  return fmt::format("<0x{:02X}>", byte);
}

}  // namespace

struct Bpe::Scratch final : ModelScratch {
  WordCache cache;
  std::vector<int32_t> symbols;
  std::vector<Merge> pairs;  // pairs[i] = merge of symbols i and i + 1
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
    byte_ids_[byte] = options_.byte_level ? by_bytes_.find(std::string_view(&raw, 1))
                                          : vocabulary_.find(byte_token(byte));
  }
}

std::unique_ptr<ModelScratch> Bpe::make_scratch() const {
  return std::make_unique<Scratch>();
}

void Bpe::encode(std::string_view piece, ModelScratch& model_scratch,
                 std::vector<int32_t>* ids) const {
  Scratch& scratch = static_cast<Scratch&>(model_scratch);
  if (piece.size() > WordCache::kMaxBytes) return encode_uncached(piece, scratch, ids);
  const uint64_t hash = hash_bytes(piece);
  if (scratch.cache.find(piece, hash, ids)) return;
  const size_t before = ids->size();
  encode_uncached(piece, scratch, ids);
  scratch.cache.store(piece, hash, ids->data() + before, ids->size() - before);
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
  // Scanning all pairs for the minimum is quadratic, but unbeaten on words.
  constexpr size_t kShort = 64;
  if (scratch.symbols.size() <= kShort) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
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
  for (size_t at = 0; at < piece.size();) {
    size_t length = 1;
    int32_t id;
    if (options_.byte_level) {
      id = byte_ids_[static_cast<unsigned char>(piece[at])];
    } else {
      length = decode_code_point(piece, at).length;
      id = vocabulary_.find(piece.substr(at, length));
    }
    const std::string_view character = piece.substr(at, length);
    at += length;
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

void Bpe::merge_short(Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  std::vector<Merge>& pairs = scratch.pairs;
  size_t n = symbols.size();
  if (n < 2) return;
  pairs.resize(n - 1);
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = merges_.find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == Merge::kNone) break;
    symbols[best] = pairs[best].id;
    std::copy(symbols.begin() + best + 2, symbols.begin() + n, symbols.begin() + best + 1);
    std::copy(pairs.begin() + best + 1, pairs.begin() + n - 1, pairs.begin() + best);
    --n;
    if (best > 0) pairs[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
    if (best + 1 < n) pairs[best] = merges_.find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(n);
}

void Bpe::merge_long(Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  const uint32_t n = static_cast<uint32_t>(symbols.size());
  struct Candidate {
    uint32_t rank;
    uint32_t position;  // of the left symbol
    int32_t id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  // A list through the surviving symbols; a merged-away symbol has id -1.
  std::vector<uint32_t> next(n), previous(n);
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // wraps for i = 0, never read
  }
  std::vector<Candidate> initial;
  initial.reserve(n);
  for (uint32_t i = 0; i + 1 < n; ++i) {
    const Merge merge = merges_.find(symbols[i], symbols[i + 1]);
    if (merge.rank != Merge::kNone) initial.push_back({merge.rank, i, merge.id});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(initial));
  const auto propose = [&](uint32_t left, uint32_t right) {
    const Merge merge = merges_.find(symbols[left], symbols[right]);
    if (merge.rank != Merge::kNone) queue.push({merge.rank, left, merge.id});
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t left = top.position;
    if (symbols[left] < 0) continue;
    const uint32_t right = next[left];
    if (right == n) continue;
    // Stale: one of the two has merged with another neighbour since.
    const Merge now = merges_.find(symbols[left], symbols[right]);
    if (now.rank != top.rank || now.id != top.id) continue;
    symbols[left] = top.id;
    symbols[right] = -1;
    next[left] = next[right];
    if (next[left] != n) {
      previous[next[left]] = left;
      propose(left, next[left]);
    }
    if (left > 0) propose(previous[left], left);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), -1), symbols.end());
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
