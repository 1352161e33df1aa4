#include "engine/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/data/data_error.h"

namespace engine {
namespace {

// A hash below this is in the validation part: fraction · 2^64, rounded.
uint64_t split_threshold(double fraction) {
  if (fraction >= 1) return UINT64_MAX;
  return static_cast<uint64_t>(std::ldexp(std::max(fraction, 0.0), 64));
}

std::string count_text(uint64_t count) {
  return group_digits(static_cast<int64_t>(count));
}

std::string short_count(uint64_t count) {
  if (count < 10000) return std::to_string(count);
  if (count < 1000000) return fmt::format("{:.1f}k", static_cast<double>(count) / 1e3);
  if (count < 1000000000) return fmt::format("{:.2f}M", static_cast<double>(count) / 1e6);
  return fmt::format("{:.2f}G", static_cast<double>(count) / 1e9);
}

}  // namespace

void check_pair_settings(const DataConfig& config) {
  const bool stream = config.packing == Packing::stream;
  if (!stream && config.overflow != Overflow::split) return;
  throw Error(ExitCode::usage, "CFG-CONFLICT",
              stream ? "rows of an encoder-decoder model are pairs: they make no stream"
                     : "rows of an encoder-decoder model are pairs: they cannot be split")
      .where(stream ? "data.packing=stream" : "data.overflow=split")
      .fix(stream ? "data.packing=packed" : "data.overflow=truncate_right, or drop");
}

Dataset::Dataset(std::shared_ptr<const TokenisedData> data, const DatasetOptions& options)
    : data_(std::move(data)), options_(options) {
  const bool stream = options.packing == Packing::stream;
  if (options.max_length < 0 || (stream && options.max_length == 0) ||
      (options.row_labels && (stream || options.overflow == Overflow::split))) {
    throw std::logic_error("Dataset: max_length");
  }
  if (data_->rows.num_rows() >= UINT32_MAX) {
    throw data_error("DATA-LIMIT", "more than 2^32 rows");
  }
  audit_.row_labels = options.row_labels;
  pairs_ = data_->rows.num_rows() > 0 && data_->rows.source_length(0) > 0;
  if (pairs_ && (stream || options.overflow == Overflow::split)) {
    throw std::logic_error("Dataset: pairs are not cut into pieces");
  }
  const std::vector<uint32_t> rows = select_rows();
  measure_lengths(rows);
  if (!stream && options.overflow == Overflow::error && audit_.over_length > 0) {
    throw overflow_error(rows);
  }
  uint64_t without_target = 0;
  uint32_t first_without_target = 0;
  sample_begin_.push_back(0);
  for (uint32_t row : rows) {
    if (options.overflow == Overflow::drop && over_length(row)) {
      ++audit_.dropped_over_length;
      continue;
    }
    const std::vector<Segment> pieces = cut_row(row);
    uint64_t targets = 0;
    for (const Segment& piece : pieces) targets += piece.num_targets;
    if (targets == 0 && without_target++ == 0) first_without_target = row;
    // A row without tokens cannot be kept: it would be an empty sequence.
    if (targets == 0 && (options.on_no_target != OnNoTarget::keep || pieces.empty())) {
      ++audit_.dropped_no_target;
    } else {
      audit_.kept_no_target += targets == 0;
      keep(row, pieces);
    }
  }
  if (options.on_no_target == OnNoTarget::error && without_target > 0 && options.row_labels) {
    throw data_error(
        "DATA-NO-TARGET",
        count_text(without_target) + " of " + count_text(rows.size()) +
            " rows have no label, or no tokens (first: " + data_->place(first_without_target) + ")")
        .fix("correct the rows, or data.on_no_target=drop");
  }
  if (options.on_no_target == OnNoTarget::error && without_target > 0) {
    throw data_error(
        "DATA-NO-TARGET",
        count_text(without_target) + " of " + count_text(rows.size()) +
            " rows have no trained token (first: " + data_->place(first_without_target) + ")")
        .why("an empty completion or text, or truncation that removes the whole completion")
        .fix("correct the rows, or data.on_no_target=drop (keep trains on nothing there)");
  }
  if (audit_.rows == 0) {
    throw data_error("DATA-EMPTY", "all " + count_text(rows.size()) + " rows were dropped")
        .found(count_text(audit_.dropped_over_length) + " over data.max_length, " +
               count_text(audit_.dropped_no_target) + " without a trained token");
  }
  if (stream) make_blocks();
  audit_.samples = num_samples();
}

std::vector<uint32_t> Dataset::select_rows() const {
  const TokenisedRows& all = data_->rows;
  std::vector<uint32_t> rows;
  const uint64_t threshold = split_threshold(options_.validation_fraction);
  for (uint32_t row = 0; row < all.num_rows(); ++row) {
    if (options_.subset != RowSubset::all) {
      const bool held_out = mix64(all.content(row) ^ mix64(options_.split_seed)) < threshold;
      if (held_out != (options_.subset == RowSubset::validation)) continue;
    }
    rows.push_back(row);
  }
  if (rows.empty()) {
    throw data_error("DATA-EMPTY",
                     fmt::format("data.validation_fraction={} leaves no row for {}",
                                 options_.validation_fraction,
                                 options_.subset == RowSubset::train ? "training" : "validation"))
        .found(count_text(all.num_rows()) + " rows, each wholly on one side")
        .fix(
            "another fraction, a file of its own in data.validation, or, for text files, "
            "data.split=blank_lines");
  }
  return rows;
}

void Dataset::measure_lengths(const std::vector<uint32_t>& rows) {
  const TokenisedRows& all = data_->rows;
  std::vector<uint64_t> lengths;
  uint32_t longest = rows.front();
  uint64_t total = 0;
  for (uint32_t row : rows) {
    const uint64_t length = all.length(row);
    lengths.push_back(length);
    total += length;
    if (length > all.length(longest)) longest = row;
    audit_.over_length += over_length(row);
  }
  std::sort(lengths.begin(), lengths.end());
  const auto percentile = [&](size_t percent) {
    return lengths[(lengths.size() * percent + 99) / 100 - 1];
  };
  audit_.rows_read = rows.size();
  audit_.length_p50 = percentile(50);
  audit_.length_p90 = percentile(90);
  audit_.length_p99 = percentile(99);
  audit_.length_max = lengths.back();
  audit_.length_mean = static_cast<double>(total) / static_cast<double>(rows.size());
  audit_.longest_row = data_->place(longest);
  audit_.prefix_mismatches = all.statistics().prefix_mismatches;
  if (audit_.prefix_mismatches > 0) {
    audit_.first_mismatch = data_->place(all.statistics().first_mismatch);
  }
  audit_.truncated = all.statistics().shortened_rows;
  audit_.truncated_tokens = all.statistics().shortened_tokens;
  for (const std::string& name : all.label_names()) audit_.label_rows.emplace_back(name, 0);
}

bool Dataset::over_length(uint32_t row) const {
  const TokenisedRows& all = data_->rows;
  const auto exceeds = [](uint64_t length, int64_t limit) {
    return limit > 0 && length > static_cast<uint64_t>(limit);
  };
  if (!pairs_) {
    return options_.packing != Packing::stream && exceeds(all.length(row), options_.max_length);
  }
  const uint64_t source = all.source_length(row);
  return exceeds(source, options_.max_length) ||
         exceeds(all.length(row) - source, options_.max_target_length);
}

Error Dataset::overflow_error(const std::vector<uint32_t>& rows) const {
  const TokenisedRows& all = data_->rows;
  const auto limit = static_cast<uint64_t>(options_.max_length);
  if (pairs_) {
    uint64_t source = 0, target = 0;
    uint32_t first = rows.front();
    for (uint32_t row : rows) {
      source = std::max<uint64_t>(source, all.source_length(row));
      target = std::max<uint64_t>(target, all.length(row) - all.source_length(row));
      if (!over_length(first) && over_length(row)) first = row;
    }
    return data_error("DATA-OVERFLOW",
                      fmt::format("{} of {} rows exceed data.max_length={} in the source or "
                                  "data.max_target_length={} in the target (first: {})",
                                  count_text(audit_.over_length), count_text(audit_.rows_read),
                                  limit, options_.max_target_length, data_->place(first)))
        .with("longest", fmt::format("source {} tokens, target {} tokens", count_text(source),
                                     count_text(target)))
        .with("choose", fmt::format("data.overflow=drop | truncate_right | truncate_left   or "
                                    "data.max_length={} data.max_target_length={}",
                                    source, target));
  }
  uint64_t lost = 0;  // rows that truncation on the right would leave without a target
  for (uint32_t row : rows) {
    if (options_.row_labels || all.length(row) <= limit) continue;
    lost += all.count_trainable(all.begin(row), all.begin(row) + limit) == 0;
  }
  Error error =
      data_error("DATA-OVERFLOW",
                 fmt::format("{} of {} rows exceed data.max_length={} (longest {} tokens: {})",
                             count_text(audit_.over_length), count_text(audit_.rows_read), limit,
                             count_text(audit_.length_max), audit_.longest_row));
  error.with("lengths", fmt::format("p50 {}  p90 {}  p99 {}  max {}", count_text(audit_.length_p50),
                                    count_text(audit_.length_p90), count_text(audit_.length_p99),
                                    count_text(audit_.length_max)));
  if (lost > 0) {
    error.why("truncating right would remove *all* trained tokens of " + count_text(lost) +
              " rows");
  }
  const uint64_t fits = (audit_.length_max + 127) / 128 * 128;
  return error.with("choose",
                    fmt::format("data.overflow=drop | truncate_left | truncate_right{}   or "
                                "data.max_length={}",
                                options_.row_labels ? "" : " | split", fits));
}

Segment Dataset::segment(uint32_t row, uint64_t begin, uint64_t length, bool continues) const {
  Segment result;
  result.begin = begin;
  result.row = row;
  result.length = static_cast<uint32_t>(length);
  result.continues = continues;
  result.num_targets = options_.row_labels ? data_->rows.label(row) >= 0
                                           : static_cast<uint32_t>(data_->rows.count_trainable(
                                                 begin + 1, begin + length + continues));
  return result;
}

Segment Dataset::pair(uint32_t row) {
  const TokenisedRows& all = data_->rows;
  const uint64_t begin = all.begin(row), source = all.source_length(row);
  const uint64_t target = all.length(row) - source;
  const auto limited = [](uint64_t length, int64_t limit) {
    return limit > 0 ? std::min(length, static_cast<uint64_t>(limit)) : length;
  };
  const uint64_t kept_source = limited(source, options_.max_length);
  const uint64_t kept_target = limited(target, options_.max_target_length);
  Segment result;
  result.row = row;
  result.begin = begin + source;
  result.length = static_cast<uint32_t>(kept_target);
  result.num_targets =
      static_cast<uint32_t>(all.count_trainable(result.begin, result.begin + kept_target));
  result.source_length = static_cast<uint32_t>(kept_source);
  result.source_begin =
      options_.overflow == Overflow::truncate_left ? begin + source - kept_source : begin;
  const uint64_t end = begin + source - 1;
  result.source_last =
      all.ids()[end] == data_->eos_id ? end : result.source_begin + kept_source - 1;
  const uint64_t lost = source + target - kept_source - kept_target;
  if (lost > 0) {
    ++audit_.truncated;
    audit_.truncated_tokens += lost;
  }
  return result;
}

std::vector<Segment> Dataset::cut_row(uint32_t row) {
  if (pairs_) {
    if (data_->rows.length(row) == data_->rows.source_length(row)) return {};  // no target
    return {pair(row)};
  }
  const uint64_t begin = data_->rows.begin(row), length = data_->rows.length(row);
  if (length == 0) return {};
  const auto limit = static_cast<uint64_t>(options_.max_length);
  if (options_.packing == Packing::stream || limit == 0 || length <= limit) {
    return {segment(row, begin, length, false)};
  }
  switch (options_.overflow) {
    case Overflow::error:
      break;
    case Overflow::drop:
      break;
    case Overflow::truncate_right:
    case Overflow::truncate_left:
      ++audit_.truncated;
      audit_.truncated_tokens += length - limit;
      return {segment(row,
                      options_.overflow == Overflow::truncate_left ? begin + length - limit : begin,
                      limit, false)};
    case Overflow::split: {
      ++audit_.split;
      std::vector<Segment> pieces;
      for (uint64_t at = 0; at < length; at += limit) {
        const uint64_t size = std::min(limit, length - at);
        pieces.push_back(segment(row, begin + at, size, at + size < length));
      }
      return pieces;
    }
  }
  throw std::logic_error("cut_row: over-length row with policy error or drop");
}

void Dataset::keep(uint32_t row, const std::vector<Segment>& pieces) {
  const TokenisedRows& all = data_->rows;
  ++audit_.rows;
  for (const Segment& piece : pieces) {
    if (piece.num_targets == 0 && pieces.size() > 1) {
      ++audit_.dropped_pieces;  // it would be computed for nothing
      continue;
    }
    segments_.push_back(piece);
    sample_begin_.push_back(static_cast<uint32_t>(segments_.size()));
    sample_tokens_.push_back(piece.source_length + piece.length);
    audit_.tokens += piece.source_length + piece.length;
    audit_.targets += piece.num_targets;
  }
  const Segment& last_piece = pieces.back();
  const uint64_t last = last_piece.begin + last_piece.length - 1;
  const auto stops = [&](uint64_t token) {
    return data_->eos_id >= 0 && all.ids()[token] == data_->eos_id && all.trainable(token);
  };
  const bool before_last = all.statistics().conversations > 0 && last > last_piece.begin;
  audit_.ends_in_trained_eos += stops(last) || (before_last && stops(last - 1));
  if (all.label(row) >= 0) ++audit_.label_rows[static_cast<size_t>(all.label(row))].second;
}

void Dataset::make_blocks() {
  const std::vector<Segment> whole_rows = std::move(segments_);
  const auto limit = static_cast<uint64_t>(options_.max_length);
  segments_.clear();
  sample_begin_.assign(1, 0);
  sample_tokens_.clear();
  uint64_t room = limit;
  const auto close_block = [&] {
    sample_begin_.push_back(static_cast<uint32_t>(segments_.size()));
    sample_tokens_.push_back(static_cast<uint32_t>(limit - room));
    room = limit;
  };
  for (const Segment& whole : whole_rows) {
    for (uint64_t at = 0; at < whole.length;) {
      const uint64_t size = std::min<uint64_t>(room, whole.length - at);
      segments_.push_back(segment(whole.row, whole.begin + at, size, at + size < whole.length));
      at += size;
      room -= size;
      if (room == 0) close_block();
    }
  }
  if (room < limit) close_block();
}

std::string DataAudit::summary() const {
  std::string text = fmt::format("{} rows {} tok ({} {})", count_text(rows), short_count(tokens),
                                 short_count(targets), row_labels ? "labelled" : "trained");
  if (samples != rows) text += fmt::format(" in {} samples", count_text(samples));
  const uint64_t dropped = dropped_over_length + dropped_no_target;
  if (dropped > 0) {
    text += fmt::format(" | {} rows dropped: {} over length, {} no target", count_text(dropped),
                        count_text(dropped_over_length), count_text(dropped_no_target));
  }
  if (truncated > 0) {
    text += fmt::format(" | {} rows truncated by {} tok", count_text(truncated),
                        short_count(truncated_tokens));
  }
  if (split > 0) text += fmt::format(" | {} rows split", count_text(split));
  if (dropped_pieces > 0) {
    text += fmt::format(" ({} pieces without target dropped)", count_text(dropped_pieces));
  }
  if (kept_no_target > 0) {
    text += fmt::format(" | {} rows without target kept", count_text(kept_no_target));
  }
  text += fmt::format("\nlengths p50 {} p90 {} p99 {} max {} ({}) mean {:.1f}",
                      count_text(length_p50), count_text(length_p90), count_text(length_p99),
                      count_text(length_max), longest_row, length_mean);
  if (!row_labels) {
    text += fmt::format(
        " | {:.4g} % of rows end in a trained EOS",
        rows == 0 ? 0.0
                  : 100.0 * static_cast<double>(ends_in_trained_eos) / static_cast<double>(rows));
  }
  if (prefix_mismatches > 0) {
    text += fmt::format(
        "\n{} rows: the tokens of the prompt alone differ from the start of prompt + completion "
        "(first: {}); a token there mixes both",
        count_text(prefix_mismatches), first_mismatch);
  }
  return text;
}

}  // namespace engine
