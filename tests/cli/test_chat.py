"""hone chat: piped turns, streaming, stop strings, the kept conversation, and what SIGINT ends."""
import json
import pathlib
import signal
import subprocess
import sys
import time
import unittest

HONE = sys.argv.pop(1)
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
MODEL = GOLDEN / "models" / "chat"


class Chat(unittest.TestCase):
    def run_hone(self, *flags, text="", code=0):
        result = subprocess.run([HONE, *map(str, flags)], input=text.encode(), capture_output=True)
        self.assertEqual(result.returncode, code, result.stderr.decode())
        return result

    def chat(self, *flags, text):
        return self.run_hone("chat", "--model", MODEL, "--temperature", "0", "--max_new_tokens", "6", *flags, text=text).stdout.decode()

    def sample(self, messages, *flags):
        row = json.dumps({"prompt": messages})
        out = self.run_hone("sample", "--model", MODEL, "--format", "jsonl", "--temperature", "0", "--max_new_tokens", "6", *flags, text=row + "\n").stdout
        return json.loads(out)["completions"][0]

    def test_every_line_is_a_turn_of_one_conversation(self):
        answers, messages = [], []
        for words in ("Hello", "And then?", "More"):
            messages.append({"role": "user", "content": words})
            completion = self.sample(messages)
            answers.append(completion["text"] + (" ..." if completion["finish_reason"] == "length" else ""))
            messages.append({"role": "assistant", "content": completion["text"]})
        self.assertEqual(self.chat(text="Hello\n\nAnd then?\nMore\n"), "".join(a + "\n" for a in answers))

    def test_reset_and_system(self):
        once = self.chat(text="Hello\n")
        self.assertEqual(self.chat(text="Hello\n/reset\nHello\n/exit\nnever\n"), once * 2)
        system = self.sample([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])
        self.assertTrue(self.chat("--system", "Be brief.", text="Hello\n").startswith(system["text"]))

    def test_stop_string(self):
        whole = self.sample([{"role": "user", "content": "Hello"}])["text"]
        stop = next(letter for letter in whole[1:] if letter.isascii())  # what is no UTF-8 is shown otherwise than it is compared
        shown = self.chat("--stop", stop, text="Hello\n")
        self.assertEqual(shown, whole[: whole.index(stop)] + "\n")

    def test_interrupt_ends_the_answer_and_not_the_program(self):
        program = subprocess.Popen([HONE, "chat", "--model", MODEL, "--max_new_tokens", "100000", "--temperature", "1"], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        program.stdin.write(b"Hello\n")
        program.stdin.flush()
        self.assertTrue(program.stdout.read(1))  # it is answering, or has answered
        program.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(program.poll())
        out, err = program.communicate(b"/exit\n", timeout=60)
        self.assertEqual(program.returncode, 0, err.decode())

    def test_refusals(self):
        model = GOLDEN / "models" / "tied_gqa2"
        self.assertEqual(self.run_hone("chat", "--model", model, text="a\n", code=2).stdout, b"")
        err = self.run_hone("chat", text="a\n", code=2).stderr.decode()
        self.assertIn("hone chat needs a model", err)
        self.run_hone("chat", "--model", MODEL, text="", code=0)


if __name__ == "__main__":
    unittest.main()
