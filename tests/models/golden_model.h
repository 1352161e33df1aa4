// A tiny model that transformers has run: its directory and what came out (tests/models/golden,
// made by tests/reference/make_*_goldens.py; its README says which covers what).
#pragma once

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "engine/data/batch.h"
#include "engine/step/run_batch.h"
#include "models/checkpoint_io.h"
#include "models/registry.h"
#include "tests/support/devices.h"
#include "weights/safetensors.h"

namespace engine::testing {

class GoldenModel {
 public:
  explicit GoldenModel(const std::string& name)
      : directory(std::filesystem::path(ENGINE_SOURCE_DIR) / "tests/models/golden" / name),
        checkpoint(Checkpoint::open(directory)),
        golden(SafetensorsFile::open(directory / "golden.safetensors")) {
    config = nlohmann::ordered_json::parse(checkpoint.config_text());
  }

  std::vector<float> floats(const std::string& name) const {
    const TensorEntry* entry = golden.find(name);
    if (!entry) throw std::runtime_error("no golden " + name);
    std::vector<float> values(entry->num_elements());
    to_float32(entry->dtype, entry->data, values.size(), values.data());
    return values;
  }
  std::vector<int32_t> ints(const std::string& name) const {
    const std::vector<float> values = floats(name);  // ids are small: exact in fp32
    return {values.begin(), values.end()};
  }
  bool has(const std::string& name) const { return golden.find(name) != nullptr; }
  int rows() const {
    int n = 0;
    while (has("input_ids." + std::to_string(n))) ++n;
    return n;
  }
  bool classifier() const {
    return directory.filename().string().find("classifier") != std::string::npos;
  }

  bool encoder_decoder() const { return config.value("is_encoder_decoder", false); }
  bool has_steps() const { return has("steps.loss"); }

  // Rows [begin, end) as one flat batch. The label of a classifier's row is its number: see
  // label_targets().
  Batch batch(int begin, int end) const {
    Batch out;
    out.cu_seqlens.push_back(0);
    for (int row = begin; row < end; ++row) {
      const std::vector<int32_t> ids = ints("input_ids." + std::to_string(row));
      if (encoder_decoder()) {
        add_pair(out, ids, ints("labels." + std::to_string(row)));
      } else if (classifier()) {
        add_row(out, ids, ids, row);
      } else {
        add_row(out, ids, ints("labels." + std::to_string(row)), -1);
      }
    }
    return out;
  }

  // Of a classifier's rows, then of the rows of its steps.
  LabelTargets label_targets() const {
    LabelTargets targets;
    if (!classifier()) return targets;
    for (int row = 0; row < rows(); ++row) {
      const std::vector<float> values = floats("labels." + std::to_string(row));
      targets.values.insert(targets.values.end(), values.begin(), values.end());
    }
    if (has_steps()) {
      const std::vector<float> steps = floats("steps.labels");
      targets.values.insert(targets.values.end(), steps.begin(), steps.end());
    }
    // Where a label is a class, it is one number: exact in fp32.
    targets.classes.assign(targets.values.begin(), targets.values.end());
    return targets;
  }

  // labels as HF: unshifted.
  static void add_row(Batch& batch, const std::vector<int32_t>& ids,
                      const std::vector<int32_t>& labels, int32_t label) {
    if (batch.cu_seqlens.empty()) batch.cu_seqlens.push_back(0);
    for (size_t t = 0; t < ids.size(); ++t) {
      batch.input_ids.push_back(ids[t]);
      batch.positions.push_back(static_cast<int32_t>(t));
      const int32_t target = t + 1 < ids.size() ? labels[t + 1] : kernels::kIgnoreIndex;
      batch.targets.push_back(target);
      batch.num_targets += target != kernels::kIgnoreIndex;
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(ids.size()));
    batch.rows.push_back(static_cast<uint32_t>(batch.rows.size()));
    batch.labels.push_back(label);
  }

  // The golden models start with, and pad by, id 0.
  static void add_pair(Batch& batch, const std::vector<int32_t>& source,
                       const std::vector<int32_t>& labels) {
    append_pair(batch, source, shift_right(labels, 0, 0), labels);
    batch.rows.push_back(static_cast<uint32_t>(batch.rows.size()));
    batch.labels.push_back(-1);
  }

  std::filesystem::path directory;
  Checkpoint checkpoint;
  SafetensorsFile golden;
  nlohmann::ordered_json config;
};

// The golden model with memory and weights.
struct LoadedGolden {
  LoadedGolden(const GoldenModel& golden, PrecisionPolicy precision_policy,
               ParameterSet::Purpose purpose = ParameterSet::Purpose::training,
               kernels::DeviceType device = kernels::DeviceType::cpu)
      : runtime(device),
        model(make_model(golden.config, golden.directory.string())),
        precision(precision_policy) {
    model->parameters().allocate(runtime, precision, purpose);
    // Longer than any golden row; T5 has no limit of its own.
    model->prepare(runtime, std::min<int64_t>(model->info().max_positions, 192));
    report = load_weights(runtime, *model, golden.checkpoint);
    targets = golden.label_targets();
  }

  Runtime runtime;
  std::unique_ptr<Model> model;
  PrecisionPolicy precision;
  LoadReport report;
  LabelTargets targets;  // classifiers
};

// Names of the golden models that are all of `kinds`, sorted: the directories there are.
enum class GoldenKind { language_model, decoder, encoder_decoder, with_steps };
inline std::vector<std::string> golden_models(std::initializer_list<GoldenKind> kinds = {}) {
  std::vector<std::string> names;
  const auto is = [](const GoldenModel& golden, GoldenKind kind) {
    switch (kind) {
      case GoldenKind::language_model:
        return !golden.classifier();
      case GoldenKind::decoder:
        return !golden.classifier() && !golden.encoder_decoder();
      case GoldenKind::encoder_decoder:
        return golden.encoder_decoder();
      case GoldenKind::with_steps:
        return golden.has_steps();
    }
    return false;
  };
  for (const auto& entry : std::filesystem::directory_iterator(
           std::filesystem::path(ENGINE_SOURCE_DIR) / "tests/models/golden")) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    const GoldenModel golden(name);
    if (std::all_of(kinds.begin(), kinds.end(),
                    [&](GoldenKind kind) { return is(golden, kind); })) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A test on every device with every golden model: "simt_gpt2".
using DeviceAndModel = std::tuple<kernels::DeviceType, std::string>;
inline auto on_every_device(const std::vector<std::string>& models) {
  return ::testing::Combine(::testing::ValuesIn(test_devices()), ::testing::ValuesIn(models));
}
inline auto on_every_gpu(const std::vector<std::string>& models) {
  return ::testing::Combine(::testing::ValuesIn(test_gpus()), ::testing::ValuesIn(models));
}
inline std::string device_and_model(const ::testing::TestParamInfo<DeviceAndModel>& info) {
  return std::string(kernels::name_of(std::get<0>(info.param))) + "_" + std::get<1>(info.param);
}

}  // namespace engine::testing
