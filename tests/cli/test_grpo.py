#!/usr/bin/env python3
"""hone grpo and hone rloo on a tiny model: what a run leaves behind and whether its figures follow from it, the same bits whatever the split,
kill -9 at any moment, bad input, rewards that misbehave, guards.

usage: test_grpo.py HONE
"""
import collections
import json
import math
import pathlib
import signal
import statistics
import subprocess
import sys
import time
import unittest

from run_case import HONE, MODEL, RunCase

LORA = ("--use_peft", "--lora_r", 4)
SHORT = ("--max_completion_length", 12, "--num_generations", 4)


def prompts(count=12):
    words = ["sun", "red", "tea", "cat", "map", "ten", "log", "sea"]
    return [{"prompt": [{"role": "user", "content": f"{words[i % 8]} {words[(i * 3 + i // 8) % 8]}?"}], "answer": str(i)} for i in range(count)]


class Groups(RunCase):
    COMMAND, RATE = "grpo", "1e-3"

    def setUp(self):
        super().setUp()
        self.DATA = self.write("prompts.jsonl", prompts())

    def write(self, name, rows):
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def program(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def command(self, run, *more, **kwargs):
        """A flag that is given again takes the place of the one before."""
        words, flags = super().command(run, "--batch_size", "2", *SHORT, "--reward", "regex:[aeiou]", *more, **kwargs), {}
        for word in words[2:]:
            if word.startswith("--"):
                flags[word] = values = []
            else:
                values.append(word)
        return words[:2] + [word for flag, values in flags.items() for word in (flag, *values)]

    def run_groups(self, run, *more, reward=("regex:[aeiou]",), **kwargs):
        return self.run_hone(run, "--reward", *reward, "--save_steps", 0, *more, **kwargs)

    def lines(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def completions(self, run):
        return [json.loads(line) for line in (self.folder / run / "completions.jsonl").read_text().splitlines()]

    def assert_same_run(self, a, b):
        self.assert_same(a, b)
        self.assertEqual((self.folder / a / "completions.jsonl").read_text(), (self.folder / b / "completions.jsonl").read_text())


class Figures(Groups):
    def test_logged_figures_follow_from_the_completions(self):
        self.run_groups("run", "--reward_weights", 1, 0.5, reward=("vowel=regex:[aeiou]", "x=regex:x"), steps=3)
        by_step = collections.defaultdict(list)
        for c in self.completions("run"):
            self.assertEqual(set(c) - {"details", "draw"}, {"step", "row", "sample", "text", "ids", "logprobs", "finish_reason", "rewards", "verdicts", "advantage"})
            self.assertEqual(len(c["ids"]), len(c["logprobs"]))
            by_step[c["step"]].append(c)
        lines = self.lines("run")
        self.assertEqual(sorted(by_step), [line["step"] for line in lines])
        for line in lines:
            rows = by_step[line["step"]]
            self.assertEqual(len(rows), 8)
            groups = collections.defaultdict(list)
            for c in rows:
                groups[c["draw"]].append(c["rewards"]["vowel"] + 0.5 * c["rewards"]["x"])
            totals = [t for g in groups.values() for t in g]
            close = lambda key, value: self.assertAlmostEqual(line[key], value, places=6, msg=key)
            close("reward", statistics.fmean(totals))
            close("reward_std", statistics.stdev(totals))
            close("frac_reward_zero_std", statistics.fmean(len(set(g)) == 1 for g in groups.values()))
            for name in ("vowel", "x"):
                close(f"rewards/{name}/mean", statistics.fmean(c["rewards"][name] for c in rows))
            lengths = [len(c["ids"]) for c in rows]
            for name, figure in (("mean", statistics.fmean), ("min", min), ("max", max)):
                close(f"completions/{name}_length", figure(lengths))
            close("completions/clipped_ratio", statistics.fmean(c["finish_reason"] == "length" for c in rows))
            verdicts = collections.Counter(v for c in rows for v in c["verdicts"].values())
            for verdict in ("right", "wrong", "unparsed", "gold-unparsed", "timed-out", "crashed"):
                close(f"verdicts/{verdict}", verdicts[verdict] / 16)
            for g, totals in groups.items():
                deviation = statistics.stdev(totals)
                for c, total in zip([c for c in rows if c["draw"] == g], totals):
                    self.assertAlmostEqual(c["advantage"], (total - statistics.fmean(totals)) / (deviation + 1e-4), places=5)
            for key in ("time/sampling", "time/scoring", "time/training", "tokens_per_second/sampling"):
                self.assertGreaterEqual(line[key], 0)
            self.assertEqual(line["sampling/sampling_logp_difference/max"] if "sampling/sampling_logp_difference/max" in line else 0.0, 0.0)

    def test_evaluation(self):
        dev = self.write("dev.jsonl", prompts(16)[12:])
        done = self.run_groups("run", "--eval_file", dev, "--eval_steps", 2, "--load_best_model_at_end", "--save_steps", 2, steps=4)
        lines = self.lines("run")
        for line in lines[1::2]:
            self.assertLessEqual(line["eval_pass@1_low"], line["eval_pass@1"])
            self.assertLessEqual(line["eval_pass@1"], line["eval_pass@1_high"])
            self.assertEqual(line["eval_reward"], line["eval_pass@1"])
        self.assertIn("eval_pass@1", done.stdout + done.stderr)


class Exact(Groups):
    def test_step_0_is_the_reference(self):
        self.run_groups("first", *LORA, "--learning_rate", "1e-2", steps=3)
        kinds = {"full": (), "lora": LORA, "on_lora": ("--adapter", self.folder / "first" / "model"), "qlora": ("--load_in_4bit", "--lora_r", 4), "dora": (*LORA, "--use_dora")}
        for kind, flags in kinds.items():
            with self.subTest(kind):
                self.run_groups(kind, *flags, "--beta", 0.1, steps=4)
                lines = self.lines(kind)
                self.assertEqual(lines[0]["kl"], 0.0)  # to the bit
                self.assertGreater(lines[-1]["kl"], 0.0)
                self.assertEqual({line["sampling/sampling_logp_difference/max"] for line in lines}, {0.0})

    def test_same_bits_for_budget_and_threads(self):
        kinds = {"full": (), "lora": LORA, "kl": ("--beta", 0.1), "kl_lora": ("--beta", 0.1, *LORA), "iterations": ("--num_iterations", 2, "--steps_per_generation", 2)}
        for kind, flags in kinds.items():
            with self.subTest(kind):
                for name, split in (("base", ("--threads", 2, "--micro_batch_tokens", 4096)), ("thread", ("--threads", 1, "--micro_batch_tokens", 64))):
                    self.run_groups(f"{kind}-{name}", *flags, *split, steps=4)
                self.assert_same_run(f"{kind}-base", f"{kind}-thread")

    def test_skipping_groups_without_advantage_changes_no_bit(self):
        for skip in ("true", "false"):
            self.run_groups(skip, "--skip_zero_advantage", skip, steps=4)
        self.assertTrue(self.weights("true") == self.weights("false"))

    def test_kill_9_at_random_moments_and_resume(self):
        kinds = {"plain": (), "multi": ("--steps_per_generation", 2, "--num_iterations", 2), "kl_lora": (*LORA, "--beta", 0.1),
                 "dynamic": ("--dynamic_sampling", "--reward", "regex:q")}
        for kind, flags in kinds.items():
            with self.subTest(kind):
                flags = (*flags, "--on_guard", "warn")  # a model of noise hardly ever ends
                self.run_hone(kind, *flags, "--save_steps", 0, steps=100)
                self.kill_at_random_moments(kind + "-killed", *flags, "--save_steps", 7, seed=len(kind), steps=100)
                self.assert_same_run(kind, kind + "-killed")

    def test_sigterm_leaves_a_checkpoint(self):
        self.run_hone("whole", "--save_steps", 0, "--on_guard", "warn", steps=150)
        child = subprocess.Popen(self.command("run", "--on_guard", "warn", steps=150), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (self.folder / "run" / "metrics.jsonl").exists() and child.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        message = child.communicate(timeout=60)[1]
        if child.returncode == 0:
            self.skipTest("the run was over before the signal came")
        self.assertEqual(child.returncode, 143, message)
        self.assertIn("--resume", message)
        self.run_hone("run", "--resume", "--on_guard", "warn", steps=150)
        self.assert_same_run("whole", "run")

    def test_finished_completions_are_not_sampled_again(self):
        # a reward that ends the run while it is judged: the journal holds what was sampled
        marker = self.folder / "marker"
        reward = self.program("slow.py", f"""
import os, pathlib, signal
def reward(completions, **kwargs):
    marker = pathlib.Path({str(marker)!r})
    if not marker.exists():
        marker.write_text("")
        os.kill(int(os.environ["HONE_PID"]) if "HONE_PID" in os.environ else os.getppid(), signal.SIGKILL)
    return [float("a" in str(c)) for c in completions]
""")
        spec = f"python:{reward}:reward"
        options = ("--reward", spec)
        child = subprocess.run(self.command("run", *options, steps=2), env=self.env, capture_output=True, text=True, timeout=120)
        if child.returncode == 0:
            self.skipTest("the reward's parent is not the run")
        journal = (self.folder / "run" / "rollouts" / "rollout-0.jsonl").read_text().splitlines()
        self.assertEqual(len(journal), 1 + 8)
        with (self.folder / "run" / "rollouts" / "rollout-0.jsonl").open("a") as torn:
            torn.write('{"draw":0,"sam')
        self.run_hone("run", *options, "--resume", steps=2)
        self.assertEqual(self.lines("run")[0]["tokens_per_second/sampling"], 0.0)
        self.run_hone("whole", *options, steps=2)
        self.assert_same_run("run", "whole")


class OneCompletion(Groups):
    def test_reinforce_plus_plus_needs_no_group(self):
        """Groups of one have no spread: that is no missing signal. 160 of them are more than the guard waits for."""
        options = ("--advantage_estimator", "reinforce_plus_plus", "--num_generations", 1)
        self.run_groups("run", *options, "--batch_size", 8, steps=20)
        self.assertTrue(any(line["grad_norm"] > 0 for line in self.lines("run")))
        done = self.run_groups("refused", *options, "--dynamic_sampling", code=2)
        self.assertIn("--dynamic_sampling replaces groups", done.stderr)

    def test_cispo_says_what_its_bound_is(self):
        self.assertIn("cispo cuts the ratio itself", self.run_groups("low", "--loss_type", "cispo", steps=1).stderr)
        self.assertNotIn("cispo cuts", self.run_groups("high", "--loss_type", "cispo", "--epsilon_high", 5, steps=1).stderr)


class Unscored(Groups):
    def evaluated(self, body):
        reward = self.program("held.py", f"def reward(completions, answer, **rest):\n    return [{body} for a in answer]\n")
        out = self.folder / "figures.json"
        words = [str(HONE), "eval", "--model", str(MODEL), "--data", str(self.DATA), "--reward", f"python:{reward}:reward", "--max_new_tokens", "4", "--output", str(out)]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(out.read_text())

    def test_an_answer_without_a_score_is_no_zero(self):
        some = self.evaluated("None if int(a) < 3 else 2.0")
        self.assertEqual((some["reward"], some["unscored"]), (2.0, 3))
        none = self.evaluated("None")
        self.assertEqual((none["reward"], none["unscored"]), (None, 12))


class BadInput(Groups):
    def refused(self, *more, words, reward=("regex:a",), **kwargs):
        done = self.run_groups("bad", *more, code=2, reward=reward, **kwargs)
        self.assertLessEqual(len(done.stderr.splitlines()), 6, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertFalse((self.folder / "bad" / "model").exists())

    def test_messages(self):
        self.refused("--num_generations", 1, words=["--num_generations 1", "at least 2"])
        self.refused(reward=("mtah",), words=["mtah", "math"])
        self.refused("--reward_weights", 1, 2, words=["--reward_weights", "2 weights for 1"])
        self.refused("--max_completion_length", 1024, words=["--max_completion_length 1024", "--max_length"])
        self.refused("--importance_sampling_clip_min", 2, "--importance_sampling_clip_max", 1, words=["--importance_sampling_clip_min 2", "nothing would be left"])
        self.refused(reward=("a=regex:a", "a=regex:b"), words=["two are called a"])

    def test_gold_is_missing(self):
        rows = prompts()
        del rows[3]["answer"]
        rows[7]["answer"] = ""
        data = self.write("gold.jsonl", rows)
        self.refused(reward=("math",), words=["gold.jsonl:4", "answer"], data=data)
        bad = [json.loads(line) for line in (self.folder / "bad" / "bad_rows.jsonl").read_text().splitlines()]
        self.assertEqual([row["line"] for row in bad], [4, 8])

    def test_a_prompt_is_longer_than_the_limit(self):
        rows = prompts()
        rows[5]["prompt"][0]["content"] = "sun " * 60
        data = self.write("long.jsonl", rows)
        limit = ("--max_length", 60)
        self.refused(*limit, words=["long.jsonl:6", "prompt"], data=data)
        self.run_groups("cut", *limit, "--overlong", "cut", data=data, steps=1)

    def test_rewards_that_misbehave(self):
        program = self.program("reward.py", """
import json, sys, time
how = sys.argv[1]
for line in sys.stdin:
    if how == "exit": sys.exit(3)
    if how == "sleep": time.sleep(3600)
    if how == "garbage": print("]]{{ no json", flush=True)
    if how == "nan": print('{"rewards":[NaN],"reward":NaN}', flush=True)
""")
        for how, verdicts in (("exit", {"crashed"}), ("sleep", {"timed-out", "crashed"}), ("garbage", {"crashed"}), ("nan", {"crashed"})):
            with self.subTest(how):
                self.run_groups(how, "--reward_timeout", 1, reward=("vowel=regex:[aeiou]", f"p=program:{sys.executable} {program} {how}"), steps=1)
                rows = self.completions(how)
                self.assertLessEqual({row["verdicts"]["p"] for row in rows}, verdicts)
                self.assertEqual({row["rewards"]["p"] for row in rows}, {None})


    def test_rows_of_another_kind(self):
        gsm = self.write("gsm.jsonl", [{"question": "1 + 1?", "answer": "so\n#### 2"}])
        self.refused(words=["gsm.jsonl:1", "GSM8K", "later version"], data=gsm)


class RewardModel(Groups):
    def test_a_reward_model_judges_as_hone_grade_does(self):
        pairs = self.write("pairs.jsonl", [{**row, "chosen": [{"role": "assistant", "content": "yes " * (1 + i % 3)}],
                                            "rejected": [{"role": "assistant", "content": "no " * (1 + i % 2)}]} for i, row in enumerate(prompts())])
        subprocess.run([str(HONE), "reward", "--model", str(MODEL), "--data", str(pairs), "--output_dir", str(self.folder / "rm"), "--max_steps", "3",
                        "--learning_rate", "1e-2", "--save_steps", "0"], env=self.env, check=True, capture_output=True)
        self.run_groups("run", reward=(f"rm=model:{self.folder / 'rm' / 'model'}",), steps=2)
        done = self.completions("run")
        rows = prompts()
        given = self.write("given.jsonl", [{"prompt": rows[c["row"]]["prompt"], "completion": c["text"]} for c in done])
        graded = subprocess.run([str(HONE), "grade", "--reward", f"model:{self.folder / 'rm' / 'model'}", "--file", str(given)], env=self.env, check=True,
                                capture_output=True, text=True)
        expected = [json.loads(line)["reward"] for line in graded.stdout.splitlines()]
        self.assertEqual(len(expected), 16)
        for c, reward in zip(done, expected):
            self.assertAlmostEqual(c["rewards"]["rm"], reward, delta=1e-6 * abs(reward))  # printed as a float32 there, as a double here
        self.assertGreater(len(set(expected)), 8)


class Eval(Groups):
    def test_figures_follow_from_the_verdicts(self):
        out = self.folder / "eval.json"
        words = [str(HONE), "eval", "--model", str(MODEL), "--data", str(self.DATA), "--reward", "regex:[aeiou]", "--max_new_tokens", "6", "--num_generations",
                 "5", "--pass_k", "1,3,5"]
        subprocess.run([*words, "--output", str(out)], env=self.env, check=True, capture_output=True)
        figures = json.loads(out.read_text())
        rows = [json.loads(line) for line in (self.folder / "eval.rows.jsonl").read_text().splitlines()]
        self.assertEqual([row["line"] for row in rows], list(range(1, 13)))
        right = [sum(c["verdict"] == "right" for c in row["completions"]) for row in rows]
        self.assertEqual(right, [row["right"] for row in rows])
        self.assertTrue(0 < sum(right) < 60)
        for k in (1, 3, 5):
            expected = statistics.fmean(1 - math.comb(5 - c, k) / math.comb(5, k) for c in right)
            self.assertAlmostEqual(figures[f"pass@{k}"], expected, places=12)
            self.assertLessEqual(figures[f"pass@{k}_low"], expected)
            self.assertGreaterEqual(figures[f"pass@{k}_high"], expected)
        self.assertIn("majority@5", figures)
        self.assertNotIn("majority@1", figures)
        self.assertAlmostEqual(figures["reward"], sum(right) / 60, places=12)
        # the same completions for any number of threads, other ones for another seed
        again = subprocess.run([*words, "--format", "json", "--threads", "1"], env=self.env, check=True, capture_output=True, text=True)
        same = json.loads(again.stdout)
        same["seconds"] = figures["seconds"]
        self.assertEqual(same, figures)
        too_many = subprocess.run([*words[:-1], "1,8"], env=self.env, capture_output=True, text=True)
        self.assertEqual(too_many.returncode, 2)
        self.assertIn("--pass_k 8", too_many.stderr)


class Guards(Groups):
    def test_a_run_without_signal_stops_and_says_why(self):
        many = ("--batch_size", 16, "--save_steps", 4, "--max_completion_length", 60)
        for name, reward, words in (("zero", "regex:qqqqqqqqqqqq", "no completion has had any reward"), ("solved", "regex:.*", "are right")):
            with self.subTest(name):
                done = self.run_groups(name, *many, "--learning_rate", "1e-6", reward=(reward,), code=3, steps=20)
                self.assertIn(words, done.stderr)
                self.assertIn("too few groups with spread", done.stderr)
                self.assertTrue((self.folder / name / "checkpoints").exists())
        self.run_groups("warned", *many, "--on_guard", "warn", reward=("regex:qqqqqqqqqqqq",), steps=12)

    def test_all_cut(self):
        done = self.run_groups("cut", "--batch_size", 16, "--max_completion_length", 1, "--learning_rate", "1e-6", code=3, steps=20)
        self.assertIn("all cut", done.stderr)


class Rloo(Figures):
    COMMAND = "rloo"

    def test_logged_figures_follow_from_the_completions(self):
        self.run_groups("run", "--beta", 0, steps=2)
        groups = collections.defaultdict(list)
        for c in self.completions("run"):
            groups[c["step"], c["draw"]].append(c)
        for group in groups.values():
            rewards = [c["rewards"]["regex"] for c in group]
            for c in group:
                others = (sum(rewards) - c["rewards"]["regex"]) / 3
                self.assertAlmostEqual(c["advantage"], c["rewards"]["regex"] - others, places=6)


if __name__ == "__main__":
    unittest.main()
