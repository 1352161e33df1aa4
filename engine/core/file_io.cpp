#include "engine/core/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace engine {

namespace fs = std::filesystem;

namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }

 private:
  int value_;
};

Error read_error(const fs::path& path, int error_number, ExitCode exit_code) {
  if (error_number == ENOENT || error_number == ENOTDIR) {
    Error error(exit_code, "IO-MISSING", path.string() + " does not exist");
    const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
    std::error_code ignored;
    std::vector<std::string> neighbours;
    if (fs::is_directory(directory, ignored)) {
      for (const auto& entry : fs::directory_iterator(directory, ignored)) {
        neighbours.push_back(entry.path().filename().string());
        if (neighbours.size() == 1000) break;
      }
      const std::string nearest = nearest_word(path.filename().string(), neighbours);
      if (!nearest.empty()) error.fix("did you mean " + (directory / nearest).string() + "?");
    } else {
      error.found("no directory " + directory.string());
    }
    return error;
  }
  Error error(exit_code, "IO-READ",
              "cannot read " + path.string() + ": " + std::strerror(error_number));
  if (error_number == EACCES) error.fix("check the permissions of the file and its directories");
  return error;
}

// Opens for reading and checks that it is an ordinary file; `size` receives its size.
int open_for_reading(const fs::path& path, ExitCode on_error, size_t* size) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw read_error(path, errno, on_error);
  struct stat status;
  if (::fstat(descriptor, &status) != 0) {
    const int error_number = errno;
    ::close(descriptor);
    throw read_error(path, error_number, on_error);
  }
  if (S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    throw read_error(path, EISDIR, on_error);
  }
  *size = static_cast<size_t>(status.st_size);
  return descriptor;
}

// A directory's entry list must reach the disk too, or a rename can be lost in a power failure.
void sync_path(const fs::path& path, bool directory) {
  const Descriptor descriptor(
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (directory ? O_DIRECTORY : 0)));
  if (descriptor.get() < 0) throw write_error(path, errno);
  // Some network file systems cannot sync a directory and say EINVAL; there is nothing to wait for.
  if (::fsync(descriptor.get()) != 0 && !(directory && errno == EINVAL)) {
    throw write_error(path, errno);
  }
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

// "dir/name/" and "dir/name" mean the same directory, but only the second has a file name.
fs::path without_trailing_slash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

}  // namespace

std::string format_bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  double scaled = static_cast<double>(bytes);
  int unit = -1;
  while (scaled >= 999.995 && unit < 5) {
    scaled /= 1000;
    ++unit;
  }
  return fmt::format("{:.2f} {} ({} bytes)", scaled, kUnits[unit], bytes);
}

Error write_error(const fs::path& path, int error_number, uint64_t bytes_needed) {
  const std::string reason = std::strerror(error_number);
  const uint64_t free_bytes = free_disk_bytes(path);
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: {
      Error error(ExitCode::io, "IO-FULL", "cannot write " + path.string() + ": " + reason);
      if (bytes_needed > 0) error.with("needed", format_bytes(bytes_needed));
      if (free_bytes != UINT64_MAX) error.with("free", format_bytes(free_bytes));
      if (error_number == EFBIG) {
        error.why("the file is over a size limit").fix("raise `ulimit -f`, or write smaller files");
      } else if (error_number == EDQUOT) {
        error.why("your disk quota is used up").fix("delete files or ask for a larger quota");
      } else {
        error.fix("free space on that disk, or write to another directory");
      }
      return error;
    }
    case EROFS:
    case EACCES:
    case EPERM: {
      Error error(ExitCode::io, "IO-READONLY", "cannot write " + path.string() + ": " + reason);
      error.why(error_number == EROFS ? "the file system is mounted read-only"
                                      : "no permission to write there");
      error.fix("write to another directory, or change the permissions");
      return error;
    }
    default: {
      Error error(ExitCode::io, "IO-WRITE", "cannot write " + path.string() + ": " + reason);
      if (bytes_needed > 0) error.with("needed", format_bytes(bytes_needed));
      if (free_bytes != UINT64_MAX) error.with("free", format_bytes(free_bytes));
      if (error_number == ENOENT || error_number == ENOTDIR) {
        error.fix("create the directory " + parent_of(path).string() + " first");
      } else if (error_number == EIO) {
        error.why("the disk reports an input/output error").fix("check the disk; see `dmesg`");
      }
      return error;
    }
  }
}

