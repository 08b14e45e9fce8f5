"""Wheels, each in fresh environments outside the checkout: every extra alone, and a stranger's plugin that comes and
goes. A job for each environment; all share one build.
"""
import json
import shutil
import sys
import tomllib
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

from checks import USER_SCRIPT, type_checked
from fresh import Fresh, build
from jobs import Job
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tree import EXAMPLE, PACKAGES, PLUGINS, PROJECTS, ROOT, Failed, run

OFFERS = "python", "-I", ROOT / "tools" / "offers.py"  # isolated: nothing of the checkout is on the path
FIT = "clfm", "fit", "--recipe", "probe", "--data", "helpdesk", "--model", "minilm", "--out", "model"
TESTED = (
    "import pytest, runpy; assert pytest.main(['-q', 'test_hello.py']) == 0; runpy.run_path('notebook.py')"
)
PLOT = (
    "import ipywidgets, jupyterlab, matplotlib; matplotlib.use('agg'); from clfm_kit.evaluation.calibration import "
    "plot_reliability; plot_reliability({'one': ([0.2, 0.9], [0, 1])})"
)


def lines(name):
    "What a plugin requires, by the name of the distribution."
    project = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [canonicalize_name(Requirement(line).name) for line in project["dependencies"]]


def brought(name):
    "The plugin and those that it requires."
    return {name}.union(*(brought(other) for other in PLUGINS if f"clfm-kit-{other}" in lines(name)))


def requirements(name):
    "Distributions not ours that an extra requires beside those of the core; none for the core itself, without a name."
    required = map(Requirement, distribution("clfm-kit").requires)
    core = {canonicalize_name(line.name) for line in required if line.marker is None}
    found = {line for each in brought(name) for line in lines(each)} if name else set()
    return frozenset(line for line in found - core if not line.startswith("clfm-kit"))


def alone(folder, dist, names):
    """The core, or an extra alone: what it brings is found, nothing else is, and its recipes run. Those that require
    the same of others come one after the other into one environment, from where the one before them has gone.
    """
    place = Fresh(folder / f"alone-{names[0]}", dist, wanted(names[0]))
    place.run(*OFFERS, *offered(names[0]))
    with place.loaded():
        for before, name in pairwise(names):
            if before: place.pip("uninstall", "--yes", *(f"clfm-kit-{each}" for each in brought(before)))
            place.pip("install", "--no-index", "--find-links", dist, wanted(name))
            place.run("python", OFFERS[-1], *offered(name))


def wanted(name): return f"clfm-kit[{name}]" if name else "clfm-kit"


def offered(name):
    "What offers.py is given."
    if not name: return "", "clfm_kit", "clfm-kit"
    return " ".join(sorted(brought(name))), PACKAGES[Path("plugins", name)], name


def extra(folder, dist, name, *command):
    "An extra that brings no plugin: what it is for runs."
    Fresh(folder / name, dist, f"clfm-kit[{name}]").run(*command)


def stranger(folder, dist):
    "A plugin that is not ours: found, tested, used, shown at work by its notebook, and missed once it is gone."
    everything = Fresh(folder / "everything", dist, "clfm-kit[all]", "clfm-kit-hello[test]")
    everything.run(*OFFERS, " ".join(["hello", *PLUGINS]), " ".join(["clfm_kit_hello", *PACKAGES.values()]))
    type_checked(everything.python)
    with everything.loaded(): comes_and_goes(everything)


def comes_and_goes(everything):
    everything.run("python", USER_SCRIPT)
    cells = json.loads((ROOT / EXAMPLE / "hello.ipynb").read_text(encoding="utf-8"))["cells"]
    (everything.folder / "notebook.py").write_text(
        "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), encoding="utf-8"
    )
    shutil.copy(ROOT / EXAMPLE / "test_hello.py", everything.folder)
    everything.run("python", "-c", TESTED)
    everything.run(*FIT, "--set", "head=hello")
    everything.run("clfm", "predict", "model", "Where is my parcel?")
    everything.pip("uninstall", "--yes", "clfm-kit-hello")
    everything.run("python", OFFERS[-1], " ".join(PLUGINS), "clfm_kit")
    try: everything.run("clfm", "predict", "model", "Where is my parcel?")
    except Failed as error:
        if "made with plugin hello" not in str(error): raise
    else: raise Failed("a model whose plugin is gone still predicts")


def built(folder):
    """All distributions, in the folder `dist` of `folder`; the file `ready` there says that they are complete.

    Raises `Failed` where an index would refuse one of ours, or would not show its description.
    """
    dist = build(folder, *PROJECTS, EXAMPLE)
    ours = [path for path in sorted(dist.iterdir()) if not path.name.startswith(EXAMPLE.name.replace("-", "_"))]
    run(sys.executable, "-m", "twine", "check", "--strict", *ours)
    (dist / "ready").touch()


def environments(folder):
    "A job for each environment; `folder` is the one that `built` was given."
    dist = folder / "dist"
    yield Job("wheels", "everything", stranger, (folder, dist))
    same = {}
    for name in ["", *PLUGINS]: same.setdefault(requirements(name), []).append(name)
    for names in same.values():
        yield Job("wheels", ", ".join(name or "core" for name in names), alone, (folder, dist, names))
    yield Job("wheels", "demo", extra, (folder, dist, "demo", *FIT))
    yield Job("wheels", "notebook", extra, (folder, dist, "notebook", "python", "-c", PLOT))
    yield Job("wheels", "tune", extra, (folder, dist, "tune", "python", "-c", "import optuna, clfm_kit.study.tuning"))
