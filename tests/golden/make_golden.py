#!/usr/bin/env python3
"""Writes the golden models and their oracles: tests/golden/models/NAME/{config.json, *.safetensors, oracle.safetensors}.

usage: make_golden.py [NAME...]     (needs tests/peers/requirements.txt; the fixtures are committed, so tests do not run this)

Every model is a tiny random llama, one option or two each. The oracle is transformers' own LlamaForCausalLM in float64, read from the stored
(possibly 16-bit) weights, one document a call, no padding. transformers keeps three float32 places even after .double():
  * the rotary angles: float32 position times float32 inverse frequency, cos and sin rounded to float32. KEPT as it is: a float32 program
    has to use the same angles, so this is part of the function and no rounding error of the oracle;
  * RMSNorm squares and divides in float32. REPLACED by the same formula in float64 (norm64);
  * eager attention takes its softmax in float32. AVOIDED: the sdpa path with the plain math backend stays in float64.
transformers also gives the embedding row of pad_token_id no gradient (padding_idx), even where that token is real input: SWITCHED OFF, it is
not the derivative of the loss.
make_golden.py compares the oracle with the unpatched float32 model and with central differences before it writes anything.

oracle.safetensors, k = 0, 1, 2 the document, L its length:
  ids.k (L) int32      weights.k (L) float32: 0/1 weight of predicting ids[i]; weights[0] is 0
  logits.k (L, V) float64 (not for the model "chat", whose vocabulary is large)      logprobs.k (L-1) float64: log p(ids[i+1] | ids[..i])      entropy.k (L-1) float64, of the same predictions
  loss, entropy_mean, accuracy (1) float64: means over the predictions of weight 1 of all three documents
  grad.PARAMETER (shape of the parameter) float32: gradient of loss, computed in float64 and rounded once (relative 6e-8)
"""
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

HERE = pathlib.Path(__file__).resolve().parent
LENGTHS = (7, 19, 33)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# hidden, heads, kv heads, intermediate, vocabulary; then what the model is there for
SHAPES = {
    "tied_gqa2": dict(h=24, heads=4, kv=2, ff=40, vocab=77, tied=True),
    "untied_mha_v4": dict(h=24, heads=4, kv=4, ff=36, vocab=57, style=4),
    "mqa_bias": dict(h=40, heads=4, kv=1, ff=20, vocab=53, bias=True, tied=True),
    "head_dim": dict(h=20, heads=4, kv=2, ff=28, vocab=61, head_dim=16, theta=100000.0, tied=True),
    "shards_v4": dict(h=24, heads=4, kv=2, ff=44, vocab=59, style=4, shards=3, eps=1e-6),
    "bf16_aligned": dict(h=32, heads=2, kv=1, ff=64, vocab=64, dtype="bfloat16", tied=True),
    "f16_v4": dict(h=36, heads=6, kv=3, ff=40, vocab=61, dtype="float16", style=4, theta=500000.0),
    "chat": dict(h=16, heads=4, kv=2, ff=24, vocab=290, tied=True),
}

CHAT_TEMPLATE = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You count things.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

CORPUS = [
    "A farmer has 12 apples and buys 7 more. How many apples does the farmer have? The farmer has 19 apples.",
    "There are 24 birds on a wire and 9 fly away. How many birds are left? There are 15 birds left.",
    "Anna reads 8 pages every day. How many pages does she read in 5 days? She reads 40 pages.",
    "assistant user system You count things. How many boxes are there on the shelf? There are 6 boxes on the shelf.",
]


def norm64(self, hidden_states):
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


def make_config(shape):
    config = LlamaConfig(
        hidden_size=shape["h"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv"], intermediate_size=shape["ff"],
        vocab_size=shape["vocab"], num_hidden_layers=2, tie_word_embeddings=shape.get("tied", False), attention_bias=shape.get("bias", False),
        head_dim=shape.get("head_dim"), rms_norm_eps=shape.get("eps", 1e-5), max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": shape.get("theta", 10000.0)}, dtype=shape.get("dtype", "float32"),
        architectures=["LlamaForCausalLM"], use_cache=True)
    return config


def config_v4(config):
    """config.json as transformers 4 wrote it: rope_theta, rope_scaling and torch_dtype at the top, head_dim implied."""
    rope = config.pop("rope_parameters")
    config.update(rope_theta=rope["rope_theta"], rope_scaling=None, torch_dtype=config.pop("dtype"), transformers_version="4.44.0")
    config.pop("head_dim")
    return config


def random_weights(model, generator):
    """Weights large enough that no gradient is tiny: fan-in scaling for matrices, norms around 1, biases that matter."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.data = 1 + 0.2 * noise
        elif name.endswith("bias"):
            parameter.data = 0.2 * noise
        elif "embed_tokens" in name:
            parameter.data = 0.35 * noise
        else:
            parameter.data = 1.2 * noise / parameter.shape[1] ** 0.5


def save_model(folder, model, shape):
    state = {k: v.to(DTYPES[shape.get("dtype", "float32")]).contiguous() for k, v in model.state_dict().items()}
    if shape.get("tied"):
        state.pop("lm_head.weight", None)
    shards = shape.get("shards", 1)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:  # consecutive pieces of about the same number of tensors
        names, index = list(state), {"metadata": {"total_size": sum(v.nbytes for v in state.values())}, "weight_map": {}}
        for piece in range(shards):
            file = f"model-{piece + 1:05d}-of-{shards:05d}.safetensors"
            part = names[piece * len(names) // shards:(piece + 1) * len(names) // shards]
            save_file({k: state[k] for k in part}, folder / file, metadata={"format": "pt"})
            index["weight_map"].update({k: file for k in part})
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config = json.loads(make_config(shape).to_json_string(use_diff=False))
    keep = ("architectures attention_bias attention_dropout bos_token_id dtype eos_token_id head_dim hidden_act hidden_size initializer_range "
            "intermediate_size max_position_embeddings mlp_bias model_type num_attention_heads num_hidden_layers num_key_value_heads pad_token_id "
            "pretraining_tp rms_norm_eps rope_parameters tie_word_embeddings transformers_version use_cache vocab_size").split()
    config = {k: config[k] for k in keep if k in config}
    config = config_v4(config) if shape.get("style") == 4 else config
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_tokenizer(folder, vocab):
    """A byte-level BPE tokenizer of SmolLM2's kind: single digits, GPT-2's pattern, every byte in the vocabulary, ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0], unk_token=SPECIAL[0],
                                   model_max_length=256, clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    assert len(fast) == vocab, len(fast)


