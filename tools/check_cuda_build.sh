#!/usr/bin/env bash
# Compiles the CUDA device (no GPU needed) and judges what the assembler reports:
#
#   tools/check_cuda_build.sh            build-cuda/: compile, then fail on spills and on the warnings
#                                        that mean a kernel is not what it was written to be
#   tools/check_cuda_build.sh --table    also print registers, shared memory and stack per kernel
#
# Exit status 0 also where there is no nvcc: then it says so and checks nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

table=false
case "${1:-}" in
  "") ;;
  --table) table=true ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

nvcc=${CUDACXX:-$(command -v nvcc || true)}
[[ -z $nvcc && -x /usr/local/cuda/bin/nvcc ]] && nvcc=/usr/local/cuda/bin/nvcc
if [[ -z $nvcc ]]; then
  echo "check_cuda_build: no nvcc on this machine: the CUDA device was not compiled"
  exit 0
fi

export CCACHE_NOHASHDIR=1
CUDACXX=$nvcc cmake --preset cuda -DENGINE_TESTS=ON >/dev/null
targets=(kernels_cuda hardware_cuda)
available=$(cmake --build build-cuda --target help)
for optional in kernels_rivals hardware_cuda_hopper; do
  if grep -q "^$optional:" <<<"$available"; then targets+=("$optional"); fi
done
cmake --build build-cuda --target "${targets[@]}"
reports=$(find build-cuda/kernels build-cuda/tests/kernels -name '*.ptxas' | sort)
if [[ -z $reports ]]; then
  echo "check_cuda_build: nothing was compiled" >&2
  exit 1
fi

# One line per kernel: registers, spilled bytes (stores and loads), stack, shared memory, name.
summary() {
  # shellcheck disable=SC2086
  awk '
    /Compiling entry function/ { split($0, q, "\047"); name = q[2]; arch = q[4] }
    /bytes stack frame/ { stack = $1; store = $5; load = $9 }
    /Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
      shared = 0
      if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH - 11)
      printf "%s %d %d %d %d %s\n", arch, registers, store + load, stack, shared, name
      stack = store = load = 0
    }' $reports | sort -u | c++filt
}

status=0
if $table; then
  printf '%-7s %9s %7s %6s %7s  %s\n' arch registers spilled stack shared kernel
  summary | while read -r arch registers spilled stack shared name; do
    printf '%-7s %9s %7s %6s %7s  %s\n' "$arch" "$registers" "$spilled" "$stack" "$shared" \
      "$(sed -E 's/\(engine::kernels::[A-Za-z:]+\)//g; s/engine::kernels::(cuda::)?(attention::)?//g
        s/\(anonymous namespace\):://g; s/^void //; s/>\(.*$/>/; s/\([^<]*$//' <<<"$name")"
  done
fi

spilled=$(summary | awk '$3 > 0')
if [[ -n $spilled ]]; then
  {
    echo "check_cuda_build: kernels spill registers (arch, registers, bytes, stack, shared, name):"
    sed 's/^/  /' <<<"$spilled"
  } >&2
  status=1
fi
# C7505..C7520: wgmma serialised, setmaxnreg ignored; C7602: accumulators do not fit.
# shellcheck disable=SC2086
if grep -HE 'C7505|C7508|C7509|C751[0-5]|C7520|C7602' $reports >&2; then
  echo "check_cuda_build: the assembler changed how kernels run (see above)" >&2
  status=1
fi
[[ $status -eq 0 ]] && echo "check_cuda_build: $(summary | wc -l) kernels, none spills"
exit $status
