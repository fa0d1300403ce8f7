"""The tasks of the study: examples/mole/make_tasks makes the same examples of a task however many tasks there are, and
none of a task's tests is among what its expert is trained on.

    python3 check_make_tasks.py MAKE_TASKS
"""

import collections
import json
import pathlib
import subprocess
import sys
import tempfile

FILES = ("lora_train.jsonl", "gate_train.jsonl", "test.jsonl")


def made(program, folder, count):
    # Any words do: each number is spelled as the language and its digits.
    languages = ("fr", "de", "es", "en")
    numbers = "".join(f"{language}\t{n}\t{language} {n}\n" for language in languages for n in range(10000))
    subprocess.run([sys.executable, program, folder, *count], input=numbers, text=True, check=True, capture_output=True)
    return {name: (pathlib.Path(folder) / name).read_text(encoding="utf8") for name in FILES}


def by_task(text):
    tasks = collections.defaultdict(list)
    for line in text.splitlines():
        example = json.loads(line)
        tasks[example["task"]].append(example)
    return tasks


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as usual, tempfile.TemporaryDirectory() as many:
        eight, all_tasks = made(program, usual, []), made(program, many, ["32"])
    for name in FILES:
        assert all_tasks[name].startswith(eight[name]) and len(all_tasks[name]) > len(eight[name]), name
    train, gates, tests = (by_task(all_tasks[name]) for name in FILES)
    assert len(train) == len(gates) == len(tests) == 32, (len(train), len(gates), len(tests))
    for task, examples in tests.items():
        assert len(examples) == 200 and len(gates[task]) == 100 and len(train[task]) >= 1000, task
        # What is asked tells the answer, and no prompt stands in both.
        trained = {example["prompt"] for example in train[task]}
        assert not any(example["prompt"] in trained for example in examples), task
    answers = collections.defaultdict(set)
    for example in (example for some in (train, tests) for list_ in some.values() for example in list_):
        answers[example["prompt"]].add(example["answer"])
    twice = [prompt for prompt, some in answers.items() if len(some) > 1]
    assert not twice, twice[:3]
    cut = "fr\t1\tun\nfr two\n"
    for count, lines, said in (("33", "", "1 to 32"), ("eight", "", "1 to 32"), ("8", cut, "line 2 of the input")):
        refused = subprocess.run([sys.executable, program, "nowhere", count], input=lines, text=True, capture_output=True)
        assert refused.returncode == 1 and said in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr, refused.stderr
    print("32 tasks, each with examples of its own")


main()
