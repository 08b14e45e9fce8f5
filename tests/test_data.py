"""Hostile and unusual input: every fault is one sentence with the file and line, or the row, and the field."""
import gzip
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from clfm_kit.data import files
from clfm_kit.data.rows import Rows, Splits, load_data, read_rows
from clfm_kit.data.splitting import normalised, split_off
from clfm_kit.data.report import data_report
from clfm_kit.errors import UserError
from clfm_kit.builtin.formats import Encoded
from hypothesis import given, settings
from hypothesis import strategies as st

TABLE = [
    {"text": "fine, really", "label": "good"}, {"text": 'he said "no"\nand left', "label": "bad"},
    {"text": "", "label": "bad"},
]


def save(path, records=TABLE):
    frame = pandas.DataFrame(records)
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet": frame.to_parquet(path)
    elif kind in ("csv", "tsv"): frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    else: path.write_bytes(gzip.compress(lines) if path.name.endswith(".gz") else lines)
    return path


def said(source, **columns):
    with pytest.raises(UserError) as caught: load_data(source, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet"])
def test_every_kind_of_file_reads_the_same(tmp_path, name):
    rows = read_rows(save(tmp_path / name))
    assert (rows.texts, rows.labels) == ([row["text"] for row in TABLE], [row["label"] for row in TABLE])


def test_memory_reads_the_same_as_files():
    import datasets
    wanted = read_rows(TABLE)
    columns = {key: [row[key] for row in TABLE] for key in TABLE[0]}
    for source in (
        pandas.DataFrame(TABLE), datasets.Dataset.from_dict(columns),
        [(row["text"], row["label"]) for row in TABLE], iter(TABLE),
    ):
        found = read_rows(source)
        assert (found.texts, found.labels) == (wanted.texts, wanted.labels)


def test_class_numbers_become_names():
    import datasets
    names = datasets.ClassLabel(names=["ham", "spam"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(names), "label": names})
    data = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "labels": [[1, 0], []], "label": [1, 1]}, features=features
    )
    assert read_rows(data).labels == ["spam", "spam"]
    assert read_rows(data, label="labels").labels == [["spam", "ham"], []]


def test_hub_parts_without_labels():
    import datasets
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    part = lambda numbers: datasets.Dataset.from_dict({"text": ["a", "b"], "label": numbers}, features=features)
    data = load_data(datasets.DatasetDict(train=part([0, 1]), test=part([-1, -1])))
    assert data.train.labels == ["ham", "spam"] and data.test.labels is None
    assert "row 1: field 'label'" in said(part([1, -1]))


def test_folder(tmp_path):
    save(tmp_path / "train.jsonl.gz"), save(tmp_path / "dev.csv")
    found = load_data(tmp_path)
    assert [split for split, _ in found.items()] == ["train", "validation"] and found.name == tmp_path.name
    save(tmp_path / "train.tsv")
    assert "train.jsonl.gz and train.tsv for train" in said(tmp_path)


def test_tags():
    row = {"tokens": ["to", "Rome"], "slots": ["O", "I-place"], "text": "to  Rome"}
    rows = read_rows([row], label="slots")
    assert (
        rows.kind, rows.texts, rows.tokens, rows.labels
    ) == ("tags", ["to  Rome"], [["to", "Rome"]], [["O", "I-place"]])
    assert "I- tag" in data_report(Splits(rows)).warnings[0]
    assert "row 0: 1 tags in 'slots' for 2 tokens" in said([row | {"slots": ["O"]}], label="slots")
    assert "row 0: tag 'place'" in said([row | {"slots": ["O", "place"]}], label="slots")
    assert "row 0: field 'tokens' is None" in said([row | {"tokens": None}], label="slots")
    assert "row 0" in said([row | {"slots": "O O"}], label="slots")


