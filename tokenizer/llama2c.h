// The tokenizer files of llama2.c (tok512.bin, tokenizer.bin).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace engine {

// The tokenizer.json that tokenizes like llama2.c with the given file: BPE with byte fallback in
// the style of Llama 2, BOS (id 1) in front. Merges follow from the scores: a token forms from any
// two others that make it up, tokens of higher score first.
//
// File: u32 longest token, then {f32 score, i32 length, bytes} per token until the end. Ids 0, 1, 2
// are <unk>, <s>, </s>; 3 to 258 the bytes <0x00> to <0xFF>.
// Throws TOK-MALFORMED, TOK-DUPLICATE or TOK-MISSING (exit code `checkpoint`).
std::string llama2c_tokenizer_json(const std::filesystem::path& path);
// The same from the contents of a file; `name` is for errors.
std::string llama2c_tokenizer_json(std::string_view contents, const std::string& name);

}  // namespace engine
