"""`sessionlock append`: JSON lines from standard input become records of a session."""

import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import command
from command import BAD_DATA, CANNOT_CREATE, IO_ERROR, LOCKED, USAGE, wait_until

BATCH_LINES = 1000
MIB = 1024 * 1024


class Case(command.Case):
    def append(self, text, *options, **more):
        return self.run_command("append", *options, self.session, input=text, **more)

    def lines(self):
        return self.session.read_text().splitlines() if self.session.exists() else []

    def send(self, process, text):
        process.stdin.write(text.encode())
        process.stdin.flush()


class Records(Case):
    def test_every_line_becomes_one_record(self):
        records = ['{"a": 1}', "[1, 2]", '"text"', "12", "true", "null", '{"u": "\\u00e4ö"}', " {} ", "1e400"]
        result = self.append("\n".join(records) + "\n")
        self.assertStatus(result, 0)
        self.assertEqual((result.stdout, result.stderr), ("", ""))
        self.assertEqual(self.lines(), records)
        self.assertFalse(self.lock.exists())

    def test_a_last_line_without_a_newline_is_a_record(self):
        self.assertStatus(self.append('{"a":1}\n{"a":2}'), 0)
        self.assertEqual(self.session.read_text(), '{"a":1}\n{"a":2}\n')

    def test_no_input_appends_nothing(self):
        self.assertStatus(self.append(""), 0)
        self.assertEqual(self.lines(), [])

    def test_no_input_for_what_cannot_be_a_session_is_an_error_all_the_same(self):
        self.assertComplaint(self.run_command("append", "."), USAGE, "does not name a file")
        self.assertComplaint(self.run_command("append", self.folder), CANNOT_CREATE, "directory")

    def test_many_lines_and_long_ones_arrive_whole_and_in_order(self):
        records = [json.dumps({"n": n, "pad": "x" * (n % 3000)}) for n in range(3 * BATCH_LINES + 7)]
        self.assertStatus(self.append("\n".join(records) + "\n", "--fsync"), 0)
        self.assertEqual(self.lines(), records)

    def test_a_record_longer_than_a_batch_is_written_alone(self):
        records = ['{"n":1}', json.dumps("y" * (3 * MIB)), '{"n":2}']
        self.assertStatus(self.append("\n".join(records) + "\n"), 0)
        self.assertEqual(self.lines(), records)

    def test_a_record_of_64_mib_is_written_and_one_byte_more_is_refused(self):
        longest = '"' + "z" * (64 * MIB - 2) + '"'
        self.assertStatus(self.append(f"1\n{longest}\n2\n"), 0)
        self.assertEqual(self.session.stat().st_size, 64 * MIB + 5)
        for end in ("\n3\n", ""):
            self.assertComplaint(self.append(f'{{"n":1}}\n"{longest[1:-1]}z"{end}'), BAD_DATA, "line 2 ", "64 MiB")
        self.assertEqual(self.session.stat().st_size, 64 * MIB + 5 + 2 * len('{"n":1}\n'))

    def test_a_session_in_a_missing_directory_is_made(self):
        self.session = self.folder / "a/b/s.jsonl"
        result = self.append("1\n")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(self.lines(), ["1"])

    def test_verbose_says_which_directories_are_made_and_says_it_once(self):
        self.session = self.folder / "a/b/s.jsonl"
        process = self.start("append", "-v", "--lock-directory", "locks", self.session)
        for n in range(2):
            self.send(process, f"{n}\n")
            wait_until("it is appended", lambda: len(self.lines()) == n + 1)
        status, _, error = self.finish(process)
        self.assertEqual(status, 0)
        made = [f"sessionlock: made the directory {name}\n" for name in (self.folder / "a", self.folder / "a/b", "locks")]
        self.assertEqual(error, "".join(made))

    def test_a_lock_directory_is_used(self):
        held = self.start("run", "--lock-directory", "locks", self.session, "--", "cat")
        wait_until("the lock is held", lambda: list(self.folder.glob("locks/*.lock")))
        self.assertComplaint(self.append("1\n", "--no-wait", "--lock-directory", "locks"), LOCKED, f"pid={held.pid}")
        self.finish(held, b"")
        self.assertStatus(self.append("1\n", "--lock-directory", "locks"), 0)

    def test_concurrent_writers_lose_tear_and_double_nothing(self):
        texts = ["".join(f'{{"w":{w},"n":{n}}}\n' for n in range(500)) for w in range(6)]
        writers = [self.start("append", "--timeout", "inf", self.session) for _ in texts]
        for writer, text in zip(writers, texts):
            writer.stdin.write(text.encode())
            writer.stdin.close()
        for writer in writers:
            self.assertEqual(writer.wait(command.PATIENCE), 0)
        records = self.records()
        for w in range(len(texts)):
            self.assertEqual([record["n"] for record in records if record["w"] == w], list(range(500)))


