#!/usr/bin/env python3
"""Steps and decoding of transformers and PEFT, and the accuracy of PEFT's X-LoRA and Arrow.

    python3 benchmarks/peers/with_peft.py speed FOLDER --train gate_train.jsonl [--only lora,xlora,decode]
    python3 benchmarks/peers/with_peft.py accuracy FOLDER --experts french,german,.. --train gate_train.jsonl \
        --test test.jsonl [--methods expert,xlora,arrow]

FOLDER is what make_folder.py wrote; files are the study's. `speed` prints medians of: a step of LoRA training (rank 8,
every linear layer), a step of X-LoRA's classifier over the experts, and a token of greedy decoding, for the bare model,
for all experts active at once (their sum) and for X-LoRA. On the CPU it prints processor time as well, user and system
of all threads, which other programs on the machine change least. In float on the CPU, or --device cuda --dtype bf16.
Needs torch, transformers and peft. with_mole.py does the same with `mole`.
"""

import argparse
import gc
import json
import pathlib
import random
import resource
import statistics
import time

import torch
from peft import ArrowConfig, LoraConfig, PeftModel, XLoraConfig, create_arrow_model, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Tell me a long story about a dragon who wanted to learn mathematics."


def clock():
    """Wall seconds and processor seconds."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def say(what, wall, processor, unit="a step"):
    cpu = "" if torch.cuda.is_initialized() else f", processor {1e3 * statistics.median(processor):9.1f} ms"
    print(f"{what:28} {1e3 * statistics.median(wall):9.2f} ms {unit}{cpu}", flush=True)


class Setting:
    """A folder's model and tokenizer on a device."""

    def __init__(self, args):
        self.args = args
        self.device = args.device
        self.dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
        self.tokenizer = AutoTokenizer.from_pretrained(args.folder / "model")
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def model(self):
        gc.collect()
        model = AutoModelForCausalLM.from_pretrained(self.args.folder / "model", dtype=self.dtype)
        return model.to(self.device)

    def tokens(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, text):
        """In the template chatml, as `mole --template chatml` writes it."""
        return self.tokens(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")

    def batch(self, examples):
        """Padded on the right; labels on the answers alone."""
        rows = [(self.prompt(e["prompt"]), self.tokens(e["answer"]) + [self.end]) for e in examples]
        longest = max(len(p) + len(a) for p, a in rows)
        ids = torch.full((len(rows), longest), self.end)
        labels = torch.full((len(rows), longest), -100)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, (p, a) in enumerate(rows):
            ids[i, : len(p) + len(a)] = torch.tensor(p + a)
            labels[i, len(p) : len(p) + len(a)] = torch.tensor(a)
            mask[i, : len(p) + len(a)] = 1
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return {name: values.to(self.device) for name, values in batch.items()}

    def prompts(self, texts):
        """Padded on the left."""
        rows = [self.prompt(text) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[self.end] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}


def read_examples(path):
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def train(setting, model, examples, steps, batch, rate, seed=1, clip=None):
    """AdamW on what is trainable. Returns wall and processor seconds of each step."""
    rng = random.Random(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    wall, processor = [], []
    for step in range(1, steps + 1):
        some = setting.batch(rng.sample(examples, batch))
        start = clock()
        loss = model(**some).loss
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end = clock()
        wall.append(end[0] - start[0])
        processor.append(end[1] - start[1])
        if step % 25 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {sum(wall):.0f} s", flush=True)
    model.eval()
    return wall, processor


def lora_model(setting):
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(setting.model(), config)


def xlora_model(setting, folders):
    base = setting.model()
    base.config.use_cache = False  # X-LoRA asks for that
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=base.config.hidden_size, xlora_depth=1,
                         layerwise_scalings=True, adapters={str(i): str(folder) for i, folder in enumerate(folders)})
    return get_peft_model(base, config).to(setting.device)


def summed_model(setting, folders):
    model = PeftModel.from_pretrained(setting.model(), str(folders[0]), adapter_name="0")
    for i, folder in enumerate(folders[1:], 1):
        model.load_adapter(str(folder), adapter_name=str(i))
    model.base_model.set_adapter([str(i) for i in range(len(folders))])
    return model


def decode(setting, model, what, batch, repeats, few=8, many=40):
    """The time of a token: of `many` tokens less that of `few`, so that the prompt does not count."""
    prompts = setting.prompts([PROMPT] * batch)

    def run(n):
        start = clock()
        with torch.no_grad():
            model.generate(**prompts, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=setting.end)
        end = clock()
        return end[0] - start[0], end[1] - start[1]

    model.eval()
    run(few)
    times = [(run(few), run(many)) for _ in range(repeats)]
    wall, processor = ([(long[k] - short[k]) / (many - few) for short, long in times] for k in (0, 1))
    say(f"decode, {what}, batch {batch}", wall, processor, "a token")


def speed(setting, args):
    folders = sorted(args.folder.glob("expert-*"))
    examples = read_examples(args.train)
    wanted = args.only.split(",")
    if "lora" in wanted:
        wall, processor = train(setting, lora_model(setting), examples, args.steps, args.batch, 1e-3)
        say(f"LoRA step, batch {args.batch}", wall[1:], processor[1:])
    if "xlora" in wanted:
        wall, processor = train(setting, xlora_model(setting, folders), examples, args.steps, args.batch, 1e-3)
        say(f"X-LoRA step, {len(folders)} experts", wall[1:], processor[1:])
    if "decode" in wanted:
        for batch in args.decode_batch:
            decode(setting, setting.model(), "bare", batch, args.repeats)
            decode(setting, summed_model(setting, folders), f"sum of {len(folders)}", batch, args.repeats)
            if "xlora" in wanted:
                decode(setting, xlora_model(setting, folders), f"X-LoRA of {len(folders)}", batch, args.repeats)


def judge(setting, model, tests, what, size=200):
    """Exact match by task, greedily."""
    tasks = list(dict.fromkeys(e["task"] for e in tests))
    longest = max(len(setting.tokens(e["answer"])) for e in tests) + 2
    right = dict.fromkeys(tasks, 0)
    tests = sorted(tests, key=lambda e: len(e["prompt"]))
    model.eval()
    for first in range(0, len(tests), size):
        some = tests[first : first + size]
        prompts = setting.prompts([e["prompt"] for e in some])
        with torch.no_grad():
            out = model.generate(**prompts, max_new_tokens=longest, do_sample=False, eos_token_id=setting.end,
                                 pad_token_id=setting.end)
        for e, row in zip(some, out[:, prompts["input_ids"].shape[1] :]):
            right[e["task"]] += setting.tokenizer.decode(row, skip_special_tokens=True).strip() == e["answer"]
    rates = {task: 100 * right[task] / sum(e["task"] == task for e in tests) for task in tasks}
    each = ", ".join(f"{task} {rate:.1f}" for task, rate in rates.items())
    print(f"{what}: {statistics.mean(rates.values()):.1f} ({each})", flush=True)


def accuracy(setting, args):
    folders = [pathlib.Path(folder) for folder in args.experts.split(",")]
    train_examples, tests = read_examples(args.train), read_examples(args.test)
    if "expert" in args.methods:  # what `mole` says of the same adapter: prompts and answers are read alike
        model = PeftModel.from_pretrained(setting.model(), str(folders[0]))
        judge(setting, model, tests, f"expert {folders[0].name}")
    if "arrow" in args.methods:
        model = create_arrow_model(base_model=setting.model(), task_specific_adapter_paths=[str(f) for f in folders],
                                   arrow_config=ArrowConfig(top_k=args.top_k, router_temperature=1.0))
        judge(setting, model, tests, f"Arrow, top {args.top_k}")
    if "xlora" in args.methods:
        model = xlora_model(setting, folders)
        torch.manual_seed(args.seed)
        wall, _ = train(setting, model, train_examples, args.steps, args.batch, args.lr, args.seed)
        judge(setting, model, tests, f"X-LoRA, {args.steps} steps of {args.batch}, seed {args.seed}, {sum(wall):.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--train", type=pathlib.Path, required=True)
    parser.add_argument("--test", type=pathlib.Path, help="accuracy: examples to test by")
    parser.add_argument("--experts", help="accuracy: folders of trained adapters, by comma")
    parser.add_argument("--methods", default="expert,xlora,arrow", help="accuracy: expert is the first one alone")
    parser.add_argument("--only", default="lora,xlora,decode", help="what speed measures")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="of X-LoRA's classifier")
    parser.add_argument("--top-k", type=int, default=2, help="of Arrow")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decode-batch", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    setting = Setting(args)
    (speed if args.what == "speed" else accuracy)(setting, args)


main()
