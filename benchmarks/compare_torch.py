#!/usr/bin/env python3
"""The benchmarks of bench_mole in PyTorch: one MoLE layer, and a gate-training step of a whole FLAN-T5.

    python3 benchmarks/compare_torch.py [--device cuda] [--dtype bf16] [--shapes llm,flan] [--t5 small,base]

prints milliseconds a step and ratios to base. With the results of bench_mole it prints both side by side:

    bench_mole --backend cuda --dtype bf16 --benchmark_filter='step' \\
        --benchmark_out=mole.json --benchmark_out_format=json
    python3 benchmarks/compare_torch.py --device cuda --dtype bf16 --mole mole.json

A layer's step is forward + backward to x, the gate's weight and log_tau, with token gates that read the
experts' outputs; base is the frozen layer alone. Each runs eagerly and under torch.compile. A FLAN-T5's step
is forward, both losses, backward to the gates of 8 experts of rank 16 on every linear layer, and their
update; base there is the bare frozen model, forward and backward to its input embeddings. It needs the
transformers package. Times are medians; on CUDA steps are queued back to back and timed by CUDA events.
"""

import argparse
import json
import statistics
import sys
import time

# name: (S, L, d_in, d_out, N, r), as in layer.hpp
SHAPES = {
    "cpu": (2, 128, 512, 512, 8, 8),
    "cpubig": (4, 256, 1024, 1024, 8, 16),
    "t5": (12, 512, 768, 768, 3, 8),
    "flan": (12, 512, 1024, 1024, 8, 16),
    "unet": (2, 4096, 320, 320, 3, 16),
    "llm": (4, 2048, 4096, 4096, 8, 16),
    "many": (4, 256, 1024, 1024, 128, 8),
}
# name: (d_model, d_kv, d_ff, heads, layers), as in t5_gate_step.hpp
T5_SIZES = {"small": (512, 64, 1024, 6, 8), "base": (768, 64, 2048, 12, 12)}
# Too slow for a CPU, unless they are asked for.
LARGE = ("llm", "base")
WAYS = ("base", "literal", "mole")
LITERAL_LIMIT = 8e9  # bytes beyond which the literal way is not tried
BYTES = {"f32": 4, "tf32": 4, "f64": 8, "bf16": 2, "half": 2}


def literal_bytes(shape, dtype):
    S, L, _, d_out, N, _ = shape
    return BYTES[dtype] * (6 * S * L * N * d_out + 2 * N * d_out * N)


def torch_dtype(torch, name):
    return {"f64": torch.float64, "bf16": torch.bfloat16, "half": torch.float16}.get(name, torch.float32)


def make_draw(torch, device, dtype):
    """Random values whose sums over fan_in terms are of size 1."""
    generator = torch.Generator().manual_seed(1)

    def draw(*size, fan_in=1):
        return (torch.randn(*size, generator=generator) / fan_in**0.5).to(device, torch_dtype(torch, dtype))

    return draw


def gate_of(torch, v, weight, log_tau):
    """Eq. 9-11."""
    unit = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.softmax((unit @ weight) * torch.exp(-log_tau), dim=-1)


def literal_mole(torch, x, W, A, B, e, log_tau):
    """y and the gate by eq. 8-13, at full width."""
    E = [(x @ A[i].T) @ B[i].T for i in range(A.shape[0])]
    g = gate_of(torch, torch.cat(E, dim=-1), e, log_tau)
    y = x @ W.T
    for i, output in enumerate(E):
        y = y + g[..., i : i + 1] * output
    return y, g


def rank_space_mole(torch, x, W, A_all, Q, F, log_tau):
    """The same in rank space: nothing is N d_out wide."""
    h = x @ A_all.T
    g = gate_of(torch, h, F, log_tau)
    scaled = (h.unflatten(-1, (g.shape[-1], -1)) * g.unsqueeze(-1)).flatten(-2)
    return x @ W.T + scaled @ Q.T, g


def canonical(torch, A, B):
    """Experts side by side: B_i = Q_i R_i, A'_i = R_i A_i.  A [N, r, d_in], B [N, d_out, r]."""
    QR = [torch.linalg.qr(up.float().cpu()) for up in B]
    Q = torch.cat([q for q, _ in QR], dim=1)
    A_all = torch.cat([upper @ down.float().cpu() for (_, upper), down in zip(QR, A)])
    return A_all.to(A.device, A.dtype), Q.to(A.device, A.dtype)


