// SentencePiece models -> parts.
#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>

#include "engine/core/error.h"
#include "tokenizer/bpe_files.h"
#include "tokenizer/loaders.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/sentencepiece_bpe.h"
#include "tokenizer/sentencepiece_file.h"
#include "tokenizer/sentencepiece_text.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"

namespace engine::tokenizer {
namespace {

Error unsupported(const std::string& file, std::string what, std::string supported) {
  return Error(ExitCode::checkpoint, "TOK-UNSUPPORTED", fmt::format("{} is not supported", what))
      .with("file", file)
      .with("supported", std::move(supported));
}

Vocabulary make_piece_vocabulary(const SentencePieceFile& model, const std::string& file) {
  Vocabulary vocabulary;
  size_t num_bytes = 0;
  for (const auto& piece : model.pieces) num_bytes += piece.text.size();
  vocabulary.reserve(model.pieces.size(), num_bytes);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const std::string_view text = model.pieces[id].text;
    if (vocabulary.add(text, static_cast<int32_t>(id)) != Vocabulary::Added::kYes) {
      throw Error(ExitCode::checkpoint, "TOK-DUPLICATE",
                  fmt::format("piece \"{}\" stands twice in the vocabulary", excerpt(text)))
          .with("file", file)
          .found(fmt::format("ids {} and {}", vocabulary.find(text), id));
    }
  }
  return vocabulary;
}

int32_t find_unknown(const SentencePieceFile& model) {
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.pieces[id].kind == PieceKind::kUnknown) return static_cast<int32_t>(id);
  }
  return -1;  // read_sentencepiece() made sure that there is one
}

std::unique_ptr<Model> make_model(const SentencePieceFile& model, const std::string& file) {
  Vocabulary vocabulary = make_piece_vocabulary(model, file);
  std::vector<PieceKind> kinds;
  for (const auto& piece : model.pieces) kinds.push_back(piece.kind);
  switch (model.algorithm) {
    case SentencePieceFile::Algorithm::kUnigram: {
      UnigramOptions options{.flavor = UnigramOptions::Flavor::kSentencePiece,
                             .scores = {},
                             .kinds = std::move(kinds),
                             .unk_id = find_unknown(model),
                             .byte_fallback = model.byte_fallback};
      for (const auto& piece : model.pieces) options.scores.push_back(piece.score);
      return std::make_unique<Unigram>(std::move(vocabulary), std::move(options));
    }
    case SentencePieceFile::Algorithm::kBpe: {
      SentencePieceBpeOptions options{.scores = {},
                                      .kinds = std::move(kinds),
                                      .unk_id = find_unknown(model),
                                      .byte_fallback = model.byte_fallback};
      for (const auto& piece : model.pieces) options.scores.push_back(piece.score);
      return std::make_unique<SentencePieceBpe>(std::move(vocabulary), std::move(options));
    }
    case SentencePieceFile::Algorithm::kWord:
      throw unsupported(file, "a SentencePiece model of type \"word\"", "unigram, bpe");
    case SentencePieceFile::Algorithm::kChar:
      throw unsupported(file, "a SentencePiece model of type \"char\"", "unigram, bpe");
  }
  throw std::logic_error("no such algorithm");
}

std::unique_ptr<Normalizer> make_normalizer(const SentencePieceFile& model,
                                            const SentencePieceModelFile& file) {
  using DummySpace = SentencePieceNormalizerOptions::DummySpace;
  SentencePieceNormalizerOptions options;
  if (!model.precompiled_charsmap.empty()) {
    options.charsmap = Charsmap(model.precompiled_charsmap, file.name);
  }
  options.remove_extra_whitespaces = model.remove_extra_whitespaces;
  options.escape_whitespaces = model.escape_whitespaces;
  options.dummy_space = DummySpace::kNone;
  if (model.add_dummy_prefix && model.whitespace_is_suffix) {
    options.dummy_space = DummySpace::kSuffix;
  } else if (model.add_dummy_prefix && !file.prefix_at_start_only) {
    options.dummy_space = DummySpace::kPrefix;
  }
  for (const auto& piece : model.pieces) {
    if (piece.kind == PieceKind::kUserDefined) options.user_defined.emplace_back(piece.text);
  }
  return make_sentencepiece_normalizer(std::move(options));
}

