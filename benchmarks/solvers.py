"""Solvers for the L1 probes of Sparsify-then-Classify, on real columns, and the seconds of the whole search.

    python benchmarks/solvers.py --data DIR [--shares 0.1,0.03,0.01] [--classes 6] [--out NAME]

`skglm` and `celer` are measured where they are installed. They, and liblinear, take classes one at a time:
`--classes` of them are timed and the seconds scaled to all.
"""
import argparse
import os
import time
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from clfm_kit_stc.head import Sparsify, read
from clfm_kit_stc.pooler import AllLayers
from clfm_kit_stc.solver import Problem, largest_penalty, path, value_and_gradient, violation
from common import write
from sklearn.linear_model import LogisticRegression

from clfm_kit import load_data
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.encoder import TextEncoder
from clfm_kit.builtin.formats import Plain
from clfm_kit.data.schemas import learn_schema


def timed(run):
    """What `run` returns, its seconds on the clock, and its processor seconds,
    which other programs on the machine change little.
    """
    started, before = time.perf_counter(), time.process_time()
    found = run()
    return found, time.perf_counter() - started, time.process_time() - before


def batched(problem, shares, largest, tolerance):
    """Ours: all classes at once, the whole path warm-started."""
    solutions, seconds, processor = timed(lambda: path(problem, shares, tolerance))
    last = solutions[-1]
    return dict(
        seconds=seconds, cpu_seconds=processor, weights=last.weights, bias=last.bias,
        steps=sum(s.steps for s in solutions), violation=violation(problem, last, shares[-1] * largest),
    )


def saga(problem, shares, largest, epochs):
    """scikit-learn's multinomial L1 solver, warm-started along the same path, `epochs` passes for each penalty."""
    x, y = problem.features.numpy(), problem.targets.numpy()
    model = LogisticRegression(l1_ratio=1, solver="saga", max_iter=epochs, tol=1e-3, warm_start=True, random_state=0)
    _, seconds, processor = timed(
        lambda: [model.set_params(C=1 / (share * largest * len(x))).fit(x, y) for share in shares]
    )
    return dict(
        seconds=seconds, cpu_seconds=processor, weights=torch.tensor(model.coef_.T, dtype=torch.float32),
        bias=torch.tensor(model.intercept_, dtype=torch.float32), steps=epochs,
    )


def one_at_a_time(make):
    """A binary solver on `classes` classes against the rest, seconds scaled to all classes."""
    def run(problem, shares, largest, classes):
        x, y = problem.features.numpy().astype(np.float64), problem.targets.numpy()
        chosen = np.linspace(0, y.max(), classes).astype(int)
        fit = lambda: [
            make(share * largest, len(x)).fit(x, np.where(y == c, 1, -1)) for c in chosen for share in shares
        ]
        # skglm compiles at its first fit: not counted
        make(shares[0] * largest, 60).fit(x[:60], np.where(np.arange(60) % 2, 1, -1))
        scaled = [float(spent * (y.max() + 1) / classes) for spent in timed(fit)[1:]]
        return dict(seconds=scaled[0], cpu_seconds=scaled[1], timed_classes=classes)
    return run


def binary_solvers() -> dict:
    """Those that are installed, at their own default tolerance."""
    found = {"liblinear": lambda penalty, n: LogisticRegression(l1_ratio=1, solver="liblinear", C=1 / (penalty * n))}
    if find_spec("celer"):
        from celer import LogisticRegression as Celer
        found["celer"] = lambda penalty, n: Celer(C=1 / (penalty * n))
    if find_spec("skglm"):
        from skglm import SparseLogisticRegression
        found["skglm"] = lambda penalty, n: SparseLogisticRegression(alpha=penalty)
    return {name: one_at_a_time(make) for name, make in found.items()}


def compare(column, train, validation, classes, shares, arguments):
    """Yield one row for each solver on one column; `train` and `validation` are (values, targets)."""
    values = train[0]
    mean, scale = values.mean(0), np.where(values.std(0) > 1e-6, values.std(0), 1)
    problem = Problem(read(values, mean, scale), torch.as_tensor(train[1]), classes)
    other, truth = read(validation[0], mean, scale), validation[1]
    largest = largest_penalty(problem)
    runs = {
        "batched": lambda: batched(problem, shares, largest, 5e-3),
        "batched, tight": lambda: batched(problem, shares, largest, 5e-4),
        "saga": lambda: saga(problem, shares, largest, arguments.epochs),
    }
    runs |= {
        name: (lambda run=run: run(problem, shares, largest, arguments.classes))
        for name, run in binary_solvers().items()
    }
    for name, run in runs.items():
        found = run()
        weights, bias = found.pop("weights", None), found.pop("bias", None)
        if weights is not None:
            penalty = shares[-1] * largest * weights.abs().sum().item()
            found["objective"] = value_and_gradient(problem, weights, bias)[0] + penalty
            found["validation_accuracy"] = float(((other @ weights + bias).argmax(1).numpy() == truth).mean())
        yield dict(column=column, width=values.shape[1], solver=name, **found)


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True), parser.add_argument("--out", default="solvers")
    parser.add_argument("--shares", default="0.1,0.03,0.01")
    for name, value in (("classes", 6), ("epochs", 30)): parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    shares, splits = [float(s) for s in arguments.shares.split(",")], load_data(arguments.data)
    schema = learn_schema(splits.train.labels)
    encoder = TextEncoder(Backbone.load("minilm"), Plain(), AllLayers())
    features, extraction, _ = timed(lambda: encoder.features(splits.train.texts))
    train = features, schema.targets(splits.train.labels)
    validation = encoder.features(splits.validation.texts), schema.targets(splits.validation.labels)
    part = lambda given, column: (np.asarray(given[0][column], dtype=np.float32), given[1])
    depth, rows = encoder.backbone.shape.depth, []
    solvers = (compare(column, part(train, column), part(validation, column), len(schema), shares, arguments)
               for column in (f"hidden.{depth}/mean", f"ffn.{depth // 2}/mean"))
    for row in chain(whole_search(train, schema, validation, extraction), *solvers):
        rows.append(row)
        save(arguments, rows)  # after each row, so that a run cut short leaves what it measured


def whole_search(train, schema, validation, extraction):
    """Yield the row of the whole search over columns, penalties, shares, strengths and prefixes."""
    started, before = time.perf_counter(), time.process_time()
    head = Sparsify().fit(*train, schema, validation=validation)
    yield dict(solver="whole search", seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - before,
               extraction_seconds=extraction, columns=len(train[0]),
               candidates=head.report_["candidates"], chosen=head.chosen_)


def save(arguments, rows):
    """Write the rows so far and their figures."""
    figures = {}
    for row in rows:
        name = ", ".join(filter(None, [row["solver"], row.get("column")]))
        figures |= {f"{name}, s": row["seconds"], f"{name}, processor s": row["cpu_seconds"]}
    packages = {
        name: version(name)
        for name in ("skglm", "celer", "clfm-kit-stc") if find_spec({"clfm-kit-stc": "clfm_kit_stc"}.get(name, name))
    }
    write(
        arguments.out, figures, rows, solver_versions=packages, data=Path(arguments.data).name,
        load=os.getloadavg()[0],
    )


if __name__ == "__main__":
    main()
