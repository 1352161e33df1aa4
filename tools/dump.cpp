// engine dump DIR --input rows.jsonl --out dump.safetensors [--no-grad] [--precision
// fp32|tf32|bf16]
// [--device D]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/evaluate/dump.h"
#include "models/load_model.h"
#include "tools/device.h"
#include "tools/json_lines.h"
#include "tools/precision.h"
#include "tools/verbs.h"

namespace engine {
namespace {

void require_ids(const LineReader& reader, const std::vector<int32_t>& ids, const char* field,
                 int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < vocab_size && (ids[i] >= 0 || ids[i] == kernels::kIgnoreIndex)) continue;
    throw reader
        .error("DATA-ID",
               fmt::format("{}[{}] = {} is outside the model's vocabulary", field, i, ids[i]))
        .expected(fmt::format("0 to {}{}", vocab_size - 1,
                              field == std::string_view("labels") ? ", or -100" : ""));
  }
}

// The class of a row: an integer, or a list of one.
int32_t class_label(const LineReader& reader, const nlohmann::json& row, const char* key,
                    int num_labels) {
  const auto it = row.find(key);
  if (it == row.end() || it->is_null()) return -1;
  const nlohmann::json& value = it->is_array() && it->size() == 1 ? it->front() : *it;
  if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
      value.get<int64_t>() >= num_labels) {
    throw reader.error("DATA-TYPE", fmt::format("\"{}\" is not a class", key))
        .expected(fmt::format("an integer from 0 to {}", num_labels - 1))
        .found(value.dump());
  }
  return value.get<int32_t>();
}

// What the decoder of an encoder-decoder model reads and shall predict.
void read_pair(const LineReader& reader, const nlohmann::json& json, int64_t vocab_size,
               DumpRow& row) {
  row.labels = ids_field(reader, json, "labels", kernels::kIgnoreIndex).value_or(row.labels);
  row.decoder_input_ids =
      ids_field(reader, json, "decoder_input_ids").value_or(row.decoder_input_ids);
  require_ids(reader, row.labels, "labels", vocab_size);
  require_ids(reader, row.decoder_input_ids, "decoder_input_ids", vocab_size);
  if (row.labels.empty() && row.decoder_input_ids.empty()) {
    throw reader.error("DATA-FIELD", "row has nothing for the decoder")
        .expected("\"labels\", or \"decoder_input_ids\"");
  }
  if (!row.labels.empty() && !row.decoder_input_ids.empty() &&
      row.labels.size() != row.decoder_input_ids.size()) {
    throw reader.error("DATA-LENGTH", "\"labels\" and \"decoder_input_ids\" differ in length")
        .expected(
            fmt::format("{} labels, one per input of the decoder", row.decoder_input_ids.size()))
        .found(fmt::format("{} labels", row.labels.size()));
  }
}

// One number per output, alone or in a list, of a regression or of several labels at once.
std::vector<float> number_labels(const LineReader& reader, const nlohmann::json& row,
                                 const char* key, const ModelInfo& info) {
  const auto it = row.find(key);
  if (it == row.end() || it->is_null()) return {};
  const nlohmann::json list = it->is_array() ? *it : nlohmann::json::array({*it});
  const bool several = info.problem_type == ProblemType::multi_label;
  const bool numbers = std::all_of(list.begin(), list.end(), [&](const nlohmann::json& value) {
    return value.is_number() &&
           (!several || (value.get<double>() >= 0 && value.get<double>() <= 1));
  });
  if (!numbers || static_cast<int64_t>(list.size()) != info.num_labels) {
    throw reader
        .error("DATA-TYPE",
               fmt::format("\"{}\" is no target of {}", key, name_of(info.problem_type)))
        .expected(fmt::format("{} numbers{}", info.num_labels, several ? " from 0 to 1" : ""))
        .found(it->dump());
  }
  return list.get<std::vector<float>>();
}

