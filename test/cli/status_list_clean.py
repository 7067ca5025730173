"""`sessionlock status`, `list` and `clean`: what is held, by whom, and what is nobody's."""

import json
import os
import pty
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import IO_ERROR, LOCKED, NO_SUCH_FILE, NOBODY, USAGE, wait_until

MEMBERS = [
    "session", "lockPath", "state", "owner", "pid", "pidAlive", "createdAt", "ageMs", "staleReasons", "removable", "removed",
    "lockId", "label", "host", "obstacle", "explanation",
]


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


class Case(command.Case):
    def json(self, *arguments, status=0):
        result = self.run_command(*arguments)
        self.assertStatus(result, status)
        return json.loads(result.stdout)

    def look(self, status=0):
        (inspection,) = self.json("status", "--json", self.session, status=status)
        return inspection

    def output_at_terminal(self, *arguments):
        """What the command writes to a terminal."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = self.start(*arguments, stdout=theirs, stderr=theirs)
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 4096):
                text += data
        except OSError:  # The other side was closed.
            pass
        process.wait(command.PATIENCE)
        return text.decode()


class Status(Case):
    def test_a_free_session(self):
        inspection = self.look()
        self.assertEqual(list(inspection), MEMBERS)
        self.assertEqual((inspection["session"], inspection["lockPath"]), (str(self.session), str(self.lock)))
        self.assertEqual((inspection["state"], inspection["owner"], inspection["pidAlive"]), ("free", "none", False))
        self.assertEqual((inspection["removable"], inspection["removed"], inspection["staleReasons"]), (False, False, []))
        for name in ("pid", "createdAt", "ageMs", "lockId", "label", "host"):
            self.assertIsNone(inspection[name], name)

    def test_a_held_session(self):
        holder = self.hold(None, "--label", "nightly")
        inspection = self.look(status=LOCKED)
        self.assertEqual(list(inspection), MEMBERS)
        record = json.loads(self.lock.read_text())
        for name in ("pid", "createdAt", "lockId", "label", "host"):
            self.assertEqual(inspection[name], record[name], name)
        self.assertEqual((inspection["state"], inspection["owner"], inspection["pid"]), ("held", "alive", holder.pid))
        self.assertEqual((inspection["pidAlive"], inspection["removable"], inspection["staleReasons"]), (True, False, []))
        self.assertGreaterEqual(inspection["ageMs"], 0)
        self.assertTrue(inspection["explanation"].endswith("."))

    def test_a_dead_owners_lock_is_stale_and_an_acquire_would_succeed(self):
        self.plant_dead()
        inspection = self.look()
        self.assertEqual((inspection["state"], inspection["owner"], inspection["pidAlive"]), ("stale", "dead", False))
        self.assertEqual((inspection["removable"], inspection["removed"]), (True, False))
        self.assertEqual(inspection["staleReasons"], ["dead-pid", "too-old"])
        self.assertTrue(self.lock.exists(), "looking removed it")
        self.assertRegex(self.run_command("status", self.session).stdout, r"\n  reasons +dead-pid too-old\n")

    def test_a_recycled_pid_is_told(self):
        self.plant(pid=os.getpid(), createdAt=now(), starttime=command.start_time(os.getpid()) + 1)
        inspection = self.look()
        self.assertEqual((inspection["state"], inspection["staleReasons"]), ("stale", ["recycled-pid"]))
        self.assertEqual(inspection["pidAlive"], True)

    def test_a_fresh_file_without_an_owner_is_pending_and_an_aged_one_is_stale(self):
        self.plant()
        inspection = self.look(status=LOCKED)
        self.assertEqual((inspection["state"], inspection["owner"]), ("pending", "none"))
        self.assertEqual(inspection["staleReasons"], ["missing-pid", "invalid-createdAt"])
        self.make_old(self.lock)
        self.assertEqual(self.look()["state"], "stale")

    def test_a_node_that_is_no_lock_file_has_no_state_but_an_error(self):
        self.lock.mkdir()
        result = self.run_command("status", "--json", self.session)
        self.assertComplaint(result, IO_ERROR, "not a lock file")
        (inspection,) = json.loads(result.stdout)
        self.assertEqual(list(inspection), [*MEMBERS, "error"])
        self.assertIsNone(inspection["state"])
        self.assertIn("not a lock file", inspection["error"])
        self.assertEqual(inspection["lockPath"], str(self.lock))
        self.assertComplaint(self.run_command("status", self.session), IO_ERROR, "not a lock file")
        self.assertTrue(self.lock.is_dir())

    def test_of_several_sessions_one_that_is_held_decides(self):
        held, free, strange = (self.folder / f"{name}.jsonl" for name in ("held", "free", "strange"))
        self.hold(held)
        (self.folder / "strange.jsonl.lock").mkdir()
        looks = self.json("status", "--json", free, strange, held, status=LOCKED)
        self.assertEqual([look["state"] for look in looks], ["free", None, "held"])
        self.assertStatus(self.run_command("status", free, strange), IO_ERROR)
        self.assertStatus(self.run_command("status", free, self.session), 0)

    def test_a_free_session_that_cannot_be_acquired_is_an_error(self):
        gone = self.folder / "gone"
        gone.mkdir()
        leave = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh"]
        result = subprocess.run([*leave, *self.command("status", "--json", "folder/s.jsonl")], cwd=gone, env=self.environment,
                                text=True, capture_output=True)
        self.assertStatus(result, NO_SUCH_FILE)
        (inspection,) = json.loads(result.stdout)
        self.assertEqual(inspection["state"], "free")

    def test_a_session_in_a_missing_directory_is_free(self):
        self.session = self.folder / "a/b/s.jsonl"
        self.assertEqual(self.look()["state"], "free")
        self.assertFalse((self.folder / "a").exists())

    def test_a_lock_in_a_lock_directory_is_found(self):
        process = self.start("run", "--lock-directory", "locks", self.session, "--", "cat")
        wait_until("the lock is held", lambda: list(self.folder.glob("locks/*.lock")))
        (inspection,) = self.json("status", "--json", "--lock-directory", "locks", self.session, status=LOCKED)
        self.assertEqual((inspection["pid"], inspection["session"]), (process.pid, str(self.session)))
        self.assertEqual(self.look()["state"], "free")

    def test_names_with_brackets_commas_spaces_and_quotes_are_names(self):
        names = ["[a,b].jsonl", "[x]", "a b.jsonl", 'q".jsonl', "ä.jsonl", "list", "run"]
        looks = self.json("status", "--json", *names)
        self.assertEqual([look["session"] for look in looks], [str(self.folder / name) for name in names])

    def test_after_a_separator_a_name_may_begin_like_an_option(self):
        looks = self.json("status", "--json", "--", "-dash.jsonl", "--json")
        self.assertEqual([look["session"] for look in looks], [f"{self.folder}/-dash.jsonl", f"{self.folder}/--json"])

    def test_a_name_that_is_not_utf_8_still_gives_json(self):
        result = self.run_command("status", "--json", os.fsdecode(b"\xff.jsonl"))
        self.assertEqual(json.loads(result.stdout)[0]["session"], f"{self.folder}/\ufffd.jsonl")

    def test_people_are_told_who_since_when_and_what_would_happen(self):
        holder = self.hold(None, "--label", "nightly")
        text = self.run_command("status", self.session).stdout
        for words in (f"pid {holder.pid}", "nightly", "alive", "ago", "an acquire would wait", str(self.lock)):
            self.assertIn(words, text)
        self.assertIn("an acquire would succeed at once", self.run_command("status", self.folder / "free.jsonl").stdout)

    def test_control_characters_in_a_record_do_not_reach_the_terminal(self):
        self.plant(pid=os.getpid(), createdAt=now(), label="\x1b]0;evil\x07", host="\x9b31m\r\n")
        for arguments in (["status", self.session], ["list", self.folder], ["clean", self.folder]):
            text = self.run_command(*arguments).stdout
            self.assertFalse(set(text) & set("\x1b\x07\x9b\r"), text)
            self.assertIn("evil", text)


class Colour(Case):
    def test_there_is_colour_on_a_terminal_and_nowhere_else(self):
        self.plant_dead()
        self.environment["TERM"] = "xterm"
        for arguments in (["status", self.session], ["list", self.folder], ["clean", "--dry-run", self.folder]):
            self.assertIn("\x1b[", self.output_at_terminal(*arguments))
            self.assertNotIn("\x1b", self.run_command(*arguments).stdout)

    def test_no_color_and_dumb_terminals_are_respected(self):
        self.plant_dead()
        for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
            self.environment.update({"TERM": "xterm", "NO_COLOR": "", name: value})
            self.assertNotIn("\x1b", self.output_at_terminal("status", self.session))
        self.environment.update({"TERM": "xterm", "NO_COLOR": ""})
        self.assertIn("\x1b[", self.output_at_terminal("status", self.session))


class Directory(Case):
    """A folder with a lock of each kind."""

    def setUp(self):
        super().setUp()
        self.held = self.folder / "held.jsonl"
        self.holder = self.hold(self.held)
        self.dead = self.plant_dead(self.folder / "dead.jsonl")
        self.young = self.plant(self.folder / "young.jsonl")
        self.aged = self.plant(self.folder / "aged.jsonl")
        self.make_old(self.aged)
        (self.folder / "below").mkdir()
        self.below = self.plant_dead(self.folder / "below/dead.jsonl")
        (self.folder / "Cargo.lock").write_text("")
        self.make_old(self.folder / "Cargo.lock")

    def states(self, locks):
        return {os.path.relpath(lock["lockPath"], self.folder): lock["state"] for lock in locks}

    here = {"aged.jsonl.lock": "stale", "dead.jsonl.lock": "stale", "held.jsonl.lock": "held", "young.jsonl.lock": "pending"}


class List(Directory):
    def test_json_has_every_lock_and_changes_nothing(self):
        report = self.json("list", "--json", self.folder)
        self.assertEqual(list(report), ["directory", "locks", "removed", "errors"])
        self.assertEqual((report["directory"], report["removed"], report["errors"]), (str(self.folder), [], []))
        self.assertEqual(self.states(report["locks"]), self.here)
        for lock in report["locks"]:
            self.assertEqual(list(lock), MEMBERS)
        self.assertTrue(self.dead.exists())

    def test_directories_below_are_listed_when_asked_for(self):
        report = self.json("list", "--json", "--recursive", self.folder)
        self.assertEqual(self.states(report["locks"]), {"below/dead.jsonl.lock": "stale", **self.here})
        text = self.run_command("list", "--recursive", self.folder).stdout
        self.assertIn(f"'sessionlock clean --recursive {self.folder}' removes the stale", text)

    def test_people_get_an_aligned_table(self):
        lines = self.run_command("list", self.folder).stdout.splitlines()
        heading, rows, summary = lines[0], lines[1:-1], lines[-1]
        self.assertEqual(len(rows), len(self.here))
        column = heading.index("SESSION")
        self.assertEqual([row[column:] for row in rows], ["aged.jsonl", "dead.jsonl", "held.jsonl", "young.jsonl"])
        self.assertIn(str(self.holder.pid), rows[2])
        self.assertIn("dead-pid", rows[1])
        self.assertIn("4 locks: 1 held, 2 stale, 1 pending", summary)

    def test_an_entry_that_is_no_lock_file_is_an_error_and_the_others_are_listed(self):
        (self.folder / "strange.jsonl.lock").mkdir()
        result = self.run_command("list", "--json", self.folder)
        self.assertComplaint(result, IO_ERROR, "strange.jsonl.lock")
        report = json.loads(result.stdout)
        self.assertEqual(self.states(report["locks"]), self.here)
        (error,) = report["errors"]
        self.assertEqual(error["path"], str(self.folder / "strange.jsonl.lock"))
        self.assertIn("not a lock file", error["error"])

    def test_another_suffix_can_be_given(self):
        (self.folder / "notes.txt.lock").write_text("{}")
        report = self.json("list", "--json", "--suffix", ".txt.lock", self.folder)
        self.assertEqual(self.states(report["locks"]), {"notes.txt.lock": "pending"})

    def test_a_missing_directory_is_named(self):
        for name in ("list", "clean"):
            self.assertComplaint(self.run_command(name, self.folder / "none"), NO_SUCH_FILE, "none")
            self.assertComplaint(self.run_command(name, "--json", self.folder / "none"), NO_SUCH_FILE, "none")

    def test_an_empty_directory_has_no_locks(self):
        (self.folder / "empty").mkdir()
        self.assertEqual(self.json("list", "--json", self.folder / "empty")["locks"], [])
        self.assertIn("No locks", self.run_command("list", self.folder / "empty").stdout)

    def test_where_only_other_locks_are_found_the_suffix_is_mentioned(self):
        folder = self.folder / "others"
        (folder / "below").mkdir(parents=True)
        (folder / "Cargo.lock").touch()
        for arguments in (["list"], ["clean"], ["clean", "--dry-run"]):
            result = self.run_command(*arguments, folder)
            self.assertEqual(result.stdout, f"No locks (*.jsonl.lock) in {folder} (another name there ends in .lock; "
                                            "--suffix chooses which are looked at)\n")
        (folder / "below/a.log.lock").touch()
        self.assertIn("2 other names there end in .lock", self.run_command("list", "--recursive", folder).stdout)
        self.assertNotIn("other", self.run_command("list", "--suffix", ".lock", folder).stdout)
        self.assertNotIn("suffix", self.run_command("list", self.folder).stdout)

    def test_entries_that_cannot_be_judged_are_counted(self):
        folder = self.folder / "hostile"
        folder.mkdir()
        (folder / "d.jsonl.lock").mkdir()
        for name in ("list", "clean"):
            result = self.run_command(name, folder)
            self.assertStatus(result, IO_ERROR)
            self.assertIn("No locks (*.jsonl.lock) in ", result.stdout)
            self.assertIn(", 1 entry could not be judged", result.stdout)
        (folder / "dead.jsonl.lock").write_text(json.dumps({"pid": command.NOBODY, "createdAt": "2026-01-01T00:00:00Z"}))
        self.assertIn("1 stale, 0 pending, 1 entry could not be judged", self.run_command("list", folder).stdout)
        self.assertIn("1 lock would be removed, 0 kept, 1 entry could", self.run_command("clean", "--dry-run", folder).stdout)
        self.assertIn("1 lock removed, 0 kept, 1 entry could", self.run_command("clean", folder).stdout)


class Clean(Directory):
    def left(self):
        return {os.path.relpath(path, self.folder) for path in self.folder.rglob("*.lock")}

    def test_what_is_nobodys_is_removed_and_the_rest_is_kept(self):
        report = self.json("clean", "--json", self.folder)
        self.assertEqual(list(report), ["directory", "locks", "removed", "errors"])
        self.assertEqual(set(self.states(report["locks"])), set(self.here))
        removed = {os.path.basename(lock["lockPath"]): lock["staleReasons"] for lock in report["removed"]}
        self.assertEqual(removed, {"aged.jsonl.lock": ["missing-pid", "invalid-createdAt"], "dead.jsonl.lock": ["dead-pid", "too-old"]})
        self.assertEqual([lock["removed"] for lock in report["locks"]], [True, True, False, False])
        self.assertEqual(self.left(), {"held.jsonl.lock", "young.jsonl.lock", "below/dead.jsonl.lock", "Cargo.lock"})

    def test_a_dry_run_removes_nothing(self):
        before = self.left()
        report = self.json("clean", "--dry-run", "--json", self.folder)
        self.assertEqual(report["removed"], [])
        self.assertEqual([lock["removable"] for lock in report["locks"]], [True, True, False, False])
        self.assertIn("2 locks would be removed, 2 kept", self.run_command("clean", "--dry-run", self.folder).stdout)
        self.assertEqual(self.left(), before)

    def test_directories_below_are_cleaned_when_asked_for(self):
        self.assertIn("3 locks removed, 2 kept", self.run_command("clean", "--recursive", self.folder).stdout)
        self.assertFalse(self.below.exists())

    def test_people_are_told_what_was_removed_and_why(self):
        text = self.run_command("clean", self.folder).stdout
        self.assertIn("removed dead.jsonl (dead-pid too-old)", text)
        self.assertIn("kept held.jsonl", text)
        self.assertIn(f"pid {self.holder.pid}", text)

    def test_age_decides_only_where_nothing_else_can(self):
        # Another program's record without a start time: its pid lives, so nothing but its age speaks against it.
        foreign = self.plant(self.folder / "foreign.jsonl", pid=os.getpid(), createdAt="2026-01-01T00:00:00Z")
        self.make_old(foreign)
        self.assertEqual(self.json("clean", "--json", "--stale-after", "inf", self.folder)["removed"][-1]["pid"], NOBODY)
        self.assertTrue(foreign.exists())
        self.assertEqual([lock["pid"] for lock in self.json("clean", "--json", "--stale-after", "1s", self.folder)["removed"]], [os.getpid()])
        self.assertIn("held.jsonl.lock", self.left())

    def test_a_suffix_that_would_take_in_other_programs_files_is_refused(self):
        for suffix in (".lock", "lock", "", ".jsonl"):
            self.assertComplaint(self.run_command("clean", f"--suffix={suffix}", self.folder), USAGE)
        self.assertIn("Cargo.lock", self.left())


class Progress(Case):
    def test_no_progress_is_shown_where_nobody_looks(self):
        for n in range(50):
            self.plant_dead(self.folder / f"{n}.jsonl")
        result = self.run_command("clean", self.folder)
        self.assertEqual(result.stderr, "")
        self.assertIn("50 locks removed", result.stdout)


if __name__ == "__main__":
    command.main()
