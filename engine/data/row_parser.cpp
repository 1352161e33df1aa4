#include "engine/data/row_parser.h"

#include <algorithm>
#include <stdexcept>

#include "engine/data/data_error.h"
#include "engine/data/row_fields.h"
#include "engine/data/utf8.h"

namespace engine {
namespace {

constexpr const char* kSupported =
    "text | prompt + completion | messages [+ tools] | input_ids [+ labels], or data.fields naming "
    "other fields";

std::string in_quotes(std::string_view name) {
  return "\"" + std::string(name) + "\"";
}

}  // namespace

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
  text_ = FieldTemplate::parse("text", options_.text);
  text_pair_ = FieldTemplate::parse("text_pair", options_.text_pair);
  prompt_ = FieldTemplate::parse("prompt", options_.prompt);
  completion_ = FieldTemplate::parse("completion", options_.completion);
  wanted_ = {};
  std::vector<std::string>& names = wanted_.names;
  for (const FieldTemplate* part : {&text_, &prompt_, &completion_}) {
    names.insert(names.end(), part->fields().begin(), part->fields().end());
  }
  names.push_back(options_.input_ids);
  names.push_back(options_.labels);
  if (options_.label_is_target) {
    names.insert(names.end(), text_pair_.fields().begin(), text_pair_.fields().end());
    if (options_.label.empty()) {
      names.push_back("label");
      wanted_.lists = {"label", options_.labels};
    } else {
      wanted_.lists = {options_.label};
    }
  }
  if (!options_.label.empty()) names.push_back(options_.label);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
}

Error RowParser::row_error(std::string code, const RawRow& row, const std::string& what) const {
  return data_error(std::move(code), file_names_.at(row.file), row.line, what);
}

RowFields RowParser::read_fields(const RawRow& row) const {
  RowFields fields(wanted_);
  const RowProblem problem = fields.read(row.text);
  switch (problem.kind) {
    case RowProblem::Kind::none:
      return fields;
    case RowProblem::Kind::too_deep:
      throw row_error(
          "DATA-JSON", row,
          "row is nested deeper than " + std::to_string(RowFields::kMaxDepth) + " levels");
    case RowProblem::Kind::no_object:
      throw row_error(
          "DATA-TYPE", row,
          std::string("row is a ") + type_name(fields.root()) + ", expected an object with fields");
    case RowProblem::Kind::twice:
      throw row_error(
          "DATA-JSON", row,
          "row has field " + in_quotes(printable_excerpt(problem.message, 0, 80)) + " twice")
          .why("readers disagree about which of the two counts");
    case RowProblem::Kind::syntax:
      break;
  }
  const auto end = row.text.begin() + static_cast<std::ptrdiff_t>(problem.at);
  const auto breaks = static_cast<uint64_t>(std::count(row.text.begin(), end, '\n'));
  const size_t start = breaks == 0 ? 0 : row.text.rfind('\n', problem.at - 1) + 1;
  const uint64_t column = (breaks == 0 ? row.column : 1) + (problem.at - start);
  Error error = data_error("DATA-JSON", file_names_.at(row.file), row.line + breaks,
                           "row is not valid JSON, column " + std::to_string(column));
  error.found(printable_excerpt(row.text, problem.at < 40 ? 0 : problem.at - 40, 80));
  error.why(problem.message);
  if (problem.at >= row.text.size()) {
    error.fix("JSON Lines needs a whole object on each line; is the line cut off?");
  }
  throw error;
}

