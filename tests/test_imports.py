"""What may import what: floors, no circles, heavy libraries only inside functions, and core knows no plugin."""
import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from imports import core, imports, modules
from tree import PACKAGES, PLUGINS

FLOORS = (
    "errors", "paths", "hookspecs", "shapes", "plugins", "parts", "settings", "recipes", "display", "data",
    "evaluation", "backbone", "builtin", "training", "classifier", "testing", "study", "notebook", "cli",
)
# Libraries that are slow to import, or that not every installation has: the only ones that a function may import.
HEAVY = {
    "IPython", "bitsandbytes", "datasets", "ipywidgets", "matplotlib", "mlflow", "onnx", "onnxruntime", "onnxscript",
    "optuna", "pandas", "peft", "pyarrow", "scipy", "sklearn", "torch", "transformers",
}
ENTRY = "clfm_kit.builtin.plugin"  # loaded whenever parts are listed


def floor(name):
    return FLOORS.index(name.split(".")[1])


def loads(name, seen=None):
    """Libraries that importing a module loads, through other modules too."""
    seen = set() if seen is None else seen
    for target, inside in imports(name):
        if inside or target in seen: continue
        seen.add(target)
        if target in modules(): loads(target, seen)
    return {target.partition(".")[0] for target in seen}


def test_every_module_has_a_floor():
    assert {name.split(".")[1] for name in core() if "." in name} == set(FLOORS)


def test_no_import_goes_up():
    up = [f"{name} imports {target}" for name in core() if "." in name for target, _ in imports(name)
          if target in core() and "." in target and floor(target) > floor(name)]
    assert not up, "\n".join(up)


def test_no_circles():
    graph = {
        name: {target for target, _ in imports(name) if target in modules() and target != "clfm_kit"}
        for name in modules()
    }
    list(TopologicalSorter(graph).static_order())  # raises `CycleError` naming the circle


def test_the_entry_point_is_light():
    assert {
        target for target, _ in imports(ENTRY) if target in modules()
    } <= {"clfm_kit.parts", "clfm_kit.plugins", "clfm_kit.recipes", "clfm_kit.errors", "clfm_kit.hookspecs"}
    for name in PLUGINS: assert not loads(f"clfm_kit_{name.replace('-', '_')}.plugin") & HEAVY, name


def test_functions_import_heavy_libraries_only():
    """In `cli/` also modules that load one, as a command's options are listed without it."""
    wrong = []
    for name in modules():
        for target, inside in imports(name):
            if not inside or target.partition(".")[0] in HEAVY: continue
            if name.startswith("clfm_kit.cli.") and target in modules() and loads(target) & (HEAVY | {"numpy"}):
                continue
            wrong.append(f"{name} imports {target} in a function")
    assert not wrong, "\n".join(wrong)


def test_core_knows_no_plugin():
    packages = "|".join(package for project, package in PACKAGES.items() if package != "clfm_kit")
    named = [
        name for name, tree in core().items() for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and re.search(rf"\b({packages})\b", str(node.value))
    ]
    assert not named and not [
        target for name in core() for target, _ in imports(name) if target in modules() and target not in core()
    ]


@pytest.mark.parametrize("given, kept", [
    ({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None"),
])
def test_threads_that_wait_give_their_core_away_unless_the_environment_says_otherwise(given, kept):
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import clfm_kit, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], env=own | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept
