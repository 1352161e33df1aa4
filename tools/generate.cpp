// engine generate DIR [--prompt TEXT ...] [--max-new-tokens N] [temperature=0.7 ...]
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/config/load.h"
#include "engine/config/schema.h"
#include "engine/core/file_io.h"
#include "engine/generate/settings.h"
#include "engine/generate/text_stream.h"
#include "models/load_model.h"
#include "tools/chat.h"
#include "tools/device.h"
#include "tools/json_lines.h"
#include "tools/precision.h"
#include "tools/verbs.h"

namespace engine {
namespace {

struct GenerateArguments {
  std::string model, prompts_file, precision = "fp32", device = "auto";
  std::vector<std::string> prompts, ids, settings, stop;
  bool greedy = false, sample = false, ignore_eos = false, json = false, no_special = false,
       show_special = false, echo = false;
  int64_t sequences = 1, batch_size = 16;
  ChatArguments chat;
  std::string system;
};

// A prompt as text, as ids, or both; or a conversation, which becomes text and ids.
struct Prompt {
  std::optional<std::string> text;
  std::vector<int32_t> ids;
  nlohmann::ordered_json conversation = nullptr;
  std::string place;  // of a conversation: "rows.jsonl:17"
};

void read_prompts_file(const std::string& path, bool chat, std::vector<Prompt>& prompts) {
  LineReader reader(path);
  if (path.ends_with(".jsonl")) {
    for (nlohmann::ordered_json ordered; reader.next_object(ordered);) {
      if (chat && ordered.contains("messages")) {
        prompts.push_back({std::nullopt, {}, std::move(ordered), reader.place()});
        continue;
      }
      const nlohmann::json row = ordered;
      const auto ids = ids_field(reader, row, "ids");
      if (ids && !row.contains("prompt")) {
        prompts.push_back({std::nullopt, *ids});
      } else {
        prompts.push_back({text_field(reader, row, "prompt"), {}});
      }
    }
  } else {
    for (std::string line; reader.next(line);) prompts.push_back({line, {}});
  }
  if (prompts.empty()) throw Error(ExitCode::data, "DATA-EMPTY", path + " has no prompts");
}

std::vector<Prompt> collect_prompts(const GenerateArguments& arguments) {
  std::vector<Prompt> prompts;
  for (const std::string& text : arguments.prompts) prompts.push_back({text, {}});
  for (const std::string& ids : arguments.ids) {
    prompts.push_back({std::nullopt, parse_ids(ids, "--ids")});
  }
  if (!arguments.prompts_file.empty()) {
    read_prompts_file(arguments.prompts_file, arguments.chat.chat, prompts);
  }
  if (!prompts.empty()) return prompts;
  if (isatty(0)) {
    throw Error(ExitCode::usage, "CLI-USAGE", "what shall it continue?")
        .expected("--prompt TEXT, --prompts FILE, --ids IDS, or text on standard input");
  }
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (text.ends_with('\n')) text.pop_back();  // echo's, not the prompt's
  prompts.push_back({text, {}});
  return prompts;
}

// One more option per setting, so that `--temperature 0.7` and `temperature=0.7` both work.
void add_settings(CLI::App& app, const Schema& schema, GenerateArguments& arguments) {
  for (const Field& field : schema.fields) {
    if (field.key == "stop" || field.key == "ignore_eos" || field.key == "do_sample") continue;
    std::string dashed = field.key;
    std::replace(dashed.begin(), dashed.end(), '_', '-');
    std::string names = "--" + dashed;
    if (dashed != field.key) names += ",--" + field.key;
    if (field.key == "max_new_tokens") names = "-n," + names;
    app.add_option_function<std::string>(
           names,
           [&arguments, key = field.key](const std::string& value) {
             arguments.settings.push_back(key + "=" + value);
           },
           field.doc)
        ->type_name("")
        ->group("Decoding, also as setting=value");
  }
}

GenerateConfig make_config(const GenerateArguments& arguments) {
  std::vector<std::string> settings = arguments.settings;
  if (arguments.greedy) settings.push_back("do_sample=false");
  if (arguments.sample) settings.push_back("do_sample=true");
  GenerateConfig config = load_generate_config(settings);
  config.stop.insert(config.stop.end(), arguments.stop.begin(), arguments.stop.end());
  config.ignore_eos = config.ignore_eos || arguments.ignore_eos;
  return config;
}

void warn(const Invocation& invocation, const std::string& text) {
  if (invocation.global.verbosity >= 0) fmt::print(stderr, "warn    {}\n", text);
}

// Sampling settings that were given and are not read.
void warn_unused(const Invocation& invocation, const GenerateConfig& config,
                 const GenerationOptions& options) {
  if (options.sampling.do_sample) return;
  if (config.temperature || config.top_k || config.top_p || config.min_p) {
    warn(invocation,
         "temperature, top_k, top_p and min_p have no effect: decoding is greedy; --sample draws");
  }
}

// Texts are what the user says.
void render_chats(const Tokenizer& tokenizer, const GenerateArguments& arguments,
                  std::vector<Prompt>& prompts) {
  const ChatTemplate chat_template = open_chat_template(tokenizer, arguments.chat);
  for (Prompt& prompt : prompts) {
    if (prompt.conversation.is_null()) {
      if (!prompt.text) continue;  // ids
      prompt.conversation["messages"] = nlohmann::ordered_json::array();
      if (!arguments.system.empty()) {
        prompt.conversation["messages"].push_back(
            {{"role", "system"}, {"content", arguments.system}});
      }
      prompt.conversation["messages"].push_back({{"role", "user"}, {"content", *prompt.text}});
    }
    try {
      ChatPrompt rendered = chat_prompt(tokenizer, chat_template, prompt.conversation);
      prompt.text = std::move(rendered.text);
      prompt.ids = std::move(rendered.ids);
    } catch (const Error& error) {
      if (prompt.place.empty()) throw;
      Error placed(error.exit_code(), error.code(), prompt.place + ": " + error.message());
      for (const auto& [label, text] : error.details()) placed.with(label, text);
      throw placed;
    }
  }
}

std::string join_ids(const std::vector<int32_t>& ids) {
  return fmt::format("{}", fmt::join(ids, ","));
}

}  // namespace

ExitCode run_generate(Invocation& invocation) {
  GenerateArguments arguments;
  GenerateConfig defaults;
  const Schema schema = generate_schema(defaults);
  CLI::App app("Continue texts with a model", "engine generate");
  app.add_option("model", arguments.model, "Hugging Face model directory, or org/name in its cache")
      ->required();
  app.add_option("settings", arguments.settings, "Decoding settings as setting=value");
  app.add_option("-p,--prompt", arguments.prompts, "A text to continue; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--prompts", arguments.prompts_file,
                 "File of prompts: one per line, or .jsonl rows with \"prompt\" (or \"ids\", or "
                 "with --chat \"messages\")");
  auto* chat = add_chat_options(
      app, arguments.chat,
      "Prompts are what the user says, or .jsonl rows with \"messages\": the model's chat template "
      "makes a conversation of them, and the assistant answers");
  app.add_option("--system", arguments.system, "With --chat: the system message before a prompt")
      ->needs(chat);
  app.add_option("--ids", arguments.ids, "A prompt as token ids, \"1,403,407\"; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--num-return-sequences", arguments.sequences, "Continuations of each prompt")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--batch-size", arguments.batch_size, "Sequences decoded together")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--precision", arguments.precision,
                 "fp32, tf32 (fp32, products in TF32 on GPUs) or bf16: weights and activations")
      ->capture_default_str();
  add_device_option(app, arguments.device);
  app.add_flag("--json", arguments.json,
               "One JSON object per continuation: prompt, text, ids, stop");
  app.add_flag("--no-special", arguments.no_special,
               "Do not put special tokens (BOS) around the prompts");
  app.add_flag("--show-special", arguments.show_special, "Print special tokens of the answer too");
  app.add_flag("--echo", arguments.echo, "Print the prompt before its continuation");
  const std::string group = "Decoding, also as setting=value";
  auto* greedy =
      app.add_flag("--greedy", arguments.greedy, "Always the likeliest token")->group(group);
  app.add_flag("--sample", arguments.sample, "Draw tokens at random (do_sample=true)")
      ->group(group)
      ->excludes(greedy);
  app.add_option("--stop", arguments.stop, "A text that ends the continuation; may be repeated")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag("--ignore-eos,--ignore_eos", arguments.ignore_eos,
               "Go on after an end-of-text token")
      ->group(group);
  add_settings(app, schema, arguments);
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  for (const std::string& setting : arguments.settings) {
    if (setting.find('=') != std::string::npos) continue;
    throw Error(ExitCode::usage, "CLI-USAGE", "`" + setting + "` is not setting=value")
        .fix("a text to continue: --prompt '" + setting + "'");
  }
  // Everything that can be wrong with the question comes before the weights are read.
  const GenerateConfig config = make_config(arguments);
  const PrecisionPolicy precision = parse_precision(arguments.precision);
  const kernels::Stream device = device_of(arguments.device, invocation);
  std::vector<Prompt> prompts = collect_prompts(arguments);
  const std::filesystem::path directory = resolve_checkpoint_directory(arguments.model);
  const bool needs_tokenizer = !config.stop.empty() || arguments.chat.chat ||
                               std::any_of(prompts.begin(), prompts.end(),
                                           [](const Prompt& p) { return p.text.has_value(); });
  std::optional<Tokenizer> tokenizer;
  try {
    tokenizer = Tokenizer::open(directory);
  } catch (const Error& error) {
    if (needs_tokenizer || error.code() != "TOK-MISSING") throw;
  }

