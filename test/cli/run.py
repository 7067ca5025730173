"""`sessionlock run`: a program runs while the lock is held."""

import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import FAILED, LOCKED, USAGE, wait_until

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGABRT, signal.SIGUSR1, signal.SIGUSR2]

# The two numbers above these are the C library's own.
STANDARD = 2**31 - 1

# Writes its pid, then a line for every signal, until it is told to end.
REPORTER = """
import os, signal, sys
out = open(sys.argv[1], "a", buffering=1)
numbers = {%s}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("pid", os.getpid(), file=out)
number = None
while number != signal.SIGTERM:
    number = signal.sigwait(numbers)
    print(signal.Signals(number).name, file=out)
sys.exit(5)
""" % ", ".join(str(int(number)) for number in SIGNALS)


class Case(command.Case):
    def setUp(self):
        super().setUp()
        self.log = self.folder / "log"

    def reporter(self):
        return ["--", sys.executable, "-c", REPORTER, self.log]

    def logged(self):
        return self.log.read_text().split() if self.log.exists() else []

    def started_pid(self):
        wait_until("the program runs", lambda: len(self.logged()) >= 2)
        return int(self.logged()[1])


class BeforeTheProgram(Case):
    def test_verbose_says_which_directories_are_made(self):
        for session, made in (("a/b/s.jsonl", ["a", "a/b"]), ("a/b/t.jsonl", []), ("c//s.jsonl", ["c"])):
            result = self.run_command("run", "-v", session, "--", "true")
            self.assertEqual(result.stderr, "".join(f"sessionlock: made the directory {name}\n" for name in made))
            self.assertEqual(result.returncode, 0)
        result = self.run_command("run", "d/s.jsonl", "--", "true")
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_verbose_says_so_of_directories_that_a_link_leads_to(self):
        (self.folder / "link").symlink_to("far/away/s.jsonl")
        result = self.run_command("run", "-v", "link", "--", "true")
        self.assertEqual(result.stderr, "".join(f"sessionlock: made the directory {name}\n" for name in ("far", "far/away")))

    def test_a_session_that_is_no_transcript_is_left_as_it_is(self):
        for content in (b"words", b"a,b\n1,2", b"[\n1,\n2\n]", b'{\n  "a": 1\n}', b"{{ name }}", b"\0" * 5000, b"1\n2\n3"):
            self.session.write_bytes(content)
            result = self.run_command("run", self.session, "--", "true")
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertEqual(self.session.read_bytes(), content)
        self.assertFalse((self.folder / "s.jsonl.torn").exists())

    def test_a_session_that_is_not_there_is_not_made(self):
        self.assertStatus(self.run_command("run", self.session, "--", "true"), 0)
        self.assertFalse(self.session.exists())

    def test_a_session_that_cannot_be_repaired_does_not_keep_the_program_from_running(self):
        self.session.write_text('{"n":')
        (self.folder / "s.jsonl.torn").mkdir()
        result = self.run_command("run", self.session, "--", "echo", "ran")
        self.assertComplaint(result, 0, "not repaired", "s.jsonl.torn", "move it away")
        self.assertEqual(result.stdout, "ran\n")
        self.assertEqual(self.session.read_text(), '{"n":')


