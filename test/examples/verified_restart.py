"""Spawn gate and verified restart: one worker is started for all who want it, and a restart is believed only when it is seen."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
import example
from command import wait_until

SYS_PIDFD_GETFD = 438


class VerifiedRestart(example.Case):
    NAME = "verified_restart"

    def setUp(self):
        super().setUp()
        self.file = self.folder / "worker.pid"
        self.set_version("1.0")
        self.addCleanup(self.end_workers)

    def set_version(self, version):
        (self.folder / "version").write_text(version)

    def workers(self):
        """Pids of the workers of this test that run."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if os.fsencode(self.folder) in words and b"serve" in words and command.is_running(int(entry.name)):
                found.append(int(entry.name))
        return found

    def end_workers(self):
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)

    def worker(self):
        return json.loads(self.file.read_text())

    def restart(self, version, previous):
        result = self.run_command("restart", version)
        self.assertEqual((result.returncode, result.stdout), (0, ""), result.stderr)
        self.assertEqual(result.stderr, f"restart verified (pid {self.worker()['pid']}, version {version})\n")
        self.assertNotEqual(self.worker()["pid"], previous["pid"])

    def test_callers_at_the_same_time_get_one_worker_and_all_exit_with_0(self):
        callers = [self.start("start") for _ in range(10)]
        for caller in callers:
            status, out, error = self.finish(caller)
            self.assertEqual((status, out), (0, ""), error)
        self.assertEqual(self.workers(), [self.worker()["pid"]])

    def test_who_finds_another_caller_inside_waits_for_it_and_starts_nothing(self):
        gate = self.folder / "spawn.lock"

        def was_found_inside():
            self.end_workers()
            wait_until("there is no worker", lambda: not self.workers())
            first = self.start("start")
            wait_until("it is inside", lambda: gate.exists() or first.poll() is not None)
            first.send_signal(signal.SIGSTOP)
            second = self.start("start")
            wait_until("it waits", lambda: second.poll() is not None or self.is_waiting(second))
            first.send_signal(signal.SIGCONT)
            self.assertEqual(self.finish(first)[:2], (0, ""))
            status, out, error = self.finish(second)
            self.assertEqual((status, out), (0, ""), error)
            return error == "started by another caller\n"

        wait_until("one caller found another inside", was_found_inside)
        self.assertEqual(self.workers(), [self.worker()["pid"]])

    @staticmethod
    def is_waiting(process):
        with contextlib.suppress(OSError):
            links = [os.readlink(link) for link in pathlib.Path(f"/proc/{process.pid}/fd").iterdir()]
            return any("inotify" in link for link in links)
        return False

    def test_a_duplicate_start_exits_with_0_and_says_so_on_standard_error(self):
        self.assertStatus(self.run_command("start"), 0)
        again = self.run_command("start")
        self.assertEqual((again.returncode, again.stdout), (0, ""))
        self.assertEqual(again.stderr, f"already running (pid {self.worker()['pid']})\n")
        directly = self.run_command("serve", 0)  # a worker that nobody's gate has stopped
        self.assertEqual((directly.returncode, directly.stderr), (0, again.stderr))

    def test_a_caller_who_cannot_have_the_gate_goes_on_without_it(self):
        os.mkfifo(self.folder / "spawn.lock")
        result = self.run_command("start")
        self.assertEqual(result.returncode, 0)
        self.assertIn("without a gate", result.stderr)

    def test_a_gate_of_a_caller_that_was_killed_is_passed(self):
        # Whoever has the gate waits for a worker that cannot tell that it is there.
        (self.folder / "worker.pid").touch()
        caller = self.start("start")
        wait_until("it is inside", (self.folder / "spawn.lock").exists)
        wait_until("its worker runs", self.workers)  # a child that is not yet a program of its own has the gate, too
        caller.kill()
        caller.wait()
        self.end_workers()
        wait_until("its worker has ended", lambda: not self.workers())
        self.file.unlink()
        self.assertStatus(self.run_command("start"), 0)
        wait_until("there is one worker", lambda: self.workers() == [self.worker()["pid"]])

    def test_a_worker_that_was_killed_is_replaced_at_once(self):
        self.assertStatus(self.run_command("start"), 0)
        killed = self.worker()["pid"]
        os.kill(killed, signal.SIGKILL)
        wait_until("it is dead", lambda: not command.is_running(killed))
        self.assertIn("started (pid ", self.run_command("start").stderr)
        self.assertEqual(self.workers(), [self.worker()["pid"]])

    def test_three_restarts_in_a_row_leave_one_worker_each_verified_in_one_line(self):
        self.assertStatus(self.run_command("start"), 0)
        for version in ("1.1", "1.2", "1.3"):
            previous = self.worker()
            self.set_version(version)
            self.restart(version, previous)
            self.assertEqual(self.worker()["port"], previous["port"])
        wait_until("the former workers have ended", lambda: self.workers() == [self.worker()["pid"]])

    def test_a_restart_that_brings_back_the_old_version_fails(self):
        self.assertStatus(self.run_command("start"), 0)
        result = self.run_command("restart", "2.0")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "restarted, but with version 1.0 instead of 2.0\n")

    def test_a_worker_that_says_yes_and_goes_on_is_no_restart(self):
        # The test plays it, with the version that is wanted, and after a while another process instead.
        pids = [os.getpid(), self.idler().pid]
        asked = []

        def record():
            text = json.dumps({"pid": pids[0], "startToken": str(command.start_time(pids[0])), "port": port})
            (self.folder / "n").write_text(text)
            (self.folder / "n").rename(self.file)

        def serve():
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return  # the test is over
                with caller, caller.makefile("rw") as line:
                    asked.append(line.readline().strip())
                    line.write("yes\n" if asked[-1] == "restart" else f"{pids[0]} 1.1\n")
                if len(asked) == 6:
                    pids.pop(0)
                    record()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            record()
            server = threading.Thread(target=serve, daemon=True)
            server.start()
            result = self.run_command("restart", "1.1")
            listener.shutdown(socket.SHUT_RDWR)
            server.join(command.PATIENCE)
        self.assertEqual((result.returncode, result.stderr), (0, f"restart verified (pid {pids[-1]}, version 1.1)\n"))
        self.assertEqual(asked[:2], ["who", "restart"])

    def test_a_restart_without_a_worker_fails(self):
        result = self.run_command("restart", "1.0")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertEqual(len(result.stderr.splitlines()), 1)

    def test_a_failed_start_exits_with_1(self):
        self.file.mkdir()
        result = self.run_command("start")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("could not be started", result.stderr)
        self.assertEqual(self.workers(), [])
        self.assertFalse((self.folder / "spawn.lock").exists())

    def test_a_worker_whose_port_is_taken_does_not_start(self):
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            result = self.run_command("serve", stranger.getsockname()[1])
        self.assertEqual(result.returncode, 1)
        self.assertFalse(self.file.exists())

    def listener_of(self, pid, port):
        """A second descriptor of a worker's listening socket: as long as it is open, so is the port."""
        # proc_net_tcp: local address, state (0A listens) and inode; who asked the worker may still be connected to it.
        rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (inode,) = {row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
        numbers = []
        for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing's own, or a connection that has just ended
                if os.readlink(link) == f"socket:[{inode}]":
                    numbers.append(link.name)
        (number,) = numbers
        process = os.pidfd_open(pid)
        copy = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, process, int(number), 0)
        os.close(process)
        if copy < 0:
            self.skip_aloud(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
        return copy

    def test_a_dying_worker_starts_its_successor_only_after_its_port_is_free(self):
        self.assertStatus(self.run_command("start"), 0)
        previous = self.worker()
        port = self.listener_of(previous["pid"], previous["port"])
        self.set_version("1.1")
        restart = self.start("restart", "1.1")
        log = self.folder / "worker.log"
        wait_until("it waits", lambda: f"waiting for port {previous['port']}" in log.read_text())
        self.assertEqual(self.workers(), [previous["pid"]])
        self.assertEqual(self.worker(), previous)
        os.close(port)
        status, out, error = self.finish(restart)
        self.assertEqual((status, out), (0, ""))
        self.assertEqual(error, f"restart verified (pid {self.worker()['pid']}, version 1.1)\n")
        self.assertEqual(self.worker()["port"], previous["port"])


if __name__ == "__main__":
    command.main()
