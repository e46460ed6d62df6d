#!/usr/bin/env python3
"""Writes tests/golden/bnb_optim/trajectory.safetensors: six steps of bitsandbytes 0.50's AdamW8bit on its CPU backend.

usage: make_bnb_optim.py      (needs torch and bitsandbytes 0.50; tests/peers/requirements.txt)

  NAME/start            the parameter before the first step
  NAME/gradient/T       its gradient at step T = 1..6
  NAME/value/T          the parameter after step T
  NAME/{first,second}/T and NAME/{first,second}_absmax/T      the moments after steps 1, 2 and 6, as codes and absmax, or float32 where the
                        tensor has fewer than 4096 elements (min_8bit_size: no absmax then)

  whole    (16, 256)    4096 elements, the least that are kept in 8 bits
  ragged   (7, 733)     blocks run across rows, the last one is not full; one whole block never has a gradient, other elements now and then
  small    (17, 11)     32-bit moments

Rate 3e-3, weight decay 0.1, beta 0.9 and 0.95, epsilon 1e-8.
"""
import pathlib

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent / "bnb_optim"
SHAPES = {"whole": (16, 256), "ragged": (7, 733), "small": (17, 11)}
STEPS, KEPT = 6, (1, 2, 6)


def main():
    torch.manual_seed(20)
    torch.set_num_threads(1)
    tensors = {}
    for name, shape in SHAPES.items():
        parameter = torch.nn.Parameter(torch.randn(shape) * 0.05)
        tensors[f"{name}/start"] = parameter.detach().clone()
        optimizer = bnb.optim.AdamW8bit([parameter], lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        # Gradients of very different sizes: rows by decades, elements log-normal within them.
        size = 10.0 ** -torch.arange(shape[0]).remainder(5).float()[:, None]
        for step in range(1, STEPS + 1):
            gradient = torch.randn(shape) * torch.exp(torch.randn(shape)) * size
            if name == "ragged":
                gradient.view(-1)[512:768] = 0.0
                gradient.view(-1)[torch.randint(0, gradient.numel(), (200,))] = 0.0
            parameter.grad = gradient
            optimizer.step()
            tensors[f"{name}/gradient/{step}"] = gradient.clone()
            tensors[f"{name}/value/{step}"] = parameter.detach().clone()
            state = optimizer.state[parameter]
            if step not in KEPT:
                continue
            for ours, theirs in (("first", "state1"), ("second", "state2")):
                tensors[f"{name}/{ours}/{step}"] = state[theirs].clone()
                if state[theirs].dtype == torch.uint8:
                    tensors[f"{name}/{ours}_absmax/{step}"] = state["absmax" + theirs[-1]].clone()
    OUT.mkdir(exist_ok=True)
    save_file(tensors, OUT / "trajectory.safetensors", {"bitsandbytes": bnb.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