class ExitStatus(Case):
    def test_the_exit_status_is_the_commands(self):
        for status in (0, 1, 7, 75, 255):
            self.assertEqual(self.run_command("run", self.session, "--", "sh", "-c", f"exit {status}").returncode, status)

    def test_a_command_ended_by_a_signal_gives_128_and_its_number(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV):
            result = self.run_command("run", self.session, "--", "sh", "-c", f"kill -{int(number)} $$")
            self.assertEqual(result.returncode, 128 + number)

    def test_a_command_that_does_not_exist_gives_127(self):
        self.assertComplaint(self.run_command("run", self.session, "--", "no-such-command"), 127, "no-such-command")
        self.assertComplaint(self.run_command("run", self.session, "--", "/no/such/command"), 127)
        self.assertFalse(self.lock.exists())

    def test_a_command_that_cannot_be_executed_gives_126(self):
        (self.folder / "text").write_text("no program")
        self.assertComplaint(self.run_command("run", self.session, "--", "./text"), 126, "./text")
        self.assertComplaint(self.run_command("run", self.session, "--", "/"), 126)
        self.assertFalse(self.lock.exists())

    def test_the_command_line_must_be_complete(self):
        for arguments in ([], [self.session], [self.session, "true"], [self.session, "--"], ["--", "true"]):
            self.assertComplaint(self.run_command("run", *arguments), USAGE)
        for duration in ("", "5x", "-1", "1.5s", "10 s", "99999999999999999999"):
            self.assertComplaint(self.run_command("run", f"--timeout={duration}", self.session, "--", "true"), USAGE)
        both = self.run_command("run", "--no-wait", "--timeout", "1s", self.session, "--", "true")
        self.assertComplaint(both, USAGE)

    def test_every_form_of_a_duration_is_accepted(self):
        for duration in ("0", "500ms", "10s", "5m", "1h", "inf"):
            options = ["--timeout", duration, "--stale-after", duration, "--max-hold", duration]
            self.assertStatus(self.run_command("run", *options, self.session, "--", "true"), 0)

    def test_a_session_that_begins_with_a_dash_needs_a_path_or_a_separator(self):
        self.assertComplaint(self.run_command("run", "-dash.jsonl", "--", "true"), USAGE, "'-dash.jsonl'", "./-dash.jsonl")
        self.assertComplaint(self.run_command("append", "-dash.jsonl"), USAGE, "./-dash.jsonl")
        show = 'echo "$SESSIONLOCK_SESSION"'
        for session in (["--", "-dash.jsonl"], ["./-dash.jsonl"], ["-v", "--", "-dash.jsonl"]):
            result = self.run_command("run", *session, "--", "sh", "-c", show)
            self.assertEqual(result.stdout, f"{self.folder}/-dash.jsonl\n", result.stderr)
        self.assertStatus(self.run_command("gate", "--", "-gate", "--", "sh", "-c", "exit 7"), 7)
        self.assertStatus(self.run_command("pidfile", "claim", "--", "-file", "--", "touch", "--", "-ran"), 0)
        self.assertTrue((self.folder / "-ran").exists())

    def test_an_empty_value_does_not_swallow_the_session(self):
        result = self.run_command("run", "--label=", self.session, "--", "cat", self.lock)
        self.assertEqual(json.loads(result.stdout).get("label", ""), "", result.stderr)

    def test_a_duration_without_a_unit_is_refused_except_zero(self):
        commands = [
            ("run", "--timeout", self.session, "--", "true"), ("run", "--stale-after", self.session, "--", "true"),
            ("run", "--max-hold", self.session, "--", "true"), ("append", "--timeout", self.session),
            ("wait", "--timeout", self.session), ("clean", "--stale-after", self.folder),
            ("gate", "--timeout", self.lock, "--", "true"), ("gate", "--stale-after", self.lock, "--", "true"),
            ("sentinel", "set", "--ttl", self.lock), ("pidfile", "stop", "--timeout", self.lock),
        ]
        for command_line in commands:
            at = next(i for i, word in enumerate(command_line) if str(word).startswith("--")) + 1
            numbered = [*command_line[:at], "5", *command_line[at:]]
            self.assertComplaint(self.run_command(*numbered), USAGE, "'5' has no unit; write 5s or 5ms")
            zero = self.run_command(*command_line[:at], "0", *command_line[at:])
            self.assertNotEqual(zero.returncode, USAGE, zero.stderr)

    def test_arguments_after_the_separator_reach_the_command_as_they_are(self):
        arguments = ["-v", "--help", "", "[a,b]", "--", "x y", "--timeout"]
        result = self.run_command("run", self.session, "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", *arguments)
        self.assertEqual(result.stdout.strip(), repr(arguments))