def layer_steps(torch, shape, device, dtype, compiled):
    """A function for each way that runs one step; they share data and experts."""
    S, L, d_in, d_out, N, r = shape
    draw = make_draw(torch, device, dtype)
    x = draw(S, L, d_in).requires_grad_()
    W, G = draw(d_out, d_in, fan_in=d_in), draw(S, L, d_out)
    A, B = draw(N, r, d_in, fan_in=d_in), draw(N, d_out, r, fan_in=r)
    log_tau = torch.zeros((), device=device, dtype=x.dtype, requires_grad=True)
    A_all, Q = canonical(torch, A, B)
    F = draw(N * r, N).requires_grad_()

    leaves = {"base": [x], "mole": [x, F, log_tau]}
    forward = {
        "base": lambda: x @ W.T,
        "mole": lambda: rank_space_mole(torch, x, W, A_all, Q, F, log_tau)[0],
    }
    if literal_bytes(shape, dtype) <= LITERAL_LIMIT:
        e = draw(N * d_out, N).requires_grad_()
        leaves["literal"] = [x, e, log_tau]
        forward["literal"] = lambda: literal_mole(torch, x, W, A, B, e, log_tau)[0]

    def step_of(way):
        run = torch.compile(forward[way]) if compiled else forward[way]

        def step():
            for leaf in leaves[way]:
                leaf.grad = None
            run().backward(G)

        return step

    return {way: step_of(way) for way in forward}


def mixed_linear(torch, linear, way, draw, gates, n_experts=8, r=16):
    """A module in the place of a frozen linear layer; each pass appends its gate to `gates`."""

    class MixedLinear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            d_out, d_in = linear.weight.shape
            self.weight = linear.weight
            A = draw(n_experts, r, d_in, fan_in=d_in)
            B = draw(n_experts, d_out, r, fan_in=r)
            width = n_experts * (d_out if way == "literal" else r)
            self.down, self.up = (A, B) if way == "literal" else canonical(torch, A, B)
            self.gate = torch.nn.Parameter(draw(width, n_experts) * 0)
            self.log_tau = torch.nn.Parameter(draw(1)[0] * 0)

        def forward(self, x):
            mix = literal_mole if way == "literal" else rank_space_mole
            y, g = mix(torch, x, self.weight, self.down, self.up, self.gate, self.log_tau)
            gates.append(g)
            return y

    return MixedLinear()


def t5_step(torch, transformers, size, device, dtype, way, compiled):
    """A function that runs one step of a FLAN-T5 of random weights."""
    d_model, d_kv, d_ff, heads, layers = T5_SIZES[size]
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=32128,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_heads=heads,
        num_layers=layers,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        use_cache=False,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config).to(device, torch_dtype(torch, dtype))
    model.requires_grad_(False)
    gates = []
    if way != "base":
        draw = make_draw(torch, device, dtype)
        blocks = [
            (module, name, child)
            for module in model.modules()
            for name, child in module.named_children()
            if isinstance(child, torch.nn.Linear) and name != "lm_head"
        ]
        for module, name, child in blocks:
            setattr(module, name, mixed_linear(torch, child, way, draw, gates))
    ids = torch.randint(2, 32000, (12, 64), device=device)
    labels = torch.randint(2, 32000, (12, 32), device=device)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4) if trainable else None

    def loss_of(embedded):
        gates.clear()
        inputs = {"input_ids": ids} if embedded is None else {"inputs_embeds": embedded}
        loss = model(**inputs, labels=labels).loss
        if not gates:
            return loss
        shares = torch.stack([g.mean(dim=(0, 1)) for g in gates]).mean(dim=0)  # eq. 15
        return loss - 0.5 * torch.log(shares).sum()  # eq. 14 and 16

    run = torch.compile(loss_of) if compiled else loss_of

    def step():
        if optimizer is None:
            run(model.shared(ids).detach().requires_grad_()).backward()
            return
        optimizer.zero_grad(set_to_none=True)
        run(None).backward()
        optimizer.step()

    return step


def run_batch(torch, step, count, device):
    """Milliseconds a step of `count` steps queued back to back."""
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(count):
            step()
        return 1e3 * (time.perf_counter() - begin) / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / count


def measure(torch, steps, device, repetitions):
    """Median milliseconds of each way. The ways take turns, so that a slow moment of the machine hits all."""
    counts = {}
    for way, step in steps.items():
        run_batch(torch, step, 3, device)
        counts[way] = max(1, int(100 / run_batch(torch, step, 1, device)))
    times = {way: [] for way in steps}
    for _ in range(repetitions):
        for way, step in steps.items():
            times[way].append(run_batch(torch, step, counts[way], device))
    return {way: statistics.median(values) for way, values in times.items()}


def note(text):
    print(f"compare_torch: {text}", file=sys.stderr)


