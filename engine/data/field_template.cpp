#include "engine/data/field_template.h"

#include "engine/core/error.h"
#include "engine/data/utf8.h"

namespace engine {

FieldTemplate FieldTemplate::parse(const std::string& option, const std::string& spec) {
  FieldTemplate result;
  result.literals_.emplace_back();
  if (spec.find_first_of("{}") == std::string::npos) {
    result.plain_ = true;
    result.fields_.push_back(spec);
    result.literals_.emplace_back();
    return result;
  }
  const auto fail = [&](const std::string& what) {
    return Error(ExitCode::usage, "DATA-TEMPLATE", "data.fields." + option + ": " + what)
        .found(printable_excerpt(spec, 0, 200))
        .expected("{name} for a field, {{ and }} for braces");
  };
  for (size_t i = 0; i < spec.size(); ++i) {
    const char c = spec[i];
    if ((c == '{' || c == '}') && i + 1 < spec.size() && spec[i + 1] == c) {
      result.literals_.back() += c;
      ++i;
    } else if (c == '{') {
      const size_t close = spec.find_first_of("{}", i + 1);
      if (close == std::string::npos || spec[close] != '}') throw fail("'{' without '}'");
      if (close == i + 1) throw fail("{} names no field");
      result.fields_.push_back(spec.substr(i + 1, close - i - 1));
      result.literals_.emplace_back();
      i = close;
    } else if (c == '}') {
      throw fail("'}' without '{'");
    } else {
      result.literals_.back() += c;
    }
  }
  return result;
}

}  // namespace engine
