// Bytes to rows: hash, UTF-8, scanner, parser, and what is said about bad files.
#include <gtest/gtest.h>
#include <zlib.h>

#include <random>

#include "engine/data/byte_source.h"
#include "engine/data/file_list.h"
#include "engine/data/hash.h"
#include "engine/data/row_parser.h"
#include "engine/data/row_scanner.h"
#include "engine/data/utf8.h"
#include "tests/data/support.h"

namespace engine {
namespace {

using testing::contains;
using testing::error_of;
using testing::TemporaryDirectory;

// A source that gives one to three bytes at a time: no reader may depend on how bytes arrive.
class TrickleSource : public ByteSource {
 public:
  explicit TrickleSource(std::string text) : text_(std::move(text)) {}
  size_t read(char* buffer, size_t size) override {
    const size_t count = std::min({size, text_.size() - at_, size_t{1} + at_ % 3});
    text_.copy(buffer, count, at_);
    at_ += count;
    return count;
  }

 private:
  std::string text_;
  size_t at_ = 0;
};

std::vector<RawRow> scan(const std::string& text, DataFormat format, ScanOptions options = {},
                         bool trickle = false) {
  std::unique_ptr<ByteSource> source;
  if (trickle) {
    source = std::make_unique<TrickleSource>(text);
  } else {
    source = memory_byte_source(text);
  }
  RowScanner scanner(std::move(source), "f.jsonl", 0, format, options);
  std::vector<RawRow> rows;
  for (RawRow row; scanner.next(row);) rows.push_back(row);
  return rows;
}

std::vector<std::string> texts(const std::vector<RawRow>& rows) {
  std::vector<std::string> result;
  for (const RawRow& row : rows) result.push_back(row.text);
  return result;
}

std::vector<ParsedRow> parse(const std::string& text, const FieldOptions& fields = {},
                             int32_t vocab_size = 0) {
  RowParser parser(fields, {"f.jsonl"}, vocab_size);
  std::vector<ParsedRow> result;
  for (const RawRow& row : scan(text, DataFormat::json)) {
    if (result.empty()) parser.decide(row);
    result.push_back(parser.parse(row));
  }
  return result;
}

Error parse_error(const std::string& text, const FieldOptions& fields = {}, int32_t vocab = 0) {
  return error_of([&] { parse(text, fields, vocab); });
}

using Strings = std::vector<std::string>;

TEST(Hash, KnownValuesOfXxh64) {
  EXPECT_EQ(hash_bytes("", 0).low, 0xef46db3751d8e999u);
  EXPECT_EQ(hash_bytes("abc", 3).low, 0x44bc2cf5ad770999u);
  const std::string text = "Nobody inspects the spammish repetition";  // 39 bytes: the long path
  EXPECT_EQ(hash_bytes(text.data(), text.size()).low, 0xfbcea83c8a378bf1u);
}

TEST(Hash, DependsOnBytesNotOnPieces) {
  std::mt19937 random(1);
  std::string bytes(1000, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  const Hash128 whole = hash_bytes(bytes.data(), bytes.size());
  for (int trial = 0; trial < 50; ++trial) {
    Hasher hasher;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = std::min<size_t>(random() % 90, bytes.size() - at);
      hasher.update(bytes.data() + at, size);
      at += size;
    }
    EXPECT_EQ(hasher.finish(), whole);
  }
  bytes[777] ^= 1;
  const Hash128 changed = hash_bytes(bytes.data(), bytes.size());
  EXPECT_NE(changed.low, whole.low);
  EXPECT_NE(changed.high, whole.high);
}

TEST(Utf8, FirstInvalidByte) {
  const size_t npos = std::string_view::npos;
  EXPECT_EQ(find_invalid_utf8("plain ASCII, more than eight bytes"), npos);
  EXPECT_EQ(find_invalid_utf8("h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf"), npos);
  EXPECT_EQ(find_invalid_utf8("123456789\xe9tude"), 9u);  // Latin-1
  EXPECT_EQ(find_invalid_utf8("a\xc0\x80"), 1u);          // overlong NUL
  EXPECT_EQ(find_invalid_utf8("ab\xed\xa0\x80"), 2u);     // surrogate
  EXPECT_EQ(find_invalid_utf8("\xf4\x90\x80\x80"), 0u);   // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("abc\xe2\x82"), 3u);        // cut
  EXPECT_EQ(find_invalid_utf8("\x80"), 0u);
}

TEST(Scanner, TextWholeLinesParagraphs) {
  const std::string text = "\xef\xbb\xbfone\r\ntwo\n\n \nthree\n";
  ScanOptions options;
  for (bool trickle : {false, true}) {
    options.split = TextSplit::whole;
    EXPECT_EQ(texts(scan(text, DataFormat::text, options, trickle)),
              Strings{"one\r\ntwo\n\n \nthree\n"});
    options.split = TextSplit::lines;
    EXPECT_EQ(texts(scan(text, DataFormat::text, options, trickle)),
              (Strings{"one", "two", "three"}));
    options.split = TextSplit::blank_lines;
    const auto paragraphs = scan(text, DataFormat::text, options, trickle);
    EXPECT_EQ(texts(paragraphs), (Strings{"one\ntwo", "three"}));
    EXPECT_EQ(paragraphs[1].line, 5u);
  }
}

TEST(Scanner, JsonLinesAndArraysGiveTheSameRows) {
  const std::string lines = "\n{\"a\": \"x]\\\"},\"}\r\n\n  {\"a\": [1, {\"b\": []}]}\n{}";
  const std::string array = " [\n{\"a\": \"x]\\\"},\"},\n {\"a\": [1, {\"b\": []}]}, {}] \n";
  for (bool trickle : {false, true}) {
    const auto a = scan(lines, DataFormat::json, {}, trickle);
    ASSERT_EQ(a.size(), 3u);
    EXPECT_EQ(a[0].text, "{\"a\": \"x]\\\"},\"}");
    EXPECT_EQ(a[1].line, 4u);
    EXPECT_EQ(a[2].line, 5u);
    const auto b = scan(array, DataFormat::json, {}, trickle);
    ASSERT_EQ(b.size(), 3u);
    EXPECT_EQ(b[0].text, a[0].text);
    EXPECT_EQ(b[0].line, 2u);
    EXPECT_EQ(b[1].line, 3u);
    EXPECT_EQ(b[1].text, "{\"a\": [1, {\"b\": []}]}");
    EXPECT_EQ(b[2].text, "{}");
    EXPECT_EQ(b[2].column, 25u);
  }
  EXPECT_TRUE(scan("[]", DataFormat::json).empty());
  EXPECT_TRUE(scan("", DataFormat::json).empty());
  EXPECT_TRUE(scan("\xef\xbb\xbf", DataFormat::text).empty());
}

TEST(Scanner, BrokenArrays) {
  for (const char* text :
       {"[{},]", "[{}] {}", "[{}", "[", "[,{}]", "[{\"a\": \"]", "[{} , , {}]"}) {
    const Error error = error_of([&] { scan(text, DataFormat::json); });
    EXPECT_EQ(error.code(), "DATA-JSON") << text;
    EXPECT_TRUE(contains(error.what(), "f.jsonl:1: "));
  }
}

TEST(Scanner, BadUtf8SaysByteOffsetLineAndColumn) {
  const Error error =
      error_of([&] { scan("\xef\xbb\xbf{\"a\":1}\n{\"text\": \"caf\xe9\"}\n", DataFormat::json); });
  EXPECT_EQ(error.code(), "DATA-UTF8");
  EXPECT_EQ(error.exit_code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "f.jsonl:2: text is not UTF-8: byte 0xe9 at byte offset 24"));
  EXPECT_TRUE(contains(error.what(), "column 14, after \"{\"text\": \"caf\""));
  const Error later = error_of([&] { scan("line 1\nli\xff", DataFormat::text); });
  EXPECT_TRUE(contains(later.what(), "f.jsonl:2: "));
  EXPECT_TRUE(contains(later.what(), "byte offset 9"));
  EXPECT_EQ(error_of([&] { scan("\xff\xfeh\0i\0", DataFormat::text); }).code(), "DATA-UTF8");
  EXPECT_TRUE(
      contains(error_of([&] { scan(std::string("{\"a\":\0 1}", 9), DataFormat::json); }).what(),
               "NUL byte at byte offset 5"));
}

TEST(Scanner, RowsAreBounded) {
  ScanOptions options;
  options.max_row_bytes = 1 << 20;
  options.split = TextSplit::lines;
  const std::string big(3 << 20, 'x');
  for (const std::string& text : {"{\"a\":\"" + big + "\"}", "[{\"a\":\"" + big + "\"}]"}) {
    const Error error = error_of([&] { scan(text, DataFormat::json, options); });
    EXPECT_EQ(error.code(), "DATA-LIMIT");
    EXPECT_TRUE(contains(error.what(), "row is larger than 1 048 576 bytes"));
  }
  EXPECT_EQ(error_of([&] { scan(big, DataFormat::text, options); }).code(), "DATA-LIMIT");
  options.split = TextSplit::whole;  // a whole file may be larger
  EXPECT_EQ(scan(big, DataFormat::text, options).size(), 1u);
}

TEST(Parser, TheThreeKindsOfRows) {
  const auto text = parse("{\"text\": \"h\\u00e9\\n\", \"id\": 7}");
  EXPECT_EQ(text[0].kind, RowKind::text);
  EXPECT_EQ(text[0].text, "h\xc3\xa9\n");
  const auto pair = parse("{\"completion\": \"b\", \"prompt\": \"a\", \"text\": \"unused\"}");
  EXPECT_EQ(pair[0].kind, RowKind::prompt_completion);
  EXPECT_EQ(pair[0].prompt + "|" + pair[0].text, "a|b");
  const auto tokens = parse("{\"input_ids\": [5,6,7], \"labels\": [-100,6,7]}");
  EXPECT_EQ(tokens[0].kind, RowKind::tokens);
  EXPECT_EQ(tokens[0].input_ids, (std::vector<int32_t>{5, 6, 7}));
  EXPECT_EQ(tokens[0].trained, (std::vector<uint8_t>{0, 1, 1}));
  EXPECT_TRUE(parse("{\"input_ids\": [5]}")[0].trained.empty());
}

TEST(Parser, FieldNamesAndTemplates) {
  FieldOptions fields;
  fields.prompt = "question";
  fields.completion = "answer";
  const auto mapped = parse("{\"question\": \"q\", \"answer\": \"a\", \"text\": \"t\"}", fields);
  EXPECT_EQ(mapped[0].prompt + "|" + mapped[0].text, "q|a");
  fields.prompt = "Q: {question} {{x}}\nA:";
  fields.completion = " {answer}{last}";
  const auto rendered =
      parse("{\"question\": \"q{answer}\", \"answer\": 51.0, \"last\": true}", fields);
  EXPECT_EQ(rendered[0].prompt, "Q: q{answer} {x}\nA:");
  EXPECT_EQ(rendered[0].text, " 51.0true");
  for (const char* bad : {"{", "}", "a{b", "{}", "{a{b}}"}) {
    fields.prompt = bad;
    const Error error = parse_error("{}", fields);
    EXPECT_EQ(error.code(), "DATA-TEMPLATE") << bad;
    EXPECT_EQ(error.exit_code(), ExitCode::usage);
  }
  fields.text = "text";
  fields.prompt = "p";
  EXPECT_EQ(parse_error("{}", fields).code(), "DATA-FIELDS");
}

TEST(Parser, Labels) {
  FieldOptions fields;
  fields.label = "task";
  const auto rows = parse(
      "{\"text\":\"a\",\"task\":\"news\"}\n{\"text\":\"a\",\"task\":3}\n"
      "{\"text\":\"a\",\"task\":null}\n{\"text\":\"a\",\"task\":false}",
      fields);
  EXPECT_EQ(rows[0].label, "news");
  EXPECT_EQ(rows[1].label, "3");
  EXPECT_FALSE(rows[2].label.has_value());
  EXPECT_EQ(rows[3].label, "false");
  EXPECT_EQ(parse_error("{\"text\":\"a\"}", fields).code(), "DATA-FIELD");
  EXPECT_EQ(parse_error("{\"text\":\"a\",\"task\":[1]}", fields).code(), "DATA-TYPE");
  EXPECT_EQ(parse_error("{\"text\":\"a\",\"task\":0.5}", fields).code(), "DATA-TYPE");
}

TEST(Parser, MissingFieldNamesWhatIsThereAndSuggests) {
  const Error error = parse_error(
      "{\"text\": \"a\"}\n\n{\"txet\": \"b\", \"n\": 1, \"m\": [1,2,{}], \"o\": {}, \"z\": null}");
  EXPECT_EQ(error.code(), "DATA-FIELD");
  EXPECT_EQ(error.exit_code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "f.jsonl:3: row has no field \"text\""));
  EXPECT_TRUE(contains(error.what(), "txet(str), n(number), m(list[3]), o(object), z(null)"));
  EXPECT_TRUE(contains(error.what(), "did you mean \"txet\"?"));
  const Error unknown = parse_error("{\"question\": \"q\", \"answer\": \"a\"}");
  EXPECT_EQ(unknown.code(), "DATA-FIELD");
  EXPECT_TRUE(
      contains(unknown.what(), "data.fields.prompt=question data.fields.completion=answer"));
  EXPECT_EQ(parse_error("{}").code(), "DATA-FIELD");
}

