"""The checks of tools/ find what they are for. Standard library only."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run(tool, root):
    return subprocess.run([sys.executable, str(ROOT / "tools" / tool), str(root)], capture_output=True, text=True)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Layers(unittest.TestCase):
    def check(self, name, text):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            write(root, {"CMakeLists.txt": (ROOT / "CMakeLists.txt").read_text(), name: text})
            return run("check_layers.py", root)

    def test_upwards_is_fine(self):
        self.assertEqual(self.check("src/hone/text/a.h", '#include "hone/data/rows.h"\n#include <vector>\n').returncode, 0)

    def test_downwards_is_refused(self):
        done = self.check("src/hone/data/a.h", '#pragma once\n#include "hone/text/tokens.h"\n')
        self.assertEqual(done.returncode, 1)
        self.assertIn('src/hone/data/a.h:2: "hone/text/tokens.h": data stands before text', done.stdout)

    def test_libtorch_begins_at_ops(self):
        self.assertEqual(self.check("src/hone/kernels/a.cpp", "#include <ATen/ATen.h>\n").returncode, 1)
        self.assertEqual(self.check("src/hone/ops/a.cpp", "#include <ATen/ATen.h>\n").returncode, 0)

    def test_relative_and_unknown_are_refused(self):
        self.assertEqual(self.check("src/hone/ops/a.cpp", '#include "../base/error.h"\n').returncode, 1)
        self.assertEqual(self.check("src/hone/ops/a.cpp", '#include "hone/nowhere/a.h"\n').returncode, 1)
        self.assertEqual(self.check("src/hone/nowhere/a.cpp", "\n").returncode, 1)


class Docs(unittest.TestCase):
    def check(self, readme):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            options = "## hone sft\n| `--data, --train_file` | FILE | | rows |\n"
            write(root, {"Makefile": "test: all\n", "README.md": readme, "CONTRIBUTING.md": "", "docs/options.md": options})
            return run("check_docs.py", root)

    def test_truth_passes(self):
        self.assertEqual(self.check("```sh\nmake test\nhone sft --train-file a # b --c\n```\n`make test` [x](docs/options.md)\n").returncode, 0)

    def test_lies_are_refused(self):
        for lie in ("`make nothing`", "```sh\nmake nothing\n```", "```sh\nhone dpo --data x\n```", "```sh\nX=1 build/hone sft --dta x\n```", "[x](docs/no.md)",
                    "```tree\nsrc/   x\n```"):
            self.assertEqual(self.check(lie + "\n").returncode, 1, lie)


if __name__ == "__main__":
    unittest.main()
