#include "tokenizer/sentencepiece_file.h"

#include <fmt/core.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "engine/core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {
namespace {

// One field of a message: its number and its value, an integer or bytes by wire type.
struct Field {
  uint32_t number = 0;
  enum { kInteger = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 } wire = kInteger;
  uint64_t integer = 0;
  std::string_view bytes;

  bool boolean() const { return integer != 0; }
  float real() const { return std::bit_cast<float>(static_cast<uint32_t>(integer)); }
};

// Walks over the fields of a message.
class Message {
 public:
  // `offset` is where `bytes` stand in the file.
  Message(std::string_view bytes, size_t offset, const std::string& file)
      : bytes_(bytes), offset_(offset), file_(file) {}

  bool next(Field* field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t tag = varint();
    field->number = static_cast<uint32_t>(tag >> 3);
    if (tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF) throw broken("a field number out of range");
    switch (tag & 7) {
      case Field::kInteger:
        field->wire = Field::kInteger;
        field->integer = varint();
        return true;
      case Field::kFixed64:
        field->wire = Field::kFixed64;
        field->integer = fixed(8);
        return true;
      case Field::kBytes: {
        field->wire = Field::kBytes;
        const uint64_t length = varint();
        if (length > bytes_.size() - at_) {
          throw broken(
              fmt::format("a field of {} bytes, {} are left", length, bytes_.size() - at_));
        }
        field->bytes = bytes_.substr(at_, static_cast<size_t>(length));
        at_ += static_cast<size_t>(length);
        return true;
      }
      case Field::kFixed32:
        field->wire = Field::kFixed32;
        field->integer = fixed(4);
        return true;
      default:
        throw broken(fmt::format("wire type {}", tag & 7));
    }
  }

  // The message inside a field just read.
  Message inside(const Field& field) const {
    require(field, Field::kBytes);
    return Message(field.bytes, offset_ + at_ - field.bytes.size(), file_);
  }
  void require(const Field& field, int wire) const {
    if (field.wire != wire) throw broken(fmt::format("field {} of another type", field.number));
  }

  Error broken(std::string found) const {
    return Error(ExitCode::checkpoint, "TOK-MALFORMED",
                 fmt::format("{} is no SentencePiece model, or a damaged one", file_))
        .where(fmt::format("byte {}", offset_ + at_))
        .found(std::move(found))
        .why("interrupted download, or a pointer file in place of the model")
        .fix("download the file again");
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == bytes_.size()) throw broken("the end in the middle of a number");
      const unsigned char byte = static_cast<unsigned char>(bytes_[at_++]);
      if (shift < 64) value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    throw broken("a number of more than ten bytes");
  }
  uint64_t fixed(size_t size) {
    if (bytes_.size() - at_ < size) throw broken("the end in the middle of a number");
    uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + at_, size);
    at_ += size;
    return value;
  }

  std::string_view bytes_;
  size_t at_ = 0;
  size_t offset_;
  const std::string& file_;
};

PieceKind piece_kind(uint64_t type, const Message& message) {
  switch (type) {
    case 1:
      return PieceKind::kNormal;
    case 2:
      return PieceKind::kUnknown;
    case 3:
      return PieceKind::kControl;
    case 4:
      return PieceKind::kUserDefined;
    case 5:
      return PieceKind::kUnused;
    case 6:
      return PieceKind::kByte;
    default:
      throw message.broken(fmt::format("a piece of type {}", type));
  }
}

SentencePieceFile::Piece read_piece(Message message) {
  SentencePieceFile::Piece piece;
  for (Field field; message.next(&field);) {
    if (field.number == 1) {
      message.require(field, Field::kBytes);
      piece.text = field.bytes;
    } else if (field.number == 2) {
      message.require(field, Field::kFixed32);
      piece.score = field.real();
    } else if (field.number == 3) {
      message.require(field, Field::kInteger);
      piece.kind = piece_kind(field.integer, message);
    }
  }
  if (piece.text.empty()) throw message.broken("a piece without text");
  if (piece.text.size() > kMaxPieceBytes) {
    throw message.broken(fmt::format("a piece of {} bytes", piece.text.size()));
  }
  if (find_invalid_utf8(piece.text) != std::string_view::npos) {
    throw message.broken("a piece that is not UTF-8");
  }
  if (!std::isfinite(piece.score)) throw message.broken("a piece whose score is no number");
  return piece;
}