Error RowParser::missing_field(const RawRow& row, const RowFields& fields,
                               const std::string& name) const {
  Error error = row_error("DATA-FIELD", row, "row has no field " + in_quotes(name));
  error.found(fields.describe());
  std::vector<std::string> names;
  for (const RowField& key : fields.fields()) {
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
  const RowFields fields = read_fields(first);
  if (options_.label_is_target) {
    has_pair_ = has_pair_ || fields.has(options_.text_pair);
    if (options_.label.empty()) {
      const bool plural = !fields.has("label") && fields.has(options_.labels);
      options_.label = plural ? options_.labels : "label";
    }
  } else {
    has_labels_ = fields.has(options_.labels);
  }
  if (!kind_) decide_kind(first, fields);
  // TRL's conversational form of prompt and completion.
  const auto is_list = [&](const FieldTemplate& part) {
    const RowField* field = part.plain() ? fields.find(part.fields()[0]) : nullptr;
    return field && field->is_list();
  };
  if (kind_ == RowKind::prompt_completion && is_list(prompt_) && is_list(completion_)) {
    kind_ = RowKind::conversation;
    in_two_parts_ = true;
    options_.messages = options_.prompt;
  }
}

void RowParser::decide_kind(const RawRow& first, const RowFields& fields) {
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
                              const RowFields& fields) const {
  std::string result = what.literals()[0];
  for (size_t i = 0; i < what.fields().size(); ++i) {
    const std::string& name = what.fields()[i];
    const FieldValue& value = fields.value(name);
    if (value.type == FieldType::missing) throw missing_field(row, fields, name);
    const bool scalar = value.type == FieldType::number || value.type == FieldType::boolean;
    if (value.type != FieldType::string && (what.plain() || !scalar)) {
      const std::string type = fields.find(name)->describe_type();
      Error error = row_error("DATA-TYPE", row,
                              "field " + in_quotes(name) + " is a " + type + ", expected a string");
      if (scalar) error.fix("to insert it as text, write it as a template: \"{" + name + "}\"");
      if (value.type == FieldType::array && kind_ == RowKind::prompt_completion) {
        error.why("prompt and completion are lists of messages both, in every row, or neither is");
      }
      throw error;
    }
    result += value.text;
    result += what.literals()[i + 1];
  }
  return result;
}

void RowParser::read_tokens(const RawRow& row, const RowFields& fields, ParsedRow& result) const {
  const auto integers = [&](const std::string& name) -> const std::vector<int64_t>& {
    const FieldValue& value = fields.value(name);
    if (value.type == FieldType::missing) throw missing_field(row, fields, name);
    if (value.type != FieldType::array || !value.all_integers) {
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

std::optional<std::string> RowParser::read_label(const RawRow& row, const RowFields& fields) const {
  const FieldValue& value = fields.value(options_.label);
  const bool target = options_.label_is_target;
  switch (value.type) {
    case FieldType::missing:
      if (target && !options_.label_required) return std::nullopt;
      throw missing_field(row, fields, options_.label);
    case FieldType::null:
      return std::nullopt;
    case FieldType::string:
    case FieldType::boolean:
      return value.text;
    case FieldType::number:
      if (value.integer || target) return value.text;
      break;
    case FieldType::array:
      if (target && value.flat) return "[" + value.list + "]";
      break;
    case FieldType::object:
      break;
  }
  throw row_error("DATA-TYPE", row,
                  "field " + in_quotes(options_.label) + " is a " +
                      fields.find(options_.label)->describe_type() + ", expected " +
                      (target ? "a name, a number, or a list of them"
                              : "a string or integer to group rows by"));
}

// Rows of an encoder-decoder model have two parts, of text or of tokens.
void RowParser::check_pair(const RawRow& row) const {
  const bool json = row.format != DataFormat::text;
  const bool conversation = json && kind_ == RowKind::conversation;
  const bool tokens = json && kind_ == RowKind::tokens;
  if ((json && kind_ == RowKind::prompt_completion) || (tokens && has_labels_)) return;
  throw row_error("DATA-FORMAT", row,
                  conversation
                      ? "the row is a conversation, an encoder-decoder model needs two texts"
                      : "the row has one part, an encoder-decoder model needs two")
      .expected("prompt + completion | input_ids + labels, or data.fields naming other fields")
      .why(conversation ? "its encoder reads a source, and chat templates make one text of it all"
                        : "the encoder reads the one, the decoder learns to write the other")
      .fix(conversation ? "write what is asked and what is answered into two fields, as strings"
                        : "data.fields.source=<field> data.fields.target=<field>");
}

void RowParser::check_messages(const RawRow& row, const RowFields& fields,
                               const std::string& name) const {
  const RowField* messages = fields.find(name);
  if (!messages) throw missing_field(row, fields, name);
  if (messages->is_list()) return;
  throw row_error("DATA-TYPE", row,
                  "field " + in_quotes(name) + " is a " + messages->describe_type() +
                      ", expected a list of messages");
}

ParsedRow RowParser::parse(const RawRow& row) const {
  ParsedRow result;
  if (options_.pair_pad_id) check_pair(row);
  if (row.format == DataFormat::text) {
    result.text = row.text;
    return result;
  }
  if (!kind_) throw std::logic_error("RowParser::decide() must come first");
  const RowFields fields = read_fields(row);
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
    case RowKind::conversation:
      check_messages(row, fields, options_.messages);
      if (in_two_parts_) check_messages(row, fields, options_.completion);
      result.text = row.text;
      result.messages_field = options_.messages;
      if (in_two_parts_) result.completion_field = options_.completion;
      break;
  }
  if (has_pair_ && *kind_ == RowKind::text) result.text_pair = render(text_pair_, row, fields);
  if (!options_.label.empty()) result.label = read_label(row, fields);
  return result;
}

}  // namespace engine
