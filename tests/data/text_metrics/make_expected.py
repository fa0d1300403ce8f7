"""Writes expected.json: BLEU of sacrebleu and ROUGE-L of rouge_score for the pairs below.

    pip install sacrebleu==2.6.0 rouge-score==0.1.2
    python tests/data/text_metrics/make_expected.py
"""

import json
import pathlib

import sacrebleu
from rouge_score import rouge_scorer

PAIRS = [
    ("The cat sat on the mat.", "The cat is sitting on the mat."),
    ("deux cent six", "deux cent six"),
    ("It's 3.14, not 1,000 - or is it 5-6?", "It is 3.14, not 1,000-or 5-6!"),
    ("A \"quoted\" word &amp; more <b>tags</b> (here).", "A \"quoted\" word & more <b>tags</b> (there)."),
    ("vingt-et-un euros, s'il vous plaît", "vingt et un euros s’il vous plaît"),
    ("", "nothing was written"),
    ("no match at all", "completely different words"),
    ("Prices: $5,99 ... or 6.00.", "Prices: $5.99 ... or 6,00."),
    ("line one\nline two", "line one line two"),
    ("über 12. Mai, 12,5 % and a_b^c~d`e{f}|g", "über 12. Mai 12.5 % and a_b^c~d`e{f}|g"),
]

SETS = {
    "all": PAIRS,
    "first": PAIRS[:3],
    "short": PAIRS[1:2],
    "none": PAIRS[6:7],
    "half": [(a, b + " and a long tail that nobody wrote") for a, b in PAIRS[:5]],
}

scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
bleu = sacrebleu.BLEU()
tokenizer = bleu.tokenizer
result = {
    "pairs": [
        {
            "written": written,
            "wanted": wanted,
            "tokens": tokenizer(written.rstrip()).split(),
            # rouge_score knows the letters of ASCII alone: only such texts can be compared.
            "rouge_l": scorer.score(wanted, written)["rougeL"].fmeasure if (written + wanted).isascii() else None,
        }
        for written, wanted in PAIRS
    ],
    "corpora": [
        {
            "name": name,
            "pairs": [{"written": a, "wanted": b} for a, b in pairs],
            "bleu": bleu.corpus_score([a for a, _ in pairs], [[b for _, b in pairs]]).score / 100,
        }
        for name, pairs in SETS.items()
    ],
    "signature": str(bleu.get_signature()),
}
pathlib.Path(__file__).with_name("expected.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
