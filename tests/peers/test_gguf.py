"""GGUF files that `hone convert` writes, read by llama.cpp's own reader (the `gguf` package), and the way back into transformers."""
import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, filter_rows, run_hone
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, quants
from make_golden import make_config, random_weights, save_model, save_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SHAPES = {
    "tied": dict(h=32, heads=4, kv=2, ff=64, tied=True),
    "untied_bias": dict(h=64, heads=4, kv=1, ff=96, bias=True, eps=1e-6),
    "head_dim": dict(h=32, heads=4, kv=2, ff=32, head_dim=16, theta=100000.0),
    "odd_rows": dict(h=40, heads=2, kv=2, ff=48),  # rows that are not whole blocks of q8_0
}
TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
VOCAB = 290
TEXTS = ["Anna has 12 apples.", "<|im_start|>user\nHow many?<|im_end|>\n", "na\u00efve \u4f60\u597d\n\n  x", "It's 3.5!", "a  b\tc 2024"]
PARTS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    if name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        return {"model.e": "token_embd", "model.n": "output_norm", "lm_head": "output"}[name[:7]] + ".weight"
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def interleaved(weight, head_dim):
    """The rows of q and k in llama.cpp's order (its converter's permute, written from its definition: pairs (i, i + d/2) become neighbours)."""
    heads = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return np.ascontiguousarray(np.swapaxes(heads, 1, 2)).reshape(weight.shape)


def build(name, folder, dtype="float32"):
    shape = dict(SHAPES[name], vocab=VOCAB, dtype=dtype)
    folder.mkdir()
    model = AutoModelForCausalLM.from_config(make_config(shape), dtype=torch.float32)
    random_weights(model, torch.Generator().manual_seed(len(name)))
    if dtype == "float16":
        model = model.half().float()
    save_model(folder, model, shape)
    save_tokenizer(folder, VOCAB)
    return folder


@pytest.fixture(scope="module", params=SHAPES)
def source(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("gguf") / request.param)


