"""Every header compiles alone and may be included twice. Usage: headers_alone.py BUILD_FOLDER SOURCE_FOLDER

CXX names the compiler. A header of src/ that a source file beside it includes before anything else needs no further
proof: compiling that file is one. All others are compiled here, without generating code.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.MULTILINE)
# Of the flags with which the library is compiled: where headers are found, and which language they are in.
FLAGS_WITH_VALUE, FLAGS = ("-I", "-isystem"), ("-I", "-isystem", "-std=", "-D")


def headers_to_try(source):
    """As they are included: public ones, and those of src/ that no source file begins with."""
    public = sorted((source / "include/sessionlock").rglob("*.hpp"))
    headers = [path.relative_to(source / "include").as_posix() for path in public]
    for path in sorted((source / "src").rglob("*.hpp")):
        name = path.relative_to(source / "src").as_posix()
        body = path.with_suffix(".cpp")
        first = INCLUDE.search(body.read_text()) if body.exists() else None
        if first is None or first.group(1) != name:
            headers.append(name)
    return headers


def library_flags(build):
    """Those with which the library's own sources are compiled in this build."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if entry["output"].startswith("src/libsessionlock_core"):
            words = shlex.split(entry["command"])
            break
    flags = []
    for word, following in zip(words, [*words[1:], ""]):
        if word in FLAGS_WITH_VALUE:
            flags += [word, following]
        elif word.startswith(FLAGS):
            flags.append(word)
    return flags


def compile_alone(header, compiler, flags, build):
    text = f"#include <{header}>\n#include <{header}>\n"
    # `-Werror`: what a header warns of, every program that includes it has to read.
    command = [*compiler, *flags, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=text, text=True, capture_output=True, cwd=build)
    return "" if done.returncode == 0 else f"{header} does not compile alone:\n{done.stderr}"


def main():
    build, source = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    compiler, flags = shlex.split(os.environ["CXX"]), library_flags(build)
    headers = headers_to_try(source)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(filter(None, pool.map(lambda header: compile_alone(header, compiler, flags, build), headers)))
    print("\n".join(faults) or f"{len(headers)} headers were compiled alone")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
