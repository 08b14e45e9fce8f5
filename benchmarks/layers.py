"""What the layers of a frozen model hold: the last one, the best middle one, all of them, and STC's choice of features.

    python benchmarks/layers.py --data DIR [--data DIR …] --model smollm2-135m [--model minilm …] --seeds 3
    python benchmarks/layers.py --collect        the table and the plot of all cells

A cell is a data set, a model and a seed, which draws at most `--rows` training rows; test rows are the same for all, at
most `--test-rows`, those left out whose text was trained on. Cells that are there are not run again. SmolLM2's weights
were rounded to four bits once, see `models.py`; they are used in float32.
"""
import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import RESULTS, command, save, write
from matplotlib import pyplot
from stc import best_middle, difference, exit_speed, figures_of, fitted

from clfm_kit import load_data
from clfm_kit.data.rows import Splits
from clfm_kit.data.splitting import split_off
from clfm_kit.display.plots import GREY, dots
from clfm_kit.evaluation.significance import fingerprints
from clfm_kit.study.baseline import Baseline
from clfm_kit.study.comparison import BASELINE, unseen
from clfm_kit.study.measuring import measure

CELLS = RESULTS / "layers"
HELD_OUT = 0.2  # of the training rows, as validation rows
STC, EXIT = "STC", "STC, early exit"
LAST_TOKEN, MEAN = "last layer, last token", "last layer, mean"
MIDDLE, DENSE = "best middle layer, mean", "all layers, mean"
SIDES = BASELINE, LAST_TOKEN, MEAN, MIDDLE, DENSE, STC, EXIT
DENSE_PARTS = "pooler=all-layers", "pooler.kinds=[hidden]", "pooler.poolings=[mean]"


def some(rows, count: int, seed: int):
    """So many rows, drawn by seed; all where there are no more."""
    return rows.take(np.random.default_rng(seed).permutation(len(rows))[:count].tolist())


def models(data, base) -> dict:
    """A fitted model for each side, the one of keywords first."""
    stc, stc_seconds = fitted("stc", data, base=base)
    exits, _ = fitted("stc", data, ["head.exit_at=one-standard-error"], base)
    print(f"  {base}: STC fitted in {stc_seconds:.0f} s", file=sys.stderr, flush=True)
    return {
        BASELINE: Baseline().fit(data.train, data.validation),
        LAST_TOKEN: fitted("probe", data, ["pooler=last"], base)[0],
        MEAN: fitted("probe", data, base=base)[0],
        MIDDLE: best_middle(data, stc.facts_["full_depth"], base),
        DENSE: fitted("probe", data, DENSE_PARTS, base)[0],
        STC: stc, EXIT: exits,
    }


def run(folder, base: str, seed: int, most: int, test_rows: int):
    """One cell."""
    name = Path(folder).name
    path = CELLS / f"{name}--{base}--{seed}.json"
    if path.exists(): return
    whole = load_data(folder)
    train, validation = split_off(some(whole.train, most, seed), HELD_OUT, seed)
    data = Splits(train, validation)
    test = some(unseen(whole.test, {"training": fingerprints(train.texts + validation.texts)}, "drop"), test_rows, 0)
    fit = models(data, base)
    found = {side: measure(model, test) for side, model in fit.items()}
    main = fit[STC].task().main_figure
    versus = {side: difference(found[side], found[STC]) for side in SIDES if side != STC}
    speed = exit_speed(fit[MEAN], fit[EXIT], test.texts[:100], repeats=3)
    cell = dict(
        data=name, model=base, seed=seed, main=main, train=len(train), validation=len(validation), test=len(test),
        scores={side: figures_of(result)[main] for side, result in found.items()}, stc_over=versus,
        middle=fit[MIDDLE].recipe_.pooler, blocks=fit[STC].facts_["full_depth"], depth=fit[STC].depth_,
        exit_depth=fit[EXIT].depth_, exit_times_faster=speed["times_faster"],
        by_prefix=fit[STC].task().head.report_["by_prefix"], command=command(),
    )
    save(path, json.dumps(cell, indent=1))
    said = ", ".join(f"{side} {100 * value:.1f}" for side, value in cell["scores"].items())
    print(f"{name} {base} {seed}: {said}", flush=True)


def collect():
    """Write means over seeds, and how STC stands to each side, to `layers.json`; and a plot."""
    groups = defaultdict(list)
    for path in sorted(CELLS.glob("*.json")):
        cell = json.loads(path.read_text())
        groups[cell["model"], cell["data"]].append(cell)
    rows, figures = [], {}
    for (base, name), cells in groups.items():
        mean = lambda values: statistics.mean(values)
        scores = {side: mean(cell["scores"][side] for cell in cells) for side in SIDES}
        gains = {
            side: dict(
                # ends of intervals too: means over seeds
                **{end: mean(cell["stc_over"][side][end] for cell in cells) for end in ("difference", "low", "high")},
                clearly_better=sum(cell["stc_over"][side]["low"] > 0 for cell in cells),
                clearly_worse=sum(cell["stc_over"][side]["high"] < 0 for cell in cells),
            )
            for side in SIDES if side != STC
        }
        rows.append(dict(
            model=base, data=name, seeds=len(cells), main=cells[0]["main"], scores=scores, stc_over=gains,
            blocks=cells[0]["blocks"], exit_depth=mean(cell["exit_depth"] for cell in cells),
            exit_times_faster=statistics.median(cell["exit_times_faster"] for cell in cells),
        ))
        figures |= {f"{base} {name}: {side}": round(100 * value, 2) for side, value in scores.items()}
    write("layers", figures, rows, command="python benchmarks/layers.py --collect")
    draw(rows)


def draw(rows):
    """Each side's score above the last layer's last token, a panel a model."""
    bases, sides = list(dict.fromkeys(row["model"] for row in rows)), (BASELINE, MEAN, MIDDLE, DENSE, STC)
    figure, panels = pyplot.subplots(len(bases), 1, figsize=(8, 3 * len(bases)), layout="constrained", squeeze=False)
    for base, axes in zip(bases, panels[:, 0]):
        gains = {
            row["data"]: [100 * (row["scores"][side] - row["scores"][LAST_TOKEN]) for side in sides]
            for row in rows if row["model"] == base
        }
        dots(gains, sides, f"{base}: points above the last layer's last token", axes)
        axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    for axes in panels[1:, 0]: axes.get_legend().remove()
    figure.savefig(RESULTS / "layers.png", dpi=130)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", action="append", default=[])
    options.add_argument("--model", action="append", default=[])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--rows", type=int, default=2000)
    options.add_argument("--test-rows", type=int, default=1000)
    options.add_argument("--collect", action="store_true")
    given = options.parse_args()
    for base in given.model:
        for folder in given.data:
            for seed in range(given.seeds): run(folder, base, seed, given.rows, given.test_rows)
    if given.collect: collect()
