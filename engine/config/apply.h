// Puts values from files and overrides into the fields of a schema, and remembers where each came
// from. Mistakes are collected, so that a user sees all of them at once.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/document.h"
#include "engine/config/schema.h"
#include "engine/core/error.h"

namespace engine {

struct Origin {
  enum class Level { standard, file, option };  // later ones win
  Level level = Level::standard;
  std::string text = "default";  // "default", "run.yaml:12", "option train.seed=7"
};
using Origins = std::map<std::string, Origin>;  // by key

// Where a value was written, for errors.
struct Place {
  Origin origin;
  std::string where;  // "run.yaml:12:9"
  std::string line;   // the line there, may be empty
};

class Applier {
 public:
  explicit Applier(const Schema& schema) : schema_(schema) {}

  // `name` is what errors call the text, usually its path.
  void apply_document(std::string_view text, const std::string& name);
  // "a.b=value". Text settings take the value as it stands; lists and maps are written as in YAML
  // ([a, b], {k: v}), and a list also takes a single plain element; null unsets.
  void apply_option(const std::string& option);

  Origins& origins() { return origins_; }
  // Throws the first of the mistakes so far; the others are listed in it.
  void throw_if_mistaken() const;

 private:
  void walk(const ConfigNode& map, const std::string& prefix);
  void apply(const Field& field, const ConfigNode& node, Place place);
  Error unknown(const std::string& prefix, const std::string& name, const Place& place) const;
  bool apply_inside_map(const std::string& key, const std::string& value, const Place& place);
  Place place_of(const ConfigNode& node) const;

  const Schema& schema_;
  Origins origins_;
  std::vector<Error> mistakes_;
  std::string_view text_;  // the document being applied
  std::string name_;
  std::map<std::string, std::string> seen_;  // keys of that document, and where
};

// Sets the member behind `field`. Throws CFG-TYPE or CFG-RANGE.
void assign(const Field& field, const ConfigNode& node, const Place& place);

// The setting of this project that does what `name` does in other tools ("learning_rate" is
// optimizer.lr), or "".
std::string setting_for_foreign_name(std::string_view name);

}  // namespace engine
