"""The same rows through us and through what people use today: quality, wall clock and peak memory, with intervals.

    python benchmarks/peers.py --data DIR [--data DIR …] [--technique NAME …] [--seeds 3] [--shots 0]
        [--python peers=PYTHON]

One cell is one (data, technique, shots, seed): a process of its own, and a JSON file of its own under results/peers.
Finished cells are kept and not run again unless their settings changed, so that a run can be stopped with Ctrl-C and
started again. Techniques take turns within a seed, so that noise on the machine falls on all alike. From all cells
come results/peers.md and a plot for each data set.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import cycle
from pathlib import Path

import numpy as np
from common import RESULTS, command, hardware, save
from peer_run import TECHNIQUES

from clfm_kit import UserError, load_data
from clfm_kit.backbone.sources import model_source
from clfm_kit.data.schemas import learn_schema
from clfm_kit.evaluation.metrics import Undefined, evaluate, plain
from clfm_kit.evaluation.significance import over_seeds, paired_bootstrap

CELLS = RESULTS / "peers"
OURS = ("clfm:probe", "clfm:stc")
QUALITY = ("macro_f1", "log_loss", "ece")
MAIN = ("accuracy", "micro_f1")  # of which a cell has one


def rows_of(folder, shots, seed, limit, test_limit):
    """Train, validation and test rows; with shots, that many training rows of each class drawn by the seed,
    and no validation.
    """
    splits = load_data(folder)
    if splits.train is None or splits.test is None: raise UserError(f"{folder} needs a train and a test part")
    if splits.train.kind == "tags":
        raise UserError(f"{folder} has a tag for each token; the peers are run on labels of whole texts")
    train, validation, test = splits.train, splits.validation, splits.test
    if shots: train, validation = train.take(draw(train.labels, shots, seed)), None
    cut = lambda rows, most: rows.take(range(min(most, len(rows)))) if most and rows else rows
    return cut(train, limit), cut(validation, limit), cut(test, test_limit)


def draw(labels, shots, seed):
    """Row numbers of `shots` rows of each class, fewer where a class has fewer."""
    members, random = defaultdict(list), np.random.default_rng(seed)
    for row in random.permutation(len(labels)).tolist():
        for name in as_list(labels[row]): members[name].append(row)
    return sorted({row for name in sorted(members) for row in members[name][:shots]})


def as_list(label): return label if isinstance(label, list) else [label]


def plain_text(label): return [str(name) for name in label] if isinstance(label, list) else str(label)


def run_cell(job, parts, python):
    """Run one technique in a process of its own: (facts, probabilities).

    Raises `RuntimeError` with the end of what it said when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for part, rows in parts.items():
            lines = (
                [json.dumps(dict(text=text, label=plain_text(label))) for text, label in zip(rows.texts, rows.labels)]
                if rows else []
            )
            (folder / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        started, said = time.perf_counter(), folder / "said.txt"
        with said.open("wb") as log:
            process = subprocess.Popen(
                [python, Path(__file__).with_name("peer_run.py"), folder / "job.json"], stdout=log,
                stderr=subprocess.STDOUT, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )
            try: _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(
                f"exit code {process.returncode}: "
                + " | ".join(said.read_text(errors="replace").strip().splitlines()[-3:])
            )
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        return facts | dict(seconds=seconds, peak_mb=usage.ru_maxrss / 1e3), np.load(folder / "probabilities.npy")


def measure(options, folder, technique, shots, seed, settings):
    """Run one cell and write its file; returns its figures."""
    train, validation, test = rows_of(folder, shots, seed, options.rows, options.test_rows)
    schema = learn_schema([plain_text(label) for label in train.labels])
    job = dict(technique=technique, several=not schema.exclusive, model=str(model_source(options.model)), seed=seed,
               labels=list(schema.labels), settings=settings)
    parts = dict(train=train, validation=validation, test=test)
    facts, probabilities = run_cell(job, parts, python_of(options, technique))
    figures, rows, unknown = judge(schema, probabilities, [plain_text(label) for label in test.labels])
    figures |= {
        name: facts[name] for name in ("seconds", "peak_mb", "fit_seconds", "predict_seconds", "trained_weights")
    }
    sizes = dict(train=len(train), validation=len(validation or []), test=len(test), unknown_labels=unknown)
    found = dict(command=command(), date=time.strftime("%Y-%m-%d"), versions=facts["versions"], hardware=hardware(),
                 **identity(options, folder, technique, shots, seed, settings), sizes=sizes, main=schema.main_figure,
                 figures=figures, rows=rows)
    save(cell_path(options, folder, technique, shots, seed), json.dumps(found).replace('"rows": [', '\n"rows": ['))
    return figures


def python_of(options, technique):
    """The interpreter a technique runs in: its own, else that of all peers, else this one, which is also ours."""
    return options.pythons.get(technique) or (
        None if technique.startswith("clfm:") else options.pythons.get("peers")
    ) or sys.executable


def judge(schema, probabilities, truth):
    """Figures, what each row adds to the main one, and how many rows have a label that no training row has.

    Such a label cannot be given.
    """
    known = np.array([set(as_list(label)) <= set(schema.labels) for label in truth])
    if schema.exclusive:
        targets = schema.targets([label for label, there in zip(truth, known) if there])
        report = evaluate(schema, probabilities[known], targets)
        adds = (np.array(schema.names(schema.decide(probabilities))) == np.array(truth)).astype(int)
        main = dict(accuracy=float(adds.mean()))
    else:
        targets = schema.targets([[name for name in label if name in schema.labels] for label in truth])
        report, decisions = evaluate(schema, probabilities, targets), schema.decide(probabilities)
        there = np.array([len(label) for label in truth])
        adds = np.stack([(decisions & (targets > 0)).sum(1), decisions.sum(1), there], axis=1)
        hits = adds.sum(0)
        main = dict(micro_f1=float(2 * hits[0] / max(hits[1] + hits[2], 1)))
    return {name: plain(report[name]) for name in QUALITY} | main, adds.tolist(), int((~known).sum())


def identity(options, folder, technique, shots, seed, settings):
    """What a finished cell must agree on to be kept."""
    return dict(
        data=Path(folder).name, technique=technique, shots=shots, seed=seed,
        model=options.model if "/" not in options.model else Path(options.model).name, settings=settings,
        limits=dict(rows=options.rows, test_rows=options.test_rows),
    )


def cell_path(options, folder, technique, shots, seed):
    return (
        options.results / "peers" / f"{Path(folder).name}.{technique.replace(':', '-')}.{shots or 'all'}.{seed}.json"
    )


def finished(path, wanted):
    """Whether a cell is there, with the same settings."""
    if not path.exists(): return False
    found = json.loads(path.read_text(encoding="utf-8"))
    return all(found.get(name) == value for name, value in wanted.items())


def run(options):
    """Every cell that is not finished; the number of those that failed."""
    cells = [
        (folder, technique, shots, seed) for folder in options.data for shots in options.shots
        for seed in range(options.seeds) for technique in options.technique
    ]
    settings = lambda technique: options.settings.get(technique, {})
    todo = [
        cell for cell in cells if not finished(cell_path(options, *cell), identity(options, *cell, settings(cell[1])))
    ]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} finished before", file=sys.stderr)
    started, failed = time.perf_counter(), 0
    for number, (folder, technique, shots, seed) in enumerate(todo, 1):
        name = f"{Path(folder).name}, {technique}, {f'{shots} a class' if shots else 'all rows'}, seed {seed}"
        try: found = measure(options, folder, technique, shots, seed, settings(technique))
        except RuntimeError as error:
            failed += 1
            print(f"[{number}/{len(todo)}] {name}: FAILED, {error}", file=sys.stderr, flush=True)
            continue
        left = (time.perf_counter() - started) / number * (len(todo) - number)
        print(
            f"[{number}/{len(todo)}] {name}: {main_of(found):.4f}, {found['seconds']:.1f} s, {found['peak_mb']:.0f} "
                f"MB; about {left / 60:.0f} min left",
            file=sys.stderr, flush=True,
        )
    return failed


