#!/usr/bin/env python3
"""Do the checks catch what they are for? Applies small faults to a copy, one at a time, and says what catches each.

    tools/faults.py NAME [--tree FOLDER] [--only WORD]    writes benchmarks/results/faults.json, under NAME

Each fault in `faults.yaml` breaks one guarantee, in the module and in the notebook that exports it. The check that it
names is tried first, then notebooks and tests that touch the module, nearest first, until one fails or the time of a
fault is over. Faults that the results hold are not tried again, so an interrupted run goes on where it stopped.
Takes about an hour; not part of `make test`.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import yaml
from imports import NOTEBOOKS, distances, exports, sources
from tree import BIN, PROJECTS, ROOT, copy_tree, environment

RESULT = ROOT / "benchmarks" / "results" / "faults.json"
FAULTS = yaml.safe_load((ROOT / "tools" / "faults.yaml").read_text(encoding="utf-8"))
MINUTES = 6.0  # that may be spent on a fault, unless told
WORKERS = 2


def broken(text, fault):
    "The text of a module with the fault in it. The text that it replaces must stand there exactly once."
    if text.count(fault["before"]) != 1:
        times = text.count(fault["before"])
        sys.exit(f"{fault['guarantee']}: {fault['before']!r} stands {times} times in {fault['file']}")
    return text.replace(fault["before"], fault["after"])


def broken_notebook(text, fault):
    "The text of the notebook that exports the module, with the fault in its exported cells."
    found = json.loads(text)
    for cell in found["cells"]:
        code = "".join(cell["source"])
        if "#| export" in code: cell["source"] = code.replace(fault["before"], fault["after"]).splitlines(keepends=True)
    return json.dumps(found)


def fails(tree, name, seconds):
    "Whether a test or notebook of the copy `tree` fails; None when it takes too long."
    command = (
        [BIN / "nbdev-test", tree / name.partition("::")[0], "--n-workers", "0"] if name.endswith(".ipynb")
        else [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", name]
    )
    folders = os.pathsep.join(str(tree / project) for project in PROJECTS)
    variables = environment() | {"PYTHONPATH": folders, "HYPOTHESIS_STORAGE_DIRECTORY": str(tree / "examples")}
    project = tree / next((found for found in reversed(PROJECTS) if Path(name).is_relative_to(found)), Path("."))
    try:
        done = subprocess.run(
            [str(word) for word in command], cwd=project if name.endswith(".ipynb") else tree, env=variables,
            capture_output=True, timeout=seconds,
        )
    except subprocess.TimeoutExpired: return None
    return done.returncode in (1, 2)  # tests that fail or cannot be imported; 4 and 5: there is no such test


def caught(tree, fault, near, minutes):
    "What catches a fault: its row of the results."
    notebook = next(path for path, _ in NOTEBOOKS if exports(path) == home(fault["file"]))
    changes = {tree / fault["file"]: broken, tree / notebook.relative_to(ROOT): broken_notebook}
    whole, start, tried = {path: path.read_text(encoding="utf-8") for path in changes}, time.perf_counter(), []
    for path, change in changes.items(): path.write_text(change(whole[path], fault), encoding="utf-8")
    try:
        for name in dict.fromkeys([fault["check"], *near]):
            left = 60 * minutes - (time.perf_counter() - start)
            if left < 0: break
            tried.append(name)
            if fails(tree, name, left):
                return dict(guarantee=fault["guarantee"], file=fault["file"], caught_by=name, tried=len(tried))
    finally:
        for path, text in whole.items(): path.write_text(text, encoding="utf-8")
    return dict(guarantee=fault["guarantee"], file=fault["file"], caught_by=None, tried=len(tried))


def home(file):
    "The module that a file holds."
    return next(name for name, path in sources().items() if path == ROOT / file)


def found_before(name):
    return [] if not RESULT.is_file() else [
        row for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if row["record"] == name
    ]


def keep(name, rows):
    "Write the rows of a record beside those of others."
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import write
    others = [] if not RESULT.is_file() else [
        row for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if row["record"] != name
    ]
    every = [*others, *rows]
    figures = {}
    for record in dict.fromkeys(row["record"] for row in every):
        mine = [row for row in every if row["record"] == record]
        figures |= {f"{record}: faults": len(mine), f"{record}: caught": sum(bool(row["caught_by"]) for row in mine)}
    write("faults", figures, every, command=f"python tools/faults.py {name}")


def main(name, source, only, minutes):
    rows = found_before(name)
    done = {row["guarantee"] for row in rows}
    todo = [fault for fault in FAULTS if fault["guarantee"] not in done and only in fault["guarantee"]]
    with TemporaryDirectory(prefix="clfm-kit-faults-") as folder, ThreadPoolExecutor(WORKERS) as pool:
        trees = SimpleQueue()
        for number in range(WORKERS):
            copy = Path(folder, str(number))
            if source: shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git", ".venv"))
            else: copy_tree(copy)
            trees.put(copy)

        def work(fault):
            far = distances({ROOT / fault["file"]})
            near = [path.relative_to(ROOT).as_posix() for path in sorted(far, key=far.get)]
            tree = trees.get()
            try: return dict(record=name) | caught(tree, fault, near, minutes)
            finally: trees.put(tree)

        for row in pool.map(work, todo):
            rows.append(row)
            by = row["caught_by"] or "NOT CAUGHT"
            print(f"{len(rows):3} of {len(FAULTS)}  {by:60} {row['guarantee']}", flush=True)
            keep(name, rows)
    missed = [row["guarantee"] for row in rows if not row["caught_by"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} faults are caught; not: {missed or 'none'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the record, such as `after`")
    parser.add_argument("--tree", help="folder of another checkout, to which the faults are applied")
    parser.add_argument("--only", default="", help="faults whose guarantee holds this word")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that may be spent on a fault")
    given = parser.parse_args()
    main(given.name, given.tree, given.only, given.minutes)
