#include "engine/data/row_parser.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/data/data_error.h"
#include "engine/data/utf8.h"

namespace engine {
namespace {

constexpr size_t kMaxDepth = 256;
constexpr const char* kSupported =
    "text | prompt + completion | messages [+ tools] | input_ids [+ labels], or data.fields naming "
    "other fields";

enum class Type : uint8_t { missing, null, boolean, number, string, array, object };

const char* type_name(Type type) {
  switch (type) {
    case Type::missing:
      return "missing";
    case Type::null:
      return "null";
    case Type::boolean:
      return "bool";
    case Type::number:
      return "number";
    case Type::string:
      return "str";
    case Type::array:
      return "list";
    case Type::object:
      return "object";
  }
  return "";
}

struct Key {
  std::string name;
  Type type = Type::missing;
  size_t count = 0;  // elements of a list

  bool is_list() const { return type == Type::array; }
  std::string describe_type() const {
    std::string text = type_name(type);
    if (type == Type::array) text += "[" + std::to_string(count) + "]";
    return text;
  }
};

struct Value {
  Type type = Type::missing;
  std::string text;               // of a string, number or boolean
  std::vector<int64_t> integers;  // of a list, as far as they are integers
  bool all_integers = true;
  bool integer = false;  // a number without fraction and exponent
  // Of a list whose JSON text is wanted: it, as long as it is flat.
  bool keep_list = false, flat = true;
  std::string list;
};

// Reads one object, keeping the values of wanted top-level fields and the types of the others.
class FieldReader {
 public:
  FieldReader(const std::vector<std::string>& wanted, std::vector<Key>& keys,
              std::vector<Value>& values)
      : wanted_(wanted), keys_(keys), values_(values) {}

  bool null() { return scalar(Type::null, ""); }
  bool boolean(bool value) { return scalar(Type::boolean, value ? "true" : "false"); }
  bool number_integer(int64_t value) { return integer(value, std::to_string(value)); }
  bool number_unsigned(uint64_t value) {
    if (value <= static_cast<uint64_t>(INT64_MAX)) {
      return integer(static_cast<int64_t>(value), std::to_string(value));
    }
    return scalar(Type::number, std::to_string(value));
  }
  bool number_float(double, const std::string& source) { return scalar(Type::number, source); }
  bool string(std::string& value) { return scalar(Type::string, std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return false; }  // does not occur in text

  bool start_object(size_t) { return start(Type::object); }
  bool start_array(size_t) { return start(Type::array); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }

  bool key(std::string& name) {
    if (depth_ != 1) return true;
    const auto at = std::find(wanted_.begin(), wanted_.end(), name);
    current_ = at == wanted_.end() ? nullptr : &values_[static_cast<size_t>(at - wanted_.begin())];
    keys_.push_back({std::move(name)});
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) {
    position_ = position;
    message_ = error.what();
    return false;
  }

  Type root = Type::missing;
  bool too_deep() const { return depth_ > kMaxDepth; }
  size_t position() const { return position_; }  // bytes read when parsing failed
  const std::string& message() const { return message_; }

 private:
  bool scalar(Type type, std::string text) {
    note(type);
    if (depth_ == 0) root = type;
    if (!current_) return true;
    if (depth_ == 1) {
      current_->type = type;
      current_->text = std::move(text);
    } else if (depth_ == 2) {
      current_->all_integers = false;
      if (type == Type::string) text = nlohmann::json(text).dump();
      keep_element(type == Type::null ? "null" : text);
    }
    return true;
  }

  void keep_element(const std::string& text) {
    if (!current_->keep_list) return;
    current_->list += (current_->list.empty() ? "" : ",") + text;
  }

  bool integer(int64_t value, std::string text) {
    if (current_ && depth_ == 2) {
      note(Type::number);
      current_->integers.push_back(value);
      keep_element(text);
      return true;
    }
    scalar(Type::number, std::move(text));
    if (current_ && depth_ == 1) current_->integer = true;
    return true;
  }

  bool start(Type type) {
    note(type);
    if (depth_ == 0) root = type;
    if (current_ && depth_ == 1) current_->type = type;
    if (current_ && depth_ == 2) current_->all_integers = current_->flat = false;
    return ++depth_ <= kMaxDepth;
  }

  bool end() {
    --depth_;
    return true;
  }

  void note(Type type) {
    if (keys_.empty()) return;
    if (depth_ == 1) keys_.back().type = type;
    if (depth_ == 2) ++keys_.back().count;
  }

  const std::vector<std::string>& wanted_;
  std::vector<Key>& keys_;
  std::vector<Value>& values_;
  Value* current_ = nullptr;  // of the wanted field that is being read
  size_t depth_ = 0;
  size_t position_ = 0;
  std::string message_;
};

std::string in_quotes(std::string_view name) {
  return "\"" + std::string(name) + "\"";
}

// The parser's message without its prefix "[json.exception...] parse error at line 1, column 2: ",
// whose line is that of the row's text and not of the file.
std::string shorten_parser_message(const std::string& message) {
  size_t begin = message.find(": ");
  begin = begin == std::string::npos ? 0 : begin + 2;
  constexpr std::string_view kSyntax = "syntax error while parsing ";
  if (std::string_view(message).substr(begin).starts_with(kSyntax)) {
    begin += std::string_view("syntax error ").size();
  }
  return printable_excerpt(std::string_view(message).substr(begin), 0, 160);
}

}  // namespace

class RowParser::Fields {
 public:
  std::vector<Key> keys;      // in file order
  std::vector<Value> values;  // parallel to wanted_

