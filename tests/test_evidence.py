"""Evidence under strain: what is undefined says so, what would mislead is refused,
and nothing that was finished is lost.
"""
import json
import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from command import Forked, afresh, clfm, refused, script
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tree import ROOT

from clfm_kit import Classifier, UserError, compare, load_data
from clfm_kit.data.rows import Rows
from clfm_kit.data.tasks import load_tasks, read_tasks
from clfm_kit.study.error_analysis import analyse_errors
from clfm_kit.evaluation.metrics import Undefined
from clfm_kit.study.cross_validation import cross_validate, fold_numbers
from clfm_kit.study.tuning import tune

STRANGERS = ["who won the league in 1987", "how tall is a giraffe", "recite a sonnet"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """States of the tiny model go into a cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLFM_KIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def few():
    """Three intents of the shipped messages, 40 training and 20 test rows of each."""
    splits, wanted = load_data("helpdesk"), ("track_order", "login_problem", "invoice_request")
    pick = lambda rows, most: [
        row for name in wanted for row in [i for i, label in enumerate(rows.labels) if label == name][:most]
    ]
    return dict(
        train=splits.train.take(pick(splits.train, 40)),
        validation=splits.validation.take(pick(splits.validation, 8)), test=splits.test.take(pick(splits.test, 20)),
    )


def written(folder, **parts):
    """A folder of JSON lines from {part: (texts, labels)}."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (texts, labels) in parts.items():
        (folder / f"{part}.jsonl").write_text(
            "".join(json.dumps(dict(text=text, label=label)) + "\n" for text, label in zip(texts, labels))
        )
    return folder


def test_figures_without_a_value_give_their_reason(fitted):
    clf = Classifier.from_pretrained(fitted)
    one = clf.evaluate(["where is my parcel"], ["track_order"])
    assert isinstance(one["ece"], Undefined) and not one.intervals and "at least two rows" in one.notes[-1]
    missing = next(row for row in one.per_class if row["label"] == "login_problem")
    assert isinstance(missing["recall"], Undefined) and missing["recall"].reason == "no row has this class"
    json.dumps(one.to_dict(), allow_nan=False)


def test_all_rows_rejected_is_undefined_not_zero(tiny, few):
    clf = Classifier("probe", tiny, reject=0.9).fit(few)
    clf.task().reject.rejection.cut = np.inf
    report = clf.evaluate(few["test"], out_of_scope=STRANGERS)
    assert report["coverage"] == 0 and report["out_of_scope_recall"] == 1
    assert isinstance(
        report["accepted_accuracy"], Undefined
    ) and report["accepted_accuracy"].reason == "all rows were rejected"
    assert clf.predict(["where is it"]).tolist() == [None]
    alone = clf.evaluate(few["test"])  # without texts out of scope, only their figures are left out
    assert isinstance(
        alone["accepted_accuracy"], Undefined
    ) and not {"auroc", "out_of_scope_recall"} & alone.figures.keys()


REJECTS = {
    "coverage": 0.8, "energy": "energy", "distance": {"score": "centroid-distance", "coverage": 0.9},
    "strangers": {"score": "energy", "out_of_scope": STRANGERS},
}


@pytest.fixture(scope="module")
def rejecting(tiny, few, tmp_path_factory):
    """{name: classifier} with each reject option, saved in a folder of that name; and that folder."""
    place = tmp_path_factory.mktemp("rejecting")
    # validation rows are not learned from, so that they still look as they did when the cut was chosen
    make = lambda reject: clone(Classifier("probe", tiny, settings=["head.refit=train"], reject=reject))
    found = {name: make(reject).fit(few) for name, reject in REJECTS.items()}
    for name, clf in found.items(): clf.save_pretrained(place / name)
    return found, place


def test_reject_options_survive_saving(rejecting, few):
    found, place = rejecting
    texts = [*few["test"].texts[:20], *STRANGERS]
    there = afresh({name: (place / name, "predict", texts) for name in REJECTS})
    assert {name: answers.tolist() for name, answers in there.items()} == {
        name: clf.predict(texts).tolist() for name, clf in found.items()
    }


@pytest.mark.parametrize("name", REJECTS)
def test_a_reject_option_answers_the_share_that_it_says(name, rejecting, few):
    clf, place = rejecting[0][name], rejecting[1]
    assert abs(
        clf.task().reject.rejection.coverage
        - np.mean(clf.confidence(few["validation"].texts) >= clf.task().reject.rejection.cut)
    ) < 0.05
    assert "leaves texts unanswered" in (place / name / "README.md").read_text()


@pytest.mark.parametrize("reject, message", [
    ("entropy", "unknown rejection score"), (0, "above 0"), (True, "a score's name"),
    ({"cut": 3}, "unknown setting of reject"), ({"out_of_scope": []}, "no rows|has no rows"),
])
def test_bad_reject_options_are_refused(reject, message, tiny, few):
    with pytest.raises(UserError, match=message): Classifier("probe", tiny, reject=reject).fit(few)


def test_a_classifier_works_in_scikit_learn(tiny, few):
    texts, labels = few["train"].texts, few["train"].labels
    clf = Classifier("probe", tiny, settings=["head.C=0.1"])
    assert cross_val_score(clf, texts, labels, cv=3).shape == (3,)
    grid = (
        GridSearchCV(clf, {"settings": [["head.C=0.01"], ["head.C=1"]], "recipe": ["probe"]}, cv=2).fit(texts, labels)
    )
    assert grid.best_params_["settings"] in (["head.C=0.01"], ["head.C=1"])
    lower = make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), clf).fit(texts, labels)
    assert lower.predict_proba(["WHERE IS IT"]).shape == (1, 3)


