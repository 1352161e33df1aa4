#include "engine/data/text_encoder.h"

#include <fmt/format.h>

#include "engine/core/error.h"

namespace engine {

TextEncoder make_text_encoder(std::shared_ptr<const Tokenizer> tokenizer) {
  TextEncoder encoder;
  if (!tokenizer) {
    encoder.identity = "none";
    encoder.encode = [](std::string_view) -> std::vector<int32_t> {
      throw Error(ExitCode::usage, "CFG-MISSING", "these rows are text, and there is no tokenizer")
          .fix("set model.tokenizer to a directory with a tokenizer.json");
    };
    return encoder;
  }
  encoder.identity = fmt::format("{:016x}", tokenizer->fingerprint());
  encoder.bos_id = tokenizer->bos_id().value_or(-1);
  encoder.eos_id = tokenizer->eos_id().value_or(-1);
  encoder.adds_bos = !tokenizer->prefix_ids().empty() && tokenizer->bos_id() &&
                     tokenizer->prefix_ids().front() == *tokenizer->bos_id();
  encoder.prefix = tokenizer->prefix_ids();
  encoder.suffix = tokenizer->suffix_ids();
  encoder.vocab_size = tokenizer->vocab_size();
  encoder.encode = [tokenizer](std::string_view text) {
    return tokenizer->encode(text, {.add_special_tokens = false});
  };
  return encoder;
}

}  // namespace engine
