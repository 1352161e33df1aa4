#include "engine/data/token_cache.h"

#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

namespace engine {
namespace {

constexpr std::array<char, 8> kMagic = {'E', 'N', 'G', 'T', 'O', 'K', '0', '3'};

enum Section : size_t {
  kIds,
  kTrainable,
  kOffsets,
  kContent,
  kLine,
  kFile,
  kLabel,
  kSource,
  kNames,
  kCount
};

struct TokenFooter {
  std::array<char, 8> magic = kMagic;
  Hash128 key;
  uint64_t num_rows = 0, num_tokens = 0;
  std::array<uint64_t, kCount> begin{}, size{};  // bytes
  TokenStatistics statistics;
  Hash128 payload;     // of every byte before the footer
  uint64_t check = 0;  // of the footer up to here
};
static_assert(std::has_unique_object_representations_v<TokenFooter>);

uint64_t footer_check(const TokenFooter& footer) {
  return hash_bytes(&footer, offsetof(TokenFooter, check)).low;
}

template <typename T>
std::span<const T> view(std::span<const std::byte> bytes, const TokenFooter& footer,
                        Section section) {
  return {reinterpret_cast<const T*>(bytes.data() + footer.begin[section]),
          footer.size[section] / sizeof(T)};
}

}  // namespace

std::string TokenisedRows::attach(std::span<const std::byte> bytes, const Hash128& key) {
  TokenFooter footer;
  if (bytes.size() < sizeof kMagic + sizeof footer) return "file is too short";
  const size_t payload_size = bytes.size() - sizeof footer;
  std::memcpy(&footer, bytes.data() + payload_size, sizeof footer);
  if (footer.magic != kMagic || footer.check != footer_check(footer)) {
    return "its footer is damaged";
  }
  if (footer.key != key) return "it was made for other data or settings";
  const uint64_t rows = footer.num_rows, tokens = footer.num_tokens;
  const std::array<uint64_t, kCount> expected = {
      tokens * 4, (tokens + 63) / 64 * 8, (rows + 1) * 8, rows * 8, rows * 8, rows * 4, rows * 4,
      rows * 4,   footer.size[kNames]};
  for (size_t i = 0; i < kCount; ++i) {
    if (footer.size[i] != expected[i] || footer.begin[i] % 8 != 0 ||
        footer.begin[i] > payload_size || footer.size[i] > payload_size - footer.begin[i]) {
      return "its sections do not fit its size";
    }
  }
  if (footer.payload != hash_bytes(bytes.data(), payload_size)) return "its checksum is wrong";
  ids_ = view<int32_t>(bytes, footer, kIds);
  trainable_ = view<uint64_t>(bytes, footer, kTrainable);
  offsets_ = view<uint64_t>(bytes, footer, kOffsets);
  content_ = view<uint64_t>(bytes, footer, kContent);
  line_ = view<uint64_t>(bytes, footer, kLine);
  file_ = view<uint32_t>(bytes, footer, kFile);
  label_ = view<int32_t>(bytes, footer, kLabel);
  source_ = view<uint32_t>(bytes, footer, kSource);
  const auto names = view<char>(bytes, footer, kNames);
  label_names_ = nlohmann::json::parse(names.begin(), names.end()).get<std::vector<std::string>>();
  statistics_ = footer.statistics;
  return "";
}

std::optional<TokenisedRows> TokenisedRows::open(const std::filesystem::path& path,
                                                 const Hash128& key, std::string& reason) {
  reason.clear();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  TokenisedRows rows;
  rows.mapped_ = MappedFile::open(path, ExitCode::data);
  reason = rows.attach(rows.mapped_.bytes(), key);
  if (!reason.empty()) return std::nullopt;
  return rows;
}

TokenisedRows TokenisedRows::from_memory(std::vector<std::byte> bytes, const Hash128& key) {
  TokenisedRows rows;
  rows.memory_ = std::move(bytes);
  const std::string reason = rows.attach(rows.memory_, key);
  if (!reason.empty()) throw std::logic_error("tokenised rows in memory: " + reason);
  return rows;
}

uint64_t TokenisedRows::count_trainable(uint64_t begin, uint64_t end) const {
  uint64_t count = 0;
  for (uint64_t word = begin / 64; word * 64 < end; ++word) {
    uint64_t bits = trainable_[word];
    if (word == begin / 64) bits &= ~uint64_t{0} << (begin % 64);
    if (end - word * 64 < 64) bits &= (uint64_t{1} << (end - word * 64)) - 1;
    count += static_cast<uint64_t>(std::popcount(bits));
  }
  return count;
}

TokenWriter::TokenWriter(const Hash128& key) : key_(key) {
  write(kMagic.data(), kMagic.size());
}

TokenWriter::TokenWriter(const Hash128& key, const std::filesystem::path& path)
    : key_(key), file_writer_(std::make_unique<AtomicFile>(path)) {
  write(kMagic.data(), kMagic.size());
}

void TokenWriter::write(const void* data, size_t size) {
  payload_.update(data, size);
  position_ += size;
  if (file_writer_) {
    file_writer_->writer().write(data, size);
  } else {
    const auto* bytes = static_cast<const std::byte*>(data);
    memory_.insert(memory_.end(), bytes, bytes + size);
  }
}

void TokenWriter::pad() {
  constexpr char kZeros[8] = {};
  write(kZeros, (8 - position_ % 8) % 8);
}

void TokenWriter::add(const Row& row) {
  write(row.ids.data(), row.ids.size_bytes());
  trainable_.resize((num_tokens_ + row.ids.size() + 63) / 64);
  for (size_t i = 1; i < row.ids.size(); ++i) {  // nothing predicts a row's first token
    const uint64_t token = num_tokens_ + i;
    trainable_[token / 64] |= uint64_t{row.trainable[i] != 0} << (token % 64);
  }
  num_tokens_ += row.ids.size();
  offsets_.push_back(num_tokens_);
  content_.push_back(row.content);
  line_.push_back(row.line);
  file_.push_back(row.file);
  label_.push_back(row.label);
  source_.push_back(row.source_length);
}

std::vector<std::byte> TokenWriter::finish(const std::vector<std::string>& label_names,
                                           const TokenStatistics& statistics) {
  TokenFooter footer;
  footer.key = key_;
  footer.num_rows = num_rows();
  footer.num_tokens = num_tokens_;
  footer.statistics = statistics;
  footer.begin[kIds] = kMagic.size();
  footer.size[kIds] = num_tokens_ * sizeof(int32_t);
  pad();
  const auto section = [&](Section which, const void* data, size_t size) {
    footer.begin[which] = position_;
    footer.size[which] = size;
    write(data, size);
    pad();
  };
  section(kTrainable, trainable_.data(), trainable_.size() * sizeof(uint64_t));
  section(kOffsets, offsets_.data(), offsets_.size() * sizeof(uint64_t));
  section(kContent, content_.data(), content_.size() * sizeof(uint64_t));
  section(kLine, line_.data(), line_.size() * sizeof(uint64_t));
  section(kFile, file_.data(), file_.size() * sizeof(uint32_t));
  section(kLabel, label_.data(), label_.size() * sizeof(int32_t));
  section(kSource, source_.data(), source_.size() * sizeof(uint32_t));
  const std::string names = nlohmann::json(label_names).dump();
  section(kNames, names.data(), names.size());
  footer.payload = payload_.finish();
  footer.check = footer_check(footer);
  write(&footer, sizeof footer);
  if (file_writer_) file_writer_->commit();
  return std::move(memory_);
}

}  // namespace engine
