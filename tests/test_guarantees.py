"""What only a fault in the code brought to light: guarantees that each need a check of their own."""
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from clfm_kit import Classifier, Rows, UserError, compare, load_data
from clfm_kit.backbone.cache import group_key
from clfm_kit.builtin.formats import Plain
from clfm_kit.builtin.labels import SingleLabel
from clfm_kit.data.rows import Splits
from clfm_kit.evaluation.calibration import calibrate
from clfm_kit.evaluation.metrics import Report
from clfm_kit.study.baseline import Baseline
from clfm_kit.study.comparison import BASELINE
from clfm_kit.study.tuning import tune


@pytest.fixture(scope="module")
def data():
    whole = load_data("helpdesk")
    take = lambda rows, number: rows.take(range(number))
    return Splits(take(whole.train, 160), take(whole.validation, 80), take(whole.test, 80), "part of helpdesk")


@pytest.fixture(scope="module")
def probe(tiny, data):
    return Classifier("probe", tiny, cache=None).fit(data)


@pytest.mark.parametrize("recipe", ["probe", "finetune"])
def test_a_base_goes_with_its_classifier_and_waits_for_no_collector(tiny, data, recipe):
    clf = Classifier(recipe, tiny, settings=["training.epochs=1"] * (recipe == "finetune"), cache=None).fit(data)
    model = weakref.ref(clf.encoder_.backbone.model)
    gc.collect()
    gc.disable()
    try:
        del clf
        assert model() is None
    finally: gc.enable()


def test_states_of_two_number_types_are_kept_apart(tiny, probe, data, tmp_path):
    keys = {group_key(probe.encoder_.backbone, Plain(), dtype) for dtype in (np.float16, np.float32)}
    assert len(keys) == 2
    scores = {}
    for cache in (tmp_path, None):
        for dtype in ("float16", "float32"):
            clf = Classifier("probe", tiny, cache=cache, state_dtype=dtype).fit(data)
            scores[dtype] = clf.decision_function(data.test.texts)
    kept = Classifier("probe", tiny, cache=tmp_path, state_dtype="float32").fit(data)
    np.testing.assert_array_equal(kept.decision_function(data.test.texts), scores["float32"])
    assert (scores["float16"] != scores["float32"]).any()


def test_the_temperature_is_that_of_rows_that_were_held_out(probe, data):
    task = probe.task()
    held = np.concatenate([task.head.train_logits, task.head.validation_logits])
    targets = task.schema.targets([*data.train.labels, *data.validation.labels])
    found = task.calibration.temperature
    assert found == pytest.approx(calibrate(held, targets, task.schema).temperature, rel=1e-3)
    learned = probe.decision_function([*data.train.texts, *data.validation.texts])
    assert found != pytest.approx(calibrate(learned, targets, task.schema).temperature, rel=1e-3)


def test_test_rows_choose_nothing_of_the_baseline(probe, data):
    found = compare([probe.recipe_], data, model=probe.model).runs[BASELINE][0].report
    alone = Baseline().fit(data.train, data.validation).evaluate(data.test)
    assert found.figures == alone.figures
    other = Baseline().fit(data.train, data.test).evaluate(data.test)
    assert other.figures != alone.figures


@pytest.mark.parametrize("metric, best, worst", [("log_loss", min, max), ("accuracy", max, min)])
def test_the_best_of_a_search_has_the_best_figure(metric, best, worst, tiny, data):
    recipe = {"name": "probe", "class_weight": "balanced"}  # so that no label is shifted, which can make answers alike
    search = tune(
        recipe, replace(data, test=None), ["head.C=[0.0001, 1.0, 1000.0]"], model=tiny, trials=3, folds=2, metric=metric
    )
    values = [trial["value"] for trial in search.trials]
    assert search.best["value"] == best(values) != worst(values)


def test_each_class_counts_the_same_in_macro_f1():
    schema = SingleLabel.of(("rare", "usual"))
    report = schema.judge(np.array([[0.1, 0.9]] * 4), ["usual"] * 3 + ["rare"])[0]
    assert isinstance(report, Report) and report["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)


def test_rows_without_a_label_teach_nothing(tiny, data):
    texts, labels = data.train.texts[:90], data.train.labels[:90]
    tasks = {"intent": "label", "tone": "tone"}
    tones = ["calm" if n % 2 else "cross" for n in range(90)]
    both = Rows(
        texts + ["nothing is known here"] * 30, {"intent": labels + [None] * 30, "tone": tones + ["cross"] * 30}
    )
    some = Rows(texts, {"intent": labels, "tone": tones})
    held = Rows(data.validation.texts, {"intent": data.validation.labels, "tone": ["calm", "cross"] * 40})
    scores = [
        Classifier("probe", tiny, cache=None, tasks=tasks).fit(rows, validation=held).predict_proba(data.test.texts)
        for rows in (both, some)
    ]
    np.testing.assert_allclose(scores[0]["intent"], scores[1]["intent"], atol=1e-5)
    assert np.abs(scores[0]["tone"] - scores[1]["tone"]).max() > 1e-4


def test_a_row_with_one_label_takes_one_label():
    from clfm_kit.notebook.error_browser import ErrorBrowser
    view = ErrorBrowser(["one", "two"], ["x", "y"], ["y", "y"])
    for wrong in ([], ["x", "y"]):
        with pytest.raises(UserError, match="row 0 has one label"): view.relabel(0, wrong)
    view.relabel(0, ["y"])
    assert view.new == {0: "y"}