void read_trainer_spec(Message message, SentencePieceFile* out) {
  for (Field field; message.next(&field);) {
    switch (field.number) {
      case 3:
        message.require(field, Field::kInteger);
        if (field.integer < 1 || field.integer > 4) {
          throw message.broken(fmt::format("model type {}", field.integer));
        }
        out->algorithm = static_cast<SentencePieceFile::Algorithm>(field.integer);
        break;
      case 24:
        out->whitespace_is_suffix = field.boolean();
        break;
      case 35:
        out->byte_fallback = field.boolean();
        break;
      case 45:
        if (!field.bytes.empty()) out->unk_piece = field.bytes;
        break;
      case 46:
        if (!field.bytes.empty()) out->bos_piece = field.bytes;
        break;
      case 47:
        if (!field.bytes.empty()) out->eos_piece = field.bytes;
        break;
      case 48:
        if (!field.bytes.empty()) out->pad_piece = field.bytes;
        break;
      default:
        break;
    }
  }
}

void read_normalizer_spec(Message message, SentencePieceFile* out) {
  for (Field field; message.next(&field);) {
    switch (field.number) {
      case 2:
        out->precompiled_charsmap = field.bytes;
        break;
      case 3:
        out->add_dummy_prefix = field.boolean();
        break;
      case 4:
        out->remove_extra_whitespaces = field.boolean();
        break;
      case 5:
        out->escape_whitespaces = field.boolean();
        break;
      default:
        break;
    }
  }
}

std::string_view read_denormalizer_charsmap(Message message) {
  std::string_view charsmap;
  for (Field field; message.next(&field);) {
    if (field.number == 2) charsmap = field.bytes;
  }
  return charsmap;
}

// The rules of sentencepiece for the pieces together.
void check_pieces(const SentencePieceFile& model, const std::string& file) {
  const auto malformed = [&](std::string what) {
    return Error(ExitCode::checkpoint, "TOK-MALFORMED", std::move(what)).with("file", file);
  };
  if (model.pieces.size() > static_cast<size_t>(Vocabulary::kMaxId)) {
    throw malformed(fmt::format("{} pieces are too many", model.pieces.size()));
  }
  bool has_unknown = false;
  size_t num_bytes = 0;
  for (const SentencePieceFile::Piece& piece : model.pieces) {
    if (piece.kind == PieceKind::kUnknown) {
      if (has_unknown) throw malformed("two pieces are of the kind \"unknown\"");
      has_unknown = true;
    }
    if (piece.kind == PieceKind::kByte) {
      if (!model.byte_fallback || byte_of_token(piece.text) < 0) {
        throw malformed(fmt::format("piece \"{}\" is marked as a byte", excerpt(piece.text)));
      }
      ++num_bytes;
    }
  }
  if (!has_unknown) throw malformed("no piece is of the kind \"unknown\"");
  if (model.byte_fallback && num_bytes != 256) {
    throw malformed("the model asks for byte fallback without having all byte pieces")
        .expected("256")
        .found(fmt::format("{}", num_bytes));
  }
}

}  // namespace

SentencePieceFile read_sentencepiece(std::string_view contents, const std::string& file) {
  SentencePieceFile model;
  Message message(contents, 0, file);
  for (Field field; message.next(&field);) {
    switch (field.number) {
      case 1:
        model.pieces.push_back(read_piece(message.inside(field)));
        break;
      case 2:
        read_trainer_spec(message.inside(field), &model);
        break;
      case 3:
        read_normalizer_spec(message.inside(field), &model);
        break;
      case 5:
        model.denormalizer_charsmap = read_denormalizer_charsmap(message.inside(field));
        break;
      default:
        break;
    }
  }
  check_pieces(model, file);
  return model;
}

}  // namespace engine::tokenizer
