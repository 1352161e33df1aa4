#include "engine/data/tokenise.h"

#include <omp.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <unordered_map>

#include "engine/data/data_error.h"
#include "engine/data/file_list.h"
#include "engine/data/row_encoder.h"
#include "engine/data/row_scanner.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kFormatVersion = 2;  // of what the options below make of a row
constexpr size_t kBatchRows = 4096;
constexpr size_t kBatchBytes = size_t{16} << 20;
constexpr size_t kMaxLabels = 4096;

struct SourceFile {
  std::string path;
  DataFormat format = DataFormat::text;
  uintmax_t size = 0;
  fs::file_time_type modified;
};

std::vector<SourceFile> source_files(const TokeniseOptions& options) {
  std::vector<SourceFile> files;
  for (const std::string& path : expand_files(options.files)) {
    SourceFile file;
    file.path = path;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) {
      throw data_error("DATA-OPEN", path + ": not a regular file")
          .why("data is read more than once; a pipe or device cannot be");
    }
    file.format = file_format(path, options.format);
    open_byte_source(path);  // refuses what cannot be read before any work is done
    file.size = fs::file_size(path);
    file.modified = fs::last_write_time(path);
    files.push_back(file);
  }
  return files;
}

void hash_file(const std::string& path, Hasher& hasher) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) throw data_error("DATA-OPEN", path + ": cannot open");
  std::vector<char> buffer(size_t{1} << 20);
  uint64_t size = 0;
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), file)) {
    hasher.update(buffer.data(), count);
    size += count;
  }
  std::fclose(file);
  hasher.add(size);
}

// Names everything that the tokens depend on. Not the paths: moved files are the same data.
Hash128 cache_key(const TokeniseOptions& options, const TextEncoder& encoder,
                  const std::vector<SourceFile>& files) {
  Hasher hasher;
  hasher.add(kFormatVersion);
  hasher.add(encoder.identity);
  for (int64_t value :
       {int64_t{encoder.bos_id}, int64_t{encoder.eos_id}, int64_t{encoder.adds_bos},
        int64_t{encoder.vocab_size}, static_cast<int64_t>(options.split),
        static_cast<int64_t>(options.add_bos), static_cast<int64_t>(options.add_eos),
        static_cast<int64_t>(options.train_on), static_cast<int64_t>(options.max_row_bytes),
        int64_t{options.fields.pair_pad_id.value_or(-1)}}) {
    hasher.add(static_cast<uint64_t>(value));
  }
  const ClassificationRows* rows = options.classification ? &*options.classification : nullptr;
  hasher.add(rows ? uint64_t{1} + rows->keep_end : uint64_t{0});
  hasher.add(static_cast<uint64_t>(rows ? rows->max_length : 0));
  for (const auto* ids : {&encoder.prefix, &encoder.suffix, &encoder.pair.before,
                          &encoder.pair.between, &encoder.pair.after}) {
    hasher.add(static_cast<uint64_t>(ids->size()));
    hasher.update(ids->data(), ids->size() * sizeof(int32_t));
  }
  const FieldOptions& fields = options.fields;
  hasher.add(uint64_t{fields.label_is_target});
  hasher.add(uint64_t{fields.label_required});
  hasher.add(fields.text_pair);
  for (const std::string* field :
       {&fields.text, &fields.prompt, &fields.completion, &fields.input_ids, &fields.labels,
        &fields.label, &fields.messages, &fields.tools, &fields.role, &fields.content}) {
    hasher.add(*field);
  }
  hasher.add(static_cast<uint64_t>(files.size()));
  for (const SourceFile& file : files) {
    hasher.add(static_cast<uint64_t>(file.format));
    hash_file(file.path, hasher);
  }
  return hasher.finish();
}

class Tokeniser {
 public:
  Tokeniser(const TokeniseOptions& options, const TextEncoder& encoder,
            const std::vector<SourceFile>& files, TokenWriter& writer)
      : options_(options),
        files_(files),
        writer_(writer),
        parser_(options.fields, names(files), encoder.vocab_size),
        encoder_(options, encoder),
        vocab_size_(encoder.vocab_size),
        threads_(options.threads > 0 ? options.threads : omp_get_max_threads()) {}

