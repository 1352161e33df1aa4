// Finds out what a path holds and reads it.
#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/core/error.h"
#include "tokenizer/clean_up.h"
#include "tokenizer/json_document.h"
#include "tokenizer/loaders.h"
#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Everything a saved tokenizer consists of, in the order it is kept.
constexpr const char* kFileNames[] = {"tokenizer.json",
                                      "vocab.json",
                                      "merges.txt",
                                      "encoder.json",
                                      "vocab.bpe",
                                      "tokenizer.model",
                                      "spiece.model",
                                      "added_tokens.json",
                                      "tokenizer_config.json",
                                      "special_tokens_map.json",
                                      "chat_template.jinja",
                                      "chat_template.json"};

constexpr const char* kChatTemplates = "additional_chat_templates";

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = in ? std::streamoff{in.tellg()} : -1;
  std::string contents(size > 0 ? static_cast<size_t>(size) : 0, '\0');
  in.seekg(0);
  if (size < 0 || !in.read(contents.data(), size)) {
    throw Error(ExitCode::checkpoint, "TOK-MISSING", fmt::format("cannot read {}", path.string()));
  }
  return contents;
}

class Directory {
 public:
  explicit Directory(const fs::path& path) : path_(path) {
    for (const char* name : kFileNames) {
      if (fs::is_regular_file(path / name)) files_.push_back({name, read_file(path / name)});
    }
    read_chat_templates();
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const std::string& text(std::string_view name) const { return find(name)->contents; }
  std::string full_name(std::string_view name) const { return (path_ / name).string(); }
  json read_json(std::string_view name) const {
    return has(name) ? parse_json(text(name), full_name(name)) : json();
  }
  // config.json belongs to the model; it is looked at, not kept.
  json model_config() const {
    const fs::path path = path_ / "config.json";
    return fs::is_regular_file(path) ? parse_json(read_file(path), path.string()) : json();
  }
  std::vector<TokenizerFile> take_files() { return std::move(files_); }

 private:
  // additional_chat_templates/NAME.jinja, by name.
  void read_chat_templates() {
    std::error_code ignored;
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_ / kChatTemplates, ignored)) {
      if (entry.is_regular_file() && entry.path().extension() == ".jinja") {
        names.push_back(std::string(kChatTemplates) + "/" + entry.path().filename().string());
      }
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) files_.push_back({name, read_file(path_ / name)});
  }

  const TokenizerFile* find(std::string_view name) const {
    for (const TokenizerFile& file : files_) {
      if (file.name == name) return &file;
    }
    return nullptr;
  }
  fs::path path_;
  std::vector<TokenizerFile> files_;
};

std::string string_field(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return object[key].get<std::string>();
}

// A token is written as its text, or as an object with the field "content".
std::string token_field(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) return "";
  if (object[key].is_object()) return string_field(object[key], "content");
  return string_field(object, key);
}

bool flag(const json& object, const char* key, bool fallback) {
  return object.contains(key) && object[key].is_boolean() ? object[key].get<bool>() : fallback;
}

Error malformed_token(const std::string& file, const std::string& token) {
  return Error(ExitCode::checkpoint, "TOK-MALFORMED", fmt::format("{} is malformed", file))
      .where(token)
      .expected(fmt::format("an id from 0 to {}", Vocabulary::kMaxId));
}

int32_t checked_id(int64_t id, const std::string& file, const std::string& token) {
  if (id < 0 || id > Vocabulary::kMaxId) throw malformed_token(file, token);
  return static_cast<int32_t>(id);
}

// The tokens that the configs give a role, by role: special tokens, whatever else is said of them.
std::map<std::string, std::string> read_named_tokens(const Directory& directory,
                                                     const json& config) {
  const json map = directory.read_json("special_tokens_map.json");
  std::map<std::string, std::string> named;
  for (const char* role : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token",
                           "cls_token", "mask_token"}) {
    std::string token = token_field(config, role);
    if (token.empty()) token = token_field(map, role);
    if (!token.empty()) named.emplace(role, std::move(token));
  }
  return named;
}

