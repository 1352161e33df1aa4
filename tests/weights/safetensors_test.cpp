#include "weights/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/weights/support.h"

namespace engine {
namespace {

using testing::code_of;
using testing::error_of;
using testing::FileSizeLimit;
using testing::ReadOnlyDirectory;
using testing::slurp;
using testing::spit;
using testing::TemporaryDirectory;

std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

SafetensorsContents parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "x.safetensors");
}

std::string code(const std::string& file) {
  return code_of([&] { parse(file); });
}

// The code for a header alone, with 8 bytes of data behind it.
std::string header_code(const std::string& header) {
  return code(file_of(header, "01234567"));
}

const std::string kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

TEST(SafetensorsReader, ReadsTensorsAndMetadata) {
  const std::string file =
      file_of(R"({"__metadata__":{"format":"pt","k\u00e9y":""},)"
              R"("second":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]},)"
              R"("first":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}})",
              "01234567");
  const SafetensorsContents contents = parse(file);
  ASSERT_EQ(contents.tensors.size(), 2u);
  EXPECT_EQ(contents.tensors[0].name, "first");
  EXPECT_EQ(contents.tensors[0].shape, std::vector<int64_t>{});
  EXPECT_EQ(contents.tensors[0].num_elements(), 1);
  EXPECT_EQ(contents.tensors[1].name, "second");
  EXPECT_EQ(contents.tensors[1].dtype, FileDtype::bf16);
  EXPECT_EQ(contents.tensors[1].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(contents.tensors[1].data), 4), "4567");
  EXPECT_EQ(contents.metadata, (SafetensorsMetadata{{"format", "pt"}, {"k\u00e9y", ""}}));
}

TEST(SafetensorsReader, AcceptsWhatTheReferenceAccepts) {
  EXPECT_EQ(code(file_of("{}", "")), "");
  EXPECT_EQ(header_code(kGood), "");
  EXPECT_EQ(header_code(" \n" + kGood + "\t\r\n   "), "");  // JSON whitespace on both sides
  EXPECT_EQ(header_code(R"({"__metadata__":null,)" + kGood.substr(1)), "");
  EXPECT_EQ(header_code(R"({"__metadata__":{},)" + kGood.substr(1)), "");
  // Zero-size tensors may share an offset, in any order of the header.
  EXPECT_EQ(header_code(R"({"z":{"dtype":"F32","shape":[0,9],"data_offsets":[8,8]},)"
                        R"("y":{"dtype":"I64","shape":[0],"data_offsets":[0,0]},)" +
                        kGood.substr(1)),
            "");
  // Further fields of a tensor, with values of any kind.
  EXPECT_EQ(header_code(R"({"a":{"x":[1,{"dtype":[]},-2.5,null],"dtype":"F32","y":{"z":true},)"
                        R"("shape":[2],"v":-1,"w":"s","data_offsets":[0,8],"u":null}})"),
            "");
  // Sub-byte types: 16 elements of 4 bits, 4 elements of 6 bits.
  EXPECT_EQ(header_code(R"({"a":{"dtype":"F4","shape":[16],"data_offsets":[0,8]}})"), "");
  EXPECT_EQ(header_code(R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},)"
                        R"("b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})"),
            "");
}

TEST(SafetensorsReader, HeaderLength) {
  EXPECT_EQ(code(""), "ST-HEADER-TOO-SMALL");
  EXPECT_EQ(code(std::string(7, '\0')), "ST-HEADER-TOO-SMALL");
  EXPECT_EQ(code(std::string(8, '\xff')), "ST-HEADER-TOO-LARGE");
  EXPECT_EQ(code(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8)), "ST-HEADER-TOO-LARGE");  // 10^8 + 1
  EXPECT_EQ(code(std::string("\x00\xe1\xf5\x05\0\0\0\0", 8)), "ST-HEADER-LENGTH");     // 10^8
  std::string file = file_of(kGood, "");
  file.pop_back();
  EXPECT_EQ(code(file), "ST-HEADER-LENGTH");
}

