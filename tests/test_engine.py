"""ONNX Runtime reads in the place of PyTorch: the same answers, or a refusal in a sentence before any is given."""
import json

import numpy as np
import pytest
from architectures import ASKED, LABELS, TEXTS, save_base, tokenizer
from clfm_kit_serve.replies import Model
from command import clfm

from clfm_kit import Classifier, UserError
from clfm_kit.classifier import engine
from clfm_kit.classifier.engine import OnnxEncoder, with_engine
from clfm_kit.classifier.scoring import fingerprint
from clfm_kit.settings import ENGINES

TEXTS, LABELS = list(TEXTS), list(LABELS)
RECIPE = dict(
    name="read", head=dict(name="logistic", C=1.0),
    format=dict(name="windows", size=9, overlap=2, combine="max"), pooler="max",
)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    clf = Classifier(RECIPE, tiny, cache=None, reject=0.5).fit(TEXTS, LABELS)
    return clf.save_pretrained(tmp_path_factory.mktemp("engine") / "model")


@pytest.fixture(scope="module")
def read(saved): return with_engine(Classifier.from_pretrained(saved), "onnx", TEXTS)


def test_windows_heads_and_reject_options_answer_the_same(read, saved):
    clf = Classifier.from_pretrained(saved)
    assert type(read.encoder_) is OnnxEncoder and type(clf.encoder_) is not OnnxEncoder
    many = [*ASKED, *TEXTS, " ".join(TEXTS)]
    np.testing.assert_allclose(read.predict_proba(many), clf.predict_proba(many), atol=1e-3)
    np.testing.assert_allclose(read.confidence(many), clf.confidence(many), atol=1e-3)
    passes = read.encoder_.backbone.passes
    assert len(read.predict(many)) == len(many) and read.encoder_.backbone.passes == passes  # PyTorch reads nothing
    assert fingerprint(read) != fingerprint(clf)  # so that a file of answers is not half of each


def test_a_server_answers_by_it(read):
    assert [answer["label"] for answer in Model("m", read).answer(TEXTS)] == read.predict(TEXTS).tolist()


def test_a_model_that_answers_otherwise_keeps_its_engine(saved, monkeypatch):
    clf = Classifier.from_pretrained(saved)
    whole = OnnxEncoder._read
    def off(self, batch, columns, vectors):
        whole(self, batch, columns, vectors)
        for values in vectors.values(): values[-1] = values[-1].flip(1)
    monkeypatch.setattr(OnnxEncoder, "_read", off)
    before = clf.encoder_
    with pytest.raises(UserError, match="answers otherwise than 'torch'.*use engine 'torch'"):
        with_engine(clf, "onnx", TEXTS)
    assert clf.encoder_ is before


def test_of_the_quick_ways_to_round_the_first_that_keeps_the_answers_is_taken(saved, monkeypatch):
    clf = Classifier.from_pretrained(saved)
    before, off = clf.encoder_, lambda ours, theirs: (0.5, 0.5)
    monkeypatch.setattr(engine, "apart_from", off)
    with pytest.raises(UserError, match="'onnx-int8' answers otherwise.*50.0% get another label.*use engine 'onnx'"):
        with_engine(clf, "onnx-int8", TEXTS)
    assert clf.encoder_ is before
    found = iter([(float("nan"), 0.0), (0.1, 0.01)])
    monkeypatch.setattr(engine, "apart_from", lambda ours, theirs: next(found))
    assert with_engine(clf, "onnx-int8", TEXTS).encoder_.engine == "onnx-int8" and next(found, None) is None
    assert len(clf.predict(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("base, recipe, given, said", [
    (
        "bert", dict(format="pair", head=dict(name="logistic", C=1.0)), dict(settings=["task=pair"]),
        "segments of two texts",
    ),
    ("bert", dict(pooler="keywords"), {}, "it reads no states"),
    ("bert", dict(), dict(tasks=dict(parts=dict(label="slots", kind="tags"))), "answers with words"),
    ("convbert", dict(head=dict(name="logistic", C=1.0)), {}, "cannot read texts of any lengths together"),
    ("llama", dict(format="instruction", pooler="answers", head="verbalizer"), {}, "reads in a way of its own"),
])
def test_what_it_cannot_read_is_refused(base, recipe, given, said, tmp_path):
    clf = Classifier(dict(name="other") | recipe, save_base(base, tmp_path / "base", tokenizer()), cache=None, **given)
    if recipe.get("format") == "pair":
        clf.fit([dict(first=t, second=t, label=label) for t, label in zip(TEXTS, LABELS)])
    elif "tasks" in given:
        clf.fit([dict(text=t, tokens=t.split(), slots=["B-it", *["O"] * t.count(" ")]) for t in TEXTS])
    else: clf.fit(TEXTS, LABELS)
    with pytest.raises(UserError, match=f"{said}.*use engine 'torch'"): with_engine(clf, "onnx")


def test_the_command_takes_it(saved):
    answered = lambda name: json.loads(clfm("predict", saved, *TEXTS[:3], "--json", "--engine", name).stdout)
    torch, onnx = map(answered, ENGINES[:2])
    assert [each["label"] for each in torch] == [each["label"] for each in onnx] and torch[0]["text"] == TEXTS[0]
    for command in (["predict", saved, "a text"], ["serve", saved]):
        done = clfm(*command, "--engine", "onx")
        assert done.returncode == 2 and "did you mean 'onnx'?" in done.stderr and len(done.stderr.splitlines()) == 1
