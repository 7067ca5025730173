"""What the tests of the command share: the real binary, real processes, temporary folders.

A test file ends in `command.main()`; it is run as `FILE BUILD_FOLDER SOURCE_FOLDER`. Every wait is bounded by PATIENCE, far
longer than anything takes, so a hang becomes a failed test and speed never decides.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PATIENCE = 60
BINARY = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve() / "src/cli/sessionlock"
SOURCE = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ".").resolve()

DONE, FAILED, USAGE, BAD_DATA, NO_SUCH_FILE = 0, 1, 64, 65, 66
CANNOT_CREATE, IO_ERROR, LOCKED, NO_PERMISSION = 73, 74, 75, 77

# The highest pid a kernel gives out is 2^22 (proc(5)), so this one is never anybody's.
NOBODY = 2**22 + 1


# For scripts that `in_pid_namespace` runs.
PID_TOOLS = """
import subprocess

def start_time(pid):
    return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19])

def successor_of(process):
    '''Ends a child, and gives its pid to a process that started at another time.'''
    start = start_time(process.pid)
    process.kill()
    process.wait()
    while True:
        open("/proc/sys/kernel/ns_last_pid", "w").write(str(process.pid - 1))
        successor = subprocess.Popen(["sleep", "1000"])
        if successor.pid == process.pid and start_time(successor.pid) != start:
            return successor
        successor.kill()
        successor.wait()
"""


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("SESSIONLOCK_")}


def wait_until(what, condition):
    """Asks again and again until the condition is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.005)


def state_of(pid):
    """The state letter of a process; None if there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rsplit(")", 1)[1].split()[0]


def is_running(pid):
    return state_of(pid) not in (None, "Z", "X")


def children_of(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_time(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


class Case(unittest.TestCase):
    """A test with a folder of its own, whose processes end with it."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sessionlock-cli-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.session = self.folder / "s.jsonl"
        self.lock = self.folder / "s.jsonl.lock"
        self.environment = clean_environment()

    def skip_aloud(self, reason):
        print(f"SKIPPED: {reason}", flush=True)
        self.skipTest(reason)

    def command(self, *arguments):
        return [str(BINARY), *(str(argument) for argument in arguments)]

    def in_pid_namespace(self, script, *arguments):
        """Runs a Python script as pid 1 of a PID namespace, where it can choose pids and hits nobody else. Its output is JSON."""
        enter = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if subprocess.run([*enter, "sh", "-c", "echo 100 >/proc/sys/kernel/ns_last_pid"], capture_output=True).returncode != 0:
            self.skip_aloud("a PID namespace of one's own is not allowed here")
        done = subprocess.run([*enter, sys.executable, "-c", PID_TOOLS + script, *arguments], capture_output=True, text=True,
                              timeout=PATIENCE * 2, env=self.environment)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def run_command(self, *arguments, input="", **options):
        """Runs the command to its end, with text for standard input."""
        options = {"env": self.environment, "cwd": self.folder, "timeout": PATIENCE, **options}
        return subprocess.run(self.command(*arguments), input=input, text=True, capture_output=True, **options)

    def start(self, *arguments, **options):
        """Starts the command, in a process group of its own that is killed when the test ends."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = {"env": self.environment, "cwd": self.folder, "process_group": 0, **pipes, **options}
        process = subprocess.Popen(self.command(*arguments), **options)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    @staticmethod
    def open_files(process):
        folder = pathlib.Path(f"/proc/{process.pid}/fd")
        links = []
        for link in folder.iterdir():
            try:
                links.append(os.readlink(link))
            except FileNotFoundError:
                pass
        return links

    def finish(self, process, input=None):
        """Waits for a started command: exit status, output, diagnostics."""
        out, error = process.communicate(input, timeout=PATIENCE)
        return process.returncode, out.decode(), error.decode()

    def hold(self, session=None, *options, seconds=1000):
        """A `run` that holds the session's lock until it is ended."""
        session = session or self.session
        lock = pathlib.Path(f"{session}.lock")
        process = self.start("run", *options, session, "--", "sleep", seconds)
        wait_until("the lock is held", lambda: lock.exists() or process.poll() is not None)
        self.assertIsNone(process.poll(), "the holder has ended")
        return process

    def plant(self, session=None, **record):
        """Writes a lock file as another program would, with these fields."""
        path = pathlib.Path(f"{session or self.session}.lock")
        path.write_text(json.dumps(record))
        return path

    def plant_dead(self, session=None):
        path = self.plant(session, pid=NOBODY, createdAt="2026-01-01T00:00:00.000Z", starttime=1)
        self.make_old(path)
        return path

    def make_old(self, path, seconds=7200):
        when = time.time() - seconds
        os.utime(path, (when, when))

    def status(self, session=None):
        """The session's inspection, from `status --json`."""
        result = self.run_command("status", "--json", session or self.session)
        return json.loads(result.stdout)[0]

    def records(self, session=None):
        return [json.loads(line) for line in pathlib.Path(session or self.session).read_text().splitlines()]

    def assertStatus(self, result, status):
        self.assertEqual(result.returncode, status, f"standard error: {result.stderr!r}")

    def assertComplaint(self, result, status, *words):
        """It failed so, with exactly one line on standard error that has these words."""
        self.assertStatus(result, status)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertTrue(result.stderr.startswith("sessionlock: "), result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)


def main():
    # Who runs the tests in the background may ignore what a terminal sends, and everything started here would inherit that.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
