"""`--mode` and SESSIONLOCK_MODE, and what a user is told who may not read a lock."""

import os
import pathlib
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import DONE, LOCKED, NO_PERMISSION, USAGE, wait_until

# Users and a group that the machine need not know.
OWNER, MEMBER, TEAM = 23451, 23452, 23453


def mode_of(path):
    return stat.S_IMODE(pathlib.Path(path).stat().st_mode)


class Modes(command.Case):
    def appended(self, *options, **variables):
        """The modes of a new session and its lock, under an umask that would take everything from others."""
        session = self.folder / f"{len(list(self.folder.iterdir()))}.jsonl"
        process = self.start("append", "--hold", *options, session, umask=0o077, env={**self.environment, **variables})
        process.stdin.write(b"1\n")
        process.stdin.flush()
        wait_until("the record is written", lambda: session.exists() and session.stat().st_size == 2)
        modes = mode_of(session), mode_of(f"{session}.lock")
        self.assertEqual(self.finish(process)[0], DONE)
        return modes

    def test_a_new_session_and_its_lock_have_the_mode_that_is_given_but_nobody_else_writes_the_lock(self):
        self.assertEqual(self.appended(), (0o600, 0o600))
        self.assertEqual(self.appended("--mode", "0660"), (0o660, 0o640))
        self.assertEqual(self.appended(SESSIONLOCK_MODE="666"), (0o666, 0o644))
        self.assertEqual(self.appended("--mode=0600", SESSIONLOCK_MODE="0666"), (0o600, 0o600))
        self.assertEqual(self.appended(SESSIONLOCK_MODE=""), (0o600, 0o600))

    def test_run_and_gate_take_a_mode(self):
        for arguments in (["run", "--mode", "0644", self.session], ["gate", "--mode", "0644", self.lock]):
            result = self.run_command(*arguments, "--", "stat", "-c", "%a", self.lock)
            self.assertEqual((result.returncode, result.stdout), (DONE, "644\n"), result.stderr)

    def test_a_mode_that_cannot_be_meant_is_refused_and_the_message_says_where_it_comes_from(self):
        calls = (["run", "--label", "--mode", self.session, "--", "true"], ["append", self.session], ["gate", self.lock, "--", "true"])
        for mode, words in (("0777", "mode 0777 cannot be used"), ("0400", "0600 to 0666"), ("u+rw", "'u+rw' is no mode")):
            environment = {**self.environment, "SESSIONLOCK_MODE": mode}
            for name, *rest in calls:
                given = self.run_command(name, "--mode", mode, *rest)
                self.assertComplaint(given, USAGE, f"sessionlock: --mode: {words}" if mode != "0400" else words)
                found = self.run_command(name, *rest, env=environment)
                self.assertComplaint(found, USAGE, "sessionlock: SESSIONLOCK_MODE: ", words)
                self.assertStatus(self.run_command(name, "--help", env=environment), DONE)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_bad_mode_in_the_environment_does_not_concern_what_makes_no_lock(self):
        self.environment["SESSIONLOCK_MODE"] = "bad"
        for arguments in (["status", self.session], ["wait", self.session], ["list", self.folder], ["clean", self.folder]):
            self.assertStatus(self.run_command(*arguments), DONE)


class Users(command.Case):
    HELP = (f"it belongs to user {OWNER} and group {TEAM} and has mode 0600; ask as that user, or make later locks readable: "
            "let a common group write the session, or lock it with --mode 0644 (SESSIONLOCK_MODE=0644)")

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skip_aloud("only root can be several users")
        os.chown(self.folder, 0, TEAM)
        self.folder.chmod(0o2775)

    def call(self, user, *arguments):
        become = ["setpriv", "--reuid", str(user), "--regid", str(TEAM), "--clear-groups"]
        return subprocess.run([*become, *self.command(*arguments)], capture_output=True, text=True, cwd=self.folder,
                              env=self.environment, stdin=subprocess.DEVNULL, timeout=command.PATIENCE)

    def leave_lock(self):
        """The lock of a user whose `run` was killed."""
        self.call(OWNER, "run", self.session, "--", "sh", "-c", "kill -9 $PPID")
        self.assertTrue(self.lock.exists())
        wait_until("its program has ended", lambda: self.status()["owner"] == "dead" and self.status()["removable"])

    def test_who_may_not_read_a_lock_is_told_who_may_and_what_would_help(self):
        self.leave_lock()
        for arguments in (["run", "--timeout", "50ms", self.session, "--", "true"], ["wait", "--timeout", "50ms", self.session]):
            self.assertComplaint(self.call(MEMBER, *arguments), LOCKED, self.HELP)
        asked = self.call(MEMBER, "status", self.session)
        self.assertEqual(asked.returncode, LOCKED)
        self.assertIn(self.HELP, asked.stdout)
        for name in ("list", "clean"):
            self.assertComplaint(self.call(MEMBER, name, self.folder), NO_PERMISSION, str(self.lock), self.HELP)

    def test_a_member_of_the_group_that_writes_the_session_takes_over_what_another_left(self):
        self.session.touch()
        os.chown(self.session, OWNER, TEAM)
        self.session.chmod(0o660)
        self.leave_lock()
        self.assertEqual(mode_of(self.lock), 0o640)
        self.assertStatus(self.call(MEMBER, "run", "--no-wait", self.session, "--", "true"), DONE)

    def test_a_user_appends_under_the_run_of_root_to_a_session_that_everybody_may_write(self):
        self.session.touch()
        self.session.chmod(0o666)
        append = f"echo 1 | setpriv --reuid {OWNER} --clear-groups {command.BINARY} append {self.session}"
        self.assertStatus(self.run_command("run", self.session, "--", "sh", "-c", append), DONE)
        self.assertEqual(self.records(), [1])


if __name__ == "__main__":
    command.main()