class WhatTheCommandSees(Case):
    def test_the_environment_names_the_session_the_lock_and_the_acquisition(self):
        script = 'cat "$SESSIONLOCK_LOCK"; echo "$SESSIONLOCK_SESSION $SESSIONLOCK_LOCK $SESSIONLOCK_ID"'
        result = self.run_command("run", "--label", "nightly", "s.jsonl", "--", "sh", "-c", script)
        *record, names = result.stdout.splitlines()
        record = json.loads("\n".join(record))
        self.assertEqual(names.split(), [str(self.session), str(self.lock), record["lockId"]])
        self.assertEqual(record["label"], "nightly")
        self.assertEqual(record["maxHoldMs"], 300000)
        unset = self.run_command("run", self.session, "--", "sh", "-c", 'echo "${SESSIONLOCK_DIRECTORY-unset}"')
        self.assertEqual(unset.stdout, "unset\n")

    def test_a_lock_directory_is_used_and_told_as_an_absolute_path(self):
        script = 'cd / && echo "$SESSIONLOCK_DIRECTORY" && ls "$SESSIONLOCK_DIRECTORY"'
        for how in (["--lock-directory", "locks"], []):
            if not how:
                self.environment["SESSIONLOCK_DIRECTORY"] = "locks"
            result = self.run_command("run", *how, self.session, "--", "sh", "-c", script)
            self.assertStatus(result, 0)
            directory, lock = result.stdout.split()
            self.assertEqual(directory, str(self.folder / "locks"))
            self.assertRegex(lock, r"^[0-9a-f-]{36}-s\.jsonl\.lock$")
        self.assertEqual(list((self.folder / "locks").iterdir()), [])

    def test_standard_output_belongs_to_the_command_alone(self):
        self.plant_dead()
        result = self.run_command("run", "-v", self.session, "--", "echo", "hello")
        self.assertEqual(result.stdout, "hello\n")

    def test_standard_input_is_the_commands(self):
        self.assertEqual(self.run_command("run", self.session, "--", "cat", input="through").stdout, "through")

    def test_the_command_inherits_the_locks_descriptor_and_no_other(self):
        script = "for f in /proc/self/fd/*; do readlink $f; done"
        result = self.run_command("run", self.session, "--", "bash", "-c", script)
        beyond = [line for line in result.stdout.splitlines() if "pipe:" not in line and "/proc/" not in line and line != "/dev/null"]
        self.assertEqual([line for line in beyond if "s.jsonl.lock" in line or "(deleted)" in line], beyond)
        self.assertEqual(len(beyond), 1, result.stdout)

    def test_the_command_starts_with_no_signal_blocked_caught_or_ignored(self):
        result = self.run_command("run", self.session, "--", "cat", "/proc/self/status", restore_signals=True)
        masks = dict(line.split(":\t") for line in result.stdout.splitlines() if line.startswith("Sig"))
        self.assertEqual(int(masks["SigBlk"], 16), 0)
        self.assertEqual(int(masks["SigIgn"], 16) & STANDARD, 0)
        self.assertEqual(int(masks["SigCgt"], 16), 0)

    def test_a_signal_that_was_ignored_stays_ignored(self):
        ignored = {signal.SIGHUP, signal.SIGINT}
        result = self.run_command(
            "run", self.session, "--", "cat", "/proc/self/status",
            preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored],
        )
        mask = int(result.stdout.split("SigIgn:\t")[1].split()[0], 16) & STANDARD
        self.assertEqual(mask, sum(1 << (number - 1) for number in ignored))

    def test_a_blocked_child_signal_does_not_make_it_wait_for_ever(self):
        block = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self.assertEqual(self.run_command("run", self.session, "--", "sh", "-c", "exit 3", preexec_fn=block).returncode, 3)

    def test_it_works_with_the_standard_streams_closed(self):
        script = '"$@" >&- 2>&- <&-; echo $?'
        arguments = self.command("run", self.session, "--", "true")
        result = subprocess.run(["sh", "-c", script, "sh", *arguments], capture_output=True, text=True, timeout=command.PATIENCE)
        self.assertEqual(result.stdout, "0\n")


