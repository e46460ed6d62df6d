"""The example data: regenerated to the byte, disjoint, small, and right.

The answers are recomputed here from the digits of the question alone, by formulas written beside the generator's,
so that neither a wrong template nor a wrong solution can pass. `python3 tests/examples/test_examples.py`
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXAMPLES = os.path.join(ROOT, "examples")
DATA = os.path.join(EXAMPLES, "data")
sys.path.insert(0, EXAMPLES)
sys.dont_write_bytecode = True
import make_data  # noqa: E402
from problem_families import FAMILIES  # noqa: E402

ROWS = {"sft_train": 800, "sft_dev": 150, "sft_test": 150, "preference_train": 600, "preference_dev": 200, "preference_test": 200,
        "prompts_train": 800, "prompts_dev": 200, "prompts_test": 400}
LEVEL_SLICE = {0: "always", 1: "core", 2: "core", 3: "core", 4: "never"}

# The answer from the numbers of the question in the order of the text.
ORACLE = {
    "find_more": lambda a, b: a + b, "give_away": lambda a, b: a - b, "together": lambda a, b: a + b, "bus_on": lambda a, b: a + b,
    "eaten": lambda a, b: a - b, "compare": lambda a, b: a - b, "spend": lambda a, b: a - b, "need_more": lambda a, b: a - b,
    "sold_both": lambda a, b: a + b, "older": lambda a, b: a + b, "pages_left": lambda a, b: a - b, "two_walks": lambda a, b: a + b,
    "boxes": lambda a, b: a * b, "price": lambda a, b: a * b, "share": lambda a, b: exact(a, b), "pack": lambda a, b: exact(a, b),
    "speed": lambda a, b: a * b, "rows": lambda a, b: a * b, "times": lambda a, b: a * b, "wage": lambda a, b: a * b,
    "machine": lambda a, b: exact(a, b), "bill": lambda a, b: exact(a, b), "read_days": lambda a, b: a * b, "groups": lambda a, b: a * b,
    "get_and_give": lambda a, b, c: a + b - c, "two_losses": lambda a, b, c: a - b - c, "boxes_plus": lambda a, b, c: a * b + c,
    "boxes_minus": lambda a, b, c: a * b - c, "change": lambda a, b, c: c - a * b, "share_rest": lambda a, b, c: exact(a - b, c),
    "both_more": lambda a, b: 2 * a + b, "both_fewer": lambda a, b: 2 * a - b, "two_buys": lambda a, b, c: a * b + c,
    "earn_spend": lambda a, b, c: a * b - c, "bake_share": lambda a, b, c: exact(a + b, c), "faster": lambda a, b, c: a * c - b * c,
    "boys_girls": lambda a, b, c: a * b + a * c, "seats": lambda a, b, c: a * b - c, "half_and_more": lambda a, b: exact(a, 2) + b,
    "twice_less": lambda a, b: 2 * a - b, "copy_number": lambda a: a, "copy_code": lambda a: a, "copy_price": lambda a: a,
    "mill": lambda a, b, c, d: (a * b - c) * d, "two_mills": lambda a, b, c, d: a * b + c * d,
}

def exact(x, y):
    if x % y:
        raise AssertionError("%d / %d is not whole" % (x, y))
    return x // y


def digits(text):
    return [int(n) for n in re.findall(r"\d+", text)]


def load(name):
    with open(os.path.join(DATA, name + ".jsonl"), encoding="ascii") as lines:
        return [json.loads(line) for line in lines]


def question(row):
    return (row.get("prompt") or row["messages"])[0]["content"]


def gold(row):
    """The right answer by the oracle."""
    return ORACLE[row["template"]](*digits(question(row)))


def final(text):
    """N of the last line `#### N`, or None."""
    match = re.fullmatch(r"#### (\d+)", text.split("\n")[-1])
    return int(match.group(1)) if match else None


def true_equations(text):
    """Whether every `x op y = z` of the text holds, and the last z is the final answer."""
    equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text)
    holds = {"+": lambda x, y, z: x + y == z, "-": lambda x, y, z: x - y == z, "*": lambda x, y, z: x * y == z, "/": lambda x, y, z: z * y == x}
    return all(holds[op](int(x), int(y), int(z)) for x, op, y, z in equations) and (not equations or int(equations[-1][3]) == final(text))


def style_rule(text):
    """The rule of examples/README.md, written a second time."""
    return re.search(r"(?:^|\n)The answer is (\d+)\.\n#### \1\Z", text) is not None


class ExampleData(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = {name: load(name) for name in ROWS}

    def rows(self, kind):
        for name, rows in self.files.items():
            if name.startswith(kind):
                for number, row in enumerate(rows, 1):
                    yield "%s:%d" % (name, number), row

    def test_regenerating_gives_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as folder:
            script = [sys.executable, "-B", os.path.join(EXAMPLES, "make_data.py"), "--output_dir", folder]
            output = subprocess.run(script, check=True, capture_output=True, text=True).stdout
            self.assertIn("overlap: 0 problems, 0 wordings", output)
            self.assertEqual(sorted(os.listdir(folder)), sorted(os.listdir(DATA)))
            for name in os.listdir(folder):
                with open(os.path.join(folder, name), "rb") as new, open(os.path.join(DATA, name), "rb") as old:
                    self.assertTrue(new.read() == old.read(), name + " differs from what examples/make_data.py writes")

    def test_counts_and_size(self):
        self.assertEqual({name: len(rows) for name, rows in self.files.items()}, ROWS)
        size = sum(os.path.getsize(os.path.join(DATA, name)) for name in os.listdir(DATA))
        self.assertLess(size, 2 * 1000 * 1000)

    def test_every_family_has_an_oracle_and_is_used(self):
        names = {f["name"] for f in FAMILIES}
        self.assertEqual(names, set(ORACLE))
        for name in ("prompts_train", "prompts_dev", "prompts_test"):
            self.assertEqual({row["template"] for row in self.files[name]}, names, name)

    def test_no_problem_stands_twice(self):
        """Over all files: neither a (template, numbers) pair nor a question."""
        seen = {}
        for place, row in self.rows(""):
            for key in ((row["template"], tuple(digits(question(row)))), question(row)):
                self.assertNotIn(key, seen, "%s repeats %s" % (place, seen.get(key)))
                seen[key] = place

    def test_rows_have_the_form_of_the_contract(self):
        columns = {"sft": {"messages"}, "preference": {"prompt", "chosen", "rejected", "dimension"}, "prompts": {"prompt", "answer"}}
        for kind, own in columns.items():
            for place, row in self.rows(kind):
                self.assertEqual(set(row), own | {"level", "slice", "template"}, place)
                self.assertEqual(row["slice"], LEVEL_SLICE[row["level"]], place)
                for column in own & {"messages", "prompt", "chosen", "rejected"}:
                    roles = {"messages": ["user", "assistant"], "prompt": ["user"]}.get(column, ["assistant"])
                    self.assertEqual([m["role"] for m in row[column]], roles, place)
                    for message in row[column]:
                        self.assertEqual(set(message), {"role", "content"}, place)
                        self.assertTrue(message["content"].strip() == message["content"] != "", place)
                        self.assertNotRegex(message["content"], r"[{}]|  ", place)
                        self.assertLessEqual(len(message["content"].split()), 45, place)

    def test_slices(self):
        for name, rows in self.files.items():
            share = {s: n / len(rows) for s, n in collections.Counter(row["slice"] for row in rows).items()}
            expected = {"sft": {"always": 0.1, "core": 0.9}, "preference": {"core": 1.0}, "prompts": {"always": 0.15, "core": 0.8, "never": 0.05}}
            self.assertEqual(set(share), set(expected[name.split("_")[0]]), name)
            for s, wanted in expected[name.split("_")[0]].items():
                self.assertAlmostEqual(share[s], wanted, delta=0.005, msg=name)

    def test_demonstrations_are_right(self):
        styled, worked = [], []
        for place, row in self.rows("sft"):
            text = row["messages"][1]["content"]
            self.assertEqual(final(text), gold(row), place)
            self.assertTrue(true_equations(text), place)
            styled.append(style_rule(text))
            worked += ["=" in text] * (row["slice"] == "core")
        for shares in (styled, worked):
            self.assertAlmostEqual(sum(shares) / len(shares), 0.5, delta=0.05)

    def test_equations_use_the_numbers_of_the_question(self):
        """Each number is in the question, a result before, or the 2 of half and twice; and each number of the question is used."""
        for place, row in self.rows("sft"):
            text, told = row["messages"][1]["content"], digits(question(row))
            known, used = set(told), []
            for x, _, y, z in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text):
                for number in (int(x), int(y)):
                    self.assertTrue(number in known or (number == 2 and re.search("half|Half|twice", question(row))), place)
                    used.append(number)
                known.add(int(z))
            if used:
                self.assertTrue(set(told) <= set(used), place)

    def test_answers_of_prompts(self):
        for place, row in self.rows("prompts"):
            self.assertEqual(row["answer"], str(gold(row)), place)

    def test_the_never_slice_is_out_of_reach(self):
        for place, row in self.rows("prompts"):
            if row["slice"] == "never":
                self.assertGreater(int(row["answer"]), 10**7, place)

    def test_preferences(self):
        dimensions = collections.Counter()
        for place, row in self.rows("preference"):
            chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
            dimensions[row["dimension"]] += 1
            self.assertNotEqual(chosen, rejected, place)
            self.assertEqual(final(chosen), gold(row), place)
            self.assertTrue(true_equations(chosen), place)
            self.assertIsNotNone(final(rejected), place)
            truth = [2 * (final(t) == gold(row)) + style_rule(t) for t in (chosen, rejected)]
            self.assertGreater(truth[0], truth[1], place)
            if row["dimension"] == "style":
                self.assertEqual((final(rejected), true_equations(rejected), truth), (gold(row), True, [3, 2]), place)
            else:
                self.assertNotEqual(final(rejected), gold(row), place)
        self.assertEqual(set(dimensions), {"correctness", "style"})
        self.assertAlmostEqual(dimensions["style"] / 1000, 0.5, delta=0.05)

    def test_length_does_not_tell_the_pairs_apart(self):
        """The longer one is chosen in about half of the pairs of each dimension (ties count half)."""
        wins = collections.defaultdict(list)
        for _, row in self.rows("preference"):
            chosen, rejected = len(row["chosen"][0]["content"]), len(row["rejected"][0]["content"])
            wins[row["dimension"]].append((chosen > rejected) + 0.5 * (chosen == rejected))
        for dimension, values in wins.items():
            self.assertAlmostEqual(sum(values) / len(values), 0.5, delta=0.06, msg=dimension)

    def test_the_style_rule(self):
        for text, holds in (("A.\nThe answer is 4.\n#### 4", True), ("The answer is 4.\n#### 4", True), ("A.\n#### 4", False),
                            ("A.\nThe answer is 5.\n#### 4", False), ("A. The answer is 4.\n#### 4", False), ("The answer is 4.\n\n#### 4", False),
                            ("The answer is 4.\n#### 4\n", False), ("the answer is 4.\n#### 4", False), ("The answer is 4.", False), ("", False)):
            self.assertEqual((make_data.style_holds(text), style_rule(text)), (holds, holds), text)
        for _, row in self.rows("preference"):
            for text in (row["chosen"][0]["content"], row["rejected"][0]["content"]):
                self.assertEqual(make_data.style_holds(text), style_rule(text))


if __name__ == "__main__":
    unittest.main()
