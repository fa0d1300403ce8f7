#!/usr/bin/env python3
"""What sd_speed and `mole draw` do, in diffusers and PyTorch: times and peak memory.

    python3 benchmarks/stable_diffusion/with_diffusers.py draw FOLDER [--steps 3] [--size 512]
    python3 benchmarks/stable_diffusion/with_diffusers.py gates FOLDER [--steps 2] [--size 512]

In float32 on the CPU, or with `--device cuda --dtype bf16`, and with `--compile` the UNet by torch.compile.

FOLDER is what make_folder.py wrote. `draw` loads the pipeline and one LoRA, fuses it, and draws a picture with
guidance. `gates` is a training step of token gates over three LoRAs, one gate a layer, batch 2: forward, squared error
and balance loss, backward to the gates, AdamW. The gates are those of sd_speed, in rank space, written in PyTorch as
directly as it goes. Needs torch, diffusers, transformers and peft.
"""

import argparse
import pathlib
import resource
import time

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

START = time.perf_counter()


def say(text, since):
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    now = time.perf_counter()
    if torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"{text:34} {now - since[0]:9.4f} s, peak so far on the device {peak:6.2f} GiB", flush=True)
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{text:28} {now - since[0]:8.2f} s, processor {usage.ru_utime + usage.ru_stime - since[1]:8.2f} s, "
        f"peak so far {usage.ru_maxrss / 2**20:6.2f} GiB",
        flush=True,
    )


def clock():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def draw(folder, steps, size, device, dtype, compiled):
    since = clock()
    pipe = StableDiffusionPipeline.from_pretrained(folder / "sd", torch_dtype=dtype, local_files_only=True)
    pipe.to(device)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    say("load", since)
    since = clock()
    pipe.load_lora_weights(str(folder), weight_name="lora-1.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    if compiled:
        pipe.unet = torch.compile(pipe.unet)
    say("LoRA of 264 modules", since)
    marks = [clock()]

    def after(_, step, __, values):
        say(f"step {step + 1}", marks[-1])
        marks.append(clock())
        return values

    pipe("a cat", height=size, width=size, num_inference_steps=steps, guidance_scale=7.5, callback_on_step_end=after)
    say("VAE, picture", marks[-1])


class Gate(torch.nn.Module):
    """A token gate over N experts: softmax of the normalised ranks' outputs times F, over a temperature."""

    def __init__(self, ranks, n):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(ranks, n))
        self.log_tau = torch.nn.Parameter(torch.zeros(()))

    def forward(self, h):
        unit = h / h.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return torch.softmax(unit @ self.weight * torch.exp(-self.log_tau), dim=-1)


class Mixed(torch.nn.Module):
    """A frozen layer with experts in rank space: y = x W + (h * gate) Q, h = x A."""

    def __init__(self, layer, factors, scope):
        super().__init__()
        self.layer, self.scope = layer, scope
        downs, ups = [], []
        for down, up in factors:
            q, r = torch.linalg.qr(up.flatten(1).float())
            downs.append(r @ down.flatten(1).float())
            ups.append(q)
        self.register_buffer("A", torch.cat(downs))
        self.register_buffer("Q", torch.cat(ups, 1))
        self.rank = downs[0].shape[0]

    def forward(self, x):
        conv = isinstance(self.layer, torch.nn.Conv2d)
        y = self.layer(x)
        tokens = x.flatten(2).transpose(1, 2) if conv else x
        h = F.linear(tokens, self.A)
        if self.scope is None:
            mixed = F.linear(h / 3, self.Q)
        else:
            gate = self.scope.of(self, h, tokens)
            mixed = F.linear(h * gate.repeat_interleave(self.rank, dim=-1), self.Q)
        return y + (mixed.transpose(1, 2).reshape(y.shape) if conv else mixed)


class Scope:
    """The layers of one scope on one stream: the gate reads the group that is entered first."""

    def __init__(self, gate, readers):
        self.gate, self.readers, self.value, self.key = gate, readers, None, None

    def of(self, layer, h, tokens):
        if layer in self.readers and (self.key is None or self.key is not tokens):
            reads = [h if one is layer else F.linear(tokens, one.A) for one in self.readers]
            self.key = tokens
            self.value = self.gate(torch.cat(reads, dim=-1))
        return self.value


