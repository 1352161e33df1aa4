// Reading and writing files so that a crash, a full disk or a reader at the same moment never
// leaves anybody with half a file.
//
// Every failure throws engine::Error. Failures to write have exit code `io` and one of the codes
//   IO-FULL      no space, quota or file size limit (says how much was needed and how much is free)
//   IO-READONLY  no permission or a read-only file system
//   IO-WRITE     any other failure (bad disk, missing directory)
// Failures to read have code IO-MISSING or IO-READ and the exit code that the caller passes,
// because only the caller knows whether the file is a dataset, a checkpoint or a config.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/error.h"

namespace engine {

// A whole file, read-only, in memory that the kernel pages in on demand. Move-only.
// The file must not be truncated while it is mapped (reading past the new end is SIGBUS): all
// writers of this project replace files by rename instead.
class MappedFile {
 public:
  enum class Access { normal, sequential, random, will_need, dont_need };

  MappedFile() = default;
  static MappedFile open(const std::filesystem::path& path, ExitCode on_error = ExitCode::io);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const { return data_; }  // nullptr when the file is empty
  size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

  // A hint for the pages of [offset, offset + size); by default the whole file. Never fails.
  void advise(Access access, size_t offset = 0, size_t size = SIZE_MAX) const;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

std::string read_text_file(const std::filesystem::path& path, ExitCode on_error = ExitCode::io);

// Free bytes for an ordinary user on the file system of `path`, which may not exist yet (its
// nearest existing parent is asked then). UINT64_MAX when the system does not say.
uint64_t free_disk_bytes(const std::filesystem::path& path);

// The error for a failed write: maps errno to the codes above. `bytes_needed` of 0 means unknown.
Error write_error(const std::filesystem::path& path, int error_number, uint64_t bytes_needed = 0);

// Throws IO-FULL when fewer than `bytes_needed` bytes are free where `path` will be written.
void require_free_disk(const std::filesystem::path& path, uint64_t bytes_needed);

// Sequential buffered writer. Creates or truncates `path`: to replace a file that others may be
// reading, use AtomicFile.
class FileWriter {
 public:
  // `bytes_expected` only makes the message about a full disk exact.
  explicit FileWriter(const std::filesystem::path& path, uint64_t bytes_expected = 0);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();  // closes without flushing: call close() to keep the data

  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Replaces bytes that were written before; the position stays where it is.
  void overwrite(uint64_t offset, std::string_view text);
  uint64_t position() const { return position_; }  // bytes written so far, buffered ones included

  void flush();  // hands the buffer to the system
  void sync();   // flush and wait for the disk
  void close();  // flush and close; further writes are a programming mistake

 private:
  void write_fully(const char* data, size_t size);

  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t bytes_expected_ = 0;
  uint64_t position_ = 0;
  std::unique_ptr<char[]> buffer_;
  size_t buffered_ = 0;
};

// A file that appears at `target`, whole and on disk, at commit(), replacing what was there. Until
// then it is `<target>.tmp-<pid>-<n>` beside it; without a commit the destructor removes that.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& target, uint64_t bytes_expected = 0);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  FileWriter& writer() { return *writer_; }
  void commit();  // fsync, rename, fsync of the directory

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  std::unique_ptr<FileWriter> writer_;
};

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// A directory that appears at `target`, whole and on disk, at commit(), replacing what was there.
// Fill path() (`<target>.tmp-<pid>`) meanwhile; without a commit the destructor removes it.
// Replacing exchanges the two names in one step where the file system can (RENAME_EXCHANGE);
// elsewhere the old directory is `<target>.old-<pid>` for the moment between two renames, so that
// at every moment at least one of the two is whole.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(const std::filesystem::path& target);
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  ~AtomicDirectory();

  const std::filesystem::path& path() const { return temporary_; }
  const std::filesystem::path& target() const { return target_; }
  void commit();  // fsync of every file and directory inside, then the swap

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

// "5.00 GB (5000000000 bytes)": decimal units, as disks and the Hugging Face tools count.
std::string format_bytes(uint64_t bytes);

}  // namespace engine