  std::vector<std::byte> run() {
    const ScanOptions scan{options_.split, options_.max_row_bytes};
    for (size_t i = 0; i < files_.size(); ++i) {
      RowScanner scanner(open_byte_source(files_[i].path), files_[i].path, static_cast<uint32_t>(i),
                         files_[i].format, scan);
      while (true) {
        if (batch_size_ == batch_.size()) batch_.emplace_back();
        RawRow& row = batch_[batch_size_];
        bool more = false;
        try {
          more = scanner.next(row);
        } catch (...) {
          flush();  // rows before it may be wrong too, and come first
          throw;
        }
        if (!more) break;
        ++batch_size_;
        batch_bytes_ += row.text.size();
        if (row.format != DataFormat::text && !decided_) {
          parser_.decide(row);
          decided_ = true;
        }
        if (batch_size_ == kBatchRows || batch_bytes_ >= kBatchBytes) flush();
      }
    }
    flush();
    if (writer_.num_rows() == 0) {
      Error error = data_error(
          "DATA-EMPTY",
          "no rows in " + files_.front().path +
              (files_.size() == 1 ? ""
                                  : " and " + std::to_string(files_.size() - 1) + " more files"));
      throw error.why("the files are empty or contain only blank lines");
    }
    check_unchanged();
    return writer_.finish(label_names_, statistics_);
  }

 private:
  static std::vector<std::string> names(const std::vector<SourceFile>& files) {
    std::vector<std::string> result;
    for (const SourceFile& file : files) result.push_back(file.path);
    return result;
  }

  EncodedRow encode(const RawRow& raw) const {
    ParsedRow row = parser_.parse(raw);
    if (row.kind != RowKind::conversation) return encoder_.encode(std::move(row));
    try {
      return encoder_.encode(std::move(row));
    } catch (const Error& error) {
      // The encoder does not know where the conversation stands.
      if (error.exit_code() != ExitCode::data) throw;
      Error placed = data_error(error.code(), files_[raw.file].path, raw.line, error.message());
      for (const auto& [label, text] : error.details()) placed.with(label, text);
      throw placed;
    }
  }

