// The parts of the parser share the tokens and the table of names.
#pragma once

#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

#include "tokenizer/chat/jinja/lexer.h"
#include "tokenizer/chat/jinja/parser.h"

namespace engine::jinja {

// What error messages call a token.
std::string describe(const Token& token);

// Expressions, in Jinja's order of precedence: if-else, or, and, not, comparisons, + -, ~,
// * / // %, **, unary, postfix, filters and tests.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens);

 protected:
  static constexpr int kMaxNesting = 100;
  static constexpr int kMaxHeight = 300;

  // Counts levels while it lives.
  class Level {
   public:
    explicit Level(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.level_ > kMaxNesting) parser_.too_deep();
    }
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  struct TupleOptions {
    bool with_condition = true;  // `a if b else c` may stand in it
    bool parentheses = false;    // it may be empty
    bool targets_only = false;   // names and tuples of them
    bool with_members = false;   // and namespace attributes
  };
  ExpressionPtr parse_expression(bool with_condition = true);
  ExpressionPtr parse_tuple(const TupleOptions& options);
  ExpressionPtr parse_target(const TupleOptions& options);
  ExpressionPtr parse_filters(ExpressionPtr input, bool at_name);

  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool skip_symbol(std::string_view symbol);
  bool skip_name(std::string_view name);
  void expect_symbol(std::string_view symbol);
  Token expect(TokenKind kind, const char* what);
  [[noreturn]] void fail(const std::string& message, int line = 0) const;
  [[noreturn]] void too_deep() const;

  int32_t symbol(const std::string& name);
  static ExpressionPtr make(ExpressionKind kind, int line);
  // Fixes the height of a node whose members are all there.
  ExpressionPtr finish(ExpressionPtr node) const;

  std::vector<std::string> names_;
  std::vector<Signature*> macros_;  // that are being parsed, outermost first

 private:
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_comparison();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters = true);
  ExpressionPtr parse_primary(bool with_members = false);
  ExpressionPtr parse_name(bool with_members);
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_filters_and_tests(ExpressionPtr node);
  ExpressionPtr parse_subscript(ExpressionPtr node);
  ExpressionPtr parse_subscribed(ExpressionPtr object, int line);
  ExpressionPtr parse_call(ExpressionPtr node);
  ExpressionPtr parse_test(ExpressionPtr node);
  ArgumentList parse_arguments();
  std::string parse_dotted_name();
  ExpressionPtr fold_left(ExpressionPtr left, ExpressionKind kind, BinaryOperator op,
                          ExpressionPtr right, int line) const;
  void check_target(const Expression& target) const;
  bool at_tuple_end() const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int level_ = 0;
  std::unordered_map<std::string, int32_t> symbols_;
};

}  // namespace engine::jinja
