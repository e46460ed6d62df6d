"""The committed fixture of the preference losses against TRL's own loss code, run now (the C++ tests compare hone with the fixture)."""
import json

import pytest
import torch
from conftest import GOLDEN
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
