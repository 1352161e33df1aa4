#include "tokenizer/unigram_trainer.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "engine/core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/frequent_substrings.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/tokenizer_json_writer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram_lattice.h"
#include "tokenizer/vocabulary.h"

namespace engine {
namespace {

using tokenizer::CountedWord;
using tokenizer::kMetaspace;
using tokenizer::UnigramLattice;
using tokenizer::Vocabulary;
using Piece = tokenizer::UnigramPiece;

// Below every piece: special tokens and bytes written out in a text are text.
constexpr double kReservedScore = -1000;

Error train_error(std::string what) {
  return Error(ExitCode::usage, "TOK-TRAIN", std::move(what));
}

void sort_by_score(std::vector<Piece>* pieces) {
  std::sort(pieces->begin(), pieces->end(), [](const Piece& a, const Piece& b) {
    return a.score != b.score ? a.score > b.score : a.text < b.text;
  });
}

// Counts become log shares.
void normalize(std::vector<Piece>* pieces) {
  double sum = 0;
  for (const Piece& piece : *pieces) sum += piece.score;
  for (Piece& piece : *pieces) piece.score = std::log(piece.score / sum);
}

}  // namespace

struct UnigramTrainer::State {
  UnigramTrainerOptions options;
  Vocabulary words;  // distinct words, numbered as they came
  std::vector<uint64_t> counts;

  size_t num_reserved() const { return options.special_tokens.size() + 1 + 256; }

  void count(std::string_view word) {
    int32_t index = words.find(word);
    if (index < 0) {
      index = static_cast<int32_t>(counts.size());
      words.add(word, index);
      counts.push_back(0);
    }
    ++counts[static_cast<size_t>(index)];
  }

  // The characters that become pieces, most frequent first, with their counts. Some do whatever the
  // texts: "▁", since its bytes would not be decoded to a space, and those of tokens that must not
  // be taken for a text that spells them because the text has no other path.
  std::vector<Piece> required_characters() const {
    std::map<std::string_view, uint64_t> characters;
    uint64_t total = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      const std::string_view word = words.token(static_cast<int32_t>(i));
      for (size_t at = 0; at < word.size(); at += tokenizer::character_length(word, at)) {
        characters[word.substr(at, tokenizer::character_length(word, at))] += counts[i];
        total += counts[i];
      }
    }
    std::vector<Piece> pieces;
    for (const auto& [text, count] : characters) {
      pieces.push_back({std::string(text), static_cast<double>(count)});
    }
    sort_by_score(&pieces);
    double covered = 0;
    size_t kept = 0;
    while (kept < pieces.size() &&
           covered < options.character_coverage * static_cast<double>(total)) {
      covered += pieces[kept++].score;
    }
    pieces.resize(kept);
    std::string always(kMetaspace);
    for (char c = '!'; c <= '~'; ++c) always += c;
    for (const std::string& token : options.special_tokens) always += token;
    std::set<std::string_view> listed;
    for (const Piece& piece : pieces) listed.insert(piece.text);
    std::vector<Piece> added;
    for (size_t at = 0; at < always.size();) {
      const std::string_view character =
          std::string_view(always).substr(at, tokenizer::character_length(always, at));
      at += character.size();
      if (character == " " || !listed.insert(character).second) continue;
      const auto found = characters.find(character);
      const uint64_t count = found == characters.end() ? 0 : found->second;
      added.push_back({std::string(character), static_cast<double>(count)});
    }
    pieces.insert(pieces.end(), added.begin(), added.end());
    sort_by_score(&pieces);
    return pieces;
  }

  // The words without rare characters, which cut them, sorted by text.
  std::vector<CountedWord> training_words(const std::vector<Piece>& characters) const {
    std::set<std::string_view> known;
    for (const Piece& piece : characters) known.insert(piece.text);
    std::map<std::string_view, uint64_t> parts;
    for (size_t i = 0; i < counts.size(); ++i) {
      const std::string_view word = words.token(static_cast<int32_t>(i));
      size_t begin = 0;
      for (size_t at = 0; at <= word.size();) {
        const size_t length = at < word.size() ? tokenizer::character_length(word, at) : 1;
        if (at == word.size() || !known.contains(word.substr(at, length))) {
          if (at > begin) parts[word.substr(begin, at - begin)] += counts[i];
          begin = at + length;
        }
        at += length;
      }
    }
    std::vector<CountedWord> list;
    for (const auto& [text, count] : parts) list.push_back({text, count});
    return list;
  }
};

UnigramTrainer::UnigramTrainer(UnigramTrainerOptions options) : state_(std::make_unique<State>()) {
  std::set<std::string> seen = {"<unk>"};
  for (const std::string& token : options.special_tokens) {
    if (token.empty() || tokenizer::byte_of_token(token) >= 0 || !seen.insert(token).second) {
      throw train_error(fmt::format("\"{}\" cannot be a special token", token))
          .expected("a text of its own; <unk> and the bytes <0x00> to <0xFF> are there already");
    }
  }
  state_->options = std::move(options);
  const UnigramTrainerOptions& checked = state_->options;
  if (checked.vocab_size <= state_->num_reserved() || checked.vocab_size > Vocabulary::kMaxId) {
    throw train_error(fmt::format("vocab_size {} is out of range", checked.vocab_size))
        .expected(fmt::format("more than {} (special tokens, <unk> and 256 bytes), at most {}",
                              state_->num_reserved(), Vocabulary::kMaxId));
  }
  if (checked.max_piece_length < 1 || checked.max_piece_length > 250) {
    throw train_error(fmt::format("max_piece_length {} is out of range", checked.max_piece_length))
        .expected("1 to 250 characters");
  }
  if (!(checked.character_coverage > 0 && checked.character_coverage <= 1) ||
      !(checked.shrinking_factor > 0 && checked.shrinking_factor < 1)) {
    throw train_error("character_coverage or shrinking_factor is out of range")
        .expected("a share: more than 0, at most 1 (shrinking_factor less than 1)");
  }
}

