#!/usr/bin/env python3
"""Times hone and TRL (+ PEFT + bitsandbytes) in turn on the same rows: SFT, DPO, reward models and GRPO, full, LoRA and QLoRA, of the default model, float32,
whole processes.
Standard library only.

usage: run_peers.py [--peer_python PYTHON] [--model FILE.gguf] [--output results.json] [--repeats 3] [--steps 12 6] [--techniques sft lora qlora qlora_gguf dpo dpo_lora reward grpo grpo_lora] [--contenders hone trl ...]

Each contender runs with `long` steps on a file of exactly long x batch_size rows and with `short` steps on its first short x batch_size rows, rows in
file order on both sides. Seconds a step = (wall long - wall short) / (long - short), so that start-up and saving fall out; tokens are the real tokens of
the rows that only the long run reads, for GRPO those that the run itself counted (prompts and what was sampled: each side samples its own). Peak memory is the high-water mark of that one child (wait4), of the long run. Contenders alternate, the order turns
round at every repeat, and medians are reported. Each of speed and memory is compared with the better of the peer's settings.
PYTHON needs bench/peers/requirements.txt (default: $HONE_PEER_PYTHON, else this interpreter).
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
CONTENDERS = ("hone", "trl", "trl_checkpointing")
# hone's words and the peer's for each technique; r = 16, alpha = 32 on every linear but the head
TECHNIQUES = {"sft": (["sft"], ["trl_sft.py"]), "lora": (["sft", "--use_peft"], ["trl_sft.py", "--lora", "16"]),
              "qlora": (["sft", "--load_in_4bit"], ["trl_sft.py", "--lora", "16", "--qlora"]), "dpo": (["dpo"], ["trl_preferences.py", "dpo"]),
              "dpo_lora": (["dpo", "--use_peft"], ["trl_preferences.py", "dpo", "--lora", "16"]), "reward": (["reward"], ["trl_preferences.py", "reward"]),
              "qlora_gguf": (["sft", "--load_in_4bit", "--bnb_4bit_quant_type", "gguf"], ["trl_sft.py", "--lora", "16", "--qlora"])}
GRPO = ["grpo", "--reward", "math", "--num_generations", "8", "--max_completion_length", "128", "--skip_zero_advantage", "false"]
PPO = ["ppo", "--num_generations", "1", "--num_ppo_epochs", "1", "--num_mini_batches", "1", "--max_completion_length", "128"]
TECHNIQUES |= {"ppo": (PPO, ["trl_ppo.py"]), "ppo_8bit": (PPO + ["--optim", "adamw_8bit"], ["trl_ppo.py"]), "ppo_lora": (PPO + ["--use_peft"], ["trl_ppo.py", "--lora", "16"])}
TECHNIQUES |= {"grpo": (GRPO, ["trl_grpo.py"]), "grpo_skip": (GRPO[:-2], ["trl_grpo.py"]), "grpo_lora": (GRPO + ["--use_peft"], ["trl_grpo.py", "--lora", "16"])}
PAIRS = ("dpo", "dpo_lora", "reward")  # their rows are pairs: run them with --batch_size 4
PROMPTS = ("grpo", "grpo_skip", "grpo_lora", "ppo", "ppo_8bit", "ppo_lora")  # their rows are prompts with answers: of GRPO --batch_size 1 is 8 completions a step
SCORED = ("ppo", "ppo_8bit", "ppo_lora")  # have a reward model: run them with --batch_size 4


def rows_of(technique):
    return "pairs" if technique in PAIRS else "prompts" if technique in PROMPTS else "rows"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hone", default=str(ROOT / "build" / "hone"))
    parser.add_argument("--peer_python", default=os.environ.get("HONE_PEER_PYTHON", sys.executable))
    parser.add_argument("--model", default=str(ROOT / "models" / "SmolLM2-135M-Instruct.gguf"))
    parser.add_argument("--peer_model", default=str(ROOT / ".cache" / "peer_model"), help="where the model stands, or is made, for the peer")
    parser.add_argument("--ppo_peer", default=str(ROOT / ".deps" / "trl-1.12.0"), help="TRL's last release with PPO: tools/peers.sh ppo")
    parser.add_argument("--data", help="rows to use instead of GSM8K or examples/data")
    parser.add_argument("--output", default=str(ROOT / "build" / "bench" / "peers.json"))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--techniques", nargs="+", choices=TECHNIQUES, default=["sft"])
    parser.add_argument("--steps", nargs=2, type=int, default=[12, 6], metavar=("LONG", "SHORT"))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hone_flags", default="", help="further flags for hone, in one string, such as '--isa avx2'")
    a = parser.parse_args()
    if len({rows_of(technique) for technique in a.techniques}) > 1:
        parser.error("--techniques: rows, pairs and prompts are measured apart")
    if a.steps[0] <= a.steps[1] or a.steps[1] < 1:
        parser.error("--steps LONG SHORT: LONG must be greater than SHORT, and SHORT at least 1")
    return a


def cpu():
    """Processor, instruction sets and memory of this machine, as Linux tells them."""
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    isa = [name for name in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    memory = next(int(line.split()[1]) for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {"cpu": fields.get("model name", platform.machine()), "family_model": f"{fields.get('cpu family')}/{fields.get('model')}",
            "cores": len(os.sched_getaffinity(0)), "isa": isa, "memory_gib": round(memory / 2**20, 1), "kernel": platform.release()}


def timed(command, more={}):
    """(wall seconds, peak MiB, standard output) of one child; ends the program with the child's last words if it fails."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", **more)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        if child.returncode != 0:
            sys.exit(f"exit {child.returncode}: {' '.join(command)}\n{err.read().decode(errors='replace')[-2000:]}")
        return wall, usage.ru_maxrss / 1024, out.read().decode(errors="replace")


