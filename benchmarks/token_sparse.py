"""Token-sparse finetuning against plain full finetuning, LoRA, top layers and its own controls.

    python benchmarks/token_sparse.py --data FOLDER [--data FOLDER] [--seeds 3] [--sides trainer finetune …]
        [--rows N]

One process and one file a cell (data set, side, seed), so a run that was stopped goes on with what is missing. Every
side gets the same rows, every one that trains the same epochs and batch size, one thread a core, and an empty state
cache, so filling it counts. `trainer` is `transformers.Trainer` as people write it: random batches padded to their
longest text over `AutoModelForSequenceClassification`; `lora`, `prefix` and `shira` are peft's, trained the same way.
Seconds are those of loading, preparing and training, with libraries imported before; the kit's sides also choose the
epoch and calibrate on validation rows, which are cut as much as the training rows. `--set` holds for all sides of the
kit.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from common import RESULTS, save, write

TOP = "pooler={name: mean, layer: [-3, -2, -1]}"  # the last layers, whatever probes say
KIT = {
    "probe": ("probe", []),
    "finetune": ("finetune", []),
    # the head of token-sparse on the last layers
    "finetune-refit": ("finetune", ["head={name: logistic, columns: validated}", TOP]),
    "top-layers": ("finetune", ["selector=top-layers", "selector.layers=2"]),
    "token-sparse": ("token-sparse", []),
    "top-three": ("token-sparse", [TOP]),
    "heads-channels": ("token-sparse", ["selector.granularity=head+channel"]),
    "last-layer": ("token-sparse", ["pooler=mean"]),
    "trained-head": ("token-sparse", ["pooler=mean", "head=linear"]),  # as it came out of training
    "auto": ("token-sparse", ["selector.weights=auto", "selector.lowest=auto"]),
    # adds rows to the table of embeddings: beside the others, not one of them
    "merged": ("token-sparse", ["format=merged"]),
    "gradient-sparse": ("token-sparse", ["selector=gradient-sparse"]),
    "random-sparse": ("token-sparse", ["selector=random-sparse"]),
    # as many weights as token-sparse moves in MiniLM
    "lora-kit": ("token-sparse", ["selector=lora", "selector.rank=26", TOP]),
    "dearer": ("token-sparse", ["selector.cost=0.42"]),  # a block more
    # as many weights, down to the lowest block
    "all-blocks": ("token-sparse", ["selector.lowest=0", "selector.cost=null", TOP]),
}
CONTROLS = ("token-sparse", "gradient-sparse", "random-sparse")
SHARES = (0.01, 0.05)  # of the weights, beside the 0.1 that is the default
KIT |= {
    f"{selector}-{share}": ("token-sparse", [f"selector={selector}", f"selector.weights={share}"])
    for share in SHARES for selector in CONTROLS
}
# rates; the libraries' examples use lower ones, with which most have not left their start after these few steps
PEERS = {"trainer": 2e-4, "lora": 1e-3, "prefix": 1e-2, "shira": 3e-3}
SIDES = ("baseline", *KIT, *PEERS)
USUAL = ["baseline", "probe", "finetune", "top-layers", "token-sparse", *PEERS]  # the rest by name


def rows_of(folder, limit, seed):
    """Training rows cut to `limit` where one is given, validation rows cut as much, and all test rows."""
    from clfm_kit import load_data
    from clfm_kit.data.splitting import split_off
    data = load_data(folder)
    cut = lambda rows: (
        split_off(rows, limit / len(data.train), seed)[1] if limit and limit < len(data.train) else rows
    )
    return cut(data.train), cut(data.validation), data.test


def kit(side, folder, limit, seed, epochs, model, settings):
    import clfm_kit.training.trainer  # noqa: F401, imports are not what is measured
    from clfm_kit import Classifier, Recipe
    from clfm_kit.plugins import using
    train, validation, test = rows_of(folder, limit, seed)
    recipe, own = KIT[side]
    # every side makes all its epochs
    trained = [f"training.epochs={epochs}", f"training.patience={epochs}"] if recipe != "probe" else []
    Recipe.of(recipe).parts()
    steps = []
    def run_event(event): steps.extend([time.process_time()] * (event["kind"] == "train"))
    with tempfile.TemporaryDirectory() as cache, using(run_event=run_event):
        classifier = Classifier(recipe, model, settings=[*own, *trained, f"seed={seed}", *settings], cache=cache)
        seconds, cpu = clock(lambda: classifier.fit(train.texts, train.labels, validation))
        peak = peak_mb()  # before the test rows are read
        report = classifier.evaluate(test.texts, test.labels)
    facts = {name: value for name, value in classifier.facts_.get("training", {}).items() if name != "tables"}
    changes = getattr(classifier.delta_, "changes", ())
    rows = {change.name: change.index.tolist() for change in changes if change.index is not None}
    return dict(accuracy=float(report["accuracy"]), macro_f1=float(report["macro_f1"]), seconds=seconds,
                cpu_seconds=cpu, facts=facts, rows_moved=rows, step_cpu_seconds=per_step(steps), peak_mb=peak)


def per_step(times):
    """Processor seconds of a step, validation between epochs included; None without steps."""
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def peak_mb():
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def clock(run):
    """Wall and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def adapted(side, network, seed):
    """The network, with what peft adds to it."""
    from peft import LoraConfig, PrefixTuningConfig, ShiraConfig, TaskType, get_peft_model
    if side == "trainer": return network
    configs = dict(
        lora=lambda: LoraConfig(
            TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=["classifier"]
        ),
        prefix=lambda: PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=20),
        shira=lambda: ShiraConfig(
            task_type=TaskType.SEQ_CLS, r=8, target_modules=["query", "value"], random_seed=seed
        ),
    )
    return get_peft_model(network, configs[side]())


