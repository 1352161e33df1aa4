// Templates against what Jinja made of them (tests/reference/make_chat_goldens.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tokenizer/chat/jinja/compared_texts.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/parser.h"
#include "tokenizer/chat/jinja/text.h"
#include "tokenizer/chat/json_value.h"

namespace engine::jinja {
namespace {

using Json = nlohmann::ordered_json;

const std::string kGolden = ENGINE_SOURCE_DIR "/tests/tokenizer/chat/golden/";

RenderOptions options_of_goldens() {
  RenderOptions options;
  std::tm date{};
  date.tm_year = 124;
  date.tm_mon = 6;
  date.tm_mday = 26;
  date.tm_wday = 5;
  options.now = date;
  return options;
}

std::string rendered(const std::string& source, const Limits& limits = {}) {
  RenderOptions options = options_of_goldens();
  options.limits = limits;
  return render(parse(source), DictObject(), options).text;
}

std::string error_of(const std::string& source, const Limits& limits = {}) {
  try {
    return "no error: " + rendered(source, limits);
  } catch (const TemplateError& error) {
    return error.what();
  }
}

TEST(Jinja, EqualsJinja) {
  std::ifstream in(kGolden + "templates.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  const Value variables = json_value(Json::parse(line)["variables"]);
  int rows = 0, errors = 0, spans = 0;
  for (; std::getline(in, line); ++rows) {
    const Json row = Json::parse(line);
    const std::string source = row["template"];
    SCOPED_TRACE(source);
    try {
      const Rendering result = render(parse(source), variables.dict(), options_of_goldens());
      if (row.contains("error")) {
        ADD_FAILURE() << "expected " << row["error"] << ", rendered " << result.text;
        continue;
      }
      EXPECT_EQ(result.text, row["rendered"].get<std::string>());
      Json found = Json::array();
      for (const GenerationBlock& block : result.generations) {
        found.push_back({count_characters(result.text.substr(0, block.span.begin)),
                         count_characters(result.text.substr(0, block.span.end))});
      }
      EXPECT_EQ(found, row.value("spans", Json::array()));
      spans += !found.empty();
    } catch (const TemplateError& error) {
      ASSERT_TRUE(row.contains("error")) << error.what();
      EXPECT_EQ(error.type(), row["error"].get<std::string>()) << error.what();
      ++errors;
    }
  }
  EXPECT_GT(rows, 230);
  EXPECT_GT(errors, 40);
  EXPECT_GT(spans, 3);
}

TEST(Jinja, MessagesOfErrors) {
  EXPECT_EQ(error_of("{{ raise_exception('Roles must alternate') }}"),
            "TemplateError: Roles must alternate");
  EXPECT_EQ(error_of("{{ x.y }}"), "UndefinedError: 'x' is undefined");
  EXPECT_EQ(error_of("{% set d = {} %}{{ d.a.b }}"),
            "UndefinedError: 'dict object' has no attribute 'a'");
  EXPECT_EQ(error_of("{{ [1][3].x }}"), "UndefinedError: list object has no element 3");
  EXPECT_EQ(error_of("{{ 'a' + 1 }}"), "TypeError: can only concatenate str (not \"int\") to str");
  EXPECT_EQ(error_of("{{ [].append(1) }}"),
            "SecurityError: access to attribute 'append' of 'list' object is unsafe.");
  EXPECT_EQ(error_of("{% include 'x' %}"), "UnsupportedError: the tag 'include' is not supported");
}

TEST(Jinja, ErrorsKnowTheirLine) {
  for (const char* source :
       {"a\nb\n{{ 1 + }}", "a\n{# c\n#}{{ x.y }}", "{% set a = 1 %}\n\n{{ 1|nope }}"}) {
    try {
      rendered(source);
      ADD_FAILURE() << source;
    } catch (const TemplateError& error) {
      EXPECT_EQ(error.line(), 3) << source;
    }
  }
}

TEST(Jinja, TheDateIsThereOnlyWhenItWasGiven) {
  const Template parsed = parse(
      "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}fixed{% endif %}");
  EXPECT_EQ(render(parsed, DictObject(), {}).text, "fixed");
  EXPECT_EQ(render(parsed, DictObject(), options_of_goldens()).text, "26 Jul 2024");
}

// A block in a macro is found where Jinja puts it if its text is really there.
TEST(Jinja, TextsThatAKeyIsComparedWith) {
  const auto texts = [](const char* source) { return compared_texts(parse(source), "role"); };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts("{{ m.role == 'a' }}{% if 'b' != m['role'] or m.role == 'a' %}{% endif %}"),
            (Texts{"a", "b"}));
  EXPECT_EQ(texts("{% set role = m.role %}{% for x in y if role in ['c', 'd'] %}{% endfor %}"),
            (Texts{"c", "d"}));
  EXPECT_EQ(texts("{% macro f(r=(m.role not in ('e', 1))) %}{{ g(h, k=m.role == 'f') }}"
                  "{% endmacro %}"),
            (Texts{"e", "f"}));
  // Other keys, and what is only printed.
  EXPECT_EQ(texts("{{ m.rule == 'a' }}{{ m['role'] ~ 'b' }}{{ 'role' == x }}"), Texts{});
}

TEST(Jinja, GenerationBlocksInMacros) {
  const std::string macro =
      "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}!{% endmacro %}";
  const Rendering here = render(parse("a" + macro + "{{ m('bc') }}"), DictObject(), {});
  EXPECT_EQ(here.text, "abc!");
  ASSERT_EQ(here.generations.size(), 1u);
  EXPECT_EQ(here.generations[0].span, (Span{1, 3}));
  EXPECT_TRUE(here.generations[0].in_place);
  const Rendering behind = render(parse(macro + "a{{ 'x' ~ m('bc') }}"), DictObject(), {});
  EXPECT_EQ(behind.text, "axbc!");
  EXPECT_EQ(behind.generations[0].span, (Span{1, 3}));  // as transformers
  EXPECT_FALSE(behind.generations[0].in_place);
}

// --- Templates that mean harm end, and soon. ---

// A twentieth of the usual ones: what is paid for ends in a moment, what is not takes minutes.
const Limits kFew{
    .steps = 1'000'000, .bytes = size_t{32} << 20, .output_bytes = size_t{4} << 20, .depth = 500};

std::string repeated(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

TEST(JinjaLimits, DeepNestingIsAnError) {
  constexpr int kMany = 20000;
  for (const auto& [open, close] :
       std::vector<std::pair<std::string, std::string>>{{"{{ ", " }}"}, {"{{ 1", "1 }}"}}) {
    for (const char* nested :
         {"(", "[", "{1:", "-", "not ", "x[", "f(", "1+", "x|f", "1 if ", "1 is a ", "{", "((",
          "[[1,", "1**", "(1,", "x and ", "1 if 1 else "}) {
      const std::string text = error_of(open + repeated(nested, kMany) + close);
      EXPECT_EQ(text.find("no error"), std::string::npos) << nested;
    }
  }
  for (const char* tag :
       {"{% if 1 %}", "{% for i in [1] %}", "{% macro m() %}", "{% set x %}", "{% with %}",
        "{% filter upper %}", "{% generation %}", "{% call f() %}"}) {
    EXPECT_EQ(error_of(repeated(tag, kMany)), "LimitError: the template is nested too deep") << tag;
  }
  // Long is not deep.
  EXPECT_EQ(rendered("{{ [" + repeated("1,", kMany) + "]|length }}"), "20000");
  EXPECT_EQ(rendered(repeated("{% if 0 %}{% endif %}", kMany)), "");
  EXPECT_EQ(rendered("{% if 0 %}" + repeated("{% elif 0 %}", kMany) + "{% else %}x{% endif %}"),
            "x");
  EXPECT_EQ(rendered("{{ ''" + repeated("~'a'", kMany) + " }}").size(), 20000u);
}

TEST(JinjaLimits, ValuesThatGrowAreBounded) {
  const std::string limit = "LimitError: ";
  for (const char* source :
       {// doubling texts and lists
        "{% set ns = namespace(s='ab') %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}{% "
        "endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(90) %}{% set ns.s = ns.s ~ ns.s %}{% "
        "endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = ns.l + ns.l %}{% "
        "endfor %}",
        "{{ ('a' * 1000000) * 1000000 }}", "{{ 'a' * 9223372036854775807 }}",
        "{{ [1] * 9223372036854775807 }}", "{{ 'a'.center(9000000000000000000) }}",
        "{{ 'a'.ljust(4000000000) }}", "{{ '%999999999s' % 1 }}", "{{ '{:2000000000}'.format(1) }}",
        "{{ 'a'|indent(2000000000) }}", "{{ 'a'.zfill(4000000000) }}",
        "{{ '\\t'.expandtabs(4000000000) }}", "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
        "{{ ('a,' * 100000).split(',')|join('b' * 100000) }}",
        "{{ [1]|batch(4000000000, 0)|list }}", "{{ [1]|slice(4000000000)|list }}",
        "{{ {'a': 1}|tojson(indent=4000000000) }}",
        // long loops
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        // calls without end
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% call m() %}{% endcall %}{{ caller }}{% endmacro %}{% call m() %}{% "
        "endcall %}",
        "{% for i in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        // deep values
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% "
        "endfor %}{{ ns.l }}",
        "{% set ns = namespace(l={}) %}{% for i in range(100000) %}{% set ns.l = {'a': ns.l} %}{% "
        "endfor %}{{ ns.l|tojson }}",
        // circles
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [{'b': ns}] %}{{ ns.a }}"}) {
    const std::string text = error_of(source, kFew);
    EXPECT_EQ(text.substr(0, limit.size()), limit) << source << " -> " << text;
  }
}

// Little that makes much: 10 GB and more if they were made before they are paid for.
TEST(JinjaLimits, TextsArePaidForPieceByPiece) {
  const std::string s = "{% set s = 'a' * 1000000 %}{{ ", end = " }}";
  for (const std::string& source : std::vector<std::string>{
           "('%s' * 10000) % ((s,) * 10000)", "('%(a)s' * 10000) % {'a': s}",
           "('{0}' * 10000).format(s)", "('{a}' * 10000).format(a=s)", "s" + repeated("~s", 10000),
           "(range(10000)|list)|tojson(separators=(s, ':'))",
           "([{'a': 1}] * 10000)|tojson(separators=(',', s))", "([{s: 1}] * 10000)|tojson",
           "[" + repeated("s % (), ", 10000) + "]", "range(10000)|sort(attribute=',' * 1000000)"}) {
    EXPECT_EQ(error_of(s + source + end, kFew).substr(0, 10), "LimitError") << source.substr(0, 60);
  }
}

// Work that no loop of the template counts: it is linear, and paid for.
TEST(JinjaLimits, WorkOnLongTextsIsPaidFor) {
  const std::string part = "('a' * 1000000 ~ 'b')", text = "('a' * 2000000)";
  for (const std::string& search : std::vector<std::string>{
           part + " in " + text, text + ".find(" + part + ")", text + ".count(" + part + ")",
           text + ".rfind('b' ~ 'a' * 1000000)", text + ".split(" + part + ")|length",
           text + ".rsplit(" + part + ")|length", text + ".partition(" + part + ")|length",
           text + ".replace(" + part + ", '')|length", text + "|replace(" + part + ", '')|length",
           "('a' * 1000000).rsplit('a' * 20)|length",
           "('a' * 1000000 ~ 'c').strip('b' * 1000000 ~ 'a')"}) {
    EXPECT_EQ(error_of("{{ " + search + " }}").substr(0, 9), "no error:") << search;
  }
  for (const char* work :
       {"s|length", "s.isdigit()", "s.startswith(s)", "s == t", "s < t", "d[s]", "s in d",
        "s is lower", "s|wordcount", "s|float", "s|trim", "s|upper", "s.strip(s)", "s[1]"}) {
    const std::string text_of_error = error_of(
        "{% set d, s, t = {}, 'é' * 1000000, 'é' * 1000000 %}{% for i in range(100000) %}{% if " +
            std::string(work) + " %}{% endif %}{% endfor %}",
        kFew);
    EXPECT_EQ(text_of_error.substr(0, 10), "LimitError") << work << " -> " << text_of_error;
  }
  for (const char* work :
       {"l|join", "dict(**d)", "m(**d)", "m()", "s % ()", "(s,) in d", "q in e", "e[q]",
        "('{a}' * 1000).format(**d)", "[1]|map(attribute='.' * 1000000, default='x')|list"}) {
    std::string parameters;
    for (int i = 0; i < 5000; ++i) parameters += (i > 0 ? ", a" : "a") + std::to_string(i);
    const std::string text_of_error =
        error_of("{% macro m(" + parameters + ") %}{{ kwargs }}{% endmacro %}" +
                     "{% set s, l = 'a' * 1000000, [''] * 100000 %}"
                     "{% set d = dict(range(10000)|map('string')|batch(2), a='') %}"
                     "{% set ns = namespace(p=(1,), q=(1,)) %}{% for i in range(17) %}"
                     "{% set ns.p = (ns.p, ns.p) %}{% set ns.q = (ns.q, ns.q) %}{% endfor %}"
                     "{% set q, e = ns.q, {ns.p: 1} %}"
                     "{% for i in range(100000) %}{% if " +
                     std::string(work) + " %}{% endif %}{% endfor %}",
                 kFew);
    EXPECT_EQ(text_of_error.substr(0, 10), "LimitError") << work << " -> " << text_of_error;
  }
  EXPECT_EQ(error_of("{{ " + std::string(1001, 'a') + " }}"), "LimitError: a name is too long");
  // Tuples of tuples have as many leaves as 2^90.
  for (const char* work : {"{p: 1}|length", "p is filter", "[p, p]|unique|list|length"}) {
    EXPECT_EQ(error_of("{% set ns = namespace(p=(1,)) %}{% for i in range(90) %}"
                       "{% set ns.p = (ns.p, ns.p) %}{% endfor %}{% set p = ns.p %}{{ " +
                       std::string(work) + " }}")
                  .substr(0, 9),
              "no error:")
        << work;
  }
  // Many names, and blocks that begin with many.
  std::string names;
  for (int i = 0; i < 20000; ++i) names += "{% set a" + std::to_string(i) + " = 1 %}";
  for (const std::string& source :
       {names + "{% for i in range(99999) %}{% for j in range(999) %}{% if a19999 %}{% endif %}"
                "{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% continue %}" + names + "{% endfor %}"}) {
    EXPECT_EQ(error_of(source, kFew), "LimitError: the template runs for too long");
  }
}

TEST(JinjaLimits, LongChainsOfNamespacesAreFreed) {
  EXPECT_EQ(rendered("{% set ns = namespace(p=none) %}{% for i in range(100000) %}"
                     "{% set ns.p = namespace(p=ns.p) %}{% endfor %}ok"),
            "ok");
  // And iterators over iterators.
  EXPECT_EQ(error_of("{% set ns = namespace(p=[]) %}{% for i in range(100000) %}"
                     "{% set ns.p = ns.p|map('upper') %}{% endfor %}{{ ns.p|list }}")
                .substr(0, 10),
            "LimitError");
}

// Objects that hold each other in long chains: freeing them must not recurse without bound.
TEST(JinjaLimits, LongChainsOfOtherThings) {
  for (const char* link :
       {"[ns.p.index]", "ns.p|list|map('upper')", "[ns.p].__len__ or ns.p", "[cycler(ns.p)]",
        "[joiner(ns.p)]", "[{'a': ns.p}.items()]", "[ns.p]|batch(1)", "[ns.p]|reverse"}) {
    rendered("{% set ns = namespace(p=[1]) %}{% for i in range(100) %}{% set ns.p = " +
             std::string(link) + " %}{% endfor %}");  // short ones may be
    error_of("{% set ns = namespace(p=[1]) %}{% for i in range(100000) %}{% set ns.p = " +
             std::string(link) + " %}{% endfor %}");  // long ones end somehow
  }
  error_of(
      "{% set ns = namespace(p=[1]) %}{% for i in range(100000) %}{% for j in ns.p %}"
      "{% set ns.p = [loop] %}{% endfor %}{% endfor %}");
  EXPECT_EQ(rendered("{% for i in [1, 2] %}{{ loop.changed(loop) }}{% endfor %}"), "TrueFalse");
}

TEST(JinjaLimits, NumbersOutOfRange) {
  EXPECT_EQ(error_of("{{ 9223372036854775807 + 1 }}").substr(0, 13), "OverflowError");
  EXPECT_EQ(error_of("{{ 2 ** 64 }}").substr(0, 13), "OverflowError");
  EXPECT_EQ(error_of("{{ (0 - 9223372036854775807 - 1) // -1 }}").substr(0, 13), "OverflowError");
  EXPECT_EQ(rendered("{{ (0 - 9223372036854775807 - 1) % -1 }}"), "0");
  EXPECT_EQ(error_of("{{ 99999999999999999999 }}").substr(0, 19), "TemplateSyntaxError");
  EXPECT_EQ(rendered("{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}"),
            "a");
  EXPECT_EQ(rendered("{{ range(0, 9223372036854775807, 4611686018427387904)|list|length }}"), "2");
}

}  // namespace
}  // namespace engine::jinja