  const Key* find(std::string_view name) const {
    for (const Key& key : keys) {
      if (key.name == name) return &key;
    }
    return nullptr;
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }

  std::string describe() const {
    std::string text;
    for (size_t i = 0; i < keys.size() && i < 12; ++i) {
      if (i > 0) text += ", ";
      text += printable_excerpt(keys[i].name, 0, 60) + "(" + keys[i].describe_type() + ")";
    }
    if (keys.size() > 12) text += ", … (" + std::to_string(keys.size()) + " fields)";
    return text.empty() ? "no fields" : text;
  }
};

FieldTemplate FieldTemplate::parse(const std::string& option, const std::string& spec) {
  FieldTemplate result;
  result.literals_.emplace_back();
  if (spec.find_first_of("{}") == std::string::npos) {
    result.plain_ = true;
    result.fields_.push_back(spec);
    result.literals_.emplace_back();
    return result;
  }
  const auto fail = [&](const std::string& what) {
    return Error(ExitCode::usage, "DATA-TEMPLATE", "data.fields." + option + ": " + what)
        .found(printable_excerpt(spec, 0, 200))
        .expected("{name} for a field, {{ and }} for braces");
  };
  for (size_t i = 0; i < spec.size(); ++i) {
    const char c = spec[i];
    if ((c == '{' || c == '}') && i + 1 < spec.size() && spec[i + 1] == c) {
      result.literals_.back() += c;
      ++i;
    } else if (c == '{') {
      const size_t close = spec.find_first_of("{}", i + 1);
      if (close == std::string::npos || spec[close] != '}') throw fail("'{' without '}'");
      if (close == i + 1) throw fail("{} names no field");
      result.fields_.push_back(spec.substr(i + 1, close - i - 1));
      result.literals_.emplace_back();
      i = close;
    } else if (c == '}') {
      throw fail("'}' without '{'");
    } else {
      result.literals_.back() += c;
    }
  }
  return result;
}

RowParser::RowParser(const FieldOptions& options, std::vector<std::string> file_names,
                     int32_t vocab_size)
    : options_(options), file_names_(std::move(file_names)), vocab_size_(vocab_size) {
  const bool names_pair = !options.prompt.empty() || !options.completion.empty();
  const bool names_chat = !options.messages.empty() || !options.tools.empty() ||
                          !options.role.empty() || !options.content.empty();
  if (names_pair + !options.text.empty() + !options.input_ids.empty() + names_chat > 1) {
    throw Error(ExitCode::usage, "DATA-FIELDS", "data.fields describes more than one kind of row")
        .expected(
            "one of: text; prompt and completion; messages, tools, role and content; input_ids and "
            "labels");
  }
  if (!options.text.empty()) kind_ = RowKind::text;
  if (names_pair) kind_ = RowKind::prompt_completion;
  if (!options.input_ids.empty()) kind_ = RowKind::tokens;
  if (!options.messages.empty()) kind_ = RowKind::conversation;
  const auto fallback = [](std::string& name, const char* usual) {
    if (name.empty()) name = usual;
  };
  has_pair_ = !options.text_pair.empty();
  if (has_pair_ && !options.label_is_target) {
    throw Error(ExitCode::usage, "DATA-FIELDS", "a pair of texts is for classification")
        .found("data.fields.text_pair = " + options.text_pair)
        .fix(
            "model.task=sequence_classification, or a template of both fields as data.fields.text");
  }
  fallback(options_.text, "text");
  fallback(options_.text_pair, "text_pair");
  fallback(options_.prompt, "prompt");
  fallback(options_.completion, "completion");
  fallback(options_.input_ids, "input_ids");
  fallback(options_.labels, "labels");
  fallback(options_.messages, "messages");
  make_templates();
}

void RowParser::make_templates() {
  wanted_.clear();
  text_ = FieldTemplate::parse("text", options_.text);
  text_pair_ = FieldTemplate::parse("text_pair", options_.text_pair);
  prompt_ = FieldTemplate::parse("prompt", options_.prompt);
  completion_ = FieldTemplate::parse("completion", options_.completion);
  for (const FieldTemplate* part : {&text_, &prompt_, &completion_}) {
    wanted_.insert(wanted_.end(), part->fields().begin(), part->fields().end());
  }
  wanted_.push_back(options_.input_ids);
  wanted_.push_back(options_.labels);
  if (options_.label_is_target) {
    wanted_.insert(wanted_.end(), text_pair_.fields().begin(), text_pair_.fields().end());
    if (options_.label.empty()) wanted_.push_back("label");
  }
  if (!options_.label.empty()) wanted_.push_back(options_.label);
  std::sort(wanted_.begin(), wanted_.end());
  wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
}

Error RowParser::row_error(std::string code, const RawRow& row, const std::string& what) const {
  return data_error(std::move(code), file_names_.at(row.file), row.line, what);
}

RowParser::Fields RowParser::read_fields(const RawRow& row) const {
  Fields fields;
  fields.values.resize(wanted_.size());
  if (options_.label_is_target) {
    for (size_t i = 0; i < wanted_.size(); ++i) {
      fields.values[i].keep_list = options_.label.empty()
                                       ? wanted_[i] == "label" || wanted_[i] == options_.labels
                                       : wanted_[i] == options_.label;
    }
  }
  FieldReader reader(wanted_, fields.keys, fields.values);
  if (!nlohmann::json::sax_parse(row.text, &reader)) {
    if (reader.too_deep()) {
      throw row_error("DATA-JSON", row,
                      "row is nested deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    const size_t at = std::min(row.text.size(), reader.position() - (reader.position() > 0));
    const auto end = row.text.begin() + static_cast<std::ptrdiff_t>(at);
    const auto breaks = static_cast<uint64_t>(std::count(row.text.begin(), end, '\n'));
    const size_t start = breaks == 0 ? 0 : row.text.rfind('\n', at - 1) + 1;
    const uint64_t column = (breaks == 0 ? row.column : 1) + (at - start);
    Error error = data_error("DATA-JSON", file_names_.at(row.file), row.line + breaks,
                             "row is not valid JSON, column " + std::to_string(column));
    error.found(printable_excerpt(row.text, at < 40 ? 0 : at - 40, 80));
    error.why(shorten_parser_message(reader.message()));
    if (at >= row.text.size()) {
      error.fix("JSON Lines needs a whole object on each line; is the line cut off?");
    }
    throw error;
  }
  if (reader.root != Type::object) {
    throw row_error(
        "DATA-TYPE", row,
        std::string("row is a ") + type_name(reader.root) + ", expected an object with fields");
  }
  std::vector<std::string_view> names;
  for (const Key& key : fields.keys) names.push_back(key.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    throw row_error("DATA-JSON", row,
                    "row has field " + in_quotes(printable_excerpt(*twice, 0, 80)) + " twice")
        .why("readers disagree about which of the two counts");
  }
  return fields;
}

Error RowParser::missing_field(const RawRow& row, const Fields& fields,
                               const std::string& name) const {
  Error error = row_error("DATA-FIELD", row, "row has no field " + in_quotes(name));
  error.found(fields.describe());
  std::vector<std::string> names;
  for (const Key& key : fields.keys) {
    if (names.size() < 100) names.push_back(key.name);
  }
  const std::string similar = nearest_word(name, names);
  if (!similar.empty()) {
    error.fix("did you mean " + in_quotes(similar) + "? Say it in data.fields, or correct the row");
  } else {
    error.fix("name the field to use in data.fields, or remove the row");
  }
  return error;
}

void RowParser::decide(const RawRow& first) {
  const Fields fields = read_fields(first);
  if (options_.label_is_target) {
    has_pair_ = has_pair_ || fields.has(options_.text_pair);
    if (options_.label.empty()) {
      const bool plural = !fields.has("label") && fields.has(options_.labels);
      options_.label = plural ? options_.labels : "label";
    }
  } else {
    has_labels_ = fields.has(options_.labels);
  }
  if (kind_) return;
  if (fields.has(options_.input_ids)) {
    kind_ = RowKind::tokens;
    return;
  }
  for (const char* preference : {"chosen", "rejected"}) {
    if (!fields.has(preference)) continue;
    throw row_error("DATA-FORMAT", first,
                    "row has field " + in_quotes(preference) + ": preference data is not supported")
        .found(fields.describe())
        .expected(kSupported)
        .fix("train on the preferred answers: data.fields.prompt and data.fields.completion");
  }
  for (const char* chat : {"messages", "conversations"}) {
    if (!fields.has(chat) || !fields.find(chat)->is_list()) continue;
    kind_ = RowKind::conversation;
    options_.messages = chat;
    return;
  }
  if (fields.has("prompt") && fields.has("completion")) {
    kind_ = RowKind::prompt_completion;
    return;
  }
  // What translations and summaries usually call their two sides. An instruction beside them would
  // be lost.
  if (options_.pair_pad_id && !fields.has("instruction")) {
    constexpr std::pair<const char*, const char*> kPairs[] = {{"source", "target"},
                                                              {"input", "target"},
                                                              {"inputs", "targets"},
                                                              {"input", "output"},
                                                              {"question", "answer"}};
    for (const auto& [source, target] : kPairs) {
      if (!fields.has(source) || !fields.has(target)) continue;
      options_.prompt = source;
      options_.completion = target;
      make_templates();
      kind_ = RowKind::prompt_completion;
      return;
    }
  }
  if (fields.has("text")) {
    kind_ = RowKind::text;
    return;
  }
  Error error = row_error("DATA-FIELD", first, "no field of this row is known");
  error.found(fields.describe()).expected(kSupported);
  constexpr std::pair<const char*, const char*> kPairs[] = {
      {"instruction", "output"}, {"question", "answer"},     {"source", "target"},
      {"input", "output"},       {"query", "response"},      {"problem", "solution"},
      {"prompt", "response"},    {"instruction", "response"}};
  for (const auto& [prompt, completion] : kPairs) {
    if (fields.has(prompt) && fields.has(completion)) {
      throw error.fix("data.fields.prompt=" + std::string(prompt) + " data.fields.completion=" +
                      completion + ", or templates such as \"Question: {question}\\nAnswer:\"");
    }
  }
  for (const char* name : {"content", "body", "document", "story", "code"}) {
    if (fields.has(name)) throw error.fix("data.fields.text=" + std::string(name));
  }
  throw error.fix("name the fields: data.fields.text, or data.fields.prompt and .completion");
}

std::string RowParser::render(const FieldTemplate& what, const RawRow& row,
                              const Fields& fields) const {
  std::string result = what.literals()[0];
  for (size_t i = 0; i < what.fields().size(); ++i) {
    const std::string& name = what.fields()[i];
    const auto at = std::lower_bound(wanted_.begin(), wanted_.end(), name);
    const Value& value = fields.values[static_cast<size_t>(at - wanted_.begin())];
    if (value.type == Type::missing) throw missing_field(row, fields, name);
    const bool scalar = value.type == Type::number || value.type == Type::boolean;
    if (value.type != Type::string && (what.plain() || !scalar)) {
      const std::string type = fields.find(name)->describe_type();
      Error error = row_error("DATA-TYPE", row,
                              "field " + in_quotes(name) + " is a " + type + ", expected a string");
      if (scalar) error.fix("to insert it as text, write it as a template: \"{" + name + "}\"");
      if (value.type == Type::array) {
        error.why("a list of messages belongs into one field: data.fields.messages");
      }
      throw error;
    }
    result += value.text;
    result += what.literals()[i + 1];
  }
  return result;
}

void RowParser::read_tokens(const RawRow& row, const Fields& fields, ParsedRow& result) const {
  const auto integers = [&](const std::string& name) -> const std::vector<int64_t>& {
    const auto at = std::lower_bound(wanted_.begin(), wanted_.end(), name);
    const Value& value = fields.values[static_cast<size_t>(at - wanted_.begin())];
    if (value.type == Type::missing) throw missing_field(row, fields, name);
    if (value.type != Type::array || !value.all_integers) {
      throw row_error("DATA-TYPE", row,
                      "field " + in_quotes(name) + " is a " + fields.find(name)->describe_type() +
                          ", expected a flat list of integers");
    }
    return value.integers;
  };
  const std::vector<int64_t>& ids = integers(options_.input_ids);
  const int64_t limit = vocab_size_ > 0 ? vocab_size_ : int64_t{INT32_MAX};
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= limit) {
      throw row_error("DATA-ID", row,
                      options_.input_ids + "[" + std::to_string(i) + "] is " +
                          std::to_string(ids[i]) + ", expected 0 to " + std::to_string(limit - 1))
          .why("the rows were tokenised with another tokenizer");
    }
    result.input_ids.push_back(static_cast<int32_t>(ids[i]));
  }
  if (options_.label_is_target) return;  // what may be called labels is that of the row
  if (fields.has(options_.labels) != has_labels_) {
    throw has_labels_ ? missing_field(row, fields, options_.labels)
                      : row_error("DATA-FIELD", row,
                                  "row has a field " + in_quotes(options_.labels) +
                                      ", but the first row has none");
  }
  if (!has_labels_) return;
  const std::vector<int64_t>& labels = integers(options_.labels);
  if (options_.pair_pad_id) {
    read_pair_labels(row, labels, result);
    return;
  }
  if (labels.size() != ids.size()) {
    throw row_error("DATA-LENGTH", row,
                    options_.labels + " has " + std::to_string(labels.size()) +
                        " elements, input_ids has " + std::to_string(ids.size()));
  }
  result.trained.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (labels[i] != -100 && labels[i] != ids[i]) {
      throw row_error("DATA-TYPE", row,
                      options_.labels + "[" + std::to_string(i) + "] is " +
                          std::to_string(labels[i]) + ", expected " + std::to_string(ids[i]) +
                          " (the token there) or -100 (not trained)")
          .why("labels are not shifted in the file: the engine shifts them");
    }
    result.trained[i] = labels[i] != -100;
  }
}

void RowParser::read_pair_labels(const RawRow& row, const std::vector<int64_t>& labels,
                                 ParsedRow& result) const {
  const int64_t limit = vocab_size_ > 0 ? vocab_size_ : int64_t{INT32_MAX};
  for (size_t i = 0; i < labels.size(); ++i) {
    const bool trained = labels[i] != -100;
    if (trained && (labels[i] < 0 || labels[i] >= limit)) {
      throw row_error("DATA-ID", row,
                      options_.labels + "[" + std::to_string(i) + "] is " +
                          std::to_string(labels[i]) + ", expected 0 to " +
                          std::to_string(limit - 1) + ", or -100 (not trained)")
          .why("the rows were tokenised with another tokenizer");
    }
    result.target_ids.push_back(trained ? static_cast<int32_t>(labels[i]) : *options_.pair_pad_id);
    result.trained.push_back(trained);
  }
}

std::optional<std::string> RowParser::read_label(const RawRow& row, const Fields& fields) const {
  const auto at = std::lower_bound(wanted_.begin(), wanted_.end(), options_.label);
  const Value& value = fields.values[static_cast<size_t>(at - wanted_.begin())];
  const bool target = options_.label_is_target;
  switch (value.type) {
    case Type::missing:
      if (target && !options_.label_required) return std::nullopt;
      throw missing_field(row, fields, options_.label);
    case Type::null:
      return std::nullopt;
    case Type::string:
    case Type::boolean:
      return value.text;
    case Type::number:
      if (value.integer || target) return value.text;
      break;
    case Type::array:
      if (target && value.flat) return "[" + value.list + "]";
      break;
    case Type::object:
      break;
  }
  throw row_error("DATA-TYPE", row,
                  "field " + in_quotes(options_.label) + " is a " +
                      fields.find(options_.label)->describe_type() + ", expected " +
                      (target ? "a name, a number, or a list of them"
                              : "a string or integer to group rows by"));
}

ParsedRow RowParser::parse(const RawRow& row) const {
  ParsedRow result;
  const bool text_only = row.format == DataFormat::text || kind_ == RowKind::text ||
                         kind_ == RowKind::conversation ||
                         (kind_ == RowKind::tokens && !has_labels_);
  if (options_.pair_pad_id && text_only) {
    throw row_error("DATA-FORMAT", row, "the row has one part, an encoder-decoder model needs two")
        .expected("prompt + completion | input_ids + labels, or data.fields naming other fields")
        .why("the encoder reads the one, the decoder learns to write the other")
        .fix("data.fields.source=<field> data.fields.target=<field>");
  }
  if (row.format == DataFormat::text) {
    result.text = row.text;
    return result;
  }
  if (!kind_) throw std::logic_error("RowParser::decide() must come first");
  const Fields fields = read_fields(row);
  result.kind = *kind_;
  switch (*kind_) {
    case RowKind::text:
      result.text = render(text_, row, fields);
      break;
    case RowKind::prompt_completion:
      result.prompt = render(prompt_, row, fields);
      result.text = render(completion_, row, fields);
      break;
    case RowKind::tokens:
      read_tokens(row, fields, result);
      break;
    case RowKind::conversation: {
      const Key* messages = fields.find(options_.messages);
      if (!messages) throw missing_field(row, fields, options_.messages);
      if (!messages->is_list()) {
        throw row_error("DATA-TYPE", row,
                        "field " + in_quotes(options_.messages) + " is a " +
                            messages->describe_type() + ", expected a list of messages");
      }
      result.text = row.text;
      result.messages_field = options_.messages;
      break;
    }
  }
  if (has_pair_ && *kind_ == RowKind::text) result.text_pair = render(text_pair_, row, fields);
  if (!options_.label.empty()) result.label = read_label(row, fields);
  return result;
}

}  // namespace engine
