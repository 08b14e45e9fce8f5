"""Ctrl-C and SIGTERM: what was kept is said, the exit code tells which it was, and the same call goes on."""
import errno
import json
import os
import pty
import select
import signal

import numpy as np
import pytest

from clfm_kit import Classifier, load_data
from clfm_kit.errors import Stopped
from clfm_kit.plugins import using
from command import Forked, _clfm, _run

SETTINGS = ["training.epochs=2", "training.batch_size=16", "training.head_start=random", "training.save_steps=1000"]
FIT = "fit", "--recipe", "finetune", *(word for setting in SETTINGS for word in ("--set", setting))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "A folder of a few rows: 4 steps of 16 make an epoch."
    found, folder = load_data("helpdesk"), tmp_path_factory.mktemp("small")
    for name, rows in (("train", 64), ("validation", 16), ("test", 16)):
        part = getattr(found, name)
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for text, label in zip(part.texts[:rows], part.labels):
                print(json.dumps(dict(text=text, label=label)), file=file)
    return folder


def stops_at(kind, number, step=1, times=1):
    "A hook that sends this process a signal at a step of a run, so many times."
    def run_event(event):
        if event["kind"] == kind and event.get("done", step) == step:
            for _ in range(times): os.kill(os.getpid(), number)
    return using("stops", run_event=run_event)


def stopped(words, *where):
    "What a command does that a signal meets."
    def run():
        with stops_at(*where): _clfm(["clfm", *map(str, words)])
    return Forked(run).wait(words)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_training_nothing_is_written(number, code, tiny, small, tmp_path):
    done = stopped([*FIT, "--data", small, "--model", tiny, "--out", tmp_path / "out"], "load", number)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1] == "clfm: stopped; nothing was half-written"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_training_a_last_checkpoint_is_written(number, code, tiny, small, tmp_path):
    words = [*FIT, "--data", small, "--model", tiny, "--out", tmp_path / "out", "--checkpoints", tmp_path / "kept"]
    done = stopped(words, "train", number, 5)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert "the weights of step 5 of" in done.stderr.splitlines()[-1], done.stderr
    assert (tmp_path / "kept" / "checkpoint-5" / "complete").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_acts_at_once(number, code, tiny, small, tmp_path):
    words = [*FIT, "--data", small, "--model", tiny, "--out", tmp_path / "out", "--checkpoints", tmp_path / "kept"]
    done = stopped(words, "train", number, 2, 2)
    assert done.returncode == code and done.stderr.splitlines()[-1].startswith("clfm: stopped; "), done.stderr
    assert not list((tmp_path / "kept").glob("checkpoint-*")) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_training_the_model_is_there(number, code, tiny, small, tmp_path):
    words = "fit", "--recipe", "probe", "--data", small, "--model", tiny, "--out", tmp_path / "out"
    def run():
        from clfm_kit.cli import fit_commands
        fit_commands._measured = lambda *given: os.kill(os.getpid(), number)
        _clfm(["clfm", *map(str, words)])
    done = Forked(run).wait(words)
    assert done.returncode == code
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"clfm: stopped; the model is fitted and saved in {tmp_path / 'out'}")
    assert len(Classifier.from_pretrained(tmp_path / "out").predict(load_data(small).test.texts)) == 16


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(tiny, small, tmp_path):
    fit = lambda **more: Classifier("finetune", tiny, SETTINGS, cache=None).fit(small, **more)
    with stops_at("train", signal.SIGINT, 7), pytest.raises(Stopped, match="step 7 of"): fit(checkpoints=tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    went_on, whole = (clf.decision_function(load_data(small).test.texts) for clf in (fit(checkpoints=tmp_path), fit()))
    np.testing.assert_array_equal(went_on, whole)


def heard(terminal, wanted=None) -> bytes:
    "What a terminal shows until there is what is `wanted`, or its process has ended."
    said = b""
    try:
        while (wanted is None or wanted not in said) and select.select([terminal], [], [], 120)[0]:
            said += os.read(terminal, 1000)
    except OSError as gone: assert gone.errno == errno.EIO  # how Linux says that the process has ended
    return said


def test_ctrl_c_in_a_terminal(tiny, small, tmp_path):
    "The key itself, typed into a terminal whose foreground process trains."
    words = (
        "clfm", *FIT, "--data", small, "--model", tiny, "--out", tmp_path / "out", "--checkpoints", tmp_path / "kept"
    )
    told = lambda event: print("step", event["done"], flush=True) if event["kind"] == "train" else None
    def run():
        with using("told", run_event=told): _clfm([str(word) for word in words])
    child, terminal = pty.fork()
    if not child: _run(run, None, None, 1, 2)
    said = heard(terminal, b"step 3")
    os.write(terminal, b"\x03")
    said += heard(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130, said
    assert "the same call goes on from there" in " ".join(said.decode().split()), said
