"""Labelled files: what is written is what was there but for the change, which is logged; nobody's work is lost."""
import csv
import gc
import io
import json
import platform
from pathlib import Path

import numpy as np
import pytest
import small_decoder
from command import clfm
from hypothesis import given, settings
from hypothesis import strategies as st

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.data import changes
from clfm_kit.data.changes import LabelledFile, known_label
from clfm_kit.data.origin import fingerprint
from clfm_kit.data.rows import SHIPPED, LeftOut
from clfm_kit.data.texts import tables_to_answer
from clfm_kit.notebook.widgets import ErrorBrowser
from clfm_kit_labels.agreement import adjudication, agreement
from clfm_kit_labels.corrections import correct
from clfm_kit_labels.differences import differences
from clfm_kit_labels.labeller import Labeller
from clfm_kit_labels.proposed import fit_with_proposed, judged

POOL = "text,label\nwhere is my parcel,track\ncancel it please,cancel\nsend it back,\n"


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "pool.csv").write_text(POOL, encoding="utf-8")
    return tmp_path / "pool.csv"


# ---- the file

CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('"\n,;\t\'=-'), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(CELL.filter(str.strip), CELL), min_size=1, max_size=6), separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]), encoding=st.sampled_from(["utf-8", "utf-8-sig"]), data=st.data(),
)
def test_a_file_is_as_it_was_but_for_the_label_that_was_set(rows, separator, end, encoding, data, tmp_path_factory):
    path, written = tmp_path_factory.mktemp("rows") / "rows.csv", io.StringIO(newline="")
    table = [("text", "other", "label"), *((text, other, "a") for text, other in rows)]
    csv.writer(written, delimiter=separator, lineterminator=end).writerows(table)
    path.write_bytes(written.getvalue().encode(encoding))
    row = data.draw(st.integers(0, len(rows) - 1))
    LabelledFile(path, separator=separator).set(row, "b")
    text = path.read_bytes()
    assert text.startswith("\ufeff".encode()) == (encoding == "utf-8-sig")
    found = list(csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), delimiter=separator))
    expected = [list(line) for line in table]
    expected[row + 1][2] = "b"
    assert found == expected
    assert (b"\r\n" in text) >= (end == "\r\n")


@settings(deadline=None, max_examples=30)
@given(records=st.lists(st.dictionaries(st.sampled_from(["n", "deep"]), st.recursive(
    st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)), min_size=1, max_size=4))
