#!/usr/bin/env python3
"""hone ppo on a tiny model: the first update, what a run leaves behind, the same bits whatever the split and after kill -9 (also in the middle of a
rollout's updates), every place the value model may start from, four roles on one base, bad input.

usage: test_ppo.py HONE
"""
import json
import unittest

from run_case import MODEL, RunCase

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
        self.run_hone("run", "--num_ppo_epochs", 2, "--num_mini_batches", 2, steps=8)
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
        self.kill_at_random_moments("killed", *options, steps=80)  # long enough that the first moment falls into it
        self.assert_same("whole", "killed")

    def test_critic_warmup_leaves_the_policy_alone(self):
        self.run_hone("warm", "--critic_warmup", 2, "--num_ppo_epochs", 2, steps=6)
        kls = [line["objective/kl"] for line in self.lines("warm")]
        self.assertEqual(kls[:5], [0] * 5, "two rollouts of two updates, and the rollout sampled after them")


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

    def test_bad_input(self):
        self.refused("--kl_target", 0, says="--kl_target 0")
        self.refused("--value_model", "reward", says="no --reward is a reward model")
        self.refused("--value_model", MODEL, says="reward")
        self.refused("--value_model", "nowhere", says="no such folder")
        self.refused("--reward", f"model:{MODEL}", says="reward")
        self.refused("--num_mini_batches", 9, says="--num_mini_batches")
        self.refused("--kl_in_loss", "--kl_estimator", "k1", says="k3")
        self.refused("--kl_horizon", 100, says="--kl_target")


if __name__ == "__main__":
    unittest.main()
