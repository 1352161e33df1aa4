#include "engine/core/file_io.h"

#include <gtest/gtest.h>

#include "engine/core/crc32c.h"
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

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(masked_crc32c(0xe3069283u), 0xc78ab0e5u);
  EXPECT_EQ(crc32c("", 0), 0u);
  const std::string zeros(32, '\0');  // RFC 3720 B.4
  EXPECT_EQ(crc32c(zeros.data(), zeros.size()), 0x8a9136aau);
}

TEST(Crc32c, PiecesGiveTheSameAsTheWhole) {
  const std::string text = "the quick brown fox jumps over the lazy dog";
  const uint32_t whole = crc32c(text.data(), text.size());
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const uint32_t first = crc32c(text.data(), cut);
    EXPECT_EQ(crc32c(text.data() + cut, text.size() - cut, first), whole) << cut;
  }
}

TEST(MappedFile, ReadsAndMoves) {
  const TemporaryDirectory directory;
  spit(directory / "a", "hello");
  spit(directory / "empty", "");
  MappedFile file = MappedFile::open(directory / "a");
  EXPECT_EQ(file.text(), "hello");
  file.advise(MappedFile::Access::sequential);
  file.advise(MappedFile::Access::will_need, 2, 100);
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.text(), "hello");
  EXPECT_EQ(file.size(), 0u);
  moved = MappedFile::open(directory / "empty");
  EXPECT_EQ(moved.size(), 0u);
  EXPECT_EQ(moved.text(), "");
}

TEST(MappedFile, SurvivesReplacementOfTheFile) {
  const TemporaryDirectory directory;
  spit(directory / "a", "old content");
  const MappedFile file = MappedFile::open(directory / "a");
  write_file_atomically(directory / "a", "new");
  EXPECT_EQ(file.text(), "old content");
  EXPECT_EQ(slurp(directory / "a"), "new");
}

TEST(Reading, MissingFilesNameANeighbour) {
  const TemporaryDirectory directory;
  spit(directory / "config.json", "{}");
  const Error error =
      error_of([&] { read_text_file(directory / "confg.json", ExitCode::checkpoint); });
  EXPECT_EQ(error.code(), "IO-MISSING");
  EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find("config.json?"), std::string::npos) << error.what();
  EXPECT_EQ(code_of([&] { read_text_file(directory / "no/such/file"); }), "IO-MISSING");
  EXPECT_EQ(code_of([&] { MappedFile::open(directory.path()); }), "IO-READ");
  EXPECT_EQ(code_of([&] { read_text_file(directory.path()); }), "IO-READ");
}

TEST(Reading, FilesWhoseSizeIsUnknown) {
  EXPECT_NE(read_text_file("/proc/self/status").find("Pid:"), std::string::npos);
}

TEST(FileWriter, LargeAndSmallWritesKeepTheirOrder) {
  const TemporaryDirectory directory;
  std::string expected;
  {
    FileWriter writer(directory / "a");
    for (int i = 0; i < 50; ++i) {
      const std::string piece(static_cast<size_t>(i * i * 997), static_cast<char>('a' + i % 26));
      writer.write(piece);
      expected += piece;
    }
    EXPECT_EQ(writer.position(), expected.size());
    writer.overwrite(3, "XYZ");
    expected.replace(3, 3, "XYZ");
    writer.write("end");
    writer.close();
  }
  EXPECT_EQ(slurp(directory / "a"), expected + "end");
}

TEST(FileWriter, FullDiskSaysHowMuchIsNeeded) {
  const Error error = error_of([] {
    FileWriter writer("/dev/full", 12'345'678);
    writer.write("x");
    writer.close();
  });
  EXPECT_EQ(error.code(), "IO-FULL");
  EXPECT_EQ(error.exit_code(), ExitCode::io);
  EXPECT_NE(std::string(error.what()).find("12345678"), std::string::npos) << error.what();
}

