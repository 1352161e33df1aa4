#include "engine/data/byte_source.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "engine/data/data_error.h"

namespace engine {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
struct CloseGzip {
  void operator()(gzFile_s* file) const { gzclose_r(file); }
};

class PlainSource : public ByteSource {
 public:
  PlainSource(std::unique_ptr<std::FILE, CloseFile> file, std::string path)
      : file_(std::move(file)), path_(std::move(path)) {}

  size_t read(char* buffer, size_t size) override {
    const size_t count = std::fread(buffer, 1, size, file_.get());
    if (count < size && std::ferror(file_.get())) {
      throw data_error("DATA-READ", path_ + ": reading failed: " + std::strerror(errno));
    }
    return count;
  }

 private:
  std::unique_ptr<std::FILE, CloseFile> file_;
  std::string path_;
};

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(std::string path) : file_(gzopen(path.c_str(), "rb")), path_(path) {
    if (!file_) throw data_error("DATA-OPEN", path_ + ": cannot open: " + std::strerror(errno));
    gzbuffer(file_.get(), 1u << 18);
  }

  size_t read(char* buffer, size_t size) override {
    size_t count = 0;
    while (count < size) {
      const auto wanted = static_cast<unsigned>(std::min<size_t>(size - count, 1u << 30));
      const int got = gzread(file_.get(), buffer + count, wanted);
      if (got > 0) count += static_cast<size_t>(got);
      if (got < static_cast<int>(wanted)) break;
    }
    total_ += count;
    if (count < size) {
      // At a clean end zlib reports no error; a stream that stops early is Z_BUF_ERROR.
      int status = Z_OK;
      const char* text = gzerror(file_.get(), &status);
      if (status == Z_BUF_ERROR) {
        throw data_error("DATA-GZIP", path_ + ": gzip stream ends early, after " +
                                          group_digits(static_cast<int64_t>(total_)) +
                                          " decompressed bytes")
            .why("interrupted download or copy, or a full disk")
            .fix("get the file again; `gzip -t` tests it");
      }
      if (status != Z_OK && status != Z_STREAM_END) {
        throw data_error("DATA-GZIP", path_ + ": damaged gzip data: " + text)
            .where("after " + group_digits(static_cast<int64_t>(total_)) + " decompressed bytes")
            .fix("get the file again; `gzip -t` tests it");
      }
    }
    return count;
  }

 private:
  std::unique_ptr<gzFile_s, CloseGzip> file_;
  std::string path_;
  uint64_t total_ = 0;
};

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::string_view bytes) : bytes_(bytes) {}

  size_t read(char* buffer, size_t size) override {
    const size_t count = std::min(size, bytes_.size());
    std::memcpy(buffer, bytes_.data(), count);
    bytes_.remove_prefix(count);
    return count;
  }

 private:
  std::string_view bytes_;
};

bool starts_with_bytes(const unsigned char* head, size_t count, std::string_view magic) {
  return count >= magic.size() && std::memcmp(head, magic.data(), magic.size()) == 0;
}

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw data_error("DATA-OPEN", path + ": is a directory, expected a file");
  }
  std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw data_error("DATA-OPEN", path + ": cannot open: " + std::strerror(errno));
  unsigned char head[6] = {};
  const size_t count = std::fread(head, 1, sizeof head, file.get());
  if (starts_with_bytes(head, count, "\x1f\x8b")) return std::make_unique<GzipSource>(path);
  const auto refuse = [&](const char* kind, const char* fix) {
    return data_error("DATA-OPEN", path + ": is a " + kind + " file").fix(fix);
  };
  if (starts_with_bytes(head, count, "\x28\xb5\x2f\xfd")) {
    throw refuse("zstd", "decompress it (`zstd -d`), or compress it with gzip");
  }
  if (starts_with_bytes(head, count,
                        "\xfd"
                        "7zXZ"))
    throw refuse("xz", "decompress it (`unxz`)");
  if (starts_with_bytes(head, count, "BZh")) throw refuse("bzip2", "decompress it (`bunzip2`)");
  if (starts_with_bytes(head, count, "PAR1")) {
    throw refuse("Parquet", "export it as JSON Lines: one object per line");
  }
  if (count > 0 && path.ends_with(".gz")) {
    throw data_error("DATA-GZIP", path + ": the name ends in .gz but the content is not gzip")
        .fix("rename the file if it is not compressed");
  }
  std::rewind(file.get());
  return std::make_unique<PlainSource>(std::move(file), path);
}

std::unique_ptr<ByteSource> memory_byte_source(std::string_view bytes) {
  return std::make_unique<MemorySource>(bytes);
}

}  // namespace engine
