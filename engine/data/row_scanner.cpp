#include "engine/data/row_scanner.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "engine/data/data_error.h"
#include "engine/data/utf8.h"

namespace engine {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;
constexpr size_t kMaxWholeBytes = (size_t{1} << 31) - 1;  // positions are 32-bit

bool is_space(int c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

bool blank(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return is_space(c); });
}

void drop_carriage_return(std::string& text) {
  if (!text.empty() && text.back() == '\r') text.pop_back();
}

}  // namespace

RowScanner::RowScanner(std::unique_ptr<ByteSource> source, std::string name, uint32_t file_index,
                       DataFormat format, const ScanOptions& options)
    : source_(std::move(source)),
      name_(std::move(name)),
      file_index_(file_index),
      format_(format),
      options_(options),
      buffer_(kReadBytes, '\0') {}

int RowScanner::peek() {
  if (begin_ == end_) {
    begin_ = 0;
    end_ = source_->read(buffer_.data(), buffer_.size());
    if (end_ == 0) return -1;
  }
  return static_cast<unsigned char>(buffer_[begin_]);
}

void RowScanner::advance() {
  ++column_;
  if (buffer_[begin_] == '\n') {
    ++line_;
    column_ = 1;
  }
  ++begin_;
  ++offset_;
}

void RowScanner::skip_space() {
  while (is_space(peek())) advance();
}

void RowScanner::check_size(size_t size, uint64_t line) const {
  if (size <= options_.max_row_bytes) return;
  throw data_error(
      "DATA-LIMIT", name_, line,
      "row is larger than " + group_digits(static_cast<int64_t>(options_.max_row_bytes)) + " bytes")
      .why(format_ == DataFormat::json
               ? "a line break or closing brace is missing, or the whole data set is one row"
               : "the text has no line breaks")
      .fix(format_ == DataFormat::json ? "write it as several rows"
                                       : "data.split=whole, or split the text into lines");
}

void RowScanner::check_text(const std::string& text, uint64_t offset, uint64_t line,
                            uint64_t column) const {
  const auto place = [&](size_t position) {  // (line, column) of text[position]
    const auto begin = text.begin(), end = begin + static_cast<std::ptrdiff_t>(position);
    const auto breaks = static_cast<uint64_t>(std::count(begin, end, '\n'));
    const size_t start = breaks == 0 ? 0 : text.rfind('\n', position - 1) + 1;
    return std::pair(line + breaks, (breaks == 0 ? column : 1) + (position - start));
  };
  const size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string::npos) {
    const auto [at_line, at_column] = place(invalid);
    char byte[8];
    std::snprintf(byte, sizeof byte, "0x%02x", static_cast<unsigned char>(text[invalid]));
    throw data_error("DATA-UTF8", name_, at_line,
                     "text is not UTF-8: byte " + std::string(byte) + " at byte offset " +
                         std::to_string(offset + invalid) + " of the file")
        .where("column " + std::to_string(at_column) + ", after \"" +
               printable_excerpt(text.substr(0, invalid), invalid < 32 ? 0 : invalid - 32, 40) +
               "\"")
        .why("the file is in another encoding (Latin-1, Windows-1252), or cut inside a character")
        .fix("convert it, for example: iconv -f WINDOWS-1252 -t UTF-8");
  }
  const size_t nul = text.find('\0');
  if (nul != std::string::npos) {
    const auto [at_line, at_column] = place(nul);
    throw data_error(format_ == DataFormat::json ? "DATA-JSON" : "DATA-UTF8", name_, at_line,
                     "NUL byte at byte offset " + std::to_string(offset + nul) + " (column " +
                         std::to_string(at_column) + ")")
        .why("a binary or UTF-16 file, or a hole left by a crash while writing");
  }
}

void RowScanner::start() {
  while (end_ < 3) {  // bytes may come one at a time
    const size_t count = source_->read(buffer_.data() + end_, buffer_.size() - end_);
    if (count == 0) break;
    end_ += count;
  }
  const int first = peek();
  const std::string_view head(buffer_.data() + begin_, end_ - begin_);
  if (head.starts_with("\xef\xbb\xbf")) {  // UTF-8 byte order mark
    begin_ += 3;
    offset_ += 3;
  } else if (head.starts_with("\xff\xfe") || head.starts_with("\xfe\xff")) {
    throw data_error("DATA-UTF8", name_, 1, "file is UTF-16, expected UTF-8")
        .fix("convert it: iconv -f UTF-16 -t UTF-8");
  }
  if (first < 0) {
    mode_ = Mode::done;
  } else if (format_ == DataFormat::text) {
    mode_ = options_.split == TextSplit::whole   ? Mode::whole
            : options_.split == TextSplit::lines ? Mode::lines
                                                 : Mode::paragraphs;
  } else {
    skip_space();
    mode_ = peek() == '[' ? Mode::json_array : Mode::json_lines;
    if (mode_ == Mode::json_array) advance();
  }
}

