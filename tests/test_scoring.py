"""Files of any size, answered: the same bytes whatever the parts, after a kill, Ctrl-C and a full disk;
types and order stay.
"""
import csv
import datetime
import decimal
import json
import os
import resource
import signal
import sys
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.classifier import scoring
from clfm_kit.classifier.scoring import Scoring, fingerprint
from clfm_kit.data.files import records_of
from clfm_kit.plugins import using
from command import Forked, _clfm, clfm, refused

FORMS = "csv", "tsv", "jsonl", "parquet"
CHANGES = "os.rename", "os.mkdir", "os.rmdir", "os.remove"


@pytest.fixture(scope="module")
def clf(fitted): return Classifier.from_pretrained(fitted)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    "A file of 40 rows, with columns that come and go, and texts that a spreadsheet would run."
    texts, file = load_data("helpdesk").test.texts[:40], tmp_path_factory.mktemp("rows") / "rows.jsonl"
    records = [
        dict(id=row, text=f"={text}" if row % 7 == 0 else text) | ({"=note": [row]} if row > 20 else {})
        for row, text in enumerate(texts)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def small(monkeypatch): monkeypatch.setattr(scoring, "BLOCK", 8)


@pytest.mark.parametrize("form", FORMS)
def test_any_size_of_parts_gives_the_same_file(form, clf, rows, small, tmp_path):
    out = tmp_path / f"out.{form}"
    def scored(part):
        found = Scoring(clf, rows, out, part=part).run()
        return found, pyarrow.parquet.read_table(out) if form == "parquet" else out.read_bytes()
    whole, expected = scored(40)
    assert whole == scoring.Scored(40, ["label", "probability", "rejected"], 7 if form in ("csv", "tsv") else 0, 0)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.integers(1, 50))
    def same(part): assert scored(part) == (whole, expected)
    same()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_small_file_is_answered_as_its_texts_are(clf, rows, tmp_path):
    Scoring(clf, rows, tmp_path / "out.jsonl").run()
    found, given_ = ([record for _, record in records_of(path)] for path in (tmp_path / "out.jsonl", rows))
    labels, chances = clf.answer([record["text"] for record in given_])
    assert [record["label"] for record in found] == labels.tolist()
    assert [record["probability"] for record in found] == [float(row.max()) for row in chances]
    assert [{name: record[name] for name in before} for record, before in zip(found, given_)] == given_


def test_blocks_begin_where_they_do_in_a_run_from_the_start(clf, small, monkeypatch):
    monkeypatch.setattr(
        scoring, "_answered", lambda clf, block, *_: [dict(first=block[0][0], row=row) for row, _ in block]
    )
    rows = [(row, {}) for row in range(40)]
    whole = list(scoring.answered_rows(clf, rows, {}))
    for skip in range(41): assert list(scoring.answered_rows(clf, rows, {}, skip=skip)) == whole[skip:]


# ---- what stops it

def killed_at(last, work, home) -> tuple:
    "Run in a process that is killed at its change number `last` of a file: (exit code, number of changes, stderr)."
    def run():
        number = 0
        def watch(event, arguments):
            nonlocal number
            change = event in CHANGES or event == "open" and "r" != (arguments[1] or "r")
            if not change or not str(arguments[0]).startswith(str(home)): return
            number += 1
            if number == last: os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        work()
        print(number)
    done = Forked(run).wait()
    return done.returncode, int(done.stdout.split()[-1]) if done.stdout.strip() else 0, done.stderr


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_after_a_kill_at_any_point_the_next_run_ends_the_same(form, clf, rows, small, tmp_path):
    whole, places = tmp_path / f"whole.{form}", []
    Scoring(clf, rows, whole).run()
    def work(home):
        home.mkdir(exist_ok=True)
        out = home / f"out.{form}"
        return lambda: print("resumed", Scoring(clf, rows, out).run().resumed)
    code, count, _ = killed_at(None, work(tmp_path / "all"), tmp_path / "all")
    assert code == 0 and count > 25
    for last in range(1, count + 1, 1 + count // 12):
        home = tmp_path / str(last)
        assert killed_at(last, work(home), home)[0] == -signal.SIGKILL
        again = Scoring(clf, rows, home / f"out.{form}")
        places.append(again.run().resumed)
        assert (home / f"out.{form}").read_bytes() == whole.read_bytes(), f"killed at change {last} of {count}"
        assert [path.name for path in home.iterdir()] == [f"out.{form}"], f"killed at change {last} of {count}"
    assert places[0] == 0 and {8, 16, 24, 32} & {*places}, "finished parts are not answered again"


def stops(kind, number, after):
    def run_event(event):
        if event["kind"] == kind and event.get("done", 0) >= after: os.kill(os.getpid(), number)
    return using("stops", run_event=run_event)


def in_blocks(words, size=8, watch=None):
    "What `clfm` does with small blocks."
    def run():
        scoring.BLOCK = size
        if watch is None: return _clfm(["clfm", *map(str, words)])
        with watch: _clfm(["clfm", *map(str, words)])
    return Forked(run).wait(words)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_what_is_finished_and_says_so(number, code, fitted, rows, tmp_path):
    words, out = ("predict", fitted, "--data", rows, "--out", tmp_path / "out.csv"), tmp_path / "out.csv"
    done = in_blocks(words, watch=stops("answer", number, 9))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1] == (
        f"clfm: stopped; 16 of 40 rows are answered and kept in {out}.parts, and the same call goes on after them"
    )
    assert not out.exists() and (tmp_path / "out.csv.parts" / "part-000001.csv").read_text().startswith("id,text,")
    done = in_blocks(words)
    assert done.returncode == 0 and "16 of 40 rows are answered already; going on after them" in done.stderr
    assert "an earlier call had answered 16 of them" in done.stdout
    whole = tmp_path / "whole.csv"
    assert in_blocks([*words[:-1], whole]).returncode == 0 and out.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "whole.csv"}