def baseline(side, folder, limit, seed, epochs, model, settings):
    """TF-IDF and logistic regression, which reads no model."""
    from clfm_kit.study.baseline import Baseline
    train, validation, test = rows_of(folder, limit, seed)
    found = Baseline()
    seconds, cpu = clock(lambda: found.fit(train, validation))
    peak, report = peak_mb(), found.evaluate(test)
    return dict(accuracy=float(report["accuracy"]), macro_f1=float(report["macro_f1"]), seconds=seconds,
                cpu_seconds=cpu, facts={}, step_cpu_seconds=None, peak_mb=peak)


def peer(side, folder, limit, seed, epochs, model, settings):
    """`Trainer` as people write it, over the whole model or over what peft adds to it."""
    import numpy as np
    import peft  # noqa: F401 - imports are not what is measured
    import torch
    from sklearn.metrics import accuracy_score, f1_score
    from transformers import (
        AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback,
        TrainingArguments, set_seed,
    )

    from clfm_kit.backbone.sources import model_source
    train, _, test = rows_of(folder, limit, seed)
    names = sorted(set(train.labels))
    known = {name: n for n, name in enumerate(names)}
    with tempfile.TemporaryDirectory() as place:
        def fit():
            set_seed(seed)
            tokenizer = AutoTokenizer.from_pretrained(model_source(model))
            network = adapted(
                side,
                AutoModelForSequenceClassification.from_pretrained(model_source(model), num_labels=len(names)), seed,
            )
            items = [
                dict(tokenizer(text, truncation=True), labels=known[label])
                for text, label in zip(train.texts, train.labels)
            ]
            arguments = TrainingArguments(
                place, num_train_epochs=epochs, per_device_train_batch_size=32, per_device_eval_batch_size=64,
                learning_rate=PEERS[side], weight_decay=0.01, warmup_steps=0.06, seed=seed,
                use_cpu=not torch.cuda.is_available(), save_strategy="no", report_to=[], disable_tqdm=True,
                logging_strategy="no",
            )
            found.append((
                tokenizer,
                Trainer(network, arguments, train_dataset=items, data_collator=DataCollatorWithPadding(tokenizer)),
            ))
            found[0][1].add_callback(Steps())
            found[0][1].train()
        class Steps(TrainerCallback):
            def on_step_end(self, *args, **kwargs): steps.append(time.process_time())
        found, steps = [], []
        seconds, cpu = clock(fit)
        peak = peak_mb()
        tokenizer, run = found[0]
        answers = np.argmax(
            run.predict([dict(tokenizer(text, truncation=True)) for text in test.texts]).predictions, 1
        )
    truth = [known.get(label, -1) for label in test.labels]
    return dict(
        accuracy=float(accuracy_score(truth, answers)), macro_f1=float(f1_score(truth, answers, average="macro")),
        seconds=seconds, cpu_seconds=cpu, facts={}, step_cpu_seconds=per_step(steps), peak_mb=peak,
    )


def cell(options, folder, side, seed):
    """Run one cell in this process and write its file."""
    import warnings
    warnings.filterwarnings("ignore")
    run = kit if side in KIT else peer if side in PEERS else baseline
    found = run(side, folder, options.rows, seed, options.epochs, options.model, options.set)
    save(place(options, folder, side, seed), json.dumps(
        dict(data=Path(folder).name, side=side, seed=seed, rows=options.rows, epochs=options.epochs, **found),
        indent=1,
    ))


