#!/usr/bin/env python3
"""hone dpo, kto, orpo, simpo and reward on a tiny model: what step 0 must be, the same bits whatever the split, kill -9, the reference's cache,
a reference that follows, learning, and the guard against collapse.

usage: test_preferences.py HONE
"""
import json
import math
import pathlib
import shutil
import subprocess
import unittest

from run_case import HONE, MODEL, RunCase

LORA = ("--use_peft", "--lora_r", 4)


def pairs(count=24):
    """Pairs that a tiny model can tell apart: the better completion says yes, the worse one no."""
    words = ["sun", "red", "tea", "cat", "map", "ten", "log", "sea"]
    return [{"prompt": [{"role": "user", "content": f"{words[i % 8]} {words[(i * 3 + i // 8) % 8]}?"}],
             "chosen": [{"role": "assistant", "content": "yes " * (1 + i % 3) + words[(i * 5) % 8]}],
             "rejected": [{"role": "assistant", "content": "no " * (1 + (i + 1) % 3) + words[(i * 7 + 1) % 8]}]} for i in range(count)]


class Preferences(RunCase):
    COMMAND, RATE = "dpo", "1e-3"

    def setUp(self):
        super().setUp()
        self.DATA = self.write("pairs.jsonl", pairs())

    def write(self, name, rows):
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def lines(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def reference_lines(self, done):
        return [line.split("reference: ")[1] for line in (done.stdout + done.stderr).splitlines() if "reference: " in line]

    def test_step_0_is_the_reference(self):
        self.run_hone("first", *LORA, "--learning_rate", "1e-2", steps=3)
        kinds = {"full": (), "lora": LORA, "on_lora": ("--adapter", self.folder / "first" / "model"), "qlora": ("--load_in_4bit", "--lora_r", 4),
                 "dora": (*LORA, "--use_dora"), "pissa": (*LORA, "--init_lora_weights", "pissa"),
                 "on_lora_synced": ("--adapter", self.folder / "first" / "model", "--sync_ref_model")}
        for kind, flags in kinds.items():
            with self.subTest(kind):
                self.run_hone(kind, *flags, "--save_steps", 0, steps=1)
                line = self.lines(kind)[0]
                self.assertEqual(line["loss"], math.log(2))  # to the bit: the reference is the training forward's own bits
                for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "kl/chosen", "kl/rejected", "chosen_drop", "chosen_fell"):
                    self.assertEqual(line[name], 0.0, name)
                self.assertLess(line["logps/chosen"], 0.0)

    def test_a_trained_adapter_is_its_own_reference(self):
        # "adapter off" would be another policy than the one that the run begins with: the log-probabilities differ, the margins are 0
        self.run_hone("first", *LORA, "--learning_rate", "1e-1", steps=5)
        self.run_hone("base", "--save_steps", 0, steps=1)
        self.run_hone("second", "--adapter", self.folder / "first" / "model", "--save_steps", 0, steps=1)
        base, second = self.lines("base")[0], self.lines("second")[0]
        self.assertNotEqual(base["logps/chosen"], second["logps/chosen"])
        self.assertEqual(second["kl/chosen"], 0.0)

    def test_same_bits_for_budget_and_threads(self):
        kinds = {"dpo": (), "kto": (), "orpo": (), "simpo": (), "reward": (), "aot": ("--loss_type", "aot"), "sync": ("--sync_ref_model", "--ref_model_sync_steps", 2)}
        for kind, flags in kinds.items():
            with self.subTest(kind):
                command = kind if kind in ("kto", "orpo", "simpo", "reward") else "dpo"
                more = ("--eval_file", self.DATA, "--eval_steps", 5, "--save_steps", 0, *flags)
                for name, split in (("base", ("--threads", 2, "--micro_batch_tokens", 4096)), ("budget", ("--threads", 2, "--micro_batch_tokens", 256)),
                                    ("thread", ("--threads", 1, "--micro_batch_tokens", 64))):
                    self.run_hone(f"{kind}-{name}", *more, *split, command=command)
                self.assert_same(f"{kind}-base", f"{kind}-budget")
                self.assert_same(f"{kind}-base", f"{kind}-thread")

    def test_kill_9_at_random_moments_and_resume(self):
        for kind, flags in {"full": (), "lora": LORA, "sync": ("--sync_ref_model", "--ref_model_sync_steps", 4)}.items():
            with self.subTest(kind):
                flags = (*flags, "--save_steps", 3, "--max_chosen_drop", 0)
                self.run_hone(kind, *flags, steps=60)
                self.kill_at_random_moments(kind + "-killed", *flags, "--save_total_limit", 2, steps=60)
                self.assert_same(kind, kind + "-killed")

    def test_resume_without_the_cache_computes_the_same_reference(self):
        # the model is read anew before the checkpoint takes its place: rows that the cache has lost are computed from the policy of step 0
        for kind, flags in {"full": (), "lora": LORA}.items():
            with self.subTest(kind):
                self.run_hone(kind, *flags, "--save_steps", 2, steps=5)
                shutil.copytree(self.folder / kind, self.folder / (kind + "-cut"))
                shutil.rmtree(self.folder / (kind + "-cut") / "checkpoints" / "step-5")
                shutil.rmtree(self.folder / "cache")
                resumed = self.run_hone(kind + "-cut", *flags, "--save_steps", 2, "--resume", steps=5)
                self.assertIn("resuming after step 4", resumed.stdout + resumed.stderr)
                self.assertEqual(self.reference_lines(resumed), ["4 rows computed, 0 from the cache"])
                self.assert_same(kind, kind + "-cut")

    def test_the_reference_is_computed_once(self):
        first = self.run_hone("first", "--eval_file", self.write("dev.jsonl", pairs(30)[24:]), steps=2)
        self.assertEqual(self.reference_lines(first), ["8 rows computed, 0 from the cache", "6 held-out rows computed, 0 from the cache"])
        # a second epoch costs nothing, a second run only what the first has not seen; an adapter that changes nothing yet is the same policy
        second = self.run_hone("second", "--eval_file", self.folder / "dev.jsonl", *LORA, steps=9)
        self.assertEqual(self.reference_lines(second), ["16 rows computed, 8 from the cache", "0 held-out rows computed, 6 from the cache"])
        third = self.run_hone("third", steps=9)
        self.assertEqual(self.reference_lines(third), ["0 rows computed, 24 from the cache"])
        self.assertEqual(self.metrics("third")[:1], [{k: v for k, v in line.items() if not k.startswith("eval_")} for line in self.metrics("first")[:1]])
        # another policy is never served from it
        for flags in (("--load_in_4bit", "--lora_r", 4), ("--adapter", self.folder / "second" / "model")):
            other = self.run_hone("other" + str(len(flags)), *flags, steps=1)
            self.assertEqual(self.reference_lines(other), ["4 rows computed, 0 from the cache"])
            self.assertEqual(self.lines("other" + str(len(flags)))[0]["rewards/margins"], 0.0)
        # a damaged file is made anew, with a warning, and changes nothing
        files = [p for p in (self.folder / "cache").iterdir() if p.suffix == ".tokens"]
        for path in files:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        again = self.run_hone("again", steps=9)
        self.assertIn("the cache of the reference's log-probabilities is made anew", again.stderr)
        self.assertEqual(self.reference_lines(again), ["24 rows computed, 0 from the cache"])
        self.assert_same("third", "again")

    def test_the_reference_follows(self):
        # alpha 1: after every step the reference is the policy, so margins stay at exactly 0 (and the loss at ln 2)
        for kind, flags in {"full": (), "lora": LORA}.items():
            with self.subTest(kind):
                done = self.run_hone(kind, *flags, "--sync_ref_model", "--ref_model_sync_steps", 1, "--ref_model_mixup_alpha", 1, steps=4)
                self.assertEqual(self.reference_lines(done), [])
                self.assertEqual([(line["loss"], line["rewards/margins"], line["kl/chosen"]) for line in self.lines(kind)], [(math.log(2), 0.0, 0.0)] * 4)
                # every second step: the reference of steps 1 and 2 is that of step 0, of steps 3 and 4 the policy after step 2
                self.run_hone(kind + "2", *flags, "--sync_ref_model", "--ref_model_sync_steps", 2, "--ref_model_mixup_alpha", 1, steps=4)
                self.assertEqual([line["rewards/margins"] == 0.0 for line in self.lines(kind + "2")], [True, False, True, False])
        self.run_hone("plain", steps=4)
        self.run_hone("never", "--sync_ref_model", "--ref_model_sync_steps", 100, steps=4)
        self.assert_same("plain", "never")
        refused = self.run_hone("sft", "--loss_type", "sft", "--sync_ref_model", code=2)
        self.assertIn("--sync_ref_model", refused.stderr)

    def test_it_learns(self):
        for command in ("dpo", "orpo", "simpo"):
            with self.subTest(command):
                self.run_hone(command, "--learning_rate", "1e-2", "--max_chosen_drop", 0, "--lr_scheduler_type", "constant", "--eval_file", self.DATA,
                              "--eval_steps", 20, command=command, steps=20)
                last = self.lines(command)[-1]
                self.assertEqual(last["eval_rewards/accuracies"], 1.0)
                self.assertGreater(last["eval_rewards/margins_low"], 0.0)
                self.assertLess(last["loss"], self.lines(command)[0]["loss"])

    def test_evaluation_and_the_best_by_accuracy(self):
        done = self.run_hone("run", "--eval_file", self.DATA, "--eval_steps", 2, "--metric_for_best_model", "eval_rewards/accuracies",
                             "--load_best_model_at_end", steps=6)
        self.assertRegex(done.stdout + done.stderr, r"step 2: eval_loss \d.\d+, eval_rewards/accuracies \d.\d+")
        last = [line for line in self.lines("run") if "eval_loss" in line][-1]
        for name in ("eval_loss", "eval_rewards/accuracies", "eval_kl/chosen", "eval_entropy", "eval_mean_token_accuracy"):
            self.assertLessEqual(last[name + "_low"], last[name], name)
            self.assertLessEqual(last[name], last[name + "_high"], name)
        self.run_hone("kto", "--eval_file", self.DATA, "--eval_steps", 2, command="kto", steps=2)
        line = self.lines("kto")[-1]
        # rewards/chosen is a mean over the good rows alone: its interval is that of those rows
        self.assertLess(line["eval_rewards/chosen_low"], line["eval_rewards/chosen"])
        self.assertNotIn("eval_rewards/margins_low", line)

    def test_a_collapse_is_stopped(self):
        # a huge learning rate: after a few good steps (warm-up) every completion becomes impossible
        flags = ("--warmup_steps", 12, "--lr_scheduler_type", "constant", "--max_grad_norm", 0, "--save_steps", 1, "--learning_rate", 3, "--save_total_limit", 1)
        stopped = self.run_hone("run", *flags, steps=60, code=3)
        self.assertIn("--max_chosen_drop", stopped.stderr)
        lines = self.lines("run")
        self.assertLess(lines[-1]["step"], 60)
        window = sorted(line["chosen_drop"] for line in lines[-10:])
        self.assertGreater((window[4] + window[5]) / 2, 2.0)
        kept = [int(p.name.split("-")[1]) for p in (self.folder / "run" / "checkpoints").iterdir()]
        self.assertEqual(len(kept), 1)
        # the weights after its step had not fallen: the next step, which they made, is within half the bound in the median
        drops = [line["chosen_drop"] for line in lines if line["step"] <= kept[0]][-10:]
        self.assertLess(sorted(drops)[len(drops) // 2], 1.0)
        self.assertLess(kept[0], lines[-1]["step"])
        self.assertFalse((self.folder / "run" / "model").exists())
        warned = self.run_hone("warned", *flags, "--on_guard", "warn", steps=lines[-1]["step"] + 5)
        self.assertEqual(warned.stderr.count("--max_chosen_drop"), 1)
        self.run_hone("off", *flags, "--max_chosen_drop", 0, steps=lines[-1]["step"] + 5)

    def test_run_yaml_is_the_commands_own(self):
        self.run_hone("run", "--loss_type", "ipo", "--beta", 0.3, steps=2)
        again = subprocess.run([str(HONE), "dpo", "--config", str(self.folder / "run" / "run.yaml"), "--output_dir", str(self.folder / "again")],
                               env=self.env, capture_output=True, text=True, timeout=300)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assert_same("run", "again")
        refused = self.run_hone("run", "--loss_type", "ipo", "--beta", 0.2, "--resume", steps=2, code=2)
        self.assertIn("beta", refused.stderr)
        summary = json.loads((self.folder / "run" / "summary.json").read_text())
        self.assertEqual((summary["command"], summary["rows"]), ("dpo", 24))


if __name__ == "__main__":
    unittest.main(verbosity=1)
