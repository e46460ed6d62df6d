#!/usr/bin/env python3
"""hone ppo on a tiny model: the first update, what a run leaves behind, the same bits whatever the split and after kill -9 (also in the middle of a
rollout's updates), every place the value model may start from, four roles on one base, bad input.

usage: test_ppo.py HONE
"""
import json
import pathlib
import struct
import subprocess
import unittest

from run_case import HONE, MODEL, RunCase

DEFAULT_MODEL = pathlib.Path(__file__).resolve().parent.parent.parent / "models" / "SmolLM2-135M-Instruct.gguf"

LORA = ("--use_peft", "--lora_r", 4)
WORDS = ["sun", "red", "tea", "cat", "map", "ten", "log", "sea"]


def prompts(count=12):
    return [{"prompt": [{"role": "user", "content": f"{WORDS[i % 8]} {WORDS[(i * 3 + i // 8) % 8]}?"}], "answer": str(i)} for i in range(count)]


def pairs(count=16):
    return [{"prompt": [{"role": "user", "content": f"{WORDS[i % 8]}?"}], "chosen": [{"role": "assistant", "content": f"yes {WORDS[i % 8]}"}],
             "rejected": [{"role": "assistant", "content": f"no {WORDS[(i + 3) % 8]}"}]} for i in range(count)]


