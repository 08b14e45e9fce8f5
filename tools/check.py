#!/usr/bin/env python3
"""Everything CI checks.

`tools/check.py` runs all steps, `tools/check.py export docs` only those named; exit code 1 when one fails.

Run it with the Python of the environment that the Makefile made. Nothing in the checkout changes,
apart from ignored folders.
"""
import difflib
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from fresh import Fresh, build
from tree import BIN, ENVIRONMENT, EXAMPLE, PACKAGES, PLUGINS, PROJECTS, ROOT, Failed, copy_tree, run

def differences(before, after):
    "Readable differences between two mappings of name to text."
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None: yield f"{name} is missing"
        elif new is None: yield f"{name} comes from no notebook"
        elif old != new:
            yield "\n".join(
                [*difflib.unified_diff(
                    old.splitlines(), new.splitlines(), name, f"{name} as it should be", lineterm=""
                )][:40]
            )


def texts(folder, pattern):
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern))}


def rewritten(tool, pattern, forget=lambda path: False):
    "Run an nbdev tool over a copy of every project; raises `Failed` when it changes files that match `pattern`."
    found = []
    with TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        for project in PROJECTS:
            before = texts(tree / project, pattern(project))
            for path in (tree / project).glob(pattern(project)):
                if forget(path): path.unlink()
            run(BIN / tool, cwd=tree / project)
            found += (f"{project}: {line}" for line in differences(before, texts(tree / project, pattern(project))))
    if found: raise Failed(f"{tool} changes files:\n" + "\n".join(found))


def clean():
    "notebooks hold no run counts or other noise"
    rewritten("nbdev-clean", lambda project: "nbs/**/*.ipynb")


def export():
    "modules are exactly what the notebooks export"
    rewritten(
        "nbdev-export", lambda project: f"{PACKAGES[project]}/**/*.py",
        forget=lambda path: path.name != "__init__.py",
    )


def lint():
    "every name that is used exists, every import and variable is used, and none shadows a built-in"
    rules = "--select", "F,A001,A002", "--ignore", "F402,F403,F405"
    # notebooks: their code is in the modules
    run(BIN / "ruff", "check", "--quiet", "--isolated", "--no-cache", *rules, "--extend-exclude", "*.ipynb", ROOT)


