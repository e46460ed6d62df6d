#!/usr/bin/env python3
"""hone sft with adapters as its user runs it: the same bits after kill -9 and resume, on a 4-bit base too; the base's file is never written; going on
from an adapter; what is refused; and memory: QLoRA below LoRA below full, on the default model.

usage: test_adapters.py HONE
"""
import hashlib
import json
import pathlib
import shutil
import signal
import struct
import subprocess
import time
import unittest

from run_case import GOLDEN, HONE, MODEL, ROWS, RunCase

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEFAULT_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.gguf"
SMALL = ("--use_peft", "--lora_r", 4)


def tensors(path):
    """{name: bytes} of a safetensors file."""
    blob = path.read_bytes()
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    return {name: blob[8 + size + a["data_offsets"][0] : 8 + size + a["data_offsets"][1]] for name, a in header.items() if name != "__metadata__"}


class Adapters(RunCase):
    def weights(self, run):
        return tensors(self.folder / run / "model" / "adapter_model.safetensors")

    def test_resume_after_kill_has_the_same_bits(self):
        for kind in ((*SMALL, "--lora_dropout", 0.1), ("--load_in_4bit", "--lora_r", 4, "--optim", "adamw_8bit"), (*SMALL, "--use_dora"),
                     (*SMALL, "--init_lora_weights", "pissa", "--loraplus_lr_ratio", 4)):
            name = kind[-2].strip("-") if isinstance(kind[-2], str) else kind[-1].strip("-")
            self.run_hone(name, *kind, "--save_steps", 3, steps=12)
            child = subprocess.Popen(self.command(name + "-killed", *kind, "--save_steps", 3, steps=12), env=self.env, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            metrics = self.folder / (name + "-killed") / "metrics.jsonl"
            while child.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 5):
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            child.wait()
            self.run_hone(name + "-killed", *kind, "--save_steps", 3, "--resume", steps=12)
            self.assert_same(name, name + "-killed")
            # another adapter is another run
            if "--load_in_4bit" not in kind:
                refused = self.run_hone(name + "-killed", *kind, "--save_steps", 3, "--resume", "--lora_alpha", 8, code=2, steps=12)
                self.assertIn("lora_alpha", refused.stderr)

    def test_every_tensor_is_written_and_the_base_is_not(self):
        before = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
        self.run_hone("one", *SMALL, steps=1)
        self.run_hone("two", *SMALL, steps=2)
        one, two = tensors(self.folder / "one/model/adapter_model.safetensors"), tensors(self.folder / "two/model/adapter_model.safetensors")
        for name in one:
            if "lora_B" in name:
                self.assertTrue(any(one[name]), f"{name} is still 0 after step 1")
            self.assertNotEqual(one[name], two[name], f"{name} was not written at step 2")
        self.assertEqual(before, hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest())

    def test_what_begins_at_zero_survives_warm_up_and_norms_below_the_lowest_path_are_trained(self):
        self.run_hone("warm", *SMALL, "--warmup_steps", 3)
        self.run_hone("norms", *SMALL, "--lora_target_modules", "o_proj", "--lora_modules_to_save", "input_layernorm", steps=3)
        names = tensors(self.folder / "norms/model/adapter_model.safetensors")
        self.assertIn("base_model.model.model.layers.0.input_layernorm.weight", names)

    def test_the_tokenizer_and_its_template_stand_beside_the_adapter(self):
        self.run_hone("run", *SMALL, steps=1)
        text = json.dumps({"text": "How many boxes? <|im_end|>"}) + "\n"
        ids = [subprocess.run([str(HONE), "tokenize", "--model", str(folder)], input=text, env=self.env, capture_output=True, text=True, timeout=60).stdout
               for folder in (MODEL, self.folder / "run/model")]
        self.assertTrue(json.loads(ids[0])["ids"])
        self.assertEqual(ids[0], ids[1])
        self.assertTrue(json.loads((self.folder / "run/model/tokenizer_config.json").read_text())["chat_template"])

    def test_going_on_from_an_adapter(self):
        self.run_hone("first", *SMALL)
        loss = json.loads((self.folder / "first/metrics.jsonl").read_text().splitlines()[-1])["loss"]
        self.run_hone("second", "--adapter", self.folder / "first" / "model")
        lines = [json.loads(line) for line in (self.folder / "second/metrics.jsonl").read_text().splitlines()]
        self.assertLess(lines[-1]["loss"], loss)
        # PiSSA is saved with twice its rank, which need not fit the smallest matrix
        self.run_hone("pissa", "--use_peft", "--lora_r", 8, "--init_lora_weights", "pissa", "--use_dora")
        self.run_hone("further", "--adapter", self.folder / "pissa" / "model")
        # the adapter that it began with stands as it was, and the base without it still scores as ever
        config = json.loads((self.folder / "second/model/adapter_config.json").read_text())
        self.assertEqual((config["r"], config["peft_type"]), (4, "LORA"))

    def test_an_adapter_of_another_base_is_refused(self):
        self.run_hone("run", *SMALL)
        for other in ("tied_gqa2", "untied_mha_v4"):
            done = subprocess.run([str(HONE), "score", "--model", str(GOLDEN / "models" / other), "--adapter", str(self.folder / "run/model")],
                                  input='{"ids":[1,2,3]}\n', env=self.env, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("another base", done.stderr)

    def test_an_adapter_loads_on_every_form_that_holds_the_values_of_its_base(self):
        """The base as a GGUF file, as a directory made of it, and rounded forms of it: the values decide, not the storage."""
        hone = lambda *words, text="": subprocess.run([str(HONE), *map(str, words)], input=text, env=self.env, capture_output=True, text=True, timeout=120)
        forms = {"f32.gguf": ("f32", True), "f16.gguf": ("f16", False), "q8_0.gguf": ("q8_0", False)}
        for name, (kind, _) in forms.items():
            done = hone("convert", "--model", MODEL, "--output", self.folder / name, "--gguf_type", kind, "--max_dlogp", 10)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.run_hone("run", *SMALL)
        self.run_hone("rounded", *SMALL, model=self.folder / "q8_0.gguf")
        self.assertEqual(hone("convert", "--model", self.folder / "q8_0.gguf", "--output", self.folder / "dir").returncode, 0)
        score = lambda model, run: hone("score", "--model", model, "--adapter", self.folder / run / "model", text='{"ids":[1,2,3,4,5,6]}\n')
        for run, base, others in (("run", MODEL, {self.folder / name: same for name, (_, same) in forms.items()}),
                                  ("rounded", self.folder / "q8_0.gguf", {self.folder / "dir": True, MODEL: False})):
            wanted = score(base, run)
            self.assertEqual(wanted.returncode, 0, wanted.stderr)
            for other, same in others.items():
                found = score(other, run)
                self.assertEqual(found.returncode, 0 if same else 2, (run, other, found.stderr))
                if same:
                    self.assertEqual(found.stdout, wanted.stdout, (run, other))
                else:
                    self.assertIn(f"than --model {other}. It was trained on {base} (content hash", found.stderr)
                    self.assertIn("and the weights differ", found.stderr)
        # an older note has no hash of the weights: nothing can be compared
        note = self.folder / "run/model/hone_adapter.json"
        content = json.loads(note.read_text())
        del content["weights_hash"]
        note.write_text(json.dumps(content))
        self.assertIn("no weights_hash", score(self.folder / "f32.gguf", "run").stderr)

    def test_an_adapter_written_anew_keeps_its_tokenizer_and_names_its_base(self):
        self.run_hone("run", *SMALL)
        source, base = self.folder / "run/model", self.folder / "base.gguf"
        (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
        hone = lambda *words: subprocess.run([str(HONE), "convert", *map(str, words)], env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(hone("--model", MODEL, "--output", base, "--gguf_type", "f32").returncode, 0)
        done = hone("--model", base, "--adapter", source, "--output", self.folder / "anew")
        self.assertEqual(done.returncode, 0, done.stderr)
        anew = self.folder / "anew"
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            self.assertEqual((anew / name).read_bytes(), (source / name).read_bytes(), name)
        self.assertEqual(json.loads((anew / "adapter_config.json").read_text())["base_model_name_or_path"], str(base))
        before, after = (json.loads((folder / "hone_adapter.json").read_text()) for folder in (source, anew))
        self.assertEqual(before["weights_hash"], after["weights_hash"])
        self.assertNotEqual(before["base_hash"], after["base_hash"])

    def test_a_base_is_held_as_the_adapter_was_trained(self):
        kinds = {"nf4": ("--load_in_4bit",), "fp4": ("--load_in_4bit", "--bnb_4bit_quant_type", "fp4", "--use_bnb_nested_quant", "false")}
        for name, flags in kinds.items():
            self.run_hone(name, *flags, "--lora_r", 4, "--eval_file", ROWS)
            wanted = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()][-1]["eval_loss"]
            words = ["--model", str(MODEL), "--adapter", str(self.folder / name / "model")]
            run = lambda *more: subprocess.run([str(HONE), "eval", *words, "--data", str(ROWS), "--format", "json", *more], env=self.env, capture_output=True,
                                               text=True, timeout=60)
            done = run()
            self.assertEqual(json.loads(done.stdout)["eval_loss"], wanted)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertIn("was trained on its base in " + name, done.stderr)
            other = run("--load_in_4bit", "false")
            self.assertNotEqual(json.loads(other.stdout)["eval_loss"], wanted)
            self.assertIn(f"warning: {words[-1]}: the adapter was trained on its base in {name}", other.stderr)
            self.assertIn("is applied to it in float32, which are other values", other.stderr)
            given = run(*flags)
            self.assertEqual((json.loads(given.stdout)["eval_loss"], given.stderr), (wanted, ""))
        # going on from it: run.yaml says what was resolved, and a resumed run is the same one
        adapter = ("--adapter", self.folder / "fp4" / "model")
        self.run_hone("further", *adapter, "--save_steps", 2)
        values = dict(line.split(": ", 1) for line in (self.folder / "further" / "run.yaml").read_text().splitlines())
        self.assertEqual([values[k] for k in ("load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")], ["true", "fp4", "false"])
        self.assertEqual(json.loads((self.folder / "further/model/hone_adapter.json").read_text())["base_quantisation"], "fp4")
        shutil.rmtree(self.folder / "further" / "checkpoints" / "step-5")
        before = self.result("further")
        self.run_hone("further", *adapter, "--save_steps", 2, "--resume")
        self.assertEqual(before, self.result("further"))

    def test_eval_score_and_sample_take_the_adapter(self):
        self.run_hone("run", *SMALL, "--eval_file", ROWS)
        wanted = [json.loads(line) for line in (self.folder / "run/metrics.jsonl").read_text().splitlines()][-1]["eval_loss"]
        adapter = ["--model", str(MODEL), "--adapter", str(self.folder / "run/model")]
        done = subprocess.run([str(HONE), "eval", *adapter, "--data", str(ROWS), "--format", "json"], env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(json.loads(done.stdout)["eval_loss"], wanted)
        prompts = '{"prompt":"How many boxes?"}\n{"prompt":"7 birds"}\n'
        sampled = subprocess.run([str(HONE), "sample", *adapter, "--format", "jsonl", "--max_new_tokens", "8"], input=prompts, env=self.env,
                                 capture_output=True, text=True, timeout=60)
        self.assertEqual(sampled.returncode, 0, sampled.stderr)
        for line in map(json.loads, sampled.stdout.splitlines()):
            completion = line["completions"][0]
            rows = subprocess.run([str(HONE), "tokenize", "--model", str(MODEL)], input=json.dumps({"text": line["prompt"]}) + "\n", env=self.env,
                                  capture_output=True, text=True, timeout=60)
            ids = json.loads(rows.stdout)["ids"] + completion["ids"]
            scored = subprocess.run([str(HONE), "score", *adapter], input=json.dumps({"ids": ids}) + "\n", env=self.env, capture_output=True, text=True,
                                    timeout=60)
            self.assertEqual(json.loads(scored.stdout)["logprobs"][-len(completion["ids"]):], completion["logprobs"])

    def test_memory_qlora_below_lora_below_full(self):
        """Peak resident memory is the process's own high-water mark. One step of short rows: weights and optimizer decide."""
        if not DEFAULT_MODEL.exists():
            self.skipTest(f"{DEFAULT_MODEL} is not there: run `make model`")
        rows = self.folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"prompt": f"What is {n} plus {n}?", "completion": f" It is {2 * n}."}) + "\n" for n in range(2)))
        peaks = {}
        for kind, flags in (("full", ()), ("lora", ("--use_peft",)), ("qlora", ("--load_in_4bit",))):
            self.run_hone(kind, *flags, "--save_steps", 0, steps=1, model=DEFAULT_MODEL, data=rows)
            line = json.loads((self.folder / kind / "metrics.jsonl").read_text().splitlines()[-1])
            peaks[kind] = line["peak_memory_mib"]
            parts = {k: v for k, v in line.items() if k.startswith("memory_mib/")}
            self.assertLess(abs(sum(parts.values()) - peaks[kind]), 1, parts)
            self.assertEqual(parts["memory_mib/adapters"] > 0, kind != "full")
        # Full: weights, gradients and two moments in float32. LoRA: weights and a few percent. QLoRA: 79 % of the weights at 0.5625 bytes for 4.
        self.assertLess(peaks["lora"], 0.6 * peaks["full"], peaks)
        self.assertLess(peaks["qlora"], 0.75 * peaks["lora"], peaks)

    def test_memory_one_long_row_does_not_set_the_peak(self):
        """A row above the budget of 256 tokens is computed twice; with a budget that holds it, it is not. The same bits either way."""
        if not DEFAULT_MODEL.exists():
            self.skipTest(f"{DEFAULT_MODEL} is not there: run `make model`")
        rows = self.folder / "rows.jsonl"
        texts = [f"What is {n} plus {n}?" for n in range(3)] + [" ".join(f"word {n}" for n in range(160))]
        rows.write_text("".join(json.dumps({"prompt": t, "completion": " Yes."}) + "\n" for t in texts))
        lines = {}
        for name, flags in (("twice", ()), ("once", ("--micro_batch_tokens", 1024))):
            self.run_hone(name, "--use_peft", "--save_steps", 0, *flags, steps=1, model=DEFAULT_MODEL, data=rows)
            lines[name] = json.loads((self.folder / name / "metrics.jsonl").read_text().splitlines()[-1])
        self.assertEqual(*([line[k] for k in ("loss", "grad_norm", "num_tokens")] for line in lines.values()))
        self.assertGreater(lines["once"]["num_tokens"], 480)
        # About 0.7 MB of activations a token: some 350 MB for the long row, a tenth of that where only the blocks' inputs are kept.
        self.assertLess(lines["twice"]["peak_memory_mib"], lines["once"]["peak_memory_mib"] - 100)


if __name__ == "__main__":
    unittest.main(verbosity=1)
