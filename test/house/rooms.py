"""Checks that the code keeps to its architecture. Usage: rooms.py CHECK SOURCE_FOLDER

includes   an include points to a room above or to its own; the rooms are the numbered comments of src/meson.build
headers    a public header includes only public headers, the standard library's, the system's and <tl/expected.hpp>
proc       only the room process_identity names a path below /proc
errno      only the system calls' files read errno (and the command, where it calls the system itself)
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
ROOM = re.compile(r"#\s*(\d+)\s+(.*)")
HIDDEN_LIBRARIES = ("boost/", "simdjson", "fmt/", "CLI/")
ABOVE_ALL = 1000
READERS_OF_ERRNO = {"src/system.cpp", "src/system_call.hpp", "src/descriptors.cpp", "src/spawning.cpp"}


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


def rooms(root):
    """File stem -> number of its room. Headers without a .cpp of their own are named in a comment of their room."""
    listing = (root / "src/meson.build").read_text()
    block = re.search(r"core_sources = files\((.*?)^\)", listing, re.DOTALL | re.MULTILINE).group(1)
    numbers, room = {"export": -1, "sessionlock": ABOVE_ALL}, None
    for line in block.splitlines():
        heading = ROOM.search(line)
        if heading:
            room = int(heading.group(1))
        for name in re.findall(r"([a-z_]+)\.[ch]pp", line):
            numbers[name] = room
    return numbers


def check_includes(root):
    known = rooms(root)
    for path in sources(root, "include", "src"):
        relative = path.relative_to(root)
        command = relative.parts[:2] == ("src", "cli")
        own = ABOVE_ALL if command else known.get(path.stem)
        if own is None:
            yield f"{relative}: its room is unknown; list it (a header in a comment) under its room in src/meson.build"
            continue
        text = without(path.read_text(), "comment", "raw")
        for match in INCLUDE.finditer(text):
            form, target = match.groups()
            if form == "<" and not target.startswith("sessionlock/"):
                continue
            if command and form == '"' and (path.parent / target).exists():
                continue
            room = known.get(pathlib.Path(target).stem)
            place = f"{relative}:{line_of(text, match.start())}"
            if room is None:
                yield f"{place}: the room of {target} is unknown"
            elif room > own:
                yield f"{place}: room {own} includes {target} of room {room}, which lies below it"


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
    allowed = {"process_probe", "process_identity"}
    for path in sources(root, "include", "src"):
        if path.stem in allowed:
            continue
        text = path.read_text()
        for match in TOKEN.finditer(text):
            literal = match.group("string") or match.group("raw")
            if literal and "/proc" in literal:
                yield f"{path.relative_to(root)}:{line_of(text, match.start())}: names {literal}; ask process_identity"


def check_errno(root):
    for path in sources(root, "include", "src"):
        relative = path.relative_to(root)
        if relative.parts[:2] == ("src", "cli") or relative.as_posix() in READERS_OF_ERRNO:
            continue
        text = INCLUDE.sub("", without(path.read_text(), "comment", "raw", "string", "character"))
        for match in re.finditer(r"\berrno\b", text):
            yield f"{relative}:{line_of(text, match.start())}: reads errno; only the files of the system calls do"


CHECKS = {"includes": check_includes, "headers": check_headers, "proc": check_proc, "errno": check_errno}


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
