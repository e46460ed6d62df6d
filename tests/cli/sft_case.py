"""What the suites that run `hone sft` on a tiny model share: the program's path is the first argument of the suite."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HONE = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
MODEL, ROWS = GOLDEN / "models" / "chat", GOLDEN / "trl_sft" / "messages.jsonl"
TIMES = {"step_time", "tokens_per_second", "eval_runtime", "peak_memory_mib"}


def exact(line):
    """A metrics line without times and memory."""
    return {k: v for k, v in json.loads(line).items() if k not in TIMES and not k.startswith("memory_mib/")}


class SftCase(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.env = dict(os.environ, HONE_CACHE=str(self.folder / "cache"))

    def command(self, run, *more, steps=5, model=MODEL, data=ROWS):
        return [str(HONE), "sft", "--model", str(model), "--data", str(data), "--output_dir", str(self.folder / run), "--max_steps", str(steps),
                "--batch_size", "4", "--logging_steps", "1", "--learning_rate", "5e-3", *map(str, more)]

    def run_hone(self, run, *more, code=0, **kwargs):
        done = subprocess.run(self.command(run, *more, **kwargs), env=self.env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def weights(self, run):
        """What the run saved, in a form that can be compared."""
        return (self.folder / run / "model" / "model.safetensors").read_bytes()

    def result(self, run):
        return self.weights(run), [exact(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def assert_same(self, a, b):
        (weights_a, metrics_a), (weights_b, metrics_b) = self.result(a), self.result(b)
        self.assertEqual(metrics_a, metrics_b)
        self.assertTrue(weights_a == weights_b, f"the weights of {a} and {b} differ")
