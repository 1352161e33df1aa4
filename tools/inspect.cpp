// engine inspect DIR|config.json [--batch-tokens N] [--row-length N] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/core/file_io.h"
#include "engine/core/json.h"
#include "engine/step/memory_plan.h"
#include "engine/train/report/flops.h"
#include "models/describe.h"
#include "models/registry.h"
#include "tools/digits.h"
#include "tools/inspect_tokenizer.h"
#include "tools/verbs.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// What there is to look at.
struct Subject {
  fs::path config_path;
  Json config;
  std::optional<Checkpoint> checkpoint;
  std::optional<Tokenizer> tokenizer;
};

Json read_config(const fs::path& path) {
  try {
    return parse_json<Json>(read_text_file(path, ExitCode::checkpoint));
  } catch (const Json::exception& exception) {
    throw Error(ExitCode::checkpoint, "CKPT-CONFIG", path.string() + " is not valid JSON")
        .found(exception.what());
  }
}

bool has_weights(const fs::path& directory) {
  return fs::exists(directory / "model.safetensors") ||
         fs::exists(directory / "model.safetensors.index.json");
}

Subject open_subject(const std::string& argument) {
  Subject subject;
  std::error_code ignored;
  if (fs::is_regular_file(argument, ignored)) {
    subject.config_path = argument;
    subject.config = read_config(argument);
    return subject;
  }
  const fs::path directory = resolve_checkpoint_directory(argument);
  subject.config_path = directory / "config.json";
  if (has_weights(directory)) {
    subject.checkpoint = Checkpoint::open(argument);
    subject.config = Json::parse(subject.checkpoint->config_text());
  } else {
    subject.config = read_config(subject.config_path);
  }
  try {
    subject.tokenizer = Tokenizer::open(directory);
  } catch (const Error& error) {
    if (error.code() != "TOK-MISSING") throw;
  }
  return subject;
}

Json facts_of(const ModelInfo& info) {
  Json facts;
  facts["family"] = info.family;
  facts["architecture"] = info.architecture;
  facts["task"] = info.encoder_decoder           ? "seq2seq_lm"
                  : info.task == Task::causal_lm ? "causal_lm"
                                                 : "sequence_classification";
  if (info.encoder_decoder) facts["encoder_layers"] = info.num_encoder_layers;
  facts["layers"] = info.num_layers;
  facts["hidden_size"] = info.hidden_size;
  facts["intermediate_size"] = info.intermediate_size;
  facts["heads"] = info.num_heads;
  facts["kv_heads"] = info.num_kv_heads;
  facts["head_dim"] = info.head_dim;
  facts["vocab_size"] = info.vocab_size;
  if (!info.encoder_decoder) facts["positions"] = info.max_positions;
  if (std::any_of(info.windows.begin(), info.windows.end(), [](int64_t w) { return w > 0; })) {
    facts["windows"] = info.windows;
  }
  facts["position_embeddings"] = info.learned_positions ? "learned"
                                 : info.encoder_decoder ? "relative"
                                                        : "rotary";
  if (info.task == Task::causal_lm) facts["tied_head"] = info.tied_head;
  if (info.num_labels > 0) {
    facts["num_labels"] = info.num_labels;
    facts["problem_type"] = name_of(info.problem_type);
  }
  facts["bos"] = info.bos_ids;
  facts["eos"] = info.eos_ids;
  facts["pad"] = info.pad_ids;
  return facts;
}

Json tensors_of(const ModelDescription& description) {
  Json json;
  json["parameters"] = description.parameters;
  json["tensors"] = description.tensors;
  json["groups"] = Json::array();
  for (const TensorGroup& group : description.groups) {
    Json row{{"name", group.name},
             {"shape", group.shape},
             {"tensors", group.tensors},
             {"parameters", group.parameters}};
    if (!group.dtype.empty()) row["dtype"] = group.dtype;
    json["groups"].push_back(row);
  }
  json["tied"] = Json::object();
  for (const TiedTensor& tied : description.tied) json["tied"][tied.name] = tied.to;
  json["missing"] = description.missing;
  json["unused"] = description.unused;
  json["ignored"] = description.ignored;
  return json;
}

struct Plan {
  const char* precision;
  const char* recompute;
  MemoryPlan plan;
};

