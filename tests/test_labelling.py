"""Labelled files: what is written is what was there but for the change, which is logged; nobody's work is lost."""
import csv
import io
import json
import platform

import pytest
from command import clfm
from hypothesis import given, settings
from hypothesis import strategies as st

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.data.changes import LabelledFile, known_label
from clfm_kit.data.origin import fingerprint
from clfm_kit.data.rows import LeftOut
from clfm_kit_labels.corrections import correct
from clfm_kit_labels.differences import differences

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
        with pytest.raises(UserError, match=r"pool\.csv was changed by something else.*pool\.mine\.csv"):
            mine.set(2, label)
    assert LabelledFile(pool).labels[2] == "track" and len(LabelledFile(pool).changes()) == 2
    assert LabelledFile(pool.with_name("pool.mine.csv")).labels[2] == "return"
    with pytest.raises(UserError, match="is left as it is"): mine.set(0, "return")
    assert LabelledFile(pool.with_name("pool.mine.csv")).labels == ["return", "cancel", "return"]
    pool.unlink()
    with pytest.raises(UserError, match=r"pool\.mine\.csv"): mine.set(1, "return")


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
