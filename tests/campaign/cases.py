"""What a case is, what it may use, and what became of it."""
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from command import Forked, _clfm
from tiny import save_tiny

from clfm_kit import Classifier, UserError
from clfm_kit.errors import HIDDEN

LIMIT = 20.0  # seconds on the clock that a case may take; it needs a fraction of one
TEXTS = ["the phone is good", "the battery is awful", "bring item 7 to town", "x", "日本語 🦜"]
GROUPS: dict = {}  # {name of a group: function that yields its cases}


class Hang(BaseException):
    "A case took too long. No `Exception`, so that nothing takes it for a fault of its own."


@dataclass
class Case:
    """One thing that is wrong. `run(world, place)` does it, in a folder of its own, and asserts what must be right.

    `expect` is "refused" (a `UserError`), "right" (`run` ends), or "sound" (either of them).
    """
    group: str
    name: str
    run: Callable
    expect: str = "refused"
    part: str = ""  # that the sentence must hold

    @property
    def title(self): return f"{self.group}: {self.name}"


def group(function):
    "Note a function that yields (name, run, expect) of a group's cases; its name is the group's."
    GROUPS[function.__name__.replace("_", " ")] = function
    return function


def cases() -> list:
    "All cases, group by group. Raises `AssertionError` where two have one name."
    found = [Case(name, *given) for name, function in GROUPS.items() for given in function()]
    titles = [case.title for case in found]
    assert len({*titles}) == len(titles), [title for title in titles if titles.count(title) > 1]
    return found


# ---- running

@contextmanager
def limited(seconds: float):
    "Raise `Hang` once this has taken so many seconds."
    def late(*_): raise Hang
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(case: Case, world, place: Path) -> tuple:  # (what became of it, why)
    """What became of a case: "refused", "right", or what must not be: "traceback", "hang", "silent" (a wrong answer,
    or none of the refusal that was due) and "sentence" (a refusal that is no sentence).
    """
    try:
        with limited(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.run(world, place)
    except UserError as error:
        said = str(error)
        if "\n" in said or HIDDEN.search(said) or not 10 < len(said) <= 2001 or case.part not in said:
            return "sentence", said[:500]
        return ("refused", said) if case.expect != "right" else ("silent", f"refused: {said}")
    except Hang: return "hang", f"more than {LIMIT} seconds"
    except AssertionError as error: return "silent", "".join(traceback.format_exception(error))[-1500:]
    except BaseException as error: return "traceback", "".join(traceback.format_exception(error))[-2500:]
    return ("right", "") if case.expect != "refused" else ("silent", "accepted without a word")


def run_case(case: Case, world, place: Path) -> dict:
    "What became of a case, and what it took: group, name, outcome, why, seconds of this processor and its forks."
    place.mkdir()
    before, here = os.times(), os.getcwd()
    started = time.perf_counter()
    os.chdir(place)
    try: found, why = outcome(case, world, place)
    finally: os.chdir(here)
    spent = sum(now - then for now, then in zip(os.times()[:4], before[:4]))
    return dict(
        group=case.group, name=case.name, outcome=found, why=why, seconds=round(spent, 3),
        wall=round(time.perf_counter() - started, 3),
    )


FAILED = ("traceback", "hang", "silent", "sentence")


# ---- commands

def command(*words, env=None, seconds: int = int(LIMIT)):
    """What `clfm WORDS` does, in a process forked from this one, for a case that expects a refusal or an answer.

    Raises `UserError` with the sentence where the command ended with code 2 and said one, `AssertionError` where it
    ended otherwise than it should.
    """
    words = ["clfm", *map(str, words)]
    def run():
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        _clfm(words)
    done = Forked(run, None, os.environ | {"HF_HUB_OFFLINE": "1"} | (env or {})).wait(words)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert not HIDDEN.search(done.stdout + done.stderr), repr(done.stdout + done.stderr)[:2000]
    if done.returncode == 2:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("clfm: ") and done.stdout == "", done
        raise UserError(last.removeprefix("clfm: "))
    assert done.returncode == 0, done
    return done


# ---- what cases use

WORDS = {"good": "good great lovely fine superb".split(), "bad": "bad awful broken poor dreadful".split()}
ROWS = [
    (f"the {thing} is {word}", label) for thing in "phone camera router screen battery manual".split()
    for label, words in WORDS.items() for word in words
]
TRAINED = dict(
    name="trained", pooler="attention", selector="top-layers", head="linear",
    training=dict(epochs=1, head_start="random")
)


class World:
    "A base, models fitted on it, and their answers; made when they are first used, changed by no case."

    def __init__(self, home: Path): self.home = home

    @cached_property
    def tiny(self): return Path(save_tiny(self.home / "tiny"))

    @cached_property
    def rows(self): return tuple(map(list, zip(*ROWS)))

    @cached_property
    def probe(self): return self._saved("probe", Classifier("probe", str(self.tiny), cache=None).fit(*self.rows))

    @cached_property
    def named(self):
        frame = pd.DataFrame([
            dict(text=f"bring item {i} to town", intent="ab"[i % 2], topics=[["x"], ["y", "z"], ["x", "z"]][i % 3],
                rank=i % 4)
            for i in range(48)
        ])
        tasks = dict(intent=dict(label="intent", reject="energy"), topics="topics",
            rank=dict(label="rank", kind="ordinal"))
        return self._saved("named", Classifier("probe", str(self.tiny), cache=None, tasks=tasks).fit(frame))

    @cached_property
    def trained(self): return self._saved("trained", Classifier(TRAINED, str(self.tiny), cache=None).fit(*self.rows))

    def _saved(self, name, clf): return clf.save_pretrained(self.home / name)

    def folder(self, name): return getattr(self, name)

    def model(self, name="probe"):
        "A fitted classifier that cases only read."
        if name not in self._models: self._models[name] = Classifier.from_pretrained(self.folder(name))
        return self._models[name]

    @cached_property
    def _models(self): return {}

    def answers(self, name):
        "{task: logits} of `TEXTS` by a saved model that nobody harmed."
        if name not in self._answers: self._answers[name] = ask(self.model(name))
        return self._answers[name]

    @cached_property
    def _answers(self): return {}


def ask(clf) -> dict:
    "{task: logits} of `TEXTS`; every other way of asking is tried too."
    found = clf.decision_function(TEXTS)
    clf.predict(TEXTS), clf.explain(TEXTS[0]), [str(report) for report in clf.reports_.values()]
    return found if isinstance(found, dict) else {"label": found}


def same(found: dict, expected: dict):
    "Raise `AssertionError` where logits differ."
    assert found.keys() == expected.keys()
    for name in expected: np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def sound(clf):
    "Raise `AssertionError` where a classifier gives no answers, or none that are probabilities."
    chances = clf.predict_proba(TEXTS)
    for found in chances.values() if isinstance(chances, dict) else [chances]:
        assert np.isfinite(found).all() and len(found) == len(TEXTS)
        assert ((found >= 0) & (found <= 1 + 1e-6)).all()
