"""`sessionlock wait` and `release`, and what all commands have in common: help, exit statuses, output that cannot be written."""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import CANNOT_CREATE, FAILED, IO_ERROR, LOCKED, NO_PERMISSION, USAGE, wait_until

COMMANDS = ["run", "append", "status", "list", "clean", "wait", "watch", "release", "doctor", "pidfile claim", "pidfile status", "pidfile signal",
            "pidfile stop", "pidfile remove", "sentinel", "gate"]


def as_nobody(case, *arguments, **options):
    """Runs the command as another user."""
    if os.geteuid() != 0:
        case.skip_aloud("becoming another user needs root")
    demote = lambda: (os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534))
    return case.run_command(*arguments, preexec_fn=demote, cwd="/", **options)


class Wait(command.Case):
    def test_a_free_session_is_not_waited_for(self):
        result = self.run_command("wait", self.session)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "", ""))
        self.assertStatus(self.run_command("wait", self.folder / "a/b/s.jsonl"), 0)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_it_returns_when_the_session_is_released_and_does_not_take_it(self):
        holder = self.start("run", self.session, "--", "cat")
        wait_until("the lock is there", self.lock.exists)
        waiter = self.start("wait", "--timeout", "inf", self.session)
        self.assertEqual(self.status()["pid"], holder.pid)
        self.assertIsNone(waiter.poll())
        self.finish(holder, b"")
        self.assertEqual(self.finish(waiter), (0, "", ""))
        self.assertFalse(self.lock.exists())

    def test_it_returns_when_the_owner_is_gone_and_leaves_the_lock(self):
        holder = self.hold()
        waiter = self.start("wait", "--timeout", "inf", self.session)
        os.killpg(holder.pid, signal.SIGKILL)
        self.assertEqual(self.finish(waiter)[0], 0)
        self.assertEqual(self.status()["state"], "stale")

    def test_a_wait_that_runs_out_says_who_has_it(self):
        holder = self.hold()
        result = self.run_command("wait", "--timeout", "50ms", self.session)
        self.assertComplaint(result, LOCKED, "timeout 50ms", f"pid={holder.pid}")


