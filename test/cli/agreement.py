"""`status`, `wait` and `run` agree: what keeps a session from being locked has one exit status and the same words in all three."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import CANNOT_CREATE, DONE, FAILED, IO_ERROR, LOCKED, NO_PERMISSION

# Users that the machine need not know.
OWNER, STRANGER = 23451, 23452

# What `run` says: `sessionlock: OPERATION: MESSAGE: PATH (DETAIL)`.
ERROR = re.compile(r"sessionlock: [a-z ]+: (?P<message>[^:]+): /.*?(?: \((?P<detail>.*)\))?\n")


class Case(command.Case):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skip_aloud("only root can be several users, mount, and make files immutable")
        self.folder.chmod(0o755)
        self.directory = self.folder / "d"
        self.directory.mkdir()
        self.inner = self.directory / "s.jsonl"

    def become(self, user):
        return ["setpriv", "--reuid", str(user), "--clear-groups"] if user else []

    def call(self, how, *arguments):
        return subprocess.run([*how, *self.command(*arguments)], capture_output=True, text=True, cwd=self.folder,
                              env=self.environment, stdin=subprocess.DEVNULL, timeout=command.PATIENCE)

    def assertAgree(self, session, status, *words, how=(), options=()):
        """All three fail so, with these words; or all three succeed."""
        seen = self.call(how, "status", "--json", *options, session)
        waited = self.call(how, "wait", "--timeout", "50ms", *options, session)
        ran = self.call(how, "run", "--timeout", "50ms", *options, session, "--", "true")
        statuses = [one.returncode for one in (seen, waited, ran)]
        self.assertEqual(statuses, [status] * 3, (seen.stdout, seen.stderr, waited.stderr, ran.stderr))
        if status in (DONE, LOCKED):
            return
        self.assertEqual(waited.stderr, ran.stderr)
        error = ERROR.fullmatch(ran.stderr)
        self.assertTrue(error, ran.stderr)
        (inspection,) = json.loads(seen.stdout)
        # A session that can have no lock has no inspection either, but an error.
        said = f"{error['message']} ({error['detail']})" if error["detail"] else error["message"]
        if inspection["state"] is None:
            self.assertEqual(seen.stderr, ran.stderr)
        else:
            self.assertEqual(inspection["obstacle"], said)
            self.assertFalse(inspection["removable"])
            self.assertIn(f"but an acquire would fail: {said}.", inspection["explanation"])
        for word in words:
            self.assertIn(word, said)

    def plant_dead_lock_of(self, user, session=None):
        lock = self.plant_dead(session or self.inner)
        os.chown(lock, user, -1)
        lock.chmod(0o644)
        return lock

    @contextlib.contextmanager
    def attribute(self, letter, path):
        if subprocess.run(["chattr", f"+{letter}", path], capture_output=True).returncode != 0:
            self.skip_aloud("this file system has no immutable and append-only files")
        try:
            yield
        finally:
            subprocess.run(["chattr", f"-{letter}", path], check=True)


class Sessions(Case):
    def test_a_session_with_several_names(self):
        self.inner.write_text("{}\n")
        os.link(self.inner, self.directory / "backup.jsonl")
        self.assertAgree(self.inner, FAILED, "more than one name", "--allow-hard-links")
        self.assertAgree(self.inner, DONE, options=["--allow-hard-links"])

    def test_a_session_with_several_names_that_is_locked_under_this_one(self):
        self.hold(self.inner)
        self.inner.write_text("{}\n")
        os.link(self.inner, self.directory / "backup.jsonl")
        self.assertAgree(self.inner, FAILED, "more than one name")
        self.assertAgree(self.inner, LOCKED, options=["--allow-hard-links"])

    def test_a_session_over_whose_name_a_file_is_mounted(self):
        self.inner.write_text("{}\n")
        how = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$0" && exec "$@"', self.inner]
        self.assertAgree(self.inner, FAILED, "more than one name", "mount its directory", how=how)
        self.assertAgree(self.inner, DONE, how=how, options=["--allow-hard-links"])

    def test_a_name_that_leaves_no_room_for_its_locks(self):
        self.assertAgree(self.directory / ("x" * 250), DONE)
        self.assertAgree(self.directory / ("x" * 251), CANNOT_CREATE, "256 bytes", "255")
        self.assertAgree(self.directory / "missing" / ("x" * 251), CANNOT_CREATE, "256 bytes")
        options = ["--lock-directory", self.folder / "locks"]
        self.assertAgree(self.directory / ("x" * 213), DONE, options=options)
        self.assertAgree(self.directory / ("x" * 214), CANNOT_CREATE, "256 bytes", options=options)


class DeadLocks(Case):
    def test_another_users_in_a_sticky_directory(self):
        self.directory.chmod(0o1777)
        self.plant_dead_lock_of(OWNER)
        self.assertAgree(self.inner, NO_PERMISSION, "its directory is sticky", how=self.become(STRANGER))
        self.assertAgree(self.inner, DONE, how=self.become(OWNER))

    def test_another_users_in_a_sticky_directory_of_ones_own(self):
        self.directory.chmod(0o1777)
        os.chown(self.directory, STRANGER, -1)
        self.plant_dead_lock_of(OWNER)
        self.assertAgree(self.inner, DONE, how=self.become(STRANGER))
        self.plant_dead_lock_of(OWNER)
        self.assertAgree(self.inner, DONE)  # as root

    def test_of_a_user_over_whom_the_root_of_a_namespace_has_no_power(self):
        self.directory.chmod(0o1777)
        os.chown(self.directory, STRANGER, -1)
        self.plant_dead_lock_of(OWNER)
        enter = ["unshare", "--user", "--map-root-user"]
        if subprocess.run([*enter, "true"], capture_output=True).returncode != 0:
            self.skip_aloud("a user namespace of one's own is not allowed here")
        self.assertAgree(self.inner, NO_PERMISSION, "its directory is sticky", how=enter)

    def test_an_immutable_one(self):
        with self.attribute("i", self.plant_dead_lock_of(0)):
            self.assertAgree(self.inner, NO_PERMISSION, "the file is immutable")
        self.assertAgree(self.inner, DONE)

    def test_an_append_only_one(self):
        with self.attribute("a", self.plant_dead_lock_of(0)):
            self.assertAgree(self.inner, NO_PERMISSION, "the file is append-only")

    def test_one_in_an_append_only_directory(self):
        self.plant_dead_lock_of(0)
        with self.attribute("a", self.directory):
            self.assertAgree(self.inner, NO_PERMISSION, "its directory is append-only")

    def test_one_in_an_immutable_directory(self):
        self.plant_dead_lock_of(0)
        with self.attribute("i", self.directory):
            self.assertAgree(self.inner, NO_PERMISSION, "Operation not permitted")

    def test_one_in_a_directory_that_may_not_be_written(self):
        self.plant_dead_lock_of(0)
        self.assertAgree(self.inner, NO_PERMISSION, "Permission denied", how=self.become(STRANGER))

    def test_one_over_whose_name_a_file_is_mounted(self):
        lock = self.plant_dead_lock_of(0)
        how = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$0" && exec "$@"', lock]
        self.assertAgree(self.inner, IO_ERROR, "Device or resource busy", "unmount that first", how=how)

    def test_one_on_a_read_only_mount(self):
        self.plant_dead_lock_of(0)
        read_only = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        how = ["unshare", "--mount", "sh", "-c", read_only, self.directory]
        self.assertAgree(self.inner, CANNOT_CREATE, "Read-only file system", how=how)


class Directories(Case):
    def test_in_an_append_only_directory_from_which_no_lock_could_be_removed_again(self):
        with self.attribute("a", self.directory):
            self.assertAgree(self.inner, NO_PERMISSION, "could not be removed again")
            self.assertEqual(list(self.directory.iterdir()), [])

    def test_in_an_immutable_directory(self):
        with self.attribute("i", self.directory):
            self.assertAgree(self.inner, NO_PERMISSION)

    def test_in_a_directory_that_may_not_be_written(self):
        self.assertAgree(self.inner, NO_PERMISSION, "Permission denied", how=self.become(STRANGER))

    def test_that_is_locked_in_a_directory_that_may_not_be_written(self):
        self.hold(self.inner)
        pathlib.Path(f"{self.inner}.lock").chmod(0o644)
        self.assertAgree(self.inner, NO_PERMISSION, "Permission denied", how=self.become(STRANGER))
        self.assertAgree(self.inner, LOCKED)

    def test_below_a_directory_that_may_not_be_written(self):
        self.assertAgree(self.directory / "a/b/s.jsonl", NO_PERMISSION, "Permission denied", how=self.become(STRANGER))

    def test_on_a_read_only_mount(self):
        read_only = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        how = ["unshare", "--mount", "sh", "-c", read_only, self.directory]
        self.assertAgree(self.inner, CANNOT_CREATE, "Read-only file system", how=how)


class Clean(Case):
    def test_a_lock_that_cannot_be_removed_is_not_said_to_be_judged_or_removable(self):
        self.directory.chmod(0o1777)
        self.plant_dead_lock_of(OWNER)
        self.plant_dead_lock_of(STRANGER, self.directory / "own.jsonl")
        how = self.become(STRANGER)
        dry = self.call(how, "clean", "--dry-run", self.directory)
        self.assertEqual((dry.returncode, dry.stderr), (DONE, ""))
        self.assertIn("would remove own.jsonl", dry.stdout)
        self.assertIn("not removed s.jsonl", dry.stdout)
        self.assertIn("but an acquire would fail: Operation not permitted (it cannot be removed: its directory is sticky", dry.stdout)
        self.assertTrue(dry.stdout.endswith("1 lock would be removed, 0 kept, 1 could not be removed\n"), dry.stdout)
        listed = self.call(how, "list", self.directory)
        self.assertIn("2 stale", listed.stdout)
        self.assertIn(", 1 could not be removed", listed.stdout)
        cleaned = self.call(how, "clean", self.directory)
        self.assertComplaint(cleaned, NO_PERMISSION, "its directory is sticky")
        self.assertTrue(cleaned.stdout.endswith("1 lock removed, 0 kept, 1 could not be removed\n"), cleaned.stdout)
        self.assertNotIn("judged", cleaned.stdout)
        self.assertNotIn("would take it over", cleaned.stdout)
        (left,) = json.loads(self.call(how, "list", "--json", self.directory).stdout)["locks"]
        self.assertEqual((left["state"], left["removable"]), ("stale", False))
        self.assertNotIn("removes the stale", self.call(how, "list", self.directory).stdout)


if __name__ == "__main__":
    command.main()
