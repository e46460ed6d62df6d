#!/usr/bin/env python3
"""hone merge as its user runs it, on a tiny model: the merged folder says what base + adapter say. usage: test_merge.py HONE"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HONE = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
MODEL, ROWS = GOLDEN / "models" / "chat", GOLDEN / "trl_sft" / "messages.jsonl"
TEXTS = "".join(json.dumps({"text": text}) + "\n" for text in ("a b c d", "hello world", "one two three", "12 + 7 = 19"))


def header(path):
    content = path.read_bytes()
    return json.loads(content[8:8 + struct.unpack("<Q", content[:8])[0]])


class Merge(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hone-merge-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.env = dict(os.environ, HONE_CACHE=str(self.folder / "cache"))

    def hone(self, *words, code=0, text=""):
        done = subprocess.run([str(HONE), *map(str, words)], env=self.env, input=text, capture_output=True, text=True, timeout=300, cwd=self.folder)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def train(self, run, *flags, model=MODEL):
        """The folder of an adapter that changes the model clearly."""
        self.hone("sft", "--model", model, "--data", ROWS, "--output_dir", run, "--max_steps", 6, "--learning_rate", "2e-2", "--lora_r", 4, *flags)
        return self.folder / run / "model"

    def scores(self, *words):
        return [row["logprobs"] for row in map(json.loads, self.hone("score", *words, text=TEXTS).stdout.splitlines())]

    def furthest(self, a, b):
        return max(abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q))

    def check_merge(self, run, *train_flags, base_flags=(), merge_flags=(), model=MODEL):
        adapter = self.train(run, *train_flags, model=model)
        done = self.hone("merge", "--model", model, "--adapter", adapter, "--output_dir", run + "-merged", "--format", "json", *merge_flags)
        report = json.loads(done.stdout)
        merged = self.folder / (run + "-merged")
        together, base = self.scores("--model", model, "--adapter", adapter, *base_flags), self.scores("--model", model)
        found = self.furthest(self.scores("--model", merged), together)
        # float32 rounding of one sum against two chains: far below the default bound of 5e-3, far above what a lost adapter would give
        self.assertLess(found, 1e-4)
        self.assertGreater(self.furthest(base, together), 0.05)
        self.assertLess(report["max_dlogp"], 1e-4)
        self.assertGreater(report["tokens"], 50)
        self.assertEqual(report["top1_agreement"], 1.0)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"):
            self.assertTrue((merged / name).exists(), name)
        return merged, report, done

    def test_lora(self):
        merged, report, done = self.check_merge("lora", "--use_peft")
        self.assertFalse(report["base_in_4bit"] or report["head_untied"])
        self.assertEqual(done.stderr, "")
        ids = [json.loads(self.hone("tokenize", "--model", m, text='{"text": "a <|im_end|> b"}').stdout)["ids"] for m in (MODEL, merged)]
        self.assertEqual(*ids)

    def test_dora_and_rslora(self):
        self.check_merge("dora", "--use_peft", "--use_dora")
        self.check_merge("rslora", "--use_peft", "--use_rslora", "--lora_target_modules", "q_proj,down_proj")

    def test_pissa(self):
        self.check_merge("pissa", "--use_peft", "--init_lora_weights", "pissa")

    def test_four_bit_base_is_merged_into_its_own_values(self):
        for quant in ("nf4", "fp4"):
            flags = ("--load_in_4bit", "--bnb_4bit_quant_type", quant)
            merged, report, done = self.check_merge(quant, *flags)  # base + adapter: in 4 bits as the adapter says
            self.assertTrue(report["base_in_4bit"])
            self.assertEqual(json.loads((self.folder / quant / "model" / "hone_adapter.json").read_text())["base_quantisation"], quant + "+nested")
        # told otherwise, it would be merged into other values than those it was trained on
        adapter = self.folder / "nf4" / "model"
        for words, held in ((("--load_in_4bit", "false"), "float32"), (("--load_in_4bit", "--bnb_4bit_quant_type", "fp4"), "fp4+nested")):
            done = self.hone("merge", "--model", MODEL, "--adapter", adapter, *words, "--output_dir", "plain", code=2)
            self.assertIn(f"trained on its base in nf4+nested; merged into the base in {held}", done.stderr)
        plain = self.train("plain", "--use_peft")
        done = self.hone("merge", "--model", MODEL, "--adapter", plain, "--load_in_4bit", "--output_dir", "other", code=2)
        self.assertIn("trained on its base in float32; merged into the base in nf4+nested", done.stderr)
        self.assertFalse((self.folder / "other").exists())

    def test_a_trained_head_is_untied(self):
        merged, report, done = self.check_merge("head", "--use_peft", "--lora_modules_to_save", "lm_head")
        tied = json.loads((MODEL / "config.json").read_text())["tie_word_embeddings"]
        self.assertEqual(report["head_untied"], tied)
        self.assertFalse(json.loads((merged / "config.json").read_text())["tie_word_embeddings"])
        self.assertIn("lm_head.weight", header(merged / "model.safetensors"))
        self.assertEqual("has a head of its own" in done.stderr, tied)

    def rewards(self, *words):
        rows = "".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p in ("a b c", "one two", "12 + 7 =") for c in (" 19", " d e", " three"))
        return [row["reward"] for row in map(json.loads, self.hone("grade", *words, text=rows).stdout.splitlines())]

    def train_reward(self, run, *flags):
        pairs = "".join(json.dumps({"prompt": f"{a} + {b} =", "chosen": f" {a + b}", "rejected": " I do not know."}) + "\n" for a in range(2, 8) for b in (3, 5))
        (self.folder / "pairs.jsonl").write_text(pairs)
        self.hone("reward", "--model", MODEL, "--data", "pairs.jsonl", "--output_dir", run, "--max_steps", 6, "--batch_size", 4, "--learning_rate", "2e-2",
                  "--lora_r", 4, *flags)
        return self.folder / run / "model"

    def test_a_reward_adapter_becomes_a_reward_model(self):
        for run, *flags in (("lora", "--use_peft"), ("dora", "--use_peft", "--use_dora", "--lora_modules_to_save", "embed_tokens"), ("nf4", "--load_in_4bit")):
            adapter = self.train_reward(run, *flags)
            done = self.hone("merge", "--model", MODEL, "--adapter", adapter, "--output_dir", run + "-merged", "--format", "json")
            report, merged = json.loads(done.stdout), self.folder / (run + "-merged")
            together, alone = self.rewards("--reward", f"model:{adapter}"), self.rewards("--reward", f"model:{merged}")
            # as in check_merge: rounding of one sum against two chains, and what a lost adapter or head would give
            self.assertLess(self.furthest([together], [alone]), 1e-4)
            self.assertGreater(max(together) - min(together), 0.05)
            self.assertLess(report["max_dscore"], 1e-4)
            self.assertGreater(report["rows"], 10)
            self.assertEqual((report["same_order"], report["head_untied"], report["base_in_4bit"]), (1.0, False, run == "nf4"))
            config, tensors = json.loads((merged / "config.json").read_text()), header(merged / "model.safetensors")
            self.assertEqual(config["architectures"], ["LlamaForSequenceClassification"])
            self.assertIn("score.weight", tensors)
            self.assertNotIn("lm_head.weight", tensors)
            tokenizer = json.loads((adapter / "tokenizer_config.json").read_text())
            self.assertEqual(json.loads((merged / "tokenizer_config.json").read_text())["pad_token"], tokenizer["pad_token"])
        refused = self.hone("merge", "--model", MODEL, "--adapter", adapter, "--output_dir", "new", "--max_dlogp", 0, code=3)
        self.assertIn("mean |dscore|", refused.stderr)
        self.assertFalse((self.folder / "new").exists())
        # written anew, it is compared by its scores too; and a merged model may be the base of the next adapter
        report = json.loads(self.hone("convert", "--model", MODEL, "--adapter", self.folder / "lora" / "model", "--output", "anew", "--format", "json").stdout)
        self.assertEqual(report["max_dscore"], 0)
        self.hone("reward", "--model", "lora-merged", "--data", "pairs.jsonl", "--output_dir", "more", "--max_steps", 2, "--use_peft", "--lora_r", 4)
        self.hone("merge", "--model", "lora-merged", "--adapter", "more/model", "--output_dir", "twice")
        self.assertLess(self.furthest([self.rewards("--reward", "model:more/model")], [self.rewards("--reward", "model:twice")]), 1e-4)

    def test_nothing_is_written_over_or_left_behind(self):
        adapter = self.train("run", "--use_peft")
        merge = ("merge", "--model", MODEL, "--adapter", adapter)
        (self.folder / "there").mkdir()
        (self.folder / "there" / "mine.txt").write_text("mine")
        self.assertIn("not written over", self.hone(*merge, "--output_dir", "there", code=2).stderr)
        self.assertEqual([p.name for p in (self.folder / "there").iterdir()], ["mine.txt"])
        before = sorted(p.name for p in self.folder.iterdir())
        refused = self.hone(*merge, "--output_dir", "new", "--max_dlogp", 0, code=3)
        self.assertIn("differs from its source by more than --max_dlogp 0", refused.stderr)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), before)
        self.hone(*merge, "--output_dir", "new", "--data", ROWS)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), sorted([*before, "new"]))

    def test_what_is_missing_is_said(self):
        adapter = self.train("run", "--use_peft")
        for words, message in ((("--adapter", adapter, "--output_dir", "x"), "needs a model"), (("--model", MODEL, "--output_dir", "x"), "--adapter DIR"),
                               (("--model", MODEL, "--adapter", adapter), "--output_dir DIR"), (("--model", MODEL, "--adapter", MODEL, "--output_dir", "x"), "adapter")):
            self.assertIn(message, self.hone("merge", *words, code=2).stderr)
        other = self.folder / "other"
        shutil.copytree(MODEL, other)
        content = bytearray((other / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (other / "model.safetensors").write_bytes(content)
        self.assertIn("another", self.hone("merge", "--model", other, "--adapter", adapter, "--output_dir", "x", code=2).stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
