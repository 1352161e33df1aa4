// Chat templates: any text is parsed and, where it parses, rendered over a conversation. The only
// outcomes are a text and a TemplateError, soon and in bounded memory.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/parser.h"
#include "tokenizer/chat/json_value.h"
#include "tokenizer/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace engine;
  static const jinja::Value variables = json_value(nlohmann::ordered_json::parse(R"({
      "messages": [{"role": "system", "content": " a "}, {"role": "user", "content": "bé\n"},
                   {"role": "assistant", "content": "c", "tool_calls": [
                     {"function": {"name": "f", "arguments": {"x": [1.5, null, true]}}}]}],
      "tools": [{"function": {"name": "f"}}], "documents": null, "add_generation_prompt": true,
      "bos_token": "<s>", "n": -7, "l": [3, 1, 2], "d": {"b": 1, "a": 2}})"));
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  // Files that are not UTF-8 are refused before they are parsed.
  if (tokenizer::find_invalid_utf8(source) != std::string_view::npos) return 0;
  jinja::RenderOptions options;
  options.limits.steps = 200'000;
  options.limits.bytes = size_t{16} << 20;
  options.now.emplace();
  options.now->tm_mday = 1;
  try {
    jinja::render(jinja::parse(source), variables.dict(), options);
  } catch (const jinja::TemplateError&) {
  }
  return 0;
}
