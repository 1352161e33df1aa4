#include <fmt/core.h>

#include "tokenizer/json_steps.h"

namespace engine::tokenizer {
namespace {

SplitBehavior read_behavior(const Node& node) {
  const std::string& name = node.string();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  throw node.unsupported(fmt::format("split behavior \"{}\"", name),
                         "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

class StepReader {
 public:
  std::vector<std::unique_ptr<PreTokenizer>> steps;
  bool spells_bytes = false;  // the last step is ByteLevel, not written down yet

  void read(const Node& node) {
    const std::string& type = node.type();
    if (type == "Sequence") {
      for (const Node& step : node.at("pretokenizers").elements()) read(step);
      return;
    }
    write_spelling();
    read_step(node, type);
  }
  // Bytes become characters here, for a step or model that wants them so.
  void write_spelling() {
    if (spells_bytes) steps.push_back(make_byte_spelling());
    spells_bytes = false;
  }

 private:
  void add(std::unique_ptr<PreTokenizer> step) { steps.push_back(std::move(step)); }

  void read_step(const Node& node, const std::string& type) {
    if (type == "ByteLevel") {
      if (node.boolean_or("add_prefix_space", true)) add(make_space_prefix());
      if (node.boolean_or("use_regex", true)) add(make_split(Regex(kGpt2Pattern), {}));
      spells_bytes = true;
    } else if (type == "Split") {
      const Node pattern = node.at("pattern");
      add(make_split(make_regex(read_pattern(pattern), pattern),
                     {.behavior = read_behavior(node.at("behavior")),
                      .invert = node.boolean_or("invert", false)}));
    } else if (type == "Digits") {
      const bool each = node.boolean_or("individual_digits", false);
      const SplitBehavior behavior = each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
      add(make_split(Regex("\\p{N}"), {.behavior = behavior}));
    } else if (type == "Punctuation") {
      const SplitBehavior behavior =
          node.has("behavior") ? read_behavior(node.at("behavior")) : SplitBehavior::kIsolated;
      add(make_split(CharacterKind::kPunctuation, {.behavior = behavior}));
    } else if (type == "Whitespace") {
      add(make_word_split());
    } else if (type == "WhitespaceSplit") {
      add(make_split(CharacterKind::kWhiteSpace, {.behavior = SplitBehavior::kRemoved}));
    } else if (type == "BertPreTokenizer") {
      add(make_split(CharacterKind::kWhiteSpace, {.behavior = SplitBehavior::kRemoved}));
      add(make_split(CharacterKind::kPunctuation, {}));
    } else if (type == "CharDelimiterSplit") {
      add(make_split(Regex::literal(node.at("delimiter").character()),
                     {.behavior = SplitBehavior::kRemoved}));
    } else if (type == "FixedLength") {
      const int64_t length = node.has("length") ? node.at("length").integer() : 5;
      if (length < 1) throw node.malformed("pieces cannot be shorter than one character");
      add(make_fixed_length_split(static_cast<size_t>(length)));
    } else if (type == "Metaspace") {
      add(make_metaspace({.replacement = node.at("replacement").character(),
                          .prepend_scheme = read_prepend_scheme(node),
                          .split = node.boolean_or("split", true)}));
    } else {
      throw node.unsupported(fmt::format("pre-tokenizer \"{}\"", type),
                             "ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
                             "BertPreTokenizer, CharDelimiterSplit, FixedLength, Metaspace, "
                             "Sequence");
    }
  }
};

}  // namespace

PrependScheme read_prepend_scheme(const Node& node) {
  // The older field decides where it says no; a scheme that contradicts it is refused.
  const bool without_prefix = !node.boolean_or("add_prefix_space", true);
  if (!node.has("prepend_scheme")) {
    return without_prefix ? PrependScheme::kNever : PrependScheme::kAlways;
  }
  const std::string& name = node.at("prepend_scheme").string();
  if (without_prefix && name != "never") {
    throw node.malformed("add_prefix_space contradicts prepend_scheme");
  }
  if (name == "always") return PrependScheme::kAlways;
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never") return PrependScheme::kNever;
  throw node.unsupported(fmt::format("prepend_scheme \"{}\"", name), "always, first, never");
}

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Node& node, bool bytes_stay_bytes,
                                                 bool* byte_level) {
  StepReader reader;
  reader.read(node);
  *byte_level = reader.spells_bytes && bytes_stay_bytes;
  if (!*byte_level) reader.write_spelling();
  if (reader.steps.empty()) return nullptr;
  if (reader.steps.size() == 1) return std::move(reader.steps[0]);
  return make_pre_tokenizer_sequence(std::move(reader.steps));
}

}  // namespace engine::tokenizer
