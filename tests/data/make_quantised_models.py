#!/usr/bin/env python3
"""Writes tests/data/quant/{llama_nf4_double,llama_fp4,llama_int8,t5_nf4}: tiny models of transformers and bitsandbytes.

    python3 tests/data/make_quantised_models.py [FOLDER]

Needs torch, transformers 5.17, accelerate, bitsandbytes 0.50 and safetensors; no GPU. expected.safetensors holds
token ids [2, 8], of a T5 labels too, and the logits that torch computes from them in float32 after every quantised layer was replaced by a
dense one with the numbers that bitsandbytes makes of its weight. The layers themselves round their input as well:
LLM.int8 to 8 bits, and the kernels of 4 bits for the CPU want widths that no tiny model has. No layer reads 48 numbers:
bitsandbytes 0.50.2 makes wrong ones of rows of 48 on the CPU, far from the weight that it had quantised.
"""

import pathlib
import shutil
import sys
import tempfile

import bitsandbytes
import torch
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration


def numbers(layer):
    weight = layer.weight
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    scales = weight.SCB if weight.SCB is not None else layer.state.SCB
    return torch.ops.bitsandbytes.int8_vectorwise_dequant(weight.data, scales).float()


def write(kind, dense, folder, **quantisation):
    model = kind.from_pretrained(dense, quantization_config=BitsAndBytesConfig(**quantisation),
                                 dtype=torch.float32, device_map="cpu").eval()
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
            weight = numbers(layer)
            plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            plain.weight.data = weight
            parent, last = name.rsplit(".", 1)
            setattr(model.get_submodule(parent), last, plain)
    ids = torch.tensor([[1, 5, 9, 30, 27, 12, 4, 43], [1, 8, 40, 17, 33, 2, 41, 6]])
    given = {"input_ids": ids}
    if kind is T5ForConditionalGeneration:
        given["labels"] = torch.tensor([[7, 3, 22, 1], [9, 14, 6, 1]])
    with torch.no_grad():
        logits = model(**given).logits.float().contiguous()
    save_file({"logits": logits, **given}, folder / "expected.safetensors")


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "quant")
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=48, hidden_size=40, intermediate_size=72, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=10, max_position_embeddings=64,
                         initializer_range=0.15, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
                         pad_token_id=0)
    four = dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    with tempfile.TemporaryDirectory() as dense:
        LlamaForCausalLM(config).float().save_pretrained(dense)
        write(LlamaForCausalLM, dense, out / "llama_nf4_double", bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, **four)
        write(LlamaForCausalLM, dense, out / "llama_fp4", bnb_4bit_quant_type="fp4", **four)
        write(LlamaForCausalLM, dense, out / "llama_int8", load_in_8bit=True)
    config = T5Config(vocab_size=48, d_model=40, d_kv=10, d_ff=72, num_layers=1, num_heads=4,
                      feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=True)
    with tempfile.TemporaryDirectory() as dense:
        T5ForConditionalGeneration(config).float().save_pretrained(dense)
        write(T5ForConditionalGeneration, dense, out / "t5_nf4", bnb_4bit_quant_type="nf4", **four)


main()
