#!/usr/bin/env python3
"""Writes the rows of the side-by-side benchmark and counts their tokens once, for both sides.

usage: prepare_rows.py --tokenizer DIR --rows N --max_length L --out rows.jsonl [--data FILE]

Without --data: the GSM8K training questions as {"prompt": [user], "completion": [assistant]}, calculator marks removed, where the folder named by
HONE_SHARED (or ../shared) has them; else examples/data. A row longer than max_length is left out, because one side would drop it and the other cut it.
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


def plain(path):
    with open(path) as file:
        yield from (json.loads(line) for line in file)


def choose(data):
    """(rows, where they come from): the file named, else GSM8K, else the project's own demonstrations."""
    if data:
        return plain(data), data
    shared = pathlib.Path(os.environ.get("HONE_SHARED", ROOT.parent / "shared")) / "data" / "gsm8k" / "train.jsonl"
    if shared.exists():
        return gsm8k(shared), "gsm8k/train.jsonl"
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
    a = parser.parse_args()
    logging.set_verbosity_error()
    tokenizer, counts = AutoTokenizer.from_pretrained(a.tokenizer), []
    rows, source = choose(a.data)
    with open(a.out, "w") as out:
        for row in rows:
            messages = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
            count = len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
            if count <= a.max_length:
                out.write(json.dumps(row) + "\n")
                counts.append(count)
            if len(counts) == a.rows:
                break
    if len(counts) < a.rows:
        sys.exit(f"{source} has only {len(counts)} rows of at most {a.max_length} tokens; {a.rows} are needed")
    print(json.dumps({"rows": counts, "source": str(source)}))


if __name__ == "__main__":
    main()
