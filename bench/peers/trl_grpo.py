#!/usr/bin/env python3
"""One run of TRL's GRPOTrainer on a CPU in float32, as bench/run_peers.py times it: a whole process, prompts in file order, nothing saved.

usage: trl_grpo.py --model DIR --data prompts.jsonl --max_steps N [--batch_size 1] [--num_generations 8] [--max_completion_length 128] [--checkpointing] [--lora R]
batch_size counts prompts a step; the reward is 1 where the completion's last number is the row's answer. With several prompts the backward runs prompt by
prompt (gradient accumulation), the sampling for all of them at once.
Prints one JSON line at the end: losses, rewards, tokens, seconds in each step (for orientation; run_peers.py takes the wall clock of the process).
"""
import argparse
import json
import re
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_preferences import Clock


def last_number(completions, answer, **_):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    found = [re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", "")) for text in texts]
    return [1.0 if numbers and numbers[-1] == gold else 0.0 for numbers, gold in zip(found, answer)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=1, help="prompts a step")
    parser.add_argument("--max_length", type=int, default=512, help="not read: TRL's GRPO has no such limit")
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--max_completion_length", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-6)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, TRL's default")
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="train an adapter of rank R (alpha 2 R) on every linear but the head")
    a = parser.parse_args()
    with open(a.data) as file:
        rows = [json.loads(line) for line in file]
    adapter, clock = None, Clock()
    if a.lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=a.lora, lora_alpha=2 * a.lora, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(output_dir=folder, per_device_train_batch_size=a.num_generations, gradient_accumulation_steps=a.batch_size,
                                num_generations=a.num_generations, max_completion_length=a.max_completion_length, max_steps=a.max_steps,
                                learning_rate=a.learning_rate, lr_scheduler_type="constant", gradient_checkpointing=a.checkpointing,
                                shuffle_dataset=False, use_cpu=True, bf16=False, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, seed=0)
        trainer = trl.GRPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(a.model),
                                  reward_funcs=last_number, callbacks=[clock], peft_config=adapter)
        trainer.train()
    print(json.dumps({"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "losses": [round(float(log["loss"]), 5) for log in clock.logs], "margins": [log.get("reward") for log in clock.logs],
                      "num_tokens": clock.logs[-1].get("num_tokens"), "completion_length": [log.get("completions/mean_length") for log in clock.logs],
                      "step_s": clock.seconds}))


if __name__ == "__main__":
    main()
