#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char kLlama3Pattern[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                              R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char kQwen2Pattern[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                             R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

// Sends the parts [begin, end) of one piece onwards, dropping empty ones.
class PartSender {
 public:
  PartSender(Piece piece, PieceSink& sink) : piece_(piece), sink_(sink) {}
  void send(size_t begin, size_t end) {
    if (begin == end) return;
    sink_.piece({piece_.text.substr(begin, end - begin), piece_.at_text_start && begin == 0});
  }

 private:
  Piece piece_;
  PieceSink& sink_;
};

// `Matches(pattern, text, scratch)` walks over the matches as MatchIterator does.
template <typename Pattern, typename Matches>
class Split final : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitOptions options) : pattern_(std::move(pattern)), options_(options) {}

  void split(Piece piece, RegexScratch& scratch, PieceSink& sink) const override {
    if (options_.behavior == SplitBehavior::kIsolated) {
      split_isolated(piece, scratch, sink);
    } else {
      split_general(piece, scratch, sink);
    }
  }

 private:
  // The common case needs no list: matches and what lies between them alike are parts.
  void split_isolated(Piece piece, RegexScratch& scratch, PieceSink& sink) const {
    PartSender parts(piece, sink);
    Matches matches(pattern_, piece.text, scratch);
    size_t sent = 0;
    for (Match match; matches.next(&match); sent = match.end) {
      parts.send(sent, match.begin);
      parts.send(match.begin, match.end);
    }
    parts.send(sent, piece.text.size());
  }

  struct Part {
    size_t begin, end;
    bool is_delimiter;
  };

  std::vector<Part> find_parts(std::string_view text, RegexScratch& scratch) const {
    std::vector<Part> parts;
    Matches matches(pattern_, text, scratch);
    size_t covered = 0;
    for (Match match; matches.next(&match); covered = match.end) {
      if (covered != match.begin) parts.push_back({covered, match.begin, options_.invert});
      parts.push_back({match.begin, match.end, !options_.invert});
    }
    if (covered != text.size()) parts.push_back({covered, text.size(), options_.invert});
    return parts;
  }

  void split_general(Piece piece, RegexScratch& scratch, PieceSink& sink) const {
    const std::vector<Part> parts = find_parts(piece.text, scratch);
    std::vector<Match> merged;
    switch (options_.behavior) {
      case SplitBehavior::kIsolated:  // split_isolated() took it
      case SplitBehavior::kRemoved:
        for (const Part& part : parts) {
          if (!part.is_delimiter) merged.push_back({part.begin, part.end});
        }
        break;
      case SplitBehavior::kContiguous: {
        bool previous = false;
        for (const Part& part : parts) {
          if (part.is_delimiter == previous && !merged.empty()) {
            merged.back().end = part.end;
          } else {
            merged.push_back({part.begin, part.end});
          }
          previous = part.is_delimiter;
        }
        break;
      }
      case SplitBehavior::kMergedWithPrevious: {
        bool previous = false;
        for (const Part& part : parts) {
          if (part.is_delimiter && !previous && !merged.empty()) {
            merged.back().end = part.end;
          } else {
            merged.push_back({part.begin, part.end});
          }
          previous = part.is_delimiter;
        }
        break;
      }
      case SplitBehavior::kMergedWithNext: {
        bool next = false;
        for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
          if (part->is_delimiter && !next && !merged.empty()) {
            merged.back().begin = part->begin;
          } else {
            merged.push_back({part->begin, part->end});
          }
          next = part->is_delimiter;
        }
        merged = std::vector<Match>(merged.rbegin(), merged.rend());
        break;
      }
    }
    PartSender sender(piece, sink);
    for (const Match& part : merged) sender.send(part.begin, part.end);
  }

  Pattern pattern_;
  SplitOptions options_;
};

class CharacterMatches {
 public:
  CharacterMatches(CharacterKind kind, std::string_view text, RegexScratch&)
      : kind_(kind), text_(text) {}
  bool next(Match* match) {
    while (at_ < text_.size()) {
      const CodePoint c = decode_code_point(text_, at_);
      at_ += c.length;
      if (!is_of_kind(c.value)) continue;
      *match = {at_ - c.length, at_};
      return true;
    }
    return false;
  }

 private:
  bool is_of_kind(char32_t c) const {
    return kind_ == CharacterKind::kWhiteSpace ? is_white_space(c) : is_punctuation(c);
  }
  CharacterKind kind_;
  std::string_view text_;
  size_t at_ = 0;
};