class BadInput(Case):
    def test_the_first_line_that_is_not_one_json_value_ends_it_and_is_named(self):
        for bad in ('{"a":', "{} {}", "nul", "{'a':1}", "\ufeff{}", '{"a":1}x', "\x00"):
            self.session.unlink(missing_ok=True)
            result = self.append(f'{{"n":1}}\n{{"n":2}}\n{bad}\n{{"n":3}}\n')
            self.assertComplaint(result, BAD_DATA, "line 3 ", "2 records appended")
            self.assertEqual(self.lines(), ['{"n":1}', '{"n":2}'])

    def test_a_refused_line_shows_what_cannot_be_seen_by_one_escape(self):
        for bad, shown in (
            ('\ufeff{"a":1}', "'\\ufeff{\"a\":1}'"), ('\u00a0{"a":1}\u3000', "'\\u00a0{\"a\":1}\\u3000'"), ("\u200b", "'\\u200b'"),
            ("\u202e{}", "'\\u202e{}'"), ("\x1b[31m", "'\\x1b[31m'"), ('{"a": "\\q"}', "'{\"a\": \"\\q\"}'"),
        ):
            self.assertComplaint(self.append(f"{bad}\n"), BAD_DATA, f"not one JSON value: {shown};")
        process = self.start("append", self.session)
        self.assertIn("'{\"a\":\"\\xff\"}'", self.finish(process, b'{"a":"\xff"}\n')[2])

    def test_a_long_refused_line_shows_both_of_its_ends(self):
        long = '{"text": "' + "ä" * 1000 + '"}'
        result = self.append(f"\ufeff{long}\u00a0\n")
        self.assertComplaint(result, BAD_DATA, "'\\ufeff{\"text\": \"ää", "ä…ä", "ä\"}\\u00a0'")
        self.assertLess(len(result.stderr), 200)

    def test_blank_lines_are_skipped_and_counted(self):
        result = self.append('\n{"n":1}\n\n \t\n\r\n{"n":2}\r\n   ')
        self.assertStatus(result, 0)
        self.assertEqual([record["n"] for record in self.records()], [1, 2])
        self.assertComplaint(self.append("\n\nbad\n"), BAD_DATA, "line 3 ")

    def test_nothing_but_blank_lines_appends_nothing(self):
        self.assertStatus(self.append("\n" * 2500), 0)
        self.assertFalse(self.session.exists())

    def test_half_a_surrogate_pair_is_accepted(self):
        self.assertStatus(self.append('{"half":"\\ud800"}\n'), 0)
        self.assertEqual(self.lines(), ['{"half":"\\ud800"}'])

    def test_the_line_number_counts_over_batches(self):
        good = '{"n":1}\n' * (2 * BATCH_LINES + 5)
        self.assertComplaint(self.append(good + "bad\n" + good), BAD_DATA, f"line {2 * BATCH_LINES + 6} ")
        self.assertEqual(len(self.lines()), 2 * BATCH_LINES + 5)

    def test_bytes_that_are_not_utf_8_are_refused(self):
        process = self.start("append", self.session)
        status, _, error = self.finish(process, b'{"a":1}\n{"a":"\xff"}\n')
        self.assertEqual(status, BAD_DATA, error)
        self.assertEqual(self.lines(), ['{"a":1}'])

    def test_a_bad_first_line_needs_no_lock(self):
        self.hold()
        self.assertComplaint(self.append("bad\n", "--timeout", "inf"), BAD_DATA, "line 1 ", "0 records")

    def test_control_characters_of_the_input_do_not_reach_the_terminal(self):
        result = self.append("\x1b[31mred\n")
        self.assertNotIn("\x1b", result.stderr)

    def test_input_that_cannot_be_read_is_an_input_error(self):
        folder = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, folder)
        result = subprocess.run(self.command("append", self.session), stdin=folder, capture_output=True, text=True)
        self.assertComplaint(result, IO_ERROR, "standard input")
        closed = subprocess.run(
            ["sh", "-c", '"$@" <&-', "sh", *self.command("append", self.session)], capture_output=True, text=True
        )
        self.assertComplaint(closed, IO_ERROR, "standard input")

    def test_input_that_was_made_non_blocking_is_waited_for(self):
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        process = self.start("append", self.session, stdin=ours)
        os.close(ours)
        for n in range(3):
            os.write(theirs, f"{n}\n".encode())
            wait_until("it is appended", lambda: len(self.lines()) == n + 1)
        os.close(theirs)
        self.assertEqual(process.wait(command.PATIENCE), 0)


