// Cuts a stream of bytes into raw rows, each with its place in the file, without ever holding more
// than one row and a read buffer.
//
// Text becomes one row per file, line or paragraph; JSON Lines one row per line that is not blank;
// a JSON array one row per element. A byte order mark at the start and CR before LF are dropped
// (in a whole text file CR LF stays as it is). Errors: DATA-UTF8 (with the byte offset), DATA-JSON
// (the array around the rows, or a NUL byte), DATA-LIMIT (a row over `max_row_bytes`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/data/byte_source.h"
#include "engine/data/file_list.h"

namespace engine {

struct ScanOptions {
  // What one row of a text file is: the file, each line that is not blank, or each paragraph (run
  // of lines with blank lines between them).
  TextSplit split = TextSplit::whole;
  // Bound for one line or JSON element. A whole text file may have 2^31 - 1 bytes instead.
  size_t max_row_bytes = size_t{64} << 20;
};

struct RawRow {
  std::string text;                      // valid UTF-8 without NUL
  uint32_t file = 0;                     // index that the scanner was given
  DataFormat format = DataFormat::text;  // text or json: how to read `text`
  uint64_t line = 1;                     // of the first byte, counted from 1
  uint64_t column = 1;                   // of the first byte in its line, in bytes, counted from 1
};

class RowScanner {
 public:
  // `name` is for messages; `format` is text or json.
  RowScanner(std::unique_ptr<ByteSource> source, std::string name, uint32_t file_index,
             DataFormat format, const ScanOptions& options);

  // False at the end of the file.
  bool next(RawRow& row);

 private:
  enum class Mode : uint8_t { start, whole, lines, paragraphs, json_lines, json_array, done };

  void start();
  bool next_whole(RawRow& row);
  bool next_line(RawRow& row);
  bool next_paragraph(RawRow& row);
  bool next_element(RawRow& row);

  int peek();      // next byte, or -1 at the end
  void advance();  // past the byte that peek() returned
  void skip_space();
  // Sets `text` to the bytes before the next LF, and passes that LF; false at the end.
  bool take_line(std::string& text);
  void check_text(const std::string& text, uint64_t offset, uint64_t line, uint64_t column) const;
  void check_size(size_t size, uint64_t line) const;

  std::unique_ptr<ByteSource> source_;
  std::string name_;
  uint32_t file_index_;
  DataFormat format_;
  ScanOptions options_;

  Mode mode_ = Mode::start;
  bool after_comma_ = false;  // in an array: an element must follow
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;      // unread part of buffer_
  uint64_t offset_ = 0;             // bytes passed, in the decompressed file
  uint64_t line_ = 1, column_ = 1;  // of the next byte
};

}  // namespace engine