def run_hone(a, technique, rows, steps, folder):
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    (command, *flags), _ = TECHNIQUES[technique]
    if technique in SCORED:
        flags += ["--reward", f"model:{reward_model(a, technique, folder)}"]
    # an empty cache of its own: the time of the reference's forward is part of the step
    environment = {"HONE_CACHE": str(folder / "cache")}
    shutil.rmtree(folder / "cache", ignore_errors=True)
    wall, peak, _ = timed([a.hone, command, "--model", a.model, "--data", str(rows), "--output_dir", str(run), "--max_steps", str(steps), "--batch_size",
                           str(a.batch_size), "--max_length", str(a.max_length), "--dtype", "float32", "--shuffle_dataset", "false", "--learning_rate", "2e-5",
                           "--lr_scheduler_type", "constant", "--logging_steps", "1", "--save_steps", "0", *flags, *a.hone_flags.split()], environment)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    shutil.rmtree(run, ignore_errors=True)
    return {"wall_s": wall, "peak_mib": peak, "losses": [line["loss"] for line in trained],
            "margins": [line.get("rewards/margins", line.get("margin")) for line in trained],
            **({"scores": [line["objective/scores"] for line in trained], "kl": [line["objective/kl"] for line in trained]} if technique in SCORED else {}), "num_tokens": trained[-1]["num_tokens"],
            "step_s": [line["step_time"] for line in trained],
            **{key: [line[key] for line in trained] for key in ("time/sampling", "time/scoring", "time/training", "completions/mean_length") if key in trained[-1]}}


def run_trl(a, technique, rows, steps, checkpointing):
    script, *flags = TECHNIQUES[technique][1]
    if technique in SCORED:
        flags += ["--trl", a.ppo_peer, "--reward_model", f"{a.peer_model}_reward"]
    command = [a.peer_python, str(PEERS / script), *flags, "--model", a.peer_model, "--data", str(rows), "--max_steps", str(steps), "--batch_size",
               str(a.batch_size), "--max_length", str(a.max_length)] + ["--checkpointing"] * checkpointing
    wall, peak, out = timed(command)
    return {"wall_s": wall, "peak_mib": peak, **json.loads(out.strip().splitlines()[-1])}