class TornTail(Case):
    def test_a_torn_last_line_is_moved_away_and_said_so(self):
        self.session.write_text('{"n":1}\n{"n":')
        result = self.append('{"n":2}\n')
        self.assertComplaint(result, 0, f"{self.session}.torn", "5 bytes")
        self.assertEqual(self.lines(), ['{"n":1}', '{"n":2}'])
        self.assertIn('{"n":', (self.folder / "s.jsonl.torn").read_text())

    def test_a_complete_value_without_a_newline_only_gets_the_newline(self):
        self.session.write_text('{"n":1}\n{"n":2}')
        result = self.append('{"n":3}\n')
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(self.lines(), ['{"n":1}', '{"n":2}', '{"n":3}'])

    def test_a_number_without_a_newline_counts_as_torn(self):
        self.session.write_text("1\n12")
        self.assertComplaint(self.append("3\n"), 0, ".torn")
        self.assertEqual(self.lines(), ["1", "3"])

    def test_nuls_behind_a_value_are_cut_off_and_counted(self):
        self.session.write_bytes(b'{"n":1}\n{"n":2}')
        os.truncate(self.session, 15 + 300 * MIB)
        result = self.append('{"n":3}\n')
        self.assertComplaint(result, 0, "NUL", f"{self.session} ({300 * MIB} bytes)")
        self.assertEqual(self.lines(), ['{"n":1}', '{"n":2}', '{"n":3}'])
        self.assertFalse((self.folder / "s.jsonl.torn").exists())

    def test_a_value_behind_a_byte_order_mark_stays(self):
        self.session.write_bytes(b'\xef\xbb\xbf{"n":1}')
        result = self.append('{"n":2}\n')
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(self.lines(), ['\ufeff{"n":1}', '{"n":2}'])

    def test_in_an_append_only_session_a_torn_line_stays_and_that_is_said(self):
        self.session.write_text('{"n":1}\n{"n":')
        if subprocess.run(["chattr", "+a", self.session], capture_output=True).returncode != 0:
            self.skip_aloud("no append-only files here")
        self.addCleanup(subprocess.run, ["chattr", "-a", self.session], check=True)
        self.assertComplaint(self.append('{"n":2}\n'), 0, "only be appended to", "newline", "5 bytes")
        result = self.append('{"n":3}\n')
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(self.lines(), ['{"n":1}', '{"n":', '{"n":2}', '{"n":3}'])

    def test_what_is_in_the_way_of_the_torn_line_is_named_with_the_way_out(self):
        self.session.write_text('{"n":')
        precious = self.folder / "precious"
        precious.write_text("precious\n")
        os.link(precious, f"{self.session}.torn")
        result = self.append('{"n":2}\n')
        self.assertComplaint(result, USAGE, f"{self.session}.torn", "2 names", "move it away, then append again")
        self.assertEqual(precious.read_text(), "precious\n")


