// Rows of a JSON Lines file or of standard input, with their place for errors.
#pragma once

#include <cstdint>
#include <fstream>
#include <istream>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "engine/core/error.h"

namespace engine {

class LineReader {
 public:
  // "-" is standard input. Throws DATA-OPEN (data).
  explicit LineReader(const std::string& path);

  // The next line that is not blank, without its end; false after the last one.
  bool next(std::string& line);
  // The next line as a JSON object. Throws DATA-JSON (data).
  bool next_object(nlohmann::json& row);
  // The same, with the members in the order of the file.
  bool next_object(nlohmann::ordered_json& row);

  // "rows.jsonl:17", the line that was read last.
  std::string place() const;
  // An error of exit code `data` about that line.
  Error error(std::string code, const std::string& what) const;

 private:
  template <class Json>
  bool next_object_as(Json& row);

  std::string name_;
  std::ifstream file_;
  std::istream* stream_;
  uint64_t line_ = 0;
};

// The text in `key` of a row. Throws DATA-FIELD or DATA-TYPE.
std::string text_field(const LineReader& reader, const nlohmann::json& row, const char* key);
// The list of integers in `key`, each from `low` to 2^31 - 1; nothing when the key is absent or
// null. Throws DATA-TYPE.
std::optional<std::vector<int32_t>> ids_field(const LineReader& reader, const nlohmann::json& row,
                                              const char* key, int32_t low = 0);

// "1, 2,3" or "1 2 3" or "[1, 2, 3]" as numbers from 0 on. Throws CLI-USAGE naming `option`.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& option);

}  // namespace engine
