"""The JSONL filters and the commands that print, on the small golden models. usage: test_filters.py HONE. Standard library only."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

HONE = str(pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else "build/hone").resolve())
CHAT = str(pathlib.Path(__file__).resolve().parent.parent / "golden" / "models" / "chat")


def hone(*words, text="", code=0):
    done = subprocess.run([HONE, *words], input=text.encode() if isinstance(text, str) else text, capture_output=True, timeout=300)
    assert done.returncode == code, f"exit {done.returncode}, wanted {code}: {done.stderr.decode()}"
    return done


def rows_of(done):
    return [json.loads(line) for line in done.stdout.decode().split("\n") if line]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def damaged_model(folder, tensor, value):
    """A copy of the model in which element 3 of the tensor has that value."""
    copy = pathlib.Path(folder) / "damaged"
    shutil.copytree(CHAT, copy, dirs_exist_ok=True)
    content = bytearray((copy / "model.safetensors").read_bytes())
    size = struct.unpack("<Q", content[:8])[0]
    entry = json.loads(content[8:8 + size])[tensor]
    assert entry["dtype"] == "F32"
    at = 8 + size + entry["data_offsets"][0] + 3 * 4
    content[at:at + 4] = struct.pack("<f", value)
    (copy / "model.safetensors").write_bytes(content)
    return str(copy)


class NotFinite(unittest.TestCase):
    COMMANDS = (["score"], ["sample", "--format", "jsonl", "--max_new_tokens", "2"], ["sample", "--format", "jsonl", "--max_new_tokens", "2", "--temperature", "0"])

    def test_weights_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            for value, word in ((float("nan"), "NaN"), (float("inf"), "an infinite value")):
                model = damaged_model(folder, "model.layers.1.mlp.down_proj.weight", value)
                for command in (*self.COMMANDS, ["score", "--load_in_4bit"]):
                    done = hone(*command, "--model", model, text=lines({"text": "a b", "prompt": "a"}), code=2)
                    self.assertIn(f"tensor model.layers.1.mlp.down_proj.weight holds {word} (row 0, column 3)", done.stderr.decode())
                data = pathlib.Path(folder) / "rows.jsonl"
                data.write_text(lines({"text": "a b"}))
                self.assertIn(f"holds {word}", hone("eval", "--model", model, "--data", str(data), code=2).stderr.decode())

    def test_results_that_overflow(self):
        with tempfile.TemporaryDirectory() as folder:
            model = damaged_model(folder, "model.layers.0.input_layernorm.weight", 3e38)
            model_rows = lines({"text": "a b c", "prompt": "a"})
            for command in self.COMMANDS:
                self.assertIn("not finite", hone(*command, "--model", model, text=model_rows, code=2).stderr.decode(), command)
            data = pathlib.Path(folder) / "rows.jsonl"
            data.write_text(model_rows)
            self.assertIn("not finite", hone("eval", "--model", model, "--data", str(data), code=2).stderr.decode())


class Int8(unittest.TestCase):
    def completions(self, *flags, rows=4):
        done = hone("sample", "--model", CHAT, "--format", "jsonl", "--max_new_tokens", "12", "--num_generations", "3", *flags,
                    text=lines(*({"prompt": p} for p in ("a b", "hello", "one two three", "x")[:rows])))
        return [row["completions"] for row in rows_of(done)]

    def test_the_same_bits_for_any_threads_instruction_set_and_company(self):
        base = self.completions("--weights", "int8", "--threads", "2")
        self.assertEqual(self.completions("--weights", "int8", "--threads", "1", "--isa", "avx2"), base)
        self.assertEqual(self.completions("--weights", "int8", rows=1), base[:1])

    def test_near_the_model_but_not_the_model(self):
        exact, rounded = (self.completions("--temperature", "0", *flags) for flags in ((), ("--weights", "int8")))
        first = [[row[0]["logprobs"][0] for row in rows] for rows in (exact, rounded)]
        self.assertNotEqual(*first)
        for a, b in zip(*first):  # a step of int8 is 1/127 of the largest of 64 weights; the tiny model's logits move by less than this
            self.assertLess(abs(a - b), 0.05)


class Tokenize(unittest.TestCase):
    def test_there_and_back(self):
        texts = ["hello world", "", "  two  ", "a\nb"]
        out = rows_of(hone("tokenize", "--model", CHAT, text=lines(*({"text": t, "n": i} for i, t in enumerate(texts)))))
        self.assertEqual([(r["text"], r["n"]) for r in out], list(zip(texts, range(4))))
        self.assertTrue(all(isinstance(i, int) for r in out for i in r["ids"]) and out[0]["ids"])
        back = rows_of(hone("tokenize", "--model", CHAT, text=lines(*({"ids": r["ids"]} for r in out))))
        self.assertEqual([r["text"] for r in back], texts)

    def test_special_strings(self):
        row = lines({"text": "<|im_end|>"})
        special, = rows_of(hone("tokenize", "--model", CHAT, text=row))
        plain, = rows_of(hone("tokenize", "--model", CHAT, "--no_special", text=row))
        self.assertEqual(len(special["ids"]), 1)
        self.assertGreater(len(plain["ids"]), 1)

    def test_a_row_with_text_and_ids_is_a_fault(self):
        done = hone("tokenize", "--model", CHAT, text=lines({"text": "a"}, {"text": "a", "ids": [1, 2]}, {"ids": [1]}), code=2)
        out = rows_of(done)
        self.assertEqual(["error" in r for r in out], [False, True, False])
        self.assertIn('standard input:2: both "text" and "ids" are there', out[1]["error"])

    def test_bad_rows_stand_in_place(self):
        text = lines({"text": "a"}) + "{oops\n" + "[1]\n" + lines({"text": 5}, {"other": 1}, {"ids": [-1]}, {"ids": [10**9]}, {"text": "b"})
        done = hone("tokenize", "--model", CHAT, text=text, code=2)
        out = rows_of(done)
        self.assertEqual(["error" in r for r in out], [False, True, True, True, True, True, True, False])
        self.assertIn("standard input:2", out[1]["error"])
        self.assertIn("standard input:4: text: found number, wanted a string", out[3]["error"])
        self.assertIn("6 of 8 rows are bad", done.stderr.decode())
        self.assertLessEqual(done.stderr.count(b"\n"), 6)

    def test_line_ends_and_blanks(self):
        out = rows_of(hone("tokenize", "--model", CHAT, text='\ufeff{"text":"a"}\r\n\n   \n{"text":"b"}'))
        self.assertEqual([r["text"] for r in out], ["a", "b"])

    def test_other_fields_stand_as_they_were_written(self):
        number = "123456789012345678901234567890"
        kept = ['"z": ' + number, r'"a":{"n":9007199254740993,"t":"x, }]\"{"}', '"f":1.10', r'"e":"\u00e9"', r'"\u0074est":[1, 2]']
        whole = '{ "text":"a b", "ids" : [1], "prompt":"a" ,"completions":{"b":1}, ' + ",".join(kept) + "}\n"
        for command in (["tokenize"], ["score"], ["sample", "--format", "jsonl", "--max_new_tokens", "2"]):
            row = whole.replace('"ids" : [1], ', "") if command == ["tokenize"] else whole  # which takes one of the two
            out = hone(*command, "--model", CHAT, text=row).stdout.decode()
            self.assertIn(",".join(kept), out, command)
            self.assertEqual(out.count('"ids"') - out.count('"text"'), 0, command)  # replaced, not repeated
            self.assertEqual(json.loads(out)["z"], int(number))

    def test_nothing_in_nothing_out(self):
        self.assertEqual(hone("tokenize", "--model", CHAT).stdout, b"")

    def test_many_rows_keep_their_order(self):
        rows = [{"text": f"row {i} " + "x " * (i % 97)} for i in range(5000)]
        for threads in ("1", "2"):
            out = rows_of(hone("tokenize", "--model", CHAT, "--threads", threads, text=lines(*rows)))
            self.assertEqual([r["text"] for r in out], [r["text"] for r in rows])

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            source, target = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
            pathlib.Path(source).write_text(lines({"text": "a"}))
            hone("tokenize", "--model", CHAT, "--file", source, "--output", target)
            self.assertEqual(json.loads(pathlib.Path(target).read_text())["text"], "a")
            done = hone("tokenize", "--model", CHAT, "--file", source, "--output", source, code=2)
            self.assertIn("is the input", done.stderr.decode())
            self.assertEqual(pathlib.Path(source).read_text(), lines({"text": "a"}))
            self.assertEqual(sorted(os.listdir(folder)), ["in.jsonl", "out.jsonl"])
            hone("tokenize", "--model", CHAT, "--file", os.path.join(folder, "none"), code=2)

    def test_a_reader_that_leaves(self):
        process = subprocess.Popen([HONE, "tokenize", "--model", CHAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        try:
            process.stdin.write(lines(*({"text": "x " * 500} for _ in range(5000))).encode())
        except BrokenPipeError:
            pass
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self.assertEqual(process.stderr.read(), b"")
        process.stderr.close()
        self.assertEqual(process.wait(60), 0)

    def test_a_full_disk(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([HONE, "tokenize", "--model", CHAT], input=b'{"text":"a"}\n', stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 4)

    def test_answers_before_the_input_ends(self):
        process = subprocess.Popen([HONE, "tokenize", "--model", CHAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(b'{"text":"a"}\n')
        process.stdin.flush()
        self.assertEqual(json.loads(process.stdout.readline())["text"], "a")
        process.stdin.close()
        self.assertEqual(process.stdout.read(), b"")
        process.stdout.close()
        self.assertEqual(process.wait(60), 0)

    def test_signals_have_the_contracts_exit_codes(self):
        for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = subprocess.Popen([HONE, "tokenize", "--model", CHAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            process.stdin.write(b'{"text":"a"}\n')
            process.stdin.flush()
            process.stdout.readline()
            process.send_signal(sent)
            self.assertEqual(process.wait(60), code)
            process.stdin.close()
            process.stdout.close()


class LongRows(unittest.TestCase):
    def test_rows_beyond_the_models_positions_are_counted(self):
        rows = lines({"text": "a b"}, {"text": "x" * 300}, {"text": "y" * 400}, {"text": "c"})
        done = hone("score", "--model", CHAT, text=rows)
        self.assertEqual(len(rows_of(done)), 4)
        self.assertRegex(done.stderr.decode(), r"^hone: warning: 2 rows are longer than the 256 tokens .* first standard input:2; longest \d+ tokens.*\n$")
        self.assertEqual(hone("score", "--model", CHAT, text=lines({"text": "a b"})).stderr, b"")
        bad = hone("score", "--model", CHAT, text=rows + "{oops\n", code=2)
        self.assertIn(b"2 rows are longer", bad.stderr)
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / name for name in ("short.jsonl", "long.jsonl")]
            files[0].write_text(lines({"text": "a b"}))
            files[1].write_text("\n" + rows)
            for _ in range(2):  # with and without the token cache
                done = hone("eval", "--model", CHAT, "--data", *map(str, files))
                self.assertRegex(done.stderr.decode(), rf"warning: 2 rows are longer than the 256 tokens .* first {files[1]}:3; longest")


class Template(unittest.TestCase):
    def test_chatml_for_a_model_without_a_template_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "bare"
            shutil.copytree(CHAT, model)
            text = lines({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]})
            self.assertEqual(hone("inspect", "--model", str(model), "--format", "jsonl", text=text).stderr, b"")
            (model / "chat_template.jinja").unlink()
            done = hone("inspect", "--model", str(model), "--format", "jsonl", text=text)
            self.assertEqual(done.stderr.count(b"\n"), 1)
            self.assertIn(b"the model has no chat template", done.stderr)
            self.assertEqual(rows_of(done)[0]["text"], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n")


class Inspect(unittest.TestCase):
    TALK = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}

    def test_weights_cover_the_answer_and_its_end(self):
        row, = rows_of(hone("inspect", "--model", CHAT, "--format", "jsonl", text=lines(self.TALK)))
        self.assertEqual(set(row), {"text", "ids", "weights", "roles"})
        trained = [i for i, w in zip(row["ids"], row["weights"]) if w == 1]
        back, = rows_of(hone("tokenize", "--model", CHAT, text=lines({"ids": trained})))
        self.assertEqual(back["text"], "yes<|im_end|>")
        self.assertEqual({r for r, w in zip(row["roles"], row["weights"]) if w}, {"assistant"})

    def test_prompt_rendering(self):
        talk = {"messages": self.TALK["messages"][:1], "add_generation_prompt": True}
        row, = rows_of(hone("inspect", "--model", CHAT, "--format", "jsonl", text=lines(talk)))
        self.assertTrue(row["text"].endswith("<|im_start|>assistant\n"), row["text"])

    def test_all_tokens(self):
        row, = rows_of(hone("inspect", "--model", CHAT, "--format", "jsonl", "--assistant_only_loss", "false", text=lines(self.TALK)))
        self.assertEqual(set(row["weights"]), {1})

    def test_bad_rows(self):
        done = hone("inspect", "--model", CHAT, "--format", "jsonl", text=lines({"messages": []}, {"prompt": "a", "completion": ""}, self.TALK), code=2)
        self.assertEqual(["error" in r for r in rows_of(done)], [True, True, False])

    PAIR = {"prompt": [{"role": "user", "content": "hi"}], "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "not at all"}]}

    def test_pairs(self):
        row, = rows_of(hone("inspect", "--model", CHAT, "--format", "jsonl", text=lines({**self.PAIR, "margin": 0.5})))
        self.assertEqual(set(row), {"chosen", "rejected", "shared_prefix", "margin"})
        self.assertEqual(row["margin"], 0.5)
        for side, answer in (("chosen", "yes"), ("rejected", "not at all")):
            self.assertEqual(set(row[side]), {"text", "ids", "weights", "roles"})
            self.assertTrue(row[side]["text"].endswith(f"<|im_start|>assistant\n{answer}<|im_end|>"), row[side]["text"])
            trained = [i for i, w in zip(row[side]["ids"], row[side]["weights"]) if w]
            self.assertEqual(row[side]["ids"][-len(trained):], trained)
        self.assertEqual(row["chosen"]["ids"][:row["shared_prefix"]], row["rejected"]["ids"][:row["shared_prefix"]])
        self.assertNotEqual(row["chosen"]["ids"][row["shared_prefix"]], row["rejected"]["ids"][row["shared_prefix"]])

    def test_labelled_completions(self):
        row, = rows_of(hone("inspect", "--model", CHAT, "--format", "jsonl", text=lines({"prompt": "a", "completion": " b", "label": False})))
        self.assertEqual(set(row), {"text", "ids", "weights", "roles", "label"})
        self.assertIs(row["label"], False)

    def test_bad_pairs(self):
        rows = [self.PAIR, {**self.PAIR, "rejected": self.PAIR["chosen"]}, {"prompt": "a", "chosen": " b", "rejected": " b<|im_end|>"},
                {**self.PAIR, "margin": "1"}, {"prompt": "a", "chosen": " b"}]
        out = rows_of(hone("inspect", "--model", CHAT, "--format", "jsonl", text=lines(*rows), code=2))
        self.assertEqual(["error" in r for r in out], [False, True, True, True, True])
        for i, words in ((1, "the same as chosen"), (2, "the same tokens"), (3, "wanted a number"), (4, 'no "rejected"')):
            self.assertIn(f"standard input:{i + 1}: ", out[i]["error"])
            self.assertIn(words, out[i]["error"])

    def test_pairs_for_people(self):
        early = {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b b b b b b b b b b"}],
                 "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "b"}], "margin": 2}
        out = hone("inspect", "--model", CHAT, "--rows", "4", text=lines(self.PAIR, self.PAIR, early, {"prompt": "a", "completion": "b", "label": True})).stdout.decode()
        for words in (r"the root that both sides share\n", r": chosen\n", r": rejected\n", r"  chosen \+ rejected 3\n", r"labels +1 good, 0 bad\n",
                      r"chosen longer  1 pairs, 33.3 %", r"duplicates     1; the first: standard input:2", r"differ early   1 pairs", r"margins        1 pairs",
                      r"chosen         \d", r"rejected       \d", r"row 4 .* labelled good\n"):
            self.assertRegex(out, words)
        short = hone("inspect", "--model", CHAT, "--rows", "0", "--max_length", "50", "--overlong", "cut", text=lines(self.PAIR)).stdout.decode()
        self.assertRegex(short, r"training would cut \d+ tokens of prompts; 0 rows are too long")
        none = hone("inspect", "--model", CHAT, "--rows", "0", "--max_length", "4", "--overlong", "cut", text=lines(self.PAIR)).stdout.decode()
        self.assertIn("training would cut 0 tokens of prompts; 1 rows are too long without their prompt and dropped, and stop", none)

    def test_text_for_people(self):
        out = hone("inspect", "--model", CHAT, text=lines(self.TALK, self.TALK, {"prompt": "a b c", "completion": "d"})).stdout.decode()
        self.assertRegex(out, r"1  assistant  \|es\|\n .* 1  assistant  \|<\|im_end\|>\|\n")
        self.assertIn("segment [0, ", out)
        self.assertIn("duplicates     1; the first: standard input:2", out)
        self.assertRegex(out, r"rows +3\n")
        self.assertIn("over-long      none", out)
        short = hone("inspect", "--model", CHAT, "--rows", "0", "--max_length", "4", text=lines(self.TALK)).stdout.decode()
        self.assertNotIn("|es|", short)
        self.assertIn("over-long      1 rows, 100.0 %", short)


class Doctor(unittest.TestCase):
    def test_json(self):
        report, = rows_of(hone("doctor", "--format", "json", "--model", CHAT))
        self.assertTrue(report["model"]["usable"])
        self.assertGreater(report["memory_gib"], 0)
        self.assertIn("avx2", report["instruction_sets"])
        self.assertEqual(report["missing"], [])

    def test_what_is_missing(self):
        report, = rows_of(hone("doctor", "--format", "json", "--model", "/nonexistent/model"))
        self.assertFalse(report["model"]["usable"])
        self.assertEqual(len(report["missing"]), 1)


class Score(unittest.TestCase):
    def test_floats_are_float32(self):
        row, = rows_of(hone("score", "--model", CHAT, text=lines({"text": "hello world, hello"})))
        self.assertEqual(len(row["logprobs"]), len(row["ids"]) - 1)
        for value in row["logprobs"]:
            self.assertLess(value, 0)
            # the shortest text of a float32 may differ from its value as a double, but never names another float32
            self.assertAlmostEqual(struct.unpack("f", struct.pack("f", value))[0], value, delta=abs(value) * 2**-24)


if __name__ == "__main__":
    unittest.main()
