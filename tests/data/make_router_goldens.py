#!/usr/bin/env python3
"""Writes tests/data/golden_peft/{arrow,xlora}.safetensors: what PEFT's Arrow and X-LoRA make of small layers.

    python3 tests/data/make_router_goldens.py [FOLDER]

Needs torch, transformers, peft 0.21 and safetensors. All is computed in float64, but for what PEFT computes in
float32 by itself. Adapters and base are numbers that float32 has, and are stored so.

arrow: x [S, L, d_in], W, bias of one linear layer; SET.I.{A,B,scale}, the experts of a set. CASE.{gate,y} are the
routing weights [S, L, N] and the layer's output. The metadata's cases: NAME SET TOP_K TEMPERATURE FOUND. FOUND says
how the top right singular vectors were found: "power", PEFT as it is, by 15 power iterations in float32; "svd",
PEFT with that one function replaced by an exact decomposition in float64. The experts of the set "gapped" have one
large singular value, so that the power iterations end; those of "close" have not.

xlora: inputs x [S, L, d] of h = two(relu(one(x))), y = three(h), h being the last hidden state;
SLOT.{weight,bias}, I.SLOT.{A,B,scale}. CASE.classifier.K are the classifier's weight and bias by turns,
CASE.scalings [S, L, n_slots, N] what it says, CASE.SLOT.gate [S, L, N] the slot's scalings after top-k, and CASE.y.
The metadata's cases: NAME LAYERWISE SOFTMAX TEMPERATURE TOP_K SOFTMAX_TOPK FIRST_PASS WEIGHT DEPTH, with 0
and 1 for no and yes and TOP_K 0 for none.
"""

import pathlib
import sys
import tempfile
import types

import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.arrow import ArrowLoraLinearLayer, create_arrow_model
from peft.tuners.xlora.layer import XLoraLayer
from safetensors.torch import save_file

D, WIDE = 48, 64
N = 6
S, L = 2, 5
SLOTS = ["one", "two", "three"]

ARROW_CASES = [  # name, set, top_k, temperature, found
    ("shipped", "gapped", 2, 1.0, "power"),
    ("shipped_dense", "gapped", N, 0.5, "power"),
    ("top_2", "close", 2, 1.0, "svd"),
    ("top_1", "close", 1, 1.0, "svd"),
    ("sharp", "close", 3, 0.25, "svd"),
    ("dense", "close", N, 2.0, "svd"),
]
XLORA_CASES = [  # name, layerwise, softmax, temperature, top_k, softmax_topk, first pass, weight, depth
    ("network", False, True, 1.0, 0, False, 0.0, 1.0, 1),
    ("layerwise", True, True, 0.5, 0, False, 0.0, 1.0, 1),
    ("network_top", False, True, 1.0, 2, False, 0.0, 1.0, 1),
    ("layerwise_top", True, True, 2.0, 3, False, 0.0, 0.8, 1),
    ("top_softmax", True, False, 1.0, 2, True, 0.0, 1.0, 1),
    ("both_softmaxes", True, True, 0.5, 3, True, 0.0, 1.0, 1),
    ("raw", True, False, 1.0, 0, False, 0.0, 0.6, 1),
    ("deep", True, True, 1.0, 0, False, 0.0, 1.0, 3),
    ("first_pass", False, True, 0.7, 0, False, 0.25, 1.5, 1),
]


def randn(*shape, size=1.0):
    return (size * torch.randn(*shape)).float().double()


def stored(tensor):
    """As float32, which must lose nothing."""
    small = tensor.detach().float().contiguous()
    assert torch.equal(small.double(), tensor.detach())
    return small


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(D, WIDE)
        self.one.weight.data, self.one.bias.data = randn(WIDE, D), randn(WIDE)

    def forward(self, x):
        return self.one(x)


class ThreeLayers(torch.nn.Module):
    """Stands for a causal model of width D: X-LoRA asks for its `config`, `model` and hidden states."""

    def __init__(self):
        super().__init__()
        self.config = transformers.PretrainedConfig()
        self.config.use_cache = False
        self.model = torch.nn.ModuleDict()
        for slot, (to, width) in zip(SLOTS, [(WIDE, D), (D, WIDE), (WIDE, D)]):
            layer = torch.nn.Linear(width, to)
            layer.weight.data, layer.bias.data = randn(to, width, size=width**-0.5), randn(to, size=0.5)
            self.model[slot] = layer

    def forward(self, inputs_embeds=None, output_hidden_states=True, return_dict=True):
        h = self.model["two"](torch.relu(self.model["one"](inputs_embeds)))
        return types.SimpleNamespace(hidden_states=(inputs_embeds, h), y=self.model["three"](h))


