// Text as a YAML scalar that reads back as the same text.
#pragma once

#include <string>
#include <string_view>

namespace engine {

// Plain where that is safe (also inside [] and {}), else in double quotes.
std::string yaml_scalar(std::string_view text);

}  // namespace engine
