#!/usr/bin/env python3
"""One SFT run of TRL on a CPU in float32, as bench/run_peers.py times it: a whole process, rows in file order, nothing saved.

usage: trl_sft.py --model DIR --data rows.jsonl --max_steps N [--batch_size 8] [--max_length 512] [--checkpointing] [--bf16] [--lora R [--qlora]]
Prints one JSON line at the end: losses, real tokens, seconds in each step (for orientation; run_peers.py takes the wall clock of the process).
"""
import argparse
import json
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, TRL's default")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 weights: faster only on a CPU with AVX512-BF16")
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="train an adapter of rank R (alpha 2 R) on every linear but the head")
    parser.add_argument("--qlora", action="store_true", help="with the base in NF4, double quantisation")
    a = parser.parse_args()
    with open(a.data) as file:
        rows = [json.loads(line) for line in file]
    dtype, adapter, storage = torch.bfloat16 if a.bf16 else torch.float32, None, {}
    if a.lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=a.lora, lora_alpha=2 * a.lora, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    if a.qlora:
        from transformers import BitsAndBytesConfig
        storage["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                            bnb_4bit_compute_dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, **storage)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(output_dir=folder, per_device_train_batch_size=a.batch_size, gradient_accumulation_steps=1, max_steps=a.max_steps,
                           max_length=a.max_length, packing=False, learning_rate=a.learning_rate, lr_scheduler_type="constant",
                           gradient_checkpointing=a.checkpointing, train_sampling_strategy="sequential", use_cpu=True, bf16=False, logging_steps=1,
                           report_to=[], save_strategy="no", disable_tqdm=True, seed=0)
        trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(a.model),
                             callbacks=[clock], peft_config=adapter)
        trainer.train()
    print(json.dumps({"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "num_tokens": clock.logs[-1]["num_tokens"], "losses": [round(float(log["loss"]), 5) for log in clock.logs], "step_s": clock.seconds}))


if __name__ == "__main__":
    main()
