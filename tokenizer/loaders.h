// From files to the parts of a tokenizer.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_parts.h"

namespace engine::tokenizer {

// Opens a directory or a file; see Tokenizer::open for what is looked for.
TokenizerParts load_tokenizer(const std::filesystem::path& path,
                              const TokenizerOpenOptions& options);

// Added tokens that stand beside a tokenizer.json.
struct ExtraTokens {
  std::vector<AddedToken> tokens;
  // Their flags count, also for tokens that the tokenizer.json has too (tokenizer_config.json);
  // otherwise those of the tokenizer.json do.
  bool flags_decide = false;
};

// Reads the text of a tokenizer.json. `file` is named in errors. `extra` is added where the text
// has no token of that content.
TokenizerParts load_tokenizer_json(std::string_view text, const std::string& file,
                                   const ExtraTokens& extra);

// vocab.json and merges.txt in the style of GPT-2.
struct VocabMergesFiles {
  std::string_view vocab, merges;
  std::string vocab_name, merges_name;
  std::vector<AddedToken> added_tokens;
  std::string split_pattern;  // "gpt2" or "qwen2"
  // <s> and </s> around every text; also told from a vocabulary that begins as RoBERTa's.
  bool is_roberta = false;
  bool add_prefix_space = false;  // before every text that does not begin with a space
};
TokenizerParts load_vocab_merges(const VocabMergesFiles& files);

// A tiktoken rank file: lines of base64(token) and rank. `added_tokens` and `split_pattern` may be
// empty for 128000 ranks, which are Llama 3.
struct TiktokenFile {
  std::string_view ranks;
  std::string name;
  std::vector<AddedToken> added_tokens;
  std::string split_pattern;
};
bool looks_like_tiktoken(std::string_view contents);
TokenizerParts load_tiktoken(const TiktokenFile& file);

// A SentencePiece model, and what the files around it say about its use.
enum class SentencePieceFamily { kUnknown, kT5, kOther };
struct SentencePieceModelFile {
  std::string_view contents;
  std::string name;
  std::vector<AddedToken> added_tokens;
  SentencePieceFamily family = SentencePieceFamily::kUnknown;  // unknown: told from the pieces
  int32_t extra_ids = -1;  // sentinels of T5 behind the pieces; -1: 100 for T5
  // What stands around a text; by default BOS before BPE models, EOS behind T5.
  std::optional<bool> add_bos, add_eos;
  // The dummy prefix is put at the beginning of a text alone ("legacy": false), otherwise behind
  // every special token too.
  bool prefix_at_start_only = false;
};
TokenizerParts load_sentencepiece(const SentencePieceModelFile& file);

}  // namespace engine::tokenizer
