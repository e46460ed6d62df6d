#!/usr/bin/env python3
"""Writes tests/golden/trl_sft: what TRL's SFTTrainer does in 5 steps with the golden model "chat", given input_ids and labels.

usage: make_trl_sft.py      (needs tests/peers/requirements.txt and tests/golden/models/chat)

  messages.jsonl      20 rows {"messages"}: what `hone sft` reads
  rows.jsonl          the same rows as {"input_ids", "labels"}: what TRL is given, and what `hone inspect` must make of messages.jsonl.
                      Trained: from behind the generation prompt up to and including the end-of-turn token, not the newline behind it.
  trajectory.json     {"runs": {NAME: {"config": {...}, "steps": [{step, loss, grad_norm, learning_rate, mean_token_accuracy, entropy, num_tokens}]}}}
                      in_order   rows 0-3, 4-7, ... , linear schedule, weight decay 0.01 (skips norms), gradients clipped to norm 1
                      one_batch  rows 0-3 at every step (so that no order of the rows matters), constant schedule, weight decay 0.01, clipped to norm 1
                      cosine     rows in order, cosine schedule with 2 warm-up steps, no decay, clipped to norm 0.5
                      learning_rate is the rate that the step's update used; TRL logs the same.
  in_order.safetensors, one_batch.safetensors      the weights after the fifth step

How exact it is: the same runs with a float64 model differ from these by at most 5e-7 in loss and entropy, 3e-7 (relative) in grad_norm and 3e-7 in a
weight (weights are up to 1.4). A tolerance of 1e-5 for the figures and 2e-6 for the weights leaves room for another order of sums and no more.
"""
import json
import pathlib
import sys
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).resolve().parent
MODEL, OUT = HERE / "models" / "chat", HERE / "trl_sft"
RUNS = {
    "in_order": dict(rows=20, learning_rate=5e-3, lr_scheduler_type="linear", weight_decay=0.01, max_grad_norm=1.0, warmup_steps=0),
    "one_batch": dict(rows=4, learning_rate=5e-3, lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0, warmup_steps=0),
    "cosine": dict(rows=20, learning_rate=2e-3, lr_scheduler_type="cosine", weight_decay=0.0, max_grad_norm=0.5, warmup_steps=2),
}
BATCH, STEPS = 4, 5


def conversations():
    """20 short conversations of the project's own: one or two turns, with and without a system message, of different lengths."""
    names, things = ["Anna", "Bo", "Carl", "Dee"], ["apples", "books", "cups", "coins", "seeds"]
    for i in range(20):
        a, b, who, what = 3 + 7 * i % 23, 2 + 5 * i % 11, names[i % 4], things[i % 5]
        messages = [{"role": "user", "content": f"{who} has {a} {what} and buys {b} more. How many?"},
                    {"role": "assistant", "content": f"{a} + {b} = {a + b}. {who} has {a + b} {what}."}]
        if i % 3 == 1:
            messages += [{"role": "user", "content": f"And if {b} are lost?"}, {"role": "assistant", "content": f"{a}."}]
        if i % 4 == 2:
            messages.insert(0, {"role": "system", "content": "Answer with care."})
        yield messages


def tokenize(tokenizer, messages):
    """ids of the whole rendering, and labels for the assistant's turns without the newline that the template puts behind them."""
    text, spans, header = tokenizer.apply_chat_template(messages, tokenize=False), [], "<|im_start|>assistant\n"
    start = text.find(header)
    while start >= 0:
        begin = start + len(header)
        end = text.index("<|im_end|>", begin) + len("<|im_end|>")
        spans.append((begin, end))
        start = text.find(header, end)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    trained = [any(begin <= s and e <= end for begin, end in spans) for s, e in encoded["offset_mapping"]]
    return {"input_ids": encoded["input_ids"], "labels": [i if t else -100 for i, t in zip(encoded["input_ids"], trained)]}


class Recorder(TrainerCallback):
    """Keeps what the trainer logs, and the rate that stands in the optimizer when a step begins."""

    def __init__(self):
        self.rates, self.logs = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.logs.append({"step": state.global_step, **logs})


class Trainer(SFTTrainer):
    """Keeps the loss of every step as it is, before logging rounds it."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.__dict__.setdefault("losses", []).append(loss.item())
        return loss


def train(rows, options, model_dir=MODEL, dtype=torch.float32):
    """(steps, state dict) of one run of TRL on rows {"input_ids", "labels"}, taken in order, BATCH a step."""
    options = dict(options)
    rows = rows[:options.pop("rows")]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, max_steps=STEPS, per_device_train_batch_size=BATCH, gradient_accumulation_steps=1,
                           gradient_checkpointing=False, max_length=256, packing=False, shuffle_dataset=False, train_sampling_strategy="sequential", seed=0,
                           logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, **options)
        trainer = Trainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[recorder])
        trainer.train()
    steps = []
    for log, rate, loss in zip(recorder.logs, recorder.rates, trainer.losses, strict=True):
        assert abs(log["loss"] - loss) < 1e-4 and abs(log["learning_rate"] - rate) < 1e-9, (log, rate, loss)
        steps.append({"step": log["step"], "loss": loss, "grad_norm": float(log["grad_norm"]), "learning_rate": rate,
                      **{k: log[k] for k in ("mean_token_accuracy", "entropy", "num_tokens")}})
    assert len(steps) == STEPS
    state = {k: v.detach().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight" or not model.config.tie_word_embeddings}
    return steps, state


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    OUT.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    talks = list(conversations())
    rows = [tokenize(tokenizer, messages) for messages in talks]
    (OUT / "messages.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in talks))
    (OUT / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__, "batch_size": BATCH, "runs": {}}
    for name, options in RUNS.items():
        steps, state = train(rows, options)
        result["runs"][name] = {"config": options, "steps": steps}
        if name != "cosine":
            save_file(state, OUT / f"{name}.safetensors", metadata={"format": "pt"})
            (OUT / f"{name}.safetensors").chmod(0o644)
        for step in steps:
            print(name, step)
    (OUT / "trajectory.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