def test_json_lines_keep_their_other_fields(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    records = [dict(record, text=f"text {n}", label="a") for n, record in enumerate(records)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    LabelledFile(path).set(0, ["a", "b"])
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert found == [records[0] | dict(label=["a", "b"]), *records[1:]]


def test_a_change_is_logged_with_when_and_what_and_no_name(pool):
    file = LabelledFile(pool)
    file.set(0, "cancel")
    file.set(0, "cancel")  # which changes nothing
    file.note(0, "   ")
    first, change = [json.loads(line) for line in file.log.read_text(encoding="utf-8").splitlines()]
    assert first["field"] == "file" and first["from"] is None
    assert {name: change[name] for name in ("row", "field", "from", "to")} == dict(
        row=0, field="label", **{"from": "track", "to": "cancel"}
    )
    assert change["fingerprint"] == file.fingerprint != first["to"] and change["when"].endswith("+00:00")
    assert change.keys() == {"when", "row", "field", "from", "to", "fingerprint"}
    assert platform.node() not in file.log.read_text(encoding="utf-8") or not platform.node()
    assert not list(pool.parent.glob(".*"))  # nothing half written


def test_a_file_changed_underneath_is_left_and_both_versions_are_kept(pool):
    mine, other = LabelledFile(pool), LabelledFile(pool)
    other.set(2, "track")
    for label in ("cancel", "return"):
        with pytest.raises(UserError, match=r"pool\.csv was changed or taken away by.*pool\.mine\.csv"):
            mine.set(2, label)
    assert LabelledFile(pool).labels[2] == "track" and len(LabelledFile(pool).changes()) == 2
    assert LabelledFile(pool.with_name("pool.mine.csv")).labels[2] == "return"
    with pytest.raises(UserError, match="is left as it is"): mine.set(0, "return")
    assert LabelledFile(pool.with_name("pool.mine.csv")).labels == ["return", "cancel", "return"]
    pool.unlink()
    with pytest.raises(UserError, match=r"pool\.mine\.csv"): mine.set(1, "return")


def test_two_who_were_too_late_lose_nothing_to_each_other(pool):
    first, second, third = LabelledFile(pool), LabelledFile(pool), LabelledFile(pool)
    first.set(2, "return")
    for late, name in ((second, "a"), (third, "b"), (second, "a")):
        with pytest.raises(UserError, match="left as it is"): late.set(2, name)
    assert LabelledFile(pool.with_name("pool.mine.csv")).labels[2] == "a"
    assert LabelledFile(pool.with_name("pool.mine1.csv")).labels[2] == "b"


def test_what_could_not_be_saved_is_not_held_either(pool, monkeypatch):
    def full(*given, **more): raise UserError("no space left")
    file = LabelledFile(pool)
    monkeypatch.setattr(changes, "write_records", full)
    with pytest.raises(UserError, match="no space"): file.set(2, "return")
    assert file.labels[2] is None and LabelledFile(pool).fingerprint == file.fingerprint
    monkeypatch.undo()
    assert file.write({2: {"label": "return"}}) == 1 and LabelledFile(pool).labels[2] == "return"


def test_the_log_says_that_something_else_changed_the_file(pool):
    LabelledFile(pool).set(2, "track")
    pool.write_text(POOL.replace(",cancel", ",track"), encoding="utf-8")
    file = LabelledFile(pool)
    file.set(2, "cancel")
    lines = file.changes()
    assert [line["field"] for line in lines] == ["file", "label", "file", "label"]
    assert lines[2]["from"] == lines[1]["fingerprint"] and lines[2]["to"] != lines[1]["fingerprint"]


def test_a_card_names_the_fingerprint_of_the_file(tiny, tmp_path):
    rows = load_data("helpdesk").train.take(range(60))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(
        json.dumps(dict(text=text, label=label)) + "\n" for text, label in zip(rows.texts, rows.labels)
    ), encoding="utf-8")
    file = LabelledFile(path)
    file.set(0, rows.labels[1])
    saved = Classifier("probe", tiny, cache=None).fit(path).save_pretrained(tmp_path / "model")
    assert file.fingerprint in (saved / "README.md").read_text(encoding="utf-8")
    assert file.fingerprint == file.changes()[-1]["fingerprint"] == fingerprint(load_data(path).train)


@pytest.mark.parametrize("content, said", [
    ("text,label\n", "has no rows"), ("text,label\na,x\n".encode("utf-16"), "UTF-16"), ("a,b\n1,2\n", "text column"),
])
def test_what_no_label_can_be_kept_in_is_said(content, said, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said): LabelledFile(path)
    with pytest.raises(UserError, match="parquet"): LabelledFile(tmp_path / "rows.parquet.gz")


def test_a_file_stays_in_its_encoding(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("text,label\nwo bleibt mein Geld für Köln,\nzurück,é\n".encode("cp1252"))
    file = LabelledFile(path, encoding="cp1252")
    file.set(0, "é")
    assert path.read_bytes() == "text,label\nwo bleibt mein Geld für Köln,é\nzurück,é\n".encode("cp1252")
    with pytest.raises(UserError, match="'λ' cannot be written in cp1252"): file.set(1, "λ")
    assert file.labels == LabelledFile(path, encoding="cp1252").labels == ["é", "é"]
    assert [one["to"] for one in file.changes()][1:] == ["é"]


@pytest.mark.parametrize("torn", ['{"when": "20', "\xff"])
def test_a_line_of_the_log_that_was_cut_off_is_let_go(torn, pool):
    LabelledFile(pool).set(2, "track")
    whole = LabelledFile(pool).changes()
    with open(pool.with_name("pool.csv.changes.jsonl"), "a", encoding="latin-1") as log: log.write(torn)
    file = LabelledFile(pool)
    assert file.changes() == whole
    file.set(2, "return")
    assert [(one["from"], one["to"]) for one in LabelledFile(pool).changes()][-1] == ("track", "return")


def test_a_last_line_that_lacks_only_its_end_stays(pool):
    LabelledFile(pool).set(2, "track")
    log = pool.with_name("pool.csv.changes.jsonl")
    log.write_bytes(log.read_bytes().rstrip(b"\n"))
    file = LabelledFile(pool)
    file.set(2, "return")
    assert [one["to"] for one in LabelledFile(pool).changes() if one["field"] == "label"] == ["track", "return"]


@pytest.mark.parametrize("line, said", [("{", "line 3 is no JSON"), ("[1]", "line 3 is no change")])
def test_a_damaged_log_is_told_with_its_line(line, said, pool):
    LabelledFile(pool).set(2, "track")
    with open(pool.with_name("pool.csv.changes.jsonl"), "a") as log: log.write(f"{line}\n")
    with pytest.raises(UserError, match=said): LabelledFile(pool)


def test_a_log_is_no_data_of_its_folder(pool):
    LabelledFile(pool).set(2, "track")
    assert [Path(table).name for table in tables_to_answer(str(pool.parent))] == ["pool.csv"]


# ---- proposed labels are none

def test_what_is_proposed_is_measured_on_by_nothing(tiny, fitted, pool):
    LabelledFile(pool).write({2: {"proposed": "cancel", "proposed_by": "a teacher"}})
    clf = Classifier.from_pretrained(fitted)
    with pytest.warns(LeftOut, match="1 rows without a label are left out, 1 of them with a proposed one"):
        assert len(load_data(pool).train) == 2
    with pytest.raises(UserError, match="nobody has confirmed"): load_data(pool, label="proposed")
    with pytest.raises(UserError, match="nobody has confirmed"):
        Classifier("probe", tiny, tasks={"intent": "proposed"}, cache=None).fit(pool)
    for name in ("evaluate", "compare"):
        where = [fitted, "--data", pool] if name == "evaluate" else ["probe", "--data", pool, "--model", tiny]
        found = clfm(name, *where, "--label-column", "proposed")
        assert found.returncode and "nobody has confirmed" in found.stderr
    assert clf.predict(["where is it"])


def test_a_teacher_proposes_and_its_proposals_stay_apart(tiny, fitted, pool):
    found = clfm("propose", pool, "--teacher", fitted, "--json")
    assert found.returncode == 0, found.stderr
    said, file = json.loads(found.stdout), LabelledFile(pool)
    assert said["rows"] == 1 and sum(said["counts"].values()) == 1
    record = file.records[2]
    assert file.labels[2] is None and record["proposed"] in said["counts"] and 0 < float(record["probability"]) <= 1
    assert record["proposed_by"] == f"teacher {fitted}" and file.changes()[-1]["field"] == "proposed_by"
    with pytest.warns(LeftOut): before = fingerprint(load_data(pool).train)
    assert before == file.fingerprint
    assert judged(file).rows == 0
    file.set(2, record["proposed"])
    assert judged(file).right == 1
    assert "every row of pool.csv has a label" in clfm("propose", pool, "--teacher", fitted).stderr


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return small_decoder.decoder(tmp_path_factory.mktemp("decoder"), load_data("helpdesk").train.texts)


@pytest.mark.parametrize("base", ["tiny", "decoder"])
def test_labels_proposed_by_their_names(base, pool, request):
    found = clfm("propose", pool, "--labels", "track,cancel", "--model", request.getfixturevalue(base))
    assert found.returncode == 0, found.stderr
    assert LabelledFile(pool).records[2]["proposed"] in ("track", "cancel")
    assert "count as none until they are confirmed" in found.stdout


def test_a_model_fitted_with_proposed_labels_says_so(tiny, tmp_path):
    rows = load_data("helpdesk").train
    some = [
        (text, label) for text, label in zip(rows.texts, rows.labels) if label in ("cancel_order", "track_order")
    ][:80]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(
        dict(text=text, **(dict(label=label) if n < 40 else dict(label=None, proposed=label, probability=.95)))
    ) + "\n" for n, (text, label) in enumerate(some)), encoding="utf-8")
    clf = fit_with_proposed(Classifier("probe", tiny, cache=None), LabelledFile(path))
    assert clf.reports_["validation"].rows == 20
    card = (clf.save_pretrained(tmp_path / "model") / "README.md").read_text(encoding="utf-8")
    assert "pool.jsonl with 40 proposed labels" in card


