#include "engine/core/json.h"

namespace engine {

size_t find_deep_nesting(std::string_view text) {
  size_t depth = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    switch (text[at]) {
      case '[':
      case '{':
        if (++depth > kMaxJsonDepth) return at;
        break;
      case ']':
      case '}':
        depth -= depth > 0;
        break;
      case '"':
        for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\';
        break;
      default:
        break;
    }
  }
  return std::string_view::npos;
}

}  // namespace engine
