#!/usr/bin/env bash
# Everything the CUDA device must show, on a host with a GPU and no network, in under ten minutes:
#
#   tools/gpu_check.sh [--prefix stage/usr] [--out FOLDER] [--only STEP,...] [--no-build]
#
#   build      preset cuda (--prefix: libraries that tools/stage_dependencies.sh collected)
#   tests      every test program; device suites on cuda, assumptions of the software GPU on it
#   sanitizer  compute-sanitizer: memcheck and initcheck, racecheck, synccheck over kernel tests
#   kernels    engine bench kernels beside cuBLASLt, cuDNN and compiled PyTorch
#   train      engine bench train beside PyTorch + transformers (compiled, bf16)
#
# A step that fails does not stop the others. The last thing printed is one table; logs, and the
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
      sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
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

# step NAME COMMAND...: runs it, notes how long it took and whether it failed.
step() {
  local name=$1 start=$SECONDS result=ok
  shift
  if ! "$@" >"$out/$name.log" 2>&1; then
    result="FAILED (see $out/$name.log)"
    status=1
    tail -n 15 "$out/$name.log"
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

run_tests() {
  # Suites over devices find the GPU by themselves. The software GPU was tested where there is time.
  GTEST_FILTER='-*/simt*' OMP_WAIT_POLICY=passive \
    ctest --test-dir "$folder" --parallel 4 --output-on-failure --exclude-regex simt
}

kernel_tests() { "$folder/tests/kernels/kernels_test" --gtest_filter='*/cuda*'; }

# One line per assumption. Where a barrier behaves otherwise than assumed, a kernel hangs.
assumptions() { timeout 120 "$folder/tests/kernels/hardware/hardware_test" --device cuda; }

# The same bits a hundred times, beside copies that keep the memory busy.
repeated_tests() {
  ENGINE_TEST_REPETITIONS=100 "$folder/tests/kernels/kernels_test" \
    --gtest_filter='*SameBitsOnAnyThreadCount*/cuda*'
}

# The sanitizer slows kernels down by one or two orders: the small cases of every operation.
sanitize() {
  compute-sanitizer --tool "$1" --error-exitcode 1 --launch-timeout 120 \
    "$folder/tests/kernels/kernels_test" --gtest_filter="$2"
}

bench_kernels() {
  local model=$1 precision=$2 name=kernels-$1-$2
  "$folder/tools/engine" bench kernels --device cuda --model "$model" --precision "$precision" \
    "${@:3}" --json >"$out/$name.json" || return 1
  if python3 -c 'import torch' 2>/dev/null; then
    python3 bench/peers/gpu_kernels.py "$out/$name.json" --save "$out/$name.rivals.json"
  else
    echo "no torch in python3: no rivals"
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
    --batch "$batch" --length "$length" --steps 10 --warmup 3 --json >"$out/$name.json" || return 1
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
  step tests-all run_tests
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
  bench_attention kernels-attention
  if "$folder/tools/engine" --attention cudnn --version >/dev/null 2>&1; then
    bench_attention kernels-attention-cudnn --attention cudnn
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
print(f"\n{'training step, bf16':<34}{'tok/s':>10}{'PyTorch':>10}{'ratio':>7}{'MFU %':>7}{'GiB':>7}")
for path in sorted(glob.glob(os.path.join(sys.argv[1], "train-*.json"))):
    if path.endswith(".peer.json"):
        continue
    with open(path) as file:
        ours = json.loads(file.read().strip().splitlines()[-1])
    peer_path = path.replace(".json", ".peer.json")
    peer = 0.0
    if os.path.exists(peer_path) and os.path.getsize(peer_path):
        with open(peer_path) as file:
            peer = json.loads(file.read().strip().splitlines()[-1])["tokens_per_second_median"]
    speed = ours["tokens_per_second_median"]
    print(f"{ours['model']+' '+str(ours['batch'])+' x '+str(ours['length']):<34}{speed:>10.0f}"
          f"{peer:>10.0f}{speed / peer if peer else 0:>7.2f}{100 * ours['mfu_median']:>7.1f}"
          f"{ours['planned_bytes'] / 2**30:>7.1f}")
PYTHON
fi
exit $status
