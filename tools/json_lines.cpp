#include "tools/json_lines.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/core/json.h"

namespace engine {

LineReader::LineReader(const std::string& path)
    : name_(path == "-" ? "standard input" : path), stream_(&std::cin) {
  if (path == "-") return;
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) file_.open(path, std::ios::binary);
  if (!file_.is_open()) {
    throw Error(ExitCode::data, "DATA-OPEN", "cannot read " + path)
        .why(std::filesystem::exists(path, ignored) ? "a directory, or no permission"
                                                    : "there is no such file");
  }
  stream_ = &file_;
}

bool LineReader::next(std::string& line) {
  while (std::getline(*stream_, line)) {
    ++line_;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line_ == 1 && line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
    if (line.find_first_not_of(" \t") != std::string::npos) return true;
  }
  return false;
}

template <class Json>
bool LineReader::next_object_as(Json& row) {
  std::string line;
  if (!next(line)) return false;
  try {
    row = parse_json<Json>(line);
  } catch (const nlohmann::json::exception& exception) {
    const std::string what = exception.what();
    const size_t end = what.find("] ");
    throw error("DATA-JSON", "not valid JSON")
        .found(end == std::string::npos ? what : what.substr(end + 2));
  }
  if (!row.is_object()) {
    throw error("DATA-JSON", "not a JSON object").found(std::string(row.type_name()));
  }
  return true;
}

bool LineReader::next_object(nlohmann::json& row) {
  return next_object_as(row);
}
bool LineReader::next_object(nlohmann::ordered_json& row) {
  return next_object_as(row);
}

std::string LineReader::place() const {
  return fmt::format("{}:{}", name_, line_);
}

Error LineReader::error(std::string code, const std::string& what) const {
  return Error(ExitCode::data, std::move(code), place() + ": " + what);
}

std::string text_field(const LineReader& reader, const nlohmann::json& row, const char* key) {
  const auto it = row.find(key);
  if (it == row.end()) {
    std::string found;
    for (const auto& [name, value] : row.items()) found += (found.empty() ? "" : ", ") + name;
    throw reader.error("DATA-FIELD", fmt::format("row has no field \"{}\"", key))
        .found(found.empty() ? "no fields" : found);
  }
  if (!it->is_string()) {
    throw reader.error("DATA-TYPE", fmt::format("\"{}\" is not a string", key))
        .found(it->type_name());
  }
  return it->get<std::string>();
}

std::optional<std::vector<int32_t>> ids_field(const LineReader& reader, const nlohmann::json& row,
                                              const char* key, int32_t low) {
  const auto it = row.find(key);
  if (it == row.end() || it->is_null()) return std::nullopt;
  const auto bad = [&](const std::string& found) {
    return reader.error("DATA-TYPE", fmt::format("\"{}\" is not a list of integers", key))
        .expected(fmt::format("integers from {} to 2147483647", low))
        .found(found);
  };
  if (!it->is_array()) throw bad(it->type_name());
  std::vector<int32_t> ids;
  ids.reserve(it->size());
  for (const nlohmann::json& value : *it) {
    const bool fits = value.is_number_unsigned()
                          ? value.get<uint64_t>() <= std::numeric_limits<int32_t>::max()
                          : value.is_number_integer() && value.get<int64_t>() >= low;
    if (!fits) throw bad(fmt::format("{} at index {}", value.dump(), ids.size()));
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& option) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    if (std::string_view(", \t\n[]").find(*at) != std::string_view::npos) {
      ++at;
      continue;
    }
    int32_t id = 0;
    const auto [rest, status] = std::from_chars(at, end, id);
    if (status != std::errc() || id < 0) {
      throw Error(ExitCode::usage, "CLI-USAGE", option + ": not a list of token ids")
          .expected("integers from 0 on, such as \"1,403,407\"")
          .found(text);
    }
    ids.push_back(id);
    at = rest;
  }
  return ids;
}

}  // namespace engine
