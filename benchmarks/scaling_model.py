#!/usr/bin/env python3
"""How far data-parallel training of gates scales, by a model: nothing is measured here.

    python3 benchmarks/scaling_model.py [--ranks 8,64,1024] [--jitter 0.01] [--node-bandwidth 50] ...

Every rank computes as many examples as a single one would (weak scaling). A step of P ranks is

    the slowest rank's computing + the sum of the statistics + the sum of the gradients

as in train/data_parallel.hpp: both sums are all-reduces that nothing overlaps. A rank's computing takes the single
rank's time, times 1 + jitter z with a normal z, drawn anew for each rank and step. An all-reduce of b bytes goes within
the nodes of some GPUs first and then between nodes, each by a ring or by a tree, whichever is faster:

    ring over n    2 (n - 1) latency + 2 (n - 1) / n  b / bandwidth
    tree over n    2 log2(n) latency + 2 b / bandwidth

Prints a Markdown table of efficiencies, one rank's time over that of P, and what the largest P spends its step on.
"""

import argparse
import math
import random

# name, milliseconds of one rank's step, where they come from, matrices with a gate, experts, rank, gate rank (0: none)
WORKLOADS = [
    ("FLAN-T5 small, 8 experts of rank 16", 4.8, "measured, H200", 144, 8, 16, 0),
    ("FLAN-T5 base, 8 experts of rank 16", 9.0, "measured, H200", 216, 8, 16, 0),
    ("Llama-7B, 8 experts of rank 16, 4096 tokens", 190.0, "estimated", 224, 8, 16, 0),
    ("FLAN-T5 base, 1024 experts of rank 8, top 2", 14.0, "estimated", 216, 1024, 8, 0),
    ("the same, gates of rank 32", 14.0, "estimated", 216, 1024, 8, 32),
]


def gate_bytes(matrices, experts, rank, gate_rank):
    """Of the gradients of a token gate for each matrix, in float: F [R, N], or U [R, m] and V [m, N]."""
    R = experts * rank
    numbers = gate_rank * (R + experts) if gate_rank else R * experts
    return 4 * matrices * (numbers + 1)


def statistics_bytes(matrices, experts):
    """Of the losses' sum and count, and each gate's sums of weights and count, in double."""
    return 8 * (3 + matrices * (experts + 1))


def level(n, size, latency, bandwidth):
    """Seconds of latency and of bytes of an all-reduce over n."""
    if n == 1:
        return 0.0, 0.0
    ring = 2 * (n - 1) * latency, 2 * (n - 1) / n * size / bandwidth
    tree = 2 * math.log2(n) * latency, 2 * size / bandwidth
    return min(ring, tree, key=sum)


def all_reduce(ranks, size, a):
    """The same over ranks in nodes: each GPU of a node sums its part of the bytes with those of other nodes."""
    within = min(ranks, a.gpus)
    nodes = math.ceil(ranks / a.gpus)
    parts = [
        level(within, size, a.gpu_latency * 1e-6, a.gpu_bandwidth * 1e9),
        level(nodes, size / within, a.node_latency * 1e-6, a.node_bandwidth * 1e9),
    ]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def waiting(ranks, seconds, a, draw):
    """Mean seconds that a step waits for its slowest rank beyond one rank's own time."""
    slowest = sum(max(draw.gauss(0, 1) for _ in range(ranks)) for _ in range(a.steps)) / a.steps
    return seconds * a.jitter * max(0.0, slowest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,8,16,64,256,1024", help="numbers of ranks, by comma (%(default)s)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of a node (%(default)s)")
    parser.add_argument("--gpu-latency", type=float, default=3, help="us a hop within a node (%(default)s)")
    parser.add_argument("--gpu-bandwidth", type=float, default=300, help="GB/s of a GPU within a node (%(default)s)")
    parser.add_argument("--node-latency", type=float, default=8, help="us a hop between nodes (%(default)s)")
    parser.add_argument("--node-bandwidth", type=float, default=50, help="GB/s of a GPU between nodes (%(default)s)")
    parser.add_argument("--jitter", type=float, default=0.01, help="deviation of a rank's computing time (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="simulated steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the deviations (%(default)s)")
    a = parser.parse_args()
    try:
        ranks = [int(text) for text in a.ranks.split(",")]
    except ValueError:
        parser.error(f"--ranks {a.ranks}: expected whole numbers, by comma")
    if min(ranks) < 1 or min(a.gpus, a.steps) < 1 or min(a.gpu_bandwidth, a.node_bandwidth) <= 0:
        parser.error("expected at least one rank, GPU and step, and bandwidths above 0")
    draw = random.Random(a.seed)
    print("| gates of | a step alone | gradients | " + " | ".join(f"{p} ranks" for p in ranks), end=" | ")
    print(f"{ranks[-1]} ranks: waits, latency, bytes |")
    print("|---|---|---|" + "---|" * (len(ranks) + 1))
    for name, ms, source, matrices, experts, rank, gate_rank in WORKLOADS:
        size = gate_bytes(matrices, experts, rank, gate_rank)
        cells = []
        for p in ranks:
            latency = moving = 0.0
            for part in (statistics_bytes(matrices, experts), size):
                more = all_reduce(p, part, a)
                latency, moving = latency + more[0], moving + more[1]
            wait = waiting(p, ms * 1e-3, a, draw)
            total = ms * 1e-3 + wait + latency + moving
            cells.append(f"{100 * ms * 1e-3 / total:.0f} %")
        cells.append(", ".join(f"{1e3 * t:.2f} ms" for t in (wait, latency, moving)))
        print(f"| {name} | {ms:g} ms, {source} | {size / 1e6:.1f} MB | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