class Release(command.Case):
    def test_a_dead_owners_acquisition_is_removed(self):
        holder = self.hold()
        lock_id = self.status()["lockId"]
        os.killpg(holder.pid, signal.SIGKILL)
        wait_until("the lock is nobody's", lambda: self.status()["state"] == "stale")
        result = self.run_command("release", "--id", lock_id, self.session)
        self.assertStatus(result, 0)
        self.assertIn(str(holder.pid), result.stdout)
        self.assertFalse(self.lock.exists())

    def test_while_the_owner_may_be_alive_it_refuses_and_says_why(self):
        holder = self.hold()
        result = self.run_command("release", "--id", self.status()["lockId"], self.session)
        self.assertStatus(result, LOCKED)
        self.assertIn(f"pid={holder.pid} alive", result.stderr)
        self.assertIn("still has the kernel lock", result.stderr)
        self.assertTrue(self.lock.exists())

    def test_with_force_a_live_owners_acquisition_is_removed(self):
        self.hold()
        self.assertStatus(self.run_command("release", "--force", "--id", self.status()["lockId"], self.session), 0)
        self.assertFalse(self.lock.exists())

    def test_another_acquisition_than_the_named_is_never_removed(self):
        self.hold()
        for force in ([], ["--force"]):
            result = self.run_command("release", *force, "--id", "0" * 32, self.session)
            self.assertComplaint(result, FAILED, self.status()["lockId"])
        self.assertTrue(self.lock.exists())

    def test_a_pid_names_another_programs_lock_and_no_lock_of_ours(self):
        self.plant(pid=command.NOBODY, createdAt="2026-01-01T00:00:00Z")
        self.assertComplaint(self.run_command("release", "--pid", "1", self.session), FAILED, str(command.NOBODY))
        self.assertComplaint(self.run_command("release", "--id", "0" * 32, self.session), FAILED, "no lock id")
        self.assertStatus(self.run_command("release", "--pid", command.NOBODY, self.session), 0)
        self.assertFalse(self.lock.exists())
        holder = self.hold()
        self.assertStatus(self.run_command("release", "--force", "--pid", holder.pid, self.session), FAILED)
        self.assertTrue(self.lock.exists())

    def test_a_live_pid_of_another_program_needs_force(self):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.plant(pid=os.getpid(), createdAt=now, starttime=command.start_time(os.getpid()))
        self.assertStatus(self.run_command("release", "--pid", os.getpid(), self.session), LOCKED)
        self.assertStatus(self.run_command("release", "--force", "--pid", os.getpid(), self.session), 0)

    def test_a_lock_inside_a_guarded_write_is_busy_and_the_pid_to_kill_is_named(self):
        self.hold()
        with open(self.lock) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as a guarded write has it
            result = self.run_command("release", "--force", "--id", self.status()["lockId"], self.session)
        self.assertStatus(result, LOCKED)
        self.assertIn(f"pid {os.getpid()}", result.stderr)
        self.assertTrue(self.lock.exists())

    def test_a_lock_that_cannot_be_read_is_refused_under_the_cause(self):
        self.hold()
        lock_id = self.status()["lockId"]
        self.folder.chmod(0o777)
        self.assertComplaint(as_nobody(self, "release", "--force", "--id", lock_id, self.session), NO_PERMISSION, "cannot be read")
        self.assertTrue(self.lock.exists())

    def test_an_owner_that_ended_and_left_the_lock_to_its_program_is_told_apart(self):
        holder = self.hold()
        children = pathlib.Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        wait_until("its program runs", children.read_text)  # the lock is there first
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(command.PATIENCE)
        status = self.run_command("status", self.session)
        self.assertStatus(status, LOCKED)
        self.assertIn("ended; a program it gave the lock to runs on", status.stdout)
        result = self.run_command("append", "--no-wait", self.session, input="1\n")
        self.assertComplaint(result, LOCKED, f"pid={holder.pid} ended, a program it gave the lock to runs on")
        self.assertNotIn("alive", result.stderr)

    def test_where_there_is_no_lock_that_is_an_error(self):
        self.assertComplaint(self.run_command("release", "--id", "0" * 32, self.session), FAILED, "no lock")

    def test_exactly_one_acquisition_must_be_named(self):
        for names in ([], ["--id", "0" * 32, "--pid", "7"], ["--id", "7"], ["--id", ""], ["--pid", "0"], ["--pid", "-1"], ["--pid", "x"]):
            result = self.run_command("release", *names, self.session)
            self.assertComplaint(result, USAGE)
            self.assertLess(len(result.stderr), 200)


