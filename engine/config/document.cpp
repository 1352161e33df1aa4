#include "engine/config/document.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "engine/core/error.h"

namespace engine {
namespace {

// Far beyond any sensible config; a file that exceeds them is broken or hostile.
constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxNodes = 100'000;
constexpr size_t kMaxDepth = 32;

// Builds ConfigNodes from parser events. Its own builder rather than YAML::Node: it keeps
// positions, tells quoted from plain, sees duplicate keys and counts what aliases expand to.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  ConfigNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(make(ConfigNode::Kind::null, mark), anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      throw error(mark, "CFG-SYNTAX", "an alias inside the value that it stands for");
    }
    count_nodes(found->second, mark, open_.size());
    ConfigNode copy = found->second;
    if (is_key()) require_scalar_key(copy, mark);
    attach(std::move(copy));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    ConfigNode node = make(ConfigNode::Kind::scalar, mark);
    node.scalar = value;
    node.quoted = tag == "!" || tag == "tag:yaml.org,2002:str";
    if (!node.quoted && tag != "?" && !tag.empty()) throw tag_error(mark, tag);
    add(std::move(node), anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    if (tag != "?" && !tag.empty() && tag != "tag:yaml.org,2002:seq") throw tag_error(mark, tag);
    open(make(ConfigNode::Kind::sequence, mark), anchor, mark);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    if (tag != "?" && !tag.empty() && tag != "tag:yaml.org,2002:map") throw tag_error(mark, tag);
    open(make(ConfigNode::Kind::map, mark), anchor, mark);
  }
  void OnMapEnd() override { close(); }

  Error error(const YAML::Mark& mark, std::string code, std::string what) const {
    return error({mark.line + 1, mark.column + 1}, std::move(code), std::move(what));
  }

  Error error(SourcePosition at, std::string code, std::string what) const {
    Error error(ExitCode::usage, std::move(code), std::move(what));
    error.where(fmt::format("{}:{}:{}", name_, at.line, at.column));
    const std::string line = source_line(text_, at.line);
    if (!line.empty()) error.with("line", line);
    return error;
  }

 private:
  struct Open {
    ConfigNode node;
    YAML::anchor_t anchor = 0;
    std::optional<ConfigNode> key;     // of a map, while its value is being read
    std::map<std::string, int> lines;  // of a map: keys seen, and where
  };

  Error tag_error(const YAML::Mark& mark, const std::string& tag) const {
    return error(mark, "CFG-SYNTAX", "the tag " + tag + " is not supported")
        .fix("write the value without a tag");
  }

  ConfigNode make(ConfigNode::Kind kind, const YAML::Mark& mark) {
    count_node(mark);
    ConfigNode node;
    node.kind = kind;
    node.position = {mark.line + 1, mark.column + 1};
    return node;
  }

  void count_node(const YAML::Mark& mark) {
    if (++nodes_ > kMaxNodes) {
      throw error(mark, "CFG-LIMIT",
                  fmt::format("more than {} values, counting what aliases stand for", kMaxNodes));
    }
  }

  void count_nodes(const ConfigNode& node, const YAML::Mark& mark, size_t depth) {
    count_node(mark);
    if (depth > kMaxDepth) throw depth_error(mark);
    for (const ConfigNode& item : node.items) count_nodes(item, mark, depth + 1);
    for (const auto& [key, value] : node.entries) count_nodes(value, mark, depth + 1);
  }

  Error depth_error(const YAML::Mark& mark) const {
    return error(mark, "CFG-LIMIT", fmt::format("nested deeper than {} levels", kMaxDepth));
  }

  bool is_key() const {
    return !open_.empty() && open_.back().node.kind == ConfigNode::Kind::map && !open_.back().key;
  }

  void require_scalar_key(const ConfigNode& node, const YAML::Mark& mark) const {
    if (node.kind != ConfigNode::Kind::scalar) {
      throw error(mark, "CFG-SYNTAX", "the key of a map must be a word");
    }
  }

  void add(ConfigNode node, YAML::anchor_t anchor) {
    if (anchor != 0) anchors_[anchor] = node;
    attach(std::move(node));
  }

