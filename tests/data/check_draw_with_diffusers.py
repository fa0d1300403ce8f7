#!/usr/bin/env python3
"""Compares the pictures of `mole draw` with those of diffusers' StableDiffusionPipeline, from the same noise.

    cmake --build BUILD --target mole_program write_pictures
    python3 tests/data/check_draw_with_diffusers.py BUILD/examples/mole/mole BUILD/tests/write_pictures

CTest runs this where CMake found a Python that can: the option --can-run asks for no more than that. With a third
argument, a folder, it also writes diffusers' pictures there; tests/data/draw was made so, with diffusers 0.42.1,
transformers 5.17, peft 0.21.2 and torch 2.15:

    python3 tests/data/check_draw_with_diffusers.py MOLE WRITE_PICTURES tests/data/draw

Needs torch, transformers, diffusers and peft. Both compute in float32. The bytes of a picture may differ by 1, where a
value lies between two. The exit status is 1 where one differs by more.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import diffusers
import peft  # noqa: F401  diffusers loads LoRAs by it
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden/vl/sd1"
CASES = {
    # name: experts with weights, prompt, negative, guidance, steps, (height, width)
    "plain": ({}, "a cat and the hat", "", 7.5, 8, (16, 16)),
    "negative": ({}, "A CAT, 42 hats!", "the world", 3.0, 5, (16, 24)),
    "unguided": ({}, "hello", "", 1.0, 4, (16, 16)),
    "kohya": ({"lora_kohya/kohya.safetensors": 1.0}, "a cat", "", 7.5, 6, (16, 16)),
    "two": (
        {"lora_kohya/kohya.safetensors": 0.5, "lora_diffusers/pytorch_lora_weights.safetensors": 0.7},
        "a cat and the hat", "", 7.5, 6, (24, 16),
    ),
}  # fmt: skip


def load_unet_lora(pipe, file, name, folder):
    """The UNet's part of a file. Its text encoder's part is left to fuse_text(): diffusers 0.42 looks for it under names
    that transformers 5 does not have, and starts it at random. Where a module has no alpha, alpha is the rank: sd-scripts,
    whose format it is, has it so, and diffusers takes the file's commonest alpha."""
    tensors = load_file(GOLDEN / file)
    own = {key: value for key, value in tensors.items() if not key.startswith(("lora_te_", "text_encoder."))}
    if any(key.endswith(".alpha") for key in own):
        for key in [key for key in own if key.endswith(".lora_down.weight")]:
            own.setdefault(key.replace(".lora_down.weight", ".alpha"), torch.tensor(float(own[key].shape[0])))
    with safe_open(GOLDEN / file, "pt") as opened:
        metadata = opened.metadata()
    path = folder / f"{name}.safetensors"
    save_file(own, path, metadata)
    pipe.load_lora_weights(str(folder), weight_name=path.name, adapter_name=name)


def fuse_text(encoder, file, weight):
    """W += weight alpha / r B A in the text encoder, whose modules a file calls lora_te_.. or text_encoder..."""
    tensors = load_file(GOLDEN / file)
    with safe_open(GOLDEN / file, "pt") as opened:
        config = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    for name, module in encoder.named_modules():
        plain = name.removeprefix("text_model.")
        for down, up, alpha in (
            (f"lora_te_text_model_{plain.replace('.', '_')}" + end for end in (".lora_down.weight", ".lora_up.weight", ".alpha")),
            (f"text_encoder.text_model.{plain}.lora_linear_layer" + end for end in (".down.weight", ".up.weight", "")),
        ):  # fmt: skip
            if down not in tensors:
                continue
            rank = tensors[down].shape[0]
            scale = tensors[alpha].item() / rank if alpha in tensors else 1.0
            if "text_encoder.lora_alpha" in config:
                scale = config["text_encoder.lora_alpha"] / config["text_encoder.r"]
            module.weight.data += weight * scale * (tensors[up] @ tensors[down])


def reference(folder, noise, experts, prompt, negative, guidance, steps, size):
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for i, (file, weight) in enumerate(experts.items()):
        load_unet_lora(pipe, file, f"e{i}", folder.parent)
        fuse_text(pipe.text_encoder, file, weight)
    if experts:
        pipe.set_adapters([f"e{i}" for i in range(len(experts))], list(experts.values()))
    image = pipe(
        prompt, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=guidance,
        negative_prompt=negative or None, latents=noise, output_type="np",
    ).images[0]  # fmt: skip
    return (image * 255).round().astype("uint8")


def drawn(program, folder, noise, experts, prompt, negative, guidance, steps, size, out):
    save_file({"latents": noise}, str(out.with_suffix(".safetensors")))
    command = [
        program, "draw", "--base", folder, "--prompt", prompt, "--negative", negative, "--guidance", str(guidance),
        "--steps", str(steps), "--size", f"{size[1]}x{size[0]}", "--noise", out.with_suffix(".safetensors"),
        "--out", out,
    ]  # fmt: skip
    if experts:
        command += ["--experts", ",".join(f"e{i}={GOLDEN / file}" for i, file in enumerate(experts))]
        command += ["--weights", ",".join(map(str, experts.values()))]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return numpy.array(Image.open(out))


def main():
    if sys.argv[1:] == ["--can-run"]:
        return 0
    program, write = sys.argv[1:3]
    kept = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
    print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
    worst = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        subprocess.run([write, str(folder / "sd")], check=True)
        for i, (name, case) in enumerate(CASES.items()):
            *_, size = case
            noise = torch.randn(1, 4, size[0] // 2, size[1] // 2, generator=torch.Generator().manual_seed(i))
            wanted = reference(folder / "sd", noise, *case)
            found = drawn(program, folder / "sd", noise, *case, folder / f"{name}.png")
            difference = numpy.abs(wanted.astype(int) - found.astype(int))
            worst = max(worst, difference.max())
            print(
                f"{name:10} largest difference {difference.max()}, bytes that differ {(difference > 0).mean():.2%}, "
                f"deviation of the picture {wanted.std():.1f}"
            )
            if kept:
                kept.mkdir(exist_ok=True)
                Image.fromarray(wanted).save(kept / f"{name}.png")
                save_file({"latents": noise}, str(kept / f"{name}.safetensors"))
    return 0 if worst <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
