"""Counts records {"by": NAME, "number": N} of a session: counted.py SESSION COUNT NAME...

Prints one line for each that is lost, doubled or torn; exit status 1 if there was one."""

import collections
import json
import sys


def faults(lines, count, names):
    seen = collections.Counter()
    for line in lines:
        try:
            record = json.loads(line)
            seen[record["by"], record["number"]] += 1
        except (ValueError, KeyError, TypeError):
            yield f"torn: {line!r}"
    for name in names:
        for number in range(count):
            if seen[name, number] != 1:
                yield f"{'lost' if seen[name, number] == 0 else 'doubled'}: {number} by {name}"


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        found = list(faults(file, int(sys.argv[2]), sys.argv[3:]))
    print("\n".join(found) or "each record is there once")
    sys.exit(bool(found))
