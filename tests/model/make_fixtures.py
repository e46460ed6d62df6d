"""Makes tests/model/fixtures: python tests/model/make_fixtures.py (needs torch, transformers, gguf; versions in the files' metadata).

quantised.gguf   tensors of every type that hone reads, each beside NAME.expected (F32), what gguf-py's dequantize gives
llama/           a tiny llama with attention biases, head_dim unlike hidden_size / heads, saved by transformers (bfloat16)
llama.gguf       the same weights as GGUF: names changed, rows of q and k interleaved, matrices Q8_0, so that its values are those of
llama_q8/        a folder with gguf-py's dequantised values in the order of transformers
"""
import json
import os
import shutil

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
Type = gguf.GGMLQuantizationType


def quantised_file():
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((6, 64)) * np.array([[1], [0.02], [1e-6], [300], [0], [1e-3]])).astype(np.float32)
    writer = gguf.GGUFWriter(os.path.join(here, "quantised.gguf"), "none")
    writer.add_string("made_with", f"gguf-py {gguf.__version__ if hasattr(gguf, '__version__') else '0.19.0'}")
    writer.add_array("strings", ["a", "", "b\u00e9"])
    writer.add_array("integers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.25])
    for kind in (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1):
        stored = gguf.quants.quantize(values, kind)
        if kind == Type.Q4_1:  # a subnormal and a negative scale, and a subnormal minimum: bits that a quantiser would not choose
            stored = stored.copy()
            stored[0, 0:4] = np.array([0x0003, 0x8001], dtype="<u2").view(np.uint8)
            stored[1, 0:2] = np.array([0xBC01], dtype="<u2").view(np.uint8)
        expected = gguf.quants.dequantize(stored, kind).astype(np.float32)
        writer.add_tensor(kind.name, stored, raw_dtype=kind)
        writer.add_tensor(kind.name + ".expected", expected)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleave(rows, heads):
    """Row s * half + i of a head goes to 2 i + s: the order of llama GGUF files (s = 0, 1)."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def tiny_llama():
    torch.manual_seed(2)
    config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                         head_dim=32, attention_bias=True, rope_theta=12345.0, rms_norm_eps=1e-5, max_position_embeddings=128, bos_token_id=1,
                         eos_token_id=[2, 3], pad_token_id=0, tie_word_embeddings=False)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.copy_(torch.randn_like(parameter.float()).to(torch.bfloat16))
    folder = os.path.join(here, "llama")
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    return config, {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}


def gguf_name(name):
    for a, b in (("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"), ("model.layers", "blk"),
                 ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"), ("self_attn.o_proj", "attn_output"),
                 ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("mlp.gate_proj", "ffn_gate"),
                 ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")):
        name = name.replace(a, b)
    return name


def as_gguf(config, weights):
    writer = gguf.GGUFWriter(os.path.join(here, "llama.gguf"), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_rope_dimension_count(32)
    writer.add_rope_freq_base(12345.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [f"t{i}" for i in range(32)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * 28)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{{ messages }}")
    values = {}
    for name, weight in weights.items():
        heads = {"q_proj": 2, "k_proj": 1}.get(name.split(".")[-2], 0)
        stored = interleave(weight, heads) if heads else weight
        kind = Type.Q8_0 if weight.ndim == 2 else Type.F32
        data = gguf.quants.quantize(np.ascontiguousarray(stored), kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
        # A row is quantised by itself, so quantising in transformers' order gives the same values row by row.
        values[name] = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folder = os.path.join(here, "llama_q8")
    os.makedirs(folder, exist_ok=True)
    save_file(values, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    # config.json in transformers 4's form
    old = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "attention_bias": True, "mlp_bias": False,
           "rope_theta": 12345.0, "rope_scaling": None, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "bos_token_id": 1,
           "eos_token_id": [2, 3], "pad_token_id": 0, "tie_word_embeddings": False, "torch_dtype": "float32", "hidden_act": "silu",
           "transformers_version": "4.46.0"}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(old, f, indent=2)


if __name__ == "__main__":
    os.makedirs(here, exist_ok=True)
    quantised_file()
    as_gguf(*tiny_llama())
