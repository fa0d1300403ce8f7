#!/usr/bin/env python3
"""Writes tests/data/golden_peft/compose.safetensors: adapters merged by PEFT's own add_weighted_adapter.

    python3 tests/data/make_peft_goldens.py [FOLDER]

Needs torch, peft 0.21 and safetensors. All in float64, so that what differs from ours is no rounding.
Tensors: ADAPTER.SLOT.{A,B,scale} of the adapters, CASE.SLOT.{A,B,scale} of the merged ones, and for DARE
CASE.mask.K, the K-th mask that torch drew, as it was applied: slot by slot, first A then B of each adapter, or
the full change of each adapter for *_svd. The metadata name the cases, one a line:
NAME METHOD ADAPTERS WEIGHTS DENSITY SIGN RANK, lists with commas, - for none.
"""

import pathlib
import sys

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

D_IN, D_OUT = 12, 10
ADAPTERS = {  # rank, alpha, slots
    "first": (4, 8, ["one", "two"]),
    "second": (4, 2, ["one", "two"]),
    "third": (4, 5, ["one"]),
    "wide": (6, 3, ["one", "two"]),
}
EQUAL = ["first", "second", "third"]
UNEQUAL = ["first", "wide", "third"]
WEIGHTS = [0.75, -0.5, 1.5]
CASES = [  # name, method, adapters, weights, density, sign, rank
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
]


class Toy(torch.nn.Module):
    """Two linear layers, the slots."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(D_IN, D_OUT)
        self.two = torch.nn.Linear(D_IN, D_OUT)

    def forward(self, x):
        return self.one(x) + self.two(x)


def config(name):
    rank, alpha, slots = ADAPTERS[name]
    return peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=slots)


def lora_layers(model):
    return {name.rsplit(".", 1)[-1]: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def tensors_of(model, adapter, stored_as):
    tensors = {}
    for slot, layer in lora_layers(model).items():
        if adapter in layer.lora_A:
            tensors[f"{stored_as}.{slot}.A"] = layer.lora_A[adapter].weight.detach().clone()
            tensors[f"{stored_as}.{slot}.B"] = layer.lora_B[adapter].weight.detach().clone()
            tensors[f"{stored_as}.{slot}.scale"] = torch.tensor(float(layer.scaling[adapter]))
    return tensors


def text(values):
    return "-" if values is None else ",".join(map(str, values)) if isinstance(values, list) else str(values)


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "golden_peft")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    model = None
    for name in ADAPTERS:
        if model is None:
            model = peft.get_peft_model(Toy(), config(name), adapter_name=name)
        else:
            model.add_adapter(name, config(name))
    tensors = {}
    for name in ADAPTERS:
        for layer in lora_layers(model).values():
            for factor in (layer.lora_A, layer.lora_B):
                if name in factor:
                    factor[name].weight.data = torch.randn_like(factor[name].weight)
        tensors |= tensors_of(model, name, name)

    masks = []
    bernoulli = torch.bernoulli

    def recording(*args, **kwargs):
        masks.append(bernoulli(*args, **kwargs))
        return masks[-1]

    torch.bernoulli = recording
    lines = []
    for name, method, adapters, weights, density, sign, rank in CASES:
        masks.clear()
        model.base_model.add_weighted_adapter(
            adapters, weights, f"merged_{name}", combination_type=method, svd_rank=rank, density=density,
            majority_sign_method=sign)
        tensors |= tensors_of(model, f"merged_{name}", name)
        tensors |= {f"{name}.mask.{k}": mask.clone() for k, mask in enumerate(masks)}
        lines.append(" ".join(map(text, (name, method, adapters, weights, density, sign, rank))))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "compose.safetensors",
              metadata={"format": "pt", "peft": peft.__version__, "torch": torch.__version__,
                        "cases": "\n".join(lines)})
    print(f"{len(tensors)} tensors, {len(lines)} cases in {folder / 'compose.safetensors'}")


if __name__ == "__main__":
    main()
