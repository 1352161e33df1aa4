#include "tokenizer/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "engine/core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_cache.h"

namespace engine::tokenizer {
namespace {

// What an unknown character costs more than the worst piece.
constexpr float kUnknownPenalty = 10;
constexpr float kMaxFloatSum = 100000;

// The best path to a position found so far, and its last piece.
template <typename Sum>
struct BestPath {
  static constexpr size_t kNotReached = SIZE_MAX;
  Sum score = 0;
  int32_t id = -1;
  size_t begin = kNotReached;
};

[[noreturn]] void refuse_unknown() {
  throw Error(ExitCode::checkpoint, "TOK-UNKNOWN",
              "the text has characters outside the vocabulary, and the model has no unknown token")
      .expected("model.unk_id");
}

struct PathPieceRange {
  size_t begin, end;
  int32_t id;
};

}  // namespace

struct Unigram::Scratch final : ModelScratch {
  WordCache cache;
  std::vector<BestPath<float>> float_paths;
  std::vector<BestPath<double>> double_paths;
  std::vector<PathPieceRange> pieces;

  template <typename Sum>
  std::vector<BestPath<Sum>>& paths() {
    if constexpr (std::is_same_v<Sum, float>) {
      return float_paths;
    } else {
      return double_paths;
    }
  }
};

Unigram::Unigram(Vocabulary vocabulary, UnigramOptions options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  const bool sentencepiece = options_.flavor == UnigramOptions::Flavor::kSentencePiece;
  double min_score =
      sentencepiece ? std::numeric_limits<float>::max() : std::numeric_limits<double>::infinity();
  max_score_ = std::numeric_limits<float>::min();  // sic: the smallest positive one
  std::vector<std::pair<std::string_view, int32_t>> searched;
  searched.reserve(vocabulary_.size());
  for (int32_t id = 0; id < vocabulary_.id_limit(); ++id) {
    if (!vocabulary_.contains_id(id)) continue;
    const PieceKind kind = options_.kinds.empty() ? PieceKind::kNormal : options_.kinds[id];
    if (is_searched(kind) && !vocabulary_.token(id).empty()) {
      searched.emplace_back(vocabulary_.token(id), id);
    }
    if (kind != PieceKind::kNormal) continue;
    min_score = std::min(min_score, options_.scores[id]);
    max_score_ = std::max(max_score_, static_cast<float>(options_.scores[id]));
  }
  trie_ = PrefixTrie(std::move(searched));
  unk_score_ =
      sentencepiece ? static_cast<float>(min_score) - kUnknownPenalty : min_score - kUnknownPenalty;
  if (options_.byte_fallback) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      byte_ids_.push_back(vocabulary_.find(byte_token(static_cast<unsigned char>(byte))));
    }
  }
}

std::unique_ptr<ModelScratch> Unigram::make_scratch() const {
  return std::make_unique<Scratch>();
}

void Unigram::encode(std::string_view piece, ModelScratch& model_scratch,
                     std::vector<int32_t>* ids) const {
  Scratch& scratch = static_cast<Scratch&>(model_scratch);
  scratch.cache.lookup(piece, ids, [&](std::string_view text, std::vector<int32_t>* out) {
    encode_uncached(text, scratch, out);
  });
}

void Unigram::encode_uncached(std::string_view text, Scratch& scratch,
                              std::vector<int32_t>* ids) const {
  if (options_.flavor == UnigramOptions::Flavor::kSentencePiece) {
    bool previous_unknown = false;
    find_best_path<float>(text, scratch, [&](size_t begin, size_t end, int32_t id) {
      const bool unknown = id == options_.unk_id;
      if (unknown && options_.byte_fallback) {
        append_unknown(text.substr(begin, end - begin), ids);
      } else if (!unknown || !previous_unknown) {  // neighbouring unknowns are one
        ids->push_back(id);
      }
      previous_unknown = unknown;
    });
    return;
  }
  // Neighbouring unknowns are joined first, and only then looked up again or cut into bytes.
  size_t unknown_begin = 0, unknown_end = 0;
  const auto flush_unknown = [&] {
    if (unknown_begin == unknown_end) return;
    append_unknown(text.substr(unknown_begin, unknown_end - unknown_begin), ids);
    unknown_begin = unknown_end = 0;
  };
  find_best_path<double>(text, scratch, [&](size_t begin, size_t end, int32_t id) {
    if (id == options_.unk_id) {
      if (unknown_begin == unknown_end) unknown_begin = begin;
      unknown_end = end;
      return;
    }
    flush_unknown();
    ids->push_back(id);
  });
  flush_unknown();
}

