// tokenizer.json -> parts. The format is documented by the Hugging Face tokenizers library; what we
// do not know is refused by name rather than guessed.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/bpe_files.h"
#include "tokenizer/json_document.h"
#include "tokenizer/loaders.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

using nlohmann::json;

// A value of the document together with where it stands, so that errors can say it.
class Node {
 public:
  Node(const json& value, std::string path, const std::string& file)
      : value_(&value), path_(std::move(path)), file_(&file) {}

  const json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  const std::string& file() const { return *file_; }
  bool is_null() const { return value_->is_null(); }

  bool has(const char* key) const {
    return value_->is_object() && value_->contains(key) && !(*value_)[key].is_null();
  }
  Node at(const char* key) const {
    if (!value_->is_object()) throw wrong_type("an object");
    const auto found = value_->find(key);
    if (found == value_->end()) {
      throw malformed(fmt::format("{} has no field \"{}\"", path_.empty() ? file() : path_, key));
    }
    return Node(*found, path_.empty() ? key : path_ + "." + key, *file_);
  }
  std::vector<Node> elements() const {
    if (!value_->is_array()) throw wrong_type("an array");
    std::vector<Node> nodes;
    for (size_t i = 0; i < value_->size(); ++i) {
      nodes.emplace_back((*value_)[i], fmt::format("{}[{}]", path_, i), *file_);
    }
    return nodes;
  }
  const std::string& string() const {
    if (!value_->is_string()) throw wrong_type("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) throw wrong_type("true or false");
    return value_->get<bool>();
  }
  int64_t integer() const {
    if (!value_->is_number_integer()) throw wrong_type("an integer");
    return value_->get<int64_t>();
  }
  bool boolean_or(const char* key, bool fallback) const {
    return has(key) ? at(key).boolean() : fallback;
  }
  const std::string& type() const { return at("type").string(); }

  Error malformed(std::string what) const {
    Error error(ExitCode::checkpoint, "TOK-MALFORMED", std::move(what));
    error.with("file", file());
    if (!path_.empty()) error.where(path_);
    return error;
  }
  Error wrong_type(std::string expected) const {
    return malformed(fmt::format("{} has the wrong type", path_.empty() ? "the document" : path_))
        .expected(std::move(expected))
        .found(std::string(excerpt(value_->dump(-1, ' ', true), 60)));
  }
  Error unsupported(std::string_view what, std::string known) const {
    return Error(ExitCode::checkpoint, "TOK-UNSUPPORTED", fmt::format("{} is not supported", what))
        .with("file", file())
        .where(path_)
        .with("supported", std::move(known));
  }

 private:
  const json* value_;
  std::string path_;
  const std::string* file_;
};

// {"String": "..."} or {"Regex": "..."}.
struct PatternSpec {
  bool is_regex;
  std::string text;
};
PatternSpec read_pattern(const Node& node) {
  if (node.has("Regex")) return {true, node.at("Regex").string()};
  if (node.has("String")) return {false, node.at("String").string()};
  throw node.wrong_type(R"({"String": ...} or {"Regex": ...})");
}
Regex make_regex(const PatternSpec& pattern, const Node& node) {
  try {
    return pattern.is_regex ? Regex(pattern.text) : Regex::literal(pattern.text);
  } catch (Error& error) {
    error.with("file", node.file()).where(node.path());
    throw;
  }
}

std::unique_ptr<Normalizer> read_normalizer(const Node& node) {
  const std::string& type = node.type();
  if (type == "NFC") return make_unicode_normalizer(UnicodeForm::kNfc);
  if (type == "NFD") return make_unicode_normalizer(UnicodeForm::kNfd);
  if (type == "NFKC") return make_unicode_normalizer(UnicodeForm::kNfkc);
  if (type == "NFKD") return make_unicode_normalizer(UnicodeForm::kNfkd);
  if (type == "Prepend") return make_prepend_normalizer(node.at("prepend").string());
  if (type == "Strip") {
    return make_strip_normalizer(node.at("strip_left").boolean(), node.at("strip_right").boolean());
  }
  if (type == "Replace") {
    const PatternSpec pattern = read_pattern(node.at("pattern"));
    const std::string& content = node.at("content").string();
    if (!pattern.is_regex) return make_literal_replace_normalizer(pattern.text, content);
    return make_replace_normalizer(make_regex(pattern, node.at("pattern")), content);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const Node& step : node.at("normalizers").elements()) {
      steps.push_back(read_normalizer(step));
    }
    return make_normalizer_sequence(std::move(steps));
  }
  throw node.unsupported(fmt::format("normalizer \"{}\"", type),
                         "NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip, Sequence");
}

