"""`sessionlock gate`: of simultaneous callers one runs the command, the others wait for its end."""

import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import FAILED, IO_ERROR, LOCKED, USAGE, wait_until


class Case(command.Case):
    def setUp(self):
        super().setUp()
        self.gate = self.folder / "spawn.lock"

    def enter(self, *options, program=("cat",)):
        """A caller that is inside: its program runs until its input ends."""
        winner = self.start("gate", *options, self.gate, "--", *program)
        wait_until("the program runs", lambda: self.program_of(winner))
        return winner

    @staticmethod
    def program_of(process):
        children = command.children_of(process.pid)
        return children[0] if children else None

    def lose(self, *options):
        """A caller that waits for another, because it has found it inside."""
        loser = self.start("gate", *options, self.gate, "--", "touch", "ran-twice")
        # To have the file open is not enough: who finds it gone before it is judged is the next to enter.
        waits = lambda: any("inotify" in link for link in self.open_files(loser))
        wait_until("it waits", lambda: waits() or loser.poll() is not None)
        self.assertIsNone(loser.poll())
        return loser


class Gate(Case):
    def test_a_single_caller_runs_the_command_and_has_its_exit_status(self):
        result = self.run_command("gate", self.gate, "--", "sh", "-c", "ls; exit 3")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (3, "spawn.lock\n", ""))
        self.assertFalse(self.gate.exists())
        self.assertComplaint(self.run_command("gate", self.gate, "--", "no-such-command"), 127)
        self.assertFalse(self.gate.exists())

    def test_a_take_over_is_reported_and_the_command_is_given_the_former_owners_record(self):
        self.plant_dead(self.gate.with_suffix(""))
        result = self.run_command("gate", self.gate, "--", "sh", "-c", 'echo "$SESSIONLOCK_RECLAIMED_FROM"')
        self.assertComplaint(result, 0, "took over", str(command.NOBODY))
        self.assertEqual(json.loads(result.stdout)["pid"], command.NOBODY)

    def test_of_simultaneous_callers_one_runs_and_the_others_wait_until_it_is_done_and_say_so(self):
        winner = self.enter()
        losers = [self.lose() for _ in range(5)]
        self.assertTrue(all(loser.poll() is None for loser in losers))
        self.assertEqual(self.finish(winner, b"out")[:2], (0, "out"))
        for loser in losers:
            status, out, error = self.finish(loser)
            self.assertEqual((status, out), (0, ""))
            self.assertEqual(error, f"sessionlock: not run: pid {winner.pid} was at it already, and is done or dead\n")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_others_wait_no_longer_than_it_lives_and_the_next_caller_takes_over(self):
        winner = self.enter()
        loser = self.lose()
        os.killpg(winner.pid, signal.SIGKILL)
        self.assertEqual(self.finish(loser)[0], 0)
        self.assertFalse((self.folder / "ran-twice").exists())
        self.assertEqual(self.run_command("gate", self.gate, "--", "echo", "ran").stdout, "ran\n")

    def test_a_command_whose_wrapper_was_killed_is_still_waited_for(self):
        winner = self.enter()
        program = self.program_of(winner)
        loser = self.lose()
        winner.kill()
        winner.wait()
        self.assertStatus(self.run_command("gate", "--timeout", "50ms", self.gate, "--", "true"), LOCKED)
        self.assertIsNone(loser.poll())
        os.kill(program, signal.SIGKILL)
        self.assertEqual(self.finish(loser)[0], 0)

    def test_a_wait_that_runs_out_names_who_is_at_it(self):
        winner = self.enter()
        result = self.run_command("gate", "--timeout", "50ms", self.gate, "--", "echo", "ran")
        self.assertComplaint(result, LOCKED, "timeout 50ms", f"pid={winner.pid}")
        self.assertEqual(result.stdout, "")

    def test_a_gate_that_is_too_old_is_taken_over_and_its_former_owner_says_so(self):
        winner = self.enter()
        self.make_old(self.gate, 3600)
        patient = self.run_command("gate", "--stale-after", "inf", "--timeout", "50ms", self.gate, "--", "true")
        self.assertComplaint(patient, LOCKED)
        self.assertStatus(self.run_command("gate", "--stale-after", "2h", "--timeout", "0", self.gate, "--", "true"), LOCKED)
        self.assertEqual(self.run_command("gate", self.gate, "--", "echo", "ran").stdout, "ran\n")
        status, _, error = self.finish(winner, b"")
        self.assertEqual(status, FAILED)
        self.assertIn("no longer held", error)

    def test_its_file_tells_how_long_the_gate_is_respected(self):
        for stale_after, limit in {"90s": 90_000, "inf": 300_000}.items():
            result = self.run_command("gate", "--stale-after", stale_after, self.gate, "--", "cat", self.gate)
            self.assertEqual(json.loads(result.stdout)["maxHoldMs"], limit)

    def test_an_error_is_neither_and_runs_nothing(self):
        os.mkfifo(self.gate)
        result = self.run_command("gate", self.gate, "--", "echo", "ran")
        self.assertComplaint(result, IO_ERROR, "not a lock file")
        self.assertEqual(result.stdout, "")

    def test_the_command_line_must_be_complete(self):
        for arguments in ([], ["g"], ["g", "--"], ["--", "true"], ["--timeout", "x", "g", "--", "true"]):
            self.assertComplaint(self.run_command("gate", *arguments), USAGE)


class Signals(Case):
    def test_a_signal_reaches_the_command_and_the_gate_opens(self):
        winner = self.enter()
        winner.terminate()
        winner.wait(command.PATIENCE)  # before its input ends, which would end the program as well
        self.assertEqual(self.finish(winner)[0], 128 + signal.SIGTERM)
        self.assertFalse(self.gate.exists())

    def test_a_signal_while_it_waits_ends_it_by_that_signal(self):
        winner = self.enter()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loser = self.lose("--timeout", "inf")
            loser.send_signal(number)
            self.assertEqual(self.finish(loser)[0], -number)
        self.assertIsNone(winner.poll())


if __name__ == "__main__":
    command.main()
