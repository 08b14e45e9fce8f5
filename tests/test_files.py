"""Files as people have them: what other programs write is read as it is meant, or refused in a sentence."""
import csv
import io
import json
import warnings

import datasets
import numpy as np
import pandas
import pytest
from clfm_kit import Classifier, Rows, UserError, load_data
from clfm_kit.builtin.labels import MultiLabel
from clfm_kit.data.fields import plain_labels
from clfm_kit.data.files import Files, records_of
from clfm_kit.data.report import DataWarning, data_report
from clfm_kit.data.rows import Splits
from clfm_kit.data.splitting import normalised
from clfm_kit.data.schemas import learn_schema
from clfm_kit.data.tasks import Task, load_rows, load_tasks, read_tasks, rows_to_fit
from clfm_kit.data.texts import load_texts
from clfm_kit.data.writing import write_records
from clfm_kit.study.cross_validation import cross_validate
from clfm_kit.study.error_analysis import analyse_errors

from command import clfm, refused

THINGS = "parcel invoice refund login password delivery courier account card order".split()
TABLE = [
    (f"my {thing} is {word}, sadly", "late" if word in ("slow", "delayed") else "wrong")
    for thing in THINGS for word in ("slow", "delayed", "broken", "mistaken")
]
ONE, UNNAMED_TASK = read_tasks({"topic": {"label": "label"}}), Task("label")


def text_of(rows=TABLE, head=("text", "label"), **form) -> str:
    file = io.StringIO()
    writer = csv.writer(file, **{"lineterminator": "\n"} | form)
    writer.writerow(head), writer.writerows(rows)
    return file.getvalue()


