// What a raw row means: a text to train on, a prompt with its completion, or token ids.
//
// The first JSON row decides which, by the fields it has, unless `FieldOptions` says it:
//   input_ids [labels]     tokens; labels[i] is input_ids[i] or -100 (not trained)
//   prompt, completion     strings; the prompt is not trained. Or lists of messages both: a
//                          conversation, whose end is the completion
//   text                   string; all of it is trained
//   messages [tools]       a conversation; also called conversations
// For an encoder-decoder model a row is a pair, of a source that the encoder reads and a target:
//   input_ids, labels      tokens of each, with lengths of their own; -100 is not trained
//   prompt, completion     strings; or source, target; input(s), target(s); input, output;
//                          question, answer
// Every row must then have those fields with those types. Preference rows (chosen, rejected) are
// recognised and refused. What a conversation holds is left to who encodes it.
//
// Errors begin with file:line. DATA-FIELD (missing field), DATA-TYPE (wrong type, or labels that
// are not of the row), DATA-ID (outside the vocabulary), DATA-LENGTH (more or fewer labels than
// ids), DATA-JSON (line and column), DATA-FORMAT (a kind of row that is not supported).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/data/field_template.h"
#include "engine/data/row_fields.h"
#include "engine/data/row_scanner.h"

namespace engine {

// Where the parts of a row are. Each is the name of a top-level field, or, if it contains '{', a
// template such as "Question: {question}\nAnswer:" ({{ and }} stand for braces), in which strings,
// numbers and booleans are inserted. Empty: the usual name.
struct FieldOptions {
  std::string text;        // text
  std::string text_pair;   // text_pair: the second of two texts that are classified together
  std::string prompt;      // prompt
  std::string completion;  // completion
  std::string input_ids;   // input_ids (a name, no template)
  std::string labels;      // labels (a name, no template)
  std::string messages;    // messages (a name, no template)
  std::string tools;       // tools (a name, no template)
  std::string role;        // of a message: role, or from (a name, no template)
  std::string content;     // of a message: content, or value (a name, no template)
  // Field with a string, integer or boolean that groups rows for reports such as loss per label;
  // null means none. Empty: rows have no labels.
  std::string label;
  // Rows are pairs; this stands in the decoder's input where a label is -100. Unset: no pairs.
  std::optional<int32_t> pair_pad_id;
  // The label is what is trained: it may also be a number with a fraction, or an array of names or
  // numbers, which becomes JSON text. Its usual name is label, or labels as HF has it.
  bool label_is_target = false;
  bool label_required = true;  // with label_is_target
};

enum class RowKind : uint8_t { text, prompt_completion, tokens, conversation };

struct ParsedRow {
  RowKind kind = RowKind::text;
  std::string prompt;                // prompt_completion
  std::string text;                  // text, or the completion, or the JSON of a conversation's row
  std::string messages_field;        // conversation
  std::string completion_field;      // conversation in two parts: the second; else empty
  std::vector<int32_t> input_ids;    // tokens
  std::vector<int32_t> target_ids;   // tokens, of a pair; `trained` is theirs then
  std::vector<uint8_t> trained;      // tokens: 1 where the token is a target; empty = all
  std::optional<std::string> label;  // group of the row, or its target
  std::optional<std::string> text_pair;
};

class RowParser {
 public:
  // `vocab_size` bounds input_ids; 0 = unknown.
  RowParser(const FieldOptions& options, std::vector<std::string> file_names, int32_t vocab_size);

  // Looks at the first JSON row; must come before parse() of any JSON row.
  void decide(const RawRow& first);

  // Safe to call from several threads at once.
  ParsedRow parse(const RawRow& row) const;

 private:
  void make_templates();
  void decide_kind(const RawRow& first, const RowFields& fields);
  RowFields read_fields(const RawRow& row) const;
  void check_pair(const RawRow& row) const;
  std::string render(const FieldTemplate& what, const RawRow& row, const RowFields& fields) const;
  void read_tokens(const RawRow& row, const RowFields& fields, ParsedRow& result) const;
  void read_pair_labels(const RawRow& row, const std::vector<int64_t>& labels,
                        ParsedRow& result) const;
  void check_messages(const RawRow& row, const RowFields& fields, const std::string& name) const;
  std::optional<std::string> read_label(const RawRow& row, const RowFields& fields) const;
  Error missing_field(const RawRow& row, const RowFields& fields, const std::string& name) const;
  Error row_error(std::string code, const RawRow& row, const std::string& what) const;

  FieldOptions options_;
  std::vector<std::string> file_names_;
  int32_t vocab_size_;
  FieldTemplate text_, text_pair_, prompt_, completion_;
  WantedFields wanted_;  // whose values are kept
  std::optional<RowKind> kind_;
  bool in_two_parts_ = false;  // conversations: prompt and completion
  bool has_labels_ = false;    // tokens: the first row has a labels field
  bool has_pair_ = false;      // the first row has a second text
};

}  // namespace engine
