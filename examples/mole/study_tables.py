"""Tables of a study, in Markdown: exact match in per cent, a row a method, means and spreads over the seeds.

  python3 study_tables.py results.csv own.csv

A fifth of a task's tests are in a new wording, as the task new-TASK; the task validation-TASK is no test.
"""

import collections
import csv
import statistics
import sys


def mean(values):
    return sum(values) / len(values)


def of_task(scores, task):
    """A task's scores over all of its tests."""
    if "new-" + task not in scores:
        return scores[task]
    return tuple(0.8 * known + 0.2 * new for known, new in zip(scores[task], scores["new-" + task]))


def average(scores, prefix):
    """Average exact match of the tasks that begin so; None where there are none."""
    rates = [score[0] for task, score in scores.items() if task.startswith(prefix)]
    return mean(rates) if rates else None


def over_seeds(values):
    if None in values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    # (row without seed, method) -> seed -> task -> (exact match in per cent, token F1 in per cent, loss)
    rows = collections.defaultdict(lambda: collections.defaultdict(dict))
    with open(sys.argv[1], encoding="utf8") as file:
        for line in csv.DictReader(file):
            row, _, seed = line["row"].rpartition(".")
            rows[row, line["method"]][seed][line["task"]] = (
                100 * float(line["exact_match"]), 100 * float(line["token_f1"]), float(line["loss"]))
    print("| row | method | seeds | tasks | exact match | new wording | validation | of each task | F1 | loss |\n"
          "|---|---|---|---|---|---|---|---|---|---|")
    for (row, method), seeds in sorted(rows.items()):
        runs = list(seeds.values())
        tasks = [task for task in runs[0] if not task.startswith(("new-", "validation-"))]
        scores = [{task: of_task(run, task) for task in tasks} for run in runs]
        exact = over_seeds([mean([score[0] for score in one.values()]) for one in scores])
        each = ", ".join(f"{task} {mean([one[task][0] for one in scores]):.1f}" for task in tasks)
        every = [score for one in scores for score in one.values()]
        print(f"| {row} | {method} | {len(runs)} | {len(tasks)} | {exact} | "
              f"{over_seeds([average(run, 'new-') for run in runs])} | "
              f"{over_seeds([average(run, 'validation-') for run in runs])} | {each} | "
              f"{mean([score[1] for score in every]):.1f} | {mean([score[2] for score in every]):.3f} |")
    with open(sys.argv[2], encoding="utf8") as file:
        own = [line.rstrip("\n").split(",") for line in file]
    for folder in ("experts", "plain", "system"):
        rates = [(name[len(folder) + 1:], float(rate)) for name, rate in own if name.startswith(folder + "-")]
        if rates:
            print(f"\nEach expert of `{folder}` on its own task: {mean([rate for _, rate in rates]):.1f} (" +
                  ", ".join(f"{task} {rate:.1f}" for task, rate in rates) + ")")


main()
