#!/usr/bin/env python3
"""Writes tests/data/golden_peft/compose{,_large}.safetensors: adapters merged by PEFT's own add_weighted_adapter.

    python3 tests/data/make_peft_goldens.py [FOLDER]

Needs torch, peft 0.21 and safetensors. All is computed in float64, so that what differs from ours is no rounding.
Tensors: ADAPTER.SLOT.{A,B,scale} of the adapters, CASE.SLOT.{A,B,scale} of the merged ones, and for DARE
CASE.SLOT.ADAPTER.mask.PART, the mask that torch drew: PART is A or B, or D of the full change for *_svd; row by
row, eight elements a byte, the first of them in its highest bit. The adapters of the large problem are numbers that
float32 has, and are stored so. The metadata name the slots and the cases, one a line: NAME METHOD ADAPTERS WEIGHTS
DENSITY SIGN RANK, lists with commas, - for none.
"""

import pathlib
import sys

import numpy
import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

EQUAL = ["first", "second", "third"]
UNEQUAL = ["first", "wide", "third"]
WEIGHTS = [0.75, -0.5, 1.5]
SMALL = {
    "d_in": 12, "d_out": 10, "slots": ["one", "two"], "stored": torch.float64,
    "adapters": {  # rank, alpha, slots, rsLoRA
        "first": (4, 8, ["one", "two"], False),
        "second": (4, 2, ["one", "two"], False),
        "third": (4, 5, ["one"], False),
        "wide": (6, 3, ["one", "two"], False),
    },
    "cases": [  # name, method, adapters, weights, density, sign, rank
        ("linear", "linear", EQUAL, WEIGHTS, None, "total", None),
        ("cat", "cat", UNEQUAL, WEIGHTS, None, "total", None),
        ("svd", "svd", UNEQUAL, WEIGHTS, None, "total", 3),
        ("svd_largest", "svd", UNEQUAL, WEIGHTS, None, "total", None),
        ("magnitude", "magnitude_prune", EQUAL, WEIGHTS, 0.3, "total", None),
        ("magnitude_svd", "magnitude_prune_svd", UNEQUAL, WEIGHTS, 0.3, "total", 5),
        ("ties", "ties", EQUAL, WEIGHTS, 0.4, "total", None),
        ("ties_votes", "ties", EQUAL, WEIGHTS, 0.7, "frequency", None),
        ("ties_dense", "ties", EQUAL, [1.0, 1.0, 1.0], 1.0, "total", None),
        ("ties_svd", "ties_svd", UNEQUAL, WEIGHTS, 0.4, "total", 5),
        ("ties_svd_votes", "ties_svd", UNEQUAL, WEIGHTS, 0.2, "frequency", 10),
        ("dare_linear", "dare_linear", EQUAL, WEIGHTS, 0.5, "total", None),
        ("dare_ties", "dare_ties", EQUAL, WEIGHTS, 0.5, "total", None),
        ("dare_ties_votes", "dare_ties", EQUAL, WEIGHTS, 0.6, "frequency", None),
        ("dare_linear_svd", "dare_linear_svd", UNEQUAL, WEIGHTS, 0.5, "total", 10),
        ("dare_ties_svd", "dare_ties_svd", UNEQUAL, WEIGHTS, 0.5, "total", 10),
    ],
}

SLOTS = ["one", "two", "three"]
SIX = ["a", "b", "c", "d", "e", "f"]
SIX_WEIGHTS = [0.75, -0.5, 1.5, 0.3, 1.0, 0.9]
LARGE = {
    "d_in": 48, "d_out": 64, "slots": SLOTS, "stored": torch.float32,
    "adapters": {
        "a": (8, 16, SLOTS, False),
        "b": (8, 8, SLOTS, False),
        "c": (8, 4, SLOTS, False),
        "d": (8, 24, ["one", "three"], False),
        "e": (8, 8, SLOTS, True),
        "f": (8, 10, ["two", "three"], False),
    },
    "cases": [
        ("linear", "linear", SIX, SIX_WEIGHTS, None, "total", None),
        ("cat", "cat", SIX, SIX_WEIGHTS, None, "total", None),
        ("svd", "svd", SIX, SIX_WEIGHTS, None, "total", 12),
        ("svd_largest", "svd", SIX, SIX_WEIGHTS, None, "total", None),
        ("magnitude_few", "magnitude_prune", SIX, SIX_WEIGHTS, 0.1, "total", None),
        ("magnitude_most", "magnitude_prune", SIX, SIX_WEIGHTS, 0.7, "total", None),
        ("magnitude_svd", "magnitude_prune_svd", SIX, SIX_WEIGHTS, 0.3, "total", None),
        ("ties_few", "ties", SIX, SIX_WEIGHTS, 0.2, "total", None),
        ("ties_most", "ties", SIX, SIX_WEIGHTS, 0.8, "total", None),
        ("ties_votes", "ties", SIX, SIX_WEIGHTS, 0.5, "frequency", None),
        ("ties_svd", "ties_svd", SIX, SIX_WEIGHTS, 0.2, "total", None),
        ("ties_svd_votes", "ties_svd", SIX, SIX_WEIGHTS, 0.6, "frequency", 12),
        ("dare_linear_few", "dare_linear", SIX, SIX_WEIGHTS, 0.2, "total", None),
        ("dare_linear_most", "dare_linear", SIX, SIX_WEIGHTS, 0.9, "total", None),
        ("dare_ties", "dare_ties", SIX, SIX_WEIGHTS, 0.5, "total", None),
        ("dare_ties_votes", "dare_ties", SIX, SIX_WEIGHTS, 0.3, "frequency", None),
        ("dare_linear_svd", "dare_linear_svd", SIX, SIX_WEIGHTS, 0.4, "total", None),
        ("dare_ties_svd", "dare_ties_svd", SIX, SIX_WEIGHTS, 0.6, "total", None),
    ],
}


