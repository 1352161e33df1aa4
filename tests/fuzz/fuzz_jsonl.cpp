// Fuzz entry for the readers of data: any bytes either become rows or throw engine::Error; rows are
// valid UTF-8, within bounds, in order, and do not depend on how the bytes arrive. The first byte
// chooses the format. Link with -fsanitize=fuzzer (clang), or see tests/data/fuzz_test.cpp.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "engine/data/row_parser.h"
#include "engine/data/row_scanner.h"
#include "engine/data/utf8.h"

namespace {

using namespace engine;

class Pieces : public ByteSource {
 public:
  Pieces(std::string_view bytes, size_t piece) : bytes_(bytes), piece_(piece) {}
  size_t read(char* buffer, size_t size) override {
    const size_t count = bytes_.substr(0, std::min(size, piece_)).copy(buffer, size);
    bytes_.remove_prefix(count);
    return count;
  }

 private:
  std::string_view bytes_;
  size_t piece_;
};

// Everything that reading gave, as text.
std::string read(std::string_view bytes, uint8_t choice, size_t piece) {
  ScanOptions options;
  options.max_row_bytes = 4096;
  options.split = static_cast<TextSplit>(choice / 2 % 3);
  const DataFormat format = choice % 2 ? DataFormat::text : DataFormat::json;
  FieldOptions fields;
  if (choice & 64) fields.text = "{a}{b}";
  if (choice & 128) fields.label = "label";
  std::string result;
  try {
    RowParser parser(fields, {"fuzz"}, 1000);
    RowScanner scanner(std::make_unique<Pieces>(bytes, piece), "fuzz", 0, format, options);
    uint64_t line = 1;
    bool decided = false;
    for (RawRow row; scanner.next(row);) {
      const bool whole = format == DataFormat::text && options.split == TextSplit::whole;
      if (row.line < line || (row.text.size() > options.max_row_bytes && !whole) ||
          find_invalid_utf8(row.text) != std::string::npos) {
        std::abort();
      }
      line = row.line;
      if (format == DataFormat::json && !decided) parser.decide(row);
      decided = true;
      const ParsedRow parsed = parser.parse(row);
      if (!parsed.trained.empty() && parsed.trained.size() != parsed.input_ids.size()) {
        std::abort();
      }
      result += parsed.prompt + "|" + parsed.text + "|" + parsed.label.value_or("") + "|";
      for (int32_t id : parsed.input_ids) {
        if (id < 0 || id >= 1000) std::abort();
        result += std::to_string(id) + ",";
      }
    }
  } catch (const Error& error) {
    result += error.what();
  }
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (read(bytes, data[0], SIZE_MAX) != read(bytes, data[0], 1)) std::abort();
  return 0;
}
