"""Puts the figures of the benchmark programs together: results.json, a table, and plots.

Usage: bench_report.py FOLDER
FOLDER has suite*.json (Google Benchmark's own), handover*.json and peers.json (rows already); it gets results.json, results.txt
and *.svg. A row of results.json is {"name", "value", "unit", "floor", "ratio", "peer"}: `floor` is the same work by `peer` in
the same run, `ratio` is value / floor. For other locks (`peers/WHAT/WHO`) it is the other way round: the value is WHO's, and
`floor` is sessionlock's. A value that could not be had is null.
"""

import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

# What each row is to stay under, as (of what, limit): its ratio or its value.
TARGETS = {
    "acquire_release/ext4": ("ratio", 1.40), "acquire_release/ext4/bare": ("ratio", 1.10),
    "acquire_release/tmpfs": ("ratio", 1.70), "acquire_release/tmpfs/bare": ("ratio", 1.12),
    "classify/foreign": ("value", 300), "classify/own": ("value", 500), "sweep/10000": ("ratio", 2.3), "append/1": ("ratio", 1.3),
    "held/10000/heap_each": ("value", 1536), "peers/overlaps/sessionlock": ("value", 0),
    "handover.release.p50": ("value", 100), "handover.sigkill.p50": ("value", 500),
}
# What other locks are to cost at least, as a multiple of ours.
PEER_TARGETS = {"liblockfile": 1, "qlockfile": 3, "filelock_soft": 3, "proper_lockfile": 3, "fs_safe": 3}
TIME_UNITS_NS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
COUNTER_UNITS = {"heap_each": "B", "descriptors_each": ""}
IN_NANOSECONDS = ("parse/", "classify/", "format/")
DECORATION = re.compile(r"/(real_time|manual_time|process_time|iterations:\d+|repeats:\d+)")


def make_row(name, value, unit, floor=None, peer=None):
    ratio = value / floor if value is not None and floor else None
    return {"name": name, "value": value, "unit": unit, "floor": floor, "ratio": ratio, "peer": peer}


# --- what the programs say -------------------------------------------------------------------------------------------


def read_suite(documents):
    """{row: [nanoseconds of each repetition]} and {row/counter: [values]}."""
    times, counters = {}, {}
    for document in documents:
        # Repetitions come interleaved; a family is a registration. So floors stand in the order of the sources.
        for run in sorted(document["benchmarks"], key=lambda run: run["family_index"]):
            if run.get("run_type") != "iteration" or run.get("error_occurred"):
                continue
            name = DECORATION.sub("", run["run_name"])
            times.setdefault(name, []).append(run["real_time"] * TIME_UNITS_NS[run["time_unit"]])
            for counter in COUNTER_UNITS:
                if counter in run:
                    counters.setdefault(f"{name}/{counter}", []).append(run[counter])
    return times, counters


def suite_rows(documents):
    times, counters = read_suite(documents)
    rows, spreads = [], {}
    for name in times:
        if "@" in name:
            continue
        unit, divisor = ("ns", 1) if name.startswith(IN_NANOSECONDS) else ("us", 1e3)
        value = statistics.median(times[name]) / divisor
        spreads[name] = spread(times[name])
        floors = [other for other in times if other.startswith(f"{name}@")]
        if not floors:
            rows.append(make_row(name, value, unit))
        for number, floor in enumerate(floors):
            peer = floor.split("@")[1]
            row_name = name if number == 0 else f"{name}/{peer}"
            rows.append(make_row(row_name, value, unit, statistics.median(times[floor]) / divisor, peer))
            spreads[row_name] = spreads[name]
    for name, values in counters.items():
        rows.append(make_row(name, statistics.median(values), COUNTER_UNITS[name.rsplit("/", 1)[1]]))
    return rows, spreads


def spread(values):
    """The middle half's width, of the median."""
    if len(values) < 2:
        return None
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle if middle else None


def merged_rows(runs):
    """Several runs of a program that prints rows: the medians, and how far the runs lie apart."""
    grouped = {}
    for run in runs:
        for row in run:
            grouped.setdefault(row["name"], []).append(row)
    rows, spreads = [], {}
    for name, several in grouped.items():
        values = [row["value"] for row in several if row["value"] is not None]
        floors = [row["floor"] for row in several if row.get("floor") is not None]
        value = statistics.median(values) if values else None
        rows.append(make_row(
            name, value, several[0]["unit"], statistics.median(floors) if floors else None, several[0].get("peer")))
        if len(values) > 1 and value:
            spreads[name] = (max(values) - min(values)) / value
    return rows, spreads


