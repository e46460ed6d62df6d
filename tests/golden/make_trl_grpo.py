#!/usr/bin/env python3
"""Writes tests/golden/trl_grpo/oracle.safetensors: what TRL's GRPOTrainer and RLOOTrainer make of fixed completions.

usage: make_trl_grpo.py      (needs tests/peers/requirements.txt and tests/golden/models/chat)

Advantages and counts are TRL's own _generate_and_score_completions, losses its own _compute_loss, called on a stand-in for the trainer whose
sampler and reward functions return what is fixed here and whose log-probabilities come from transformers' Llama in float64 at temperature 0.8
(with the replacements that make_golden.py explains). The old, sampler's and reference's log-probabilities are the model's with noise added,
so that ratios are far enough from 1 for every clip to bite.

  prompt.g, completion.k int32        3 prompts, 4 completions of each, k = 4g + i; a completion that does not end with 2 was cut
  rewards (12, 2) float64             NaN: unscored
  old, sampler, ref float32           of all completions' tokens, one after the other
  advantages.NAME (12), rollout.NAME/KEY (1)    of the options CASES and ADVANTAGES name; grpo_test.cpp holds the same options
  loss.NAME, metric.NAME/KEY (1) float64
  grad.NAME.PARAMETER float32         gradient of the loss, computed in float64 and rounded once (the embedding's only in a few: files stay small)
"""
import collections
import pathlib
import types

import torch
from make_golden import norm64
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from trl import GRPOTrainer, RLOOTrainer

HERE = pathlib.Path(__file__).resolve().parent
TEMPERATURE, CUT = 0.8, 11
PROMPTS, LENGTHS = [5, 9, 3], [[7, 3, 11, 6], [4, 8, 11, 2], [5, 10, 9, 4]]  # 11: cut
NAN = float("nan")
REWARDS = [[1, 0.5], [0, -0.25], [0, 0.125], [1, NAN], [NAN, NAN], [0.5, 0.75], [0, 0.25], [1, -0.5], [0, 0.5], [0, 0.5], [NAN, 1.5], [0, 0.5]]
GRPO = dict(
    loss_type="dapo", importance_sampling_level="token", epsilon=0.2, epsilon_high=None, delta=None, beta=0.0, use_bias_correction_kl=True,
    scale_rewards="group", multi_objective_aggregation="sum_then_normalize", reward_weights=[1.0, 0.5], mask_truncated_completions=False,
    entropy_coef=0.0, top_entropy_quantile=1.0, on_policy=False, correction=None, clip_max=None, clip_min=None, rows=3, max_completion_length=CUT)
LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
HIGH = {"cispo": 1.25}


def loss_cases():
    for loss in LOSSES:
        own = dict(loss_type=loss, epsilon_high=HIGH.get(loss, 0.28))
        for level in ("token", "sequence"):
            yield f"{loss}_{level}", dict(own, importance_sampling_level=level)
        yield f"{loss}_on_policy", dict(own, on_policy=True)
        yield f"{loss}_masked", dict(own, mask_truncated_completions=True)
        yield f"{loss}_rest", dict(own, beta=0.3, entropy_coef=0.05, top_entropy_quantile=0.6, correction="token_truncate", clip_max=1.1)
    for level in ("token", "sequence"):
        yield f"delta_{level}", dict(epsilon_high=0.3, delta=1.15, importance_sampling_level=level)
        yield f"beta_{level}", dict(beta=0.2, importance_sampling_level=level)
        yield f"beta_plain_{level}", dict(beta=0.2, use_bias_correction_kl=False, importance_sampling_level=level)
    yield "beta_on_policy", dict(beta=0.2, on_policy=True)
    yield "entropy", dict(entropy_coef=0.1)
    yield "quantile", dict(top_entropy_quantile=0.35)
    yield "third", dict(rows=1)
    yield "third_masked", dict(rows=1, mask_truncated_completions=True, loss_type="cispo", epsilon_high=1.25)
    for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
        yield mode, dict(correction=mode, clip_max=1.3, clip_min=0.8 if "token" in mode else None)
    yield "vespo_sequence_mask", dict(loss_type="vespo", correction="sequence_mask", clip_max=1.3)


def advantage_cases():
    for scale in ("group", "batch", "none"):
        yield f"scale_{scale}", dict(scale_rewards=scale)
    yield "weights", dict(reward_weights=[0.25, 2.0])
    yield "normalize_then_sum", dict(multi_objective_aggregation="normalize_then_sum")