  // Parses and encodes the rows of the batch at the same time, then adds them in order; the error
  // that is thrown is that of the first bad row.
  void flush() {
    std::vector<EncodedRow> encoded(batch_size_);
    std::vector<std::exception_ptr> errors(batch_size_);
    const auto count = static_cast<int64_t>(batch_size_);
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads_) if (count > 1)
    for (int64_t i = 0; i < count; ++i) {
      try {
        encoded[i] = encode(batch_[i]);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
    for (size_t i = 0; i < batch_size_; ++i) {
      if (errors[i]) std::rethrow_exception(errors[i]);
      add(batch_[i], encoded[i]);
    }
    bytes_ += batch_bytes_;
    batch_size_ = batch_bytes_ = 0;
    if (options_.progress) options_.progress(writer_.num_rows(), bytes_);
  }

  // A tokenizer may know added tokens that the model has no embedding for: no text may hold them.
  void check_ids(const RawRow& raw, const EncodedRow& encoded) const {
    if (vocab_size_ <= 0) return;
    for (const int32_t id : encoded.ids) {
      if (id < vocab_size_) continue;
      throw data_error("DATA-ID", files_[raw.file].path, raw.line,
                       "the text has a token with id " + std::to_string(id) + ", expected 0 to " +
                           std::to_string(vocab_size_ - 1))
          .why("the tokenizer knows it, the model has no embedding for it");
    }
  }

  void add(const RawRow& raw, const EncodedRow& encoded) {
    check_ids(raw, encoded);
    if (options_.fields.pair_pad_id && encoded.source_length == 0) {
      throw data_error("DATA-NO-SOURCE", files_[raw.file].path, raw.line,
                       "the source is empty: the encoder has nothing to read")
          .fix("remove the row, or correct data.fields.source");
    }
    TokenWriter::Row row{.ids = encoded.ids,
                         .trainable = encoded.trainable,
                         .content = encoded.content,
                         .line = raw.line,
                         .file = raw.file,
                         .source_length = encoded.source_length};
    if (encoded.label) {
      const auto [at, inserted] =
          labels_.try_emplace(*encoded.label, static_cast<int32_t>(labels_.size()));
      if (inserted) label_names_.push_back(*encoded.label);
      row.label = at->second;
      const bool name = !options_.fields.label_is_target || is_name(*encoded.label);
      if (inserted && name && ++label_groups_ > kMaxLabels) {
        throw data_error("DATA-LABELS", files_[raw.file].path, raw.line,
                         "field \"" + options_.fields.label + "\" has more than " +
                             std::to_string(kMaxLabels) + " different values")
            .why("it identifies rows instead of grouping them")
            .fix("data.label_field must name a field with few values");
      }
    }
    statistics_.conversations += encoded.conversation;
    statistics_.shortened_rows += encoded.cut_tokens > 0;
    statistics_.shortened_tokens += encoded.cut_tokens;
    if (encoded.prefix_mismatch && statistics_.prefix_mismatches++ == 0) {
      statistics_.first_mismatch = writer_.num_rows();
    }
    writer_.add(row);
  }

  // Not a number or an array of them, of which there may be as many as rows.
  static bool is_name(const std::string& label) {
    return label.find_first_not_of("+-.0123456789eE") != std::string::npos &&
           !label.starts_with('[');
  }

  void check_unchanged() const {
    for (const SourceFile& file : files_) {
      std::error_code error;
      if (fs::file_size(file.path, error) != file.size ||
          fs::last_write_time(file.path, error) != file.modified) {
        throw data_error("DATA-CHANGED", file.path + ": file changed while it was read")
            .fix("wait until it is complete, then start again");
      }
    }
  }

  const TokeniseOptions& options_;
  const std::vector<SourceFile>& files_;
  TokenWriter& writer_;
  RowParser parser_;
  RowEncoder encoder_;
  int32_t vocab_size_;
  int threads_;
  bool decided_ = false;
  std::vector<RawRow> batch_;  // buffers are kept; batch_size_ of them are in use
  size_t batch_size_ = 0, batch_bytes_ = 0;
  uint64_t bytes_ = 0;
  std::unordered_map<std::string, int32_t> labels_;
  std::vector<std::string> label_names_;
  size_t label_groups_ = 0;  // labels that are names
  TokenStatistics statistics_;
};

// A writer into the cache, or null with the reason when the directory cannot be written: a run
// must not fail because its cache directory is read-only.
std::unique_ptr<TokenWriter> cache_writer(const Hash128& key, const fs::path& path,
                                          std::string& reason) {
  std::error_code ignored;
  fs::create_directories(path.parent_path(), ignored);
  try {
    return std::make_unique<TokenWriter>(key, path);
  } catch (const Error& error) {
    reason = "cannot write the cache: " + error.message();
    return nullptr;
  }
}

}  // namespace

std::string TokenisedData::place(uint64_t row) const {
  return files.at(rows.file(row)) + ":" + std::to_string(rows.line(row));
}

std::shared_ptr<const TokenisedData> tokenise(const TokeniseOptions& options,
                                              const TextEncoder& encoder) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<SourceFile> files = source_files(options);
  std::vector<std::string> names;
  for (const SourceFile& file : files) names.push_back(file.path);
  CacheUse use = CacheUse::off;
  std::string note;
  const auto finish = [&](TokenisedRows rows, const fs::path& path) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return std::make_shared<const TokenisedData>(TokenisedData{
        std::move(rows), names, use, path.string(), note, seconds.count(), encoder.eos_id});
  };

  const bool cached = !options.cache_dir.empty();
  const Hash128 key = cached ? cache_key(options, encoder, files) : Hash128{};
  const fs::path path = cached ? fs::path(options.cache_dir) / (key.hex() + ".tokens") : fs::path();
  if (cached) {
    if (auto rows = TokenisedRows::open(path, key, note)) {
      use = CacheUse::hit;
      return finish(std::move(*rows), path);
    }
    use = note.empty() ? CacheUse::built : CacheUse::rebuilt;
    if (std::unique_ptr<TokenWriter> writer = cache_writer(key, path, note)) {
      Tokeniser(options, encoder, files, *writer).run();
      std::string reason;
      auto rows = TokenisedRows::open(path, key, reason);
      if (!rows) {
        throw Error(ExitCode::io, "IO-WRITE", path.string() + ": cache was written, but " + reason)
            .why("a failing disk, or another program writing here");
      }
      return finish(std::move(*rows), path);
    }
    use = CacheUse::off;
  }
  TokenWriter writer(key);
  return finish(TokenisedRows::from_memory(Tokeniser(options, encoder, files, writer).run(), key),
                "");
}

}  // namespace engine
