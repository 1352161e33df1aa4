#include "tokenizer/llama2c.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "engine/core/error.h"
#include "tokenizer/tokenizer_json_writer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace engine {
namespace {

using tokenizer::BpeFile;
using tokenizer::Vocabulary;

constexpr int32_t kNumControl = 3;
constexpr int32_t kFirstPiece = kNumControl + 256;

struct Entry {
  float score;
  std::string text;
};

Error malformed(const std::string& name, std::string what) {
  return Error(ExitCode::checkpoint, "TOK-MALFORMED", std::move(what))
      .with("file", name)
      .expected("u32 longest token, then {f32 score, i32 length, bytes} per token");
}

std::vector<Entry> read_entries(std::string_view contents, const std::string& name) {
  if (contents.size() < 4) throw malformed(name, "file is too short");
  std::vector<Entry> entries;
  for (size_t at = 4; at < contents.size();) {
    float score = 0;
    int32_t length = 0;
    if (contents.size() - at < 8) {
      throw malformed(name, fmt::format("file ends inside token {}", entries.size()));
    }
    std::memcpy(&score, contents.data() + at, 4);
    std::memcpy(&length, contents.data() + at + 4, 4);
    at += 8;
    if (length < 0 || static_cast<size_t>(length) > contents.size() - at) {
      throw malformed(name, fmt::format("file ends inside token {}", entries.size()))
          .found(fmt::format("a length of {}, {} bytes left", length, contents.size() - at));
    }
    const std::string_view text = contents.substr(at, static_cast<size_t>(length));
    if (tokenizer::find_invalid_utf8(text) != std::string_view::npos || score != score) {
      throw malformed(name, fmt::format("token {} is no text with a score", entries.size()));
    }
    entries.push_back({score, std::string(text)});
    at += static_cast<size_t>(length);
  }
  return entries;
}

// llama2.c stores the printed form: spaces for "▁", line breaks around <s> and </s>.
std::string piece_text(int32_t id, const std::string& printed) {
  switch (id) {
    case 0:
      return "<unk>";
    case 1:
      return "<s>";
    case 2:
      return "</s>";
  }
  std::string text;
  for (const char c : printed) {
    if (c == ' ' && id >= kFirstPiece) {
      text += "\u2581";
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace

std::string llama2c_tokenizer_json(std::string_view contents, const std::string& name) {
  const std::vector<Entry> entries = read_entries(contents, name);
  const int32_t size = static_cast<int32_t>(entries.size());
  if (size < kFirstPiece) {
    throw malformed(name, fmt::format("{} tokens are too few", size))
        .found("no room for 3 control tokens and 256 bytes");
  }
  BpeFile file;
  file.style = BpeFile::Style::kByteFallback;
  Vocabulary pieces;
  for (int32_t id = 0; id < size; ++id) {
    file.vocab.push_back(piece_text(id, entries[id].text));
    const std::string& text = file.vocab.back();
    if (id >= kNumControl && id < kFirstPiece &&
        text != fmt::format("<0x{:02X}>", id - kNumControl)) {
      throw malformed(name, fmt::format("token {} is not the byte 0x{:02X}", id, id - kNumControl))
          .found(text);
    }
    if (text.empty() || pieces.add(text, id) != Vocabulary::Added::kYes) {
      throw Error(ExitCode::checkpoint, "TOK-DUPLICATE",
                  fmt::format("token \"{}\" (id {}) is empty or stands twice", text, id))
          .with("file", name);
    }
  }
  for (int32_t id = 0; id < kNumControl; ++id) {
    file.added_tokens.push_back({.id = id, .content = file.vocab[id], .special = true});
  }
  file.unk = file.added_tokens[0];
  file.bos = file.added_tokens[1];

  struct ScoredMerge {
    float score;
    int32_t left, right;
  };
  std::vector<ScoredMerge> merges;
  for (int32_t id = kFirstPiece; id < size; ++id) {
    const std::string_view token = file.vocab[id];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const int32_t left = pieces.find(token.substr(0, cut));
      const int32_t right = pieces.find(token.substr(cut));
      if (left >= kFirstPiece && right >= kFirstPiece) {
        merges.push_back({entries[id].score, left, right});
      }
    }
  }
  std::stable_sort(merges.begin(), merges.end(),
                   [](const ScoredMerge& a, const ScoredMerge& b) { return a.score > b.score; });
  for (const ScoredMerge& merge : merges) {
    file.merges.emplace_back(file.vocab[merge.left], file.vocab[merge.right]);
  }
  return tokenizer::write_tokenizer_json(file);
}

std::string llama2c_tokenizer_json(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string contents((std::istreambuf_iterator<char>(in)),
                             std::istreambuf_iterator<char>());
  if (!in) {
    throw Error(ExitCode::checkpoint, "TOK-MISSING", fmt::format("cannot read {}", path.string()));
  }
  return llama2c_tokenizer_json(contents, path.string());
}

}  // namespace engine
