#include "tokenizer/json_node.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {

using nlohmann::json;

bool Node::is_null() const {
  return value_->is_null();
}

bool Node::has(const char* key) const {
  if (!value_->is_object()) return false;
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

Node Node::at(const char* key) const {
  if (!value_->is_object()) throw wrong_type("an object");
  const auto found = value_->find(key);
  if (found == value_->end()) {
    throw malformed(fmt::format("{} has no field \"{}\"", path_.empty() ? file() : path_, key));
  }
  return Node(*found, path_.empty() ? key : path_ + "." + key, *file_);
}

std::vector<Node> Node::elements() const {
  if (!value_->is_array()) throw wrong_type("an array");
  std::vector<Node> nodes;
  for (size_t i = 0; i < value_->size(); ++i) {
    nodes.emplace_back((*value_)[i], fmt::format("{}[{}]", path_, i), *file_);
  }
  return nodes;
}

const std::string& Node::string() const {
  if (!value_->is_string()) throw wrong_type("a string");
  return value_->get_ref<const std::string&>();
}

bool Node::boolean() const {
  if (!value_->is_boolean()) throw wrong_type("true or false");
  return value_->get<bool>();
}

int64_t Node::integer() const {
  if (!value_->is_number_integer()) throw wrong_type("an integer");
  return value_->get<int64_t>();
}

int32_t Node::id() const {
  const int64_t id = integer();
  if (id < 0 || id > Vocabulary::kMaxId) {
    throw malformed(fmt::format("{} is out of range", path()))
        .expected(fmt::format("0 to {}", Vocabulary::kMaxId))
        .found(fmt::format("{}", id));
  }
  return static_cast<int32_t>(id);
}

const std::string& Node::character() const {
  const std::string& text = string();
  if (text.empty() || character_length(text, 0) != text.size()) throw wrong_type("one character");
  return text;
}

bool Node::boolean_or(const char* key, bool fallback) const {
  return has(key) ? at(key).boolean() : fallback;
}

Error Node::malformed(std::string what) const {
  Error error(ExitCode::checkpoint, "TOK-MALFORMED", std::move(what));
  error.with("file", file());
  if (!path_.empty()) error.where(path_);
  return error;
}

Error Node::wrong_type(std::string expected) const {
  return malformed(fmt::format("{} has the wrong type", path_.empty() ? "the document" : path_))
      .expected(std::move(expected))
      .found(std::string(excerpt(value_->dump(-1, ' ', true), 60)));
}

Error Node::unsupported(std::string_view what, std::string known) const {
  return Error(ExitCode::checkpoint, "TOK-UNSUPPORTED", fmt::format("{} is not supported", what))
      .with("file", file())
      .where(path_)
      .with("supported", std::move(known));
}

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

}  // namespace engine::tokenizer
