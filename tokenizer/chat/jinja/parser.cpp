#include "tokenizer/chat/jinja/parser.h"

#include <algorithm>

#include "tokenizer/chat/jinja/check_template.h"
#include "tokenizer/chat/jinja/parser_base.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/unset_names.h"

namespace engine::jinja {
namespace {

class TemplateParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Template run() {
    Template result;
    result.body = parse_body({});
    check_template(result.body);
    result.names = std::move(names_);
    result.has_generation = has_generation_;
    find_unset_names(result);
    return result;
  }

 private:
  using EndTags = std::initializer_list<std::string_view>;

  static std::unique_ptr<Statement> make_statement(StatementKind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  bool at_end_tag(EndTags ends) const {
    return std::any_of(ends.begin(), ends.end(),
                       [this](std::string_view name) { return current().is_name(name); });
  }

  // Up to one of `ends`, which becomes the current token; or to the end of the template.
  Body parse_body(EndTags ends) {
    Body body;
    while (current().kind != TokenKind::end) {
      const int line = current().line;
      switch (current().kind) {
        case TokenKind::text: {
          auto statement = make_statement(StatementKind::text, line);
          statement->text = take().text;
          body.push_back(std::move(statement));
          break;
        }
        case TokenKind::print_begin: {
          take();
          auto statement = make_statement(StatementKind::print, line);
          statement->expression = parse_tuple({});
          expect(TokenKind::print_end, "end of print statement");
          body.push_back(std::move(statement));
          break;
        }
        default:
          take();  // block_begin
          if (at_end_tag(ends)) return body;
          parse_statement(body);
          expect(TokenKind::block_end, "end of statement block");
      }
    }
    if (ends.size() > 0) {
      std::string names;
      for (const std::string_view name : ends) {
        names += (names.empty() ? "'" : " or '") + std::string(name) + "'";
      }
      fail("Unexpected end of template. Jinja was looking for the following tags: " + names + ".");
    }
    return body;
  }

  // The body of a statement, from the end of its tag on.
  Body parse_block(EndTags ends) {
    skip_symbol(":");
    expect(TokenKind::block_end, "end of statement block");
    return parse_body(ends);
  }
  Body parse_block_to(std::string_view end) {
    Body body = parse_block({end});
    take();
    return body;
  }

  void parse_statement(Body& body) {
    const Level level(*this);
    const int line = current().line;
    if (current().kind != TokenKind::name) fail("tag name expected");
    const std::string tag = current().text;
    take();
    if (tag == "print") return parse_print(line, body);
    body.push_back(parse_tag(tag, line));
  }

  std::unique_ptr<Statement> parse_tag(const std::string& tag, int line) {
    if (tag == "for") return parse_for(line);
    if (tag == "if") return parse_if(line);
    if (tag == "set") return parse_set(line);
    if (tag == "macro") return parse_macro(line);
    if (tag == "call") return parse_call_block(line);
    if (tag == "filter") return parse_filter_block(line);
    if (tag == "with") return parse_with(line);
    if (tag == "generation") return parse_generation(line);
    if (tag == "break" || tag == "continue") {
      // Jinja leaves this one to Python.
      if (loops_ == 0) throw TemplateError("SyntaxError", "'" + tag + "' outside loop", line);
      return make_statement(
          tag == "break" ? StatementKind::break_loop : StatementKind::continue_loop, line);
    }
    for (const char* other : {"extends", "include", "import", "from", "block", "autoescape"}) {
      if (tag == other) {
        throw TemplateError("UnsupportedError", "the tag '" + tag + "' is not supported", line);
      }
    }
    fail("Encountered unknown tag " + quoted(tag) + ".", line);
  }

  void parse_print(int line, Body& body) {
    bool first = true;
    while (current().kind != TokenKind::block_end) {
      if (!first) expect_symbol(",");
      first = false;
      auto statement = make_statement(StatementKind::print, line);
      statement->expression = parse_expression();
      body.push_back(std::move(statement));
    }
  }

  std::unique_ptr<Statement> parse_for(int line) {
    auto statement = make_statement(StatementKind::loop, line);
    statement->target = parse_target({});
    if (!skip_name("in")) fail("expected token 'in'");
    statement->expression = parse_tuple({.with_condition = false});
    if (skip_name("if")) statement->filter = parse_expression();
    statement->recursive = skip_name("recursive");
    ++loops_;
    statement->body = parse_block({"endfor", "else"});
    --loops_;
    if (take().text == "else") statement->otherwise = parse_block_to("endfor");
    return statement;
  }

  std::unique_ptr<Statement> parse_if(int line) {
    auto statement = make_statement(StatementKind::condition, line);
    while (true) {
      ExpressionPtr condition = parse_tuple({.with_condition = false});
      Body body = parse_block({"elif", "else", "endif"});
      statement->branches.emplace_back(std::move(condition), std::move(body));
      const std::string end = take().text;
      if (end == "elif") continue;
      if (end == "else") statement->otherwise = parse_block_to("endif");
      return statement;
    }
  }

  std::unique_ptr<Statement> parse_set(int line) {
    auto statement = make_statement(StatementKind::set, line);
    statement->target = parse_target({.with_members = true});
    if (skip_symbol("=")) {
      statement->expression = parse_tuple({});
      return statement;
    }
    statement->kind = StatementKind::set_block;
    if (current().is_symbol("|")) statement->expression = parse_filters(nullptr, false);
    statement->body = parse_inner("endset", nullptr);
    return statement;
  }

  // A body that becomes a function of its own in Jinja: no break out of it.
  Body parse_inner(std::string_view end, Signature* signature) {
    const int loops = std::exchange(loops_, 0);
    if (signature) macros_.push_back(signature);
    Body body = parse_block_to(end);
    if (signature) macros_.pop_back();
    loops_ = loops;
    return body;
  }

  void parse_signature(Signature& signature) {
    expect_symbol("(");
    while (!current().is_symbol(")")) {
      if (!signature.parameters.empty()) expect_symbol(",");
      Parameter parameter;
      parameter.name = expect(TokenKind::name, "name").text;
      parameter.symbol = symbol(parameter.name);
      signature.has_caller_parameter |= parameter.name == "caller";
      const bool defaults =
          !signature.parameters.empty() && signature.parameters.back().fallback != nullptr;
      if (skip_symbol("=")) {
        parameter.fallback = parse_expression();
      } else if (defaults) {
        fail("non-default argument follows default argument");
      }
      signature.parameters.push_back(std::move(parameter));
    }
    expect_symbol(")");
  }

  std::unique_ptr<Statement> parse_macro(int line) {
    auto statement = make_statement(StatementKind::macro, line);
    statement->text = expect(TokenKind::name, "name").text;
    statement->symbol = symbol(statement->text);
    parse_signature(statement->signature);
    statement->body = parse_inner("endmacro", &statement->signature);
    return statement;
  }

  std::unique_ptr<Statement> parse_call_block(int line) {
    auto statement = make_statement(StatementKind::call_block, line);
    if (current().is_symbol("(")) parse_signature(statement->signature);
    statement->expression = parse_expression();
    if (statement->expression->kind != ExpressionKind::call) fail("expected call", line);
    statement->body = parse_inner("endcall", &statement->signature);
    return statement;
  }

  std::unique_ptr<Statement> parse_filter_block(int line) {
    auto statement = make_statement(StatementKind::filter_block, line);
    statement->expression = parse_filters(nullptr, true);
    statement->body = parse_block_to("endfilter");
    return statement;
  }

  std::unique_ptr<Statement> parse_with(int line) {
    auto statement = make_statement(StatementKind::with, line);
    while (current().kind != TokenKind::block_end) {
      if (!statement->assignments.empty()) expect_symbol(",");
      ExpressionPtr target = parse_target({});
      expect_symbol("=");
      statement->assignments.emplace_back(std::move(target), parse_expression());
    }
    statement->body = parse_block_to("endwith");
    return statement;
  }

  std::unique_ptr<Statement> parse_generation(int line) {
    auto statement = make_statement(StatementKind::generation, line);
    has_generation_ = true;
    statement->body = parse_inner("endgeneration", &statement->signature);
    return statement;
  }

  int loops_ = 0;  // around the current statement
  bool has_generation_ = false;
};

}  // namespace

Template parse(std::string_view source) {
  return TemplateParser(tokenize(source)).run();
}

}  // namespace engine::jinja