SplitBehavior read_behavior(const Node& node) {
  const std::string& name = node.string();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  throw node.unsupported(fmt::format("split behavior \"{}\"", name),
                         "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

PrependScheme read_prepend_scheme(const Node& node) {
  if (node.has("prepend_scheme")) {
    const std::string& name = node.at("prepend_scheme").string();
    if (name == "always") return PrependScheme::kAlways;
    if (name == "first") return PrependScheme::kFirst;
    if (name == "never") return PrependScheme::kNever;
    throw node.unsupported(fmt::format("prepend_scheme \"{}\"", name), "always, first, never");
  }
  return node.boolean_or("add_prefix_space", true) ? PrependScheme::kAlways : PrependScheme::kNever;
}

// Appends the steps of a pre-tokenizer. Bytes stay bytes in the engine, so ByteLevel only sets
// `*byte_level`, and nothing may follow it.
void read_pre_tokenizer(const Node& node, bool* byte_level,
                        std::vector<std::unique_ptr<PreTokenizer>>* steps) {
  const std::string& type = node.type();
  if (type == "Sequence") {
    for (const Node& step : node.at("pretokenizers").elements()) {
      read_pre_tokenizer(step, byte_level, steps);
    }
    return;
  }
  if (*byte_level) {
    throw node.unsupported(fmt::format("pre-tokenizer \"{}\" after ByteLevel", type),
                           "ByteLevel as the last step");
  }
  if (type == "ByteLevel") {
    if (node.boolean_or("add_prefix_space", true)) steps->push_back(make_space_prefix());
    if (node.boolean_or("use_regex", true)) steps->push_back(make_split(Regex(kGpt2Pattern), {}));
    *byte_level = true;
  } else if (type == "Split") {
    const Node pattern = node.at("pattern");
    steps->push_back(make_split(make_regex(read_pattern(pattern), pattern),
                                {.behavior = read_behavior(node.at("behavior")),
                                 .invert = node.boolean_or("invert", false)}));
  } else if (type == "Digits") {
    const bool each = node.boolean_or("individual_digits", false);
    steps->push_back(make_split(Regex("\\p{N}"), {.behavior = each ? SplitBehavior::kIsolated
                                                                   : SplitBehavior::kContiguous}));
  } else if (type == "Metaspace") {
    const Node replacement = node.at("replacement");
    const std::string& mark = replacement.string();
    if (mark.empty() || decode_code_point(mark, 0).length != mark.size()) {
      throw replacement.wrong_type("one character");
    }
    steps->push_back(make_metaspace({.replacement = mark,
                                     .prepend_scheme = read_prepend_scheme(node),
                                     .split = node.boolean_or("split", true)}));
  } else {
    throw node.unsupported(fmt::format("pre-tokenizer \"{}\"", type),
                           "ByteLevel, Split, Digits, Metaspace, Sequence");
  }
}

void read_decoder(const Node& node, bool* fused, Decoder* steps) {
  const std::string& type = node.type();
  if (type == "Sequence") {
    for (const Node& step : node.at("decoders").elements()) read_decoder(step, fused, steps);
    return;
  }
  const bool needs_tokens = type == "ByteLevel" || type == "ByteFallback";
  if (*fused && needs_tokens) {
    throw node.unsupported(fmt::format("decoder \"{}\" after Fuse or ByteLevel", type),
                           "ByteLevel and ByteFallback before Fuse");
  }
  if (type == "ByteLevel") {
    steps->push_back(make_byte_level_decoder());
    *fused = true;
  } else if (type == "ByteFallback") {
    steps->push_back(make_byte_fallback_decoder());
  } else if (type == "Fuse") {
    steps->push_back(make_fuse_decoder());
    *fused = true;
  } else if (type == "Replace") {
    const PatternSpec pattern = read_pattern(node.at("pattern"));
    if (pattern.is_regex || pattern.text.empty()) {
      throw node.unsupported("decoder \"Replace\" with a regular expression or an empty pattern",
                             R"({"String": "..."})");
    }
    steps->push_back(make_replace_decoder(pattern.text, node.at("content").string()));
  } else if (type == "Strip") {
    const int64_t start = node.at("start").integer();
    const int64_t stop = node.at("stop").integer();
    if (start < 0 || stop < 0) throw node.malformed("a decoder cannot strip less than nothing");
    steps->push_back(make_strip_decoder({.character = node.at("content").string(),
                                         .start = static_cast<size_t>(start),
                                         .stop = static_cast<size_t>(stop)}));
  } else if (type == "Metaspace") {
    steps->push_back(make_metaspace_decoder(node.at("replacement").string(),
                                            read_prepend_scheme(node) != PrependScheme::kNever));
  } else {
    throw node.unsupported(fmt::format("decoder \"{}\"", type),
                           "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, Sequence");
  }
}

int32_t read_id(const Node& node) {
  const int64_t id = node.integer();
  if (id < 0 || id > Vocabulary::kMaxId) {
    throw node.malformed(fmt::format("{} is out of range", node.path()))
        .expected(fmt::format("0 to {}", Vocabulary::kMaxId))
        .found(fmt::format("{}", id));
  }
  return static_cast<int32_t>(id);
}

void read_template(const Node& node, PostProcessor* out) {
  bool after_sequence = false;
  std::vector<int32_t> prefix, suffix;
  for (const Node& piece : node.at("single").elements()) {
    if (piece.has("Sequence")) {
      if (after_sequence) {
        throw piece.unsupported("a template that repeats its text", "one Sequence");
      }
      after_sequence = true;
      continue;
    }
    const std::string& name = piece.at("SpecialToken").at("id").string();
    const Node token = node.at("special_tokens").at(name.c_str());
    for (const Node& id : token.at("ids").elements()) {
      (after_sequence ? suffix : prefix).push_back(read_id(id));
    }
  }
  if (!after_sequence) throw node.unsupported("a template without text", "one Sequence");
  out->prefix.insert(out->prefix.begin(), prefix.begin(), prefix.end());
  out->suffix.insert(out->suffix.end(), suffix.begin(), suffix.end());
}

void read_post_processor(const Node& node, PostProcessor* out) {
  const std::string& type = node.type();
  if (type == "ByteLevel") return;  // adjusts offsets, which we do not give
  if (type == "Sequence") {
    for (const Node& step : node.at("processors").elements()) read_post_processor(step, out);
  } else if (type == "TemplateProcessing") {
    read_template(node, out);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    const auto id_of = [&](const char* key) {
      const std::vector<Node> pair = node.at(key).elements();
      if (pair.size() != 2) throw node.at(key).wrong_type(R"(["token", id])");
      return read_id(pair[1]);
    };
    out->prefix.insert(out->prefix.begin(), id_of("cls"));
    out->suffix.push_back(id_of("sep"));
  } else {
    throw node.unsupported(
        fmt::format("post-processor \"{}\"", type),
        "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel, Sequence");
  }
}

AddedToken read_added_token(const Node& node) {
  AddedToken token;
  token.id = read_id(node.at("id"));
  token.content = node.at("content").string();
  token.special = node.boolean_or("special", false);
  token.single_word = node.boolean_or("single_word", false);
  token.lstrip = node.boolean_or("lstrip", false);
  token.rstrip = node.boolean_or("rstrip", false);
  token.normalized = node.boolean_or("normalized", !token.special);
  return token;
}

std::unique_ptr<Model> read_model(const Node& node, const BpeLists& lists, bool byte_level) {
  // Files written before the field existed hold BPE models with merges.
  const std::string type = lists.has_merges && !node.has("type") ? "BPE" : node.at("type").string();
  if (type != "BPE") throw node.unsupported(fmt::format("model \"{}\"", type), "BPE");
  if (!lists.has_vocab) throw node.malformed("model has no field \"vocab\"");
  if (!lists.has_merges) throw node.malformed("model has no field \"merges\"");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (node.has(key) && !node.at(key).string().empty()) {
      throw node.unsupported(fmt::format("model.{} \"{}\"", key, node.at(key).string()),
                             "null or an empty string");
    }
  }
  if (node.has("dropout") && node.value()["dropout"] != 0) {
    throw node.unsupported("model.dropout (random merges)", "null or 0");
  }
  BpeOptions options;
  options.byte_level = byte_level;
  options.byte_fallback = node.boolean_or("byte_fallback", false);
  options.ignore_merges = node.boolean_or("ignore_merges", false);
  options.fuse_unk = node.boolean_or("fuse_unk", false);
  if (node.has("unk_token")) options.unk_token = node.at("unk_token").string();
  Vocabulary vocabulary = make_vocabulary(lists, node.file());
  MergeTable merges = make_merges(lists, vocabulary, node.file());
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options));
}

}  // namespace

