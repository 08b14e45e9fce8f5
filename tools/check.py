#!/usr/bin/env python3
"""Everything that CI checks, two jobs at a time.

    tools/check.py                 all steps; `tools/check.py export docs` only those named
    tools/check.py PATH …          notebooks and test files; `--save` keeps the outputs of notebooks
    tools/check.py --changed       what a change since the merge base touches, nearest first, in about three minutes
    tools/check.py --record NAME   also writes seconds of each job and test to benchmarks/results/checks.json

Run it with the Python of the environment that the Makefile made. Exit code 1 when something fails, 130 after Ctrl-C;
either way no process and no temporary folder stays behind.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import checks
import wheels
from afresh import served
from imports import NOTEBOOKS, TESTS, distances, paths
from jobs import Job, Outcome, nothing_left_behind, run_jobs
from tree import ROOT

RESULT = ROOT / "benchmarks" / "results" / "checks.json"
SINGLE = {
    "clean": checks.clean, "export": checks.export, "lint": checks.lint, "types": checks.types, "docs": checks.docs
}
STEPS = {name: check.__doc__ for name, check in SINGLE.items()} | {
    "notebooks": "every notebook runs from top to bottom",
    "tests": "pytest passes",
    "wheels": "distributions pass twine check; wheels install in fresh environments outside the checkout, each extra "
    "alone resolves from them and its recipes run, a stranger's plugin comes and goes",
}
FAST = "clean", "export", "lint", "types"
RULES = ROOT / "tests" / "test_imports.py"
WORKERS = 2
MINUTES = 2.0  # of `--changed`, by the seconds of the last record; with what starting takes, three


def recorded():
    "{(step, name): seconds} of each job, as last recorded; empty without a record."
    if not RESULT.is_file(): return {}
    return {
        (row["step"], row["name"]): row["seconds"] for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    }


def jobs_of(steps, folder, save=False):
    "The jobs of the named steps, notebooks and test files; wheels are built beforehand, in `folder`."
    files = paths(step for step in steps if step not in STEPS)
    yield from (notebook_job(found, save) for found in NOTEBOOKS if "notebooks" in steps or found[0] in files)
    yield from (test_job(path) for path in TESTS if "tests" in steps or path in files)
    for step in SINGLE.keys() & set(steps): yield Job(step, step, SINGLE[step])
    if "wheels" in steps: yield from wheels.environments(folder)


def notebook_job(found, save=False):
    return Job("notebooks", named(found[0]), checks.notebook, (*found, save))


def test_job(path):
    return Job("tests", named(path), checks.tests, (named(path),))


def named(path):
    return path.relative_to(ROOT).as_posix()


def expecting(jobs):
    "The same jobs, with the seconds that the last record says."
    seconds = recorded()
    return [replace(job, expected=seconds.get((job.step, job.name), 20.0)) for job in jobs]


def changed_files(since):
    """Paths that differ from the commit where this branch left `since`, from the index and the folder;
    without a name, from the branch that this one follows.
    """
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    for name in [since] if since else ["@{upstream}", "origin/HEAD", "origin/main", "HEAD"]:
        base = git("merge-base", "HEAD", name)
        if not base.returncode: break
    else: sys.exit(f"no commit {since!r} is known here; --since takes a branch or a commit")
    listed = git("diff", "--name-only", base.stdout.strip()).stdout.splitlines()
    return paths([*listed, *git("ls-files", "--others", "--exclude-standard").stdout.splitlines()])


def touched(since, minutes):
    "The jobs that a change touches, nearest first, as many as fit into the minutes; and the names of those left out."
    far = distances(changed_files(since))
    jobs = {path: test_job(path) for path in TESTS} | {found[0]: notebook_job(found) for found in NOTEBOOKS}
    chosen = expecting([*(Job(step, step, SINGLE[step]) for step in FAST), test_job(RULES)])
    found = {path: job for path, job in zip(far, expecting([jobs[path] for path in far])) if path != RULES}
    spent, over = sum(job.expected for job in chosen), []
    for path, job in sorted(found.items(), key=lambda entry: (far[entry[0]], entry[1].expected)):
        if spent + job.expected > 60 * minutes * WORKERS: over.append(job.name)
        else:
            chosen.append(job)
            spent += job.expected
    print(f"{len(found)} notebooks and tests touch what changed; {len(found) - len(over)} of them run here", flush=True)
    return chosen, over


def tell(outcome):
    "A line for what came of a job, and where it failed why."
    word = "passed" if outcome.passed else "FAILED"
    print(f"{word}  {outcome.processor_seconds:7.1f} s  {outcome.step:10} {outcome.name}", flush=True)
    if not outcome.passed: print(outcome.said, flush=True)


def summary(outcomes, seconds):
    "Skipped tests with their reasons, then a line for each step, then the jobs that failed."
    lines = []
    for outcome in outcomes:
        reasons = Counter(row.get("reason", "") for row in outcome.rows if row.get("outcome") == "skipped")
        lines += [f"skipped  {count} of {outcome.name}: {reason}" for reason, count in reasons.items()]
    lines.append("\n== summary (processor seconds)")
    for step in [*STEPS, "build"]:
        found = [outcome for outcome in outcomes if outcome.step == step]
        if found:
            word = "passed" if all(outcome.passed for outcome in found) else "FAILED"
            spent = sum(outcome.processor_seconds for outcome in found)
            lines.append(f"{word:8}{step:12}{spent:7.1f} s  {len(found):4} jobs  {STEPS.get(step, '')}")
    failed = [f"{outcome.step} {outcome.name}" for outcome in outcomes if not outcome.passed]
    spent = sum(outcome.processor_seconds for outcome in outcomes)
    print("\n".join(lines))
    print(
        f"{'failed: ' + ', '.join(failed) if failed else 'all passed'}; "
        f"{seconds:.0f} s, {spent:.0f} s of processor time"
    )


def record(outcomes, seconds, name):
    "Write what each job and each test took, beside what earlier records of other names hold."
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import write
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else dict(figures={}, rows=[])
    figures = {key: value for key, value in before["figures"].items() if not key.startswith(f"{name}: ")}
    figures[f"{name}: wall seconds"] = round(seconds, 1)
    figures[f"{name}: processor seconds"] = round(sum(outcome.processor_seconds for outcome in outcomes), 1)
    for step in dict.fromkeys(outcome.step for outcome in outcomes):
        spent = sum(outcome.processor_seconds for outcome in outcomes if outcome.step == step)
        figures[f"{name}: {step}, processor seconds"] = round(spent, 1)
    rows = [row for row in before["rows"] if row["record"] != name]
    for outcome in outcomes:
        rows.append(dict(
            record=name, step=outcome.step, name=outcome.name, seconds=round(outcome.seconds, 1),
            processor_seconds=round(outcome.processor_seconds, 1),
        ))
        rows += [
            dict(
                record=name, step=f"{outcome.step}, one by one", name=row["name"], seconds=round(row["seconds"], 1),
                processor_seconds=round(row["processor_seconds"], 1),
            )
            for row in outcome.rows if row["processor_seconds"] >= 1
        ]
    kept = {key: before[key] for key in ("about",) if key in before}
    write("checks", figures, rows, command=f"python tools/check.py --record {name}", **kept)


def main(given):
    known = {*STEPS, *map(named, TESTS), *(named(path) for path, _ in NOTEBOOKS)}
    unknown = [name for name in given.steps if name not in known]
    if unknown: sys.exit(f"{unknown[0]!r} is no notebook, no test file and no step; the steps are {', '.join(STEPS)}")
    begin, outcomes, over = time.perf_counter(), [], []

    def run(jobs):
        for outcome in run_jobs(jobs, WORKERS):
            outcomes.append(outcome)
            tell(outcome)
            if given.stop and not outcome.passed: break

    with nothing_left_behind() as folder:
        with served(folder) as fresh:
            steps = given.steps or list(STEPS)
            if given.changed: jobs, over = touched(given.since, given.minutes)
            else:
                jobs = expecting(jobs_of(steps, folder, given.save))
                if "wheels" in steps:
                    os.environ["CLFM_KIT_WHEELS"] = str(folder / "dist")  # before the fork server starts
                    run([Job("build", "wheels", wheels.built, (folder,))])
            run(jobs)
        outcomes.append(Outcome("tests", "fresh processes", True, 0.0, fresh.spent))
        tell(outcomes[-1])
    seconds = time.perf_counter() - begin
    summary(outcomes, seconds)
    if over: print(f"left to `make test`: {len(over)}, among them {', '.join(over[:5])}")
    if given.record: record(outcomes, seconds, given.record)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}, or notebooks and test files")
    parser.add_argument("--save", action="store_true", help="keep the outputs that notebooks give")
    parser.add_argument("--stop", action="store_true", help="end at the first failure")
    parser.add_argument("--changed", action="store_true", help="only what a change touches")
    parser.add_argument("--since", metavar="REF", help="with --changed: the branch or commit that it is a change of")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="with --changed: how long it may take")
    parser.add_argument("--record", metavar="NAME", help="write seconds to benchmarks/results/checks.json")
    try: sys.exit(main(parser.parse_args()))
    except KeyboardInterrupt:
        print("\ninterrupted; processes and temporary folders are gone", file=sys.stderr)
        sys.exit(130)