def test_several_labels_in_a_csv(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\na,"[""x"", ""y""]"\nb,[]\n')
    assert read_rows(tmp_path / "a.csv").labels == [["x", "y"], []]
    (tmp_path / "a.csv").write_text("text,label\na,\"['x', 'y']\"\n")  # as pandas writes a column of lists
    assert read_rows(tmp_path / "a.csv").labels == [["x", "y"]]
    (tmp_path / "a.csv").write_text("text,label\na,\"[x, y]\"\n")
    assert "a.csv line 2: field 'label'" in said(tmp_path / "a.csv")


@pytest.mark.parametrize("value", [None, float("nan"), pandas.NA, pandas.NaT, np.float64("nan")])
@pytest.mark.parametrize("column", ["text", "label"])
def test_missing_values(value, column):
    good = {"text": "a", "label": "x"}
    assert f"row 1: field {column!r} is" in said([good, good | {column: value}])
    assert f"row 1: field {column!r} is" in said(pandas.DataFrame([good, good | {column: value}]).astype(object))


FILES = {
    "ragged.csv": (b"text,label\na,x\nb\n", "ragged.csv line 3: 1 fields"),
    "quote.csv": (b'text,label\n"a\nb,x\n', "quote.csv line 2"),
    "empty.csv": (b"", "empty.csv has no rows"),
    "header.csv": (b"text,label\n", "header.csv has no rows"),
    "latin.csv": ("text,label\na,x\né,y\n".encode("latin1"), "latin.csv line 3: byte 0xe9 is not UTF-8"),
    "wide.csv": ("text,label\na,x\n".encode("utf-16")[:-1], "wide.csv line 2: byte 0x0a is not utf-16"),
    "label.csv": (b"text,label\na,\n", "label.csv line 2: field 'label' is ''"),
    "missing.jsonl": (b'{"text": "a"}\n{"txt": "b"}\n', "missing.jsonl line 2: field 'text' is None"),
    "nan.jsonl": (b'{"text": "a", "label": NaN}\n', "nan.jsonl line 1: field 'label' is nan"),
    "cut.jsonl": (b'{"text": "a"}\n{"te', "cut.jsonl line 2: broken JSON"),
    "deep.jsonl": (b"[" * 100_000, "deep.jsonl line 1: broken JSON"),
    "list.jsonl": (b'["a"]\n', "list.jsonl line 1: not a JSON object"),
    "late.jsonl": (b'{"text": "a"}\n{"text": "b", "label": "x"}\n', "late.jsonl line 2 has a label"),
    "number.jsonl": (b'{"text": 3}\n', "number.jsonl line 1: field 'text' is 3 (int)"),
    "nested.jsonl": (b'{"text": "a", "label": {"x": 1}}\n', "nested.jsonl line 1: field 'label'"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 1000)[:-12], "cut.jsonl.gz is damaged or cut off"),
    "plain.jsonl.gz": (b'{"text": "a"}\n', "plain.jsonl.gz is damaged or cut off"),
    "no.parquet": (b"PAR1 no", "no.parquet cannot be read"),
    "no.xlsx": (b"", "files are read by their ending"),
}


@pytest.mark.parametrize("name", FILES)
def test_faulty_files_are_named_with_the_line(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name][0])
    assert FILES[name][1] in said(tmp_path / name)


def test_columns_and_names(tmp_path):
    message = said([{"Text": "a", "y": 1}])
    assert "did you mean 'Text'" in message and "known: Text, y" in message and "text=" in message
    assert "did you mean 'intent'" in said([{"text": "a", "intent": 1}], label="intents")
    assert "did you mean 'helpdesk'" in said("helpdesc")
    assert "is not a file" in said(str(tmp_path / "none.jsonl"))
    assert "no file such as train.jsonl" in said(tmp_path)
    assert "row 0: 3 given" in said([3])


def test_unreadable_folder_entry(tmp_path):
    (tmp_path / "train.jsonl").mkdir()
    assert "no file such as train.jsonl" in said(tmp_path)


@pytest.mark.parametrize("text", [
    "", " \t\n", "x" * 300_000, "🙂👩‍👩‍👧", "שלום عالم hello", "a\x00b", "\u2028line"
])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_strange_texts_survive(tmp_path, name, text):
    rows = read_rows(save(tmp_path / name, [{"text": text, "label": "x"}, {"text": "b", "label": "y"}]))
    assert rows.texts == [text, "b"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=3, unique=True), min_size=8, max_size=80),
    st.floats(0.1, 0.5), st.integers(0, 9),
)
def test_holding_out_loses_nothing_and_keeps_every_label(labels, share, seed):
    # some are equal but for case and spaces
    rows = Rows([f"text {i // 7}" if i % 7 == 0 else f"Text  {i // 7}" if i % 7 == 1 else f"other {i}"
                 for i in range(len(labels))], labels)
    try: rest, held = split_off(rows, share, seed)
    except UserError: return
    assert Counter(rest.texts + held.texts) == Counter(rows.texts)
    assert {name for names in labels for name in names} == {name for names in rest.labels for name in names}
    assert not {normalised(text) for text in rest.texts} & {normalised(text) for text in held.texts}
    again = split_off(rows, share, seed)
    assert again[1].texts == held.texts


def test_holding_out_is_proportional():
    labels = ["a"] * 700 + ["b"] * 200 + ["c"] * 50 + ["d"] * 2 + ["e"]
    rest, held = split_off(Rows([f"t{i}" for i in range(len(labels))], labels), 0.2, 3)
    assert Counter(held.labels) == {"a": 140, "b": 40, "c": 10}
    assert len(split_off(Rows([f"t{i}" for i in range(50)]), 0.2)[1]) == 10


