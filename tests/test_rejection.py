"""What is left unanswered: the cut with the lowest cost, the choice of score and cut, and a report that counts both."""
import inspect
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from command import clfm, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from saved import copied

from clfm_kit import Classifier, UserError, compare, load_data
from clfm_kit.cli.fit_commands import fit
from clfm_kit.data.rows import UNNAMED
from clfm_kit.evaluation.rejection import Costs, Rejection, cheapest_cut, choose_cut, evaluate_rejection, fit_cut

# fields of an option since cuts have a cost
NEW = ("rule", "share", "cost", "out_of_scope_rows", "out_of_scope_recall")
KNOWN = "helpdesk-out-of-scope"


def mean_cost(cut, inside, right, outside, costs):
    """What a cut costs, said row by row."""
    inside_cost = [1 if value < cut else 0 if good else costs.cost for value, good in zip(inside, right)]
    outside_cost = [0 if value < cut else costs.cost for value in outside]
    return (1 - costs.share) * sum(inside_cost) / len(inside_cost) + costs.share * sum(outside_cost) / len(outside_cost)


numbers = st.floats(-1e9, 1e9, allow_subnormal=False) | st.sampled_from([0.0, 0.5, np.nextafter(0.5, 1), 1.0])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=12), st.lists(numbers, min_size=1, max_size=12),
    st.sampled_from([0, 0.02, 0.15, 0.5, 1]), st.sampled_from([0.5, 1, 5]),
)
def test_no_cut_is_cheaper_than_the_cheapest(rows, outside, share, cost):
    inside, right = (np.array(values) for values in zip(*rows))
    costs = Costs(share, cost)
    found = cheapest_cut(inside, right, outside, costs)
    every = [-np.inf, np.inf, *inside, *outside]
    assert mean_cost(found, inside, right, outside, costs) <= min(
        mean_cost(cut, inside, right, outside, costs) for cut in every
    ) + 1e-9
    assert np.isneginf(found) or np.isfinite(found), "an artifact holds no other"


def test_an_overall_accuracy_is_what_the_cost_leaves():
    generator = np.random.default_rng(0)
    inside, right, outside = generator.normal(2, 1, 200), generator.random(200) < 0.9, generator.normal(0, 1, 50)
    for share in (0, 0.2, 1):
        cut = cheapest_cut(inside, right, outside, Costs(share))
        report = evaluate_rejection(inside, right, outside, cut, share)
        kept, out = inside >= cut, outside < cut
        assert report["overall_accuracy_at_share"] == pytest.approx(
            (1 - share) * np.mean(kept & right) + share * np.mean(out)
        ) == pytest.approx(1 - mean_cost(cut, inside, right, outside, Costs(share)))
        assert report["overall_accuracy"] == pytest.approx((np.sum(kept & right) + out.sum()) / 250)
    assert report["out_of_scope_recall"] == 1, "where nothing belongs, nothing is answered"
    assert evaluate_rejection(inside, right, outside, cheapest_cut(inside, right, outside, Costs(0)))["coverage"] == 1


@pytest.mark.parametrize("outside", [[0.5], [0.5] * 30, [0.9]])
def test_confidences_that_are_equal_or_one_text_leave_plain_coverage(outside):
    inside, right = np.full(40, 0.5), np.arange(40) % 10 > 0
    choice = choose_cut({"energy": inside}, right, {"energy": np.array(outside)})
    assert choice.rule == "coverage" and choice.cut == fit_cut(inside) and np.mean(inside >= choice.cut) == 1


def overall(cut, inside, right, outside, share):
    return (1 - share) * np.mean((inside >= cut) & right) + share * np.mean(outside < cut)


@pytest.mark.parametrize("apart, known, share, least", [
    (0, 5, 0.15, 0), (2, 5, 0.15, -0.002), (3, 2, 0.5, -0.002), (2, 40, 0.15, -0.002), (3, 200, 0.15, 0.002),
    (2, 200, 0.5, 0.03),
])
def test_known_texts_do_not_make_the_whole_worse_than_plain_coverage(apart, known, share, least):
    """By overall accuracy on other rows: whether the score tells texts apart or not, whether many are known or few."""
    generator, gained = np.random.default_rng(7), []
    for _ in range(60):
        draw = lambda rows, out: (
            generator.normal(apart, 1, rows), generator.random(rows) < 0.9, generator.normal(0, 1, out)
        )
        inside, right, outside = draw(150, known)
        test = draw(1000, 1000)
        choice = choose_cut({"energy": inside}, right, {"energy": outside}, Costs(share))
        gained.append(overall(choice.cut, *test, share) - overall(fit_cut(inside), *test, share))
    assert np.mean(gained) >= least, np.mean(gained)