  void open(ConfigNode node, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (is_key()) require_scalar_key(node, mark);
    if (open_.size() >= kMaxDepth) throw depth_error(mark);
    open_.push_back({std::move(node), anchor, std::nullopt, {}});
  }

  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    if (done.anchor != 0) anchors_[done.anchor] = done.node;
    attach(std::move(done.node));
  }

  void attach(ConfigNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == ConfigNode::Kind::sequence) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.key) {
      if (node.kind != ConfigNode::Kind::scalar) {
        throw error(node.position, "CFG-SYNTAX", "the key of a map must be a word");
      }
      const auto [seen, inserted] = parent.lines.emplace(node.scalar, node.position.line);
      if (!inserted) {
        throw error(node.position, "CFG-DUPLICATE", "`" + node.scalar + "` is given twice")
            .with("first", fmt::format("{}:{}", name_, seen->second))
            .fix("remove one of them");
      }
      parent.key = std::move(node);
    } else {
      parent.node.entries.push_back({std::move(*parent.key), std::move(node)});
      parent.key.reset();
    }
  }

  std::string_view text_;
  const std::string& name_;
  ConfigNode root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, ConfigNode> anchors_;
  size_t nodes_ = 0;
};

// The YAML 1.2 core schema for plain scalars.
nlohmann::json scalar_to_json(const ConfigNode& node) {
  const std::string& text = node.scalar;
  if (node.quoted) return text;
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  int64_t integer = 0;
  if (auto [rest, status] = std::from_chars(begin, end, integer);
      status == std::errc() && rest == end) {
    return integer;
  }
  double number = 0;
  const auto [rest, status] = std::from_chars(begin, end, number);
  if (status == std::errc() && rest == end && std::isfinite(number)) return number;
  return text;
}

nlohmann::ordered_json to_json(const ConfigNode& node) {
  switch (node.kind) {
    case ConfigNode::Kind::null:
      return nullptr;
    case ConfigNode::Kind::scalar:
      return scalar_to_json(node);
    case ConfigNode::Kind::sequence: {
      auto array = nlohmann::ordered_json::array();
      for (const ConfigNode& item : node.items) array.push_back(to_json(item));
      return array;
    }
    case ConfigNode::Kind::map: {
      auto object = nlohmann::ordered_json::object();
      for (const auto& [key, value] : node.entries) object[key.scalar] = to_json(value);
      return object;
    }
  }
  return nullptr;
}

}  // namespace

ConfigNode read_config_document(std::string_view text, const std::string& name) {
  if (text.size() > kMaxBytes) {
    throw Error(ExitCode::usage, "CFG-LIMIT",
                fmt::format("{} is {} bytes; a config is at most {}", name, text.size(), kMaxBytes))
        .why("perhaps this is a data file");
  }
  TreeBuilder builder(text, name);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return {};
    ConfigNode root = builder.take();
    TreeBuilder second(text, name);
    if (parser.HandleNextDocument(second)) {
      const ConfigNode other = second.take();
      throw second.error(other.position, "CFG-SYNTAX", "the file has a second document")
          .fix("keep one document per file: remove what follows the line ---");
    }
    return root;
  } catch (const YAML::Exception& exception) {
    Error error = builder.error(exception.mark, "CFG-SYNTAX", exception.msg);
    const std::string line = source_line(text, exception.mark.line + 1);
    if (line.find('\t') != std::string::npos) error.why("YAML is indented by spaces, not tabs");
    throw error;
  }
}

std::string node_to_json(const ConfigNode& node) {
  return to_json(node).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string source_line(std::string_view text, int line) {
  constexpr size_t kScreen = 80;
  size_t begin = 0;
  for (int i = 1; i < line && begin < text.size(); ++i) {
    const size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) return "";
    begin = end + 1;
  }
  if (line < 1 || begin >= text.size()) return "";
  std::string found(text.substr(begin, text.find('\n', begin) - begin));
  while (!found.empty() && (found.back() == '\r' || found.back() == ' ')) found.pop_back();
  if (found.size() > kScreen) found = found.substr(0, kScreen - 3) + "...";
  return found;
}

}  // namespace engine
