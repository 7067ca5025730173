"""Daemon claim and stopping sentinel: one daemon, never a stolen claim, and no start while it is being stopped."""

import contextlib
import fcntl
import os
import re
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
import example
from command import NOBODY, wait_until


class Daemon(example.Case):
    NAME = "daemon_claim"

    def setUp(self):
        super().setUp()
        self.file, self.port, self.stopping = (self.folder / name for name in ("serve.pid", "serve.port", "stopping"))

    def set_stopping(self, seconds=30):
        self.stopping.write_text(str(int((time.time() + seconds) * 1000)))

    def owner(self):
        return int(re.fullmatch(r"(\d+):\d+\n", self.file.read_text()).group(1))


class Claim(Daemon):
    def test_of_50_parallel_starts_one_survives_and_the_losers_name_it_and_exit_with_0(self):
        for planted in (None, f"{NOBODY}:1\n"):
            if planted:
                self.file.write_text(planted)
            survivor, told = self.survivor_of(50, "start")
            self.assertEqual(told, {f"already running (pid {survivor.pid})\n"})
            self.assertEqual(self.owner(), survivor.pid)
            survivor.kill()
            survivor.wait()

    def test_a_claim_in_progress_of_another_program_is_not_stolen_and_ends_in_a_clear_error(self):
        self.file.touch()
        result = self.run_command("start")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("the file is empty. It may be a claim in progress, and is taken over once it is 30s old", result.stderr)
        self.assertEqual(self.file.read_text(), "")

    def test_a_killed_daemons_files_are_replaced_at_once(self):
        daemon = self.running("start")
        daemon.kill()
        daemon.wait()
        self.port.write_text("1\n")  # nobody's
        successor = self.running("start")
        self.assertEqual(self.owner(), successor.pid)
        socket.create_connection(("127.0.0.1", int(self.port.read_text())), command.PATIENCE).close()
        successor.terminate()
        self.assertEqual(self.finish(successor)[0], 0)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_loser_leaves_the_port_file_alone(self):
        self.running("start")
        before = self.port.read_text()
        self.assertStatus(self.run_command("start"), 0)
        self.assertEqual(self.port.read_text(), before)

    def test_a_legacy_record_is_trusted_or_gives_way_on_an_upgrade(self):
        stranger = self.idler()
        for text in (f"{stranger.pid}\n", f"{stranger.pid}:unknown\n"):
            self.file.write_text(text)
            self.assertIn(f"already running (pid {stranger.pid})", self.run_command("start").stderr)
            self.assertEqual(self.file.read_text(), text)
        daemon = self.running("start", "upgrade")
        self.assertEqual(self.owner(), daemon.pid)
        self.assertIsNone(stranger.poll())


class Stopping(Daemon):
    def test_an_automatic_start_that_finds_it_active_returns_at_once_and_writes_no_pid_file(self):
        self.set_stopping()
        result = self.run_command("start", "auto")
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        self.assertIn("a stop is under way", result.stderr)
        self.assertEqual(list(self.folder.iterdir()), [self.stopping])
        # Nor is there one for a moment: here any attempt to claim would fail.
        self.file.mkdir()
        self.assertStatus(self.run_command("start", "auto"), 0)
        self.stopping.unlink()
        self.assertStatus(self.run_command("start", "auto"), 1)

    def test_an_automatic_start_gives_its_claim_up_when_a_stop_has_begun_meanwhile(self):
        def begins_meanwhile():
            """A stop begins while the start waits for somebody who is about to remove a dead daemon's file."""
            self.stopping.unlink(missing_ok=True)
            self.file.write_text(f"{NOBODY}:1\n")
            self.port.write_text("1\n")
            with open(self.file) as busy:
                fcntl.flock(busy, fcntl.LOCK_EX)
                start = self.start("start", "auto")
                wait_until("it is at the file", lambda: self.is_at_file(start) or start.poll() is not None)
                self.set_stopping()
            self.assertEqual(start.stdout.readline(), b"")
            return self.finish(start) == (0, "", "not started: a stop is under way\n") and not self.port.exists()

        wait_until("a stop has begun between look and claim", begins_meanwhile)
        self.assertEqual(list(self.folder.iterdir()), [self.stopping])

    def is_at_file(self, process):
        for _ in range(1000):  # it looks now and then
            with contextlib.suppress(OSError):
                numbers = os.listdir(f"/proc/{process.pid}/fd")
                if str(self.file) in {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in numbers}:
                    return True
        return False

    def test_one_that_is_expired_corrupt_or_empty_is_removed_and_keeps_nobody_from_starting(self):
        for text in (str(int(time.time() * 1000) - 60_000), "12 34", "", "soon"):
            self.stopping.write_text(text)
            daemon = self.running("start", "auto")
            self.assertEqual(self.stopping.exists(), text == "soon", "what is no sentinel is left alone")
            daemon.terminate()
            self.finish(daemon)

    def test_it_is_set_before_the_stop_and_cleared_only_after_the_pid_file_is_gone(self):
        daemon = self.running("start")
        daemon.send_signal(signal.SIGSTOP)  # so that the stop takes as long as we like
        stop = self.start("stop")
        wait_until("the stop is under way", self.stopping.exists)
        self.assertEqual(self.owner(), daemon.pid)
        result = self.run_command("start", "auto")
        self.assertIn("a stop is under way", result.stderr)
        self.assertEqual(self.owner(), daemon.pid)
        daemon.send_signal(signal.SIGCONT)
        wait_until("it is cleared", lambda: not self.stopping.exists())
        self.assertFalse(self.file.exists())
        self.assertEqual(self.finish(stop)[0], 0)
        self.assertEqual(self.finish(daemon)[0], 0)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_stop_that_fails_leaves_it_to_expire(self):
        self.file.write_text(f"{self.idler().pid}:x")  # nobody that could be signalled, or whose file could be removed
        result = self.run_command("stop")
        self.assertEqual(result.returncode, 1)
        self.assertTrue(self.stopping.exists() and self.file.exists())

    def test_a_stop_hits_no_process_that_was_given_the_pid(self):
        stranger = self.idler()
        self.file.write_text(f"{stranger.pid}:{command.start_time(stranger.pid) + 1}\n")
        result = self.run_command("stop")
        self.assertEqual((result.returncode, result.stderr), (0, "recycled\n"))
        self.assertIsNone(stranger.poll())
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    command.main()
