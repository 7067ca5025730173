"""README shows examples/embed.cpp exactly as it is, and what it and its neighbours link to exists. Usage: readme.py SOURCE"""

import pathlib
import re
import sys

PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def faults(root):
    example = (root / "examples/embed.cpp").read_text()
    if f"```cpp\n{example}```" not in (root / "README.md").read_text():
        yield "README.md does not contain examples/embed.cpp as it is: copy the file into the first ```cpp block"
    for page in [*(root / name for name in PAGES), *sorted((root / "docs").glob("*.md"))]:
        for target in LINK.findall(page.read_text()):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                yield f"{page.relative_to(root)} links to {target}, which does not exist"


if __name__ == "__main__":
    found = list(faults(pathlib.Path(sys.argv[1])))
    print("\n".join(found))
    sys.exit(1 if found else 0)