def reward_model(a, technique, folder):
    """The reward model of hone's PPO: the peer's directory (a score head on the model), or for an adapter run an adapter on the same base, of one step."""
    if "--use_peft" not in TECHNIQUES[technique][0]:
        return f"{a.peer_model}_reward"
    run = folder / "reward"
    if not run.exists():
        timed([a.hone, "reward", "--model", a.model, "--data", str(ROOT / "examples" / "data" / "preference_train.jsonl"), "--use_peft", "--max_steps", "1",
               "--save_steps", "0", "--output_dir", str(run)])
    return run / "model"


def prepare(a, folder):
    """The long and the short file of rows, the tokens that only the long one has, and where the rows come from."""
    if not (pathlib.Path(a.peer_model) / "config.json").exists():
        timed([a.peer_python, str(PEERS / "convert_model.py"), a.model, a.peer_model])
    if any(technique in SCORED for technique in a.techniques) and not pathlib.Path(f"{a.peer_model}_reward", "config.json").exists():
        timed([a.peer_python, str(PEERS / "convert_model.py"), "--reward", a.peer_model, f"{a.peer_model}_reward"])
    files = [folder / "long.jsonl", folder / "short.jsonl"]
    counts = [steps * a.batch_size for steps in a.steps]
    _, _, out = timed([a.peer_python, str(PEERS / "prepare_rows.py"), "--tokenizer", a.peer_model, "--rows", str(counts[0]), "--max_length",
                       str(a.max_length), "--out", str(files[0])] + (["--data", a.data] if a.data else []) + ["--kind", rows_of(a.techniques[0])])
    made = json.loads(out.strip().splitlines()[-1])
    files[1].write_text("".join(files[0].read_text().splitlines(keepends=True)[:counts[1]]))
    return files, sum(made["rows"][counts[1]:]), made["source"]


def measure(a, folder):
    files, tokens, source = prepare(a, folder)
    runs = []
    for repeat in range(a.repeats):
        pairs = [(technique, name) for technique in a.techniques for name in a.contenders]
        for technique, name in pairs if repeat % 2 == 0 else pairs[::-1]:
            pair = []
            for rows, steps in zip(files, a.steps):
                load = os.getloadavg()[0]
                result = run_hone(a, technique, rows, steps, folder) if name == "hone" else run_trl(a, technique, rows, steps, name == "trl_checkpointing")
                pair.append({"steps": steps, "load_before": round(load, 2), **result})
                print(f"repeat {repeat + 1}/{a.repeats}  {technique:5s} {name:18s} {steps:3d} steps  {result['wall_s']:7.1f} s  {result['peak_mib']:7.0f} MiB", file=sys.stderr)
            step_s = (pair[0]["wall_s"] - pair[1]["wall_s"]) / (a.steps[0] - a.steps[1])
            between = pair[0].get("num_tokens", 0) - pair[1].get("num_tokens", 0) if technique in PROMPTS else tokens  # TRL's PPO counts none: 0
            runs.append({"technique": technique, "contender": name, "repeat": repeat, "step_s": step_s, "tokens_per_second": between / (a.steps[0] - a.steps[1]) / step_s,
                         "peak_mib": pair[0]["peak_mib"], "long": pair[0], "short": pair[1]})
    return runs, tokens, source


def summarise(runs):
    """Medians of every contender, and hone against the better of the peer's settings."""
    table = {}
    for technique, name in dict.fromkeys((run["technique"], run["contender"]) for run in runs):
        mine = [run for run in runs if (run["technique"], run["contender"]) == (technique, name)]
        name = f"{technique} {name}"
        table[name] = {key: statistics.median(run[key] for run in mine) for key in ("step_s", "tokens_per_second", "peak_mib")}
        table[name]["tokens_per_second_range"] = [min(r["tokens_per_second"] for r in mine), max(r["tokens_per_second"] for r in mine)]
    ratios = {}
    for technique in dict.fromkeys(run["technique"] for run in runs):
        ours = table.get(f"{technique} hone")
        peers = [entry for name, entry in table.items() if name.startswith(technique + " trl")]
        if ours and peers:
            ratios[technique] = {**({"speed": ours["tokens_per_second"] / max(p["tokens_per_second"] for p in peers)} if all(p["tokens_per_second"] for p in peers) else {}),
                                 "step": min(p["step_s"] for p in peers) / ours["step_s"],
                                 "memory": ours["peak_mib"] / min(p["peak_mib"] for p in peers)}
    return table, ratios


