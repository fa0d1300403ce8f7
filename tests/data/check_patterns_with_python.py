"""Compares pattern.hpp with Python's `re` on random patterns and texts.

    python3 check_patterns_with_python.py MATCH_PATTERNS [SEED [COUNT]]

MATCH_PATTERNS is the program of tests/io/match_patterns.cpp. Where it answers, `re` must answer the same; what
it calls malformed, `re` must refuse; it may call nothing unsupported that is made of what it knows.
"""

import random
import re
import signal
import subprocess
import sys
import warnings

ATOMS = ["a", "b", "q", ".", r"\.", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[a-c_]", r"[\d.]", r"[^\w.]",
         "[]a]", "[a-]", "0", "1", "_", "é", r"\n", r"\x61", r"\u0062", r"\\", r"\-", "{", "}", "x{", "a{1", "-", "layer"]
ANCHORS = ["^", "$", r"\Z", r"\A", r"\b", r"\B"]
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "{0}", "{,}", "{2,1}", "*?", "+?", "??", "{1,2}?", "{x}", "{}"]
BROKEN = ["(", ")", "[", "\\", "*", "**", "[b-a]", "(?", "(?<", "(?P<", r"\q", "(?P<1>a)", "(?z)"]
REAL = [r"(.*\.)?(q)$", r"(.*\.)?(layer\.\d+\.[qv])$", r".*(?<!a)\.(q|v)", r"^(?!.*lm_head).*\.(q|v)_proj", r"(?i).*Q",
        r"(?P<side>a|b)\..*\.q", r"a\..*\.q\Z", r".*layers\.(1|2|\d{2,})\..*q", "(a+)+b", "(a|a)*b", "((a*)*)*b"]
TEXTS = ["a", "b", "q", "A", "Q", ".", "_", "0", "1", " ", "\n", "-", "{", "layer", "layer.1.q", "a.b.q", "lm_head", "\\"]


def sequence(rng, depth):
    return "".join(piece(rng, depth) for _ in range(rng.randint(0, 3)))


def piece(rng, depth):
    roll = rng.random()
    if roll < 0.1:
        return rng.choice(ANCHORS)
    if roll < 0.13:
        return rng.choice(BROKEN)
    if roll < 0.45 and depth > 0:
        opening = rng.choice(["(", "(?:", "(?P<n%d>" % rng.randint(0, 10**9), "(?=", "(?!", "(?i:", "(?s:", "(?-i:"])
        body = "|".join(sequence(rng, depth - 1) for _ in range(rng.choice([1, 1, 2, 3])))
        if rng.random() < 0.1:
            opening, body = rng.choice(["(?<=", "(?<!"]), rng.choice(["a", "ab|.b", r"\d", "[ab]q", "", "^", r"\b"])
        item = opening + body + ")"
    else:
        item = rng.choice(ATOMS)
    return item + (rng.choice(QUANTIFIERS) if rng.random() < 0.35 else "")


def pattern(rng):
    roll = rng.random()
    if roll < 0.1:
        return rng.choice(REAL)
    text = "|".join(sequence(rng, 3) for _ in range(rng.choice([1, 1, 1, 2])))
    if roll < 0.3:
        return r"(.*\.)?(" + text + ")$"
    return rng.choice(["", "", "", "(?i)", "(?s)", "(?is)"]) + text


class TooLong(Exception):
    pass


def give_up(*_):
    raise TooLong


def expected(text, name):
    try:
        compiled = re.compile(text)
    except re.error as error:
        return "refused: " + str(error)
    # `re` goes through all ways to match: some of these patterns would keep it for hours.
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        return ("f" if compiled.fullmatch(name) else "-") + ("m" if compiled.match(name) else "-")
    except TooLong:
        return "too long"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main():
    program, seed, count = sys.argv[1], int((sys.argv[2:3] or [1])[0]), int((sys.argv[3:4] or [40000])[0])
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, give_up)
    rng = random.Random(seed)
    pairs = [(pattern(rng), "".join(rng.choice(TEXTS) for _ in range(rng.randint(0, 6)))) for _ in range(count)]
    lines = "".join("%s\t%s\n" % (p.encode().hex(), t.encode().hex()) for p, t in pairs)
    answers = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout.split("\n")
    matched = refused = 0
    for (text, name), answer in zip(pairs, answers):
        want = expected(text, name)
        if want == "too long":
            continue
        if want.startswith("refused"):
            refused += 1
            # Lookbehinds of any width are known here, flags inside a pattern depend on Python's version.
            right = answer in ("malformed", "unsupported") or "fixed-width" in want or "redefinition" in want
        else:
            matched += "m" in want
            # The flag i is for ASCII alone; *+ and the like are possessive from Python 3.11 on; \1 refers back.
            unknown = answer == "unsupported" and re.search(r"é|[*+?}]\+|\\[1-9]", text)
            right = answer == want or unknown
        if not right:
            print("pattern %r, text %r: expected %s, got %s" % (text, name, want, answer))
            return 1
    print("%d pairs agree: %d match, %d patterns are refused" % (count, matched, refused))
    return 0 if matched > count / 50 and refused > count / 50 else 1


if __name__ == "__main__":
    sys.exit(main())