class WordSplit final : public PreTokenizer {
 public:
  void split(Piece piece, RegexScratch&, PieceSink& sink) const override {
    PartSender parts(piece, sink);
    enum class Kind { kSpace, kWord, kOther };
    Kind kind = Kind::kSpace;
    size_t begin = 0;
    for (size_t at = 0; at < piece.text.size();) {
      const CodePoint c = decode_code_point(piece.text, at);
      const Kind here = is_white_space(c.value)      ? Kind::kSpace
                        : is_word_character(c.value) ? Kind::kWord
                                                     : Kind::kOther;
      if (here != kind) {
        if (kind != Kind::kSpace) parts.send(begin, at);
        kind = here;
        begin = at;
      }
      at += c.length;
    }
    if (kind != Kind::kSpace) parts.send(begin, piece.text.size());
  }
};

class FixedLengthSplit final : public PreTokenizer {
 public:
  explicit FixedLengthSplit(size_t length) : length_(length) {}
  void split(Piece piece, RegexScratch&, PieceSink& sink) const override {
    PartSender parts(piece, sink);
    size_t begin = 0, at = 0, characters = 0;
    while (at < piece.text.size()) {
      at += character_length(piece.text, at);
      if (++characters < length_) continue;
      parts.send(begin, at);
      begin = at;
      characters = 0;
    }
    parts.send(begin, at);
  }

 private:
  size_t length_;
};

class ByteSpelling final : public PreTokenizer {
 public:
  void split(Piece piece, RegexScratch&, PieceSink& sink) const override {
    const std::string spelling = spell_bytes(piece.text);
    sink.piece({spelling, piece.at_text_start});
  }
};

class SpacePrefix final : public PreTokenizer {
 public:
  void split(Piece piece, RegexScratch&, PieceSink& sink) const override {
    if (piece.text.substr(0, 1) == " ") return sink.piece(piece);
    const std::string prefixed = " " + std::string(piece.text);
    sink.piece({prefixed, piece.at_text_start});
  }
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(MetaspaceOptions options) : options_(std::move(options)) {}

  void split(Piece piece, RegexScratch&, PieceSink& sink) const override {
    const std::string& mark = options_.replacement;
    std::string text;
    text.reserve(piece.text.size() * 2);
    for (const char c : piece.text) {
      if (c == ' ')
        text += mark;
      else
        text += c;
    }
    const bool wants_prefix =
        options_.prepend_scheme == PrependScheme::kAlways ||
        (options_.prepend_scheme == PrependScheme::kFirst && piece.at_text_start);
    if (wants_prefix && text.compare(0, mark.size(), mark) != 0) text.insert(0, mark);
    PartSender parts({text, piece.at_text_start}, sink);
    size_t sent = 0;
    while (options_.split && sent < text.size()) {
      // Every mark begins a part.
      const size_t next =
          text.find(mark, sent + (text.compare(sent, mark.size(), mark) == 0 ? mark.size() : 0));
      if (next == std::string::npos) break;
      parts.send(sent, next);
      sent = next;
    }
    parts.send(sent, text.size());
  }

 private:
  MetaspaceOptions options_;
};

class PreTokenizerSequence final : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}

  void split(Piece piece, RegexScratch& scratch, PieceSink& sink) const override {
    run(0, piece, scratch, sink);
  }

 private:
  void run(size_t step, Piece piece, RegexScratch& scratch, PieceSink& sink) const {
    if (step == steps_.size()) return sink.piece(piece);
    struct NextStep final : PieceSink {
      const PreTokenizerSequence* self;
      size_t step;
      RegexScratch* scratch;
      PieceSink* sink;
      void piece(Piece piece) override { self->run(step, piece, *scratch, *sink); }
    } next;
    next.self = this;
    next.step = step + 1;
    next.scratch = &scratch;
    next.sink = &sink;
    steps_[step]->split(piece, scratch, next);
  }

  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

}  // namespace

std::unique_ptr<PreTokenizer> make_split(Regex pattern, SplitOptions options) {
  return std::make_unique<Split<Regex, MatchIterator>>(std::move(pattern), options);
}
std::unique_ptr<PreTokenizer> make_split(CharacterKind kind, SplitOptions options) {
  return std::make_unique<Split<CharacterKind, CharacterMatches>>(kind, options);
}
std::unique_ptr<PreTokenizer> make_word_split() {
  return std::make_unique<WordSplit>();
}
std::unique_ptr<PreTokenizer> make_fixed_length_split(size_t length) {
  return std::make_unique<FixedLengthSplit>(length);
}
std::unique_ptr<PreTokenizer> make_byte_spelling() {
  return std::make_unique<ByteSpelling>();
}
std::unique_ptr<PreTokenizer> make_space_prefix() {
  return std::make_unique<SpacePrefix>();
}
std::unique_ptr<PreTokenizer> make_metaspace(MetaspaceOptions options) {
  return std::make_unique<Metaspace>(std::move(options));
}
std::unique_ptr<PreTokenizer> make_pre_tokenizer_sequence(
    std::vector<std::unique_ptr<PreTokenizer>> steps) {
  return std::make_unique<PreTokenizerSequence>(std::move(steps));
}

}  // namespace engine::tokenizer