TEST(Parser, PreferenceRowsAreRefused) {
  for (const char* text :
       {"{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"}", "{\"rejected\": \"b\"}",
        "{\"conversations\": [], \"chosen\": {}, \"rejected\": {}}"}) {
    const Error error = parse_error(text);
    EXPECT_EQ(error.code(), "DATA-FORMAT") << text;
    EXPECT_TRUE(
        contains(error.what(), "text | prompt + completion | messages [+ tools] | input_ids"));
  }
}

// Both are lists of messages, in every row, or neither is.
TEST(Parser, PromptAndCompletionAsMessages) {
  const std::string lists = "{\"prompt\": [{\"role\": \"user\"}], \"completion\": []}";
  const ParsedRow row = parse(lists).at(0);
  EXPECT_EQ(row.kind, RowKind::conversation);
  EXPECT_EQ(row.text, lists);
  EXPECT_EQ(row.messages_field, "prompt");
  EXPECT_EQ(row.completion_field, "completion");
  for (const std::string& rows : {std::string("{\"prompt\": [], \"completion\": \"a\"}"),
                                  std::string("{\"prompt\": \"a\", \"completion\": []}"),
                                  lists + "\n{\"prompt\": [], \"completion\": \"a\"}",
                                  "{\"prompt\": \"a\", \"completion\": \"b\"}\n" + lists}) {
    EXPECT_EQ(parse_error(rows).code(), "DATA-TYPE") << rows;
  }
}

