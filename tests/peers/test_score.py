"""`hone score` against transformers in float32 on the default model, and against the float64 oracle on the golden models."""
import math

import pytest
import torch
from conftest import GOLDEN, filter_rows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

# Two float32 programs with different orders of sums over 30 layers and 49,152 words; a wrong rotation, scale or nibble is off by 0.1 and more.
TOLERANCE = 1e-3
TEXTS = [
    "A farmer has 12 apples and buys 7 more. How many apples does the farmer have now? The farmer has 19 apples.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n",
    "Die Straße ist lang, und der Weg nach Hause ist weit. " * 8,
    "The quick brown fox jumps over the lazy dog. 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
]
MESSAGES = [{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "12 + 30 = 42."}]


def close(given, wanted, tolerance):
    """Every number is finite and within tolerance."""
    assert len(given) == len(wanted)
    for i, (a, b) in enumerate(zip(given, wanted)):
        assert math.isfinite(a) and abs(a - b) <= tolerance, f"position {i}: {a} against {b}"


def peer_logprobs(model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def test_default_model(default_model, smollm2_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(default_model.parent, gguf_file=default_model.name, dtype=torch.float32).eval()
    rows = [{"text": t} for t in TEXTS] + [{"messages": MESSAGES}]
    given = filter_rows("score", default_model, rows, "--dtype", "float32")
    for row, out in zip(rows, given):
        wanted = smollm2_tokenizer.encode(row["text"], add_special_tokens=False) if "text" in row else \
            smollm2_tokenizer.apply_chat_template(MESSAGES, return_dict=True)["input_ids"]
        assert out["ids"] == wanted
        close(out["logprobs"], peer_logprobs(model, wanted), TOLERANCE)
    text = given[0]
    assert math.isclose(text["sum_logprob"], sum(text["logprobs"]), rel_tol=1e-5)


@pytest.mark.parametrize("name", ["models/chat", "gguf/mixed.gguf"])
def test_golden_models(name):
    """float32 against float64 over two layers: the float32 transformers model is off by up to 7e-6 in a logit."""
    oracle = load_file(GOLDEN / ("gguf/hf" if name.endswith("gguf") else name) / "oracle.safetensors")
    given = filter_rows("score", GOLDEN / name, [{"ids": oracle[f"ids.{k}"].tolist()} for k in range(3)], "--dtype", "float32")
    for k, row in enumerate(given):
        assert row["ids"] == oracle[f"ids.{k}"].tolist()
        close(row["logprobs"], oracle[f"logprobs.{k}"].tolist(), 2e-5)
