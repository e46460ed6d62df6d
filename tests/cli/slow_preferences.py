#!/usr/bin/env python3
"""Learning from real preferences: DPO and a reward model on statements of the persona data, scored on held-out statements. Label slow: minutes.

usage: slow_preferences.py HONE
Needs the default model (make model) and the data ($HONE_SHARED, else ../shared beside the repository).
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HONE = pathlib.Path(sys.argv.pop(1)).resolve()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.gguf"
PERSONA = pathlib.Path(os.environ.get("HONE_SHARED", ROOT.parent / "shared")) / "data" / "persona"
FILES = ("agreeableness", "risk-averse", "interest-in-science")
# The bound of the issue. A coin gives 50 % with a standard deviation of 5 points on 100 statements.
LEAST_ACCURACY = 0.85


def write_pairs(source, out):
    def turn(role, text):
        return [{"role": role, "content": text.strip()}]
    with open(source) as lines, open(out, "w") as file:
        for row in map(json.loads, lines):
            file.write(json.dumps({"prompt": turn("user", row["question"]), "chosen": turn("assistant", row["answer_matching_behavior"]),
                                   "rejected": turn("assistant", row["answer_not_matching_behavior"])}) + "\n")


@unittest.skipUnless(MODEL.exists(), f"{MODEL} is not there: make model")
@unittest.skipUnless(PERSONA.is_dir(), f"{PERSONA} is not there: set HONE_SHARED")
class Persona(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-slow-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def held_out_accuracy(self, command, name, key, *flags):
        files = {part: self.folder / f"{name}.{part}.jsonl" for part in ("train", "dev")}
        for part, out in files.items():
            write_pairs(PERSONA / f"{name}.{part}.jsonl", out)
        run = self.folder / f"{command}-{name}"
        done = subprocess.run([HONE, command, "--model", MODEL, "--use_peft", "--data", files["train"], "--eval_file", files["dev"], "--output_dir", run,
                               "--max_steps", "60", "--batch_size", "8", "--save_steps", "0", *flags],
                              env=dict(os.environ, HONE_CACHE=str(self.folder / "cache")), capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, done.stderr)
        accuracy = json.loads((run / "summary.json").read_text())["eval"][key]
        print(f"{command} on {name}: held-out accuracy {accuracy:.3f}", file=sys.stderr)
        return accuracy

    def test_dpo(self):
        for name in FILES:
            with self.subTest(name=name):
                self.assertGreaterEqual(self.held_out_accuracy("dpo", name, "eval_rewards/accuracies", "--learning_rate", "3e-4"), LEAST_ACCURACY)

    def test_reward_model(self):
        for name in FILES:
            with self.subTest(name=name):
                self.assertGreaterEqual(self.held_out_accuracy("reward", name, "eval_rewards/accuracies", "--learning_rate", "3e-4"), LEAST_ACCURACY)


if __name__ == "__main__":
    unittest.main(verbosity=2)
