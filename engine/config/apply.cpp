#include "engine/config/apply.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace engine {
namespace {

Error mistake(std::string code, std::string what, const Place& place) {
  Error error(ExitCode::usage, std::move(code), std::move(what));
  error.where(place.where);
  if (!place.line.empty()) error.with("line", place.line);
  return error;
}

bool can_be_unset(const Slot& slot) {
  return std::visit(
      []<class T>(const T&) {
        if constexpr (std::is_pointer_v<T>) {
          using Member = std::remove_pointer_t<T>;
          return !std::is_arithmetic_v<Member> && !std::is_same_v<Member, std::string>;
        }
        return false;
      },
      slot);
}

bool takes_text_as_it_stands(const Slot& slot) {
  return std::holds_alternative<std::string*>(slot) ||
         std::holds_alternative<std::optional<std::string>*>(slot);
}

bool takes_structure(const Slot& slot) {
  return std::holds_alternative<std::vector<std::string>*>(slot) ||
         std::holds_alternative<std::map<std::string, std::string>*>(slot) ||
         std::holds_alternative<std::optional<PathOrMap>*>(slot);
}

std::string last_part(const std::string& key) {
  return key.substr(key.rfind('.') + 1);
}

}  // namespace

Place Applier::place_of(const ConfigNode& node) const {
  Place place;
  place.origin = {Origin::Level::file, fmt::format("{}:{}", name_, node.position.line)};
  place.where = fmt::format("{}:{}:{}", name_, node.position.line, node.position.column);
  place.line = source_line(text_, node.position.line);
  return place;
}

void Applier::apply_document(std::string_view text, const std::string& name) {
  text_ = text;
  name_ = name;
  seen_.clear();
  const ConfigNode root = read_config_document(text, name);
  if (root.kind == ConfigNode::Kind::map) {
    walk(root, "");
  } else if (root.kind != ConfigNode::Kind::null) {
    throw mistake("CFG-TYPE", name + " is not a map of settings", place_of(root))
        .expected("lines such as  train: {seed: 1}");
  }
  text_ = {};
}

void Applier::walk(const ConfigNode& map, const std::string& prefix) {
  for (const auto& [name, value] : map.entries) {
    const std::string key = prefix + name.scalar;
    if (const Field* field = schema_.find(key)) {
      const auto [first, inserted] = seen_.emplace(key, place_of(name).where);
      if (inserted) {
        apply(*field, value, place_of(value.position.line > 0 ? value : name));
      } else {
        mistakes_.push_back(mistake("CFG-DUPLICATE", "`" + key + "` is given twice", place_of(name))
                                .with("first", first->second));
      }
    } else if (schema_.has_section(key)) {
      if (value.kind == ConfigNode::Kind::map) {
        walk(value, key + ".");
      } else if (value.kind != ConfigNode::Kind::null) {
        mistakes_.push_back(
            mistake("CFG-TYPE", "`" + key + "` is a section, not a value", place_of(value))
                .expected("a map of settings"));
      }
    } else {
      mistakes_.push_back(unknown(prefix, name.scalar, place_of(name)));
    }
  }
}

void Applier::apply(const Field& field, const ConfigNode& node, Place place) {
  try {
    if (node.kind == ConfigNode::Kind::null && can_be_unset(field.slot)) {
      clear(field.slot);
    } else {
      assign(field, node, place);
    }
    origins_[field.key] = place.origin;
  } catch (const Error& error) {
    mistakes_.push_back(error);
  }
}

Error Applier::unknown(const std::string& prefix, const std::string& name,
                       const Place& place) const {
  Error error = mistake("CFG-UNKNOWN", "there is no setting `" + prefix + name + "`", place);
  // The name as another tool has it; else a near one in this section; else anywhere.
  std::string near = setting_for_foreign_name(last_part(name));
  if (!near.empty() && schema_.find(near) == nullptr) near.clear();
  if (near.empty()) {
    std::vector<std::string> siblings;
    for (const auto& section : schema_.sections) {
      if (section.key.starts_with(prefix)) siblings.push_back(section.key.substr(prefix.size()));
    }
    for (const Field& field : schema_.fields) {
      if (field.key.starts_with(prefix)) siblings.push_back(field.key.substr(prefix.size()));
    }
    near = nearest_word(name, siblings);
    if (!near.empty()) near = prefix + near;
  }
  for (size_t i = 0; near.empty() && i < schema_.fields.size(); ++i) {
    const std::string& key = schema_.fields[i].key;
    if (last_part(key) == last_part(name)) near = key;
  }
  if (near.empty()) near = nearest_word(prefix + name, schema_.keys());
  if (!near.empty()) return error.fix("did you mean " + near + "?");
  if (name == "<<") return error.why("merge keys are not part of YAML 1.2");
  return error.fix("`engine config schema --markdown` lists every setting");
}