TEST(Parser, WrongTypes) {
  const Error number = parse_error("{\"text\": \"a\"}\n{\"text\": 5}");
  EXPECT_EQ(number.code(), "DATA-TYPE");
  EXPECT_TRUE(contains(number.what(), "f.jsonl:2: field \"text\" is a number, expected a string"));
  EXPECT_TRUE(contains(number.what(), "\"{text}\""));
  for (const char* text :
       {"{\"text\": null}", "{\"text\": [\"a\"]}", "[[1]]", "5", "\"x\"", "null",
        "{\"input_ids\": \"1 2\"}", "{\"input_ids\": [1, 2.5]}", "{\"input_ids\": [[1]]}",
        "{\"input_ids\": [\"1\"]}", "{\"input_ids\": [1, null]}", "{\"input_ids\": {\"a\": 1}}",
        "{\"input_ids\": [1e3]}", "{\"input_ids\": [18446744073709551615]}",
        "{\"input_ids\": [99999999999999999999]}", "{\"input_ids\": [1,2], \"labels\": [1,3]}"}) {
    EXPECT_EQ(parse_error(text).code(), "DATA-TYPE") << text;
  }
  for (const char* text : {"{\"input_ids\": [-1]}", "{\"input_ids\": [4294967296]}"}) {
    EXPECT_EQ(parse_error(text).code(), "DATA-ID") << text;
  }
  EXPECT_EQ(parse_error("{\"input_ids\": [1,2], \"labels\": [1]}").code(), "DATA-LENGTH");
  EXPECT_TRUE(contains(parse_error("{\"input_ids\": [1,100]}", {}, 100).what(),
                       "input_ids[1] is 100, expected 0 to 99"));
  // What the first row has decides: labels must not silently come or go.
  EXPECT_EQ(parse_error("{\"input_ids\": [1], \"labels\": [1]}\n{\"input_ids\": [1]}").code(),
            "DATA-FIELD");
  EXPECT_EQ(parse_error("{\"input_ids\": [1]}\n{\"input_ids\": [1], \"labels\": [1]}").code(),
            "DATA-FIELD");
}

