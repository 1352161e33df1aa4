// engine tokenize DIR TEXT... | ... DIR --jsonl | ... DIR --chat | engine tokenize train ...
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "models/load_model.h"
#include "tokenizer/tokenizer.h"
#include "tools/chat.h"
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

}  // namespace

ExitCode run_tokenize(Invocation& invocation) {
  if (!invocation.arguments.empty() && invocation.arguments.front() == "train") {
    invocation.arguments.erase(invocation.arguments.begin());
    return run_tokenize_train(invocation);
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
  app.add_option("-i,--input", input,
                 "File of rows, for --jsonl and --chat; default standard input");
  auto* ids = app.add_flag("-d,--decode", decode, "Ids to text");
  ChatArguments chat;
  add_chat_options(app, chat,
                   "Conversations from --input: {\"messages\"[, \"tools\", "
                   "\"add_generation_prompt\"]} gives {\"rendered\", \"ids\", "
                   "\"assistant_mask\"} or {\"error\"}")
      ->excludes(rows)
      ->excludes(ids);
  app.add_flag("--no-special-tokens", no_special,
               "Add no special tokens (BOS, EOS) around the text");
  app.add_flag("--no-parse-special", no_parse_special,
               "Read special tokens written in the text as plain characters");
  app.add_flag("--skip-special", skip_special, "With --decode: leave special tokens out");
  app.footer(
      "`engine tokenize train --help`: learn a vocabulary\n"
      "Options that work everywhere: engine --help\n");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;
  if (app.count("--input") > 0 && !jsonl && !chat.chat) {
    throw Error(ExitCode::usage, "CLI-USAGE", "--input is for --jsonl and --chat");
  }

  std::error_code ignored;
  const Tokenizer tokenizer = Tokenizer::open(
      fs::exists(path, ignored) ? fs::path(path) : resolve_checkpoint_directory(path));
  if (chat.chat) {
    tokenize_chat_rows(invocation, tokenizer, open_chat_template(tokenizer, chat), input);
    return ExitCode::ok;
  }
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
