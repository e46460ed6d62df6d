#!/usr/bin/env python3
"""Writes the rows of the side-by-side benchmark and counts their tokens once, for both sides.

usage: prepare_rows.py --tokenizer DIR --rows N --max_length L --out rows.jsonl [--data FILE] [--kind rows|pairs|prompts]

Without --data: the GSM8K training questions as {"prompt": [user], "completion": [assistant]}, calculator marks removed, where the folder named by
HONE_SHARED (or ../shared) has them; else examples/data. Prompts: the same questions with their answers. Pairs: right against wrong model solutions of GSM8K, else the pairs of examples/data;
their tokens are those of both sequences. A row longer than max_length is left out, because one side would drop it and the other cut it.
Prints {"rows": [tokens of every row], "source": FILE}.
"""
import argparse
import json
import os
import pathlib
import re
import sys

from transformers import AutoTokenizer, logging

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def gsm8k(path):
    with open(path) as file:
        for line in file:
            row = json.loads(line)
            yield {"prompt": [{"role": "user", "content": row["question"]}],
                   "completion": [{"role": "assistant", "content": re.sub(r"<<.*?>>", "", row["answer"])}]}


def gsm8k_pairs(path):
    def answer(text):
        return [{"role": "assistant", "content": re.sub(r"<<.*?>>", "", text)}]
    with open(path) as file:
        for row in map(json.loads, file):
            solutions = [value for value in row.values() if isinstance(value, dict)]
            right = [s["solution"] for s in solutions if s["is_correct"]] or [row["ground_truth"]]
            wrong = [s["solution"] for s in solutions if not s["is_correct"]]
            if wrong:
                yield {"prompt": [{"role": "user", "content": row["question"]}], "chosen": answer(right[0]), "rejected": answer(wrong[0])}


def gsm8k_prompts(path):
    with open(path) as file:
        for line in file:
            row = json.loads(line)
            yield {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"].split("####")[1].strip().replace(",", "")}


def plain(path):
    with open(path) as file:
        yield from (json.loads(line) for line in file)


def choose(data, kind):
    """(rows, where they come from): the file named, else GSM8K, else the project's own rows."""
    if data:
        return plain(data), data
    name, read = {"pairs": ("model_solutions_dev.jsonl", gsm8k_pairs), "prompts": ("train.jsonl", gsm8k_prompts), "rows": ("train.jsonl", gsm8k)}[kind]
    shared = pathlib.Path(os.environ.get("HONE_SHARED", ROOT.parent / "shared")) / "data" / "gsm8k" / name
    if shared.exists():
        return read(shared), f"gsm8k/{name}"
    if kind != "rows":
        own = ROOT / "examples" / "data" / ("preference_train.jsonl" if kind == "pairs" else "prompts_train.jsonl")
        return plain(own), own.name
    own = sorted((ROOT / "examples" / "data").glob("*sft*train*.jsonl")) + sorted((ROOT / "examples" / "data").glob("*train*sft*.jsonl"))
    if not own:
        sys.exit("no rows: neither HONE_SHARED/data/gsm8k/train.jsonl nor examples/data/*sft*train*.jsonl is there; name a file with --data")
    return plain(own[0]), own[0].name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--max_length", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--data")
    parser.add_argument("--kind", choices=["rows", "pairs", "prompts"], default="rows")
    a = parser.parse_args()
    logging.set_verbosity_error()
    tokenizer, counts = AutoTokenizer.from_pretrained(a.tokenizer), []
    rows, source = choose(a.data, a.kind)
    with open(a.out, "w") as out:
        for row in rows:
            if a.kind == "pairs":
                sides = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
            elif a.kind == "prompts":
                sides = [row["prompt"]]
            else:
                sides = [row["messages"] if "messages" in row else row["prompt"] + row["completion"]]
            lengths = [len(tokenizer.apply_chat_template(side, return_dict=True)["input_ids"]) for side in sides]
            if max(lengths) <= a.max_length:
                out.write(json.dumps(row) + "\n")
                counts.append(sum(lengths))
            if len(counts) == a.rows:
                break
    if len(counts) < a.rows:
        sys.exit(f"{source} has only {len(counts)} rows of at most {a.max_length} tokens; {a.rows} are needed")
    print(json.dumps({"rows": counts, "source": str(source)}))


if __name__ == "__main__":
    main()
