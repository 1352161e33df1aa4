// engine tokenize DIR TEXT... | engine tokenize DIR --jsonl | engine tokenize train ...
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/core/file_io.h"
#include "engine/data/file_list.h"
#include "engine/data/row_parser.h"
#include "engine/data/row_scanner.h"
#include "models/load_model.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/tokenizer.h"
#include "tools/json_lines.h"
#include "tools/verbs.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// Not ASCII-escaped; bytes that are no UTF-8 (half a character in a decoded list) become U+FFFD.
std::string one_line(const nlohmann::ordered_json& row) {
  return row.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// {"text"} -> {"text", "ids"} per line.
void encode_rows(const Tokenizer& tokenizer, const std::string& path, EncodeOptions options) {
  LineReader reader(path);
  for (nlohmann::json row; reader.next_object(row);) {
    nlohmann::ordered_json out;
    out["text"] = text_field(reader, row, "text");
    out["ids"] = tokenizer.encode(out["text"].get_ref<const std::string&>(), options);
    fmt::print("{}\n", one_line(out));
  }
}

// {"ids"} -> {"ids", "text"} per line.
void decode_rows(const Tokenizer& tokenizer, const std::string& path, bool skip_special) {
  LineReader reader(path);
  for (nlohmann::json row; reader.next_object(row);) {
    const auto ids = ids_field(reader, row, "ids");
    if (!ids) throw reader.error("DATA-FIELD", "row has no field \"ids\"");
    nlohmann::ordered_json out;
    out["ids"] = *ids;
    out["text"] = tokenizer.decode(*ids, skip_special);
    fmt::print("{}\n", one_line(out));
  }
}

void print_text(const Tokenizer& tokenizer, const std::string& text, EncodeOptions options) {
  const std::vector<int32_t> ids = tokenizer.encode(text, options);
  fmt::print("{}\n", fmt::join(ids, " "));
  std::vector<std::string> tokens;
  for (const int32_t id : ids) {
    tokens.push_back(nlohmann::json(tokenizer.id_to_token(id).value_or("")).dump());
  }
  fmt::print("{}\n", fmt::join(tokens, " "));
}

// Adds every document of the files to the trainer: whole text files, or "text" of JSON rows.
void add_files(BpeTrainer& trainer, const std::vector<std::string>& patterns,
               const std::string& text_field_name) {
  const std::vector<std::string> files = expand_files(patterns);
  FieldOptions fields;
  fields.text = text_field_name;
  for (size_t i = 0; i < files.size(); ++i) {
    const DataFormat format = file_format(files[i], DataFormat::automatic);
    RowScanner scanner(open_byte_source(files[i]), files[i], static_cast<uint32_t>(i), format,
                       {.split = TextSplit::whole});
    RowParser parser(fields, files, 0);
    bool decided = false;
    for (RawRow row; scanner.next(row);) {
      if (format == DataFormat::text) {
        trainer.add(row.text);
        continue;
      }
      if (!decided) parser.decide(row);
      decided = true;
      const ParsedRow parsed = parser.parse(row);
      if (!parsed.prompt.empty()) trainer.add(parsed.prompt);
      trainer.add(parsed.text);
    }
  }
}

std::string tokenizer_config(const std::vector<std::string>& special_tokens) {
  nlohmann::ordered_json json;
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!special_tokens.empty()) {
    json["bos_token"] = special_tokens.front();
    json["eos_token"] = special_tokens.front();
    json["unk_token"] = special_tokens.front();
  }
  json["add_prefix_space"] = false;
  json["clean_up_tokenization_spaces"] = false;
  return json.dump(2) + "\n";
}

