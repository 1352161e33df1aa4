#include "tokenizer/unigram_lattice.h"

#include <algorithm>
#include <cmath>

#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// ψ(x), by recurrence to large x and the asymptotic series there.
double digamma(double x) {
  double result = 0;
  for (; x < 7; ++x) result -= 1 / x;
  x -= 0.5;
  const double x2 = x * x;
  return result + std::log(x) + (1.0 / 24.0) / x2 - (7.0 / 960.0) / (x2 * x2) +
         (31.0 / 8064.0) / (x2 * x2 * x2) - (127.0 / 30720.0) / (x2 * x2 * x2 * x2);
}

double add_logs(double a, double b) {
  if (a < b) std::swap(a, b);
  return b == kMinusInfinity ? a : a + std::log1p(std::exp(b - a));
}

}  // namespace

UnigramLattice::UnigramLattice(std::vector<UnigramPiece> pieces) : pieces_(std::move(pieces)) {
  std::vector<std::pair<std::string_view, int32_t>> keys;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    keys.emplace_back(pieces_[i].text, static_cast<int32_t>(i));
  }
  trie_ = PrefixTrie(std::move(keys));
  update_unknown();
}

// Adds what every piece is expected to occur in `word`, times `count`.
void UnigramLattice::add_expectations(const CountedWord& word, std::vector<double>* expected) {
  find_edges(word.text);
  const size_t size = word.text.size();
  forward_.assign(size + 1, kMinusInfinity);
  backward_.assign(size + 1, kMinusInfinity);
  forward_[0] = backward_[size] = 0;
  for (const Edge& edge : edges_) {
    forward_[edge.end] = add_logs(forward_[edge.end], forward_[edge.begin] + edge.score);
  }
  for (auto edge = edges_.rbegin(); edge != edges_.rend(); ++edge) {
    backward_[edge->begin] = add_logs(backward_[edge->begin], backward_[edge->end] + edge->score);
  }
  for (const Edge& edge : edges_) {
    if (edge.piece < 0) continue;
    const double log_share =
        forward_[edge.begin] + edge.score + backward_[edge.end] - forward_[size];
    (*expected)[static_cast<size_t>(edge.piece)] +=
        static_cast<double>(word.count) * std::exp(log_share);
  }
}

// The pieces of the best path, last one first, and its score; unknown characters are -1. With
// `without_whole` the word itself is no piece.
double UnigramLattice::find_best_path(std::string_view word, bool without_whole,
                                      std::vector<int32_t>* path) {
  find_edges(word);
  best_.assign(word.size() + 1, {});
  best_[0].score = 0;
  for (size_t i = 0; i < edges_.size(); ++i) {
    const Edge& edge = edges_[i];
    if (without_whole && edge.begin == 0 && edge.end == word.size()) continue;
    const double score = best_[edge.begin].score + edge.score;
    if (score > best_[edge.end].score) best_[edge.end] = {score, i};
  }
  path->clear();
  if (best_[word.size()].score == kMinusInfinity) return kMinusInfinity;
  for (size_t at = word.size(); at > 0; at = edges_[best_[at].edge].begin) {
    path->push_back(edges_[best_[at].edge].piece);
  }
  return best_[word.size()].score;
}

void UnigramLattice::find_edges(std::string_view word) {
  edges_.clear();
  for (size_t at = 0; at < word.size();) {
    const size_t character = character_length(word, at);
    bool has_character = false;
    trie_.for_each_prefix(word.substr(at), [&](size_t length, int32_t piece) {
      const double score = pieces_[static_cast<size_t>(piece)].score;
      if (score == kMinusInfinity) return;
      edges_.push_back({at, at + length, score, piece});
      has_character = has_character || length == character;
    });
    if (!has_character) edges_.push_back({at, at + character, unknown_score_, -1});
    at += character;
  }
}

void UnigramLattice::update_unknown() {
  double min_score = 0;
  for (const UnigramPiece& piece : pieces_) {
    if (piece.score != kMinusInfinity) min_score = std::min(min_score, piece.score);
  }
  unknown_score_ = min_score - 10;
}

std::vector<UnigramPiece> UnigramLattice::surviving() const {
  std::vector<UnigramPiece> pieces;
  for (const UnigramPiece& piece : pieces_) {
    if (piece.score != kMinusInfinity) pieces.push_back(piece);
  }
  return pieces;
}

void UnigramLattice::maximize(const std::vector<CountedWord>& words) {
  constexpr double kFewestExpected = 0.5;
  std::vector<double> expected(pieces_.size(), 0);
  for (const CountedWord& word : words) add_expectations(word, &expected);
  double sum = 0;
  for (const double count : expected) sum += count >= kFewestExpected ? count : 0;
  const double log_sum = digamma(sum);
  for (double& count : expected) {
    count = count >= kFewestExpected ? digamma(count) - log_sum : kMinusInfinity;
  }
  for (size_t i = 0; i < pieces_.size(); ++i) pieces_[i].score = expected[i];
  update_unknown();
}

std::vector<UnigramPiece> UnigramLattice::prune(const std::vector<CountedWord>& words,
                                                size_t size) {
  std::vector<double> uses(pieces_.size(), 0);
  std::vector<int32_t> path;
  double num_words = 0;
  for (const CountedWord& word : words) {
    num_words += static_cast<double>(word.count);
    find_best_path(word.text, /*without_whole=*/false, &path);
    for (const int32_t piece : path) {
      if (piece >= 0) uses[static_cast<size_t>(piece)] += static_cast<double>(word.count);
    }
  }
  double sum = 0;
  for (const double count : uses) sum += count;
  const double log_sum = std::log(sum);

  struct Candidate {
    double loss;
    size_t piece;
  };
  std::vector<Candidate> candidates;
  std::vector<UnigramPiece> kept;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (uses[i] == 0) continue;
    const double alternative = find_best_path(pieces_[i].text, /*without_whole=*/true, &path);
    if (path.empty()) {
      kept.push_back(pieces_[i]);  // nothing else makes it: a character
      continue;
    }
    if (alternative >= pieces_[i].score) continue;  // never the best way to make it
    const double log_share = std::log(uses[i]) - log_sum;
    const double log_sum_without = std::log(sum + uses[i] * (static_cast<double>(path.size()) - 1));
    double log_share_without = 0;
    for (const int32_t part : path) {
      const double part_uses = part >= 0 ? uses[static_cast<size_t>(part)] : 0;
      log_share_without += std::log(part_uses + uses[i]) - log_sum_without;
    }
    candidates.push_back({uses[i] / num_words * (log_share - log_share_without), i});
  }
  std::sort(candidates.begin(), candidates.end(), [&](const Candidate& a, const Candidate& b) {
    return a.loss != b.loss ? a.loss > b.loss : pieces_[a.piece].text < pieces_[b.piece].text;
  });
  for (const Candidate& candidate : candidates) {
    if (kept.size() >= size) break;
    kept.push_back(pieces_[candidate.piece]);
  }
  return kept;
}

}  // namespace engine::tokenizer