  if (arguments.chat.chat) render_chats(*tokenizer, arguments, prompts);
  std::vector<GenerationRequest> requests;
  for (const Prompt& prompt : prompts) {
    std::vector<int32_t> ids =
        prompt.text && prompt.ids.empty()
            ? tokenizer->encode(*prompt.text, {.add_special_tokens = !arguments.no_special})
            : prompt.ids;
    for (int64_t j = 0; j < arguments.sequences; ++j) requests.push_back({ids, requests.size()});
  }

  LoadedModel loaded = load_model(arguments.model, {.precision = precision, .device = device});
  for (const std::string& warning : loaded.checkpoint.warnings()) warn(invocation, warning);
  if (loaded.model->info().task != Task::causal_lm) {
    throw Error(ExitCode::usage, "GEN-TASK", "this model classifies, it cannot continue texts")
        .where(loaded.checkpoint.directory().string())
        .found(loaded.model->info().architecture);
  }
  const std::filesystem::path generation_path = directory / "generation_config.json";
  const bool has_generation = std::filesystem::exists(generation_path);
  GenerationSettings settings = resolve_generation(
      config, has_generation ? read_text_file(generation_path, ExitCode::checkpoint) : "",
      generation_path.string(), loaded.model->info());
  GenerationOptions& options = settings.options;
  options.max_batch = arguments.batch_size;
  for (const std::string& warning : settings.warnings) warn(invocation, warning);
  warn_unused(invocation, config, options);
  loaded.model->prepare(*loaded.runtime,
                        generation_positions(loaded.model->info(), requests, options));

