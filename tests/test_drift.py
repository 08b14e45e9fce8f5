"""What has moved in new rows since a fit: for every kind of task, through the saved model and the command line."""
import json

import pytest
from clfm_kit import Classifier, UserError
from clfm_kit.classifier.contents import check_contents
from clfm_kit.cli.main import main
from clfm_kit.evaluation.shift import by_chance, share_move, variation
from clfm_kit.study.drift import drift
from hypothesis import given
from hypothesis import strategies as st

CALM, URGENT = "please tell me the colour of the lamp", "the lamp burns and I need help at once"
TEXTS = [f"{said} number {n}" for said in (CALM, URGENT) for n in range(30)]
LABELS = ["ask"] * 30 + ["help"] * 30


def rows(texts): return [(text, {}) for text in texts]


@pytest.fixture(scope="module")
def fitted(tiny): return Classifier("probe", model=tiny, reject=0.95, cache=None).fit(TEXTS, LABELS)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.integers(1, 9))
def test_equal_shares_are_at_no_distance(counts, times):
    assert variation(counts, [times * each for each in counts]) < 1e-9
    assert 0 <= by_chance(counts, counts, draws=20) <= 1


@given(st.tuples(st.integers(0, 30), st.integers(0, 30)), st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_the_interval_of_shares_holds_their_difference_and_turns_with_them(a, b):
    then, now = ((hits, hits + others + 1) for hits, others in (a, b))
    there, back = share_move(then, now), share_move(now, then)
    assert -1 <= there.low <= there.now - there.then + 1e-9 and there.now - there.then <= there.high + 1e-9 <= 1 + 2e-9
    assert there.low == pytest.approx(-back.high) and there.high == pytest.approx(-back.low)


def test_rows_like_those_of_the_fit_have_not_moved_and_others_have(fitted):
    assert drift(fitted, rows(TEXTS)).figures["label: labels"]["clear"] is False
    found = drift(fitted, rows([f"{URGENT} number {n}" for n in range(40)]), most=2)
    assert "label: labels" in found.moved
    assert found.labels["label"]["help"]["low"] > 0 > found.labels["label"]["ask"]["high"]
    assert [len(found.strangest["label"]), found.rows] == [2, 40]
    assert found.figures["label: unanswered"]["then"] <= 0.1


def test_nothing_of_a_text_is_kept(fitted, tmp_path):
    folder = fitted.save_pretrained(tmp_path / "model")
    assert "lamp" not in json.dumps(json.loads((folder / "clfm.json").read_text())["facts"]["reference"])


@pytest.mark.parametrize("task, labels", [
    ("multi", [["ask"] if label == "ask" else ["help", "ask"] for label in LABELS]),
    ("ordinal", [1 if label == "ask" else 2 for label in LABELS]),
])
def test_other_kinds_of_task_have_figures_too(tiny, task, labels):
    clf = Classifier("probe", model=tiny, settings=[f"task={task}"], cache=None).fit(TEXTS, labels)
    found = drift(clf, rows(TEXTS[:20]))
    assert {"label: labels", "label: probability", "label: unsure"} <= {*found.figures}


def test_tags_are_named_and_not_compared(tiny, tmp_path):
    path = tmp_path / "tagged.jsonl"
    words = [text.split() for text in TEXTS[:20]]
    row = lambda each: dict(text=" ".join(each), tokens=each, label=["B-thing", *["O"] * (len(each) - 1)])
    path.write_text("\n".join(json.dumps(row(each)) for each in words))
    slots = dict(label="label", kind="tags", tokens="tokens")
    clf = Classifier("probe", model=tiny, tasks=dict(slots=slots), cache=None).fit(path)
    found = drift(clf, rows(TEXTS[20:40]))
    assert "answers with tags" in str(found) and not found.labels


def test_a_model_made_without_rows_is_refused(tiny):
    clf = Classifier("zero-shot", model=tiny, labels=["ask", "help"], cache=None).fit()
    with pytest.raises(UserError, match="fit it again, on rows"): drift(clf, rows(TEXTS[:3]))


def test_a_reference_that_is_none_is_refused_by_its_name(fitted, tmp_path):
    facts = json.loads((fitted.save_pretrained(tmp_path / "model") / "clfm.json").read_text())
    facts["facts"]["reference"]["tasks"]["label"]["labels"] = "many"
    with pytest.raises(UserError, match="facts.reference.tasks.label.labels"): check_contents(facts, "")


def test_the_command_reads_a_file(fitted, tmp_path, capsys):
    folder, data = fitted.save_pretrained(tmp_path / "model"), tmp_path / "new.csv"
    data.write_text("text\n" + "\n".join(TEXTS[30:]) + "\n")
    main(["drift", str(folder), "--data", str(data), "--json", "-n", "1"])
    found = json.loads(capsys.readouterr().out)
    assert "label: labels" in found["moved"] and len(found["strangest"]["label"]) == 1


def test_a_file_without_rows_and_a_missing_one_are_told(fitted, tmp_path, capsys):
    folder, data = fitted.save_pretrained(tmp_path / "model"), tmp_path / "new.csv"
    data.write_text("text\n")
    for path in (data, tmp_path / "none.csv"):
        with pytest.raises(SystemExit, match="2"): main(["drift", str(folder), "--data", str(path)])
    said = capsys.readouterr().err
    assert "no rows" in said and "none.csv" in said and "Traceback" not in said