class Locking(Case):
    def test_a_lock_that_stays_held_ends_it_with_one_line(self):
        holder = self.hold(None, "--label", "nightly")
        result = self.append('{"n":1}\n', "--timeout", "50ms")
        self.assertComplaint(result, LOCKED)
        self.assertRegex(
            result.stderr,
            rf'^sessionlock: session file locked \(timeout 50ms\): pid={holder.pid} alive age=\w+ label="nightly" {self.lock}\n$',
        )
        self.assertComplaint(self.append('{"n":1}\n', "--no-wait"), LOCKED, f"pid={holder.pid}")
        self.assertEqual(self.lines(), [])

    def test_between_batches_the_lock_is_free(self):
        process = self.start("append", self.session)
        for n in range(3):
            self.send(process, f"{n}\n")
            wait_until("it is appended", lambda: len(self.lines()) == n + 1)
            wait_until("the lock is given up", lambda: not self.lock.exists())
            self.assertStatus(self.run_command("run", "--no-wait", self.session, "--", "true"), 0)
        self.assertEqual(self.finish(process)[0], 0)

    def test_with_hold_the_lock_is_kept_to_the_end(self):
        process = self.start("append", "--hold", "--label", "mine", self.session)
        for n in range(3):
            self.send(process, f"{n}\n")
            wait_until("it is appended", lambda: len(self.lines()) == n + 1)
            status = self.status()
            self.assertEqual((status["state"], status["pid"], status["label"]), ("held", process.pid, "mine"))
        self.assertEqual(self.finish(process)[0], 0)
        self.assertFalse(self.lock.exists())

    def test_it_waits_for_the_holder_and_tells_whom(self):
        holder = self.start("run", self.session, "--", "cat")
        wait_until("the lock is there", self.lock.exists)
        process = self.start("append", "-v", "--timeout", "inf", self.session)
        self.send(process, "1\n")
        self.assertRegex(process.stderr.readline().decode(), rf"^sessionlock: .*\(waiting\): pid={holder.pid} alive ")
        self.finish(holder, b"")
        self.assertEqual(self.finish(process)[0], 0)
        self.assertEqual(self.lines(), ["1"])

    def test_a_lock_that_its_dead_owner_left_is_taken_over(self):
        self.plant_dead()
        self.assertStatus(self.append("1\n", "--no-wait"), 0)
        self.assertEqual(self.lines(), ["1"])

    def test_a_take_over_is_reported_without_verbose(self):
        self.plant_dead()
        self.assertComplaint(self.append("1\n"), 0, "took over", str(command.NOBODY))

    def test_an_error_after_some_batches_tells_how_many_records_were_written(self):
        process = self.start("append", "--no-wait", self.session)
        self.send(process, "1\n2\n")
        wait_until("they are appended", lambda: len(self.lines()) == 2 and not self.lock.exists())
        self.hold()
        status, _, error = self.finish(process, b"3\n")
        self.assertEqual(status, LOCKED)
        self.assertIn("first 2 records", error)
        self.assertEqual(self.lines(), ["1", "2"])

    def test_a_lock_that_was_taken_away_between_batches_is_noticed_before_a_byte_is_written(self):
        process = self.start("append", "--hold", self.session)
        self.send(process, "1\n")
        wait_until("it is appended", lambda: len(self.lines()) == 1)
        release = self.run_command("release", "--force", "--id", self.status()["lockId"], self.session)
        self.assertStatus(release, 0)
        status, _, error = self.finish(process, b"2\n")
        self.assertEqual(status, command.FAILED)
        self.assertIn("no longer held", error)
        self.assertEqual(self.lines(), ["1"])

    def test_a_signal_gives_a_kept_lock_up_and_ends_it_by_that_signal(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process = self.start("append", "--hold", self.session)
            self.send(process, "1\n")
            wait_until("it has the lock", self.lock.exists)
            process.send_signal(number)
            self.assertEqual(process.wait(command.PATIENCE), -number)
            self.assertFalse(self.lock.exists())

    def test_a_signal_ends_a_wait_for_the_lock(self):
        self.hold()
        process = self.start("append", "-v", "--timeout", "inf", self.session)
        self.send(process, "1\n")
        process.stderr.readline()
        process.terminate()
        self.assertEqual(process.wait(command.PATIENCE), -signal.SIGTERM)


class InsideRun(Case):
    def run_with(self, script, *options, **more):
        """Runs a shell script under the session's lock; "$0" is the command, "$1" the session."""
        return self.run_command("run", self.session, "--", "sh", "-c", script, command.BINARY, self.session, *options, **more)

    def test_it_writes_under_the_lock_of_the_run_around_it(self):
        result = self.run_with("""echo '{"n":1}' | "$0" append --no-wait "$1" && echo '{"n":2}' | "$0" append --no-wait "$1" """)
        self.assertStatus(result, 0)
        self.assertEqual(self.lines(), ['{"n":1}', '{"n":2}'])
        self.assertFalse(self.lock.exists())

    def test_the_lock_stays_the_runs(self):
        script = """echo 1 | "$0" append "$1"; "$0" status --json "$1"; echo 2 | "$0" append --hold "$1"; "$0" status --json "$1" """
        result = self.run_with(script)
        self.assertEqual(result.stdout.count('"state": "held"'), 2, result.stdout)

    def test_siblings_that_write_at_once_lose_nothing(self):
        one = """i=0; while [ $i -lt 50 ]; do echo "{\\"w\\":$w,\\"n\\":$i}"; i=$((i+1)); done | "$0" append "$1" & """
        self.assertStatus(self.run_with("".join(f"w={w}; {one}" for w in range(4)) + "wait"), 0)
        for w in range(4):
            self.assertEqual([record["n"] for record in self.records() if record["w"] == w], list(range(50)))

    def test_a_tail_that_was_torn_there_is_not_repaired_there(self):
        self.session.write_text('{"n":1}\n')
        result = self.run_with("""printf '{"n":' >> "$1"; echo '{"n":2}' | "$0" append "$1" """)
        self.assertComplaint(result, LOCKED, "incomplete line")
        self.assertEqual(self.session.read_text(), '{"n":1}\n{"n":')
        self.assertFalse((self.folder / "s.jsonl.torn").exists())

    def test_a_tail_that_was_torn_before_is_repaired_before_the_program_starts(self):
        self.session.write_bytes(b'{"n":1}\n{"n":\0\0')
        result = self.run_with("""cat "$1"; echo '{"n":2}' | "$0" append "$1" """)
        self.assertStatus(result, 0)
        self.assertRegex(result.stderr, rf"^.*{self.session}\.torn \(5 bytes\)\n.*NUL.*{self.session} \(2 bytes\)\n$")
        self.assertEqual(result.stdout, '{"n":1}\n')
        self.assertEqual(self.lines(), ['{"n":1}', '{"n":2}'])
        self.assertEqual((self.folder / "s.jsonl.torn").read_text(), '{"n":\n')

    def test_an_id_that_is_not_the_current_locks_means_an_ordinary_acquire(self):
        self.environment["SESSIONLOCK_ID"] = "0" * 32
        self.assertStatus(self.append("1\n"), 0)
        holder = self.hold()
        self.assertComplaint(self.append("2\n", "--no-wait"), LOCKED, f"pid={holder.pid}")
        self.assertEqual(self.lines(), ["1"])

    def test_another_session_is_locked_as_ever(self):
        other = self.folder / "other.jsonl"
        self.assertStatus(self.run_with('echo 1 | "$0" append "$2"', other), 0)
        self.assertEqual(other.read_text(), "1\n")

    def test_after_the_run_has_ended_it_acquires_for_itself(self):
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        self.assertStatus(self.run_with(f'(cat {pipe} | "$0" append "$1") >/dev/null 2>&1 &'), 0)
        holder = self.hold()
        pipe.write_text('{"n":1}\n')
        self.assertEqual(self.lines(), [])
        os.killpg(holder.pid, signal.SIGTERM)
        wait_until("it is appended", lambda: self.lines() == ['{"n":1}'])


if __name__ == "__main__":
    command.main()
