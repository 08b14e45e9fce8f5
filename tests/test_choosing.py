"""`Classifier()` without a recipe: rows that tell little or nothing, a budget for nothing, and what is said of them."""
import numpy as np
import pytest
from command import clfm, refused

from clfm_kit import Classifier, Recipe, UserError, load_data
from clfm_kit.classifier import choosing
from clfm_kit.classifier.choosing import better

LADDER = Recipe.of("auto").candidates
QUICK, NAMES = LADDER[:2], [Recipe.of(each).name for each in LADDER]


@pytest.fixture(scope="module")
def messages():
    return load_data("helpdesk").train


def rows_of(data, labels, each):
    """The first rows of some labels."""
    some = [row for label in labels for row in [n for n, own in enumerate(data.labels) if own == label][:each]]
    return [data.texts[row] for row in some], [data.labels[row] for row in some]


def fitted(tiny, texts, labels, candidates=LADDER, **budget):
    return Classifier(dict(name="auto", candidates=candidates, budget=budget), tiny, cache=None).fit(texts, labels)


def test_five_rows_a_class(tiny, messages):
    texts, labels = rows_of(messages, sorted(set(messages.labels))[:3], 5)
    clf = fitted(tiny, texts, labels)
    assert [one["recipe"] for one in clf.choice_.tried] == NAMES
    assert set(clf.predict(texts)) <= set(labels)


def test_a_busy_machine_has_time_unless_it_was_told_how_much(tiny, messages, monkeypatch):
    """The wall's clock jumps an hour whenever it is asked."""
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(choosing, "CLOCKS", (lambda: float(next(hours)), choosing.CLOCKS[1]))
    texts, labels = messages.texts[:60], messages.labels[:60]
    assert not any("no time" in one["out"] for one in fitted(tiny, texts, labels, QUICK).choice_.tried)
    assert "no time" in fitted(tiny, texts, labels, QUICK, time=120).choice_.tried[1]["out"]


def test_a_later_candidate_takes_the_lead_unless_it_is_worse_by_half_an_error():
    spread = np.tile([1.0, -1.0], 50)  # of standard deviation 1, so half an error of 100 rows is 0.05
    assert better(spread - 0.04, np.zeros(100)) and not better(spread - 0.06, np.zeros(100))
    assert better(np.zeros(2), np.array([-1.0, -0.6])) and not better(np.array([-1.0, -0.6]), np.zeros(2))


def test_rare_labels_are_compared_by_squared_error_and_shown_as_micro_f1(tiny):
    """Rows without a label, which are nearly all, say nothing of F1."""
    texts = [f"message {n} {'late' * (n % 10 == 0)}" for n in range(60)]
    clf = Classifier("probe", tiny, cache=None).fit(texts, [["late"] * (n % 10 == 0) for n in range(60)])
    sure, unsure = np.full((60, 1), 0.01), np.full((60, 1), 0.01)
    targets = np.array([[n % 10 == 0] for n in range(60)])
    sure[targets], unsure[targets] = 0.99, 0.02
    found = {
        name: choosing.row_scores(clf.task(), chances, targets)
        for name, chances in (("sure", sure), ("unsure", unsure))
    }
    right, most, scores = found["sure"]
    assert right.sum() / most.sum() == 1 and np.allclose(scores, -1e-4)
    assert found["unsure"][0].sum() == 0 and found["unsure"][1].sum() == 6
    assert better(scores, found["unsure"][2]) and not better(found["unsure"][2], scores)


def test_one_row_in_a_class(tiny, messages):
    texts, labels = rows_of(messages, sorted(set(messages.labels))[:2], 20)
    clf = fitted(tiny, [*texts, "the coffee machine is on fire"], [*labels, "fire"], QUICK)
    assert "fire" in clf.classes_


def test_five_hundred_classes(tiny):
    texts, labels = zip(*((f"item {n} {way}", f"class {n}") for n in range(500) for way in ("is late", "is lost")))
    candidates = [dict(name=name, head=dict(name="logistic", C=C)) for name, C in (("weak", 0.1), ("strong", 10))]
    clf = fitted(tiny, list(texts), list(labels), candidates)
    assert len(clf.classes_) == 500 and clf.choice_.chosen in ("weak", "strong")


def test_all_texts_are_equal(tiny):
    with pytest.raises(UserError, match="40 rows with 1 different texts are too few"):
        fitted(tiny, ["the same"] * 40, ["a", "b"] * 20)


def test_texts_without_a_letter(tiny):
    texts = [mark * n for n in range(1, 21) for mark in ("!", "?")]
    clf = fitted(tiny, texts, ["loud", "asking"] * 20)
    assert clf.choice_.chosen in NAMES


def test_a_third_of_the_labels_is_wrong(tiny, messages):
    texts, labels = rows_of(messages, sorted(set(messages.labels))[:2], 60)
    wrong = np.random.default_rng(0).random(len(labels)) < 0.3
    noisy = [sorted(set(labels))[int(own == sorted(set(labels))[0])] if bad else own for own, bad in zip(labels, wrong)]
    clf = fitted(tiny, texts, noisy, LADDER[:3])
    assert np.mean(clf.predict(texts) == np.array(labels)) > 0.6  # nearer to the truth than to what it was told


def test_who_has_chosen_nothing_can_be_looked_at():
    clf = Classifier("probe")
    assert "predict" in dir(clf)
    assert not hasattr(clf, "choice_")


def test_a_dry_run_refuses_a_wrong_budget():
    done = clfm("fit", "--data", "helpdesk", "--dry-run", "--set", "budget.tim=4")
    refused(done, "unknown limit of a budget", "'time'")


def test_a_budget_for_nothing_leaves_the_first_and_says_so(tiny, messages):
    choice = fitted(tiny, messages.texts[:60], messages.labels[:60], time=0.001).choice_
    assert choice.chosen == NAMES[0]
    assert all(name in str(choice) for name in NAMES[1:]) and "no time" in str(choice)


def test_what_needs_too_much_memory_is_not_tried(tiny, messages):
    tried = fitted(tiny, messages.texts[:60], messages.labels[:60], memory=0.001).choice_.tried
    outs = [one["out"].partition(":")[0] for one in tried]
    assert outs == ["", *["over the memory of the budget"] * 4, *["needs another kind of base"] * 2]


def test_what_is_for_decoders_is_tried_on_them_alone(tiny, messages):
    choice = fitted(tiny, messages.texts[:60], messages.labels[:60], time=0.001).choice_
    tried = {one["recipe"]: one["out"] for one in choice.tried}
    assert tried["lora-4bit"] == tried["instruct"] == "needs another kind of base: decoder"
    with pytest.raises(UserError, match="bases"): Recipe(name="own", bases="decoder")


def test_a_choice_is_the_same_again(tiny, messages):
    one, other = (fitted(tiny, messages.texts[:80], messages.labels[:80], QUICK) for _ in range(2))
    assert one.choice_.chosen == other.choice_.chosen
    np.testing.assert_array_equal(one.predict_proba(messages.texts[:9]), other.predict_proba(messages.texts[:9]))
