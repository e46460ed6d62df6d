#!/usr/bin/env python3
"""One run of TRL's DPOTrainer or RewardTrainer on a CPU in float32, as bench/run_peers.py times it: a whole process, pairs in file order, nothing saved.

usage: trl_preferences.py dpo|reward --model DIR --data pairs.jsonl --max_steps N [--batch_size 4] [--max_length 512] [--checkpointing] [--lora R]
Prints one JSON line at the end: losses, rewards/margins or margin, seconds in each step (for orientation; run_peers.py takes the wall clock of the process).
"""
import argparse
import json
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback


class Clock(TrainerCallback):
    def __init__(self):
        self.seconds, self.logs = [], []

    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(round(time.perf_counter() - self.start, 3))

    def on_log(self, _args, _state, _control, logs=None, **__):
        if "loss" in logs:
            self.logs.append(logs)


def trainer_of(technique, a, options, rows, clock):
    adapter, tokenizer = None, AutoTokenizer.from_pretrained(a.model)
    if a.lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=a.lora, lora_alpha=2 * a.lora, lora_dropout=0.0, target_modules="all-linear",
                             task_type="CAUSAL_LM" if technique == "dpo" else "SEQ_CLS")
    if technique == "dpo":
        model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
        config, kind = trl.DPOConfig(**options), trl.DPOTrainer
    else:
        model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=1, dtype=torch.float32)
        config, kind = trl.RewardConfig(**options), trl.RewardTrainer
    return kind(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock], peft_config=adapter)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("technique", choices=["dpo", "reward"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, TRL's default")
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="train an adapter of rank R (alpha 2 R) on every linear but the head")
    a = parser.parse_args()
    with open(a.data) as file:
        rows = [json.loads(line) for line in file]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        options = dict(output_dir=folder, per_device_train_batch_size=a.batch_size, gradient_accumulation_steps=1, max_steps=a.max_steps,
                       max_length=a.max_length, learning_rate=a.learning_rate, lr_scheduler_type="constant", gradient_checkpointing=a.checkpointing,
                       train_sampling_strategy="sequential", use_cpu=True, bf16=False, logging_steps=1, report_to=[], save_strategy="no",
                       disable_tqdm=True, seed=0)
        trainer_of(a.technique, a, options, rows, clock).train()
    margin = "rewards/margins" if a.technique == "dpo" else "margin"
    print(json.dumps({"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "losses": [round(float(log["loss"]), 5) for log in clock.logs], "margins": [round(float(log.get(margin, 0)), 5) for log in clock.logs],
                      "step_s": clock.seconds}))


if __name__ == "__main__":
    main()