class Holding(Case):
    def test_the_lock_is_held_while_the_command_runs_and_gone_afterwards(self):
        holder = self.start("run", self.session, "--", "cat")
        wait_until("the lock is there", self.lock.exists)
        status = self.status()
        self.assertEqual((status["state"], status["owner"], status["pid"]), ("held", "alive", holder.pid))
        self.assertEqual(self.finish(holder, b"")[0], 0)
        self.assertFalse(self.lock.exists())

    def test_missing_directories_are_made(self):
        self.assertStatus(self.run_command("run", self.folder / "a/b/c.jsonl", "--", "true"), 0)
        self.assertTrue((self.folder / "a/b").is_dir())

    def test_a_symbolic_link_and_its_target_share_one_lock(self):
        link = self.folder / "link.jsonl"
        link.symlink_to("s.jsonl")
        self.hold()
        self.assertComplaint(self.run_command("run", "--no-wait", link, "--", "true"), LOCKED)

    def test_a_background_job_does_not_keep_the_lock_when_the_command_ends(self):
        script = f"sleep 1000 >/dev/null 2>&1 & echo $! > {self.log}"
        self.assertStatus(self.run_command("run", self.session, "--", "sh", "-c", script), 0)
        pid = int(self.log.read_text())
        try:
            self.assertTrue(command.is_running(pid))
            self.assertEqual(self.status()["state"], "free")
        finally:
            os.kill(pid, signal.SIGKILL)

    def test_a_killed_wrapper_leaves_the_lock_held_until_the_command_ends(self):
        wrapper = self.start("run", self.session, *self.reporter())
        program = self.started_pid()
        wrapper.kill()
        wrapper.wait()
        status = self.status()
        self.assertEqual((status["state"], status["owner"], status["pidAlive"]), ("held", "alive", False))
        self.assertComplaint(self.run_command("run", "--timeout", "50ms", self.session, "--", "true"), LOCKED)
        waiter = self.start("run", self.session, "--", "true")
        os.kill(program, signal.SIGTERM)
        self.assertEqual(self.finish(waiter)[0], 0)

    def test_a_command_that_closes_what_it_inherited_keeps_the_lock_only_while_the_wrapper_lives(self):
        closing = [sys.executable, "-c", "import os; os.closerange(3, 100); print('closed', flush=True); input()"]
        wrapper = self.start("run", self.session, "--", *closing)
        self.assertEqual(wrapper.stdout.readline(), b"closed\n")
        program = command.children_of(wrapper.pid)[0]
        self.assertComplaint(self.run_command("run", "--no-wait", self.session, "--", "true"), LOCKED)
        wrapper.kill()
        wrapper.wait()
        self.assertComplaint(self.run_command("run", "--no-wait", self.session, "--", "true"), 0, "took over")
        self.assertTrue(command.is_running(program))

    def test_after_a_killed_wrapper_background_jobs_keep_the_lock(self):
        script = f"sleep 1000 & echo pid $! > {self.log}; exec cat"
        wrapper = self.start("run", self.session, "--", "sh", "-c", script)
        job = self.started_pid()
        wrapper.kill()
        wrapper.wait()
        wrapper.stdin.close()
        self.assertEqual(self.status()["state"], "held")
        os.kill(job, signal.SIGKILL)
        wait_until("the lock is nobody's", lambda: self.status()["state"] == "stale")

    def test_a_lock_that_was_taken_away_is_reported_and_fails_a_good_command(self):
        take = '"$0" release --force --id "$SESSIONLOCK_ID" "$SESSIONLOCK_SESSION" >/dev/null'
        for script, status in ((take, FAILED), (take + "; exit 9", 9)):
            result = self.run_command("run", self.session, "--", "sh", "-c", script, command.BINARY)
            self.assertComplaint(result, status, "no longer held")

    def test_a_release_that_fails_does_not_remove_a_successors_lock(self):
        script = '"$0" release --force --id "$SESSIONLOCK_ID" "$SESSIONLOCK_SESSION" >/dev/null; echo gone; cat'
        first = self.start("run", self.session, "--", "sh", "-c", script, command.BINARY)
        self.assertEqual(first.stdout.readline(), b"gone\n")
        second = self.hold()
        self.assertEqual(self.finish(first, b"")[0], FAILED)
        self.assertEqual(self.status()["pid"], second.pid)

    def test_a_lock_that_its_dead_owner_left_is_taken_over_at_once(self):
        self.plant_dead()
        result = self.run_command("run", "--no-wait", self.session, "--", "true")
        self.assertComplaint(result, 0, "took over", str(command.NOBODY))

    def test_a_take_over_is_reported_once_also_with_verbose(self):
        self.plant_dead()
        result = self.run_command("run", "--no-wait", "-v", self.session, "--", "true")
        self.assertStatus(result, 0)
        self.assertEqual(result.stderr.count("took over"), 1, result.stderr)
        self.assertEqual(self.run_command("run", "-v", self.session, "--", "true").stderr, "")

    def test_a_take_over_is_reported_also_if_the_command_cannot_be_run(self):
        self.plant_dead()
        result = self.run_command("run", self.session, "--", "/no/such/command")
        self.assertStatus(result, 127)
        self.assertIn("took over", result.stderr)
        self.assertIn(str(command.NOBODY), result.stderr)

    def test_a_take_over_is_reported_also_if_a_signal_comes_during_the_wait(self):
        holder = self.hold()
        waiter = self.start("run", "--timeout", "inf", self.session, "--", "true")
        wait_until("it waits", lambda: any("inotify" in link for link in self.open_files(waiter)))
        waiter.send_signal(signal.SIGSTOP)
        wait_until("it is stopped", lambda: command.state_of(waiter.pid) == "T")
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        waiter.send_signal(signal.SIGTERM)
        waiter.send_signal(signal.SIGCONT)
        status, _, error = self.finish(waiter)
        self.assertEqual(status, -signal.SIGTERM)
        # Whichever it saw first: the signal, and then the lock is left to the next one, which is told.
        if "took over" not in error:
            self.assertComplaint(self.run_command("run", self.session, "--", "true"), 0, "took over", str(holder.pid))

    def test_the_command_is_given_the_record_of_the_owner_whose_lock_was_taken_over(self):
        record = {"pid": command.NOBODY, "createdAt": "2026-01-01T00:00:00.000Z", "starttime": 1, "label": 'a,  "b"\n{  c'}
        self.plant(**record)
        program = 'printf "%s\\n" "$SESSIONLOCK_RECLAIMED_FROM"'
        given = self.run_command("run", self.session, "--", "sh", "-c", program)
        self.assertEqual(len(given.stdout.splitlines()), 1)
        self.assertEqual(json.loads(given.stdout), record)

    def test_a_command_whose_lock_was_not_taken_over_is_given_no_record_of_one(self):
        self.environment["SESSIONLOCK_RECLAIMED_FROM"] = "of an enclosing run"
        for arguments in (["run", self.session], ["gate", self.folder / "gate"]):
            given = self.run_command(*arguments, "--", "sh", "-c", 'echo "${SESSIONLOCK_RECLAIMED_FROM-unset}"')
            self.assertEqual(given.stdout, "unset\n")

    def test_a_malformed_start_time_never_leads_to_a_take_over(self):
        holder = self.start("run", self.folder / "other.jsonl", "--", "cat")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for value in ("123.5", "-1", '"123"', "null", "true", "[1]", "1e400", "9" * 23):
            self.lock.write_text(f'{{"pid": {holder.pid}, "createdAt": "{now}", "starttime": {value}}}')
            self.make_old(self.lock)
            result = self.run_command("run", "--no-wait", self.session, "--", "true")
            self.assertComplaint(result, LOCKED, f"pid={holder.pid}")
            self.assertStatus(self.run_command("clean", self.folder), 0)
            self.assertTrue(self.lock.exists(), value)

    def test_a_node_that_is_no_lock_file_is_named_and_left_in_place(self):
        makers = {
            "directory": lambda: self.lock.mkdir(),
            "fifo": lambda: os.mkfifo(self.lock),
            "dangling link": lambda: self.lock.symlink_to("nowhere"),
            "long file": lambda: self.lock.write_bytes(b" " * (64 * 1024 + 1)),
        }
        for name, make in makers.items():
            make()
            result = self.run_command("run", "--timeout", "5s", self.session, "--", "true")
            self.assertComplaint(result, command.IO_ERROR, "not a lock file", str(self.lock))
            self.assertTrue(os.path.lexists(self.lock), name)
            self.lock.rmdir() if name == "directory" else self.lock.unlink()

    def test_a_session_with_several_names_is_refused_unless_allowed(self):
        self.session.touch()
        os.link(self.session, self.folder / "other.jsonl")
        refused = self.run_command("run", self.session, "--", "true")
        self.assertComplaint(refused, FAILED, "2 hard links")
        self.assertStatus(self.run_command("run", "--allow-hard-links", self.session, "--", "true"), 0)


