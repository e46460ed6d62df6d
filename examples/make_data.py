#!/usr/bin/env python3
"""Writes the example data: `python3 examples/make_data.py [--output_dir DIR]`.

Same bytes on every machine and Python version: random numbers come from random.Random.random(), whose sequence
Python keeps, and from nothing else. No two rows of any files share a (template, numbers) pair.
"""
import argparse
import json
import os
import random
import re

from problem_families import FAMILIES, NAMES, WORDS

SEED = 20261123
SPLITS = ("test", "dev", "train")  # held-out problems are drawn first
ROWS = {"sft": {"train": 800, "dev": 150, "test": 150},
        "preference": {"train": 600, "dev": 200, "test": 200},
        "prompts": {"train": 800, "dev": 200, "test": 400}}
# Share of the levels in each kind of file. Level 0 is the slice "always", level 4 the slice "never".
LEVELS = {"sft": {0: 0.10, 1: 0.40, 2: 0.30, 3: 0.20},
          "preference": {1: 0.40, 2: 0.30, 3: 0.30},
          "prompts": {0: 0.15, 1: 0.40, 2: 0.30, 3: 0.10, 4: 0.05}}
STYLED_SHARE = 0.5
# Share of the demonstrations that show the calculation; the others say the answer at once. SFT imitates both habits, and a small model that does
# not write the calculation down is wrong more often: that is for reinforcement learning to find out.
WORKED_SHARE = 0.5
# What stands before the #### line where the style rule does not hold; None is nothing at all. The longer ones keep
# length from telling the styles apart.
OTHER_CLOSINGS = (None, None, None, "Hope this helps you!", "Easy, that was all there is.", "So {r} it is, I think.",
                  "I checked this twice, so it is right.", "Result: {r}.")
OPERATIONS = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "/": lambda x, y: x / y if y else 0.5}
WRONG_OPERATION = {"+": "-", "-": "+", "*": "+", "/": "-"}
STEP = re.compile(r"\{(\w+)([-+*/])(\w+)\}")


