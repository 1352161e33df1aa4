"""Random templates, rendered by Jinja as transformers sets it up and by the engine.

  python jinja_differential.py --probe BUILD/tests/tokenizer/chat/chat_probe [--count N] [--seed S]

Needs transformers and jinja2. Prints every difference and a summary; exit status 1 if there is one.
Not compared: outputs with addresses of objects, integers above 64 bits, and what the engine says it
does not support (counted). Where Jinja's compiler computes a constant slice that fails when it runs,
the engine does what happens at run time (counted as constant slices).
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import warnings

import jinja2.nodes
import transformers.utils.chat_template_utils as chat_template_utils

warnings.filterwarnings("ignore")

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be  brief. "},
        {"role": "user", "content": " Hi <b>you</b> & 'all'\n"},
        {"role": "assistant", "content": "Héllo \"wörld\"", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": [1.5, None]}}}]},
        {"role": "tool", "content": [{"type": "text", "text": "straße ΑΣ"}, {"type": "image"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "get", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "items": ["a"]}}, "required": ["city"]}}}],
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "n": 7, "m": -3, "zero": 0, "x": 2.5, "big": 1e16, "tiny": 1.5e-7, "yes": True, "no": False,
    "nothing": None,
    "s": "Hello, World", "t": "  a b\tc\n d ", "u": "ünï→😀 code", "e": "", "num": "42", "flt": " 3.75 ",
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "le": [], "mix": [1, "a", None, True, 2.5, [1], {"k": "v"}],
    "d": {"b": 2, "a": 1, "C": 3}, "de": {}, "items": {"items": [1, 2], "get": "got", "k y": 0},
    "people": [{"name": "Bo", "age": 5, "tag": "x"}, {"name": "al", "age": 3, "tag": "y"},
               {"name": "Cy", "age": 5}],
}
NAMES = list(VARIABLES) + ["undefined_name", "v", "w", "i", "ns", "loop"]
FILTERS = ["abs", "capitalize", "center(12)", "count", "default('dflt')", "default('z', true)", "d(1)",
           "dictsort", "dictsort(by='value', reverse=true)", "escape", "e", "first", "float", "int", "int(9)",
           "int(base=16)", "items", "items|list", "join", "join(', ')", "join('-', attribute='name')", "last",
           "length", "list", "lower", "map('upper')|list", "map(attribute='name')|list",
           "map(attribute='tag', default='?')|join('/')", "max", "min", "reject('none')|list",
           "rejectattr('tag')|list", "replace('l', 'L')", "replace('a', 'bb', 1)", "reverse", "reverse|list",
           "round", "round(1)", "round(1, 'ceil')", "round(method='floor')", "safe", "select|list",
           "select('string')|list", "selectattr('age', 'equalto', 5)|list", "selectattr('tag', 'defined')|list",
           "slice(2)|list", "batch(2)|list", "batch(3, 'f')|list", "sort", "sort(reverse=true)",
           "sort(attribute='age,name')", "sort(case_sensitive=true)", "string", "sum", "sum(attribute='age')",
           "title", "tojson", "tojson(indent=2)", "tojson(indent=4, sort_keys=true)",
           "tojson(separators=(',', ':'))", "tojson(ensure_ascii=true)", "trim", "trim('H ')", "truncate(6)",
           "truncate(5, true, '..')", "unique|list", "upper", "urlencode", "wordcount", "indent", "indent(2, true)",
           "indent(width='>', blank=true)", "groupby('age')", "format(1, 2)", "attr('upper')()", "filesizeformat",
           "nofilter", "forceescape"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "sequence",
         "iterable", "boolean", "true", "false", "odd", "even", "lower", "upper", "callable", "escaped",
         "divisibleby 2", "divisibleby(3)", "eq 7", "equalto('a')", "ne none", "gt 2", "lt(3)", "ge 1", "le 2",
         "in [1, 2, 'a']", "in 'abc'", "sameas none", "sameas true", "filter", "test"]
METHODS = ["upper()", "lower()", "strip()", "strip(' H')", "lstrip()", "rstrip('\\n')", "split()", "split(',')",
           "split(' ', 1)", "rsplit(' ', 1)", "rsplit(none, 1)", "splitlines()", "splitlines(true)", "startswith('He')",
           "startswith(('x', 'H'))", "endswith('d')", "replace('o', '0')", "replace('', '-')", "find('l')", "rfind('l')",
           "find('l', 4)", "index('H')", "count('l')", "count('')", "title()", "capitalize()", "swapcase()",
           "isdigit()", "isalpha()", "isalnum()", "isupper()", "islower()", "isspace()", "istitle()", "isnumeric()",
           "isdecimal()", "isidentifier()", "isascii()", "zfill(15)", "center(16, '*')", "center(15)", "ljust(14)",
           "rjust(14, '.')", "partition(',')", "rpartition(' ')", "removeprefix('He')", "removesuffix('ld')",
           "join(ls)", "expandtabs(4)", "items()", "keys()", "values()", "keys()|list", "items()|list", "get('a')",
           "get('q', 5)", "get('name')", "copy()", "index(1)", "count(1)", "append(1)", "pop()", "update({})",
           "format(1, 'b', k=2)", "encode"]
ATTRIBUTES = ["role", "content", "name", "items", "a", "b", "nope", "_x", "__class__", "tool_calls", "function",
              "index", "index0", "first", "last", "length", "revindex", "previtem", "nextitem", "depth", "c",
              "0", "1", "grouper", "list"]
SUBSCRIPTS = ["0", "1", "-1", "99", "'role'", "'content'", "'a'", "'items'", "'get'", "'k y'", "1:", ":2", "::-1",
              "1:3", "-2:", ":-1", "::2", "2::-1", "'x':", "none", "i", "loop.index0 - 1", "1.5", "n"]
STRINGS = ["'a'", "\"it's\"", "'x\\ny'", "''", "'é→'", "'%s-%d'", "'%05.1f|%-4s|%x'", "'%(a)s'", "'{} {}'",
           "'{0:>6}|{k!r:^7}|{1}'", "'\\u00e9\\t\\x41'", "'a' 'b'", "'Hello'", "'<i>'"]
NUMBERS = ["0", "1", "2", "3", "-1", "7", "10", "1.5", "0.1", "2e3", "1_000", "0x1f", "1e100", "0.30000000000000004"]


LEAVES = {
    "str": ["s", "t", "u", "e", "num", "messages[1].content", "messages[2]['content']", "bos_token", "ls[0]"] + [x for x in STRINGS if "%" not in x and "{" not in x],
    "num": ["n", "m", "zero", "x", "big", "tiny", "yes", "l[0]", "flt|float", "num|int"] + NUMBERS,
    "list": ["l", "ls", "le", "mix", "messages", "range(3)|list", "['b', 'B', 'a']", "[[2, 1], [1, 2]]"],
    "people": ["people"], "dict": ["d", "de", "items", "messages[2]", "people[0]", "{'k': [1, {'z': none}]}"],
    "bool": ["true", "false", "yes", "no", "add_generation_prompt", "messages", "nothing", "undefined_name", "e", "le"],
}
LEAVES["any"] = [x for k in ("str", "num", "list", "dict", "bool") for x in LEAVES[k]] + ["nothing", "d.nope"]
STRING_METHODS = [m for m in METHODS if m.split("(")[0] in (
    "upper lower strip lstrip rstrip replace title capitalize swapcase zfill center ljust rjust removeprefix removesuffix expandtabs".split())]
STRING_QUESTIONS = [m for m in METHODS if m.startswith("is")]
STRING_FILTERS = ["capitalize", "center(12)", "escape", "lower", "upper", "title", "trim", "trim('H ')", "replace('l', 'L')", "reverse", "truncate(6)",
                  "truncate(5, true, '..')", "truncate(8, leeway=0)", "urlencode", "indent", "indent(2, true)", "indent(width='>', blank=true)", "safe", "string", "first", "last"]
NUMBER_FILTERS = ["abs", "int", "float", "round", "round(1)", "round(1, 'ceil')", "round(method='floor')", "filesizeformat", "default(3)"]
LIST_FILTERS = ["reverse|list", "list", "map('string')|list", "select('string')|list", "reject('none')|list", "batch(2)|list", "batch(3, 'f')|list", "slice(2)|list",
                "slice(3, 'f')|list", "map('tojson')|list", "select|list", "reject|list", "map('default', 'z')|list"]
PEOPLE_FILTERS = ["map(attribute='name')|list", "map(attribute='tag', default='?')|list", "groupby('age')", "groupby('tag', default='q')", "sort(attribute='age,name')",
                  "sort(attribute='name', reverse=true)", "selectattr('age', 'equalto', 5)|list", "map(attribute='name')|sort", "map(attribute='name')|unique|list", "map(attribute='age')|unique|list"]
ANY_FILTERS = ["tojson", "tojson(indent=2)", "tojson(indent=4, sort_keys=true)", "tojson(separators=(',', ':'))", "tojson(ensure_ascii=true)", "string",                "default('dflt')", "default('z', true)", "e", "forceescape", "string|wordcount|string"]
SAFE_TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "sequence", "iterable", "boolean", "true", "false", "lower", "upper", "callable",
              "eq 7", "equalto('a')", "ne none", "in [1, 2, 'a']", "sameas none", "sameas true"]


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, choices):
        return self.random.choice(choices)

    def expression(self, depth=3):
        """Mostly of fitting types: templates that fail show little."""
        if self.random.random() < 0.03:
            return self.wild(depth)
        return self.typed(self.pick(["str", "str", "num", "list", "people", "dict", "any", "bool"]), depth)

    def typed(self, kind, depth):
        r = self.random.random()
        t = lambda k: self.typed(k, depth - 1)
        s = lambda: self.operand_of("str", depth)
        if depth <= 0 or r < 0.3:
            return self.pick(LEAVES[kind])
        if r < 0.33:
            return f"({t(kind)} if {t('bool')} else {t(kind)})"
        if r < 0.36:
            return f"({t(kind)} {self.pick(['or', 'and'])} {t(kind)})"
        if kind == "str":
            return self.pick([
                lambda: f"{s()}.{self.pick(STRING_METHODS)}", lambda: f"{s()}.{self.pick(STRING_METHODS)}",
                lambda: f"({s()} + {s()})", lambda: f"({t('any')} ~ {t('any')})", lambda: f"{s()}|{self.pick(STRING_FILTERS)}",
                lambda: f"{s()}|{self.pick(STRING_FILTERS)}", lambda: f"{self.operand_of('any', depth)}|{self.pick(ANY_FILTERS)}",
                lambda: f"{s()}[{self.pick(['0', '-1', '1:', ':3', '::-1', '-4:', '1:5:2', ':-2'])}]",
                lambda: f"{self.operand_of('list', depth)}|join({self.pick(STRINGS)})", lambda: f"({s()} * {self.pick(['2', '3', '0', 'yes'])})",
                lambda: f"('%s|%r|%5.2f|%03d' % ({t('any')}, {t('any')}, {t('num')}, 7))",
                lambda: f"'{{}}/{{!r}}'.format({t('any')}, {t('any')})",
            ])()
        if kind == "num":
            return self.pick([
                lambda: f"({t('num')} {self.pick(['+', '-', '*'])} {t('num')})", lambda: f"({t('num')} {self.pick(['/', '//', '%'])} {self.pick(['2', '-3', '0.5', 'n', 'm', 'zero'])})",
                lambda: f"{self.operand_of(self.pick(['str', 'list', 'dict']), depth)}|length", lambda: f"{self.operand_of('num', depth)}|{self.pick(NUMBER_FILTERS)}",
                lambda: f"-{self.operand_of('num', depth)}", lambda: f"({t('num')} ** {self.pick(['2', '0', '-1', '0.5'])})",
                lambda: f"{s()}.{self.pick(['find', 'count', 'rfind'])}({s()})", lambda: f"{self.pick(['l', 'ls', 'people'])}|length",
                lambda: f"({t('num')})|round({self.pick(['', '1', '2', '0', '-1', '1, chr'])})".replace(', chr', ", 'floor'"),
            ])()
        if kind == "list":
            return self.pick([
                lambda: f"[{t('any')}, {t('any')}]", lambda: f"({t('any')}, {t('str')})", lambda: f"{s()}.split({self.pick(['', repr(','), repr(' ')])})",
                lambda: f"{self.operand_of('list', depth)}[{self.pick(['1:', '::-1', ':2', '-2:', '::2'])}]", lambda: f"({self.operand_of('list', depth)} + [{t('any')}])",
                lambda: f"{self.operand_of('list', depth)}|{self.pick(LIST_FILTERS)}", lambda: f"{self.operand_of('list', depth)}|{self.pick(LIST_FILTERS)}",
                lambda: f"{self.operand_of('people', depth)}|{self.pick(PEOPLE_FILTERS)}", lambda: f"{self.operand_of('dict', depth)}|{self.pick(['items|list', 'dictsort', 'list'])}",
                lambda: f"range({self.pick(['3', '1, 4', '5, 0, -2', 'n'])})|list", lambda: f"{self.operand_of('dict', depth)}.{self.pick(['keys()', 'values()', 'items()'])}|list",
            ])()
        if kind == "people":
            return self.pick([lambda: f"{t('people')}|selectattr('age'{self.pick(['', ', ' + repr('gt') + ', 4', ', ' + repr('defined')])})|list",
                              lambda: f"{t('people')}|rejectattr('tag', 'defined')|list", lambda: f"{t('people')}|sort(attribute='{self.pick(['name', 'age', 'age,name'])}')",
                              lambda: f"{t('people')}[1:]", lambda: "people"])()
        if kind == "dict":
            return self.pick([lambda: f"{{'p': {t('any')}, {t('str')}: {t('any')}}}", lambda: f"dict(a={t('any')})", lambda: f"dict({self.pick(['d', 'items', 'de'])}, z={t('any')})",
                              lambda: "messages[2]", lambda: "people[0]", lambda: "tools[0].function"])()
        if kind == "bool":
            return self.pick([
                lambda: f"({t('any')} is {self.pick(['', 'not '])}{self.pick(SAFE_TESTS)})", lambda: f"({t('num')} {self.pick(['<', '<=', '>', '>=', '==', '!='])} {t('num')})",
                lambda: f"({s()} {self.pick(['in', 'not in', '==', '<'])} {s()})", lambda: f"({t('any')} {self.pick(['in', 'not in'])} {t('list')})",
                lambda: f"(not {t('any')})", lambda: f"({t('any')} {self.pick(['==', '!='])} {t('any')})", lambda: f"{s()}.{self.pick(['startswith', 'endswith'])}({s()})",
                lambda: f"({t('num')} < {t('num')} <= {t('num')})", lambda: f"{s()}.{self.pick(STRING_QUESTIONS)}", lambda: f"({t('num')} is {self.pick(['odd', 'even', 'divisibleby 2', 'gt 2', 'lt(3)'])})",
            ])()
        return self.typed(self.pick(["str", "num", "list", "dict", "bool", "people"]), depth - 1)

    def operand_of(self, kind, depth):
        text = self.typed(kind, depth - 1)
        return text if text.isidentifier() else f"({text})"

    def wild(self, depth):
        r = self.random.random()
        e = lambda: self.expression(depth - 1)
        if depth <= 0 or r < 0.24:
            k = self.random.random()
            if k < 0.6:
                return self.pick(NAMES)
            if k < 0.75:
                return self.pick(STRINGS)
            if k < 0.9:
                return self.pick(NUMBERS)
            return self.pick(["true", "false", "none", "[]", "{}", "()", "True", "None"])
        if r < 0.40:
            return f"{e()}|{self.pick(FILTERS)}"
        if r < 0.48:
            return f"{e()} is {self.pick(['', 'not '])}{self.pick(TESTS)}"
        if r < 0.58:
            return f"{self.operand(depth)}.{self.pick(METHODS)}"
        if r < 0.66:
            return f"{self.operand(depth)}.{self.pick(ATTRIBUTES)}"
        if r < 0.73:
            return f"{self.operand(depth)}[{self.pick(SUBSCRIPTS)}]"
        if r < 0.82:
            op = self.pick(["+", "-", "*", "/", "//", "%", "**", "~", "+", "~"])
            right = e() if op not in ("*", "**") else self.pick(["2", "3", "0", "-1", "n", "x", "yes", "s"])
            return f"{e()} {op} {right}"
        if r < 0.88:
            return f"{e()} {self.pick(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in', 'and', 'or'])} {e()}"
        if r < 0.90:
            return f"not {e()}"
        if r < 0.93:
            return f"({e()})"
        if r < 0.95:
            return f"{e()} if {e()}" + (f" else {e()}" if self.random.random() < 0.8 else "")
        if r < 0.97:
            return self.pick([f"[{e()}, {e()}]", f"({e()}, {e()})", f"{{'p': {e()}, {e()}: 1}}", f"({e()},)"])
        if r < 0.98:
            return f"-{e()}"
        return self.pick(["range(3)", "range(1, 7, 2)|list", "range(n)", "dict(a=1)", "dict(d, z=2)", "namespace(a=1)",
                          "macro1(1)", "macro1('q', b=2)", "loop.cycle('a', 'b')", "loop.changed(i)", "cycler(1, 2).next()",
                          "joiner('|')()", "strftime_now('%d %b %Y')", "range(5)[::-1]|list", "dict([(1, 2)])"])

    def operand(self, depth):
        return self.pick([self.pick(NAMES), self.pick(NAMES), self.pick(STRINGS), f"({self.expression(depth - 1)})"])

    def tag(self, inside):
        begin = self.pick(["{%", "{%", "{%-", "{%-", "{%+"])
        end = self.pick(["%}", "%}", "-%}", "-%}", "+%}"])
        return f"{begin} {inside} {end}"

    def text(self):
        return self.pick(["", "", "text", " ", "\n", "  \n", "\n    ", "x\n  ", " y ", "{", "}}", "é\n", "\t", "#}"])

    def body(self, depth):
        return "".join(self.text() + self.statement(depth) for _ in range(self.random.randint(1, 3))) + self.text()

    def statement(self, depth):
        r = self.random.random()
        if depth <= 0 or r < 0.42:
            begin = self.pick(["{{", "{{", "{{-", "{{+"])
            end = self.pick(["}}", "}}", "-}}"])
            return f"{begin} {self.expression()} {end}"
        b = lambda: self.body(depth - 1)
        if r < 0.54:
            text = self.tag(f"if {self.expression()}") + b()
            if self.random.random() < 0.4:
                text += self.tag(f"elif {self.expression(2)}") + b()
            if self.random.random() < 0.5:
                text += self.tag("else") + b()
            return text + self.tag("endif")
        if r < 0.70:
            target = self.pick(["i", "i", "v", "v, w"])
            source = self.pick(["messages", "ls", "l", "people", "d", "d.items()", "d|items", "range(3)", "s", "mix", "le",
                                "messages[::-1]", "tools", self.expression(2)])
            condition = f" if {self.expression(2)}" if self.random.random() < 0.2 else ""
            recursive = " recursive" if self.random.random() < 0.05 else ""
            text = self.tag(f"for {target} in {source}{condition}{recursive}") + b()
            if self.random.random() < 0.15:
                text += self.tag(f"if {self.expression(2)}") + self.tag(self.pick(["break", "continue"])) + self.tag("endif")
            if self.random.random() < 0.3:
                text += "{{ loop." + self.pick(["index", "last", "first", "length", "revindex0", "nextitem", "previtem"]) + " }}"
            if self.random.random() < 0.2:
                text += self.tag("else") + b()
            return text + self.tag("endfor")
        if r < 0.80:
            return self.tag(f"set {self.pick(['v', 'w', 'x', 'ns.a', 'ns.b', 'v, w'])} = {self.expression()}")
        if r < 0.83:
            return self.tag(f"set {self.pick(['v', 'w'])}{self.pick(['', '|upper', '|trim|title'])}") + b() + self.tag("endset")
        if r < 0.86:
            return self.tag(f"with v = {self.expression(2)}, w = {self.expression(1)}") + b() + self.tag("endwith")
        if r < 0.89:
            return self.tag(f"filter {self.pick(['upper', 'trim', 'replace(1, 2)', 'indent(2)'])}") + b() + self.tag("endfilter")
        if r < 0.92:
            name = self.pick(["macro1", "macro2"])
            text = self.tag(f"macro {name}(a, b='B', c=a)") + b() + self.pick(["", "{{ varargs }}{{ kwargs }}", "{{ caller() }}"])
            return text + self.tag("endmacro")
        if r < 0.94:
            return self.tag(f"call {self.pick(['macro1', 'macro2'])}({self.expression(1)})") + b() + self.tag("endcall")
        if r < 0.97:
            return self.tag("generation") + b() + self.tag("endgeneration")
        return self.pick(["{# comment #}", "{#- c -#}", "{% raw %} {{ x }} {% endraw %}", "{%- raw -%}\n a {%- endraw -%}\n",
                          "{# a\n #}\n", "  {#+ b +#}\n"])

    def template(self):
        head = self.pick(["", "", "{% set ns = namespace(a=1, b='') %}", "{%- set ns = namespace(a=[], b=0) -%}\n"])
        macro = self.pick(["", "{% macro macro1(a, b=3) %}[{{ a }}{{ b }}]{% endmacro %}"])
        return head + macro + self.body(3) + self.pick(["", "\n", "\n\n", "\r\n", " "])


def reference_without_constant_slices(template):
    folded = jinja2.nodes.Getitem.as_const

    def unfolded(node, eval_ctx=None):
        if isinstance(node.arg, jinja2.nodes.Slice):
            raise jinja2.nodes.Impossible()
        return folded(node, eval_ctx)

    jinja2.nodes.Getitem.as_const = unfolded
    try:
        return reference(template)
    finally:
        jinja2.nodes.Getitem.as_const = folded


def kind_of_error(answer):
    return answer.get("error", "").split(":")[0]


def reference(template):
    try:
        compiled = chat_template_utils._cached_compile_jinja_template(template)
        compiled.environment.globals["strftime_now"] = lambda format: __import__("datetime").datetime(2024, 7, 26).strftime(format)
        variables = json.loads(json.dumps(VARIABLES))
        blocks, spans = [], []
        with compiled.environment.activate_tracker(blocks, spans):
            for block in compiled.generate(**variables):
                blocks.append(block)
        text = "".join(blocks)
        return {"rendered": text, "spans": spans}
    except RecursionError:
        return {"skip": "recursion"}
    except Exception as error:  # whatever Python raises is the answer
        return {"error": type(error).__name__, "message": str(error)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=10)
    arguments = parser.parse_args()
    templates = [Generator(arguments.seed * 1_000_003 + i).template() for i in range(arguments.count)]
    rows = "".join(json.dumps({"template": t, "variables": VARIABLES}) + "\n" for t in templates)
    process = subprocess.run([arguments.probe], input=rows, capture_output=True, text=True)
    answers = [json.loads(line) for line in process.stdout.splitlines()]
    if process.returncode != 0 or len(answers) != len(templates):
        print(f"the probe ended with {process.returncode} after {len(answers)} rows: {templates[len(answers)]!r}")
        return 1
    counts, shown = collections.Counter(), 0
    for template, ours in zip(templates, answers):
        theirs = reference(template)
        kind = kind_of_error(ours)
        if kind == "TypeError" and "error" not in theirs:
            at_run_time = reference_without_constant_slices(template)
            if kind_of_error(at_run_time) == kind:
                counts["constant slices"] += 1
                continue
        text = theirs.get("rendered", "")
        if "skip" in theirs or any(word in text for word in (" at 0x", "<generator", "<built-in", "<Macro", "Cycler", "<function", "<LoopContext")):
            counts["not comparable"] += 1
            continue
        if kind in ("UnsupportedError", "LimitError") or "64 bits" in ours.get("error", ""):
            counts[f"not supported ({ours['error'][:70]})"] += 1
            continue
        if "error" in theirs:
            same = kind == theirs["error"]
            counts["same error" if same else "error of another type"] += 1
            if same or (kind and theirs["error"] in ("AssertionError", "ValueError", "TypeError", "AttributeError", "KeyError", "IndexError")):
                continue
        elif "error" not in ours:
            encoded = ours["rendered"].encode()
            spans = [[len(encoded[:a].decode()), len(encoded[:b].decode())] for a, b in ours["spans"]]
            # A block in a macro may be put beyond the end of the text.
            expected = [[min(place, len(text)) for place in span] for span in theirs["spans"]]
            if ours["rendered"] == text and spans == expected:
                counts["equal"] += 1
                continue
            counts["different"] += 1
        else:
            counts["only the engine fails"] += 1
        shown += 1
        if shown <= arguments.show:
            print("TEMPLATE", repr(template))
            print("  jinja ", theirs)
            print("  engine", ours)
    print(dict(counts))
    return 1 if shown else 0


if __name__ == "__main__":
    sys.exit(main())