class Contention(Case):
    def test_one_line_says_who_has_it_since_when(self):
        holder = self.hold(None, "--label", "nightly")
        result = self.run_command("run", "--timeout", "50ms", self.session, "--", "true")
        self.assertComplaint(result, LOCKED)
        self.assertRegex(
            result.stderr,
            rf'^sessionlock: session file locked \(timeout 50ms\): pid={holder.pid} alive age=\w+ label="nightly" {self.lock}\n$',
        )
        self.assertComplaint(self.run_command("run", "--no-wait", self.session, "--", "true"), LOCKED, f"pid={holder.pid}")

    def test_it_waits_for_the_holder_and_then_runs(self):
        holder = self.start("run", self.session, "--", "cat")
        wait_until("the lock is there", self.lock.exists)
        waiter = self.start("run", "--timeout", "inf", "-v", self.session, "--", "echo", "mine")
        told = waiter.stderr.readline().decode()
        self.assertRegex(told, rf"^sessionlock: session file locked \(waiting\): pid={holder.pid} alive ")
        self.finish(holder, b"")
        status, out, error = self.finish(waiter)
        self.assertEqual((status, out), (0, "mine\n"))
        self.assertIn("acquired after", error)

    def test_the_environment_sets_the_time_limit_and_an_option_overrides_it(self):
        self.hold()
        self.environment["SESSIONLOCK_ACQUIRE_TIMEOUT_MS"] = "40"
        self.assertComplaint(self.run_command("run", self.session, "--", "true"), LOCKED, "timeout 40ms")
        self.assertComplaint(self.run_command("run", "--timeout", "30ms", self.session, "--", "true"), LOCKED, "timeout 30ms")

    def test_a_nested_run_of_the_same_session_ends_at_once(self):
        inner = self.command("run", "--timeout", "inf", self.session, "--", "echo", "inner")
        result = self.run_command("run", self.session, "--", *inner)
        self.assertComplaint(result, LOCKED, "around this one")
        self.assertEqual(result.stdout, "")

    def test_a_nested_run_through_a_link_to_the_session_ends_at_once(self):
        (self.folder / "link.jsonl").symlink_to("s.jsonl")
        inner = self.command("run", "--timeout", "inf", "link.jsonl", "--", "true")
        self.assertComplaint(self.run_command("run", self.session, "--", *inner), LOCKED)

    def test_a_nested_run_of_another_session_is_welcome(self):
        inner = self.command("run", self.folder / "other.jsonl", "--", "echo", "inner")
        result = self.run_command("run", self.session, "--", *inner)
        self.assertEqual((result.returncode, result.stdout), (0, "inner\n"))

    def test_a_nested_run_waits_for_another_session_that_somebody_else_has(self):
        other = self.folder / "other.jsonl"
        holder = self.hold(other)
        inner = self.command("run", "--timeout", "50ms", other, "--", "true")
        result = self.run_command("run", self.session, "--", *inner)
        self.assertComplaint(result, LOCKED, "timeout 50ms", f"pid={holder.pid}")

    def test_inside_another_run_the_command_is_told_of_its_own_lock_alone(self):
        other = self.folder / "other.jsonl"
        result = self.run_command("run", self.session, "--", *self.command("run", other, "--", "env"))
        told = [line.split("=", 1) for line in result.stdout.splitlines() if line.startswith("SESSIONLOCK_")]
        self.assertEqual(sorted(name for name, _ in told), [f"SESSIONLOCK_{name}" for name in ("ID", "LOCK", "SESSION")])
        self.assertEqual(dict(told)["SESSIONLOCK_SESSION"], str(other))

    def test_a_run_that_was_started_by_one_that_has_ended_is_not_nested(self):
        self.environment["SESSIONLOCK_ID"] = "0" * 32
        self.environment["SESSIONLOCK_SESSION"] = str(self.session)
        self.assertStatus(self.run_command("run", self.session, "--", "true"), 0)

    def test_of_many_at_once_only_one_runs_at_a_time(self):
        inside = self.folder / "inside"
        script = f"mkdir {inside} && rmdir {inside}"
        writers = [self.start("run", "--timeout", "inf", self.session, "--", "sh", "-c", script) for _ in range(20)]
        for writer in writers:
            status, _, error = self.finish(writer)
            self.assertEqual(status, 0, error)


