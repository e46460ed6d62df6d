#!/usr/bin/env python3
"""hone sft as its user runs it, on a tiny model: the same bits for threads, budget and instruction set; kill -9, signals, a full disk; resume.

usage: test_training.py HONE
"""
import json
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

from run_case import HONE, MODEL, ROWS, RunCase


class Training(RunCase):
    def test_same_bits_for_budget_threads_and_isa(self):
        self.run_hone("base", "--threads", 2, "--micro_batch_tokens", 4096, "--eval_file", ROWS, "--eval_steps", 2)
        self.run_hone("budget", "--threads", 2, "--micro_batch_tokens", 256, "--eval_file", ROWS, "--eval_steps", 2)
        self.run_hone("thread", "--threads", 1, "--micro_batch_tokens", 4096, "--eval_file", ROWS, "--eval_steps", 2)
        self.run_hone("avx2", "--isa", "avx2", "--threads", 2, "--eval_file", ROWS, "--eval_steps", 2)
        for other in ("budget", "thread", "avx2"):
            self.assert_same("base", other)
        self.run_hone("seed", "--seed", 7, "--eval_file", ROWS, "--eval_steps", 2)
        self.assertNotEqual(self.result("base")[1], self.result("seed")[1])

    def test_run_files(self):
        self.run_hone("run", "--eval_file", ROWS)
        folder = self.folder / "run"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        trained = [line for line in lines if "loss" in line]
        self.assertEqual([line["step"] for line in trained], [1, 2, 3, 4, 5])
        for key in ("learning_rate", "grad_norm", "num_tokens", "step_time", "tokens_per_second", "mean_token_accuracy", "entropy", "peak_memory_mib",
                    "memory_mib/weights", "memory_mib/adapters", "memory_mib/optimizer", "memory_mib/activations", "memory_mib/other"):
            self.assertIn(key, trained[0])
        self.assertLess(trained[-1]["loss"], trained[0]["loss"])
        self.assertTrue(any("eval_loss" in line and "eval_mean_token_accuracy" in line for line in lines))
        summary = json.loads((folder / "summary.json").read_text())
        self.assertEqual((summary["steps"], summary["exit_code"]), (5, 0))
        self.assertTrue((folder / "run.yaml").exists())
        # what stands there is not written over
        refused = self.run_hone("run", code=2)
        self.assertIn("--resume", refused.stderr)
        # the written configuration gives the same run
        again = subprocess.run([str(HONE), "sft", "--config", str(folder / "run.yaml"), "--output_dir", str(self.folder / "again")], env=self.env,
                               capture_output=True, text=True, timeout=300)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assert_same("run", "again")

    def test_json_summary_on_standard_output(self):
        done = self.run_hone("run", "--format", "json")
        summary = json.loads(done.stdout)
        self.assertEqual(summary["steps"], 5)
        self.assertEqual(summary, json.loads((self.folder / "run" / "summary.json").read_text()))

    def test_the_best_checkpoint_is_kept(self):
        self.run_hone("run", "--eval_file", ROWS, "--eval_steps", 1, "--save_steps", 2, "--save_total_limit", 1, steps=6)
        evals = {line["step"]: line["eval_loss"] for line in map(json.loads, (self.folder / "run" / "metrics.jsonl").read_text().splitlines())
                 if "eval_loss" in line}
        best = min(evals, key=evals.get)
        self.assertTrue((self.folder / "run" / "checkpoints" / f"step-{best}" / "COMPLETE").exists())

    def filter(self, *words, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        done = subprocess.run([str(HONE), *map(str, words)], input=text, env=self.env, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_sampled_logprobs_are_what_score_gives(self):
        prompts = [{"prompt": "How many boxes?", "n": 1}, {"prompt": [{"role": "user", "content": "A farmer has 12 apples."}]}, {"prompt": "7 birds"}]
        sampled = self.filter("sample", "--model", MODEL, "--format", "jsonl", "--num_generations", 3, "--max_new_tokens", 12, "--seed", 5, "--top_p", 0.9,
                              rows=prompts)
        self.assertEqual(sampled[0]["n"], 1)
        self.assertNotEqual(sampled[0]["completions"][0]["ids"], sampled[0]["completions"][1]["ids"])
        for given, out in zip(prompts, sampled):
            if isinstance(given["prompt"], str):
                prompt = self.filter("tokenize", "--model", MODEL, rows=[{"text": given["prompt"]}])[0]["ids"]
            else:
                prompt = self.filter("inspect", "--model", MODEL, "--format", "jsonl", rows=[{"messages": given["prompt"], "add_generation_prompt": True}])[0]["ids"]
            for completion in out["completions"]:
                self.assertEqual(set(completion), {"text", "ids", "logprobs", "finish_reason"})
                scored = self.filter("score", "--model", MODEL, rows=[{"ids": prompt + completion["ids"]}])[0]
                self.assertEqual(scored["logprobs"][len(prompt) - 1:], completion["logprobs"])  # floats print so that they read back: equal means the bits
        again = self.filter("sample", "--model", MODEL, "--format", "jsonl", "--num_generations", 3, "--max_new_tokens", 12, "--seed", 5, "--top_p", 0.9,
                            "--threads", 1, rows=prompts)
        self.assertEqual(sampled, again)
        other = self.filter("sample", "--model", MODEL, "--format", "jsonl", "--num_generations", 3, "--max_new_tokens", 12, "--seed", 6, "--top_p", 0.9,
                            rows=prompts)
        self.assertNotEqual(sampled, other)

    def test_eval_agrees_with_the_loop(self):
        self.run_hone("run", "--eval_file", ROWS)
        line = [json.loads(x) for x in (self.folder / "run" / "metrics.jsonl").read_text().splitlines() if "eval_loss" in x][-1]
        done = subprocess.run([str(HONE), "eval", "--model", str(self.folder / "run" / "model"), "--data", str(ROWS), "--format", "json"], env=self.env,
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        for key in ("eval_loss", "eval_loss_low", "eval_loss_high", "eval_mean_token_accuracy", "eval_mean_token_accuracy_low", "eval_entropy", "eval_num_tokens"):
            self.assertEqual(result[key], line[key])
        self.assertTrue(result["eval_loss_low"] < result["eval_loss"] < result["eval_loss_high"])
        # the untrained model is right so rarely that the interval of the share would reach below 0
        done = subprocess.run([str(HONE), "eval", "--model", str(MODEL), "--data", str(ROWS), "--format", "json"], env=self.env, capture_output=True, text=True,
                              timeout=60)
        result = json.loads(done.stdout)
        self.assertEqual(result["eval_mean_token_accuracy_low"], 0.0)
        self.assertTrue(0 < result["eval_mean_token_accuracy"] < result["eval_mean_token_accuracy_high"] <= 1)
        self.assertLess(result["eval_loss_low"], result["eval_loss"])

    def test_overlong_rows(self):
        # blank lines and two files: the faults are found by line, with and without a token cache
        files = [self.folder / "short.jsonl", self.folder / "long.jsonl"]
        files[0].write_text('{"prompt": "a", "completion": " b"}\n\n')
        files[1].write_text('\n{"prompt": "a", "completion": " b"}\n\n' + "".join(json.dumps({"text": " c" * n}) + "\n" for n in (70, 3, 90)))
        for overlong, message in (("drop", "dropping more than 1 % is an error"), ("error", "give --overlong drop or cut")):
            for again in range(2):
                stderr = self.run_hone(overlong, "--max_length", 64, "--overlong", overlong, "--data", files[1], data=files[0], code=2).stderr
                self.assertIn(message, stderr)
                self.assertIn("2 of 5 rows are longer than --max_length 64", stderr)
                self.assertRegex(stderr, r"first \S*long.jsonl:4 with \d+ tokens, longest \S*long.jsonl:6 with")
                self.assertLessEqual(stderr.count("\n"), 6)
                bad = [json.loads(line) for line in (self.folder / overlong / "bad_rows.jsonl").read_text().splitlines()]
                self.assertEqual([(pathlib.Path(b["file"]).name, b["line"], b["kind"]) for b in bad], [("long.jsonl", 4, "over-long"), ("long.jsonl", 6, "over-long")])
        self.assertIn("over-long cut", self.run_hone("cut", "--max_length", 105, "--overlong", "cut").stdout)
        # one over-long row of 201 is below 1 %: dropped and counted
        rows = [{"prompt": "a b", "completion": " c"}] * 200 + [{"prompt": "a b", "completion": " c" * 200}]
        data = self.folder / "one.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.assertIn("1 over-long dropped", self.run_hone("one", "--max_length", 64, data=data).stdout)
        self.assertEqual(json.loads((self.folder / "one" / "summary.json").read_text())["rows"], 200)

    def test_rows_of_several_forms_are_counted(self):
        data = self.folder / "mixed.jsonl"
        data.write_text('{"text": "a b"}\n' + '{"prompt": "a", "completion": " b", "text": "a b"}\n' * 3)
        for run in ("first", "cached"):
            stderr = self.run_hone(run, data=data).stderr
            self.assertIn("warning: 3 rows have more than one form, first ", stderr)
            self.assertIn("mixed.jsonl:2: prompt + completion is read, text is not", stderr)
        data.write_text('{"text": "a b"}\n{"text": "a", "completion": " b"}\n')
        stderr = self.run_hone("half", data=data, code=2).stderr
        self.assertIn('mixed.jsonl:2: completion: found a column beside text and no "prompt"', stderr)

    def test_tools_that_the_template_does_not_write_are_counted(self):
        talk = lambda **extra: [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes", **extra}]
        call = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
        tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}]
        rows = [{"messages": talk()}, {"messages": talk(tool_calls=call)}, {"messages": talk(), "tools": tools}, {"messages": talk(tool_calls=call), "tools": tools},
                {"text": "a b", "tools": tools}]
        data = self.folder / "tools.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for run in ("first", "cached"):
            stderr = self.run_hone(run, data=data).stderr
            for name, line in (("tools", 3), ("tool_calls", 2)):
                self.assertIn(f"warning: 2 rows have {name}, first {data}:{line}: the chat template does not write them", stderr)
        template = self.folder / "tools.jinja"
        plain = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        end = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        calls = "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
        head = "{% if tools %}{{ tools | tojson }}\n{% endif %}"
        for text, silent in ((head + "{% for m in messages %}" + plain + calls + end, {"tools", "tool_calls"}),
                             ("{% for m in messages %}" + plain + calls + end, {"tool_calls"}), (head + "{% for m in messages %}" + plain + end, {"tools"})):
            template.write_text(text)
            stderr = self.run_hone("run" + str(len(text)), "--chat_template_path", template, data=data).stderr
            for name in ("tools", "tool_calls"):
                self.assertEqual(f"2 rows have {name}, first" in stderr, name not in silent, (text, stderr))
            shown = self.filter("inspect", "--model", MODEL, "--format", "jsonl", "--chat_template_path", template, rows=rows[2:4])
            self.assertEqual(['"description"' in row["text"] for row in shown], ["tools" in silent] * 2)
            self.assertEqual(['"arguments"' in row["text"] for row in shown], [False, "tool_calls" in silent])

    def test_a_run_that_never_starts_uses_no_number(self):
        def run(data, code):
            command = [str(HONE), "sft", "--model", str(MODEL), "--data", str(data), "--max_steps", "1"]
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, cwd=self.folder)
            self.assertEqual(done.returncode, code, done.stderr)
            return done
        bad = self.folder / "bad.jsonl"
        bad.write_text('{"txt": "a"}\n')
        numbers = lambda: sorted(p.name for p in (self.folder / "runs").iterdir())
        run("none.jsonl", 2)
        self.assertEqual(numbers(), [])
        for again in range(2):
            self.assertIn("all of them: runs/sft-001/bad_rows.jsonl", run(bad, 2).stderr)
            self.assertEqual(numbers(), ["sft-001"])
            self.assertIn("misspelt-column", (self.folder / "runs/sft-001/bad_rows.jsonl").read_text())
        run(ROWS, 0)
        self.assertEqual(numbers(), ["sft-001"])
        self.assertFalse((self.folder / "runs/sft-001/bad_rows.jsonl").exists())
        run(bad, 2)
        self.assertTrue((self.folder / "runs/sft-002/bad_rows.jsonl").exists())
        self.assertTrue((self.folder / "runs/sft-001/model").is_dir())

    def test_run_yaml_is_resolved_and_read_back(self):
        self.run_hone("run", "--eval_file", ROWS, "--save_steps", 3)
        text = (self.folder / "run" / "run.yaml").read_text()
        values = dict(line.split(": ", 1) for line in text.splitlines())
        self.assertRegex(values["micro_batch_tokens"], r"^\d+$")
        self.assertIn(values["gradient_checkpointing"], ("true", "false"))
        self.assertEqual(values["eval_steps"], "5")
        self.assertEqual([key for key, value in values.items() if value == "auto"], ["kernels"])
        # the run's file is a configuration like any other
        done = subprocess.run([str(HONE), "sft", "--config", str(self.folder / "run" / "run.yaml"), "--output_dir", str(self.folder / "again")],
                              env=self.env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same("run", "again")
        # what the run resolved is taken up again, whatever the machine would give now
        (self.folder / "run" / "run.yaml").write_text(text.replace(f"micro_batch_tokens: {values['micro_batch_tokens']}", "micro_batch_tokens: 77"))
        shutil.rmtree(self.folder / "run" / "checkpoints" / "step-5")
        self.assertIn("micro-batches of 77 tokens", self.run_hone("run", "--eval_file", ROWS, "--save_steps", 3, "--resume").stdout)
        self.assertIn("micro-batches of 99 tokens", self.run_hone("run", "--eval_file", ROWS, "--save_steps", 3, "--resume", "--micro_batch_tokens", 99).stdout)
        self.assert_same("run", "again")

    def test_the_token_cache_is_kept_under_a_size(self):
        self.env["HONE_CACHE_MIB"] = "0"
        cache = lambda: [p.name for p in (self.folder / "cache").iterdir()]
        self.run_hone("one")
        first = cache()
        self.assertEqual(len(first), 1)  # the one in use stays
        data = self.folder / "other.jsonl"
        data.write_text('{"text": "a b"}\n')
        self.run_hone("two", data=data)
        self.assertEqual(len(cache()), 1)
        self.assertNotEqual(cache(), first)
        self.env["HONE_CACHE_MIB"] = "many"
        self.assertIn("HONE_CACHE_MIB", self.run_hone("three", data=data, code=2).stderr)

    def test_tokenizer_of_another_model_is_refused(self):
        model = self.folder / "foreign"
        shutil.copytree(MODEL, model)
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer["added_tokens"].append({"id": 290, "content": "<extra>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                                          "special": True})
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        data = self.folder / "extra.jsonl"
        data.write_text(json.dumps({"text": "a <extra> b"}) + "\n")
        command = [str(model) if word == str(MODEL) else word for word in self.command("run", data=data)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("id 290 but the model has only 290 embeddings", done.stderr)

    def test_kill_9_at_random_moments_and_resume(self):
        self.run_hone("whole", "--save_steps", 3, steps=150)
        self.kill_at_random_moments("killed", "--save_steps", 3, "--save_total_limit", 2, steps=150)
        self.assert_same("whole", "killed")

    def test_signals_write_a_checkpoint(self):
        self.run_hone("whole", steps=400)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            run = f"signal{code}"
            child = subprocess.Popen(self.command(run, steps=400), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            metrics = self.folder / run / "metrics.jsonl"
            while not (metrics.exists() and metrics.read_text().count("\n") >= 3) and child.poll() is None:
                time.sleep(0.01)
            child.send_signal(number)
            _, stderr = child.communicate(timeout=120)
            self.assertEqual(child.returncode, code, stderr)
            self.assertEqual(len(list((self.folder / run / "checkpoints").iterdir())), 1)
            resumed = self.run_hone(run, "--resume", steps=400)
            self.assertIn("resuming", resumed.stdout + resumed.stderr)
            self.assert_same("whole", run)

    def test_resume_refuses_another_run(self):
        self.run_hone("run", "--save_steps", 2)
        refused = self.run_hone("run", "--save_steps", 2, "--resume", "--weight_decay", 0.5, code=2)
        self.assertIn("weight_decay", refused.stderr)
        self.assertIn("was 0.0, now 0.5", refused.stderr)
        # names, not numbers; of the adapter only what differs
        refused = self.run_hone("run", "--save_steps", 2, "--resume", "--optim", "adamw_8bit", "--lr_scheduler_type", "cosine", code=2).stderr
        self.assertIn("lr_scheduler_type: was linear, now cosine; optim: was adamw, now adamw_8bit)", refused)
        self.assertIn("(adapter: was none, now one)", self.run_hone("run", "--save_steps", 2, "--resume", "--use_peft", "--lora_r", 4, code=2).stderr)
        self.run_hone("lora", "--save_steps", 2, "--use_peft", "--lora_r", 4)
        refused = self.run_hone("lora", "--save_steps", 2, "--resume", "--lora_r", 4, "--load_in_4bit", "--lora_alpha", 8, code=2).stderr
        self.assertIn("(lora_alpha: was 32.0, now 8.0; load_in_4bit: was false, now true)", refused)

    def test_resume_skips_a_damaged_checkpoint(self):
        self.run_hone("whole", "--save_steps", 2, steps=6)
        self.run_hone("run", "--save_steps", 2, steps=6)
        newest = self.folder / "run" / "checkpoints" / "step-6" / "tensors.safetensors"
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
        resumed = self.run_hone("run", "--save_steps", 2, "--resume", steps=6)
        self.assertIn("is damaged", resumed.stdout + resumed.stderr)
        self.assertIn("resuming after step 4", resumed.stdout + resumed.stderr)
        self.assert_same("whole", "run")

    def small_disk(self, size):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, text=True)
        if mounted.returncode:
            self.skipTest(f"cannot mount a small tmpfs here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)], capture_output=True)
        return disk

    @staticmethod
    def fill(disk):
        try:
            with open(disk / "filler", "wb") as filler:
                while True:
                    filler.write(b"x" * 4096)
                    filler.flush()
        except OSError:
            pass

    def with_memory(self, kib, command):
        """What `command` does on a machine of which /proc/meminfo says that so much is available."""
        (self.folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {kib} kB\n")
        script = f'mount --bind "{self.folder}/meminfo" /proc/meminfo && exec "$@"'
        return subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command], env=self.env, capture_output=True, text=True, timeout=120)

    def test_no_room_for_spilled_optimizer_states_loses_nothing(self):
        disk = self.small_disk("8m")
        probe = self.with_memory(1, ["true"])
        if probe.returncode:
            self.skipTest(f"cannot mount in a namespace of its own here: {probe.stderr.strip()}")
        self.run_hone("disk/run", "--save_steps", 1, "--save_total_limit", 2, "--max_time", "0.01s", steps=4000)
        checkpoints = disk / "run" / "checkpoints"
        before = {p: p.read_bytes() for p in checkpoints.rglob("*") if p.is_file()}
        self.assertTrue(any(p.name == "COMPLETE" for p in before))
        self.fill(disk)
        # Memory that holds weights and gradients of the model but not its states: between what is too little and what is enough.
        flags = ("--save_steps", 1, "--save_total_limit", 2, "--resume")
        low, high, seen = 0, 700_000, set()
        while high - low > 8:
            available = (low + high) // 2
            done = self.with_memory(available, self.command("disk/run", *flags, steps=4000))
            seen.add(done.returncode)
            if "optimizer's states do not fit into memory" in done.stderr:
                break
            low, high = (available, high) if "training needs" in done.stderr else (low, available)
        self.assertIn("GB are free", done.stderr)
        self.assertIn("--use_peft", done.stderr)
        self.assertEqual(seen, {4})
        self.assertLessEqual(len(done.stderr.splitlines()), 6)
        self.assertEqual({p: p.read_bytes() for p in checkpoints.rglob("*") if p.is_file()}, before)
        (disk / "filler").unlink()
        # the same memory with room on the disk: it goes on, its states in the file
        done = self.with_memory(available, self.command("disk/run", *flags, "--max_time", "1s", steps=4000))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("resuming after step", done.stdout + done.stderr)
        lines = [json.loads(line) for line in (disk / "run" / "metrics.jsonl").read_text().splitlines()]
        self.assertLess(lines[-1]["memory_mib/optimizer"], lines[0]["memory_mib/optimizer"] / 2)  # gradients alone, once with both moments

    def test_full_disk_loses_nothing(self):
        disk = self.small_disk("2m")
        # too small from the start: refused before step 0
        refused = self.run_hone("disk/early", "--save_steps", 1, "--save_total_limit", 20, steps=30, code=4)
        self.assertIn("MiB are free", refused.stderr)
        # room at the start, taken away by someone else while it runs
        child = subprocess.Popen(self.command("disk/late", "--save_steps", 1, "--save_total_limit", 2, steps=4000), env=self.env,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        checkpoints = self.folder / "disk" / "late" / "checkpoints"
        while not (checkpoints.exists() and any((c / "COMPLETE").exists() for c in checkpoints.iterdir())) and child.poll() is None:
            time.sleep(0.01)
        self.fill(disk)
        _, stderr = child.communicate(timeout=120)
        self.assertEqual(child.returncode, 4, stderr)
        (disk / "filler").unlink()
        whole = [c for c in checkpoints.iterdir() if (c / "COMPLETE").exists() and not c.name.startswith(".")]
        self.assertTrue(whole, "the last good checkpoint is gone")
        steps = max(int(c.name.split("-")[1]) for c in whole)
        resumed = subprocess.run(self.command("disk/late", "--save_steps", 1, "--save_total_limit", 2, "--resume", "--max_time", "1s", steps=4000),
                                 env=self.env, capture_output=True, text=True, timeout=120)
        self.assertIn(f"resuming after step {steps}", resumed.stdout + resumed.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
