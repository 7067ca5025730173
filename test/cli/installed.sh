# An installed library serves a program outside the tree that knows nothing but `pkg-config --cflags --libs sessionlock`.
# Arguments: build folder, source folder. CXX and SANITIZE say how the library was built.
set -euo pipefail
build=$1 source=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  echo "$*" >&2
  exit 1
}

DESTDIR=$scratch/root meson install -C "$build" --no-rebuild --quiet
description=$(find "$scratch/root" -name sessionlock.pc)
library=$(find "$scratch/root" -name libsessionlock.so)
[[ -n $description && -n $library ]] || fail "sessionlock.pc or libsessionlock.so was not installed"
export PKG_CONFIG_PATH=${description%/*} PKG_CONFIG_SYSROOT_DIR=$scratch/root LD_LIBRARY_PATH=${library%/*}

# The libraries inside ours are its own affair: neither their packages nor their symbols reach an embedding program.
required=$(pkg-config --print-requires --print-requires-private sessionlock)
[[ -z $required || $required == tl-expected ]] || fail "sessionlock.pc requires $required"
foreign=$(nm -DC --defined-only "$library" | grep -v 'sessionlock::' || true)
[[ -z $foreign ]] || fail "the library exports what is not its own:"$'\n'"$foreign"

command=$(find "$scratch/root" -path '*/bin/sessionlock')
page=$(find "$scratch/root" -path '*/man1/sessionlock.1*')
[[ -x $command && -n $page ]] || fail "the command or its manual page was not installed"
[[ $("$command" --version) == "sessionlock $(pkg-config --modversion sessionlock)" ]] || fail "versions differ"

mkdir "$scratch/elsewhere"
cp "$source/examples/embed.cpp" "$scratch/elsewhere/program.cpp"
cd "$scratch/elsewhere"
flags=$(pkg-config --cflags --libs sessionlock)
[[ $SANITIZE == none ]] || flags+=" -fsanitize=$SANITIZE"
# shellcheck disable=SC2086  # a list of words
$CXX -Wall -Wextra -Werror program.cpp -o program $flags
# Containers of another layout would crash it: it is refused, with the reason.
debug=-D_GLIBCXX_DEBUG
[[ $flags != *SESSIONLOCK_WITH_GLIBCXX_DEBUG* ]] || debug=-U_GLIBCXX_DEBUG
# shellcheck disable=SC2086
! $CXX -fsyntax-only program.cpp $flags $debug 2>said || fail "it compiles with $debug"
grep -q 'build both alike' said || fail "it does not compile with $debug for another reason: $(cat said)"
./program
[[ $(cat run.jsonl) == '{"event":"start"}' ]] || fail "run.jsonl: $(cat run.jsonl)"
[[ ! -e run.jsonl.lock ]] || fail 'the lock was not released'

# The program meets a lock of a dead process, takes it over, and says so.
sleep 0 & wait "$!"
printf '{"pid": %s, "createdAt": "2026-01-01T00:00:00.000Z", "starttime": 1}\n' "$!" >run.jsonl.lock
./program 2>said
grep -q 'taken over: ' said || fail "it did not say what it took over: $(cat said)"
[[ $(wc -l <run.jsonl) == 2 ]] || fail "run.jsonl: $(cat run.jsonl)"