// added_tokens_decoder of tokenizer_config.json; false where there is none.
bool read_config_tokens(const Directory& directory, const json& config,
                        std::map<int32_t, AddedToken>* tokens) {
  if (!config.is_object() || !config.contains("added_tokens_decoder") ||
      !config["added_tokens_decoder"].is_object()) {
    return false;
  }
  const std::string name = directory.full_name("tokenizer_config.json");
  for (const auto& [key, value] : config["added_tokens_decoder"].items()) {
    const bool is_number =
        !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
    if (!is_number || !value.is_object()) throw malformed_token(name, key);
    AddedToken token;
    token.id = checked_id(std::stoll(key), name, key);
    token.content = string_field(value, "content");
    token.special = flag(value, "special", false);
    token.single_word = flag(value, "single_word", false);
    token.lstrip = flag(value, "lstrip", false);
    token.rstrip = flag(value, "rstrip", false);
    token.normalized = flag(value, "normalized", !token.special);
    if (!token.content.empty()) tokens->emplace(token.id, token);
  }
  return true;
}

// added_tokens.json has no flags: special are the tokens that a config names, and all of them where
// there is no config.
void read_added_tokens_file(const Directory& directory, const json& config,
                            std::map<int32_t, AddedToken>* tokens) {
  const json added = directory.read_json("added_tokens.json");
  if (!added.is_object()) return;
  const std::string name = directory.full_name("added_tokens.json");
  const json map = directory.read_json("special_tokens_map.json");
  const bool tells = config.is_object() || map.is_object();
  std::set<std::string> special;
  for (const auto& [role, content] : read_named_tokens(directory, config)) special.insert(content);
  for (const json* object : {&config, &map}) {
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      if (!object->is_object() || !object->contains(key) || !(*object)[key].is_array()) continue;
      for (const json& token : (*object)[key]) {
        special.insert(token.is_string() ? token.get<std::string>()
                                         : string_field(token, "content"));
      }
    }
  }
  for (const auto& [content, value] : added.items()) {
    if (!value.is_number_integer()) throw malformed_token(name, content);
    const int32_t id = checked_id(value.get<int64_t>(), name, content);
    tokens->emplace(
        id,
        AddedToken{.id = id, .content = content, .special = !tells || special.contains(content)});
  }
}

// Tokens named outside tokenizer.json, by id.
ExtraTokens read_extra_tokens(const Directory& directory, const json& config) {
  std::map<int32_t, AddedToken> tokens;
  ExtraTokens extra;
  extra.flags_decide = read_config_tokens(directory, config, &tokens);
  if (!extra.flags_decide) read_added_tokens_file(directory, config, &tokens);
  for (auto& [id, token] : tokens) extra.tokens.push_back(std::move(token));
  return extra;
}

// BART's tokenizer is RoBERTa's.
bool is_roberta(const Directory& directory, const json& config) {
  const std::string tokenizer_class = string_field(config, "tokenizer_class");
  const std::string model_type = string_field(directory.model_config(), "model_type");
  return tokenizer_class.starts_with("Roberta") || tokenizer_class.starts_with("Bart") ||
         (tokenizer_class.empty() && (model_type == "roberta" || model_type == "bart"));
}

std::string guess_split_pattern(const Directory& directory, const json& config,
                                const std::vector<AddedToken>& tokens) {
  const std::string tokenizer_class = string_field(config, "tokenizer_class");
  if (tokenizer_class.starts_with("Qwen2")) return "qwen2";
  if (tokenizer_class.starts_with("GPT2") || is_roberta(directory, config)) return "gpt2";
  const std::string model_type = string_field(directory.model_config(), "model_type");
  if (model_type.starts_with("qwen2") || model_type.starts_with("qwen3")) return "qwen2";
  for (const AddedToken& token : tokens) {
    if (token.content == "<|im_start|>") return "qwen2";
  }
  return "gpt2";
}

