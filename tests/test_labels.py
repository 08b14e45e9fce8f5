"""Better labels: what is wrong is found and told, what to label next is chosen; bad input is one sentence."""
import json
from pathlib import Path

import numpy as np
import pytest
from command import clfm
from hypothesis import given, settings
from hypothesis import strategies as st

from clfm_kit import UserError, load_data
from clfm_kit.data.rows import Rows, records
from clfm_kit.data.tasks import load_tasks, read_tasks
from clfm_kit.study.label_noise import doubted, trust
from clfm_kit_labels.classes import in_two, mixed_pairs, share
from clfm_kit_labels.learning import rows_needed
from clfm_kit_labels.review import review
from clfm_kit_labels.states import neighbours, unit
from clfm_kit_labels.strategies import STRATEGIES, Pool, by_first
from clfm_kit_labels.suggesting import suggest

TRAIN = load_data("helpdesk").train


def csv(path, texts, labels):
    "A table as a user has it."
    rows = "".join(f'"{text.replace(chr(34), chr(39))}",{label}\n' for text, label in zip(texts, labels))
    path.write_text("text,label\n" + rows, encoding="utf-8")
    return path


# ---- labels that are wrong

@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 10_000))
def test_what_is_doubted_has_another_likeliest_class(classes, rows, seed):
    random = np.random.default_rng(seed)
    probabilities, labels = random.dirichlet([0.5] * classes, rows), random.integers(classes, size=rows)
    found, trusted = doubted(probabilities, labels), trust(probabilities, labels)
    assert not (found & (probabilities.argmax(axis=1) == labels)).any()
    assert ((trusted >= 0) & (trusted <= 1)).all()


def test_sure_answers_that_agree_leave_nothing_to_doubt():
    labels = np.repeat([0, 1, 2], 20)
    assert not doubted(np.eye(3)[labels] * 0.9 + 0.1 / 3, labels).any()


def test_a_row_that_is_more_likely_right_is_trusted_more():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    assert (np.diff(trust(probabilities, np.zeros(3, dtype=int))) < 0).all()


@pytest.fixture(scope="module")
def flipped():
    "Rows of which some have the label of another class, and which those are."
    random, rows = np.random.default_rng(1), TRAIN.take(range(500))
    labels, names = list(rows.labels), sorted({*rows.labels})
    wrong = random.choice(500, 25, replace=False).tolist()
    for row in wrong: labels[row] = random.choice([name for name in names if name != labels[row]])
    return Rows(rows.texts, labels, source="tickets.csv"), {*wrong}


def test_most_of_the_labels_that_were_turned_over_are_found(flipped):
    rows, wrong = flipped
    found = review(rows, folds=3)
    listed = [one["row"] for one in found.wrong]
    assert len(wrong & {*listed}) >= 0.8 * len(wrong)
    assert len(wrong & {*listed[:50]}) >= 0.6 * len(wrong), "the worst do not come first"
    assert all(one["label"] == rows.labels[one["row"]] != one["proposed"] for one in found.wrong)
    assert json.loads(json.dumps(found.to_dict()))["rows"] == 500


def test_labels_that_are_all_wrong_are_not_doubted_one_by_one():
    rows = TRAIN.take(range(120))
    labels = np.random.default_rng(0).permutation(rows.labels).tolist()
    found = review(Rows(rows.texts, labels), folds=3)
    assert not found.wrong
    assert any("no more than chance" in note for note in found.notes)


def test_duplicates_with_other_labels_are_told_with_the_row_that_contradicts():
    texts = [*TRAIN.texts[:120], TRAIN.texts[5].upper(), TRAIN.texts[6] + " !"]
    found = review(Rows(texts, [*TRAIN.labels[:120], "other", "other"]), folds=2)
    pairs = {one["row"]: one["reason"] for one in found.duplicates}
    assert {5, 6, 120, 121} & pairs.keys() and any("says nearly the same" in reason for reason in pairs.values())


def test_several_labels_and_tags_are_looked_at_too():
    lists = [[label, label.split("_")[1]] for label in TRAIN.labels[:150]]
    found = review(Rows(TRAIN.texts[:150], lists), folds=2)
    assert all(isinstance(one["proposed"], list) for one in found.wrong)
    slots = load_tasks("helpdesk", read_tasks({"slots": "slots"})).train.take(range(250))
    tags = review(slots, "slots", {"name": "slots", "tasks": {"slots": "slots"}}, folds=2)
    assert tags.wrong and not tags.duplicates and "product" in str([one["label"] for one in tags.wrong])


# ---- classes

def test_classes_that_a_coin_tells_apart_may_be_one():
    random = np.random.default_rng(0)
    labels, answers = np.repeat([0, 1, 2], 60), random.dirichlet([1, 1, 0.01], 180)
    answers[labels == 2] = [0.02, 0.02, 0.96]
    assert [(one["one"], one["other"]) for one in mixed_pairs(answers, labels, ["a", "b", "c"])] == [("a", "b")]


def test_points_are_cut_where_there_is_a_gap():
    noise = np.random.default_rng(0).standard_normal((40, 2)) * 0.05
    points = np.concatenate([np.zeros((30, 2)), np.ones((10, 2))]) + noise
    side, left = in_two(points)
    assert sorted([side.sum(), (~side).sum()]) == [10, 30] and left < 0.1


