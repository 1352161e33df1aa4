// Base64 (RFC 4648), as rank files and tokenizer.json hold bytes.
#pragma once

#include <string>
#include <string_view>

namespace engine::tokenizer {

// False when `text` is empty or not base64 with its padding.
bool decode_base64(std::string_view text, std::string* bytes);

}  // namespace engine::tokenizer
