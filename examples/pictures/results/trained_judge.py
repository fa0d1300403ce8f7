#!/usr/bin/env python3
"""A trained judge of the study's pictures: a small network that says which emoji are where.

    pictures compose --save-pictures --out RUN
    python3 examples/pictures/results/trained_judge.py train JUDGE.pt
    python3 examples/pictures/results/trained_judge.py judge JUDGE.pt RUN/pictures [RUN2/pictures ..]

Training is meant for a GPU; on a processor it takes hours. Its pictures are scenes of one to three emoji, drawn as
`pictures` draws them; blends of two emoji count as nobody. Several runs, such as those of several seeds, are judged
together, row by row: the share of subjects that are there, of pictures with all of them, with all of them in their
places, and whether the likeliest emoji are those of the prompt. Needs torch, numpy and Pillow.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "assets"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDE = 32
COLOURS = {"red": (225, 95, 90), "green": (120, 190, 115), "blue": (105, 150, 230), "yellow": (245, 220, 110),
           "purple": (165, 120, 205), "gray": (150, 150, 150), "white": (245, 245, 245), "black": (35, 35, 35)}
ALONE, LEFT_OF, ABOVE, TRIANGLE = range(4)


class Sprites:
    def __init__(self):
        about = json.loads((ASSETS / "sprites.json").read_text())
        self.names, size, columns = about["names"], about["size"], about["columns"]
        sheet = np.array(Image.open(ASSETS / "sprites.png"), np.float32) / 255
        cut = [sheet[i // columns * size:, i % columns * size:][:size, :size] for i in range(len(self.names))]
        pixels = torch.tensor(np.stack(cut)).permute(0, 3, 1, 2)
        # One more that shows nothing.
        self.pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])]).to(DEVICE)
        self.colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=DEVICE) / 255

    @property
    def count(self):
        return len(self.names)


def random_scenes(sprites, n, seed):
    """Kinds [n], objects [n, 3] and colours [n] of scenes of different emoji."""
    random = np.random.default_rng(seed)
    kinds = random.choice(4, n, p=(0.3, 0.25, 0.25, 0.2))
    colours = random.integers(0, len(COLOURS), n)
    objects = np.stack([random.choice(np.arange(sprites.count), 3, replace=False) for _ in range(n)])
    for i in range(n):
        objects[i, (1, 2, 2, 3)[kinds[i]]:] = sprites.count
    return [torch.tensor(a, device=DEVICE) for a in (kinds, objects, colours)]


def place(kinds):
    """Sizes and centres [n, 3] of objects."""
    n = len(kinds)
    uniform = lambda low, high, *shape: torch.rand(n, *shape, device=DEVICE) * (high - low) + low
    of = lambda *values: torch.tensor(values, device=DEVICE)
    kind = kinds[:, None]
    alone = uniform(13, 26, 1)
    centre = torch.rand(n, 2, device=DEVICE) * (SIDE - alone) + alone / 2
    two, three = uniform(13, 16, 3), uniform(12.5, 15.2, 3)
    size = torch.where(kind == ALONE, alone.expand(n, 3), torch.where(kind == TRIANGLE, three, two))
    common = uniform(-4, 4, 1)
    along = of(8.0, 24.0, 16.0) + uniform(-0.8, 0.8, 3)
    across = 16 + common + uniform(-1.5, 1.5, 3)
    third = of(8.0, 24.0, 16.0) + uniform(-0.6, 0.6, 3) + of(0.0, 0.0, 1.0) * uniform(-4, 4, 1)
    low = of(8.2, 8.2, 23.6) + uniform(-0.5, 0.5, 3)
    choose = lambda one, left, above, triangle: torch.where(
        kind == ALONE, one.expand(n, 3),
        torch.where(kind == LEFT_OF, left, torch.where(kind == ABOVE, above, triangle)))
    return (size, choose(centre[:, :1], along, across, third), choose(centre[:, 1:], across, along, low))


def draw(sprites, kinds, objects, colours, blend=None):
    """Pictures [n, 3, side, side] in [-1, 1], and the objects' centres. blend: shares [n, 3] of other sprites [n, 3]."""
    n = len(kinds)
    size, x, y = place(kinds)
    background = sprites.colours[colours] + (torch.rand(n, 3, device=DEVICE) - 0.5) * 0.06
    picture = background[:, :, None, None].expand(n, 3, 2 * SIDE, 2 * SIDE)
    for j in range(3):
        move = torch.zeros(n, 2, 3, device=DEVICE)
        move[:, 0, 0] = move[:, 1, 1] = SIDE / size[:, j]
        move[:, 0, 2] = (SIDE / 2 - x[:, j]) / (size[:, j] / 2)
        move[:, 1, 2] = (SIDE / 2 - y[:, j]) / (size[:, j] / 2)
        sprite = sprites.pixels[objects[:, j]]
        if blend is not None:
            share, others = blend
            share = share[:, j, None, None, None]
            sprite = sprite * (1 - share) + sprites.pixels[others[:, j]] * share
        grid = F.affine_grid(move, (n, 4, 2 * SIDE, 2 * SIDE), align_corners=False)
        over = F.grid_sample(sprite, grid, align_corners=False)
        picture = picture * (1 - over[:, 3:]) + over[:, :3]
    return F.avg_pool2d(picture, 2).clamp(0, 1) * 2 - 1, x, y


