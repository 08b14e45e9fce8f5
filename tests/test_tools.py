"""The tools that check: what an interrupted, crashed or failed job leaves and says, and what a change touches."""
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import afresh
import asks
import psutil
import pytest
import words
import yaml
from imports import distances
from jobs import LIBRARIES
from tree import ROOT, VARIABLES

SCRIPT = """
import json, os, subprocess, sys, tempfile, time
sys.path.insert(0, {tools!r})
import jobs
from tree import Failed
jobs.LIBRARIES = []

def passes(): return [dict(name="one", seconds=1.0)]
def fails(): raise Failed("row 7 has no label")
def fails_in_print():
    print("said before")
    raise Failed
def crashes(): os._exit(7)
def hangs(place):
    child = subprocess.Popen(["sleep", "600"])
    with open(place, "w") as file:
        json.dump(dict(process=os.getpid(), child=child.pid, folder=tempfile.mkdtemp()), file)
    time.sleep(600)

if __name__ == "__main__":
    found = [jobs.Job("step", name, globals()[name], tuple(sys.argv[2:])) for name in sys.argv[1].split()]
    with jobs.nothing_left_behind():
        for outcome in jobs.run_jobs(found):
            print(json.dumps([outcome.name, outcome.passed, outcome.said, outcome.rows]))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tools=str(ROOT / "tools")))
    return path


def test_a_job_passes_fails_or_crashes_and_the_others_go_on(script):
    done = subprocess.run(
        [sys.executable, script, "passes fails fails_in_print crashes"], capture_output=True, text=True, check=True
    )
    found = {name: more for name, *more in map(json.loads, done.stdout.splitlines())}
    assert found["passes"] == [True, "", [dict(name="one", seconds=1.0)]]
    assert found["fails"][:2] == [False, "row 7 has no label"]
    assert not found["fails_in_print"][0] and "said before" in found["fails_in_print"][1]
    assert not found["crashes"][0] and "exit code 7" in found["crashes"][1]


def test_jobs_begin_with_slow_libraries_and_ask_no_network():
    # what cannot be imported is passed over without a word
    assert all(importlib.util.find_spec(name) for name in LIBRARIES)
    # without a network, a model that is not there takes half a minute otherwise
    asked = "from huggingface_hub.constants import HF_HUB_OFFLINE; print(HF_HUB_OFFLINE)"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | VARIABLES
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_check_leaves_no_process_and_no_folder(number, script, tmp_path):
    place = tmp_path / "started.json"
    process = subprocess.Popen([sys.executable, script, "hangs", place], stderr=subprocess.PIPE)
    while not place.is_file() or not place.read_text(): time.sleep(0.05)
    started = json.loads(place.read_text())
    assert psutil.pid_exists(started["child"]) and Path(started["folder"]).is_dir()
    os.kill(process.pid, number)
    process.communicate()
    assert process.returncode
    for who in ("process", "child"): assert not psutil.pid_exists(started[who])
    assert not Path(started["folder"]).exists() and not Path(started["folder"]).parent.exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "The socket of a fork server that has loaded one small library."
    place = tmp_path_factory.mktemp("server") / "afresh"
    with afresh.server(place, sys.executable, ["colorsys"]): yield place


def test_a_forked_process_has_words_variables_and_an_end_of_its_own(place, tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.environ['WORD'], 'colorsys' in sys.modules); sys.exit('why')"
    done = afresh.python("-c", code, "one", env={"WORD": "two"}, place=place)
    assert (done.returncode, done.stdout, done.stderr) == (1, "['one'] two True\n", "why\n")
    done = afresh.python("-c", "import os; os.abort()", place=place)
    assert done.returncode == -signal.SIGABRT
    (tmp_path / "found.py").write_text("import sys; print(__name__, sys.path[0], sys.stdin.read())")
    variables = {**os.environ, asks.PLACE: str(place), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, asks.__file__, "-u", "-m", "found"]
    done = subprocess.run(command, env=variables, input="asked", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "__main__  asked\n", "")


def test_a_forked_process_ends_with_the_one_that_asked_for_it(place):
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"
    variables = {**os.environ, asks.PLACE: str(place)}
    command = [sys.executable, asks.__file__, "-c", code]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE) as process:
        forked = psutil.Process(int(process.stdout.readline()))
        process.kill()
    forked.wait(60)


def test_what_a_change_touches_comes_nearest_first():
    module = ROOT / "clfm_kit" / "evaluation" / "metrics.py"
    far = {path.relative_to(ROOT).as_posix(): found for path, found in distances({module}).items()}
    assert far["nbs/04_evaluation/00_metrics.ipynb"] <= 1 < far["tests/test_training.py"]
    assert "nbs/02_display/00_html.ipynb" not in far
    assert distances({ROOT / "tests" / "test_data.py"}) == {ROOT / "tests" / "test_data.py": 0}


def test_every_fault_can_be_put_in():
    faults = yaml.safe_load((ROOT / "tools" / "faults.yaml").read_text(encoding="utf-8"))
    assert len({fault["guarantee"] for fault in faults}) == len(faults) >= 60
    for fault in faults:
        text = (ROOT / fault["file"]).read_text(encoding="utf-8")
        assert text.count(fault["before"]) == 1, fault["guarantee"]
        assert fault["before"] != fault["after"]
        assert (ROOT / fault["check"].partition("::")[0]).is_file(), fault["check"]


def test_a_misspelling_and_an_odd_phrase_are_told_with_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("# Title\n\n```sh\nteh\n```\nA `teh` [link](teh.md), and teh end; the mass.\n")
    (tmp_path / "module.py").write_text(
        '"""Fine."""\ndef ask():\n    raise ValueError("we recieve nothing")\nteh = 1\n'
    )
    cell = dict(cell_type="markdown", id="a1", source=["Fine.\n", "It stands in for `mass`; massive."])
    code = dict(cell_type="code", id="b2", source=["teh = mass"])
    (tmp_path / "page.ipynb").write_text(json.dumps(dict(cells=[cell, code])))
    lines = [line for name in ("page.md", "module.py", "page.ipynb") for line in words.passages(tmp_path / name)]
    assert list(words.misspelled(lines)) == [
        "page.md, line 6: teh ==> the", "module.py, line 3: recieve ==> receive"
    ]
    assert list(words.unwanted(lines)) == [
        "page.md, line 6: mass ==> total weight", "page.ipynb, cell a1, line 2: stands in for ==> replaces"
    ]


def test_words_are_looked_for_in_all_prose():
    found = {path.relative_to(ROOT).as_posix() for path in words.files(words.PROSE)}
    assert found >= {"README.md", "CHANGELOG.md", "docs/hooks.md", "plugins/stc/README.md", "tools/words.py"}
    assert {path.parts[-2] for path in words.files(words.PAGES) if path.suffix == ".ipynb"} == {"tutorials"}
    assert any("docstrings" in line for _, line in words.passages(ROOT / "tools" / "words.py"))
