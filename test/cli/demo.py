"""scripts/demo: its story ends well, and its count would notice if it did not."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD, SOURCE = sys.argv[1], sys.argv[2]


def can_choose_pids():
    choose = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo 100 >/proc/sys/kernel/ns_last_pid"]
    return subprocess.run(choose, capture_output=True).returncode == 0


class Story(unittest.TestCase):
    def test_the_story_is_told_to_its_end_and_no_record_is_missing(self):
        result = subprocess.run(
            [f"{SOURCE}/scripts/demo", "--no-build", "--build", BUILD], capture_output=True, text=True, timeout=300
        )
        self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)
        text = re.sub(r"\s*\n +(\| )?", " ", result.stdout)
        for words in (
            "no such process runs; it has been removed",
            "an incomplete last line was moved to story.jsonl.torn",
            "that pid now belongs to a process that started at another time; it has been removed",
            "session file locked (timeout 500ms)",
            "Who waited for whom: ",
        ):
            self.assertIn(words, text)
        if can_choose_pids():
            self.assertIn("Now the kernel has given pid", text)
        else:
            print("SKIPPED: a pid that is really recycled; the kernel does not let this user choose pids", flush=True)
        self.assertRegex(text, r"OK: \d{4,} records by 7 writers: 0 lost, 0 torn, 0 doubled\n$")

    def test_where_pids_cannot_be_chosen_it_says_so(self):
        story = [sys.executable, "-B", f"{SOURCE}/scripts/demo_story.py", f"{BUILD}/src/cli/sessionlock"]
        result = subprocess.run(story, capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("does not let us choose the next pid", result.stdout)


class Setup(unittest.TestCase):
    """scripts/setup.sh, by which a demonstration and the tests share a build folder."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sessionlock-setup-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_functions(self, script):
        functions = "set -euo pipefail; source scripts/setup.sh; "
        result = subprocess.run(["bash", "-c", functions + script, "bash", str(self.folder)], cwd=SOURCE, text=True,
                                capture_output=True, timeout=300)
        self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)
        return result.stdout

    def options(self):
        listed = json.loads((self.folder / "meson-info/intro-buildoptions.json").read_text())
        return {option["name"]: option["value"] for option in listed}

    def test_a_folder_for_the_command_alone_gets_the_tests_when_they_are_to_run(self):
        self.run_functions('configure "$1" "${command_alone[@]}" -Doptimization=1')
        self.assertFalse((self.folder / "test").exists())
        self.run_functions('add_tests "$1"; ninja -C "$1" build.ninja >/dev/null')
        options = self.options()
        self.assertEqual((options["tests"], options["examples"], options["optimization"]), (True, True, "1"))
        self.assertTrue((self.folder / "test").exists())
        self.assertEqual(self.run_functions('add_tests "$1"'), "", "it was configured again")


class Count(unittest.TestCase):
    """The check at the end, on transcripts that are made up."""

    def setUp(self):
        spec = importlib.util.spec_from_file_location("demo_story", f"{SOURCE}/scripts/demo_story.py")
        self.demo = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.demo)
        self.addCleanup(shutil.rmtree, self.demo.folder.path)

    def is_good(self, text):
        self.demo.folder.transcript.write_text(text)
        with contextlib.redirect_stdout(io.StringIO()):
            return self.demo.check({"a": 2, "b": 1})

    def test_a_complete_transcript_is_good(self):
        self.assertTrue(self.is_good('{"writer":"a","n":1}\n{"writer":"b","n":1}\n{"writer":"a","n":2}\n'))

    def test_lost_doubled_torn_and_misplaced_records_are_found(self):
        one, two, other = '{"writer":"a","n":1}\n', '{"writer":"a","n":2}\n', '{"writer":"b","n":1}\n'
        for text in (
            "", one + other, one + two, one + two + other + other, two + one + other, one + other + two[:-1],
            one + other + two[:9] + "\n" + two, one + two + other + '{"writer":"c","n":1}\n', one + two + other + "\n",
        ):
            self.assertFalse(self.is_good(text), text)

    def test_a_lock_that_is_left_is_found(self):
        self.demo.folder.lock.write_text("{}")
        self.assertFalse(self.is_good('{"writer":"a","n":1}\n{"writer":"b","n":1}\n{"writer":"a","n":2}\n'))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