TEST(SafetensorsReader, NamesOtherFormats) {
  const auto why = [](const std::string& file) {
    return std::string(error_of([&] { parse(file); }).what());
  };
  EXPECT_NE(why("version https://git-lfs.github.com/spec/v1\noid sha256:0").find("git lfs pull"),
            std::string::npos);
  EXPECT_NE(why("PK\x03\x04 archive/data.pkl").find("PyTorch"), std::string::npos);
  EXPECT_NE(why(std::string("GGUF\x03\0\0\0\0\0\0\0", 12)).find("GGUF"), std::string::npos);
}

TEST(SafetensorsReader, TextOfTheHeader) {
  EXPECT_EQ(header_code("{\"\xff\":1}"), "ST-UTF8");
  EXPECT_EQ(header_code("{\"\xc0\xaf\":1}"), "ST-UTF8");      // overlong
  EXPECT_EQ(header_code("{\"\xed\xa0\x80\":1}"), "ST-UTF8");  // surrogate
  EXPECT_EQ(header_code("{\"\xe2\x82"), "ST-UTF8");           // cut inside a character
  EXPECT_EQ(header_code(""), "ST-JSON");
  EXPECT_EQ(header_code("   "), "ST-JSON");
  EXPECT_EQ(header_code("[]"), "ST-JSON");
  EXPECT_EQ(header_code("\"a\""), "ST-JSON");
  EXPECT_EQ(header_code("{"), "ST-JSON");
  EXPECT_EQ(header_code(kGood + "}"), "ST-JSON");
  EXPECT_EQ(header_code(kGood + std::string(1, '\0') + "garbage"), "ST-JSON");
  EXPECT_EQ(header_code("\xef\xbb\xbf" + kGood), "ST-JSON");  // byte order mark
  EXPECT_EQ(header_code(R"({"\ud800":1})"), "ST-JSON");       // half of a surrogate pair
  EXPECT_EQ(header_code(R"({'a':1})"), "ST-JSON");
}

TEST(SafetensorsReader, LayoutOfTheHeader) {
  const char* bad_headers[] = {
      R"({"a":1})",
      R"({"a":"F32"})",
      R"({"a":["F32",[2],[0,8]]})",
      R"({"a":{}})",
      R"({"a":{"dtype":"F32","shape":[2]}})",
      R"({"a":{"dtype":"F32","data_offsets":[0,8]}})",
      R"({"a":{"shape":[2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}})",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":{"begin":0}}})",
      R"({"a":{"dtype":"F32","shape":null,"data_offsets":[0,8]}})",
      R"({"__metadata__":{"a":1}})",
      R"({"__metadata__":{"a":{}}})",
      R"({"__metadata__":"pt"})",
      R"({"__metadata__":[]})",
  };
  for (const char* header : bad_headers) EXPECT_EQ(header_code(header), "ST-JSON") << header;
  for (const char* dtype : {"F33", "f32", "", "F8"}) {
    EXPECT_EQ(header_code(R"({"a":{"dtype":")" + std::string(dtype) +
                          R"(","shape":[2],"data_offsets":[0,8]}})"),
              "ST-DTYPE");
  }
}

TEST(SafetensorsReader, Duplicates) {
  EXPECT_EQ(header_code(kGood.substr(0, kGood.size() - 1) + "," + kGood.substr(1)), "ST-DUPLICATE");
  EXPECT_EQ(header_code(R"({"__metadata__":{},"__metadata__":{}})"), "ST-DUPLICATE");
  EXPECT_EQ(header_code(R"({"__metadata__":{"a":"","a":""}})"), "ST-DUPLICATE");
  EXPECT_EQ(header_code(R"({"a":{"dtype":"F32","dtype":"F32"}})"), "ST-DUPLICATE");
}

