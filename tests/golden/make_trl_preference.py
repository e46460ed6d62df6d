#!/usr/bin/env python3
"""Writes tests/golden/trl_preference: what TRL's DPOTrainer makes of preference rows, with the tokenizer of the golden model "chat".

usage: make_trl_preference.py      (needs tests/peers/requirements.txt and tests/golden/models/chat)

  rows.jsonl      preference rows: conversational and plain, with an explicit and an implicit prompt, with a system message, of several turns
  tokens.jsonl    for each the {"prompt_ids", "chosen_ids", "rejected_ids"} of TRL

Two departures are ours on purpose: the newline that the template puts behind the end-of-turn token is not part of a completion, and plain text
is tokenised apart at the end of the prompt (the rows of this file end their prompts where no token straddles the border, so that both agree).
"""
import json
import pathlib
import tempfile

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

HERE = pathlib.Path(__file__).resolve().parent
MODEL, OUT = HERE / "models" / "chat", HERE / "trl_preference"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def rows():
    """Lists of rows of the project's own; a list has the same columns throughout, because TRL looks at its first row only."""
    talk = [user("What is 3 + 4?"), assistant("3 + 4 = 7."), user("And with 2 more?")]
    system = {"role": "system", "content": "Answer with care."}
    yield [{"prompt": [user("How many legs has a cat?")], "chosen": [assistant("Four.")], "rejected": [assistant("Four legs, I think.")]},
           {"prompt": talk, "chosen": [assistant("9")], "rejected": [assistant("8")]},
           {"prompt": [system, user("Name a colour.")], "chosen": [assistant("Red, as a rose.")], "rejected": [assistant("Red, as\n\na brick.")]},
           {"prompt": [user("Greet me.")], "chosen": [assistant("Grüß dich 🙂")], "rejected": [assistant(" hello ")]}]
    yield [{"chosen": talk + [assistant("9")], "rejected": talk + [assistant("It is 10.")]},
           {"chosen": [system, user("x"), assistant("y")], "rejected": [system, user("x"), assistant("z z z")]}]
    yield [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green, at times."},
           {"prompt": "Two and two make", "chosen": " four", "rejected": " five\n"},
           {"prompt": "Question: why?\nAnswer:", "chosen": " because", "rejected": " who knows"}]
    yield [{"chosen": "The sun is warm.", "rejected": "The sun is cold and far."}]


def main():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open(OUT / "rows.jsonl", "w") as given, open(OUT / "tokens.jsonl", "w") as wanted:
        for part in rows():
            args = DPOConfig(folder, report_to=[], use_cpu=True, bf16=False, max_length=None, remove_unused_columns=True)
            trainer = DPOTrainer(AutoModelForCausalLM.from_pretrained(MODEL), args=args, train_dataset=Dataset.from_list(part), processing_class=tokenizer)
            for row, tokens in zip(part, trainer.train_dataset, strict=True):
                given.write(json.dumps(row) + "\n")
                wanted.write(json.dumps({k: tokens[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")}) + "\n")


if __name__ == "__main__":
    main()
