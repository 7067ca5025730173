"""The story that scripts/demo tells, with real processes. Usage: demo_story.py SESSIONLOCK_BINARY

Writers append records {"writer": NAME, "n": 1, 2, 3 ...} to one transcript while others are killed, stopped, or leave a lock
whose pid is somebody else's by now. At the end the transcript is read without any help of sessionlock: every writer's
numbers must be there once and in order. Exit status 1 if they are not.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

PATIENCE = 100  # seconds; a bound against hanging
BURST = 4  # records that a busy writer sends at a time
PACE = 0.01  # seconds between two bursts
RECORDS_MIN = 1000  # of each busy writer
TURN = 20  # records that each writes before, in one turn

BINARY = str(pathlib.Path(sys.argv[1]).resolve()) if len(sys.argv) == 2 else None
COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
WIDTH = min(shutil.get_terminal_size((110, 24)).columns, 110)
STARTED = time.monotonic()


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURED else text


class Stage:
    """Where everybody speaks, one at a time."""

    def __init__(self):
        self.lock = threading.Lock()

    def write(self, text):
        with self.lock:
            try:
                print(text, flush=True)
            except BrokenPipeError:  # Whoever looked on has gone, as `head` does.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def heading(self, text):
        self.write("\n" + paint("1", text))

    def tell(self, text):
        self.write(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  "))

    def quote(self, name, text):
        """Words of the program itself."""
        margin = f"{time.monotonic() - STARTED:7.2f}s  {name:<6} "
        body = textwrap.fill(text, max(WIDTH - len(margin), 40), break_long_words=False, break_on_hyphens=False)
        lines = [paint("36", margin) + "| " + line if i == 0 else " " * len(margin) + "| " + line for i, line in enumerate(body.splitlines())]
        self.write("\n".join(lines))


stage = Stage()


def wait_until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(0.01)


class Folder:
    """Where the transcript lies, and what sessionlock puts beside it."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="sessionlock-demo."))
        self.transcript = self.path / "story.jsonl"
        self.lock = self.path / "story.jsonl.lock"
        self.torn = self.path / "story.jsonl.torn"

    def count_lines(self):
        return self.transcript.read_bytes().count(b"\n") if self.transcript.exists() else 0


folder = Folder()
waits = {}  # (who, for whom) -> how often
explained = set()  # the holders that somebody's wait was explained by
takeovers = []  # who took a dead owner's lock over
processes = []