def save_adapters(make_base, slots, rank, factors, folder):
    """N adapters whose factors(i, slot, shape of A, shape of B) are given; their tensors and folders."""
    tensors, folders = {}, []
    for i in range(N):
        config = peft.LoraConfig(r=rank, lora_alpha=[8, 4, 16, 6, 10, 12][i], target_modules=slots)
        model = peft.get_peft_model(make_base(), config)
        layers = {name.rsplit(".", 1)[-1]: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
        for slot in slots:
            layer = layers[slot]
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            A.data, B.data = factors(i, slot, A.shape, B.shape)
            tensors |= {f"{i}.{slot}.A": stored(A), f"{i}.{slot}.B": stored(B),
                        f"{i}.{slot}.scale": torch.tensor(layer.scaling["default"])}
        folders.append(str(folder / str(i)))
        model.save_pretrained(folders[-1])
    return tensors, folders


def exact_vector(self, A, B, *args, **kwargs):
    return torch.linalg.svd(B @ A).Vh[0]


def arrow(path, folder):
    torch.manual_seed(2)
    base, x = OneLayer(), randn(S, L, D)
    tensors = {"x": stored(x), "W": stored(base.one.weight), "bias": stored(base.one.bias)}

    def factors(largest):
        def make(i, slot, A, B):
            a, b = randn(*A, size=0.125), randn(*B, size=0.125)
            b[:, 0] *= largest
            a[0] *= largest
            return a, b
        return make

    def fresh():
        layer = OneLayer()
        layer.load_state_dict(base.state_dict())
        return layer

    folders = {}
    for name, largest in [("gapped", 2), ("close", 1)]:
        written, folders[name] = save_adapters(OneLayer, ["one"], 8, factors(largest), folder / name)
        tensors |= {f"{name}.{key.replace('.one', '')}": value for key, value in written.items()}
    power, softmax = ArrowLoraLinearLayer.top_right_singular_vec_from_BA, torch.softmax
    for name, experts, top_k, temperature, found in ARROW_CASES:
        gates = []

        def recording(*args, **kwargs):
            gates.append(softmax(*args, **kwargs))
            return gates[-1]

        config = peft.ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=0)
        ArrowLoraLinearLayer.top_right_singular_vec_from_BA = power if found == "power" else exact_vector
        torch.softmax = recording
        try:
            with torch.no_grad():
                y = create_arrow_model(fresh(), folders[experts], config).eval()(x)
        finally:
            ArrowLoraLinearLayer.top_right_singular_vec_from_BA, torch.softmax = power, softmax
        assert len(gates) == 1 and y.dtype == torch.float64
        tensors |= {f"{name}.gate": gates[0].reshape(S, L, N), f"{name}.y": y}
    save(tensors, ARROW_CASES, path)


def xlora(path, folder):
    torch.manual_seed(3)
    base, x = ThreeLayers(), randn(S, L, D)
    tensors = {"x": stored(x)}
    for slot in SLOTS:
        layer = base.model[slot]
        tensors |= {f"{slot}.weight": stored(layer.weight), f"{slot}.bias": stored(layer.bias)}
    written, folders = save_adapters(ThreeLayers, SLOTS, 4,
                                     lambda i, slot, A, B: (randn(*A, size=0.2), randn(*B, size=0.2)), folder)
    tensors |= written
    after_top_k = XLoraLayer.get_maybe_topk_scalings
    for name, layerwise, softmax, temperature, top_k, softmax_topk, first_pass, weight, depth in XLORA_CASES:
        gates = []

        def recording(self, scalings):
            gates.append(after_top_k(self, scalings))
            return gates[-1]

        model = ThreeLayers()
        model.load_state_dict(base.state_dict())
        config = peft.XLoraConfig(
            hidden_size=D, adapters={str(i): folders[i] for i in range(N)}, layerwise_scalings=layerwise,
            enable_softmax=softmax, softmax_temperature=temperature, top_k_lora=top_k or None,
            enable_softmax_topk=softmax_topk, scaling_pass_value=first_pass, global_scaling_weight=weight,
            xlora_depth=depth, xlora_size=16, xlora_dropout_p=0.0)
        XLoraLayer.get_maybe_topk_scalings = recording
        try:
            model = peft.get_peft_model(model, config).eval()
            classifier = model.base_model.internal_xlora_classifier
            parameters = [p for m in classifier.layers if isinstance(m, torch.nn.Linear) for p in (m.weight, m.bias)]
            for p in parameters:
                p.data = randn(*p.shape, size=D**-0.5)
            with torch.no_grad():
                out = model(inputs_embeds=x)
        finally:
            XLoraLayer.get_maybe_topk_scalings = after_top_k
        # The first pass asks each slot once, then the second.
        assert len(gates) == 2 * len(SLOTS) and out.y.dtype == torch.float64
        tensors |= {f"{name}.classifier.{k}": stored(p) for k, p in enumerate(parameters)}
        tensors |= {f"{name}.{slot}.gate": gate for slot, gate in zip(SLOTS, gates[len(SLOTS):])}
        tensors |= {f"{name}.scalings": model.base_model.get_latest_scalings().detach(), f"{name}.y": out.y}
    save(tensors, XLORA_CASES, path)


def save(tensors, cases, path):
    lines = [" ".join(str(int(v)) if isinstance(v, bool) else str(v) for v in case) for case in cases]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path,
              metadata={"format": "pt", "peft": peft.__version__, "torch": torch.__version__,
                        "transformers": transformers.__version__, "cases": "\n".join(lines)})
    print(f"{len(tensors)} tensors, {len(lines)} cases, {path.stat().st_size} bytes in {path}")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "golden_peft")
    torch.set_default_dtype(torch.float64)
    with tempfile.TemporaryDirectory() as scratch:
        arrow(folder / "arrow.safetensors", pathlib.Path(scratch) / "arrow")
        xlora(folder / "xlora.safetensors", pathlib.Path(scratch) / "xlora")


if __name__ == "__main__":
    main()