class CommandLine(command.Case):
    def test_help_and_version_are_answers(self):
        for arguments in (["--help"], ["--version"], *([*name.split(), "--help"] for name in COMMANDS)):
            result = self.run_command(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertTrue(result.stdout)
        for name in COMMANDS:
            self.assertIn(f"  {name.split()[0]} ", self.run_command("--help").stdout)
        self.assertIn("SESSION -- COMMAND [ARG...]", self.run_command("run", "--help").stdout)

    def test_the_manual_page_tells_every_command_and_option(self):
        page = (command.SOURCE / "docs/sessionlock.1").read_text().replace("\\-", "-")
        for name in COMMANDS:
            words = self.run_command(*name.split(), "--help").stdout.split()
            for option in {word.split(",")[-1] for word in words if word.startswith("-") and "--" in word} - {"--help", "--"}:
                self.assertIn(option.rstrip(".,"), page, name)
            self.assertIn(f".SS {name}", page)

    def test_the_manual_page_has_no_mistakes(self):
        groff = shutil.which("groff")
        if not groff:
            self.skip_aloud("there is no groff here")
        page = str(command.SOURCE / "docs/sessionlock.1")
        result = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_what_cannot_be_meant_is_a_usage_error_of_one_line(self):
        for arguments in (
            [], ["bogus"], ["--bogus"], ["status"], ["status", "--bogus", "s"], ["wait"], ["wait", "a", "b"], ["list"],
            ["list", "a", "b"], ["clean", "--stale-after", "soon", "."], ["append"], ["append", "--timeout", "1s", "--no-wait", "s"],
        ):
            self.assertComplaint(self.run_command(*arguments), USAGE, "--help")

    def test_an_unknown_command_is_named(self):
        for arguments in (["bogus"], ["bogus", "s.jsonl"], ["runn", "s.jsonl", "--", "true"]):
            self.assertComplaint(self.run_command(*arguments), USAGE, arguments[0], "--help")

    def test_a_locks_name_is_not_taken_for_a_session(self):
        holder = self.hold()
        text = self.lock.read_text()
        for arguments in (["run", self.lock, "--", "true"], ["append", self.lock], ["status", self.lock], ["wait", self.lock],
                          ["release", "--pid", holder.pid, self.lock]):
            self.assertComplaint(self.run_command(*arguments, input="1\n"), USAGE, str(self.session) + "'")
        self.assertEqual(self.lock.read_text(), text)

    def test_an_empty_session_name_is_a_usage_error(self):
        for arguments in (["run", "", "--", "true"], ["wait", ""], ["status", ""]):
            self.assertComplaint(self.run_command(*arguments), USAGE)


class Failures(command.Case):
    def test_output_that_cannot_be_written_is_an_output_error(self):
        with open("/dev/full", "w") as full:
            for arguments in (["status", self.session], ["list", "--json", self.folder], ["--help"]):
                result = subprocess.run(self.command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True)
                self.assertComplaint(result, IO_ERROR, "standard output")

    def test_a_directory_without_permission_is_a_permission_error(self):
        self.folder.chmod(0o755)
        for arguments in (["run", self.session, "--", "true"], ["append", self.session]):
            self.assertComplaint(as_nobody(self, *arguments, input="1\n"), NO_PERMISSION)
        self.folder.chmod(0o700)
        self.assertComplaint(as_nobody(self, "list", self.folder), NO_PERMISSION)

    def test_a_lock_that_cannot_be_read_counts_as_held_and_the_cause_is_named(self):
        self.folder.chmod(0o777)
        self.hold()
        result = as_nobody(self, "run", "--timeout", "50ms", self.session, "--", "true")
        self.assertComplaint(result, LOCKED, "Permission denied")

    def mounted(self, options, *arguments, prepare="true"):
        """Runs the command in a mount namespace where the folder is a small file system."""
        script = f'mount -t tmpfs -o {options.replace(",ro", "")} tmpfs "$0" || exit 200; {prepare}; '
        script += 'mount -o remount,ro "$0" || exit 200; ' if ",ro" in options else ""
        script += '"$@"; status=$?; ls -A "$0" >&1; exit $status'
        result = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, str(self.folder), *self.command(*arguments)], input='{"n":1}\n',
            capture_output=True, text=True, env=self.environment,
        )
        if result.returncode in (1, 200) and "sessionlock" not in result.stderr:
            self.skip_aloud("mounting needs a privilege that this machine does not give")
        return result

    def test_a_read_only_file_system_leaves_no_lock(self):
        for arguments in (["run", self.session, "--", "true"], ["append", self.session]):
            result = self.mounted("size=1m,ro", *arguments)
            self.assertComplaint(result, CANNOT_CREATE, "Read-only")
            self.assertEqual(result.stdout, "")

    def test_the_status_of_a_free_session_that_cannot_be_locked_says_so(self):
        result = self.mounted("size=1m,ro", "status", self.session)
        self.assertStatus(result, CANNOT_CREATE)
        self.assertIn("an acquire would fail: Read-only file system", result.stdout)
        self.folder.chmod(0o755)
        for session in (self.session, self.folder / "a/b/s.jsonl"):
            result = as_nobody(self, "status", session)
            self.assertStatus(result, NO_PERMISSION)
            self.assertIn("an acquire would fail: Permission denied", result.stdout)
        self.assertStatus(self.run_command("status", self.session, self.folder / "a/b/s.jsonl"), 0)

    def test_a_full_file_system_leaves_no_lock(self):
        for arguments in (["run", self.session, "--", "true"], ["append", self.session]):
            result = self.mounted("size=64k", *arguments, prepare='cat /dev/zero > "$0/filler" 2>/dev/null')
            self.assertComplaint(result, IO_ERROR, "No space left")
            self.assertEqual(result.stdout, "filler\n")

    def test_a_dead_owners_lock_is_told_and_left_on_a_read_only_file_system(self):
        plant = f'''printf '{{"pid":{command.NOBODY},"starttime":1}}' > "$0/s.jsonl.lock"'''
        result = self.mounted("size=1m,ro", "clean", "--json", self.folder, prepare=plant)
        self.assertStatus(result, CANNOT_CREATE)
        report = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
        self.assertEqual([lock["state"] for lock in report["locks"]], ["stale"])
        self.assertEqual((len(report["errors"]), report["removed"]), (1, []))


if __name__ == "__main__":
    command.main()
