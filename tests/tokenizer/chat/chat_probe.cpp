// chat_probe < rows: renders {"template", "variables"[, "date"]} of each line and prints
// {"rendered", "spans"} or {"error"}: the other side of tests/reference/jinja_differential.py.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/parser.h"
#include "tokenizer/chat/json_value.h"

int main() {
  using namespace engine;
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto row = nlohmann::ordered_json::parse(line);
    nlohmann::ordered_json out;
    try {
      const jinja::Template parsed = jinja::parse(row["template"].get<std::string>());
      const jinja::Value variables = json_value(row["variables"]);
      jinja::RenderOptions options;
      std::tm date{};
      date.tm_year = 124;
      date.tm_mon = 6;
      date.tm_mday = 26;
      std::mktime(&date);
      options.now = date;
      const jinja::Rendering result = jinja::render(parsed, variables.dict(), options);
      out["rendered"] = result.text;
      out["spans"] = nlohmann::json::array();
      for (const jinja::GenerationBlock& block : result.generations) {
        out["spans"].push_back({block.span.begin, block.span.end});
      }
    } catch (const jinja::TemplateError& error) {
      out["error"] = error.what();
      out["line"] = error.line();
    }
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}
