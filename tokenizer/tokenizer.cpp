#include "tokenizer/tokenizer.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <mutex>
#include <stdexcept>

#include "engine/core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_parts.h"
#include "tokenizer/unicode.h"

namespace engine {

using tokenizer::AddedToken;
using tokenizer::DecoderStream;
using tokenizer::Fragment;
using tokenizer::Piece;
using tokenizer::Segment;
using tokenizer::TokenizerParts;

namespace {

// Everything one running encode() writes to.
struct Scratch {
  tokenizer::RegexScratch regex;
  std::unique_ptr<tokenizer::ModelScratch> model;
  std::string normal_form;
  std::vector<Segment> segments;
  std::vector<Segment> normalized_segments;
};

// Scratches at rest; as many exist as there were calls at the same time.
class ScratchPool {
 public:
  class Lease {
   public:
    Lease(ScratchPool& pool, std::unique_ptr<Scratch> scratch)
        : pool_(pool), scratch_(std::move(scratch)) {}
    ~Lease() {
      const std::lock_guard lock(pool_.mutex_);
      pool_.free_.push_back(std::move(scratch_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  Lease take(const tokenizer::Model& model) {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        auto scratch = std::move(free_.back());
        free_.pop_back();
        return Lease(*this, std::move(scratch));
      }
    }
    auto scratch = std::make_unique<Scratch>();
    scratch->model = model.make_scratch();
    return Lease(*this, std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

class ModelSink final : public tokenizer::PieceSink {
 public:
  ModelSink(const tokenizer::Model& model, tokenizer::ModelScratch& scratch,
            std::vector<int32_t>* ids)
      : model_(model), scratch_(scratch), ids_(ids) {}
  void piece(Piece piece) override { model_.encode(piece.text, scratch_, ids_); }

 private:
  const tokenizer::Model& model_;
  tokenizer::ModelScratch& scratch_;
  std::vector<int32_t>* ids_;
};

class TextSink final : public DecoderStream {
 public:
  void push(Fragment fragment) override { text.append(fragment.text); }
  void finish() override {}
  std::string text;
};

}  // namespace

struct Tokenizer::State {
  TokenizerParts parts;
  std::vector<SpecialToken> special_tokens;
  int32_t vocab_size = 0;
  mutable ScratchPool scratches;

  // Normalizes and encodes text that holds no raw added token.
  void encode_text(Piece piece, bool parse_special, Scratch& scratch,
                   std::vector<int32_t>* ids) const {
    std::string_view text = piece.text;
    if (parts.normalizer) {
      piece.at_text_start =
          piece.at_text_start && parts.normalizer->keeps_start(text, scratch.regex);
      if (parts.normalizer->normalize(text, scratch.regex, &scratch.normal_form)) {
        text = scratch.normal_form;
      }
    }
    if (!parts.added_tokens.has_normalized()) {
      encode_normalized({text, piece.at_text_start}, scratch, ids);
      return;
    }
    scratch.normalized_segments.clear();
    parts.added_tokens.split(text, /*match_normalized=*/true, parse_special,
                             &scratch.normalized_segments);
    for (const Segment& segment : scratch.normalized_segments) {
      if (segment.id >= 0) {
        ids->push_back(segment.id);
      } else {
        const bool at_start = piece.at_text_start && segment.text.data() == text.data();
        encode_normalized({segment.text, at_start}, scratch, ids);
      }
    }
  }

  void encode_normalized(Piece piece, Scratch& scratch, std::vector<int32_t>* ids) const {
    if (piece.text.empty()) return;
    ModelSink sink(*parts.model, *scratch.model, ids);
    if (parts.pre_tokenizer) {
      parts.pre_tokenizer->split(piece, scratch.regex, sink);
    } else {
      sink.piece(piece);
    }
  }
};

Tokenizer::Tokenizer(TokenizerParts parts) : state_(std::make_unique<State>()) {
  state_->parts = std::move(parts);
  state_->vocab_size = state_->parts.model->vocabulary().id_limit();
  for (const AddedToken& token : state_->parts.added_tokens.tokens()) {
    state_->vocab_size = std::max(state_->vocab_size, token.id + 1);
    if (token.special) state_->special_tokens.push_back({token.id, token.content});
  }
  std::sort(state_->special_tokens.begin(), state_->special_tokens.end(),
            [](const SpecialToken& a, const SpecialToken& b) { return a.id < b.id; });
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::open(const std::filesystem::path& path, const TokenizerOpenOptions& options) {
  return Tokenizer(tokenizer::load_tokenizer(path, options));
}

Tokenizer Tokenizer::from_json(std::string tokenizer_json) {
  TokenizerParts parts = tokenizer::load_tokenizer_json(tokenizer_json, "tokenizer.json", {});
  parts.files.push_back({"tokenizer.json", std::move(tokenizer_json)});
  return Tokenizer(std::move(parts));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> ids;
  encode(text, options, &ids);
  return ids;
}

void Tokenizer::encode(std::string_view text, EncodeOptions options, std::vector<int32_t>* ids,
                       std::vector<EncodedPart>* text_parts) const {
  const size_t invalid = tokenizer::find_invalid_utf8(text);
  if (invalid != std::string_view::npos) {
    throw Error(ExitCode::data, "TOK-UTF8",
                fmt::format("text is not valid UTF-8 at byte {} of {}", invalid, text.size()))
        .found(fmt::format("byte 0x{:02X}", static_cast<unsigned char>(text[invalid])))
        .why("the file is in another encoding, or a character was cut in two")
        .fix("convert the data to UTF-8, e.g. with iconv");
  }
  const TokenizerParts& parts = state_->parts;
  if (options.add_special_tokens) {
    ids->insert(ids->end(), parts.post_processor.prefix.begin(), parts.post_processor.prefix.end());
  }
  {
    ScratchPool::Lease lease = state_->scratches.take(*parts.model);
    Scratch& scratch = *lease;
    scratch.segments.clear();
    parts.added_tokens.split(text, /*match_normalized=*/false, options.parse_special_tokens,
                             &scratch.segments);
    for (const Segment& segment : scratch.segments) {
      const size_t first = ids->size();
      if (segment.id >= 0) {
        ids->push_back(segment.id);
      } else {
        const bool at_start = options.at_text_start && segment.text.data() == text.data();
        state_->encode_text({segment.text, at_start}, options.parse_special_tokens, scratch, ids);
      }
      if (text_parts) {
        const auto begin = static_cast<size_t>(segment.text.data() - text.data());
        text_parts->push_back(
            {begin, begin + segment.text.size(), first, ids->size(), segment.id >= 0});
      }
    }
  }
  if (options.add_special_tokens) {
    ids->insert(ids->end(), parts.post_processor.suffix.begin(), parts.post_processor.suffix.end());
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  StreamDecoder decoder(*this, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) decoder.push_to(id, &text);
  decoder.finish_to(&text);
  return text;
}

std::string Tokenizer::model_name() const {
  return state_->parts.model->name();
}

std::optional<std::string> Tokenizer::id_to_token(int32_t id) const {
  if (const AddedToken* token = state_->parts.added_tokens.find(id)) return token->content;
  const tokenizer::Vocabulary& vocabulary = state_->parts.model->vocabulary();
  if (vocabulary.contains_id(id)) return std::string(vocabulary.token(id));
  return std::nullopt;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view content) const {
  if (const AddedToken* token = state_->parts.added_tokens.find(content)) return token->id;
  const int32_t id = state_->parts.model->vocabulary().find(content);
  if (id >= 0) return id;
  return std::nullopt;
}

int32_t Tokenizer::vocab_size() const {
  return state_->vocab_size;
}
const TokenRoles& Tokenizer::roles() const {
  return state_->parts.roles;
}
const std::vector<int32_t>& Tokenizer::prefix_ids() const {
  return state_->parts.post_processor.prefix;
}
const std::vector<int32_t>& Tokenizer::suffix_ids() const {
  return state_->parts.post_processor.suffix;
}

PairIds Tokenizer::pair_ids() const {
  const tokenizer::PostProcessor& single = state_->parts.post_processor;
  if (single.pair) return *single.pair;
  PairIds pair{.before = single.prefix, .between = single.suffix, .after = single.suffix};
  pair.between.insert(pair.between.end(), single.prefix.begin(), single.prefix.end());
  return pair;
}
const std::vector<SpecialToken>& Tokenizer::special_tokens() const {
  return state_->special_tokens;
}
bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = state_->parts.added_tokens.find(id);
  return token && token->special;
}
const std::vector<TokenizerFile>& Tokenizer::files() const {
  return state_->parts.files;
}

void Tokenizer::save(const std::filesystem::path& directory) const {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  for (const TokenizerFile& file : files()) {
    const std::filesystem::path path = directory / file.name;
    std::filesystem::create_directories(path.parent_path(), error);
    std::ofstream out(path, std::ios::binary);
    out.write(file.contents.data(), static_cast<std::streamsize>(file.contents.size()));
    out.close();
    if (!out) {
      throw Error(ExitCode::io, "IO-WRITE", fmt::format("cannot write {}", path.string()))
          .expected(fmt::format("room for {} bytes", file.contents.size()))
          .why("full or read-only disk, or no permission");
    }
  }
}

uint64_t Tokenizer::fingerprint() const {
  // FNV-1a: caches outlive builds, so the function must never change.
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](std::string_view bytes) {
    for (const char byte : bytes) {
      hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
    }
    hash = (hash ^ 0xFF) * 0x100000001b3u;  // ends a field; no UTF-8 text holds this byte
  };
  for (const TokenizerFile& file : files()) {
    add(file.name);
    add(file.contents);
  }
  return hash;
}

struct StreamDecoder::State {
  const Tokenizer* tokenizer;
  bool skip_special_tokens;
  TextSink sink;
  std::vector<std::unique_ptr<DecoderStream>> streams;  // last step first
  DecoderStream* first;
  bool finished = false;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : state_(std::make_unique<State>()) {
  state_->tokenizer = &tokenizer;
  state_->skip_special_tokens = skip_special_tokens;
  state_->first = &state_->sink;
  const tokenizer::Decoder& steps = tokenizer.state_->parts.decoder;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    state_->streams.push_back((*step)->make_stream(state_->first));
    state_->first = state_->streams.back().get();
  }
}

StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

void StreamDecoder::push_to(int32_t id, std::string* text) {
  if (state_->finished) throw std::logic_error("StreamDecoder::push after finish");
  const TokenizerParts& parts = state_->tokenizer->state_->parts;
  if (const AddedToken* token = parts.added_tokens.find(id)) {
    if (token->special && state_->skip_special_tokens) return;
    state_->first->push({parts.added_tokens.decoded_form(*token), true});
  } else if (parts.model->vocabulary().contains_id(id)) {
    state_->first->push({parts.model->vocabulary().token(id), true});
  }
  *text += state_->sink.text;
  state_->sink.text.clear();
}

void StreamDecoder::finish_to(std::string* text) {
  if (!state_->finished) state_->first->finish();
  state_->finished = true;
  *text += state_->sink.text;
  state_->sink.text.clear();
}

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  push_to(id, &text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  finish_to(&text);
  return text;
}

}  // namespace engine
