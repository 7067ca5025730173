"""`sessionlock sentinel`: markers that end by themselves."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import IO_ERROR, USAGE


class Sentinel(command.Case):
    def setUp(self):
        super().setUp()
        self.marker = self.folder / "stopping"

    def active(self):
        return self.run_command("sentinel", "active", self.marker).returncode

    def test_it_stands_from_set_to_clear(self):
        self.assertEqual(self.active(), 1)
        self.assertStatus(self.run_command("sentinel", "set", "--ttl", "30s", self.marker), 0)
        left = int(self.marker.read_text()) - time.time() * 1000
        self.assertTrue(0 < left <= 30_000, left)
        self.assertEqual(self.active(), 0)
        self.assertStatus(self.run_command("sentinel", "clear", self.marker), 0)
        self.assertEqual(self.active(), 1)
        self.assertStatus(self.run_command("sentinel", "clear", self.marker), 0)

    def test_one_that_is_expired_corrupt_or_empty_is_removed(self):
        for text in ["1000", "12 34\n", ""]:
            self.marker.write_text(text)
            self.assertEqual(self.active(), 1)
            self.assertFalse(self.marker.exists())

    def test_a_file_that_is_no_sentinel_does_not_stand_and_is_left_alone(self):
        for text in ["soon", '{"a":1}\n', "1" * 33]:
            self.marker.write_text(text)
            self.assertEqual(self.active(), 1)
            for action in (["set", "--ttl", "5s"], ["clear"]):
                self.assertComplaint(self.run_command("sentinel", *action, self.marker), IO_ERROR, str(self.marker), "something else")
            self.assertEqual(self.marker.read_text(), text)

    def test_a_time_to_live_of_zero_clears(self):
        self.run_command("sentinel", "set", "--ttl", "1h", self.marker)
        self.assertStatus(self.run_command("sentinel", "set", "--ttl", "0", self.marker), 0)
        self.assertFalse(self.marker.exists())

    def test_an_error_is_neither_standing_nor_absent(self):
        self.marker.mkdir()
        self.assertComplaint(self.run_command("sentinel", "active", self.marker), IO_ERROR)

    def test_without_a_time_to_live_or_with_an_endless_one_nothing_is_set(self):
        for options in [[], ["--ttl", "inf"], ["--ttl", "x"]]:
            self.assertEqual(self.run_command("sentinel", "set", *options, self.marker).returncode, USAGE)
        self.assertFalse(self.marker.exists())


if __name__ == "__main__":
    command.main()
