// Reads a config.json with HF's rules: a key may be absent or null (the family's default applies),
// must have the right type, and errors name key, expected and found.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace engine {

class ConfigReader {
 public:
  // `where` names the source in errors, e.g. "models/x/config.json".
  ConfigReader(const nlohmann::json& object, std::string where);

  // An integer from `minimum` to `maximum`. Far above any model, the default keeps products of two
  // such numbers within 64 bits; make_model() refuses what is too large altogether.
  int64_t integer(const char* key, std::optional<int64_t> fallback, int64_t minimum = 1,
                  int64_t maximum = INT32_MAX) const;
  // A number of layers: each is built before anything is known of its size.
  int layers(const char* key, int fallback) const;
  float number(const char* key, std::optional<float> fallback) const;
  bool boolean(const char* key, bool fallback) const;
  std::string string(const char* key, const std::string& fallback) const;
  // A number or a list of numbers; `fallback` when absent, empty when null.
  std::vector<int32_t> ids(const char* key, const std::vector<int32_t>& fallback = {}) const;
  // A list of strings; empty when absent or null.
  std::vector<std::string> strings(const char* key) const;
  // The object under `key`, or null when absent.
  const nlohmann::json* object(const char* key) const;
  bool has(const char* key) const;      // present and not null
  bool is_null(const char* key) const;  // present and null

  // Error CONFIG-UNSUPPORTED: this engine does not implement what the key asks for.
  [[noreturn]] void unsupported(const std::string& key, const std::string& found,
                                const std::string& supported) const;
  [[noreturn]] void invalid(const std::string& key, const std::string& expected,
                            const std::string& found) const;
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json* find(const char* key) const;

  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace engine
