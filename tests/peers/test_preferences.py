"""The committed fixture of the preference losses against TRL's own loss code, run now (the C++ tests compare hone with the fixture); and a DPO run
of both from start to end."""
import json
import subprocess
import sys

import pytest
import torch
from conftest import GOLDEN, ROOT, run_hone
from make_preferences import CASES, run_cases
from safetensors.torch import load_file

FIXTURE = GOLDEN / "preferences"


def test_the_fixture_is_what_trl_gives():
    stored = json.loads((FIXTURE / "preferences.json").read_text())["cases"]
    gradients = load_file(FIXTURE / "gradients.safetensors")
    assert [c["name"] for c in stored] == [c["name"] for c in CASES]
    for case, (_, loss, metrics, grads) in zip(stored, run_cases()):
        assert loss == pytest.approx(case["loss"], rel=1e-10), case["name"]
        assert metrics == pytest.approx(case["metrics"], rel=1e-6), case["name"]  # TRL makes some of them in float32
        wanted, given = gradients[case["name"]].double(), torch.cat([g.reshape(-1) for g in grads.values()])
        assert (given - wanted).norm() <= 1e-6 * wanted.norm(), case["name"]  # stored in float32


def test_twenty_steps_of_dpo_are_those_of_trl(tmp_path):
    # Plain rows: behind the end of a turn TRL also trains the template's newline (docs/dpo.md), so that a conversation's figures differ a little.
    pairs = [{"prompt": f"Anna has {a} apples and buys {b} more. How many?\n", "chosen": f"{a} + {b} = {a + b}.",
              "rejected": f"There are {a} apples" + " in all" * (b % 3) + "."} for a in range(2, 12) for b in range(3, 11)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    same = ["--model", GOLDEN / "models" / "chat", "--data", data, "--max_steps", 20, "--batch_size", 4, "--learning_rate", "5e-3"]
    run_hone("dpo", *same, "--output_dir", tmp_path / "run", "--dtype", "float32", "--shuffle_dataset", "false", "--lr_scheduler_type", "constant",
             "--logging_steps", 1, "--save_steps", 0)
    ours = [line for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    done = subprocess.run([sys.executable, ROOT / "bench" / "peers" / "trl_preferences.py", "dpo", *map(str, same)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert len(ours) == len(theirs["losses"]) == len(theirs["margins"]) == 20
    # The script prints five decimals; two float32 programs add 1e-6 of a margin of 6 over these steps.
    assert [line["loss"] for line in ours] == pytest.approx(theirs["losses"], abs=2e-5)
    assert [line["rewards/margins"] for line in ours] == pytest.approx(theirs["margins"], abs=5e-5)
    assert ours[-1]["rewards/margins"] > 3  # it has learned: the same figures are not those of a standstill
