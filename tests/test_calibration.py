"""Calibration that can move a prior: shifts where held-out rows want them, saved, answered by, exported; and costs."""
import json

import numpy as np
import pytest

from clfm_kit import Classifier, Recipe, UserError, load_data
from clfm_kit.builtin.labels import MultiLabel, SingleLabel
from clfm_kit.classifier.contents import digest_of
from clfm_kit.evaluation.calibration import LIMITS, Calibration, calibrate
from clfm_kit.evaluation.priors import best_spread, fit_shifts, soft_targets

FAVOURED = "human_agent"


def drawn(rows: int, labels: int, seed: int = 0):
    """Honest scores and the labels drawn from them."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 1.5, (rows, labels))
    return honest, (honest + random.gumbel(size=honest.shape)).argmax(1)


@pytest.mark.parametrize("labels", [2, 6, 40])
def test_honest_scores_keep_their_prior(labels):
    schema = SingleLabel.of(tuple(range(labels)))
    found = [calibrate(*drawn(400, labels, seed), schema).shifts for seed in range(8)]
    assert sum(shifts is not None for shifts in found) <= 1


@pytest.mark.parametrize("rows, least", [(50, 0.03), (500, 0.15)])
def test_a_prior_is_moved_where_it_is_wrong(rows, least):
    schema, move = SingleLabel.of(tuple("abcd")), np.array([3.0, 0, 0, -1])
    honest, targets = drawn(rows + 4000, 4)
    scores, found = honest + move, {}
    for spreads in ((), (0.5, 2.0)):
        made = calibrate(scores[:rows], targets[:rows], schema, spreads)
        found[spreads] = schema.log_loss(made.scores(scores[rows:]), targets[rows:])
    assert found[(0.5, 2.0)] < found[()] - least


def test_few_rows_move_little_and_many_as_far_as_they_say():
    honest, targets = drawn(3000, 2)
    wanted = soft_targets(targets[:, None] == np.arange(2), True)
    far = [np.diff(fit_shifts(honest[:n] + [2, 0], wanted[:n], True, 0.5, LIMITS)[1])[0] for n in (10, 100, 3000)]
    assert 0 < far[0] < far[2] and far[2] == pytest.approx(2, abs=0.2)


def test_rows_too_few_for_folds_and_no_rows():
    schema = SingleLabel.of(("a", "b"))
    assert best_spread(*drawn(9, 2), schema, LIMITS) == 0
    assert calibrate(np.zeros((0, 2)), np.zeros(0, dtype=int), schema) == Calibration()


def test_several_labels_are_shifted_one_by_one():
    random, schema = np.random.default_rng(0), MultiLabel.of(("a", "b"))
    honest = random.normal(0, 1.5, (600, 2))
    truth = random.random(honest.shape) < 1 / (1 + np.exp(-honest))
    found = calibrate(honest + [2, 0], truth, schema)
    assert found.shifts[0] == pytest.approx(-2, abs=0.5) and found.shifts[1] == pytest.approx(0, abs=0.4)


@pytest.fixture(scope="module")
def biased(tiny):
    """A probe whose head favours a label, calibrated again on the rows of its fit."""
    clf = Classifier("probe", tiny, cache=None).fit("helpdesk")
    task, rows = clf.task(), load_data("helpdesk").train
    task.head.bias_ = task.head.bias_ + 4 * (np.array(task.schema.labels) == FAVOURED).astype(np.float32)
    logits = task.logits(clf.encoder_.features(rows.texts, task.columns))
    task.calibration = calibrate(logits, task.schema.targets(rows.labels), task.schema)
    return clf


TEXTS = ["where is my parcel", "", "a bill with VAT please", "let me talk to somebody"]


def test_shifts_are_saved_and_answer(biased, tmp_path):
    assert min(biased.task().calibration.shifts) < -1
    found = biased.predict_proba(TEXTS)
    again = Classifier.from_pretrained(biased.save_pretrained(tmp_path / "model"))
    assert np.array_equal(again.predict_proba(TEXTS), found)
    scores = biased.decision_function(TEXTS)
    assert scores.dtype == np.float32 and (scores.argmax(1) == found.argmax(1)).all()
    assert list(biased.predict(TEXTS)) == [biased.classes_[column] for column in found.argmax(1)]


@pytest.mark.parametrize("shifts, said", [
    ([1.0], "shifts has 1 entries"), (["much"], "is 'much'; a number from -50 to 50 expected"),
    ([1e9], "a number from -50 to 50 expected"), (3, "a list expected"),
])
def test_shifts_that_no_fit_writes_are_refused(shifts, said, biased, tmp_path):
    path = biased.save_pretrained(tmp_path / "model") / "clfm.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["tasks"]["label"]["calibration"]["shifts"] = shifts
    facts["sha256"] = digest_of(facts)
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(UserError, match=said): Classifier.from_pretrained(tmp_path / "model")


def test_an_export_shifts_too(biased, tmp_path):
    onnx, export = pytest.importorskip("onnxruntime"), pytest.importorskip("clfm_kit.classifier.export").export
    export(biased, tmp_path / "onnx", "onnx", TEXTS, None)  # which holds its answers against the model's
    assert (tmp_path / "onnx").is_dir() and onnx


def test_weights_of_classes_keep_their_prior(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr("clfm_kit.classifier.task.calibrate", lambda *given: seen.append(given[3]) or Calibration())
    for settings in ([], ["class_weight=balanced"]): Classifier("probe", tiny, settings, cache=None).fit("helpdesk")
    assert [bool(spreads) for spreads in seen] == [True, False]


def test_costs_decide(tiny, tmp_path):
    labels = sorted(set(load_data("helpdesk").train.labels))
    costs = {FAVOURED: {label: 50 for label in labels if label != FAVOURED}}
    recipe = Recipe.of("probe").with_params([f"task={json.dumps(dict(name='single', costs=costs))}"])
    plain, careful = (Classifier(each, tiny, cache=None).fit("helpdesk") for each in ("probe", recipe))
    texts = load_data("helpdesk").test.texts[:60]
    assert np.allclose(plain.predict_proba(texts), careful.predict_proba(texts))
    count = lambda clf: int((clf.predict(texts) == FAVOURED).sum())
    assert count(careful) > count(plain)
    again = Classifier.from_pretrained(careful.save_pretrained(tmp_path / "model"))
    assert list(again.predict(texts)) == list(careful.predict(texts))
    with pytest.raises(UserError, match="unknown label in costs 'nobody'"):
        recipe = Recipe.of("probe").with_params(["task={name: single, costs: {nobody: {x: 2}}}"])
        Classifier(recipe, tiny).fit("helpdesk")
    with pytest.raises(UserError, match="task.costs is .*; a mapping or null expected"):
        Classifier(Recipe.of("probe").with_params(["task={name: single, costs: [1]}"]), tiny).fit("helpdesk")
