#!/usr/bin/env python3
"""Writes a Stable Diffusion of 1.5's sizes with random weights, and LoRAs for it, to measure speed and memory by.

    python3 benchmarks/stable_diffusion/make_folder.py FOLDER [--dtype f16] [--loras 3] [--rank 16]

FOLDER/sd is a pipeline of diffusers: a UNet of 860 million parameters, the VAE and the text encoder. Its tokenizer is
the tests' small one. FOLDER/lora-1.safetensors and so on are in kohya's layout: 192 modules of the UNet and 72 of the
text encoder. Needs torch, diffusers and transformers.
"""

import argparse
import json
import pathlib

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

TOKENIZER = pathlib.Path(__file__).parents[2] / "tests/data/golden/lm/tokenizers/clip.tokenizer.json"
UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
VAE = {
    "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "bos_token_id": 0,
    "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip


def write_pipeline(folder, dtype):
    torch.manual_seed(1)
    variant = "fp16" if dtype == torch.float16 else None
    UNet2DConditionModel(**UNET).to(dtype).save_pretrained(folder / "unet", variant=variant)
    AutoencoderKL(**VAE).to(dtype).save_pretrained(folder / "vae", variant=variant)
    CLIPTextModel(CLIPTextConfig(**TEXT)).to(dtype).save_pretrained(folder / "text_encoder", variant=variant)
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    ).save_pretrained(folder / "scheduler")
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"clip_sample": False}))
    tokenizer = json.loads(TOKENIZER.read_text())["model"]
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer/vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    merges = "".join(" ".join(merge) + "\n" for merge in tokenizer["merges"])
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n" + merges)
    (folder / "tokenizer/tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def modules():
    """Name, weight's shape of each module that sd-scripts adapts: Transformer2DModel's and CLIP's linear layers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        text = CLIPTextModel(CLIPTextConfig(**TEXT))
    for name, module in unet.named_modules():
        if ".attentions." in name and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            yield "lora_unet_" + name.replace(".", "_"), module.weight.shape
    for name, module in text.named_modules():
        if ".layers." in name and isinstance(module, torch.nn.Linear):
            name = name if name.startswith("text_model.") else "text_model." + name
            yield "lora_te_" + name.replace(".", "_"), module.weight.shape


def write_lora(path, seed, rank, dtype):
    generator = torch.Generator().manual_seed(seed)
    tensors, count = {}, 0
    for name, (out, width, *kernel) in modules():
        down = torch.randn(rank, width, generator=generator) / width**0.5
        up = torch.randn(out, rank, generator=generator) * 0.02
        tensors[name + ".lora_down.weight"] = down.reshape(rank, width, *kernel).to(dtype)
        tensors[name + ".lora_up.weight"] = up.reshape(out, rank, *kernel).to(dtype)
        tensors[name + ".alpha"] = torch.tensor(float(rank))
        count += 1
    save_file(tensors, path, {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)})
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", choices=("f32", "f16"), default="f32")
    parser.add_argument("--loras", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    dtype = torch.float16 if options.dtype == "f16" else torch.float32
    write_pipeline(options.folder / "sd", dtype)
    for i in range(1, options.loras + 1):
        count = write_lora(options.folder / f"lora-{i}.safetensors", i, options.rank, torch.float16)
        print(f"lora-{i}.safetensors: {count} modules")


if __name__ == "__main__":
    main()
