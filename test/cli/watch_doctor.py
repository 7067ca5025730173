"""`sessionlock watch` and `doctor`."""

import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import CANNOT_CREATE, IO_ERROR, NO_SUCH_FILE, USAGE


class Watch(command.Case):
    def watch(self, *options, **how):
        """A watch that has begun: it has told of the lock that was there."""
        self.plant_named("0", os.getpid())
        process = self.start("watch", *options, self.folder, **how)
        self.assertIn("0.jsonl", process.stdout.readline().decode())
        return process

    def plant_named(self, name, pid):
        record = {"pid": pid, "createdAt": "2026-01-01T00:00:00Z", "starttime": command.start_time(pid)}
        (self.folder / f"{name}.jsonl.lock").write_text(json.dumps(record))

    def line(self, process):
        return process.stdout.readline().decode()

    def test_it_tells_who_acquires_and_releases_as_it_happens(self):
        watch = self.watch()
        holder = self.start("run", "--label", "nightly", self.session, "--", "cat")
        line = self.line(watch)
        self.assertRegex(line, rf"^20\S+Z  acquired +s\.jsonl  pid {holder.pid} label \"nightly\"\n$")
        self.finish(holder, b"")
        self.assertRegex(self.line(watch), rf"released +s\.jsonl  pid {holder.pid} label \"nightly\" age ")

    def test_it_tells_an_owners_death_and_the_taking_over(self):
        watch = self.watch("--json")
        holder = self.hold()
        event = json.loads(self.line(watch))
        self.assertEqual((event["event"], event["pid"], event["session"]), ("acquired", holder.pid, str(self.session)))
        self.assertRegex(event["lockId"], "^[0-9a-f]{32}$")
        self.assertIn("still has the kernel lock", event["explanation"])
        os.killpg(holder.pid, signal.SIGKILL)
        event = json.loads(self.line(watch))
        self.assertEqual((event["event"], event["pid"]), ("owner-died", holder.pid))
        self.assertStatus(self.run_command("run", self.session, "--", "true"), 0)
        kinds = [json.loads(self.line(watch))["event"] for _ in range(3)]
        self.assertEqual(kinds, ["reclaimed", "acquired", "released"])

    def test_it_tells_that_a_program_runs_on_with_its_dead_owners_lock_and_the_label(self):
        watch, other = self.watch(), self.watch("--json")
        running = self.folder / "running"
        holder = self.start("run", "--label", "nightly", self.session, "--", "sh", "-c", f"touch '{running}'; exec sleep 1000")
        self.assertIn("acquired", self.line(watch))
        self.assertEqual(json.loads(self.line(other))["label"], "nightly")
        command.wait_until("the program runs", running.exists)
        holder.kill()
        self.assertRegex(self.line(watch), r"owner-died .* label \"nightly\" .*; a program it gave the lock to runs on\n$")
        self.assertEqual(json.loads(self.line(other))["label"], "nightly")

    def test_it_says_why_it_has_to_poll(self):
        script = 'echo 0 >/proc/sys/user/max_inotify_instances || exit 200; exec "$@"'
        watch = subprocess.Popen(["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *self.command("watch", self.folder)],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment)
        words = watch.stderr.readline().decode()
        watch.terminate()
        status, _, _ = self.finish(watch)
        if status in (1, 200):
            self.skip_aloud("a user namespace of one's own is not allowed here")
        self.assertEqual(status, 0)
        self.assertTrue(words.startswith("sessionlock: has to poll: "), words)

    def test_it_ends_cleanly_when_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            watch = self.watch()
            watch.send_signal(number)
            self.assertEqual(self.finish(watch), (0, "", ""))

    def test_it_ends_when_nobody_reads_on(self):
        # By the signal, or, where that is ignored, as Python does, by the error.
        for restored, status in {True: -signal.SIGPIPE, False: IO_ERROR}.items():
            watch = self.watch(restore_signals=restored)
            watch.stdout.close()
            # The first line after that finds the pipe broken.
            self.assertStatus(self.run_command("run", self.session, "--", "true"), 0)
            self.assertEqual(watch.wait(command.PATIENCE), status)
            watch.stdout = None

    def test_a_directory_that_is_missing_or_removed_is_named(self):
        self.assertComplaint(self.run_command("watch", self.folder / "none"), NO_SUCH_FILE, "none")
        self.assertComplaint(self.run_command("watch"), USAGE)
        folder = self.folder / "d"
        folder.mkdir()
        watch = self.start("watch", folder)
        folder.rmdir()
        status, _, words = self.finish(watch)
        self.assertEqual(status, NO_SUCH_FILE)
        self.assertIn(str(folder), words)


class Doctor(command.Case):
    ABILITIES = ("local", "namelessFiles", "exclusiveLink", "exclusiveRename", "flock", "ofdLocks", "independentLocks", "stableInodes",
                 "inotify")

    def test_where_everything_works_it_says_so_and_leaves_nothing(self):
        result = self.run_command("doctor", self.folder)
        self.assertStatus(result, 0)
        self.assertIn(f"{self.folder}: ", result.stdout)
        self.assertIn("Locks are safe here.", result.stdout)
        self.assertNotIn(" no\n", result.stdout)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_json_has_each_ability_and_the_verdict(self):
        report = json.loads(self.run_command("doctor", "--json", self.folder).stdout)
        self.assertEqual(report["directory"], str(self.folder))
        self.assertEqual({name: report[name] for name in self.ABILITIES}, dict.fromkeys(self.ABILITIES, True))
        self.assertEqual((report["verdict"], report["refusal"], report["advice"]), ("safe", None, []))
        self.assertGreater(report["timeStepNs"], 0)

    def test_a_file_system_that_is_not_known_to_be_local_gets_advice(self):
        script = 'mount -t ramfs ramfs "$0" || exit 200; exec "$@"'
        result = subprocess.run(["unshare", "-m", "sh", "-c", script, str(self.folder), *self.command("doctor", self.folder)],
                                capture_output=True, text=True, env=self.environment)
        if result.returncode in (1, 200):
            self.skip_aloud("mounting needs a privilege that this machine does not give")
        self.assertStatus(result, 0)
        self.assertIn("ramfs, not known to be local", result.stdout)
        self.assertIn("with limits", result.stdout)
        self.assertIn("Other hosts may use this file system", result.stdout)

    def test_where_nothing_can_be_written_it_says_that_there_are_no_locks(self):
        script = 'mount -t hugetlbfs hugetlbfs "$0" || exit 200; exec "$@"'  # whose files are for mmap(2) alone
        result = subprocess.run(["unshare", "-m", "sh", "-c", script, str(self.folder), *self.command("doctor", self.folder)],
                                capture_output=True, text=True, env=self.environment)
        if result.returncode in (1, 200):
            self.skip_aloud("mounting needs a privilege that this machine does not give, or there are no huge pages")
        self.assertStatus(result, IO_ERROR)
        self.assertIn("No lock can be had here.", result.stdout)

    def test_on_a_full_file_system_it_advises_to_make_room(self):
        # Room for names but not for content, and not even for a name.
        for options, filling in (("size=16k", 'dd if=/dev/zero of="$0/fill" bs=1k count=100 2>/dev/null;'), ("nr_inodes=1", "")):
            script = f'mount -t tmpfs -o {options} tmpfs "$0" || exit 200; {filling} exec "$@"'
            result = subprocess.run(["unshare", "-m", "sh", "-c", script, str(self.folder), *self.command("doctor", self.folder)],
                                    capture_output=True, text=True, env=self.environment)
            if result.returncode in (1, 200):
                self.skip_aloud("mounting needs a privilege that this machine does not give")
            self.assertStatus(result, IO_ERROR)
            said = result.stdout + result.stderr
            self.assertIn("No space left on device", said)
            self.assertIn("make room, then try again", said)
            self.assertNotIn("Keep the locks on a local file system", said)

    def test_a_directory_in_which_nothing_can_be_made_is_an_error(self):
        self.assertComplaint(self.run_command("doctor", self.folder / "none"), NO_SUCH_FILE, "none")
        self.assertComplaint(self.run_command("doctor"), USAGE)
        script = 'mount -t tmpfs -o ro tmpfs "$0" || exit 200; exec "$@"'
        result = subprocess.run(["unshare", "-m", "sh", "-c", script, str(self.folder), *self.command("doctor", self.folder)],
                                capture_output=True, text=True, env=self.environment)
        if result.returncode in (1, 200):
            self.skip_aloud("mounting needs a privilege that this machine does not give")
        self.assertComplaint(result, CANNOT_CREATE, str(self.folder), "Read-only")


if __name__ == "__main__":
    command.main()
