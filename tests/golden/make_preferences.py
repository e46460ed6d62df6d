#!/usr/bin/env python3
"""Writes tests/golden/preferences: what the loss code of TRL's trainers gives on tiny random llama models, in float64.

usage: make_preferences.py      (needs tests/peers/requirements.txt; the fixtures are committed, so tests do not run this)

  policy/, reference/      two tiny llama models: config.json, model.safetensors
  preferences.json         {"parameters": [[name, elements]], "pairs": [...], "unpaired": [...], "cases": [{name, method, options, swapped, loss, metrics}]}
                           a pair is {prompt, chosen, rejected} of token ids, an unpaired row {prompt, completion, label}; all rows of a kind are one step.
                           swapped: policy and reference change places. metrics: TRL's own, by its keys.
  gradients.safetensors    by case, all parameters' gradients of the loss in the order of "parameters", float32 (rounded once from float64)

The trainers' own _compute_loss / get_batch_loss_metrics run, on objects that were made without their constructors (no data set, no arguments).
What is not TRL's: the model's head, because TRL's fused one keeps its sums in float32 whatever the model's type (the same five figures from
the plain logits in float64: fused_head); the float64 model of make_golden.py; and where the trainers' code itself goes through float32 (the
exponent of alpha_divergence, ORPO's log-odds), those casts are taken out of its source (in_float64).
"""
import inspect
import json
import shutil
import textwrap
import types

import torch
import transformers
import trl
import trl.experimental.cpo.cpo_trainer
import trl.experimental.orpo.orpo_trainer
import trl.trainer.dpo_trainer
import trl.trainer.kto_trainer
from collections import defaultdict
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from make_golden import HERE, load, make_config, norm64, random_weights, save_model

OUT = HERE / "preferences"
VOCAB = 19
SHAPE = dict(h=8, heads=2, kv=1, ff=8, vocab=VOCAB, tied=True)
ACCELERATOR = types.SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)