std::vector<Plan> training_plans(const Json& config, const std::string& where,
                                 const BatchShape& batch) {
  const ModelFactory make = [&] { return make_model(config, where); };
  std::vector<Plan> plans;
  for (const char* precision : {"fp32", "bf16"}) {
    for (const auto& [name, recompute] :
         {std::pair{"none", RecomputePolicy::none}, std::pair{"norms", RecomputePolicy::norms},
          std::pair{"block", RecomputePolicy::block}}) {
      const bool half = std::string_view(precision) == "bf16";
      plans.push_back({precision, name,
                       plan_training(make, {.precision = half ? PrecisionPolicy::bf16()
                                                              : PrecisionPolicy::fp32(),
                                            .recompute = recompute,
                                            .train = batch,
                                            .evaluation = {},
                                            .max_positions = batch.longest,
                                            .optimizer = {}})});
    }
  }
  return plans;
}

Json plan_json(const Plan& plan) {
  Json json{{"precision", plan.precision},
            {"recompute", plan.recompute},
            {"bytes", plan.plan.total()},
            {"persistent", plan.plan.persistent},
            {"arena", plan.plan.arena}};
  for (int i = 0; i < kMemoryCategories; ++i) {
    if (plan.plan.breakdown[i] == 0) continue;
    json["at_peak"][name_of(static_cast<MemoryCategory>(i))] = plan.plan.breakdown[i];
  }
  return json;
}

// {512, 512, 0, 512} -> "512 tokens in 3 of 4 layers; all tokens in layers 2".
std::string describe_windows(const std::vector<int64_t>& windows) {
  std::string text, others;
  std::map<int64_t, int> layers_of;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (windows[i] > 0) {
      ++layers_of[windows[i]];
    } else {
      others += (others.empty() ? "" : ", ") + std::to_string(i);
    }
  }
  for (const auto& [window, layers] : layers_of) {
    text += fmt::format("{}{} tokens in {} of {} layers", text.empty() ? "" : "; ", window, layers,
                        windows.size());
  }
  return others.empty() ? text : text + "; all tokens in layers " + others;
}

void print_list(const char* what, const std::vector<std::string>& names) {
  constexpr size_t kShown = 10;
  if (names.empty()) return;
  fmt::print("{}\n", what);
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) fmt::print("  {}\n", names[i]);
  if (names.size() > kShown) fmt::print("  and {} more\n", names.size() - kShown);
}

void print_tensors(const ModelDescription& description) {
  size_t width = 0;
  for (const TensorGroup& group : description.groups) width = std::max(width, group.name.size());
  fmt::print("\nparameters  {} in {} tensors\n", digits(description.parameters),
             description.tensors);
  for (const TensorGroup& group : description.groups) {
    fmt::print("  {:<{}}  {:>3} x {:<16} {:<5} {:>16}\n", group.name, width, group.tensors,
               format_shape(group.shape), group.dtype, digits(group.parameters));
  }
  for (const TiedTensor& tied : description.tied) {
    fmt::print("  {:<{}}  tied to {}\n", tied.name, width, tied.to);
  }
  print_list("missing in the checkpoint", description.missing);
  print_list("in the checkpoint, not used", description.unused);
  print_list("in the checkpoint, known to be of no use", description.ignored);
}

// Forward and backward together: per token of rows of `row_length`, by every convention, or, of an
// encoder-decoder model, per example with as many tokens on both sides.
Json flops_of(const Model& model, int64_t row_length) {
  const ModelInfo& info = model.info();
  const int64_t width = int64_t{info.num_heads} * info.head_dim;
  Json json{{"row_length", row_length}, {"matmul_parameters", model.matmul_parameters()}};
  if (info.encoder_decoder) {
    // What is per token of the source, and per token of the target.
    const EncoderDecoderFlopsShape shape{.source_params = model.source_matmul_parameters(),
                                         .target_params = model.matmul_parameters(),
                                         .encoder_layers = info.num_encoder_layers,
                                         .decoder_layers = info.num_layers,
                                         .attention_width = width};
    json["source_matmul_parameters"] = model.source_matmul_parameters();
    json["example"] = example_flops(shape, row_length, row_length);
    return json;
  }
  const FlopsShape shape{.matmul_params = model.matmul_parameters(),
                         .num_layers = info.num_layers,
                         .attention_width = width,
                         .sliding_windows = info.windows,
                         .causal = info.causal};
  for (const FlopsConvention convention : {FlopsConvention::palm, FlopsConvention::titan,
                                           FlopsConvention::llmc, FlopsConvention::exact}) {
    json[std::string(flops_convention_name(convention))] =
        flops_per_token(shape, row_length, convention);
  }
  return json;
}

