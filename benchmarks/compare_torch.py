#!/usr/bin/env python3
"""The same MoLE layers in PyTorch: a step of the frozen base, of the method by the letter, and of rank space.

    python3 benchmarks/compare_torch.py [--shapes cpubig,flan] [--threads 2] [--devices cpu,cuda]

prints milliseconds and the ratio to base. With the results of bench_mole it prints both side by side:

    bench_mole --benchmark_filter=/step --benchmark_out=mole.json --benchmark_out_format=json
    python3 benchmarks/compare_torch.py --mole mole.json

A step is forward + backward to x, the gate's weight and log_tau, with token gates that read the experts'
outputs, in float32 on the CPU and bfloat16 on CUDA. bench_mole's step is the same, in float32.
"""

import argparse
import json
import statistics
import sys
import time

# name: (S, L, d_in, d_out, N, r), as in bench_mole.cpp
SHAPES = {
    "cpu": (2, 128, 512, 512, 8, 8),
    "cpubig": (4, 256, 1024, 1024, 8, 16),
    "t5": (12, 512, 768, 768, 3, 8),
    "flan": (12, 512, 1024, 1024, 8, 16),
    "unet": (2, 4096, 320, 320, 3, 16),
    "many": (4, 256, 1024, 1024, 128, 8),
}
WAYS = ("base", "literal", "mole")
LITERAL_LIMIT = 8e9  # bytes beyond which the literal way is not tried


def literal_bytes(shape):
    S, L, _, d_out, N, _ = shape
    return 4 * (6 * S * L * N * d_out + 2 * N * d_out * N)


def make_steps(torch, shape, device):
    """Returns a function for each way that runs one step; they share data and experts."""
    S, L, d_in, d_out, N, r = shape
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(1)

    def draw(*size, fan_in=1):
        return (torch.randn(*size, generator=generator) / fan_in**0.5).to(device, dtype)

    x = draw(S, L, d_in).requires_grad_()
    W = draw(d_out, d_in, fan_in=d_in)
    G = draw(S, L, d_out)
    log_tau = torch.zeros((), device=device, requires_grad=True)

    def normalised(v):
        return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def gate_of(v, weight):
        return torch.softmax((normalised(v) @ weight) * torch.exp(-log_tau).to(v.dtype), dim=-1)

    def base():
        return x @ W.T

    A = draw(N, r, d_in, fan_in=d_in)
    B = draw(N, d_out, r, fan_in=r)
    leaves = {"base": [x]}
    steps = {"base": base}

    if literal_bytes(shape) <= LITERAL_LIMIT:
        e = draw(N * d_out, N).requires_grad_()

        def literal():
            E = [(x @ A[i].T) @ B[i].T for i in range(N)]  # eq. 8
            g = gate_of(torch.cat(E, dim=-1), e)  # eq. 9-11
            y = x @ W.T
            for i in range(N):
                y = y + g[..., i : i + 1] * E[i]  # eq. 12-13
            return y

        leaves["literal"] = [x, e, log_tau]
        steps["literal"] = literal

    # Canonical experts: B_i = Q_i R_i, A'_i = R_i A_i, all of them side by side.
    QR = [torch.linalg.qr(B[i].float().cpu()) for i in range(N)]
    Q = torch.cat([q for q, _ in QR], dim=1).to(device, dtype)
    A_all = torch.cat([upper @ A[i].float().cpu() for i, (_, upper) in enumerate(QR)]).to(device, dtype)
    F = draw(N * r, N).requires_grad_()

    def mole():
        h = x @ A_all.T
        g = gate_of(h, F)
        return x @ W.T + (h.view(S, L, N, r) * g.unsqueeze(-1)).view(S, L, N * r) @ Q.T

    leaves["mole"] = [x, F, log_tau]
    steps["mole"] = mole

    def step_of(way):
        def step():
            for leaf in leaves[way]:
                leaf.grad = None
            steps[way]().backward(G)

        return step

    return {way: step_of(way) for way in steps}


