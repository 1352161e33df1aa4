// JSON as values of a template.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "tokenizer/chat/jinja/value.h"

namespace engine {

// Members keep their order. Integers above 64 bits signed become reals. Throws TemplateError
// (LimitError) for more than 256 levels.
jinja::Value json_value(const nlohmann::ordered_json& json);

}  // namespace engine
