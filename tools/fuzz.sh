#!/usr/bin/env bash
# Throws damaged inputs at everything that reads files: safetensors, JSON Lines and text data,
# configs, tokenizers, chat templates. Under AddressSanitizer and UndefinedBehaviorSanitizer, guided
# by coverage.
#
#   tools/fuzz.sh [MINUTES [TARGET...]]      1 minute each; targets: safetensors jsonl config tokenizer
#                                            sentencepiece chat
#   FUZZ_SEED=7 tools/fuzz.sh 10             another sequence of inputs (default: the date)
#
# An input that crashes is kept in build-fuzz/crashes; add it to the tests of its room with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
minutes=${1:-1}
shift || true
targets=("$@")
[[ ${#targets[@]} -eq 0 ]] && targets=(safetensors jsonl config tokenizer sentencepiece chat)
seed=${FUZZ_SEED:-$(date +%Y%m%d)}

tools/setup.sh
export CCACHE_NOHASHDIR=1
build="build-fuzz"
compiler=$(basename "${CXX:-g++}")
sanitize=address,undefined
[[ $compiler == clang* ]] && sanitize+=,fuzzer-no-link
# Without -march=native: faster to compile, and what is read does not depend on the machine.
cmake --preset cpu -B "$build" --log-level=WARNING -DENGINE_FUZZ=ON -DENGINE_NATIVE=OFF \
  -DENGINE_SANITIZE="$sanitize"
cmake --build "$build" --parallel "$(nproc)" --target "${targets[@]/#/fuzz_}"

# --- Seeds: small valid inputs. ---
seeds=$build/seeds
rm -rf "$seeds"
mkdir -p "$seeds"/{safetensors,jsonl,config,tokenizer,sentencepiece,chat} "$build/crashes"

# A safetensors file: length of the header as eight bytes, header, data.
safetensors() {
  local header=$1 data_bytes=$2 length=${#1}
  printf '%b' "$(printf '\\x%02x\\x%02x' $((length % 256)) $((length / 256)))"
  printf '\0\0\0\0\0\0%s' "$header"
  head -c "$data_bytes" /dev/zero
}
safetensors '{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}' 24 >"$seeds/safetensors/one"
safetensors '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}' 16 >"$seeds/safetensors/two"
safetensors '{"empty":{"dtype":"F16","shape":[0,7],"data_offsets":[0,0]},"u8":{"dtype":"U8","shape":[1,1,5],"data_offsets":[0,5]}}' 5 >"$seeds/safetensors/empty"

# The first byte chooses format and fields (tests/fuzz/fuzz_jsonl.cpp).
printf '\0{"text": "h\\u00e9llo", "label": "x"}\n{"text": ""}\n' >"$seeds/jsonl/text"
printf '\0[{"prompt": "p", "completion": "c"},\n {"prompt": "q", "completion": "d"}]' >"$seeds/jsonl/array"
printf '\0{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}\n' >"$seeds/jsonl/ids"
printf '\300{"a": 1, "b": [true, null], "label": "news"}\n' >"$seeds/jsonl/template"
printf '\1one\r\ntwo\n' >"$seeds/jsonl/lines"
printf '\3one\ntwo\n\nthr\303\251e\n' >"$seeds/jsonl/blank_lines"
printf '\5\357\273\277whole\n\nfile\n' >"$seeds/jsonl/whole"

cp recipes/*/*.yaml "$seeds/config/"
printf '{"train": {"seed": 7, "epochs": 1.5}, "schedule": {"type": "wsd"}}' >"$seeds/config/json"
cat >"$seeds/config/anchors" <<'END'
model: {path: models/x, dropout: 0.1}
data:
  train: &files
    - a.jsonl
    - "b\tc"
  validation: *files
  fields:
    prompt: "{q}: {a}"
    completion: |
      text
train.memory_limit: 8GiB
END

# The first byte says what the others are (tests/fuzz/fuzz_tokenizer.cpp).
printf '0Hello, world! caf\303\251 \360\237\230\200 12 <|endoftext|>\n\n  x' >"$seeds/tokenizer/text"
cat >"$seeds/tokenizer/byte_level" <<'END'
1{"version": "1.0", "truncation": null, "padding": null,
"added_tokens": [{"id": 5, "content": "<end>", "special": true, "lstrip": true, "rstrip": false,
  "single_word": false, "normalized": false}],
"normalizer": {"type": "NFC"},
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
  {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+|."}, "behavior": "Isolated", "invert": false},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
"post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
"decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
"model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
  "byte_fallback": false, "ignore_merges": false,
  "vocab": {"a": 0, "b": 1, "ab": 2, "l": 3, "ll": 4}, "merges": ["a b", ["l", "l"]]}}
END
cat >"$seeds/tokenizer/byte_fallback" <<'END'
1{"version": "1.0",
"added_tokens": [{"id": 0, "content": "<unk>", "special": true},
  {"id": 1, "content": "<s>", "special": true}],
"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
  {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
"pre_tokenizer": null,
"post_processor": {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
  "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
"decoder": {"type": "Sequence", "decoders": [
  {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
  {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
"model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
  "vocab": {"<unk>": 0, "<s>": 1, "<0x41>": 2, "<0xC3>": 3, "\u2581": 4, "a": 5, "\u2581a": 6},
  "merges": ["\u2581 a"]}}
END

# A unigram vocabulary: one letter per piece would do for the mutations.
cat >"$seeds/tokenizer/unigram" <<'END'
1{"version": "1.0",
"added_tokens": [{"id": 0, "content": "<unk>", "special": true}],
"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
  {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhAA=="}]},
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
  {"type": "Punctuation", "behavior": "Contiguous"},
  {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": true}]},
"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 2]},
"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"},
  {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}]},
"model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
  "vocab": [["<unk>", 0], ["</s>", 0], ["<s>", 0], ["<0x41>", -9.5], ["\u2581", -2], ["a", -3.25],
    ["ab", -4], ["\u2581he", -5e0]]}}
END
cat >"$seeds/tokenizer/word_piece" <<'END'
1{"normalizer": {"type": "BertNormalizer", "lowercase": true},
"pre_tokenizer": {"type": "BertPreTokenizer"},
"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 2]},
"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
  "max_input_chars_per_word": 100,
  "vocab": {"[UNK]": 0, "[SEP]": 1, "[CLS]": 2, "he": 3, "##llo": 4, "world": 5}}}
END

cat >"$seeds/tokenizer/words" <<'END'
1{"added_tokens": [
  {"id": 7, "content": "  ", "special": true, "lstrip": true, "rstrip": true, "normalized": false},
  {"id": 8, "content": "[M]", "lstrip": true, "single_word": true, "normalized": true}],
"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "StripAccents"},
  {"type": "Strip", "strip_left": true, "strip_right": false},
  {"type": "Replace", "pattern": {"Regex": "[^\\s\\w]{1,2}+"}, "content": ""}]},
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"},
  {"type": "CharDelimiterSplit", "delimiter": "|"}, {"type": "Digits", "individual_digits": true},
  {"type": "FixedLength", "length": 3},
  {"type": "Split", "pattern": {"String": "a"}, "behavior": "MergedWithNext", "invert": true},
  {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": true}]},
"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"},
  {"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]}]},
"decoder": {"type": "Sequence", "decoders": [
  {"type": "Strip", "content": "a", "start": 2, "stop": 1},
  {"type": "Replace", "pattern": {"Regex": "(?i:b)|_"}, "content": ""},
  {"type": "BPEDecoder", "suffix": "</w>"}]},
"model": {"type": "WordLevel", "unk_token": "<unk>",
  "vocab": {"a": 0, "b": 1, "<unk>": 2, "_a": 3, "the": 4, "ab": 5, "12": 6}}}
END
cat >"$seeds/tokenizer/affixes" <<'END'
1{"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "ByteLevel", "use_regex": true},
"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ",
  "start": 1, "stop": 1}, {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}]},
"model": {"type": "BPE", "unk_token": "u", "continuing_subword_prefix": "##",
  "end_of_word_suffix": "</w>", "byte_fallback": true, "ignore_merges": true,
  "vocab": {"u": 0, "a": 1, "##b": 2, "##b</w>": 3, "ab</w>": 4, "<0x61>": 5},
  "merges": ["a ##b</w>"]}}
END
printf '2YQ== 0\nYg== 1\nYWI= 2\nIGFi 3\nIA== 4\n4pY= 5\n' >"$seeds/tokenizer/ranks"
printf '3{"a": 0, "b": 1, "ab": 2, "1": 3, "11": 4, "\\u0120": 5, "\\u0120a": 6, "<|endoftext|>": 7}\0#version: 0.2\na b\n1 1\n\xc4\xa0 a\n' \
  >"$seeds/tokenizer/vocab_merges"
printf '3{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6, "<mask>": 7}\0a b\r\n' \
  >"$seeds/tokenizer/roberta"

# SentencePiece models. A piece: text, score (as four bytes), type.
bytes_field() { printf '%b%s' "\\x$1$(printf '\\x%02x' "${#2}")" "$2"; }
piece() {
  local LC_ALL=C text=$1 score=$2 type=$3
  printf '%b' "\\x0a$(printf '\\x%02x' $((${#text} + 9)))"
  bytes_field 0a "$text"
  printf '%b' "\\x15$score\\x18$(printf '\\x%02x' "$type")"
}
model_pieces() {
  piece '<unk>' '\x00\x00\x00\x00' 2
  piece '<s>' '\x00\x00\x00\x00' 3
  piece '</s>' '\x00\x00\x00\x00' 3
  piece $'\xe2\x96\x81' '\x00\x00\x00\xc0' 1
  piece a '\x00\x00\x40\xc0' 1
  piece b '\x00\x00\x60\xc0' 1
  piece ab '\x00\x00\x80\xbf' 1
  piece aa '\x00\x00\x80\xc0' 5
  piece '<tool>' '\x00\x00\x00\x00' 4
}
# trainer_spec: unigram (1) or BPE (2). normalizer_spec: a charsmap of one unit, flags.
for kind in 1 2; do
  {
    model_pieces
    printf '%b' "\\x12\\x02\\x18\\x0$kind"
    printf '\x1a\x12\x12\x0a\x04\x00\x00\x00\x00\x04\x00\x00a\x00\x18\x01\x20\x01\x28\x01'
  } >"$seeds/sentencepiece/kind$kind"
done

# All bytes as pieces; the flags the other way round.
for kind in 1 2; do
  {
    model_pieces
    for byte in $(seq 0 255); do piece "$(printf '<0x%02X>' "$byte")" '\x00\x00\x00\xc1' 6; done
    printf '%b' "\\x12\\x08\\x18\\x0$kind\\xc0\\x01\\x01\\x98\\x02\\x01"
    printf '\x1a\x06\x18\x00\x20\x00\x28\x00'
  } >"$seeds/sentencepiece/bytes$kind"
done

# Templates (tests/fuzz/fuzz_chat.cpp has the conversation).
cat >"$seeds/chat/chat" <<'END'
{{- bos_token }}
{%- for message in messages if message.role != 'tool' %}
    {%- set content = message['content'] | trim %}
    {%- if loop.first and message.role == "system" %}{{ '<<' + content + '>>' }}
    {%- elif message.role == "assistant" %}{% generation %}{{ content ~ '<e>' }}{% endgeneration %}
    {%- else %}{{- message.role }}: {{ content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<a>' }}{% else %}{{ raise_exception('no') }}{% endif -%}
END
cat >"$seeds/chat/tools" <<'END'
{% macro show(x, indent=2) -%}{{ x | tojson(indent=indent) }}{{ varargs }}{%- endmacro %}
{% set ns = namespace(n=0, s='') %}
{% for t in tools %}{{ show(t, 4) }}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}
{% for k, v in d|dictsort %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}
{{ messages[1:][::-1] | map(attribute='role') | join('/') }}{{ '%s|%5.2f' | format(n, 1.5) }}
END
cat >"$seeds/chat/values" <<'END'
{# c #}{% raw %}{{ x }}{% endraw %}{{ 1 + 2 * 3 ** 2 // -4 % 5 }}{{ l|sort|reverse|list }}{{ (1, 'a') }}
{{ 'a b'.split(' ')[-1].upper() }}{{ l is iterable and 3 in l and not n is odd }}{% with a = 1 %}{{ a }}{% endwith %}
{% for i in range(3) recursive %}{% if i is number %}{{ i }}{% break %}{% endif %}{% else %}x{% endfor %}
{% call(x) show(1) %}{{ x }}{% endcall %}{% filter upper %}a{% endfilter %}{{ '{:>5}'.format(1) }}{{ strftime_now('%Y') }}
END

# --- Runs. ---
export ASAN_OPTIONS=max_allocation_size_mb=2048:detect_leaks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
status=0
for target in "${targets[@]}"; do
  program=$build/tests/fuzz/fuzz_$target
  seconds=$(awk -v minutes="$minutes" 'BEGIN { print int(minutes * 60) }')
  case "$compiler" in
    clang*)
      mkdir -p "$build/corpus/$target"
      "$program" -seed="$seed" -max_total_time="$seconds" -timeout=10 -max_len=4096 \
        -artifact_prefix="$build/crashes/" "$build/corpus/$target" "$seeds/$target" || status=1
      ;;
    *)
      "$program" "$seconds" "$seed" "$build/crashes" "$seeds/$target" || status=1
      ;;
  esac
done
exit $status