def test_a_second_search_reads_nothing(tiny, few):
    cross_validate("probe", few, tiny, folds=2)
    clf = Classifier("probe", tiny, settings=["head.C=1"]).fit(few["train"])
    assert clf.facts_["backbone_passes"] == 0


def test_folds_keep_equal_texts_together_and_every_label_everywhere():
    texts = [f"text {i // 2}" for i in range(40)]
    labels = [["a"] if i // 2 % 3 else ["a", "b"] if i // 2 % 2 else [] for i in range(40)]
    folds = fold_numbers(Rows(texts, labels), 4)
    assert all(len({folds[i] for i in range(40) if texts[i] == text}) == 1 for text in texts)
    assert sorted(np.bincount(folds)) == [10] * 4
    assert {folds[i] for i in range(40) if "b" in labels[i]} >= {0, 1, 2}


def test_a_search_goes_on_past_settings_that_cannot_work(tiny, few):
    found = tune("probe", few, ["pooler.layer=[3, 7]"], tiny, trials=2, folds=1)
    assert (
        [bool(trial["failed"]) for trial in found.trials].count(True) == 1
        and found.recipe.pooler == {"name": "mean", "layer": 3}
    )
    with pytest.raises(UserError, match="no trial worked; the first failed with: layer 7"):
        tune("probe", few, ["pooler.layer=[7]"], tiny, trials=1, folds=1).best


def test_compare_refuses_what_would_mislead(fitted, tiny, few, tmp_path):
    train, test = few["train"], few["test"]
    leak = written(
        tmp_path / "leak", train=(train.texts, train.labels),
        test=(test.texts[:3] + train.texts[:2], test.labels[:3] + train.labels[:2]),
    )
    refused(
        clfm("compare", "probe", "--model", tiny, "--data", leak), "2 of 5 test rows were in the training data",
        "3 (", "4 (", "--seen drop",
    )
    done = clfm("compare", "probe", "--model", tiny, "--data", leak, "--seen", "drop", "--json")
    assert json.loads(done.stdout)["rows"] == 3, done.stderr
    refused(clfm("compare", fitted, "--data", leak, "--seen", "drop"), "different labels")
    refused(clfm("compare", "prob", "--data", leak), "did you mean 'probe'?")
    refused(clfm("compare", "probe", "--data", leak, "--seen", "maybe"), "'refuse' or 'drop' expected")


def test_compare_refuses_rows_that_only_a_saved_model_has_seen(tiny, few, tmp_path):
    Classifier("probe", tiny).fit(few["test"].texts, few["test"].labels).save_pretrained(tmp_path / "cheat")
    with pytest.raises(UserError, match="in the training data of cheat"):
        compare(["probe", tmp_path / "cheat"], few, model=tiny)


def test_a_fitted_classifier_is_compared_as_it_is(tiny, few):
    clf = Classifier("probe", tiny).fit(few["train"].texts, few["train"].labels)
    found = compare([clf, dict(name="again", head="logistic")], few, model=tiny)
    own, again = found.to_dict()["entries"][1:]
    assert own["entry"] == "probe"
    assert own["accuracy"] == np.mean(np.array(clf.predict(few["test"].texts)) == few["test"].labels)
    assert again["entry"] == "again"
    assert found.plot().get_title(loc="left").startswith("Highest on 54 test rows of data: ")
    with pytest.raises(UserError, match="unknown cost 'second'; did you mean 'seconds'"): found.plot(cost="second")
    with pytest.raises(UserError, match="not fitted"): compare([Classifier("probe", tiny)], few, model=tiny)


def test_compare_gives_intervals_seeds_and_costs(tiny, few):
    found = compare(
        ["probe", "probe", {"name": "small network", "head": "mlp"}], few, model=tiny, seeds=(0, 1)
    ).to_dict()
    assert [line["entry"] for line in found["entries"]] == ["TF-IDF baseline", "probe", "probe (2)", "small network"]
    for line in found["entries"]:
        assert line["interval"][0] <= line["accuracy"] <= line["interval"][1]
        assert all(
            line[cost] >= 0 for cost in ("seconds", "peak_mb", "rows_per_second", "trained_weights", "artifact_mb")
        )
    assert (
        {"difference", "low", "high"} <= found["entries"][1]["difference"].keys()
        and found["entries"][3]["seeds"] == 2
    )
    json.dumps(found, allow_nan=False)


def test_the_commands_work_on_a_folder_of_ones_own(tiny, few, tmp_path):
    data = written(tmp_path / "mine", **{part: (rows.texts, rows.labels) for part, rows in few.items()})
    best, page = tmp_path / "best.yaml", tmp_path / "errors.html"
    done = clfm(
        "tune", "--recipe", "probe", "--model", tiny, "--data", data, "--search", "head.C=[0.01, 1]", "--folds", 2,
        "--out", best, "--json",
    )
    assert len(json.loads(done.stdout)["trials"]) == 2, done.stderr
    done = clfm(
        "fit", "--recipe", best, "--model", tiny, "--data", data, "--reject", "energy",
        "--out", tmp_path / "model", "--json",
    )
    assert "test" in json.loads(done.stdout)["reports"], done.stderr
    done = clfm("evaluate", tmp_path / "model", "--data", data, "--out-of-scope", "helpdesk-out-of-scope", "--json")
    assert {"auroc", "out_of_scope_recall", "accuracy"} <= json.loads(done.stdout)["figures"].keys(), done.stderr
    done = clfm("errors", tmp_path / "model", "--data", data, "--folds", 2, "--out", page, "--json")
    assert {"mistakes", "pairs", "suspects"} <= json.loads(done.stdout).keys() and page.exists(), done.stderr
    refused(clfm("tune", "--recipe", "probe", "--data", data, "--search", "head.D=1..2"), "unknown parameter")
    refused(
        clfm("errors", tmp_path / "model", "--data", data, "--folds", 0, "--out", tmp_path / "no" / "where.html"),
        "cannot write",
    )


def test_a_fit_is_kept_when_its_test_rows_cannot_be_measured(tiny, few, tmp_path):
    strange = Rows(["can you gift wrap it", "in red paper please"], ["gift_wrap", "gift_wrap"])
    data = written(
        tmp_path / "mine", **{part: (rows.texts, rows.labels) for part, rows in (few | {"test": strange}).items()}
    )
    refused(
        clfm("fit", "--recipe", "probe", "--model", tiny, "--data", data, "--out", tmp_path / "model"),
        "cannot be measured: row 0: label 'gift_wrap' was not seen",
    )
    assert Classifier.from_pretrained(tmp_path / "model").predict(["where is my parcel"]).shape == (1,)
    refused(
        clfm(
            "fit", "--recipe", "probe", "--model", tiny, "--data", data, "--out", tmp_path / "other",
            "--out-of-scope", tmp_path / "none.jsonl",
        ),
        "is not a file",
    )
    assert not (tmp_path / "other").exists()


def test_a_terminal_says_why_a_figure_is_missing(tiny, few, tmp_path):
    data = written(
        tmp_path / "mine", train=(few["train"].texts, few["train"].labels),
        test=(few["test"].texts[:1], few["test"].labels[:1]),
    )
    assert (
        clfm("fit", "--recipe", "probe", "--model", tiny, "--data", data, "--out", tmp_path / "model").returncode == 0
    )
    assert "ece has no value: fewer than two rows" in clfm("evaluate", tmp_path / "model", "--data", data).stdout
    assert "probe: ece has no value: fewer than two rows" in clfm(
        "compare", "probe", "--model", tiny, "--data", data
    ).stdout
    assert "120 of 120 rows were among those" in clfm(
        "evaluate", tmp_path / "model", "--data", data / "train.jsonl"
    ).stdout


def test_compare_errors_and_tune_take_several_tasks_tags_included(tiny, tmp_path):
    """Where one task is looked at, it is named."""
    tasks = {"intent": "label", "slots": "slots"}
    splits = load_tasks("helpdesk", read_tasks(tasks))
    for part, rows in splits.items():
        rows = rows.take(
            [
                row for row, label in enumerate(rows.by_task["intent"])
                if label in ("track_order", "login_problem", "invoice_request")
            ][:80]
        )
        lines = zip(rows.texts, rows.by_task["intent"], rows.by_task["slots"], rows.tokens)
        (tmp_path / f"{part}.jsonl").write_text("".join(
            json.dumps(dict(text=text, label=label, slots=slots, tokens=tokens)) + "\n"
            for text, label, slots, tokens in lines
        ))
    (tmp_path / "both.yaml").write_text(json.dumps(dict(name="both", tasks=tasks)))
    Classifier("probe", tiny, tasks=tasks).fit(tmp_path).save_pretrained(tmp_path / "model")
    given = ["--data", tmp_path, "--json"]
    done = clfm("compare", tmp_path / "model", tmp_path / "both.yaml", "--model", tiny, *given)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (
        found["main"] == ["intent.accuracy", "slots.entity_f1"]
        and [line["entry"] for line in found["entries"]] == ["TF-IDF baseline", "model", "both"]
    )
    assert all(
        {"intent.accuracy", "slots.entity_f1", "joint_exact_match"} <= line.keys() for line in found["entries"]
    )
    for task in tasks:
        done = clfm("errors", tmp_path / "model", "--task", task, "--folds", 2, *given)
        assert (
            {"mistakes", "pairs", "suspects"} <= json.loads(done.stdout).keys()
            and json.loads(done.stdout)["task"] == task
        ), done.stderr
    refused(clfm("errors", tmp_path / "model", *given), "several tasks: intent, slots")
    refused(clfm("errors", tmp_path / "model", "--task", "mood", *given), "task 'mood' does not exist")
    done = clfm(
        "tune", "--recipe", tmp_path / "both.yaml", "--model", tiny, "--search", "head.C=[0.1, 1]", "--trials", 2,
        "--folds", 2, *given,
    )
    assert done.returncode == 0 and len(json.loads(done.stdout)["trials"]) == 2, done.stderr


def test_the_error_page_shows_hostile_texts_as_texts(tiny, few, tmp_path):
    odd = [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "أين طلبي؟", "</table><h1>",
        "javascript:alert(1)", "nul \x00", "🙃",
    ]
    rows = Rows([*few["train"].texts, *odd], [*few["train"].labels, *["track_order"] * len(odd)])
    wrong = Rows(odd, ["login_problem", "invoice_request"] * 3 + ["login_problem"])
    page = analyse_errors(
        "probe", dict(train=rows, validation=few["validation"], test=wrong), tiny, folds=2
    ).save_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert (
        not re.search(r"<(script|img|link|iframe)\b", page) and "&lt;script&gt;" in page
        and "Content-Security-Policy" in page
    )
    assert not re.search(r"""(src|href)\s*=\s*["']?http""", page) and page.count("<table>") <= 3


def peers(results, *words):
    """A process that runs the benchmark; each of its cells starts a fresh one."""
    return Forked(script(ROOT / "benchmarks" / "peers.py", "--technique", "tfidf", "--results", results, *words))


def test_the_benchmark_keeps_finished_cells(few, tmp_path):
    data = written(tmp_path / "mine", **{part: (rows.texts, rows.labels) for part, rows in few.items()})
    run = lambda *words: peers(tmp_path / "results", "--data", data, *words).wait()
    first = run("--seeds", 2, "--shots", 4)
    assert first.returncode == 0, first.stderr
    cells = sorted((tmp_path / "results" / "peers").glob("*.json"))
    assert [path.name for path in cells] == ["mine.tfidf.4.0.json", "mine.tfidf.4.1.json"]
    found = json.loads(cells[0].read_text())
    assert (
        {"command", "versions", "hardware", "figures", "rows", "settings"} <= found.keys()
        and set(found["rows"]) <= {0, 1} and str(tmp_path) not in cells[0].read_text()
    )
    stamps = [path.stat().st_mtime_ns for path in cells]
    again = run("--seeds", 2, "--shots", 4)
    assert "2 cells, 2 finished before" in again.stderr and [path.stat().st_mtime_ns for path in cells] == stamps
    assert "1 cells, 0 finished before" in run("--seeds", 1, "--shots", 4, "--test-rows", 5).stderr, (
        "other settings are another cell"
    )
    assert "| tfidf |" in (tmp_path / "results" / "peers.md").read_text()


def test_a_failed_cell_is_told_and_the_others_stay(few, tmp_path):
    data = written(tmp_path / "mine", **{part: (rows.texts, rows.labels) for part, rows in few.items()})
    done = peers(
        tmp_path / "results", "--data", data, "--technique", "setfit", "--seeds", 1,
        "--python", f"setfit={sys.executable}",
    ).wait()
    assert done.returncode == 1 and "setfit, all rows, seed 0: FAILED" in done.stderr
    assert [path.name for path in (tmp_path / "results" / "peers").glob("*.json")] == ["mine.tfidf.all.0.json"]


@pytest.mark.skipif(os.name == "nt", reason="sends an interrupt as a terminal does")
def test_a_stopped_benchmark_leaves_nothing_half_written(few, tmp_path):
    data = written(tmp_path / "mine", **{part: (rows.texts, rows.labels) for part, rows in few.items()})
    # a shell's background job starts with interrupts ignored, and what it forks inherits that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = peers(tmp_path / "results", "--data", data, "--seeds", 20)
    signal.signal(signal.SIGINT, before)
    while not list((tmp_path / "results" / "peers").glob("*.json")): time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 1 and "finished cells are kept" in done.stderr, done.stderr
    for path in (tmp_path / "results").rglob("*"):
        assert path.is_dir() or json.loads(path.read_text())["figures"], path
