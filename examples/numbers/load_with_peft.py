#!/usr/bin/env python3
"""Loads a base and an expert that `numbers` has written with Hugging Face's own libraries, and translates.

    python3 examples/numbers/load_with_peft.py examples/numbers/assets/base examples/numbers/assets/experts/en-fr \
        "en>fr two hundred six" "en>fr nine thousand eleven"

Needs torch, transformers and peft. Bytes are the tokens: byte + 3, 0 pads, 1 ends.
"""

import argparse

import torch
from peft import PeftModel
from transformers import T5ForConditionalGeneration


def encode(texts):
    """Padded ids and mask of some texts."""
    rows = [[byte + 3 for byte in text.encode()] + [1] for text in texts]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, (ids != 0).long()


def decode(ids):
    """The text of generated ids, up to the end token."""
    row = ids.tolist()[1:]
    return bytes(i - 3 for i in row[: row.index(1) if 1 in row else None] if i >= 3).decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder of the base model")
    parser.add_argument("expert", help="folder of the adapter, or - for the base alone")
    parser.add_argument("texts", nargs="+", help="such as 'en>fr two hundred six'")
    options = parser.parse_args()
    model = T5ForConditionalGeneration.from_pretrained(options.base, dtype=torch.float32)
    if options.expert != "-":
        model = PeftModel.from_pretrained(model, options.expert)
    model.eval()
    ids, mask = encode(options.texts)
    with torch.no_grad():
        for text, row in zip(options.texts, model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=160)):
            print(f"{text} -> {decode(row)}")


if __name__ == "__main__":
    main()
