// A config file as a small tree in which every value knows where it was written.
//
// YAML 1.2 and therefore JSON. Anchors and aliases work; merge keys (<<), custom tags and several
// documents in one file do not. Files are bounded (size, depth, number of values after aliases are
// expanded), so that a hostile file is an error and not a hang.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine {

struct SourcePosition {
  int line = 0;    // from 1; 0 = not from a file
  int column = 0;  // from 1
};

struct ConfigEntry;

struct ConfigNode {
  enum class Kind { null, scalar, sequence, map };

  Kind kind = Kind::null;
  std::string scalar;   // scalar: the text, escapes resolved
  bool quoted = false;  // scalar: written in quotes or as a block, so it is text and nothing else
  SourcePosition position;
  std::vector<ConfigNode> items;     // sequence
  std::vector<ConfigEntry> entries;  // map
};

struct ConfigEntry {
  ConfigNode key;  // a scalar
  ConfigNode value;
};

// `name` is shown in errors: a file, or the option that `text` comes from.
// Throws Error CFG-SYNTAX, CFG-DUPLICATE (a key twice in a map) or CFG-LIMIT, each with
// `name`:line:column and the line. An empty document is a null node.
ConfigNode read_config_document(std::string_view text, const std::string& name);

// JSON text of a node, with plain scalars typed by the YAML 1.2 core schema (null, true, 12, 1e-4,
// else text).
std::string node_to_json(const ConfigNode& node);

// Line `line` (from 1) of `text`, without its end, shortened to fit a screen.
std::string source_line(std::string_view text, int line);

}  // namespace engine
