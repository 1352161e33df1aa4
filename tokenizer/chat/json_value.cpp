#include "tokenizer/chat/json_value.h"

#include <nlohmann/json.hpp>

namespace engine {

using jinja::Value;
using Json = nlohmann::ordered_json;

namespace {

constexpr int kMaxDepth = 256;

Value convert(const Json& json, int depth) {
  if (depth > kMaxDepth) {
    throw jinja::TemplateError("LimitError", "the JSON is nested deeper than 256 levels");
  }
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (const auto number = json.get<uint64_t>(); number > static_cast<uint64_t>(INT64_MAX)) {
        return Value::real(static_cast<double>(number));
      }
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value::real(json.get<double>());
    case Json::value_t::string:
      return Value::string(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(convert(item, depth + 1));
      return Value::list(std::move(items));
    }
    case Json::value_t::object: {
      auto dict = std::make_shared<jinja::DictObject>();
      for (const auto& [key, value] : json.items()) dict->set(key, convert(value, depth + 1));
      return Value::object(jinja::Type::dict, std::move(dict));
    }
    default:
      return {};
  }
}

}  // namespace

Value json_value(const Json& json) {
  return convert(json, 0);
}

}  // namespace engine
