"""The checks, one function each; a docstring says what holds when it passes, and it raises `Failed` where it does not.

Nothing in the checkout changes, apart from ignored folders.
"""
import difflib
import json
import os
import re
import shutil
import sys
from collections import Counter
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import words
from afresh import program
from jobs import processor_seconds
from tree import BIN, PACKAGES, PROJECTS, ROOT, Failed, copy_tree, run

# mypy reads our modules, and not those of torch and transformers that they import, which take it forty seconds
OURS = "[mypy]\nstrict = True\nfollow_imports = skip\n[mypy-clfm_kit.*]\nfollow_imports = silent\n"
USER_SCRIPT = ROOT / "examples" / "user_script.py"


def differences(before, after):
    "Readable differences between two mappings of name to text."
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None: yield f"{name} is missing"
        elif new is None: yield f"{name} comes from no notebook"
        elif old != new:
            lines = difflib.unified_diff(
                old.splitlines(), new.splitlines(), name, f"{name} as it should be", lineterm=""
            )
            yield "\n".join([*lines][:40])


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
    "names exist, every import and variable is used, none shadows a built-in; prose is spelled right"
    rules = "--select", "F,A001,A002", "--ignore", "F402,F403,F405"
    # notebooks: their code is in the modules
    run(BIN / "ruff", "check", "--quiet", "--isolated", "--no-cache", *rules, "--extend-exclude", "*.ipynb", ROOT)
    words.check()


def type_checked(python):
    """Raise `Failed` when pyright or mypy, both strict, find something in a user's script,
    with the kit that this Python has.
    """
    with TemporaryDirectory() as folder:
        script = shutil.copy(USER_SCRIPT, folder)
        settings = dict(include=[Path(script).name], typeCheckingMode="strict", reportMissingTypeStubs=False)
        Path(folder, "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
        run(BIN / "pyright", "--pythonpath", python, "--project", folder, cwd=folder)
        Path(folder, "mypy.ini").write_text(OURS, encoding="utf-8")
        run(BIN / "mypy", "--python-executable", python, "--cache-dir", Path(folder, "cache"), script, cwd=folder)


def types():
    "a user's script passes strict type checkers, with the kit as it is installed here"
    type_checked(sys.executable)


def docs():
    "the site builds without a warning, and no page loads anything from elsewhere"
    sys.path.insert(0, str(ROOT / "docs"))
    import make
    if make.main(ROOT / "docs" / "_build" / "html", processes="1"): raise Failed  # a second worker has other jobs


def notebook(path, project, save=False):
    "a notebook runs from top to bottom, and says what its stored outputs say; `save` stores those that it gives"
    from fastcore.nbio import write_nb
    from nbdev.test import test_nb
    os.chdir(project)
    ran = []
    with (
        patch("nbdev.test.write_nb", lambda notebook, target: ran.append(notebook)),
        # what it starts begins afresh, with the libraries loaded
        patch.object(sys, "executable", program()), patch.dict(os.environ, CLFM_KIT_PYTHON=program()),
    ):
        passed, _ = test_nb(path, skip_flags=["slow", "gpu"], basepath=project, save=True)
    if not passed: raise Failed
    if save: return write_nb(ran[0], path)
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = [line for before, after in zip(stored, ran[0].cells) for line in stale(before, after)]
    if found: raise Failed("\n".join([f"{path.name}: stored outputs are not those of this run; --save", *found]))


def said(cell):
    """The words that a cell prints or shows, and how often: numbers, places and addresses differ from machine to
    machine, and what is said of them does not.
    """
    outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    shown = ["".join(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in outputs]
    plain = re.sub(r"(?: at)? 0x\w+|\S*/\S*|\btmp\w+", "", "\n".join(shown))
    return Counter(re.findall(r"[^\W\d_]+|…", plain))


def stale(before, after):
    "What a code cell said, where a quarter of it or an answer of yes and no is not what it says now."
    if before["cell_type"] != "code" or not before["outputs"]: return
    old, new = said(before), said(after)
    gone = old - new
    if 4 * gone.total() > old.total() or {"True", "False"} & (gone.keys() | (new - old).keys()):
        yield f"cell {before['id']} said {' '.join(gone)[:200]!r}, and says {' '.join(new - old)[:200]!r}"


class Recorder:
    "A plugin of pytest that keeps seconds and outcome of each test."

    def __init__(self): self.rows = {}

    def pytest_runtest_logstart(self, nodeid): self.before = processor_seconds()

    def pytest_runtest_logreport(self, report):
        row = self.rows.setdefault(report.nodeid, dict(name=report.nodeid, seconds=0.0, outcome="passed"))
        row["seconds"] += report.duration
        if report.outcome != "passed": row["outcome"] = report.outcome
        if report.skipped: row["reason"] = str(report.longrepr[-1])

    def pytest_runtest_logfinish(self, nodeid):
        self.rows[nodeid]["processor_seconds"] = processor_seconds() - self.before


def tests(*words):
    "tests pass; `words` are what pytest is given: a file, names of tests, options"
    import pytest
    recorder = Recorder()
    with chdir(ROOT): code = pytest.main(["-q", "-p", "no:cacheprovider", *words], plugins=[recorder])
    if code: raise Failed
    return list(recorder.rows.values())
