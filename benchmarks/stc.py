"""Sparsify-then-Classify against probes: quality with paired intervals, seconds of the grid, and the early exit.

    python benchmarks/stc.py --data DIR [--data DIR …]      a result file for each data set; finished ones are kept
    python benchmarks/stc.py --data DIR --set head.mixtures=all [--set …] --name NAME      with settings of one's own
    python benchmarks/stc.py --collect                      the table and the plots of all result files
"""
import argparse
import gc
import json
import statistics
import time
from pathlib import Path

import numpy as np
from common import RESULTS, ratio, write
from matplotlib import pyplot

from clfm_kit import Classifier, load_data
from clfm_kit.data.rows import UNNAMED
from clfm_kit.evaluation.significance import fingerprints, paired_bootstrap
from clfm_kit.study.baseline import Baseline
from clfm_kit.study.comparison import BASELINE, unseen
from clfm_kit.study.measuring import measure


def fitted(recipe, data, settings=(), base="minilm"):
    """A classifier, and the seconds that fitting took once the states were cached."""
    started = time.perf_counter()
    return Classifier(recipe, base, settings=settings).fit(data), time.perf_counter() - started


def figures_of(found):
    """The figures of a run that have a value."""
    return {name: value for name, value in found.figures(UNNAMED).items() if isinstance(value, float)}


def difference(a, b):
    """How much better run b is than run a in the main figure, with its 95 % interval."""
    first, second = a.outcomes[UNNAMED], b.outcomes[UNNAMED]
    return paired_bootstrap(first.values.astype(float), second.values.astype(float), first.statistic).to_dict()


def best_middle(data, depth, base="minilm"):
    """The probe at the middle layer that validation likes best."""
    best = None
    for layer in range(1, depth):  # each holds its base, so that no more than two are kept
        clf = fitted("probe", data, [f"pooler.layer={layer}"], base)[0]
        if best is None or clf.reports_["validation"]["log_loss"] < best.reports_["validation"]["log_loss"]: best = clf
        gc.collect()
    return best


def exit_speed(whole, cut, texts, repeats=5):
    """How many times faster the early exit answers than a probe of the whole model, reading anew in turn."""
    for clf in (whole, cut): clf.encoder_.cache = None
    seconds = {"whole": [], "cut": []}
    for _ in range(repeats):
        for name, clf in (("whole", whole), ("cut", cut)):
            started = time.perf_counter()
            clf.predict_proba(texts)
            seconds[name].append(time.perf_counter() - started)
    return dict(texts=len(texts), seconds=seconds, times_faster=ratio(seconds, "whole", "cut"))


def run(folder, name, settings):
    """All of one data set."""
    data = load_data(folder)
    train_marks = fingerprints(data.train.texts + data.validation.texts)
    test = unseen(data.test, {"training": train_marks}, "drop")
    started = time.perf_counter()
    small = ["head.etas=[0.5]", "head.strengths=[0.1]", "head.mixtures=all"]
    Classifier("stc", "minilm", settings=[*settings, *small]).fit(data)  # fills the cache
    reading = time.perf_counter() - started
    stc, stc_seconds = fitted("stc", data, settings)
    assert stc.facts_["backbone_passes"] == 0
    last, last_seconds = fitted("probe", data)
    middle = best_middle(data, stc.facts_["full_depth"])
    exits, _ = fitted("stc", data, [*settings, "head.exit_at=one-standard-error"])
    models = {BASELINE: Baseline().fit(data.train, data.validation), "last-layer probe": last,
              "best-mid-layer probe": middle, "STC": stc, "STC, early exit": exits}
    found = {side: measure(model, test) for side, model in models.items()}
    shown = {side: figures_of(result) for side, result in found.items()}
    versus = {side: difference(found[side], found["STC"]) for side in models if side != "STC"}
    main, speed = stc.task().main_figure, exit_speed(last, exits, test.texts[:300])
    figures = {f"{side}: {main}": result[main] for side, result in shown.items()} | {
        f"STC, all test rows: {main}": stc.evaluate(data.test)[main], "STC: ece": shown["STC"]["ece"],
        "STC: seconds after reading": stc_seconds, "probe: seconds after reading": last_seconds,
        "STC over last layer": versus["last-layer probe"]["difference"],
        "STC over best mid layer": versus["best-mid-layer probe"]["difference"],
        "exit layer": exits.depth_, "exit: times faster": speed["times_faster"]}
    rows = [dict(model=side, test_rows=len(test), **result) for side, result in shown.items()]
    report = stc.task().head.report_
    write(f"stc/{name}", figures, rows, settings=settings, main=main, test_rows=len(test),
          test_rows_seen_in_training=len(data.test) - len(test), versus=versus, exit_speed=speed,
          reading_and_first_fit_seconds=reading, middle_layer=middle.recipe_.pooler, by_prefix=report["by_prefix"],
          chosen=report["chosen"], exit_chosen=exits.task().head.report_["chosen"])