def attach(unet, files):
    loras = [load_file(file) for file in files]
    gates, scopes = torch.nn.ModuleList(), []

    def mixed(name, layer, scope):
        flat = "lora_unet_" + name.replace(".", "_")
        return Mixed(layer, [(one[flat + ".lora_down.weight"], one[flat + ".lora_up.weight"]) for one in loras], scope)

    def scope(prefix, names, n_readers):
        own = Scope(None, [])
        layers = []
        for parent, attribute, name in names:
            layer = mixed(f"{prefix}.{name}", getattr(parent, attribute) if attribute else parent[0], own)
            layers.append(layer)
            if attribute:
                setattr(parent, attribute, layer)
            else:
                parent[0] = layer
        own.readers = layers[:n_readers]
        own.gate = Gate(sum(layer.A.shape[0] for layer in own.readers), len(loras))
        gates.append(own.gate)
        scopes.append(own)

    for name, module in list(unet.named_modules()):
        kind = type(module).__name__
        if kind == "Transformer2DModel":
            for part in ("proj_in", "proj_out"):
                setattr(module, part, mixed(f"{name}.{part}", getattr(module, part), None))
        if kind != "BasicTransformerBlock":
            continue
        one, two, ff = module.attn1, module.attn2, module.ff.net
        scope(name, [(one, "to_q", "attn1.to_q"), (one, "to_k", "attn1.to_k"), (one, "to_v", "attn1.to_v"),
                             (one.to_out, None, "attn1.to_out.0")], 3)  # fmt: skip
        scope(name, [(two, "to_q", "attn2.to_q"), (two.to_out, None, "attn2.to_out.0")], 1)
        scope(name, [(two, "to_k", "attn2.to_k"), (two, "to_v", "attn2.to_v")], 2)
        own = Scope(None, [])
        first, second = mixed(f"{name}.ff.net.0.proj", ff[0].proj, own), mixed(f"{name}.ff.net.2", ff[2], own)
        ff[0].proj, ff[2] = first, second
        own.readers = [first]
        own.gate = Gate(first.A.shape[0], len(loras))
        gates.append(own.gate)
        scopes.append(own)
    return gates, scopes


def train_gates(folder, steps, size, device, dtype, compiled):
    since = clock()
    unet = UNet2DConditionModel.from_pretrained(folder / "sd/unet", torch_dtype=dtype, local_files_only=True).to(device)
    unet.requires_grad_(False)
    say("load", since)
    generator = torch.Generator().manual_seed(1)
    side = size // 8
    latents, target = (torch.randn(2, 4, side, side, generator=generator).to(device, dtype) for _ in range(2))
    text = torch.randn(2, 77, 768, generator=generator).to(device, dtype)
    times = torch.tensor([801, 301], device=device)
    if device != "cpu":
        bare = torch.compile(unet) if compiled else unet
        x = latents.clone().requires_grad_()
        for step in range(steps):
            since = clock()
            x.grad = None
            F.mse_loss(bare(x, times, text).sample, target).backward()
            say(f"bare model, forth and back {step + 1}", since)
    since = clock()
    gates, scopes = attach(unet, sorted(folder.glob("lora-*.safetensors")))
    unet.to(device, dtype)
    gates.to(device, dtype)
    say(f"attach, {len(gates)} gates", since)
    mixed = torch.compile(unet) if compiled else unet
    optimizer = torch.optim.AdamW(gates.parameters(), lr=0.01, weight_decay=0)
    for step in range(steps):
        since = clock()
        for one in scopes:
            one.key = one.value = None
        output = mixed(latents, times, text).sample
        loss = F.mse_loss(output, target)
        q = torch.stack([one.value.mean((0, 1)) for one in scopes]).mean(0)
        total = loss - 0.01 * torch.log(q).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        say(f"gate step {step + 1}, loss {loss.item():.4f}", since)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "gates"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--compile", action="store_true", help="the UNet by torch.compile")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    run = draw if options.what == "draw" else train_gates
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    run(options.folder, options.steps, options.size, options.device, dtype, options.compile)


if __name__ == "__main__":
    main()
