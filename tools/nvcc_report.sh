#!/usr/bin/env bash
# Compiler launcher for nvcc: runs it, and keeps what ptxas says in <object>.ptxas.
#   nvcc_report.sh [ccache] nvcc ... -o OBJECT
set -uo pipefail
object=
arguments=("$@")
for ((i = 0; i + 1 < ${#arguments[@]}; ++i)); do
  [[ ${arguments[i]} == -o ]] && object=${arguments[i + 1]}
done
[[ -z $object ]] && exec "$@"
"$@" 2>"$object.ptxas"
status=$?
# The report is for check_cuda_build.sh; a person wants to see what is wrong.
if ((status != 0)); then
  cat "$object.ptxas" >&2
else
  grep -E '(warning|C7[0-9]{3})' "$object.ptxas" >&2 || true
fi
exit $status
