#include "engine/data/tokenise.h"

#include <omp.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <unordered_map>

#include "engine/data/data_error.h"
#include "engine/data/file_list.h"
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

struct EncodedRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trainable;
  uint64_t content = 0;
  uint32_t source_length = 0;  // pairs
  std::optional<std::string> label;
  bool prefix_mismatch = false;
  uint64_t cut_tokens = 0;  // taken away to keep the row short
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

// How many tokens of two texts stay when `budget` are left for both: the longer one loses first,
// then both alike (tokenizers' LongestFirst).
std::pair<size_t, size_t> longest_first(size_t first, size_t second, size_t budget) {
  size_t shorter = std::min(first, second), longer = std::max(first, second);
  if (shorter + longer > budget) {
    longer = shorter > budget ? shorter : std::max(shorter, budget - shorter);
    if (shorter + longer > budget) {
      shorter = budget / 2;
      longer = shorter + budget % 2;
    }
  }
  return first <= second ? std::pair(shorter, longer) : std::pair(longer, shorter);
}

class RowEncoder {
 public:
  RowEncoder(const TokeniseOptions& options, const TextEncoder& encoder)
      : encoder_(encoder),
        fields_(options.fields),
        train_on_(options.train_on),
        pairs_(options.fields.pair_pad_id.has_value()),
        classification_(options.classification) {
    const auto need = [](int32_t id, const char* option, const char* name) {
      if (id >= 0) return;
      throw Error(
          ExitCode::usage, "DATA-SPECIAL",
          std::string("data.") + option + "=true, but the tokenizer has no " + name + " token");
    };
    if (options.add_bos == Toggle::on) need(encoder.bos_id, "add_bos", "BOS");
    if (options.add_eos == Toggle::on) need(encoder.eos_id, "add_eos", "EOS");
    const bool automatic_bos = encoder.adds_bos && encoder.bos_id >= 0;
    bos_text_ =
        options.add_bos == Toggle::on || (options.add_bos == Toggle::automatic && automatic_bos);
    eos_text_ = options.add_eos == Toggle::on ||
                (options.add_eos == Toggle::automatic && encoder.eos_id >= 0);
    bos_given_ = options.add_bos == Toggle::on;
    eos_given_ = options.add_eos == Toggle::on;
    if (classification_) {
      single_ = toggled({encoder.prefix, {}, encoder.suffix}, options);
      pair_ = toggled(encoder.pair, options);
    }
  }

  EncodedRow encode(ParsedRow row) const {
    EncodedRow result;
    result.label = std::move(row.label);
    Hasher content;
    content.add(static_cast<uint64_t>(row.kind));
    content.add(row.prompt);
    content.add(row.text);
    content.update(row.input_ids.data(), row.input_ids.size() * sizeof(int32_t));
    content.update(row.target_ids.data(), row.target_ids.size() * sizeof(int32_t));
    if (row.text_pair) content.add(*row.text_pair);
    result.content = content.finish().low;
    if (classification_) {
      encode_whole(row, result);
      return result;
    }
    if (pairs_) {
      encode_pair(std::move(row), result);
      return result;
    }

    size_t masked = 0;  // tokens of the prompt
    if (row.kind == RowKind::tokens) {
      result.ids = std::move(row.input_ids);
    } else if (row.kind == RowKind::conversation) {
      EncodedChatRow chat = encode_conversation(row);
      result.ids = std::move(chat.ids);
      row.trained = std::move(chat.trained);
    } else if (row.kind == RowKind::prompt_completion && train_on_ != TrainOn::all) {
      const std::vector<int32_t> prompt = encoder_.encode(row.prompt);
      result.ids = encoder_.encode(row.prompt + row.text);
      masked = std::min(prompt.size(), result.ids.size());
      result.prefix_mismatch = prompt.size() > result.ids.size() ||
                               !std::equal(prompt.begin(), prompt.end(), result.ids.begin());
    } else {
      result.ids = encoder_.encode(row.prompt + row.text);
    }
    if (row.trained.empty()) {
      result.trainable.assign(result.ids.size(), 1);
      std::fill_n(result.trainable.begin(), masked, uint8_t{0});
    } else {
      result.trainable = std::move(row.trained);
    }
    const bool adds_bos = row.kind == RowKind::tokens ? bos_given_ : bos_text_;
    const bool adds_eos =
        row.kind == RowKind::tokens || row.kind == RowKind::conversation ? eos_given_ : eos_text_;
    if (adds_bos && (result.ids.empty() || result.ids.front() != encoder_.bos_id)) {
      result.ids.insert(result.ids.begin(), encoder_.bos_id);
      result.trainable.insert(result.trainable.begin(), uint8_t{0});
    }
    if (adds_eos && (result.ids.empty() || result.ids.back() != encoder_.eos_id)) {
      result.ids.push_back(encoder_.eos_id);
      result.trainable.push_back(1);
    }
    return result;
  }