def measure(torch, steps, device, repetitions):
    """Median milliseconds of each way. The ways take turns, so that a slow moment of the machine hits all."""

    def run(step, count):
        begin = time.perf_counter()
        for _ in range(count):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / count

    counts = {}
    for way, step in steps.items():
        run(step, 2)
        counts[way] = max(1, int(0.1 / run(step, 1)))
    times = {way: [] for way in steps}
    for _ in range(repetitions):
        for way, step in steps.items():
            times[way].append(run(step, counts[way]))
    return {way: 1e3 * statistics.median(values) for way, values in times.items()}


def run_torch(arguments, shapes):
    """{(side, shape): {way: milliseconds}} of PyTorch on the devices there are; {} without PyTorch."""
    try:
        import torch
    except ImportError:
        text = "PyTorch is not installed, so its half of the comparison is left out (pip install torch)."
        print(text, file=sys.stderr)
        return {}
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results = {}
    for device in arguments.devices.split(","):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        side = f"torch {torch.__version__.split('+')[0]} {device}"
        for name in shapes:
            steps = make_steps(torch, SHAPES[name], device)
            results[side, name] = measure(torch, steps, device, arguments.repetitions)
            del steps
    return results


def read_mole(path):
    """{(side, shape): {way: milliseconds}} of a JSON file that bench_mole wrote; medians over repetitions."""
    to_ms = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)["benchmarks"]
    runs, medians = {}, {}
    for entry in entries:
        if entry.get("error_occurred"):
            continue
        parts = entry.get("run_name", entry["name"]).split("/")
        if len(parts) < 4 or parts[0] != "mole_linear" or parts[3] != "step":
            continue
        key, value = (parts[2], parts[1]), entry["real_time"] * to_ms[entry["time_unit"]]
        if entry.get("run_type", "iteration") == "iteration":
            runs.setdefault(key, []).append(value)
        elif entry.get("aggregate_name") == "median":
            medians[key] = value
    results = {}
    for key in {**runs, **medians}:
        shape, way = key
        value = statistics.median(runs[key]) if key in runs else medians[key]
        results.setdefault(("mole", shape), {})[way] = value
    return results


def print_table(results, shapes):
    heads = [f"{way} ms" for way in WAYS] + [f"{way}/base" for way in WAYS[1:]]
    print(f"{'shape':8} {'phi':>5}  {'':18}" + "".join(f"{head:>14}" for head in heads))
    for name in shapes:
        _, _, d_in, d_out, N, r = SHAPES[name]
        phi = 1 + N * r * (d_in + d_out) / (d_in * d_out)
        for side in sorted({side for side, _ in results}):
            row = results.get((side, name), {})
            values = [row.get(way) for way in WAYS]
            values += [row[way] / row["base"] if way in row and "base" in row else None for way in WAYS[1:]]
            if row:
                cells = "".join(f"{'-':>14}" if value is None else f"{value:14.2f}" for value in values)
                print(f"{name:8} {phi:5.2f}  {side:18}{cells}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated, default all")
    parser.add_argument("--devices", default="cpu,cuda", help="of PyTorch; CUDA only where there is one")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch on the CPU; default: its choice")
    parser.add_argument("--repetitions", type=int, default=5, help="the median of so many is printed")
    parser.add_argument("--mole", metavar="FILE", help="what bench_mole wrote with --benchmark_out=FILE")
    arguments = parser.parse_args()
    shapes = arguments.shapes.split(",")
    unknown = [name for name in shapes if name not in SHAPES]
    if unknown:
        parser.error(f"unknown shape {', '.join(unknown)}: choose from {', '.join(SHAPES)}")

    results = read_mole(arguments.mole) if arguments.mole else {}
    results.update(run_torch(arguments, shapes))
    if not results:
        sys.exit("nothing to compare: install PyTorch, or give --mole FILE")
    print_table(results, shapes)


if __name__ == "__main__":
    main()
