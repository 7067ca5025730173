"""The engine's PID file: it outlives the engine, and its stop reaches the engine or nobody."""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
import example
from command import NOBODY

ALIVE, DEAD, CANNOT_TELL = 0, 1, 4
GONE, RECYCLED, REFUSED = 3, 1, 4


class Engine(example.Case):
    NAME = "engine_pid"

    def setUp(self):
        super().setUp()
        self.file = self.folder / "engine.pid"

    def engine_status(self):
        return self.run_command("status").returncode

    def test_its_file_says_pid_and_identity_and_is_kept_on_exit(self):
        engine = self.running("run")
        text = f"{engine.pid} {command.start_time(engine.pid)}\n"
        self.assertEqual((self.file.read_text(), self.engine_status()), (text, ALIVE))
        engine.terminate()
        self.assertEqual(self.finish(engine)[0], 0)
        self.assertEqual((self.file.read_text(), self.engine_status()), (text, DEAD))

    def test_after_a_kill_the_next_run_knows_that_it_was_interrupted(self):
        engine = self.running("run")
        engine.kill()
        engine.wait()
        self.assertEqual(self.engine_status(), DEAD)
        successor = self.running("run")
        self.assertIn(f"interrupted, or ended: Stale: pid {engine.pid} is dead", successor.stderr.readline().decode())
        self.assertEqual(self.engine_status(), ALIVE)

    def test_a_stop_ends_it_and_waits_for_its_end(self):
        engine = self.running("run")
        self.assertEqual((self.run_command("stop").stderr, self.engine_status()), ("signalled\n", DEAD))
        self.assertEqual(self.finish(engine)[0], 0)
        self.assertStatus(self.run_command("stop"), GONE)

    def test_who_does_not_end_in_time_is_verified_again_and_killed(self):
        engine = self.running("run")
        engine.send_signal(signal.SIGSTOP)
        self.assertStatus(self.run_command("stop"), 0)
        self.assertEqual(engine.wait(command.PATIENCE), -signal.SIGKILL)

    def test_a_stop_refuses_a_process_that_was_given_the_pid(self):
        told = self.in_pid_namespace(
            """
import json, sys
program, folder = sys.argv[1:]
engine = subprocess.Popen([program, folder, "run"], stdout=subprocess.PIPE)
engine.stdout.readline()
stranger = successor_of(engine)
stops = [subprocess.run([program, folder, "stop", *words], capture_output=True, text=True) for words in ([], ["unverified"])]
print(json.dumps({"stops": [(one.returncode, one.stderr) for one in stops], "stranger lives": stranger.poll() is None}))
stranger.kill()
""",
            *self.command(),
        )
        self.assertEqual(told, {"stops": [[RECYCLED, "recycled\n"]] * 2, "stranger lives": True})

    def test_a_corrupt_identity_fails_closed(self):
        stranger = self.idler()
        for identity in (":", " x", " -1", " 1.5", " 12 3"):
            self.file.write_text(f"{stranger.pid}{identity}")
            self.assertEqual(self.engine_status(), CANNOT_TELL)
            self.assertStatus(self.run_command("stop", "unverified"), CANNOT_TELL)
            self.assertStatus(self.run_command("run"), 1)
        self.assertIsNone(stranger.poll())

    def test_a_bare_pid_degrades_to_liveness_only_for_who_asks_for_it_by_name(self):
        old_engine = self.idler()
        self.file.write_text(f"{old_engine.pid}\n")
        self.assertEqual(self.engine_status(), ALIVE)
        self.assertEqual(self.run_command("stop").stderr, "unverifiable\n")
        self.assertIsNone(old_engine.poll())
        self.assertEqual(self.run_command("stop", "unverified").stderr, "signalled\n")
        self.assertEqual(old_engine.wait(command.PATIENCE), -signal.SIGTERM)

    def test_nobody_pid_1_and_the_leader_of_its_own_group_are_refused(self):
        told = self.in_pid_namespace(
            """
import json, os, signal, sys
program, folder = sys.argv[1:]
got = []
signal.signal(signal.SIGTERM, lambda *what: got.append(what))
leader = subprocess.Popen(["sleep", "1000"], process_group=0)
statuses = {}
for text in ("0", "-1", "1", f"1 {start_time(1)}", str(leader.pid), f"{leader.pid} {start_time(leader.pid)}"):
    open(folder + "/engine.pid", "w").write(text)
    member = subprocess.run([program, folder, "stop", "unverified"], process_group=leader.pid, capture_output=True, text=True)
    statuses[text] = member.returncode
print(json.dumps({"statuses": statuses, "got": got, "leader lives": leader.poll() is None}))
leader.kill()
""",
            *self.command(),
        )
        self.assertEqual((set(told["statuses"].values()), told["got"], told["leader lives"]), ({REFUSED}, [], True), told)


if __name__ == "__main__":
    command.main()