@pytest.mark.parametrize("kind", TYPES)
def test_names_shapes_types_and_values(source, tmp_path, kind):
    path = tmp_path / "model.gguf"
    # a model of random weights is far more sensitive to rounding than a trained one; the values are compared below
    run_hone("convert", "--model", source, "--output", path, "--gguf_type", kind, "--max_dlogp", 10)
    weights = load_file(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    reader = GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    assert set(tensors) == {gguf_name(n) for n in weights if n != "lm_head.weight" or not config["tie_word_embeddings"]}
    for name, tensor in weights.items():
        if gguf_name(name) not in tensors:
            continue
        wanted = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            wanted = interleaved(wanted, head_dim)
        found = tensors[gguf_name(name)]
        stored = Type.F32 if wanted.ndim == 1 else Type.F16 if kind == "q8_0" and wanted.shape[-1] % 32 else TYPES[kind]
        assert found.tensor_type == stored, name
        assert list(found.shape) == list(reversed(wanted.shape)), name
        # the same bytes as llama.cpp's own quantiser writes
        assert np.array_equal(np.asarray(found.data).view(np.uint8).reshape(-1), quants.quantize(wanted, stored).view(np.uint8).reshape(-1)), name
        values = quants.dequantize(np.asarray(found.data), stored).reshape(wanted.shape)
        assert np.array_equal(values, quants.dequantize(quants.quantize(wanted, stored), stored).reshape(wanted.shape)), name
    field = {k: f.contents() for k, f in reader.fields.items()}
    assert field["general.architecture"] == "llama" and field["general.name"] == source.name
    assert field["llama.block_count"] == config["num_hidden_layers"]
    assert field["llama.attention.head_count"] == config["num_attention_heads"]
    assert field["llama.attention.head_count_kv"] == config["num_key_value_heads"]
    assert field["llama.attention.key_length"] == field["llama.attention.value_length"] == field["llama.rope.dimension_count"] == head_dim
    assert field["llama.embedding_length"] == config["hidden_size"] and field["llama.feed_forward_length"] == config["intermediate_size"]
    assert field["llama.context_length"] == config["max_position_embeddings"] and field["llama.vocab_size"] == VOCAB
    assert np.float32(field["llama.attention.layer_norm_rms_epsilon"]) == np.float32(config["rms_norm_eps"])
    assert np.float32(field["llama.rope.freq_base"]) == np.float32(config["rope_parameters"]["rope_theta"])
    assert field["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}[kind]


def test_tokenizer(source, tmp_path):
    path = tmp_path / "model.gguf"
    run_hone("convert", "--model", source, "--output", path, "--gguf_type", "f32")
    field = {k: f.contents() for k, f in GGUFReader(path).fields.items()}
    root = json.loads((source / "tokenizer.json").read_text())
    tokens = {i: t for t, i in root["model"]["vocab"].items()} | {t["id"]: t["content"] for t in root["added_tokens"]}
    assert {i: t for i, t in enumerate(field["tokenizer.ggml.tokens"]) if i in tokens} == tokens
    assert len(field["tokenizer.ggml.tokens"]) == VOCAB
    assert field["tokenizer.ggml.merges"] == [m if isinstance(m, str) else " ".join(m) for m in root["model"]["merges"]]
    kinds = field["tokenizer.ggml.token_type"]
    assert {i for i, kind in enumerate(kinds) if kind == 3} == {t["id"] for t in root["added_tokens"] if t["special"]}
    peer = AutoTokenizer.from_pretrained(source)
    assert field["tokenizer.ggml.model"] == "gpt2" and field["tokenizer.ggml.eos_token_id"] == peer.eos_token_id
    assert field["tokenizer.chat_template"] == peer.chat_template
    rows = [{"text": t} for t in TEXTS]
    wanted = [r["ids"] for r in filter_rows("tokenize", source, rows)]
    assert [r["ids"] for r in filter_rows("tokenize", path, rows)] == wanted
    assert wanted == [peer(t, add_special_tokens=False)["input_ids"] for t in TEXTS]


@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_is_exact_for_float16_values(name, tmp_path):
    source = build(name, tmp_path / "source", dtype="float16")
    run_hone("convert", "--model", source, "--output", tmp_path / "model.gguf", "--gguf_type", "f16")
    run_hone("convert", "--model", tmp_path / "model.gguf", "--output", tmp_path / "back")
    before, info = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    after, info = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(key), (key, info[key])
    for key, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[key], tensor), key
    peers = [AutoTokenizer.from_pretrained(f) for f in (source, tmp_path / "back")]
    for text in TEXTS:
        ids = [p(text, add_special_tokens=False)["input_ids"] for p in peers]
        assert ids[0] == ids[1]
        with torch.no_grad():
            logits = [m.eval()(torch.tensor([ids[0]])).logits for m in (before, after)]
        assert torch.equal(*logits)
    assert peers[0].chat_template == peers[1].chat_template


def test_default_model(default_model, tmp_path):
    """A GGUF file of llama.cpp's converter, rewritten by hone: the same tokenizer and metadata, every weight the source's rounded once."""
    path = tmp_path / "again.gguf"
    run_hone("convert", "--model", default_model, "--output", path, "--gguf_type", "q8_0")
    before, after = GGUFReader(default_model), GGUFReader(path)
    ours = {k: f.contents() for k, f in after.fields.items()}
    for key, field in before.fields.items():
        if key.startswith(("llama.", "tokenizer.")):
            assert ours[key] == field.contents(), key
    theirs = {t.name: t for t in before.tensors}
    assert {t.name for t in after.tensors} == set(theirs)
    for tensor in after.tensors:
        source = theirs[tensor.name]
        values = quants.dequantize(np.asarray(source.data), source.tensor_type)
        assert np.array_equal(np.asarray(tensor.data).view(np.uint8), quants.quantize(values, tensor.tensor_type).view(np.uint8)), tensor.name
