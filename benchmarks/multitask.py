"""One model for intent and slots against one model for each, and merging of the two against training on both.

    python benchmarks/multitask.py --data FOLDER [--data FOLDER] [--rows N] [--epochs E] [--selector full]
                                   [--mixed NEWS HOME] [--work FOLDER] [--model FOLDER --lines]

Rows carry `label` and `slots` with `tokens`. All sides get the same rows, epochs, rates and seed (with
`--joint-epochs` the joint model gets as many of its own: twice `--epochs` is as much training as the two single
models have together); latency is measured on the same texts, sides alternating, threads as given; the load of the
machine is written down. With `--skip merging`, `--skip memory` or `--skip latency` a part is left out. Training rows
are cut to 500 unless `--rows` says more (0: all), test rows by `--test`. With `--lines` a decoder is tuned to answer
both tasks in lines of text too (`multitask-lines`). Test labels that the training rows never show count as errors.
Trained models and merged cells stay in `--work`; a run that was interrupted goes on there, in the middle of a
training if need be.
"""
import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from common import alternate, peak_of, ratio, save, write

TASKS = {"intent": "label", "slots": "slots"}
LINES = "lines"
METHODS = ("task-arithmetic", "ties", "dare", "breadcrumbs", "regmean")
LOAD = """
import sys, torch
from clfm_kit import Classifier
torch.set_num_threads(1)
models = [Classifier.from_pretrained(folder) for folder in sys.argv[1:]]
for clf in models: clf.predict(["two smart bulbs"])
"""


def parts_of(folder, tasks, limit, test=0):
    """Rows by part, the training rows cut to `limit` (0: all), taken evenly, the test rows to their first `test`."""
    from clfm_kit.data.tasks import load_tasks, read_tasks
    parts = load_tasks(folder, read_tasks(tasks))
    if limit and len(parts.train) > limit:
        step = len(parts.train) / limit
        parts.train = parts.train.take([int(number * step) for number in range(limit)])
    if test and len(parts.test) > test: parts.test = parts.test.take(range(test))
    return parts


# rates for changes that move few numbers
RECIPES = {
    "token-sparse": ["training.learning_rate=1e-3"], "lora": ["training.learning_rate=1e-3", "selector.rank=8"]
}


def fit(name, side, tasks, parts, arguments, selector, more=()):
    """A model trained on these tasks, or the one that a former run left in the working folder."""
    from clfm_kit import Classifier
    epochs = arguments.joint_epochs if side == "joint" and arguments.joint_epochs else arguments.epochs
    folder = Path(
        arguments.work,
        f"{name}-{side}-{selector}-{arguments.rows}-{epochs}-{arguments.rate:g}-{arguments.batch}-{arguments.seed}"
            + (f"-{arguments.weight:g}" if side == "joint" and arguments.weight else ""),
    )
    if (folder / "clfm.json").exists(): return Classifier.from_pretrained(folder)
    lines = side == LINES
    settings = [] if lines else [f"selector={selector}"]
    settings += [
        f"training.epochs={epochs}", f"training.learning_rate={arguments.rate}",
        f"training.batch_size={arguments.batch}", f"seed={arguments.seed}",
    ]
    settings += [*([] if lines else RECIPES.get(selector, ())), *arguments.set, *more]
    recipe = "multitask-lines" if lines else "token-sparse" if selector == "token-sparse" else "finetune"
    clf = Classifier(recipe, arguments.model, tasks=tasks, settings=settings, cache=None)
    clf.fit(parts, checkpoints=f"{folder}-steps").save_pretrained(folder)
    shutil.rmtree(f"{folder}-steps")
    print(
        f"  {folder.name}: {clf.facts_['seconds']} s, {clf.facts_['training'].get('validation_quality')}", flush=True
    )
    return clf


def quality(clf, rows):
    """Main figures of each task, where they are defined; accuracy counts unseen labels as wrong."""
    from clfm_kit.evaluation.metrics import Undefined
    report, found, of_tags = clf.evaluate(rows), {}, ("entity_f1", "pair_f1")
    for name, task in report.tasks.items():
        if "entity_f1" in task.figures: found |= {f"{name}.{figure}": task[figure] for figure in of_tags}
        else: found[f"{name}.accuracy"] = task.figures.get("accuracy_with_unseen", task.figures.get("accuracy"))
    if "joint_exact_match" in report.figures: found["joint_exact_match"] = report["joint_exact_match"]
    # no row may have labels of two tasks
    return {name: float(value) for name, value in found.items() if not isinstance(value, Undefined)}


