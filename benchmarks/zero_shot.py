"""Labels by their names, without a labelled row, on encoders and a decoder; and with a few rows that move the prior.

    python benchmarks/zero_shot.py --data DIR [--data DIR …] --model minilm --model smollm2-135m [--test-rows 300]
    python benchmarks/zero_shot.py --collect        the table of all cells

Each data set, model and variant is a cell, a file of its own; cells that are there are not run again. The rows that
calibrate are drawn by seed; labels that no one would read (`ABBR`) are described in `WORDS`. SmolLM2's weights were
rounded to four bits once, see `models.py`.
"""
import argparse
import gc
import json
import statistics
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from common import RESULTS, command, save, write
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from clfm_kit import Classifier, load_data
from clfm_kit.evaluation.metrics import calibration_error

CELLS = RESULTS / "zero_shot"
WORDS = {
    "trec6": dict(
        ABBR="an abbreviation", DESC="a description or definition", ENTY="a thing", HUM="a person or group of people",
        LOC="a place", NUM="a number, date or amount",
    ),
}
DECODER = {
    "two orders": (), "one order": ("format.orders=1",),
    "one order, uncorrected": ("format.orders=1", "head.calibration=none"),
    "names as a tree": ("format.answers=names", "pooler.normalisation=tree"), "four orders": ("format.orders=4",),
}
ENCODER = {"one template": ("head.templates=['{}']",), "three templates": ()}
FEW = (0, 50, 200)  # labelled rows that calibrate
TIMED = 100  # texts whose seconds are taken


