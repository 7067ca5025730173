"""What must not be written with the library does not compile. Usage: misuse.py BUILD_FOLDER SOURCE_FOLDER

CXX names the compiler. Each misuse is compiled within a function that is right without it, with the warnings of a
careful program as errors.
"""

import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys

from headers_alone import library_flags

PROGRAM = """
#include <sessionlock/sessionlock.hpp>
using namespace sessionlock;
[[maybe_unused]] static void use(LockManager& manager, SessionLock& lock, Transcript& transcript, PidFile& file) {{
  static_cast<void>(manager), static_cast<void>(lock), static_cast<void>(transcript), static_cast<void>(file);
  {}
}}
"""

# What is written, and a word of why it is refused: an attribute of that name, or a deleted function.
MISUSES = {
    "copying a lock": ("SessionLock copy = lock;", "deleted"),
    "copying a manager": ("LockManager copy = manager;", "deleted"),
    "copying a transcript": ("Transcript copy = transcript;", "deleted"),
    "copying a PID file": ("PidFile copy = file;", "deleted"),
    "ignoring an append": ('transcript.append("{}");', "nodiscard"),
    "ignoring a guarded write": ("lock.guarded([] {});", "nodiscard"),
    "ignoring a release": ("lock.release();", "nodiscard"),
    "ignoring a lock": ('manager.acquire("s");', "nodiscard"),
    "ignoring a wait": ('manager.wait_until_free("s");', "nodiscard"),
    "ignoring a removal": ('manager.force_release("s", "1");', "nodiscard"),
    "asking for half a process": ("static_cast<void>(is_pid_alive(1.5));", "deleted"),
}


def compile_program(statement, compiler, flags, build):
    command = [*compiler, *flags, "-Wall", "-Werror", "-fsyntax-only", "-x", "c++", "-"]
    program = PROGRAM.format(statement)
    return subprocess.run(command, input=program, text=True, capture_output=True, cwd=build)


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    compiler, flags = shlex.split(os.environ["CXX"]), library_flags(build)
    right = compile_program("", compiler, flags, build)
    if right.returncode != 0:
        print(f"even the right program does not compile:\n{right.stderr}")
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(zip(MISUSES, pool.map(lambda one: compile_program(one[0], compiler, flags, build), MISUSES.values())))
    faults = 0
    for misuse, (_, reason) in MISUSES.items():
        refused = done[misuse].returncode != 0 and reason in done[misuse].stderr
        faults += not refused
        print(f"{misuse}: " + ("refused" if refused else f"NOT refused for being {reason}\n{done[misuse].stderr}"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
