#!/usr/bin/env python3
"""Refuses an include that points the wrong way.

usage: check_layers.py [ROOT]

The order of the layers is that of the hone_layer lines in CMakeLists.txt. A file of src/hone/LAYER may include "hone/X/..." only where X is LAYER or
stands before it; a layer without TORCH in its line includes nothing of LibTorch; apps/hone may include all, and nothing includes apps.
"""
import pathlib
import re
import sys

LIBTORCH = re.compile(r"(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)


def layers_of(cmake):
    """The layers in order, each with whether it may use LibTorch."""
    order = {}
    for kernel, name, torch in re.findall(r"^hone_(kernel_)?layer\((\w*)\s*(TORCH)?", cmake, re.MULTILINE):
        order["kernels" if kernel else name] = bool(torch)
    return order


def faults_of(path, layer, order):
    names = list(order)
    for match in INCLUDE.finditer(path.read_text()):
        target = match.group(2)
        line = path.read_text()[: match.start()].count("\n") + 1
        if target.startswith("..") or target.startswith("apps/"):
            yield line, f'"{target}": write it from src, as "hone/LAYER/FILE.h"'
        elif LIBTORCH.match(target) and not order[layer]:
            yield line, f"<{target}>: layer {layer} knows nothing of LibTorch"
        elif target.startswith("hone/"):
            other = target.split("/")[1]
            if other not in order:
                yield line, f'"{target}": no such layer'
            elif names.index(other) > names.index(layer):
                yield line, f'"{target}": {layer} stands before {other}'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent)
    order = layers_of((root / "CMakeLists.txt").read_text())
    if len(order) < 2:
        sys.exit(f"check_layers: no hone_layer lines in {root / 'CMakeLists.txt'}")
    faults = []
    count = 0
    for folder in sorted((root / "src" / "hone").iterdir()):
        if folder.name not in order:
            faults.append(f"{folder.relative_to(root)}: not a layer of CMakeLists.txt")
            continue
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".h", ".cpp", ".inc")):
            count += 1
            faults += [f"{path.relative_to(root)}:{line}: {text}" for line, text in faults_of(path, folder.name, order)]
    print("\n".join(faults) if faults else f"check_layers: {count} files of {len(order)} layers, every include points up")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