class Signals(Case):
    def test_every_forwarded_signal_reaches_the_command(self):
        wrapper = self.start("run", self.session, *self.reporter())
        self.started_pid()
        for number in [*(one for one in SIGNALS if one != signal.SIGTERM), signal.SIGTERM]:
            wrapper.send_signal(number)
            wait_until(f"{number.name} arrives", lambda: number.name in self.logged())
        self.assertEqual(self.finish(wrapper)[0], 5)
        self.assertEqual(self.logged()[2:].count("SIGTERM"), 1)
        self.assertFalse(self.lock.exists())

    def test_a_signal_that_ends_the_command_gives_the_lock_up(self):
        wrapper = self.start("run", self.session, "--", "sh", "-c", "echo up; exec sleep 1000")
        self.assertEqual(wrapper.stdout.readline(), b"up\n")
        wrapper.terminate()
        self.assertEqual(self.finish(wrapper)[0], 128 + signal.SIGTERM)
        self.assertFalse(self.lock.exists())

    def test_a_signal_while_it_waits_ends_it_by_that_signal(self):
        holder = self.hold()
        for number in SIGNALS:
            waiter = self.start("run", "-v", "--timeout", "inf", self.session, "--", "true")
            waiter.stderr.readline()
            waiter.send_signal(number)
            self.assertEqual(self.finish(waiter)[0], -number)
        self.assertEqual(self.status()["pid"], holder.pid)

    def test_a_signal_at_any_moment_leaves_neither_a_lock_nor_a_program_behind(self):
        for step in range(60):
            self.log.unlink(missing_ok=True)
            wrapper = self.start("run", self.session, "--", "sh", "-c", f"echo pid $$ > {self.log}; exec sleep 1000")
            time.sleep(step * 0.0005)
            wrapper.terminate()
            self.assertIn(self.finish(wrapper)[0], (-signal.SIGTERM, 128 + signal.SIGTERM))
            self.assertFalse(self.lock.exists())
            if len(self.logged()) == 2:
                self.assertFalse(command.is_running(int(self.logged()[1])))