def test_rows_needed_are_more_than_there_are_or_out_of_reach():
    whole = {"a": (90, 100), "b": (88, 100), "c": (60, 100)}
    half = {"a": (40, 50), "b": (39, 50), "c": (20, 50)}
    found = rows_needed([(150, half), (300, whole)], ["c"])["c"]
    assert found["needed"] is None or found["needed"] > 100
    flat = rows_needed([(150, {"a": (45, 50), "c": (10, 50)}), (300, {"a": (90, 100), "c": (20, 100)})], ["c"])["c"]
    assert flat["high"] is None, "a curve that does not rise reaches nothing"
    assert rows_needed([(300, whole)], ["c"])["c"]["needed"] is None, "one point is no curve"


def test_a_share_has_an_interval_around_it():
    assert share(3, 10).low < 0.3 < share(3, 10).high


# ---- what to label next

@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 50), st.integers(0, 5), st.integers(0, 1000))
def test_every_strategy_gives_each_row_once(rows, asked, labelled, seed):
    random = np.random.default_rng(seed)
    states = unit(random.standard_normal((rows, 4)).astype(np.float32))
    pool = Pool(states, random.dirichlet([1, 1, 1], rows), states[:labelled], np.array([labelled, 0, 0]))
    for name, strategy in STRATEGIES.items():
        found = strategy.choose(pool, asked, random).tolist()
        assert len(found) == len({*found}) == min(rows, asked), name
    cold = by_first(Pool(states, None, states[:0], np.zeros(0)), asked, random).tolist()
    assert len({*cold}) == len(cold) == min(rows, asked)


def test_neighbours_do_not_depend_on_blocks(monkeypatch):
    states = unit(np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    whole = neighbours(states, 4)
    monkeypatch.setattr("clfm_kit_labels.states.BLOCK", 7)
    assert (neighbours(states, 4)[0] == whole[0]).all()


def test_a_large_pool_is_read_in_blocks_and_few_rows_are_kept(monkeypatch):
    monkeypatch.setattr("clfm_kit_labels.suggesting.BLOCK", 64)
    monkeypatch.setattr("clfm_kit_labels.suggesting.KEPT", 40)
    monkeypatch.setattr("clfm_kit_labels.suggesting.WIDE", 1)
    pool = [*TRAIN.texts[100:400], *TRAIN.texts[100:110]]
    found = suggest(TRAIN.take(range(120)), pool, 20)
    assert len(found.chosen) == 20 and found.rows == 310
    assert "left out as labelled already: 30 rows of the pool" in found.notes
    assert all(pool[one["row"]] == one["text"] for one in found.chosen)


def test_what_cannot_be_suggested_is_said():
    labelled = TRAIN.take(range(60))
    for pool, by, said in (
        (labelled.texts, "mix", "labelled already"), ([], "mix", "no rows"), (TRAIN.texts[60:90], "best", "strategy"),
    ):
        with pytest.raises(UserError, match=said): suggest(labelled, pool, 5, by)
    with pytest.raises(UserError, match="asks a model"): suggest(None, TRAIN.texts[:30], 5, "margin")
    assert "all 5 labelled rows are x" in suggest(Rows(TRAIN.texts[:5], ["x"] * 5), TRAIN.texts[5:40], 3).notes[0]


# ---- commands

def test_commands_write_what_is_to_be_corrected_and_labelled(tmp_path):
    tickets = csv(tmp_path / "tickets.csv", ["=SUM(A1)", *TRAIN.texts[:150]], ["track_order", *TRAIN.labels[:150]])
    done = clfm("labels", tickets, "--out", tmp_path / "to_correct.csv", "--json")
    assert done.returncode == 0, done.stderr
    facts, read = json.loads(done.stdout), [record for _, record in records(tmp_path / "to_correct.csv")[1]]
    assert {one["row"] for one in facts["wrong"]} <= {int(record["row"]) for record in read}
    assert [*read[0]] == ["row", "text", "label", "proposed", "probability", "reason", "correct"]
    pool = csv(tmp_path / "pool.csv", ["=cmd()", *TRAIN.texts[150:200]], [""] * 51)
    done = clfm("suggest", tickets, "--unlabelled", pool, "-n", 51, "--out", tmp_path / "to_label.csv")
    assert done.returncode == 0, done.stderr
    assert "'=cmd()" in (tmp_path / "to_label.csv").read_text(encoding="utf-8")


def test_bad_input_is_one_sentence(tmp_path):
    one = csv(tmp_path / "one.csv", TRAIN.texts[:20], ["only"] * 20)
    good = csv(tmp_path / "good.csv", TRAIN.texts[:40], TRAIN.labels[:40])
    for words, said in (
        (("labels", one), "only one class"), (("labels", tmp_path / "none.csv"), "none.csv"),
        (("labels", good, "--out", good), "is the data"),
        (("labels", good, "--task", "intent"), "task 'intent' does not exist"),
        (("suggest", good, "--unlabelled", good), "labelled already"),
        (("suggest", good, "--unlabelled", good, "--by", "luck"), "luck"),
    ):
        done = clfm(*words)
        assert done.returncode and said in done.stderr and "Traceback" not in done.stderr, (words, done.stderr)
    assert not Path(tmp_path, "none.csv").exists()