def type_checked(python):
    """Raise `Failed` when pyright or mypy, both strict, find something in a user's script,
    with the kit that this Python has.
    """
    with TemporaryDirectory() as folder:
        script = shutil.copy(USER_SCRIPT, folder)
        settings = dict(include=[Path(script).name], typeCheckingMode="strict", reportMissingTypeStubs=False)
        Path(folder, "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
        run(BIN / "pyright", "--pythonpath", python, "--project", folder, cwd=folder)
        run(
            BIN / "mypy", "--strict", "--follow-imports", "silent", "--python-executable", python,
            "--cache-dir", Path(folder, "cache"), script, cwd=folder,
        )


def types():
    "a user's script passes strict type checkers, with the kit as it is installed here"
    type_checked(sys.executable)


def notebooks():
    "every notebook runs from top to bottom"
    found = [
        path for project in PROJECTS for path in sorted((ROOT / project / "nbs").glob("**/*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    ]
    # the long ones first, so that no core waits at the end
    found.sort(key=lambda path: ("tutorials" not in path.parts, path))

    def execute(path):
        start = time.perf_counter()
        # two run at a time
        try: run(BIN / "nbdev-test", path, "--n-workers", "0", environment=ENVIRONMENT | {"OMP_NUM_THREADS": "1"})
        except Failed as error: return f"{path.relative_to(ROOT)}: {error}"
        finally: print(f"  {time.perf_counter() - start:6.1f} s  {path.relative_to(ROOT)}", flush=True)

    with ThreadPoolExecutor(2) as pool: failures = [failure for failure in pool.map(execute, found) if failure]
    if failures: raise Failed("\n\n".join(failures))


def tests():
    "pytest passes"
    done = subprocess.run([sys.executable, "-m", "pytest", "tests"], cwd=ROOT, env=ENVIRONMENT)
    if done.returncode: raise Failed(f"pytest exit code {done.returncode}")


USER_SCRIPT = ROOT / "examples" / "user_script.py"
OFFERS = "python", "-I", ROOT / "tools" / "offers.py"  # isolated: nothing of the checkout is on the path
RECIPES = "python", "-I", ROOT / "tools" / "recipes.py"
FIT = "clfm", "fit", "--recipe", "probe", "--data", "helpdesk", "--model", "minilm", "--out", "model"
PLOT = (
    "import ipywidgets, jupyterlab, matplotlib; matplotlib.use('agg'); from clfm_kit.evaluation.calibration import "
    "plot_reliability; plot_reliability({'one': ([0.2, 0.9], [0, 1])})"
)


def brought(name):
    "The plugin and those that it requires."
    lines = tomllib.loads(
        (ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]["dependencies"]
    needed = {other for other in PLUGINS for line in lines if re.split(r"[^a-z0-9-]", line)[0] == f"clfm-kit-{other}"}
    return {name}.union(*map(brought, needed))


def extras(folder, dist):
    "Each extra alone: what it brings is found, nothing else is, and its recipes run."
    for name in PLUGINS:
        alone = Fresh(folder / name, dist, f"clfm-kit[{name}]")
        alone.run(*OFFERS, " ".join(sorted(brought(name))), PACKAGES[Path("plugins", name)])
        alone.run(*RECIPES, name)
    core = Fresh(folder / "core", dist, "clfm-kit")
    core.run(*OFFERS, "", "clfm_kit")
    core.run(*RECIPES, "clfm-kit")
    Fresh(folder / "demo", dist, "clfm-kit[demo]").run(*FIT)
    Fresh(folder / "notebook", dist, "clfm-kit[notebook]").run("python", "-c", PLOT)
    Fresh(folder / "tune", dist, "clfm-kit[tune]").run("python", "-c", "import optuna, clfm_kit.study.tuning")


def stranger(everything):
    "A plugin that is not ours: found, tested, used, shown at work by its notebook, and missed once it is gone."
    everything.run(*OFFERS, " ".join(["hello", *PLUGINS]), " ".join(["clfm_kit_hello", *PACKAGES.values()]))
    type_checked(everything.python)
    everything.run("python", USER_SCRIPT)
    cells = json.loads((ROOT / EXAMPLE / "hello.ipynb").read_text(encoding="utf-8"))["cells"]
    (everything.folder / "notebook.py").write_text(
        "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), encoding="utf-8"
    )
    shutil.copy(ROOT / EXAMPLE / "test_hello.py", everything.folder)
    everything.run("python", "-m", "pytest", "-q", "test_hello.py")
    everything.run("python", "notebook.py")
    everything.run(*FIT, "--set", "head=hello")
    everything.run("clfm", "predict", "model", "Where is my parcel?")
    everything.pip("uninstall", "--yes", "clfm-kit-hello")
    everything.run(*OFFERS, " ".join(PLUGINS), "clfm_kit")
    try: everything.run("clfm", "predict", "model", "Where is my parcel?")
    except Failed as error:
        if "made with plugin hello" not in str(error): raise
    else: raise Failed("a model whose plugin is gone still predicts")


def wheels():
    """wheels install in fresh environments outside the checkout, each extra alone resolves from them and its recipes
    run, a stranger's plugin comes and goes
    """
    with TemporaryDirectory(prefix="clfm-kit-") as folder:
        folder = Path(folder)
        dist = build(folder, *PROJECTS, EXAMPLE)
        extras(folder, dist)
        stranger(Fresh(folder / "everything", dist, "clfm-kit[all]", "clfm-kit-hello[test]"))


def docs():
    "the site builds without a warning, and no page loads anything from elsewhere"
    print("  " + run(sys.executable, ROOT / "docs" / "make.py").strip())


STEPS = {step.__name__: step for step in (clean, export, lint, types, notebooks, tests, wheels, docs)}


def main(names):
    unknown = [name for name in names if name not in STEPS]
    if unknown: sys.exit(f"unknown step {unknown[0]!r}; the steps are {', '.join(STEPS)}")
    lines, failed, begin = [], [], time.perf_counter()
    for name in names or STEPS:
        print(f"\n== {name}: {STEPS[name].__doc__}", flush=True)
        start = time.perf_counter()
        try: STEPS[name]()
        except Failed as error:
            failed.append(name)
            print(error, flush=True)
        lines.append(f"{'FAILED' if name in failed else 'passed':8}{name:12}{time.perf_counter() - start:7.1f} s")
        print(lines[-1], flush=True)
    print("\n== summary", *lines, sep="\n")
    print(f"{'failed: ' + ', '.join(failed) if failed else 'all passed'}, {time.perf_counter() - begin:.0f} s in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
