// The stage that cuts normalized text into pieces; no token ever crosses a cut.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"

namespace engine::tokenizer {

struct Piece {
  std::string_view text;
  bool at_text_start = false;  // it begins the text given to encode()
};

// Receives pieces from left to right. A piece is valid during the call only.
class PieceSink {
 public:
  virtual void piece(Piece piece) = 0;

 protected:
  ~PieceSink() = default;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Cuts `piece` (valid UTF-8) and hands every part that is not empty to `sink`.
  virtual void split(Piece piece, RegexScratch& scratch, PieceSink& sink) const = 0;
};

// What happens to the matches of a splitting pattern ("delimiters").
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitOptions {
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what lies between the matches is the delimiter
};
std::unique_ptr<PreTokenizer> make_split(Regex pattern, SplitOptions options);

// Every character of the kind is a match by itself.
enum class CharacterKind { kWhiteSpace, kPunctuation };
std::unique_ptr<PreTokenizer> make_split(CharacterKind kind, SplitOptions options);
// Runs of word characters, and runs of neither word characters nor white space.
std::unique_ptr<PreTokenizer> make_word_split();
// Pieces of `length` characters, the last one shorter.
std::unique_ptr<PreTokenizer> make_fixed_length_split(size_t length);

// Spells the bytes of every piece as characters (byte_level.h).
std::unique_ptr<PreTokenizer> make_byte_spelling();
// Puts a space before every piece that does not begin with one.
std::unique_ptr<PreTokenizer> make_space_prefix();

enum class PrependScheme { kAlways, kFirst, kNever };
struct MetaspaceOptions {
  std::string replacement = "\xE2\x96\x81";  // one character, "▁"
  PrependScheme prepend_scheme = PrependScheme::kAlways;
  bool split = true;  // cut before every replacement
};
std::unique_ptr<PreTokenizer> make_metaspace(MetaspaceOptions options);

std::unique_ptr<PreTokenizer> make_pre_tokenizer_sequence(
    std::vector<std::unique_ptr<PreTokenizer>> steps);

// Splitting patterns of widely used byte-level vocabularies, as their tokenizer.json has them.
extern const char kGpt2Pattern[];
extern const char kLlama3Pattern[];
extern const char kQwen2Pattern[];

}  // namespace engine::tokenizer
