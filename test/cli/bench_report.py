"""scripts/bench: what it makes of the programs' figures. The programs themselves are run by `meson test --suite benchmark`."""

import importlib.util
import json
import pathlib
import sys
import tempfile
import unittest

BUILD, SOURCE = sys.argv[1], sys.argv[2]
FIELDS = ["name", "value", "unit", "floor", "ratio", "peer"]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report = load(pathlib.Path(SOURCE) / "scripts/bench_report.py")


def run(name, time, unit="ns", **more):
    return {"run_name": name, "run_type": "iteration", "real_time": time, "time_unit": unit, "family_index": 0, **more}


class Report(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def give(self, name, content):
        (self.folder / name).write_text(json.dumps(content))

    def results(self):
        report.report(self.folder)
        rows = json.loads((self.folder / "results.json").read_text())
        for row in rows:
            self.assertEqual(list(row), FIELDS)
        return {row["name"]: row for row in rows}

    def give_suite(self, *runs):
        self.give("suite-0.json", {"benchmarks": list(runs)})

    def test_a_row_is_the_median_beside_that_of_its_floor(self):
        self.give_suite(
            *(run("sweep/10", time, "ms") for time in (9, 1, 2)), *(run("sweep/10@read", time, "ms") for time in (1, 1, 8)),
            {**run("sweep/10", 77, "ms"), "run_type": "aggregate"},
            run("sweep/10", 999, "ms", error_occurred=True),
        )
        self.assertEqual(
            self.results()["sweep/10"],
            {"name": "sweep/10", "value": 2000, "unit": "us", "floor": 1000, "ratio": 2, "peer": "read"})

    def test_the_first_registered_floor_is_the_rows_and_a_second_makes_a_second_row(self):
        self.give_suite(
            run("a@bare/real_time", 1500, family_index=2), run("a@naive/real_time", 2000, family_index=1),
            run("a/real_time", 3000),
        )
        rows = self.results()
        self.assertEqual((rows["a"]["peer"], rows["a"]["ratio"]), ("naive", 1.5))
        self.assertEqual((rows["a/bare"]["peer"], rows["a/bare"]["ratio"]), ("bare", 2))
        self.assertEqual(len(rows), 2)

    def test_what_needs_nanoseconds_is_told_in_them(self):
        self.give_suite(run("classify/own", 250))
        self.assertEqual(self.results()["classify/own"]["unit"], "ns")

    def test_counters_are_rows_of_their_own(self):
        self.give_suite(run("held/10/iterations:5", 1, heap_each=900.0, descriptors_each=1.0))
        rows = self.results()
        self.assertEqual((rows["held/10/heap_each"]["value"], rows["held/10/heap_each"]["unit"]), (900, "B"))
        self.assertEqual(rows["held/10/descriptors_each"]["value"], 1)

    def test_of_several_runs_the_medians_count(self):
        for number, (value, floor) in enumerate([(10, 5), (90, 4), (20, 6)]):
            self.give(f"handover-{number}.json", [
                {"name": "handover.release.p50", "value": value, "unit": "us", "floor": floor, "ratio": 1, "peer": "flock"}])
        self.assertEqual(
            self.results()["handover.release.p50"],
            {"name": "handover.release.p50", "value": 20, "unit": "us", "floor": 5, "ratio": 4, "peer": "flock"})

    def test_a_peer_stands_beside_us_and_an_absent_one_is_told(self):
        def peer(what, who, value, unit="us"):
            return {"name": f"peers/{what}/{who}", "value": value, "unit": unit, "peer": who}
        self.give("peers.json", [
            peer("uncontended", "sessionlock", 10), peer("uncontended", "qlockfile", 40), peer("overlaps", "qlockfile", 7, ""),
            peer("handover.sigkill", "filelock_soft", None), peer("absent", "fs_safe", None, ""),
        ])
        rows = self.results()
        self.assertEqual((rows["peers/uncontended/qlockfile"]["floor"], rows["peers/uncontended/qlockfile"]["ratio"]), (10, 4))
        self.assertEqual((rows["peers/overlaps/qlockfile"]["value"], rows["peers/overlaps/qlockfile"]["ratio"]), (7, None))
        self.assertIsNone(rows["peers/handover.sigkill/filelock_soft"]["value"])
        self.assertIsNone(rows["peers/absent/fs_safe"]["value"])

    def test_a_missed_target_is_told_and_a_met_one_too(self):
        def told(**row):
            made = {**dict.fromkeys(FIELDS), "unit": "us", **row}
            return report.table([made], {}).splitlines()[-1]
        self.assertTrue(told(name="sweep/10000", value=4.6, floor=2, ratio=2.3).endswith("met"))
        self.assertTrue(told(name="sweep/10000", value=5, floor=2, ratio=2.5).endswith("MISSED"))
        self.assertTrue(told(name="sweep/10000").endswith("MISSED"), "what was not measured is not met")
        self.assertTrue(told(name="peers/uncontended/qlockfile", value=9, floor=4, ratio=2.2, peer="qlockfile").endswith("MISSED"))
        self.assertTrue(told(name="peers/overlaps/sessionlock", value=1, peer="sessionlock").endswith("MISSED"))
        self.assertFalse(told(name="sweep/1000", value=4, floor=2, ratio=9.0).endswith("MISSED"))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