def load(folder, dtype, attention="sdpa"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).to(dtype).eval()
    model.get_input_embeddings().padding_idx = None
    return model


def documents(vocab, generator):
    for length in LENGTHS:
        ids = torch.randint(0, vocab, (length,), generator=generator)
        weights = (torch.rand(length, generator=generator) < 0.6).float()
        weights[0], weights[-1] = 0, 1
        yield ids, weights


def evaluate(model, docs):
    """The means over trained predictions, and what each document gave. The loss carries the graph."""
    rows, nll, entropy, hits, count = [], 0.0, 0.0, 0.0, sum(w.sum() for _, w in docs)
    with sdpa_kernel(SDPBackend.MATH):
        for ids, weights in docs:
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            logp = torch.log_softmax(logits[:-1], -1)
            rows.append((logits.detach(), logp.gather(1, ids[1:, None])[:, 0], -(logp.exp() * logp).sum(-1)))
            w = weights[1:].to(logits.dtype)
            nll, entropy = nll - (rows[-1][1] * w).sum(), entropy + (rows[-1][2].detach() * w).sum()
            hits = hits + ((logits[:-1].argmax(-1) == ids[1:]) * w).sum()
    return nll / count, entropy / count, hits / count, rows


def check(model, folder, docs, loss, rows, grads, generator):
    """The oracle must agree with the model as shipped (float32) and with central differences of its own loss."""
    original = LlamaRMSNorm.forward
    LlamaRMSNorm.forward = CHECKED_FORWARD
    plain_loss, _, _, plain = evaluate(load(folder, torch.float32, "eager"), docs)
    LlamaRMSNorm.forward = original
    worst = max((a[0] - b[0]).abs().max().item() for a, b in zip(rows, plain))
    assert worst < 2e-5 and abs(plain_loss.item() - loss.item()) < 2e-6, (worst, plain_loss, loss)
    for name, parameter in model.named_parameters():
        i, step = int(torch.randint(0, parameter.numel(), (1,), generator=generator)), 1e-5
        flat, sides = parameter.data.view(-1), []
        kept = flat[i].item()
        for sign in (1, -1):
            flat[i] = kept + sign * step
            with torch.no_grad():
                sides.append(evaluate(model, docs)[0].item())
        flat[i] = kept
        slope, grad = (sides[0] - sides[1]) / (2 * step), grads[name].view(-1)[i].item()
        assert abs(slope - grad) < 1e-7 + 1e-5 * abs(grad), (name, slope, grad)
    return worst


CHECKED_FORWARD = LlamaRMSNorm.forward


def write_oracle(folder, seed, logits_too=True, gradients_too=True):
    """oracle.safetensors of the model directory; (loss, largest difference of its logits from the float32 model's)."""
    LlamaRMSNorm.forward = norm64
    model, generator = load(folder, torch.float64), torch.Generator().manual_seed(seed)
    docs = list(documents(model.config.vocab_size, generator))
    loss, entropy, accuracy, rows = evaluate(model, docs)
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    worst = check(model, folder, docs, loss, rows, grads, generator)
    out = {"loss": loss.detach().view(1), "entropy_mean": entropy.view(1), "accuracy": accuracy.view(1)}
    for k, ((ids, weights), (logits, logprobs, ent)) in enumerate(zip(docs, rows)):
        out.update({f"ids.{k}": ids.int(), f"weights.{k}": weights, f"logprobs.{k}": logprobs.detach(), f"entropy.{k}": ent.detach()})
        if logits_too:
            out[f"logits.{k}"] = logits
    if gradients_too:
        out.update({f"grad.{name}": g.float() for name, g in grads.items()})
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "oracle.safetensors",
              metadata={"made_by": "make_golden.py", "transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__})
    (folder / "oracle.safetensors").chmod(0o644)
    LlamaRMSNorm.forward = CHECKED_FORWARD
    return loss.item(), worst


def main(names):
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for seed, (name, shape) in enumerate(SHAPES.items()):
        if names and name not in names:
            continue
        folder = HERE / "models" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = AutoModelForCausalLM.from_config(make_config(shape), dtype=torch.float32)
        random_weights(model, torch.Generator().manual_seed(100 + seed))
        save_model(folder, model, shape)
        if name == "chat":
            save_tokenizer(folder, shape["vocab"])
        loss, worst = write_oracle(folder, 1000 + seed, logits_too=name != "chat")
        for file in folder.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name:14s} loss {loss:.6f}  |float32 model - oracle| <= {worst:.1e}  {size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