def run_torch(arguments):
    """{(side, kind, name): {way: milliseconds}} of PyTorch; {} without it."""
    try:
        import torch
    except ImportError:
        note("PyTorch is not installed, so its half of the comparison is left out (pip install torch)")
        return {}
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = arguments.dtype or ("bf16" if device == "cuda" else "f32")
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("compare_torch: --device cuda: PyTorch sees no GPU here")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    if device == "cuda":
        note(f"on {torch.cuda.get_device_name()}")

    results = {}

    def chosen(asked, every):
        return asked or [name for name in every if device == "cuda" or name not in LARGE]

    for mode in arguments.modes:
        side = f"torch {torch.__version__.split('+')[0]} {device} {dtype} {mode}"
        for name in chosen(arguments.shapes, SHAPES):
            if mode == "compile":
                torch.compiler.reset()
            steps = layer_steps(torch, SHAPES[name], device, dtype, mode == "compile")
            results[side, "layer", name] = measure(torch, steps, device, arguments.repetitions)
            del steps
        sizes = [] if arguments.t5 == ["none"] else chosen(arguments.t5, T5_SIZES)
        for name in sizes:
            try:
                import transformers
            except ImportError:
                note("transformers is not installed, so the T5 steps are left out (pip install transformers)")
                break
            # One at a time: the literal way of a whole model fills the memory.
            row = results.setdefault((side, "t5", name), {})
            for way in WAYS:
                try:
                    step = t5_step(torch, transformers, name, device, dtype, way, mode == "compile")
                    row.update(measure(torch, {way: step}, device, arguments.repetitions))
                    del step
                except Exception as error:  # torch.compile may refuse a model; the other rows still count
                    note(f"T5 {name} {way} {mode}: {type(error).__name__}: {str(error).splitlines()[0]}")
    return results


def read_mole(path):
    """{(side, kind, name): {way: milliseconds}} of a JSON file of bench_mole; medians over repetitions."""
    to_ms = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    context = content["context"]
    side = f"mole {context.get('backend', 'cpu')} {context.get('dtype', 'f32')}"
    runs, medians = {}, {}
    for entry in content["benchmarks"]:
        if entry.get("error_occurred"):
            continue
        parts = [part for part in entry.get("run_name", entry["name"]).split("/") if part != "real_time"]
        here = side + (" graph" if parts[-1] == "graph" else "")
        if parts[0] == "mole_linear" and "step" in parts:
            key = (here, "layer", parts[2]), parts[1]
        elif parts[0] == "t5_gate_step":
            key = (here, "t5", parts[1]), "mole"
        else:
            continue
        value = entry["real_time"] * to_ms[entry["time_unit"]]
        if entry.get("run_type", "iteration") == "iteration":
            runs.setdefault(key, []).append(value)
        elif entry.get("aggregate_name") == "median":
            medians[key] = value
    results = {}
    for key in {**runs, **medians}:
        row, way = key
        results.setdefault(row, {})[way] = statistics.median(runs[key]) if key in runs else medians[key]
    return results


def print_table(results, kind, names):
    sides = sorted({side for side, of, _ in results if of == kind})
    if not sides:
        return
    wide = max(len(side) for side in sides) + 2
    heads = [f"{way} ms" for way in WAYS] + [f"{way}/base" for way in WAYS[1:]]
    print(f"{'t5 gate step' if kind == 't5' else 'shape':14}{'':{wide}}" + "".join(f"{h:>14}" for h in heads))
    for name in names:
        for side in sides:
            row = results.get((side, kind, name), {})
            values = [row.get(way) for way in WAYS]
            values += [row[way] / row["base"] if way in row and "base" in row else None for way in WAYS[1:]]
            if row:
                cells = "".join(f"{'-':>14}" if value is None else f"{value:14.3f}" for value in values)
                print(f"{name:14}{side:{wide}}{cells}")
    if kind == "layer":
        floors = ", ".join(
            f"{name} {1 + N * r * (d_in + d_out) / (d_in * d_out):.2f}"
            for name, (_, _, d_in, d_out, N, r) in SHAPES.items()
            if name in names
        )
        print(f"phi, the floor of mole/base by flops: {floors}")
    print()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def one_of(*choices):
        def parse(text):
            names = text.split(",")
            unknown = [name for name in names if name not in choices]
            if unknown:
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(choices)}")
            return names

        return parse

    parser.add_argument("--device", choices=("cpu", "cuda"), help="of PyTorch; default: cuda if there is one")
    parser.add_argument("--dtype", choices=tuple(BYTES), help="default: bf16 on cuda, f32 on the CPU")
    parser.add_argument(
        "--shapes", type=one_of(*SHAPES), default=[], help="by comma; default all, on the CPU without llm"
    )
    parser.add_argument(
        "--t5",
        type=one_of(*T5_SIZES, "none"),
        default=[],
        help="sizes by comma, or none; default all, on the CPU small",
    )
    parser.add_argument(
        "--modes", type=one_of("eager", "compile"), default=["eager", "compile"], help="default both"
    )
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch on the CPU; default: its choice")
    parser.add_argument("--repetitions", type=int, default=5, help="the median of so many is printed")
    parser.add_argument("--mole", metavar="FILE", help="what bench_mole wrote with --benchmark_out=FILE")
    arguments = parser.parse_args()

    results = read_mole(arguments.mole) if arguments.mole else {}
    results.update(run_torch(arguments))
    if not results:
        sys.exit("compare_torch: nothing to compare: install PyTorch, or give --mole FILE")
    print_table(results, "layer", arguments.shapes or list(SHAPES))
    print_table(results, "t5", [name for name in arguments.t5 if name != "none"] or list(T5_SIZES))


if __name__ == "__main__":
    main()