TEST(SafetensorsReader, OffsetsAndSizes) {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return header_code(R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape +
                       R"(,"data_offsets":)" + offsets + "}}");
  };
  EXPECT_EQ(one("F32", "[2]", "[0,8]"), "");
  EXPECT_EQ(one("F32", "[1]", "[4,8]"), "ST-OFFSET");  // does not begin at 0
  EXPECT_EQ(one("F32", "[1]", "[8,0]"), "ST-OFFSET");
  EXPECT_EQ(one("F32", "[1]", "[0,8]"), "ST-SIZE");
  EXPECT_EQ(one("F32", "[3]", "[0,8]"), "ST-SIZE");
  EXPECT_EQ(one("F4", "[3]", "[0,1]"), "ST-MISALIGNED");
  EXPECT_EQ(one("F32", "[4294967296,4294967296]", "[0,8]"), "ST-OVERFLOW");
  EXPECT_EQ(one("F32", "[4611686018427387904]", "[0,8]"), "ST-OVERFLOW");  // only in bits
  EXPECT_EQ(one("F32", "[9223372036854775808,0]", "[0,8]"), "ST-OVERFLOW");
  EXPECT_EQ(one("U8", "[7]", "[0,7]"), "ST-TRAILING");
  EXPECT_EQ(one("U8", "[9]", "[0,9]"), "ST-TRUNCATED");
  // The end near 2^64 must not wrap around to something that fits.
  EXPECT_EQ(one("U8", "[2305843009213693951]", "[0,2305843009213693951]"), "ST-TRUNCATED");
  EXPECT_EQ(one("U8", "[18446744073709551615]", "[0,18446744073709551615]"), "ST-OVERFLOW");

  const auto two = [](const std::string& first, const std::string& second) {
    return header_code(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                       R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}");
  };
  EXPECT_EQ(two("[0,4]", "[4,8]"), "");
  EXPECT_EQ(two("[4,8]", "[0,4]"), "");
  EXPECT_EQ(two("[0,4]", "[3,7]"), "ST-OFFSET");
  EXPECT_EQ(two("[0,4]", "[5,9]"), "ST-OFFSET");
  EXPECT_EQ(two("[0,4]", "[0,4]"), "ST-OFFSET");
}

TEST(SafetensorsReader, TruncationNamesTheTensors) {
  std::string file = file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},)"
                             R"("c":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}})",
                             "0123456");
  const Error error = error_of([&] { parse(file); });
  EXPECT_EQ(error.code(), "ST-TRUNCATED");
  EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
  const std::string text = error.what();
  EXPECT_NE(text.find("5 missing"), std::string::npos) << text;
  EXPECT_NE(text.find("1 of 3 tensors, the last is a"), std::string::npos) << text;
  EXPECT_NE(text.find("2: b, c"), std::string::npos) << text;
}

TEST(SafetensorsReader, DeepNestingCostsNoStack) {
  const size_t depth = 20'000'000;  // would be gigabytes of stack frames
  EXPECT_EQ(header_code(std::string(depth, '[')), "ST-JSON");
  EXPECT_EQ(header_code(R"({"a":{"x":)" + std::string(depth, '[')), "ST-JSON");
  EXPECT_EQ(header_code(R"({"a":{"x":)" + std::string(depth / 2, '[') +
                        std::string(depth / 2, ']') + "," + kGood.substr(6) + ""),
            "");
}

TEST(SafetensorsReader, OpensFilesAndFindsByName) {
  const TemporaryDirectory directory;
  spit(directory / "m.safetensors", file_of(kGood, "01234567"));
  const SafetensorsFile file = SafetensorsFile::open(directory / "m.safetensors");
  ASSERT_NE(file.find("a"), nullptr);
  EXPECT_EQ(file.find("a")->bytes, 8u);
  EXPECT_EQ(file.find("b"), nullptr);
  EXPECT_EQ(code_of([&] { SafetensorsFile::open(directory / "none.safetensors"); }), "IO-MISSING");
}

