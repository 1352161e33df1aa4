// What the tests of the data room share: a directory that goes away, files in it, a byte tokenizer.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/data/tokenise.h"

namespace engine::testing {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "engine-data-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

  std::string write(const std::string& name, std::string_view content) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

// One token per byte: byte b is id b + 3. BOS is 1, EOS is 2.
inline TextEncoder byte_encoder() {
  TextEncoder encoder;
  encoder.encode = [](std::string_view text) {
    std::vector<int32_t> ids;
    for (unsigned char c : text) ids.push_back(c + 3);
    return ids;
  };
  encoder.identity = "bytes";
  encoder.bos_id = 1;
  encoder.eos_id = 2;
  return encoder;
}

inline std::vector<int32_t> row_ids(const TokenisedRows& rows, uint64_t row) {
  const auto ids = rows.ids().subspan(rows.begin(row), rows.length(row));
  return {ids.begin(), ids.end()};
}

inline std::vector<int> row_trainable(const TokenisedRows& rows, uint64_t row) {
  std::vector<int> result;
  for (uint64_t i = 0; i < rows.length(row); ++i) {
    result.push_back(rows.trainable(rows.begin(row) + i));
  }
  return result;
}

// Rows of token ids written down directly; `trained` empty = all.
inline std::shared_ptr<const TokenisedData> data_of(
    const std::vector<std::vector<int32_t>>& rows,
    const std::vector<std::vector<uint8_t>>& trained = {}, int32_t eos_id = -1) {
  TokenWriter writer{Hash128{}};
  for (size_t i = 0; i < rows.size(); ++i) {
    TokenWriter::Row row;
    row.ids = rows[i];
    const std::vector<uint8_t> all(rows[i].size(), 1);
    row.trainable = trained.empty() ? all : trained[i];
    row.content = hash_bytes(rows[i].data(), rows[i].size() * sizeof(int32_t)).low;
    row.line = i + 1;
    writer.add(row);
  }
  auto data = std::make_shared<TokenisedData>(
      TokenisedData{TokenisedRows::from_memory(writer.finish({}, {}), Hash128{})});
  data->files = {"rows.jsonl"};
  data->eos_id = eos_id;
  return data;
}

// The error that `action` throws; fails the test when it throws none.
template <typename Action>
Error error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ExitCode::internal, "NONE", "");
}

inline ::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << part << "\" is not in:\n" << text;
}

}  // namespace engine::testing