def test_a_stop_before_the_first_part_leaves_nothing(fitted, rows, tmp_path):
    words = ("predict", fitted, "--data", rows, "--out", tmp_path / "out.csv")
    done = in_blocks(words, watch=stops("answer", signal.SIGINT, 0))
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == "clfm: stopped; nothing was half-written"
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_told_in_a_sentence_and_keeps_what_is_finished(clf, rows, small, tmp_path):
    "The file is larger than a file may be here; the parts are not."
    out, expected = tmp_path / "out.csv", tmp_path / "whole.csv"
    Scoring(clf, rows, expected).run()
    def run():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (expected.stat().st_size // 2, resource.RLIM_INFINITY))
        with pytest.raises(UserError) as told: Scoring(clf, rows, out).run()
        print(told.value)
    said = Forked(run).wait().stdout.strip()
    assert said.startswith(
        f"cannot write {out}: File too large; 40 of 40 rows are answered and kept in {out}.parts"
    ), said
    assert not out.exists()
    assert Scoring(clf, rows, out).run().resumed == 40 and out.read_bytes() == expected.read_bytes()


def test_a_disk_that_fills_on_the_way(clf, rows, small, tmp_path, monkeypatch):
    out, write = tmp_path / "out.jsonl", scoring.write_records
    def full(records, *given):
        if records[0]["id"] >= 16: raise OSError(28, "No space left on device")
        return write(records, *given)
    monkeypatch.setattr(scoring, "write_records", full)
    with pytest.raises(
        UserError, match="part-000002.jsonl: No space left on device; 16 of 40 rows are answered and kept"
    ):
        Scoring(clf, rows, out).run()
    monkeypatch.undo()
    monkeypatch.setattr(scoring, "BLOCK", 8)
    assert Scoring(clf, rows, out).run().resumed == 16


# ---- whose parts they are

def stopped_half_way(clf, rows, out, **more):
    run = Scoring(clf, rows, out, **more)
    with pytest.raises(KeyboardInterrupt), raising_at(9): run.run()
    return run


def raising_at(done):
    run = lambda event: (
        signal.raise_signal(signal.SIGINT) if event["kind"] == "answer" and event["done"] >= done else None
    )
    return using("stops", run_event=run)


def test_parts_of_another_run_are_refused_or_forgotten(clf, rows, small, tiny, fitted, tmp_path):
    out, other = tmp_path / "out.csv", tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("0", "1", 1))
    stopped_half_way(clf, rows, out)
    again = Classifier("probe", tiny, ["head.C=0.5"], cache=None).fit("helpdesk")
    assert fingerprint(again) != fingerprint(clf) == fingerprint(Classifier.from_pretrained(fitted))
    for given_, what in (
        ((again, rows), "another model"), ((clf, other), "another data"), ((clf, rows, "kept"), "another settings"),
    ):
        run = Scoring(*given_[:2], out, formulas=given_[2] if given_[2:] else "quoted")
        with pytest.raises(UserError, match=f"{what}; to begin anew remove that folder, or pass restart=True"):
            run.run()
    done = in_blocks(("predict", fitted, "--data", other, "--out", out))
    refused(done, "another data; to begin anew remove that folder, or pass restart=True, in a terminal --restart")
    assert Scoring(clf, rows, out).parts.folder.exists()
    done = in_blocks(("predict", fitted, "--data", other, "--out", out, "--restart", "--json"))
    assert json.loads(done.stdout) == dict(
        out=str(out), rows=40, columns=["label", "probability", "rejected"], quoted=7, resumed=0
    )
    refused(clfm("predict", fitted, "a text", "--restart"), "--restart goes with --out")


def test_a_part_that_is_not_whole_is_answered_again(clf, rows, small, tmp_path):
    out = tmp_path / "out.csv"
    run = stopped_half_way(clf, rows, out)
    (run.parts.folder / "part-000001.csv").write_text("cut")
    assert Scoring(clf, rows, out).run().resumed == 8


