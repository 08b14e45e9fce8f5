"""What calibration does to a test part: calibration error, log-loss and accuracy of raw and of calibrated scores; and how long a comparison takes.

    python benchmarks/calibration.py --data DIR [--recipe probe …] [--model minilm]
    python benchmarks/calibration.py                    # only how long the comparison takes
"""
import argparse
import time
from pathlib import Path

import numpy as np
from common import write

from clfm_kit import Classifier, compare, load_data
from clfm_kit.evaluation.calibration import Calibration
from clfm_kit.evaluation.metrics import evaluate, plain
from clfm_kit.data.schemas import plain_labels

FIVE = ["probe", "stc", "few-shot", {"name": "small network", "head": "mlp"}, {"name": "balanced", "class_weight": "balanced"}]


def calibration(folder, recipe, model):
    """Raw and calibrated figures of one recipe on one data set."""
    splits = load_data(folder)
    clf = Classifier(recipe, model).fit(splits)
    scores, targets, schema = clf.scores(splits.test.texts), clf.schema_.targets(plain_labels(splits.test.labels)), clf.schema_
    sides = {"raw": Calibration(), "calibrated": clf.calibration_}
    reports = {name: evaluate(schema, side.probabilities(scores, schema), targets, side.thresholds) for name, side in sides.items()}
    main = "micro_f1" if schema.kind == "multi" else "accuracy"
    return dict(data=Path(folder).name, recipe=recipe, rows=len(splits.test), temperature=clf.calibration_.temperature,
                **{name: {figure: plain(report[figure]) for figure in (main, "ece", "log_loss", "brier")} for name, report in reports.items()})


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
    if not options.data: return write("comparison", {"compare five recipes on helpdesk, seconds": comparison(options.model)}, [])
    rows = [calibration(folder, recipe, options.model) for folder in options.data for recipe in options.recipe or ["probe"]]
    figures = {f"ece {row['data']} {row['recipe']} {side}": row[side]["ece"] for row in rows for side in ("raw", "calibrated")}
    write("calibration", figures, rows)


if __name__ == "__main__": main()
