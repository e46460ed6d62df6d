"""`hone sft` against TRL's SFTTrainer, run now, on the same ids and labels; and the committed fixture against the same TRL."""
import json
import math

import pytest
from conftest import GOLDEN, train_hone
from make_trl_sft import BATCH, MODEL, RUNS, STEPS, train
from safetensors.torch import load_file

FIXTURE = GOLDEN / "trl_sft"
# make_trl_sft.py: float32 TRL is within 5e-7 of a float64 model in all of these, and within 3e-7 in the weights
FIGURES = {"loss": 1e-5, "entropy": 1e-5, "mean_token_accuracy": 1e-7, "grad_norm": 1e-5, "learning_rate": 1e-12}
WEIGHTS = 3e-6


def lines(name):
    return [json.loads(line) for line in (FIXTURE / name).read_text().splitlines()]


def flags(options):
    options = {k: v for k, v in options.items() if k != "rows"}
    return [str(x) for key, value in options.items() for x in (f"--{key}", value)] + \
        ["--max_steps", str(STEPS), "--batch_size", str(BATCH), "--shuffle_dataset", "false", "--max_length", "256"]


def agree(given, wanted):
    assert [line["step"] for line in given] == [line["step"] for line in wanted] == list(range(1, STEPS + 1))
    for mine, theirs in zip(given, wanted):
        for key, tolerance in FIGURES.items():
            assert math.isfinite(mine[key]) and abs(mine[key] - theirs[key]) <= tolerance * max(1.0, abs(theirs[key])), (mine["step"], key, mine[key], theirs[key])
        assert mine["num_tokens"] == theirs["num_tokens"]


def same_weights(folder, wanted):
    """Relative 1e-5 in the Euclidean norm of each tensor, and no element off by more than 2 % of one update: AdamW divides by |gradient| + 1e-8, so an
    element whose gradient is itself rounding noise moves by a share of the learning rate (5e-3) that no order of sums can fix."""
    given = {}
    for file in folder.glob("*.safetensors"):
        given.update(load_file(file))
    assert given.keys() == wanted.keys()
    for name, weight in wanted.items():
        difference = given[name].double() - weight.double()
        assert difference.norm() <= 1e-5 * weight.double().norm(), (name, difference.norm(), weight.norm())  # NaN fails: the comparison is false
        assert difference.abs().max() <= 1e-4, (name, difference.abs().max())


@pytest.mark.parametrize("name", RUNS)
def test_hone_follows_trl(name, tmp_path):
    """TRL is given ids and labels, hone the conversations they come from: TRL's own labels would also train the newline behind every turn."""
    options = RUNS[name]
    wanted, state = train(lines("rows.jsonl"), options)
    given = train_hone(MODEL, lines("messages.jsonl")[:options["rows"]], tmp_path, *flags(options))
    agree(given, wanted)
    same_weights(tmp_path / "run" / "model", state)


def plain_rows():
    """Texts whose tokens do not depend on whether prompt and completion are tokenised together (TRL) or apart (hone)."""
    return [{"prompt": f"Q: {a} and {b} more?\nA:", "completion": f" There are {a + b} left in all, {who}."}
            for a, b, who in [(3, 4, "Anna"), (12, 7, "Bo"), (40, 1, "Carl"), (8, 80, "Dee")]]


@pytest.mark.parametrize("kind", ["prompt_completion", "text"])
def test_plain_rows_end_with_eos_as_in_trl(kind, tmp_path):
    """Here TRL tokenises too: both put EOS behind a plain completion and behind a text, and train on completion or on the whole text."""
    rows = plain_rows() if kind == "prompt_completion" else [{"text": r["prompt"] + r["completion"]} for r in plain_rows()]
    options = dict(RUNS["one_batch"], rows=len(rows))
    wanted, state = train(rows, options)
    given = train_hone(MODEL, rows, tmp_path, *flags(options))
    agree(given, wanted)
    same_weights(tmp_path / "run" / "model", state)


@pytest.mark.parametrize("name", RUNS)
def test_fixture_is_what_trl_gives(name):
    """The committed trajectory comes from these versions of the peers; another processor may round the last digits otherwise."""
    recorded = json.loads((FIXTURE / "trajectory.json").read_text())["runs"][name]
    steps, state = train(lines("rows.jsonl"), RUNS[name])
    assert recorded["config"] == RUNS[name]
    agree(recorded["steps"], steps)
    if (FIXTURE / f"{name}.safetensors").exists():
        for key, weight in load_file(FIXTURE / f"{name}.safetensors").items():
            assert (weight - state[key]).abs().max().item() <= WEIGHTS, key
