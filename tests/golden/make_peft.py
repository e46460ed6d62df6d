#!/usr/bin/env python3
"""Writes adapters made by PEFT and 4-bit checkpoints made by transformers + bitsandbytes, each with an oracle:
tests/golden/peft/NAME/{adapter_config.json, adapter_model.safetensors, oracle.safetensors}, tests/golden/bnb/NAME/{config.json, model.safetensors,
oracle.safetensors}.

usage: make_peft.py [NAME...]     (needs tests/peers/requirements.txt and the models of make_golden.py; the fixtures are committed)

The base of an adapter is named by its adapter_config.json, as a folder of tests/golden. Its oracle is PEFT's own model in float64, made as
make_golden.py makes its oracles (float64 norms and softmax, float32 angles, no padding row), on the documents of the base's oracle:
  ids.k, weights.k, logits.k, logprobs.k, loss   as in make_golden.py
  grad.TENSOR float32      gradient of the loss by every adapter tensor, under the plain name (no "base_model.model.", no adapter name)
  merged.TENSOR float64    what merge_and_unload makes of some modules
"pissa" (saved unconverted, which hone refuses) holds instead, for every module M and with the base in float64:
  ba.M      B @ A at the start: signs and rotations inside equal singular values drop out        residual.M  the base's weight after that
"pissa_converted" is the same trained adapter as PEFT converts it to a LoRA of the untouched base.

A 4-bit checkpoint's oracle:
  weight.M float32         one whole weight as bitsandbytes dequantises it        every7.M float32   every seventh element of the others, flattened
  logits.k, logprobs.k, loss      the float64 model with the dequantised weights        peer_logits.k   bitsandbytes' own in float32, in train() mode
                                  under no_grad: in eval mode it may switch to a bfloat16 kernel
"""
import json
import shutil
import sys

import torch
import transformers
from make_golden import CHECKED_FORWARD, HERE, LENGTHS, documents, evaluate, load, make_config, norm64, random_weights, save_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

ALL = dict(target_modules="all-linear")
QV = dict(target_modules=["q_proj", "v_proj"])
# base model, LoraConfig
ADAPTERS = {
    "default": ("tied_gqa2", dict(r=4, lora_alpha=8, **ALL)),
    "rslora": ("tied_gqa2", dict(r=4, lora_alpha=6, use_rslora=True, **ALL)),
    "dora": ("tied_gqa2", dict(r=3, lora_alpha=6, use_dora=True, **ALL)),
    "dora_bias": ("mqa_bias", dict(r=2, lora_alpha=4, use_dora=True, use_rslora=True, target_modules=["k_proj", "o_proj", "up_proj"])),
    "qv": ("untied_mha_v4", dict(r=4, lora_alpha=8, init_lora_weights="gaussian", **QV)),
    "regex": ("untied_mha_v4", dict(r=2, lora_alpha=8, target_modules=r".*layers\.1\..*(q_proj|gate_proj|down_proj)")),
    "untied": ("untied_mha_v4", dict(r=4, lora_alpha=8, lora_dropout=0.1, **ALL)),
    "bias": ("mqa_bias", dict(r=4, lora_alpha=8, **ALL)),
    "patterns": ("mqa_bias", dict(r=4, lora_alpha=8, rank_pattern={"v_proj": 2, r"layers\.1\.mlp\.(gate|up)_proj": 6},
                                  alpha_pattern={"layers.0.self_attn.q_proj": 3, "v_proj": 5}, **ALL)),
    "head_tied": ("tied_gqa2", dict(r=2, lora_alpha=4, modules_to_save=["lm_head"], **QV)),
    "head_untied": ("untied_mha_v4", dict(r=2, lora_alpha=4, modules_to_save=["lm_head"], **QV)),
    "embedding_tied": ("tied_gqa2", dict(r=2, lora_alpha=4, modules_to_save=["embed_tokens"], **QV)),
    "embedding_head_norm": ("tied_gqa2", dict(r=2, lora_alpha=4, modules_to_save=["embed_tokens", "lm_head", "model.norm"], **QV)),
}
MERGED = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.down_proj",
          "model.layers.1.mlp.up_proj", "lm_head", "model.embed_tokens", "model.norm")