TEST(Parser, JsonErrorsSayLineAndColumn) {
  const Error error = parse_error("{\"text\": \"a\"}\n{\"text\": \"b\" \"c\"}");
  EXPECT_EQ(error.code(), "DATA-JSON");
  EXPECT_TRUE(contains(error.what(), "f.jsonl:2: row is not valid JSON, column 16"));
  const Error array = parse_error("[{\"text\": \"a\"},\n {\n  \"text\" \"b\"}]");
  EXPECT_TRUE(contains(array.what(), "f.jsonl:3: row is not valid JSON, column 12"));
  const Error pretty = parse_error("{\n  \"text\": \"a\"\n}\n");
  EXPECT_TRUE(contains(pretty.what(), "JSON Lines needs a whole object on each line"));
  for (const char* text :
       {"{\"text\": \"\\ud800\"}", "{\"text\": \"a\tb\"}", "{\"text\": nan}", "{'text': 'a'}",
        "{\"text\": \"a\"} x", "{\"text\": 1e999}", "{\"text\": \"a\", \"text\": \"b\"}"}) {
    EXPECT_EQ(parse_error(text).code(), "DATA-JSON") << text;
  }
  std::string deep = "{\"text\": ";
  deep += std::string(1000000, '[') + std::string(1000000, ']') + "}";
  EXPECT_TRUE(contains(parse_error(deep).what(), "nested deeper than 256 levels"));
  // Messages stay on one screen however large the row is.
  const std::string large = "{\"text\": \"" + std::string(5000000, 'x') + "\\q\"}";
  EXPECT_LT(std::string(parse_error(large).what()).size(), 1000u);
  const std::string key = "{\"" + std::string(5000000, 'k') + "\": 1}";
  EXPECT_LT(std::string(parse_error(key).what()).size(), 1500u);
}

