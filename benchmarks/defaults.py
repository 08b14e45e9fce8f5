"""Recipes with their defaults beside keywords and a plain probe: on splits of the training rows.

    python benchmarks/defaults.py --data DIR [--data DIR …] --recipe probe [--recipe …]    a file for each cell; kept
    python benchmarks/defaults.py --collect                                                the table of all cells

A cell is a data set, a size, a seed and a recipe. A size is a number of rows ("600"; fewer where there are fewer) or
of rows a class ("64-a-class"). Rows that are judged come from the training rows too, so that test rows stay unread; but
for the size "whole", which is the data set as it is published, its test rows judged: for the end.

The states of all layers are read first, once for all recipes, and what that took is added to the seconds of each that
reads: the order of recipes says nothing then. `auto` has the time that it has by default, by the processor's clock: run
with `OMP_NUM_THREADS=1`, a busy machine chooses as an idle one does.
"""
import argparse
import json
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from common import RESULTS, save, write
from sklearn.linear_model import LogisticRegression

from clfm_kit import Classifier, load_data
from clfm_kit.data.rows import UNNAMED, Splits
from clfm_kit.data.splitting import text_groups
from clfm_kit.data.tasks import rows_to_fit
from clfm_kit.evaluation.significance import paired_bootstrap
from clfm_kit.study.baseline import Baseline
from clfm_kit.study.measuring import measure

CELLS = RESULTS / "defaults"
A_CLASS, WHOLE = "-a-class", "whole"
TFIDF, EMBEDDING = "tfidf", "embedding"  # beside recipes: the baseline, and logistic regression on the plain embedding
READING, UNREAD = "reading", (TFIDF, "keywords")  # the cell of what reading takes; what reads no states
OTHERS = TFIDF, EMBEDDING, "probe"  # that recipes are compared with


def split(folder, size, seed, judged):
    """Rows to learn from, and others to judge on, each text once."""
    data = load_data(folder)
    if size == WHOLE: return Splits(data.train, data.validation), data.test
    rows = data.train
    order = np.random.default_rng(seed).permutation([group[0] for group in text_groups(rows.texts)])
    test, learn = order[:judged], order[judged:]
    number, each, _ = size.partition(A_CLASS)
    if each: learn = some_of_each(rows, learn, int(number))
    else: learn = learn[:int(number)]
    return Splits(rows.take(learn.tolist())), rows.take(test.tolist())


def some_of_each(rows, order, most):
    """The first rows of each label in an order."""
    seen, kept = Counter(), []
    for row in order:
        label = str(rows.labels[row])
        seen[label] += 1
        if seen[label] <= most: kept.append(row)
    return np.array(kept)


def answered(recipe, train, test, seed):
    """The report on the judged rows, whether each is right, and what was chosen."""
    if recipe == TFIDF:
        clf = Classifier("probe")
        clf.prepare()
        model = Baseline().fit(*rows_to_fit(train, clf.specs_, seed=seed))
        return measure(model, test), ""
    if recipe == EMBEDDING: return None, ""
    clf = Classifier(recipe, settings=[f"seed={seed}"]).fit(train)
    return measure(clf.keep_answers(), test), clf.recipe_.name


def embedding(train, test):
    """Which rows scikit-learn's defaults get right on the mean of the last layer, scaled to length 1."""
    clf = Classifier("probe").fit(train)
    states = lambda rows: np.asarray(clf.encoder_.features(rows.texts)["hidden.6/mean"], dtype=np.float32)
    unit = lambda values: values / np.linalg.norm(values, axis=1, keepdims=True)
    model = LogisticRegression(max_iter=1000).fit(unit(states(train.train)), list(map(str, train.train.labels)))
    answers, labels = model.predict(unit(states(test))), np.array(list(map(str, test.labels)))
    return (answers == labels)[np.isin(labels, model.classes_)].astype(float)  # as a report leaves unknown labels out


def read(name, size, seed, texts):
    """The states of all layers, into the cache; a cell tells the processor seconds, once."""
    path = CELLS / f"{name}.{READING}.{size}.{seed}.json"
    if path.exists(): return
    began = time.process_time()
    clf = Classifier("stc")
    clf.prepare()
    clf.open({}).features(texts)
    seconds = round(time.process_time() - began, 1)
    save(path, json.dumps(dict(data=name, recipe=READING, size=size, seed=seed, processor_seconds=seconds)))