def put(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return path


def said(call, *given, **more) -> str:
    with pytest.raises(UserError) as caught: call(*given, **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


SPREADSHEETS = {
    "semicolons.csv": text_of(delimiter=";").encode(),
    "semicolons-plain.csv": text_of([(a.replace(",", ""), b) for a, b in TABLE], delimiter=";").encode(),
    "tabs.csv": text_of(delimiter="\t").encode(),
    "bars.csv": text_of(delimiter="|").encode(),
    "noted.csv": b"sep=;\r\n" + text_of(delimiter=";", lineterminator="\r\n").encode(),
    "mark.csv": text_of().encode("utf-8-sig"),
    "wide.csv": text_of().encode("utf-16"),
    "wide-unmarked.csv": text_of().encode("utf-16-le"),
    "wide-big.csv": text_of().encode("utf-16-be"),
    "mac.csv": text_of(lineterminator="\r").encode(),
    "ends.csv": text_of([(*row, "", "") for row in TABLE], ("text", "label", "", "")).encode(),
    "UPPER.CSV": text_of().encode(),
    "Capital.csv": text_of(head=("text", "Label")).encode(),
    "commas.tsv": text_of().encode(),
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_spreadsheets_are_read_as_they_are_meant(tmp_path, name):
    rows = load_data(put(tmp_path / name, SPREADSHEETS[name])).train
    plain = [(text.replace(",", ""), label) for text, label in zip(rows.texts, rows.labels)]
    assert plain == [(text.replace(",", ""), label) for text, label in TABLE]


def test_a_folder_may_have_names_in_capitals(tmp_path):
    put(tmp_path / "Train.CSV", text_of())
    assert len(load_data(tmp_path).train) == len(TABLE)


def test_another_encoding_is_named_and_read_when_said(tmp_path):
    place = put(tmp_path / "old.csv", text_of([("“naïve” – €5", "x"), ("b", "y")]), "cp1252")
    message = said(load_data, place)
    assert "old.csv line 2: byte 0x93 is not UTF-8" in message and "--encoding cp1252" in message
    assert load_data(place, encoding="cp1252").train.texts[0] == "“naïve” – €5"
    assert "latin1" in said(load_data, put(tmp_path / "a.csv", b"text,label\n\x81\xe9,x\n"))
    assert "is not known" in said(load_data, place, encoding="cp12525")
    assert "one character such as ;" in said(load_data, place, separator="::")


def test_a_separator_that_is_said_is_believed(tmp_path):
    place = put(tmp_path / "odd.csv", "text;label#note\na;b#c\n")
    assert load_data(place, text="text;label", label="note", separator="#").train.texts == ["a;b"]
    assert load_tasks(Files(place, "#"), read_tasks({"topic": "note"}), "text;label").train.texts == ["a;b"]


def test_a_file_with_one_column_has_no_separator(tmp_path):
    assert load_data(put(tmp_path / "a.csv", "text\nfine\nso so\n")).train.texts == ["fine", "so so"]
    assert "line 3: 2 fields" in said(load_data, put(tmp_path / "a.csv", "text\nfine\nso, so\n"))


@pytest.mark.parametrize("text", ['"Great phone', 'a 5" screen', '"Great" phone', '"', 'so "good"'])
def test_quotes_in_a_file_with_tabs_are_quotes(tmp_path, text):
    rows = [(text, "good"), ("dull", "bad"), ('and 7" wide', "good"), ("flat", "bad")]
    place = put(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    found = load_data(place).train
    assert list(zip(found.texts, found.labels)) == rows


def test_a_field_over_two_lines_in_a_file_with_tabs_is_one(tmp_path):
    place = put(tmp_path / "a.tsv", text_of([("two\nlines", "x"), ('a\t"b"', "y")], delimiter="\t"))
    assert load_data(place).train.texts == ["two\nlines", 'a\t"b"']
    assert load_data(put(tmp_path / "b.tsv", 'text\n"two\nlines"\nb\n')).train.texts == ["two\nlines", "b"]


SWALLOWED = {
    "text first": 'text,label\n"hello,good\nwhat,bad\nit is 5 ",good\nfine,bad\nso,good\n',
    "text last": 'label,text\ngood,"hello\nbad,what\ngood,it is 5 "\nbad,fine\ngood,so\n',
    "semicolons": 'text;label\n"hello;good\nwhat;bad\nit is 5 ";good\nfine;bad\nso;good\n',
}


@pytest.mark.parametrize("name", SWALLOWED)
def test_a_quote_that_takes_in_rows_is_told(tmp_path, name):
    message = said(load_data, put(tmp_path / "a.csv", SWALLOWED[name]))
    assert "a.csv line 2: a field opens with a quote that closes in line 4" in message


def test_letters_over_several_lines_are_no_rows(tmp_path):
    rows = [("Dear all,\nbye", "good"), ("Dear Sir,\n\nyes, no", "bad"), ("one", "good"), ("two", "bad")]
    found = load_data(put(tmp_path / "a.csv", text_of(rows))).train
    assert found.texts == [text for text, _ in rows]
    swapped = load_data(put(tmp_path / "b.csv", text_of([row[::-1] for row in rows], ("label", "text")))).train
    assert swapped.texts == found.texts


def test_a_missing_header_is_told(tmp_path):
    message = said(load_data, put(tmp_path / "a.csv", text_of(TABLE[1:], TABLE[0])))
    assert "looks like a row" in message and "text,label" in message


FLAGS = np.array([[label == "late", label == "wrong", "parcel" in text] for text, label in TABLE])


@pytest.mark.parametrize("given", [
    FLAGS.astype(int), FLAGS.astype(int).tolist(), FLAGS, FLAGS.astype(float), FLAGS[:, :2].astype(int),
], ids=["numbers", "lists", "truth values", "floats", "two columns"])
def test_zeros_and_ones_name_no_labels(given):
    texts = [text for text, _ in TABLE]
    def fit(): return rows_to_fit(texts, {"label": UNNAMED_TASK}, given)
    message = said(fit)
    assert "name nothing" in message and "list the names" in message
    assert "name nothing" in said(lambda: learn_schema(plain_labels(given)))


def test_zeros_and_ones_in_files_name_no_labels(tmp_path):
    records = [dict(text=text, labels=flags) for (text, _), flags in zip(TABLE, FLAGS.astype(int).tolist())]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    message = said(load_data, put(tmp_path / "a.jsonl", lines))
    assert "a.jsonl line 1: field 'labels'" in message and "name nothing" in message
    many = load_tasks([dict(text="a", labels=[1, 0]), dict(text="b", labels=[])], read_tasks({"t": "labels"}))
    assert many.train.by_task["t"] == [[1, 0], []], "two different numbers are two labels"


def test_a_matrix_of_one_column_has_one_label_a_row():
    rows = load_rows(["a", "b"], {"label": UNNAMED_TASK}, np.array([["x"], ["y"]])).train
    assert rows.by_task["label"] == ["x", "y"]


def test_columns_of_zeros_and_ones_are_read_by_their_names(tmp_path):
    rows = [(text, int(a), int(b), int(c)) for (text, _), (a, b, c) in zip(TABLE, FLAGS)]
    place = put(tmp_path / "a.csv", text_of(rows, ("text", "late", "wrong", "parcel")))
    wanted = [[name for name, flag in zip(("late", "wrong", "parcel"), row) if flag] for row in FLAGS]
    assert load_data(place, label="late+wrong+parcel").train.labels == wanted
    many = read_tasks({"t": {"label": "late+wrong+parcel", "kind": "multi"}})
    assert load_tasks(place, many).train.by_task["t"] == wanted
    assert "line 2: field 'text' is" in said(load_data, place, label="late+text")
    frame = pandas.DataFrame(FLAGS, columns=["late", "wrong", "parcel"])
    assert load_rows(["x"] * len(frame), {"label": UNNAMED_TASK}, frame).train.labels == wanted
    message = said(rows_to_fit, place, {"label": UNNAMED_TASK})
    assert "late+wrong+parcel" in message and "--label-column" in message


@pytest.fixture
def hub():
    "Features as the Hub has them: numbers in the columns, names beside them."
    names, tags = datasets.ClassLabel(names=["bad", "good"]), datasets.ClassLabel(names=["O", "B-thing"])
    text, listed = datasets.Value("string"), datasets.Sequence
    features = datasets.Features(
        dict(text=text, label=names, topics=listed(names), tokens=listed(text), ner_tags=listed(tags))
    )
    return datasets.Dataset.from_dict(dict(
        text=["the phone", "a lens"], label=[1, 0], topics=[[0, 1], []], tokens=[["the", "phone"], ["a", "lens"]],
        ner_tags=[[0, 1], [0, 0]],
    ), features=features)


@pytest.mark.parametrize("form", ["memory", "parquet"])
def test_names_of_classes_are_read_wherever_they_stand(hub, form, tmp_path):
    source = hub
    if form == "parquet": hub.to_parquet(source := tmp_path / "a.parquet")
    assert load_data(source).train.labels == ["good", "bad"]
    assert load_data(source, label="topics").train.labels == [["bad", "good"], []]
    assert load_data(source, label="ner_tags").train.labels == [["O", "B-thing"], ["O", "O"]]
    topics = dict(label="topics", kind="multi")
    rows = load_tasks(source, read_tasks(dict(mood="label", tags="ner_tags", topics=topics))).train
    assert rows.by_task == {
        "mood": ["good", "bad"], "tags": [["O", "B-thing"], ["O", "O"]], "topics": [["bad", "good"], []],
    }


@pytest.mark.parametrize("label", ["01", "1.0", "True", "None", "NA", "null", "nan", "2024-01-01"])
def test_labels_in_a_file_of_text_stay_as_they_are(tmp_path, label):
    place = put(tmp_path / "a.csv", text_of([("a", label), ("b", "other")]))
    assert load_data(place).train.labels == [label, "other"]
    assert load_rows(place, ONE).train.by_task["topic"] == [label, "other"]


def test_labels_of_data_frames_are_plain():
    kind = pandas.Categorical(["x", "y"])
    frame = pandas.DataFrame(dict(text=["a", "b"], kind=kind, flag=[True, False], number=[1.0, 2.0]))
    assert [load_data(frame, label=name).train.labels for name in ("kind", "flag", "number")] == [
        ["x", "y"], [True, False], [1, 2]
    ]


@pytest.mark.parametrize("known, given", [
    ([0, 1], ["0", "1"]), (["0", "1"], [0, 1]), ([0, 1], ["0.0", "1.0"]), ([False, True], ["FALSE", "true"]),
    (["cafe\u0301", "bar"], ["caf\u00e9", "bar"]),
])
def test_labels_are_the_same_when_they_are_written_the_same(known, given):
    schema = learn_schema(known)
    assert schema.targets(given).tolist() == schema.targets(known).tolist()
    many = learn_schema([[name] for name in known])
    assert many.targets([[name] for name in given]).tolist() == many.targets([[name] for name in known]).tolist()
    assert "was not seen" in said(schema.targets, ["2"])


def test_one_type_of_label_from_file_to_answer():
    chances = np.array([0.25, 0.75])
    assert json.dumps(learn_schema([0, 1]).facts(np.int64(1), chances)["label"]) == "1"
    assert json.dumps(learn_schema(["0", "1"]).facts(np.str_("1"), chances)["label"]) == '"1"'
    assert json.dumps(learn_schema([False, True]).facts(np.bool_(True), chances)["label"]) == "true"


def test_labels_are_not_read_where_nothing_asks_for_them(tmp_path):
    place = put(tmp_path / "todo.csv", text_of([("a", ""), ("b", "[broken"), ("c", "x")]))
    texts, records = load_texts(place, ONE)
    assert texts == ["a", "b", "c"] and records[1] == dict(text="b", label="[broken")


def test_a_test_part_may_wait_for_its_labels(tmp_path):
    put(tmp_path / "train.csv", text_of()), put(tmp_path / "test.csv", text_of([(text, "") for text, _ in TABLE[:5]]))
    splits = load_data(tmp_path)
    assert splits.test.labels is None and len(splits.test) == 5 and rows_to_fit(splits, {"label": UNNAMED_TASK})
    put(tmp_path / "test.csv", text_of([("a", "late"), ("b", " ")]))
    assert "test.csv line 3: field 'label' is ' '" in said(load_data, tmp_path)
    put(tmp_path / "train.csv", text_of([("a", ""), ("b", "")]))
    assert "train.csv line 2: field 'label' is ''" in said(load_data, tmp_path)


def test_several_text_columns_are_a_list_or_a_name():
    table = [dict(Subject="late", Body="where is it?", label="x"), dict(Subject="broken", Body="it broke", label="y")]
    for text in (["Subject", "Body"], ("Subject", "Body"), "Subject+Body"):
        assert load_data(table, text=text).train.texts[0].columns == dict(Subject="late", Body="where is it?")
        assert load_rows(table, ONE, text=text).train.texts[1] == "Subject: broken\nBody: it broke"
        assert load_texts(table, ONE, text)[0] == load_data(table, text=text).train.texts
    assert "did you mean 'Body'?" in said(load_data, table, text=["Subject", "body"])
    assert "a list of names expected" in said(load_data, table, text=3)


def test_equal_texts_of_two_data_sets_stay_on_one_side():
    texts = [f"Text number {number}" for number in range(60)]
    a = [dict(text=text, a="xy"[number % 2]) for number, text in enumerate(texts)]
    b = [dict(text=f" {text.upper()}  ", b="uvw"[number % 3]) for number, text in enumerate(texts[::-1])]
    for seed in range(5):
        train, held, _ = rows_to_fit(dict(a=a, b=b), read_tasks(dict(a="a", b="b")), seed=seed)
        assert not {*map(normalised, train.texts)} & {*map(normalised, held.texts)}
        assert min(len(held.known("a")), len(held.known("b"))) >= 4 and len(train) + len(held) == 120


def test_validation_may_be_texts_and_labels():
    texts, labels = map(list, zip(*TABLE))
    _, held, _ = rows_to_fit(texts, {"label": UNNAMED_TASK}, labels, validation=(texts[:6], labels[:6]))
    assert (held.texts, held.labels) == (texts[:6], labels[:6])
    assert len(said(rows_to_fit, texts, {"label": UNNAMED_TASK}, labels, (tuple(texts) * 9, tuple(labels)))) < 400


def test_values_in_errors_are_cut_short():
    assert len(said(load_data, [dict(text=["x"] * 9999)])) < 300
    assert len(said(load_data, [("a", dict(x="y" * 9999))])) < 300


def test_thresholds_have_names():
    schema = MultiLabel.of(["cheap", "good"])
    assert schema.cuts({"good": 0.25}, [0.4, 0.6]) == [0.4, 0.25] and schema.cuts(None, [0.4, 0.6]) == [0.4, 0.6]
    assert "did you mean 'good'?" in said(schema.cuts, {"god": 0.5}, None)
    assert "a probability from 0 to 1" in said(schema.cuts, {"good": 3}, None)
    assert "one label for each text" in said(learn_schema(["a", "b"]).cuts, [0.9, 0.1], None)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_what_is_written_is_read_again(tmp_path, form):
    records = [dict(text='a "b",\n\tc', label="é", rejected=False), dict(text="; d", label="y", rejected=True)]
    with open(tmp_path / f"a.{form}", "w", encoding="utf-8", newline="") as file: write_records(records, file, form)
    rows = load_data(tmp_path / f"a.{form}").train
    assert (rows.texts, rows.labels) == ([record["text"] for record in records], ["é", "y"])


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    "Saved probes: of names, of numbers, of several labels a text, and of several tasks."
    folder, texts, labels = tmp_path_factory.mktemp("made"), *map(list, zip(*TABLE))
    numbers = [int(label == "late") for label in labels]
    several = [[label, "parcel"] if "parcel" in text else [label] for text, label in TABLE]
    for name, given in dict(names=labels, numbers=numbers, several=several).items():
        Classifier("probe", tiny, cache=None).fit(texts, given).save_pretrained(folder / name)
    rows = [dict(text=text, topic=label, number=number) for (text, label), number in zip(TABLE, numbers)]
    both = dict(topic="topic", number="number")
    tasks = Classifier({"name": "t", "head": "logistic"}, tiny, tasks=both, cache=None)
    tasks.fit(rows).save_pretrained(folder / "tasks")
    return folder


def ran(*words, **more):
    done = clfm(*words, **more)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_writes_the_rows_with_their_answers(made, tmp_path, form):
    rows = [(f"{number:03d}", text, "") for number, (text, _) in enumerate(TABLE[::3])]
    place = put(tmp_path / "in.csv", text_of(rows, ("id", "text", "label"), delimiter=";"), "utf-16")
    out = tmp_path / f"out.{form}"
    assert "14 rows" in ran("predict", made / "names", "--data", place, "--out", out)
    found = [record for _, record in records_of(out)]
    clf = Classifier.from_pretrained(made / "names")
    labels, chances = clf.answer([text for _, text, _ in rows])
    assert [(row["id"], row["text"], row["label"]) for row in found] == rows, "columns and rows stay"
    assert [row["predicted_label"] for row in found] == labels.tolist()
    assert np.allclose([float(row["predicted_probability"]) for row in found], chances.max(1), atol=1e-3)
    assert {str(row["predicted_rejected"]) for row in found} == {"False"}
    assert not [path for path in tmp_path.iterdir() if path not in (place, out)]


def test_predict_writes_the_answers_of_every_kind_of_task(made, tmp_path):
    place = put(tmp_path / "in.csv", text_of([(text,) for text, _ in TABLE[:3]], ("text",)))
    out = tmp_path / "out.jsonl"
    ran("predict", made / "several", "--data", place, "--out", out)
    row = next(iter(records_of(out)))[1]
    assert list(row) == ["text", "label", "probability", "rejected"] and isinstance(row["label"], list)
    ran("predict", made / "tasks", "--data", place, "--out", out)
    row = next(iter(records_of(out)))[1]
    assert row["topic"] in ("late", "wrong") and row["number"] in (0, 1) and row["number_rejected"] is False


def test_predict_writes_whole_files_or_none(made, tmp_path):
    place = put(tmp_path / "in.csv", text_of())
    predict = ("predict", made / "names", "--data", place, "--out")
    refused(clfm(*predict, tmp_path / "out.xlsx"), "out.xlsx: tables are written by their ending, one of csv")
    refused(clfm(*predict, place), "is the data; name another file")
    refused(clfm(*predict, tmp_path / "no" / "out.csv"), "there is no folder")
    refused(clfm("predict", made / "names", "a text", "--out", tmp_path / "out.csv"), "--out writes the rows of --data")
    kept = put(tmp_path / "kept.parquet", "years of work")
    mixed = put(tmp_path / "in.jsonl", '{"text": "a", "extra": 1}\n{"text": "b", "extra": {"x": [1]}}\n')
    refused(clfm("predict", made / "names", "--data", mixed, "--out", kept), "the rows make no Parquet table")
    assert kept.read_text() == "years of work" and len([*tmp_path.iterdir()]) == 3


def test_options_of_files_at_the_command_line(made, tmp_path):
    rows, head = [(f"{text} – é", "x", label) for text, label in TABLE], ("Subject", "Body", "label")
    old = put(tmp_path / "old.csv", text_of(rows, head, delimiter=";"), "cp1252")
    told = ("--data", old, "--text-column", "Subject", "--text-column", "Body", "--encoding", "cp1252")
    told += ("--separator", ";")
    assert json.loads(ran("evaluate", made / "names", *told, "--json"))["rows"] == len(TABLE)
    assert "Subject: my parcel is slow" in ran("predict", made / "names", *told, "--json")
    refused(clfm("predict", made / "names", *told[:6]), "old.csv line 2: byte 0x96 is not UTF-8", "--encoding cp1252")
    said = clfm("predict", made / "names", "--data", old, "--encoding", "cp1252")
    refused(said, "unknown text column 'text'", "known: Body, Subject, label")


@pytest.mark.parametrize("name, part", [
    ("category.csv", "its columns are text, category"), ("onehot.csv", "is read with good+bad"),
    ("none.csv", "has no labels"),
])
def test_a_dry_run_refuses_what_a_fit_does(tiny, tmp_path, name, part):
    put(tmp_path / "category.csv", text_of(head=("text", "category")))
    flags = [(text, *("10" if label == "late" else "01")) for text, label in TABLE]
    put(tmp_path / "onehot.csv", text_of(flags, ("text", "good", "bad")))
    put(tmp_path / "none.csv", text_of([(text,) for text, _ in TABLE], ("text",)))
    fit = ("fit", "--recipe", "probe", "--model", tiny, "--data", tmp_path / name)
    dry, real = clfm(*fit, "--dry-run"), clfm(*fit, "--out", tmp_path / "out")
    refused(dry, part), refused(real, part)
    assert dry.stderr == real.stderr


def test_labels_that_are_numbers_at_the_command_line(made, tmp_path):
    place = put(tmp_path / "a.csv", text_of([(text, int(label == "late")) for text, label in TABLE]))
    assert json.loads(ran("evaluate", made / "numbers", "--data", place, "--json"))["rows"] == len(TABLE)
    assert json.loads(ran("predict", made / "numbers", "my parcel is slow", "--json"))[0]["label"] in (0, 1)
    explained = json.loads(ran("explain", made / "numbers", "my parcel is slow", "--label", "1", "--json"))
    assert explained["label"] == 1


def test_labels_that_training_has_not_are_set_aside_and_counted(tiny, tmp_path):
    strange = [("my card is odd", "odd"), ("my order is odd", "strange")]
    for part, rows in dict(train=TABLE, validation=TABLE[:9] + strange, test=TABLE[:8] + strange).items():
        put(tmp_path / f"{part}.csv", text_of(rows))
    done = clfm("fit", "--recipe", "probe", "--model", tiny, "--data", tmp_path, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done
    assert "validation: labels that training never shows: odd, strange" in done.stderr
    found = json.loads(done.stdout)
    assert found["facts"]["unseen_in_validation"] == 2 and found["reports"]["validation"]["rows"] == 9
    report = found["reports"]["test"]
    assert report["rows"] == 8 and "test.csv (8, 9) have labels that" in " ".join(report["notes"])
    put(tmp_path / "validation.csv", text_of(strange))
    fit = clfm("fit", "--recipe", "probe", "--model", tiny, "--data", tmp_path, "--out", tmp_path / "new")
    refused(fit, "2 rows of", "validation.csv (0, 1) have labels that training never showed ('odd', 'strange')")


def test_files_without_labels_are_answered(made, tiny, tmp_path):
    place = put(tmp_path / "todo.csv", text_of([(text, "") for text, _ in TABLE[:5]]))
    assert len(json.loads(ran("predict", made / "names", "--data", place, "--json"))) == 5
    put(tmp_path / "data.csv", ""), (tmp_path / "kaggle").mkdir()
    put(tmp_path / "kaggle" / "train.csv", text_of()), put(tmp_path / "kaggle" / "test.csv", place.read_text())
    found = json.loads(ran(
        "fit", "--recipe", "probe", "--model", tiny, "--data", tmp_path / "kaggle", "--out", tmp_path / "out", "--json"
    ))
    assert list(found["reports"]) == ["validation"]
    refused(clfm("evaluate", made / "names", "--data", tmp_path / "kaggle"), "test.csv has no labels")


def test_names_in_yaml_are_as_they_are_written(tiny, tmp_path):
    place = put(tmp_path / "a.csv", text_of([(text, "NO" if label == "late" else "01") for text, label in TABLE]))
    fit = ("fit", "--recipe", "probe", "--model", tiny, "--data", place, "--out", tmp_path / "out")
    ran(*fit, "--set", "class_weight={NO: 2, 01: 1}")
    ran(*fit, "--set", "task={name: ordinal, order: [NO, '01']}")
    refused(clfm(*fit, "--set", "class_weight={NOO: 2}"), "did you mean 'NO'?")
    refused(clfm(*fit, "--set", "class_weight={NO: 2, 'NO': 3}"), "'NO' stands twice")
    smooth = clfm(*fit[:2], "finetune", *fit[3:], "--set", "training.label_smoothing=1.5")
    refused(smooth, "label_smoothing is 1.5; a share")


def test_thresholds_of_a_fitted_classifier(made):
    texts = [text for text, _ in TABLE]
    several = Classifier.from_pretrained(made / "several")
    assert all("parcel" in labels for labels in several.predict(texts, thresholds={"parcel": 0}))
    assert not any("parcel" in labels for labels in several.predict(texts, thresholds={"parcel": 1}))
    one = Classifier.from_pretrained(made / "names")
    assert "they are for several labels a text" in said(one.predict, texts, thresholds=[0.9, 0.1])
    tasks = Classifier.from_pretrained(made / "tasks")
    assert {name: list(labels) for name, labels in tasks.predict([]).items()} == {"topic": [], "number": []}


def test_one_rare_class_is_left_out_of_folds_and_said(tiny):
    rows = [*TABLE, ("the only one of its kind", "rare"), ("The only one  of its kind", "rare")]
    found = cross_validate("probe", rows, tiny, folds=3, cache=None)
    assert found.report.rows == len(TABLE) and found.task().numbers == [*range(len(TABLE))]
    assert "left out of the folds, and only learned from: 2 rows" in " ".join(found.report.notes)
    assert not any("no labels were checked" in note for note in analyse_errors("probe", rows, tiny).report.notes)


def test_a_file_that_is_not_there_is_answered_with_the_tables_beside_it(tmp_path):
    for name in ("rows.csv", "photo.jpeg", "notes.txt"): (tmp_path / name).write_text("text,label\na,b\n")
    told = said(load_data, tmp_path / "row.csv")
    assert "did you mean 'rows.csv'?; known: rows.csv." in told


def test_two_spellings_of_a_label_are_told():
    report = data_report(Splits(Rows(["a", "b", "c", "d"], ["Billing", " billing ", "caf\u00e9", "cafe\u0301"])))
    said = " ".join(report.warnings)
    assert "labels ' billing ', 'Billing' look like spellings of one" in said and said.count("spellings of one") == 2
    assert "spellings" not in " ".join(data_report(Splits(Rows(["a", "b"], ["A-1", "A 1"]))).warnings)


def test_a_fit_says_once_what_is_odd_about_its_data(tiny, tmp_path):
    texts = [f"<p>{text}</p>" for text, _ in TABLE]
    labels = [label.title() if number % 4 == 1 else label for number, (_, label) in enumerate(TABLE)]
    def odd(recipe, *settings):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            Classifier(recipe, tiny, settings, cache=None).fit(texts, labels)
        return [str(each.message) for each in found if each.category is DataWarning]
    spelled = "labels 'Late', 'late' look like spellings of one; write them alike"
    html = "100.0 % of the training texts hold tags of HTML, which are read as words; format html reads the text alone"
    assert odd("probe") == [spelled, html] and odd("probe", "format=html") == [spelled]
    pandas.DataFrame(dict(text=texts, label=labels)).to_csv(tmp_path / "rows.csv", index=False)
    words = "fit", "--model", tiny, "--data", "rows.csv", "--recipe"
    done = clfm(*words, "probe", "--out", "m", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr.count("hold tags") == done.stderr.count("look like") == 1, done
    done = clfm(*words, "stc", "--out", "n", "--set", "format=html", cwd=tmp_path)
    assert done.returncode == 0 and "hold tags" not in done.stderr and done.stderr.count("look like") == 1, done
    assert "Warning" not in done.stderr, done


def test_mail_with_tags_of_html_is_told_and_read_as_it_is_shown(tiny):
    texts = [f"<p>{text.replace('my', '<b>my</b>&nbsp;')}</p><style>p {{color: red}}</style>" for text, _ in TABLE]
    report = data_report(Splits(Rows(texts, [label for _, label in TABLE])))
    assert "100.0 % of the rows hold tags of HTML" in report.warnings[0] and "format html" in report.warnings[0]
    plain = Classifier("probe", tiny, cache=None).fit(*zip(*TABLE))
    shown = Classifier("probe", tiny, ["format=html"], cache=None).fit(texts, [label for _, label in TABLE])
    assert np.allclose(shown.predict_proba(texts), plain.predict_proba([text for text, _ in TABLE]), atol=1e-5)
    assert "format 'html' reads one text as a whole" in said(
        Classifier("probe", tiny, ["format=html", "task=tags"]).fit, texts, ["O"] * len(texts)
    )
