// Errors about the user's data: exit code 3 and a message that begins with file:line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/error.h"

namespace engine {

Error data_error(std::string code, std::string what);
Error data_error(std::string code, std::string_view file, uint64_t line, std::string_view what);

// 1234567 -> "1 234 567"
std::string group_digits(int64_t value);

}  // namespace engine
