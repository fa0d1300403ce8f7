"""Compares the library's safetensors reader with the reference implementation, Python's safetensors (with numpy).

check_safetensors_with_python.py DUMP_SAFETENSORS SEED FILES: writes files, right and wrong ones, and has both read
them. What the library accepts the reference accepts too, with the same names, types, shapes, bytes and metadata. A
file that the reference has written is accepted. --can-run says whether there is a safetensors here.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile

import numpy
import safetensors
import safetensors.numpy

WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def fingerprint(data):
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    return f"{state:016x}"


def random_tensors(rng):
    tensors = {}
    for _ in range(rng.randrange(5)):
        name = rng.choice(["a", "b.weight", "ä", "x" * 40, "", "q\n", "\u202e"]) + str(rng.randrange(3))
        dtype = rng.choice(list(WIDTH))
        shape = [rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randrange(4))]
        size = WIDTH[dtype]
        for extent in shape:
            size *= extent
        data = bytes(rng.randrange(2) if dtype == "BOOL" else rng.randrange(256) for _ in range(size))
        tensors[name] = {"dtype": dtype, "shape": shape, "data": data}
    return tensors


def packed(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def as_reference_writes(tensors, metadata):
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16",
             "I8": "int8", "U8": "uint8", "BOOL": "bool"}
    return safetensors.numpy.save(
        {name: numpy.frombuffer(t["data"], names[t["dtype"]]).reshape(t["shape"])
         for name, t in tensors.items() if t["dtype"] in names}, metadata)


def own_header(tensors, metadata):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, t in tensors.items():
        header[name] = {"dtype": t["dtype"], "shape": t["shape"],
                        "data_offsets": [len(data), len(data) + len(t["data"])]}
        data += t["data"]
    return header, data


NUMBERS = [0, 1, -1, 2, 3, 7, 8, 255, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 0.5, 1e3, 1e400]


def changed(rng, header, data):
    """A file that is a little wrong, or odd."""
    entries = [key for key in header if key != "__metadata__"]
    kind = rng.randrange(14)
    if entries and kind < 7:
        entry = header[rng.choice(entries)]
        if kind == 0:
            entry["shape"] = [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
        elif kind == 1:
            entry["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS)
        elif kind == 2:
            entry["data_offsets"][rng.randrange(2)] += rng.choice([-2, -1, 1, 2])
        elif kind == 3:
            entry["dtype"] = rng.choice(list(WIDTH) + ["F8_E4M3", "F4", "C64", "f32", "", None, 3])
        elif kind == 4:
            del entry[rng.choice(list(entry))]
        elif kind == 5:
            entry[rng.choice(["more", "shape ", "dtype\x00"])] = rng.choice([None, 1, "x", [], {}])
        else:
            entry[rng.choice(list(entry))] = rng.choice([None, [], {}, "x", 1, True, [[1]]])
    elif kind == 7:
        header["__metadata__"] = rng.choice([None, {}, {"k": 1}, {"k": None}, [], "x", {"k": "v"}, {"a": {"b": "c"}}])
    elif kind == 8:
        data += bytes(rng.randrange(1, 5))
    elif kind == 9:
        data = data[: rng.randrange(len(data) + 1)]
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if kind == 10:
        text = text + b" " * rng.randrange(9)
    elif kind == 11:
        text = b" " * rng.randrange(3) + text
    elif kind == 12 and len(text) > 2:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.choice([0, 34, 44, 58, 91, 123, 125, 128, 192, 255])]) + text[at + 1:]
    elif kind == 13 and len(text) > 4:
        text = text[:-1] + b"," + text[1:]  # the entries twice
    file = packed(text, data)
    if rng.random() < 0.03:
        file = struct.pack("<Q", rng.choice([0, 1, 2**32, 2**63, 2**64 - 1, 100000001])) + file[8:]
    if rng.random() < 0.03:
        file = file[: rng.randrange(len(file) + 1)]
    return file


def reference(file):
    """What the reference reads: lines as dump_safetensors prints them, or None."""
    try:
        tensors = safetensors.deserialize(file)
    except Exception:
        return None
    lines = set()
    for name, t in tensors:
        shape = "s" + "".join(f"{extent}," for extent in t["shape"])
        lines.add(("x" + name.encode().hex(), t["dtype"], shape, fingerprint(bytes(t["data"]))))
    return lines


def main():
    program, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    wrong, accepted, refused_by_both, stricter = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(count):
            tensors = random_tensors(rng)
            metadata = rng.choice([None, {}, {"format": "pt", "ü": "\n"}])
            right = rng.random() < 0.3
            if right:
                file = as_reference_writes(tensors, metadata)
            else:
                file = changed(rng, *own_header(tensors, metadata))
            with open(path, "wb") as out:
                out.write(file)
            child.stdin.write(path + "\n")
            child.stdin.flush()
            lines = []
            while (line := child.stdout.readline().rstrip("\n")) != "end":
                if not line and child.poll() is not None:
                    sys.exit(f"the program ended at file {number}")
                lines.append(line)
            theirs = reference(file)
            if lines == ["refused"]:
                # The reference writes broken files for empty metadata, and refuses them itself.
                if right and theirs is not None:
                    wrong.append((number, "refused what the reference wrote", file))
                elif theirs is None:
                    refused_by_both += 1
                else:
                    stricter += 1
                continue
            accepted += 1
            if theirs is None:
                wrong.append((number, "accepted what the reference refuses", file))
                continue
            ours = [tuple(line.split(" ")) for line in lines if not line.startswith("meta ")]
            same = len(ours) == len(theirs)
            for name, dtype, shape, digest in ours:
                same = same and any(t[:3] == (name, dtype, shape) and digest in ("-", t[3]) for t in theirs)
            if not same:
                wrong.append((number, "read other tensors than the reference", file))
            if right and sum(line.startswith("meta ") for line in lines) != len(metadata or {}):
                wrong.append((number, "read other metadata than was written", file))
        child.stdin.close()
        child.wait()
    print(f"{count} files: {accepted} accepted, {refused_by_both} refused by both, {stricter} by the library alone")
    for number, what, file in wrong[:10]:
        print(f"file {number} of seed {seed}: {what}: {file[:400]!r}")
    if accepted < count // 5 or refused_by_both < count // 10:
        sys.exit("too few files are accepted, or refused, to say anything")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    if sys.argv[1:] != ["--can-run"]:
        main()