 private:
  void encode_pair(ParsedRow row, EncodedRow& result) const {
    const bool tokens = row.kind == RowKind::tokens;
    std::vector<int32_t> source = std::move(row.input_ids), target = std::move(row.target_ids);
    if (!tokens) {
      source = encoder_.prefix;
      const std::vector<int32_t> text = encoder_.encode(row.prompt);
      source.insert(source.end(), text.begin(), text.end());
      source.insert(source.end(), encoder_.suffix.begin(), encoder_.suffix.end());
      target = encoder_.encode(row.text);
      row.trained.assign(target.size(), 1);
    }
    if ((tokens ? eos_given_ : eos_text_) && (target.empty() || target.back() != encoder_.eos_id)) {
      target.push_back(encoder_.eos_id);
      row.trained.push_back(1);
    }
    result.source_length = static_cast<uint32_t>(source.size());
    result.ids = std::move(source);
    result.ids.insert(result.ids.end(), target.begin(), target.end());
    result.trainable.assign(result.source_length, 0);
    result.trainable.insert(result.trainable.end(), row.trained.begin(), row.trained.end());
  }

  EncodedChatRow encode_conversation(const ParsedRow& row) const {
    ChatRow chat{row.text, row.messages_field, fields_.tools, fields_.role, fields_.content};
    chat.train_on = train_on_;
    if (!encoder_.encode_chat) {
      throw data_error("DATA-FORMAT", "conversations need a tokenizer with a chat template");
    }
    return encoder_.encode_chat(chat);
  }

  // What the settings make of the tokenizer's own way.
  Wrapping toggled(Wrapping wrapping, const TokeniseOptions& options) const {
    if (options.add_bos == Toggle::off) wrapping.before.clear();
    if (options.add_bos == Toggle::on && wrapping.before.empty()) {
      wrapping.before = {encoder_.bos_id};
    }
    if (options.add_eos == Toggle::off) wrapping.after.clear();
    if (options.add_eos == Toggle::on && wrapping.after.empty()) {
      wrapping.after = {encoder_.eos_id};
    }
    return wrapping;
  }