def some(rows, count: int, seed: int):
    """So many rows, drawn by seed; all where there are no more."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows.take(sorted(order[:count].tolist())) if count else rows


def labels_of(name: str, rows) -> dict:
    """Each label with the words that describe it."""
    return {label: WORDS.get(name, {}).get(label, "") for label in sorted(set(rows.labels))}


def figures(clf, rows) -> dict:
    """What is reported of a classifier on rows."""
    report = clf.evaluate(rows)
    found = {name: report.figures[name] for name in ("accuracy", "macro_f1", "ece", "log_loss")}
    return found | dict(accuracy_interval=report.intervals.get("accuracy"))


def measured(data, name: str, model: str, settings, few: int, seeds: int, test_rows: int) -> dict:
    """One cell: figures on test rows for each draw of `few` rows, texts a second,
    and how many answers hang on the order.
    """
    splits, labels = load_data(data), labels_of(name, load_data(data).train)
    test = some(splits.test, test_rows, 0)
    make = lambda: Classifier("zero-shot", model, settings=settings, labels=labels)
    found, seconds, swayed = [], None, None
    for seed in range(seeds if few else 1):
        clf = None
        gc.collect()  # a base refers to itself, and the next one would stand beside it
        clf = make().fit(some(splits.train, few, seed)) if few else make().fit()
        found.append(figures(clf, test) | dict(shifted=clf.task().calibration.shifts is not None))
        if not few:
            started = time.perf_counter()
            clf.predict(test.texts[:TIMED])  # past the state cache
            seconds = time.perf_counter() - started
            hangs = clf.keep_answers().answers(test.texts)["label"].swayed
            swayed = None if hangs is None else float(hangs.mean())
        print(f"  {name} {model} {few} rows, draw {seed}: {found[-1]['accuracy']:.3f}", file=sys.stderr, flush=True)
    return dict(
        draws=found, texts_a_second=seconds and len(test.texts[:TIMED]) / seconds, swayed=swayed,
        test_rows=len(test), labels=len(labels),
    )


def cells(options):
    """(file name, what is told of the cell, how to measure it) of all that is to be run, cheap ones first."""
    shared = dict(seeds=options.seeds, test_rows=options.test_rows)
    for data in options.data:
        name = Path(data).name
        for few in filter(None, FEW):
            yield f"{name}--tfidf--{few}", dict(name=name, model="tfidf", variant="trained", few=few), partial(
                keywords, data, few, **shared
            )
    for model in options.model:
        variants = DECODER if model in options.decoder else ENCODER
        for few, (variant, settings), data in product(FEW, variants.items(), options.data):
            if few and settings: continue  # the variant of the recipe alone
            name, base = Path(data).name, Path(model).name
            short = variant.replace(" ", "-").replace(",", "")
            yield f"{name}--{base}--{short}--{few}", dict(name=name, model=base, variant=variant, few=few), partial(
                measured, data, name, model, settings, few, **shared
            )


def keywords(data, few: int, seeds: int, test_rows: int) -> dict:
    """The cell of TF-IDF and logistic regression, which learns from the few rows that calibrate the others."""
    splits = load_data(data)
    test, found = some(splits.test, test_rows, 0), []
    for seed in range(seeds):
        rows = some(splits.train, few, seed)
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
        )
        chances = model.fit(rows.texts, rows.labels).predict_proba(test.texts)
        right = model.classes_[chances.argmax(1)] == np.array(test.labels)
        found.append(dict(accuracy=float(right.mean()), ece=calibration_error(chances.max(1), right)))
    return dict(draws=found, test_rows=len(test), labels=len(set(splits.train.labels)))


def collect():
    """Write the figures of all cells, and a row for each, to `zero_shot.json`; and a table."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CELLS.glob("*.json"))]
    def mean(cell, name):
        values = [draw[name] for draw in cell["draws"] if name in draw]
        return statistics.mean(values) if values else None
    rows = [
        dict(
            data=cell["name"], model=cell["model"], variant=cell["variant"], rows=cell["few"], draws=len(cell["draws"]),
            test_rows=cell["test_rows"], labels=cell["labels"], texts_a_second=cell.get("texts_a_second"),
            swayed=cell.get("swayed"), command=cell["command"], accuracies=[draw["accuracy"] for draw in cell["draws"]],
            interval=cell["draws"][0].get("accuracy_interval"),
        ) | {name: mean(cell, name) for name in ("accuracy", "macro_f1", "ece", "log_loss", "shifted")}
        for cell in found
    ]
    write("zero_shot", {
        f"{row['data']}, {row['model']}, {row['variant']}, {row['rows']} rows": round(row["accuracy"], 4)
        for row in rows
    }, rows, note="SmolLM2's weights were rounded to 4 bits once, before they came here.")
    save(RESULTS / "zero_shot.md", table(rows))


def table(rows) -> str:
    """A Markdown table."""
    head = ("data set", "model", "variant", "rows", "accuracy", "ECE", "log-loss", "texts a second", "hang on order")
    show = lambda value, digits: "" if value is None else f"{value:.{digits}f}"
    lines = [
        [row["data"], row["model"], row["variant"], str(row["rows"]), show(100 * row["accuracy"], 1),
         show(row["ece"], 3), show(row["log_loss"], 2), show(row["texts_a_second"], 1),
         show(row["swayed"] and 100 * row["swayed"], 0)]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], help="a folder with train and test rows")
    parser.add_argument("--model", action="append", default=[], help="a base; minilm without")
    parser.add_argument("--decoder", action="append", default=["smollm2-135m"], help="which of the bases are decoders")
    parser.add_argument("--test-rows", type=int, default=300, help="at most so many, drawn by seed; 0 for all")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the rows that calibrate")
    parser.add_argument("--collect", action="store_true", help="write the table of the cells that are there")
    options = parser.parse_args()
    options.model = options.model or ["minilm"]
    for cell, told, measure in [] if options.collect else cells(options):
        path = CELLS / f"{cell}.json"
        if path.exists(): continue
        print(cell, file=sys.stderr, flush=True)
        save(path, json.dumps(told | measure() | dict(command=command()), indent=1))
    collect()


if __name__ == "__main__": main()
