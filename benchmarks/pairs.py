"""Is a checkout slower than another? Fits and predicts in whole processes that alternate, and compares processor time.

    pairs.py OLD NEW [--runs 5] [--out NAME]    OLD and NEW are checkouts; both run on this Python's libraries

A case runs on one thread with states kept in memory only; figures are medians of ratios, new to old. Each folder needs
the `clfm_kit.egg-info` that installing it leaves there, so that it finds its own parts.
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from common import write

START = "import torch; torch.set_num_threads(1)\nfrom clfm_kit import Classifier, load_data\n"
PROBE = "Classifier('probe', cache=None).fit('helpdesk')\n"
CASES = {
    "fit": PROBE,
    "fit and predict three times": f"clf = {PROBE}"
    "for _ in range(3): clf.predict_proba(load_data('helpdesk').test.texts)\n",
    "finetune": "rows = load_data('helpdesk')\n"
    "Classifier('finetune', settings=['training.epochs=1'], cache=None)"
    ".fit(rows.train.texts[:400], rows.train.labels[:400], rows.validation.take(range(100)))\n",
}


def seconds(checkout, code):
    "Processor seconds of one process; raises when it fails."
    plugins = sorted(Path(checkout, "plugins").glob("*"))
    found = os.environ | dict(PYTHONPATH=os.pathsep.join(map(str, [checkout, *plugins])), OMP_NUM_THREADS="1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", START + code], env=found, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(old, new, runs, out):
    rows = []
    for name, code in CASES.items():
        seconds(old, code), seconds(new, code)  # not counted
        pairs = [(seconds(old, code), seconds(new, code)) for _ in range(runs)]
        ratios = sorted(after / before for before, after in pairs)
        rows.append(dict(
            case=name, median_ratio=statistics.median(ratios), lowest=ratios[0], highest=ratios[-1], pairs=pairs
        ))
        print(rows[-1], flush=True)
    figures = {f"{row['case']}, median ratio": row["median_ratio"] for row in rows}
    if out: write(out, figures, rows, title="Processor time of whole processes, new to old")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out")
    given = parser.parse_args()
    main(given.old, given.new, given.runs, given.out)
