// tiktoken rank files: the tokenizer.model of Llama 3 as Meta publishes it.
#include <fmt/core.h>

#include <charconv>

#include "engine/core/error.h"
#include "tokenizer/base64.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/loaders.h"
#include "tokenizer/piece_kind.h"

namespace engine::tokenizer {
namespace {

constexpr size_t kLlama3Ranks = 128000;

bool parse_line(std::string_view line, std::string* bytes, int64_t* rank) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || !decode_base64(line.substr(0, space), bytes)) return false;
  const char* end = line.data() + line.size();
  const auto [stop, error] = std::from_chars(line.data() + space + 1, end, *rank);
  return error == std::errc() && stop == end && *rank >= 0 && *rank <= Vocabulary::kMaxId &&
         bytes->size() <= kMaxPieceBytes;
}

std::string_view take_line(std::string_view text, size_t* at) {
  const size_t end = std::min(text.find('\n', *at), text.size());
  std::string_view line = text.substr(*at, end - *at);
  *at = end + 1;
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// The 256 special tokens of the Llama 3.1 to 3.3 text models, in the order of their tokenizer.json.
std::vector<AddedToken> llama3_special_tokens() {
  std::vector<std::string> names = {"<|begin_of_text|>",
                                    "<|end_of_text|>",
                                    "<|reserved_special_token_0|>",
                                    "<|reserved_special_token_1|>",
                                    "<|finetune_right_pad_id|>",
                                    "<|reserved_special_token_2|>",
                                    "<|start_header_id|>",
                                    "<|end_header_id|>",
                                    "<|eom_id|>",
                                    "<|eot_id|>",
                                    "<|python_tag|>"};
  for (int i = 3; names.size() < 256; ++i) {
    names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  }
  std::vector<AddedToken> tokens;
  for (size_t i = 0; i < names.size(); ++i) {
    tokens.push_back(
        {.id = static_cast<int32_t>(kLlama3Ranks + i), .content = names[i], .special = true});
  }
  return tokens;
}

const char* pattern_of(const std::string& name, const TiktokenFile& file, size_t num_ranks) {
  if (name == "gpt2") return kGpt2Pattern;
  if (name == "llama3") return kLlama3Pattern;
  if (name == "qwen2") return kQwen2Pattern;
  throw Error(ExitCode::checkpoint, "TOK-UNSUPPORTED",
              fmt::format("{} does not say how to split text, and its {} ranks are none we know",
                          file.name, num_ranks))
      .expected(fmt::format("{} ranks (Llama 3), or a split pattern: gpt2, llama3 or qwen2",
                            kLlama3Ranks))
      .fix("use the tokenizer.json of the same model");
}

}  // namespace

bool looks_like_tiktoken(std::string_view contents) {
  size_t at = 0;
  std::string bytes;
  int64_t rank = 0;
  return parse_line(take_line(contents.substr(0, 4096), &at), &bytes, &rank);
}

TokenizerParts load_tiktoken(const TiktokenFile& file) {
  Vocabulary by_bytes;  // for finding merges
  Vocabulary spelled;   // for the model
  by_bytes.reserve(kLlama3Ranks, file.ranks.size());
  spelled.reserve(kLlama3Ranks, file.ranks.size());
  std::string bytes;
  size_t line_number = 0;
  for (size_t at = 0; at < file.ranks.size();) {
    const std::string_view line = take_line(file.ranks, &at);
    ++line_number;
    if (line.empty()) continue;
    int64_t rank = 0;
    if (!parse_line(line, &bytes, &rank)) {
      throw Error(ExitCode::checkpoint, "TOK-MALFORMED",
                  fmt::format("{}:{} is no line of a tiktoken rank file", file.name, line_number))
          .expected("base64(token) and rank, separated by one space")
          .why("interrupted download, or another format");
    }
    if (by_bytes.add(bytes, static_cast<int32_t>(rank)) != Vocabulary::Added::kYes) {
      throw Error(
          ExitCode::checkpoint, "TOK-DUPLICATE",
          fmt::format("{}:{}: token or rank {} stands twice", file.name, line_number, rank));
    }
    spelled.add(spell_bytes(bytes), static_cast<int32_t>(rank));
  }

  std::string pattern = file.split_pattern;
  std::vector<AddedToken> added = file.added_tokens;
  const bool is_llama3 = by_bytes.size() == kLlama3Ranks;
  if (pattern.empty() && is_llama3) pattern = "llama3";
  if (added.empty() && is_llama3) added = llama3_special_tokens();

  TokenizerParts parts;
  parts.pre_tokenizer = make_split(Regex(pattern_of(pattern, file, by_bytes.size())), {});
  parts.decoder.push_back(make_byte_level_decoder());
  std::vector<RankedToken> ranked;
  ranked.reserve(by_bytes.size());
  for (int32_t id = 0; id < by_bytes.id_limit(); ++id) {
    if (by_bytes.contains_id(id)) {
      ranked.push_back({by_bytes.token(id), id, static_cast<uint32_t>(id)});
    }
  }
  for (const AddedToken& token : added) {
    if (!by_bytes.contains_id(token.id)) continue;
    throw Error(
        ExitCode::checkpoint, "TOK-DUPLICATE",
        fmt::format("special token \"{}\" has the id {} of a rank", token.content, token.id))
        .with("file", file.name);
  }
  parts.model = std::make_unique<Bpe>(std::move(spelled), merges_from_ranks(ranked, by_bytes),
                                      BpeOptions{.byte_level = true, .ignore_merges = true});
  parts.added_tokens.set(std::move(added), nullptr);
  const auto id_of = [&](const char* content) -> std::optional<int32_t> {
    const AddedToken* token = parts.added_tokens.find(content);
    return token ? std::optional(token->id) : std::nullopt;
  };
  parts.roles.bos = id_of("<|begin_of_text|>");
  parts.roles.eos = id_of("<|end_of_text|>");
  parts.roles.pad = id_of("<|finetune_right_pad_id|>");
  if (parts.roles.bos) parts.post_processor.prefix = {*parts.roles.bos};
  return parts;
}

}  // namespace engine::tokenizer