def start(arguments, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SESSIONLOCK_")}
    process = subprocess.Popen(
        [BINARY, *arguments], text=True, stderr=subprocess.PIPE, env=environment, process_group=0, **options
    )
    processes.append(process)
    return process


def end_all():
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def listen(name, stream):
    """Passes on what a writer's --verbose says. Of one's waits for the same holder only the first is shown, and what it says
    of a holder only once; the rest is counted."""
    for line in stream:
        words = line.strip().removeprefix("sessionlock: ").replace(str(folder.path) + "/", "")
        if words.startswith("took over"):
            takeovers.append(name)
        holder = re.search(r'\(waiting\).* label="([^"]*)"', words)
        if holder:
            pair = (name, holder.group(1))
            waits[pair] = waits.get(pair, 0) + 1
            if waits[pair] > 1:
                continue
        explanation = re.match(r'Held by pid .* \(label "([^"]*)"\)', words)
        if explanation:
            if explanation.group(1) in explained:
                continue
            explained.add(explanation.group(1))
        if words.startswith("acquired after") or "(still waiting" in words:
            continue
        stage.quote(name, words)


class BusyWriter:
    """Appends small bursts of records until it is told to finish, through one `sessionlock append`."""

    def __init__(self, name):
        self.name = name
        self.sent = TURN
        self.active = threading.Event()
        self.finishing = threading.Event()
        self.idle = threading.Event()
        arguments = ["append", "--verbose", "--label", name, str(folder.transcript)]
        self.process = start(arguments, stdin=subprocess.PIPE)
        self.feeder = threading.Thread(target=self.feed, daemon=True)
        self.listener = threading.Thread(target=listen, args=(name, self.process.stderr), daemon=True)
        self.active.set()
        self.feeder.start()
        self.listener.start()

    def feed(self):
        with contextlib.suppress(BrokenPipeError):  # Why the program has ended, `finish` will see.
            self.feed_until_told()

    def feed_until_told(self):
        while not self.finishing.is_set() or self.sent < RECORDS_MIN:
            if not self.active.is_set():
                self.idle.set()
                self.active.wait()
                self.idle.clear()
            first = self.sent + 1
            records = [json.dumps({"writer": self.name, "n": n}) + "\n" for n in range(first, first + BURST)]
            self.process.stdin.write("".join(records))
            self.process.stdin.flush()
            self.sent += BURST
            time.sleep(PACE)
        self.process.stdin.close()

    def finish(self):
        self.active.set()
        self.finishing.set()
        self.feeder.join(PATIENCE)
        status = self.process.wait(PATIENCE)
        self.listener.join(PATIENCE)
        if status != 0:
            raise RuntimeError(f"{self.name} failed with exit status {status}")


def pause(writers, others):
    """Lets the busy writers rest, with everything appended that they sent."""
    for writer in writers:
        writer.active.clear()
    for writer in writers:
        writer.idle.wait(PATIENCE)
    wait_until("all is appended", lambda: folder.count_lines() == sum(writer.sent for writer in writers) + others)


def resume(writers):
    for writer in writers:
        writer.active.set()


def start_turn(name, script, *options):
    """A `run` that holds the lock for a while; listens to what it says."""
    arguments = ["run", "--verbose", "--label", name, *options, str(folder.transcript), "--", "sh", "-c", script]
    process = start(arguments, stdin=subprocess.DEVNULL)
    process.listener = threading.Thread(target=listen, args=(name, process.stderr), daemon=True)
    process.listener.start()
    return process


def end_turn(process, expected=0):
    """Waits until it has ended, and has said all it had to say."""
    status = process.wait(PATIENCE)
    process.listener.join(PATIENCE)
    if status != expected:
        raise RuntimeError(f"`{' '.join(process.args)}` ended with exit status {status}")


def own_records(name, first, last):
    """A shell script that appends records by itself, as a program does that runs under the lock."""
    record = f'\'{{"writer": "{name}", "n": %d}}\\n\' $n >> "$SESSIONLOCK_SESSION"'
    return f"n={first}; while [ $n -le {last} ]; do printf {record}; n=$((n+1)); done; "


def kill(process):
    """SIGKILL for the wrapper and the program under it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    # In a PID namespace of our own the orphans are ours. Unreaped, their process group would keep its number in use.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-process.pid, 0)


def status_words():
    result = subprocess.run([BINARY, "status", "--json", str(folder.transcript)], capture_output=True, text=True)
    return json.loads(result.stdout)[0]["explanation"].replace(str(folder.path) + "/", "")


def scene_killed():
    """bob dies in the middle of a record. Returns how many of his records count."""
    stage.heading("2. A writer is killed in the middle of a record")
    stage.tell("bob writes 25 records under `sessionlock run`, begins the next, and gets SIGKILL. The others are waiting.")
    torn = "printf '{\"writer\": \"bob\", \"n\"' >> \"$SESSIONLOCK_SESSION\"; touch \"$SESSIONLOCK_SESSION.now\"; sleep 1000"
    bob = start_turn("bob", own_records("bob", 1, 25) + torn)
    wait_until("bob is in the middle of a record", (folder.path / "story.jsonl.now").exists)
    wait_until("somebody waits for bob", lambda: any(pair[1] == "bob" for pair in waits))
    stage.tell(f"kill -9 {bob.pid}, and the program that it runs:")
    kill(bob)
    wait_until("the torn record is out of the way", lambda: takeovers and folder.torn.exists())
    time.sleep(0.1)  # lets them say so first
    stage.tell("bob comes back, sees that 25 of his records are there, and goes on with number 26.")
    end_turn(start_turn("bob", own_records("bob", 26, 50)))
    return 50


def take_pid(pid):
    """Starts processes until one has this pid. None if the kernel does not let us choose."""
    for _ in range(200):
        try:
            pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            return None
        stranger = subprocess.Popen(["sleep", "1000"], process_group=0)
        processes.append(stranger)
        if stranger.pid == pid:
            return stranger
        stranger.kill()
        stranger.wait()
    return None


def leave_mismatching_lock():
    """A lock of this very process' pid, with a start time that is not ours: what a recycled pid looks like."""
    folder.lock.write_text(
        json.dumps({"pid": os.getpid(), "createdAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "starttime": 1})
    )


def scene_recycled(writers, others):
    """A dead owner's pid belongs to somebody else by now. Returns how many of dora's records count."""
    stage.heading("3. A lock is left behind, and its pid is given to somebody else")
    pause(writers, others)
    records = 10
    dora = start_turn("dora", own_records("dora", 1, records) + 'touch "$SESSIONLOCK_SESSION.dora"; sleep 1000')
    wait_until("dora has written", (folder.path / "story.jsonl.dora").exists)
    kill(dora)
    # Her program has the lock, too, until the kernel has done away with it.
    wait_until("nothing of dora is left", lambda: subprocess.run([BINARY, "status", folder.transcript], capture_output=True).returncode == 0)
    stranger = take_pid(dora.pid) if os.environ.get("SESSIONLOCK_DEMO_NAMESPACE") else None
    if stranger:
        stage.tell(
            f"dora held the lock as pid {dora.pid} and was killed. Now the kernel has given pid {dora.pid} to a `sleep` "
            "that has nothing to do with it: kill(pid, 0) says that the owner lives. sessionlock says:"
        )
    else:
        stage.tell(
            "This machine does not let us choose the next pid, so a recycled one is shown by a lock that names a living "
            "process (this script) with a start time that is not its own. sessionlock says:"
        )
        leave_mismatching_lock()
    stage.quote("status", status_words())
    stage.tell("The others go on writing; whoever comes first takes it over, without waiting:")
    before = len(takeovers)
    resume(writers)
    wait_until("the lock is taken over", lambda: len(takeovers) > before)
    if stranger:
        stranger.kill()
        stranger.wait()
    return records


def scene_stopped():
    """A stopped owner keeps its lock. Returns how many records of eve and frank count."""
    stage.heading("4. A writer is stopped while it holds the lock")
    eve = start_turn("eve", own_records("eve", 1, 20) + 'touch "$SESSIONLOCK_SESSION.eve"; sleep 0.3; ' + own_records("eve", 21, 40))
    wait_until("eve writes", (folder.path / "story.jsonl.eve").exists)
    os.killpg(eve.pid, signal.SIGSTOP)
    stage.tell(f"kill -STOP {eve.pid}: eve is in the middle of her turn and cannot go on. frank wants to write, and has half a second:")
    end_turn(start_turn("frank", own_records("frank", 1, 10), "--timeout", "500ms"), expected=75)
    stage.tell("Exit status 75: eve is alive, so her lock is hers, however long it takes. kill -CONT, and everybody goes on:")
    frank = start_turn("frank", own_records("frank", 1, 10))
    os.killpg(eve.pid, signal.SIGCONT)
    end_turn(eve)
    end_turn(frank)
    return 40, 10


def check(expected):
    """Reads the transcript with nothing but Python's JSON. Returns whether all is as it should be."""
    stage.heading("5. The count")
    found, unreadable = {}, 0
    for line in folder.transcript.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
            found.setdefault(record["writer"], []).append(record["n"])
        except (ValueError, KeyError, TypeError):
            unreadable += 1
    if not folder.transcript.read_bytes().endswith(b"\n"):
        unreadable += 1
    lost = doubled = misplaced = 0
    stage.write(f"  {'writer':<8}{'wrote':>7}{'found':>7}{'lost':>6}{'doubled':>9}")
    for name, count in expected.items():
        numbers = found.pop(name, [])
        missing = len(set(range(1, count + 1)) - set(numbers))
        twice = len(numbers) - len(set(numbers))
        lost, doubled = lost + missing, doubled + twice
        misplaced += numbers != sorted(numbers) or any(n < 1 or n > count for n in numbers)
        stage.write(f"  {name:<8}{count:>7}{len(numbers):>7}{missing:>6}{twice:>9}")
    strangers = sum(len(numbers) for numbers in found.values())
    leftover = folder.lock.exists()
    total = sum(expected.values())
    good = not (lost or doubled or unreadable or misplaced or strangers or leftover)
    if leftover:
        stage.tell("A lock was left behind.")
    if misplaced or strangers:
        stage.tell("Records are out of order, or are nobody's.")
    verdict = f"{total} records by {len(expected)} writers: {lost} lost, {unreadable} torn, {doubled} doubled"
    stage.write("\n" + paint("32;1" if good else "31;1", ("OK: " if good else "FAILED: ") + verdict))
    return good


def tell_waits():
    pairs = sorted(waits.items(), key=lambda item: -item[1])
    text = ", ".join(f"{who} for {whom} {times} times" if times > 1 else f"{who} for {whom} once" for (who, whom), times in pairs)
    stage.tell(f"Who waited for whom: {text}.")


def story():
    stage.heading("1. Three writers share one transcript")
    stage.tell(
        f"anna, ben and carol all want to write {folder.transcript} now, {TURN} records each, under `sessionlock run`. "
        "What the program says is quoted at the right."
    )
    names = ("anna", "ben", "carol")
    for turn in [start_turn(name, own_records(name, 1, TURN) + "sleep 0.2") for name in names]:
        end_turn(turn)
    stage.tell(
        "Now they go on, all three at once and a few records at a time, each through its own `sessionlock append`. From here on "
        "only the first of many waits for the same holder is shown, and each holder is explained once."
    )
    writers = [BusyWriter(name) for name in names]
    wait_until("they have got going", lambda: all(writer.sent >= 200 for writer in writers))
    others = {"bob": scene_killed()}
    others["dora"] = scene_recycled(writers, sum(others.values()))
    others["eve"], others["frank"] = scene_stopped()
    for writer in writers:
        writer.finish()
    tell_waits()
    stage.tell(f"The record that bob did not finish was moved aside: {folder.torn.name} has {folder.torn.read_text()!r}.")
    return check({**{writer.name: writer.sent for writer in writers}, **others})


def main():
    if BINARY is None:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return 0 if story() else 1
    except (RuntimeError, TimeoutError, OSError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        end_all()
        shutil.rmtree(folder.path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
