// engine tokenize train --files ... --vocab-size N --out DIR
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/core/file_io.h"
#include "engine/data/file_list.h"
#include "engine/data/row_parser.h"
#include "engine/data/row_scanner.h"
#include "tokenizer/bpe_trainer.h"
#include "tokenizer/chat/conversation.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unigram_trainer.h"
#include "tools/verbs.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// Hands every document of the files to `add`: whole text files, or "text" of JSON rows.
void read_documents(const std::vector<std::string>& patterns, const std::string& text_field_name,
                    const std::function<void(std::string_view)>& add) {
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
        add(row.text);
        continue;
      }
      if (!decided) parser.decide(row);
      decided = true;
      const ParsedRow parsed = parser.parse(row);
      if (parsed.kind == RowKind::conversation) {
        ConversationFields names;
        names.messages = parsed.messages_field;
        names.completion = parsed.completion_field;
        const auto json = nlohmann::ordered_json::parse(parsed.text);
        for (const auto& message : read_conversation(json, names).messages) {
          const jinja::Value* content = message.fields.dict().find("content");
          if (content && content->is_string()) add(content->text());
        }
        continue;
      }
      if (!parsed.prompt.empty()) add(parsed.prompt);
      add(parsed.text);
    }
  }
}

std::string tokenizer_config(const std::vector<std::string>& special_tokens, bool is_bpe) {
  nlohmann::ordered_json json;
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!special_tokens.empty()) {
    json["bos_token"] = special_tokens.front();
    json["eos_token"] = special_tokens.front();
    json["unk_token"] = is_bpe ? special_tokens.front() : "<unk>";
  }
  json["add_prefix_space"] = false;
  json["clean_up_tokenization_spaces"] = false;
  return json.dump(2) + "\n";
}

// The tokenizer.json that a trainer makes of the files.
template <typename Trainer>
std::string train(Trainer trainer, const std::vector<std::string>& files,
                  const std::string& text_field_name) {
  read_documents(files, text_field_name, [&](std::string_view text) { trainer.add(text); });
  return trainer.train();
}

}  // namespace

ExitCode run_tokenize_train(Invocation& invocation) {
  std::vector<std::string> files, special_tokens;
  std::string output, algorithm = "bpe", field;
  BpeTrainerOptions bpe;
  UnigramTrainerOptions unigram;
  size_t vocab_size = 0;
  bool force = false;
  CLI::App app("Learn a vocabulary from texts", "engine tokenize train");
  app.add_option("-f,--files", files,
                 "Text files, or JSON Lines with \"text\" (or \"prompt\", \"completion\", or "
                 "\"messages\"); "
                 "globs "
                 "and directories too")
      ->required();
  app.add_option("--vocab-size", vocab_size,
                 "Tokens in all: special ones, 256 bytes, merges or pieces")
      ->required();
  app.add_option("-o,--out", output, "Directory to write the tokenizer to")->required();
  auto* chosen = app.add_option("--algorithm", algorithm, "bpe (byte-level) or unigram")
                     ->capture_default_str()
                     ->check(CLI::IsMember({"bpe", "unigram"}));
  app.add_option("--special-token", special_tokens,
                 "Special token, may be repeated; ids from 0 on, the first is BOS and EOS; "
                 "default <|endoftext|>")
      ->allow_extra_args(false);
  const std::vector<CLI::Option*> of_bpe = {
      app.add_option("--min-frequency", bpe.min_frequency,
                     "bpe: fewest occurrences of a merged pair")
          ->capture_default_str(),
      app.add_option("--max-token-length", bpe.max_token_length, "bpe: bytes; 0 = no limit")
          ->capture_default_str(),
      app.add_option("--split", bpe.split_pattern,
                     "bpe: how texts are cut before merging: gpt2, llama3, qwen2 or a regular "
                     "expression")
          ->capture_default_str()};
  const std::vector<CLI::Option*> of_unigram = {
      app.add_option("--max-piece-length", unigram.max_piece_length, "unigram: characters")
          ->capture_default_str(),
      app.add_option("--character-coverage", unigram.character_coverage,
                     "unigram: share of the characters that become pieces; rarer ones are spelled "
                     "in bytes")
          ->capture_default_str()};
  app.add_option("--text-field", field, "JSON field with the text; default \"text\"");
  app.add_flag("--force", force, "Replace a tokenizer that is there");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;
  const bool is_bpe = algorithm == "bpe";
  for (const CLI::Option* option : is_bpe ? of_unigram : of_bpe) {
    if (option->count() == 0) continue;
    throw Error(ExitCode::usage, "CLI-USAGE",
                fmt::format("{} has no meaning for {}", option->get_name(), algorithm))
        .fix(fmt::format("leave it out, or {} {}", chosen->get_name(), is_bpe ? "unigram" : "bpe"));
  }

  const fs::path directory = output;
  if (!force && fs::exists(directory / "tokenizer.json")) {
    throw Error(ExitCode::usage, "CLI-EXISTS",
                (directory / "tokenizer.json").string() + " is there already")
        .fix("another --out, or --force");
  }
  bpe.vocab_size = unigram.vocab_size = vocab_size;
  if (special_tokens.empty()) special_tokens = bpe.special_tokens;
  bpe.special_tokens = unigram.special_tokens = special_tokens;
  const std::string json =
      is_bpe ? train(BpeTrainer(bpe), files, field) : train(UnigramTrainer(unigram), files, field);
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw write_error(directory, error.value());
  write_file_atomically(directory / "tokenizer_config.json",
                        std::string_view(tokenizer_config(special_tokens, is_bpe)));
  write_file_atomically(directory / "tokenizer.json", std::string_view(json));
  const size_t tokens = static_cast<size_t>(Tokenizer::from_json(json).vocab_size());
  if (tokens < vocab_size) {
    fmt::print(
        stderr, "warn    only {} tokens: {}\n", tokens,
        is_bpe ? fmt::format("the texts have no more pairs that occur {} times", bpe.min_frequency)
               : "the texts have no more pieces worth a token");
  }
  if (invocation.global.verbosity >= 0) fmt::print("wrote {}, {} tokens\n", output, tokens);
  return ExitCode::ok;
}

}  // namespace engine
