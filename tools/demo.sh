#!/usr/bin/env bash
# The demonstration: SFT of the default model on the shipped word problems, held-out loss and a few answers before and after.
# Takes about three minutes on two cores after the build. DEMO_STEPS and DEMO_DIR change its length and its folder.
set -euo pipefail
cd "$(dirname "$0")/.."
hone=build/hone
model=models/SmolLM2-135M-Instruct.gguf
run=${DEMO_DIR:-runs/demo}
steps=${DEMO_STEPS:-48}
rows=examples/data

answers() {  # MODEL: greedy answers to three held-out problems
  sed -n '3p;57p;204p' $rows/prompts_test.jsonl | "$hone" sample --model "$1" --temperature 0 --max_new_tokens 96 --format text
}
held_out() {  # MODEL: loss and token accuracy on 100 held-out demonstrations
  "$hone" eval --model "$1" --data "$run/held_out.jsonl"
}

[ ! -e "$run" ] || [ -e "$run/held_out.jsonl" ] || { echo "demo: $run exists and is no folder of this demonstration; DEMO_DIR names another" >&2; exit 2; }
rm -rf "$run"
mkdir -p "$run"
head -n 100 $rows/sft_test.jsonl > "$run/held_out.jsonl"

echo "== before: $model"
held_out "$model" | tee "$run/before.txt"
answers "$model"
echo
echo "== hone sft: $steps steps of 8 demonstrations"
"$hone" sft --model "$model" --data $rows/sft_train.jsonl --output_dir "$run/sft" --max_steps "$steps" --learning_rate 2e-4 --warmup_steps 4 \
  --logging_steps 8 --save_steps 0
echo
echo "== after: $run/sft/model"
held_out "$run/sft/model" | tee "$run/after.txt"
answers "$run/sft/model"
echo
loss() { awk '$1 == "eval_loss" {print $2}' "$1"; }
echo "held-out loss: $(loss "$run/before.txt") before, $(loss "$run/after.txt") after"
echo "results: $run/sft (metrics.jsonl, summary.json, run.yaml), the tuned model: $run/sft/model"
awk -v before="$(loss "$run/before.txt")" -v after="$(loss "$run/after.txt")" 'BEGIN { exit !(after < before) }' \
  || { echo "demo: the held-out loss did not fall" >&2; exit 1; }
