// Text <-> token ids, as the Hugging Face tokenizer of the same files would do it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine {

namespace tokenizer {
struct TokenizerParts;
}

struct EncodeOptions {
  // Put around the ids what the file's post-processor asks for (Llama: BOS in front). Texts
  // rendered by a chat template hold their special tokens already: encode those with false.
  bool add_special_tokens = true;
  // Recognise special tokens written in the text; false reads "<|eot_id|>" as plain characters
  // (for text that users may write).
  bool parse_special_tokens = true;
  // `text` begins a text. False: it is the rest of one, and nothing is put before its first word
  // (sentencepiece models put a space there).
  bool at_text_start = true;
};

// A stretch of a text that was encoded on its own, whatever stands around it: one added token, or
// what lies between two. Bytes of the text, places in the list of ids.
struct EncodedPart {
  size_t text_begin = 0, text_end = 0;
  size_t ids_begin = 0, ids_end = 0;
  bool is_added_token = false;
};

// Ids of tokens with a meaning of their own; nothing where the files name none.
struct TokenRoles {
  std::optional<int32_t> bos, eos, pad, unk;
};

// Ids around two texts that are read as one: before a between b after.
struct PairIds {
  std::vector<int32_t> before, between, after;
};

struct SpecialToken {
  int32_t id;
  std::string content;
};

// A file the tokenizer was read from, kept to be written beside checkpoints byte for byte.
struct TokenizerFile {
  std::string name;  // within the directory, e.g. "tokenizer.json"
  std::string contents;
};

// What files without a tokenizer.json leave unsaid.
struct TokenizerOpenOptions {
  // "gpt2", "llama3" or "qwen2"; empty: told from the files, see Tokenizer::open.
  std::string split_pattern = "";
  // Special tokens of a tiktoken rank file; empty: told from the files.
  std::vector<std::pair<std::string, int32_t>> special_tokens = {};
};

// Immutable; const methods may be called from several threads at once.
class Tokenizer {
 public:
  // Opens a directory or a single file. In a directory the first of these decides:
  //   tokenizer.json              BPE, Unigram, WordPiece or WordLevel
  //   vocab.json + merges.txt     (or encoder.json + vocab.bpe); added_tokens.json if present. The
  //                               split pattern is Qwen2's (with NFC) if tokenizer_config.json,
  //                               config.json or a token <|im_start|> says so, else GPT-2's
  //   tokenizer.model, spiece.model   tiktoken ranks (128000: Llama 3), or a SentencePiece model
  // and tokenizer_config.json, special_tokens_map.json add tokens and roles.
  // Throws Error with exit code `checkpoint`: TOK-MISSING, TOK-JSON, TOK-MALFORMED, TOK-MERGES,
  // TOK-DUPLICATE, TOK-REGEX, TOK-UNSUPPORTED.
  static Tokenizer open(const std::filesystem::path& path,
                        const TokenizerOpenOptions& options = {});
  // Reads the text of a tokenizer.json.
  static Tokenizer from_json(std::string tokenizer_json);

  explicit Tokenizer(tokenizer::TokenizerParts parts);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Throws TOK-UTF8 (exit code `data`), naming the byte offset, if `text` is not valid UTF-8:
  // replacing bytes silently would train on text nobody wrote.
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // The same, appended to `*ids`. `parts`, unless null, receives the stretches of text in order;
  // the ids that add_special_tokens puts around the text belong to none.
  void encode(std::string_view text, EncodeOptions options, std::vector<int32_t>* ids,
              std::vector<EncodedPart>* parts = nullptr) const;

  // Ids outside the vocabulary (the padding rows of an embedding) decode to nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  // How texts become tokens, as people call it: "byte-level BPE", "BPE with byte fallback",
  // "SentencePiece BPE", "Unigram", "WordPiece", "WordLevel".
  std::string model_name() const;
  // The text of a token as the files spell it; nothing for ids without a token.
  std::optional<std::string> id_to_token(int32_t id) const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  // One more than the largest id: the rows an embedding needs. (A checkpoint may have more.)
  int32_t vocab_size() const;

  const TokenRoles& roles() const;
  std::optional<int32_t> bos_id() const { return roles().bos; }
  std::optional<int32_t> eos_id() const { return roles().eos; }
  std::optional<int32_t> pad_id() const { return roles().pad; }
  // Ids that add_special_tokens puts before and after a text.
  const std::vector<int32_t>& prefix_ids() const;
  const std::vector<int32_t>& suffix_ids() const;
  // And around a pair of texts: what the file says of pairs, else each text by itself.
  PairIds pair_ids() const;
  // By id.
  const std::vector<SpecialToken>& special_tokens() const;
  bool is_special(int32_t id) const;

  const std::vector<TokenizerFile>& files() const;
  // Writes files() into `directory`, which is made if need be. Throws IO-WRITE (exit code `io`).
  void save(const std::filesystem::path& directory) const;
  // Changes when any of files() does: a key for caches of tokenized data.
  uint64_t fingerprint() const;

 private:
  friend class StreamDecoder;
  struct State;
  std::unique_ptr<State> state_;
};

// Decodes token by token, for printing while generating. The texts given by push() and finish(),
// joined, are decode() of all ids; each is valid UTF-8 and never ends inside a character.
class StreamDecoder {
 public:
  // `tokenizer` must outlive it.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = false);
  StreamDecoder(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  // The text that is certain now; may be empty while a character is incomplete.
  std::string push(int32_t id);
  // What was held back. Nothing may be pushed afterwards.
  std::string finish();

 private:
  friend class Tokenizer;
  struct State;
  void push_to(int32_t id, std::string* text);
  void finish_to(std::string* text);
  std::unique_ptr<State> state_;
};

}  // namespace engine
