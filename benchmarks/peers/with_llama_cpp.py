#!/usr/bin/env python3
"""A token of greedy decoding by llama.cpp on the quantised base, bare and with one LoRA.

    python3 benchmarks/peers/with_llama_cpp.py FOLDER --gguf SmolLM2-135M-Instruct.Q4_1.gguf

FOLDER is what make_folder.py wrote; its expert-0 is written as a GGUF adapter first. Prints medians of wall and
processor time (user and system of all threads), a long answer's less a short one's. Needs gguf, safetensors and
xllamacpp, which brings llama.cpp. Its peer is with_mole.py with --base FILE.gguf --options=--quantised --experts 1.
"""

import argparse
import json
import pathlib
import re
import resource
import statistics
import time

import gguf
import numpy as np
import xllamacpp
from safetensors.numpy import load_file

PROMPT = ("<|im_start|>user\nTell me a long story about a dragon who wanted to learn mathematics.<|im_end|>\n"
          "<|im_start|>assistant\n")
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
         "up_proj": "ffn_up", "down_proj": "ffn_down"}


def write_adapter(folder, model, target):
    """A PEFT adapter of a Llama as GGUF. Rows of q and k stand in llama.cpp's order, pairs side by side."""
    reader = gguf.GGUFReader(model)
    heads = {"q_proj": reader.fields["llama.attention.head_count"].contents(),
             "k_proj": reader.fields["llama.attention.head_count_kv"].contents()}
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf8"))
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, values in load_file(folder / "adapter_model.safetensors").items():
        block, layer, factor = re.search(r"layers\.(\d+)\.\w+\.(\w+)\.lora_([AB])", name).groups()
        if factor == "B" and layer in heads:
            rows, rank = values.shape
            values = values.reshape(heads[layer], 2, rows // heads[layer] // 2, rank).swapaxes(1, 2).reshape(rows, rank)
        tensor = f"blk.{block}.{NAMES[layer]}.weight.lora_{factor.lower()}"
        writer.add_tensor(tensor, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(args, adapter=None):
    params = xllamacpp.CommonParams()
    params.model.path = str(args.gguf)
    params.n_ctx = 512
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.sampling.temp = 0
    params.verbosity = -1
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(params)


def run(server, tokens):
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    answer = server.handle_completions(
        {"prompt": PROMPT, "n_predict": tokens, "temperature": 0, "cache_prompt": False, "ignore_eos": True,
         "max_tokens": tokens})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    answer = json.loads(answer) if isinstance(answer, str) else answer
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=72)
    args = parser.parse_args()
    adapter = args.folder / "lora.gguf"
    write_adapter(args.folder / "expert-0", args.gguf, adapter)
    for what, lora in (("bare", None), ("one LoRA", adapter)):
        server = serve(args, lora)
        run(server, args.few)
        pairs = []
        for _ in range(args.repeats):
            short, long = run(server, args.few), run(server, args.many)
            counts = [one[2]["usage"]["completion_tokens"] for one in (short, long)]
            pairs.append([(long[k] - short[k]) / (counts[1] - counts[0]) for k in (0, 1)])
        wall, processor = (1e3 * statistics.median(pair[k] for pair in pairs) for k in (0, 1))
        print(f"decode, {what:20} {wall:9.2f} ms a token, processor {processor:9.1f} ms", flush=True)
        print("  ", json.dumps(long[2]["choices"][0]["text"][:80]))
        del server


main()
