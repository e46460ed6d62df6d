#!/usr/bin/env python3
"""Writes tests/golden/trl_reward/NAME: a tiny random reward model as transformers saves it, and what TRL's RewardTrainer makes of a few pairs.

usage: make_trl_reward.py      (needs tests/peers/requirements.txt and tests/golden/models)

The loss is TRL's own RewardTrainer.compute_loss, called with a padded batch as its collator makes it; the model is transformers'
LlamaForSequenceClassification in float64 with the replacements that make_golden.py explains. Every sequence ends with the end-of-turn token (2), which
is no padding token (0), so that transformers reads the score there.

model.safetensors, config.json     as save_pretrained writes them; NAME "tied" stands on models/tied_gqa2, "untied" on models/untied_mha_v4
oracle.safetensors, k = 0 .. 4 the pair, V the variant (plain, margin, centred, both):
  chosen.k, rejected.k int32      prompt + completion                 prompt (5) int32: lengths of the prompts       margins (5) float64
  scores_chosen, scores_rejected (5) float64
  loss.V, accuracy.V, min_reward.V, mean_reward.V, max_reward.V, margin.V (1) float64     center_rewards_coefficient is 0.01 in centred, 0.3 in both
  grad.V.PARAMETER float32: gradient of the loss, computed in float64 and rounded once (the embedding's only in plain and both: files stay small)
"""
import collections
import pathlib
import sys
import types

import torch
from make_golden import norm64
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, LlamaForSequenceClassification
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "trl_reward"
BASES = {"tied": "tied_gqa2", "untied": "untied_mha_v4"}
SEEDS = {"tied": 1, "untied": 1}  # of those that give both signs of r_c - r_r
# tokens of the prompt, then of the two completions (end-of-turn token included)
LENGTHS = [(6, 4, 9), (11, 7, 2), (3, 5, 5), (17, 12, 14), (9, 1, 8)]
VARIANTS = {"plain": (False, None), "margin": (True, None), "centred": (False, 0.01), "both": (True, 0.3)}


def make_pairs(vocab, generator):
    def draw(n):
        return torch.randint(3, vocab, (n,), generator=generator).tolist()

    for index, (prompt, chosen, rejected) in enumerate(LENGTHS):
        shared, common = draw(prompt), draw(2) if index == 3 else []  # the fourth pair's completions begin alike
        yield {"chosen_ids": shared + common + draw(chosen - 1) + [2], "rejected_ids": shared + common + draw(rejected - 1) + [2],
               "margin": [0.0, 0.7, 1.5, 0.25, 3.0][index]}, prompt


def stub(model, coefficient):
    """What RewardTrainer.compute_loss reads of a trainer."""
    return types.SimpleNamespace(model=model, args=types.SimpleNamespace(center_rewards_coefficient=coefficient), _total_train_tokens=0, _tp_size=1,
                                 _metrics={"train": collections.defaultdict(list), "eval": collections.defaultdict(list)},
                                 accelerator=types.SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x))


def write(name, base):
    generator = torch.Generator().manual_seed(SEEDS[name])
    config = AutoConfig.from_pretrained(HERE / "models" / base, num_labels=1)
    config.architectures = None
    model = LlamaForSequenceClassification(config)
    weights = load_file(HERE / "models" / base / "model.safetensors")
    weights.pop("lm_head.weight", None)
    weights["score.weight"] = 1.2 * torch.randn((1, config.hidden_size), generator=generator) / config.hidden_size**0.5
    missing = model.load_state_dict(weights, strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    folder = OUT / name
    model.save_pretrained(folder)
    model = LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(torch.float64).train()
    assert model.config.num_labels == 1
    model.get_input_embeddings().padding_idx = None
    pairs, prompts = zip(*make_pairs(config.vocab_size, generator))
    out = {f"{side}.{k}": torch.tensor(p[f"{side}_ids"], dtype=torch.int32) for k, p in enumerate(pairs) for side in ("chosen", "rejected")}
    out["prompt"], out["margins"] = torch.tensor(prompts, dtype=torch.int32), torch.tensor([p["margin"] for p in pairs], dtype=torch.float64)
    for variant, (with_margin, coefficient) in VARIANTS.items():
        rows = [p if with_margin else {k: v for k, v in p.items() if k != "margin"} for p in pairs]
        inputs = DataCollatorForPreference(pad_token_id=0)(rows)
        if with_margin:
            inputs["margin"] = inputs["margin"].double()
        trainer = stub(model, coefficient)
        model.zero_grad()
        original, LlamaRMSNorm.forward = LlamaRMSNorm.forward, norm64
        with sdpa_kernel(SDPBackend.MATH):
            kept = {}
            handle = model.register_forward_hook(lambda module, args, output: kept.update(scores=output.logits.detach().squeeze(-1)))
            peer = lambda margin=None, **kwargs: model(**kwargs)  # TRL hands the margins to the model, too; a real trainer's models ignore them
            loss = RewardTrainer.compute_loss(trainer, peer, inputs)
            handle.remove()
        LlamaRMSNorm.forward = original
        loss.backward()
        out[f"loss.{variant}"] = loss.detach().reshape(1)
        for key in ("accuracy", "min_reward", "mean_reward", "max_reward", "margin"):
            out[f"{key}.{variant}"] = torch.tensor(trainer._metrics["train"][key], dtype=torch.float64)
        out["scores_chosen"], out["scores_rejected"] = (part.clone() for part in kept["scores"].chunk(2))
        for key, parameter in model.named_parameters():
            assert parameter.grad.dtype == torch.float64
            if "embed_tokens" not in key or variant in ("plain", "both"):
                out[f"grad.{variant}.{key}"] = parameter.grad.float()
        print(name, variant, loss.item(), {k: v[0] for k, v in trainer._metrics["train"].items()})
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "oracle.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for arguments in BASES.items():
        write(*arguments)
    sys.exit(0)
