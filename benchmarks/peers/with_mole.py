#!/usr/bin/env python3
"""What with_peft.py measures, with the program `mole`: steps of training and tokens of decoding.

    python3 benchmarks/peers/with_mole.py FOLDER --mole build/release/examples/mole/mole --train gate_train.jsonl

FOLDER is what make_folder.py wrote. A step's time is that of a run of many steps less that of a run of few, over the
difference: loading, measuring and testing do not count. A token's likewise. --train may be short, as each run measures
the gates' input on all of it. Medians of --repeats such pairs, wall and processor time (user and system, all threads).
`--options "--backend cuda --dtype bf16"` go to mole; with --base FILE that model takes the folder's place, such as the
GGUF file with --options=--quantised.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT = "Tell me a long story about a dragon who wanted to learn mathematics."


def timed(command, threads):
    """Wall seconds, processor seconds and what it printed."""
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def say(what, pairs, unit="a step"):
    wall, processor = (1e3 * statistics.median(pair[k] for pair in pairs) for k in (0, 1))
    print(f"{what:28} {wall:9.2f} ms {unit}, processor {processor:9.1f} ms", flush=True)


def step_time(what, args, command, few, many):
    pairs = []
    for _ in range(args.repeats):
        short, long = (timed([*command, "--steps", str(n)], args.threads) for n in (few, many))
        pairs.append([(long[k] - short[k]) / (many - few) for k in (0, 1)])
    say(what, pairs)


def token_time(what, args, command):
    few, many = args.few_tokens, args.many_tokens
    pairs = []
    for _ in range(args.repeats):
        short, long = (timed([*command, "--max-new-tokens", str(n)], args.threads) for n in (few, many))
        pairs.append([(long[k] - short[k]) / (many - few) for k in (0, 1)])
    # More tokens must give a longer text: else the answer had ended before.
    if timed([*command, "--max-new-tokens", str(many + 8)], args.threads)[2] == long[2]:
        sys.exit(f"{what}: the answer ended before {many} tokens; choose fewer")
    say(what, pairs, "a token")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--mole", type=pathlib.Path, required=True)
    parser.add_argument("--train", type=pathlib.Path, required=True)
    parser.add_argument("--base", type=pathlib.Path)
    parser.add_argument("--only", default="lora,gate,xlora,decode")
    parser.add_argument("--experts", type=int, default=8, help="how many of the folder's are attached")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--few", type=int, default=1, help="steps of the short run")
    parser.add_argument("--many", type=int, default=4)
    parser.add_argument("--few-tokens", type=int, default=8)
    parser.add_argument("--many-tokens", type=int, default=72)
    parser.add_argument("--decode-batch", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", default="", help="more options of mole, in one text")
    args = parser.parse_args()
    wanted, more = args.only.split(","), args.options.split()
    base = args.base or args.folder / "model"
    experts = [str(args.folder / f"expert-{i}") for i in range(args.experts)]
    model = ["--base", str(base), "--template", "chatml", *more]
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        test = scratch / "test.jsonl"
        test.write_text(args.train.read_text(encoding="utf8").splitlines()[0] + "\n", encoding="utf8")
        data = ["--train", str(args.train), "--batch", str(args.batch)]
        if "lora" in wanted:
            command = [str(args.mole), "train-expert", *model, *data, "--out", str(scratch / "lora")]
            step_time(f"LoRA step, batch {args.batch}", args, command, args.few, args.many)
        for router in ("gate", "xlora"):
            command = [str(args.mole), "compose", *model, *data, "--experts", ",".join(experts), "--test", str(test),
                       "--only-mole", "--max-new-tokens", "1", "--out", str(scratch / router)]
            if router == "xlora":
                command += ["--router", "xlora", "--scope", "matrix"]
            if router in wanted:
                step_time(f"{'MoLE' if router == 'gate' else 'X-LoRA'} step", args, command, args.few, args.many)
            elif router == "gate" and "decode" in wanted:
                timed([*command, "--steps", "1"], args.threads)
        if "decode" in wanted:
            for batch in args.decode_batch:
                prompts = scratch / f"prompts-{batch}.jsonl"
                prompts.write_text((json.dumps({"prompt": PROMPT}) + "\n") * batch, encoding="utf8")
                file = ["--file", str(prompts), "--batch", str(batch)]
                token_time(f"decode, bare, batch {batch}", args, [str(args.mole), "generate", *model, *file])
                gates = ["--gates", str(scratch / "gate" / "gates.safetensors"), "--base", str(base)]
                command = [str(args.mole), "generate", *gates, *more, *file]
                token_time(f"decode, MoLE of {args.experts}, batch {batch}", args, command)


main()