UnigramTrainer::UnigramTrainer(UnigramTrainer&&) noexcept = default;
UnigramTrainer::~UnigramTrainer() = default;

void UnigramTrainer::add(std::string_view text) {
  const size_t invalid = tokenizer::find_invalid_utf8(text);
  if (invalid != std::string_view::npos) {
    throw Error(ExitCode::data, "TOK-UTF8",
                fmt::format("text is not valid UTF-8 at byte {} of {}", invalid, text.size()))
        .fix("convert the data to UTF-8, e.g. with iconv");
  }
  // As the written tokenizer cuts: lines and runs of line breaks, and lines before spaces.
  std::string normal(kMetaspace);
  for (const char c : text) {
    if (c == ' ') {
      normal += kMetaspace;
    } else {
      normal += c;
    }
  }
  const std::string_view rest = normal;
  for (size_t begin = 0; begin < rest.size() && !text.empty();) {
    const bool breaks = rest[begin] == '\n';
    size_t end = breaks ? rest.find_first_not_of('\n', begin) : rest.find('\n', begin);
    if (end == std::string_view::npos) end = rest.size();
    const std::string_view part = rest.substr(begin, end - begin);
    if (breaks) {
      state_->count(part);
    } else {
      tokenizer::for_each_word(part, [&](std::string_view word) { state_->count(word); });
    }
    begin = end;
  }
}

std::string UnigramTrainer::train() const {
  const UnigramTrainerOptions& options = state_->options;
  const size_t num_pieces = options.vocab_size - state_->num_reserved();
  const std::vector<Piece> characters = state_->required_characters();
  if (characters.size() > num_pieces) {
    throw train_error(fmt::format("{} characters need a token, vocab_size has room for {}",
                                  characters.size(), num_pieces))
        .why("ASCII characters and those of special tokens count whatever the texts")
        .fix("a larger vocab_size, or a smaller character_coverage: rare characters become bytes");
  }
  const std::vector<CountedWord> words = state_->training_words(characters);
  std::vector<Piece> pieces;
  for (const Piece& character : characters) {
    if (character.score > 0) pieces.push_back(character);
  }
  for (const auto& seed :
       tokenizer::find_frequent_substrings(words, options.max_piece_length, options.num_seeds)) {
    const double length =
        static_cast<double>(std::count_if(seed.text.begin(), seed.text.end(), [](char c) {
          return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
        }));
    pieces.push_back({std::string(seed.text), static_cast<double>(seed.count) * length});
  }
  if (!pieces.empty()) normalize(&pieces);

  // A tenth more than wanted is left for the last choice, by probability.
  const size_t enough = num_pieces + num_pieces / 10;
  constexpr int kRoundsPerPruning = 2;
  double unknown_score = 0;
  while (!pieces.empty()) {
    UnigramLattice lattice(std::move(pieces));
    for (int round = 0; round < kRoundsPerPruning; ++round) lattice.maximize(words);
    pieces = lattice.surviving();
    unknown_score = lattice.unknown_score();
    if (pieces.size() <= enough) break;
    const size_t fewer =
        static_cast<size_t>(static_cast<double>(pieces.size()) * options.shrinking_factor);
    UnigramLattice smaller(std::move(pieces));
    pieces = smaller.prune(words, std::max(enough, fewer));
  }

  // All required characters, then the most probable pieces.
  std::map<std::string_view, double> scores;
  for (const Piece& piece : pieces) scores[piece.text] = piece.score;
  std::vector<Piece> chosen;
  std::set<std::string_view> taken;
  double below = unknown_score + 10;  // the least score of a piece
  for (const Piece& character : characters) {
    const auto known = scores.find(character.text);
    chosen.push_back({character.text, known != scores.end() ? known->second : below});
    if (known == scores.end()) below += 0.0001;  // so that no two are equal
    taken.insert(character.text);
  }
  sort_by_score(&pieces);
  for (const Piece& piece : pieces) {
    if (chosen.size() == num_pieces) break;
    if (taken.insert(piece.text).second) chosen.push_back(piece);
  }
  sort_by_score(&chosen);

  tokenizer::UnigramFile file;
  for (const std::string& token : options.special_tokens) {
    file.vocab.emplace_back(token, kReservedScore);
  }
  file.unk_id = static_cast<int32_t>(file.vocab.size());
  file.vocab.emplace_back("<unk>", kReservedScore);
  for (size_t id = 0; id < file.vocab.size(); ++id) {
    file.added_tokens.push_back(
        {.id = static_cast<int32_t>(id), .content = file.vocab[id].first, .special = true});
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    file.vocab.emplace_back(tokenizer::byte_token(static_cast<unsigned char>(byte)),
                            kReservedScore);
  }
  for (Piece& piece : chosen) file.vocab.emplace_back(std::move(piece.text), piece.score);
  return tokenizer::write_tokenizer_json(file);
}

}  // namespace engine
