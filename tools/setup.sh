#!/usr/bin/env bash
# Installs what the build needs and this machine lacks (Debian 12 or newer, and its relatives).
#
#   tools/setup.sh            install what is missing; nothing to do is fast and silent
#   tools/setup.sh --check    only say what is missing; exit status 1 if anything is
#
# Needs root or sudo only when something is missing. Never asks questions. No GPU, no CUDA.
set -euo pipefail

# Package | how to see that it is there | what for.
# cmd:X is a program on the PATH; anything else is the package itself.
readonly packages="
g++                 | cmd:g++        | the compiler, C++20, with OpenMP
cmake               | cmd:cmake      | the build, 3.25 or newer
ninja-build         | cmd:ninja      | the build, in parallel
ccache              | cmd:ccache     | objects that were compiled before
git                 | cmd:git        | the commit that engine --version names
libfmt-dev          | pkg            | fmt: text formatting
libyaml-cpp-dev     | pkg            | yaml-cpp: configs
nlohmann-json3-dev  | pkg            | JSON: checkpoints, tokenizers, metrics
libcli11-dev        | pkg            | CLI11: the command line
libpcre2-dev        | pkg            | PCRE2: how tokenizers split text into words
libutf8proc-dev     | pkg            | utf8proc: Unicode normalisation for tokenizers
zlib1g-dev          | pkg            | zlib: training data that is .gz
libboost-context-dev | pkg           | Boost.Context: the fibers of the software GPU
libgtest-dev        | pkg            | GoogleTest: the tests
"

check_only=false
case "${1:-}" in
  "") ;;
  --check) check_only=true ;;
  -h | --help)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  *)
    echo "setup: unknown option $1 (there is --check)" >&2
    exit 2
    ;;
esac

have_package() {
  dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'
}

trim() {
  local text=$1
  text=${text#"${text%%[! ]*}"}
  printf '%s' "${text%"${text##*[! ]}"}"
}

if ! command -v dpkg-query >/dev/null; then
  {
    echo "setup: this is not Debian or a relative (there is no dpkg); please install by hand:"
    echo "$packages" | sed '/^$/d; s/^/  /'
  } >&2
  exit 1
fi

missing=()
while IFS='|' read -r name probe reason; do
  name=$(trim "$name") probe=$(trim "$probe") reason=$(trim "$reason")
  [[ -z $name ]] && continue
  case "$probe" in
    cmd:*) command -v "${probe#cmd:}" >/dev/null && continue ;;
    *) have_package "$name" && continue ;;
  esac
  [[ ${#missing[@]} -eq 0 ]] && echo "setup: missing here:"
  printf '  %-19s %s\n' "$name" "$reason"
  missing+=("$name")
done <<<"$packages"

if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi
if $check_only; then
  exit 1
fi

# root itself, sudo without a password, or sudo that can ask because someone is there to answer
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 && -t 2 ]]; }; then
    as_root=(sudo)
  else
    {
      echo "setup: installing needs root, and there is no sudo that works without a password here."
      echo "  fix  run as root:  apt-get install -y --no-install-recommends ${missing[*]}"
    } >&2
    exit 1
  fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" \
    </dev/null >"$log" 2>&1
}

fail() {
  {
    echo "setup: $1"
    grep -E '^(E|W|Err)' "$log" | tail -n 6 | sed 's/^/  apt  /' || true
    echo "  fix  $2"
  } >&2
  exit 1
}

update() {
  echo "setup: fetching the lists of packages"
  apt update -o APT::Update::Error-Mode=any ||
    fail "the package servers of /etc/apt/sources.list* cannot be reached." \
      "check the network, the proxy (http_proxy) and the sources; then run this again"
}

install() { apt install -y --no-install-recommends "${missing[@]}"; }

# Lists are fetched only if they do not know a package, or know a version that is gone.
known() {
  local name
  for name in "${missing[@]}"; do
    apt-cache --no-generate show "$name" >/dev/null 2>&1 || return 1
  done
}

fresh=false
if ! known; then
  update
  fresh=true
fi
known || fail "this distribution has not all of: ${missing[*]}" "Debian 12 has them; use it or newer"
echo "setup: installing ${#missing[@]} packages"
if ! install; then
  if ! $fresh; then
    update
  fi
  install || fail "apt-get could not install: ${missing[*]}" "see the lines above"
fi
echo "setup: done"
