// tokenizer.json -> parts. The format is documented by the Hugging Face tokenizers library; what we
// do not know is refused by name rather than guessed.
#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "engine/core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/bpe_files.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_document.h"
#include "tokenizer/json_steps.h"
#include "tokenizer/loaders.h"
#include "tokenizer/unigram.h"
#include "tokenizer/word_models.h"

namespace engine::tokenizer {
namespace {

using nlohmann::json;

AddedToken read_added_token(const Node& node) {
  AddedToken token;
  token.id = node.at("id").id();
  token.content = node.at("content").string();
  token.special = node.boolean_or("special", false);
  token.single_word = node.boolean_or("single_word", false);
  token.lstrip = node.boolean_or("lstrip", false);
  token.rstrip = node.boolean_or("rstrip", false);
  token.normalized = node.boolean_or("normalized", !token.special);
  return token;
}

std::string string_or(const Node& node, const char* key, const char* fallback) {
  return node.has(key) ? node.at(key).string() : fallback;
}

BpeOptions read_bpe_options(const Node& node) {
  if (node.has("dropout") && node.value()["dropout"] != 0) {
    throw node.unsupported("model.dropout (random merges)", "null or 0");
  }
  BpeOptions options;
  options.byte_fallback = node.boolean_or("byte_fallback", false);
  options.ignore_merges = node.boolean_or("ignore_merges", false);
  options.fuse_unk = node.boolean_or("fuse_unk", false);
  options.unk_token = string_or(node, "unk_token", "");
  options.continuing_prefix = string_or(node, "continuing_subword_prefix", "");
  options.end_suffix = string_or(node, "end_of_word_suffix", "");
  return options;
}

std::unique_ptr<Model> make_bpe(const Node& node, BpeOptions options, const ModelLists& lists) {
  if (!lists.has_merges) throw node.malformed("model has no field \"merges\"");
  Vocabulary vocabulary = make_vocabulary(lists, node.file());
  MergeTable merges = make_merges(lists, vocabulary, node.file(), options.continuing_prefix.size());
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options));
}

std::unique_ptr<Model> make_unigram(const Node& node, const ModelLists& lists) {
  if (!lists.has_scores && !lists.vocab.empty()) {
    throw node.malformed("model.vocab of a Unigram model has no scores")
        .expected(R"([["token", score], ...])");
  }
  for (const ModelLists::Token& token : lists.vocab) {
    if (token.length > kMaxPieceBytes) {
      throw node.malformed(fmt::format("token {} has {} bytes", token.id, token.length))
          .expected(fmt::format("at most {}", kMaxPieceBytes));
    }
  }
  UnigramOptions options{.flavor = UnigramOptions::Flavor::kHuggingFace,
                         .scores = lists.scores,
                         .kinds = {},
                         .unk_id = node.has("unk_id") ? node.at("unk_id").id() : -1,
                         .byte_fallback = node.boolean_or("byte_fallback", false)};
  if (options.unk_id >= 0 && static_cast<size_t>(options.unk_id) >= lists.vocab.size()) {
    throw node.malformed("model.unk_id lies outside the vocabulary")
        .expected(fmt::format("less than {}", lists.vocab.size()))
        .found(fmt::format("{}", options.unk_id));
  }
  return std::make_unique<Unigram>(make_vocabulary(lists, node.file()), std::move(options));
}

std::unique_ptr<Model> make_word_piece(const Node& node, const ModelLists& lists) {
  WordPieceModelOptions options;
  options.unk_token = string_or(node, "unk_token", "[UNK]");
  options.prefix = string_or(node, "continuing_subword_prefix", "##");
  if (node.has("max_input_chars_per_word")) {
    const int64_t limit = node.at("max_input_chars_per_word").integer();
    // Looking for pieces is quadratic in the length of a word.
    if (limit < 0 || limit > 10000) {
      throw node.malformed("model.max_input_chars_per_word is out of range")
          .expected("0 to 10000")
          .found(fmt::format("{}", limit));
    }
    options.max_characters = static_cast<size_t>(limit);
  }
  return make_word_piece_model(make_vocabulary(lists, node.file()), std::move(options));
}

// Files written before the field existed are told apart by what they hold.
std::string model_type(const Node& node, const ModelLists& lists) {
  if (node.has("type")) return node.at("type").string();
  if (lists.has_merges) return "BPE";
  if (lists.has_scores) return "Unigram";
  return node.at("type").string();
}