bool RowScanner::next(RawRow& row) {
  if (mode_ == Mode::start) start();
  row.text.clear();
  row.file = file_index_;
  row.format = format_;
  switch (mode_) {
    case Mode::whole:
      return next_whole(row);
    case Mode::lines:
    case Mode::json_lines:
      return next_line(row);
    case Mode::paragraphs:
      return next_paragraph(row);
    case Mode::json_array:
      return next_element(row);
    default:
      return false;
  }
}

bool RowScanner::take_line(std::string& text) {
  const uint64_t offset = offset_, line = line_, column = column_;
  text.clear();
  if (peek() < 0) return false;
  while (peek() >= 0) {
    const char* data = buffer_.data() + begin_;
    const auto* stop = static_cast<const char*>(std::memchr(data, '\n', end_ - begin_));
    const size_t count = stop ? static_cast<size_t>(stop - data) : end_ - begin_;
    check_size(text.size() + count, line);
    text.append(data, count);
    begin_ += count;
    offset_ += count;
    column_ += count;
    if (stop) {
      advance();
      break;
    }
  }
  check_text(text, offset, line, column);
  return true;
}

bool RowScanner::next_whole(RawRow& row) {
  mode_ = Mode::done;
  const uint64_t offset = offset_;
  while (peek() >= 0) {
    if (row.text.size() + (end_ - begin_) > kMaxWholeBytes) {
      throw data_error("DATA-LIMIT", name_ + ": text file is larger than " +
                                         group_digits(kMaxWholeBytes) + " bytes")
          .fix("read it in pieces: data.split=blank_lines or data.split=lines");
    }
    row.text.append(buffer_, begin_, end_ - begin_);
    begin_ = end_;
  }
  row.line = row.column = 1;
  check_text(row.text, offset, 1, 1);
  return !row.text.empty();
}

bool RowScanner::next_line(RawRow& row) {
  do {
    row.line = line_;
    row.column = column_;
    if (!take_line(row.text)) {
      mode_ = Mode::done;
      return false;
    }
    drop_carriage_return(row.text);
  } while (blank(row.text));
  return true;
}

bool RowScanner::next_paragraph(RawRow& row) {
  std::string line;
  while (true) {
    const uint64_t at = line_;
    if (!take_line(line)) {
      mode_ = Mode::done;
      return !row.text.empty();
    }
    drop_carriage_return(line);
    if (blank(line)) {
      if (!row.text.empty()) return true;
      continue;
    }
    if (row.text.empty()) {
      row.line = at;
      row.column = 1;
    } else {
      row.text += '\n';
    }
    check_size(row.text.size() + line.size(), row.line);
    row.text += line;
  }
}

bool RowScanner::next_element(RawRow& row) {
  skip_space();
  const auto fail = [&](const std::string& what) {
    return data_error("DATA-JSON", name_, line_, what).where("column " + std::to_string(column_));
  };
  if (peek() < 0) {
    throw fail("file ends inside the JSON array")
        .expected("',' or ']' after the last element")
        .why("interrupted download, or the program that wrote it died");
  }
  if (peek() == ']') {
    if (after_comma_) throw fail("JSON array has a comma before its closing ']'");
    advance();
    skip_space();
    if (peek() >= 0) {
      throw fail("text after the end of the JSON array")
          .fix("for one row per line write objects without the array around them");
    }
    mode_ = Mode::done;
    return false;
  }
  row.line = line_;
  row.column = column_;
  const uint64_t offset = offset_;
  size_t depth = 0;
  bool in_string = false, escaped = false, ended = false;
  while (!ended && peek() >= 0) {  // the buffer at a time
    const size_t start = begin_;
    for (; begin_ < end_; ++begin_) {
      const char c = buffer_[begin_];
      if (in_string) {
        if (escaped) {
          escaped = false;
        } else if (c == '\\') {
          escaped = true;
        } else if (c == '"') {
          in_string = false;
        }
      } else if (c == '"') {
        in_string = true;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if ((c == ',' || c == ']') && depth == 0) {
        ended = true;
        break;
      } else if (c == '}' || c == ']') {
        depth -= depth > 0;
      }
      ++column_;
      if (c == '\n') {
        ++line_;
        column_ = 1;
      }
    }
    offset_ += begin_ - start;
    check_size(row.text.size() + (begin_ - start), row.line);
    row.text.append(buffer_, start, begin_ - start);
  }
  if (!ended) {
    throw fail("file ends inside the JSON array")
        .where("element that begins on line " + std::to_string(row.line))
        .why("interrupted download, or the program that wrote it died");
  }
  check_text(row.text, offset, row.line, row.column);
  if (blank(row.text)) throw fail("JSON array has a comma without an element before it");
  after_comma_ = peek() == ',';
  if (after_comma_) advance();
  return true;
}

}  // namespace engine
