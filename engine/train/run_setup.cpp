#include "engine/train/run_setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/file_io.h"
#include "engine/core/json.h"
#include "engine/data/text_encoder.h"
#include "engine/evaluate/classification_metrics.h"
#include "engine/generate/settings.h"
#include "engine/step/labels.h"
#include "engine/step/policies.h"
#include "engine/train/signals.h"
#include "models/registry.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json parse_json_file(const std::string& text, const std::string& where) {
  try {
    return parse_json<Json>(text);
  } catch (const Json::exception& error) {
    throw Error(ExitCode::usage, "CFG-JSON", "not valid JSON").where(where).found(error.what());
  }
}

// The model's config.json: of the checkpoint, or of model.config completed from the tokenizer.
Json model_json(const ModelConfig& config, const std::optional<Checkpoint>& checkpoint,
                const Tokenizer* tokenizer, std::string& where) {
  if (checkpoint) {
    where = (checkpoint->directory() / "config.json").string();
    return parse_json_file(checkpoint->config_text(), where);
  }
  Json json;
  if (config.path) {  // init: random with the config.json of a directory
    where = (fs::path(resolve_checkpoint_directory(*config.path)) / "config.json").string();
    json = parse_json_file(read_text_file(where, ExitCode::checkpoint), where);
  } else if (!config.config->path.empty()) {
    where = config.config->path;
    if (fs::is_directory(where)) where = (fs::path(where) / "config.json").string();
    json = parse_json_file(read_text_file(where, ExitCode::usage), where);
  } else {
    where = "model.config";
    json = parse_json_file(config.config->json, where);
  }
  if (!json.is_object()) {
    throw Error(ExitCode::usage, "CFG-TYPE", "model.config is not a map").where(where);
  }
  if (tokenizer) {
    const auto fill = [&](const char* key, const std::optional<int32_t>& id) {
      // null, not absent: a family's default id would be another tokenizer's.
      if (!json.contains(key)) json[key] = id ? Json(*id) : Json(nullptr);
    };
    if (!json.contains("vocab_size")) json["vocab_size"] = tokenizer->vocab_size();
    fill("bos_token_id", tokenizer->bos_id());
    fill("eos_token_id", tokenizer->eos_id());
    // RoBERTa counts positions from it; for others the tokenizer's is one only where config.json
    // says so.
    if (!tokenizer->pad_id() || json.value("model_type", "").ends_with("roberta")) {
      fill("pad_token_id", tokenizer->pad_id());
    }
  }
  return json;
}

// Sets every dropout probability a family knows.
void override_dropout(Json& json, double p) {
  const std::vector<std::string> keys = {"embd_pdrop",
                                         "resid_pdrop",
                                         "attn_pdrop",
                                         "attention_dropout",
                                         "dropout_rate",
                                         "hidden_dropout_prob",
                                         "attention_probs_dropout_prob",
                                         "classifier_dropout"};
  const std::string family = json.value("model_type", "");
  for (const std::string& key : keys) {
    // Those whose default is not 0 need not be there.
    const bool standard = (family == "gpt2" && key.ends_with("_pdrop")) ||
                          (family.ends_with("roberta") && key.ends_with("_prob")) ||
                          (family.ends_with("t5") && key == "dropout_rate");
    if (json.contains(key) || standard) json[key] = p;
  }
}

std::shared_ptr<const TokenisedData> read_data(const TrainConfig& config,
                                               const std::vector<std::string>& files,
                                               const TextEncoder& encoder, const ModelInfo& info) {
  TokeniseOptions options = config.model.task == ModelTask::sequence_classification
                                ? classification_options(config.data, files)
                                : tokenise_options(config.data, files);
  options.fields.pair_pad_id = pair_pad_id(info);
  options.progress = [](uint64_t, uint64_t) { InterruptGuard::stop_if_requested(); };
  return tokenise(options, encoder);
}

std::shared_ptr<const Batcher> make_batcher(std::shared_ptr<const TokenisedData> data,
                                            const TrainConfig& config, const ModelInfo& info,
                                            RowSubset subset, bool shuffled) {
  auto dataset = std::make_shared<Dataset>(std::move(data), dataset_options(config, subset));
  BatchOptions options = batch_options(config);
  if (!shuffled) options.shuffle = Shuffle::none;
  options.decoder_start_id = info.decoder_start_id;
  return std::make_shared<Batcher>(std::move(dataset), options);
}

void check_lengths(const Model& model, const TrainConfig& config) {
  const ModelInfo& info = model.info();
  if (!info.learned_positions || config.data.max_length <= info.max_positions) return;
  throw Error(ExitCode::usage, "CFG-CONFLICT",
              fmt::format("data.max_length = {} is more than the model's {} positions",
                          config.data.max_length, info.max_positions))
      .why("this family has learned position embeddings: there is none for later positions")
      .fix(fmt::format("data.max_length={}", info.max_positions));
}

