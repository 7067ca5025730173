"""Counts covered lines and branches for scripts/coverage.

Usage: coverage_report.py EXPORT_JSON SOURCE_ROOT LINES_WANTED BRANCHES_WANTED [--uncovered]

EXPORT_JSON is what `llvm-cov export` says of any number of programs. Its own sums are not used: they count a lambda's lines
twice, comments as lines, and of a template only the best instantiation. Here a line is one with a word of code on it, run if
anything on it ran; a branch is one outcome of one condition at one place of the source, taken if any instantiation in any
program took it. A condition that the compiler knows (`while (true)`) is none.
"""

import json
import pathlib
import re
import sys

STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'')
WORD = re.compile(r"\w")


def has_code(line):
    return WORD.search(STRING.sub("0", line).split("//")[0]) is not None


def lines_of(segments, text):
    """Line -> how often it was run. A region goes on until the next segment; the last of a line reaches into the next one."""
    by_line, counts, before = {}, {}, None
    for segment in segments:
        by_line.setdefault(segment[0], []).append(segment)
    for line in range(1, len(text) + 1):
        here = by_line.get(line, [])
        begins = [count for _, _, count, has_count, is_entry, is_gap in here if has_count and is_entry and not is_gap]
        is_skipped = here and not here[0][3] and here[0][4]
        goes_on = [before[2]] if before and before[3] else []
        if (begins or goes_on) and not is_skipped and has_code(text[line - 1]):
            counts[line] = max(begins + goes_on)
        before = here[-1] if here else before
    return counts


def count_at(segments, line, column):
    """How often what stands there was reached."""
    reached = 0
    for at_line, at_column, count, has_count, _, _ in segments:
        if (at_line, at_column) > (line, column):
            break
        reached = count if has_count else 0
    return reached


def branches_of(entry):
    """Place of a condition -> how often it was true and false."""
    counts = {}
    for line, column, end_line, end_column, true, false, *_ in entry.get("branches", []):
        place = (line, column, end_line, end_column)
        before = counts.get(place, (0, 0))
        counts[place] = (before[0] + true, before[1] + false)
    # One that was reached and went neither way is known to the compiler.
    return {
        place: both for place, both in counts.items() if any(both) or count_at(entry["segments"], *place[:2]) == 0
    }


def percent(part, whole):
    return 100 * part / whole if whole else 100


def main():
    report, root = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]).resolve()
    lines_wanted, branches_wanted, lists = float(sys.argv[3]), float(sys.argv[4]), "--uncovered" in sys.argv[5:]
    totals, missing = [0, 0, 0, 0], []
    print(f"{'file':<28} {'lines run':>12} {'branches taken':>22}")
    for entry in sorted(report["data"][0]["files"], key=lambda one: one["filename"]):
        name = pathlib.Path(entry["filename"]).resolve()
        if not name.is_relative_to(root / "src") or name.is_relative_to(root / "src/cli"):
            continue
        text, shown = name.read_text().splitlines(), name.relative_to(root)
        lines, branches = lines_of(entry["segments"], text), branches_of(entry)
        outcomes = [count for both in branches.values() for count in both]
        row = [sum(map(bool, lines.values())), len(lines), sum(map(bool, outcomes)), len(outcomes)]
        totals = [total + figure for total, figure in zip(totals, row)]
        print(
            f"{shown!s:<28} {row[0]:>5}/{row[1]:<5}{percent(*row[:2]):>6.1f}% {row[2]:>5}/{row[3]:<5}{percent(*row[2:]):>6.1f}%"
        )
        missing += [(shown, line, 0, "never run") for line, count in lines.items() if count == 0]
        for (line, column, *_), both in branches.items():
            if any(both) or lines.get(line):  # else the line says it
                ways = " or ".join(way for way, count in zip(("true", "false"), both) if count == 0)
                missing += [(shown, line, column, f"never {ways}")] if ways else []
    print(
        f"{'all':<28} {totals[0]:>5}/{totals[1]:<5}{percent(*totals[:2]):>6.2f}% "
        f"{totals[2]:>5}/{totals[3]:<5}{percent(*totals[2:]):>6.2f}%"
    )
    if lists:
        for shown, line, column, what in sorted(missing):
            print(f"{shown}:{line}:{column or ''}: {what}: {(root / shown).read_text().splitlines()[line - 1].strip()}")
    return 0 if percent(*totals[:2]) >= lines_wanted and percent(*totals[2:]) >= branches_wanted else 1


sys.exit(main())
