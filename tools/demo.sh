#!/usr/bin/env bash
# The demonstration: SFT of the default model on the shipped word problems, then GRPO with the math verifier, and after each what share of
# held-out problems the model solves (pass@1), with a few of its answers. Meant to take at most eight minutes on two cores after the build.
# DEMO_STEPS, DEMO_GRPO_STEPS, DEMO_PROMPTS and DEMO_DIR change the lengths of its parts and its folder.
set -euo pipefail
cd "$(dirname "$0")/.."
hone=build/hone
model=models/SmolLM2-135M-Instruct.gguf
run=${DEMO_DIR:-runs/demo}
sft_steps=${DEMO_STEPS:-64}
grpo_steps=${DEMO_GRPO_STEPS:-20}
prompts=${DEMO_PROMPTS:-120}
rows=examples/data

answers() {  # MODEL: greedy answers to two held-out problems
  sed -n '3p;5p' $rows/prompts_test.jsonl | "$hone" sample --model "$1" --temperature 0 --max_new_tokens 96 --format text
}
held_out() {  # MODEL NAME: one sampled answer to each held-out problem
  "$hone" eval --model "$1" --data "$run/held_out.jsonl" --reward math --max_new_tokens 64 --output "$run/$2.json"
  python3 -c 'import json, sys; e = json.load(open(sys.argv[1])); print("pass@1 {:.1f} % ({:.1f} to {:.1f}), {:.0f} tokens an answer".format(
      *(100 * e["pass@1" + k] for k in ("", "_low", "_high")), e["mean_length"]))' "$run/$2.json"
}
pass_at_1() { python3 -c 'import json, sys; print("{:.1f}".format(100 * json.load(open(sys.argv[1]))["pass@1"]))' "$run/$1.json"; }

[ ! -e "$run" ] || [ -e "$run/held_out.jsonl" ] || { echo "demo: $run exists and is no folder of this demonstration; DEMO_DIR names another" >&2; exit 2; }
rm -rf "$run"
mkdir -p "$run"
head -n "$prompts" $rows/prompts_test.jsonl > "$run/held_out.jsonl"

echo "== before: $model on $prompts held-out problems"
held_out "$model" before
answers "$model"
echo
echo "== hone sft: $sft_steps steps of 8 demonstrations"
"$hone" sft --model "$model" --data $rows/sft_train.jsonl --output_dir "$run/sft" --max_steps "$sft_steps" --learning_rate 2e-4 --warmup_steps 4 \
  --logging_steps 8 --save_steps 0
held_out "$run/sft/model" sft
answers "$run/sft/model"
echo
echo "== hone grpo: $grpo_steps steps of 8 problems x 8 answers, judged by --reward math"
"$hone" grpo --model "$run/sft/model" --data $rows/prompts_train.jsonl --reward math --output_dir "$run/grpo" --max_steps "$grpo_steps" \
  --learning_rate 2e-5 --warmup_steps 5 --lr_scheduler_type constant --max_completion_length 64 --logging_steps 5 --save_steps 0
held_out "$run/grpo/model" grpo
answers "$run/grpo/model"
echo
echo "held-out pass@1: $(pass_at_1 before) % before, $(pass_at_1 sft) % after SFT, $(pass_at_1 grpo) % after GRPO"
echo "results: $run/sft and $run/grpo (metrics.jsonl, completions.jsonl, summary.json, run.yaml), the tuned model: $run/grpo/model"
python3 - "$run" <<'PY' || { echo "demo: the held-out pass@1 did not rise" >&2; exit 1; }
import json, sys
before, sft, grpo = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("before", "sft", "grpo"))
# GRPO may be unlucky with so few problems: it must not fall out of the interval that SFT was measured with
sys.exit(not (before["pass@1"] < sft["pass@1"] and grpo["pass@1"] >= sft["pass@1_low"]))
PY
