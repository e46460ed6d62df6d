"""The math verifier beside math-verify, TRL's: on pairs of answers both give the same verdict, or the difference stands in a table with its reason."""
import json
import os
import pathlib
import re

import pytest
from conftest import ROOT, run_hone
from math_verify import parse, verify

# (gold, answer): equal in other notations, then not equal. Every entry is judged by both.
PAIRS = [
    ("1/2", r"\frac{1}{2}"), ("1/2", r"\dfrac12"), ("0.5", r"\frac{1}{2}"), (r"\frac{3}{4}", "0.75"), ("12", "12.0"), ("1,000", "1000"), ("-3", "-3"),
    (r"\sqrt{2}", r"\sqrt2"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\pi", r"\pi"), (r"2\pi", r"\pi\cdot 2"), ("x+1", "1+x"), ("(x+1)^2", "x^2+2x+1"), ("2x", r"x\cdot 2"),
    (r"\frac{x+1}{2}", r"\frac{x}{2}+\frac{1}{2}"), ("(1,2)", "(1, 2)"), ("[0,1)", "[0, 1)"), (r"\{1,2,3\}", r"\{3,2,1\}"), (r"(-\infty,2)", r"(-\infty, 2)"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"), ("2^{10}", "1024"), ("10^{-2}", "0.01"), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\log_2 8", "3"), ("3!", "6"), (r"50\%", "50"), ("x=5", "5"), (r"\frac{10}{4}", "2.5"), ("7", "7"), ("2+3i", "3i+2"),
    ("1/2", "1/3"), ("12", "13"), (r"\sqrt{2}", r"\sqrt{3}"), ("x+1", "x-1"), ("(1,2)", "(2,1)"), ("[0,1)", "(0,1]"), (r"\{1,2,3\}", r"\{1,2\}"), ("7", "-7"), (r"\pi", "3"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 4 & 3 \end{pmatrix}"), ("0.333", r"\frac{1}{3}"), ("1000", "100"), ("x^2", "2x"), ("2^{10}", "20"),
]
# Where hone differs, and why it is right to.
DIFFERENT = {}


def peer(gold, answer):
    return verify(parse(f"${gold}$"), parse(f"$\\boxed{{{answer}}}$"))


def ours(pairs):
    out = run_hone("grade", "--reward", "math", rows=[{"completion": f"So it is $\\boxed{{{answer}}}$.", "answer": gold} for gold, answer in pairs])
    return [json.loads(line)["verdict"] for line in out.split("\n") if line]


def test_pairs():
    wrong = {}
    for pair, verdict in zip(PAIRS, ours(PAIRS), strict=True):
        if verdict != DIFFERENT.get(pair, ["right" if peer(*pair) else "wrong"])[0]:
            wrong[pair] = (verdict, peer(*pair))
    assert not wrong


def golds():
    path = pathlib.Path(os.environ.get("HONE_SHARED", ROOT.parent / "shared")) / "data" / "math" / "dev.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    for line in path.read_text().splitlines()[:400]:
        text = json.loads(line)["solution"]
        start = text.rindex(r"\boxed{") + 7
        depth, end = 1, start
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield text[start:end - 1]


def test_golds_of_math():
    """Each gold answer beside the next one's and beside itself in another notation: where the two programs differ, hone must not be the one that is wrong."""
    answers = list(golds())
    pairs = [(a, b) for a, b in zip(answers, answers[1:])] + [(a, re.sub(r"\\d?frac", r"\\tfrac", a)) for a in answers]
    same = [a == b for a, b in zip(answers, answers[1:])] + [True] * len(answers)
    verdicts = ours(pairs)
    # no gold equals itself less often than with the peer
    missed = [pair for pair, verdict, equal in zip(pairs, verdicts, same) if equal and verdict != "right"]
    assert not missed
    differ = [(pair, verdict) for pair, verdict, equal in zip(pairs, verdicts, same) if not equal and (verdict == "right") != peer(*pair)]
    assert not differ
