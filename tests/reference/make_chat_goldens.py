"""Goldens of tests/tokenizer/chat: templates rendered by Jinja as transformers sets it up, and token
masks by transformers of two small tokenizers.

  python make_chat_goldens.py       (transformers, jinja2; writes tests/tokenizer/chat/golden)
"""

import json
import pathlib
import random

import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import jinja_differential
from jinja_differential import VARIABLES, Generator, reference

OUT = pathlib.Path(__file__).resolve().parents[1] / "tokenizer" / "chat" / "golden"

# One feature each; what they print is in the golden file.
TEMPLATES = [
    # White space: trim_blocks, lstrip_blocks, signs, comments, raw, the last newline.
    "  {% if true %}\n  a\n  {% endif %}\nb\n", "x\n  {%- if true -%}\n  a\n  {%- endif -%}\n  y", "{%+ if true +%}\n a {%+ endif +%}\nb",
    "  {# c #}\na\n{#- c -#}  b\n{#+ c +#}\nd", "a {{- ' b ' -}} c\n", " \t{{+ 1 }}\n", "{% raw %}{{ x }}{% endraw %}\n{%- raw -%}  {% y %} {%- endraw -%} z",
    "a\r\nb\rc\n\n", "{% set v %}\n  x\n{% endset %}[{{ v }}]", "{{ '\\u00e9\\x41\\n\\t\\\\\\101' }}{{ \"it's\" 'a' }}", "  {{ 1 }}\n  {% set z = 1 %}\n  {{ z }}",
    # Precedence, chains, conditions.
    "{{ 1 + 2 * 3 ** 2 - -4 // 3 % 5 }}", "{{ 2 ** 3 ** 2 }}|{{ -2 ** 2 }}|{{ 7 // -2 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 6 / 2 }}",
    "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 == true }}", "{{ not false and none or 'x' }}{{ [] or {} or 0 }}", "{{ 'a' if no else 'b' if nothing else 'c' }}{{ 'z' if no }}|",
    "{{ 'a' ~ 1 ~ none ~ [1, 'b'] ~ 1.0 }}", "{{ 'b' in 'abc' and 2 not in [1, 3] and 'a' in d }}", "{{ not n is odd }}{{ n is not even }}{{ 3 is divisibleby 3 }}{{ n is in [7] }}",
    "{{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e15 }} {{ 1.5e-5 }} {{ 123456789012345680.0 }} {{ 2.0 * 3 }} {{ 1e300 * 1e10 }}",
    "{{ [1, 'a\\'b', \"q\\\"\", none, true, 1.5, (1,), (), {'k': [none]}] }}", "{{ {'a': 1, 2: 'b', none: [], true: 1.0} }}",
    # Undefined.
    "[{{ nope }}][{{ d.nope }}][{{ messages[99] }}]{{ nope is defined }}{{ d.nope is undefined }}{{ nope == other }}{% for i in nope %}x{% else %}none{% endfor %}", "{{ nope.x }}", "{{ nope + 1 }}",
    "{{ nope() }}", "{{ nope['x'] }}", "{{ nope|length }}{{ nope|default('d') }}{{ ''|default('d', true) }}{{ nope|list }}", "{{ d.x.y }}", "{{ nope < 1 }}", "{{ nope|int }}", "{{ nope|tojson }}",
    # Members.
    "{{ messages[0].role }}{{ messages[0]['role'] }}{{ items.items() }}{{ items['items'] }}{{ items['get'] }}{{ d.keys()|list }}{{ d.get('q', 'z') }}{{ d.get('q') }}", "{{ d.items is defined }}{{ people.0.name }}",
    "{{ 'abc'[-1] }}{{ 'héé'[1:] }}{{ l[::-1] }}{{ l[:-1] }}{{ 'abcdef'[1:5:2] }}{{ 'abc'[5:] }}{{ l[5] is defined }}{{ (1, 2, 3)[1:] }}", "{{ d.__class__ }}", "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ s.__class__.x }}",
    "{{ d['nope'] is defined }}{{ none.x is defined }}{{ (1).x is defined }}", "{{ range(5)[1:3]|list }}{{ range(3) }}{{ range(5)|last }}", "{{ range(200000) }}", "{{ s['x':] }}", "{{ nothing[0] is defined }}",
    # Loops.
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}|{% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{{ loop.cycle('a', 'b') }}{{ loop.changed(i > 1) }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}{% for k, v in d|items %}{{ k }}{% endfor %}",
    "{% for i in range(6) if i is even %}{{ i }}/{{ loop.length }}{% else %}none{% endfor %}", "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% if i == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% set x = 0 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=0, y='a') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns['x'] }}{{ ns.z is defined }}{{ ns }}",
    "{% for a in [[1, [2, 3]], [4, []]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}@{{ loop.depth }}{% endif %}{% endfor %}", "{% for i in 'abc' %}{{ i }}.{% endfor %}{% for i in d %}{{ i }}{% endfor %}",
    "{% for i in [] %}{% else %}empty{% endfor %}{% for i in l %}{% break %}{% else %}else{% endfor %}", "{% for i, in [[1], [2]] %}{{ i }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{% for i in 5 %}{% endfor %}",
    # Scopes, macros, blocks.
    "{% if true %}{% set q = 1 %}{% endif %}{{ q }}{% for i in [1] %}{% set w = 2 %}{% endfor %}{{ w is defined }}{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set q = 5 %}{% endwith %}{{ q }}{{ a is defined }}",
    "{% macro m(a, b='B', c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m() }}{{ m(b=1, a=2) }}{{ m.name }}{{ m.arguments }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=1) }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}{{ m(*[1, 2], **{'k': 1}) }}", "{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(v) m() %}{{ v }}!{% endcall %}", "{% macro f(k) %}{{ k }}{% if k %}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% set a, b = 1, [2] %}{{ a }}{{ b }}{% set t = 1, %}{{ t }}", "{% set v | upper | trim %} a{{ 1 }} {% endset %}[{{ v }}]{% filter upper|replace('A', 'b') %}xa{{ 'y' }}{% endfilter %}", "{% set x.y = 1 %}", "{% set ns = namespace() %}{% set ns._p = 1 %}",
    # Filters.
    "{{ [3, 1, 2]|sort }}{{ ls|sort }}{{ ls|sort(case_sensitive=true) }}{{ ls|sort(reverse=true) }}{{ people|sort(attribute='age,name')|map(attribute='name')|join(',') }}", "{{ d|dictsort }}{{ d|dictsort(by='value') }}{{ d|dictsort(true) }}",
    "{{ people|groupby('age') }}{% for g in people|groupby('age') %}{{ g.grouper }}:{{ g.list|length }}{% endfor %}", "{{ people|selectattr('age', 'gt', 3)|map(attribute='name')|list }}{{ people|rejectattr('tag')|list }}{{ mix|select('string')|list }}{{ mix|reject('none')|list|length }}",
    "{{ ls|map('upper')|join('-') }}{{ people|map(attribute='tag', default='?')|list }}{{ [1, 2]|map('string')|list }}", "{{ ls|first }}{{ ls|last }}{{ []|first is defined }}{{ 'abc'|last }}{{ l|max }}{{ l|min }}{{ l|sum }}{{ people|sum(attribute='age') }}{{ []|max is defined }}",
    "{{ range(7)|batch(3, 'x')|list }}{{ range(7)|slice(3)|list }}{{ range(7)|slice(3, 'x')|list }}{{ ['a', 'A', 'b']|unique|list }}", "{{ 2.5|round }}{{ 3.5|round }}{{ 2.675|round(2) }}{{ 7|round }}{{ 1234.5|round(-2) }}{{ 2.1|round(method='ceil') }}{{ -2.1|round(0, 'floor') }}",
    "{{ '3.7'|int }}{{ ' 42 '|int }}{{ 'x'|int }}{{ 'x'|int(5) }}{{ '0x1f'|int(base=16) }}{{ '1_0'|int }}{{ none|int }}{{ true|int }}{{ '2.5'|float }}{{ 'x'|float(1.5) }}{{ '1e3'|float }}{{ 3.99|int }}", "{{ -5|abs }}{{ (-5)|abs }}{{ '%s|%5.1f|%-4d|%x|%%' | format('a', 2.25, 3, 255) }}",
    "{{ '  a b '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ 'hello world'|title }}|{{ 'it\\'s (a) b-c'|title }}|{{ 'HELLO'|capitalize }}|{{ 'ab'|center(7) }}|{{ 'a b c'|replace(' ', '_', 1) }}|{{ 'abc'|reverse }}", "{{ 'a long text here'|truncate(9) }}|{{ 'a long text here'|truncate(9, true) }}|{{ 'abc'|truncate(2) }}|{{ 'abcdefghijkl'|truncate(5, false, '~', 0) }}",
    "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent('>', blank=true) }}", "{{ 'a b c, d-e'|wordcount }}{{ 'a b/ü?'|urlencode }}{{ {'a b': 1}|urlencode }}{{ '<a & \"b\">'|e }}{{ ('<a>'|safe) + '<b>' }}{{ 1000000|filesizeformat }}{{ 1|filesizeformat }}",
    "{{ messages|tojson }}", "{{ tools|tojson(indent=4) }}", "{{ {'b': [], 'a': {}, 'c': [1, {'d': none}]}|tojson(indent=2, sort_keys=true) }}", "{{ {'é': '→\\n\"\\\\<&>', 1: 1.0, none: true}|tojson }}{{ 'é😀'|tojson(ensure_ascii=true) }}{{ [1, 2]|tojson(separators=(',', ':')) }}", "{{ range(3)|tojson }}", "{{ 1e400|tojson }}{{ -0.0|tojson }}",
    "{{ 'abc'|nope }}", "{% if false %}{{ 'abc'|nope }}{% endif %}ok", "{{ 'x' is nope }}",
    # Tests.
    "{% for v in [none, true, 1, 1.5, 'a', [], {}, (1,), nope, range(2)] %}{{ v is none }}{{ v is boolean }}{{ v is integer }}{{ v is number }}{{ v is string }}{{ v is sequence }}{{ v is mapping }}{{ v is iterable }}{{ v is true }}\n{% endfor %}", "{{ 'ABC' is upper }}{{ 'abc' is lower }}{{ 'a' is eq 'a' }}{{ 1 is sameas 1 }}{{ range is callable }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ x is float }}",
    # String methods.
    "{{ ' a b '.split() }}{{ 'a,b,,c'.split(',') }}{{ 'a b c'.split(' ', 1) }}{{ 'a b c'.rsplit(' ', 1) }}{{ 'a\\nb\\r\\nc'.splitlines() }}{{ 'a=b=c'.partition('=') }}{{ 'a=b'.rpartition('=') }}", "{{ '  x '.strip() }}|{{ 'xxa'.lstrip('x') }}|{{ 'axx'.rstrip('x') }}|{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.find('c') }}{{ 'abc'.count('b') }}{{ 'aXb'.replace('X', '-') }}",
    "{{ 'straße'.upper() }}{{ 'ΑΣ ΑΣΑ'.lower() }}{{ 'ǆ'.title() }}{{ 'HeLLo wORLD'.title() }}{{ 'aB'.swapcase() }}{{ 'é'.upper() }}{{ 'İ'.lower()|length }}", "{{ '{} {:>5} {k!r:^9} {0}'.format('a', 1.5, k='z') if false else '{} {:>5} {k!r:^9}'.format('a', 1.5, k='z') }}{{ '{:,} {:05d} {:.2f} {:x} {:%}'.format(1234567, 42, 3.14159, 255, 0.5) }}", "{{ '%(a)s %(b)03d' % {'a': 1, 'b': 2} }}{{ '%s' % 'x' }}{{ '%s %s' % (1, none) }}{{ '%r' % ['a'] }}", "{{ 'a' % [1] }}{{ 'a' % range(2) }}{{ 'a' % nope }}{{ 'a' % {} }}{{ '%s' % nope }}", "{{ 'a' % 1 }}", "{{ '%(a)s' % nope }}",
    "{{ ', '.join(['a', 'b']) }}{{ 'ab'.zfill(5) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}{{ 'ab'.center(5, '*') }}{{ 'x'.removeprefix('x') }}{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}", "{{ ', '.join([1]) }}", "{{ 'a'.split('') }}", "{{ 'abc'.index('z') }}", "{{ 'a' + 1 }}", "{{ [1] + (2,) }}", "{{ 1 / 0 }}", "{{ 'a' < 1 }}", "{{ 'abc' * 2 }}{{ [0] * 3 }}{{ 2 * 'x' }}",
    # Globals.
    "{{ raise_exception('No: ' ~ n) }}", "{{ strftime_now('%Y-%m-%d %H:%M %A %d %b') }}", "{{ dict(a=1, b=[2]) }}{{ dict([('x', 1)]) }}{{ dict(d, z=1) }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner(', ') %}{{ j() }}x{{ j() }}y",
    # Generation blocks.
    "a{% generation %}bé{{ n }}{% endgeneration %}c{% for m in messages %}<{% generation %}{{ m.role }}{% endgeneration %}>{% endfor %}", "{%- generation -%} x {%- endgeneration -%} y", "{% generation %}{% set q = 1 %}{% endgeneration %}{{ q is defined }}",
    # Nested, empty, in loops, in macros, in blocks that are printed later or never, in recursive loops.
    "a{% generation %}b{% generation %}é{% endgeneration %}c{% generation %}{% endgeneration %}{% generation %}dd{% endgeneration %}{% endgeneration %}e{% generation %}f{% endgeneration %}",
    "{% generation %}{% endgeneration %}a{% generation %} {%- endgeneration %}b{% generation %}{{ '' }}{% endgeneration %}", "{% for m in messages %}<{% if loop.last %}{% generation %}{% for c in 'xy' %}{{ c }}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}{% endgeneration %}{% endif %}>{% endfor %}",
    "{% macro m(x) %}[{% generation %}{{ x }}é{% endgeneration %}]{% endmacro %}a{{ m('b') }}c{{ m('d') ~ m('e') }}f", "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}!{% endmacro %}é{{ m('bc') }}{{ m(1) }}", "{% macro m() %}({{ caller() }}){% endmacro %}a{% call m() %}b{% generation %}c{% endgeneration %}{% endcall %}d",
    "{% set v %}x{% generation %}é1{% endgeneration %}{% endset %}ab{{ v }}{{ v }}", "a{% set v %}{% generation %}long text{% endgeneration %}{% endset %}b", "a{% filter upper %}b{% generation %}c{% endgeneration %}{% endfilter %}d", "{% generation %}{% set v %}{% generation %}long text{% endgeneration %}{% endset %}b{% endgeneration %}c",
    "a{% for i in [1, [2, 3]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}<{% generation %}é{{ i }}{% endgeneration %}>{% endif %}{% endfor %}b", "{% generation %}{{ caller() }}{% endgeneration %}", "{% macro m() %}{% generation %}{{ caller is defined }}{% endgeneration %}{% endmacro %}{% call m() %}x{% endcall %}",
    "{% for i in l %}{% generation %}{{ i }}{% if i == 1 %}{% endif %}{% endgeneration %}{% if i == 1 %}{% break %}{% endif %}{% endfor %}", "a{% generation %}b{{ raise_exception('x') }}{% endgeneration %}", "{% generation %}a", "{% endgeneration %}", "{% for i in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    # Where a block's names come from is decided before it runs.
    "{% for i in l %}{{ n }}{% endfor %}{% set n = 1 %}{{ n }}", "{{ n }}{% for i in l %}{{ n }}{% endfor %}{% set n = 1 %}{{ n }}", "{% for i in l %}{{ n }}{% endfor %}{% if yes %}{% set n = 1 %}{% endif %}{{ n }}", "{% for i in l %}{{ n }}{% set n = i %}{{ n }}{% endfor %}{{ n }}",
    "{% for i in l %}{% for j in l %}{{ n }}{% endfor %}{% set n = i %}{{ n }};{% endfor %}{{ n }}", "{% macro m() %}{{ n }}{% endmacro %}{{ m() }}{% set n = 1 %}{{ m() }}", "{% set n %}{{ n }}{% endset %}[{{ n }}]", "{% set n %}{{ n }}x{% set n = 3 %}{% endset %}[{{ n }}]", "{% filter upper %}{{ s }}{% set s = 'b' %}{{ s }}{% endfilter %}{{ s }}",
    "{% with n = n %}{{ n }}{% set n = 4 %}{{ n }}{% endwith %}{{ n }}", "{% for i in l %}{{ s }}{% else %}{{ n }}{% endfor %}{% for i in [] %}{% else %}{% for j in l %}{{ n }}{% endfor %}{% set n = 2 %}{{ n }}{% endfor %}", "{% if no %}{% set n = 1 %}{% elif yes %}{{ n }}{% endif %}{% set n = 2 %}{{ n }}", "{% for x in l %}{{ d.x }}{{ x }}{% endfor %}{{ x }}{% set d.y = 1 %}",
    "{% call(n) nope(n) %}{% endcall %}", "{% macro m(s=s, n=n) %}{{ s }}{{ n }}{% endmacro %}{{ m() }}{{ m(1) }}", "{% for i in l %}{{ m is defined }}{% endfor %}{% macro m() %}{% endmacro %}{{ m is defined }}", "{% for i in l %}{% set ns.a = 1 %}{% endfor %}{% set ns = namespace() %}", "{% for loop in l %}{% endfor %}", "{% for i in l %}{% set loop = 1 %}{% endfor %}", "{{ d is filter }}", "{{ [] is test }}",
    "{{ (1e99 / -7)|round(-1) }}|{{ 25.0|round(-1) }}|{{ 15.0|round(-1) }}|{{ 5.0|round(-1) }}|{{ 5.000001|round(-1) }}|{{ 149.99999999999997|round(-2) }}|{{ -250.0|round(-2) }}|{{ 4.0|round(-1) }}|{{ 60.0|round(-2) }}|{{ 1e300|round(-400) }}", "{{ 1.7e308|round(-308) }}",
    "{{ ('<a>'|e|first) ~ '<' }}{{ ('<a>'|e|last) + '<' }}{{ ('<a>'|e)[0] + '<' }}{{ ('<a>'|e|reverse) + '<' }}{% for c in 'a'|e %}{{ c + '<' }}{% endfor %}",
    "{{ false|unique|list }}", "{{ false|map('upper')|list }}{{ none|select|list }}{{ 0|rejectattr('a')|list }}", "{{ (-1e100)|filesizeformat }}{{ (-0.5)|filesizeformat }}{{ 0.9|filesizeformat }}{{ 1e30|filesizeformat }}",
    "{{ 'x'|filesizeformat }}", "{{ []|filesizeformat }}", "{{ nope|filesizeformat }}", "{{ ' 12 '|filesizeformat }}{{ (-0.0)|round(method='floor') }}{{ (-0.3)|round(0, 'ceil') }}", "{{ (x * 1e300 * 1e300)|round(method='ceil') }}",
    # Syntax errors.
    "{% if %}", "{% for x %}{% endfor %}", "{{ 1 + }}", "{{ (1 }}", "{{ 'abc }}", "{% endif %}", "{% if true %}", "{% nope %}", "{{ a b }}", "{# open", "{% raw %}", "{{ 1 | }}", "{% set 1 = 2 %}", "{% break %}", "{{ @ }}", "{{ f(a=1, 2) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{{ x is a is b }}", "{{ }}", "{{ ] }}",
]


