# Sourced by the commands in this folder: installs what is missing, configures, builds. Prints one line per step; the whole
# output of a step is shown only if it fails. Callers run from the top of the source tree with `set -euo pipefail`.
# shellcheck disable=SC2034  # the lists are for the callers

# What building needs, as Debian 12 and Ubuntu 24.04 name it.
build_packages=(
  meson ninja-build pkg-config g++ libsimdjson-dev libboost-filesystem-dev libexpected-dev libfmt-dev libcli11-dev
)
demo_packages=(python3 util-linux)
test_packages=(doctest-dev python3 procps util-linux bindfs btrfs-progs)
benchmark_packages=(libbenchmark-dev)
machine_packages=(python3 qemu-system-x86 mmdebstrap busybox-static cpio e2fsprogs)
meson_minimum=1.0.1

say() { printf '%s\n' "$*"; }

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# quietly WHAT COMMAND...: a step that speaks only when it fails.
quietly() {
  local what=$1 log started=$SECONDS
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/sessionlock-step.XXXXXX")
  printf '%s … ' "$what"
  if "$@" >"$log" 2>&1 </dev/null; then
    say "done ($((SECONDS - started)) s)"
    rm -f "$log"
  else
    say 'failed:'
    tail -n 60 "$log" >&2
    rm -f "$log"
    return 1
  fi
}

# The packages of the arguments that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s ' "$package"
  done
}

# Debian and Ubuntu: installs what is missing and nothing else.
install_packages() {
  local missing as_root=()
  read -ra missing <<<"$(missing_packages "$@")"
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      fail "these packages are missing: run \`apt-get install ${missing[*]}\` as root, then try again"
    fi
    as_root=(sudo)
    [[ -t 0 ]] || as_root=(sudo -n)
    "${as_root[@]}" true || fail "sudo needs a password: run \`sudo apt-get install ${missing[*]}\`, then try again"
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o DPkg::Lock::Timeout=300)
  quietly 'Reading the package lists' "${apt[@]}" update || say 'Going on with the old package lists.'
  quietly "Installing ${missing[*]}" "${apt[@]}" install --no-install-recommends "${missing[@]}"
}

# Elsewhere nothing is installed behind anybody's back: says what to install.
require_tools() {
  local missing=() command
  for command in meson ninja pkg-config c++ python3; do
    command -v "$command" >/dev/null || missing+=("$command")
  done
  if command -v c++ >/dev/null && ! c++ -E -x c++ -include boost/filesystem.hpp - </dev/null >/dev/null 2>&1; then
    missing+=('Boost.Filesystem (development files, 1.74 or newer)')
  fi
  ((${#missing[@]})) || return 0
  {
    say "This system is neither Debian nor Ubuntu, so please install these yourself, then try again:"
    printf '  %s\n' "${missing[@]}"
    say "Best also, from your distribution: simdjson 3.0.1, fmt 9.1, CLI11 2.1.2, tl-expected 1.0, doctest 2.4.9, Google"
    say "Benchmark 1.7.1, each or newer, with development files. What is missing of those Meson downloads and builds."
  } >&2
  exit 1
}

# require PACKAGE...: afterwards everything that building needs is there, or the script has ended with advice.
require() {
  if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    install_packages "$@"
  else
    require_tools
  fi
  local version
  version=$(meson --version)
  if [[ $(printf '%s\n' "$meson_minimum" "$version" | sort -V | head -n 1) != "$meson_minimum" ]]; then
    fail "Meson $version is too old: $meson_minimum or newer is needed (for example \`pipx install meson\`)"
  fi
}

# configure FOLDER [OPTION...]: a folder that is configured already keeps its options.
configure() {
  local folder=$1
  shift
  [[ -f $folder/build.ninja ]] || quietly "Configuring $folder" meson setup "$folder" "$@"
}

# The options for a folder in which only the command is built.
command_alone=(-Dtests=false -Dexamples=false -Dbenchmarks=disabled)

# add_tests FOLDER: gives a folder that was configured without them the tests, and what they run. The next build sees to it.
add_tests() {
  local has_tests="import json, sys
options = {option['name']: option['value'] for option in json.load(open(sys.argv[1]))}
sys.exit(not (options['tests'] and options['examples']))"
  python3 -c "$has_tests" "$1/meson-info/intro-buildoptions.json" ||
    quietly "Adding the tests to $1" meson configure "$1" -Dtests=true -Dexamples=true
}

# build FOLDER [TARGET...]; JOBS limits the parallel compilations.
build() {
  local folder=$1
  shift
  quietly "Building $folder" ninja -C "$folder" ${JOBS:+-j"$JOBS"} "$@"
}