def collect():
    """The summary, a forest plot of differences and a plot of validation skill by prefix."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / "stc").glob("*.json"))}
    rows = [
        dict(
            data=name, settings=f.get("settings", []), main=f["main"], test_rows=f["test_rows"],
            **f["figures"], versus=f["versus"],
        )
        for name, f in found.items()
    ]
    usual = [f for f in found.values() if not f.get("settings")]
    clear = {
        other: [sum(sign * f["versus"][other][side] > 0 for f in usual) for sign, side in ((1, "low"), (-1, "high"))]
        for other in ("last-layer probe", "best-mid-layer probe")
    }
    mean = lambda name: statistics.mean(f["figures"][name] for f in usual)
    figures = {
        "data sets": len(usual), "mean over last layer": mean("STC over last layer"),
        "mean over best mid layer": mean("STC over best mid layer"),
    }
    for other, (better, worse) in clear.items():
        figures |= {f"clearly better than the {other}": better, f"clearly worse than the {other}": worse}
    write("stc", figures, rows)
    forest(found)
    prefixes(found)


def forest(found):
    figure, axes = pyplot.subplots(figsize=(7, 0.5 + 0.55 * len(found)), layout="constrained")
    for offset, other, colour, mark in (
        (0.13, "last-layer probe", "#0072B2", "o"), (-0.13, "best-mid-layer probe", "#E69F00", "s")
    ):
        lines = [f["versus"][other] for f in found.values()]
        middle = np.array([100 * d["difference"] for d in lines])
        spread = np.array(
            [[100 * (d["difference"] - d["low"]), 100 * (d["high"] - d["difference"])] for d in lines]
        ).T
        axes.errorbar(
            middle, np.arange(len(lines)) + offset, xerr=spread, fmt=mark, color=colour, capsize=3,
            label=f"against the {other}",
        )
    axes.axvline(0, color="#777777", linewidth=1)
    axes.set(
        yticks=range(len(found)), yticklabels=list(found),
        xlabel="points of test accuracy or micro-F1, 95 % paired bootstrap", title="STC on a frozen MiniLM-L6",
    )
    axes.legend(fontsize=8)
    figure.savefig(RESULTS / "stc.png", dpi=130)


def prefixes(found):
    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    for name, f in found.items():
        layers = sorted(map(int, f["by_prefix"]))
        axes.plot(
            layers, [100 * (f["by_prefix"][str(l)] - max(f["by_prefix"].values())) for l in layers], marker="o",
            markersize=3, label=name,
        )
    axes.axhline(-0.5, color="#777777", linestyle=":", linewidth=1)
    axes.set(
        xlabel="blocks that are run", ylabel="points below the best prefix (validation)",
        title="How much of the model is needed", ylim=(-12, 0.5),
    )
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(RESULTS / "stc_prefixes.png", dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--name", help="of the result file; without it, the data set's")
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    for folder in options.data:
        name = options.name or Path(folder).name
        if (RESULTS / "stc" / f"{name}.json").exists(): print(f"{name}: done before")
        else: run(folder, name, options.settings)
    if options.collect: collect()


if __name__ == "__main__": main()