# base (a golden model, or a shape of make_golden's kind), quant_type, nested, dtype it is loaded in
QUANTISED = {
    "nf4": ("mqa_bias", "nf4", False, torch.float32),
    "nf4_nested": (dict(h=64, heads=4, kv=2, ff=320, vocab=67, tied=True), "nf4", True, torch.float32),  # 320 blocks: two nested ones
    "fp4_nested": ("tied_gqa2", "fp4", True, torch.float32),
    "nf4_bf16": (dict(h=64, heads=4, kv=1, ff=64, vocab=53, dtype="bfloat16"), "nf4", True, torch.bfloat16),
}
# Rows of 32 or more elements that are no multiple of 64 are left out: there bitsandbytes 0.50.2's AVX-512 kernel takes the absmax of another
# block than its quantiser made (it counts blocks by row; everything else in bitsandbytes counts them over the flattened tensor).


def oracle_model(folder, dtype=torch.float64):
    """The golden base in float64; the float32 norm is replaced until finish()."""
    LlamaRMSNorm.forward = norm64
    return load(folder, dtype)


def finish():
    LlamaRMSNorm.forward = CHECKED_FORWARD


def plain(name):
    for part in ("base_model.model.", ".modules_to_save.default", ".default"):
        name = name.replace(part, "", 1)
    return name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name


def base_documents(base):
    oracle = load_file(HERE / base / "oracle.safetensors")
    return [(oracle[f"ids.{k}"].long(), oracle[f"weights.{k}"]) for k in range(len(LENGTHS))]


def store(folder, docs, loss, rows, more):
    out = {"loss": loss.detach().view(1), **more}
    for k, ((ids, weights), (logits, logprobs, _)) in enumerate(zip(docs, rows)):
        out.update({f"ids.{k}": ids.int(), f"weights.{k}": weights, f"logits.{k}": logits, f"logprobs.{k}": logprobs.detach()})
    save_oracle(folder, out)


def save_oracle(folder, out):
    import bitsandbytes
    import peft

    save_file({k: v.contiguous() for k, v in out.items()}, folder / "oracle.safetensors",
              metadata={"made_by": "make_peft.py", "peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__,
                        "bitsandbytes": bitsandbytes.__version__})
    for file in folder.iterdir():
        file.chmod(0o644)


def randomise(model, generator):
    """Values as after some training: B away from 0, so that A has a gradient; magnitudes and saved modules away from the base's."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if "lora_A" in name:
            parameter.data = 0.5 * noise / parameter.shape[1] ** 0.5
        elif "lora_B" in name:
            parameter.data = 0.3 * noise
        elif "magnitude" in name:
            parameter.data *= 1 + 0.1 * noise
        else:
            parameter.data += 0.1 * noise


def save_adapter(model, folder, base, **options):
    shutil.rmtree(folder, ignore_errors=True)
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False, **options)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "modules_to_save"):  # sets: PEFT's order changes from run to run
        if isinstance(config[key], list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_gradients(model, docs, trainable, generator):
    """Central differences of the oracle's own loss, one element of every tensor."""
    for name, parameter in trainable.items():
        i, step = int(torch.randint(0, parameter.numel(), (1,), generator=generator)), 1e-5
        flat, sides = parameter.data.view(-1), []
        kept = flat[i].item()
        for sign in (1, -1):
            flat[i] = kept + sign * step
            with torch.no_grad():
                sides.append(evaluate(model, docs)[0].item())
        flat[i] = kept
        slope, grad = (sides[0] - sides[1]) / (2 * step), parameter.grad.view(-1)[i].item()
        # DoRA's norm takes no gradient (the paper's section 4.3), so that A and B have another slope than the loss
        if "dora" not in name:
            assert abs(slope - grad) < 1e-7 + 1e-5 * abs(grad), (name, slope, grad)


