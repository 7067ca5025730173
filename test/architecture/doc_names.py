"""What docs/protocol.md calls by a name in `code` exists in the source. Usage: doc_names.py SOURCE

A name looks like a function if it is one word of at least three letters in lower case, or `Class::member`. What is no
function of ours (a system call that the library only hears of, a step of the model, one of its runs) may stand in a
comment, in the model or in scripts/model instead; not so in the column that says which function a step stands for.
"""

import pathlib
import re
import sys

from rooms import sources, without

PAGE = "docs/protocol.md"
MODEL = ("test/model/protocol.pml", "scripts/model")
CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"(?:[A-Za-z_]\w*::)*~?[a-z_][a-z_0-9]{2,}(?:\(\))?")
# The table that maps the model's steps to functions: its last column names functions only.
MAPPING = re.compile(r"^\| in the model \|.*?(?=^[^|])", re.MULTILINE | re.DOTALL)


def words_of(text):
    return set(re.findall(r"\w+", text))


def names_in(text):
    return {code.removesuffix("()") for code in CODE.findall(text) if NAME.fullmatch(code)}


def is_in(name, files):
    """The last part of a qualified name stands in a file that knows the parts before it, too."""
    parts = set(name.replace("~", "").split("::"))
    return any(parts <= words for words in files)


def faults(root):
    page = (root / PAGE).read_text()
    mapping = MAPPING.search(page)
    texts = [path.read_text() for path in sources(root, "src", "include")]
    code = [words_of(without(text, "comment")) for text in texts]
    elsewhere = set().union(*map(words_of, [*texts, *((root / path).read_text() for path in MODEL)]))
    for name in sorted(names_in(page)):
        if not is_in(name, code) and name not in elsewhere:
            yield f"{PAGE} names `{name}`, which is not in src/"
    if not mapping:
        yield f"{PAGE} has no table that begins with `| in the model |`"
        return
    for row in mapping.group().splitlines()[2:]:
        for name in sorted(names_in(row.strip("| ").rsplit("|", 1)[-1])):
            if not is_in(name, code):
                yield f"{PAGE} maps a step of the model to `{name}`, which is not in src/"


if __name__ == "__main__":
    found = list(faults(pathlib.Path(sys.argv[1])))
    print("\n".join(found))
    sys.exit(1 if found else 0)
