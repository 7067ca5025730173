"""Checks that the code keeps to its architecture. Usage: rooms.py CHECK SOURCE_FOLDER

includes   an include points to a room above or to its own; the rooms are the folders of src/, in the order in which
           src/meson.build enters them, and a public header belongs to the room whose meson.build names it
headers    a public header includes only public headers, the standard library's, the system's and <tl/expected.hpp>
proc       only the room `process` names a path below /proc
errno      only the system calls' files read errno (and the command, where it calls the system itself)
nodiscard  a public function that returns a result is [[nodiscard]]
libraries  a library that is heavy to compile is included by the files that wrap it alone
"""

import pathlib
import re
import sys

# One pass over C++ text: comments, raw strings, strings, characters. What none of them matches is code.
TOKEN = re.compile(
    r'(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<raw>R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)")|(?P<string>"(?:\\.|[^"\\\n])*")'
    r"|(?P<character>(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+')",
    re.DOTALL,
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
SUBDIR = re.compile(r"^subdir\('([a-z_]+)'\)", re.MULTILINE)
PUBLIC = re.compile(r"include/(sessionlock/[a-z_]+\.hpp)'")
HIDDEN_LIBRARIES = ("boost/", "simdjson", "fmt/", "CLI/")
# These two belong to no room: what every room may include, and what only users do.
GROUND, SKY = "sessionlock/export.hpp", "sessionlock/sessionlock.hpp"
READERS_OF_ERRNO = {
    "src/system/system.cpp", "src/system/system_call.hpp", "src/system/descriptors.cpp", "src/system/spawning.cpp",
}
# What is heavy to compile, and who may include it.
WRAPPERS = {"CLI/": {"src/cli/parser.cpp"}}


def without(text, *kinds):
    """The text with the tokens of these kinds blanked out, line breaks kept."""

    def blank(match):
        wanted = any(match.group(kind) for kind in kinds)
        return re.sub(r"[^\n]", " ", match.group()) if wanted else match.group()

    return TOKEN.sub(blank, text)


def sources(root, *folders):
    for folder in folders:
        yield from sorted(path for path in (root / folder).rglob("*") if path.suffix in (".hpp", ".cpp"))


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def floors(root):
    """The rooms by name, and the public headers as users include them, each with the number of its floor."""
    names = SUBDIR.findall((root / "src/meson.build").read_text())
    rooms = {name: number for number, name in enumerate(names)}
    headers = {GROUND: -1, SKY: len(rooms)}
    for name, number in rooms.items():
        listing = root / "src" / name / "meson.build"
        headers.update((header, number) for header in PUBLIC.findall(listing.read_text()) if listing.exists())
    return rooms, headers


def check_includes(root):
    rooms, headers = floors(root)
    words = {number: name for name, number in rooms.items()} | {-1: "every room", len(rooms): "the users"}
    for path in sources(root, "include", "src"):
        relative = path.relative_to(root)
        own = headers.get("/".join(relative.parts[1:])) if relative.parts[0] == "include" else rooms.get(relative.parts[1])
        if own is None:
            yield f"{relative}: in no room; it belongs into a folder that src/meson.build enters, or its meson.build names it"
            continue
        text = without(path.read_text(), "comment", "raw")
        for match in INCLUDE.finditer(text):
            form, target = match.groups()
            if form == "<" and not target.startswith("sessionlock/"):
                continue
            floor = headers.get(target) if form == "<" else rooms.get(target.split("/")[0])
            place = f"{relative}:{line_of(text, match.start())}"
            if floor is None:
                yield f"{place}: {target} shows no room; write the path from src/"
            elif floor > own:
                yield f"{place}: {words[own]} includes {target} of {words[floor]}, which stands above it"


def check_headers(root):
    for path in sources(root, "include"):
        text = without(path.read_text(), "comment", "raw")
        for match in INCLUDE.finditer(text):
            form, target = match.groups()
            place = f"{path.relative_to(root)}:{line_of(text, match.start())}"
            if target.startswith(HIDDEN_LIBRARIES):
                yield f"{place}: a public header must not need <{target}>"
            elif form == '"':
                yield f'{place}: "{target}" is not installed; public headers include <sessionlock/...>'


def check_proc(root):
    for path in sources(root, "include", "src"):
        if path.parent == root / "src/process":
            continue
        text = INCLUDE.sub(lambda match: "\n" * match.group().count("\n"), path.read_text())
        for match in TOKEN.finditer(text):
            literal = match.group("string") or match.group("raw")
            if literal and "/proc" in literal:
                yield f"{path.relative_to(root)}:{line_of(text, match.start())}: names {literal}; ask the room `process`"


def check_errno(root):
    for path in sources(root, "include", "src"):
        relative = path.relative_to(root)
        if relative.parts[:2] == ("src", "cli") or relative.as_posix() in READERS_OF_ERRNO:
            continue
        text = INCLUDE.sub("", without(path.read_text(), "comment", "raw", "string", "character"))
        for match in re.finditer(r"\berrno\b", text):
            yield f"{relative}:{line_of(text, match.start())}: reads errno; only the files of the system calls do"


RESULT = re.compile(r"\b(?:Result<|auto\b(?=[^;{]*->[^;{]*Result<))")
FUNCTION_NAME = re.compile(r"[\s&*]*([A-Za-z_]\w*)\s*\(")


def end_of_template(text, opening):
    """The position behind the bracket that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(text)):
        depth += {"<": 1, ">": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return len(text)


def check_nodiscard(root):
    for path in sources(root, "include"):
        text = without(path.read_text(), "comment", "raw", "string", "character")
        for match in RESULT.finditer(text):
            end = end_of_template(text, match.end() - 1) if match.group().endswith("<") else match.end()
            name = FUNCTION_NAME.match(text, end)
            start = max(text.rfind(mark, 0, match.start()) for mark in ";{}")
            if name and "[[nodiscard]]" not in text[start + 1 : match.start()]:
                yield f"{path.relative_to(root)}:{line_of(text, match.start())}: {name.group(1)} is not [[nodiscard]]"


def check_libraries(root):
    for path in sources(root, "include", "src"):
        relative = path.relative_to(root).as_posix()
        text = without(path.read_text(), "comment", "raw")
        for match in INCLUDE.finditer(text):
            target = match.group(2)
            for library, wrappers in WRAPPERS.items():
                if target.startswith(library) and relative not in wrappers:
                    yield f"{relative}:{line_of(text, match.start())}: includes <{target}>; that is for {', '.join(sorted(wrappers))}"


CHECKS = {
    "includes": check_includes, "headers": check_headers, "proc": check_proc, "errno": check_errno,
    "nodiscard": check_nodiscard, "libraries": check_libraries,
}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in CHECKS:
        print(__doc__, file=sys.stderr)
        return 2
    faults = list(CHECKS[sys.argv[1]](pathlib.Path(sys.argv[2])))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
