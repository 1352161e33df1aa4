// From files of rows to token ids, through a cache.
//
// Which tokens a row has:
//   text                [BOS] encode(text) [EOS]                    all trained
//   prompt, completion  [BOS] encode(prompt + completion) [EOS]     trained from token
//                       number (BOS) + |encode(prompt)| on, as TRL does; train_on=all: all.
//                       Lists of messages: rendered together, and the prompt alone with a
//                       generation prompt; trained from token number |its ids| on
//   messages            as TextEncoder::encode_chat has them: rendered by a chat template, which
//                       writes EOS and mostly BOS; what the assistant says is trained
//   input_ids           as they are; [BOS], [EOS] only when add_bos, add_eos are on, not automatic
// Pairs, for encoder-decoder models (FieldOptions::pair_pad_id):
//   prompt, completion  source: encode(prompt) with the tokens that the tokenizer puts around texts
//                       (T5: </s>); target: encode(completion) [EOS], all trained
//   input_ids, labels   as they are; EOS behind the labels only when add_eos is on
// BOS is added when the policy says so and the tokens do not begin with it, EOS when they do not
// end with it. What is trained is decided by position, never by the value of a token: EOS stays
// trained when it is also the padding token.
//
// Rows that are classified are what the tokenizer makes of a text with its special tokens, or of a
// pair of texts; add_bos and add_eos can leave them out or ask for them. No token is trained.
//
// Errors are those of byte_source.h, file_list.h, row_scanner.h and row_parser.h, and DATA-EMPTY
// (no rows), DATA-LABELS (more than 4096 different names of labels), DATA-SPECIAL (a policy needs a
// token that the tokenizer lacks), DATA-CHANGED (a file changed while it was read).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/data/row_parser.h"
#include "engine/data/token_cache.h"

namespace engine {

// A conversation as a row has it, and the names of its parts; those of tools, role and content may
// be empty: the usual ones.
struct ChatRow {
  std::string_view json;
  std::string messages, tools, role, content;
  std::string completion;  // of a conversation in two parts: the second; `messages` is the first
  // In one part, completion means the same as assistant; in two, all of the second is trained, and
  // with assistant and last what the assistant says there.
  TrainOn train_on = TrainOn::assistant;
};
struct EncodedChatRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // one per id
  bool prefix_mismatch = false;  // the ids of the prompt alone are not the first ones of the whole
};

// Special tokens around a text, or around two: before a [between b] after.
struct Wrapping {
  std::vector<int32_t> before, between, after;
};

// All that this room knows of a tokenizer.
struct TextEncoder {
  // Ids of a text without special tokens around it. Called from several threads at once.
  std::function<std::vector<int32_t>(std::string_view)> encode;
  // Ids of a conversation, all special tokens that its template writes among them. Called from
  // several threads at once; empty: there is no way to encode one.
  std::function<EncodedChatRow(const ChatRow&)> encode_chat;
  // Differs whenever encode or encode_chat could give other ids: a hash of the tokenizer's files
  // and of the chat template.
  std::string identity;
  int32_t bos_id = -1, eos_id = -1;     // -1 = the tokenizer has none
  bool adds_bos = false;                // the tokenizer itself puts BOS before texts
  std::vector<int32_t> prefix, suffix;  // what it puts around texts, in all
  Wrapping pair;                        // and around pairs of texts that are classified
  int32_t vocab_size = 0;               // bounds input_ids in files; 0 = not checked
};

// Rows that are classified as a whole, see tokenise.h above.
struct ClassificationRows {
  // Text is shortened so that a row has at most so many tokens; 0 = it is not. Of a pair the longer
  // text first, as in HF (longest_first).
  int64_t max_length = 0;
  bool keep_end = false;  // shorten at the beginning
};

struct TokeniseOptions {
  std::vector<std::string> files;  // paths, globs, directories
  DataFormat format = DataFormat::automatic;
  TextSplit split = TextSplit::blank_lines;
  FieldOptions fields;
  Toggle add_bos = Toggle::automatic;
  Toggle add_eos = Toggle::automatic;
  TrainOn train_on = TrainOn::completion;
  std::optional<ClassificationRows> classification;
  std::string cache_dir;  // empty = tokenise in memory
  size_t max_row_bytes = size_t{64} << 20;
  int threads = 0;  // 0 = as many as OpenMP would use. The result does not depend on it.
  // Now and then, with the rows and text bytes done so far.
  std::function<void(uint64_t rows, uint64_t bytes)> progress;
};

// The settings of section `data` for one list of files (data.train or data.validation).
// Roles source and target are other words for prompt and completion.
TokeniseOptions tokenise_options(const DataConfig& config, std::vector<std::string> files);
// The same for rows to classify; `labels_required`: every row must have a label.
TokeniseOptions classification_options(const DataConfig& config, std::vector<std::string> files,
                                       bool labels_required = true);

enum class CacheUse : uint8_t {
  off,      // no cache directory, or it cannot be written
  hit,      // found
  built,    // was not there
  rebuilt,  // was there and damaged
};

struct TokenisedData {
  TokenisedRows rows;
  std::vector<std::string> files;
  CacheUse cache = CacheUse::off;
  std::string cache_path;
  std::string cache_note;  // why off or rebuilt, or empty
  double seconds = 0;      // to find or make it
  int32_t eos_id = -1;

  // "train.jsonl:1043"
  std::string place(uint64_t row) const;
};

std::shared_ptr<const TokenisedData> tokenise(const TokeniseOptions& options,
                                              const TextEncoder& encoder);

}  // namespace engine
