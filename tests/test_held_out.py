"""`clfm split`: test rows of a file are put aside, each label in both parts, and nothing of the file is lost."""
import csv
import json
from collections import Counter

import pytest
from command import clfm, refused

from clfm_kit import UserError, load_data
from clfm_kit.data.changes import LabelledFile
from clfm_kit.data.held_out import set_aside
from clfm_kit.data.splitting import normalised

ROWS = [
    (f"mail {n // 2 * 2} about a bike" if n < 20 else f"mail {n}; \"quoted\" and = odd", "ab"[n % 3 > 0])
    for n in range(90)
]


def written(path, rows, separator=";"):
    quoted = lambda text: '"' + text.replace('"', '""') + '"'
    lines = [separator.join([str(n), quoted(text), label]) for n, (text, label) in enumerate(rows)]
    path.write_text("\n".join([separator.join(["id", "mail_body", "team"]), *lines]) + "\n", encoding="utf-8")
    return path


def test_every_row_is_in_one_part_as_it_was(tmp_path):
    path = written(tmp_path / "mails.csv", ROWS)
    made = json.loads(clfm(
        "split", path, "--out", tmp_path / "mails", "--text-column", "mail_body", "--label-column", "team", "--json",
    ).stdout)
    assert sum(made["rows"].values()) == 90 and made["labels"] == ["a", "b"] and not made["left_out"]
    table = lambda path: list(csv.reader(open(path, encoding="utf-8", newline=""), delimiter=";"))
    train, test = (table(tmp_path / "mails" / name) for name in ("train.csv", "test.csv"))
    assert train[0] == test[0] and sorted(train[1:] + test[1:]) == sorted(table(path)[1:])
    found = load_data(tmp_path / "mails", text="mail_body", label="team")
    assert not {*map(normalised, found.train.texts)} & {*map(normalised, found.test.texts)}
    assert abs(Counter(found.test.labels)["a"] / len(found.test) - 1 / 3) < 0.1 and 14 <= len(found.test) <= 22


def test_rows_without_a_label_are_named_or_left_out(tmp_path):
    path = written(tmp_path / "mails.csv", [*ROWS, ("no team", ""), ("none either", " ")])
    words = ["split", path, "--out", tmp_path / "out", "--text-column", "mail_body", "--label-column", "team"]
    refused(clfm(*words), "mails.csv: no label in column 'team' in 2 of 92 rows: 90, 91, counted from 0")
    assert not (tmp_path / "out").exists()
    assert "left out" in clfm(*words, "--drop-unlabelled").stdout
    assert sum(len(rows) for _, rows in load_data(tmp_path / "out", text="mail_body", label="team").items()) == 90
    with pytest.raises(
        UserError, match=r"line 92: field 'team' is '' \(as in 1 more: 93\).*clfm split --drop-unlabelled"
    ):
        load_data(path, text="mail_body", label="team")


@pytest.mark.parametrize("more, words", [
    (["--test", "0"], "a share lies between 0 and 1"), (["--test", "nan"], "a share lies between 0 and 1"),
    (["--seed", "-1"], "a seed is -1"), (["--out", "/proc/mails"], "/proc/mails cannot be made"),
    (["--label-column", "topic"], "unknown label column 'topic'"), (["--out", "."], "exists and is not empty"),
])
def test_what_cannot_be_is_refused(more, words, tmp_path):
    path = written(tmp_path / "mails.csv", ROWS)
    given = dict(zip(["--out", "--text-column", "--label-column"], ["out", "mail_body", "team"])) | dict([more])
    refused(clfm("split", path, *[word for pair in given.items() for word in pair], cwd=tmp_path), words)
    assert not (tmp_path / "out").exists()


def test_one_row_and_equal_texts_cannot_be_split(tmp_path):
    for rows in ([("a", "x")], [("a", "x")] * 9):
        file = LabelledFile(written(tmp_path / "few.csv", rows), "mail_body", "team")
        with pytest.raises(UserError, match="too few to hold out"): set_aside(file, tmp_path / "out")


def test_lists_of_labels_and_json_lines_are_split(tmp_path):
    records = [dict(text=f"text {n}", labels=["x"] if n % 2 else ["x", "y"], extra={"deep": [n]}) for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    set_aside(LabelledFile(tmp_path / "a.jsonl"), tmp_path / "out", share=0.25)
    back = [json.loads(line) for part in ("train", "test") for line in open(tmp_path / "out" / f"{part}.jsonl")]
    assert sorted(back, key=str) == sorted(records, key=str)
    assert len(load_data(tmp_path / "out").test) == 10
