#!/usr/bin/env python3
"""Writes tests/golden/trl_ppo/NAME.safetensors: what TRL 1.12.0's experimental PPOTrainer makes of given completions.

usage: make_trl_ppo.py TRL      (needs tests/peers/requirements.txt, tests/golden/models and trl_reward; TRL: a folder with trl 1.12.0, the last one
                                 that has PPO: pip download --no-deps trl==1.12.0, unpacked)

PPOTrainer.train itself runs, in float64 with the replacements that make_golden.py explains, for one rollout at learning rate 0. Four places are ours: its
completions are given instead of sampled (batch_generation), the reward model's scores are given (get_reward), and the weights change twice: the rollout is
made by the golden models plus noise, the updates over it see the golden models themselves, so that ratios, clips and values differ from what was
sampled. Its numbers are read out of its own variables, after the advantages and in every backward.

The policy is models/BASE, the value model trl_reward/NAME; completion k = 0 .. 7; V the variant; u = 0, 1 the mini-batch (order.V its completions):
  prompt.k, completion.k int32       finished (8) int32: it ends with the end token        scores (8) float64
  logprobs.k, ref_logprobs.k (n) float64, under softmax(logits / 0.7)     values.k (states) float64     all from the noisy models
  advantages.V.k (n), returns.V.k (states) float64       order.V int32
  loss.V.u, pg_loss.V.u, vf_loss.V.u, pg_clipfrac.V.u, vf_clipfrac.V.u (1) float64
  approxkl.V.u, entropy.V.u, ratio.V.u (1) float64: of the same variables, without the padding that TRL takes into its means
  metric.V.KEY (1) float64: what TRL logs       grad.V.policy.PARAMETER, grad.V.value.PARAMETER float32, of mini-batch 0
"""
import contextlib
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "trl_ppo"
BASES = {"tied": "tied_gqa2", "untied": "untied_mha_v4"}
TEMPERATURE = 0.7
END, PAD = 2, 0
# prompt, completion, whether it finishes; TRL's width is WIDTH: what reaches it was cut
LENGTHS = [(5, 6, True), (9, 12, False), (3, 1, True), (7, 11, True), (4, 12, False), (11, 8, True), (6, 2, True), (2, 9, True)]
WIDTH = 12
SCORES = [1.5, -0.7, 0.2, 3.1, -2.2, 0.9, -0.1, 1.1]
VARIANTS = {
    "plain": dict(num_mini_batches=2, kl_coef=0.05, kl_estimator="k1"),
    "whitened": dict(num_mini_batches=1, kl_coef=0.3, kl_estimator="k3", whiten_rewards=True, gamma=0.97, lam=0.9, missing_eos_penalty=1.0, vf_coef=0.5,
                     cliprange=0.1, cliprange_value=0.05),
}


def noisy(model, generator, scale):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def load(kind, folder):
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(torch.float64).train()
    model.get_input_embeddings().padding_idx = None
    return model


def completions(vocab, generator):
    out = []
    for prompt, completion, finished in LENGTHS:
        draw = lambda n: torch.randint(3, vocab, (n,), generator=generator).tolist()
        out.append((draw(prompt), draw(completion - 1) + [END] if finished else draw(completion)))
    return out


