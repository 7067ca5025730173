"""The checks of rooms.py, doc_names.py, headers_alone.py and registered.py find what they are there to find."""

import os
import pathlib
import shlex
import tempfile
import unittest

import doc_names
import headers_alone
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

    def test_a_public_result_that_may_be_ignored_is_a_fault(self):
        header = "include/sessionlock/lower.hpp"
        for declaration in (
            "Result<void> f();", "[[nodiscard]] int g();\nSESSIONLOCK_API Result<std::vector<int>> f(int);",
            "struct S {\n[[nodiscard]] S();\n  static Result<void> f() const;\n};", "[[nodiscard]] int g() { return 1; } Result<int> f();",
            "template <class F> auto f(F&& g) const -> detail::GuardedResult<F>;",
        ):
            (found,) = self.faults("nodiscard", **{header: declaration})
            self.assertIn(": f is not [[nodiscard]]", found)
        for declaration in (
            "[[nodiscard]] SESSIONLOCK_API Result<std::vector<int>> f(int);", "void f(Result<int> result);",
            "template <class F>\n[[nodiscard]] auto f(F&& g) -> detail::GuardedResult<F>;", "auto f() -> int; struct Result {};",
            "// Result<int> f();", "using R = Result<int>;", "[[nodiscard]] std::optional<Result<int>> x;",
        ):
            self.assertEqual(self.faults("nodiscard", **{header: declaration}), [], declaration)

    def test_a_heavy_library_outside_its_wrapper_is_a_fault(self):
        self.assertTrue(self.faults("libraries", **{"src/cli/commands/run.cpp": "#include <CLI/CLI.hpp>"}))
        self.assertEqual(self.faults("libraries", **{"src/cli/parser.cpp": "#include <CLI/CLI.hpp>"}), [])


class HeadersAlone(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, name, text):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def test_a_header_that_a_source_file_begins_with_is_compiled_there(self):
        self.write("include/sessionlock/a.hpp", "")
        for name in ("first", "second", "none"):
            self.write(f"src/room/{name}.hpp", "")
        self.write("src/room/first.cpp", '// text\n#include "room/first.hpp"\n#include <vector>\n')
        self.write("src/room/second.cpp", '#include <vector>\n#include "room/second.hpp"\n')
        self.assertEqual(headers_alone.headers_to_try(self.root), ["sessionlock/a.hpp", "room/none.hpp", "room/second.hpp"])

    def test_a_header_that_needs_another_or_cannot_be_repeated_is_a_fault(self):
        self.write("needs.hpp", "#pragma once\nstd::string name();\n")
        self.write("twice.hpp", "struct Twice {};\n")
        self.write("good.hpp", "#pragma once\n#include <string>\nstd::string name();\n")
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        faults = {name: headers_alone.compile_alone(name, compiler, ["-I."], self.root) for name in ("needs.hpp", "twice.hpp", "good.hpp")}
        self.assertIn("needs.hpp does not compile alone", faults["needs.hpp"])
        self.assertIn("redefinition", faults["twice.hpp"])
        self.assertEqual(faults["good.hpp"], "")


class DocumentedNames(unittest.TestCase):
    PAGE = """# Page
It is published (`publish`), with `O_TMPFILE`, `dead-pid` and `sessionlock run`, by `Hold::release`.

| in the model | step | function |
|---|---|---|
| `contend` | `seek` | `publish` |

The end.
"""

    def faults(self, page, source):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {"docs/protocol.md": page, "src/room/a.cpp": source, "test/model/protocol.pml": "contend seek",
                               "scripts/model": "", "include/sessionlock/a.hpp": ""}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return list(doc_names.faults(root))

    def test_names_that_exist_are_right(self):
        self.assertEqual(self.faults(self.PAGE, "void publish(); void Hold::release();"), [])

    def test_a_name_that_is_gone_is_a_fault(self):
        (found,) = self.faults(self.PAGE, "void publish(); struct Hold {}; // release")
        self.assertIn("names `Hold::release`", found)
        self.assertEqual(len(self.faults(self.PAGE, "void Hold::release();")), 2, "in the text, and in the table")

    def test_a_step_is_no_function_that_it_could_stand_for(self):
        page = self.PAGE.replace("| `publish` |", "| `seek` |")
        (found,) = self.faults(page, "void publish(); void Hold::release();")
        self.assertIn("maps a step of the model to `seek`", found)

    def test_a_page_without_the_table_is_a_fault(self):
        self.assertEqual(len(self.faults("# Page\n", "")), 1)


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
