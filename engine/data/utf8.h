// UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace engine {

// Offset of the first byte that does not belong to a valid character, or npos.
size_t find_invalid_utf8(std::string_view text);

// At most `max_bytes` of `text` from `begin`, cut between characters, with control characters
// escaped: for error messages. `text` is valid UTF-8.
std::string printable_excerpt(std::string_view text, size_t begin, size_t max_bytes);

}  // namespace engine