def run(folder, recipe, size, seed, judged):
    name = Path(folder).name
    path = CELLS / f"{name}.{recipe}.{size}.{seed}.json"
    if path.exists(): return
    train, test = split(folder, size, seed, judged)
    if recipe == EMBEDDING and isinstance(train.train.labels[0], list): return
    if recipe not in UNREAD: read(name, size, seed, [*train.train.texts, *test.texts])
    began = time.process_time()
    found, chosen = answered(recipe, train, test, seed)
    if found is None: values, statistic = embedding(train, test), "mean"
    else: values, statistic = found.outcomes[UNNAMED].values, found.outcomes[UNNAMED].statistic
    score = float(np.mean(values)) if statistic == "mean" else float(found.figures(UNNAMED)["micro_f1"])
    cell = dict(
        data=name, recipe=recipe, size=size, seed=seed, train=len(train.train), judged=len(test), score=score,
        statistic=statistic, values=packed(values), chosen=chosen,
        processor_seconds=round(time.process_time() - began, 1),
        command=f"python benchmarks/defaults.py --data {name} --size {size} --seeds {seed + 1} --recipe {recipe}",
    )
    save(path, json.dumps(cell))
    print(f"{name} {size} {seed} {recipe}: {100 * score:.1f}  {cell['processor_seconds']} s {chosen}", flush=True)


def packed(values):
    """What each row counts, short: a digit a row where it is right or wrong, else what its labels count together."""
    values = np.asarray(values, dtype=int)
    return "".join(map(str, values)) if values.ndim == 1 else values.sum(1, keepdims=True).tolist()


def unpacked(cell):
    """The values as `paired_bootstrap` takes them."""
    return np.array(list(cell["values"]), dtype=float)


def difference(splits, recipe, other):
    """How much better a recipe is than another on the splits that both have, with its interval; None for no splits."""
    both = [each for each in splits if recipe in each and other in each]
    if recipe == other or not both: return None
    side = lambda name: np.concatenate([unpacked(each[name]) for each in both])
    return paired_bootstrap(side(other), side(recipe), both[0][recipe]["statistic"]).to_dict()


def best_single(rows, data, size):
    """The recipe with the highest score that chooses nothing; the baseline is none."""
    here = [row for row in rows if (row["data"], row["size"]) == (data, size) and row["recipe"] not in ("auto", TFIDF)]
    return max(here, key=lambda row: row["score"])["recipe"]


def collect():
    cells = [json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))]
    found = defaultdict(dict)
    for cell in cells: found[cell["data"], cell["size"], cell["seed"]][cell["recipe"]] = cell
    groups, figures, rows = defaultdict(list), {}, []
    for (data, size, _), by_recipe in found.items(): groups[data, size].append(by_recipe)
    for (data, size), splits in sorted(groups.items()):
        for recipe in dict.fromkeys(name for each in splits for name in each if name != READING):
            some = [each[recipe] for each in splits if recipe in each]
            row = dict(
                data=data, size=size, recipe=recipe, splits=len(some), train=some[0]["train"],
                score=statistics.mean(cell["score"] for cell in some),
                processor_seconds=statistics.median(
                    each[recipe]["processor_seconds"] + (0 if recipe in UNREAD else each[READING]["processor_seconds"])
                    for each in splits if recipe in each
                ),
            )
            row["against"] = {other: gain for other in OTHERS if (gain := difference(splits, recipe, other))}
            rows.append(row)
            figures[f"{data} {size} {recipe}"] = round(100 * row["score"], 2)
        row = next((row for row in rows if (row["data"], row["size"], row["recipe"]) == (data, size, "auto")), None)
        if row: row["against"]["best"] = difference(splits, "auto", best_single(rows, data, size))
    write("defaults", figures, rows, command="python benchmarks/defaults.py --collect")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", action="append", default=[])
    options.add_argument("--recipe", action="append", default=[])
    options.add_argument("--size", action="append", default=[])
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--judged", type=int, default=1000)
    options.add_argument("--collect", action="store_true")
    given = options.parse_args()
    for seed in range(given.seeds):
        for folder in given.data:
            for size in given.size or ["4000"]:
                for recipe in given.recipe: run(folder, recipe, size, seed, given.judged)
    if given.collect: collect()
