"""Thresholds for the figure that the user names: each rule against brute force, what cannot be learned, and the way
through recipe, command line, saved model and card."""
import itertools
import json
import warnings

import numpy as np
import pytest
from clfm_kit import Classifier, UserError
from clfm_kit.builtin.labels import MultiLabel
from clfm_kit.cli.main import main
from clfm_kit.evaluation.calibration import calibrate
from clfm_kit.evaluation.thresholds import (
    ASKED, TARGETS, MacroF1, MicroF1, PrecisionAtLeast, least_share, read_target, tune_thresholds,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

NAMES = (*TARGETS, "precision>=0.8", "miss-cost=3")
FIGURES = {
    "micro-f1": lambda decisions, truth: f1_score(truth, decisions, average="micro", zero_division=0),
    "exact-match": lambda decisions, truth: (decisions == truth).all(axis=1).mean(),
}


def drawn(seed, rows=12, labels=3):
    """Probabilities that know a little of the labels, some of them alike."""
    random = np.random.default_rng(seed)
    truth = random.random((rows, labels)) < 0.4
    truth[0, 0] = True
    return np.round(np.clip(0.5 * random.random(truth.shape) + 0.35 * truth + 0.05, 0.01, 0.99), 2), truth


def places(values):
    """One cut between any two neighbours, one below and one above all."""
    known = np.unique(values)
    return np.concatenate([[known[0] / 2], (known[1:] + known[:-1]) / 2, [(known[-1] + 1) / 2]])


def quietly(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tune_thresholds(*args)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("seed", range(4))
def test_the_shared_cut_is_the_best_one(name, seed):
    probabilities, truth = drawn(seed)
    target, judge = read_target(name), FIGURES[name]
    best = max(judge(probabilities >= cut, truth) for cut in places(probabilities))
    assert judge(probabilities >= target.shared(probabilities, truth), truth) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_own_cuts_have_the_highest_micro_f1_of_all(seed):
    probabilities, truth = drawn(seed)
    target, judge = MicroF1(), FIGURES["micro-f1"]
    all_cuts = itertools.product(*(places(probabilities[:, label]) for label in range(3)))
    best = max(target.score(probabilities >= cuts, truth) for cuts in all_cuts)
    own = target.own(probabilities, truth, target.shared(probabilities, truth))
    assert judge(probabilities >= own, truth) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_own_cuts_have_the_highest_f1_of_each_label(seed):
    probabilities, truth = drawn(seed)
    own = MacroF1().own(probabilities, truth, 0.5)
    for label, cut in enumerate(own):
        judge = lambda cut, label=label: f1_score(truth[:, label], probabilities[:, label] >= cut, zero_division=0)
        assert judge(cut) == pytest.approx(max(map(judge, places(probabilities[:, label]))))


@pytest.mark.parametrize("seed", range(4))
def test_no_label_alone_can_raise_exact_match(seed):
    probabilities, truth = drawn(seed)
    target = read_target("exact-match")
    shared = target.shared(probabilities, truth)
    own = target.own(probabilities, truth, shared)
    reached = target.score(probabilities >= own, truth)
    assert reached >= target.score(probabilities >= shared, truth)
    for label in range(3):
        for cut in places(probabilities[:, label]):
            moved = np.where(np.arange(3) == label, cut, own)
            assert target.score(probabilities >= moved, truth) <= reached


@pytest.mark.parametrize("least", [0.5, 0.7])
def test_precision_gives_as_many_labels_as_it_can(least):
    probabilities, truth = drawn(0, rows=60)
    cut = PrecisionAtLeast(least).shared(probabilities, truth)
    sure = lambda cut: least_share(((probabilities >= cut) & truth).sum(), (probabilities >= cut).sum())
    assert sure(cut) >= least
    assert not any(sure(lower) >= least for lower in places(probabilities) if lower < cut - 0.01)


def test_precision_out_of_reach_is_said():
    probabilities, truth = drawn(0)
    with pytest.warns(
        UserWarning, match=r"no threshold is sure to reach precision>=0.99: .* of \d+ labels given to 12 valid"
    ):
        found = tune_thresholds(probabilities, truth, "precision>=0.99")
    assert len(set(found)) == 1
    assert least_share(15, 15) >= 0.9 > least_share(14, 14)


def test_a_label_that_is_hard_to_tell_does_not_cost_the_others():
    random = np.random.default_rng(0)
    truth = random.random((600, 12)) < np.where(np.arange(12) < 4, 0.2, 0.04)
    known = np.where(np.arange(12) < 4, 2.5, 0.6)
    logits = np.log(truth.mean(0) / (1 - truth.mean(0))) - known ** 2 / 2 + truth * known ** 2
    probabilities = 1 / (1 + np.exp(-logits - random.normal(0, known, truth.shape)))
    learn, rest = slice(0, 300), slice(300, None)
    micro, macro = (
        FIGURES["micro-f1"](
            probabilities[rest] >= tune_thresholds(probabilities[learn], truth[learn], name), truth[rest]
        )
        for name in ("micro-f1", "macro-f1")
    )
    assert micro > macro + 0.05


def test_labels_part_from_the_shared_cut_as_far_as_they_have_rows():
    """Two labels whose scores lie on other scales."""
    random = np.random.default_rng(1)
    truth = random.random((400, 2)) < 0.5
    known = np.clip(0.3 + 0.4 * truth + random.normal(0, 0.08, truth.shape), 0.01, 0.99) * [1, 0.3]
    few, many = (tune_thresholds(known[:rows], truth[:rows]) for rows in (10, 400))
    assert many[1] < 0.2 < 0.4 < many[0]
    assert many[0] - many[1] > 2 * (few[0] - few[1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 25), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from(NAMES),
    st.sampled_from([0, 0.3, 1]),
)
def test_thresholds_lie_between_0_and_1(rows, labels, seed, name, share):
    random = np.random.default_rng(seed)
    probabilities = random.choice([0.0, 1.0, 0.5, 1e-300, 1 - 1e-16, *random.random(4)], (rows, labels))
    truth = random.random((rows, labels)) < share
    found = quietly(probabilities, truth, name)
    assert found.shape == (labels,) and np.isfinite(found).all() and ((found > 0) & (found < 1)).all()
    assert (found == quietly(probabilities, truth, name)).all()
    if not share: assert (found == 0.5).all()


@pytest.mark.parametrize("name", ["micro-f1", "macro-f1", "precision>=0.8"])
def test_the_order_of_labels_does_not_matter(name):
    probabilities, truth = drawn(3, rows=40)
    turned = quietly(probabilities[:, ::-1], truth[:, ::-1], name)[::-1]
    np.testing.assert_allclose(quietly(probabilities, truth, name), turned)


@pytest.mark.parametrize("name", NAMES)
def test_one_row_and_no_label_at_all(name):
    schema = MultiLabel.of(("a", "b"), tune_for=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = calibrate(np.array([[2.0, -1.0]]), np.array([[1, 0]]), schema)
        none = calibrate(np.zeros((5, 2)), np.zeros((5, 2)), schema)
    assert schema.decide(one.probabilities([[2.0, -1.0]], schema), one.thresholds).tolist() == [[True, False]]
    assert none.thresholds == [0.5, 0.5]


@pytest.mark.parametrize("bad, said", [
    ("micro_f1", "did you mean 'micro-f1'?"),
    ("recall", "known: exact-match, macro-f1, micro-f1, miss-cost=c, precision>=p"),
    ("precision>=1", "a share between 0 and 1 expected"), ("precision>=high", "a share between 0 and 1 expected"),
    ("miss-cost=0", "a number above 0 expected"), ("miss-cost=much", "a number above 0 expected"),
    ("precision>=nan", "a share between 0 and 1 expected"), (None, "unknown figure to tune thresholds for"),
])
def test_what_cannot_be_tuned_for(bad, said):
    with pytest.raises(UserError) as caught: read_target(bad)
    assert said in str(caught.value)
    assert set(ASKED) == {*TARGETS, "miss-cost=c", "precision>=p"}


def test_the_report_shows_the_trade():
    schema = MultiLabel.of(("a", "b", "c"))
    said = np.array([[0.9, 0.9, 0.1], [0.1, 0.1, 0.1], [0.9, 0.1, 0.9], [0.1, 0.9, 0.1]])
    report, _ = schema.judge(said, [["a"], ["b"], ["a", "c"], []])
    assert report["micro_precision"] == 3 / 5 and report["micro_recall"] == 3 / 4 and report["micro_f1"] == 2 * 3 / 9
    assert (report["labels_a_text"], report["true_labels_a_text"], report["empty_answers"]) == (5 / 4, 1, 1 / 4)
    assert {*schema.explained} - report.intervals.keys() == {"true_labels_a_text"}
    assert report.intervals["micro_precision"][0] <= 3 / 5 <= report.intervals["micro_precision"][1]
    assert {*schema.figure_names} <= schema.judge(np.zeros((0, 3)), [])[0].figures.keys()
    nothing, _ = schema.judge(said * 0, [[], [], [], []])
    assert "no label is predicted" in nothing["micro_precision"].reason and nothing["empty_answers"] == 1


def test_the_figure_is_saved_and_told(tiny, tmp_path, capsys):
    texts = [f"{word} {number}" for number in range(20) for word in ("late parcel", "bad smell", "late and bad")]
    labels = [["late"], ["bad"], ["late", "bad"]] * 20
    rows = "\n".join(json.dumps(dict(text=text, label=label)) for text, label in zip(texts, labels))
    (tmp_path / "rows.jsonl").write_text(rows)
    fit = [
        "fit", "--recipe", "probe", "--model", tiny, "--data", str(tmp_path / "rows.jsonl"),
        "--out", str(tmp_path / "out"),
    ]
    main([*fit, "--for", "exact-match"])
    clf = Classifier.from_pretrained(tmp_path / "out")
    assert clf.task().schema.tune_for == "exact-match"
    assert clf.recipe_.task == {"name": "multi", "tune_for": "exact-match"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Thresholds were tuned for `exact-match` on {clf.task().calibration.rows} held-out rows." in card
    assert "| labels a text |" in card
    again = Classifier("probe", tiny, settings=["task={name: multi, tune_for: exact-match}"]).fit(texts, labels)
    assert again.task().calibration == clf.task().calibration
    assert Classifier.from_pretrained(again.save_pretrained(tmp_path / "again")).predict(texts) == again.predict(texts)
    for more, said in (
        (["--for", "f1"], "unknown figure to tune thresholds for 'f1'"),
        (["--for", "macro-f1", "--set", "task=ordinal"], "the task of this recipe is 'ordinal'"),
        (["--for", "macro-f1", "--set", "tasks.topics=label"], "what thresholds are tuned for in a task's kind"),
    ):
        with pytest.raises(SystemExit): main([*fit[:-1], str(tmp_path / "no"), *more])
        assert said in capsys.readouterr().err


def test_one_of_several_tasks_has_a_figure_of_its_own(tiny, tmp_path):
    texts = [f"{word} {number}" for number in range(20) for word in ("late parcel", "bad smell")]
    rows = [
        dict(text=text, kind="ab"[place % 2], topics=[["late"], ["bad"]][place % 2]) for place, text in enumerate(texts)
    ]
    tasks = dict(kind="kind", topics=dict(label="topics", kind=dict(name="multi", tune_for="macro-f1")))
    clf = Classifier("probe", tiny, tasks=tasks, cache=None).fit(rows)
    loaded = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert loaded.task("topics").schema.tune_for == "macro-f1"
    assert "Thresholds of `topics` were tuned for `macro-f1`" in (tmp_path / "model" / "README.md").read_text()