RLOO = dict(beta=0.0, epsilon=0.2, epsilon_high=None, normalize_advantages=False, reward_clip_range=None, reward_weights=[1.0, 0.5],
            mask_truncated_completions=False)
RLOO_CASES = {"rloo": {}, "rloo_beta": dict(beta=0.05, epsilon_high=0.3), "rloo_normalized": dict(normalize_advantages=True, beta=0.1),
              "rloo_clipped": dict(reward_clip_range=(-0.1, 0.6)), "rloo_masked": dict(mask_truncated_completions=True, beta=0.05)}
EMBEDDINGS = {"dapo_on_policy", "dapo_rest", "sapo_sequence", "rloo_beta"}  # cases that keep the embedding's gradient


class Fixture:
    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        self.model = LlamaForCausalLM.from_pretrained(HERE / "models" / "chat", dtype=torch.float32, attn_implementation="sdpa").to(torch.float64).train()
        self.model.get_input_embeddings().padding_idx = None
        draw = lambda n: torch.randint(3, self.model.config.vocab_size, (n,), generator=generator).tolist()
        self.prompts = [draw(n) for n in PROMPTS]
        self.completions = [draw(n) if n == CUT else draw(n - 1) + [2] for group in LENGTHS for n in group]
        with torch.no_grad():
            tokens = torch.cat([logprobs for logprobs, _ in self.forward(range(12))])
        noise = lambda scale: scale * torch.randn(tokens.shape, generator=generator, dtype=torch.float64)
        old = tokens + noise(0.3)
        self.given = {"old": old.float(), "sampler": (old + noise(0.2)).float(), "ref": (tokens + noise(0.4)).float()}

    def forward(self, which):
        """[(logprobs, entropies)] of the completions' tokens."""
        for k in which:
            prompt, completion = self.prompts[k // 4], self.completions[k]
            logits = self.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1:-1] / TEMPERATURE
            logp = logits.log_softmax(-1)
            yield logp.gather(-1, torch.tensor(completion).unsqueeze(-1)).squeeze(-1), -(logp.exp() * logp).sum(-1)

    def padded(self, parts):
        out = torch.zeros((len(parts), CUT), dtype=torch.float64)
        return torch.stack([torch.cat([p.double(), row[len(p):]]) for p, row in zip(parts, out)])

    def given_padded(self, name):
        return self.padded(self.given[name].split([len(c) for c in self.completions]))


