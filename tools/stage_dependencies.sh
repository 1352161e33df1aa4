#!/usr/bin/env bash
# Collects what the engine is built with into one folder, for a GPU host without a network that has
# only the CUDA toolkit, CMake, ninja and a C++20 compiler:
#
#   tools/stage_dependencies.sh [--cudnn] [FOLDER]   default: stage/, a few MiB; run where setup.sh ran
#   ... take the checkout and the folder to the GPU host, and there:
#   cmake --preset cuda -DCMAKE_PREFIX_PATH=$PWD/stage/usr && cmake --build build-cuda
#
# Libraries are taken with their headers and CMake files, in the layout of the system they come from:
# the other host must be of its family (folders like lib/x86_64-linux-gnu), with a C library as new.
# --cudnn: cuDNN too, 500 MiB, for `engine --attention cudnn`; it must be one for the toolkit there.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help)
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
cudnn=false
if [[ ${1:-} == --cudnn ]]; then
  cudnn=true
  shift
fi
stage=${1:-stage}
mkdir -p "$stage"
stage=$(cd "$stage" && pwd)

if ! command -v dpkg-query >/dev/null; then
  echo "stage_dependencies: this reads Debian's package lists; there is no dpkg here" >&2
  exit 1
fi
tools/setup.sh --check

# -dev packages, and the shared libraries they link to.
packages=$(dpkg-query -W -f='${Package} ${db:Status-Abbrev}\n' \
  'libfmt-dev' 'libfmt[0-9]*' 'libyaml-cpp-dev' 'libyaml-cpp[0-9]*' 'nlohmann-json3-dev' \
  'libcli11-dev' 'libpcre2-dev' 'libpcre2-8-0' 'libutf8proc-dev' 'libutf8proc[0-9]*' 'zlib1g-dev' \
  'zlib1g' 'libgtest-dev' 'libgmock-dev' 'googletest' 'libboost-context[0-9]*' \
  'libboost[0-9]*-dev' 2>/dev/null | awk '$2 == "ii" { print $1 }')

# Boost is large: only the headers that the software GPU's fibers read.
boost_headers=$(g++ -std=c++20 -I. -M kernels/simt/fiber.cpp |
  tr ' \\' '\n\n' | grep -E '^/usr/include/boost/' | sort -u)

count=0
add() {
  local file=$1
  mkdir -p "$stage$(dirname "$file")"
  if [[ -L $file && $(readlink "$file") == /* ]]; then  # to what lies in the folder, not on that host
    ln -sfr "$stage$(readlink "$file")" "$stage$file"
  else
    cp -a "$file" "$stage$file"
  fi
  count=$((count + 1))
}

for package in $packages; do
  while read -r file; do
    [[ -f $file || -L $file ]] || continue
    case "$file" in
      /usr/include/boost/*) continue ;;  # below
      /usr/include/* | /usr/lib/*/cmake/* | /usr/share/cmake/* | /usr/lib/cmake/*) add "$file" ;;
      /usr/lib/*.a | /usr/lib/*.so | /usr/lib/*.so.* | /usr/lib/*/pkgconfig/*) add "$file" ;;
      /lib/*.so.*) add "$file" ;;
    esac
  done < <(dpkg -L "$package")
done
for header in $boost_headers; do add "$header"; done

if $cudnn; then
  found=
  for root in "${CUDA_HOME:-/usr/local/cuda}" /usr; do
    [[ -z $found && -e $root/include/cudnn_version.h ]] && found=$root
  done
  if [[ -z $found ]]; then
    echo "stage_dependencies: there is no cuDNN in ${CUDA_HOME:-/usr/local/cuda} or /usr" >&2
    exit 1
  fi
  mkdir -p "$stage/usr/include" "$stage/usr/lib"
  cp -L "$found"/include/cudnn*.h "$stage/usr/include/"
  for folder in "$found"/lib64 "$found"/lib "$found"/lib/x86_64-linux-gnu; do
    if [[ -e $folder/libcudnn.so ]]; then
      cp -a "$folder"/libcudnn*.so* "$stage/usr/lib/"
      break
    fi
  done
fi

# Names of libraries that nothing here links to.
find "$stage" -xtype l -delete
echo "stage_dependencies: $count files, $(du -sh "$stage" | cut -f1), in $stage"