DPO = {
    "sigmoid": {}, "hinge": {}, "ipo": {}, "exo_pair": dict(label_smoothing=0.1), "nca_pair": {}, "robust": dict(label_smoothing=0.1), "bco_pair": {},
    "sppo_hard": {}, "aot": {}, "aot_unpaired": {}, "apo_zero": {}, "apo_down": {}, "discopop": dict(discopop_tau=0.3), "sft": {}, "sigmoid_norm": {},
}
CASES = [dict(name=name, method="dpo", options=dict(loss_type=[name], beta=0.5, **more)) for name, more in DPO.items()]
CASES += [dict(name=name, method="dpo", options=options) for name, options in {
    "beta": dict(loss_type=["sigmoid"], beta=0.1),
    "discopop_tau": dict(loss_type=["discopop"], beta=0.1, discopop_tau=0.05),
    "aot_smoothed": dict(loss_type=["aot"], beta=0.3, label_smoothing=0.2),
    "aot_unpaired_smoothed": dict(loss_type=["aot_unpaired"], beta=0.3, label_smoothing=0.2),
    "forward_kl": dict(loss_type=["sigmoid"], beta=0.5, f_divergence_type="forward_kl"),
    "js_divergence": dict(loss_type=["sigmoid"], beta=0.5, f_divergence_type="js_divergence"),
    "alpha_divergence": dict(loss_type=["sigmoid"], beta=0.5, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.5),
    "alpha_divergence_one": dict(loss_type=["sigmoid"], beta=0.5, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1.0),
    "alpha_divergence_above": dict(loss_type=["sigmoid"], beta=0.05, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1.7),
    "js_hinge": dict(loss_type=["hinge"], beta=0.5, f_divergence_type="js_divergence"),
    "js_ipo": dict(loss_type=["ipo"], beta=0.5, f_divergence_type="js_divergence"),
    "js_exo_pair": dict(loss_type=["exo_pair"], beta=0.5, f_divergence_type="js_divergence", label_smoothing=0.05),
    "js_robust": dict(loss_type=["robust"], beta=0.5, f_divergence_type="js_divergence", label_smoothing=0.2),
    "js_discopop": dict(loss_type=["discopop"], beta=0.5, f_divergence_type="js_divergence", discopop_tau=0.3),
    "js_sigmoid_norm": dict(loss_type=["sigmoid_norm"], beta=2.0, f_divergence_type="js_divergence"),
    "ld_alpha": dict(loss_type=["sigmoid"], beta=0.5, ld_alpha=0.3),
    "ld_alpha_0": dict(loss_type=["sigmoid"], beta=0.5, ld_alpha=0.0),
    "ld_alpha_ipo": dict(loss_type=["ipo"], beta=0.5, ld_alpha=0.3),
    "ld_alpha_aot": dict(loss_type=["aot"], beta=0.5, ld_alpha=0.3),
    "ld_alpha_sft": dict(loss_type=["sigmoid", "sft"], beta=0.5, ld_alpha=0.3),
    "weighting": dict(loss_type=["sigmoid"], beta=0.5, use_weighting=True),
    "weighting_ipo": dict(loss_type=["ipo", "nca_pair"], loss_weights=[1.0, 0.3], beta=0.5, use_weighting=True),
    "weighting_ld": dict(loss_type=["sigmoid_norm"], beta=2.0, use_weighting=True, ld_alpha=0.6),
    "rpo": dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2], beta=0.5),
    "mpo": dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], beta=0.3),
    "unweighted_list": dict(loss_type=["apo_zero", "hinge"], beta=0.3),
    "aot_list": dict(loss_type=["sft", "aot", "aot_unpaired", "hinge"], loss_weights=[0.1, 0.5, 2.0, 1.0], beta=0.3),
}.items()]
CASES += [
    dict(name="kto", method="kto", options=dict(loss_type=["kto"], beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)),
    dict(name="kto_swapped", method="kto", swapped=True, options=dict(loss_type=["kto"], beta=0.2)),
    dict(name="apo_zero_unpaired", method="kto", options=dict(loss_type=["apo_zero_unpaired"], beta=0.3, undesirable_weight=1.5)),
    dict(name="orpo", method="orpo", options=dict(beta=0.1)),
    dict(name="orpo_1", method="orpo", options=dict(beta=1.0)),
    dict(name="simpo", method="simpo", options=dict(loss_type=["simpo"], beta=2.0, simpo_gamma=1.0)),
    dict(name="simpo_smoothed", method="simpo", options=dict(loss_type=["simpo"], beta=2.0, simpo_gamma=0.5, label_smoothing=0.1, cpo_alpha=0.3)),
    dict(name="alphapo", method="simpo", options=dict(loss_type=["alphapo"], beta=2.0, simpo_gamma=0.5, alphapo_alpha=0.25)),
    dict(name="cpo_sigmoid", method="simpo", options=dict(loss_type=["sigmoid"], beta=0.2, cpo_alpha=1.0)),
    dict(name="cpo_smoothed", method="simpo", options=dict(loss_type=["sigmoid"], beta=0.2, cpo_alpha=0.0, label_smoothing=0.2)),
    dict(name="cpo_hinge", method="simpo", options=dict(loss_type=["hinge"], beta=0.2, cpo_alpha=0.5)),
    dict(name="cpo_ipo", method="simpo", options=dict(loss_type=["ipo"], beta=0.5, cpo_alpha=1.0)),
]


def rows():
    """7 pairs and 6 unpaired rows of random tokens; completions of different lengths, one with a common beginning, one of a single token. No
    prompt with the completion of the row before is longer than the longest row: hone cuts those, TRL only at max_length."""
    generator = torch.Generator().manual_seed(7)

    def ids(count):
        return torch.randint(0, VOCAB, (count,), generator=generator).tolist()

    pairs = [dict(prompt=ids(p), chosen=ids(c), rejected=ids(r)) for p, c, r in ((3, 4, 9), (6, 7, 2), (1, 5, 5), (4, 1, 6), (5, 8, 3), (2, 6, 6), (3, 3, 7))]
    pairs[4]["rejected"][:2] = pairs[4]["chosen"][:2]
    unpaired = [dict(prompt=ids(p), completion=ids(c), label=label)
                for p, c, label in ((3, 5, True), (5, 2, False), (6, 8, True), (4, 4, False), (2, 1, True), (1, 6, True))]
    return pairs, unpaired