// Control pieces and the unknown one are special tokens; sentinels of T5 count down to the end of
// the embedding, <extra_id_0> last.
std::vector<AddedToken> make_added_tokens(const SentencePieceFile& model,
                                          const SentencePieceModelFile& file) {
  std::vector<AddedToken> tokens = file.added_tokens;
  const auto add = [&](std::string content, int32_t id) {
    const bool listed = std::any_of(tokens.begin(), tokens.end(), [&](const AddedToken& token) {
      return token.content == content;
    });
    if (!listed) tokens.push_back({.id = id, .content = std::move(content), .special = true});
  };
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const PieceKind kind = model.pieces[id].kind;
    if (kind == PieceKind::kControl || kind == PieceKind::kUnknown) {
      add(std::string(model.pieces[id].text), static_cast<int32_t>(id));
    }
  }
  for (int32_t i = 0; i < file.extra_ids; ++i) {
    add(fmt::format("<extra_id_{}>", i),
        static_cast<int32_t>(model.pieces.size()) + file.extra_ids - 1 - i);
  }
  return tokens;
}

bool looks_like_t5(const SentencePieceFile& model) {
  return model.algorithm == SentencePieceFile::Algorithm::kUnigram && model.pieces.size() > 3 &&
         model.pieces[0].text == "<pad>" && model.pieces[1].text == "</s>" &&
         model.pieces[2].text == "<unk>";
}

}  // namespace

TokenizerParts load_sentencepiece(const SentencePieceModelFile& given) {
  const SentencePieceFile model = read_sentencepiece(given.contents, given.name);
  if (!model.denormalizer_charsmap.empty()) {
    throw unsupported(given.name, "a denormalizer (denormalizer_spec.precompiled_charsmap)",
                      "models without one");
  }
  SentencePieceModelFile file = given;
  const bool is_bpe = model.algorithm == SentencePieceFile::Algorithm::kBpe;
  const bool is_t5 = file.family == SentencePieceFamily::kT5 ||
                     (file.family == SentencePieceFamily::kUnknown && looks_like_t5(model));
  if (file.extra_ids < 0) file.extra_ids = is_t5 ? 100 : 0;
  // The tokenizer of T5 puts the prefix everywhere, whatever the config says.
  file.prefix_at_start_only = file.prefix_at_start_only && !is_t5 && model.escape_whitespaces &&
                              !model.whitespace_is_suffix;

  TokenizerParts parts;
  parts.model = make_model(model, given.name);  // refuses pieces that stand twice
  parts.normalizer = make_normalizer(model, file);
  if (model.add_dummy_prefix && file.prefix_at_start_only) {
    parts.pre_tokenizer = make_dummy_prefix_at_start();
  }
  parts.decoder.push_back(
      make_sentencepiece_decoder({.drop_dummy_prefix = model.add_dummy_prefix,
                                  .remove_extra_whitespaces = model.remove_extra_whitespaces}));
  parts.added_tokens.set(
      check_added_tokens(make_added_tokens(model, file), parts.model->vocabulary(), given.name),
      nullptr);
  const auto role = [&](std::string_view piece) -> std::optional<int32_t> {
    const AddedToken* token = parts.added_tokens.find(piece);
    return token ? std::optional(token->id) : std::nullopt;
  };
  parts.roles = {.bos = role(model.bos_piece),
                 .eos = role(model.eos_piece),
                 .pad = role(model.pad_piece),
                 .unk = find_unknown(model)};
  if (file.add_bos.value_or(is_bpe) && parts.roles.bos) {
    parts.post_processor.prefix = {*parts.roles.bos};
  }
  if (file.add_eos.value_or(is_t5) && parts.roles.eos) {
    parts.post_processor.suffix = {*parts.roles.eos};
  }
  return parts;
}

}  // namespace engine::tokenizer