  // A row to classify.
  void encode_whole(ParsedRow& row, EncodedRow& result) const {
    const bool tokens = row.kind == RowKind::tokens;
    const bool conversation = row.kind == RowKind::conversation;
    const Wrapping& around = row.text_pair ? pair_ : single_;
    std::vector<int32_t> first = tokens         ? std::move(row.input_ids)
                                 : conversation ? encode_conversation(row).ids
                                                : encoder_.encode(row.prompt + row.text);
    std::vector<int32_t> second;
    if (row.text_pair) second = encoder_.encode(*row.text_pair);
    const auto begins_with = [&](const std::vector<int32_t>& ids) {
      return first.size() >= ids.size() && std::equal(ids.begin(), ids.end(), first.begin());
    };
    const auto ends_with = [](const std::vector<int32_t>& text, const std::vector<int32_t>& ids) {
      return text.size() >= ids.size() && std::equal(ids.rbegin(), ids.rend(), text.rbegin());
    };
    std::vector<int32_t> before, after;
    if (!tokens || bos_given_) before = around.before;
    if ((!tokens && !conversation) || eos_given_) after = around.after;
    // A rendered conversation brings its own.
    if (begins_with(before)) before.clear();
    if (ends_with(row.text_pair ? second : first, after)) after.clear();
    const size_t whole = first.size() + second.size();
    if (classification_->max_length > 0) {
      const size_t special =
          before.size() + after.size() + (row.text_pair ? around.between.size() : 0);
      const auto limit = static_cast<size_t>(classification_->max_length);
      const auto [keep_first, keep_second] =
          longest_first(first.size(), second.size(), limit > special ? limit - special : 0);
      shorten(first, keep_first);
      shorten(second, keep_second);
    }
    result.cut_tokens = whole - first.size() - second.size();
    result.ids = std::move(before);
    const auto append = [&](const std::vector<int32_t>& ids) {
      result.ids.insert(result.ids.end(), ids.begin(), ids.end());
    };
    append(first);
    if (row.text_pair) append(around.between);
    append(second);
    append(after);
    result.trainable.assign(result.ids.size(), 0);
  }

  void shorten(std::vector<int32_t>& ids, size_t length) const {
    if (ids.size() <= length) return;
    if (classification_->keep_end) {
      ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(length));
    } else {
      ids.resize(length);
    }
  }

  const TextEncoder& encoder_;
  const FieldOptions& fields_;
  TrainOn train_on_;
  bool pairs_;
  bool bos_text_, eos_text_;    // texts get them where they lack them
  bool bos_given_, eos_given_;  // and other rows, because the config says so
  std::optional<ClassificationRows> classification_;
  Wrapping single_, pair_;  // rows to classify
};

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

TokeniseOptions tokenise_options(const DataConfig& config, std::vector<std::string> files) {
  TokeniseOptions options;
  options.files = std::move(files);
  options.format = config.format;
  options.split = config.split;
  options.add_bos = config.add_bos;
  options.add_eos = config.add_eos;
  options.train_on = config.train_on;
  options.cache_dir = config.cache_dir;
  FieldOptions& fields = options.fields;
  fields.label = config.label_field;
  const std::pair<const char*, std::string*> roles[] = {{"text_pair", &fields.text_pair},
                                                        {"text", &fields.text},
                                                        {"prompt", &fields.prompt},
                                                        {"source", &fields.prompt},
                                                        {"completion", &fields.completion},
                                                        {"target", &fields.completion},
                                                        {"input_ids", &fields.input_ids},
                                                        {"labels", &fields.labels},
                                                        {"messages", &fields.messages},
                                                        {"tools", &fields.tools},
                                                        {"role", &fields.role},
                                                        {"content", &fields.content}};
  for (const auto& [role, name] : config.fields) {
    std::string* field = nullptr;
    std::vector<std::string> known;
    for (const auto& [word, target] : roles) {
      known.push_back(word);
      if (role == word) field = target;
    }
    if (!field || !field->empty()) {
      const std::string similar = nearest_word(role, known);
      Error error(ExitCode::usage, "DATA-FIELDS",
                  field ? "data.fields names one role twice: " + role
                        : "data.fields has an unknown role: " + role);
      error.expected(
          "text [and text_pair] | prompt (source), completion (target) | messages, tools, role, "
          "content | "
          "input_ids, labels");
      if (!similar.empty() && !field) error.fix("did you mean " + similar + "?");
      throw error;
    }
    *field = name;
  }
  return options;
}

TokeniseOptions classification_options(const DataConfig& config, std::vector<std::string> files,
                                       bool labels_required) {
  TokeniseOptions options = tokenise_options(config, std::move(files));
  options.fields.label_is_target = true;
  options.fields.label_required = labels_required;
  options.classification.emplace();
  if (config.overflow == Overflow::truncate_right || config.overflow == Overflow::truncate_left) {
    options.classification->max_length = config.max_length;
    options.classification->keep_end = config.overflow == Overflow::truncate_left;
  }
  return options;
}

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