def stand_in(fixture, o):
    """What the two methods of a trainer read of it."""
    def logps(model, ids, *rest, compute_entropy=False, **kwargs):
        if trainer.scoring:
            return fixture.given_padded("ref" if model == "reference" else "old"), None, None
        logprobs, entropies = zip(*fixture.forward(trainer.which))
        return fixture.padded(logprobs), fixture.padded(entropies), None

    def reduce(x, reduction):
        return x

    trainer = types.SimpleNamespace(
        **{k: v for k, v in o.items() if k not in ("reward_weights", "correction", "epsilon_high")}, scoring=True, which=list(range(12)),
        accelerator=types.SimpleNamespace(device="cpu", num_processes=1, process_index=0, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=reduce,
                                          pad_across_processes=lambda x, **k: x, sync_gradients=True, unwrap_model=lambda m: m),
        model=fixture.model, ref_model="reference", environment_factories=None, environments=None, tools=[], _is_vlm=False, pad_to_multiple_of=None,
        _tokenizer=types.SimpleNamespace(pad_token_id=0), eos_token_ids=[2], num_generations=4, chat_template_kwargs={}, log_multimodal=False,
        reward_weights=torch.tensor(o["reward_weights"]), reward_funcs=[0, 1], reward_func_names=["a", "b"], epsilon_low=o["epsilon"],
        epsilon_high=o["epsilon"] if o["epsilon_high"] is None else o["epsilon_high"], use_vllm=o.get("correction") is not None,
        vllm_importance_sampling_correction=True, vllm_importance_sampling_mode=o.get("correction"), vllm_importance_sampling_clip_max=o.get("clip_max"),
        vllm_importance_sampling_clip_min=o.get("clip_min"), off_policy_mask_threshold=None, aux_loss_enabled=False, use_adaptive_entropy=False,
        _entropy_bonus_enabled=o.get("entropy_coef", 0) != 0, current_gradient_accumulation_steps=1, _get_per_token_logps_and_entropies=logps,
        _metrics={"train": collections.defaultdict(list)}, _logs=collections.defaultdict(lambda: collections.defaultdict(list)),
        _pending_extra_logs={}, _pending_metrics={}, _last_world_entropy=0.0)
    trainer._logs.update(prompt=[], completion=[], advantages=[])
    if "reward_clip_range" not in o:
        trainer.get_high_entropy_mask = types.MethodType(GRPOTrainer.get_high_entropy_mask.__wrapped__ if hasattr(GRPOTrainer.get_high_entropy_mask, "__wrapped__")
                                                         else GRPOTrainer.get_high_entropy_mask, trainer)
        trainer.get_gamma_weights = GRPOTrainer.get_gamma_weights
    trainer.args = types.SimpleNamespace(
        per_device_train_batch_size=12, gradient_accumulation_steps=1, gradient_checkpointing_kwargs=None,
        steps_per_generation=3 // o.get("rows", 3), delta=o.get("delta"), use_bias_correction_kl=o.get("use_bias_correction_kl"), sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0)
    trainer.num_iterations = 1 if o.get("on_policy") else 2
    prompts = [p for p in fixture.prompts for _ in range(4)]
    sampler = [list(p) for p in fixture.given["sampler"].double().split([len(c) for c in fixture.completions])]
    grpo = (prompts, fixture.completions, None, [""] * 12, sampler if o.get("correction") else None, {}, None, None)
    trainer._generate = lambda _: (prompts, fixture.completions, [""] * 12) if "reward_clip_range" in o else grpo
    trainer._calculate_rewards = lambda *_: torch.tensor(REWARDS, dtype=torch.float64)
    trainer.reward_weights = trainer.reward_weights.double()
    return trainer


def plain(method):
    return getattr(method, "__wrapped__", method)


def run(kind, fixture, o):
    trainer = stand_in(fixture, o)
    batch = plain(kind._generate_and_score_completions)(trainer, [{"prompt": ""}] * 12)
    rollout = {k: v[0] for k, v in trainer._metrics["train"].items()}
    trainer._metrics["train"].clear()
    trainer.scoring = False
    advantages = batch["advantages"].double()
    if o.get("rows", 3) < 3:
        trainer.which = trainer.which[:4 * o["rows"]]
        batch = {k: v[:4 * o["rows"]] if isinstance(v, torch.Tensor) and v.dim() > 0 else v for k, v in batch.items()}
    fixture.model.zero_grad()
    loss = plain(kind._compute_loss)(trainer, fixture.model, batch)
    loss.backward()
    return advantages, rollout, loss.detach(), {k: v[0] for k, v in trainer._metrics["train"].items()}


def main():
    fixture = Fixture()
    f64 = lambda values: torch.tensor(values, dtype=torch.float64).reshape(-1)
    out = {f"prompt.{g}": torch.tensor(p, dtype=torch.int32) for g, p in enumerate(fixture.prompts)}
    out.update({f"completion.{k}": torch.tensor(c, dtype=torch.int32) for k, c in enumerate(fixture.completions)})
    out.update(fixture.given, rewards=torch.tensor(REWARDS, dtype=torch.float64))
    cases = [(GRPOTrainer, name, dict(GRPO, **more)) for name, more in loss_cases()]
    cases += [(RLOOTrainer, name, dict(RLOO, **more)) for name, more in RLOO_CASES.items()]
    for kind, name, options in cases:
        advantages, rollout, loss, metrics = run(kind, fixture, options)
        out[f"loss.{name}"] = loss.reshape(1)
        out.update({f"metric.{name}/{k}": f64([v]) for k, v in metrics.items()})
        if kind is RLOOTrainer:
            out[f"advantages.{name}"] = advantages
            out.update({f"rollout.{name}/{k}": f64([v]) for k, v in rollout.items()})
        for key, parameter in fixture.model.named_parameters():
            assert parameter.grad.dtype == torch.float64
            if "embed_tokens" not in key or name in EMBEDDINGS:
                out[f"grad.{name}.{key}"] = parameter.grad.float()
        print(name, loss.item(), {k: round(v, 4) for k, v in metrics.items()})
    for name, more in advantage_cases():
        advantages, rollout, _, _ = run(GRPOTrainer, fixture, dict(GRPO, **more))
        out[f"advantages.{name}"] = advantages
        out.update({f"rollout.{name}/{k}": f64([v]) for k, v in rollout.items()})
        print(name, advantages.tolist(), rollout)
    (HERE / "trl_grpo").mkdir(exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in out.items()}, HERE / "trl_grpo" / "oracle.safetensors")
    (HERE / "trl_grpo" / "oracle.safetensors").chmod(0o644)


if __name__ == "__main__":
    torch.set_num_threads(1)
    LlamaRMSNorm.forward = norm64
    with sdpa_kernel(SDPBackend.MATH):
        main()