class Judge(nn.Module):
    """Of each emoji whether it is there, and in the left, right, upper and lower half. [n, 5, emoji]"""

    def __init__(self, count, width=48):
        super().__init__()
        layer = lambda i, o, stride=1: nn.Sequential(
            nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.GroupNorm(8, o), nn.ReLU())
        w = width
        self.net = nn.Sequential(layer(3, w), layer(w, w), layer(w, 2 * w, 2), layer(2 * w, 2 * w),
                                 layer(2 * w, 4 * w, 2), layer(4 * w, 4 * w), layer(4 * w, 4 * w, 2),
                                 layer(4 * w, 4 * w))
        self.count = count
        self.head = nn.Linear(4 * w * 16, count * 5)

    def forward(self, x):
        return self.head(self.net(x).flatten(1)).float().view(-1, 5, self.count)


def loss_of(judge, sprites, scenes, batch):
    kinds, objects, colours = scenes
    i = torch.randint(0, len(kinds), (batch,), device=DEVICE)
    chance = torch.rand(batch, 3, device=DEVICE)
    others = torch.randint(0, sprites.count, (batch, 3), device=DEVICE)
    blended = chance < 0.12
    share = torch.where(blended, torch.rand(batch, 3, device=DEVICE) * 0.4 + 0.3, torch.zeros_like(chance))
    pictures, x, y = draw(sprites, kinds[i], objects[i], colours[i], (share, others))
    blurred = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    pictures = torch.where(torch.rand(batch, 1, 1, 1, device=DEVICE) < 0.2, blurred, pictures)
    pictures = pictures + torch.randn_like(pictures) * torch.rand(batch, 1, 1, 1, device=DEVICE) * 0.2
    real = (~blended & (objects[i] < sprites.count)).float()
    wanted = torch.zeros(batch, 5, sprites.count + 1, device=DEVICE)
    for k, inside in enumerate((x > -9, x < 16, x >= 16, y < 16, y >= 16)):
        wanted[:, k].scatter_reduce_(1, objects[i], real * inside.float(), "amax")
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        said = judge(pictures)
    return F.binary_cross_entropy_with_logits(said, wanted[..., :sprites.count]) * 50


def train(options):
    sprites = Sprites()
    scenes = random_scenes(sprites, options.scenes, 1)
    torch.manual_seed(77)
    judge = Judge(sprites.count).to(DEVICE)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.02, betas=(0.9, 0.99))
    mean = [p.detach().clone() for p in judge.parameters()]
    for step in range(options.steps):
        rate = 2e-3 * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / options.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(judge, sprites, scenes, options.batch)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(mean, list(judge.parameters()), 1 - 0.998)
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        for p, m in zip(judge.parameters(), mean):
            p.copy_(m)
    torch.save(judge.state_dict(), options.judge)


def read_scene(text, names):
    """The kind of a caption and the numbers of its objects."""
    words = text.rsplit(" on ", 1)[0]
    kind = ((LEFT_OF if " left of " in words else 0) + (ABOVE if " above " in words else 0))
    parts = words.replace(" left of ", "|").replace(" above ", "|").split("|")
    return kind, [names.index(part.split(" ", 1)[1]) for part in parts]


def verdict(p, kind, objects):
    """there, all, placed, likeliest of one picture, whose probabilities are p [5, emoji]."""
    there = [p[0, o] > 0.5 for o in objects]
    halves = {ALONE: [0], LEFT_OF: [1, 2], ABOVE: [3, 4], TRIANGLE: [1, 2, 4]}[kind]
    placed = all(there) and all(p[half, o] > 0.5 for half, o in zip(halves, objects))
    likeliest = set(np.argsort(-p[0])[:len(objects)]) == set(objects)
    return [np.mean(there), all(there), placed, likeliest]


def judge(options):
    sprites = Sprites()
    network = Judge(sprites.count).to(DEVICE)
    network.load_state_dict(torch.load(options.judge, map_location=DEVICE))
    rows = {}
    for run in options.runs:
        for about in sorted(pathlib.Path(run).glob("*/metadata.jsonl")):
            for line in about.read_text().splitlines():
                entry = json.loads(line)
                pixels = np.array(Image.open(about.parent / entry["file_name"]).convert("RGB"), np.float32)
                picture = torch.tensor(pixels / 127.5 - 1).permute(2, 0, 1)[None].to(DEVICE)
                kind, objects = read_scene(entry["text"], sprites.names)
                with torch.no_grad():
                    p = torch.sigmoid(network(picture))[0].cpu().numpy()
                rows.setdefault((about.parent.name, len(objects)), []).append(verdict(p, kind, objects))
    print("| row | objects | pictures | there | all there | placed | likeliest |\n|---|---|---|---|---|---|---|")
    for (row, objects), found in sorted(rows.items()):
        print(f"| {row} | {objects} | {len(found)} | " + " | ".join(f"{100 * v:.0f}" for v in np.mean(found, 0)) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train")
    one.add_argument("judge")
    one.add_argument("--steps", type=int, default=4018)
    one.add_argument("--batch", type=int, default=512)
    one.add_argument("--scenes", type=int, default=200000)
    one.set_defaults(run=train)
    one = commands.add_parser("judge")
    one.add_argument("judge")
    one.add_argument("runs", nargs="+")
    one.set_defaults(run=judge)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