def peer_rows(rows):
    ours = {row["name"].rsplit("/", 1)[0]: row["value"] for row in rows if row["peer"] == "sessionlock"}
    made = []
    for row in rows:
        comparable = row["peer"] != "sessionlock" and row["unit"] in ("us", "ms/s")
        floor = ours.get(row["name"].rsplit("/", 1)[0]) if comparable else None
        made.append(make_row(row["name"], row["value"], row["unit"], floor, row["peer"]))
    return made


# --- what is made of it ----------------------------------------------------------------------------------------------


def verdict(row):
    """`met`, `MISSED`, or nothing where there is no target."""
    name, target = row["name"], TARGETS.get(row["name"])
    if target:
        of, limit = target
        text = f"<= {limit:g}" + (" x" if of == "ratio" else f" {row['unit']}".rstrip())
        return text, row[of] is not None and row[of] <= limit
    least = PEER_TARGETS.get(row["peer"]) if name.startswith("peers/uncontended/") else None
    if least:
        return f">= {least:g} x", row["ratio"] is not None and row["ratio"] >= least
    return "", None


def number(value, places=1):
    if value is None:
        return "none"
    return f"{value:,.{places}f}" if abs(value) < 1e6 else f"{value:,.0f}"


def table(rows, spreads):
    head = f"{'row':<48}{'value':>14} {'unit':<5}{'+-':>6}{'floor':>14}{'ratio':>11}  {'of':<34}{'target':<12}"
    lines = [head, "-" * len(head)]
    for row in rows:
        target, met = verdict(row)
        width = spreads.get(row["name"])
        lines.append(
            f"{row['name']:<48}{number(row['value']):>14} {row['unit']:<5}"
            f"{f'{100 * width:.0f}%' if width is not None else '':>6}"
            f"{number(row['floor']) if row['floor'] is not None else '':>14}"
            f"{number(row['ratio'], 2) if row['ratio'] is not None else '':>11}  {row['peer'] or '':<34}{target:<12}"
            f"{'' if met is None else 'met' if met else 'MISSED'}".rstrip())
    return "\n".join(lines) + "\n"


def series(rows, prefix, field):
    """(N, value) of the rows `prefix/N`."""
    found = {int(row["name"][len(prefix):]): row[field] for row in rows if re.fullmatch(re.escape(prefix) + r"\d+", row["name"])}
    return [(count, value) for count, value in sorted(found.items()) if value is not None]


def plot(folder, name, title, labels, curves, logarithmic):
    """Draws curves as NAME.svg; those without points are left out."""
    curves = [(label, points) for label, points in curves if points]
    if not curves:
        return
    x_label, y_label = labels
    data = "".join(
        f"$curve{i} << END\n" + "".join(f"{x} {y}\n" for x, y in points) + "END\n" for i, (_, points) in enumerate(curves))
    drawn = ", ".join(f"$curve{i} using 1:2 with linespoints linewidth 2 title \"{label}\"" for i, (label, _) in enumerate(curves))
    script = (
        f"set terminal svg size 720,440 background 'white'\nset output '{folder / name}.svg'\nset title \"{title}\"\n"
        f"set xlabel \"{x_label}\"\nset ylabel \"{y_label}\"\nset key top left\nset grid\nset logscale {logarithmic}\n"
        f"set yrange [{'*' if 'y' in logarithmic else '0'}:*]\n{data}plot {drawn}\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def draw(folder, rows):
    if not shutil.which("gnuplot"):
        print("ABSENT: gnuplot, so there are no plots", file=sys.stderr)
        return
    us = "microseconds"
    plot(folder, "sweep", "Dry run over a directory of locks", ("locks", us), [
        ("sessionlock", series(rows, "sweep/", "value")), ("list, open, read, close", series(rows, "sweep/", "floor"))], "xy")
    plot(folder, "held", "Acquire and release of one more lock", ("locks held by the process", us), [
        ("sessionlock", series(rows, "held/", "value")), ("its system calls, bare", series(rows, "held/", "floor"))], "x")
    plot(folder, "contention", "One turn, when all want the same session", ("contenders", us), [
        ("sessionlock, threads", series(rows, "threads/", "value")),
        ("sessionlock, processes", series(rows, "processes/", "value")),
        ("flock, processes", series(rows, "processes/", "floor"))], "xy")


def load(paths):
    return [json.loads(path.read_text()) for path in sorted(paths)]


def report(folder):
    rows, spreads = suite_rows(load(folder.glob("suite*.json")))
    for more, widths in (merged_rows(load(folder.glob("handover*.json"))),):
        rows += more
        spreads.update(widths)
    for peers in load(folder.glob("peers.json")):
        rows += peer_rows(peers)
    (folder / "results.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    (folder / "results.txt").write_text(table(rows, spreads))
    draw(folder, rows)
    return rows


if __name__ == "__main__":
    target_folder = pathlib.Path(sys.argv[1])
    report(target_folder)
    print((target_folder / "results.txt").read_text(), end="")
