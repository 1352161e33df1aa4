#include "engine/config/print.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/config/yaml_text.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

std::string section_of(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

std::string name_of(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

size_t depth_of(const std::string& key) {
  return static_cast<size_t>(std::count(key.begin(), key.end(), '.'));
}

size_t utf8_width(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(std::string text, size_t width) {
  const size_t columns = utf8_width(text);
  if (columns < width) text.append(width - columns, ' ');
  return text;
}

std::string default_text(const Field& field) {
  if (!field.default_text.empty()) return field.default_text;
  return is_set(field.slot) ? value_text(field.slot) : "unset";
}

std::string yaml_of(TrainConfig config, const Origins& origins, const ConfigPrinting& printing) {
  const Schema schema = train_schema(config);
  std::string text;
  std::vector<std::string> open;  // sections whose line has been written, outermost first
  const auto open_section = [&](const std::string& section) {
    while (!open.empty() && !(section + ".").starts_with(open.back() + ".")) open.pop_back();
    size_t end = open.empty() ? 0 : open.back().size() + 1;
    while (end < section.size()) {
      end = std::min(section.find('.', end), section.size());
      const std::string key = section.substr(0, end++);
      text += fmt::format("{:{}}{}:\n", "", 2 * depth_of(key), name_of(key));
      open.push_back(key);
    }
  };
  const auto add_line = [&](std::string line, const Origin& origin) {
    if (printing.origins) {
      std::string where = origin.text;
      for (char& c : where) {
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';  // an option may hold a line break
      }
      line = padded(line, 42) + "  # " + where;
    }
    text += line + "\n";
  };
  for (const Field& field : schema.fields) {
    const auto found = origins.find(field.key);
    const Origin origin = found == origins.end() ? Origin{} : found->second;
    if (printing.changed_only && origin.level == Origin::Level::standard) continue;
    open_section(section_of(field.key));
    const std::string head =
        fmt::format("{:{}}{}:", "", 2 * depth_of(field.key), name_of(field.key));
    const auto* map = std::get_if<std::optional<PathOrMap>*>(&field.slot);
    if (map != nullptr && (*map)->has_value() && (**map)->json.size() > 2) {  // more than {}
      add_line(head, origin);
      const Json entries = Json::parse((**map)->json);
      for (const auto& [key, value] : entries.items()) {
        text += fmt::format("{:{}}{}: {}\n", "", 2 * depth_of(field.key) + 2, yaml_scalar(key),
                            value.dump(-1, ' ', false, Json::error_handler_t::replace));
      }
    } else {
      add_line(head + " " + value_text(field.slot), origin);
    }
  }
  return text;
}

void add_range(Json& property, const Range& range) {
  if (range.min > -std::numeric_limits<double>::infinity()) {
    property[range.min_open ? "exclusiveMinimum" : "minimum"] = range.min;
  }
  if (range.max < std::numeric_limits<double>::infinity()) {
    property[range.max_open ? "exclusiveMaximum" : "maximum"] = range.max;
  }
}

Json property_of(const Field& field) {
  const std::string type = type_name(field);
  Json property;
  const bool optional = value_text(field.slot) == "null";
  const auto typed = [&](const char* name) {
    property["type"] = optional ? Json::array({name, "null"}) : Json(name);
  };
  if (const auto* choice = std::get_if<ChoiceSlot>(&field.slot)) {
    for (const std::string_view name : choice->names) {
      if (name == "true" || name == "false") {
        property["enum"].push_back(name == "true");
      } else {
        property["enum"].push_back(std::string(name));
      }
    }
  } else if (type == "true|false") {
    typed("boolean");
  } else if (type == "int") {
    typed("integer");
  } else if (type == "float") {
    typed("number");
  } else if (type == "size") {
    property["type"] = Json::array({"string", "integer"});
  } else if (type == "list of text") {
    property["type"] = Json::array({"array", "string"});
    property["items"] = {{"type", "string"}};
  } else if (type == "map of text") {
    property["type"] = "object";
    property["additionalProperties"] = {{"type", "string"}};
  } else if (type == "path or map") {
    property["type"] = Json::array({"string", "object", "null"});
  } else {
    typed("string");
  }
  add_range(property, field.range);
  property["description"] = field.doc;
  if (field.default_text.empty() && is_set(field.slot)) {
    const std::string value = value_text(field.slot);
    property["default"] = Json::accept(value) ? Json::parse(value) : Json(value);
  }
  return property;
}

// "`a|b|c`" with the bars escaped, for a cell of a table.
std::string cell(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == '|' ? std::string("\\|") : std::string(1, c);
  return escaped;
}

constexpr std::string_view kMarkdownHead = R"(# Settings

This page is made from the program's own table of settings by `engine config schema --markdown`.

    engine train run.yaml optimizer.lr=1e-4 --train.max_steps 100

A config is YAML 1.2, so JSON works too. Settings are written nested (`train:` and under it
`seed: 7`) or dotted (`train.seed: 7`). Options on the command line, `a.b=value` or `--a.b value`,
win over the file.

- The setting decides how a value is read: `1e-4` is a number and so is `1e6` for a whole one;
  `no` is a fine name for a file. Booleans are `true` and `false`; `yes`, `no`, `on` and `off` are
  mistakes with an explanation.
- `null` unsets what can be unset. Sizes are `8GiB`, `500MB` or a number of bytes.
- An unknown setting is an error that names the one you meant, also for many names that other
  tools use (`learning_rate`, `per_device_train_batch_size`).
- Relative paths are relative to the working directory, wherever the config is.
- Where only one of two settings may be given, an option on the command line unsets the other one
  of the file: `train.max_steps=10` is enough for a short try of a config with `train.epochs`.
- `model.config` may hold a whole config.json as a map; single values of it can be set with
  `model.config.hidden_size=256`.

`engine config check run.yaml` tells what is wrong, `engine config show run.yaml` what would be used
and where each value came from, `engine config new` writes an example to start from, and
`engine config schema` is a JSON Schema for editors.
)";

}  // namespace

std::string to_yaml(const LoadedTrainConfig& loaded, const ConfigPrinting& printing) {
  return yaml_of(loaded.config, loaded.origins, printing);
}

std::string to_yaml(const TrainConfig& config) {
  return yaml_of(config, {}, {});
}

std::string train_json_schema() {
  TrainConfig config;
  const Schema schema = train_schema(config);
  Json root;
  root["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  root["title"] = "engine train";
  const auto node_for = [&root](const std::string& section) -> Json& {
    Json* node = &root;
    for (size_t begin = 0; begin <= section.size();) {
      const size_t dot = std::min(section.find('.', begin), section.size());
      node = &(*node)["properties"][section.substr(begin, dot - begin)];
      begin = dot + 1;
    }
    return *node;
  };
  root["type"] = "object";
  root["additionalProperties"] = false;
  for (const Section& section : schema.sections) {
    Json& node = node_for(section.key);
    node["type"] = "object";
    node["description"] = section.doc;
    node["additionalProperties"] = false;
  }
  for (const Field& field : schema.fields) {
    node_for(section_of(field.key))["properties"][name_of(field.key)] = property_of(field);
  }
  return root.dump(2) + "\n";
}

std::string train_markdown() {
  TrainConfig config;
  const Schema schema = train_schema(config);
  std::string text(kMarkdownHead);
  for (const Section& section : schema.sections) {
    text += fmt::format("\n## {}\n\n{}.\n\n", section.key, section.doc);
    text += "| setting | type | default | |\n|---|---|---|---|\n";
    for (const Field& field : schema.fields) {
      if (section_of(field.key) != section.key) continue;
      const std::string range = range_text(field.range);
      text += fmt::format("| `{}` | {} | {} | {}. |\n", name_of(field.key),
                          cell(type_name(field)) + (range.empty() ? "" : " " + range),
                          cell(default_text(field)), cell(field.doc));
    }
  }
  return text;
}

std::string schema_help(const Schema& schema) {
  size_t key_width = 0;
  for (const Field& field : schema.fields) key_width = std::max(key_width, field.key.size());
  std::string text;
  std::string section;
  for (const Field& field : schema.fields) {
    if (section_of(field.key) != section) {
      section = section_of(field.key);
      for (const Section& s : schema.sections) {
        if (s.key == section) text += fmt::format("\n{}: {}\n", s.key, s.doc);
      }
    }
    const std::string range = range_text(field.range);
    text += fmt::format("  {}  {}{}, default {}\n  {:{}}  {}\n", padded(field.key, key_width),
                        type_name(field), range.empty() ? "" : " " + range, default_text(field), "",
                        key_width, field.doc);
  }
  return text;
}

}  // namespace engine
