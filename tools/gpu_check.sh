#!/usr/bin/env bash
# Everything the CUDA device must show, on a host with a GPU and no network, in under ten minutes:
#
#   tools/gpu_check.sh [--prefix stage/usr] [--out FOLDER] [--only STEP,...] [--no-build]
#
#   build      preset cuda (--prefix: libraries that tools/stage_dependencies.sh collected)
#   tests      what the software GPU assumes of hardware, every device suite on cuda, bits 100 times
#   sanitizer  compute-sanitizer over the kernel tests: memcheck, racecheck, synccheck. (initcheck
#              would see nothing: the tests fill with NaN what they allocate.)
#   kernels    engine bench kernels beside cuBLASLt, cuDNN, compiled PyTorch and a device copy;
#              attention in the steps of docs/kernels.md
#   train      engine bench train beside PyTorch + transformers (compiled, bf16)
#
# A step that fails does not stop the others; sanitizers, which slow kernels down a hundred times,
# are stopped after a while each, and say so. The last thing printed is one table; logs, and the
# figures as JSON, are in FOLDER (default gpu_check/). Exit status 1 if a step failed. Rivals need a
# python3 with torch and transformers; without one their columns are empty.
set -uo pipefail
cd "$(dirname "$0")/.."

prefix='' out=gpu_check build=true only=build,tests,sanitizer,kernels,train
while [[ $# -gt 0 ]]; do
  case "$1" in
    --prefix | --out | --only)
      if [[ $# -lt 2 ]]; then
        echo "gpu_check: $1 needs a value" >&2
        exit 2
      fi
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --no-build)
      build=false
      shift
      ;;
    *)
      sed -n '2,20s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
done

for name in ${only//,/ }; do
  if [[ ! $name =~ ^(build|tests|sanitizer|kernels|train)$ ]]; then
    echo "gpu_check: there is no step $name (there are build,tests,sanitizer,kernels,train)" >&2
    exit 2
  fi
done
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
  echo "gpu_check: there is no NVIDIA GPU here (nvidia-smi -L lists none)" >&2
  exit 2
fi
mkdir -p "$out"
gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader | head -n 1)
threads=$(nproc)
folder=build-cuda
rows=()
status=0

wanted() { [[ ,$only, == *,$1,* ]]; }

# step NAME COMMAND...: runs it, notes how long it took and whether it failed, and what its last line
# has to say if that begins with "note: ".
step() {
  local name=$1 start=$SECONDS result=ok
  shift
  if ! "$@" >"$out/$name.log" 2>&1; then
    result="FAILED (see $out/$name.log)"
    status=1
    tail -n 15 "$out/$name.log"
  elif [[ $(tail -n 1 "$out/$name.log") == "note: "* ]]; then
    result="ok, $(tail -n 1 "$out/$name.log" | sed 's/^note: //')"
  fi
  rows+=("$(printf '%-24s %6d s  %s' "$name" $((SECONDS - start)) "$result")")
  echo "${rows[-1]}"
}

build_all() {
  local nvcc
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  CUDACXX=$nvcc cmake --preset cuda ${prefix:+-DCMAKE_PREFIX_PATH=$(realpath "$prefix")} &&
    cmake --build "$folder" --parallel "$threads"
}

# Counts the tests that a log says ran on the GPU; none is a failure.
count_tests() {
  local count
  count=$(grep -c '\[       OK \].*/cuda' "$1" || true)
  echo "note: $count tests"
  [[ $count -gt 0 ]]
}

run_tests() {
  # Suites over devices find the GPU by themselves. CPU and software GPU were tested where there is
  # time.
  GTEST_FILTER='*/cuda*' OMP_WAIT_POLICY=passive \
    ctest --test-dir "$folder" --parallel 4 --verbose --exclude-regex 'simt|^kernels_test$' &&
    count_tests "$out/tests-engine.log"
}

kernel_tests() {
  "$folder/tests/kernels/kernels_test" --gtest_filter='*/cuda*' &&
    count_tests "$out/tests-kernels.log"
}

# One line per assumption. Where a barrier behaves otherwise than assumed, a kernel hangs.
assumptions() { timeout 120 "$folder/tests/kernels/hardware/hardware_test" --device cuda; }

# The same bits a hundred times, beside copies that keep the memory busy.
repeated_tests() {
  ENGINE_TEST_REPETITIONS=100 "$folder/tests/kernels/kernels_test" \
    --gtest_filter='*SameBitsOnAnyThreadCount*/cuda*'
}

# The sanitizer slows kernels down by one or two orders. What it found before its time was over is
# in its log.
sanitize() {
  local seconds=60 code=0
  timeout --signal=INT --kill-after=10 $seconds \
    compute-sanitizer --tool "$1" --error-exitcode 1 --launch-timeout 120 \
    "$folder/tests/kernels/kernels_test" --gtest_filter="$2" >"$out/$1.txt" 2>&1 || code=$?
  cat "$out/$1.txt"
  [[ $code -eq 0 ]] && return
  [[ $code -eq 124 || $code -eq 137 ]] || return 1
  if grep -q '========= .*\(Invalid\|Error\|hazard\|Barrier error\)' "$out/$1.txt"; then return 1; fi
  echo "note: stopped after $seconds s, $(grep -c '\[       OK \]' "$out/$1.txt") tests"
}

bench_kernels() {
  local model=$1 precision=$2 name=kernels-$1-$2
  "$folder/tools/engine" bench kernels --device cuda --model "$model" --precision "$precision" \
    "${@:3}" --json >"$out/$name.json" || return 1
  if command -v python3 >/dev/null; then  # without torch: our figures alone
    python3 bench/peers/gpu_kernels.py "$out/$name.json" --save "$out/$name.rivals.json"
  fi
}

# Forward and backward, ours or (with --attention cudnn) cuDNN's, in the same program.
bench_attention() {
  local name=$1 length
  shift
  for length in 1024 4096 8192; do
    step "$name-$length" "$folder/tools/engine" bench kernels --device cuda --op attention \
      --model llama-3.2-1b --precision bf16 --batch $((8192 / length)) --length "$length" "$@"
  done
}

bench_train() {
  local model=$1 batch=$2 length=$3 name=train-$(basename "$1" .json)-$3
  "$folder/tools/engine" bench train --device cuda --model "$model" --precision bf16 \
    --batch "$batch" --length "$length" --steps 10 --warmup 3 --cuda-graph --json \
    >"$out/$name.json" || return 1
  if python3 -c 'import torch, transformers' 2>/dev/null; then
    python3 bench/peers/train_step.py --from "$out/$name.json" --device cuda --compile \
      --steps 10 --warmup 4 >"$out/$name.peer.json" || return 1
  fi
}

echo "gpu_check: $gpu, $(git describe --always --dirty 2>/dev/null || echo 'no git')"
if wanted build && $build; then step build build_all; fi
if [[ ! -x $folder/tools/engine ]]; then
  echo "gpu_check: $folder/tools/engine does not exist: nothing can be checked" >&2
  exit 1
fi
if wanted tests; then
  step assumptions assumptions
  step tests-kernels kernel_tests
  step tests-100-times repeated_tests
  step tests-engine run_tests
fi
if wanted sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    step memcheck sanitize memcheck '*/cuda*'
    step racecheck sanitize racecheck '*Norm*/cuda*:*CrossEntropy*/cuda*:*Embedding*/cuda*'
    step synccheck sanitize synccheck '*Matmul*/cuda*:*Attention*/cuda*'
  else
    rows+=("sanitizer                         not installed")
  fi
fi
if wanted kernels; then
  step kernels-llama-bf16 bench_kernels llama-3.2-1b bf16 --batch 4 --length 2048
  step kernels-gpt2-bf16 bench_kernels gpt2-124m bf16 --batch 8 --length 1024
  step kernels-attention-steps "$folder/tools/engine" bench attention --device cuda
  bench_attention kernels-attention
  bench_attention kernels-attention-mma --attention mma
  if "$folder/tools/engine" --attention cudnn --version >/dev/null 2>&1; then
    bench_attention kernels-attention-cudnn --attention cudnn
  fi
  if "$folder/tools/engine" --matmul cublas --version >/dev/null 2>&1; then
    step kernels-matmul-cublas "$folder/tools/engine" bench kernels --device cuda --op matmul \
      --model llama-3.2-1b --precision bf16 --batch 4 --length 2048 --matmul cublas
  fi
fi
if wanted train; then
  step train-gpt2-124m bench_train gpt2-124m 16 1024
  step train-llama-1b bench_train llama-3.2-1b 8 1024
  step train-llama-1b-2048 bench_train llama-3.2-1b 4 2048
  step train-llama-3b bench_train llama-3.2-3b 4 1024
  step train-qwen-1.5b bench_train qwen2.5-1.5b 8 1024
fi

echo
echo "=== $gpu"
printf '%s\n' "${rows[@]}"
[[ -e $out/assumptions.log ]] && { echo && cat "$out/assumptions.log"; }
for log in "$out"/kernels-*.log; do [[ -e $log ]] && { echo && cat "$log"; }; done
if command -v python3 >/dev/null; then
  python3 - "$out" <<'PYTHON'
import glob, json, os, sys
# As engine train runs them: micro-batches replayed. graph %: against operations called one by one.
print(f"\n{'training step, bf16':<34}{'tok/s':>10}{'PyTorch':>10}{'ratio':>7}{'MFU %':>7}{'graph %':>9}"
      f"{'GiB':>7}")
for path in sorted(glob.glob(os.path.join(sys.argv[1], "train-*.json"))):
    if path.endswith(".peer.json") or not os.path.getsize(path):
        continue
    with open(path) as file:
        ours = json.loads(file.read().strip().splitlines()[-1])
    peer_path = path.replace(".json", ".peer.json")
    peer = 0.0
    if os.path.exists(peer_path) and os.path.getsize(peer_path):
        with open(peer_path) as file:
            peer = json.loads(file.read().strip().splitlines()[-1])["tokens_per_second_median"]
    graph = ours["cuda_graph"]
    seconds = graph["replayed_seconds_median"]
    speed = ours["tokens_per_step"] / seconds
    mfu = ours["step_flops"] / seconds / ours["matmul_peak_flops"]
    gain = seconds / graph["called_seconds_median"] - 1
    print(f"{ours['model']+' '+str(ours['batch'])+' x '+str(ours['length']):<34}{speed:>10.0f}"
          f"{peer:>10.0f}{speed / peer if peer else 0:>7.2f}{100 * mfu:>7.1f}{100 * gain:>+9.1f}"
          f"{ours['planned_bytes'] / 2**30:>7.1f}")
PYTHON
fi
exit $status
