#!/usr/bin/env python3
"""hone rlhf on a tiny model: the stages hook up (whole models and adapters), gates stop and say why, kill -9 in each stage and --resume give the same
bits, what is done is kept and only that, and bad files are found before anything trains.

usage: test_rlhf.py HONE
"""
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
import unittest

from run_case import HONE, MODEL, RunCase, exact
from test_ppo import pairs, prompts

STAGES = ("sft", "reward", "ppo")
LORA = "use_peft: true\nlora_r: 4\n"


def demonstrations(count=16):
    return [{"prompt": [{"role": "user", "content": f"say {i % 5}"}], "completion": [{"role": "assistant", "content": f"yes {i % 3}"}]} for i in range(count)]


class Rlhf(RunCase):
    def setUp(self):
        super().setUp()
        for name, rows in (("demos", demonstrations()), ("pairs", pairs()), ("prompts", prompts())):
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(self, top="", sft="", reward="", ppo="", gate="", steps=4):
        """The text of a file; each argument is further lines of its section."""
        def section(name, data, more):
            lines = [f"data: {self.folder}/{data}.jsonl", f"max_steps: {steps}", *more.splitlines()]
            return f"{name}:\n" + "".join(f"  {line}\n" for line in lines)
        text = f"model: {MODEL}\nbatch_size: 4\nlogging_steps: 1\nsave_steps: 3\n" + top
        text += section("sft", "demos", "learning_rate: 5e-3\n" + sft) + section("reward", "pairs", "learning_rate: 5e-3\n" + reward)
        text += section("ppo", "prompts", "learning_rate: 1e-3\nmax_completion_length: 12\n" + ppo)
        return text + (f"gate: {gate}\n" if gate else "")

    def command(self, run, *more, config=None):
        file = self.folder / "rlhf.yaml"
        file.write_text(config or self.config())
        return [str(HONE), "rlhf", "--config", str(file), "--output_dir", str(self.folder / run), *map(str, more)]

    def summary(self, run, stage=""):
        return json.loads((self.folder / run / stage / "summary.json").read_text())

    def result(self, run):
        metrics = [[exact(line) for line in (self.folder / run / stage / "metrics.jsonl").read_text().splitlines()] for stage in STAGES]
        return self.weights(run), metrics

    def held_out(self, name, rows):
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"eval_file: {self.folder}/{name}.jsonl"