def test_the_score_that_tells_texts_apart_is_chosen_and_a_noisy_one_is_not():
    generator = np.random.default_rng(3)
    right = generator.random(200) < 0.9
    noise = lambda rows: generator.normal(0, 1, rows)
    inside, outside = dict(a=noise(200), b=noise(200) + 2, c=noise(200)), dict(a=noise(60), b=noise(60), c=noise(60))
    choice = choose_cut(inside, right, outside, Costs(0.5))
    assert (choice.score, choice.rule) == ("b", "cost") and min(choice.costs, key=choice.costs.get) == ("b", "cost")
    assert choice.cut == cheapest_cut(inside["b"], right, outside["b"], Costs(0.5))
    twice = choose_cut(
        dict(first=inside["b"], b=inside["b"]), right, dict(first=outside["b"], b=outside["b"]), Costs(0.5)
    )
    assert twice.score == "first" and twice.cut == choice.cut, "among scores that are alike the first one is taken"


def test_a_wrong_answer_that_costs_more_is_given_less_often():
    generator = np.random.default_rng(1)
    inside, outside = generator.normal(2, 1, 400), generator.normal(0, 1, 100)
    right = generator.random(400) < 1 / (1 + np.exp(-2 * inside))
    cuts = [cheapest_cut(inside, right, outside, Costs(0.15, cost)) for cost in (0.2, 1, 5, 50)]
    assert cuts == sorted(cuts) and len(set(cuts)) == 4


@pytest.fixture(scope="module")
def three():
    """Three intents of the shipped messages: 40 training, 8 validation and 20 test rows of each."""
    splits, wanted = load_data("helpdesk"), ("track_order", "login_problem", "invoice_request")
    pick = lambda rows, most: rows.take([
        row for name in wanted for row in [i for i, label in enumerate(rows.labels) if label == name][:most]
    ])
    return dict(train=pick(splits.train, 40), validation=pick(splits.validation, 8), test=pick(splits.test, 20))


@pytest.fixture(scope="module")
def rejecting(tiny, three):
    """A probe with known texts out of scope, all of it chosen."""
    reject = {"out_of_scope": KNOWN, "share": 0.5}
    return Classifier("probe", tiny, reject=reject, cache=None).fit(three)


def test_accuracy_is_of_what_is_answered(rejecting, three):
    test, answers = three["test"], rejecting.predict(three["test"].texts)
    report = rejecting.evaluate(test, out_of_scope=KNOWN)
    right = [said == meant for said, meant in zip(answers, test.labels)]
    assert None in answers and report["accuracy"] == np.mean(right) == rejecting.score(test.texts, test.labels)
    assert report["accuracy"] == report["in_scope_accuracy"] < report["accuracy_if_all_answered"]
    likeliest = rejecting.predict_proba(test.texts).argmax(axis=1)
    assert report["accuracy_if_all_answered"] == np.mean(
        [rejecting.task().schema.labels[column] == label for column, label in zip(likeliest, test.labels)]
    )
    assert {*report.intervals} >= {"accuracy", "accuracy_if_all_answered", "overall_accuracy", "out_of_scope_recall"}
    unanswered, outside = sum(answer is None for answer in answers), load_data(KNOWN).test.texts
    silent = sum(answer is None for answer in rejecting.predict(outside))
    assert report["out_of_scope_precision"] == silent / (silent + unanswered)
    assert report["overall_accuracy"] == pytest.approx((sum(right) + silent) / (len(right) + len(outside)))
    assert any(f"{unanswered} of {len(right)} rows are left unanswered" in note for note in report.notes)


def test_a_report_tells_shares_that_differ(rejecting, three):
    share = lambda some, others: f"{100 * len(some) / (len(some) + len(others)):.0f} %"
    known = load_data(KNOWN)
    said, = (note for note in rejecting.evaluate(three["test"], out_of_scope=KNOWN).notes if "are expected" in note)
    here, learned = share(known.test.texts, three["test"]), share(known.validation.texts, three["validation"])
    assert here != learned and f"{here} of all rows here, {learned} where the cut was learned, and 50 %" in said
    rule = rejecting.task().reject.rejection
    assert (rule.rows, rule.out_of_scope_rows) == (len(three["validation"]), len(known.validation))
    rows, sure = known.validation.texts[:len(three["validation"])], three["validation"]
    rule = replace(rule, out_of_scope_rows=len(rows))
    alike = copy(rejecting)
    alike.tasks_ = {UNNAMED: replace(rejecting.task(), reject=replace(rejecting.task().reject, rejection=rule))}
    assert not any("are expected" in note for note in alike.evaluate(sure, out_of_scope=rows).notes)


