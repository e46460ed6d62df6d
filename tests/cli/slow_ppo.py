#!/usr/bin/env python3
"""PPO learns, on real data and the real model, seeded: against a reward model of persona pairs it raises the held-out preference by at least 20 points
within 10 minutes; with the math verifier it raises held-out pass@1 on the example problems by at least 10 points over SFT. Label slow.

usage: slow_ppo.py HONE
Needs the default model (make model) and the data ($HONE_SHARED, else ../shared beside the repository).
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HONE = pathlib.Path(sys.argv.pop(1)).resolve()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL, DATA = ROOT / "models" / "SmolLM2-135M-Instruct.gguf", ROOT / "examples" / "data"
PERSONA = pathlib.Path(os.environ.get("HONE_SHARED", ROOT.parent / "shared")) / "data" / "persona"
NAME = "interest-in-science"


def turn(role, text):
    return [{"role": role, "content": text.strip()}]


def run_hone(*words):
    done = subprocess.run([str(HONE), *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


@unittest.skipUnless(MODEL.exists(), f"{MODEL} is not there: make model")
class Learning(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-slow-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def persona(self, part):
        """Pairs and prompts of a persona file: (pairs file, prompts file, what a held-out answer has to begin with)."""
        with open(PERSONA / f"{NAME}.{part}.jsonl") as lines:
            rows = [json.loads(line) for line in lines]
        pairs, prompts = self.folder / f"pairs.{part}.jsonl", self.folder / f"prompts.{part}.jsonl"
        pairs.write_text("".join(json.dumps({"prompt": turn("user", r["question"]), "chosen": turn("assistant", r["answer_matching_behavior"]),
                                             "rejected": turn("assistant", r["answer_not_matching_behavior"])}) + "\n" for r in rows))
        prompts.write_text("".join(json.dumps({"prompt": turn("user", r["question"])}) + "\n" for r in rows))
        return pairs, prompts, [r["answer_matching_behavior"].strip() for r in rows]

    def either(self, pairs):
        """Demonstrations of how to answer without a preference: the chosen answer of every other row, the rejected one of the rest."""
        out = self.folder / "either.jsonl"
        with open(pairs) as lines:
            rows = [json.loads(line) for line in lines]
        out.write_text("".join(json.dumps({"messages": r["prompt"] + r[("chosen", "rejected")[i % 2]]}) + "\n" for i, r in enumerate(rows)))
        return out

    def preference(self, prompts, wanted, *adapter):
        """Share of 8 sampled answers to each held-out question that begin with the preferred word."""
        out = run_hone("sample", "--model", MODEL, *adapter, "--file", prompts, "--num_generations", 8, "--max_new_tokens", 4, "--format", "jsonl")
        answers = [[c["text"].strip() for c in json.loads(line)["completions"]] for line in out.splitlines()]
        self.assertEqual(len(answers), len(wanted))
        return sum(a.startswith(w) for some, w in zip(answers, wanted) for a in some) / sum(map(len, answers))

    @unittest.skipUnless(PERSONA.is_dir(), f"{PERSONA} is not there: set HONE_SHARED")
    def test_preferences_of_a_persona(self):
        begin = time.monotonic()
        pairs, prompts, _ = self.persona("train")
        dev_pairs, dev_prompts, wanted = self.persona("dev")
        run_hone("reward", "--model", MODEL, "--use_peft", "--data", pairs, "--eval_file", dev_pairs, "--output_dir", self.folder / "reward", "--max_steps", 60,
                 "--batch_size", 8, "--learning_rate", "3e-4", "--save_steps", 0)
        run_hone("sft", "--model", MODEL, "--use_peft", "--data", self.either(pairs), "--output_dir", self.folder / "sft", "--max_steps", 20, "--batch_size", 8,
                 "--learning_rate", "3e-4", "--save_steps", 0)
        start = self.folder / "sft" / "model"
        before = self.preference(dev_prompts, wanted, "--adapter", start)
        run_hone("ppo", "--model", MODEL, "--adapter", start, "--data", prompts, "--reward", f"model:{self.folder / 'reward' / 'model'}", "--output_dir",
                 self.folder / "ppo", "--batch_size", 8, "--num_generations", 8, "--num_ppo_epochs", 2, "--max_completion_length", 4, "--missing_eos_penalty", 1,
                 "--kl_coef", 0.1, "--max_steps", 30, "--learning_rate", "1e-4", "--lr_scheduler_type", "constant", "--logging_steps", 1, "--save_steps", 0)
        seconds = time.monotonic() - begin
        after = self.preference(dev_prompts, wanted, "--adapter", self.folder / "ppo" / "model")
        print(f"held-out preference {before:.3f} before, {after:.3f} after PPO, {seconds:.0f} s with the reward model", file=sys.stderr)
        self.assertGreaterEqual(after, before + 0.20)
        self.assertLess(seconds, 600)

    def test_word_problems_with_the_math_verifier(self):
        run_hone("sft", "--model", MODEL, "--data", DATA / "sft_train.jsonl", "--output_dir", self.folder / "sft", "--max_steps", 80, "--learning_rate", "2e-4",
                 "--warmup_steps", 4, "--save_steps", 0)
        start = self.folder / "sft" / "model"
        run_hone("ppo", "--model", start, "--data", DATA / "prompts_train.jsonl", "--reward", "math", "--output_dir", self.folder / "ppo", "--batch_size", 8,
                 "--num_generations", 8, "--max_completion_length", 64, "--kl_coef", 0, "--num_ppo_epochs", 1, "--max_steps", 60, "--learning_rate", "2e-5",
                 "--warmup_steps", 5, "--lr_scheduler_type", "constant", "--logging_steps", 1, "--save_steps", 0)
        solved = [self.solved(model) for model in (start, self.folder / "ppo" / "model")]
        print(f"held-out pass@1 {solved[0]:.3f} after SFT, {solved[1]:.3f} after PPO", file=sys.stderr)
        self.assertGreaterEqual(solved[1], solved[0] + 0.10)

    def solved(self, model):
        out = self.folder / "figures.json"
        run_hone("eval", "--model", model, "--data", DATA / "prompts_test.jsonl", "--reward", "math", "--max_new_tokens", 64, "--num_generations", 4, "--output", out)
        return json.loads(out.read_text())["pass@1"]


if __name__ == "__main__":
    unittest.main()