class Stages(Rlhf):
    def test_whole_models(self):
        done = self.run_hone("run")
        run = self.folder / "run"
        for stage in STAGES:
            self.assertTrue((run / stage / "model" / "model.safetensors").exists())
        self.assertEqual((run / "model" / "model.safetensors").read_bytes(), (run / "ppo" / "model" / "model.safetensors").read_bytes())
        self.assertIn(f"value model: from {run}/reward/model", done.stdout)
        summary = self.summary("run")
        self.assertEqual((summary["command"], summary["exit_code"], list(summary["stages"])), ("rlhf", 0, list(STAGES)))
        self.assertEqual([summary["stages"][s]["steps"] for s in STAGES], [4, 4, 4])
        self.assertNotEqual(self.summary("run", "sft")["train"], self.summary("run", "reward")["train"])
        sampled = subprocess.run([str(HONE), "sample", "--model", str(run / "model"), "--prompt", "sun?", "--max_new_tokens", "4"], env=self.env,
                                 capture_output=True, text=True)
        self.assertEqual(sampled.returncode, 0, sampled.stderr)

    def test_the_stages_are_what_their_commands_are(self):
        """The same bits as the three commands by hand: the hooks add nothing."""
        self.run_hone("run")
        base = ["--batch_size", "4", "--logging_steps", "1", "--save_steps", "3", "--max_steps", "4"]

        def by_hand(command, model, data, rate, *more):
            words = [str(HONE), command, "--model", str(model), "--data", str(self.folder / f"{data}.jsonl"), "--output_dir",
                     str(self.folder / f"hand_{command}"), *base, "--learning_rate", rate, *map(str, more)]
            done = subprocess.run(words, env=self.env, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            return self.folder / f"hand_{command}" / "model"
        tuned = by_hand("sft", MODEL, "demos", "5e-3")
        judge = by_hand("reward", tuned, "pairs", "5e-3")
        by_hand("ppo", tuned, "prompts", "1e-3", "--max_completion_length", 12, "--reward", f"model:{judge}")
        self.assertTrue(self.weights("run") == self.weights("hand_ppo"))

    def test_adapters_share_one_base(self):
        for extra in ("", "load_in_4bit: true\n"):
            run = "run" + extra[:4]
            done = self.run_hone(run, config=self.config(top=LORA + extra))
            self.assertIn("stands on the policy's base", done.stdout)
            self.assertIn("an adapter on the policy's base", done.stdout)
            for stage in (*STAGES, ""):
                self.assertTrue((self.folder / run / stage / "model" / "adapter_model.safetensors").exists(), stage)
            started = json.loads((self.folder / run / "ppo" / "stage.json").read_text())["identity"]["adapter"]
            self.assertIn("started_from", started, "PPO goes on with SFT's adapter")

    def test_a_section_wins_over_the_run_and_a_flag_over_both(self):
        self.run_hone("run", "--save_steps", 0, config=self.config(top="seed: 5\nmax_length: 128\n", reward="seed: 6\nsave_steps: 2"))
        for stage, seed in (("sft", 5), ("reward", 6), ("ppo", 5)):
            text = (self.folder / "run" / stage / "run.yaml").read_text()
            self.assertIn(f"\nseed: {seed}\n", text)
            self.assertIn("\nmax_length: 128\n", text)
            self.assertIn("\nsave_steps: 0\n", text)

    def test_run_yaml_gives_the_same_run(self):
        self.run_hone("run", config=self.config(top=LORA, gate="{max_kl: 100}"))
        text = (self.folder / "run" / "run.yaml").read_text()
        self.assertIn("max_kl: 100", text)
        self.run_hone("again", config=text.replace(f'output_dir: "{self.folder}/run"\n', ""))
        self.assert_same("run", "again")

    def test_json(self):
        done = self.run_hone("run", "--format", "json")
        self.assertEqual(json.loads(done.stdout)["stages"]["ppo"]["steps"], 4)


class GatesTest(Rlhf):
    def stopped_at(self, stage, gate, *says, **sections):
        config = self.config(gate=gate, **sections)
        done = self.run_hone("run", code=3, config=config)
        for words in (f"the gate of {stage} is not passed", "--resume", *says):
            self.assertIn(words, done.stderr)
        self.assertLessEqual(len(done.stderr.strip().splitlines()), 6)
        after = STAGES[STAGES.index(stage) + 1:]
        for name in after:
            self.assertFalse((self.folder / "run" / name / "run.yaml").exists(), f"{name} did not wait")
        self.assertFalse((self.folder / "run" / "model").exists())
        self.assertTrue((self.folder / "run" / stage / "model").exists(), "nothing is lost")
        summary = self.summary("run")
        self.assertEqual((summary["exit_code"], summary["stages"][stage]["gate"]["passed"]), (3, False))
        # The same again says the same, without training; another threshold goes on behind the stage.
        self.assertIn("is kept", self.run_hone("run", "--resume", code=3, config=config).stdout)
        done = self.run_hone("run", "--resume", config=self.config(**sections))
        self.assertIn(f"{stage} is done already", done.stdout)
        self.assertEqual(self.summary("run")["exit_code"], 0)

    def test_held_out_loss(self):
        rows = self.held_out("held", demonstrations(6))
        self.stopped_at("sft", "{max_eval_loss: 0.001}", "eval_loss", "max_eval_loss 0.001", "section sft", sft=rows)

    def test_reward_accuracy_by_the_lower_end(self):
        rows = self.held_out("held", pairs(8))
        self.stopped_at("reward", "{min_reward_accuracy: 1}", "lower end", "(95 %:", "section reward", reward=rows)

    def test_kl(self):
        self.stopped_at("ppo", "{max_kl: 0}", "KL to the start", "kl_coef", ppo="num_ppo_epochs: 1")

    def test_kl_is_the_median_of_the_last_ten_steps(self):
        config = self.config(gate="{max_kl: 100}", steps=12, ppo="num_ppo_epochs: 1\nmax_kl: 0")  # the guard is off, the gate is not
        self.run_hone("run", config=config)
        with open(self.folder / "run" / "ppo" / "metrics.jsonl") as lines:
            kls = [line["kl"] for line in map(json.loads, lines) if "kl" in line]
        gate = self.summary("run")["stages"]["ppo"]["gate"]
        self.assertEqual(len(kls), 12)
        self.assertEqual(gate["value"], statistics.median(kls[-10:]))
        self.assertNotEqual(gate["value"], kls[-1])

    def test_passed(self):
        config = self.config(gate="{max_eval_loss: 100, min_reward_accuracy: 0, max_kl: 100}", sft=self.held_out("a", demonstrations(6)),
                             reward=self.held_out("b", pairs(8)))
        done = self.run_hone("run", config=config)
        for stage in STAGES:
            self.assertIn(f"gate of {stage}: passed", done.stdout)
            self.assertTrue(self.summary("run")["stages"][stage]["gate"]["passed"])


class Resume(Rlhf):
    def kill_in(self, run, stage, lines, *more, config):
        """kill -9 once the stage has logged that many steps in this start."""
        metrics = self.folder / run / stage / "metrics.jsonl"
        child = subprocess.Popen(self.command(run, *more, config=config), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begin = time.monotonic()
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            self.assertIsNone(child.poll(), "it ended before it could be killed")
            self.assertLess(time.monotonic() - begin, 120)
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()

    def killed_everywhere(self, config):
        self.run_hone("whole", config=config)
        self.kill_in("killed", "sft", 4, config=config)
        self.kill_in("killed", "reward", 5, "--resume", config=config)
        self.kill_in("killed", "ppo", 4, "--resume", config=config)
        self.kill_in("killed", "ppo", 17, "--resume", config=config)
        done = self.run_hone("killed", "--resume", config=config)
        for stage in ("sft", "reward"):
            self.assertIn(f"{stage} is done already", done.stdout)
        self.assert_same("whole", "killed")

    def test_kill_in_each_stage(self):
        self.killed_everywhere(self.config(steps=40, ppo="num_ppo_epochs: 2\nnum_mini_batches: 2"))

    def test_kill_in_each_stage_with_adapters(self):
        self.killed_everywhere(self.config(top=LORA, steps=40, ppo="num_ppo_epochs: 2\nnum_mini_batches: 2"))

    def test_interrupted_is_130_and_goes_on(self):
        config = self.config(steps=40)
        self.run_hone("whole", config=config)
        child = subprocess.Popen(self.command("broken", config=config), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (self.folder / "broken" / "reward" / "metrics.jsonl").exists() and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.wait(timeout=60), 130)
        self.assertEqual(self.summary("broken")["exit_code"], 130)
        self.run_hone("broken", "--resume", config=config)
        self.assert_same("whole", "broken")

    def test_a_stage_that_max_time_ended_is_not_done(self):
        config = self.config(steps=40)
        self.run_hone("whole", config=config)
        done = self.run_hone("short", "--max_time", "0.05s", config=config)
        self.assertIn("sft is not done", done.stdout)
        self.assertFalse((self.folder / "short" / "reward" / "run.yaml").exists())
        self.assertFalse((self.folder / "short" / "model").exists())
        self.assertIn("--max_time reached", self.summary("short")["message"])
        self.run_hone("short", "--resume", config=config)
        self.assert_same("whole", "short")

    def test_killed_between_a_stages_model_and_its_record(self):
        self.run_hone("run")
        weights = self.weights("run")
        (self.folder / "run" / "reward" / "stage.json").unlink()
        shutil.rmtree(self.folder / "run" / "model")
        done = self.run_hone("run", "--resume")
        self.assertIn("sft is done already", done.stdout)
        self.assertNotIn("reward is done already", done.stdout)
        self.assertIn("ppo is done already", done.stdout, "the reward model is the same again")
        self.assertTrue(self.weights("run") == weights)

    def test_done_stages_are_known_by_their_result(self):
        self.run_hone("run")
        before = {s: os.stat(self.folder / "run" / s / "model" / "model.safetensors").st_mtime_ns for s in STAGES}
        done = self.run_hone("run", "--resume")
        for stage in STAGES:
            self.assertIn(f"{stage} is done already", done.stdout)
            self.assertEqual(os.stat(self.folder / "run" / stage / "model" / "model.safetensors").st_mtime_ns, before[stage])
        # A folder alone is no result: the stage is trained again, to the same bits, and what follows from it stands.
        weights = self.weights("run/sft")
        (self.folder / "run" / "sft" / "model" / "model.safetensors").write_bytes(weights[:-1])
        done = self.run_hone("run", "--resume")
        self.assertIn("not what it was", done.stderr)
        self.assertNotIn("sft is done already", done.stdout)
        self.assertIn("reward is done already", done.stdout)
        self.assertTrue(self.weights("run/sft") == weights)

    def test_another_run_is_refused(self):
        self.run_hone("run")
        done = self.run_hone("run", code=2)
        self.assertIn("a run stands there already", done.stderr)
        done = self.run_hone("run", "--resume", code=2, config=self.config(reward="weight_decay: 0.1"))
        self.assertIn("weight_decay", done.stderr)
        self.assertIn("run/reward", done.stderr)
        # Trained anew on purpose: what follows from it is another run, too, and says so.
        shutil.rmtree(self.folder / "run" / "reward")
        done = self.run_hone("run", "--resume", code=2, config=self.config(reward="weight_decay: 0.1"))
        self.assertIn("run/ppo", done.stderr)
        shutil.rmtree(self.folder / "run" / "ppo")
        self.assertIn("sft is done already", self.run_hone("run", "--resume", config=self.config(reward="weight_decay: 0.1")).stdout)


class BadFiles(Rlhf):
    def refused(self, config, *says):
        done = self.run_hone("bad", code=2, config=config)
        for words in says:
            self.assertIn(words, done.stderr)
        self.assertLessEqual(len(done.stderr.strip().splitlines()), 6)
        self.assertFalse((self.folder / "bad" / "run.yaml").exists(), "nothing may have been trained")

    def test_yaml(self):
        good = self.config()
        line = len(good.splitlines())
        self.refused(self.config(ppo="num_ppo_epoch: 3"), f"rlhf.yaml:{line + 1}: unknown key 'num_ppo_epoch': did you mean num_ppo_epochs?")
        self.refused(good.replace("reward:\n", "rewards:\n"), "unknown key 'rewards': did you mean reward?")
        self.refused(good + "gate: {max_evalloss: 1}\n", f"rlhf.yaml:{line + 1}: gate: max_evalloss: unknown key: did you mean max_eval_loss?")
        self.refused(good + "gate: {min_reward_accuracy: 70}\n", "at most 1")
        self.refused(good + "gate: {max_eval_loss: 2}\n", "add eval_file to the section sft")
        self.refused(good + "data: x.jsonl\n", f"rlhf.yaml:{line + 1}", "give it in sft, reward, ppo")
        self.refused(self.config(sft="output_dir: x"), "belongs to the whole run")
        self.refused(self.config(sft="learning_rate: 1"), "is given twice")
        self.refused(good + "sft:\n  seed: 1\n", "sft: is given twice")
        self.refused(good[:good.index("ppo:\n")], "the section ppo is missing")
        self.refused(good.replace("ppo:\n", "ppo: x\nother:\n"), "ppo: is a section")
        self.refused(self.config(ppo="kl_target: 0"), "ppo: --kl_target 0")
        self.refused(self.config(top="lora_r: 4\n", sft="lora_r: 8"), "sft: --lora_r changes nothing without an adapter")

    def test_rows_of_a_later_stage(self):
        (self.folder / "prompts.jsonl").write_text('{"prompt": 3}\n')
        self.refused(self.config(), "ppo:", "prompts.jsonl")
        (self.folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts()))
        self.refused(self.config(reward="eval_file: nowhere.jsonl"), "reward:", "nowhere.jsonl")
        self.refused(self.config(ppo="value_model: nowhere"), "ppo: --value_model nowhere")
        self.refused(self.config(ppo=f"value_model: {MODEL}"), "ppo: {}: a language model, no reward model: it has no score head".format(MODEL))

    def test_usage(self):
        for words, says in ((["rlhf"], "add --config FILE"), (["rlhf", "--data", "x"], "give it in sft, reward, ppo")):
            done = subprocess.run([str(HONE), *words], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn(says, done.stderr)
        done = subprocess.run([str(HONE), "rlhf", "--help"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0)
        for words in ("sft", "gate", "max_eval_loss", "--resume"):
            self.assertIn(words, done.stdout)


if __name__ == "__main__":
    unittest.main()