void print_flops(const Json& flops) {
  const auto length = flops["row_length"].get<int64_t>();
  if (flops.contains("example")) {
    fmt::print(
        "\nFLOPs of an example, forward and backward, {0} tokens of source and {0} of target\n"
        "  exact  {1:.5g} G\n",
        length, flops["example"].get<double>() * 1e-9);
    return;
  }
  fmt::print("\nFLOPs per token, forward and backward, rows of {} tokens\n", length);
  for (const char* convention : {"palm", "titan", "llmc", "exact"}) {
    fmt::print("  {:<6} {:.5g} G\n", convention, flops[convention].get<double>() * 1e-9);
  }
}

}  // namespace

ExitCode run_inspect(Invocation& invocation) {
  std::string path;
  int64_t batch_tokens = 8192, row_length = 0;
  bool json = false;
  CLI::App app("What a model is made of, and what training it takes", "engine inspect");
  app.add_option("model", path,
                 "Hugging Face model directory, org/name in its cache, or a "
                 "config.json")
      ->required();
  app.add_option("--batch-tokens", batch_tokens, "Tokens of a micro-batch, for the memory plan")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  app.add_option(
         "--row-length", row_length,
         "Tokens of a row, for plan and FLOPs; default the model's positions, at most 2048; of "
         "an encoder-decoder model on each side")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  app.add_flag("--json", json, "One JSON object");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  const Subject subject = open_subject(path);
  const std::string where = subject.config_path.string();
  const std::unique_ptr<Model> model = make_model(subject.config, where);
  const ModelInfo& info = model->info();
  const ModelDescription description =
      describe_model(*model, subject.checkpoint ? &*subject.checkpoint : nullptr);
  if (row_length == 0) row_length = std::min<int64_t>(2048, info.max_positions);
  if (info.learned_positions && row_length > info.max_positions) {
    throw Error(ExitCode::usage, "CLI-USAGE",
                fmt::format("--row-length {} is more than the model's {} positions", row_length,
                            info.max_positions));
  }
  BatchShape batch{.tokens = batch_tokens,
                   .sequences = (batch_tokens + row_length - 1) / row_length,
                   .longest = std::min(row_length, batch_tokens)};
  if (info.encoder_decoder) {  // as many tokens on both sides
    batch.source_tokens = batch.tokens;
    batch.source_longest = batch.longest;
  }
  const std::vector<Plan> plans = training_plans(subject.config, where, batch);
  const Json flops = flops_of(*model, row_length);

  if (json) {
    Json out;
    out["config"] = where;
    out["model"] = facts_of(info);
    out["weights"] = tensors_of(description);
    if (subject.tokenizer) out["tokenizer"] = tokenizer_facts(*subject.tokenizer);
    out[info.encoder_decoder ? "flops" : "flops_per_token"] = flops;
    out["training_memory"] = {{"batch_tokens", batch_tokens}, {"row_length", batch.longest}};
    for (const Plan& plan : plans) out["training_memory"]["plans"].push_back(plan_json(plan));
    fmt::print("{}\n", out.dump(2));
    return ExitCode::ok;
  }

  fmt::print("{}\n", where);
  Json facts = facts_of(info);
  if (facts.contains("windows")) facts["windows"] = describe_windows(info.windows);
  for (const auto& [key, value] : facts.items()) {
    fmt::print("  {:<20} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  if (subject.checkpoint) {
    fmt::print("  {:<20} {} in {} files\n", "weights",
               format_bytes(subject.checkpoint->total_bytes()), subject.checkpoint->files().size());
    for (const std::string& warning : subject.checkpoint->warnings()) {
      fmt::print(stderr, "warn    {}\n", warning);
    }
  }
  print_tensors(description);
  if (subject.tokenizer) print_tokenizer_facts(*subject.tokenizer);
  print_flops(flops);
  fmt::print("\ntraining memory, AdamW, micro-batch of {} tokens in rows of {}, GiB\n",
             batch_tokens, batch.longest);
  for (const Plan& plan : plans) {
    fmt::print("  {} recompute={:<5}  {}\n", plan.precision, plan.recompute, describe(plan.plan));
  }
  return ExitCode::ok;
}

}  // namespace engine
