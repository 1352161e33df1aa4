// Reads tokenizer.json: values that know where they stand, so that errors can say it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.h"
#include "tokenizer/regex.h"

namespace engine::tokenizer {

// A value of the document. Accessors throw TOK-MALFORMED, naming the place, when the value is of
// another type or a field is missing. A field that is null counts as absent.
class Node {
 public:
  // `value` and `file` must outlive it.
  Node(const nlohmann::json& value, std::string path, const std::string& file)
      : value_(&value), path_(std::move(path)), file_(&file) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  const std::string& file() const { return *file_; }
  bool is_null() const;

  bool has(const char* key) const;
  Node at(const char* key) const;
  std::vector<Node> elements() const;
  const std::string& string() const;
  bool boolean() const;
  int64_t integer() const;
  // An id of a token.
  int32_t id() const;
  // A string of one character.
  const std::string& character() const;

  bool boolean_or(const char* key, bool fallback) const;
  const std::string& type() const { return at("type").string(); }

  Error malformed(std::string what) const;
  Error wrong_type(std::string expected) const;
  // TOK-UNSUPPORTED.
  Error unsupported(std::string_view what, std::string known) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
  const std::string* file_;
};

// {"String": "..."} or {"Regex": "..."}.
struct PatternSpec {
  bool is_regex;
  std::string text;
};
PatternSpec read_pattern(const Node& node);
Regex make_regex(const PatternSpec& pattern, const Node& node);

}  // namespace engine::tokenizer
