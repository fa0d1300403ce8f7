#!/usr/bin/env python3
"""Makes what the programs of this folder compare on: a model as Hugging Face has it, and LoRA experts of PEFT.

    python3 benchmarks/peers/make_folder.py FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf
    python3 benchmarks/peers/make_folder.py FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf --sizes opt-125m

FOLDER/model is the GGUF file's model, or with --sizes one of random weights and these sizes with the file's tokenizer.
FOLDER/expert-0 .. are LoRAs of rank 8 on every linear layer of the blocks, with small random factors: they cost what
trained ones cost. Needs torch, transformers, peft and gguf.
"""

import argparse
import copy
import json
import pathlib

import torch
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

# Width, feed-forward width, blocks, heads, heads of keys. Llama's 1b are the sizes of TinyLlama.
SIZES = {"opt-125m": (768, 3072, 12, 12, 12), "opt-1.3b": (2048, 8192, 24, 32, 32), "llama-1b": (2048, 5632, 22, 32, 4)}


def random_model(sizes, tokenizer, dtype):
    width, inner, blocks, heads, key_heads = SIZES[sizes]
    shared = dict(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads,
                  max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    torch.manual_seed(1)
    torch.set_default_dtype(dtype)
    if sizes.startswith("opt"):
        return OPTForCausalLM(OPTConfig(ffn_dim=inner, word_embed_proj_dim=width, dropout=0.0, **shared))
    return LlamaForCausalLM(LlamaConfig(intermediate_size=inner, num_key_value_heads=key_heads, **shared))


def write_tokenizer(gguf, folder):
    """transformers drops the splitter of SmolLM2's tokenizer, which cuts numbers into digits: it is put back."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(folder)
    if GGUFReader(gguf).fields["tokenizer.ggml.pre"].contents() == "smollm":
        path = folder / "tokenizer.json"
        text = json.loads(path.read_text(encoding="utf8"))
        text["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
        path.write_text(json.dumps(text, ensure_ascii=False), encoding="utf8")
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--sizes", choices=SIZES, help="random weights of these sizes")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="of the stored model")
    parser.add_argument("--experts", type=int, default=8)
    args = parser.parse_args()
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    target = args.folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(args.gguf, target)
    if args.sizes:
        model = random_model(args.sizes, tokenizer, dtype)
    else:
        read = AutoModelForCausalLM.from_pretrained(args.gguf.parent, gguf_file=args.gguf.name, dtype=dtype)
        # transformers does not store what it knows as quantised: a model like it takes the weights.
        config = copy.copy(read.config)
        del config.quantization_config
        model = type(read)(config).to(dtype)
        model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    torch.manual_seed(2)
    layers = [name for name, module in model.named_modules()
              if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")]
    targets = sorted({name.rpartition(".")[2] for name in layers})
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    for index in range(args.experts):
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        adapted.save_pretrained(args.folder / f"expert-{index}")
    print(f"{target} and {args.experts} experts on {', '.join(targets)}")


main()
