#!/usr/bin/env bash
# Builds everything and runs every test. The last line is `N passed, N failed, N skipped`.
#
#   tools/test.sh                  optimised build, in build/
#   tools/test.sh --preset asan    under AddressSanitizer and UndefinedBehaviorSanitizer
#   tools/test.sh --jobs N         compilers and test programs at once (default: all cores)
#   tools/test.sh --only REGEX     only the test programs whose names match
#
# Exit status 0 only if at least one test ran and none failed.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=cpu
jobs=$(nproc)
only=.
while [[ $# -gt 0 ]]; do
  case "$1" in
    --preset | --jobs | --only)
      if [[ $# -lt 2 ]]; then
        echo "test: $1 needs a value" >&2
        exit 2
      fi
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "test: unknown option $1 (there are --preset, --jobs, --only)" >&2
      exit 2
      ;;
  esac
done

tools/setup.sh
# Objects are shared between build folders, whatever folder they were compiled in.
export CCACHE_NOHASHDIR=1

build=build
[[ $preset != cpu ]] && build=build-$preset
cmake --preset "$preset" -DENGINE_TESTS=ON
cmake --build "$build" --parallel "$jobs"

# Every program writes what became of its tests to a file of its own, $results/<program>.xml. The
# counts come from there: a line of output cannot be mistaken for a result.
results=$PWD/$build/test-results
rm -rf "$results" "$build/Testing/Temporary/LastTestsFailed.log"
mkdir -p "$results"
status=0
# Undefined behaviour ends the program that shows it; UBSan by itself only prints and goes on.
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}
# Idle threads of one program sleep instead of spinning on the cores that another needs.
GTEST_OUTPUT="xml:$results/" OMP_WAIT_POLICY=passive \
  ctest --test-dir "$build" --parallel "$jobs" --output-on-failure --no-tests=error \
  --tests-regex "$only" </dev/null || status=$?

# Prints "tests failures skips" of one file.
count() {
  awk '/^    <testcase .*status="run"/ { tests++; in_failure = 0 }
       /^      <failure / && !in_failure { failures++; in_failure = 1 }
       /^    <testcase .*result="skipped"/ { skips++ }
       END { print tests + 0, failures + 0, skips + 0 }' "$1"
}

tests=0 failed=0 skipped=0
for file in "$results"/*.xml; do
  [[ -e $file ]] || continue
  read -r file_tests file_failures file_skips < <(count "$file")
  tests=$((tests + file_tests)) failed=$((failed + file_failures))
  skipped=$((skipped + file_skips))
done
# A program that crashed, hung or leaked without a failing test is a failure of its own.
if [[ -f $build/Testing/Temporary/LastTestsFailed.log ]]; then
  while IFS=: read -r _ program; do
    file=$results/$program.xml
    if [[ ! -e $file ]] || ! grep -q '^      <failure ' "$file"; then
      tests=$((tests + 1)) failed=$((failed + 1))
    fi
  done <"$build/Testing/Temporary/LastTestsFailed.log"
fi

if [[ $skipped -gt 0 ]]; then
  echo
  echo "skipped, with the number of tests:"
  sed -n 's/^      <skipped message="[^"]*&#x0A;\([^"]*\)".*/\1/p' "$results"/*.xml |
    sort | uniq -c | sort -rn
fi
echo
echo "$((tests - failed - skipped)) passed, $failed failed, $skipped skipped"
[[ $status -eq 0 && $failed -eq 0 && $tests -gt $skipped ]]
