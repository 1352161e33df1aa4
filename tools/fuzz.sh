#!/usr/bin/env bash
# Throws damaged inputs at everything that reads files: safetensors, JSON Lines and text data,
# configs, tokenizers. Under AddressSanitizer and UndefinedBehaviorSanitizer, guided by coverage.
#
#   tools/fuzz.sh [MINUTES [TARGET...]]      1 minute each; targets: safetensors jsonl config tokenizer
#   FUZZ_SEED=7 tools/fuzz.sh 10             another sequence of inputs (default: the date)
#
# An input that crashes is kept in build-fuzz/crashes; add it to the tests of its room with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
minutes=${1:-1}
shift || true
targets=("$@")
[[ ${#targets[@]} -eq 0 ]] && targets=(safetensors jsonl config tokenizer)
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
mkdir -p "$seeds"/{safetensors,jsonl,config,tokenizer} "$build/crashes"

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

# The first byte is odd for a tokenizer.json, even for a text (tests/fuzz/fuzz_tokenizer.cpp).
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
