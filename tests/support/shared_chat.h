// Tokenizers for the rows of chat_templates/expected.jsonl in the shared data: each was rendered
// with special tokens of its own.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace engine::testing {

class SharedChatTokenizers {
 public:
  // `data` is the root of the shared data.
  explicit SharedChatTokenizers(std::filesystem::path data)
      : data_(std::move(data)),
        root_(std::filesystem::temp_directory_path() /
              ("engine_chat_tokenizers." + std::to_string(::getpid()))) {}
  ~SharedChatTokenizers() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  SharedChatTokenizers(const SharedChatTokenizers&) = delete;
  SharedChatTokenizers& operator=(const SharedChatTokenizers&) = delete;

  // A directory with the tokenizer's files, without a template.
  std::string directory(const nlohmann::ordered_json& row) {
    const std::string name = row["template"];
    const char* kind = name.find("lama") != std::string::npos    ? "llama"
                       : name.find("qwen3") != std::string::npos ? "qwen3"
                                                                 : "qwen2.5";
    const std::string bos = row["bos_token"], eos = row["eos_token"];
    const auto [at, made] = directories_.try_emplace(bos + "|" + eos + "|" + kind,
                                                     root_ / std::to_string(directories_.size()));
    if (made) make(at->second, kind, bos, eos);
    return at->second.string();
  }

 private:
  using Json = nlohmann::ordered_json;

  void copy(const std::string& from, const std::filesystem::path& to) const {
    std::filesystem::copy_file(data_ / "tokenizers" / from, to);
  }
  Json read_json(const std::string& name) const {
    std::ifstream in(data_ / "tokenizers" / name, std::ios::binary);
    return Json::parse(in);
  }

  void make(const std::filesystem::path& path, const std::string& kind, const std::string& bos,
            const std::string& eos) const {
    std::filesystem::create_directories(path);
    Json config = {{"eos_token", eos}};
    if (!bos.empty()) config["bos_token"] = bos;
    config["pad_token"] = nullptr;
    config["unk_token"] = nullptr;
    if (kind == "llama") {
      copy("llama3/tokenizer.model", path / "tokenizer.model");
      config["added_tokens_decoder"] = Json::object();
      const Json tables = read_json("llama3/special_tokens.json");
      for (const auto& [table, tokens] : tables.items()) {
        if (table.find("hf") == std::string::npos && table.find("HF") == std::string::npos) {
          continue;
        }
        for (const auto& [content, id] : tokens.items()) {
          config["added_tokens_decoder"][std::to_string(id.get<int>())] = {{"content", content},
                                                                           {"special", true}};
        }
      }
    } else {
      copy("qwen2.5/vocab.json", path / "vocab.json");
      copy("qwen2.5/merges.txt", path / "merges.txt");
      Json added = read_json("qwen2.5/added_tokens.json");
      if (kind == "qwen3") {
        added["<tool_response>"] = 151665;
        added["</tool_response>"] = 151666;
        added["<think>"] = 151667;
        added["</think>"] = 151668;
      }
      std::ofstream(path / "added_tokens.json") << added.dump();
    }
    std::ofstream(path / "tokenizer_config.json") << config.dump();
  }

  std::filesystem::path data_, root_;
  std::map<std::string, std::filesystem::path> directories_;
};

}  // namespace engine::testing