void read_roles(const Directory& directory, const json& config, TokenizerParts* parts) {
  const std::map<std::string, std::string> named = read_named_tokens(directory, config);
  const Vocabulary& vocabulary = parts->model->vocabulary();
  for (const auto& [role, content] : named) {
    parts->added_tokens.declare_special(content, vocabulary.find(content));
  }
  const auto set = [&](const char* key, std::optional<int32_t>* role) {
    const auto token = named.find(key);
    if (token == named.end()) {
      // A config that lists the role as null means that there is none.
      if (config.is_object() && config.contains(key)) role->reset();
    } else if (const AddedToken* added = parts->added_tokens.find(token->second)) {
      *role = added->id;
    }
  };
  set("bos_token", &parts->roles.bos);
  set("eos_token", &parts->roles.eos);
  set("pad_token", &parts->roles.pad);
  set("unk_token", &parts->roles.unk);
}

// What stands around a text, where no tokenizer.json says it.
void read_surroundings(const json& config, TokenizerParts* parts) {
  const auto says = [&](const char* key) {
    return config.is_object() && config.contains(key) && config[key].is_boolean();
  };
  if (!says("add_bos_token") && !says("add_eos_token")) return;
  parts->post_processor = {};
  if (flag(config, "add_bos_token", false) && parts->roles.bos) {
    parts->post_processor.prefix = {*parts->roles.bos};
  }
  if (flag(config, "add_eos_token", false) && parts->roles.eos) {
    parts->post_processor.suffix = {*parts->roles.eos};
  }
}

// Cleaning up spoils the text of BPE tokenizers, whose configs ask for it by an old default.
void read_clean_up(const json& config, TokenizerParts* parts) {
  if (!config.is_object() || !flag(config, "clean_up_tokenization_spaces", false)) return;
  constexpr const char* kInsist =
      "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
  if (parts->model->is_bpe() && !flag(config, kInsist, false)) return;
  parts->decoder.push_back(make_clean_up_decoder());
}

Error missing(const fs::path& path) {
  return Error(ExitCode::checkpoint, "TOK-MISSING",
               fmt::format("no tokenizer in {}", path.string()))
      .expected("tokenizer.json, or vocab.json and merges.txt, or tokenizer.model, or spiece.model")
      .fix("copy the tokenizer files of the model into this directory");
}

// What the configs say about a SentencePiece model.
SentencePieceModelFile sentencepiece_settings(const Directory& directory, const json& config,
                                              std::vector<AddedToken> added) {
  SentencePieceModelFile file;
  file.added_tokens = std::move(added);
  const std::string tokenizer_class = string_field(config, "tokenizer_class");
  const std::string model_type = string_field(directory.model_config(), "model_type");
  const std::string& family = tokenizer_class.empty() ? model_type : tokenizer_class;
  if (family.starts_with("T5") || family == "t5" || family == "mt5" || family == "umt5") {
    file.family = SentencePieceFamily::kT5;
  } else if (!family.empty()) {
    file.family = SentencePieceFamily::kOther;
  }
  if (!config.is_object()) return file;
  const auto tell = [&](const char* key, std::optional<bool>* out) {
    if (config.contains(key) && config[key].is_boolean()) *out = config[key].get<bool>();
  };
  tell("add_bos_token", &file.add_bos);
  tell("add_eos_token", &file.add_eos);
  if (config.contains("extra_ids") && config["extra_ids"].is_number_integer()) {
    const int64_t extra_ids = config["extra_ids"].get<int64_t>();
    if (extra_ids < 0 || extra_ids > 100000) {
      throw malformed_token(directory.full_name("tokenizer_config.json"), "extra_ids");
    }
    file.extra_ids = static_cast<int32_t>(extra_ids);
  }
  file.prefix_at_start_only = !flag(config, "legacy", true);
  return file;
}