uint64_t free_disk_bytes(const fs::path& path) {
  std::error_code ignored;
  fs::path existing = fs::absolute(path, ignored);
  while (!fs::exists(existing, ignored) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  struct statvfs status;
  if (::statvfs(existing.c_str(), &status) != 0) return UINT64_MAX;
  return static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
}

void require_free_disk(const fs::path& path, uint64_t bytes_needed) {
  if (free_disk_bytes(path) < bytes_needed) throw write_error(path, ENOSPC, bytes_needed);
}

// ---- reading ------------------------------------------------------------------------------------

MappedFile MappedFile::open(const fs::path& path, ExitCode on_error) {
  MappedFile file;
  file.path_ = path;
  const Descriptor descriptor(open_for_reading(path, on_error, &file.size_));
  if (file.size_ > 0) {
    void* mapped = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
    if (mapped == MAP_FAILED) throw read_error(path, errno, on_error);
    file.data_ = static_cast<const std::byte*>(mapped);
  }
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::advise(Access access, size_t offset, size_t size) const {
  if (!data_ || offset >= size_) return;
  size = std::min(size, size_ - offset);
  // madvise wants a page boundary.
  const size_t skew = offset % static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  int advice = MADV_NORMAL;
  switch (access) {
    case Access::normal:
      advice = MADV_NORMAL;
      break;
    case Access::sequential:
      advice = MADV_SEQUENTIAL;
      break;
    case Access::random:
      advice = MADV_RANDOM;
      break;
    case Access::will_need:
      advice = MADV_WILLNEED;
      break;
    case Access::dont_need:
      advice = MADV_DONTNEED;
      break;
  }
  ::madvise(const_cast<std::byte*>(data_) + offset - skew, size + skew, advice);
}

std::string read_text_file(const fs::path& path, ExitCode on_error) {
  size_t size = 0;
  const Descriptor descriptor(open_for_reading(path, on_error, &size));
  std::string text;
  // The size is a hint only: pipes and /proc files say 0.
  text.resize(size);
  size_t filled = 0;
  for (;;) {
    if (filled == text.size()) text.resize(std::max<size_t>(4096, 2 * filled));
    const ssize_t count = ::read(descriptor.get(), text.data() + filled, text.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw read_error(path, errno, on_error);
    if (count == 0) break;
    filled += static_cast<size_t>(count);
  }
  text.resize(filled);
  return text;
}

// ---- writing ------------------------------------------------------------------------------------

FileWriter::FileWriter(const fs::path& path, uint64_t bytes_expected)
    : path_(path), bytes_expected_(bytes_expected), buffer_(new char[kBufferBytes]) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw write_error(path, errno, bytes_expected);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileWriter::write_fully(const char* data, size_t size) {
  if (descriptor_ < 0) throw std::logic_error("FileWriter: write after close");
  while (size > 0) {
    const ssize_t count = ::write(descriptor_, data, size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw write_error(path_, errno, std::max(bytes_expected_, position_));
    data += count;  // a short write is legal: signals, and files over 2 GiB in one call
    size -= static_cast<size_t>(count);
  }
}

void FileWriter::write(const void* data, size_t size) {
  const char* bytes = static_cast<const char*>(data);
  position_ += size;
  if (buffered_ + size > kBufferBytes) flush();
  if (size >= kBufferBytes) {
    write_fully(bytes, size);
  } else if (size > 0) {
    std::memcpy(buffer_.get() + buffered_, bytes, size);
    buffered_ += size;
  }
}

void FileWriter::flush() {
  const size_t size = std::exchange(buffered_, 0);
  write_fully(buffer_.get(), size);
}

void FileWriter::overwrite(uint64_t offset, std::string_view text) {
  if (offset + text.size() > position_)
    throw std::logic_error("FileWriter: overwrite past the end");
  flush();
  while (!text.empty()) {
    const ssize_t count =
        ::pwrite(descriptor_, text.data(), text.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw write_error(path_, errno, std::max(bytes_expected_, position_));
    text.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
}

void FileWriter::sync() {
  flush();
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) {
    throw write_error(path_, errno, std::max(bytes_expected_, position_));
  }
}

void FileWriter::close() {
  if (descriptor_ < 0) return;
  flush();
  // Network file systems report a full disk only here.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
    throw write_error(path_, errno, std::max(bytes_expected_, position_));
  }
}

AtomicFile::AtomicFile(const fs::path& target, uint64_t bytes_expected) : target_(target) {
  static std::atomic<unsigned> counter{0};
  temporary_ = target;
  temporary_ += fmt::format(".tmp-{}-{}", ::getpid(), counter++);
  writer_ = std::make_unique<FileWriter>(temporary_, bytes_expected);
}

AtomicFile::~AtomicFile() {
  if (!writer_) return;
  writer_.reset();
  ::unlink(temporary_.c_str());
}

void AtomicFile::commit() {
  if (!writer_) throw std::logic_error("AtomicFile: committed twice");
  writer_->sync();
  writer_->close();
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) throw write_error(target_, errno);
  writer_.reset();
  sync_path(parent_of(target_), true);
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path, bytes.size());
  file.writer().write(bytes.data(), bytes.size());
  file.commit();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

AtomicDirectory::AtomicDirectory(const fs::path& target) : target_(without_trailing_slash(target)) {
  temporary_ = target_;
  temporary_ += fmt::format(".tmp-{}", ::getpid());
  std::error_code error;
  fs::remove_all(temporary_, error);  // of an earlier process with our id
  fs::create_directories(temporary_, error);
  if (error) throw write_error(temporary_, error.value());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  if (committed_) throw std::logic_error("AtomicDirectory: committed twice");
  for (const auto& entry : fs::recursive_directory_iterator(temporary_)) {
    if (entry.is_symlink()) continue;
    if (entry.is_regular_file() || entry.is_directory()) {
      sync_path(entry.path(), entry.is_directory());
    }
  }
  sync_path(temporary_, true);

  std::error_code ignored;
  fs::path old = target_;
  old += fmt::format(".old-{}", ::getpid());
  if (!fs::exists(fs::symlink_status(target_, ignored))) {
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) throw write_error(target_, errno);
    committed_ = true;
  } else if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(),
                         RENAME_EXCHANGE) == 0) {
    committed_ = true;
    old = temporary_;  // the old content now has the temporary name
  } else {
    fs::remove_all(old, ignored);
    if (::rename(target_.c_str(), old.c_str()) != 0) throw write_error(target_, errno);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
      const int error_number = errno;
      ::rename(old.c_str(), target_.c_str());  // put the old one back
      throw write_error(target_, error_number);
    }
    committed_ = true;
  }
  sync_path(parent_of(target_), true);
  fs::remove_all(old, ignored);
}

}  // namespace engine