# ---- the error browser

def test_the_error_browser_writes_the_same_file_and_log(tiny, tmp_path):
    rows = load_data("helpdesk").train.take(range(80))
    path = write_pool(tmp_path / "rows.jsonl", zip(rows.texts, rows.labels))
    clf = Classifier("probe", tiny, cache=None).fit(path)
    view = ErrorBrowser.of(clf, path, file=path)
    row, label = view.mistakes[0], view.order[0] if view.labels[view.mistakes[0]] != view.order[0] else view.order[1]
    view.relabel(row, label)
    assert LabelledFile(path).labels[row] == label and "saved in rows.jsonl" in view.to_html()
    assert [line["to"] for line in LabelledFile(path).changes()][-1] == label
    view.relabel(row, None)
    assert LabelledFile(path).labels == rows.labels
    with pytest.raises(UserError, match="belongs to clfm-kit"):
        ErrorBrowser.of(clf, path, file=SHIPPED / "helpdesk" / "train.jsonl")
    LabelledFile(path).note(0, "changed elsewhere")
    with pytest.raises(UserError, match="by something else"): view.relabel(row, label)
    assert not view.new  # nothing is shown as saved that is not


# ---- commands

def test_relabel_takes_all_or_nothing(pool, tmp_path):
    table = tmp_path / "corrected.csv"
    table.write_text("text,label,proposed\nsend it back, Cancel ,x\nwhere is my parcel,cancle,x\n", encoding="utf-8")
    found = clfm("relabel", pool, table)
    assert found.returncode and "line 3: unknown label 'cancle'; did you mean 'cancel'?" in found.stderr
    assert "Traceback" not in found.stderr and pool.read_text(encoding="utf-8") == POOL
    found = clfm("relabel", pool, table, "--new-label", "cancle", "--json")
    said = json.loads(found.stdout)
    assert said["read_as"] == {"Cancel": "cancel"} and [one["to"] for one in said["changed"]] == ["cancel", "cancle"]
    assert LabelledFile(pool).labels == ["cancle", "cancel", "cancel"]