class Ppo(RunCase):
    COMMAND, RATE = "ppo", "1e-3"

    def setUp(self):
        super().setUp()
        self.DATA = self.folder / "prompts.jsonl"
        self.DATA.write_text("".join(json.dumps(row) + "\n" for row in prompts()))
        self.PAIRS = self.folder / "pairs.jsonl"
        self.PAIRS.write_text("".join(json.dumps(row) + "\n" for row in pairs()))

    def command(self, run, *more, **kwargs):
        words = super().command(run, "--max_completion_length", 12, "--save_steps", 3, *more, **kwargs)
        if kwargs.get("command", "ppo") != "ppo":
            cut = words.index("--max_completion_length")
            return words[:cut] + words[cut + 4:]
        return words if "--reward" in words else words + ["--reward", "regex:[aeiou]"]

    def reward_model(self, name, *more):
        self.run_hone(name, *more, steps=3, data=self.PAIRS, command="reward")
        return self.folder / name / "model"

    def lines(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def refused(self, *more, says, **kwargs):
        done = self.run_hone("refused", *more, code=2, **kwargs)
        self.assertIn(says, done.stderr)
        self.assertLessEqual(len(done.stderr.strip().splitlines()), 6)


class Updates(Ppo):
    def test_first_update_is_on_policy(self):
        done = self.run_hone("run", "--num_ppo_epochs", 2, "--num_mini_batches", 2, steps=8)
        self.assertNotIn("no spread", done.stdout, "PPO has groups, but needs no spread in them")
        lines = self.lines("run")
        self.assertEqual(len(lines), 8)
        first = lines[0]
        self.assertEqual((first["val/ratio"], first["policy/clipfrac_avg"], first["policy/approxkl_avg"]), (1, 0, 0))
        self.assertEqual(first["sampling/sampling_logp_difference/mean"], 0)
        self.assertEqual((first["objective/kl"], first["kl"], first["objective/non_score_reward"]), (0, 0, 0))
        self.assertEqual(lines[4]["val/ratio"], 1, "each rollout begins on the policy")
        self.assertNotEqual(lines[1]["policy/approxkl_avg"], 0)
        self.assertNotEqual(lines[4]["objective/kl"], 0)
        for key in ("objective/scores", "objective/rlhf_reward", "objective/entropy", "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg", "val/ratio_var",
                    "val/num_eos_tokens", "reward", "completions/mean_length", "time/sampling"):
            self.assertIn(key, first)

    def test_the_split_changes_no_bit(self):
        self.run_hone("one", "--micro_batch_tokens", 1000, "--num_generations", 2, steps=6)
        self.run_hone("two", "--micro_batch_tokens", 60, "--num_generations", 2, "--gradient_checkpointing", "true", "--threads", 1, steps=6)
        self.assert_same("one", "two")

    def test_kill_and_resume_also_between_the_updates_of_a_rollout(self):
        options = ("--num_ppo_epochs", 2, "--num_mini_batches", 2, "--kl_target", 1, "--kl_horizon", 16, "--use_score_scaling", *LORA)
        self.run_hone("whole", *options, steps=80)
        self.kill_at_random_moments("killed", *options, steps=80)
        self.assert_same("whole", "killed")

    def test_first_update_is_on_policy_with_adapters(self):
        self.run_hone("start", *LORA, steps=4)
        for name, more in (("lora", LORA), ("goes_on", ("--adapter", self.folder / "start" / "model")), ("nf4", (*LORA, "--load_in_4bit"))):
            self.run_hone(name, *more, steps=1)
            first = self.lines(name)[0]
            self.assertEqual((first["val/ratio"], first["policy/clipfrac_avg"], first["policy/approxkl_avg"]), (1, 0, 0), name)
            self.assertEqual((first["sampling/sampling_logp_difference/mean"], first["objective/kl"], first["kl"]), (0, 0, 0), name)

    def test_rewards_are_mixed_by_their_weights(self):
        self.run_hone("run", "--reward", "vowels=regex:[aeiou]", "letters=regex:[a-z]", "--reward_weights", 2, 0.5, "--num_ppo_epochs", 1, steps=2)
        with open(self.folder / "run" / "completions.jsonl") as file:
            rows = [row for row in map(json.loads, file) if row["step"] == 1]
        scores = [2 * row["rewards"]["vowels"] + 0.5 * row["rewards"]["letters"] for row in rows]
        self.assertAlmostEqual(self.lines("run")[0]["objective/scores"], sum(scores) / len(scores), places=12)

    def test_kill_while_a_rollout_is_sampled_or_scored(self):
        options = ("--num_generations", 16, "--num_ppo_epochs", 1)
        self.run_hone("whole", *options, steps=4)
        journal, inside = self.folder / "killed" / "rollouts" / "rollout-1.jsonl", 0
        for wanted in (1, 20, 40, 64, 65, 100):  # lines behind the first when the kill falls: 64 completions, then 64 verdicts
            child = subprocess.Popen(self.command("killed", "--resume", *options, steps=4), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while child.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > wanted):
                pass
            child.kill()
            child.wait()
            lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
            if any((self.folder / "killed").glob("checkpoints/*")) or len(lines) <= wanted:
                break  # past the rollout
            # As the kill left it, or, where the process was faster than the look, as a kill at that moment would have: with a torn line.
            journal.write_bytes(b"".join(lines[:wanted + 1]) + (lines[wanted + 1][:9] if len(lines) > wanted + 1 else b'{"dra'))
            inside += 1
        self.assertGreaterEqual(inside, 3)
        self.run_hone("killed", "--resume", *options, steps=4)
        self.assert_same("whole", "killed")

    def test_critic_warmup_leaves_the_policy_alone(self):
        self.run_hone("warm", "--critic_warmup", 2, "--num_ppo_epochs", 2, "--weight_decay", 0.5, "--learning_rate", "1e-2", steps=6)
        lines = self.lines("warm")
        self.assertEqual([line["objective/kl"] for line in lines[:5]], [0] * 5, "two rollouts of two updates, and the rollout sampled after them")
        self.assertNotEqual(lines[0]["loss/value_avg"], lines[1]["loss/value_avg"], "the value model learns")
        self.assertNotEqual(lines[5]["policy/approxkl_avg"], 0, "then the policy does")


class Roles(Ppo):
    def test_one_base_for_four_roles(self):
        for extra in ((), ("--load_in_4bit",)):
            reward = self.reward_model("reward" + "".join(extra), *LORA, *extra)
            done = self.run_hone("run" + "".join(extra), *LORA, *extra, "--reward", f"model:{reward}", steps=4)
            self.assertIn("stands on the policy's base", done.stdout + done.stderr)
            self.assertIn("an adapter on the policy's base", done.stdout + done.stderr)

    def test_whole_models(self):
        reward = self.reward_model("reward")
        for value in ("reward", "policy", reward):
            self.run_hone(f"from_{str(value)[-5:].strip('/')}", "--reward", f"model:{reward}", "--value_model", value, steps=3)

    def test_full_reward_model_beside_an_adapter(self):
        reward = self.reward_model("reward")
        self.run_hone("run", *LORA, "--reward", f"model:{reward}", steps=3)

    def test_the_value_model_is_saved_and_taken_up(self):
        for more in ((), LORA):
            name = "peft" if more else "full"
            reward = self.reward_model(f"reward_{name}", *more)
            self.run_hone(name, *more, "--reward", f"model:{reward}", steps=3)
            value = self.folder / name / "value"
            self.assertTrue((value / ("adapter_model.safetensors" if more else "model.safetensors")).exists())
            self.run_hone(f"{name}_again", *more, "--reward", f"model:{reward}", "--value_model", value, steps=1)
            first = [self.lines(run)[0]["loss/value_avg"] for run in (name, f"{name}_again")]
            self.assertNotEqual(first[0], first[1], "it goes on from what was learned")

    def test_the_value_model_from_a_policy_with_an_adapter_begins_as_its_body(self):
        self.run_hone("start", *LORA, "--learning_rate", "1e-2", steps=6)
        start = self.folder / "start" / "model"
        for name, more in (("with", ("--adapter", start)), ("without", LORA)):
            self.run_hone(name, *more, "--value_model", "policy", "--learning_rate", "1e-9", steps=1)
        norm = {name: self.b_norm(self.folder / name / "value") for name in ("with", "without")}
        self.assertAlmostEqual(norm["with"], self.b_norm(start), delta=1e-5 * norm["with"])
        self.assertLess(norm["without"], 1e-3 * norm["with"], "a new adapter: B is 0")

    def b_norm(self, adapter):
        """Root of the sum of squares of every B of an adapter's file (float32)."""
        data = (adapter / "adapter_model.safetensors").read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        total = 0.0
        for name, tensor in json.loads(data[8:8 + size]).items():
            if name.endswith("lora_B.weight"):
                self.assertEqual(tensor["dtype"], "F32")
                begin, end = (8 + size + offset for offset in tensor["data_offsets"])
                total += sum(v * v for v in struct.unpack(f"<{(end - begin) // 4}f", data[begin:end]))
        return total ** 0.5

    def test_a_whole_reward_model_is_loaded_once_beside_adapters(self):
        reward = self.reward_model("reward")
        done = self.run_hone("run", *LORA, "--reward", f"model:{reward}", steps=2)
        self.assertIn("an adapter on the reward model", done.stdout)

    def test_grpo_shares_its_base_with_the_reward_model_too(self):
        reward = self.reward_model("reward", *LORA)
        words = [str(HONE), "grpo", "--model", str(MODEL), "--data", str(self.DATA), "--output_dir", str(self.folder / "run"), *map(str, LORA),
                 "--reward", f"model:{reward}", "--num_generations", "2", "--batch_size", "4", "--max_completion_length", "8", "--max_steps", "2"]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("stands on the policy's base", done.stdout)

    def test_another_tokenizer(self):
        """A reward model is given the text, and that is said; a value model must have the policy's."""
        reward = self.reward_model("reward")
        file = reward / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
        file.write_text(json.dumps(tokenizer))
        done = self.run_hone("run", "--reward", f"model:{reward}", "--value_model", "policy", steps=2)
        self.assertIn("has another tokenizer: completions are given to it as text, and tokenised anew", done.stdout)
        self.refused("--reward", f"model:{reward}", says="its tokenizer is not the policy's")
        self.refused("--value_model", reward, says="give --value_model policy")

    def test_bad_input(self):
        self.refused("--kl_target", 0, says="--kl_target 0")
        self.refused("--value_model", "reward", says="no --reward is a reward model")
        self.refused("--value_model", MODEL, says="no reward model: it has no score head")
        self.refused("--value_model", "nowhere", says="no such folder")
        self.refused("--reward", f"model:{MODEL}", says="no reward model: it has no score head")
        self.refused("--num_mini_batches", 9, says="--num_mini_batches")
        self.refused("--kl_in_loss", "--kl_estimator", "k1", says="k3")
        self.refused("--kl_horizon", 100, says="--kl_target")


class Hacking(Ppo):
    def test_parting_stops_the_run_and_keeps_the_best(self):
        """Trained on vowels, held out on consonants only: the policy learns the one against the other."""
        held = self.folder / "held.jsonl"
        held.write_text("".join(json.dumps(row) + "\n" for row in prompts(64)))
        judge = self.folder / "judge.py"
        judge.write_text("def share(t):\n    return sum(c in 'aeiou' for c in t[-1]['content']) / 8\n"
                         "def vowels(completions, **rest):\n    return [share(t) for t in completions]\n"
                         "def others(completions, **rest):\n    return [-share(t) for t in completions]\n")
        options = ("--reward", f"python:{judge}:vowels", "--eval_file", held, "--eval_reward", f"python:{judge}:others", "--eval_steps", 4,
                   "--num_generations", 4, "--kl_coef", 0, "--max_kl", 0, "--learning_rate", "5e-2", "--parting_level", 0.05)
        done = self.run_hone("stopped", *options, code=3, steps=400)
        self.assertIn("train reward and held-out score part", done.stderr)
        best = max((line for line in self.lines("stopped") if "eval_reward" in line), key=lambda line: line["eval_reward"])["step"]
        steps = sorted(int(folder.name.split("-")[1]) for folder in (self.folder / "stopped" / "checkpoints").iterdir())
        self.assertEqual(steps[-1], best, "the newest checkpoint is the best one")
        done = self.run_hone("warned", *options, "--on_guard", "warn", steps=len(self.lines("stopped")) + 4)
        self.assertIn("train reward and held-out score part", done.stderr)


class SecondOpinion(Ppo):
    def test_the_best_by_a_second_reward_model(self):
        judge, second = self.reward_model("judge"), self.reward_model("second", "--seed", 7)
        self.run_hone("run", "--reward", f"model:{judge}", "--eval_reward", f"model:{second}", "--eval_file", self.DATA, "--eval_steps", 2,
                      "--load_best_model_at_end", "--num_ppo_epochs", 1, "--learning_rate", "1e-2", steps=8)
        scores = {line["step"]: line["eval_reward"] for line in self.lines("run") if "eval_reward" in line}
        self.assertEqual(list(scores), [2, 4, 6, 8])
        best = max(scores, key=lambda step: (scores[step], -step))
        self.assertEqual(json.loads((self.folder / "run" / "summary.json").read_text())["eval"]["step"], best)

    def test_an_epochs_end_is_in_updates(self):
        self.run_hone("run", "--eval_file", self.DATA, "--num_ppo_epochs", 2, steps=12)
        self.assertEqual([line["step"] for line in self.lines("run") if "eval_reward" in line], [6, 12], "12 prompts, 4 a rollout, 2 updates each")


class Memory(Ppo):
    def peak(self, run, command, *more):
        words = [str(HONE), command, "--model", str(DEFAULT_MODEL), "--data", str(self.DATA), "--output_dir", str(self.folder / run), "--use_peft",
                 "--max_steps", "2", "--batch_size", "2", "--max_completion_length", "8", "--save_steps", "0", *map(str, more)]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads((self.folder / run / "summary.json").read_text())["peak_memory_mib"]

    def test_four_roles_take_little_more_than_one(self):
        words = [str(HONE), "reward", "--model", str(DEFAULT_MODEL), "--data", str(self.PAIRS), "--output_dir", str(self.folder / "judge"), "--use_peft",
                 "--max_steps", "1", "--batch_size", "2", "--save_steps", "0"]
        self.assertEqual(subprocess.run(words, env=self.env, capture_output=True, timeout=300).returncode, 0)
        grpo = self.peak("grpo", "grpo", "--reward", "regex:[aeiou]", "--num_generations", 2)
        ppo = self.peak("ppo", "ppo", "--reward", f"model:{self.folder}/judge/model", "--num_generations", 2, "--num_ppo_epochs", 1)
        self.assertLessEqual(ppo, 1.3 * grpo, f"PPO {ppo:.0f} MiB, GRPO {grpo:.0f} MiB")


if __name__ == "__main__":
    unittest.main()