def test_a_comparison_counts_rows_without_an_answer(rejecting, three, tmp_path):
    rejecting.save_pretrained(tmp_path / "model")
    line = compare([tmp_path / "model"], three).to_dict()["entries"][1]
    report = rejecting.evaluate(three["test"])
    assert line["accuracy"] == report["accuracy"] and line["interval"] == report.intervals["accuracy"]


def test_an_option_is_the_same_after_saving_and_an_older_one_is_read(rejecting, three, tmp_path):
    folder, rule = rejecting.save_pretrained(tmp_path / "model"), rejecting.task().reject.rejection
    again = Classifier.from_pretrained(folder)
    assert again.task().reject.rejection == rule and rule.rule in ("cost", "coverage") and rule.share == 0.5
    assert again.predict(three["test"].texts).tolist() == rejecting.predict(three["test"].texts).tolist()
    card = (folder / "README.md").read_text()
    assert f"Of {rule.out_of_scope_rows} known texts" in card and "counts those as not right" in card

    def older(facts):
        for name in NEW: del facts["tasks"]["label"]["reject"][name]
    old = Classifier.from_pretrained(copied(folder, tmp_path / "older", older))
    assert old.task().reject.rejection == Rejection(rule.score, rule.cut, rule.coverage, rule.rows)
    assert old.predict(three["test"].texts).tolist() == rejecting.predict(three["test"].texts).tolist()
    wrong = lambda facts: facts["tasks"]["label"]["reject"].update(share=2)
    with pytest.raises(UserError, match="reject.share is 2; a number from 0 to 1 expected"):
        Classifier.from_pretrained(copied(folder, tmp_path / "wrong", wrong))


def test_a_score_to_choose_is_kept_in_a_named_task(tiny, three, tmp_path):
    tasks = {"intent": {"label": "label", "reject": {"score": "auto", "out_of_scope": KNOWN}}}
    clf = Classifier("probe", tiny, tasks=tasks, cache=None).fit(three)
    again = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert again.tasks_["intent"].reject.rejection == clf.tasks_["intent"].reject.rejection


def test_texts_that_chose_the_cut_are_told_when_they_measure_it(tiny, three, rejecting):
    texts = [f"the {word} is blue" for word in ("sky", "sea", "lake", "river", "moon")]
    clf = Classifier("probe", tiny, reject={"out_of_scope": texts}, cache=None).fit(three)
    flatters = lambda model, given: any(
        "it flatters" in note for note in model.evaluate(three["test"], out_of_scope=given).notes
    )
    assert flatters(clf, list(texts)) and not flatters(clf, texts[:4]) and not flatters(rejecting, KNOWN)


def test_several_labels_choose_among_the_scores_that_serve_them(tiny, three):
    both = lambda rows: (rows.texts, [[label, "any"] if row % 3 else [label] for row, label in enumerate(rows.labels)])
    clf = Classifier("probe", tiny, reject={"out_of_scope": KNOWN, "share": 0.5}, cache=None)
    clf.fit(*both(three["train"]), validation=both(three["validation"]))
    report = clf.evaluate(*both(three["test"]))
    assert clf.task().reject.rejection.score in ("maximum-probability", "energy")
    assert report["exact_match"] <= report["exact_match_if_all_answered"]


def test_the_command_says_what_is_so():
    told = {name: each.annotation.__metadata__[0].help for name, each in inspect.signature(fit).parameters.items()
            if name in ("reject", "coverage", "share", "cost")}
    assert f"the default is {Costs.share}." in told["share"] and f"the default is {Costs.cost:g}." in told["cost"]
    assert "Without it 0.95" in told["coverage"] and "--out-of-scope" in told["coverage"] and "auto" in told["reject"]


@pytest.mark.parametrize("words, said", [
    (("--share", 0.2), "--share goes with --reject"), (("--reject", "auto"), "name some as out_of_scope"),
    (("--reject", "energy", "--cost", 3), "cost, which is for known out-of-scope texts"),
    (("--reject", "auto", "--out-of-scope", KNOWN, "--share", 15), "a share from 0 to 1"),
])
def test_options_without_what_they_need_are_refused(words, said):
    refused(clfm("fit", "--recipe", "probe", "--data", "helpdesk", "--dry-run", *words), said)
