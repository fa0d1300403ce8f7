#!/usr/bin/env python3
"""Writes a model folder again with its linear layers in NF4, in the files of transformers and bitsandbytes.

    python3 benchmarks/peers/make_nf4.py MODEL OUT

For a machine without bitsandbytes: each block of 64 numbers is divided by its largest and takes the nearest of NF4's 16
values (Dettmers et al. 2023). The head, embeddings and norms stay as they are. Needs torch and safetensors.
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

VALUES = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0])
BLOCK = 64


def packed(weight):
    """The tensors that bitsandbytes keeps of a matrix, by what its name is followed by."""
    numbers = weight.float().reshape(-1, BLOCK)
    largest = numbers.abs().amax(1)
    share = numbers / largest.clamp(min=1e-30)[:, None]
    codes = torch.bucketize(share, (VALUES[1:] + VALUES[:-1]) / 2).to(torch.uint8).reshape(-1, 2)
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(weight.shape)}
    return {"": (codes[:, :1] << 4 | codes[:, 1:]).contiguous(), ".absmax": largest, ".quant_map": VALUES.clone(),
            ".quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    source, target = args.model, args.out
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target)
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors.update({name + end: part for end, part in packed(tensor).items()})
        else:
            tensors[name] = tensor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
                                     "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False,
                                     "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8"}
    (target / "config.json").write_text(json.dumps(config, indent=2))


main()