def main_of(figures): return next(figures[name] for name in MAIN if name in figures)


def groups(folder):
    """{(data, shots): {technique: {seed: cell}}} of the finished cells."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        found[cell["data"], cell["shots"]][cell["technique"]][cell["seed"]] = cell
    return found


def against(cells, reference):
    """Difference in the main figure from the reference over the seeds that both have: (interval over rows,
    interval over seeds).
    """
    seeds = sorted(cells.keys() & reference.keys())
    if not seeds: return None, None
    several = cells[seeds[0]]["main"] == "micro_f1"
    of = lambda side: (
        np.sum([side[seed]["rows"] for seed in seeds], axis=0)[:, None] if several
        else np.mean([side[seed]["rows"] for seed in seeds], axis=0)
    )
    rows = paired_bootstrap(of(reference), of(cells), "micro-f1" if several else "mean")
    return rows, over_seeds([main_of(cells[seed]["figures"]) - main_of(reference[seed]["figures"]) for seed in seeds])


def line(technique, cells, reference):
    """One row of a table."""
    figure = lambda name: [cell["figures"][name] for cell in cells.values()]
    percent = lambda name: (
        f"{100 * np.mean(figure(name)):.1f}" if all(isinstance(value, float) for value in figure(name)) else "–"
    )
    main = [main_of(cell["figures"]) for cell in cells.values()]
    spread = f" ± {100 * np.std(main, ddof=1):.1f}" if len(cells) > 1 else ""
    rows, seeds = against(cells, reference) if reference is not None and reference is not cells else (None, None)
    show = lambda low, high: f"{100 * low:+.1f} … {100 * high:+.1f}"
    over_rows = (
        "–" if rows is None or isinstance(rows, Undefined)
        else f"{100 * rows.difference:+.1f} ({show(rows.low, rows.high)})"
    )
    over_splits = "–" if seeds is None or isinstance(seeds.low, Undefined) else show(seeds.low, seeds.high)
    ece = f"{np.mean(figure('ece')):.3f}" if all(isinstance(value, float) for value in figure("ece")) else "–"
    settings = next(iter(cells.values()))["settings"]
    named = technique + (f" ({', '.join(f'{name} {value}' for name, value in settings.items())})" if settings else "")
    return [
        named, str(len(cells)), f"{100 * np.mean(main):.1f}" + spread, over_rows, over_splits, percent("macro_f1"),
        ece, f"{np.median(figure('seconds')):.1f}", f"{np.median(figure('peak_mb')):,.0f}",
        f"{np.median(figure('trained_weights')):,.0f}",
    ]


def tables(options):
    """Write peers.md and the plots from all finished cells."""
    parts = [
        "# Against the peers",
        "Made by `benchmarks/peers.py` from the files in `peers/`. Accuracy, or micro-F1 where texts have several "
            "labels, in percent; ± is the standard deviation over seeds. Intervals are 95 %: over test rows (paired "
            "bootstrap), and over seeds (paired t) where there are two or more. Seconds and memory are those of the "
            "whole process, from start to the last prediction, the median over seeds.",
    ]
    heads = [
        "technique", "seeds", "{main}", "against {reference}, over rows", "over seeds", "macro-F1",
        "calibration error", "seconds", "peak MB", "weights learned",
    ]
    for (data, shots), found in sorted(groups(options.results / "peers").items()):
        first = next(iter(next(iter(found.values())).values()))
        sizes, main = first["sizes"], first["main"].replace("_", "-")
        size = f"{shots} rows a class" if shots else f"{sizes['train']:,} training rows"
        ordered = sorted(
            found.items(), key=lambda item: -np.mean([main_of(cell["figures"]) for cell in item[1].values()])
        )
        reference = options.against or ("setfit" if "setfit" in found else "tfidf")
        rows = [line(technique, cells, found.get(reference)) for technique, cells in ordered]
        parts += [
            f"## {data}, {size}", f"{sizes['train']} training and {sizes['test']} test rows.",
            "\n".join(
                f"| {' | '.join(cells)} |" for cells in (
                    [head.format(main=main, reference=reference) for head in heads], ["---"] * len(heads), *rows
                )
            ),
        ]
        name = f"peers-{data}-{shots or 'all'}.png"
        plot(found, f"{data}, {size}", options.results / name)
        parts += [
            f"![{main} against seconds on {data}]({name})",
            "Made again by:\n\n" + "\n".join(f"    {command}" for command in again(data, shots, found)),
        ]
    save(options.results / "peers.md", "\n\n".join(parts))


def again(data, shots, found):
    """The commands that make a table's cells again, one for the techniques that had the same rows and as many seeds.
    """
    alike = defaultdict(list)
    for technique, cells in found.items():
        cell = next(iter(cells.values()))
        options = [f"--shots {shots}"] * bool(shots) + [f"--seeds {max(cells) + 1}"] + [
            f"--{name.replace('_', '-')} {limit}" for name, limit in cell["limits"].items() if limit
        ]
        alike[" ".join(options)].append(
            f"--technique {technique}" + (
                f" --set '{technique}={json.dumps(cell['settings'], separators=(',', ':'))}'" if cell["settings"]
                else ""
            )
        )
    quoted = lambda text: text.replace('"', '\\"')
    return [
        f'make bench DATA=path/to/{data} BENCH="{options} {quoted(" ".join(sorted(techniques)))}"'
        for options, techniques in sorted(alike.items())
    ]


def plot(found, title, path):
    """The main figure against whole-process seconds, with the standard deviation over seeds."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    ranked = sorted(found.items(), key=lambda item: -np.mean([main_of(cell["figures"]) for cell in item[1].values()]))
    for (technique, cells), mark in zip(ranked, cycle("osD^vP*X<>hpd")):
        quality, seconds = (
            [value(cell["figures"]) for cell in cells.values()]
            for value in (main_of, lambda figures: figures["seconds"])
        )
        main = next(iter(cells.values()))["main"].replace("_", "-")
        axes.errorbar(
            np.median(seconds), np.mean(quality), yerr=np.std(quality, ddof=1) if len(quality) > 1 else None,
            fmt=mark, capsize=3, label=technique, color="#D55E00" if technique.startswith("clfm:") else "#0072B2",
        )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    axes.set(xscale="log", xlabel="seconds, whole process", ylabel=main, title=title)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def parse(arguments):
    known = [*OURS, *TECHNIQUES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", default=[],
        help="a folder with train, validation and test files, or a shipped data set; may be given again",
    )
    parser.add_argument(
        "--technique", action="append", help=f"one of {', '.join(known)}, or clfm:RECIPE; all without"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds; with --shots each draws its own rows")
    parser.add_argument(
        "--shots", type=int, action="append", help="training rows of each class; 0 for all; may be given again"
    )
    parser.add_argument("--model", default="minilm", help="the base model, or a folder with one")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[],
        help='settings of a technique as JSON: finetune={"num_train_epochs": 1}',
    )
    parser.add_argument(
        "--python", action="append", default=[],
        help="the Python of another environment, for a technique or for all peers: setfit=PATH, peers=PATH",
    )
    parser.add_argument("--rows", type=int, default=0, help="at most this many training rows")
    parser.add_argument("--test-rows", type=int, default=0, help="at most this many test rows")
    parser.add_argument(
        "--against",
        help="the technique that differences are taken from; setfit without, where it was run, else tfidf",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where cells, table and plots are kept")
    options = parser.parse_args(arguments)
    options.technique, options.shots = options.technique or known, options.shots or [0]
    wrong = [
        name for name in [*options.technique, *[options.against] * bool(options.against)]
        if name not in known and not name.startswith("clfm:")
    ]
    if wrong: parser.error(f"unknown technique {wrong[0]!r}; known: {', '.join(known)}, or clfm:RECIPE")
    options.settings = {
        name: json.loads(value) for name, _, value in (text.partition("=") for text in options.settings)
    }
    options.pythons = {name: path for name, _, path in (text.partition("=") for text in options.python)}
    return options


def main(arguments=None):
    options = parse(arguments)
    try: failed = run(options)
    except UserError as error: sys.exit(f"peers: {error}")
    except KeyboardInterrupt: sys.exit("peers: stopped; finished cells are kept, the same command goes on from here")
    tables(options)
    print(f"{options.results / 'peers.md'} written", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__": main()