def render_rows():
    rows = []
    for template in TEMPLATES:
        rows.append((template, reference(template)))
    generator_seed = 77
    while len(rows) < len(TEMPLATES) + 120:
        generator_seed += 1
        template = Generator(generator_seed).template()
        answer = reference(template)
        text = answer.get("rendered", "")
        if len(template) > 350 or not 8 < len(text) < 600 or any(w in text for w in (" at 0x", "<generator", "<built-in", "<Macro", "Cycler", "<function", "<LoopContext")):
            continue
        rows.append((template, answer))
    with open(OUT / "templates.jsonl", "w", encoding="utf-8") as out:
        out.write(json.dumps({"variables": VARIABLES}, ensure_ascii=False) + "\n")
        for template, answer in rows:
            row = {"template": template}
            if "error" in answer:
                row["error"] = answer["error"]
            else:
                row["rendered"] = answer["rendered"]
                if answer["spans"]:  # transformers may put a block in a macro beyond the end
                    row["spans"] = [[min(place, len(answer["rendered"])) for place in span] for span in answer["spans"]]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


TEXTS = ["What is 2+2?", "4", " spaces  around \n", "Écris «bonjour» 😀\n\nline2", "こんにちは\n```\ncode\n```", "It is 20 degrees.", "thank you\n", "", "a.b,c", "ümläut 🙂🙃."]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|turn|>assistant\n"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}\n{% else %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}")
# Spans that begin and end within words: tokens that hold characters of both sides.
RAGGED = "{% for m in messages %}{% if m.role == 'assistant' %}say: {% generation %}{{ m.content }}{% endgeneration %}. {% else %}{{ m.content }} {% endif %}{% endfor %}"
# Blocks within blocks, and blocks that print nothing.
NESTED = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}so {% generation %}{{ m.content }}{% endgeneration %}"
          "{% endgeneration %}.{% generation %}{% endgeneration %}. {% else %}{{ m.content }} {% endif %}{% endfor %}")
