"""Makes tests/data/pictures/scene.json: scenes of the program `pictures` drawn a second time, in NumPy.

The formulas are PyTorch's (affine_grid and grid_sample with align_corners=False, zeros outside; avg_pool2d), which the
models of examples/pictures were first trained with. Needs NumPy.

    python3 tests/data/make_pictures_golden.py
"""
import json
import pathlib
import struct
import zlib

import numpy as np

root = pathlib.Path(__file__).resolve().parents[2]
assets = root / "examples/pictures/assets"


def read_png(path):
    data = path.read_bytes()[8:]
    packed = b""
    while data:
        length, kind = struct.unpack(">I4s", data[:8])
        body, data = data[8:8 + length], data[12 + length:]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        if kind == b"IDAT":
            packed += body
    raw = zlib.decompress(packed)
    rows, before, stride = [], np.zeros(width * 4, np.int64), width * 4
    for y in range(height):
        kind, line = raw[y * (stride + 1)], np.frombuffer(raw, np.uint8, stride, y * (stride + 1) + 1).astype(np.int64)
        out = np.zeros(stride, np.int64)
        for i in range(0, stride, 4):
            a = out[i - 4:i] if i else np.zeros(4, np.int64)
            b, c = before[i:i + 4], before[i - 4:i] if i else np.zeros(4, np.int64)
            p = a + b - c
            pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
            paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
            out[i:i + 4] = (line[i:i + 4] + [0, a, b, (a + b) // 2, paeth][kind]) % 256
        rows.append(out)
        before = out
    return np.stack(rows).reshape(height, width, 4)


def grid_sample(sprite, theta):
    """sprite [40, 40, 4], theta [2, 3]; the 64 x 64 picture."""
    n, fine = sprite.shape[0], 64
    base = (2 * np.arange(fine) + 1) / fine - 1
    x = theta[0][0] * base[None, :] + theta[0][2] + 0 * base[:, None]
    y = theta[1][1] * base[:, None] + theta[1][2] + 0 * base[None, :]
    u, v = ((x + 1) * n - 1) / 2, ((y + 1) * n - 1) / 2
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    result = np.zeros((fine, fine, 4))
    for du in (0, 1):
        for dv in (0, 1):
            ui, vi = u0 + du, v0 + dv
            weight = (1 - abs(u - ui)) * (1 - abs(v - vi))
            inside = (ui >= 0) & (ui < n) & (vi >= 0) & (vi < n)
            picked = sprite[np.clip(vi, 0, n - 1), np.clip(ui, 0, n - 1)]
            result += np.where(inside, weight, 0)[..., None] * picked
    return result


names = json.loads((assets / "sprites.json").read_text())["names"]
sheet = read_png(assets / "sprites.png") / 255


def sprite(name):
    i = names.index(name)
    return sheet[i // 16 * 40:i // 16 * 40 + 40, i % 16 * 40:i % 16 * 40 + 40]


def render(objects, background):
    R = 32
    picture = np.broadcast_to(np.array(background), (64, 64, 3)).copy()
    for name, cx, cy, size in objects:
        theta = [[R / size, 0, (R / 2 - cx) / (size / 2)], [0, R / size, (R / 2 - cy) / (size / 2)]]
        over = grid_sample(sprite(name), theta)
        picture = picture * (1 - over[..., 3:]) + over[..., :3]
    return np.clip(picture.reshape(32, 2, 32, 2, 3).mean((1, 3)), 0, 1) * 2 - 1


scenes = [
    dict(caption="a dog face on blue", objects=[["dog face", 13.3, 17.9, 21.5]], rgb=[105, 150, 230], jitter=[.5, -1, .25]),
    dict(caption="a pizza left of an owl on gray", objects=[["pizza", 7.6, 15.2, 13.4], ["owl", 24.7, 18.1, 15.9]],
         rgb=[150, 150, 150], jitter=[0, 0, 0]),
    dict(caption="a cat face left of a dog face above a pizza on black",
         objects=[["cat face", 8.3, 8.1, 12.6], ["dog face", 23.5, 8.6, 15.1], ["pizza", 18.9, 23.4, 14]],
         rgb=[35, 35, 35], jitter=[1, 1, -1]),
]
for scene in scenes:
    background = [c / 255 + j * .03 for c, j in zip(scene.pop("rgb"), scene["jitter"])]
    picture = render([(n, x, y, s) for n, x, y, s in scene["objects"]], background)
    scene["pixels"] = [round(float(v), 6) for v in picture.reshape(-1)[::13]]
out = root / "tests/data/pictures/scene.json"
out.write_text(json.dumps(scenes) + "\n")
print(out, out.stat().st_size, "bytes")
