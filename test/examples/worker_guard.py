"""The worker start guard: a worker that runs at most once, whatever happened to the one before it."""

import json
import os
import signal
import socket
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
import example
from command import NOBODY


class WorkerGuard(example.Case):
    NAME = "worker_guard"

    def setUp(self):
        super().setUp()
        self.file = self.folder / "worker.pid"

    def record(self):
        return json.loads(self.file.read_text())

    def test_the_record_says_who_since_when_and_where_and_can_be_read_by_all(self):
        worker = self.running("start")
        record = self.record()
        self.assertEqual(list(record), ["pid", "startToken", "bootId", "pidNamespace", "timeNamespace", "witness", "port", "startedAt"])
        self.assertEqual((record["pid"], record["startToken"]), (worker.pid, str(command.start_time(worker.pid))))
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o644 & ~os.umask(os.umask(0)))
        socket.create_connection(("127.0.0.1", record["port"]), command.PATIENCE).close()
        worker.terminate()
        self.assertEqual(self.finish(worker)[0], 0)
        self.assertFalse(self.file.exists())

    def test_of_50_parallel_starts_one_survives_and_the_others_name_it(self):
        survivor, told = self.survivor_of(50, "start")
        self.assertEqual(told, {f"already running (pid {survivor.pid})\n"})
        self.assertEqual(self.record()["pid"], survivor.pid)

    def test_after_a_kill_the_next_start_takes_over_at_once_and_says_dead(self):
        worker = self.running("start")
        worker.kill()
        worker.wait()
        self.assertEqual(self.run_command("status").returncode, 1)
        successor = self.running("start")
        self.assertEqual(successor.stderr.readline().decode(), f"Stale: pid {worker.pid} is dead.\n")
        self.assertEqual(self.record()["pid"], successor.pid)

    def test_after_a_restart_in_which_the_pid_went_to_another_process_it_starts_and_says_reused(self):
        told = self.in_pid_namespace(
            """
import json, sys
start, file = sys.argv[1:-1], sys.argv[-1]
worker = subprocess.Popen(start, stdout=subprocess.PIPE)
worker.stdout.readline()
record = open(file).read()
stranger = successor_of(worker)
successor = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
print(json.dumps({"old": json.loads(record)["pid"], "started": successor.stdout.readline(), "said": successor.stderr.readline(),
                  "new": json.load(open(file))["pid"], "successor": successor.pid, "stranger lives": stranger.poll() is None}))
successor.kill()
stranger.kill()
""",
            *self.command("start"), self.file,
        )
        self.assertEqual(told["said"], f"Stale: pid {told['old']} was reused by a process that started at another time.\n")
        self.assertEqual((told["started"], told["new"], told["stranger lives"]), ("started\n", told["successor"], True))

    def test_a_record_without_a_token_is_judged_by_liveness_alone(self):
        self.file.write_text(json.dumps({"pid": self.idler().pid, "port": 1}))
        self.assertEqual(self.run_command("status").returncode, 0)
        self.assertIn("already running", self.run_command("start").stderr)
        self.file.write_text(json.dumps({"pid": NOBODY, "port": 1}))
        self.assertEqual(self.run_command("status").returncode, 1)
        self.running("start")

    def test_missing_alive_stale_and_invalid_are_told_apart_and_only_what_is_nobodys_is_removed(self):
        alive = self.idler()
        for record, words, removed in (
            (None, "There is no PID file", False),
            (json.dumps({"pid": alive.pid, "startToken": str(command.start_time(alive.pid))}), "Running", False),
            (json.dumps({"pid": NOBODY}), "Stale", True),
            (json.dumps({"pid": alive.pid, "startToken": "x"}), "Invalid", False),
        ):
            if record:
                self.file.write_text(record)
            self.assertIn(words, self.run_command("status").stderr)
            self.run_command("clean")
            self.assertEqual(self.file.exists(), bool(record) and not removed, words)
            self.file.unlink(missing_ok=True)

    def test_fields_that_it_does_not_know_are_told_verbatim(self):
        fields = '"port": 4711.0, "note": {"pid": [1, "}"]}'
        self.file.write_text(f'{{"pid": {NOBODY}, {fields}}}')
        self.assertEqual(self.run_command("status").stdout, f'{{"pid": {NOBODY}, {fields}}}\n')


if __name__ == "__main__":
    command.main()
