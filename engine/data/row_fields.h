// The fields of one JSON row: types of all, values of those that are wanted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

enum class FieldType : uint8_t { missing, null, boolean, number, string, array, object };
const char* type_name(FieldType type);  // "str", "list", ...

struct RowField {
  std::string name;
  FieldType type = FieldType::missing;
  size_t count = 0;  // elements of a list

  bool is_list() const { return type == FieldType::array; }
  std::string describe_type() const;  // "list[6]"
};

struct FieldValue {
  FieldType type = FieldType::missing;
  std::string text;               // of a string, number or boolean
  std::vector<int64_t> integers;  // of a list, as far as they are integers
  bool all_integers = true;
  bool integer = false;  // a number without fraction and exponent
  // Of a list whose JSON text is wanted: it, as long as it is flat.
  bool keep_list = false, flat = true;
  std::string list;
};

// Which values to read: sorted names, each once.
struct WantedFields {
  std::vector<std::string> names;
  std::vector<std::string> lists;  // of these also the text of a flat list
};

// What kept JSON from being read as a row. The place is left to the reader of the file.
struct RowProblem {
  enum class Kind : uint8_t { none, syntax, too_deep, no_object, twice } kind = Kind::none;
  size_t at = 0;        // syntax: bytes before the place
  std::string message;  // syntax: what the parser says; twice: the name of the field
};

class RowFields {
 public:
  static constexpr size_t kMaxDepth = 256;

  explicit RowFields(const WantedFields& wanted);
  RowProblem read(std::string_view json);

  const RowField* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const std::vector<RowField>& fields() const { return fields_; }  // in file order
  // `name` must be wanted; of type missing when the row does not have it.
  const FieldValue& value(const std::string& name) const;
  FieldType root() const { return root_; }  // what the row is
  std::string describe() const;             // "text(str), ids(list[3])"

 private:
  const WantedFields* wanted_;
  std::vector<RowField> fields_;
  std::vector<FieldValue> values_;  // parallel to the wanted names
  FieldType root_ = FieldType::missing;
};

}  // namespace engine