def adapter_oracle(name, folder, base, model=None):
    """Reads the directory again through PEFT, in float64, on `model` or the golden base."""
    docs = base_documents(base)
    model = PeftModel.from_pretrained(model or oracle_model(HERE / base), folder, is_trainable=True, autocast_adapter_dtype=False).double().eval()
    trainable = {k: p for k, p in model.named_parameters() if p.requires_grad}
    loss, _, _, rows = evaluate(model, docs)
    loss.backward()
    grads = {f"grad.{plain(k)}": p.grad.float() for k, p in trainable.items()}
    assert len(grads) == len(trainable) and all(g.abs().max() > 0 for g in grads.values())
    dora = model.peft_config["default"].use_dora
    check_gradients(model, docs, {k: p for k, p in trainable.items() if not dora or "lora_A" not in k and "lora_B" not in k}, torch.Generator().manual_seed(1))
    merged_model = model.merge_and_unload()
    merged = {}
    for module in MERGED:
        layer = merged_model.get_submodule(module)
        if module.startswith("model.layers") or model.peft_config["default"].modules_to_save:
            merged[f"merged.{module}.weight"] = layer.weight.detach().clone()
    with torch.no_grad():
        again = evaluate(merged_model, docs)[3]
    worst = max((a[0] - b[0]).abs().max().item() for a, b in zip(rows, again))
    assert worst < 1e-12, worst
    store(folder, docs, loss, rows, {**grads, **merged})
    finish()
    return loss.item()


def make_adapter(name, seed):
    base, options = ADAPTERS[name]
    folder, base = HERE / "peft" / name, f"models/{base}"
    torch.manual_seed(seed)
    model = get_peft_model(load(HERE / base, torch.float32), LoraConfig(task_type="CAUSAL_LM", **options))
    randomise(model, torch.Generator().manual_seed(300 + seed))
    save_adapter(model, folder, base)
    return folder, adapter_oracle(name, folder, base)


def make_pissa():
    """PEFT's start against an SVD in float64, then some training, saved as it is and converted."""
    base, r, alpha = "models/tied_gqa2", 4, 8
    model = get_peft_model(load(HERE / base, torch.float32), LoraConfig(task_type="CAUSAL_LM", r=r, lora_alpha=alpha, init_lora_weights="pissa", **ALL))
    out, weights = {}, load(HERE / base, torch.float64).state_dict()
    for name, module in model.base_model.model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        u, s, v = torch.linalg.svd(weights[f"{name}.weight"], full_matrices=False)
        product = (u[:, :r] * s[:r]) @ v[:r]  # scaling * B @ A
        out[f"ba.{name}"], out[f"residual.{name}"] = product / (alpha / r), weights[f"{name}.weight"] - product
        theirs = (module.lora_B["default"].weight @ module.lora_A["default"].weight).double()
        assert (theirs - out[f"ba.{name}"]).abs().max() < 1e-5 and (module.base_layer.weight.double() - out[f"residual.{name}"]).abs().max() < 1e-5
    folder, converted, start = HERE / "peft" / "pissa", HERE / "peft" / "pissa_converted", HERE / "peft" / "pissa_start"
    model.peft_config["default"].init_lora_weights = True  # PEFT's own recipe: the start is saved as a plain adapter
    save_adapter(model, start, base)
    model.peft_config["default"].init_lora_weights = "pissa"
    generator = torch.Generator().manual_seed(399)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder, base)
    save_adapter(model, converted, base, path_initial_model_for_weight_conversion=str(start))
    shutil.rmtree(start)
    save_oracle(folder, out)
    loss = adapter_oracle("pissa_converted", converted, base)
    with torch.no_grad():  # the converted adapter on the untouched base is the trained model
        theirs = evaluate(model.eval(), base_documents(base))[0].item()
    assert abs(theirs - loss) < 1e-5, (theirs, loss)
    return converted, loss


