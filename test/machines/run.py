"""Runs the scenarios on new machines: run.py COMMAND CACHE [PATTERN]... A pattern is part of a test's name."""

import pathlib
import shutil
import sys
import tempfile
import unittest

import guest
import laboratory
import scenarios
import shares


def say(text):
    print(text, flush=True)


def chosen(patterns):
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{pattern}*" for pattern in patterns] or None
    return loader.loadTestsFromModule(scenarios)


def main():
    command, cache, *patterns = sys.argv[1:]
    suite = chosen(patterns)
    if suite.countTestCases() == 0:
        sys.exit(f"no test has {' or '.join(patterns)} in its name")
    system = guest.build(pathlib.Path(cache), say)
    with tempfile.TemporaryDirectory(prefix="sessionlock-payload.") as payload:
        (pathlib.Path(payload) / "bin").mkdir()
        shutil.copy(command, pathlib.Path(payload) / "bin/sessionlock")
        shutil.copytree(pathlib.Path(__file__).parent, pathlib.Path(payload) / "tests")
        say("Booting three machines …")
        with laboratory.Laboratory(system, pathlib.Path(payload)) as machines:
            shares.start_nfs_server(machines.server)
            shares.start_smb_server(machines.server)
            for client in machines.clients:
                shares.start_nfs_client(client)
            scenarios.Case.laboratory = machines
            result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    failed = len(result.failures) + len(result.errors)
    say(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
