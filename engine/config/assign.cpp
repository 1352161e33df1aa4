// Typed reading of values. The schema decides the type, never the look of the text: 1e-4 is a
// number, `no` is text where text is wanted and a mistake where true or false is.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>

#include "engine/config/apply.h"

namespace engine {
namespace {

using Kind = ConfigNode::Kind;

std::string shown(const ConfigNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "nothing (null)";
    case Kind::sequence:
      return fmt::format("a list of {}", node.items.size());
    case Kind::map:
      return "a map";
    case Kind::scalar:
      break;
  }
  constexpr size_t kScreen = 60;
  std::string text = node.scalar.substr(0, kScreen);
  if (text.size() < node.scalar.size()) text += "...";
  return node.quoted ? "the text \"" + text + "\"" : text;
}

class Assigner {
 public:
  Assigner(const Field& field, const ConfigNode& node, const Place& place)
      : field_(field), node_(node), place_(place) {}

  void operator()(bool* member) const { *member = boolean(); }
  void operator()(int64_t* member) const { *member = integer<int64_t>(); }
  void operator()(uint64_t* member) const { *member = integer<uint64_t>(); }
  void operator()(double* member) const { *member = number(); }
  void operator()(std::string* member) const { *member = text(node_); }
  void operator()(std::optional<bool>* member) const { *member = boolean(); }
  void operator()(std::optional<int64_t>* member) const { *member = integer<int64_t>(); }
  void operator()(std::optional<uint64_t>* member) const { *member = integer<uint64_t>(); }
  void operator()(std::optional<double>* member) const { *member = number(); }

  void operator()(std::optional<std::string>* member) const {
    std::string value = text(node_);
    if (value.empty()) throw type_error().fix("leave it out, or write null");
    *member = std::move(value);
  }

  void operator()(std::optional<PathOrMap>* member) const {
    if (node_.kind == Kind::map) {
      *member = PathOrMap{.path = "", .json = node_to_json(node_)};
    } else {
      std::string path = text(node_);
      if (path.empty()) throw type_error().fix("leave it out, or write null");
      *member = PathOrMap{.path = std::move(path), .json = ""};
    }
  }

  void operator()(std::vector<std::string>* member) const {
    std::vector<std::string> list;
    if (node_.kind == Kind::sequence) {
      for (const ConfigNode& item : node_.items) list.push_back(text(item));
    } else {
      list.push_back(text(node_));
    }
    *member = std::move(list);
  }

  void operator()(std::map<std::string, std::string>* member) const {
    if (node_.kind != Kind::map) throw type_error();
    std::map<std::string, std::string> map;
    for (const auto& [key, value] : node_.entries) map[key.scalar] = text(value);
    *member = std::move(map);
  }