def quantised_model(folder, quant_type, nested, dtype):
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=options, dtype=dtype, device_map="cpu", attn_implementation="sdpa")


def dequantised(model):
    """{module: float32 weight}: code times absmax in float32, whatever dtype the checkpoint computes in."""
    from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise

    out = {}
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit":
            state, kept = module.weight.quant_state, module.weight.quant_state.dtype
            state.dtype = torch.float32
            out[name] = dequantize_4bit(module.weight.data, state).clone()
            state.dtype = kept
            absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
            codes = module.weight.data.view(-1)
            values = state.code[torch.stack([codes >> 4, codes & 15], 1).view(-1).long()] * absmax.repeat_interleave(64)[:2 * codes.numel()]
            assert torch.equal(out[name].view(-1), values), name
    return out


def float64_of(model, weights, source):
    """The float64 model whose linears hold the dequantised weights."""
    exact = oracle_model(source)
    for name, weight in weights.items():
        exact.get_submodule(name).weight.data = weight.double()
    return exact


def make_quantised(name, seed):
    base, quant_type, nested, dtype = QUANTISED[name]
    folder = HERE / "bnb" / name
    shutil.rmtree(folder, ignore_errors=True)
    source = HERE / "models" / base if isinstance(base, str) else HERE / "bnb" / f"{name}_source"
    if not isinstance(base, str):
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        model = AutoModelForCausalLM.from_config(make_config(base), dtype=torch.float32)
        random_weights(model, torch.Generator().manual_seed(400 + seed))
        save_model(source, model, base)
    model = quantised_model(source, quant_type, nested, dtype)
    model.get_input_embeddings().padding_idx = None
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu", attn_implementation="sdpa")  # what the files hold
    weights = dequantised(model)
    out = {(f"weight.{k}" if i == 0 else f"every7.{k}"): (w if i == 0 else w.reshape(-1)[::7].clone()) for i, (k, w) in enumerate(weights.items())}
    docs = list(documents(model.config.vocab_size, torch.Generator().manual_seed(500 + seed)))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.train()
        peer = [model(input_ids=ids[None], use_cache=False).logits[0].float() for ids, _ in docs]
    out.update({f"peer_logits.{k}": p for k, p in enumerate(peer)})
    loss, _, _, rows = evaluate(float64_of(model, weights, source), docs)
    finish()
    worst = max((a[0] - b).abs().max().item() for a, b in zip(rows, peer))
    assert worst < (2e-5 if dtype == torch.float32 else 0.2), worst
    store(folder, docs, loss, rows, out)
    if name == "nf4_nested":
        print("qlora", make_qlora(model, weights, source))
    if not isinstance(base, str):
        shutil.rmtree(source)
    return folder, loss.item()


def make_qlora(model, weights, source):
    """An adapter that PEFT made on the 4-bit model; its oracle is the same adapter on the dequantised weights in float64."""
    folder, base = HERE / "peft" / "qlora", "bnb/nf4_nested"
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **ALL))
    randomise(model, torch.Generator().manual_seed(499))
    save_adapter(model, folder, base)
    return adapter_oracle("qlora", folder, base, float64_of(model, weights, source))


def main(names):
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    makers = {n: (lambda n=n, s=s: make_adapter(n, s)) for s, n in enumerate(ADAPTERS)}
    makers["pissa"] = make_pissa
    makers.update({n: (lambda n=n, s=s: make_quantised(n, s)) for s, n in enumerate(QUANTISED)})
    for name, maker in makers.items():
        if not names or name in names:
            folder, loss = maker()
            print(f"{name:20s} loss {loss:.6f}  {sum(f.stat().st_size for f in folder.iterdir()) // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
