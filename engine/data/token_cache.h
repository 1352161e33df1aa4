// Tokenised rows: flat arrays in one file that is mapped, not read.
//
//   "ENGTOK03"                                  8 bytes
//   ids            int32  [tokens]              BOS, EOS included where the policy adds them
//   trainable      uint64 [ceil(tokens / 64)]   bit t: token t is a target; never a row's first
//   offsets        uint64 [rows + 1]            row r is tokens offsets[r] .. offsets[r + 1]
//   content        uint64 [rows]                hash of the row's text: splits depend on it
//   line           uint64 [rows]                line of the row in its file, from 1
//   file           uint32 [rows]                index into the list of files
//   label          int32  [rows]                index into the label names, -1 = none
//   source         uint32 [rows]                pairs: tokens at the row's start that the encoder
//                                               reads, the rest being the target; else 0
//   label names    JSON array of strings
//   footer         TokenFooter: key, counts, places of the sections, checksums
//
// Little-endian; every section begins at a multiple of 8. The footer comes last because counts are
// known last: rows are written as they are made. The key names everything that the content depends
// on (file bytes, tokenizer, options), so a cache is never updated, only found or made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/core/file_io.h"
#include "engine/data/hash.h"

namespace engine {

// What was counted while tokenising and cannot be seen in the arrays.
struct TokenStatistics {
  uint64_t prefix_mismatches = 0;  // rows whose prompt's tokens do not begin prompt + completion
  uint64_t first_mismatch = 0;     // such a row
  uint64_t shortened_rows = 0;     // rows to classify that lost tokens
  uint64_t shortened_tokens = 0;   // which they lost
  uint64_t conversations = 0;      // rows that a chat template made
};

class TokenisedRows {
 public:
  // Opens the file if it is there and right. Otherwise nullopt, with the reason in `reason`:
  // empty when there is no file, else what is wrong with it.
  static std::optional<TokenisedRows> open(const std::filesystem::path& path, const Hash128& key,
                                           std::string& reason);
  static TokenisedRows from_memory(std::vector<std::byte> bytes, const Hash128& key);

  uint64_t num_rows() const { return line_.size(); }
  uint64_t num_tokens() const { return ids_.size(); }
  std::span<const int32_t> ids() const { return ids_; }
  std::span<const uint64_t> offsets() const { return offsets_; }
  uint64_t begin(uint64_t row) const { return offsets_[row]; }
  uint64_t length(uint64_t row) const { return offsets_[row + 1] - offsets_[row]; }
  bool trainable(uint64_t token) const { return trainable_[token / 64] >> (token % 64) & 1u; }
  // Number of trainable tokens in [begin, end).
  uint64_t count_trainable(uint64_t begin, uint64_t end) const;
  uint64_t content(uint64_t row) const { return content_[row]; }
  uint64_t line(uint64_t row) const { return line_[row]; }
  uint32_t file(uint64_t row) const { return file_[row]; }
  int32_t label(uint64_t row) const { return label_[row]; }
  // Rows of an encoder-decoder model are pairs: so many tokens of source, then the target.
  uint32_t source_length(uint64_t row) const { return source_[row]; }
  const std::vector<std::string>& label_names() const { return label_names_; }
  const TokenStatistics& statistics() const { return statistics_; }

 private:
  TokenisedRows() = default;
  // Sets the views; returns what is wrong, or "".
  std::string attach(std::span<const std::byte> bytes, const Hash128& key);

  MappedFile mapped_;
  std::vector<std::byte> memory_;
  std::span<const int32_t> ids_, label_;
  std::span<const uint64_t> trainable_, offsets_, content_, line_;
  std::span<const uint32_t> file_, source_;
  std::vector<std::string> label_names_;
  TokenStatistics statistics_;
};

// Makes the bytes above, row by row, into a file that appears whole or into memory.
class TokenWriter {
 public:
  struct Row {
    std::span<const int32_t> ids;
    std::span<const uint8_t> trainable;  // one byte per token, 0 or 1
    uint64_t content = 0;
    uint64_t line = 0;
    uint32_t file = 0;
    int32_t label = -1;
    uint32_t source_length = 0;
  };

  explicit TokenWriter(const Hash128& key);                            // to memory
  TokenWriter(const Hash128& key, const std::filesystem::path& path);  // to a file
  void add(const Row& row);
  uint64_t num_rows() const { return line_.size(); }
  // Writes the rest. A file is then in its place; to memory the bytes are returned.
  std::vector<std::byte> finish(const std::vector<std::string>& label_names,
                                const TokenStatistics& statistics);

 private:
  void write(const void* data, size_t size);
  void pad();

  Hash128 key_;
  std::unique_ptr<AtomicFile> file_writer_;
  std::vector<std::byte> memory_;
  Hasher payload_;
  uint64_t position_ = 0;
  uint64_t num_tokens_ = 0;
  std::vector<uint64_t> trainable_, offsets_ = {0}, content_, line_;
  std::vector<uint32_t> file_, source_;
  std::vector<int32_t> label_;
};

}  // namespace engine
