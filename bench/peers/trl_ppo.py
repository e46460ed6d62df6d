#!/usr/bin/env python3
"""One run of TRL 1.12's PPOTrainer (its last) on a CPU in float32, as bench/run_peers.py times it: a whole process, one update a rollout, nothing saved.

usage: trl_ppo.py --trl DIR --model DIR --reward_model DIR --data prompts.jsonl --max_steps N [--batch_size 4] [--max_completion_length 128] [--checkpointing]
                  [--lora R]
DIR of --trl holds trl 1.12.0 (pip install --no-deps --target DIR trl==1.12.0); everything else is of bench/peers/requirements.txt. Value and reward model
start from --reward_model. TRL shuffles the prompts. Prints one JSON line at the end: losses, objective/scores (as margins) and objective/kl of every
rollout, seconds of each (for orientation; run_peers.py takes the wall clock of the process).
"""
import argparse
import copy
import json
import sys
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("trl", "model", "reward_model", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=4, help="prompts a step, one completion each")
    parser.add_argument("--max_length", type=int, default=512, help="not read: TRL's PPO has no such limit")
    parser.add_argument("--max_completion_length", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, TRL's default")
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="train an adapter of rank R (alpha 2 R) on every linear but the head; the value model is trained whole")
    a = parser.parse_args()
    sys.path.insert(0, a.trl)
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer
    with open(a.data) as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    adapter = None
    if a.lora:
        from peft import LoraConfig
        adapter = LoraConfig(r=a.lora, lora_alpha=2 * a.lora, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(a.model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    reward, value = (AutoModelForSequenceClassification.from_pretrained(a.reward_model, num_labels=1, dtype=torch.float32) for _ in range(2))
    rows = Dataset.from_list([{"input_ids": tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=True)["input_ids"]} for p in prompts])
    seconds, logs = [time.perf_counter()], []
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(output_dir=folder, per_device_train_batch_size=a.batch_size, gradient_accumulation_steps=1, total_episodes=a.max_steps * a.batch_size,
                           num_ppo_epochs=1, num_mini_batches=1, num_sample_generations=0, response_length=a.max_completion_length, temperature=1.0,
                           stop_token="eos", learning_rate=a.learning_rate, lr_scheduler_type="constant", gradient_checkpointing=a.checkpointing, use_cpu=True,
                           bf16=False, logging_steps=1, report_to=[], save_strategy="no", seed=0)
        trainer = PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=None if a.lora else copy.deepcopy(policy), reward_model=reward,
                             value_model=value, train_dataset=rows, eval_dataset=rows.select(range(2)), peft_config=adapter)
        trainer.log = lambda metrics, *_, **__: (logs.append(metrics), seconds.append(time.perf_counter()))
        out, sys.stdout = sys.stdout, sys.stderr  # the trainer prints as it goes
        trainer.train()
        sys.stdout = out
    print(json.dumps({"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "losses": [round(float(log["loss/policy_avg"] + config.vf_coef * log["loss/value_avg"]), 5) for log in logs],
                      "scores": [log["objective/scores"] for log in logs], "kl": [log["objective/kl"] for log in logs],
                      "step_s": [round(b - c, 3) for b, c in zip(seconds[1:], seconds)]}))


if __name__ == "__main__":
    main()