class Draw:
    """Random choices made of random.Random.random() alone."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def below(self, n):
        return int(self.random() * n)

    def pick(self, items):
        return items[self.below(len(items))]

    def chance(self, share):
        return self.random() < share

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


def style_holds(text):
    """The style rule, the ground truth of the style dimension: the line before the last line `#### N` is exactly
    `The answer is N.` with the same N."""
    lines = text.split("\n")
    if len(lines) < 2 or not lines[-1].startswith("#### "):
        return False
    return lines[-2] == "The answer is " + lines[-1][5:] + "."


def work_out(sentences, numbers, error=None):
    """Carries out the steps; returns (text of the steps, result), or None where a result is not a whole number >= 2.

    error = (step, kind, amount): kind "slip" adds amount to that step's result, "operation" uses another operation.
    """
    values = {**numbers}
    texts = []
    for i, sentence in enumerate(sentences):
        match = STEP.search(sentence)
        if not match:  # nothing to calculate: the answer is a
            result = values["a"] + (error[2] if error else 0)
            texts.append(sentence.replace("{a}", str(result)))
            continue
        left, operation, right = match.groups()
        x, y = (values[v] if v in values else int(v) for v in (left, right))
        if error and error[0] == i and error[1] == "operation":
            operation = WRONG_OPERATION[operation]
        result = OPERATIONS[operation](x, y)
        if error and error[0] == i and error[1] == "slip":
            result += error[2]
        if result != int(result) or result < 2:
            return None
        result = values["r%d" % (i + 1)] = int(result)
        texts.append(sentence.replace(match.group(0), "%d %s %d = %d" % (x, operation, y, result)))
    return " ".join(texts), result


def fill(text, words):
    return re.sub(r"\{(\w+)\}", lambda m: str(words[m.group(1)]), text)


def draw_problem(draw, family, used):
    """One new problem of a family, or None where its numbers are used up."""
    for _ in range(400):
        numbers = {"abcd"[i]: low + draw.below(high - low + 1) for i, (low, high) in enumerate(family["ranges"])}
        sentences = [draw.pick(s) for s in family["steps"]]
        key = (family["name"],) + tuple(numbers.values())
        worked = work_out(sentences, numbers)
        if key not in used and worked:
            break
    else:
        return None
    used.add(key)
    name, other = draw.shuffled(NAMES)[:2]
    words = {kind: draw.pick(WORDS[kind]) for kind in family["words"]}
    words.update(n=name[0], m=other[0], he=name[1], He=name[1].capitalize(), his={"he": "his", "she": "her"}[name[1]], **numbers)
    return {"family": family, "key": key, "numbers": numbers, "words": words, "sentences": sentences,
            "question": fill(draw.pick(family["texts"]), words), "answer": worked[1]}


def solution(problem, worked, closing, shown=True):
    """`worked` as text; closing: True for the style of the rule, else one of OTHER_CLOSINGS; shown: whether the calculation stands before it."""
    text, result = worked
    lines = [fill(text, problem["words"])] if shown else []
    if closing:
        lines.append("The answer is %d." % result if closing is True else closing.replace("{r}", str(result)))
    return "\n".join(lines + ["#### %d" % result])


def wrong_work(draw, problem):
    """A worked solution with a plausible error: a slip in one result, another operation, or the last step forgotten."""
    steps = problem["sentences"]
    while True:
        step = draw.below(len(steps))
        kind = draw.pick(("slip", "slip", "slip", "operation", "operation", "stop"))
        if kind == "stop":
            worked = work_out(steps[:-1], problem["numbers"]) if len(steps) > 1 else None
        else:
            worked = work_out(steps, problem["numbers"], (step, kind, draw.pick((-10, -2, -1, 1, 2, 10))))
        if worked and worked[1] != problem["answer"]:
            return worked


def sft_row(draw, problem):
    closing, shown = True if draw.chance(STYLED_SHARE) else None, draw.chance(WORKED_SHARE)
    text = solution(problem, work_out(problem["sentences"], problem["numbers"]), closing, shown)
    return {"messages": [user(problem), assistant(text)]}


def preference_row(draw, problem):
    """Correctness pairs: right against wrong, each in a style drawn by itself. Style pairs: both right, only chosen keeps the rule.
    So 2 * right + style_holds orders every pair."""
    right = work_out(problem["sentences"], problem["numbers"])
    if draw.chance(0.5):
        styles = [True if draw.chance(STYLED_SHARE) else draw.pick(OTHER_CLOSINGS) for _ in range(2)]
        chosen, rejected, dimension = solution(problem, right, styles[0]), solution(problem, wrong_work(draw, problem), styles[1]), "correctness"
    else:
        chosen, rejected, dimension = solution(problem, right, True), solution(problem, right, draw.pick(OTHER_CLOSINGS)), "style"
    return {"prompt": [user(problem)], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)], "dimension": dimension}


def prompt_row(draw, problem):
    return {"prompt": [user(problem)], "answer": str(problem["answer"])}


ROW_OF = {"sft": sft_row, "preference": preference_row, "prompts": prompt_row}


def user(problem):
    return {"role": "user", "content": problem["question"]}


def assistant(text):
    return {"role": "assistant", "content": text}


def make_file(kind, split, draw, used):
    """The rows of one file with their problems: exact level counts, the families of a level taken in turn."""
    rows = []
    for level, share in LEVELS[kind].items():
        families = [f for f in FAMILIES if f["level"] == level]
        wanted, turn = round(share * ROWS[kind][split]), []
        while wanted:
            turn = turn or draw.shuffled(families)
            problem = draw_problem(draw, turn.pop(), used)
            if problem is None:
                continue
            row = ROW_OF[kind](draw, problem)
            row.update(level=level, slice=problem["family"]["slice"], template=problem["family"]["name"])
            rows.append((row, problem))
            wanted -= 1
    return draw.shuffled(rows)


def make_all():
    """{file name: [(row, problem)...]}; the same at every call."""
    used, files = set(), {}
    for split in SPLITS:
        for kind in ROWS:
            draw = Draw(SEED + 10 * SPLITS.index(split) + list(ROWS).index(kind))
            files["%s_%s.jsonl" % (kind, split)] = make_file(kind, split, draw, used)
    return files


def overlap(files):
    """Number of problems that stand in more than one row, of (template, numbers) and of wordings."""
    problems = [p for rows in files.values() for _, p in rows]
    return len(problems) - len({p["key"] for p in problems}), len(problems) - len({p["question"] for p in problems})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "data"))
    output_dir = parser.parse_args().output_dir
    os.makedirs(output_dir, exist_ok=True)
    files = make_all()
    for name, rows in sorted(files.items()):
        with open(os.path.join(output_dir, name), "w", encoding="ascii", newline="\n") as out:
            out.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row, _ in rows)
        print("%-24s %5d rows %8d bytes" % (name, len(rows), os.path.getsize(os.path.join(output_dir, name))))
    print("overlap: %d problems, %d wordings in more than one row" % overlap(files))


if __name__ == "__main__":
    main()