TokenizerParts load_rank_file(std::string_view ranks, const std::string& name,
                              std::vector<AddedToken> added, const TokenizerOpenOptions& options) {
  if (!options.special_tokens.empty()) added.clear();
  for (const auto& [content, id] : options.special_tokens) {
    added.push_back({.id = checked_id(id, name, content), .content = content, .special = true});
  }
  return load_tiktoken({.ranks = ranks,
                        .name = name,
                        .added_tokens = std::move(added),
                        .split_pattern = options.split_pattern});
}

TokenizerParts load_directory(const fs::path& path, const TokenizerOpenOptions& options) {
  Directory directory(path);
  const json config = directory.read_json("tokenizer_config.json");
  const ExtraTokens extra = read_extra_tokens(directory, config);
  TokenizerParts parts;
  bool is_vocab_and_merges = false;
  const auto load_bpe_files = [&](const char* vocab, const char* merges) {
    is_vocab_and_merges = true;
    return load_vocab_merges(
        {.vocab = directory.text(vocab),
         .merges = directory.text(merges),
         .vocab_name = directory.full_name(vocab),
         .merges_name = directory.full_name(merges),
         .added_tokens = extra.tokens,
         .split_pattern = options.split_pattern.empty()
                              ? guess_split_pattern(directory, config, extra.tokens)
                              : options.split_pattern,
         .is_roberta = is_roberta(directory, config),
         .add_prefix_space = config.is_object() && flag(config, "add_prefix_space", false)});
  };
  if (directory.has("tokenizer.json")) {
    parts = load_tokenizer_json(directory.text("tokenizer.json"),
                                directory.full_name("tokenizer.json"), extra);
  } else if (directory.has("vocab.json") && directory.has("merges.txt")) {
    parts = load_bpe_files("vocab.json", "merges.txt");
  } else if (directory.has("encoder.json") && directory.has("vocab.bpe")) {
    parts = load_bpe_files("encoder.json", "vocab.bpe");
  } else if (directory.has("tokenizer.model") &&
             looks_like_tiktoken(directory.text("tokenizer.model"))) {
    parts = load_rank_file(directory.text("tokenizer.model"),
                           directory.full_name("tokenizer.model"), extra.tokens, options);
  } else if (directory.has("tokenizer.model") || directory.has("spiece.model")) {
    const char* name = directory.has("tokenizer.model") ? "tokenizer.model" : "spiece.model";
    SentencePieceModelFile file = sentencepiece_settings(directory, config, extra.tokens);
    file.contents = directory.text(name);
    file.name = directory.full_name(name);
    parts = load_sentencepiece(file);
  } else {
    throw missing(path);
  }
  read_roles(directory, config, &parts);
  if (is_vocab_and_merges) read_surroundings(config, &parts);
  read_clean_up(config, &parts);
  parts.files = directory.take_files();
  return parts;
}

TokenizerParts load_file(const fs::path& path, const TokenizerOpenOptions& options) {
  std::string contents = read_file(path);
  const std::string name = path.string();
  TokenizerParts parts;
  const size_t first = contents.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  if (path.extension() == ".json" || (first != std::string::npos && contents[first] == '{')) {
    parts = load_tokenizer_json(contents, name, {});
    parts.files.push_back({"tokenizer.json", std::move(contents)});
  } else if (looks_like_tiktoken(contents)) {
    parts = load_rank_file(contents, name, {}, options);
    parts.files.push_back({"tokenizer.model", std::move(contents)});
  } else {
    parts = load_sentencepiece({.contents = contents, .name = name});
    const bool is_spiece = path.filename() == "spiece.model";
    parts.files.push_back({is_spiece ? "spiece.model" : "tokenizer.model", std::move(contents)});
  }
  return parts;
}

}  // namespace

TokenizerParts load_tokenizer(const fs::path& path, const TokenizerOpenOptions& options) {
  if (fs::is_directory(path)) return load_directory(path, options);
  if (!fs::exists(path)) {
    throw Error(ExitCode::checkpoint, "TOK-MISSING",
                fmt::format("{} does not exist", path.string()));
  }
  return load_file(path, options);
}

}  // namespace engine::tokenizer
