"""A decoder tuned on labelled rows teaches an encoder on rows without labels: what is kept, and how much faster it is.

    python benchmarks/distilling.py --data DIR [--data DIR …] [--seeds 3] [--rows 320] [--unlabelled 1200]
    python benchmarks/distilling.py --collect        the table of all cells

A cell is a data set and a seed. The teacher is `lora-4bit` on SmolLM2, the student `finetune` on MiniLM, which reads
the labelled texts and the others with the teacher's probabilities. Beside them stand the same recipe on the labelled
rows alone, and keywords. SmolLM2's weights were rounded to four bits once, see `models.py`.
"""
import argparse
import gc
import json
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

from common import RESULTS, command, save, write
from defaults import difference, packed
from heads import DECODER, HELD_OUT
from layers import some

from clfm_kit import Classifier, load_data
from clfm_kit.data.rows import UNNAMED, Splits
from clfm_kit.data.splitting import split_off
from clfm_kit.study.baseline import Baseline
from clfm_kit.study.comparison import BASELINE
from clfm_kit.study.distilling import distil
from clfm_kit.study.measuring import measure, throughput

CELLS = RESULTS / "distilling"
TEACHER, STUDENT, ALONE = "teacher, SmolLM2", "student, MiniLM", "MiniLM on the labelled rows"
SIDES = BASELINE, TEACHER, STUDENT, ALONE


def fitted(recipe: str, base: str, train, validation, seed: int, epochs: int):
    """A classifier on labelled rows."""
    settings = [f"seed={seed}", f"training.epochs={epochs}", f"training.patience={epochs}", "training.batch_size=8"]
    return Classifier(recipe, base, settings=settings).fit(train, validation=validation)


def run(folder: str, seed: int, options):
    """One cell."""
    name = Path(folder).name
    path = CELLS / f"{name}--{seed}.json"
    if path.exists(): return
    gc.collect()  # a base refers to itself, and the next one would stand beside it
    whole = load_data(folder)
    drawn = some(whole.train, options.rows + options.unlabelled, seed)
    labelled = drawn.take(range(options.rows))
    train, validation = split_off(labelled, HELD_OUT, seed)
    test = some(whole.test, options.test_rows, 0)
    began, seconds = time.process_time(), {}
    models = {BASELINE: Baseline().fit(train, validation)}
    def done(side):
        nonlocal began
        seconds[side], began = round(time.process_time() - began, 1), time.process_time()
        print(f"  {name} {seed} {side}: {seconds[side]} s", flush=True)
    done(BASELINE)
    models[TEACHER] = fitted("lora-4bit", DECODER, train, validation, seed, options.epochs)
    done(TEACHER)
    models[STUDENT] = distil(
        models[TEACHER], Splits(drawn), validation=validation, settings=[f"seed={seed}", "training.batch_size=16"]
    )
    done(STUDENT)
    models[ALONE] = fitted("finetune", "minilm", train, validation, seed, options.epochs)
    done(ALONE)
    found = {side: measure(model, test) for side, model in models.items()}
    figure = lambda side, name: float(found[side].figures(UNNAMED)[name])
    speed = {side: throughput(models[side], test.texts)["rows_per_second"] for side in (TEACHER, STUDENT)}
    cell = dict(
        data=name, seed=seed, train=len(train), validation=len(validation), unlabelled=len(drawn) - len(labelled),
        test=len(test), processor_seconds=seconds, rows_per_second=speed, load=round(os.getloadavg()[0], 1),
        command=command(), sides={
            side: dict(
                score=figure(side, "accuracy"), macro_f1=figure(side, "macro_f1"),
                statistic=found[side].outcomes[UNNAMED].statistic, values=packed(found[side].outcomes[UNNAMED].values),
            ) for side in SIDES
        },
    )
    save(path, json.dumps(cell, indent=1))
    print(f"{name} {seed}: " + ", ".join(f"{side} {100 * figure(side, 'macro_f1'):.1f}" for side in SIDES), flush=True)


def collect():
    """Write means over seeds to `distilling.json`: macro-F1, the share kept, the gain in speed, paired differences."""
    groups = defaultdict(list)
    for path in sorted(CELLS.glob("*.json")):
        cell = json.loads(path.read_text())
        groups[cell["data"]].append(cell)
    rows, figures = [], {}
    for name, cells in groups.items():
        mean = lambda side, figure, cells=cells: statistics.mean(cell["sides"][side][figure] for cell in cells)
        splits = [cell["sides"] for cell in cells]
        row = dict(
            data=name, seeds=len(cells), train=cells[0]["train"], unlabelled=cells[0]["unlabelled"],
            macro_f1={side: mean(side, "macro_f1") for side in SIDES},
            accuracy={side: mean(side, "score") for side in SIDES},
            kept=mean(STUDENT, "macro_f1") / mean(TEACHER, "macro_f1"),
            times_faster=statistics.median(
                cell["rows_per_second"][STUDENT] / cell["rows_per_second"][TEACHER] for cell in cells
            ),
            student_over={side: difference(splits, STUDENT, side) for side in SIDES if side != STUDENT},
        )
        rows.append(row)
        figures |= {f"{name}: {side}": round(100 * value, 2) for side, value in row["macro_f1"].items()}
        figures |= {f"{name}: kept": round(row["kept"], 3), f"{name}: times faster": round(row["times_faster"], 2)}
    write("distilling", figures, rows, command="python benchmarks/distilling.py --collect",
          note="SmolLM2's weights were rounded to 4 bits once, before they came here.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--collect", action="store_true")
    for name, default in dict(seeds=3, rows=320, unlabelled=1200, epochs=4, test_rows=500).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    given = parser.parse_args()
    for seed in range(given.seeds):
        for folder in given.data: run(folder, seed, given)
    if given.collect: collect()
