// What a run says before its first step: everything that decides whether it is the run you meant.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/train/report/lines.h"

namespace engine {

struct BannerModel {
  std::string name;
  int64_t num_params = 0;
  int64_t matmul_params = 0;
  std::string precision;  // "bf16 + fp32 master"
  std::string optimizer;  // "AdamW fp32 m/v"
  double weight_decay = 0;
  int64_t decayed_params = 0;  // see engine/optim/decay_groups.h
  int64_t exempt_params = 0;
};

struct BannerData {
  int64_t train_rows = 0;
  int64_t train_tokens = 0;
  int64_t trained_tokens = 0;  // with a label; of a classifier: rows with one
  int64_t validation_rows = 0;
  // Rows left out: {"over 2048 (policy drop)", 41}.
  std::vector<std::pair<std::string, int64_t>> dropped;
  // Share of the token budget that batches fill; none without a token budget.
  std::optional<double> batch_fill;
};

struct BannerHead {                      // of a classifier
  std::string problem;                   // "single_label_classification"
  std::vector<std::string> classes;      // names
  std::vector<std::string> new_tensors;  // not in the checkpoint, newly initialised
};

struct BannerPlan {
  int64_t tokens_per_micro_batch = 0;
  int64_t accumulation = 1;
  int64_t num_devices = 1;
  std::string device;  // "H200", "CPU 16 threads"
  int64_t steps_per_epoch = 0;
  double epochs = 0;
  int64_t total_steps = 0;
  std::optional<double> estimated_seconds;
};

struct BannerMemory {
  std::vector<std::pair<std::string, uint64_t>> categories;  // bytes; summed up by the banner
  uint64_t available_bytes = 0;                              // of one device; 0 = not known
};

struct BannerStop {
  std::optional<double> rows_ending_in_stop;  // share of rows whose last trained token is a stop
  std::string stop_token;                     // "<|im_end|>"
  int64_t stop_token_id = -1;
  std::vector<int64_t> generation_eos;
  std::string bos;  // "none (tokenizer adds none)"
};

struct Banner {
  std::string version;
  std::string run_name;
  uint64_t seed = 0;
  std::string determinism;  // "exact", "fast"
  std::string config_sha;
  std::optional<int64_t> resumed_step;
  BannerModel model;
  BannerData data;
  std::optional<BannerHead> head;
  BannerPlan plan;
  BannerMemory memory;
  std::optional<BannerStop> stop;
};

// Several lines, without a final newline.
std::string banner_text(const Banner& banner, const TextStyle& style);

}  // namespace engine
