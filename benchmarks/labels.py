"""Better labels: wrong ones found among rows flipped on purpose, what to label next, and how long it takes.

    python benchmarks/labels.py --part wrong --data DIR [--data DIR …] [--peer PYTHON]     flips; a file for each cell
    python benchmarks/labels.py --part suggest --data DIR [--data DIR …] --by mix --by random [--seeds 10]
    python benchmarks/labels.py --part time --data DIR                                     `clfm labels` on 10,000 rows
    python benchmarks/labels.py --collect                                                  the table of all cells

`--peer` is the Python of an environment of its own that has cleanlab (wrong) or small-text (suggest); cleanlab judges
the same out-of-fold probabilities. All on states that are read first. Rows are training rows, each text once, 4,000 at
most; curves are judged on the test rows of the data set.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, save, write
from sklearn.metrics import average_precision_score

from clfm_kit import load_data
from clfm_kit.data.rows import Rows
from clfm_kit.data.splitting import text_groups
from clfm_kit.data.schemas import learn_schema
from clfm_kit.evaluation.significance import over_seeds
from clfm_kit.parts import make
from clfm_kit.study.cross_validation import cross_validate
from clfm_kit.study.label_noise import doubted, trust
from clfm_kit_labels.review import review
from clfm_kit_labels.states import Reader
from clfm_kit_labels.strategies import STRATEGIES, Pool, by_random, by_first

CELLS = RESULTS / "labels"
MOST = 4000  # rows of a data set
SHARES, WAYS = (0.05, 0.1), ("uniform", "similar")  # of rows flipped; to any other class, or to those it is taken for
BATCH, LABELS = 50, 500  # rows labelled at once, and in the end
TIMED = 10_000

CLEANLAB = """
import sys, json, numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
given = np.load(sys.argv[1])
P, y = given["probabilities"], given["given"]
scores = lambda method: get_label_quality_scores(y, P, method=method).tolist()
found = {method: scores(method) for method in ("self_confidence", "normalized_margin")}
print(json.dumps(found | dict(listed=find_label_issues(y, P, n_jobs=1).tolist())))
"""

SMALL_TEXT = """
import sys, json, numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from small_text import BreakingTies, PoolBasedActiveLearner, SklearnClassifierFactory, SklearnDataset
given, seed, batch, most = np.load(sys.argv[1]), *map(int, sys.argv[2:])
x, y = csr_matrix(given["states"] * given["states"].shape[1] ** 0.5), given["targets"]
np.random.seed(seed)
data = SklearnDataset(x, y, target_labels=np.arange(y.max() + 1))
model = SklearnClassifierFactory(LogisticRegression(C=0.03, max_iter=200), int(y.max() + 1))
learner = PoolBasedActiveLearner(model, BreakingTies(), data)
taken = np.random.permutation(len(y))[:batch]
learner.initialize_data(taken, y[taken])
taken = taken.tolist()
while len(taken) < most:
    some = learner.query(num_samples=batch)
    learner.update(y[some])
    taken += some.tolist()
print(json.dumps(taken))
"""
PEER = "small-text"  # its margin, BreakingTies, from random rows


def rows_of(folder, seed=0):
    """At most `MOST` training rows, each text once, with labels as texts."""
    rows = load_data(folder).train
    first = sorted(group[0] for group in text_groups(rows.texts))
    some = np.sort(np.random.default_rng(seed).permutation(first)[:MOST]).tolist()
    return Rows([rows.texts[row] for row in some], [str(rows.labels[row]) for row in some])


# ---- wrong labels

def flipped(labels, share, way, seed, taken_for):
    """Labels with a share of them turned into another, and which those are."""
    random, names, labels = np.random.default_rng(seed), sorted({*labels}), list(labels)
    wrong = random.choice(len(labels), round(share * len(labels)), replace=False).tolist()
    for row in wrong:
        others = [name for name in names if name != labels[row]] if way == "uniform" else taken_for[labels[row]]
        labels[row] = others[int(random.integers(len(others)))]
    return labels, wrong


def taken_for(found):
    """{label: the two others (one of two) that its rows are most often taken for}."""
    names, given = found.schema.labels, found.schema.targets(found.values)
    mean = np.stack([np.asarray(found.probabilities)[given == c].mean(axis=0) for c in range(len(names))])
    np.fill_diagonal(mean, -1)
    return {name: [names[c] for c in np.argsort(-row)[:min(2, len(names) - 1)]] for name, row in zip(names, mean)}


def asked(peer, code, arrays, *words):
    """What code in another environment prints last, as JSON, on arrays."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(path := Path(folder, "given.npz"), **arrays)
        call = [peer, "-c", code, str(path), *map(str, words)]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peer_scores(peer, probabilities, given):
    return asked(peer, CLEANLAB, dict(probabilities=probabilities, given=given))