// train.best_metric must be one that the evaluations have.
void check_best_metric(const Model& model, const std::string& metric) {
  const ModelInfo& info = model.info();
  std::vector<std::string> names = {"loss"};
  if (info.task == Task::causal_lm) {
    names.insert(names.end(), {"perplexity", "accuracy"});
  } else {
    const std::vector<std::string> more = classification_metric_names(info.problem_type);
    names.insert(names.end(), more.begin(), more.end());
  }
  if (std::find(names.begin(), names.end(), metric) != names.end()) return;
  throw Error(ExitCode::usage, "CFG-RANGE", "train.best_metric cannot be " + metric)
      .expected(fmt::format("{}", fmt::join(names, ", ")));
}

// Added tokens without an embedding are usual (Gemma 3 1B has the tokenizer of the models that see
// images) and do no harm where no text holds them, which tokenising checks.
void check_vocabulary(const Model& model, const Tokenizer& tokenizer, const std::string& where) {
  int64_t added = 0;
  for (const SpecialToken& token : tokenizer.special_tokens()) {
    added += token.id >= model.info().vocab_size;
  }
  if (tokenizer.vocab_size() - added <= model.info().vocab_size) return;
  throw Error(ExitCode::checkpoint, "TOK-VOCAB",
              fmt::format("the tokenizer makes ids up to {}, the model has {} embeddings",
                          tokenizer.vocab_size() - 1, model.info().vocab_size))
      .where(where)
      .why("tokenizer and model do not belong together")
      .fix("use the model's own tokenizer, or a vocab_size that covers it when training anew");
}

// The checkpoints get the template that they were trained with.
void keep_chat_template(const std::string& text,
                        std::vector<std::pair<std::string, std::string>>& files) {
  for (auto& [name, contents] : files) {
    if (name != "chat_template.jinja") continue;
    contents = text;
    return;
  }
  files.emplace_back("chat_template.jinja", text);
}

// What train.sample generates.
void add_samples(const TrainConfig& config, RunSetup& setup) {
  if (!setup.tokenizer) {
    throw Error(ExitCode::usage, "CFG-MISSING", "train.sample.prompts needs a tokenizer")
        .fix("set model.tokenizer");
  }
  TrainingShape& shape = setup.training_shape;
  for (const std::string& prompt : config.train.sample.prompts) {
    shape.samples.push_back({setup.tokenizer->encode(prompt), shape.samples.size()});
  }
  const ModelInfo& info = setup.shape->info();
  try {
    check_requests(info, shape.samples);
  } catch (Error& error) {
    throw error.where("train.sample.prompts");
  }
  shape.sample_options = {.sampling = {},
                          .seed = config.train.seed,
                          .max_new_tokens = config.train.sample.max_new_tokens,
                          .eos_ids = setup.generation_eos};
  // Samples may run on past the training length.
  shape.max_positions = std::max(shape.max_positions,
                                 generation_positions(info, shape.samples, shape.sample_options));
}

// Of all that training and evaluation will meet.
int64_t longest_sequence(const TrainConfig& config, const RunSetup& setup) {
  int64_t longest = config.data.max_length;
  for (const auto& batcher : {setup.train, setup.validation}) {
    if (!batcher) continue;
    const BatchShape shape = largest_shape(*batcher);
    longest = std::max({longest, shape.longest, shape.source_longest});
  }
  return longest;
}

// Recording pays where a launch takes the host longer than the device: not on the software GPU,
// unless asked for.
bool wants_step_graphs(const RunConfig& train, const kernels::Stream& device) {
  if (train.cuda_graph == Toggle::automatic) return device.device == kernels::DeviceType::cuda;
  if (train.cuda_graph == Toggle::off) return false;
  if (!kernels::operations(device).can_record) {
    throw Error(ExitCode::usage, "DEV-GRAPH",
                "train.cuda_graph=true: " + name_of(device) + " records nothing")
        .why("operations of the CPU run as they are called: there are no launches to save")
        .fix("train.cuda_graph=auto, or --device cuda (train.device=cuda)");
  }
  return true;
}

}  // namespace

