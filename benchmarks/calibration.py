"""What calibration does to a test part, and how long a comparison of recipes takes.

Calibration error, log-loss and accuracy of raw and of calibrated logits.

    python benchmarks/calibration.py --data DIR [--recipe probe …] [--model minilm]
    python benchmarks/calibration.py                    # only how long the comparison takes
"""
import argparse
import time
from pathlib import Path

import numpy as np
from common import write

from clfm_kit import Classifier, compare, load_data
from clfm_kit.data.fields import plain_labels
from clfm_kit.evaluation.calibration import Calibration
from clfm_kit.evaluation.metrics import evaluate, plain

FIVE = ["probe", "stc", "few-shot", {"name": "small network", "head": "mlp"},
        {"name": "balanced", "class_weight": "balanced"}]


def calibration(folder, recipe, model):
    """Raw and calibrated figures of one recipe on one data set."""
    splits = load_data(folder)
    clf = Classifier(recipe, model).fit(splits)
    task, logits = clf.task(), clf.decision_function(splits.test.texts)
    schema, targets = task.schema, task.schema.targets(plain_labels(splits.test.labels))
    sides = {"raw": Calibration(), "calibrated": task.calibration}
    judged = lambda side: evaluate(schema, side.probabilities(logits, schema), targets, side.thresholds)
    names = (task.main_figure, "ece", "log_loss", "brier")
    shown = lambda report: {figure: plain(report[figure]) for figure in names}
    return dict(data=Path(folder).name, recipe=recipe, rows=len(splits.test),
                temperature=task.calibration.temperature,
                **{name: shown(judged(side)) for name, side in sides.items()})


def comparison(model, turns=3):
    """Seconds of a comparison of five recipes on the shipped messages, states cached, the median over turns."""
    compare(FIVE, "helpdesk", model=model)  # fills the cache
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        compare(FIVE, "helpdesk", model=model)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--model", default="minilm")
    options = parser.parse_args()
    if not options.data:
        return write("comparison", {"compare five recipes on helpdesk, seconds": comparison(options.model)}, [])
    rows = [
        calibration(folder, recipe, options.model)
        for folder in options.data for recipe in options.recipe or ["probe"]
    ]
    figures = {
        f"ece {row['data']} {row['recipe']} {side}": row[side]["ece"]
        for row in rows for side in ("raw", "calibrated")
    }
    write("calibration", figures, rows)


if __name__ == "__main__": main()
