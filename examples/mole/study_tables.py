"""Tables of a study, in Markdown: exact match in per cent, a row a method, means and spreads over the seeds.

  python3 study_tables.py results.csv own.csv
"""

import collections
import csv
import statistics
import sys


def mean(values):
    return sum(values) / len(values)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    # (row without seed, method) -> seed -> task -> (exact match in per cent, token F1 in per cent, loss)
    scores = collections.defaultdict(lambda: collections.defaultdict(dict))
    with open(sys.argv[1], encoding="utf8") as file:
        for line in csv.DictReader(file):
            row, _, seed = line["row"].rpartition(".")
            scores[row, line["method"]][seed][line["task"]] = (
                100 * float(line["exact_match"]), 100 * float(line["token_f1"]), float(line["loss"]))
    print("| row | method | seeds | tasks | exact match | of each task | F1 | loss |\n|---|---|---|---|---|---|---|---|")
    for (row, method), seeds in sorted(scores.items()):
        tasks = list(next(iter(seeds.values())))
        averages = [mean([score[0] for score in one.values()]) for one in seeds.values()]
        spread = f" ± {statistics.stdev(averages):.1f}" if len(averages) > 1 else ""
        every = [score for one in seeds.values() for score in one.values()]
        each = ", ".join(f"{task} {mean([one[task][0] for one in seeds.values()]):.1f}" for task in tasks)
        print(f"| {row} | {method} | {len(seeds)} | {len(tasks)} | {mean(averages):.1f}{spread} | {each} | "
              f"{mean([score[1] for score in every]):.1f} | {mean([score[2] for score in every]):.3f} |")
    with open(sys.argv[2], encoding="utf8") as file:
        own = [line.rstrip("\n").split(",") for line in file]
    for folder in ("experts", "plain"):
        rates = [(name[len(folder) + 1:], float(rate)) for name, rate in own if name.startswith(folder + "-")]
        if rates:
            print(f"\nEach expert of `{folder}` on its own task: {mean([rate for _, rate in rates]):.1f} (" +
                  ", ".join(f"{task} {rate:.1f}" for task, rate in rates) + ")")


main()
