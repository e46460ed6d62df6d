#!/usr/bin/env python3
"""Writes tests/golden/bnb: what bitsandbytes 0.50 makes of tensors on a CPU, for tests/kernels/quant_golden_test.cpp.

usage: make_bnb.py      (needs tests/peers/requirements.txt)

  four_bits.safetensors   NAME.x (float32) and, for nf4 and fp4: NAME.TYPE.codes (bytes), .absmax, .values (dequantised)
  nested.safetensors      NAME.x and, of quantize_blockwise(x - offset) in blocks of 256: .codes (bytes), .absmax, .offset (torch's mean, or 0),
                          .values (dequantised, plus offset), .mean (the correctly rounded mean); and the dynamic maps: map.signed, map.unsigned
  product.safetensors     TYPE.w (N, K), .x (M, K), .dy (M, N) and, from matmul_4bit with double quantisation: .y (M, N), .dx (M, K); .wq (N, K)
Bytes are stored as int32, which oracle.h reads.
"""
import math
import pathlib

import numpy as np
import torch
import bitsandbytes as bnb
import bitsandbytes.functional as F
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent / "bnb"
TYPES = ("nf4", "fp4")


def around(values):
    """Every float32 value with its two neighbours."""
    v = np.asarray(values, dtype=np.float32)
    return np.concatenate([v, np.nextafter(v, np.float32(-np.inf)), np.nextafter(v, np.float32(np.inf))])


def four_bit_inputs():
    rng = np.random.default_rng(7)
    normal = lambda n: rng.standard_normal(n)
    cases = {f"normal_{n}": normal(n) for n in (1, 2, 3, 63, 64, 65, 127, 200, 1024)}
    cases["small_weights"] = 0.02 * normal(640)
    cases["heavy_tails"] = rng.standard_cauchy(640)
    cases["bfloat16"] = torch.tensor(normal(640)).to(torch.bfloat16).float().numpy()
    cases["float16"] = torch.tensor(normal(201)).to(torch.float16).float().numpy()
    cases["zeros_64"], cases["zeros_5"] = np.zeros(64), np.zeros(5)
    mixed = normal(320)
    mixed[64:128] = 0
    mixed[200:256] = -0.0
    cases["zero_blocks"] = mixed
    for kind in TYPES:
        code = np.sort(F.get_4bit_type(kind, device="cpu").numpy())
        ties = around((code[:-1] + code[1:]) / 2)  # 45 values in a block whose absmax is 1
        cases[f"ties_{kind}"] = np.concatenate([[1.0], ties, np.zeros(18), ties, [-1.0]])  # a whole and a partial block
        # Elsewhere x / absmax and x * (1 / absmax) may lie on two sides of a tie: the peer divides in the partial block only.
        near = around(np.float32(1.7) * (code[:-1] + code[1:]) / 2)
        cases[f"near_{kind}"] = np.concatenate([[1.7], near, np.zeros(18), near, [-1.7]])
    cases["denormal"] = np.concatenate([1e-40 * normal(64), 1e-38 * rng.random(64), 1e-40 * normal(11)])
    cases["huge"] = np.concatenate([1e38 * np.clip(normal(64), -3, 3), 3e38 * rng.random(7)])
    infinite = normal(150)
    infinite[[3, 70, 140]] = [np.inf, -np.inf, np.inf]
    broken = normal(150)
    broken[[5, 149]] = np.nan
    cases["infinite"], cases["nan"] = infinite, broken
    return {name: torch.tensor(np.asarray(x, dtype=np.float32)) for name, x in cases.items()}


def four_bits():
    tensors = {}
    for name, x in four_bit_inputs().items():
        tensors[f"{name}.x"] = x
        for kind in TYPES:
            codes, state = F.quantize_4bit(x, blocksize=64, quant_type=kind)
            tensors[f"{name}.{kind}.codes"] = codes.flatten().int()
            tensors[f"{name}.{kind}.absmax"] = state.absmax
            tensors[f"{name}.{kind}.values"] = F.dequantize_4bit(codes, state).flatten().contiguous()
    return tensors


def nested():
    rng = np.random.default_rng(8)
    cases = {f"absmax_{n}": 0.05 * (1 + 0.3 * rng.standard_normal(n)) for n in (1, 3, 255, 256, 257, 1000, 3000)}
    cases["zeros"] = np.zeros(300)
    cases["constant"] = np.full(300, 0.1)
    cases["denormal"] = 1e-39 * rng.random(20)
    codes = F.create_dynamic_map(True).numpy()
    grid = (rng.integers(0, 65535, 60) + 0.5) / 65535 * 2 - 1  # where the place on the grid changes
    plain = {"ties": around((codes[:-1] + codes[1:]) / 2), "grid": around(grid), "sweep": np.linspace(-1, 1, 1021), "heavy_tails": rng.standard_cauchy(600)}
    plain["nan"] = np.array([1, np.nan, -1, 0, 0.5])
    plain["all_nan"] = np.full(5, np.nan)
    plain["infinite"] = np.array([1, np.inf, -1, 0, -np.inf])
    for name in ("ties", "grid"):  # absmax 1 in every block
        blocks = np.array_split(plain[name], math.ceil(len(plain[name]) / 250))
        plain[name] = np.concatenate([np.concatenate([np.ones(256 - len(b)), b]) for b in blocks])
    tensors = {"map.signed": F.create_dynamic_map(True), "map.unsigned": F.create_dynamic_map(False)}
    for name, values in (cases | plain).items():
        x = torch.tensor(np.asarray(values, dtype=np.float32))
        offset = x.mean() if name in cases else torch.tensor(0.0)
        codes, state = F.quantize_blockwise(x - offset, blocksize=256)
        tensors[f"{name}.x"], tensors[f"{name}.offset"] = x, offset.reshape(1)
        tensors[f"{name}.codes"], tensors[f"{name}.absmax"] = codes.int(), state.absmax
        tensors[f"{name}.values"] = F.dequantize_blockwise(codes, state) + offset
        if name in cases:
            mean = np.float64(math.fsum(x.double().tolist())) / len(x)  # within half a unit of float64: rounds to the mean's float32
            tensors[f"{name}.mean"] = torch.tensor([mean], dtype=torch.float32)
    return tensors


def product():
    torch.manual_seed(9)
    # K is a multiple of 64: the peer's CPU code gives rows wrong scales where a block crosses from one into the next.
    M, N, K, tensors = 5, 70, 128, {}
    for kind in TYPES:
        w, x, dy = torch.randn(N, K), torch.randn(M, K, requires_grad=True), torch.randn(M, N)
        codes, state = F.quantize_4bit(w, blocksize=64, quant_type=kind, compress_statistics=True)
        y = bnb.matmul_4bit(x, codes.t(), state)
        y.backward(dy)
        for name, tensor in {"w": w, "x": x, "dy": dy, "y": y, "dx": x.grad, "wq": F.dequantize_4bit(codes, state)}.items():
            tensors[f"{kind}.{name}"] = tensor.detach().clone().contiguous()
    return tensors


def main():
    OUT.mkdir(exist_ok=True)
    versions = {"bitsandbytes": bnb.__version__, "torch": torch.__version__}
    for make in (four_bits, nested, product):
        save_file(make(), OUT / f"{make.__name__}.safetensors", metadata=versions)


if __name__ == "__main__":
    main()