def test_a_correction_is_about_the_row_that_had_its_label(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nsame,a\nother,a\nsame,b\n")
    record = dict(row=0, text="same", label="b", correct="a")  # row 0 has this text, but another label
    assert [one["row"] for one in correct(LabelledFile(path), [("line 2", record)]).changed] == [2]
    moved = dict(row=1, text="other", label="b", correct="a")
    assert correct(LabelledFile(path), [("line 2", moved)]).same == 1  # it is right already
    with pytest.raises(UserError, match="line 2: no row of rows.csv with this text has the label 'c' any more"):
        correct(LabelledFile(path), [("line 2", dict(row=1, text="other", label="c", correct="b"))], ["b"])
    empty, clear = dict(text="same", label="a", correct=""), dict(row=1, text="other", label="a", correct="b")
    # an empty one need not be clear
    assert correct(LabelledFile(path), [("line 2", empty), ("line 3", clear)], ["b"]).empty == 1


def test_several_labels_are_corrected_as_they_are_shown(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "x", "labels": ["a", "b"]}\n{"text": "y", "labels": ["c"]}\n')
    told = [dict(text="x", label="a, b", correct="c, a"), dict(text="y", label="c", correct="b")]
    correct(LabelledFile(path), [(f"line {line}", record) for line, record in enumerate(told)])
    assert LabelledFile(path).labels == [["c", "a"], ["b"]]


def test_a_filled_file_is_not_written_over(pool, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("row,text,label,guess,probability\n0,where is my parcel,track,,\n")
    given = ["--unlabelled", str(pool), "-n", "1", "--out", str(out)]
    done = clfm("suggest", *given)
    assert done.returncode == 2 and "out.csv has 1 answers in column 'label'" in done.stderr
    done = clfm("labels", str(pool), "--out", str(tmp_path / "none" / "out.csv"))
    assert done.returncode == 2 and "there is no folder" in done.stderr


def test_diff_of_a_file_and_what_it_became(pool, tmp_path):
    old = tmp_path / "old.csv"
    old.write_text(POOL, encoding="utf-8")
    LabelledFile(pool).set(2, "track")
    said = json.loads(clfm("diff", old, pool, "--json").stdout)
    assert said["changed"] == [{"part": "train", "row": 2, "text": "send it back", "from": None, "to": "track"}]
    assert said["fingerprints"] == [LabelledFile(old).fingerprint, LabelledFile(pool).fingerprint]
    assert said["labelled"] == [2, 3] and not said["added"] and not said["removed"]
    assert "the same rows with the same labels" in clfm("diff", old, old).stdout


@settings(deadline=None, max_examples=60)
@given(*[st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=8) for _ in range(2)])
def test_what_differs_is_what_makes_one_version_of_the_other(a, b):
    found = differences(a, b)
    rows = sorted(a)
    for one in found.removed: rows.remove((one["text"], one["label"]))
    for one in found.changed: rows.remove((one["text"], one["from"]))
    rows += [(one["text"], one["to"]) for one in found.changed] + [(one["text"], one["label"]) for one in found.added]
    assert sorted(rows) == sorted(b)
    assert bool(found) == (sorted(a) != sorted(b)) == (found.fingerprints[0] != found.fingerprints[1])
    assert not {one["text"] for one in found.removed} & {one["text"] for one in found.added}


def test_spellings():
    assert known_label("CANCEL", ["cancel", "track"]) == "cancel" and known_label("cancle", ["cancel"]) is None
    assert known_label("cancel\u200b", ["cancel"]) == "cancel" and known_label("ﬁt", ["fit"]) == "fit"


def test_corrections_of_an_empty_table(pool):
    assert correct(LabelledFile(pool), []).changed == [] and pool.read_text(encoding="utf-8") == POOL


# ---- the widget, its controls pressed through their Python side

HOSTILE = '<script>alert("clfm")</script><img src=x onerror=alert(1)>'


def write_pool(path, rows):
    path.write_text("".join(json.dumps(dict(text=text, label=label)) + "\n" for text, label in rows), encoding="utf-8")
    return path


def controls(view):
    "The field of keys, and buttons by the word that they begin with."
    keys, place, commands, name, buttons, note = view.box.children[1:-2]
    return keys, {one.description: one for one in (*place.children, *commands.children, *buttons.children)}, name, note


def type_keys(field, keys):
    for key in keys: field.value += key


def test_labels_by_key_by_button_and_by_name(tmp_path):
    path = write_pool(tmp_path / "pool.jsonl", [(f"{HOSTILE} {n}", None) for n in range(8)])
    view = Labeller(path, ["cancel", "track"], model=None)
    keys, buttons, name, note = controls(view)
    note.value = "  "
    type_keys(keys, "1")
    keys.value += "2sn"  # several at once, as a slow notebook gets them
    keys.value = keys.value[:-1]  # deletes the last, and so takes it back
    assert view.session.counts() == dict(rows=8, labelled=2, none=0, open=6, elsewhere=0)
    buttons["2 track"].click()
    buttons["None of these (n)"].click()
    buttons["Take back (u)"].click()
    name.value = "TRACK "
    buttons["Give this label"].click()
    name.value = "cancle"
    buttons["Give this label"].click()
    assert "did you mean &#39;cancel&#39;" in view._told.value and name.value == "cancle"
    buttons["Add as a new label"].click()
    assert [button.description for button in view.box.children[2].children] == ["1 cancel", "2 track", "3 cancle"]
    note.value = "hm"
    type_keys(keys, "3?")
    assert "key &#39;?&#39; is no label" in view._told.value
    labels = [label for label in LabelledFile(path).labels if label]
    assert sorted(labels) == ["cancel", "cancle", "track", "track", "track"]
    assert [record.get("note") for record in LabelledFile(path).records].count("hm") == 1
    for page in (view.to_html(), view._body.value): assert "<script" not in page and "<img" not in page
    assert not view.__dict__.get("_busy")


def test_a_labelling_goes_on_after_the_kernel_has_died(tmp_path):
    path = write_pool(tmp_path / "pool.jsonl", [(f"text {n}", None) for n in range(6)])
    first = Labeller(path, ["a", "b"], model=None)
    for key in "12n": first.press(key)
    again = Labeller(path, ["a", "b"], model=None)
    assert set(again.session.waiting) == set(first.session.waiting) and len(again.session.waiting) == 3
    for _ in range(3): again.press("u")
    assert again.session.counts()["open"] == 6
    with pytest.raises(UserError, match="no answer to take back"): again.press("u")


def test_what_is_no_longer_as_it_was_answered_is_not_taken_back(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text(POOL)
    Labeller(path, np.array(["cancel", "track"]), model=None).press("1")
    path.write_text(POOL.replace("send it back,", "send it back,track"))
    view = Labeller(path, model=None)
    with pytest.raises(UserError, match="row 2 is not as it was answered, 'cancel'"): view.session.undo()
    assert LabelledFile(path).labels[2] == "track"


def test_a_widget_whose_file_was_changed_says_so_and_loses_nothing(tmp_path):
    path = write_pool(tmp_path / "pool.jsonl", [(f"text {n}", None) for n in range(6)])
    view = Labeller(path, ["a", "b"], model=None)
    keys = controls(view)[0]
    type_keys(keys, "1")
    LabelledFile(path).note(0, "from elsewhere")
    type_keys(keys, "2")
    assert "by something else" in view._told.value and "pool.mine.jsonl" in view._told.value
    assert LabelledFile(path).labels.count("b") == 0
    assert LabelledFile(path.with_name("pool.mine.jsonl")).labels.count("b") == 1


def test_a_thousand_answers_take_no_more_memory(tmp_path):
    path = write_pool(tmp_path / "pool.jsonl", [(f"text {n}", None) for n in range(1100)])
    view = Labeller(path, [f"label {n}" for n in range(40)], model=None)  # digits stand for the likeliest
    keys = controls(view)[0]
    def size():
        gc.collect()
        return len(widget_instances()), len(gc.get_objects())
    type_keys(keys, "12s3u45n" * 5)
    before = size()
    type_keys(keys, "12s3u45n" * 170)  # 1,020 answers
    after = size()
    assert view.session.counts()["labelled"] + view.session.counts()["none"] == 175 * 5
    assert after[0] == before[0]
    assert after[1] - before[1] < 2000  # nothing is kept of an answer but the place to take it back
    assert len(keys.value) < 200 and len(view.session.past) <= 500


def widget_instances():
    from ipywidgets.widgets import widget
    return widget._instances


def test_a_probe_learns_along_and_says_what_it_is_sure_of(tiny, tmp_path):
    rows = load_data("helpdesk").train
    names = ["cancel_order", "track_order", "refund_status"]
    some = [(text, label) for text, label in zip(rows.texts, rows.labels) if label in names][:60]
    path = write_pool(
        tmp_path / "pool.jsonl", [(text, label if n < 30 else None) for n, (text, label) in enumerate(some)]
    )
    view = Labeller(path, model=tiny, cache=None, every=3)
    view.box
    view.learner.wait(120)
    point = view.learner.curve[-1]
    assert point.rows == 30 and 0 <= point.low <= point.right <= point.high <= 1
    view.press("1")
    assert len(view.session.suggested()) == len({label for _, label in some})
    chances = [chance for _, chance in view.session.suggested()]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1, abs=1e-3)
    for key in "12": view.press(key)
    view.learner.wait(120)
    assert [point.rows for point in view.learner.curve] == [30, 33]
    assert "a probe is right on" in view.to_html() and "<svg" in view.to_html()


def test_one_class_teaches_nothing_and_is_said(tiny, tmp_path):
    path = write_pool(tmp_path / "pool.jsonl", [*((f"text {n}", "x") for n in range(20)), ("c", None)])
    view = Labeller(path, model=tiny, cache=None)
    view.box
    assert "20 rows of 1 such labels so far" in view.to_html() and not view.learner.curve
    view.press("1")
    assert "Every row has been asked" in view.to_html()


def test_a_pool_with_rows_that_are_labelled_already(tmp_path):
    labelled = write_pool(tmp_path / "train.jsonl", [("Where is it", "track"), ("cancel it", "cancel")])
    path = write_pool(tmp_path / "pool.jsonl", [("where  is it", None), ("send it back", None)])
    view = Labeller(path, labelled=labelled, model=None)
    assert list(view.session.waiting) == [1] and view.session.names == ["cancel", "track"]
    assert "1 are labelled elsewhere" in view.to_html() and len(view.session.rows()) == 2


# ---- two people

def test_two_people_agree_and_what_they_differ_on_is_decided(tmp_path):
    rows = [(f"text {n}", None) for n in range(12)]
    views = [Labeller(write_pool(tmp_path / name, rows), ["x", "y"], model=None) for name in ("one.jsonl", "two.jsonl")]
    for view, said in zip(views, ("121212121212", "121212121221")):
        for key in said: view.press(key)
    files = [LabelledFile(tmp_path / name) for name in ("one.jsonl", "two.jsonl")]
    found = agreement(*files)
    assert found.kappa == pytest.approx(2 / 3) and found.low < found.kappa < found.high and len(found.differing) == 2
    third = adjudication(*files, tmp_path / "third.jsonl")
    view = Labeller(third.path, model=None)
    assert len(view.session.waiting) == 2 and "One said" in view.to_html()
    for key in "12": view.press(key)
    assert None not in LabelledFile(third.path).labels
    assert not [path for path in tmp_path.glob("*.mine*")]
    said = clfm("agree", *(file.path for file in files), "--json")
    assert json.loads(said.stdout)["kappa"] == pytest.approx(found.kappa)


def test_what_the_second_wrote_is_not_lost_where_two_labelled(tmp_path):
    rows = [dict(text="a", labels=["x", "y"]), dict(text="b"), dict(text="c", labels=["x"]), dict(text="d")]
    other = [
        dict(text="a", labels=["y", "x"], note="sure"), dict(text="b", labels=["x"], note="late"),
        dict(text="c", mark="none", note="neither"), dict(text="d"),
    ]
    for name, written in (("one.jsonl", rows), ("two.jsonl", other)):
        lines = [json.dumps({"labels": None, "proposed": None} | row) for row in written]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    files = [LabelledFile(tmp_path / name) for name in ("one.jsonl", "two.jsonl")]
    found = agreement(*files)
    assert (found.rows, found.same) == (2, 1)  # the order of several labels is no difference
    assert found.differing == [dict(row=2, text="c", first="x", second="none of these")] and found.alone == [0, 1]
    third = adjudication(*files, tmp_path / "third.jsonl")
    assert third.labels == [["x", "y"], ["x"], None, None]
    assert [record.get("note") for record in third.records] == ["sure", "late", "neither", None]
    assert [record["second"] for record in third.records] == [None, None, "none of these", None]