def place(options, folder, side, seed):
    return options.cells / f"{Path(folder).name}-{options.rows or 'all'}-{options.epochs}-{side}-{seed}.json"


def summary(rows):
    """Means over seeds, and per data set the ratio of seconds to those of `trainer` and `finetune` at equal seeds."""
    figures, groups = {}, defaultdict(dict)
    for row in rows: groups[row["data"], row["side"]][row["seed"]] = row
    for (data, side), seeds in sorted(groups.items()):
        for name in ("accuracy", "macro_f1"):
            figures[f"{data} {side} {name}"] = round(statistics.mean(row[name] for row in seeds.values()), 4)
        if len(seeds) > 1:
            figures[f"{data} {side} deviation"] = round(
                statistics.stdev(row["accuracy"] for row in seeds.values()), 4
            )
        for other in ("trainer", "finetune"):
            both = sorted(seeds.keys() & groups.get((data, other), {}).keys())
            for clock in ("seconds", "cpu_seconds") if side != other and both else ():
                figures[f"{data} {side} {clock} against {other}"] = round(
                    statistics.median(seeds[s][clock] / groups[data, other][s][clock] for s in both), 3
                )
    return figures | overlaps(groups)


def overlaps(groups):
    """The share of the rows that token-sparse moves which a control moves too, at equal seeds and shares."""
    figures = {}
    for (data, side), seeds in groups.items():
        if not side.startswith("token-sparse"): continue
        for other in (side.replace("token-sparse", control) for control in CONTROLS[1:]):
            both = [
                [
                    {(name, row) for name, rows in found[seed].get("rows_moved", {}).items() for row in rows}
                    for found in (seeds, groups[data, other])
                ]
                for seed in seeds if seed in groups.get((data, other), {})
            ]
            if any(mine for mine, _ in both):
                figures[f"{data} {side} rows shared with {other}"] = round(
                    statistics.mean(len(mine & theirs) / len(mine) for mine, theirs in both if mine), 3
                )
    return figures


def plot(figures, path):
    """Accuracy against processor time, a panel for each data set."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    sides = {
        side: {} for side in (
            "trainer", "finetune", "token-sparse", "top-three", "all-blocks", "top-layers", "lora", "prefix", "shira"
        )
    }
    for name, value in figures.items():
        data, side, *rest = name.split()
        if rest == ["accuracy"] and side in sides:
            sides[side][data] = (figures.get(f"{data} {side} cpu_seconds against trainer", 1.0), 100 * value)
    sets = list(sides["trainer"])
    figure, axes = pyplot.subplots(2, -(-len(sets) // 2), figsize=(11, 5.5), layout="constrained", squeeze=False)
    for data, panel in zip(sets, axes.flat):
        for number, (side, found) in enumerate(sides.items()):
            if data in found:
                panel.plot(*found[data], "os^<Dvx+*"[number], label=side, color=f"C{number}", markersize=9)
        panel.set(title=data, xlim=(0, None))
    for panel in list(axes.flat)[len(sets):]: panel.axis("off")
    figure.supxlabel("processor time, Trainer = 1"), figure.supylabel("test accuracy, %")
    handles = {label: handle for panel in axes.flat for handle, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", required=True, help="folder of a data set; may be given several times"
    )
    parser.add_argument("--sides", nargs="+", default=USUAL, choices=SIDES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="at most so many training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--set", action="append", default=[], help="a recipe setting for all sides of the kit")
    parser.add_argument("--cells", type=Path, default=RESULTS / "token_sparse", help="where finished cells are kept")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no cell after so many")
    parser.add_argument("--out", default="token_sparse")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell: return cell(options, options.cell[0], options.cell[1], int(options.cell[2]))
    wanted = [
        (folder, side, seed) for seed in range(options.seeds) for folder in options.data for side in options.sides
    ]
    started = time.monotonic()
    for folder, side, seed in wanted:
        if place(options, folder, side, seed).exists(): continue
        if time.monotonic() - started > 60 * options.minutes: break
        print(f"{Path(folder).name} {side} seed {seed}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, *sys.argv, "--cell", folder, side, str(seed)], check=True)
    rows = [json.loads(place(options, *one).read_text()) for one in wanted if place(options, *one).exists()]
    figures = summary(rows)
    if any(name.split()[1] == "trainer" for name in figures): plot(figures, RESULTS / f"{options.out}.png")
    write(
        options.out, figures, [{name: value for name, value in row.items() if name != "rows_moved"} for row in rows]
    )


if __name__ == "__main__":
    main()
