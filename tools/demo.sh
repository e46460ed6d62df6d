#!/usr/bin/env bash
# make demo: fine-tunes the default model on the example demonstrations (at most 5 minutes), held-out loss and a few answers before and after.
set -euo pipefail
cd "$(dirname "$0")/.."
hone=build/hone
model=models/SmolLM2-135M-Instruct.gguf
data=examples/data
number=1
while [ -e "$(printf 'runs/demo-%03d' $number)" ]; do number=$((number + 1)); done
run=$(printf 'runs/demo-%03d' $number)
mkdir -p "$run"
questions=$run/questions.jsonl
held_out=$run/held_out.jsonl
head -n 4 $data/prompts_test.jsonl >"$questions"
head -n 64 $data/sft_test.jsonl >"$held_out"

answers() { # answers MODEL FILE
  $hone sample --model "$1" --file "$questions" --format jsonl --temperature 0 --max_new_tokens 96 --output "$2"
}

$hone eval --model $model --data "$held_out" --format json >"$run/eval_before.json"
answers $model "$run/answers_before.jsonl"
$hone sft --model $model --data $data/sft_train.jsonl --output_dir "$run/sft" --batch_size 16 --learning_rate 2e-4 --lr_scheduler_type cosine \
  --warmup_steps 4 --max_steps 60 --logging_steps 5 --max_time 4m
$hone eval --model "$run/sft/model" --data "$held_out" --format json >"$run/eval_after.json"
answers "$run/sft/model" "$run/answers_after.jsonl"

python3 - "$run" <<'PY'
import json, sys
run = sys.argv[1]
before, after = ([json.loads(line) for line in open(f"{run}/answers_{when}.jsonl")] for when in ("before", "after"))
for old, new in zip(before, after):
    print("\nquestion:", old["prompt"][-1]["content"], f"(answer: {old['answer']})")
    for name, row in (("before", old), ("after", new)):
        print(f"  {name + ':':8}" + row["completions"][0]["text"].replace("<|im_end|>", "").strip().replace("\n", "\n          "))
print("\nheld-out rows             before   after")
values = [json.load(open(f"{run}/eval_{when}.json")) for when in ("before", "after")]
for key, name in (("eval_loss", "loss"), ("eval_mean_token_accuracy", "token accuracy")):
    print(f"  {name:22}" + "".join(f"{value[key]:8.3f}" for value in values))
print(f"\nthe fine-tuned model: {run}/sft/model   the run: {run}/sft   talk to it: build/hone sample --model {run}/sft/model --prompt \"...\"")
PY
