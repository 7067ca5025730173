"""Sums up a test run for scripts/test. Usage: test_report.py TESTLOG_JSON FILES_BEFORE FILES_AFTER

A doctest program counts as many tests as it has cases, a Python script as many as unittest ran, anything else as one.
Writing outside the temporary folder is one more test: the two listings of files that must not differ are from before and
after the run.
"""

import json
import pathlib
import re
import sys

CASES = re.compile(r"^\[doctest\] test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed", re.MULTILINE)
# What unittest says at the end: `Ran 9 tests in 0.1s`, then `OK (skipped=1)` or `FAILED (failures=1, errors=2)`.
RAN = re.compile(r"^Ran (\d+) tests? in .*\n\n(?:OK|FAILED)(?: \((.*)\))?$", re.MULTILINE)
SKIPPED = re.compile(r"^SKIPPED: .*", re.MULTILINE)


def count(run):
    """Passed and failed cases of one program, and the skips it announced."""
    output = (run.get("stdout") or "") + "\n" + (run.get("stderr") or "")
    good = run["result"] in ("OK", "EXPECTEDFAIL", "SKIP")
    cases = CASES.search(output)
    skips = [f"{run['name']}: {line}" for line in SKIPPED.findall(output)]
    if run["result"] == "SKIP":
        return 0, 0, skips or [f"{run['name']}: SKIPPED: (no reason given)"]
    ran = RAN.search(output)
    if cases:
        passed, failed = int(cases.group(2)), int(cases.group(3))
    elif ran:
        figures = dict(figure.split("=") for figure in (ran.group(2) or "").split(", ") if figure)
        failed = int(figures.get("failures", 0)) + int(figures.get("errors", 0))
        passed = int(ran.group(1)) - failed - int(figures.get("skipped", 0))
        if "skipped" in figures and not skips:
            skips = [f"{run['name']}: SKIPPED: {figures['skipped']} (no reason given)"]
    else:
        return (1, 0, skips) if good else (0, 1, skips)
    if not good and not failed:  # It died after the last case, or a sanitizer had something to say.
        failed = 1
    return passed, failed, skips


def changed(before, after):
    """Paths whose line in the listing is new, gone or different."""
    return sorted({line.split("\t")[0] for line in set(before) ^ set(after)})


def main():
    log, before, after = (pathlib.Path(argument) for argument in sys.argv[1:4])
    passed, failed, skips, broken = 0, 0, [], []
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not runs:
        print("No test ran.")
        return 1
    for run in runs:
        good, bad, announced = count(run)
        passed, failed, skips = passed + good, failed + bad, skips + announced
        if bad:
            broken.append(f"{run['name']} ({run['result'].lower()})")

    outside = changed(before.read_text().splitlines(), after.read_text().splitlines())
    passed, failed = (passed, failed + 1) if outside else (passed + 1, failed)
    if outside:
        print("Written outside the tests' temporary folder while they ran:")
        for path in outside:
            print(f"  {path}")
        broken.append("no_test_outside_tmp")
    for name in broken:
        print(f"FAILED: {name}")
    for line in skips:
        print(line)
    print(f"{passed} passed, {failed} failed" + (f", {len(skips)} skipped" if skips else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
