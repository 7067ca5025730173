"""What must hold where several kernels share sessions. Run by scripts/vm-tests."""

import re
import signal
import unittest

import laboratory
import shares

DONE, FAILED, HELD = 0, 1, 75
TESTS = "/payload/tests"


def until(name, sign=""):
    """A command that goes on until the file is there; makes the file `sign` at its beginning."""
    begin = f"touch {sign}; " if sign else ""
    # A look at the whole directory, which no client's cache of single names answers.
    return f"bash -c '{begin}until ls | grep -qx {name}; do sleep 0.2; done'"


class Case(unittest.TestCase):
    """Two clients of one server, A and B, in a new folder each time."""

    laboratory = None
    kind = "nfs"
    options = ""

    @classmethod
    def setUpClass(cls):
        if cls.laboratory is None:
            raise RuntimeError("these tests need machines: run scripts/vm-tests")

    def setUp(self):
        self.server, (self.a, self.b) = self.laboratory.server, self.laboratory.clients
        self.share = shares.Share(self.laboratory, self.kind, self.options)
        self.addCleanup(self.share.unmount)

    def at(self, machine, command):
        folder = self.share.at_server if machine is self.server else self.share.path
        return f"cd {folder} && {command}"

    def run_at(self, machine, command):
        return machine.run(self.at(machine, command))

    def start_at(self, machine, command):
        return machine.start(self.at(machine, command))

    def assertStatus(self, finished, status, *words):
        self.assertEqual(finished.status, status, str(finished))
        for word in words:
            self.assertIn(word, finished.output, str(finished))

    def wait_for_lock(self, machine, lock="s.jsonl.lock"):
        machine.wait_for(self.at(machine, f"ls -a | grep -qxF {lock}"))

    def force(self, machine, session="s.jsonl"):
        """Releases another's lock by force."""
        lock_id = re.search(r'"lockId": *"([^"]+)"', self.run_at(machine, f"cat {session}.lock").output)[1]
        self.assertStatus(self.run_at(machine, f"sessionlock release --force --id {lock_id} {session}"), DONE)

    def let(self, name):
        """Makes the file that a command waits for (`until`)."""
        self.server.check(self.at(self.server, f"touch {name}"))


class LostLocks:
    """The comparison of a name with a file must not be answered by a client's cache."""

    def test_a_run_whose_lock_was_forced_says_so_and_leaves_the_next_owners_lock(self):
        first = self.start_at(self.a, f"sessionlock run s.jsonl -- {until('first-ends')}")
        self.wait_for_lock(self.b)
        self.force(self.b)
        second = self.start_at(self.b, f"sessionlock run s.jsonl -- {until('second-ends')}")
        self.wait_for_lock(self.server)
        self.let("first-ends")
        self.assertStatus(first.wait(), FAILED, "no longer held")
        self.assertStatus(self.run_at(self.a, "sessionlock run --no-wait s.jsonl -- echo INSIDE"), HELD)
        self.let("second-ends")
        self.assertStatus(second.wait(), DONE)

    def test_an_append_whose_lock_was_forced_writes_nothing_more(self):
        first = self.append_two(self.a, "a")
        self.force(self.b)
        second = self.append_two(self.b, "b")
        self.let("a-goes-on")
        self.assertStatus(first.wait(), FAILED, "no longer held")
        self.let("b-goes-on")
        self.assertStatus(second.wait(), DONE)
        for machine in (self.server, self.b):
            self.assertEqual(self.run_at(machine, "cat s.jsonl").output, '{"a":1}\n{"b":1}\n{"b":2}\n')

    def test_an_acknowledged_record_is_on_the_server(self):
        # Only what the command brings to the server gets there while its kernel writes nothing back by itself.
        self.a.check("echo 0 >/proc/sys/vm/dirty_writeback_centisecs")
        self.addCleanup(self.a.check, "echo 500 >/proc/sys/vm/dirty_writeback_centisecs")
        writer = self.append_two(self.a, "a")
        self.let("a-goes-on")
        self.assertStatus(writer.wait(), DONE)

    def test_a_gate_that_was_passed_on_for_its_age_is_lost_and_left_to_its_next_owner(self):
        first = self.start_at(self.a, f"sessionlock gate --stale-after 3s g -- {until('first-ends')}")
        self.wait_for_lock(self.b, "g")
        second = self.start_at(self.b, f"sessionlock gate --stale-after 3s --timeout 100s g -- {until('second-ends', 'inside')}")
        self.server.wait_for(self.at(self.server, "test -e inside"))
        self.let("first-ends")
        self.assertStatus(first.wait(), FAILED, "no longer held")
        self.assertStatus(self.run_at(self.server, "ls g"), DONE)
        self.let("second-ends")
        self.assertStatus(second.wait(), DONE)

    def test_an_append_in_a_directory_that_was_removed_on_the_server_fails(self):
        first = self.append_two(self.a, "a", patience=6)
        self.server.check(f"rm -r {self.share.at_server} && mkdir -m 1777 {self.share.at_server}")
        self.assertStatus(first.wait(), FAILED)

    def append_two(self, machine, name, patience=1000):
        """Appends a record, and another one once `NAME-goes-on` is there, or after `patience` seconds; returns when the
        first is on the server."""
        lines = (f"""(echo '{{"{name}":1}}'; for ((i = 0; i < {5 * patience}; ++i)); do """
                 f"""ls | grep -qx {name}-goes-on && break; sleep 0.2; done; echo '{{"{name}":2}}')""")
        started = self.start_at(machine, f"{lines} | sessionlock append --hold s.jsonl")
        self.server.wait_for(self.at(self.server, f"grep -q '{name}.:1' s.jsonl"), patience=20)
        return started


