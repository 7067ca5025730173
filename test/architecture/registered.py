"""Fails if a test file exists that no suite runs.

Usage: registered.py TEST_FOLDER SUITE... -- FILE...
A suite is a folder of TEST_FOLDER, a file is registered by its path from there. Meson runs this while configuring.
"""

import pathlib
import sys

ENDINGS = {".cpp", ".py", ".sh"}


def unregistered(folder, suites, files):
    found = set()
    for suite in suites:
        # Only the suite's own folder: what lies deeper (helpers, corpora) belongs to a test and is none itself.
        found.update(path for path in folder.glob(f"{suite}/*") if path.suffix in ENDINGS)
    return sorted(str(path.relative_to(folder)) for path in found if str(path.relative_to(folder)) not in files)


def main():
    arguments = sys.argv[1:]
    split = arguments.index("--")
    folder, suites, files = pathlib.Path(arguments[0]), arguments[1:split], set(arguments[split + 1 :])
    missing = unregistered(folder, suites, files)
    for path in missing:
        print(f"test/{path} is not registered: add it to `registered` in test/meson.build", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
