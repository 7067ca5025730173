"""`sessionlock pidfile`: claims for a program, questions, and signals to nobody but the process that was meant."""

import ctypes
import fcntl
import json
import os
import pathlib
import signal
import stat
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import FAILED, IO_ERROR, LOCKED, NOBODY, USAGE, wait_until

ALIVE, STALE, MISSING, CANNOT_TELL = 0, 1, 3, 4


def forbid_pidfds():
    """Lets pidfd_open(2) fail in this process and what it becomes, as on Linux before 5.3 (seccomp(2), ENOSYS)."""
    load_number, jump_if_equal, answer = 0x20, 0x15, 0x06
    pidfd_open, enosys, allow = 434, 0x00050000 | 38, 0x7FFF0000
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in ((load_number, 0, 0, 0), (jump_if_equal, 0, 1, pidfd_open), (answer, 0, 0, enosys), (answer, 0, 0, allow))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
    set_no_new_privs, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(set_no_new_privs, 1, 0, 0, 0) != 0 or libc.prctl(set_seccomp, mode_filter, filter, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "system calls cannot be filtered here")


class Case(command.Case):
    def setUp(self):
        super().setUp()
        self.file = self.folder / "d.pid"

    def pidfile(self, *arguments, **options):
        return self.run_command("pidfile", *arguments, **options)

    def idler(self, *command_line):
        process = subprocess.Popen(command_line or ["sleep", "1000"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def deaf(self):
        """A process that ignores SIGTERM."""
        process = subprocess.Popen(["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"], stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"up\n")
        return process

    def write(self, process, token=0):
        """A record of a process; one of another incarnation with a token that differs."""
        self.file.write_text(f"{process.pid}:{command.start_time(process.pid) + token}\n")

    def claimed(self, *options, program=("sleep", "1000")):
        """A claim whose program runs."""
        wrapper = self.start("pidfile", "claim", *options, self.file, "--", *program)
        wait_until("the program runs", lambda: self.program_of(wrapper) or wrapper.poll() is not None)
        self.assertIsNone(wrapper.poll(), "the claim has ended")
        return wrapper

    def program_of(self, wrapper):
        """The pid of the program that a claim runs, once it runs."""
        for child in children_of(wrapper.pid):
            name = pathlib.Path(f"/proc/{child}/exe")
            if os.readlink(name) != os.readlink(f"/proc/{wrapper.pid}/exe"):
                return child
        return None

    def state(self):
        return json.loads(self.pidfile("status", "--json", self.file).stdout)


def children_of(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Claim(Case):
    def test_the_file_is_complete_before_the_command_runs_and_names_it(self):
        script = "cat d.pid; echo $$ $(cut -d' ' -f22 /proc/$$/stat)"
        result = self.pidfile("claim", self.file, "--", "sh", "-c", script)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        record, names = result.stdout.splitlines()
        pid, start = names.split()
        record = json.loads(record)
        self.assertEqual((record.pop("pid"), record.pop("startToken")), (int(pid), start))
        self.assertEqual(record.pop("bootId"), pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        self.assertEqual(record.pop("pidNamespace"), os.stat("/proc/self/ns/pid").st_ino)
        self.assertEqual(record.pop("timeNamespace"), os.stat("/proc/self/ns/time").st_ino)
        self.assertRegex(record.pop("witness"), r"^ofd2?:\d+:\d+$")
        self.assertEqual(record, {})
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_every_form_is_written_and_mode_0644(self):
        forms = {
            "json": r'\{"pid": (\d+), "startToken": "\d+", "bootId": ".*\}\n',
            "colon": r"(\d+):\d+\n",
            "space": r"(\d+) \d+\n",
            "plain": r"(\d+)\n",
        }
        for form, text in forms.items():
            wrapper = self.claimed("--format", form)
            self.assertRegex(self.file.read_text(), f"^{text}$")
            self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o644 & ~os.umask(os.umask(0)))
            self.assertEqual(self.state()["pid"], self.program_of(wrapper))
            self.assertEqual(self.state()["unverified"], form == "plain")
            wrapper.terminate()
            self.assertEqual(self.finish(wrapper)[0], 128 + signal.SIGTERM)
            self.assertFalse(self.file.exists())

    def test_the_exit_status_is_the_commands_and_the_file_is_kept_on_request(self):
        self.assertEqual(self.pidfile("claim", self.file, "--", "sh", "-c", "exit 7").returncode, 7)
        self.assertFalse(self.file.exists())
        self.assertEqual(self.pidfile("claim", "--keep", self.file, "--", "sh", "-c", "kill -9 $$").returncode, 137)
        self.assertEqual(self.pidfile("status", self.file).returncode, STALE)

    def test_a_command_that_cannot_be_run_leaves_no_file(self):
        (self.folder / "text").write_text("no program")
        (self.folder / "text").chmod(0o755)
        for keep in ([], ["--keep"]):
            for program, status in {"no-such-command": 127, "./none": 127, "./text": 126, "/": 126, "": 127}.items():
                result = self.pidfile("claim", *keep, self.file, "--", program)
                self.assertComplaint(result, status, f"'{program}'")
                self.assertFalse(self.file.exists())

    def test_a_live_owner_is_named_and_the_command_is_not_run(self):
        owner = self.program_of(self.claimed())
        for options, status in {(): LOCKED, ("--ok-if-running",): 0}.items():
            result = self.pidfile("claim", *options, self.file, "--", "echo", "ran")
            self.assertComplaint(result, status, f"already running (pid {owner})")
            self.assertEqual(result.stdout, "")
        self.assertEqual(self.state()["pid"], owner)

    def test_of_many_at_once_one_runs_and_the_others_name_it(self):
        for planted in (None, f"{NOBODY}:1\n"):
            if planted:
                self.file.write_text(planted)
            claims = [self.start("pidfile", "claim", self.file, "--", "cat") for _ in range(12)]
            wait_until("one is left", lambda: sum(one.poll() is None for one in claims) == 1)
            (winner,) = (one for one in claims if one.poll() is None)
            wait_until("it runs", lambda: self.program_of(winner))
            owner = self.program_of(winner)
            self.assertEqual(self.state()["pid"], owner)
            for loser in claims:
                if loser is not winner:
                    status, _, error = self.finish(loser)
                    self.assertEqual((status, error), (LOCKED, f"sessionlock: already running (pid {owner})\n"))
            self.assertEqual(self.finish(winner, b"")[0], 0)
            self.assertFalse(self.file.exists())

    def test_a_command_that_is_held_back_can_be_ended_by_a_signal(self):
        def is_held_back():
            """Whether a wrapper could be stopped before it let its command go."""
            self.file.write_text(f"{NOBODY}:1\n")
            with open(self.file) as busy:
                fcntl.flock(busy, fcntl.LOCK_EX)
                wrapper = self.start("pidfile", "claim", self.file, "--", "sleep", "1000")
                wait_until("the child is there", lambda: children_of(wrapper.pid) or wrapper.poll() is not None)
                wrapper.send_signal(signal.SIGSTOP)
            children = children_of(wrapper.pid) if wrapper.poll() is None else []
            if children:
                os.kill(children[0], signal.SIGTERM)
                wait_until("it has ended", lambda: not command.is_running(children[0]))
                wrapper.send_signal(signal.SIGCONT)
            return bool(children)

        wait_until("a wrapper was stopped in time", is_held_back)

    def test_a_dead_owners_file_and_one_of_a_reused_pid_are_taken_over(self):
        stranger = self.idler()
        self.file.write_text(f"{NOBODY}\n")
        self.assertEqual(self.pidfile("claim", self.file, "--", "echo", "ran").stdout, "ran\n")
        self.write(stranger, token=1)
        self.assertEqual(self.pidfile("claim", self.file, "--", "echo", "ran").stdout, "ran\n")
        self.assertIsNone(stranger.poll())

    def test_a_corrupt_token_of_a_live_pid_is_not_taken_over_and_counts_as_nobodys_success(self):
        self.file.write_text(f"{self.idler().pid}:x\n")
        result = self.pidfile("claim", "--ok-if-running", self.file, "--", "echo", "ran")
        self.assertComplaint(result, LOCKED, "corrupt")
        self.assertEqual(result.stdout, "")

    def test_a_claim_in_progress_is_waited_for_and_then_reported_with_the_moment_when_it_will_be_taken_over(self):
        for text, words in {"": "the file is empty", '{"pid": 4': "the file was cut off"}.items():
            self.file.write_text(text)
            result = self.pidfile("claim", self.file, "--", "echo", "ran")
            self.assertComplaint(result, LOCKED, words, "claim in progress", "once it is 30s old, in 2")
            self.assertEqual((result.stdout, self.file.read_text()), ("", text))
            told = self.pidfile("status", self.file)
            self.assertEqual(told.returncode, CANNOT_TELL)
            self.assertIn(words, told.stdout)
            self.assertIn("once it is 30s old, in 2", told.stdout)

    def test_a_file_that_is_no_pid_file_is_named_and_left_alone(self):
        text = '{"event": "start"}\n'
        self.file.write_text(text)
        self.make_old(self.file)
        for arguments in (["claim", self.file, "--", "echo", "ran"], ["remove", self.file], ["remove", "--if-dead", self.file]):
            result = self.pidfile(*arguments)
            self.assertComplaint(result, IO_ERROR, str(self.file), "something else than a PID file")
            self.assertEqual((result.stdout, self.file.read_text()), ("", text))
        for action in ("status", "signal", "stop"):
            self.assertEqual(self.pidfile(action, self.file).returncode, CANNOT_TELL)
        self.assertEqual(self.file.read_text(), text)

    def test_a_living_process_keeps_its_file_whatever_stands_around_its_pid(self):
        process = self.idler()
        for text in (f"{process.pid}\n/var/lib/data\n5432\n", f"{process.pid:10}\n", f"{process.pid}\0", f'{{"pid":"{process.pid}"}}\n'):
            self.file.write_text(text)
            self.make_old(self.file)
            result = self.pidfile("claim", self.file, "--", "echo", "ran")
            self.assertComplaint(result, LOCKED, f"already running (pid {process.pid})")
            self.assertEqual((result.stdout, self.file.read_text()), ("", text))
            self.assertEqual(self.pidfile("status", self.file).returncode, ALIVE)

    def test_dependent_files_are_removed_after_the_claim_and_only_by_who_claims(self):
        ports = [self.folder / name for name in ("a.port", "[b,c]", "not-there")]
        options = [word for port in ports for word in ("--invalidate", port.name)]
        for port in ports[:2]:
            port.touch()
        self.write(self.idler())
        self.assertStatus(self.pidfile("claim", *options, self.file, "--", "true"), LOCKED)
        self.assertTrue(ports[0].exists() and ports[1].exists())
        self.file.unlink()
        self.assertEqual(self.pidfile("claim", *options, self.file, "--", "ls").stdout, "d.pid\n")

    def test_a_dependent_file_that_stays_ends_the_claim(self):
        (self.folder / "a.port").mkdir()
        result = self.pidfile("claim", "--invalidate", "a.port", self.file, "--", "echo", "ran")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("invalidate", result.stderr)
        self.assertEqual((result.stdout, self.file.exists()), ("", False))

    def test_a_file_that_the_command_has_written_anew_is_still_its_own(self):
        script = 'printf \'{"pid": %s, "startToken": "%s", "port": 4711}\' $$ $(cut -d" " -f22 /proc/$$/stat) >n; mv n d.pid'
        self.assertStatus(self.pidfile("claim", self.file, "--", "sh", "-c", script), 0)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_file_that_is_anothers_by_then_stays_and_is_reported(self):
        self.write(self.idler())
        self.file.rename(self.folder / "n")
        for script in ("mv n d.pid", "rm d.pid"):
            result = self.pidfile("claim", self.file, "--", "sh", "-c", script)
            self.assertStatus(result, 0)
            self.assertEqual(self.file.exists(), script == "mv n d.pid")
            self.assertEqual("stays" in result.stderr, script == "mv n d.pid")
            self.file.unlink(missing_ok=True)

    def test_a_daemon_that_goes_into_the_background_and_writes_its_pid_keeps_the_file(self):
        for write in ("echo $! >d.pid", "echo $! >n; mv n d.pid"):
            # The daemon closes the inherited kernel lock, as daemons do, so that only its pid is left.
            close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done"
            script = f"(exec </dev/null >/dev/null 2>&1; {close}; exec sleep 1000) & {write}; echo $!"
            result = self.pidfile("claim", self.file, "--", "bash", "-c", script)
            daemon = int(result.stdout)
            self.addCleanup(os.kill, daemon, signal.SIGKILL)
            self.assertStatus(result, 0)
            self.assertIn(f"{self.file} stays", result.stderr)
            self.assertEqual(self.file.read_text(), f"{daemon}\n")
            self.assertComplaint(self.pidfile("claim", self.file, "--", "true"), LOCKED, f"already running (pid {daemon})")
            self.file.unlink()

    def test_a_bare_pid_in_the_place_of_a_start_time_does_not_prove_that_the_file_is_the_commands(self):
        for form in ("json", "colon", "plain"):
            for write in ("echo $$ >d.pid", "echo $$ >n; mv n d.pid"):
                result = self.pidfile("claim", "--format", form, self.file, "--", "sh", "-c", write)
                stays = form != "plain" or "mv" in write
                self.assertEqual((result.returncode, self.file.exists(), "stays" in result.stderr), (0, stays, stays))
                self.file.unlink(missing_ok=True)

    def test_the_command_inherits_no_descriptor_but_the_witness_and_no_signal_setting(self):
        result = self.pidfile("claim", self.file, "--", "cat", "/proc/self/status", restore_signals=True)
        masks = dict(line.split(":\t") for line in result.stdout.splitlines() if line.startswith("Sig"))
        for mask in ("SigBlk", "SigCgt"):
            self.assertEqual(int(masks[mask], 16), 0, mask)
        self.assertEqual(int(masks["SigIgn"], 16) & (2**31 - 1), 0)
        result = self.pidfile("claim", self.file, "--", "ls", "/proc/self/fd")
        self.assertEqual(len(result.stdout.split()), 5)  # one is the folder that is listed
        for closed in ("", "<&-", ">&-", "2>&-", "<&- 2>&-"):
            claim = " ".join(self.command("pidfile", "claim", "d.pid", "--", "sh", "-c"))
            script = "for fd in /proc/$$/fd/*; do [ $fd -ef d.pid ] && echo ${fd##*/} >>witness; done; true"
            subprocess.run(["sh", "-c", f"{claim} '{script}' {closed}"], cwd=self.folder, env=self.environment)
            (witness,) = (self.folder / "witness").read_text().split()
            self.assertGreater(int(witness), 2, closed)
            (self.folder / "witness").unlink()
        result = self.pidfile("claim", self.file, "--", "nohup", *self.command("pidfile", "claim", "b.pid", "--", "grep", "SigIgn", "/proc/self/status"))
        self.assertTrue(int(result.stdout.split()[1], 16) & 1, "SIGHUP is ignored no more")

    def test_the_command_line_must_be_complete(self):
        for arguments in ([], ["claim"], ["claim", "f"], ["claim", "f", "--"], ["claim", "--", "true"], ["no-such", "f"],
                          ["claim", "--format", "xml", "f", "--", "true"], ["status"], ["signal", "--signal", "NO", "f"],
                          ["signal", "--signal", "0", "f"], ["stop", "--timeout", "x", "f"]):
            self.assertComplaint(self.pidfile(*arguments), USAGE, "--help")

    def test_a_path_that_cannot_be_claimed_is_an_error_of_its_own(self):
        self.assertComplaint(self.pidfile("claim", "no/d.pid", "--", "true"), command.NO_SUCH_FILE)
        self.file.symlink_to("elsewhere")
        self.assertComplaint(self.pidfile("claim", self.file, "--", "true"), IO_ERROR, "not a lock file")


class ClaimAndSignals(Case):
    def test_what_asks_the_wrapper_to_end_reaches_the_command(self):
        script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"
        wrapper = self.start("pidfile", "claim", self.file, "--", "sh", "-c", script)
        self.assertEqual(wrapper.stdout.readline(), b"up\n")
        wrapper.terminate()
        self.assertEqual(self.finish(wrapper)[0], 5)
        self.assertFalse(self.file.exists())

    def test_a_killed_wrapper_leaves_a_claim_of_the_command_that_is_stale_when_it_ends(self):
        wrapper = self.claimed()
        program = self.program_of(wrapper)
        wrapper.kill()
        wrapper.wait()
        self.assertEqual((self.state()["state"], self.state()["pid"]), ("alive", program))
        os.kill(program, signal.SIGKILL)
        wait_until("it is stale", lambda: self.state()["state"] == "stale")

    def test_a_signal_at_any_moment_leaves_neither_a_file_nor_a_program_behind(self):
        for step in range(40):
            wrapper = self.start("pidfile", "claim", self.file, "--", "sh", "-c", "echo $$ > pid; exec sleep 1000")
            time.sleep(step * 0.0005)
            wrapper.terminate()
            self.assertIn(self.finish(wrapper)[0], (-signal.SIGTERM, 128 + signal.SIGTERM))
            self.assertFalse(self.file.exists())
            pid = self.folder / "pid"
            if pid.exists() and pid.read_text():
                self.assertFalse(command.is_running(int(pid.read_text())))
                pid.unlink()

    def test_the_command_that_is_held_back_never_runs_without_the_claim(self):
        self.file.touch()  # a claim in progress, which is waited for
        for number in (signal.SIGTERM, signal.SIGKILL):
            wrapper = self.start("pidfile", "claim", self.file, "--", "touch", "ran")
            wait_until("the child is there", lambda: children_of(wrapper.pid))
            (held,) = children_of(wrapper.pid)
            wrapper.send_signal(number)
            self.assertEqual(self.finish(wrapper)[0], -number)
            wait_until("the child is gone", lambda: not command.is_running(held))
            self.assertEqual([path.name for path in self.folder.iterdir()], ["d.pid"])
            self.assertEqual(self.file.read_text(), "")


class SharedClaim(Case):
    """As long as COMMAND or what it started may run, the claim stands, also when the wrapper is killed."""

    def orphaned(self):
        """A claim whose wrapper and program are gone, and whose program's child goes on; returns that child's pid."""
        wrapper = self.claimed(program=("sh", "-c", "sleep 1000 & echo $! >heir.new; mv heir.new heir; wait"))
        heir = self.folder / "heir"
        wait_until("the program has started another", heir.exists)
        program = self.program_of(wrapper)
        wrapper.kill()
        wrapper.wait()
        os.kill(program, signal.SIGKILL)
        wait_until("the program is gone", lambda: not command.is_running(program))
        pid = int(heir.read_text())
        self.addCleanup(lambda: command.is_running(pid) and os.kill(pid, signal.SIGKILL))
        return program, pid

    def test_a_claim_is_refused_while_what_the_command_started_runs_and_says_why(self):
        program, heir = self.orphaned()
        result = self.pidfile("claim", self.file, "--", "echo", "ran")
        self.assertComplaint(result, LOCKED, f"pid {program} has ended", "shares its claim")
        self.assertEqual(result.stdout, "")
        self.assertEqual(self.state()["state"], "alive")
        os.kill(heir, signal.SIGKILL)
        wait_until("it is gone", lambda: not command.is_running(heir))
        self.assertEqual(self.pidfile("claim", self.file, "--", "echo", "ran").stdout, "ran\n")

    def test_stop_says_that_the_file_of_such_a_claim_stays(self):
        program, heir = self.orphaned()
        result = self.pidfile("stop", self.file)
        self.assertEqual(result.returncode, MISSING)
        self.assertIn(f"the file stays: Running: pid {program} has ended", result.stderr)
        self.assertTrue(self.file.exists() and command.is_running(heir))

    def test_a_stopped_wrapper_that_goes_on_in_time_removes_the_file_itself(self):
        wrapper = self.claimed()
        program = self.program_of(wrapper)
        wrapper.send_signal(signal.SIGSTOP)
        stopping = self.start("pidfile", "stop", self.file)
        wait_until("the program is gone", lambda: not command.is_running(program))
        time.sleep(0.3)  # for a stop that does not wait to say so
        wrapper.send_signal(signal.SIGCONT)
        self.assertEqual(self.finish(stopping), (0, "", ""))
        self.assertFalse(self.file.exists())


class Namespaces(Case):
    """One directory that several containers share."""

    def enter(self, *kind):
        way = ["unshare", *kind, "--fork", "--kill-child"]
        if subprocess.run([*way, "true"], capture_output=True).returncode != 0:
            self.skip_aloud("namespaces of one's own are not allowed here")
        return way

    def claim_in(self, way, *program):
        return subprocess.run([*way, *self.command("pidfile", "claim", self.file, "--", *program)], capture_output=True,
                              text=True, cwd=self.folder, env=self.environment, timeout=command.PATIENCE)

    def test_two_claims_from_two_pid_namespaces_start_one_daemon(self):
        way = self.enter("--pid", "--mount-proc")
        first = subprocess.Popen([*way, *self.command("pidfile", "claim", self.file, "--", "cat")], stdin=subprocess.PIPE,
                                 stdout=subprocess.DEVNULL, cwd=self.folder, env=self.environment)
        self.addCleanup(self.end_plainly, first)
        wait_until("it has claimed", self.file.exists)
        for other in (way, []):
            result = self.claim_in(other, "echo", "ran")
            self.assertComplaint(result, LOCKED, "already running (pid 2)")
            self.assertEqual(result.stdout, "")
        self.assertEqual(self.state()["state"], "alive")
        for action in ("signal", "stop"):  # pid 2 is another process here
            self.assertEqual(self.pidfile(action, self.file).returncode, CANNOT_TELL)
        first.stdin.close()
        self.assertEqual(first.wait(command.PATIENCE), 0)
        self.assertFalse(self.file.exists())

    @staticmethod
    def end_plainly(process):
        process.stdin.close()
        process.kill()
        process.wait()

    def test_two_claims_from_two_time_namespaces_start_one_daemon(self):
        way = self.enter("--time", "--boottime", "86400")
        self.claimed()
        self.assertComplaint(self.claim_in(way, "echo", "ran"), LOCKED, "already running")
        state = subprocess.run([*way, *self.command("pidfile", "status", self.file)], capture_output=True, text=True)
        self.assertEqual(state.returncode, ALIVE, state.stdout)

    def test_a_container_that_was_killed_leaves_a_file_that_the_next_one_takes_over(self):
        way = self.enter("--pid", "--mount-proc")
        for _ in range(2):  # with the same pids each time
            first = subprocess.Popen([*way, *self.command("pidfile", "claim", self.file, "--", "cat")], stdin=subprocess.PIPE,
                                     stdout=subprocess.DEVNULL, cwd=self.folder, env=self.environment)
            self.addCleanup(self.end_plainly, first)
            before = self.file.read_text() if self.file.exists() else ""
            wait_until("it has claimed", lambda: self.file.exists() and self.file.read_text() != before)
            first.kill()
            first.wait()
            wait_until("its processes are gone", lambda: self.state()["state"] == "stale")
            self.assertIn("of another namespace", self.state()["explanation"])
        self.assertEqual(self.claim_in(way, "echo", "ran").stdout, "ran\n")


class Leftovers(Case):
    def test_a_container_that_numbers_its_processes_as_before_takes_its_plain_file_over(self):
        way = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
        if subprocess.run([*way, "true"], capture_output=True).returncode != 0:
            self.skip_aloud("a PID namespace of one's own is not allowed here")
        claim = " ".join(self.command("pidfile", "claim", "--format", "plain", "d.pid", "--"))

        def boot(script):
            return subprocess.run([*way, "sh", "-c", script], capture_output=True, text=True, cwd=self.folder,
                                  env=self.environment, timeout=command.PATIENCE)
        for first, then in ((f"{claim} sh -c 'kill -9 -1' & wait", f"true & {claim} echo ran & wait"),     # the claimer's pid again
                            (f"{claim} sh -c 'kill -9 -1' & wait", f"{claim} echo ran & wait"),             # its child's
                            ("echo 1 >d.pid; touch -d '-1 hour' d.pid", f"{claim} echo ran & wait"),         # its parent's, pid 1
                            ("echo 1 >d.pid", f"exec {claim} echo ran"),                                    # pid 1 claims
                            ("echo 2 >d.pid", f"exec {claim} echo ran")):                                   # and its child has that
            boot(first)
            self.assertTrue(self.file.exists(), first)
            result = boot(then)
            self.assertEqual((result.stdout, result.stderr), ("ran\n", ""), then)

    def test_a_script_that_wrote_its_pid_and_becomes_the_claim_starts_it(self):
        script = f"echo $$ >d.pid; exec {' '.join(self.command('pidfile', 'claim', 'd.pid', '--', 'echo', 'ran'))}"
        result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=self.folder, env=self.environment)
        self.assertEqual((result.stdout, result.stderr), ("ran\n", ""))

    def test_a_script_that_wrote_its_pid_and_goes_on_keeps_its_file(self):
        script = f"echo $$ >d.pid; {' '.join(self.command('pidfile', 'claim', 'd.pid', '--', 'echo', 'ran'))}; echo $?"
        result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=self.folder, env=self.environment)
        self.assertEqual(result.stdout, f"{LOCKED}\n")


class Status(Case):
    def test_the_exit_status_is_that_of_init_scripts(self):
        process = self.idler()
        self.assertEqual(self.pidfile("status", self.file).returncode, MISSING)
        self.write(process)
        self.assertEqual(self.pidfile("status", self.file).returncode, ALIVE)
        self.write(process, token=1)
        reused = self.pidfile("status", self.file)
        self.assertEqual(reused.returncode, STALE)
        self.assertIn("was reused", reused.stdout)
        self.file.write_text(f"{NOBODY}:5\n")
        dead = self.pidfile("status", self.file)
        self.assertEqual(dead.returncode, STALE)
        self.assertIn("is dead", dead.stdout)
        for text in (f"{process.pid} x", "", "no record", f"{process.pid} Fri Nov 20 03:31:48 2026"):
            self.file.write_text(text)
            self.assertEqual(self.pidfile("status", self.file).returncode, CANNOT_TELL, text)
        self.file.unlink()
        self.file.mkdir()
        self.assertComplaint(self.pidfile("status", self.file), CANNOT_TELL)

    def test_it_is_told_as_json_too(self):
        process = self.idler()
        self.write(process, token=1)
        self.assertEqual(
            self.state(),
            {
                "path": str(self.file), "state": "stale", "pid": process.pid,
                "startToken": str(command.start_time(process.pid) + 1), "recycled": True, "unverified": False,
                "explanation": f"Stale: pid {process.pid} was reused by a process that started at another time.",
            },
        )
        self.file.unlink()
        self.assertEqual((self.state()["state"], self.state()["pid"]), ("missing", None))


class Signal(Case):
    def test_exactly_the_recorded_process_is_signalled(self):
        for options, number in {(): 15, ("--signal", "KILL"): 9, ("--signal", "SIGUSR1"): 10, ("--signal", "12"): 12}.items():
            process = self.idler()
            self.write(process)
            result = self.pidfile("signal", *options, self.file)
            self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
            self.assertEqual(process.wait(command.PATIENCE), -number)

    def test_without_pidfds_it_is_said_that_the_process_could_not_be_pinned(self):
        for arguments in (["signal"], ["stop"]):
            process = self.idler()
            self.write(process)
            try:
                result = self.pidfile(*arguments, self.file, preexec_fn=forbid_pidfds)
            except subprocess.SubprocessError:
                self.skip_aloud("system calls cannot be filtered here")
                return
            self.assertStatus(result, 0)
            self.assertIn("could not be pinned", result.stderr)
            self.assertEqual(process.wait(command.PATIENCE), -signal.SIGTERM)

    def test_a_missing_file_and_a_process_that_is_gone_are_3(self):
        self.assertComplaint(self.pidfile("signal", self.file), MISSING)
        process = self.idler()
        self.write(process)
        process.kill()
        process.wait()
        self.assertComplaint(self.pidfile("signal", self.file), MISSING)
        self.assertTrue(self.file.exists())

    def test_a_reused_pid_is_refused_and_named_so_even_where_unverified_signals_are_asked_for(self):
        process = self.idler()
        self.write(process, token=1)
        for options in ([], ["--unverified"]):
            self.assertComplaint(self.pidfile("signal", *options, self.file), STALE, "refused", "another process")
            self.assertStatus(self.pidfile("stop", *options, self.file), STALE) if options else None
        self.assertIsNone(process.poll())

    def test_a_record_without_identity_is_signalled_only_for_who_asks_for_it_by_name(self):
        process = self.idler()
        for text in (f"{process.pid}\n", f"{process.pid}:unknown\n"):
            self.file.write_text(text)
            self.assertComplaint(self.pidfile("signal", self.file), CANNOT_TELL, "refused", "--unverified")
            self.assertComplaint(self.pidfile("stop", self.file), CANNOT_TELL, "refused")
            self.assertTrue(self.file.exists())
        self.assertIsNone(process.poll())
        self.assertStatus(self.pidfile("signal", "--unverified", self.file), 0)
        self.assertEqual(process.wait(command.PATIENCE), -15)


# Runs as pid 1 of a PID namespace: whatever goes wrong hits nobody else. Prints what each record came to.
HOSTILE = r"""
import json, os, signal, subprocess, sys
binary, file = sys.argv[1:]
got = []
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda *what: got.append(what[0]))
victims = [subprocess.Popen(["sleep", "1000"], process_group=0) for _ in range(8)]
pid = victims[0].pid
records = ["0", "-1", "1", "1:1", "2147483648", "9223372036854775808", "18446744073709551617", "7:", "", "\n",
           f"{pid}:", f"{pid} x", f"{pid}:-5", f"-{pid}", f"x\n{pid}", f"{pid}.0", f"{pid} {pid} {pid}",
           '{"pid": 0}', '{"pid": -1}', '{"pid": 1}', '{"pid": 2147483648}', '{"pid": 9223372036854775808}',
           '{"pid": "7 "}', '{"pid": "%s"}' % pid, '{"pid": 1e400}', '{"pid": %s, "startToken": "x"}' % pid, '{"pid": %s, "startToken": 1.5}' % pid,
           "7" * 65537, "[" * 5000, "\xff\xfe"]
results = []
for record in records:
    for arguments in (["signal", "--signal", "TERM"], ["signal", "--signal", "KILL", "--unverified"], ["stop", "--unverified", "--timeout", "0"],
                      ["stop"], ["status"], ["remove", "--if-dead"]):
        with open(file, "w", encoding="latin-1") as out:
            out.write(record)
        done = subprocess.run([binary, "pidfile", *arguments, file], capture_output=True, text=True, process_group=0)
        results.append([record[:40], arguments, done.returncode, done.stderr])
    with open(file, "w", encoding="latin-1") as out:
        out.write(record)
    os.utime(file, (1, 1))  # else it would be waited for, as a claim in progress
    done = subprocess.run([binary, "pidfile", "claim", file, "--", "true"], capture_output=True, text=True, process_group=0)
    results.append([record[:40], ["claim"], done.returncode, done.stderr])
alive = all(victim.poll() is None for victim in victims)
for victim in victims:
    victim.kill()
print(json.dumps({"results": results, "alive": alive, "got": got}))
"""

# As above. A process is recorded, ends, and another gets its pid.
REUSED = r"""
import json, os, subprocess, sys
binary, file = sys.argv[1:]
recorded = subprocess.Popen(["sleep", "1000"])
open(file, "w").write(f"{recorded.pid}:{start_time(recorded.pid)}")
successor = successor_of(recorded)
statuses = [subprocess.run([binary, "pidfile", *arguments, file], capture_output=True).returncode
            for arguments in (["status"], ["signal", "--signal", "KILL"], ["signal", "--unverified", "--signal", "KILL"], ["stop", "--keep"])]
print(json.dumps({"statuses": statuses, "alive": successor.poll() is None}))
successor.kill()
"""


class Hostile(Case):
    def test_a_hostile_record_is_never_signalled_and_crashes_nothing(self):
        told = self.in_pid_namespace(HOSTILE, command.BINARY, self.file)
        self.assertEqual((told["alive"], told["got"]), (True, []))
        for record, arguments, status, error in told["results"]:
            what = f"{record!r} {arguments}: {status} {error}"
            if arguments[0] in ("signal", "stop"):
                # 7 is alive or not, as it happens; what is far too long is no PID file.
                self.assertIn(status, (CANNOT_TELL, MISSING, IO_ERROR), what)
            else:
                self.assertIn(status, (0, STALE, CANNOT_TELL, LOCKED, IO_ERROR), what)

    def test_a_pid_that_was_given_to_another_process_is_refused(self):
        told = self.in_pid_namespace(REUSED, command.BINARY, self.file)
        self.assertEqual(told, {"statuses": [STALE, STALE, STALE, STALE], "alive": True})


class Stop(Case):
    def test_a_process_is_asked_to_end_and_its_file_goes(self):
        wrapper = self.claimed("--format", "space")
        self.assertStatus(self.pidfile("stop", self.file), 0)
        self.assertFalse(self.file.exists())
        self.assertEqual(self.finish(wrapper)[0], 128 + signal.SIGTERM)
        self.assertStatus(self.pidfile("stop", self.file), MISSING)

    def test_who_does_not_listen_is_killed_after_the_time_out(self):
        process = self.deaf()
        self.write(process)
        self.assertStatus(self.pidfile("stop", "--timeout", "20ms", self.file), 0)
        self.assertEqual(process.wait(command.PATIENCE), -signal.SIGKILL)
        self.assertFalse(self.file.exists())

    def test_who_cannot_be_verified_is_never_killed(self):
        process = self.deaf()
        self.file.write_text(f"{process.pid}\n")
        result = self.pidfile("stop", "--unverified", "--timeout", "20ms", self.file)
        self.assertComplaint(result, LOCKED, "could not be verified")
        self.assertIsNone(process.poll())
        self.assertTrue(self.file.exists())

    def test_a_file_that_is_kept_on_purpose_stays(self):
        for claim, stop in (("--keep", ()), ("--format=colon", ("--keep",))):
            wrapper = self.claimed(claim)
            wrapper.send_signal(signal.SIGSTOP)  # else it would remove the file itself
            self.assertStatus(self.pidfile("stop", *stop, self.file), 0)
            self.assertEqual(self.pidfile("status", self.file).returncode, ALIVE)  # its wrapper shares the claim
            wrapper.kill()
            wrapper.wait()
            self.assertEqual(self.pidfile("status", self.file).returncode, STALE)
            self.file.unlink()

    def test_the_file_of_a_process_that_was_gone_already_goes_too(self):
        stranger = self.idler()
        self.write(stranger, token=1)
        self.assertStatus(self.pidfile("stop", self.file), STALE)
        self.assertFalse(self.file.exists())
        self.file.write_text(f"{NOBODY}:1")
        self.assertStatus(self.pidfile("stop", self.file), MISSING)
        self.assertFalse(self.file.exists())
        self.assertIsNone(stranger.poll())


class Remove(Case):
    def from_script(self, script):
        remove = " ".join(self.command("pidfile", "remove", self.file))
        return subprocess.run(["sh", "-c", script.replace("REMOVE", remove)], capture_output=True, text=True,
                              cwd=self.folder, env=self.environment, timeout=command.PATIENCE).stdout

    def test_a_script_removes_the_file_that_names_it(self):
        self.assertEqual(self.from_script("echo $$ >d.pid; REMOVE; echo $?"), "0\n")
        self.assertFalse(self.file.exists())
        result = self.pidfile("claim", self.file, "--", "sh", "-c", f"{command.BINARY} pidfile remove d.pid; echo $?; ls")
        self.assertEqual(result.stdout, "0\n")

    def test_a_live_others_file_stays(self):
        process = self.idler()
        for token in ("", f":{command.start_time(process.pid)}", ":x"):
            self.file.write_text(f"{process.pid}{token}")
            for options in ([], ["--if-dead"]):
                self.assertComplaint(self.pidfile("remove", *options, self.file), LOCKED)
        self.assertTrue(self.file.exists())

    def test_a_dead_owners_file_goes_only_if_that_is_asked_for(self):
        self.file.write_text(f"{NOBODY}\n")
        self.assertComplaint(self.pidfile("remove", self.file), LOCKED, "is dead", "--if-dead")
        self.assertStatus(self.pidfile("remove", "--if-dead", self.file), 0)
        self.assertFalse(self.file.exists())
        self.assertStatus(self.pidfile("remove", self.file), 0)

    def test_a_pid_of_ours_from_before_is_not_enough(self):
        self.assertEqual(self.from_script("echo $$:1 >d.pid; REMOVE 2>said; echo $?; cat said").splitlines()[0], str(LOCKED))
        self.assertTrue(self.file.exists())


if __name__ == "__main__":
    command.main()
