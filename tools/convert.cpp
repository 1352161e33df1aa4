// engine convert SOURCE OUT [--dtype bf16] [--max-shard-size 2GB] [--tokenizer FILE] [--force]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/core/file_io.h"
#include "tokenizer/llama2c.h"
#include "tokenizer/tokenizer.h"
#include "tools/verbs.h"
#include "weights/checkpoint.h"
#include "weights/convert.h"
#include "weights/export.h"
#include "weights/llama2c.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

struct ConvertArguments {
  std::string source, output, dtype, tokenizer, max_shard_size;
  bool force = false, no_tokenizer = false;
};

FileDtype dtype_argument(const std::string& name) {
  const auto dtype = parse_float_dtype(name);
  if (!dtype) {
    throw Error(ExitCode::usage, "CLI-USAGE", "--dtype cannot be " + name)
        .expected("fp32, bf16 or fp16");
  }
  return *dtype;
}

// The vocabulary of a llama2.c model: tok<size>.bin or tokenizer.bin beside it, else the only
// tok*.bin there.
fs::path find_llama2c_tokenizer(const fs::path& model, int64_t vocab_size) {
  const fs::path directory = model.has_parent_path() ? model.parent_path() : fs::path(".");
  for (const std::string& name :
       {fmt::format("tok{}.bin", vocab_size), std::string("tokenizer.bin")}) {
    if (fs::is_regular_file(directory / name)) return directory / name;
  }
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("tok") && name.ends_with(".bin")) found.push_back(entry.path());
  }
  if (found.size() == 1) return found.front();
  throw Error(ExitCode::usage, "CONVERT-TOKENIZER",
              found.empty() ? "there is no tokenizer beside " + model.string()
                            : "several tokenizers beside " + model.string())
      .expected(fmt::format("tok{}.bin or tokenizer.bin", vocab_size))
      .fix("--tokenizer FILE, or --no-tokenizer");
}

void add_llama2c_tokenizer(const fs::path& path, const Llama2cConfig& config,
                           ExportOptions& options) {
  const std::string json = llama2c_tokenizer_json(path);
  const int32_t size = Tokenizer::from_json(json).vocab_size();
  if (size > config.vocab_size) {
    throw Error(ExitCode::checkpoint, "TOK-VOCAB",
                fmt::format("the tokenizer has {} tokens, the model {} embeddings", size,
                            config.vocab_size))
        .where(path.string())
        .fix("--tokenizer with the file this model was trained with");
  }
  nlohmann::ordered_json settings;
  settings["tokenizer_class"] = "PreTrainedTokenizerFast";
  settings["bos_token"] = "<s>";
  settings["eos_token"] = "</s>";
  settings["unk_token"] = "<unk>";
  settings["clean_up_tokenization_spaces"] = false;
  settings["model_max_length"] = config.seq_len;
  options.extra_files.emplace_back("tokenizer.json", json);
  options.extra_files.emplace_back("tokenizer_config.json", settings.dump(2) + "\n");
}

void convert_llama2c(const ConvertArguments& arguments, std::optional<FileDtype> dtype,
                     ExportOptions& options) {
  const Llama2cFile file = Llama2cFile::open(arguments.source);
  if (!arguments.no_tokenizer) {
    const fs::path tokenizer =
        arguments.tokenizer.empty()
            ? find_llama2c_tokenizer(arguments.source, file.config().vocab_size)
            : fs::path(arguments.tokenizer);
    if (fs::is_directory(tokenizer)) {
      options.tokenizer_directory = tokenizer;
    } else {
      add_llama2c_tokenizer(tokenizer, file.config(), options);
    }
  }
  options.config_json = file.config_json();
  std::vector<TensorToWrite> tensors = file.tensors();
  if (dtype) {
    for (TensorToWrite& tensor : tensors) tensor = in_dtype(std::move(tensor), *dtype);
    options.config_json = config_with_dtype(options.config_json, *dtype);
  }
  export_checkpoint(arguments.output, std::move(tensors), options);
}

void convert_directory(const ConvertArguments& arguments, std::optional<FileDtype> dtype,
                       ExportOptions& options) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.source);
  for (const std::string& warning : checkpoint.warnings()) {
    fmt::print(stderr, "warn    {}\n", warning);
  }
  if (!arguments.no_tokenizer) {
    options.tokenizer_directory =
        arguments.tokenizer.empty() ? checkpoint.directory() : fs::path(arguments.tokenizer);
    if (!arguments.tokenizer.empty() && !fs::is_directory(arguments.tokenizer)) {
      throw Error(ExitCode::usage, "CLI-USAGE",
                  "--tokenizer " + arguments.tokenizer + " is not a directory");
    }
  }
  const fs::path generation = checkpoint.directory() / "generation_config.json";
  if (fs::exists(generation)) {
    options.generation_config_json = read_text_file(generation, ExitCode::checkpoint);
  }
  options.config_json =
      dtype ? config_with_dtype(checkpoint.config_text(), *dtype) : checkpoint.config_text();
  export_checkpoint(arguments.output, checkpoint_tensors(checkpoint, dtype), options);
}

}  // namespace

ExitCode run_convert(Invocation& invocation) {
  ConvertArguments arguments;
  CLI::App app("Write a model as a Hugging Face directory", "engine convert");
  app.add_option("source", arguments.source,
                 "A llama2.c checkpoint (.bin), or a Hugging Face directory or org/name")
      ->required();
  app.add_option("output", arguments.output, "Directory to write; appears whole or not at all")
      ->required();
  app.add_option("--dtype", arguments.dtype,
                 "fp32, bf16 or fp16: type of the weights; default as they are");
  app.add_option("--max-shard-size", arguments.max_shard_size,
                 "Most bytes in one file, e.g. 500MB; default 5GB");
  app.add_option("--tokenizer", arguments.tokenizer,
                 "llama2.c tokenizer file (default: the one beside the model), or a directory "
                 "with tokenizer files");
  app.add_flag("--no-tokenizer", arguments.no_tokenizer, "Write no tokenizer files");
  app.add_flag("--force", arguments.force, "Replace the output directory");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  ExportOptions options;
  options.overwrite = arguments.force;
  if (!arguments.max_shard_size.empty()) {
    const auto size = parse_shard_size(arguments.max_shard_size);
    if (!size) {
      throw Error(ExitCode::usage, "CLI-USAGE",
                  "--max-shard-size cannot be " + arguments.max_shard_size)
          .expected("bytes, such as 2GB, 500MB or 1GiB");
    }
    options.max_shard_bytes = *size;
  }
  std::optional<FileDtype> dtype;
  if (!arguments.dtype.empty()) dtype = dtype_argument(arguments.dtype);
  if (fs::is_regular_file(arguments.source)) {
    convert_llama2c(arguments, dtype, options);
  } else {
    convert_directory(arguments, dtype, options);
  }
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(arguments.output)) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  if (invocation.global.verbosity >= 0) {
    fmt::print("wrote {}, {}\n", arguments.output, format_bytes(bytes));
  }
  return ExitCode::ok;
}

}  // namespace engine