TokenizerParts load_tokenizer_json(std::string_view text, const std::string& file,
                                   const std::vector<AddedToken>& extra_tokens) {
  json document;
  BpeLists lists;
  parse_tokenizer_json(text, file, &document, &lists);
  const Node root(document, "", file);
  const Node model = root.at("model");

  TokenizerParts parts;
  if (root.has("normalizer")) parts.normalizer = read_normalizer(root.at("normalizer"));
  bool byte_level = false;
  if (root.has("pre_tokenizer")) {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    read_pre_tokenizer(root.at("pre_tokenizer"), &byte_level, &steps);
    if (steps.size() == 1) {
      parts.pre_tokenizer = std::move(steps[0]);
    } else if (!steps.empty()) {
      parts.pre_tokenizer = make_pre_tokenizer_sequence(std::move(steps));
    }
  }
  parts.model = read_model(model, lists, byte_level);
  if (root.has("post_processor")) {
    read_post_processor(root.at("post_processor"), &parts.post_processor);
  }
  if (root.has("decoder")) {
    bool fused = false;
    read_decoder(root.at("decoder"), &fused, &parts.decoder);
  } else {
    parts.decoder.push_back(make_join_decoder());
  }

  std::vector<AddedToken> added;
  if (root.has("added_tokens")) {
    for (const Node& token : root.at("added_tokens").elements()) {
      added.push_back(read_added_token(token));
    }
  }
  for (const AddedToken& extra : extra_tokens) {
    const bool known = std::any_of(added.begin(), added.end(), [&](const AddedToken& token) {
      return token.content == extra.content;
    });
    if (!known) added.push_back(extra);
  }
  parts.added_tokens.set(check_added_tokens(std::move(added), parts.model->vocabulary(), file),
                         parts.normalizer.get());
  guess_roles(&parts);
  return parts;
}

}  // namespace engine::tokenizer