TEST(Files, GzipGlobsAndDirectories) {
  const TemporaryDirectory directory;
  directory.write("d/b.jsonl", "{\"text\": \"b\"}\n");
  directory.write("d/a.txt", "a");
  directory.write("d/sub/c.json", "[]");
  directory.write("d/.hidden.txt", "no");
  directory.write("d/notes.pdf", "no");
  const std::string root = directory.path().string();
  EXPECT_EQ(expand_files({root + "/d"}),
            (Strings{root + "/d/a.txt", root + "/d/b.jsonl", root + "/d/sub/c.json"}));
  EXPECT_EQ(expand_files({root + "/d/*.{txt,jsonl}"}),
            (Strings{root + "/d/a.txt", root + "/d/b.jsonl"}));
  const Error missing = error_of([&] { expand_files({root + "/d/b.jsonk"}); });
  EXPECT_EQ(missing.code(), "DATA-OPEN");
  EXPECT_TRUE(contains(missing.what(), "did you mean " + root + "/d/b.jsonl?"));
  EXPECT_EQ(error_of([&] { expand_files({root + "/x/*.txt"}); }).code(), "DATA-OPEN");
  EXPECT_EQ(error_of([&] { expand_files({}); }).code(), "DATA-OPEN");
  EXPECT_EQ(file_format("a.jsonl.gz", DataFormat::automatic), DataFormat::json);
  EXPECT_EQ(file_format("a.b", DataFormat::text), DataFormat::text);
  EXPECT_EQ(error_of([&] { file_format("a.b", DataFormat::automatic); }).code(), "DATA-OPEN");
  EXPECT_EQ(error_of([&] { file_format("a.csv", DataFormat::automatic); }).code(), "DATA-FORMAT");
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 1024, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string read_all(const std::string& path) {
  const auto source = open_byte_source(path);
  std::string text, buffer(1000, '\0');
  while (const size_t count = source->read(buffer.data(), buffer.size())) {
    text.append(buffer, 0, count);
  }
  return text;
}

TEST(Files, GzipIsReadAndItsDamageFound) {
  const TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 20000; ++i) text += std::to_string(i * 2654435761u) + "\n";
  const std::string packed = gzip(text);
  EXPECT_EQ(read_all(directory.write("a.txt.gz", packed)), text);
  EXPECT_EQ(read_all(directory.write("name-says-nothing.txt", packed)), text);
  EXPECT_EQ(read_all(directory.write("two-members.gz", packed + packed)), text + text);
  for (size_t cut : {packed.size() / 2, packed.size() - 1, packed.size() - 8, size_t{11}}) {
    const std::string path = directory.write("cut.gz", packed.substr(0, cut));
    EXPECT_EQ(error_of([&] { read_all(path); }).code(), "DATA-GZIP") << cut;
  }
  std::string damaged = packed;
  damaged[packed.size() / 2] ^= 0x10;
  const std::string path = directory.write("damaged.gz", damaged);
  EXPECT_EQ(error_of([&] { read_all(path); }).code(), "DATA-GZIP");
  EXPECT_EQ(error_of([&] { read_all(directory.write("plain.gz", "text")); }).code(), "DATA-GZIP");
  EXPECT_EQ(error_of([&] { read_all(directory.write("z.txt", "\x28\xb5\x2f\xfd...")); }).code(),
            "DATA-OPEN");
  EXPECT_EQ(error_of([&] { read_all(directory.path().string()); }).code(), "DATA-OPEN");
}

}  // namespace
}  // namespace engine
