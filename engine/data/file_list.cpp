#include "engine/data/file_list.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>

#include "engine/data/data_error.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

DataFormat format_by_name(const fs::path& path) {
  fs::path name = path.filename();
  if (name.extension() == ".gz") name = name.stem();
  const std::string extension = name.extension().string();
  for (const char* text : {".txt", ".text", ".md"}) {
    if (extension == text) return DataFormat::text;
  }
  for (const char* json : {".jsonl", ".ndjson", ".json"}) {
    if (extension == json) return DataFormat::json;
  }
  if (extension == ".csv") return DataFormat::csv;
  if (extension == ".tsv") return DataFormat::tsv;
  return DataFormat::automatic;
}

bool hidden(const fs::path& path) {
  return path.filename().string().starts_with(".");
}

Error missing_file(const std::string& path) {
  Error error = data_error("DATA-OPEN", path + ": no such file");
  std::error_code ignored;
  const fs::path parent = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : ".";
  if (!fs::is_directory(parent, ignored)) {
    error.found("the directory " + parent.string() + " does not exist either");
    return error;
  }
  std::vector<std::string> neighbours;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    if (neighbours.size() < 1000) neighbours.push_back(entry.path().filename().string());
  }
  std::sort(neighbours.begin(), neighbours.end());
  const std::string similar = nearest_word(fs::path(path).filename().string(), neighbours);
  if (!similar.empty()) error.fix("did you mean " + (parent / similar).string() + "?");
  return error;
}

void add_directory(const fs::path& directory, std::vector<std::string>& files) {
  std::vector<std::string> found;
  size_t others = 0;
  fs::recursive_directory_iterator walk(directory), end;
  for (; walk != end; ++walk) {
    if (hidden(walk->path())) {
      if (walk->is_directory()) walk.disable_recursion_pending();
    } else if (walk->is_regular_file()) {
      const DataFormat format = format_by_name(walk->path());
      if (format == DataFormat::text || format == DataFormat::json) {
        found.push_back(walk->path().string());
      } else {
        ++others;
      }
    }
  }
  if (found.empty()) {
    throw data_error("DATA-OPEN", directory.string() + ": no data files in this directory")
        .expected(".txt .text .md .jsonl .ndjson .json, each also with .gz")
        .found(std::to_string(others) + " files with other names");
  }
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

}  // namespace

std::vector<std::string> expand_files(const std::vector<std::string>& patterns) {
  if (patterns.empty()) throw data_error("DATA-OPEN", "no data files are given");
  std::vector<std::string> files;
  for (const std::string& pattern : patterns) {
    std::error_code ignored;
    std::vector<std::string> matches;
    if (fs::exists(pattern, ignored) || pattern.find_first_of("*?[{") == std::string::npos) {
      matches.push_back(pattern);
    } else {
      glob_t result{};
      const int status = glob(pattern.c_str(), GLOB_BRACE, nullptr, &result);
      if (status == 0) matches.assign(result.gl_pathv, result.gl_pathv + result.gl_pathc);
      globfree(&result);
      std::sort(matches.begin(), matches.end());
      if (matches.empty()) throw data_error("DATA-OPEN", pattern + ": matches no file");
    }
    for (const std::string& match : matches) {
      if (fs::is_directory(match, ignored)) {
        add_directory(match, files);
      } else if (fs::exists(match, ignored)) {
        files.push_back(match);
      } else {
        throw missing_file(match);
      }
    }
  }
  return files;
}

DataFormat file_format(const std::string& path, DataFormat requested) {
  const DataFormat format = requested == DataFormat::automatic ? format_by_name(path) : requested;
  switch (format) {
    case DataFormat::text:
      return DataFormat::text;
    case DataFormat::json:
    case DataFormat::jsonl:
      return DataFormat::json;
    case DataFormat::csv:
    case DataFormat::tsv:
      throw data_error("DATA-FORMAT", path + ": CSV and TSV are not supported")
          .fix("write it as JSON Lines: one object per row");
    default:
      throw data_error("DATA-OPEN", path + ": the name does not say what is in the file")
          .expected(".txt .text .md (text), .jsonl .ndjson .json (JSON), each also with .gz")
          .fix("rename it, or say data.format=text or data.format=json");
  }
}

}  // namespace engine
