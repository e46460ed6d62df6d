#!/usr/bin/env python3
"""hone grade and hone eval with reward models: a folder, an adapter, 4 bits; the report; what is refused.

usage: test_reward.py HONE
"""
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HONE = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
CHAT = GOLDEN / "models" / "chat"  # hidden size 16


def read_tensors(path):
    """{name: (shape, bytes)} of a float32 safetensors file."""
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8:8 + size])
    return {n: (a["shape"], blob[8 + size + a["data_offsets"][0]:8 + size + a["data_offsets"][1]]) for n, a in header.items() if n != "__metadata__"}


def write_tensors(path, tensors):
    header, at = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values()))


def numbers(seed, count, scale=1.0):
    generator = random.Random(seed)
    return struct.pack(f"<{count}f", *(generator.gauss(0, scale) for _ in range(count)))


PAIRS = [{"prompt": [{"role": "user", "content": f"How many boxes are {a} and {b}?"}], "chosen": f"There are {a + b} boxes.", "rejected": "I do not know." * (a % 3 + 1)}
         for a in range(4) for b in range(5)]


class Reward(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.env = dict(os.environ, HONE_CACHE=str(self.folder / "cache"))
        self.pairs = self.folder / "pairs.jsonl"
        self.write(self.pairs, PAIRS)

    @staticmethod
    def write(path, rows):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))

    def hone(self, *arguments, rows=None, code=0):
        text = None if rows is None else "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
        done = subprocess.run([str(HONE), *map(str, arguments)], input=text, env=self.env, capture_output=True, text=True, timeout=300,
                              stdin=subprocess.DEVNULL if text is None else None)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stderr}")
        return done.stdout if code == 0 else (done.stdout, done.stderr)

    def reward_model(self, name="reward", **changes):
        folder = self.folder / name
        shutil.copytree(CHAT, folder)
        config = json.loads((folder / "config.json").read_text())
        config.update(architectures=["LlamaForSequenceClassification"], id2label={"0": "LABEL_0"}, **changes)
        (folder / "config.json").write_text(json.dumps(config))
        write_tensors(folder / "model.safetensors", {**read_tensors(CHAT / "model.safetensors"), "score.weight": ([1, 16], numbers(1, 16))})
        return folder

    def adapter(self, name="adapter", base=CHAT, task="SEQ_CLS", saved=("classifier", "score")):
        folder = self.folder / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({
            "peft_type": "LORA", "task_type": task, "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": list(saved) or None,
            "base_model_name_or_path": str(base)}))
        tensors = {}
        for layer in range(2):
            at = f"base_model.model.model.layers.{layer}.self_attn.q_proj."
            tensors[at + "lora_A.weight"] = ([2, 16], numbers(10 + layer, 32))
            tensors[at + "lora_B.weight"] = ([16, 2], numbers(20 + layer, 32))
        if saved:
            tensors["base_model.model.score.weight"] = ([1, 16], numbers(2, 16))
        write_tensors(folder / "adapter_model.safetensors", tensors)
        return folder

    def grades(self, *arguments, rows=PAIRS):
        rows = [{"prompt": r["prompt"], "completion": r[side]} for r in rows for side in ("chosen", "rejected")]
        out = [json.loads(line) for line in self.hone("grade", *arguments, rows=rows).splitlines()]
        self.assertEqual([{k: v for k, v in r.items() if k != "reward"} for r in out], rows)  # order and fields are kept
        self.assertTrue(all(math.isfinite(r["reward"]) for r in out))
        return [r["reward"] for r in out]

    def report(self, *arguments, data=None):
        return json.loads(self.hone("eval", "--data", data or self.pairs, "--format", "json", *arguments))

    def test_the_report_is_made_of_what_grade_says(self):
        reward = f"model:{self.reward_model()}"
        scores = self.grades("--reward", reward)
        chosen, rejected = scores[0::2], scores[1::2]
        report = self.report("--reward", reward)
        n = len(PAIRS)
        self.assertEqual(report["rows"], n)
        self.assertAlmostEqual(report["eval_rewards/accuracies"], sum(c > r for c, r in zip(chosen, rejected)) / n, places=12)
        self.assertAlmostEqual(report["eval_rewards/chosen"], sum(chosen) / n, places=6)
        self.assertAlmostEqual(report["eval_rewards/margins"], (sum(chosen) - sum(rejected)) / n, places=6)
        self.assertAlmostEqual(report["eval_loss"], sum(math.log1p(math.exp(r - c)) for c, r in zip(chosen, rejected)) / n, places=6)
        for key in ("eval_loss", "eval_rewards/accuracies", "eval_length/spearman", "eval_calibration/error"):
            self.assertLessEqual(report[key + "_low"], report[key + "_high"], key)
        # another order of work, the same bits
        self.assertEqual(report, self.report("--reward", reward, "--micro_batch_tokens", 1, "--threads", 1))
        self.assertEqual(scores, self.grades("--reward", "NAME=" + reward, "--micro_batch_tokens", 40))
        text = self.hone("eval", "--reward", reward, "--data", self.pairs)
        for words in ("20 held-out pairs", "accuracy, chosen is shorter", "expected calibration error"):
            self.assertIn(words, text)
        self.hone("eval", "--reward", reward, "--data", self.pairs, "--output", self.folder / "report.json")
        self.assertEqual(json.loads((self.folder / "report.json").read_text()), report)

    def test_adapters_and_four_bits(self):
        adapter, full = self.adapter(), self.reward_model()
        scores = self.grades("--reward", f"model:{adapter}")  # it names its base
        moved = shutil.copytree(CHAT, self.folder / "moved")
        self.assertEqual(scores, self.grades("--reward", f"model:{adapter}", "--model", moved))
        self.assertEqual(scores, self.grades("--reward", f"model:{CHAT}", "--adapter", adapter))
        self.assertEqual(scores, self.grades("--reward", f"model:{full}", "--adapter", adapter))  # the adapter's head counts
        self.assertNotEqual(scores, self.grades("--reward", f"model:{full}"))
        four = self.grades("--reward", f"model:{adapter}", "--load_in_4bit")
        self.assertNotEqual(scores, four)
        report = self.report("--reward", f"model:{adapter}", "--load_in_4bit")
        self.assertAlmostEqual(report["eval_rewards/chosen"], sum(four[0::2]) / len(PAIRS), places=6)

    def test_bad_rows_stay_in_their_place(self):
        reward = f"model:{self.reward_model()}"
        good = {"prompt": "2 + 2 =", "completion": " 4"}
        stdout, _ = self.hone("grade", "--reward", reward, rows=[good, {"prompt": "x"}, "not json", {"prompt": "x", "completion": ""}, good], code=2)
        out = [json.loads(line) for line in stdout.splitlines()]
        self.assertEqual(["error" in row for row in out], [False, True, True, True, False])
        self.assertEqual(out[0], out[4])

    def test_a_policy_on_pairs(self):
        report = self.report("--model", CHAT)
        rows = [{"prompt": p["prompt"], "completion": p[side]} for p in PAIRS for side in ("chosen", "rejected")]
        out = [json.loads(line) for line in self.hone("score", "--model", CHAT, rows=rows).splitlines()]
        sums = [r["sum_logprob"] for r in out]
        n = len(PAIRS)
        self.assertAlmostEqual(report["eval_rewards/accuracies"], sum(c > r for c, r in zip(sums[0::2], sums[1::2])) / n, places=12)
        self.assertAlmostEqual(report["eval_logps/chosen"], sum(sums[0::2]) / n, places=4)
        self.assertNotIn("eval_loss", report)
        self.assertEqual(report, self.report("--model", CHAT, "--micro_batch_tokens", 1))
        self.assertIn("log-probability", self.hone("eval", "--model", CHAT, "--data", self.pairs))

    def refused(self, *words, arguments, rows=None):
        _, stderr = self.hone(*arguments, rows=rows, code=2)
        for word in words:
            self.assertIn(str(word), stderr)
        self.assertLessEqual(len(stderr.splitlines()), 6)

    def test_a_model_beside_a_verifier(self):
        reward = f"model:{self.reward_model()}"
        rows = [{"prompt": "What is 4 + 4?", "completion": "8", "answer": "8"}, {"prompt": "What is 4 + 4?", "completion": "9", "answer": "8"}]
        alone = [json.loads(line)["reward"] for line in self.hone("grade", "--reward", reward, rows=rows).splitlines()]
        both = [json.loads(line) for line in self.hone("grade", "--reward", "math", f"rm={reward}", rows=rows).splitlines()]
        self.assertEqual([row["rewards"]["rm"] for row in both], alone)
        self.assertEqual([row["rewards"]["math"] for row in both], [1, 0])
        self.assertEqual([row["verdicts"] for row in both], [{"math": "right"}, {"math": "wrong"}])

    def test_what_gives_no_rewards_is_refused_by_name(self):
        full, lora = self.reward_model(), self.adapter("policy", task="CAUSAL_LM", saved=())
        row = [{"prompt": "a", "completion": "b"}]
        self.refused("language model", "hone reward", arguments=("grade", "--reward", f"model:{CHAT}"), rows=row)
        self.refused("language model", "no reward head", arguments=("grade", "--reward", f"model:{CHAT}", "--adapter", lora), rows=row)
        self.refused("no score head", arguments=("grade", "--reward", f"model:{lora}"), rows=row)
        self.refused("no reward 'nonsense'", "model:DIR", arguments=("grade", "--reward", "nonsense"), rows=row)
        self.refused(f"--reward model:{full}", arguments=("grade", "--reward", full), rows=row)
        self.refused("--reward SPEC", "model:DIR", arguments=("grade",), rows=row)
        self.refused("2 times", arguments=("grade", "--reward", f"a=model:{full}", f"b=model:{full}"), rows=row)
        self.refused("no such", arguments=("grade", "--reward", "model:/nowhere/at/all"), rows=row)
        self.refused("two models", arguments=("grade", "--reward", f"model:{full}", "--model", CHAT), rows=row)
        self.refused("adapter already", arguments=("grade", "--reward", f"model:{self.adapter('a')}", "--adapter", lora), rows=row)
        self.refused("score", arguments=("grade", "--reward", f"model:{self.adapter('b', saved=())}"), rows=row)
        three = self.reward_model("three")
        config = json.loads((three / "config.json").read_text())
        (three / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
        self.refused("3 labels", arguments=("grade", "--reward", f"model:{three}"), rows=row)

    def test_a_reward_model_is_no_language_model(self):
        full, adapter = self.reward_model(), self.adapter()
        for command in (("score", "--model", full), ("sample", "--model", full, "--prompt", "a"), ("sft", "--model", full, "--data", self.pairs),
                        ("convert", "--model", full, "--output", self.folder / "x.gguf"), ("eval", "--model", full, "--data", self.pairs)):
            self.refused("a reward model", "--reward model:", arguments=command, rows=[] if command[0] == "score" else None)
        self.refused("SEQ_CLS", "--reward model:", arguments=("score", "--model", CHAT, "--adapter", adapter), rows=[{"text": "a"}])
        self.hone("tokenize", "--model", full, rows=[{"text": "a"}])  # the tokenizer is the same


if __name__ == "__main__":
    unittest.main(verbosity=2)
