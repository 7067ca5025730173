"""What the tests of the example programs share."""

import pathlib
import subprocess
import sys

import command

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve() / "examples"


class Case(command.Case):
    """A test of the program `NAME`, which takes this test's folder as its first argument."""

    NAME = None

    def command(self, *arguments):
        return [str(FOLDER / self.NAME), str(self.folder), *(str(argument) for argument in arguments)]

    def running(self, *arguments):
        """The program, once it says that it has started."""
        process = self.start(*arguments)
        self.assertEqual(process.stdout.readline(), b"started\n")
        return process

    def idler(self):
        process = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def survivor_of(self, count, *arguments):
        """Of many parallel starts, the one that goes on, and what the others said; they must have exited with 0."""
        starts = [self.start(*arguments) for _ in range(count)]
        command.wait_until("one is left", lambda: sum(one.poll() is None for one in starts) <= 1)
        (survivor,) = (one for one in starts if one.poll() is None)
        self.assertEqual(survivor.stdout.readline(), b"started\n")
        losers = [self.finish(one) for one in starts if one is not survivor]
        self.assertEqual({(status, out) for status, out, _ in losers}, {(0, "")})
        return survivor, {error for _, _, error in losers}