def over_seeds(seeds):
    """Means of the figures, with `.deviation` beside them where there are two seeds or more."""
    figures = {name: statistics.mean(one[name] for one in seeds) for name in seeds[0]}
    return figures | {
        f"{name}.deviation": statistics.stdev(one[name] for one in seeds) for name in figures if len(seeds) > 1
    }


def shell(rows, place):
    """A classifier of next to no weights, so that a process that loads it holds the libraries and little else."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from clfm_kit import Classifier
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(Path(place, "base"))
    BertModel(
        BertConfig(vocab_size=2, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(Path(place, "base"))
    parts = {"train": rows.take(range(200)), "validation": rows.take(range(200, 300))}
    return Classifier("probe", str(Path(place, "base")), tasks=TASKS, cache=None).fit(parts)


def latency(name, sides, texts, repeats):
    """Median ratio of the joint model's time to that of the two, at one text and at 32."""
    def run(models, size):
        def turn():
            for start in range(0, len(texts), size):
                for clf in models: clf.predict(texts[start:start + size])
        return turn
    figures, rows = {}, []
    for size in (1, 32):
        turns = {"joint": run([sides["joint"]], size), "two": run([sides[task] for task in TASKS], size)}
        if LINES in sides: turns[LINES] = run([sides[LINES]], size)
        for turn in turns.values(): turn()
        seconds = alternate(turns, repeats)
        figures |= {
            f"{name}.latency_ratio_batch_{size}" + f".{side}" * (side != "joint"): ratio(seconds, side, "two")
            for side in turns if side != "two"
        }
        rows.append(dict(data=name, batch=size, texts=len(texts), seconds=seconds))
    return figures, rows


def memory(name, sides, rows):
    """Peak memory of a process that asks the joint model against one with the two, less what the libraries take."""
    loaded = {"joint": ["joint"], "two": list(TASKS), "libraries": ["shell"]}
    with tempfile.TemporaryDirectory() as place:
        for side, clf in (sides | {"shell": shell(rows, place)}).items(): clf.save_pretrained(Path(place, side))
        peak = lambda names: peak_of(LOAD, *(Path(place, one) for one in names))["peak_mb"]
        peaks = {side: peak(names) for side, names in loaded.items()}
    own = {side: peak - peaks["libraries"] for side, peak in peaks.items()}
    return {f"{name}.memory_ratio": own["joint"] / own["two"]}, [dict(data=name, memory_mb=peaks)]


def data_set(folder, arguments):
    """Joint model against two with every seed, then latency, memory and merging with the first;
    each part as soon as it is done.
    """
    name, parts = Path(folder).name, parts_of(folder, TASKS, arguments.rows, arguments.test)
    weighed = {"intent": dict(label="label", weight=1), "slots": dict(label="slots", weight=arguments.weight)}
    wanted, seeds = {task: {task: column} for task, column in TASKS.items()}, []
    wanted = {"joint": weighed if arguments.weight else TASKS, **wanted}
    if arguments.lines: wanted[LINES] = TASKS
    for arguments.seed in [*range(1, arguments.seeds), 0]:
        sides = {side: fit(name, side, tasks, parts, arguments, arguments.selector) for side, tasks in wanted.items()}
        found = {side: quality(clf, parts.test) for side, clf in sides.items()}
        together = [side for side in ("joint", LINES) if side in found]
        seeds.append({f"{name}.{side}.{figure}": value for side in together for figure, value in found[side].items()}
                     | {f"{name}.single.{figure}": value for task in TASKS for figure, value in found[task].items()})
        print({key: round(value, 4) for key, value in over_seeds(seeds).items()}, flush=True)
        facts = lambda key: {side: clf.facts_.get(key) for side, clf in sides.items()}
        yield over_seeds(seeds), [dict(data=name, seed=arguments.seed, train=len(parts.train), test=len(parts.test),
                                       quality=found, training=facts("training"), seconds=facts("seconds"))]
    if "latency" not in arguments.skip:
        yield latency(name, sides, parts.test.texts[:arguments.texts], arguments.repeats)
    if "memory" not in arguments.skip: yield memory(name, sides, parts.train)
    if "merging" not in arguments.skip: yield merging(name, parts, arguments)