ExitCode run_train_tokenizer(Invocation& invocation) {
  std::vector<std::string> files, special_tokens;
  std::string output, split = "gpt2", field;
  BpeTrainerOptions options;
  bool force = false;
  CLI::App app("Learn a byte-level BPE vocabulary from texts", "engine tokenize train");
  app.add_option("-f,--files", files,
                 "Text files, or JSON Lines with \"text\" (or \"prompt\", \"completion\"); globs "
                 "and directories too")
      ->required();
  app.add_option("--vocab-size", options.vocab_size,
                 "Tokens in all: special ones, 256 bytes, merges")
      ->required();
  app.add_option("-o,--out", output, "Directory to write the tokenizer to")->required();
  app.add_option("--min-frequency", options.min_frequency, "Fewest occurrences of a merged pair")
      ->capture_default_str();
  app.add_option("--max-token-length", options.max_token_length, "Bytes; 0 = no limit")
      ->capture_default_str();
  app.add_option("--special-token", special_tokens,
                 "Special token, may be repeated; ids from 0 on, the first is BOS and EOS; "
                 "default <|endoftext|>")
      ->allow_extra_args(false);
  app.add_option("--split", split,
                 "How texts are cut before merging: gpt2, llama3, qwen2 or a regular expression")
      ->capture_default_str();
  app.add_option("--text-field", field, "JSON field with the text; default \"text\"");
  app.add_flag("--force", force, "Replace a tokenizer that is there");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  const fs::path directory = output;
  if (!force && fs::exists(directory / "tokenizer.json")) {
    throw Error(ExitCode::usage, "CLI-EXISTS",
                (directory / "tokenizer.json").string() + " is there already")
        .fix("another --out, or --force");
  }
  if (!special_tokens.empty()) options.special_tokens = special_tokens;
  options.split_pattern = split;
  BpeTrainer trainer(options);
  add_files(trainer, files, field);
  const std::string json = trainer.train();
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw write_error(directory, error.value());
  write_file_atomically(directory / "tokenizer_config.json",
                        std::string_view(tokenizer_config(options.special_tokens)));
  write_file_atomically(directory / "tokenizer.json", std::string_view(json));
  const size_t tokens = static_cast<size_t>(Tokenizer::from_json(json).vocab_size());
  if (tokens < options.vocab_size) {
    fmt::print(stderr, "warn    only {} tokens: the texts have no more pairs that occur {} times\n",
               tokens, options.min_frequency);
  }
  if (invocation.global.verbosity >= 0) fmt::print("wrote {}, {} tokens\n", output, tokens);
  return ExitCode::ok;
}

}  // namespace

ExitCode run_tokenize(Invocation& invocation) {
  if (!invocation.arguments.empty() && invocation.arguments.front() == "train") {
    invocation.arguments.erase(invocation.arguments.begin());
    return run_train_tokenizer(invocation);
  }
  std::string path, input = "-";
  std::vector<std::string> texts;
  bool jsonl = false, decode = false, no_special = false, no_parse_special = false,
       skip_special = false;
  CLI::App app("Texts to token ids and back", "engine tokenize");
  app.add_option("tokenizer", path, "Directory with tokenizer files, one such file, or org/name")
      ->required();
  app.add_option("text", texts, "Texts (with --decode: lists of ids); default standard input");
  auto* rows = app.add_flag("--jsonl", jsonl,
                            "Rows from --input: {\"text\"} gives {\"text\", \"ids\"}; with "
                            "--decode {\"ids\"} gives {\"ids\", \"text\"}");
  app.add_option("-i,--input", input, "File of rows; default standard input")->needs(rows);
  app.add_flag("-d,--decode", decode, "Ids to text");
  app.add_flag("--no-special-tokens", no_special,
               "Add no special tokens (BOS, EOS) around the text");
  app.add_flag("--no-parse-special", no_parse_special,
               "Read special tokens written in the text as plain characters");
  app.add_flag("--skip-special", skip_special, "With --decode: leave special tokens out");
  app.footer(
      "`engine tokenize train --help`: learn a vocabulary\n"
      "Options that work everywhere: engine --help\n");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  std::error_code ignored;
  const Tokenizer tokenizer = Tokenizer::open(
      fs::exists(path, ignored) ? fs::path(path) : resolve_checkpoint_directory(path));
  const EncodeOptions options{.add_special_tokens = !no_special,
                              .parse_special_tokens = !no_parse_special};
  if (jsonl) {
    if (decode) {
      decode_rows(tokenizer, input, skip_special);
    } else {
      encode_rows(tokenizer, input, options);
    }
    return ExitCode::ok;
  }
  if (texts.empty()) {
    texts.emplace_back(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  for (const std::string& text : texts) {
    if (decode) {
      fmt::print("{}\n", tokenizer.decode(parse_ids(text, "--decode"), skip_special));
    } else {
      print_text(tokenizer, text, options);
    }
  }
  return ExitCode::ok;
}

}  // namespace engine