  void operator()(const ChoiceSlot& choice) const {
    const std::string word = text(node_);
    std::vector<std::string> names(choice.names.begin(), choice.names.end());
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == word) return choice.set(choice.member, i);
    }
    Error error = make_error("CFG-RANGE", fmt::format("{} cannot be {}", field_.key, shown(node_)))
                      .expected(fmt::format("{}", fmt::join(names, ", ")));
    const std::string near = nearest_word(word, names);
    if (const std::string hint = boolean_hint(word); !hint.empty() && is_toggle(choice)) {
      error.fix(hint);
    } else if (!near.empty()) {
      error.fix("did you mean " + near + "?");
    }
    throw error;
  }

  void operator()(const BytesSlot& bytes) const { *bytes.member = size(); }

 private:
  static bool is_toggle(const ChoiceSlot& choice) { return choice.names[1] == "true"; }

  Error make_error(std::string code, std::string what) const {
    Error error(ExitCode::usage, std::move(code), std::move(what));
    error.where(place_.where);
    if (!place_.line.empty()) error.with("line", place_.line);
    return error;
  }

  Error type_error() const {
    const std::string range = range_text(field_.range);
    return make_error("CFG-TYPE", fmt::format("{} cannot be {}", field_.key, shown(node_)))
        .expected(type_name(field_) + (range.empty() ? "" : " " + range));
  }

  Error range_error(const std::string& limits) const {
    return make_error("CFG-RANGE", fmt::format("{} cannot be {}", field_.key, shown(node_)))
        .expected(limits);
  }

  // YAML 1.1 reads these as booleans; YAML 1.2 does not, and neither do we.
  static std::string boolean_hint(std::string_view word) {
    for (const char* yes : {"yes", "Yes", "YES", "on", "On", "ON", "y", "Y", "1"}) {
      if (word == yes) return "write true (YAML 1.2 has only true and false)";
    }
    for (const char* no : {"no", "No", "NO", "off", "Off", "OFF", "n", "N", "0"}) {
      if (word == no) return "write false (YAML 1.2 has only true and false)";
    }
    return "";
  }

  std::string text(const ConfigNode& node) const {
    if (node.kind != Kind::scalar) throw type_error();
    return node.scalar;
  }

  // The scalar of a number or boolean, which must not be in quotes.
  const std::string& plain() const {
    if (node_.kind != Kind::scalar) throw type_error();
    if (node_.quoted) throw type_error().fix("remove the quotes");
    return node_.scalar;
  }

  bool boolean() const {
    const std::string& word = plain();
    if (word == "true" || word == "True" || word == "TRUE") return true;
    if (word == "false" || word == "False" || word == "FALSE") return false;
    Error error = type_error();
    const std::string hint = boolean_hint(word);
    if (!hint.empty()) error.fix(hint);
    throw error;
  }

  static std::optional<double> parse_double(std::string_view text) {
    if (text.starts_with('+')) text.remove_prefix(1);
    double value = 0;
    const auto [rest, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (rest != text.data() + text.size()) return std::nullopt;
    if (status == std::errc::result_out_of_range) return HUGE_VAL;
    if (status != std::errc()) return std::nullopt;
    return value;
  }

  void check_range(double value) const {
    const Range& range = field_.range;
    const bool low = range.min_open ? value <= range.min : value < range.min;
    const bool high = range.max_open ? value >= range.max : value > range.max;
    if (low || high) throw range_error(range_text(range));
  }

  double number() const {
    const std::optional<double> value = parse_double(plain());
    if (!value) throw type_error();
    if (!std::isfinite(*value)) throw range_error("a finite number");
    check_range(*value);
    return *value;
  }

  template <class Int>
  Int integer() const {
    std::string_view word = plain();
    if (word.starts_with('+')) word.remove_prefix(1);
    Int value = 0;
    const auto [rest, status] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (status != std::errc() || rest != word.data() + word.size()) {
      // 1e6 is a fine way to write an integer, 0.5 is not, and -1 is out of range for a seed.
      constexpr double kExact = 9007199254740992.0;  // 2^53
      const std::optional<double> real = parse_double(word);
      if (!real) throw type_error();
      if (!std::isfinite(*real) || (*real == std::trunc(*real) && std::abs(*real) > kExact)) {
        throw range_error(integer_limits<Int>());
      }
      if (*real != std::trunc(*real)) throw type_error().fix("write a whole number");
      if (std::is_unsigned_v<Int> && *real < 0) throw range_error(integer_limits<Int>());
      value = static_cast<Int>(*real);
    }
    check_range(static_cast<double>(value));
    return value;
  }

  template <class Int>
  std::string integer_limits() const {
    const std::string range = range_text(field_.range);
    if (!range.empty()) return range;
    return fmt::format("[{}, {}]", std::numeric_limits<Int>::min(),
                       std::numeric_limits<Int>::max());
  }

  uint64_t size() const {
    if (node_.kind != Kind::scalar) throw type_error();
    const std::string& word = node_.scalar;  // quotes do no harm here
    const size_t digits = word.find_first_not_of("0123456789.eE+");
    const std::string_view unit =
        digits == std::string::npos ? "" : std::string_view(word).substr(digits);
    const std::optional<double> count = parse_double(std::string_view(word).substr(0, digits));
    static constexpr std::pair<std::string_view, double> kUnits[] = {{"", 1},
                                                                     {"B", 1},
                                                                     {"KB", 1e3},
                                                                     {"kB", 1e3},
                                                                     {"MB", 1e6},
                                                                     {"GB", 1e9},
                                                                     {"TB", 1e12},
                                                                     {"KiB", 1024.0},
                                                                     {"MiB", 1048576.0},
                                                                     {"GiB", 1073741824.0},
                                                                     {"TiB", 1099511627776.0}};
    for (const auto& [name, bytes] : kUnits) {
      if ((unit == name || (unit.starts_with(' ') && unit.substr(1) == name)) && count) {
        const double total = *count * bytes;
        if (total >= 0 && total < 9.2e18 && total == std::trunc(total)) {
          return static_cast<uint64_t>(total);
        }
        throw range_error("a whole number of bytes below 2^63");
      }
    }
    throw type_error().fix("write a number and KiB, MiB, GiB, TiB or kB, MB, GB, TB: 8GiB");
  }

  const Field& field_;
  const ConfigNode& node_;
  const Place& place_;
};

}  // namespace

void assign(const Field& field, const ConfigNode& node, const Place& place) {
  std::visit(Assigner(field, node, place), field.slot);
}

}  // namespace engine