def merging(name, parts, arguments):
    """Each method's share of single-task quality kept, for each selector;
    finished cells are read from the working folder.
    """
    from clfm_kit.study.merging import merge_models
    figures, rows = {}, []
    for selector in arguments.merge:
        for method in METHODS:
            cell = Path(
                arguments.work,
                f"{name}-{selector}-{method}-{arguments.rows}-{arguments.epochs}-{arguments.rate:g}-"
                    f"{arguments.seed}.json",
            )
            if not cell.exists():
                place = Path(tempfile.mkdtemp())
                for task, column in TASKS.items():
                    fit(name, task, {task: column}, parts, arguments, selector).save_pretrained(place / task)
                save(cell, json.dumps(
                    merge_models([place / task for task in TASKS], method, parts).to_dict(), default=float
                ))
                shutil.rmtree(place)
            found = json.loads(cell.read_text())
            figures[f"{name}.merge.{selector}.{method}.kept"] = found["kept"]
            for pair in found["interference"]:
                figures |= {
                    f"{name}.merge.{selector}.{figure}": pair[figure]
                    for figure in ("moved_by_both", "sign_conflicts", "cosine", "rows_shared")
                    if pair[figure] is not None
                }
            rows.append(dict(data=name, selector=selector, **found))
            print(f"  {selector} {method}: {found['kept']:.3f}", flush=True)
    return figures, rows


def mixed(news, home, arguments):
    """Two unrelated data sets in one model against one model each."""
    from clfm_kit.data.rows import Splits
    from clfm_kit.data.tasks import read_tasks, united
    tasks, folders = {"topic": "label", "slots": "slots"}, {"topic": news, "slots": home}
    parts = {
        task: parts_of(folder, {task: tasks[task]}, arguments.rows, arguments.test) for task, folder in folders.items()
    }
    joined = lambda part: united([getattr(splits, part) for splits in parts.values()], read_tasks(tasks))
    both = Splits(**{part: joined(part) for part in ("train", "validation", "test")})
    name, short = f"{Path(news).name}+{Path(home).name}", [f"format.max_length={arguments.length}"]
    alone = lambda task: fit(name, task, {task: tasks[task]}, parts[task], arguments, arguments.selector, short)
    found = {task: quality(alone(task), parts[task].test) for task in tasks}
    together = fit(name, "mixed", tasks, both, arguments, arguments.selector, [*short, "merger=mixed"])
    found["mixed"] = quality(together, both.test)
    figures = {f"mixed.{figure}": value for figure, value in found["mixed"].items()}
    figures |= {f"mixed.single.{figure}": value for task in tasks for figure, value in found[task].items()}
    rows = lambda part: {task: len(getattr(splits, part)) for task, splits in parts.items()}
    yield figures, [dict(data=[Path(news).name, Path(home).name], train=rows("train"), test=rows("test"),
                         quality=found, training=together.facts_["training"])]


def plot(figures, path):
    """Share of single-task quality kept by each merge method."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    kept = {name: value for name, value in figures.items() if name.endswith(".kept")}
    if not kept: return
    groups = list(dict.fromkeys(name.split(".merge.")[0] + ", " + name.split(".")[-3] for name in kept))
    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    for number, (group, mark) in enumerate(zip(groups, "os^Dvx")):
        data, selector = group.split(", ")
        axes.plot(
            [100 * kept[f"{data}.merge.{selector}.{method}.kept"] for method in METHODS], range(len(METHODS)), mark,
            label=group, markersize=8,
        )
    axes.axvline(100, color="#777777", linewidth=1)
    axes.set(yticks=range(len(METHODS)), yticklabels=METHODS, xlabel="% of single-task quality kept after merging")
    figure.legend(loc="outside upper center", ncols=len(groups), frameon=False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--mixed", nargs=2)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--selector", default="full")
    parser.add_argument("--merge", nargs="*", default=["full", "token-sparse", "lora"])
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--lines", action="store_true")
    for name, value in (
        ("rows", 500), ("epochs", 10), ("batch", 32), ("texts", 64), ("repeats", 5), ("threads", 1), ("seeds", 1),
        ("test", 0), ("length", 128), ("joint-epochs", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument(
        "--weight", type=float, help="of the loss of slots beside that of intents; the recipe's own without"
    )
    parser.add_argument("--work", default=os.path.join(tempfile.gettempdir(), "clfm-kit-multitask"))
    parser.add_argument("--out", default="multitask")
    arguments = parser.parse_args()
    arguments.seed = 0
    import torch
    torch.set_num_threads(arguments.threads)
    Path(arguments.work).mkdir(parents=True, exist_ok=True)
    figures, rows, before = {}, [], os.getloadavg()[0]
    for steps in [
        data_set(folder, arguments) for folder in arguments.data
    ] + ([mixed(*arguments.mixed, arguments)] if arguments.mixed else []):
        for more, found in steps:
            figures, rows = figures | more, rows + found
            write(arguments.out, figures, rows, load=dict(before=before, after=os.getloadavg()[0]))
    from common import RESULTS
    plot(figures, RESULTS / f"{arguments.out}.png")


if __name__ == "__main__": main()
