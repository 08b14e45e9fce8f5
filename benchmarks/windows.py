"""Long texts: cut, and read in windows; beside keywords and TF-IDF, on splits of the training rows.

    python benchmarks/windows.py --data DIR [--data DIR …]     a file for each side; kept
    python benchmarks/windows.py --collect                     the table of all

A side is a recipe and a format. Rows are capped; those that are judged come from the training rows too, so that test
rows stay unread. All sides of a data set read the same texts; the state cache gives `probe` what `stc+keywords` read.
"""
import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import RESULTS, command, save, write
from defaults import TFIDF, answered, packed, split, unpacked

from clfm_kit import Classifier
from clfm_kit.data.rows import UNNAMED
from clfm_kit.evaluation.significance import paired_bootstrap
from clfm_kit.study.measuring import measure

CELLS = RESULTS / "windows"
FORMATS = {
    "cut": "plain", "windows": "windows", "windows of 128": "{name: windows, size: 128, overlap: 16}",
    "windows max": "{name: windows, combine: max}", "first and last": "{name: windows, most: 2, keep: head+tail}",
}
KEPT = "train", "judged", "cut", "processor_seconds", "command"
SIDES = [
    (TFIDF, ""), ("keywords", ""),
    *((recipe, name) for name in ("cut", "windows") for recipe in ("stc+keywords", "probe+keywords", "probe")),
    *(("probe", name) for name in FORMATS if name not in ("cut", "windows")),
]


def report(recipe, text_format, train, test, seed):
    """The report on the judged rows by one side, and the share of texts of which something was left unread."""
    if not text_format: return answered(recipe, train, test, seed)[0], 0.0
    clf = Classifier(recipe, settings=[f"seed={seed}", f"format={FORMATS[text_format]}"], cache="default").fit(train)
    return measure(clf.keep_answers(), test), float(clf.encoder_.encoded(test.texts).cut.mean())


def run(folder, formats, seed, most, judged):
    """A file for each side of one data set that has none yet."""
    train, test = split(folder, str(most), seed, judged)
    for recipe, text_format in SIDES:
        if text_format and text_format not in formats: continue
        name = Path(folder).name
        path = CELLS / f"{name}.{recipe}.{text_format.replace(' ', '-') or 'text'}.{seed}.json"
        if path.exists(): continue
        began = time.process_time()
        found, cut = report(recipe, text_format, train, test, seed)
        outcome = found.outcomes[UNNAMED]
        mean = outcome.statistic == "mean"
        score = float(np.mean(outcome.values) if mean else found.figures(UNNAMED)["micro_f1"])
        save(path, json.dumps(dict(
            data=name, recipe=recipe, format=text_format, seed=seed, train=len(train.train), judged=len(test), cut=cut,
            score=score, statistic=outcome.statistic, values=packed(outcome.values),
            processor_seconds=round(time.process_time() - began, 1), command=command(),
        )))
        print(
            f"{name} {seed} {recipe} {text_format}: {100 * score:.1f}  {time.process_time() - began:.0f} s", flush=True
        )


def collect():
    """The mean of each side over seeds, and its gain over TF-IDF, and over the same recipe on texts that are cut."""
    cells = [json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))]
    sides, figures, rows = defaultdict(dict), {}, []
    for cell in cells: sides[cell["data"], cell["recipe"], cell["format"]][cell["seed"]] = cell
    for (data, recipe, text_format), by_seed in sides.items():
        score = statistics.mean(cell["score"] for cell in by_seed.values())
        row = dict(
            data=data, recipe=recipe, format=text_format, seeds=sorted(by_seed), score=score,
            **{name: next(iter(by_seed.values()))[name] for name in KEPT},
        )
        for against, other in (("tfidf", (data, TFIDF, "")), ("cut", (data, recipe, "cut"))):
            both = [seed for seed in by_seed if seed in sides.get(other, {})]
            if not both or other == (data, recipe, text_format): continue
            side = lambda found: np.concatenate([unpacked(found[seed]) for seed in both])
            statistic = by_seed[both[0]]["statistic"]
            row[f"against_{against}"] = paired_bootstrap(side(sides[other]), side(by_seed), statistic).to_dict()
        rows.append(row)
        figures[" ".join(filter(None, (data, recipe, text_format)))] = round(100 * score, 2)
    write("windows", figures, rows, command="python benchmarks/windows.py --collect")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", action="append", default=[])
    options.add_argument("--format", action="append", choices=FORMATS, help="all where none is given")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--rows", type=int, default=1000)
    options.add_argument("--judged", type=int, default=500)
    options.add_argument("--collect", action="store_true")
    given = options.parse_args()
    for folder in given.data:
        for seed in range(given.seeds): run(folder, given.format or FORMATS, seed, given.rows, given.judged)
    if given.collect: collect()