TEST(AtomicFile, FailuresLeaveTheOldFile) {
  const TemporaryDirectory directory;
  spit(directory / "a", "old");
  {
    const FileSizeLimit limit(100'000);
    const std::string large(300'000, 'x');
    const Error error = error_of([&] { write_file_atomically(directory / "a", large); });
    EXPECT_EQ(error.code(), "IO-FULL") << error.what();
  }
  EXPECT_EQ(slurp(directory / "a"), "old");
  {
    const ReadOnlyDirectory read_only(directory.path());
    const Error error = error_of([&] { write_file_atomically(directory / "a", "new"); });
    EXPECT_EQ(error.code(), "IO-READONLY") << error.what();
    EXPECT_EQ(error.exit_code(), ExitCode::io);
  }
  EXPECT_EQ(slurp(directory / "a"), "old");
  EXPECT_EQ(code_of([&] { write_file_atomically(directory / "none/a", "new"); }), "IO-WRITE");
  {
    AtomicFile abandoned(directory / "a");
    abandoned.writer().write("half");
  }
  EXPECT_EQ(slurp(directory / "a"), "old");
  EXPECT_EQ(directory.names(), std::set<std::string>{"a"});
}

TEST(AtomicDirectory, AppearsAtCommit) {
  const TemporaryDirectory directory;
  {
    AtomicDirectory checkpoint(directory / "runs/x/checkpoint-1/");
    spit(checkpoint.path() / "sub/file", "1");
    EXPECT_FALSE(std::filesystem::exists(directory / "runs/x/checkpoint-1"));
    checkpoint.commit();
  }
  EXPECT_EQ(slurp(directory / "runs/x/checkpoint-1/sub/file"), "1");
}

TEST(AtomicDirectory, ReplacesTheOldOneWhole) {
  const TemporaryDirectory directory;
  spit(directory / "last/old_file", "1");
  {
    AtomicDirectory replacement(directory / "last");
    spit(replacement.path() / "new_file", "2");
    EXPECT_EQ(slurp(directory / "last/old_file"), "1");
    replacement.commit();
    EXPECT_THROW(replacement.commit(), std::logic_error);
  }
  EXPECT_FALSE(std::filesystem::exists(directory / "last/old_file"));
  EXPECT_EQ(slurp(directory / "last/new_file"), "2");
  EXPECT_EQ(directory.names(), std::set<std::string>{"last"});
}

TEST(AtomicDirectory, WithoutCommitNothingChanges) {
  const TemporaryDirectory directory;
  spit(directory / "last/file", "1");
  {
    AtomicDirectory abandoned(directory / "last");
    spit(abandoned.path() / "file", "2");
  }
  EXPECT_EQ(slurp(directory / "last/file"), "1");
  EXPECT_EQ(directory.names(), std::set<std::string>{"last"});
  const ReadOnlyDirectory read_only(directory.path());
  EXPECT_EQ(code_of([&] { AtomicDirectory impossible(directory / "other"); }), "IO-READONLY");
}

TEST(FreeDisk, AsksTheNearestExistingParent) {
  const TemporaryDirectory directory;
  EXPECT_GT(free_disk_bytes(directory.path()), 0u);
  EXPECT_GT(free_disk_bytes(directory / "not/yet/there"), 0u);
  EXPECT_EQ(code_of([&] { require_free_disk(directory.path(), UINT64_MAX - 1); }), "IO-FULL");
  EXPECT_EQ(code_of([&] { require_free_disk(directory.path(), 1); }), "");
}

TEST(FormatBytes, DecimalUnits) {
  EXPECT_EQ(format_bytes(999), "999 bytes");
  EXPECT_EQ(format_bytes(5'000'000'000), "5.00 GB (5000000000 bytes)");
  EXPECT_EQ(format_bytes(999'999), "1.00 MB (999999 bytes)");
}

}  // namespace
}  // namespace engine