class Peer:
    """One run of PPOTrainer.train over the given completions."""

    def __init__(self, ppo, policy, value, noise, rows, options):
        self.ppo, self.out, self.updates, self.logged, self.order = ppo, {}, [], {}, []
        self.policy, self.value, self.rows = policy, value, rows
        self.kept = {m: {k: v.clone() for k, v in m.state_dict().items()} for m in (policy, value)}
        reference = noisy(load(type(policy), policy.name_or_path), noise, 0.02)
        noisy(policy, noise, 0.01), noisy(value, noise, 0.02)
        width = max(len(p) for p, _ in rows)
        queries = [torch.tensor([PAD] * (width - len(p)) + p) for p, _ in rows]
        self.number = {tuple(q.tolist()): k for k, q in enumerate(queries)}
        self.reward = torch.nn.Linear(1, 1)  # never called
        config = ppo.PPOConfig(output_dir="/tmp/make_trl_ppo", per_device_train_batch_size=8, gradient_accumulation_steps=1, total_episodes=8, learning_rate=0.0,
                               num_ppo_epochs=1, response_length=WIDTH, stop_token="eos", temperature=TEMPERATURE - 1e-7, num_sample_generations=0, use_cpu=True,
                               bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", **options)
        collate = lambda batch: {"input_ids": torch.stack(batch)}
        tokens = types.SimpleNamespace(pad_token_id=PAD, eos_token_id=END)
        self.trainer = ppo.PPOTrainer(args=config, processing_class=tokens, model=policy, ref_model=reference, reward_model=self.reward, value_model=value,
                                      train_dataset=queries, eval_dataset=queries, data_collator=collate)
        self.trainer.accelerator.backward = self.backward
        self.trainer.log = self.logged.update

    def batch_generation(self, model, queries, *_):
        self.order = [self.number[tuple(q.tolist())] for q in queries]
        answers = [self.rows[k][1] for k in self.order]
        responses = torch.tensor([a + [PAD] * (WIDTH - len(a)) for a in answers])
        both = torch.cat((queries, responses), 1)
        return both, self.ppo.forward(model, both, PAD).logits[:, queries.shape[1] - 1 : -1] / TEMPERATURE

    def get_reward(self, model, *arguments):
        if model is self.reward:
            return None, torch.tensor([SCORES[k] for k in self.order], dtype=torch.float64), None
        return self.original_reward(model, *arguments)

    def rollout_done(self):
        frame = sys._getframe(1).f_locals
        if "returns" not in frame or self.out:
            return
        for i, k in enumerate(self.order):
            n = len(self.rows[k][1])
            states = n + LENGTHS[k][2]
            for name, length in (("logprobs", n), ("ref_logprobs", n), ("advantages", n), ("values", states), ("returns", states)):
                self.out[f"{name}.{k}"] = frame[name][i, :length].clone()
        for model, weights in self.kept.items():
            model.load_state_dict(weights)

    def backward(self, loss):
        f = sys._getframe(1).f_locals
        loss.backward()
        real = ~f["padding_mask"][f["micro_batch_inds"]]
        states = ~f["padding_mask_p1"][f["micro_batch_inds"]]
        entropy = -(f["logits"].log_softmax(-1).exp() * f["logits"].log_softmax(-1)).sum(-1)
        mean = self.ppo.masked_mean
        update = {"loss": loss, "pg_loss": f["pg_loss"], "vf_loss": f["vf_loss"], "vf_clipfrac": f["vf_clipfrac"],
                  "pg_clipfrac": mean((f["pg_losses2"] > f["pg_losses"]).double(), real),
                  "approxkl": mean(0.5 * f["logprobs_diff"] ** 2, real), "entropy": mean(entropy, real), "ratio": mean(f["ratio"], real)}
        assert states.sum() > real.sum() and 0 < update["pg_clipfrac"] < 1 and 0 < update["vf_clipfrac"] < 1, update
        assert f["micro_batch_inds"].size == self.trainer.args.mini_batch_size
        self.updates.append(({k: v.detach().double().reshape(1) for k, v in update.items()}, [self.order[i] for i in f["micro_batch_inds"]],
                             {f"{name}.{key}": p.grad.clone() for name, m in (("policy", self.policy), ("value", self.value)) for key, p in m.named_parameters()}))

    def run(self):
        self.original_reward = self.ppo.get_reward
        changed = {"batch_generation": self.batch_generation, "get_reward": self.get_reward, "empty_cache": self.rollout_done}
        kept = {name: getattr(self.ppo, name) for name in changed}
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: [setattr(self.ppo, k, v) for k, v in kept.items()])
            for name, hook in changed.items():
                setattr(self.ppo, name, hook)
            self.trainer.train()
        return self


def write(ppo, name, base, variants):
    from make_golden import norm64
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    LlamaRMSNorm.forward = norm64
    out = {}
    for variant in variants:
        generator = torch.Generator().manual_seed(5)
        torch.manual_seed(0)
        policy = load(AutoModelForCausalLM, HERE / "models" / base)
        value = load(AutoModelForSequenceClassification, HERE / "trl_reward" / name)
        rows = completions(policy.config.vocab_size, generator)
        with sdpa_kernel(SDPBackend.MATH):
            peer = Peer(ppo, policy, value, generator, rows, VARIANTS[variant]).run()
        for k, (prompt, completion) in enumerate(rows):
            out[f"prompt.{k}"], out[f"completion.{k}"] = torch.tensor(prompt, dtype=torch.int32), torch.tensor(completion, dtype=torch.int32)
        out["finished"] = torch.tensor([f for _, _, f in LENGTHS], dtype=torch.int32)
        out["scores"] = torch.tensor(SCORES, dtype=torch.float64)
        for key, tensor in peer.out.items():
            assert tensor.dtype == torch.float64, key
            kind, k = key.split(".")
            out[f"{kind}.{variant}.{k}" if kind in ("advantages", "returns") else key] = tensor
        out[f"order.{variant}"] = torch.tensor([k for _, order, _ in peer.updates for k in order], dtype=torch.int32)
        for u, (update, _, gradients) in enumerate(peer.updates):
            for key, tensor in update.items():
                out[f"{key}.{variant}.{u}"] = tensor
            for key, gradient in gradients.items() if u == 0 else ():
                assert gradient.dtype == torch.float64
                out[f"grad.{variant}.{key}"] = gradient.float()
        for key, value_ in peer.logged.items():
            if key not in ("eps", "lr"):
                out[f"metric.{variant}.{key}"] = torch.tensor([value_], dtype=torch.float64)
        print(name, variant, {k: v.item() for k, v in peer.updates[0][0].items()}, peer.logged)
    OUT.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / f"{name}.safetensors")
    (OUT / f"{name}.safetensors").chmod(0o644)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import trl
    from trl.experimental.ppo import ppo_trainer

    assert trl.__version__ == "1.12.0", trl.__version__
    ppo_trainer.PPOConfig = __import__("trl.experimental.ppo", fromlist=["PPOConfig"]).PPOConfig
    torch.set_num_threads(1)
    write(ppo_trainer, "tied", BASES["tied"], ["plain", "whitened"])
    write(ppo_trainer, "untied", BASES["untied"], ["plain"])
    sys.exit(0)