void Unigram::append_unknown(std::string_view text, std::vector<int32_t>* ids) const {
  if (options_.flavor == UnigramOptions::Flavor::kHuggingFace) {
    const int32_t known = vocabulary_.find(text);
    if (known >= 0) {
      ids->push_back(known);
      return;
    }
  }
  const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  const bool has_bytes =
      options_.byte_fallback &&
      std::all_of(text.begin(), text.end(), [&](char byte) { return byte_id(byte) >= 0; });
  if (!has_bytes) {
    ids->push_back(options_.unk_id);
    return;
  }
  for (const char byte : text) ids->push_back(byte_id(byte));
}

// User-defined pieces score about -0.1, above any sequence of others.
double Unigram::score_of(int32_t id, size_t num_bytes) const {
  if (!options_.kinds.empty() && options_.kinds[id] == PieceKind::kUserDefined) {
    return static_cast<float>(num_bytes) * max_score_ - 0.1;
  }
  return options_.scores[id];
}

template <typename Sum, typename PathPiece>
void Unigram::find_best_path(std::string_view text, Scratch& scratch, PathPiece path_piece) const {
  using Best = BestPath<Sum>;
  std::vector<Best>& paths = scratch.paths<Sum>();  // paths[i] ends at origin + i
  std::vector<PathPieceRange>& pieces = scratch.pieces;
  size_t origin = 0;
  size_t reach = 0;  // the furthest end of any path
  if (paths.empty()) paths.resize(64);
  paths[0] = {};

  // All paths go through `end`: what lies before it is decided.
  const auto send_decided = [&](size_t end) {
    pieces.clear();
    for (size_t at = end; at > origin;) {
      const Best& best = paths[at - origin];
      pieces.push_back({best.begin, at, best.id});
      at = best.begin;
    }
    for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
      path_piece(piece->begin, piece->end, piece->id);
    }
  };
  size_t at = 0;
  // `score` may have more digits than a path keeps.
  const auto propose = [&](size_t end, auto score, int32_t id) {
    if (end > reach) {
      if (end - origin >= paths.size()) paths.resize((end - origin) * 2);
      for (size_t i = reach + 1; i <= end; ++i) paths[i - origin].begin = Best::kNotReached;
      reach = end;
    }
    Best& best = paths[end - origin];
    if (best.begin != Best::kNotReached && !(score > best.score)) return;
    if (id < 0) refuse_unknown();
    best = {static_cast<Sum>(score), id, at};
  };

  while (at < text.size()) {
    if (at == reach && at > origin) {
      send_decided(at);
      paths[0] = paths[at - origin];
      origin = at;
    }
    // Sums of a long text would outgrow the digits of a float: they begin anew, as differences.
    if (std::is_same_v<Sum, float> && std::abs(paths[at - origin].score) > kMaxFloatSum) {
      const Sum passed = paths[at - origin].score;
      for (size_t i = at; i <= reach; ++i) paths[i - origin].score -= passed;
    }
    const Sum score_before = paths[at - origin].score;
    const size_t character = character_length(text, at);
    bool has_character = false;
    trie_.for_each_prefix(text.substr(at), [&](size_t length, int32_t id) {
      if (!options_.kinds.empty() && options_.kinds[id] == PieceKind::kUnused) return;
      propose(at + length, score_of(id, length) + score_before, id);
      has_character = has_character || length == character;
    });
    if (!has_character) {
      propose(at + character, static_cast<Sum>(unk_score_) + score_before, options_.unk_id);
    }
    at += character;
  }
  send_decided(text.size());
}

}  // namespace engine::tokenizer
