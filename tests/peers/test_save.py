"""A model directory saved by `hone sft`: transformers opens it unchanged, with hone's numbers and the same tokenizer."""
import json

import pytest
import torch
from conftest import GOLDEN, filter_rows, train_hone
from make_golden import make_config, random_weights, save_model, save_tokenizer
from safetensors.torch import load_file
from test_score import close, peer_logprobs
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

CHAT = GOLDEN / "models" / "chat"
# every option of a llama directory, with the tokenizer of the golden model "chat" (290 tokens)
SHAPES = {
    "tied": dict(h=16, heads=4, kv=2, ff=24, tied=True),
    "untied_mha_v4_f16": dict(h=24, heads=4, kv=4, ff=36, style=4, dtype="float16"),
    "mqa_bias": dict(h=40, heads=4, kv=1, ff=20, bias=True),
    "head_dim_bf16": dict(h=20, heads=4, kv=2, ff=28, head_dim=16, theta=100000.0, dtype="bfloat16", tied=True),
    "shards_v4": dict(h=24, heads=4, kv=2, ff=44, style=4, shards=3, eps=1e-6),
}
TEXTS = ["Anna has 12 apples.", "<|im_start|>user\nHow many?<|im_end|>\n", "naïve 你好 👍\n\n  x", "It's 3.5!"]


def build(name, folder):
    """A random model of the given shape as a directory; the GGUF file of the golden fixtures for "gguf"."""
    if name == "gguf":
        return GOLDEN / "gguf" / "mixed.gguf"
    shape = dict(SHAPES[name], vocab=290)
    folder.mkdir()
    model = AutoModelForCausalLM.from_config(make_config(shape), dtype=torch.float32)
    random_weights(model, torch.Generator().manual_seed(len(name)))
    save_model(folder, model, shape)
    save_tokenizer(folder, 290)
    return folder


@pytest.fixture(scope="module", params=[*SHAPES, "gguf"])
def saved(request, tmp_path_factory):
    """(source, model/) after three steps of hone on the golden conversations."""
    folder = tmp_path_factory.mktemp("save")
    source = build(request.param, folder / "source")
    rows = [json.loads(line) for line in (GOLDEN / "trl_sft" / "messages.jsonl").read_text().splitlines()]
    steps = train_hone(source, rows, folder / "out", "--max_steps", 3, "--batch_size", 4, "--learning_rate", "1e-2", "--lr_scheduler_type", "constant")
    assert len(steps) == 3
    return source, folder / "out" / "run" / "model"


def test_every_key_is_used_and_scores_agree(saved):
    source, folder = saved
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (key, info[key])
    given = filter_rows("score", folder, [{"text": t * 3} for t in TEXTS], "--dtype", "float32")
    for row in given:
        # two float32 programs over two layers; see test_score.py
        close(row["logprobs"], peer_logprobs(model.eval(), row["ids"]), 1e-5)


def test_training_reached_the_saved_weights(saved):
    source, folder = saved
    before = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name) if source.is_file() else AutoModelForCausalLM.from_pretrained(source)
    after = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, weight in before.state_dict().items():
        moved = (after[name] - weight.float()).abs().max().item()
        assert 1e-3 < moved < 0.1, (name, moved)  # three steps of AdamW at 1e-2 move a weight by at most about 0.03


def test_tokenizer_template_and_end_token(saved):
    source, folder = saved
    mine, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(CHAT)
    hone = filter_rows("tokenize", folder, [{"text": t} for t in TEXTS])
    for text, row in zip(TEXTS, hone):
        assert mine.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False) == row["ids"]
        assert mine.decode(row["ids"]) == text
    talk = [{"role": "user", "content": "How many?"}]
    assert mine.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) == theirs.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert mine.eos_token == theirs.eos_token == "<|im_end|>"
    end = GenerationConfig.from_pretrained(folder).eos_token_id
    assert end == 2 or end == [2]


def test_config_reads_in_both_generations_of_transformers(saved):
    source, folder = saved
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["rope_parameters"].get("rope_type", "default") == "default" and not config.get("rope_scaling")
    assert config["torch_dtype"] == config["dtype"]
    stored = {str(t.dtype).removeprefix("torch.") for file in folder.glob("*.safetensors") for t in load_file(file).values()}
    assert stored == {config["dtype"]}
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"


def test_transformers_generates_what_hone_samples(saved):
    """Greedy decoding of both, up to the first place where the two best tokens are closer than the rounding of float32."""
    source, folder = saved
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
    talk = [{"role": "user", "content": "Anna has 3 apples and buys 2 more. How many?"}]
    row, = filter_rows("sample", folder, [{"prompt": talk}], "--format", "jsonl", "--max_new_tokens", 12, "--temperature", 0)
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    compared = 0
    for token in row["completions"][0]["ids"]:
        with torch.no_grad():
            best = torch.topk(model(input_ids=torch.tensor([ids])).logits[0, -1].double(), 2)
        if best.values[0] - best.values[1] < 1e-4:
            break
        assert token == best.indices[0], (compared, token, best)
        ids, compared = ids + [token], compared + 1
    assert compared > 0
