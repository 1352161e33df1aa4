#include "engine/data/row_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/data/utf8.h"

namespace engine {
namespace {

// Reads one object, keeping the values of wanted top-level fields and the types of the others.
class FieldReader {
 public:
  FieldReader(const std::vector<std::string>& wanted, std::vector<RowField>& keys,
              std::vector<FieldValue>& values)
      : wanted_(wanted), keys_(keys), values_(values) {}

  bool null() { return scalar(FieldType::null, ""); }
  bool boolean(bool value) { return scalar(FieldType::boolean, value ? "true" : "false"); }
  bool number_integer(int64_t value) { return integer(value, std::to_string(value)); }
  bool number_unsigned(uint64_t value) {
    if (value <= static_cast<uint64_t>(INT64_MAX)) {
      return integer(static_cast<int64_t>(value), std::to_string(value));
    }
    return scalar(FieldType::number, std::to_string(value));
  }
  bool number_float(double, const std::string& source) { return scalar(FieldType::number, source); }
  bool string(std::string& value) { return scalar(FieldType::string, std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return false; }  // does not occur in text

  bool start_object(size_t) { return start(FieldType::object); }
  bool start_array(size_t) { return start(FieldType::array); }
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

  FieldType root = FieldType::missing;
  bool too_deep() const { return depth_ > RowFields::kMaxDepth; }
  size_t position() const { return position_; }  // bytes read when parsing failed
  const std::string& message() const { return message_; }

 private:
  bool scalar(FieldType type, std::string text) {
    note(type);
    if (depth_ == 0) root = type;
    if (!current_) return true;
    if (depth_ == 1) {
      current_->type = type;
      current_->text = std::move(text);
    } else if (depth_ == 2) {
      current_->all_integers = false;
      if (type == FieldType::string) text = nlohmann::json(text).dump();
      keep_element(type == FieldType::null ? "null" : text);
    }
    return true;
  }

  void keep_element(const std::string& text) {
    if (!current_->keep_list) return;
    current_->list += (current_->list.empty() ? "" : ",") + text;
  }

  bool integer(int64_t value, std::string text) {
    if (current_ && depth_ == 2) {
      note(FieldType::number);
      current_->integers.push_back(value);
      keep_element(text);
      return true;
    }
    scalar(FieldType::number, std::move(text));
    if (current_ && depth_ == 1) current_->integer = true;
    return true;
  }

  bool start(FieldType type) {
    note(type);
    if (depth_ == 0) root = type;
    if (current_ && depth_ == 1) current_->type = type;
    if (current_ && depth_ == 2) current_->all_integers = current_->flat = false;
    return ++depth_ <= RowFields::kMaxDepth;
  }

  bool end() {
    --depth_;
    return true;
  }

  void note(FieldType type) {
    if (keys_.empty()) return;
    if (depth_ == 1) keys_.back().type = type;
    if (depth_ == 2) ++keys_.back().count;
  }

  const std::vector<std::string>& wanted_;
  std::vector<RowField>& keys_;
  std::vector<FieldValue>& values_;
  FieldValue* current_ = nullptr;  // of the wanted field that is being read
  size_t depth_ = 0;
  size_t position_ = 0;
  std::string message_;
};

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

const char* type_name(FieldType type) {
  switch (type) {
    case FieldType::missing:
      return "missing";
    case FieldType::null:
      return "null";
    case FieldType::boolean:
      return "bool";
    case FieldType::number:
      return "number";
    case FieldType::string:
      return "str";
    case FieldType::array:
      return "list";
    case FieldType::object:
      return "object";
  }
  return "";
}

std::string RowField::describe_type() const {
  std::string text = type_name(type);
  if (type == FieldType::array) text += "[" + std::to_string(count) + "]";
  return text;
}

RowFields::RowFields(const WantedFields& wanted) : wanted_(&wanted), values_(wanted.names.size()) {
  for (size_t i = 0; i < values_.size(); ++i) {
    values_[i].keep_list =
        std::find(wanted.lists.begin(), wanted.lists.end(), wanted.names[i]) != wanted.lists.end();
  }
}

RowProblem RowFields::read(std::string_view json) {
  using Kind = RowProblem::Kind;
  FieldReader reader(wanted_->names, fields_, values_);
  const bool whole = nlohmann::json::sax_parse(json, &reader);
  root_ = reader.root;
  if (!whole) {
    if (reader.too_deep()) return {Kind::too_deep, 0, ""};
    const size_t at = std::min(json.size(), reader.position() - (reader.position() > 0));
    return {Kind::syntax, at, shorten_parser_message(reader.message())};
  }
  if (root_ != FieldType::object) return {Kind::no_object, 0, ""};
  std::vector<std::string_view> names;
  for (const RowField& field : fields_) names.push_back(field.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) return {Kind::twice, 0, std::string(*twice)};
  return {};
}

const RowField* RowFields::find(std::string_view name) const {
  for (const RowField& field : fields_) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

const FieldValue& RowFields::value(const std::string& name) const {
  const std::vector<std::string>& names = wanted_->names;
  const auto at = std::lower_bound(names.begin(), names.end(), name);
  if (at == names.end() || *at != name) throw std::logic_error("RowFields: " + name);
  return values_[static_cast<size_t>(at - names.begin())];
}

std::string RowFields::describe() const {
  std::string text;
  for (size_t i = 0; i < fields_.size() && i < 12; ++i) {
    if (i > 0) text += ", ";
    text += printable_excerpt(fields_[i].name, 0, 60) + "(" + fields_[i].describe_type() + ")";
  }
  if (fields_.size() > 12) text += ", … (" + std::to_string(fields_.size()) + " fields)";
  return text.empty() ? "no fields" : text;
}

}  // namespace engine