def test_holding_out_several_tasks_is_the_same_in_every_process():
    code = (
        "import random\nfrom clfm_kit.data.rows import Rows\nfrom clfm_kit.data.splitting import split_off\n"
        "choice = random.Random(5).choice\n"
        "for _ in range(40):\n"
        "    tasks = {name: [choice('xy') for _ in range(12)] for name in 'ab'}\n"
        "    print(split_off(Rows([f'text {n}' for n in range(12)], tasks), 0.2)[1].texts)\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")  # sets have other orders
    }
    assert len(found) == 1


def test_report():
    train = Rows(["Hello", "hello ", "", "bye"], ["x", "y", "y", "y"])
    report = data_report(
        Splits(train, test=Rows(["HELLO", "new"], ["x", "z"]), name="<data>"),
        lambda texts: Encoded([], [], np.array([len(t) > 4 for t in texts])),
    )
    assert report.parts["train"]["empty"] == [2] and report.parts["train"]["conflicts"] == [(0, 1)]
    assert report.parts["train"]["truncated"] == 0.5
    assert report.parts["test"]["also in train"] == [0] and report.parts["test"]["unseen labels"] == {"z": 1}
    assert report.classes == {"y": {"train": 3}, "x": {"train": 1, "test": 1}, "z": {"test": 1}}
    json.dumps(report.to_dict())
    assert "&lt;data&gt;" in report._repr_html_() and "<data>" not in report._repr_html_()


def test_report_without_labels_or_training_part():
    report = data_report(Splits(test=Rows(["a", "b"])))
    assert report.kind == "" and report.warnings == [] and "No warnings" in report._repr_html_()


def test_importing_stays_light():
    code = (
        "import sys, clfm_kit.data.rows, clfm_kit.data.report; print([m for m in ('pandas', 'datasets', 'pyarrow', "
        "'torch', 'rich') if m in sys.modules])"
    )
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip() == "[]"


@pytest.mark.parametrize("metadata", [
    b"{", b"\xff", b'{"info": 3}', b'{"info": null}', b'{"info": {"features": []}}',
    b'{"info": {"features": {"label": {"_type": "Nope"}}}}',
    b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}}',
])
def test_hugging_face_metadata_that_are_none(tmp_path, metadata):
    table = pyarrow.table({"text": ["a b", "c d"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet cannot be read, as its Hugging Face metadata are none"):
        load_data(tmp_path / "a.parquet")


def test_a_footer_that_is_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a b", "c d"], "label": ["x", "y"]}), path)
    whole = path.read_bytes()
    for place in range(len(whole) - 8, len(whole) - 400, -1):
        path.write_bytes(whole[:place] + b"\x80" + whole[place + 1:])
        try: load_data(path)
        except UserError as error: assert "a.parquet" in str(error)


def test_a_column_that_stands_twice_in_parquet_is_refused(tmp_path):
    """Rows as mappings would keep the last, whatever that holds."""
    columns = [["a", "b"], ["x", "y"], ["late", "wrong"]]
    table = pyarrow.Table.from_arrays([*map(pyarrow.array, columns)], names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet: the header names a column twice (text, label, label)" in said(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind, value", [
    (pyarrow.date32(), 2**30), (pyarrow.timestamp("us"), 2**62), (pyarrow.duration("ms"), 2**62),
])
def test_a_date_that_python_has_not_is_told(kind, value, tmp_path):
    date = pyarrow.array([value], pyarrow.int32() if kind == pyarrow.date32() else pyarrow.int64()).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": ["x"], "day": date}), tmp_path / "a.parquet")
    assert "a.parquet cannot be read: " in said(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device", "circle of links"])
def test_what_is_no_file_is_told_by_its_kind(kind, name, tmp_path):
    path = tmp_path / name
    if kind == "pipe": os.mkfifo(path)
    if kind == "device": path.symlink_to("/dev/zero")
    if kind == "circle of links": path.symlink_to(path)
    assert f"{name} is a {kind}, and a file is expected" in said(path)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl.gz", "a.tsv"])
def test_a_line_that_no_memory_holds_is_told(name, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_LINE", 1000)
    data = b"text,label\na,x\n" + b"x" * 5000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    if name == "a.jsonl.gz":
        (tmp_path / name).write_bytes(gzip.compress(b'{"text": "a", "label": "x"}\n' * 2 + data[-5000:]))
    assert f"{name} line 3 has 1000 letters or more" in said(tmp_path / name)


@pytest.mark.parametrize("label", ["[1is 2]", "[1if 2]"])
def test_a_label_that_looks_like_a_program_gives_no_warning(label, recwarn):
    assert "a list of labels is written" in said([dict(text="a", label=label)])
    assert not [*recwarn]
