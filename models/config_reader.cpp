#include "models/config_reader.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"

namespace engine {

ConfigReader::ConfigReader(const nlohmann::json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) invalid("(whole file)", "a JSON object", object.type_name());
}

const nlohmann::json* ConfigReader::find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool ConfigReader::has(const char* key) const {
  return find(key) != nullptr;
}

bool ConfigReader::is_null(const char* key) const {
  const auto it = object_.find(key);
  return it != object_.end() && it->is_null();
}

int64_t ConfigReader::integer(const char* key, std::optional<int64_t> fallback, int64_t minimum,
                              int64_t maximum) const {
  const nlohmann::json* value = find(key);
  if (!value) {
    if (!fallback) invalid(key, "an integer", "nothing");
    return *fallback;
  }
  if (!value->is_number_integer()) invalid(key, "an integer", value->dump());
  const bool fits =
      !value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(maximum);
  const int64_t number = fits ? value->get<int64_t>() : 0;
  if (!fits || number < minimum || number > maximum) {
    invalid(key, fmt::format("an integer from {} to {}", minimum, maximum), value->dump());
  }
  return number;
}

int ConfigReader::layers(const char* key, int fallback) const {
  constexpr int64_t kMaximum = 4096;  // the deepest published models have a few hundred
  return static_cast<int>(integer(key, fallback, 1, kMaximum));
}

float ConfigReader::number(const char* key, std::optional<float> fallback) const {
  const nlohmann::json* value = find(key);
  if (!value) {
    if (!fallback) invalid(key, "a number", "nothing");
    return *fallback;
  }
  if (!value->is_number()) invalid(key, "a number", value->dump());
  return value->get<float>();
}

bool ConfigReader::boolean(const char* key, bool fallback) const {
  const nlohmann::json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) invalid(key, "true or false", value->dump());
  return value->get<bool>();
}

std::string ConfigReader::string(const char* key, const std::string& fallback) const {
  const nlohmann::json* value = find(key);
  if (!value) return fallback;
  if (!value->is_string()) invalid(key, "a string", value->dump());
  return value->get<std::string>();
}

std::vector<int32_t> ConfigReader::ids(const char* key,
                                       const std::vector<int32_t>& fallback) const {
  const nlohmann::json* value = find(key);
  if (!value) return is_null(key) ? std::vector<int32_t>() : fallback;
  std::vector<int32_t> out;
  const auto one = [&](const nlohmann::json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < -1 || id.get<int64_t>() > INT32_MAX) {
      invalid(key, "a token id or a list of token ids", value->dump());
    }
    if (id.get<int64_t>() >= 0) out.push_back(id.get<int32_t>());  // some configs write -1 for none
  };
  if (value->is_array()) {
    for (const nlohmann::json& id : *value) one(id);
  } else {
    one(*value);
  }
  return out;
}

std::vector<std::string> ConfigReader::strings(const char* key) const {
  const nlohmann::json* value = find(key);
  if (!value) return {};
  if (!value->is_array()) invalid(key, "a list of strings", value->dump());
  std::vector<std::string> out;
  for (const nlohmann::json& element : *value) {
    if (!element.is_string()) invalid(key, "a list of strings", value->dump());
    out.push_back(element.get<std::string>());
  }
  return out;
}

const nlohmann::json* ConfigReader::object(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value && !value->is_object()) invalid(key, "an object", value->dump());
  return value;
}

void ConfigReader::unsupported(const std::string& key, const std::string& found,
                               const std::string& supported) const {
  throw Error(ExitCode::checkpoint, "CONFIG-UNSUPPORTED",
              fmt::format("{} = {} is not supported", key, found))
      .where(where_)
      .expected(supported)
      .found(found)
      .fix("use a checkpoint without it, or open an issue that names the model");
}

void ConfigReader::invalid(const std::string& key, const std::string& expected,
                           const std::string& found) const {
  throw Error(ExitCode::checkpoint, "CONFIG-INVALID", fmt::format("bad value for \"{}\"", key))
      .where(where_)
      .expected(expected)
      .found(found)
      .why("the file is not this family's config.json, or was edited by hand");
}

}  // namespace engine
