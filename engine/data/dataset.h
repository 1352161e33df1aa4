// Tokenised rows made fit for training: held-out rows taken away, rows that are too long treated as
// the policy says, rows without a trained token found, everything counted.
//
// The result is a list of samples, the units that are shuffled and packed. Each is one or more
// segments, runs of tokens of one row that attend to each other and to nothing else:
//   packed, rows   a sample is one segment: a row, or a piece of a row that was split
//   stream         a sample is a block of max_length tokens of all rows laid end to end; a row that
//                  crosses the end of a block continues in the next one as a segment of its own
//
// Targets: target[t] = ids[t + 1] if that token is trained, else -100; the last position of a row
// has -100, and so has the last position that a truncated row keeps. Where a row is only split, the
// last position of a piece is trained on the first token of the next piece: no target is lost.
//
// Rows of an encoder-decoder model are pairs. A sample is one segment then: all of the target, or
// its beginning, and the source, each within a limit of its own. The policies of truncation cut the
// source at that side, keeping an EOS at its end, and the target always at its end, without one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/data/tokenise.h"

namespace engine {

enum class RowSubset : uint8_t { all, train, validation };

struct DatasetOptions {
  int64_t max_length = 0;  // tokens in a segment, or in the source of a pair; 0 = no limit (not for
                           // stream)
  int64_t max_target_length = 0;        // tokens in the target of a pair; 0 = no limit
  Overflow overflow = Overflow::error;  // not for stream, which cuts anyway
  OnNoTarget on_no_target = OnNoTarget::error;
  Packing packing = Packing::packed;  // stream, or one of the others
  // Rows are classified: the only target of a row is its label (not with stream or split).
  bool row_labels = false;
  // A row is held out when hash(its content, split_seed) < validation_fraction · 2^64: equal rows
  // fall on one side, and rows added to the file later move none of the others.
  RowSubset subset = RowSubset::all;
  double validation_fraction = 0;
  uint64_t split_seed = 42;
};

struct Segment {
  uint64_t begin = 0;  // in TokenisedRows::ids
  uint32_t row = 0;
  uint32_t length = 0;  // at least 1
  uint32_t num_targets = 0;
  bool continues = false;  // the token after it belongs to the row and is a target of the last one
  // Pairs: the segment above is the target, and these are the source: source_length - 1 tokens from
  // source_begin on, then the one at source_last.
  uint32_t source_length = 0;
  uint64_t source_begin = 0, source_last = 0;
};

struct DataAudit {
  bool row_labels = false;  // targets are rows with a label
  uint64_t rows_read = 0;   // of this subset
  uint64_t rows = 0;        // kept
  uint64_t samples = 0;
  uint64_t tokens = 0;               // kept
  uint64_t targets = 0;              // kept tokens that are predicted and counted in the loss
  uint64_t over_length = 0;          // rows longer than max_length, whatever happened to them
  uint64_t dropped_over_length = 0;  // rows
  uint64_t dropped_no_target = 0;    // rows
  uint64_t kept_no_target = 0;       // rows
  uint64_t truncated = 0;            // rows; of row_labels: before the split into subsets
  uint64_t truncated_tokens = 0;     // tokens cut off
  uint64_t split = 0;                // rows
  uint64_t dropped_pieces = 0;       // pieces of split rows without any target
  // Kept rows whose last kept token is a trained EOS; of conversations, whose templates may print a
  // line break behind it, also the one before the last.
  uint64_t ends_in_trained_eos = 0;
  uint64_t prefix_mismatches = 0;  // rows (before the split into subsets), see TokenStatistics
  std::string first_mismatch;      // file:line, or empty
  // Row lengths in tokens before the policies: percentiles by nearest rank.
  uint64_t length_p50 = 0, length_p90 = 0, length_p99 = 0, length_max = 0;
  double length_mean = 0;
  std::string longest_row;                                   // file:line
  std::vector<std::pair<std::string, uint64_t>> label_rows;  // kept rows by label

  // A few lines for people, without a newline at the end.
  std::string summary() const;
};

// Throws CFG-CONFLICT (usage) for settings that make no sense for pairs.
void check_pair_settings(const DataConfig& config);

class Dataset {
 public:
  // Throws DATA-OVERFLOW, DATA-NO-TARGET, and DATA-EMPTY when no row is left.
  Dataset(std::shared_ptr<const TokenisedData> data, const DatasetOptions& options);

  const TokenisedData& data() const { return *data_; }
  const DataAudit& audit() const { return audit_; }
  Packing packing() const { return options_.packing; }
  bool pairs() const { return pairs_; }  // rows have a source and a target

  uint32_t num_samples() const { return static_cast<uint32_t>(sample_tokens_.size()); }
  uint32_t sample_tokens(uint32_t sample) const { return sample_tokens_[sample]; }
  std::span<const uint32_t> all_sample_tokens() const { return sample_tokens_; }
  std::span<const Segment> segments(uint32_t sample) const {
    return std::span(segments_).subspan(sample_begin_[sample],
                                        sample_begin_[sample + 1] - sample_begin_[sample]);
  }

 private:
  std::vector<uint32_t> select_rows() const;
  void measure_lengths(const std::vector<uint32_t>& rows);
  Error overflow_error(const std::vector<uint32_t>& rows) const;
  bool over_length(uint32_t row) const;
  Segment pair(uint32_t row);
  // The pieces of a row after the overflow policy; none if there is nothing to train on.
  std::vector<Segment> cut_row(uint32_t row);
  void keep(uint32_t row, const std::vector<Segment>& pieces);
  void make_blocks();
  Segment segment(uint32_t row, uint64_t begin, uint64_t length, bool continues) const;

  std::shared_ptr<const TokenisedData> data_;
  DatasetOptions options_;
  bool pairs_ = false;
  DataAudit audit_;
  std::vector<Segment> segments_;
  std::vector<uint32_t> sample_begin_;   // [samples + 1] into segments_
  std::vector<uint32_t> sample_tokens_;  // [samples]
};

}  // namespace engine
