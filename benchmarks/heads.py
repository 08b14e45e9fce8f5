"""A head on a decoder in four bits, instructions, prompts without training, and encoders: equal rows and equal epochs.

    python benchmarks/heads.py --data DIR [--data DIR …] [--side NAME …] [--seeds 3] [--rows 320] [--epochs 4]
    python benchmarks/heads.py --collect        the table of all cells

A cell is a data set, a side and a seed, which draws the rows; a fifth of them are validation rows. Test rows are the
same for all seeds. Texts are cut to `--words`. Every side that trains sees its rows `--epochs` times, in batches of
`--batch`, at its recipe's rates; the best epoch is kept. Ranks of 44 and 224 train a tenth and a half of as many
weights as the decoder has. Cells that are there are not run again. SmolLM2's weights were rounded to four bits once,
see `models.py`.
"""
import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from common import RESULTS, command, save, write
from defaults import difference, packed
from layers import some

from clfm_kit import Classifier, Recipe, load_data
from clfm_kit.data.rows import UNNAMED
from clfm_kit.data.splitting import split_off
from clfm_kit.study.comparison import BASELINE
from clfm_kit.study.measuring import baseline_run, classifier_run, measured

CELLS = RESULTS / "heads"
HELD_OUT = 0.2
DECODER = "smollm2-135m"
HEAD, ENCODER = "SmolLM2, head on LoRA in 4 bits", "MiniLM, all weights"
TRAINED = {  # side -> (recipe, base, settings)
    ENCODER: ("finetune", "minilm", ()),
    "mpnet, all weights": ("finetune", "mpnet", ()),
    "MiniLM, token-sparse": ("token-sparse", "minilm", ()),
    "mpnet, token-sparse": ("token-sparse", "mpnet", ()),
    HEAD: ("lora-4bit", DECODER, ()),
    "SmolLM2, token-sparse": ("token-sparse", DECODER, ("pooler=last",)),
    "SmolLM2, instructions, rank 44": ("instruct", DECODER, ("selector.rank=44",)),
    "SmolLM2, instructions, rank 224": ("instruct", DECODER, ("selector.rank=224",)),
}
UNTRAINED = {
    "SmolLM2, frozen, head on the last token": ("probe", DECODER, ("pooler=last",)),
    "SmolLM2, prompt": ("instruct-zero-shot", DECODER, ()),
    "SmolLM2, prompt with examples": ("instruct-zero-shot", DECODER, ("format.shots=1",)),
}
SIDES = BASELINE, *TRAINED, *UNTRAINED


def parts_of(folder: str, seed: int, options):
    """Training, validation and test rows, their texts cut."""
    whole = load_data(folder)
    train, validation = split_off(some(whole.train, options.rows, seed), HELD_OUT, seed)
    test = some(whole.test, options.test_rows, 0)
    for part in (train, validation, test): part.texts = [" ".join(text.split()[:options.words]) for text in part.texts]
    return train, validation, test


def measure_side(side: str, parts: tuple, seed: int, options):
    """The run of one side on the test rows, and the processor seconds that fitting took."""
    train, validation, test = parts
    began = time.process_time()
    if side == BASELINE: return baseline_run(train, validation, None, test), time.process_time() - began
    recipe, base, settings = (TRAINED | UNTRAINED)[side]
    settings = [*settings, f"seed={seed}"]
    if side in TRAINED:
        settings += [f"training.{name}={value}" for name, value in (
            ("epochs", options.epochs), ("patience", options.epochs), ("batch_size", options.batch),
        )]
    with tempfile.TemporaryDirectory() as cache, measured() as cost:
        clf = Classifier(Recipe.of(recipe), base, settings=settings, cache=cache)
        clf.fit(train, validation=validation).keep_answers()
    seconds = time.process_time() - began
    return classifier_run(clf, test, cost), seconds


def run(folder: str, side: str, seed: int, options):
    """One cell."""
    name = Path(folder).name
    path = CELLS / f"{name}--{side.replace(', ', '--').replace(' ', '-')}--{seed}.json"
    if path.exists(): return
    gc.collect()  # a base refers to itself, and the next one would stand beside it
    parts = parts_of(folder, seed, options)
    found, seconds = measure_side(side, parts, seed, options)
    outcome = found.outcomes[UNNAMED]
    main = "accuracy" if outcome.statistic == "mean" else "micro_f1"
    cell = dict(
        data=name, side=side, seed=seed, main=main, score=float(found.figures(UNNAMED)[main]),
        statistic=outcome.statistic, macro_f1=float(found.figures(UNNAMED)["macro_f1"]),
        values=packed(outcome.values), train=len(parts[0]),
        validation=len(parts[1]), test=len(parts[2]), words=options.words, epochs=options.epochs, batch=options.batch,
        processor_seconds=round(seconds, 1), load=round(os.getloadavg()[0], 1), cost=found.cost, command=command(),
    )
    save(path, json.dumps(cell, indent=1))
    print(f"{name} {seed} {side}: {100 * cell['score']:.1f}  {seconds:.0f} s, "
          f"{found.cost['trained_weights']:,} weights trained", flush=True)


def collect():
    """Write means over seeds, and how sides stand to the head and to the encoder, to `heads.json`."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted(CELLS.glob("*.json")):
        cell = json.loads(path.read_text())
        found[cell["data"]][cell["seed"]][cell["side"]] = cell
    rows, figures = [], {}
    for name, by_seed in found.items():
        splits = list(by_seed.values())
        for side in SIDES:
            cells = [each[side] for each in splits if side in each]
            if not cells: continue
            median = lambda value, cells=cells: statistics.median(map(value, cells))
            rows.append(dict(
                data=name, side=side, seeds=len(cells), main=cells[0]["main"], train=cells[0]["train"],
                score=statistics.mean(cell["score"] for cell in cells),
                scores=[cell["score"] for cell in cells],
                trained_weights=median(lambda cell: cell["cost"]["trained_weights"]),
                rows_per_second=median(lambda cell: cell["cost"]["rows_per_second"]),
                processor_seconds=median(lambda cell: cell["processor_seconds"]),
                over={other: gain for other in (BASELINE, ENCODER, HEAD) if (gain := difference(splits, side, other))},
            ))
            figures[f"{name}: {side}"] = round(100 * rows[-1]["score"], 2)
    write("heads", figures, rows, command="python benchmarks/heads.py --collect",
          note="SmolLM2's weights were rounded to 4 bits once, before they came here.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--side", action="append", choices=SIDES, default=[])
    parser.add_argument("--collect", action="store_true")
    for name, default in dict(seeds=3, rows=320, words=60, epochs=4, batch=8, test_rows=300).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    given = parser.parse_args()
    for seed in range(given.seeds):
        for folder in given.data:
            for side in given.side or SIDES: run(folder, side, seed, given)
    if given.collect: collect()