RunSetup prepare_run(const TrainConfig& config) {
  RunSetup setup;
  setup.config = config;
  setup.precision = precision_policy(config);
  setup.recompute = recompute_policy(config.train);
  setup.device = choose_device(config.train.device);

  // Tokenizer.
  const ModelConfig& model_config = config.model;
  std::string tokenizer_path = model_config.tokenizer;
  if (tokenizer_path.empty() && model_config.path) {
    tokenizer_path = resolve_checkpoint_directory(*model_config.path);
  }
  if (!tokenizer_path.empty()) {
    setup.tokenizer = std::make_shared<const Tokenizer>(Tokenizer::open(tokenizer_path));
    for (const TokenizerFile& file : setup.tokenizer->files()) {
      // The checkpoint's config.json may be among what identifies a tokenizer; ours is written.
      if (file.name != "config.json") setup.files.tokenizer.emplace_back(file.name, file.contents);
    }
  }

  // Model.
  if (model_config.init == ModelInit::pretrained ||
      (model_config.init == ModelInit::automatic && model_config.path)) {
    setup.checkpoint = Checkpoint::open(*model_config.path);
    setup.model_name = *model_config.path;
    const fs::path generation = setup.checkpoint->directory() / "generation_config.json";
    if (fs::exists(generation)) {
      setup.files.generation_config_json = read_text_file(generation, ExitCode::checkpoint);
    }
  } else {
    setup.model_name = "new model";
  }
  std::string where;
  Json json = model_json(model_config, setup.checkpoint, setup.tokenizer.get(), where);
  const Task task = model_config.task == ModelTask::sequence_classification
                        ? Task::sequence_classification
                        : Task::causal_lm;

  // Data: tokenised once, then cut into the training and the validation part.
  const ChatTemplateOptions chat = chat_template_options(config.data);
  if (!chat.text.empty()) keep_chat_template(chat.text, setup.files.tokenizer);
  TextEncoder encoder = make_text_encoder(setup.tokenizer, chat);
  // Rows of token ids may use every row of the embedding: the model's count, not the tokenizer's.
  const std::unique_ptr<Model> described = make_model(json, where, task);
  const ModelInfo& info = described->info();
  if (setup.tokenizer) check_vocabulary(*described, *setup.tokenizer, tokenizer_path);
  json = described->config_json();  // of a multimodal checkpoint: the text model, which is saved
  encoder.vocab_size = static_cast<int32_t>(info.vocab_size);
  if (info.encoder_decoder) check_pair_settings(config.data);
  const auto train_data = read_data(config, config.data.train, encoder, info);
  const bool split = config.data.validation_fraction.value_or(0.0) > 0;
  setup.train =
      make_batcher(train_data, config, info, split ? RowSubset::train : RowSubset::all, true);
  auto validation_data = train_data;
  if (split) {
    setup.validation = make_batcher(train_data, config, info, RowSubset::validation, false);
  } else if (!config.data.validation.empty()) {
    validation_data = read_data(config, config.data.validation, encoder, info);
    setup.validation = make_batcher(validation_data, config, info, RowSubset::all, false);
  }

  if (task == Task::sequence_classification) {
    const LabelScheme labels = choose_labels(model_config, json, train_data->rows.label_names());
    setup.class_names = labels.names;
    setup.label_targets = label_targets(labels, *train_data);
    setup.validation_label_targets = label_targets(labels, *validation_data);
    write_labels(labels, json);
    json["num_labels"] = labels.names.size();
  }

  Json run_json = json;  // what this run computes with
  if (model_config.dropout) override_dropout(run_json, *model_config.dropout);
  setup.make_model = [run_json, where, task] { return make_model(run_json, where, task); };
  setup.shape = setup.make_model();
  check_lengths(*setup.shape, config);
  check_best_metric(*setup.shape, config.train.best_metric);
  setup.generation_eos =
      resolve_generation({.do_sample = false}, setup.files.generation_config_json, where,
                         setup.shape->info())
          .options.eos_ids;
  if (setup.generation_eos.empty() && setup.tokenizer && setup.tokenizer->eos_id()) {
    setup.generation_eos = {*setup.tokenizer->eos_id()};
  }

  json["architectures"] = Json::array({setup.shape->info().architecture});
  if (task == Task::sequence_classification) json.erase("num_labels");  // HF derives it
  switch (model_config.save_dtype) {
    case SaveDtype::automatic:
      break;
    case SaveDtype::float32:
      setup.files.forced_dtype = FileDtype::f32;
      break;
    case SaveDtype::bfloat16:
      setup.files.forced_dtype = FileDtype::bf16;
      break;
  }
  if (!setup.checkpoint || setup.files.forced_dtype) {
    const bool half = setup.files.forced_dtype == FileDtype::bf16;
    json.erase("dtype");
    json["torch_dtype"] = half ? "bfloat16" : "float32";
  }
  setup.files.config_json = json.dump(2) + "\n";

  const BatchShape train_shape = largest_shape(*setup.train);
  setup.training_shape = {
      .precision = setup.precision,
      .recompute = setup.recompute,
      .train = train_shape,
      .evaluation = setup.validation ? largest_shape(*setup.validation) : BatchShape{},
      .max_positions = longest_sequence(config, setup),
      .optimizer = config.optimizer,
      .step_graphs = wants_step_graphs(config.train, setup.device),
      .device = setup.device.device};
  if (config.train.sample.every > 0) add_samples(config, setup);
  return setup;
}

}  // namespace engine
