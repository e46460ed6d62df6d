"""What the suites that run a training command on a tiny model share: the program's path is the first argument of the suite."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HONE = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
MODEL, ROWS = GOLDEN / "models" / "chat", GOLDEN / "trl_sft" / "messages.jsonl"
TIMES = {"step_time", "tokens_per_second", "eval_runtime", "peak_memory_mib"}


def exact(line):
    """A metrics line without times and memory."""
    return {k: v for k, v in json.loads(line).items() if k not in TIMES and not k.startswith(("memory_mib/", "time/", "tokens_per_second/"))}


class RunCase(unittest.TestCase):
    COMMAND, DATA, RATE = "sft", ROWS, "5e-3"

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.env = dict(os.environ, HONE_CACHE=str(self.folder / "cache"))

    def command(self, run, *more, steps=5, model=MODEL, data=None, command=None):
        rate = () if "--learning_rate" in more else ("--learning_rate", self.RATE)
        return [str(HONE), command or self.COMMAND, "--model", str(model), "--data", str(data or self.DATA), "--output_dir", str(self.folder / run),
                "--max_steps", str(steps), "--batch_size", "4", "--logging_steps", "1", *rate, *map(str, more)]

    def run_hone(self, run, *more, code=0, **kwargs):
        done = subprocess.run(self.command(run, *more, **kwargs), env=self.env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def weights(self, run):
        """What the run saved, in a form that can be compared."""
        for name in ("model.safetensors", "adapter_model.safetensors"):
            if (self.folder / run / "model" / name).exists():
                return (self.folder / run / "model" / name).read_bytes()
        self.fail(f"{run} saved nothing")

    def metrics(self, run):
        return [exact(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def result(self, run):
        return self.weights(run), self.metrics(run)

    def assert_same(self, a, b):
        (weights_a, metrics_a), (weights_b, metrics_b) = self.result(a), self.result(b)
        self.assertEqual(metrics_a, metrics_b)
        self.assertTrue(weights_a == weights_b, f"the weights of {a} and {b} differ")

    def wait_for_first_step(self, child, run):
        metrics, begin = self.folder / run / "metrics.jsonl", time.monotonic()
        while not (metrics.exists() and metrics.stat().st_size) and child.poll() is None:
            self.assertLess(time.monotonic() - begin, 120, "the run does not begin")
            time.sleep(0.01)

    def kill_at_random_moments(self, run, *more, seed=11, limit=240, **kwargs):
        """kill -9 and --resume until the run ends; what is left in `run` is to be compared with a run that nobody disturbed."""
        rng = random.Random(seed)
        kills, begin = 0, time.monotonic()
        while True:
            child = subprocess.Popen(self.command(run, "--resume", *more, **kwargs), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                if kills == 0:  # however fast the machine is, the first one falls into the run: right after a first step
                    self.wait_for_first_step(child, run)
                    child.wait(timeout=rng.random() * 0.1)
                else:  # grows, so that the run ends; the random part makes the moments fall anywhere, also into a save
                    child.wait(timeout=0.3 + 0.15 * kills + rng.random() * 0.5)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                kills += 1
                self.assertLess(time.monotonic() - begin, limit, "the run does not get on")
                continue
            self.assertEqual(child.returncode, 0)
            break
        self.assertGreater(kills, 0)