// The alphabet that spells bytes, all of it.
bool has_byte_alphabet(const ModelLists& lists) {
  std::set<std::string, std::less<>> missing;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    missing.insert(spell_bytes(std::string_view(&raw, 1)));
  }
  for (const ModelLists::Token& token : lists.vocab) {
    if (token.length > 2) continue;
    const auto found = missing.find(lists.token(token));
    if (found != missing.end()) missing.erase(found);
    if (missing.empty()) return true;
  }
  return false;
}

// What is put around a text must be tokens: a model has no embedding for other ids.
void check_post_processor(const TokenizerParts& parts, const std::string& file) {
  for (const std::vector<int32_t>* ids :
       {&parts.post_processor.prefix, &parts.post_processor.suffix}) {
    for (const int32_t id : *ids) {
      if (parts.model->vocabulary().contains_id(id) || parts.added_tokens.find(id)) continue;
      throw Error(ExitCode::checkpoint, "TOK-MALFORMED",
                  fmt::format("the post-processor adds id {}, which no token has", id))
          .with("file", file)
          .where("post_processor");
    }
  }
}

}  // namespace

TokenizerParts load_tokenizer_json(std::string_view text, const std::string& file,
                                   const ExtraTokens& extra) {
  json document;
  ModelLists lists;
  parse_tokenizer_json(text, file, &document, &lists);
  const Node root(document, "", file);
  const Node model = root.at("model");
  const std::string type = model_type(model, lists);
  if (type != "BPE" && type != "Unigram" && type != "WordPiece" && type != "WordLevel") {
    throw model.unsupported(fmt::format("model \"{}\"", type),
                            "BPE, Unigram, WordPiece, WordLevel");
  }
  if (!lists.has_vocab) throw model.malformed("model has no field \"vocab\"");
  if (lists.has_scores && type != "Unigram") throw model.at("type").wrong_type("\"Unigram\"");

  TokenizerParts parts;
  if (root.has("normalizer")) parts.normalizer = read_normalizer(root.at("normalizer"));
  BpeOptions bpe;
  if (type == "BPE") bpe = read_bpe_options(model);
  // An affix is spelled in characters, so the bytes must be too; and a fallback is to the bytes of
  // a character, of one that spells a byte as well.
  const bool bytes_stay_bytes = type == "BPE" && bpe.continuing_prefix.empty() &&
                                bpe.end_suffix.empty() &&
                                (!bpe.byte_fallback || has_byte_alphabet(lists));
  if (root.has("pre_tokenizer")) {
    parts.pre_tokenizer =
        read_pre_tokenizer(root.at("pre_tokenizer"), bytes_stay_bytes, &bpe.byte_level);
  }
  if (type == "BPE") {
    parts.model = make_bpe(model, std::move(bpe), lists);
  } else if (type == "Unigram") {
    parts.model = make_unigram(model, lists);
  } else if (type == "WordPiece") {
    parts.model = make_word_piece(model, lists);
  } else {
    parts.model =
        make_word_level_model(make_vocabulary(lists, file), string_or(model, "unk_token", "<unk>"));
  }
  if (root.has("post_processor")) {
    parts.post_processor = read_post_processor(root.at("post_processor"));
  }
  if (root.has("decoder")) {
    parts.decoder = read_decoder(root.at("decoder"));
  } else {
    parts.decoder.push_back(make_join_decoder());
  }

  std::vector<AddedToken> added;
  if (root.has("added_tokens")) {
    for (const Node& token : root.at("added_tokens").elements()) {
      added.push_back(read_added_token(token));
    }
  }
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < added.size(); ++i) places.emplace(added[i].content, i);
  for (const AddedToken& token : extra.tokens) {
    const auto [known, is_new] = places.emplace(token.content, added.size());
    if (is_new) {
      added.push_back(token);
    } else if (extra.flags_decide) {
      AddedToken& other = added[known->second];
      const int32_t id = other.id;
      other = token;
      other.id = id;
    }
  }
  parts.added_tokens.set(check_added_tokens(std::move(added), parts.model->vocabulary(), file),
                         parts.normalizer.get());
  check_post_processor(parts, file);
  guess_roles(&parts);
  return parts;
}

}  // namespace engine::tokenizer
