"""The checks of rooms.py and registered.py find what they are there to find."""

import pathlib
import tempfile
import unittest

import registered
import rooms

TREE = {
    "src/meson.build": "subdir('lower')\nsubdir('system')\nsubdir('upper')\nsubdir('cli')\n",
    "src/lower/meson.build": "public_headers += files('../../include/sessionlock/lower.hpp')\n",
    "src/upper/meson.build": "public_headers += files(\n  '../../include/sessionlock/upper.hpp',\n)\n",
    "src/system/meson.build": "",
    "src/cli/meson.build": "",
    "include/sessionlock/lower.hpp": "",
}


class Rooms(unittest.TestCase):
    def faults(self, check, **texts):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**TREE, **texts}.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return list(rooms.CHECKS[check](root))

    def test_an_include_of_a_lower_room_or_the_own_room_is_right(self):
        right = '#include "upper/upper.hpp"\n#include <sessionlock/lower.hpp>\n#include <vector>\n#include "lower/a.hpp"\n'
        self.assertEqual(self.faults("includes", **{"src/upper/upper.cpp": right}), [])
        self.assertEqual(self.faults("includes", **{"src/lower/a.hpp": "#include <sessionlock/export.hpp>\n"}), [])

    def test_an_include_of_a_room_above_is_a_fault(self):
        found = self.faults("includes", **{"src/lower/a.cpp": '\n#include "upper/upper.hpp"\n'})
        self.assertEqual(found, ["src/lower/a.cpp:2: lower includes upper/upper.hpp of upper, which stands above it"])
        self.assertTrue(self.faults("includes", **{"src/lower/a.cpp": "#include <sessionlock/sessionlock.hpp>\n"}))
        self.assertTrue(self.faults("includes", **{"src/lower/a.cpp": "#include <sessionlock/upper.hpp>\n"}))
        self.assertTrue(self.faults("includes", **{"include/sessionlock/lower.hpp": "#  include <sessionlock/upper.hpp>"}))

    def test_a_file_that_is_in_no_room_is_a_fault(self):
        self.assertTrue(self.faults("includes", **{"src/stray.hpp": ""}))
        self.assertTrue(self.faults("includes", **{"src/strange/stray.hpp": ""}))
        self.assertTrue(self.faults("includes", **{"include/sessionlock/stray.hpp": ""}))

    def test_an_include_that_does_not_show_its_room_is_a_fault(self):
        self.assertTrue(self.faults("includes", **{"src/upper/upper.cpp": '#include "upper.hpp"', "src/upper/upper.hpp": ""}))

    def test_an_include_in_a_comment_does_not_count(self):
        self.assertEqual(self.faults("includes", **{"src/lower/a.cpp": '/*\n#include "upper/upper.hpp"\n*/'}), [])

    def test_a_public_header_with_a_hidden_library_is_a_fault(self):
        for line in ("#include <boost/filesystem.hpp>", "#include <simdjson.h>", "#include <fmt/core.h>", '#include "upper.hpp"'):
            self.assertTrue(self.faults("headers", **{"include/sessionlock/lower.hpp": line}), line)
        right = "#include <string>\n#include <tl/expected.hpp>\n#include <sessionlock/upper.hpp>\n// like <boost/x.hpp>"
        self.assertEqual(self.faults("headers", **{"include/sessionlock/lower.hpp": right}), [])

    def test_a_path_below_proc_outside_its_room_is_a_fault(self):
        self.assertTrue(self.faults("proc", **{"src/upper/a.cpp": 'auto a = "/proc/self";'}))
        self.assertTrue(self.faults("proc", **{"src/upper/a.cpp": 'auto a = R"(/proc/self)";'}))
        self.assertEqual(self.faults("proc", **{"src/upper/a.cpp": "// reads /proc\n/* \"/proc\" */ int x;"}), [])
        self.assertEqual(self.faults("proc", **{"src/process/a.cpp": 'auto a = "/proc/self";'}), [])

    def test_errno_outside_the_system_room_is_a_fault(self):
        self.assertTrue(self.faults("errno", **{"src/upper/a.cpp": "int e = errno;"}))
        self.assertTrue(self.faults("errno", **{"src/upper/a.cpp": "f('\"'); int e = errno; f('\"');"}))
        self.assertEqual(self.faults("errno", **{"src/system/system.cpp": "int e = errno;"}), [])
        innocent = '#include <errno.h>\n// errno\nauto s = "errno"; int errno_of_x = 1\'000;'
        self.assertEqual(self.faults("errno", **{"src/upper/a.cpp": innocent}), [])

    def test_a_heavy_library_outside_its_wrapper_is_a_fault(self):
        self.assertTrue(self.faults("libraries", **{"src/cli/commands/run.cpp": "#include <CLI/CLI.hpp>"}))
        self.assertEqual(self.faults("libraries", **{"src/cli/parser.cpp": "#include <CLI/CLI.hpp>"}), [])


class Registered(unittest.TestCase):
    def test_a_test_file_in_no_suite_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("unit/known.cpp", "unit/new.cpp", "cli/new.py", "cli/new.sh", "fuzz/corpus/x.cpp", "unit/notes.md"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            missing = registered.unregistered(root, ["unit", "cli", "fuzz"], {"unit/known.cpp"})
        self.assertEqual(missing, ["cli/new.py", "cli/new.sh", "unit/new.cpp"])


if __name__ == "__main__":
    unittest.main()
