#!/usr/bin/env python3
"""Writes tests/golden/gguf: three tiny GGUF files by the gguf package, two with what the same numbers give in transformers.

usage: make_gguf.py      (needs tests/peers/requirements.txt and tests/golden/models/chat, whose tokenizer it takes)

  mixed.gguf      tied head, every tensor type that hone reads (F32, F16, BF16, Q8_0, Q4_0, Q4_1), vocabulary, merges and chat template
  hf/             the equivalent Hugging Face directory: the dequantised numbers in float32, Q and K in half-split order, the same tokenizer
  hf/oracle.safetensors      ids, weights, logprobs, entropy, loss ... of make_golden.py (no logits, no gradients)
  untied.gguf     output.weight of its own, an explicit head size (attention.key_length), another rope.freq_base, no vocabulary; F32, F16, BF16
  untied.oracle.safetensors      the same, with logits
  q4.gguf         every linear Q4_0 or Q4_1, so that --bnb_4bit_quant_type gguf can keep them

GGUF files of llama models keep Q and K for interleaved rotary pairs: row 2i + j of a head (j = 0, 1) is row i + j * head_dim / 2 in half-split order.
make_gguf.py loads mixed.gguf with transformers too and compares every tensor, so the order and the dequantisation are transformers'.
"""
import json
import logging
import pathlib
import shutil
import tempfile

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from make_golden import CHAT_TEMPLATE, HERE, SPECIAL, write_oracle

OUT, CHAT = HERE / "gguf", HERE / "models" / "chat"
TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16,
         "q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0, "q4_1": gguf.GGMLQuantizationType.Q4_1}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}
FILES = {
    "mixed": dict(
        config=dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=32, vocab_size=290, num_hidden_layers=2,
                    tie_word_embeddings=True),
        theta=10000.0, embed="q8_0",
        layers=[dict(attn_q="f16", attn_k="bf16", attn_v="q4_1", attn_output="q4_0", ffn_gate="q8_0", ffn_up="q4_0", ffn_down="q4_1"),
                dict(attn_q="q4_0", attn_k="q4_1", attn_v="f32", attn_output="q8_0", ffn_gate="bf16", ffn_up="q4_1", ffn_down="f16")]),
    "q4": dict(
        config=dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=96, vocab_size=290, num_hidden_layers=2,
                    tie_word_embeddings=True),
        theta=10000.0, embed="q8_0",
        layers=[dict(attn_q="q4_1", attn_k="q4_1", attn_v="q4_1", attn_output="q4_0", ffn_gate="q4_0", ffn_up="q4_0", ffn_down="q4_1"),
                dict(attn_q="q4_0", attn_k="q4_0", attn_v="q4_0", attn_output="q4_1", ffn_gate="q4_1", ffn_up="q4_1", ffn_down="q4_0")]),
    "untied": dict(
        config=dict(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=20, vocab_size=61, num_hidden_layers=1,
                    tie_word_embeddings=False),
        theta=50000.0, embed="f16", head="bf16",
        layers=[dict(attn_q="f16", attn_k="f32", attn_v="bf16", attn_output="f16", ffn_gate="f16", ffn_up="f32", ffn_down="bf16")]),
}


def interleave(weight, heads):
    """Half-split rows of Q or K to the order in which llama GGUF files keep them."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight", None
    if name in ("model.norm.weight", "lm_head.weight"):
        return {"model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}[name], None
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight", int(layer)


def tensor_type(spec, name, layer):
    if name.endswith("norm.weight"):
        return "f32"
    if layer is None:
        return spec["embed"] if name == "token_embd.weight" else spec["head"]
    return spec["layers"][layer][name.split(".")[2]]


def write_tensors(writer, spec, config, generator):
    """Adds random tensors; the state dict that a reader must end up with."""
    state = {}
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in AutoModelForCausalLM.from_config(config).named_parameters()}
    for name, shape in shapes.items():
        noise = generator.standard_normal(shape).astype(np.float32)
        weight = 1 + 0.2 * noise if "norm" in name else 0.35 * noise if "embed" in name else 1.2 * noise / shape[1] ** 0.5
        target, layer = gguf_name(name)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(target.split(".")[-2])
        order = [np.arange(len(weight))] if heads is None else [interleave(np.arange(len(weight)).reshape(-1, 1), heads)[:, 0]]
        kind = TYPES[tensor_type(spec, target, layer)]
        data = gguf.quants.quantize(weight[order[0]], kind)
        writer.add_tensor(target, data, raw_dtype=kind)
        stored = np.empty_like(weight)
        stored[order[0]] = gguf.quants.dequantize(data, kind).reshape(weight.shape)
        state[name] = torch.from_numpy(stored)
    return state


def write_vocabulary(writer):
    tokenizer = json.loads((CHAT / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([int(gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL) for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(path, spec, seed):
    eps = float(np.float32(1e-5))  # GGUF keeps it in float32
    config = LlamaConfig(**spec["config"], rms_norm_eps=eps, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype="float32",
                         rope_parameters={"rope_type": "default", "rope_theta": spec["theta"]}, architectures=["LlamaForCausalLM"])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("golden")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(spec["theta"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.tie_word_embeddings:
        write_vocabulary(writer)
    state = write_tensors(writer, spec, config, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config, state


def save_directory(folder, config, state):
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(config.to_json_string(use_diff=True))
    for file in folder.iterdir():
        file.chmod(0o644)


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "hf").mkdir(parents=True)
    logging.disable(logging.WARNING)
    config, state = write_gguf(OUT / "mixed.gguf", FILES["mixed"], 1)
    save_directory(OUT / "hf", config, state)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(CHAT / file, OUT / "hf" / file)
    print("mixed", write_oracle(OUT / "hf", 2001, logits_too=False, gradients_too=False))
    read = AutoModelForCausalLM.from_pretrained(OUT, gguf_file="mixed.gguf", dtype=torch.float32).state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, read[name]), name
    write_gguf(OUT / "q4.gguf", FILES["q4"], 3)
    config, state = write_gguf(OUT / "untied.gguf", FILES["untied"], 2)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_directory(folder, config, state)
        print("untied", write_oracle(folder, 2002, gradients_too=False))
        shutil.copyfile(folder / "oracle.safetensors", OUT / "untied.oracle.safetensors")


if __name__ == "__main__":
    main()