# The completion begins within a word.
GLUED = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES_BY_NAME = {"default": TEMPLATE, "ragged": RAGGED, "nested": NESTED, "glued": GLUED}


def mask_rows():
    corpus = TEXTS * 20 + ["system user assistant say: the cat sat on the mat. " * 5] * 10
    specials = ["<s>", "<|turn|>", "<|end|>"]

    byte_level = Tokenizer(models.BPE())
    byte_level.normalizer = normalizers.NFC()
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))

    metaspace = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    metaspace.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    metaspace.train_from_iterator(["system user assistant say: the cat sat on the mat. thank you degrees bonjour"] * 5,
                                  trainers.BpeTrainer(vocab_size=430, special_tokens=["<unk>"] + specials + [f"<0x{i:02X}>" for i in range(256)], show_progress=False))
    metaspace.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])

    chosen = random.Random(5)
    for name, backend in (("byte_level", byte_level), ("metaspace", metaspace)):
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<|end|>")
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(backend.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        with open(folder / "tokenizer_config.json", "w") as out:
            json.dump({"bos_token": "<s>", "eos_token": "<|end|>", "chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "ragged", "template": RAGGED}, {"name": "nested", "template": NESTED}, {"name": "glued", "template": GLUED}]}, out, indent=1)
            out.write("\n")
        with open(folder / "expected.jsonl", "w", encoding="utf-8") as out:
            for i in range(45):
                messages = []
                for turn in range(chosen.randint(1, 3)):
                    messages.append({"role": "user", "content": chosen.choice(TEXTS)})
                    messages.append({"role": "assistant", "content": chosen.choice(TEXTS)})
                template = ("default", "ragged", "nested")[i % 3]
                text = TEMPLATES_BY_NAME[template]
                encoded = tokenizer.apply_chat_template(messages, chat_template=text, return_dict=True, return_assistant_tokens_mask=True)
                # transformers' loop takes a span that ends in the first token for one without an end, and asks
                # for the token before the text where a span of nothing begins it. Leave those rows out.
                if len(messages[0]["content"]) < 2:
                    continue
                out.write(json.dumps({"template": template, "messages": messages,
                                      "rendered": tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False),
                                      "ids": encoded["input_ids"], "mask": encoded["assistant_masks"]}, ensure_ascii=False) + "\n")
        # Conversations in two parts, trained as TRL trains them: from the number of the prompt's ids on.
        with open(folder / "completions.jsonl", "w", encoding="utf-8") as out:
            for i in range(16):
                turn = lambda role: {"role": role, "content": chosen.choice(TEXTS)}
                prompt = [turn("user"), turn("assistant"), turn("user")] if i % 2 else [turn("user")]
                completion = [turn("assistant"), turn("user"), turn("assistant")] if i % 4 == 3 else [turn("assistant")]
                template = ("default", "glued")[i % 3 == 2]
                if template == "glued":
                    text = chosen.choice([text for text in TEXTS if len(text) > 8])
                    place = chosen.randrange(1, len(text) - 1)
                    prompt[-1]["content"], completion[0]["content"] = text[:place], text[place:]
                render = lambda messages, **how: tokenizer.apply_chat_template(
                    messages, chat_template=TEMPLATES_BY_NAME[template], return_dict=False, **how)
                head, ids = render(prompt, add_generation_prompt=True), render(prompt + completion)
                out.write(json.dumps({"template": template, "prompt": prompt, "completion": completion, "ids": ids,
                                      "mask": [int(place >= len(head)) for place in range(len(ids))],
                                      "mismatch": ids[:len(head)] != head}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    render_rows()
    mask_rows()
