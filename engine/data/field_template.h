// Texts made of fields of a row.
#pragma once

#include <string>
#include <vector>

namespace engine {

// "Question: {question}" as literal pieces and field names.
class FieldTemplate {
 public:
  // Throws DATA-TEMPLATE (exit code usage) when braces do not match.
  static FieldTemplate parse(const std::string& option, const std::string& spec);
  // A plain name: that field alone, which must be a string.
  bool plain() const { return plain_; }
  // fields_[i] follows literals_[i]; there is one literal more than fields.
  const std::vector<std::string>& literals() const { return literals_; }
  const std::vector<std::string>& fields() const { return fields_; }

 private:
  bool plain_ = false;
  std::vector<std::string> literals_, fields_;
};

}  // namespace engine