def test_a_folder_that_is_in_the_way_is_left_alone(clf, rows, tmp_path):
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is in the way: 'thesis.txt' is not of a run"):
        Scoring(clf, rows, tmp_path / "out.csv").run(restart=True)
    assert (tmp_path / "out.csv.parts" / "thesis.txt").read_text() == "years of work"


# ---- what is read and written

def test_types_of_parquet_are_kept(clf, tmp_path):
    text = pyarrow.array(["my parcel is late", "=refund"], pyarrow.large_string())
    table = pyarrow.table(dict(
        when=pyarrow.array(
            [datetime.datetime(2020, 1, 2, 3, 4, 5, 678901), None], pyarrow.timestamp("us", "Europe/Paris")
        ),
        day=pyarrow.array([datetime.date(2020, 1, 2), None]), text=text,
        price=pyarrow.array([decimal.Decimal("1.50"), None]),
        small=pyarrow.array([1, None], pyarrow.int8()), kind=pyarrow.array(["a", "b"]).dictionary_encode(),
        none=pyarrow.array([None, None], pyarrow.float32()),
        list=pyarrow.array([[1], []], pyarrow.list_(pyarrow.int16())),
        data=pyarrow.array([b"\0", None]), nested=pyarrow.array([dict(a=1), None]),
    ))
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    Scoring(clf, tmp_path / "in.parquet", tmp_path / "out.parquet", part=1).run()
    found = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet")
    assert found.num_row_groups == 2
    kept = found.read().select(table.column_names)
    assert kept.schema.equals(table.schema) and kept.to_pylist() == table.to_pylist()
    assert found.read().column_names[-3:] == ["label", "probability", "rejected"]


def test_a_folder_of_files_is_one_table(fitted, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in {
        "b.csv": "text,id\nwhere is it,2\nmy card,3\n", "a.tsv": "text\tother\nhello there\tx\n",
        "_SUCCESS": "", "note.txt": "",
    }.items(): (folder / name).write_text(text)
    done = clfm("predict", fitted, "--data", folder, "--out", tmp_path / "out.csv")
    assert done.returncode == 0, done
    with open(tmp_path / "out.csv", newline="") as file: found = [*csv.DictReader(file)]
    assert [(row["text"], row["id"], row["other"]) for row in found] == [
        ("hello there", "", "x"), ("where is it", "2", ""), ("my card", "3", "")
    ]
    refused(clfm("predict", fitted, "--data", folder, "--out", folder / "out.csv"), "lies among the files of")
    (folder / "c.csv").write_text("txt\nx\n")
    refused(
        clfm("predict", fitted, "--data", folder, "--out", tmp_path / "no.csv"), "c.csv: unknown text column 'text'"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out.csv"}


@pytest.mark.parametrize("name, text, said", [
    ("a.jsonl", '{"text": "a"}\n' * 5000 + "{", "a.jsonl line 5001: broken JSON"),
    (
        "a.jsonl", '{"text": "a"}\n' * 5000 + '{"text": "\\ud800"}\n',
        "a.jsonl line 5001: character 0 is half of a surrogate",
    ),
    ("a.jsonl", '{"text": "a", "b": 1}\n' * 5000 + '{"text": "a", "b": {}}\n', "the rows make no Parquet table"),
    ("a.csv", "text\n", "a.csv has no rows"),
])
def test_what_is_wrong_is_told_before_anything_is_answered(name, text, said, clf, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said): Scoring(clf, tmp_path / name, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_files_are_read_as_a_stream(form, tmp_path):
    "Many rows, each with a text of two lines that looks like a row: no more of them is held than of a few."
    def peak(rows):
        path = tmp_path / f"{rows}.{form}"
        found = [dict(text=f"line, {row}\nline, {'x' * 50}", n=str(row)) for row in range(rows)]
        from clfm_kit.data.writing import write_records
        with open(path, "w", encoding="utf-8", newline="") as file: write_records(found, file, form)
        del found
        tracemalloc.start()
        for _ in records_of(Path(path)): pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most
    peak(10)
    assert peak(24_000) < 1.2 * peak(6_000) + 100_000


def test_texts_that_are_cut_are_counted_and_a_table_shows_their_beginning(fitted, tmp_path):
    long = "where is my parcel " * 5000
    said = clfm("predict", fitted, "a short one", long)
    assert "a text is longer than the model reads; its end was not read" in said.stderr and len(said.stdout) < 3000
    assert json.loads(clfm("predict", fitted, long, "--json").stdout)[0]["text"] == long
    lines = [json.dumps(dict(text=text)) + "\n" for text in ("short", long, long, f"{long} too")]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    said = clfm("predict", fitted, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl")
    assert "2 texts are longer than" in said.stderr
    assert "longer" not in clfm("predict", fitted, "a short one").stderr