void Applier::apply_option(const std::string& option) {
  Place place;
  place.origin = {Origin::Level::option, "option " + option};
  place.where = "option " + option;
  const size_t equals = option.find('=');
  if (equals == std::string::npos) {
    mistakes_.push_back(
        mistake("CFG-SYNTAX", "an option has the form section.setting=value", place));
    return;
  }
  const std::string key = option.substr(0, equals);
  const std::string value = option.substr(equals + 1);
  const Field* field = schema_.find(key);
  if (field == nullptr) {
    if (apply_inside_map(key, value, place)) return;
    if (schema_.has_section(key)) {
      mistakes_.push_back(mistake("CFG-TYPE", "`" + key + "` is a section, not a setting", place)
                              .fix("set one of its settings: " + key + ".name=value"));
    } else {
      mistakes_.push_back(unknown("", key, place));
    }
    return;
  }
  ConfigNode node;
  if (value == "null" && can_be_unset(field->slot)) {
    node.kind = ConfigNode::Kind::null;
  } else if (takes_structure(field->slot) && (value.starts_with('[') || value.starts_with('{'))) {
    try {
      node = read_config_document(value, place.where);
    } catch (const Error& error) {
      mistakes_.push_back(error);
      return;
    }
  } else {
    node.kind = ConfigNode::Kind::scalar;
    node.scalar = value;
    node.quoted = takes_text_as_it_stands(field->slot);
  }
  apply(*field, node, place);
}

// model.config.hidden_size=64: a setting inside a map that is itself a setting.
bool Applier::apply_inside_map(const std::string& key, const std::string& value,
                               const Place& place) {
  for (const Field& field : schema_.fields) {
    const auto* slot = std::get_if<std::optional<PathOrMap>*>(&field.slot);
    if (slot == nullptr || !key.starts_with(field.key + ".")) continue;
    PathOrMap& target = (*slot)->emplace((*slot)->value_or(PathOrMap{}));
    if (!target.path.empty()) {
      mistakes_.push_back(mistake("CFG-CONFLICT", field.key + " is a file, not a map", place)
                              .found(field.key + " = " + target.path)
                              .fix("change the file, or write the map into the config"));
      return true;
    }
    nlohmann::ordered_json map = target.json.empty() ? nlohmann::ordered_json::object()
                                                     : nlohmann::ordered_json::parse(target.json);
    nlohmann::ordered_json* inner = &map;
    std::string rest = key.substr(field.key.size() + 1);
    for (size_t dot = rest.find('.'); dot != std::string::npos; dot = rest.find('.')) {
      inner = &(*inner)[rest.substr(0, dot)];
      if (!inner->is_object()) *inner = nlohmann::ordered_json::object();
      rest.erase(0, dot + 1);
    }
    try {
      (*inner)[rest] =
          nlohmann::ordered_json::parse(node_to_json(read_config_document(value, place.where)));
      target.json = map.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      origins_[field.key] = place.origin;
    } catch (const Error& error) {
      mistakes_.push_back(error);
    }
    return true;
  }
  return false;
}

void Applier::throw_if_mistaken() const {
  if (mistakes_.empty()) return;
  constexpr size_t kShown = 6;
  Error error = mistakes_.front();
  std::string others;
  for (size_t i = 1; i < mistakes_.size() && i < kShown; ++i) {
    const auto& details = mistakes_[i].details();
    others += (others.empty() ? "" : "\n") + mistakes_[i].message();
    if (!details.empty()) others += " (" + details.front().second + ")";
  }
  if (mistakes_.size() > kShown) {
    others += fmt::format("\nand {} more", mistakes_.size() - kShown);
  }
  if (!others.empty()) error.with("also", others);
  throw error;
}

}  // namespace engine