std::vector<DumpRow> read_rows(const std::string& path, const ModelInfo& info) {
  LineReader reader(path);
  std::vector<DumpRow> rows;
  for (nlohmann::json json; reader.next_object(json);) {
    DumpRow row;
    const auto ids = ids_field(reader, json, "input_ids");
    if (!ids || ids->empty()) {
      throw reader.error("DATA-FIELD", ids ? "\"input_ids\" is empty" : "row has no \"input_ids\"");
    }
    row.input_ids = *ids;
    require_ids(reader, row.input_ids, "input_ids", info.vocab_size);
    const int64_t length = static_cast<int64_t>(ids->size());
    if (info.learned_positions && length > info.max_positions) {
      throw reader.error("DATA-OVERFLOW", fmt::format("{} tokens", length))
          .expected(fmt::format("at most {}, the model's positions", info.max_positions));
    }
    if (info.task == Task::sequence_classification) {
      const char* key = json.contains("labels") ? "labels" : "label";
      if (info.problem_type == ProblemType::single_label) {
        row.class_label = class_label(reader, json, key, info.num_labels);
      } else {
        row.targets = number_labels(reader, json, key, info);
      }
    } else if (info.encoder_decoder) {
      read_pair(reader, json, info.vocab_size, row);
    } else if (const auto labels = ids_field(reader, json, "labels", kernels::kIgnoreIndex)) {
      if (labels->size() != ids->size()) {
        throw reader.error("DATA-LENGTH", "\"labels\" and \"input_ids\" differ in length")
            .expected(fmt::format("{} labels, one per token, not shifted", ids->size()))
            .found(fmt::format("{} labels", labels->size()));
      }
      row.labels = *labels;
      require_ids(reader, row.labels, "labels", info.vocab_size);
    }
    rows.push_back(std::move(row));
  }
  if (rows.empty()) throw Error(ExitCode::data, "DATA-EMPTY", path + " has no rows");
  return rows;
}

}  // namespace

ExitCode run_dump(Invocation& invocation) {
  std::string model, input = "-", output, precision_name = "fp32", device = "auto";
  bool no_grad = false, no_hidden = false, no_logits = false;
  CLI::App app("Write logits, hidden states, loss and gradients of some rows to a file",
               "engine dump");
  app.add_option("model", model, "Hugging Face model directory, or org/name in its cache")
      ->required();
  app.add_option("-i,--input", input,
                 "JSON Lines: {\"input_ids\": [...], \"labels\": [...]}; labels as in Hugging "
                 "Face, not shifted, -100 = not predicted; for classifiers the class; for "
                 "encoder-decoder models the decoder's, with or without \"decoder_input_ids\"; "
                 "default standard input");
  app.add_option("-o,--out", output, "safetensors file to write")->required();
  app.add_flag("--no-grad", no_grad, "No gradients; labels may be absent");
  app.add_flag("--no-hidden", no_hidden, "No hidden states");
  app.add_flag("--no-logits", no_logits, "No logits");
  app.add_option("--precision", precision_name,
                 "fp32, tf32 (fp32, products in TF32 on GPUs) or bf16: weights and activations")
      ->capture_default_str();
  add_device_option(app, device);
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  const PrecisionPolicy precision = parse_precision(precision_name);
  LoadedModel loaded = load_model(model, {.precision = precision,
                                          .purpose = no_grad ? ParameterSet::Purpose::inference
                                                             : ParameterSet::Purpose::training,
                                          .device = device_of(device, invocation)});
  for (const std::string& warning : loaded.checkpoint.warnings()) {
    fmt::print(stderr, "warn    {}\n", warning);
  }
  const std::vector<DumpRow> rows = read_rows(input, loaded.model->info());
  size_t longest = 0;
  for (const DumpRow& row : rows) {
    longest =
        std::max({longest, row.input_ids.size(), row.labels.size(), row.decoder_input_ids.size()});
  }
  loaded.model->prepare(*loaded.runtime, static_cast<int64_t>(longest));
  const DumpSummary summary = write_dump(*loaded.runtime, *loaded.model, rows,
                                         {.gradients = !no_grad,
                                          .logits = !no_logits,
                                          .hidden_states = !no_hidden,
                                          .precision = precision},
                                         output);
  if (invocation.global.verbosity >= 0) {
    fmt::print("wrote {}: {} tensors of {} rows", output, summary.tensors, rows.size());
    if (summary.labels > 0) {
      fmt::print(", loss {:.6f} over {} labels", summary.loss, summary.labels);
    }
    fmt::print("\n");
  }
  return ExitCode::ok;
}

}  // namespace engine
