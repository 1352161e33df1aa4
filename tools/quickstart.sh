#!/usr/bin/env bash
# From a clean clone to a trained model: installs what is missing, builds the `engine` command,
# trains a small GPT-2 from random weights on this repository's own text, and lets it write.
# About ten minutes on two idle CPU cores, half of it the build. Everything lies in runs/quickstart,
# which is made anew each time.
#
#   tools/quickstart.sh [section.setting=value ...]     e.g. train.max_steps=1000
#
# Exit status 0 only if the loss on text that the model never saw has at least halved.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

run=runs/quickstart
engine=build/tools/engine

say() { printf '\n== %s\n' "$1"; }

say "what the build needs"
tools/setup.sh

say "building the engine command"
export CCACHE_NOHASHDIR=1  # objects are shared between build folders
cmake --preset cpu --log-level=WARNING
cmake --build build --parallel "$(nproc)" --target engine_cli

say "collecting text: the sources and documents of this repository"
rm -rf "$run"
mkdir -p "$run/corpus"
# Byte order, so that every machine trains on the same.
find bench docs engine kernels models recipes tests tokenizer tools weights README.md \
  -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.md' -o -name '*.py' -o -name '*.sh' \) |
  LC_ALL=C sort | while read -r file; do
  cp "$file" "$run/corpus/${file//\//__}.txt"
done
echo "$(find "$run/corpus" -name '*.txt' | wc -l) files, $(cat "$run"/corpus/*.txt | wc -c) bytes"

# Idle threads sleep instead of spinning on cores that other programs need.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

say "learning a vocabulary"
"$engine" tokenize train --files "$run/corpus" --vocab-size 2048 --out "$run/tokenizer"

say "training"
"$engine" train recipes/quickstart/gpt2-small.yaml "$@"

say "what it writes now"
for prompt in '// Returns the' '#include "engine/'; do
  echo "--- $prompt"
  "$engine" generate "$run/best" --prompt "$prompt" --max-new-tokens 60 --echo \
    --sample --temperature 0.7 --top-k 40
done

say "did it learn?"
# The loss of each evaluation on the held-out files, in order.
losses=$(sed -n '/"kind":"eval"/s/.*"name":"[^"]*","loss":\([0-9.eE+-]*\).*/\1/p' "$run/metrics.jsonl")
first=$(head -n 1 <<<"$losses")
last=$(tail -n 1 <<<"$losses")
echo "validation loss $first before training, $last after"
cat <<END
model        $run/best       loads in transformers: AutoModelForCausalLM.from_pretrained("$run/best")
checkpoints  $run/last       engine train recipes/quickstart/gpt2-small.yaml --resume
numbers      $run/metrics.jsonl
curves       tensorboard --logdir $run/tb
END
if ! awk -v first="$first" -v last="$last" 'BEGIN { exit !(last + 0 > 0 && last < first / 2) }'; then
  echo "quickstart: the validation loss has not halved; with default settings it should" >&2
  exit 1
fi