// Damaged headers either parse or throw engine::Error; anything else ends the test program.
TEST(SafetensorsReader, MutatedFilesNeverCrash) {
  const std::string seed = file_of(
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},)"
      R"("z":{"dtype":"I64","shape":[0],"data_offsets":[14,14]}}  )",
      std::string(14, 'x'));
  const std::string alphabet = "{}[]\",:0123456789-.eE\\utrnfalsF BUI\x00\xff\xc3";
  std::mt19937_64 random(7);
  std::map<std::string, int> outcomes;
  for (int round = 0; round < 20000; ++round) {
    std::string file = seed;
    const int mutations = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < mutations && !file.empty(); ++i) {
      const size_t at = random() % file.size();
      const char byte =
          random() % 8 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
      switch (random() % 5) {
        case 0:
          file[at] = byte;
          break;
        case 1:
          file.insert(at, 1, byte);
          break;
        case 2:
          file.erase(at, 1 + random() % 8);
          break;
        case 3:
          file.insert(at, file.substr(random() % file.size(), random() % 40));
          break;
        case 4:
          file.resize(at);
          break;
      }
    }
    if (file.size() >= 8 && random() % 4 != 0) {  // mostly keep the length honest
      const uint64_t length = file.size() < 22 ? 0 : file.size() - 8 - 14;
      std::memcpy(file.data(), &length, 8);
    }
    // A copy of its own, so that sanitizers see any read past the end.
    const std::vector<char> exact(file.begin(), file.end());
    std::string outcome = "ok";
    try {
      const auto contents = parse_safetensors(std::as_bytes(std::span(exact)), "fuzz");
      size_t total = 0;
      for (const TensorEntry& entry : contents.tensors) total += entry.bytes;
      ASSERT_LE(total, exact.size());
    } catch (const Error& error) {
      outcome = error.code();
    }
    ++outcomes[outcome];
  }
  EXPECT_GT(outcomes["ok"], 100);
  EXPECT_GT(outcomes["ST-JSON"], 100);
  EXPECT_GT(outcomes.size(), 8u);
}

// ---- writer -------------------------------------------------------------------------------------

std::vector<uint8_t> counted_bytes(size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + 1);
  return bytes;
}

TEST(SafetensorsWriter, BytesAsTheReferenceWritesThem) {
  const TemporaryDirectory directory;
  const auto bytes = counted_bytes(64);
  std::vector<TensorToWrite> tensors;
  tensors.push_back(TensorToWrite::from_bytes("b", FileDtype::bf16, {3}, bytes.data()));
  tensors.push_back(TensorToWrite::from_bytes("z", FileDtype::f32, {2, 1}, bytes.data()));
  tensors.push_back(TensorToWrite::from_bytes("a", FileDtype::bf16, {}, bytes.data()));
  tensors.push_back(TensorToWrite::from_bytes("i", FileDtype::i64, {1}, bytes.data()));
  const SafetensorsWriter writer(std::move(tensors));
  writer.write(directory / "x.safetensors");
  std::string header = R"({"__metadata__":{"format":"pt"},)"
                       R"("i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                       R"("z":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},)"
                       R"("a":{"dtype":"BF16","shape":[],"data_offsets":[16,18]},)"
                       R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[18,24]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::string raw(bytes.begin(), bytes.end());
  const std::string expected =
      file_of(header, raw.substr(0, 8) + raw.substr(0, 8) + raw.substr(0, 2) + raw.substr(0, 6));
  EXPECT_EQ(slurp(directory / "x.safetensors"), expected);
  EXPECT_EQ(writer.file_bytes(), expected.size());
  EXPECT_EQ(directory.names(), std::set<std::string>{"x.safetensors"});
}

TEST(SafetensorsWriter, EveryDtypeGoesThereAndBack) {
  const TemporaryDirectory directory;
  const auto bytes = counted_bytes(8 * 8);
  std::vector<TensorToWrite> tensors;
  for (int i = 0; i < kFileDtypeCount; ++i) {
    const auto dtype = static_cast<FileDtype>(i);
    const std::string name = "caf\u00e9 \"" + std::string(name_of(dtype)) + "\"\n";
    tensors.push_back(TensorToWrite::from_bytes(name, dtype, {2, 4}, bytes.data()));
    tensors.push_back(TensorToWrite::from_bytes(name + " empty", dtype, {3, 0}, bytes.data()));
  }
  const auto path = directory / "x.safetensors";
  SafetensorsWriter(tensors).write(path);
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const TensorToWrite& tensor : tensors) {
    const TensorEntry* entry = file.find(tensor.name);
    ASSERT_NE(entry, nullptr) << tensor.name;
    EXPECT_EQ(entry->dtype, tensor.dtype);
    EXPECT_EQ(entry->shape, tensor.shape);
    ASSERT_EQ(entry->bytes, tensor.bytes());
    EXPECT_EQ(std::memcmp(entry->data, bytes.data(), entry->bytes), 0) << tensor.name;
  }
  EXPECT_EQ(file.metadata(), (SafetensorsMetadata{{"format", "pt"}}));
}