def fused_head(model):
    """What add_fused_lm_head makes of a model, in the model's own type."""
    def forward(input_ids, attention_mask, labels, fused_lm_head, use_cache):
        assert fused_lm_head and not use_cache
        logits, targets = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1], labels[:, 1:]
        mask = targets != -100
        targets = targets.clamp(min=0)
        logp = logits.log_softmax(-1)
        figures = dict(log_probs=logp.gather(-1, targets[..., None])[..., 0], entropy=-(logp.exp() * logp).sum(-1), mean_logits=logits.mean(-1).detach(),
                       log_sum_sq_probs=(2 * logp).logsumexp(-1).detach(), is_top1=logits.argmax(-1) == targets)
        return types.SimpleNamespace(**{k: v.masked_fill(~mask, 0) for k, v in figures.items()})
    return forward


class Model:
    """Called as TRL calls its patched model; everything else is the model itself."""

    def __init__(self, model):
        self.model, self.fused = model, fused_head(model)

    def __call__(self, *args, **kwargs):
        return self.fused(**kwargs) if "fused_lm_head" in kwargs else self.model(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.model, name)


def in_float64(function, *replacements):
    """The function with these pieces of its source replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in replacements:
        assert old in source, old
        source = source.replace(old, new)
    scope = dict(function.__globals__)
    exec(source, scope)
    return scope[function.__name__]


def make_trainer(kind, **attributes):
    trainer = object.__new__(kind)
    trainer.__dict__.update(accelerator=ACCELERATOR, aux_loss_enabled=False, precompute_ref_logps=False, _metrics={"train": defaultdict(list)},
                            _total_train_tokens=0, _tp_size=1, args=types.SimpleNamespace(gradient_checkpointing_kwargs=None), **attributes)
    return trainer


def run_dpo(policy, reference, options, pairs, _):
    module = trl.trainer.dpo_trainer
    trainer = make_trainer(module.DPOTrainer, model=policy, ref_model=reference, beta=options["beta"], loss_types=options["loss_type"],
                           loss_weights=options.get("loss_weights", [1.0] * len(options["loss_type"])), ld_alpha=options.get("ld_alpha"),
                           label_smoothing=options.get("label_smoothing", 0.0), use_weighting=options.get("use_weighting", False),
                           f_divergence_type=options.get("f_divergence_type", "reverse_kl"),
                           f_alpha_divergence_coef=options.get("f_alpha_divergence_coef", 0.5))
    trainer.args.discopop_tau = options.get("discopop_tau", 0.05)
    batch = module.DataCollatorForPreference(pad_token_id=0)([dict(prompt_ids=p["prompt"], chosen_ids=p["chosen"], rejected_ids=p["rejected"]) for p in pairs])
    compute = in_float64(module.DPOTrainer._compute_loss, ("torch.float32: 80.0}", "torch.float64: 80.0}"), ("t_chosen.float()", "t_chosen"),
                         ("t_rejected.float()", "t_rejected"))
    loss = compute(trainer, policy, batch, False)
    metrics = {k: v[0] for k, v in trainer._metrics["train"].items()}
    if options["loss_type"] == ["sft"]:  # hone scores no reference for it
        metrics = {k: v for k, v in metrics.items() if not k.startswith("rewards/")}
    return loss, metrics


def run_kto(policy, reference, options, _, unpaired):
    module = trl.trainer.kto_trainer
    kto = options["loss_type"] == ["kto"]
    trainer = make_trainer(module.KTOTrainer, model=policy, ref_model=reference, beta=options["beta"], loss_type=options["loss_type"][0], calculate_KL=kto,
                           desirable_weight=options.get("desirable_weight", 1.0), undesirable_weight=options.get("undesirable_weight", 1.0))
    examples = [dict(prompt_ids=r["prompt"], completion_ids=r["completion"], label=r["label"]) for r in unpaired]
    if kto:  # as _prepare_dataset does it to one batch
        for example, other in zip(examples, [unpaired[-1]] + unpaired[:-1]):
            example["KL_completion_ids"] = other["completion"]
    loss = trainer._compute_loss(policy, module.DataCollatorForUnpairedPreference(pad_token_id=0)(examples), False)
    metrics = {k: v[0] for k, v in trainer._metrics["train"].items()}
    if not kto:
        metrics.pop("kl")
    return loss, metrics


def padded(pairs):
    batch = {}
    for side in ("chosen", "rejected"):
        longest = max(len(p["prompt"] + p[side]) for p in pairs)
        for key, fill, row in (("input_ids", 0, lambda p: p["prompt"] + p[side]), ("attention_mask", 0, lambda p: [1] * len(p["prompt"] + p[side])),
                               ("labels", -100, lambda p: [-100] * len(p["prompt"]) + p[side])):
            batch[f"{side}_{key}"] = torch.tensor([row(p) + [fill] * (longest - len(row(p))) for p in pairs])
    return batch


def run_orpo(policy, _, options, pairs, __):
    module = trl.experimental.orpo.orpo_trainer
    trainer = make_trainer(module.ORPOTrainer, beta=options["beta"], is_encoder_decoder=False, padding_value=0)
    trainer.odds_ratio_loss = types.MethodType(in_float64(module.ORPOTrainer.odds_ratio_loss, ("logps.float()", "logps")), trainer)
    return trainer.get_batch_loss_metrics(policy, padded(pairs))


def run_simpo(policy, _, options, pairs, __):
    module = trl.experimental.cpo.cpo_trainer
    alphapo = options["loss_type"] == ["alphapo"]  # CPOConfig.__post_init__: simpo without the second term
    trainer = make_trainer(module.CPOTrainer, beta=options["beta"], is_encoder_decoder=False, pad_token_id=0, cpo_alpha=options.get("cpo_alpha", 0.0),
                           loss_type="simpo" if alphapo else options["loss_type"][0], alpha=options.get("alphapo_alpha", 0.0),
                           label_smoothing=options.get("label_smoothing", 0.0), simpo_gamma=options.get("simpo_gamma", 0.5))
    loss, metrics = trainer.get_batch_loss_metrics(policy, padded(pairs))
    if options.get("cpo_alpha", 0.0) == 0:
        metrics.pop("nll_loss")
    return loss, metrics


RUN = dict(dpo=run_dpo, kto=run_kto, orpo=run_orpo, simpo=run_simpo)


def make_models():
    for seed, name in ((31, "policy"), (32, "reference")):
        (OUT / name).mkdir(parents=True)
        config = make_config(SHAPE)
        config.num_hidden_layers = 1
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        random_weights(model, torch.Generator().manual_seed(seed))
        save_model(OUT / name, model, SHAPE)
        written = json.loads((OUT / name / "config.json").read_text())
        written["num_hidden_layers"] = 1
        (OUT / name / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def run_cases():
    """(case, loss, metrics, gradients) of every case, with the stored models."""
    shipped, LlamaRMSNorm.forward = LlamaRMSNorm.forward, norm64
    models = {name: Model(load(OUT / name, torch.float64).train()) for name in ("policy", "reference")}
    pairs, unpaired = rows()
    for case in CASES:
        names = ("reference", "policy") if case.get("swapped") else ("policy", "reference")
        policy, reference = (models[n] for n in names)
        policy.zero_grad(set_to_none=True)
        with sdpa_kernel(SDPBackend.MATH):
            loss, metrics = RUN[case["method"]](policy, reference, case["options"], pairs, unpaired)
            assert loss.dtype == torch.float64, (case["name"], loss.dtype)
            loss.backward()
        metrics = {k: float(v) for k, v in metrics.items() if k != "num_tokens" and (case["method"] in ("dpo", "kto") or not k.startswith("logits/"))}
        yield case, loss.item(), metrics, {n: p.grad for n, p in policy.named_parameters()}
    LlamaRMSNorm.forward = shipped


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(OUT, ignore_errors=True)
    make_models()
    pairs, unpaired = rows()
    result = dict(trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__, pairs=pairs, unpaired=unpaired, cases=[])
    gradients = {}
    for case, loss, metrics, grads in run_cases():
        result["parameters"] = [(n, g.numel()) for n, g in grads.items()]
        result["cases"].append(dict(case, loss=loss, metrics=metrics))
        gradients[case["name"]] = torch.cat([g.view(-1) for g in grads.values()]).float()
        print(f"{case['name']:24s} loss {loss:.9f}  |gradient| {gradients[case['name']].norm():.6f}", metrics.get("kl", ""))
    (OUT / "preferences.json").write_text(json.dumps(result, indent=1) + "\n")
    save_file(gradients, OUT / "gradients.safetensors", metadata={"made_by": "make_preferences.py"})
    for file in OUT.rglob("*.*"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