class Questions:
    def test_a_lock_that_came_after_a_look_is_seen_at_the_next(self):
        self.assertStatus(self.run_at(self.a, "sessionlock status s.jsonl"), DONE, "free")
        owner = self.start_at(self.b, "exec sessionlock run s.jsonl -- sleep 1000")
        self.wait_for_lock(self.b)
        self.assertStatus(self.run_at(self.a, "sessionlock status s.jsonl"), HELD, "held")
        self.assertStatus(self.run_at(self.a, "sessionlock wait --timeout 1s s.jsonl"), HELD)
        self.assertStatus(self.run_at(self.a, "sessionlock run --no-wait s.jsonl -- true"), HELD)
        owner.send_signal(signal.SIGTERM)
        owner.wait()
        self.assertStatus(self.run_at(self.a, "sessionlock wait --timeout 20s s.jsonl"), DONE)

    def test_nothing_lies_beside_a_held_lock(self):
        owner = self.start_at(self.a, f"sessionlock run s.jsonl -- {until('end')}")
        self.wait_for_lock(self.b)
        self.assertEqual(self.run_at(self.server, "ls -A").output, "s.jsonl.lock\n")
        self.let("end")
        self.assertStatus(owner.wait(), DONE)


class Records:
    COUNT = 250

    def test_streams_from_two_hosts_lose_nothing(self):
        lines = f"""python3 -u -c 'import time
for number in range({self.COUNT}):
    print(chr(123) + "\\"by\\":\\"%s\\",\\"number\\":%d" % ("NAME", number) + chr(125)); time.sleep(0.02)'"""
        writers = [self.start_at(machine, lines.replace("NAME", name) + " | sessionlock append s.jsonl")
                   for machine, name in ((self.a, "a"), (self.b, "b"))]
        for writer in writers:
            self.assertStatus(writer.wait(), DONE)
        self.assertStatus(self.run_at(self.server, f"python3 {TESTS}/counted.py s.jsonl {self.COUNT} a b"), DONE)

    def test_two_hosts_are_never_inside_at_once(self):
        port = 7700
        umpire = self.server.start(f"python3 {TESTS}/umpire.py serve {port}")
        loop = f"""for ((number = 0; number < 25; ++number)); do
  sessionlock run --timeout 60s s.jsonl -- python3 {TESTS}/umpire.py inside server {port} \\
    bash -c 'echo "{{\\"by\\":\\"NAME\\",\\"number\\":'$number'}}" | sessionlock append s.jsonl' || exit 1
done"""
        writers = [self.start_at(machine, loop.replace("NAME", name)) for machine, name in ((self.a, "a"), (self.b, "b"))]
        for writer in writers:
            self.assertStatus(writer.wait(5 * laboratory.PATIENCE), DONE)
        umpire.send_signal(signal.SIGTERM)
        self.assertStatus(umpire.wait(), 0, "50 entered, 0 overlaps")
        self.assertStatus(self.run_at(self.server, f"python3 {TESTS}/counted.py s.jsonl 25 a b"), DONE)


class Nfs42(LostLocks, Questions, Records, Case):
    options = "vers=4.2"

    def test_a_session_that_another_host_reads_can_be_appended_to(self):
        self.server.check(self.at(self.server, "echo '{}' >s.jsonl"))
        reader = self.start_at(self.a, "exec tail -f s.jsonl")
        self.a.wait_for(self.at(self.a, "cat s.jsonl >/dev/null && cat s.jsonl"))
        self.assertStatus(self.run_at(self.server, """echo '{"server":1}' | sessionlock append s.jsonl"""), DONE)
        reader.kill()

    def test_a_lock_outlives_its_file_server(self):
        owner = self.start_at(self.a, f"sessionlock run s.jsonl -- {until('end')}")
        self.wait_for_lock(self.b)
        self.server.check("sync")
        self.server.crash_and_boot()
        self.assertHeldAtServer()
        shares.start_nfs_server(self.server)
        self.assertStatus(self.run_at(self.b, "sessionlock run --no-wait s.jsonl -- true"), HELD)
        self.assertHeldAtServer()
        self.let("end")
        self.assertStatus(owner.wait(), DONE)
        self.assertStatus(self.run_at(self.b, "sessionlock run --timeout 60s s.jsonl -- true"), DONE)

    def assertHeldAtServer(self):
        self.assertStatus(self.run_at(self.server, "sessionlock status s.jsonl"), HELD)
        self.assertStatus(self.run_at(self.server, "sessionlock run --no-wait s.jsonl -- true"), HELD)
        self.run_at(self.server, "sessionlock clean .")
        self.assertStatus(self.run_at(self.server, "test -e s.jsonl.lock"), DONE)


class Nfs3(LostLocks, Questions, Records, Case):
    options = "vers=3"


class Smb3(LostLocks, Questions, Records, Case):
    kind = "cifs"
    options = "username=root,password=secret,vers=3.1.1"


class Smb3WithoutByteRangeLocks(Case):
    """`flock` binds one host only there, but a lock's file excludes all."""

    kind = "cifs"
    options = "username=root,password=secret,vers=3.1.1,nobrl"

    def test_a_lock_can_be_had_and_excludes_the_other_host(self):
        owner = self.start_at(self.a, f"sessionlock run s.jsonl -- {until('end')}")
        self.wait_for_lock(self.b)
        self.assertStatus(self.run_at(self.b, "sessionlock run --no-wait s.jsonl -- true"), HELD)
        self.let("end")
        self.assertStatus(owner.wait(), DONE)
        self.assertStatus(self.run_at(self.b, "sessionlock run --timeout 20s s.jsonl -- true"), DONE)
