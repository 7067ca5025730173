"""Does the same work with sessionlock and with the locks people use today, and prints one JSON array of rows.

Usage: peers.py BUILD FOLDER SCRATCH [--quick] [--only NAME]...
BUILD has the compiled peers, SCRATCH is where to build and install others, FOLDER is where the locks lie. What cannot be
built or installed is reported as absent. How a peer speaks: peer.hpp.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import select
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CONTENDERS = 4
PATIENCE_S = 15  # who has not taken over by then is said not to
RENAME_NOREPLACE = 1
AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Absent(Exception):
    """This peer cannot be had here, and why."""


# --- how each is come by ---------------------------------------------------------------------------------------------


def run(*command, **options):
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(str(error)) from error
    if result.returncode != 0:
        lines = (result.stderr + result.stdout).strip().splitlines() or [f"status {result.returncode}"]
        raise Absent(f"{command[0]}: {lines[-1]}")
    return result.stdout.split()


def compiled(source, *libraries):
    def build(places):
        program = places.scratch / pathlib.Path(source).stem
        run(os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-fPIC", "-o", program, HERE / source, *libraries)
        return [program]
    return build


def with_qt(places):
    return compiled("qlockfile.cpp", *run("pkg-config", "--cflags", "--libs", "Qt5Core"))(places)


def with_node(places):
    if not shutil.which("node") or not shutil.which("npm"):
        raise Absent("no node and npm")
    if not (places.scratch / "node_modules/@openclaw/fs-safe").exists() or not (places.scratch / "node_modules/proper-lockfile").exists():
        (places.scratch / "package.json").write_text("{}")
        run("npm", "install", "--no-audit", "--no-fund", "proper-lockfile", "@openclaw/fs-safe", cwd=places.scratch)
    return ["node", HERE / "node_peer.mjs"]


def with_python(_):
    # The system's Python, for which the package is; another one first in PATH need not have it.
    for python in ("/usr/bin/python3", sys.executable):
        if subprocess.run([python, "-c", "import filelock"], capture_output=True).returncode == 0:
            return [python, HERE / "filelock_peer.py"]
    raise Absent("no Python has the module filelock")


def built(program):
    return lambda places: [places.build / "benchmarks" / program]


class Peer:
    def __init__(self, name, find, variant="", writes_record=True, quick=True):
        self.name, self.find, self.variant = name, find, variant
        self.writes_record, self.quick = writes_record, quick


PEERS = [
    Peer("sessionlock", built("peer_sessionlock")),
    Peer("flock", built("peer_kernel"), "flock", writes_record=False),
    Peer("ofd", built("peer_kernel"), "ofd", writes_record=False),
    Peer("boost_file_lock", built("peer_kernel"), "boost", writes_record=False),
    Peer("liblockfile", compiled("liblockfile.cpp", "-llockfile")),
    Peer("qlockfile", with_qt, quick=False),
    Peer("filelock_soft", with_python, "soft"),
    Peer("filelock_native", with_python, "native", writes_record=False),
    Peer("proper_lockfile", with_node, "proper-lockfile", quick=False),
    Peer("fs_safe", with_node, "fs-safe", quick=False),
]


# --- a process that locks --------------------------------------------------------------------------------------------


class Process:
    def __init__(self, command, variant, path, environment):
        self.child = subprocess.Popen(
            [*map(str, command), variant, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment,
        )
        self.expect(30)

    def tell(self, line):
        self.child.stdin.write(line.encode() + b"\n")

    def hear(self, timeout):
        """What follows `ok`; None if nothing came in time."""
        ready, _, _ = select.select([self.child.stdout], [], [], timeout)
        if not ready:
            return None
        line = self.child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.child.args[0]} has ended")
        return [int(word) for word in line.split()[1:]]

    def expect(self, timeout=60):
        heard = self.hear(timeout)
        if heard is None:
            raise RuntimeError(f"{self.child.args[0]} does not answer")
        return heard

    def ask(self, line, timeout=60):
        self.tell(line)
        return self.expect(timeout)

    def cpu_ns(self):
        tasks = pathlib.Path(f"/proc/{self.child.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def end(self):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def rename_no_replace(old, new):
    return libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), RENAME_NOREPLACE) == 0


class Bench:
    """The measurements of one peer."""

    def __init__(self, peer, command, places, quick):
        self.peer, self.command, self.places, self.quick = peer, command, places, quick
        self.environment = dict(os.environ, PEERS_NODE=str(places.scratch))
        self.count = 0

    def fresh_path(self):
        self.count += 1
        folder = self.places.folder / f"{self.peer.name}.{self.count}"
        folder.mkdir()
        return folder / "session.jsonl"

    def start(self, path):
        return Process(self.command, self.peer.variant, path, self.environment)

    def hand_over_us(self):
        """From the call that releases to the return of the call that waited. A pause of random length lets a waiter fall
        asleep, and meets one that asks now and then at any moment between."""
        samples = []
        path = self.fresh_path()
        with self.start(path) as holder, self.start(path) as waiter:
            for _ in range(20 if self.quick else 50):
                holder.ask("acquire")
                waiter.tell("acquire")
                time.sleep(random.uniform(0.02, 0.12))
                released = holder.ask("release")[0]
                samples.append((waiter.expect(PATIENCE_S)[0] - released) / 1000)
                waiter.ask("release")
                if sum(samples) > 10e6:
                    break
        return samples

    def take_over_us(self):
        """From the SIGKILL that ends the holder. Empty if nobody ever took over."""
        samples = []
        for _ in range(3 if self.quick else 7):
            path = self.fresh_path()
            with self.start(path) as holder, self.start(path) as waiter:
                holder.ask("acquire")
                waiter.tell("acquire")
                time.sleep(random.uniform(0.05, 0.15))
                killed = time.monotonic_ns()
                holder.end()
                got = waiter.hear(PATIENCE_S)
                if got is None:
                    return []
                samples.append((got[0] - killed) / 1000)
                if samples[-1] > 2e6:
                    break
        return samples

    def waiting_ms_per_s(self):
        """Processor time of one waiter, in each second that it waits."""
        path = self.fresh_path()
        with self.start(path) as holder, self.start(path) as waiter:
            holder.ask("acquire")
            waiter.tell("acquire")
            time.sleep(0.2)
            seconds = 2 if self.quick else 5
            before = waiter.cpu_ns()
            time.sleep(seconds)
            return [(waiter.cpu_ns() - before) / 1e6 / seconds]

    def dead_lock(self):
        """What a killed owner leaves at its lock path; None if nothing."""
        path = self.fresh_path()
        lock = pathlib.Path(f"{path}.lock")
        with self.start(path) as victim:
            victim.ask("acquire")
            victim.end()
        if not self.peer.writes_record or not lock.exists():
            return None
        return lock

    def plant(self, dead, lock, number):
        """Puts a copy of it where the contenders lock, as if another owner had just been killed; an hour old, for those whom
        only age convinces. Exclusively, as an owner would."""
        copy = lock.parent / f"plant.{number}"
        if dead.is_dir():
            shutil.copytree(dead, copy)
        else:
            shutil.copy(dead, copy)
        hour_ago = time.time() - 3600
        os.utime(copy, (hour_ago, hour_ago))
        planted = rename_no_replace(copy, lock)
        if not planted:
            shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
        return planted

    def overlaps(self):
        """(overlaps, cycles, planted) of contenders among whom dead locks are planted."""
        dead = self.dead_lock()
        path = self.fresh_path()
        lock, oracle = pathlib.Path(f"{path}.lock"), path.parent / "oracle"
        seconds = 3 if self.quick else 10
        contenders = [self.start(path) for _ in range(CONTENDERS)]
        planted = number = 0
        try:
            for contender in contenders:
                contender.tell(f"contend {seconds} {oracle}")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                if dead:
                    number += 1
                    planted += self.plant(dead, lock, number)
                time.sleep(0.002)
            # Whoever waits behind the last dead lock may wait for it to age, or for ever.
            heard = [contender.hear(max(0.1, end + PATIENCE_S - time.monotonic())) for contender in contenders]
        finally:
            for contender in contenders:
                contender.end()
        answered = [answer for answer in heard if answer]
        if not answered:
            return None, None, planted
        return sum(answer[1] for answer in answered), sum(answer[0] for answer in answered), planted


# --- the rows --------------------------------------------------------------------------------------------------------


def row(name, value, unit, peer):
    return {"name": f"peers/{name}/{peer}", "value": value, "unit": unit, "peer": peer}


def distribution(name, samples, unit, peer):
    ordered = sorted(samples)
    middle = statistics.median(ordered) if ordered else None
    worst = ordered[-1] if ordered else None
    return [row(name, middle, unit, peer), row(f"{name}.max", worst, unit, peer)]


def measure_uncontended(benches, quick):
    """All by turns, so that a noisy machine disturbs them alike."""
    rows = []
    processes = {bench.peer.name: bench.start(bench.fresh_path()) for bench in benches}
    try:
        per_round, times = {}, {name: [] for name in processes}
        for name, process in processes.items():
            process.ask("cycles 50")
            per_round[name] = max(10, min(2000, int(2e7 / (process.ask("cycles 20")[0] / 20))))
        for _ in range(7 if quick else 31):
            for name, process in processes.items():
                times[name].append(process.ask(f"cycles {per_round[name]}")[0] / per_round[name] / 1000)
    finally:
        for process in processes.values():
            process.end()
    for name, samples in times.items():
        low, middle, high = statistics.quantiles(samples, n=4)
        rows += [row("uncontended", middle, "us", name), row("uncontended.spread", 100 * (high - low) / middle, "%", name)]
    return rows


def measure(bench):
    name = bench.peer.name
    rows = distribution("handover.release", bench.hand_over_us(), "us", name)
    rows += distribution("handover.sigkill", bench.take_over_us(), "us", name)
    rows.append(row("waiting.cpu", bench.waiting_ms_per_s()[0], "ms/s", name))
    overlaps, cycles, planted = bench.overlaps()
    rows += [row("overlaps", overlaps, "", name), row("overlaps.cycles", cycles, "", name)]
    return [*rows, row("overlaps.planted", planted, "", name)]


class Places:
    def __init__(self, build, folder, scratch):
        self.build, self.folder, self.scratch = (pathlib.Path(path).resolve() for path in (build, folder, scratch))
        self.scratch.mkdir(parents=True, exist_ok=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("folder")
    parser.add_argument("scratch")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    places = Places(options.build, options.folder, options.scratch)
    rows, benches = [], []
    for peer in PEERS:
        if options.only and peer.name not in options.only or options.quick and not peer.quick and not options.only:
            continue
        try:
            benches.append(Bench(peer, peer.find(places), places, options.quick))
        except Absent as why:
            say(f"ABSENT: {peer.name}: {why}")
            rows.append(row("absent", None, "", peer.name))
    rows += measure_uncontended(benches, options.quick)
    for bench in benches:
        say(f"peer {bench.peer.name} …")
        try:
            rows += measure(bench)
        except (RuntimeError, OSError) as why:
            say(f"FAILED: {bench.peer.name}: {why}")
            rows.append(row("failed", None, "", bench.peer.name))
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