  const bool live = requests.size() == 1 && !arguments.json;
  const auto start = std::chrono::steady_clock::now();
  int64_t new_tokens = 0;
  const size_t batch = static_cast<size_t>(arguments.batch_size);
  for (size_t first = 0; first < requests.size(); first += batch) {
    const size_t last = std::min(requests.size(), first + batch);
    std::vector<TextStream> streams;
    for (size_t i = first; tokenizer && i < last; ++i) {
      // The answer of an encoder-decoder model does not go on where the prompt ends.
      const std::vector<int32_t> before =
          loaded.model->info().encoder_decoder ? std::vector<int32_t>() : requests[i].prompt;
      streams.emplace_back(*tokenizer, before, config.stop, !arguments.show_special);
    }
    if (live && arguments.echo && prompts[0].text) fmt::print("{}", *prompts[0].text);
    const std::vector<GenerationResult> results =
        generate(*loaded.runtime, *loaded.model, precision,
                 {requests.begin() + static_cast<ptrdiff_t>(first),
                  requests.begin() + static_cast<ptrdiff_t>(last)},
                 options, [&](size_t i, int32_t id) {
                   if (streams.empty()) {
                     if (live) fmt::print("{}{}", new_tokens == 0 ? "" : ",", id);
                   } else {
                     const std::string piece = streams[i].push(id);
                     if (live) fmt::print("{}", piece);
                   }
                   if (live) std::fflush(stdout);
                   ++new_tokens;
                   return streams.empty() || !streams[i].stopped();
                 });
    for (size_t i = 0; i < results.size(); ++i) {
      const Prompt& prompt = prompts[(first + i) / static_cast<size_t>(arguments.sequences)];
      const std::string rest = streams.empty() ? "" : streams[i].finish();
      const std::string text = streams.empty() ? join_ids(results[i].tokens) : streams[i].text();
      if (live) {
        fmt::print("{}\n", rest);
      } else if (arguments.json) {
        nlohmann::ordered_json row;
        row["prompt"] = prompt.text ? nlohmann::ordered_json(*prompt.text) : nullptr;
        if (!prompt.text) row["prompt_ids"] = prompt.ids;
        row["text"] = streams.empty() ? nullptr : nlohmann::ordered_json(text);
        row["ids"] = results[i].tokens;
        row["stop"] = streams.empty() || !streams[i].stopped() ? name_of(results[i].stop) : "stop";
        fmt::print("{}\n", row.dump());
      } else {
        const std::string shown = prompt.text ? *prompt.text : join_ids(prompt.ids);
        fmt::print("=== {} of {}: {}\n{}{}\n\n", first + i + 1, requests.size(),
                   shown.substr(0, shown.find('\n')), arguments.echo ? shown : "", text);
      }
    }
    std::fflush(stdout);
  }
  if (invocation.global.verbosity >= 0) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    fmt::print(stderr, "{} new tokens in {:.2f} s, {:.1f} tok/s\n", new_tokens, seconds,
               static_cast<double>(new_tokens) / std::max(seconds, 1e-9));
  }
  return ExitCode::ok;
}

}  // namespace engine