class Toy(torch.nn.Module):
    """Linear layers, the slots."""

    def __init__(self, problem):
        super().__init__()
        for slot in problem["slots"]:
            self.add_module(slot, torch.nn.Linear(problem["d_in"], problem["d_out"]))

    def forward(self, x):
        return sum(layer(x) for layer in self.children())


def config(problem, name):
    rank, alpha, slots, rslora = problem["adapters"][name]
    return peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=slots, use_rslora=rslora)


def lora_layers(model):
    return {name.rsplit(".", 1)[-1]: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def tensors_of(model, adapter, stored_as, dtype=torch.float64):
    tensors = {}
    for slot, layer in lora_layers(model).items():
        if adapter in layer.lora_A:
            tensors[f"{stored_as}.{slot}.A"] = layer.lora_A[adapter].weight.detach().to(dtype, copy=True)
            tensors[f"{stored_as}.{slot}.B"] = layer.lora_B[adapter].weight.detach().to(dtype, copy=True)
            tensors[f"{stored_as}.{slot}.scale"] = torch.tensor(float(layer.scaling[adapter]))
    return tensors


def named_masks(problem, case, masks):
    """The masks in the order that PEFT draws them: slot by slot, of every adapter's A, then of every B."""
    name, method, adapters = case[:3]
    names = [
        f"{name}.{slot}.{adapter}.mask.{part}"
        for slot in problem["slots"]
        for part in ("D" if method.endswith("_svd") else "AB")
        for adapter in adapters
        if slot in problem["adapters"][adapter][2]
    ]
    assert len(masks) == (len(names) if method.startswith("dare") else 0)
    return dict(zip(names, masks))


def text(values):
    return "-" if values is None else ",".join(map(str, values)) if isinstance(values, list) else str(values)


def write(problem, path):
    torch.manual_seed(1)
    model = None
    for name in problem["adapters"]:
        if model is None:
            model = peft.get_peft_model(Toy(problem), config(problem, name), adapter_name=name)
        else:
            model.add_adapter(name, config(problem, name))
    tensors = {}
    for name in problem["adapters"]:
        for layer in lora_layers(model).values():
            for factor in (layer.lora_A, layer.lora_B):
                if name in factor:
                    drawn = torch.randn_like(factor[name].weight)
                    factor[name].weight.data = drawn.to(problem["stored"]).double()
        tensors |= tensors_of(model, name, name, problem["stored"])

    masks = []
    bernoulli = torch.bernoulli

    def recording(*args, **kwargs):
        mask = bernoulli(*args, **kwargs)
        masks.append(torch.from_numpy(numpy.packbits(mask.bool().numpy())))
        return mask

    lines = []
    torch.bernoulli = recording
    try:
        for case in problem["cases"]:
            name, method, adapters, weights, density, sign, rank = case
            masks.clear()
            model.base_model.add_weighted_adapter(
                adapters, weights, f"merged_{name}", combination_type=method, svd_rank=rank, density=density,
                majority_sign_method=sign)
            tensors |= tensors_of(model, f"merged_{name}", name)
            tensors |= named_masks(problem, case, masks)
            lines.append(" ".join(map(text, case)))
    finally:
        torch.bernoulli = bernoulli
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path,
              metadata={"format": "pt", "peft": peft.__version__, "torch": torch.__version__,
                        "slots": ",".join(problem["slots"]), "cases": "\n".join(lines)})
    print(f"{len(tensors)} tensors, {len(lines)} cases, {path.stat().st_size} bytes in {path}")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "golden_peft")
    torch.set_default_dtype(torch.float64)
    write(SMALL, folder / "compose.safetensors")
    write(LARGE, folder / "compose_large.safetensors")


if __name__ == "__main__":
    main()