def figures_of(scores, listed, wrong):
    """Of an order, the lowest scores first, and of a list: average precision, recall in the first tenth, and more."""
    first = np.argsort(scores, kind="stable")[:len(wrong) // 10]
    listed = np.asarray(listed)
    return dict(
        average_precision=float(average_precision_score(wrong, -np.asarray(scores))),
        recall_in_first_tenth=float(wrong[first].sum() / wrong.sum()), listed=int(listed.sum()),
        listed_precision=float(wrong[listed].mean()) if listed.any() else None,
        listed_recall=float(listed[wrong].mean()),
    )


def wrong_cell(rows, name, way, share, seed, similar, peer):
    path = CELLS / f"wrong.{name}.{way}.{share}.{seed}.json"
    if path.exists(): return
    labels, changed = flipped(rows.labels, share, way, seed, similar)
    found = cross_validate("probe", Rows(rows.texts, labels), seed=seed).task()
    probabilities, given = np.asarray(found.probabilities), found.schema.targets(found.values)
    wrong = np.isin(found.numbers, changed)
    cell = dict(
        part="wrong", data=name, way=way, share=share, seed=seed, rows=len(given),
        ours=figures_of(trust(probabilities, given), doubted(probabilities, given), wrong),
    )
    if peer:
        scores = peer_scores(peer, probabilities, given)
        for method in ("self_confidence", "normalized_margin"):
            cell["cleanlab " + method] = figures_of(scores[method], scores["listed"], wrong)
    save(path, json.dumps(cell))
    print(name, way, share, seed, {side: round(each["average_precision"], 3) for side, each in cell.items()
          if isinstance(each, dict)}, flush=True)


def clean_cell(rows, name, peer):
    """How many rows of the data as they are published are listed."""
    validation = cross_validate("probe", rows)
    found, path = validation.task(), CELLS / f"clean.{name}.json"
    probabilities, given = np.asarray(found.probabilities), found.schema.targets(found.values)
    listed = dict(ours=float(doubted(probabilities, given).mean()))
    listed["disagree"] = float((probabilities.argmax(axis=1) != given).mean())
    if peer: listed["cleanlab"] = float(np.mean(peer_scores(peer, probabilities, given)["listed"]))
    if not path.exists(): save(path, json.dumps(dict(part="clean", data=name, rows=len(given), listed=listed)))
    return found


def wrong(folder, seeds, peer):
    rows, name = rows_of(folder), Path(folder).name
    similar = taken_for(clean_cell(rows, name, peer))
    for seed in range(seeds):
        for way in WAYS:
            for share in SHARES: wrong_cell(rows, name, way, share, seed, similar, peer)


# ---- what to label next

class Labelling:
    """Rows with unit states, of which some are labelled, in the order `taken`; heads of `probe` learn the first."""

    def __init__(self, rows, states, seed):
        self.rows, self.states, self.seed, self.taken, self.heads = rows, states, seed, [], {}

    def learned(self, size):
        """What the head, fitted on so many rows, makes of states: its schema, and probabilities by a function."""
        if size not in self.heads:
            labels, some = [self.rows.labels[row] for row in self.taken[:size]], self.states[self.taken[:size]]
            schema = learn_schema(labels)
            head = make("head", "logistic").fit({"states": some}, schema.targets(labels), schema, seed=self.seed)
            self.heads[size] = schema, head
        schema, head = self.heads[size]
        return schema, lambda some: schema.probabilities(head.logits({"states": torch.from_numpy(some)}).numpy())

    def choose(self, by):
        """Label rows by a strategy, batch by batch."""
        random, states = np.random.default_rng(self.seed), self.states
        cold = by_random if by == "random" else by_first
        self.taken = cold(Pool(states, None, states[:0], np.zeros(0)), BATCH, random).tolist()
        while len(self.taken) < LABELS:
            schema, chances = self.learned(len(self.taken))
            rest, own = np.setdiff1d(np.arange(len(states)), self.taken), [self.rows.labels[row] for row in self.taken]
            counts = np.array([own.count(name) for name in schema.labels], dtype=float)
            pool = Pool(states[rest], chances(states[rest]), states[self.taken], counts)
            self.taken += rest[STRATEGIES[by].choose(pool, BATCH, random)].tolist()

    def ask(self, peer):
        """Label rows as small-text says."""
        targets = learn_schema(self.rows.labels).targets(self.rows.labels)
        self.taken = asked(peer, SMALL_TEXT, dict(states=self.states, targets=targets), self.seed, BATCH, LABELS)

    def curve(self, labels, states):
        """The accuracy on test rows with 50, 100, … rows labelled."""
        found = []
        for size in range(BATCH, LABELS + 1, BATCH):
            schema, chances = self.learned(size)
            found.append(float((np.array(schema.labels)[chances(states).argmax(axis=1)] == np.array(labels)).mean()))
        return found


def suggest_cell(folder, by, seed, reader, peer):
    name = Path(folder).name
    path = CELLS / f"suggest.{name}.{by}.{seed}.json"
    if path.exists(): return
    rows, test = rows_of(folder, seed), load_data(folder).test
    test = Rows(test.texts, list(map(str, test.labels)))
    began = time.process_time()
    labelling = Labelling(rows, reader.read(rows.texts), seed)
    if by == PEER: labelling.ask(peer)
    else: labelling.choose(by)
    found = labelling.curve(test.labels, reader.read(test.texts))
    seconds = round(time.process_time() - began, 1)
    save(path, json.dumps(dict(part="suggest", data=name, by=by, seed=seed, accuracy=found, processor_seconds=seconds)))
    print(name, by, seed, round(statistics.mean(found), 4), [round(value, 3) for value in found], seconds, flush=True)


# ---- time

def timed(folder):
    data = load_data(folder)
    texts = [text for _, rows in data.items() for text in rows.texts][:TIMED]
    labels = [str(label) for _, rows in data.items() for label in rows.labels][:TIMED]
    Reader().read(texts)
    began = time.process_time()
    found = review(Rows(texts, labels))
    seconds = round(time.process_time() - began, 1)
    kinds = ("wrong", "duplicates", "outliers", "merge", "split", "lacking")
    cell = dict(
        part="time", data=Path(folder).name, rows=len(texts), classes=len({*labels}), processor_seconds=seconds,
        found={name: len(getattr(found, name)) for name in kinds},
    )
    save(CELLS / f"time.{cell['data']}.json", json.dumps(cell))
    print(cell)


# ---- the table

def area(cell): return statistics.mean(cell["accuracy"])


def rows_to(curve, target):
    """How many labels a mean curve needs for an accuracy; None where it is not reached."""
    return next((BATCH * (number + 1) for number, value in enumerate(curve) if value >= target), None)


def wrong_rows(cells):
    found = defaultdict(list)
    for cell in cells: found[cell["data"], cell["way"], cell["share"]].append(cell)
    for (data, way, share), some in sorted(found.items()):
        sides = [side for side, value in some[0].items() if isinstance(value, dict)]
        mean = lambda side, figure: statistics.mean(each[side][figure] or 0 for each in some)
        yield dict(
            part="wrong", data=data, way=way, share=share, seeds=len(some), rows=some[0]["rows"],
            **{side: {figure: round(mean(side, figure), 4) for figure in some[0][side]} for side in sides},
        )


def suggest_rows(cells):
    found = defaultdict(dict)
    for cell in cells: found[cell["data"], cell["by"]][cell["seed"]] = cell
    for (data, by), some in sorted(found.items()):
        base = found.get((data, "random"), {})
        both = sorted(some.keys() & base.keys())
        curve = np.mean([cell["accuracy"] for cell in some.values()], axis=0)
        row = dict(
            part="suggest", data=data, by=by, seeds=len(some), curve=curve.round(4).tolist(),
            area=over_seeds([area(cell) for cell in some.values()]).to_dict(),
        )
        if base and by != "random":
            row["gain"] = over_seeds([area(some[seed]) - area(base[seed]) for seed in both]).to_dict()
        if base:
            random = np.mean([cell["accuracy"] for cell in base.values()], axis=0)
            row["labels_for_500_random"] = rows_to(curve, random[-1])
        yield row


def wrong_figures(row):
    place = f"{row['data']} {row['way']} {row['share']}"
    sides = [side for side, value in row.items() if isinstance(value, dict)]
    return {f"{place} {side}: average precision": row[side]["average_precision"] for side in sides} | {
        f"{place}: recall in the first tenth": row["ours"]["recall_in_first_tenth"]
    }


ENDS = "mean", "low", "high"  # of an interval


def suggest_figures(row):
    place = f"{row['data']} {row['by']}"
    found = {f"{place}: area": round(row["area"]["mean"], 4)}
    if "gain" in row: found |= {f"{place}: gain over random, {name}": round(row["gain"][name], 4) for name in ENDS}
    needed = row.get("labels_for_500_random")
    if needed: found[f"{place}: labels for the accuracy of 500 random ones"] = needed
    return found


def clean_figures(row):
    place = f"{row['data']} as published"
    return {f"{place}, {side}: share listed": round(value, 4) for side, value in row["listed"].items()}


def time_figures(row): return {f"{row['data']} {row['rows']} rows: processor seconds": row["processor_seconds"]}


FIGURES = dict(wrong=wrong_figures, suggest=suggest_figures, clean=clean_figures, time=time_figures)


def over_sets(rows):
    """The mean over data sets of what each strategy reaches; how many labels it needs for 500 random ones' accuracy."""
    sets = {row["data"] for row in rows}
    for by in dict.fromkeys(row["by"] for row in rows):
        own, base = ([row["curve"] for row in rows if row["by"] == name] for name in (by, "random"))
        if len(own) < len(sets): continue
        mean = np.mean(own, axis=0)
        yield f"mean of {len(sets)} sets {by}: area", round(float(mean.mean()), 4)
        needed = rows_to(mean, np.mean(base, axis=0)[-1])
        if needed: yield f"mean of {len(sets)} sets {by}: labels for the accuracy of 500 random ones", needed


def collect():
    cells = defaultdict(list)
    for path in sorted(CELLS.glob("*.json")):
        cell = json.loads(path.read_text())
        cells[cell["part"]].append(cell)
    suggested = [*suggest_rows(cells["suggest"])]
    rows = [*wrong_rows(cells["wrong"]), *suggested, *cells["clean"], *cells["time"]]
    figures = dict(over_sets(suggested))
    for row in rows: figures |= FIGURES[row["part"]](row)
    write("labels", figures, rows, command="python benchmarks/labels.py --collect")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", choices=("wrong", "suggest", "time"))
    options.add_argument("--data", action="append", default=[])
    options.add_argument("--by", action="append", default=[])
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--peer")
    options.add_argument("--collect", action="store_true")
    given = options.parse_args()
    if given.part == "wrong":
        for folder in given.data: wrong(folder, given.seeds, given.peer)
    if given.part == "suggest":
        reader = Reader()
        for seed in range(given.seeds):
            for folder in given.data:
                for by in given.by: suggest_cell(folder, by, seed, reader, given.peer)
    if given.part == "time":
        for folder in given.data: timed(folder)
    if given.collect: collect()