def furthest(runs):
    """How far the figures of each technique's first long runs are apart, step by step: skipped work cannot look like speed. {technique: {figure: ...}}"""
    out = {}
    for technique in dict.fromkeys(run["technique"] for run in runs):
        sides = [next((run["long"] for run in runs if run["technique"] == technique and (run["contender"] == "hone") == ours), None) for ours in (True, False)]
        for figure in ("losses", "margins") if all(sides) and technique not in PROMPTS else ():  # each side samples its own completions
            ours, theirs = (side.get(figure) or [] for side in sides)
            steps = [(abs(a - b), i + 1) for i, (a, b) in enumerate(zip(ours, theirs)) if a is not None and b is not None]
            if not steps or len(ours) != len(theirs):
                continue
            # a NaN compares with nothing: it is the furthest
            apart, step = max(steps, key=lambda s: (s[0] != s[0], s[0]))
            out.setdefault(technique, {})[figure] = {"max_apart": apart, "at_step": step, "steps": len(ours), "last": [ours[-1], theirs[-1]]}
    return out


def markdown(result):
    host, lines = result["host"], []
    lines.append(f"{result['date'][:10]}, {host['cpu']}, {host['cores']} cores, {' '.join(host['isa'])}; {result['source']}, batch {result['batch_size']}, "
                 f"max_length {result['max_length']}, median of {result['repeats']} runs of ({result['steps'][0]} - {result['steps'][1]}) steps")
    lines += ["", "| | s/step | real tokens/s | range | peak MiB |", "|---|---|---|---|---|"]
    for name, entry in result["table"].items():
        low, high = entry["tokens_per_second_range"]
        lines.append(f"| {name} | {entry['step_s']:.2f} | {entry['tokens_per_second']:.1f} | {low:.1f}-{high:.1f} | {entry['peak_mib']:.0f} |")
    for technique, ratio in result["ratios"].items():
        speed = f"{ratio['speed']:.2f}x tokens/s, " if "speed" in ratio else ""
        lines += ["", f"{technique}: hone / better peer setting: {speed}a step {ratio['step']:.2f}x as fast, {ratio['memory']:.2f}x peak memory"]
    for technique, figures in result["apart"].items():
        for figure, f in figures.items():
            lines += ["", f"{technique}: {figure} of {f['steps']} steps are at most {f['max_apart']:.2g} apart (step {f['at_step']}); the last: {f['last'][0]:.5f} and {f['last'][1]:.5f}"]
    return "\n".join(lines)


def main():
    a = parse()
    if "hone" in a.contenders and not pathlib.Path(a.hone).exists():
        sys.exit(f"{a.hone} is missing: run `make` first, or name another with --hone")
    if not pathlib.Path(a.model).exists():
        sys.exit(f"{a.model} is missing: run `make model` first, or name another with --model")
    version = timed([a.hone, "--version"])[2].strip() if "hone" in a.contenders else None
    with tempfile.TemporaryDirectory() as folder:
        runs, tokens, source = measure(a, pathlib.Path(folder))
    table, ratios = summarise(runs)
    peer = next((run["long"] for run in runs if run["contender"] != "hone"), {})
    result = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "host": cpu(), "hone": version,
              "peer": {key: peer.get(key) for key in ("trl", "transformers", "torch", "threads")}, "model": pathlib.Path(a.model).name, "source": source,
              "batch_size": a.batch_size, "max_length": a.max_length, "steps": a.steps, "repeats": a.repeats, "tokens_between": tokens, "table": table,
              "ratios": ratios, "apart": furthest(runs), "runs": runs}
    pathlib.Path(a.output).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(a.output).write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))
    print(f"\nwritten to {a.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
