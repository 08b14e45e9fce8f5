"""SIGKILL at many points of a fit and a save: the next run ends as an undisturbed one, and leaves nothing behind.

A point is the nth time that the process opens a file to write, renames, makes or removes one. CLFM_KIT_KILLS says how
many points are tried, spread over the whole run; a few without.
"""
import os
import signal
import sys
from pathlib import Path

import pytest
from command import Forked
from safetensors.torch import load_file

from clfm_kit import Classifier, load_data

POINTS = int(os.environ.get("CLFM_KIT_KILLS", 2))
SETTINGS = "training.epochs=2", "training.batch_size=16", "training.head_start=random", "training.save_steps=2"
CHANGES = "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"


def changes(event, arguments, home) -> bool:
    "Whether an event is a change of a file below a folder."
    if event == "open":
        return isinstance(arguments[0], str) and arguments[0].startswith(home) and "r" != (arguments[1] or "r")
    return event in CHANGES and str(arguments[0]).startswith(home)


def run(home: Path, tiny: str, last: int | None = None) -> tuple:
    "Fit and save below `home` in a process of its own, killed at change number `last`: (exit code, number of changes)."
    def fit():
        count = 0
        def watch(event, arguments):
            nonlocal count
            if not changes(event, arguments, str(home)): return
            count += 1
            if count == last: os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        data = load_data("helpdesk")
        texts, labels, validation = data.train.texts[:64], data.train.labels[:64], data.validation.take(range(16))
        clf = Classifier("finetune", tiny, [*SETTINGS], cache=home / "cache")
        clf.fit(texts, labels, validation, checkpoints=home / "checkpoints")
        clf.evaluate(validation)
        clf.save_pretrained(home / "model")
        print(count)
    done = Forked(fit).wait()
    return done.returncode, int(done.stdout.split()[-1]) if done.stdout.strip() else 0


def learned(home: Path) -> dict:
    return {name: load_file(home / "model" / f"{name}.safetensors") for name in ("head", "delta")}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    "What a run that nothing disturbed has learned, and the number of its changes."
    home = tmp_path_factory.mktemp("whole")
    code, count = run(home, tiny)
    assert code == 0 and count > 30
    return learned(home), count


@pytest.mark.parametrize("part", range(POINTS))
def test_a_run_after_a_kill_ends_the_same_and_leaves_nothing(part, whole, tiny, tmp_path):
    expected, count = whole
    last = 1 + part * (count - 1) // max(POINTS - 1, 1)
    assert run(tmp_path, tiny, last)[0] == -signal.SIGKILL
    assert run(tmp_path, tiny)[0] == 0
    found = learned(tmp_path)
    for name, tensors in expected.items():
        assert found[name].keys() == tensors.keys()
        for key, tensor in tensors.items(): assert found[name][key].equal(tensor), f"{name} {key}"
    hidden = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob(".*")]
    assert not hidden, f"killed at change {last} of {count}: {hidden}"
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "checkpoints", "model"}
