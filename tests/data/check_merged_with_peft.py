#!/usr/bin/env python3
"""Loads the adapters that `write_merged` made with PEFT and compares the logits with this library's.

    cmake --build BUILD --target write_merged
    BUILD/tests/write_merged tests/data/golden/hf/t5_flan merged
    python3 tests/data/check_merged_with_peft.py tests/data/golden/hf/t5_flan merged

CTest does both where CMake found a Python that can: the option --can-run asks for no more than that.

Needs torch, transformers 5.17, peft 0.21 and safetensors. All is computed in float64. Each written adapter has a
line of relative errors, max |difference| / max |expected|:

    read     PEFT's logits against this library's, both with the adapter as it was stored
    merged   PEFT's against this library's with the adapter as it was merged, before storing rounded it
    base     the base's without any adapter: how much there is to get wrong

The exit status is 1 if `read`, or `merged` where the adapter was stored in float64, is above 1e-10, or if PEFT did
not take every tensor of a file. `merged` of float32 is what its rounding does, which these random models magnify.
"""

import pathlib
import sys

import peft
import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration
from transformers.utils import logging

ALLOWED = 1e-10


def base_model(golden):
    return T5ForConditionalGeneration.from_pretrained(golden / "base", dtype=torch.float64).eval()


def logits_of(model, batch):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                     labels=batch["labels"]).logits


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def version(module):
    return [int(part) for part in module.__version__.split(".")[:2]]


def main():
    if sys.argv[1:] == ["--can-run"]:
        sys.exit(version(peft) < [0, 21] or version(transformers) < [5, 17])
    if len(sys.argv) != 3:
        sys.exit("usage: check_merged_with_peft.py GOLDEN WRITTEN")
    golden, written = map(pathlib.Path, sys.argv[1:])
    logging.disable_progress_bar()
    batch = load_file(golden / "expected.safetensors")
    ours = load_file(written / "logits.safetensors")
    base = logits_of(base_model(golden), batch)
    failed = checked = 0
    for name in sorted(ours):
        method, dot, stored_as = name.rpartition(".")
        if not dot:
            continue
        stored = load_file(written / name / "adapter_model.safetensors")
        model = PeftModel.from_pretrained(base_model(golden), written / name).eval()
        taken = get_peft_model_state_dict(model, save_embedding_layers=False)
        complete = taken.keys() == stored.keys() and all(
            torch.equal(taken[key], tensor.double()) for key, tensor in stored.items())
        found = logits_of(model, batch)
        read, merged = relative_error(found, ours[name]), relative_error(found, ours[method])
        ok = complete and read <= ALLOWED and (stored_as == "f32" or merged <= ALLOWED)
        checked += 1
        failed += not ok
        print(f"{name:24} read {read:.1e}  merged {merged:.1e}  base {relative_error(base, ours[method]):.1e}"
              f"  {'ok' if ok else 'FAILED' if complete else 'FAILED: PEFT did not take every tensor'}")
    print(f"{checked - failed} passed, {failed} failed")
    sys.exit(failed > 0 or checked == 0)


if __name__ == "__main__":
    main()