TEST(SafetensorsWriter, SourcesMayStreamAndMustBeExact) {
  const TemporaryDirectory directory;
  const auto bytes = counted_bytes(3'000'000);
  TensorToWrite tensor{"a", FileDtype::u8, {3'000'000}, nullptr};
  size_t produced = 3'000'000;
  tensor.source = [&](const TensorSink& sink) {
    for (size_t i = 0; i < produced; i += 70'001) {
      sink(std::as_bytes(std::span(bytes.data() + i, std::min<size_t>(70'001, produced - i))));
    }
  };
  const auto path = directory / "x.safetensors";
  SafetensorsWriter({tensor}).write(path);
  const std::string before = slurp(path);
  EXPECT_EQ(before.substr(before.size() - bytes.size()), std::string(bytes.begin(), bytes.end()));
  produced = 2'999'999;
  EXPECT_THROW(SafetensorsWriter({tensor}).write(path), std::logic_error);
  EXPECT_EQ(slurp(path), before);
  EXPECT_THROW(SafetensorsWriter({tensor, tensor}), std::logic_error);
}

TEST(SafetensorsWriter, ChecksumsFindAFlippedBit) {
  const TemporaryDirectory directory;
  const auto bytes = counted_bytes(1000);
  const auto path = directory / "x.safetensors";
  SafetensorsWriter::Options options;
  options.checksums = true;
  SafetensorsWriter({TensorToWrite::from_bytes("a", FileDtype::u8, {1000}, bytes.data()),
                     TensorToWrite::from_bytes("b", FileDtype::u8, {9}, "123456789")},
                    options)
      .write(path);
  EXPECT_EQ(SafetensorsFile::open(path).verify_checksums(), 2u);
  EXPECT_EQ(SafetensorsFile::open(path).metadata().at("crc32c:b"), "e3069283");
  std::string damaged = slurp(path);
  damaged[damaged.size() - 500] ^= 4;
  spit(path, damaged);
  const Error error = error_of([&] { SafetensorsFile::open(path).verify_checksums(); });
  EXPECT_EQ(error.code(), "ST-CHECKSUM");
  EXPECT_NE(std::string(error.what()).find("tensor a"), std::string::npos) << error.what();
}

TEST(SafetensorsWriter, FailuresLeaveTheOldFile) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  const auto bytes = counted_bytes(2'000'000);
  SafetensorsWriter({TensorToWrite::from_bytes("old", FileDtype::u8, {9}, bytes.data())})
      .write(path);
  const std::string before = slurp(path);
  const SafetensorsWriter large(
      {TensorToWrite::from_bytes("new", FileDtype::u8, {2'000'000}, bytes.data())});
  {
    const FileSizeLimit limit(1'000'000);
    const Error error = error_of([&] { large.write(path); });
    EXPECT_EQ(error.code(), "IO-FULL");
    EXPECT_EQ(error.exit_code(), ExitCode::io);
    EXPECT_NE(std::string(error.what()).find("2.00 MB"), std::string::npos) << error.what();
  }
  {
    const ReadOnlyDirectory read_only(directory.path());
    EXPECT_EQ(code_of([&] { large.write(path); }), "IO-READONLY");
  }
  EXPECT_EQ(slurp(path), before);
  EXPECT_EQ(directory.names(), std::set<std::string>{"x.safetensors"});
}

}  // namespace
}  // namespace engine