class Terminal(Case):
    """With a terminal of its own, as its foreground process group."""

    def start_at_terminal(self, *arguments):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = subprocess.Popen(
            self.command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment, cwd=self.folder,
            start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(theirs)
        self.addCleanup(self.end, process)
        return process, ours

    def test_ctrl_c_reaches_the_command_once(self):
        wrapper, keys = self.start_at_terminal("run", self.session, *self.reporter())
        self.started_pid()
        os.write(keys, b"\x03")
        wait_until("it arrives", lambda: "SIGINT" in self.logged())
        # What a forwarder had to say would have been said before it forwards this.
        wrapper.send_signal(signal.SIGTERM)
        wrapper.wait(command.PATIENCE)
        self.assertEqual(self.logged()[2:], ["SIGINT", "SIGTERM"])
        self.assertFalse(self.lock.exists())

    def test_a_hang_up_reaches_the_command_though_only_the_leader_of_the_session_is_told(self):
        wrapper, line = self.start_at_terminal("run", self.session, *self.reporter())
        self.started_pid()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, line)  # closes the terminal's other side
        os.close(nothing)
        wait_until("it arrives", lambda: "SIGHUP" in self.logged())
        wrapper.send_signal(signal.SIGTERM)
        wrapper.wait(command.PATIENCE)
        self.assertEqual(self.logged()[2:4], ["SIGHUP", "SIGTERM"])
        self.assertFalse(self.lock.exists())

    def test_ctrl_z_stops_both_and_both_go_on(self):
        # Not the leader of its session: orphaned process groups do not stop (setpgid(2)).
        shell = ["bash", "-ic", '"$@"; echo stopped; fg', "bash"]
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = subprocess.Popen(
            [*shell, *self.command("run", self.session, *self.reporter())], stdin=theirs, stdout=theirs, stderr=theirs,
            env=self.environment, cwd=self.folder, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(theirs)
        self.addCleanup(self.end, process)
        program = self.started_pid()
        self.addCleanup(lambda: command.is_running(program) and os.kill(program, signal.SIGKILL))
        wrapper = self.status()["pid"]
        os.kill(program, 0)
        os.write(ours, b"\x1a")
        wait_until("both stopped or went on", lambda: b"stopped" in os.read(ours, 4096))
        wait_until("the program runs again", lambda: command.state_of(program) == "S")
        wait_until("the wrapper runs again", lambda: command.state_of(wrapper) == "S")
        os.kill(wrapper, signal.SIGTERM)
        wait_until("the program has ended", lambda: not command.is_running(program))
        wait_until("the lock is gone", lambda: not self.lock.exists())


# What starts a program, and the arguments before it.
STARTERS = [("run", "s.jsonl"), ("gate", "g.lock"), ("pidfile", "claim", "p.pid")]


class AsPid1(Case):
    ENTER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

    # Leaves orphans behind, and prints which processes there are besides pid 1 and itself once they should be gone.
    ORPHANS = """
import os, time
for _ in range(3):
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.waitpid(child, 0)
deadline = time.monotonic() + 20
def others():
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
while others() and time.monotonic() < deadline:
    time.sleep(0.01)
print(others())
"""

    def setUp(self):
        super().setUp()
        if subprocess.run([*self.ENTER, "true"], capture_output=True).returncode != 0:
            self.skip_aloud("a PID namespace of one's own is not allowed here")

    def test_it_reaps_the_orphans_that_its_command_leaves(self):
        for starter in STARTERS:
            starting = self.command(*starter, "--", sys.executable, "-c", self.ORPHANS)
            result = subprocess.run([*self.ENTER, *starting], capture_output=True, text=True, cwd=self.folder,
                                    env=self.environment, timeout=command.PATIENCE)
            self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "[]\n", ""), starter)

    def test_orphans_that_end_while_it_waits_for_the_lock_are_reaped(self):
        self.hold()
        script = 'sleep 0.05 & exec "$@"'
        namespace = subprocess.Popen(
            [*self.ENTER, "sh", "-c", script, "sh", *self.command("run", "--timeout", "inf", self.session, "--", "true")],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, process_group=0,
        )
        self.addCleanup(self.end, namespace)

        def children_of(parent):
            listed = subprocess.run(["ps", "--ppid", str(parent), "-o", "pid=,comm="], capture_output=True, text=True).stdout
            return [line.split(maxsplit=1) for line in listed.splitlines()]

        def is_alone():
            first = children_of(namespace.pid)
            return [name for _, name in first] == ["sessionlock"] and children_of(first[0][0]) == []

        wait_until("pid 1 waits and has no child left", is_alone)


class Limits(Case):
    def test_a_program_that_cannot_be_started_is_named_with_the_limit_that_may_be_meant(self):
        if os.geteuid() != 0:
            self.skip_aloud("only root can become a user whose processes are limited")
        self.folder.chmod(0o777)
        become = ["setpriv", "--reuid", "23456", "--clear-groups", "bash", "-c", 'ulimit -u 1; exec "$@"', "bash"]
        # The leak sanitizer would need a process of its own.
        sanitizer = self.environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
        for starter in STARTERS:
            result = subprocess.run([*become, *self.command(*starter, "--", "true")], capture_output=True, text=True,
                                    cwd=self.folder, env={**self.environment, "ASAN_OPTIONS": sanitizer},
                                    timeout=command.PATIENCE)
            self.assertComplaint(result, 126, "cannot run 'true'", "ulimit -u")
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    command.main()
