// The one table of settings. Parsing, validation, --help, `engine config schema`, `engine config
// show` and docs/config.md all come from it.
//
// A Schema is bound to a config object: each field holds a pointer to the member it describes. So
// the schema of a default-made object also tells the defaults.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "engine/config/choices.h"
#include "engine/config/train_config.h"

namespace engine {

// A member of enumeration type, with its spellings.
struct ChoiceSlot {
  std::span<const std::string_view> names;
  void* member;
  size_t (*get)(const void* member);
  void (*set)(void* member, size_t index);
};

// A number of bytes, written "8GiB", "500MB" or plain.
struct BytesSlot {
  uint64_t* member;
};

using Slot =
    std::variant<bool*, int64_t*, uint64_t*, double*, std::string*, std::optional<bool>*,
                 std::optional<int64_t>*, std::optional<uint64_t>*, std::optional<double>*,
                 std::optional<std::string>*, std::optional<PathOrMap>*, std::vector<std::string>*,
                 std::map<std::string, std::string>*, ChoiceSlot, BytesSlot>;

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_open = false;  // min itself is not allowed
  bool max_open = false;
};

struct Field {
  std::string key;  // "train.early_stopping.patience"
  Slot slot;
  Range range;
  std::string doc;           // one sentence without a full stop
  std::string default_text;  // in place of "unset" in the documentation, e.g. "8 × data.max_length"
};

struct Section {
  std::string key;
  std::string doc;
};

struct Schema {
  std::vector<Section> sections;
  std::vector<Field> fields;  // those of a section together, in the order of the documentation

  const Field* find(std::string_view key) const;
  const Field& at(std::string_view key) const;  // a missing key is a programming mistake
  bool has_section(std::string_view key) const;
  std::vector<std::string> keys() const;
};

Schema train_schema(TrainConfig& config);
Schema generate_schema(GenerateConfig& config);

// "int", "float", "true|false", "size", "text", "list of text", "map", "a|b|c".
std::string type_name(const Field& field);
// "[0, 1)", ">= 1" or "" when anything goes.
std::string range_text(const Range& range);
// The current value as YAML on one line; "null" when unset.
std::string value_text(const Slot& slot);
// Whether an optional has a value, a list or map has elements, a text is not empty; true otherwise.
bool is_set(const Slot& slot);
// Back to unset (empty); only for slots that can be.
void clear(const Slot& slot);

}  // namespace engine
