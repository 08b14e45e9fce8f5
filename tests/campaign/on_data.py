"""Data: files of every format that are cut, twisted or lie; labels and texts that no one expects."""
import gzip
import io
import json
import os
from functools import partial

import numpy as np
import pandas as pd

from clfm_kit import Classifier, Rows, load_data

from .cases import TEXTS, command, group, sound

JSONL = "".join(json.dumps(dict(text=f"text {i}", label="ab"[i % 2])) + "\n" for i in range(20))
CSV = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))


def loaded(world, place, name, content, rows=None, **how):
    "A file is refused, or gives as many rows as it has."
    (place / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found = load_data(str(place / name), **how)
    assert rows is not None, f"{len(found.train)} rows were read: {found.train.texts[:3]} {found.train.labels[:3]}"
    assert len(found.train) == rows, f"{len(found.train)} rows, not {rows}"
    assert all(isinstance(text, str) for text in found.train.texts)


def parquet(frame=None, **more):
    file = io.BytesIO()
    (pd.DataFrame(dict(text=TEXTS, label=list("ababa")) | more) if frame is None else frame).to_parquet(file)
    return file.getvalue()


def line(text): return JSONL + text + "\n"


JSON_LINES = {
    "a list": line("[1, 2]"), "a text": line('"abc"'), "a number": line("5"), "null": line("null"),
    "half": line('{"text": "a"'), "two in a line": line('{"text": "a", "label": "b"} {"text": "c"}'),
    "a comma behind": line('{"text": "a", "label": "b"},'), "single quotes": line("{'text': 'a', 'label': 'b'}"),
    "NaN as a text": line('{"text": NaN, "label": "a"}'),
    "NaN as a label": line('{"text": "a", "label": NaN}'), "infinite label": line('{"text": "a", "label": Infinity}'),
    "a number as a text": line('{"text": 5, "label": "a"}'),
    "a list as a text": line('{"text": ["a"], "label": "a"}'),
    "a mapping as a label": line('{"text": "a", "label": {"b": 1}}'),
    "a list of mappings as a label": line('{"text": "a", "label": [{"b": 1}]}'),
    "null as a text": line('{"text": null, "label": "a"}'), "no label": line('{"text": "a"}'),
    "an empty label": line('{"text": "a", "label": ""}'), "a label of spaces": line('{"text": "a", "label": "  "}'),
    "half a letter in a label": line('{"text": "a", "label": "\\ud800"}'),
    "a label of 5000 digits": line('{"text": "a", "label": ' + "9" * 5000 + "}"),
    "a label beyond 2**53 as a float": line('{"text": "a", "label": 1e300}'),
    "a fraction as a label": line('{"text": "a", "label": 0.5}'),
    "brackets as a text": line('{"text": ' + "[" * 100_000),
    "latin1": JSONL.encode() + '{"text": "é", "label": "a"}'.encode("latin1"), "binary": bytes(range(256)) * 10,
    "one large JSON": json.dumps([dict(text="a", label="b")] * 5), "one JSON over lines": json.dumps(dict(text="a",
        label="b"), indent=1), "no lines": "", "blank lines": "\n\n  \n",
    "a field twice": line('{"text": "a", "text": "b", "label": "a"}'), "a mapping of nothing": line("{}"),
    "a web page": "<!doctype html>\n<html></html>", "UTF-16 cut": JSONL.encode("utf-16")[:-1],
}
GOOD_LINES = {
    "a zero in a text": (line('{"text": "a\\u0000b", "label": "a"}'), 21),
    "Windows lines": (JSONL.replace("\n", "\r\n"), 20), "old lines": (JSONL.replace("\n", "\r"), 20),
    "a mark of bytes": (b"\xef\xbb\xbf" + JSONL.encode(), 20), "UTF-16": (JSONL.encode("utf-16"), 20),
    "no line at the end": (JSONL.rstrip(), 20), "blank lines between": (JSONL.replace("\n", "\n\n"), 20),
    "a line separator in a text": (line('{"text": "a\u2028b\x85c", "label": "a"}'), 21),
    "a long text": (line(json.dumps(dict(text="x" * 10**6, label="a"))), 21),
    "a label of 10 000 letters": (line(json.dumps(dict(text="x", label="a" * 10**4))), 21),
}
TABLES = {
    "a header alone": "text,label\n", "nothing": "", "a field more": CSV + "a,b,c\n", "a field less": CSV + "a\n",
    "an open quote": CSV + '"a,b\n', "text behind a quote": CSV + '"a"b,c\n',
    "no header": CSV.partition("\n")[2], "an empty header": ",\n" + CSV.partition("\n")[2],
    "a header twice": "text,text\na,b\n", "a header of quotes": '"",""\na,b\n', "zeros": bytes(200),
    "no labels": "text,label\n" + "a,\n" * 5, "one label is empty": CSV + "a,\n", "other columns": "x,y\na,b\n",
    "a web page": "<!doctype html>\n<html>\n", "an Excel file": b"PK\x03\x04" + bytes(range(256)),
    "old Excel": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(300), "PDF": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",
    "latin1": CSV.encode() + "é,a\n".encode("latin1"), "a quote over rows": CSV + '"x,a\n' + "text 1,b\n" * 3,
    "a separator alone": ",\n,\n,\n", "spaces for labels": "text,label\n" + "a,  \n" * 5,
}
GOOD_TABLES = {
    "semicolons": (CSV.replace(",", ";"), 20), "a quoted comma": (CSV + '"a,b",a\n', 21),
    "a quoted line": (CSV + '"a\nb",a\n', 21), "a quoted quote": (CSV + '"a ""b"" c",a\n', 21),
    "a mark of bytes": (b"\xef\xbb\xbf" + CSV.encode(), 20),
    "UTF-16": (CSV.encode("utf-16"), 20), "blank lines": (CSV.replace("\n", "\n\n"), 20),
    "old lines": (CSV.replace("\n", "\r"), 20), "columns more": (CSV.replace("\n", ",x\n").replace("label,x",
        "label,more"), 20),
    "a field of a million letters": (CSV + "x" * 10**6 + ",a\n", 21), "formulas": (CSV + "=cmd|'/c calc'!A1,a\n", 21),
    "what pandas takes for nothing": (CSV + "NA,a\nnull,b\nNaN,a\n", 23),
    "brackets in a text": (CSV + "[" * 10_000 + ",a\n", 21),
    "numbers": ("text,label\n" + "".join(f"{i},{i % 2}\n" for i in range(10)), 10),
    "sep=": ("sep=;\n" + CSV.replace(",", ";"), 20), "capitals": (CSV.replace("text,label", "text,Label"), 20),
}


@group
def data_files():
    for name, content in JSON_LINES.items(): yield f"jsonl: {name}", partial(loaded, name="a.jsonl", content=content)
    for name, (content, rows) in GOOD_LINES.items(): yield f"jsonl: {name}", partial(loaded, name="a.jsonl",
        content=content, rows=rows), "right"
    for name, content in TABLES.items():
        yield f"csv: {name}", partial(loaded, name="a.csv", content=content)
    for name in ("nothing", "zeros", "an Excel file", "latin1"):
        yield f"tsv: {name}", partial(loaded, name="a.tsv", content=TABLES[name].replace(",",
            "\t") if isinstance(TABLES[name], str) else TABLES[name])
    for name, (content, rows) in GOOD_TABLES.items(): yield f"csv: {name}", partial(loaded, name="a.csv",
        content=content, rows=rows), "right"
    whole = gzip.compress(JSONL.encode())
    for name, content in {
        "cut": whole[:-9], "its head alone": whole[:10], "no gzip": JSONL, "nothing": b"",
        "a byte flipped": whole[:30] + bytes([whole[30] ^ 255]) + whole[31:],
        "its sum flipped": whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:],
        "rubbish behind": whole + b"xyz", "zip": b"PK\x03\x04" + whole,
    }.items(): yield f"jsonl.gz: {name}", partial(loaded, name="a.jsonl.gz", content=content)
    yield "jsonl.gz: two behind each other", partial(loaded, name="a.jsonl.gz", content=whole * 2, rows=40), "right"
    yield "jsonl.gz: a gzip in a gzip", partial(loaded, name="a.jsonl.gz", content=gzip.compress(whole))
    table = parquet()
    for share in (0, 0.1, 0.5, 0.99): yield f"parquet: cut to {share:.0%}", partial(loaded, name="a.parquet",
        content=table[:int(share * len(table))])
    for place in (5, 40, len(table) // 2, len(table) - 20, len(table) - 6):
        def flipped(world, place_, place=place):
            data = bytearray(table)
            data[place] ^= 255
            (place_ / "a.parquet").write_bytes(data)
            assert load_data(str(place_ / "a.parquet")).train.texts == TEXTS, "other texts were read"
        yield f"parquet: a byte flipped at {place}", flipped, "sound"
    for name, content in {
        "no rows": parquet(pd.DataFrame(dict(text=[], label=[]))), "no columns": parquet(pd.DataFrame()),
        "numbers for texts": parquet(text=range(5)), "nothing for a text": parquet(text=[*TEXTS[:4], None]),
        "nothing for a label": parquet(label=[*"abab", None]),
        "dates for labels": parquet(label=pd.date_range("2026-01-01", periods=5)),
        "bytes for texts": parquet(text=[b"a"] * 5), "mappings for labels": parquet(label=[{"a": 1}] * 5),
        "fractions for labels": parquet(label=[0.5, 1, 0, 1, 0]),
        "lists of lists": parquet(label=[[["a"]]] * 5), "lists for texts": parquet(text=[["a"]] * 5),
        "columns that are numbers": parquet(pd.DataFrame({"0": TEXTS, "1": list("ababa")})),
    }.items(): yield f"parquet: {name}", partial(loaded, name="a.parquet", content=content)
    for end in ("txt", "xlsx", "json", "csv.zip", "jsonl.bz2", "",
        "CSV.exe"): yield f"an ending .{end}", partial(loaded, name=f"a.{end}", content=JSONL)
    yield "capitals in the ending", partial(loaded, name="A.JSONL", content=JSONL, rows=20), "right"
    for how in (dict(text="zzz"), dict(text=""), dict(text=[]), dict(text=5), dict(text="+"), dict(text="text+"),
        dict(text=["text", 5]), dict(label="zzz"), dict(label="+"), dict(label=5), dict(label=["label"]),
        dict(tokens="zzz"), dict(tokens=5),
                dict(separator="ab"), dict(separator=5), dict(encoding="zzz"), dict(encoding=5),
                dict(encoding="base64"), dict(encoding="idna"), dict(encoding="utf-7"),
                dict(text="label", label="text", tokens="text"), dict(encoding="rot13"), dict(encoding="undefined")):
        yield f"jsonl with {how}", partial(loaded, name="a.jsonl", content=JSONL, rows=20,
            **how), "sound" if how in (dict(encoding="idna"), dict(encoding="utf-7"), dict(text=""),
            dict(text=[])) else "refused"
    yield "csv that is no punycode", partial(loaded, name="a.csv", content=b"\0", encoding="punycode")
    yield "csv with another separator", partial(loaded, name="a.csv", content=CSV, separator=";")
    yield "csv with a quote for a separator", partial(loaded, name="a.csv", content=CSV, separator='"')
    yield "csv with a line for a separator", partial(loaded, name="a.csv", content=CSV, separator="\n")
    yield "csv with a zero for a separator", partial(loaded, name="a.csv", content=CSV, separator="\0")
    yield "csv with a surrogate for a separator", partial(loaded, name="a.csv", content=CSV, separator="\ud800")


def folder(files, rows=None):
    def run(world, place):
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(content)
        found = load_data(str(place))
        assert rows is not None, f"read: {found}"
        assert {name: len(part) for name, part in found.items()} == rows
    return run


@group
def data_folders():
    yield "empty", folder({})
    yield "two for one part", folder({"train.csv": CSV, "train.jsonl": JSONL})
    yield "two names for one part", folder({"dev.csv": CSV, "val.csv": CSV})
    yield "other names", folder({"a.csv": CSV, "b.csv": CSV})
    yield "a test alone", folder({"test.csv": CSV}, dict(test=20)), "sound"
    yield "parts of unlike columns", folder({"train.csv": CSV, "test.csv": CSV.replace("text", "other")})
    yield "a folder called train.csv", folder({"train.csv/x": "x"})
    yield "an empty part", folder({"train.csv": CSV, "test.csv": ""})
    yield "all three", folder({"train.csv": CSV, "dev.jsonl": JSONL, "test.csv": CSV},
        dict(train=20, validation=20, test=20)), "right"
    for name, make in {
        "a pipe": os.mkfifo, "a link to nowhere": lambda path: path.symlink_to("/no/such"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a device": lambda path: path.symlink_to("/dev/zero"), "no end": lambda path: path.symlink_to("/dev/urandom"),
    }.items():
        yield name, lambda world, place, make=make: (make(place / "a.jsonl"), load_data(str(place / "a.jsonl")))


# ---- in Python

ONE = [f"a {i}" for i in range(20)]


def many(text, number=20):
    "Texts that begin alike, and are all another."
    return [f"{text} {i}" for i in range(number)]


PAIRS = {
    "no rows": ([], []), "one row": (["a"], ["x"]), "two rows of two labels": (["a", "b"], ["x", "y"]),
    "one class": (ONE, ["a"] * 20), "a label less": (["a", "b", "c"], ["x", "y"]),
    "a label more": (["a", "b"], ["x", "y", "z"]),
    "None for a text": ([None, *ONE], [*"ab" * 10, "a"]), "a number for a text": ([5, *ONE], [*"ab" * 10, "a"]),
    "bytes for a text": ([b"x", *ONE], [*"ab" * 10, "a"]), "a list for a text": ([["x"], *ONE], [*"ab" * 10, "a"]),
    "half a letter in a text": (["\udfff", *ONE], [*"ab" * 10, "a"]), "half a letter in a label": (ONE, ["\ud800",
        "b"] * 10), "None for a label": (ONE, [None, "b"] * 10), "NaN for a label": (ONE, [float("nan"), 1.0] * 10),
    "infinite labels": (ONE, [float("inf"), 1.0] * 10), "fractions": (ONE, [0.5, 1.5] * 10),
    "mappings": (ONE, [{"a": 1}, {"b": 1}] * 10), "objects": (ONE, [object(), object()] * 10),
    "bytes": (ONE, [b"a", b"b"] * 10), "dates": (ONE, [np.datetime64("2026-01-01"), np.datetime64("2026-01-02")] * 10),
    "complex": (ONE, [1j, 2j] * 10), "functions": (ONE, [len, max] * 10),
    "lists of lists": (ONE, [[["a"]], [["b"]]] * 10), "lists and texts": (ONE, [["a"], "b"] * 10),
    "empty labels": (ONE, ["", "a"] * 10), "numbers of 5000 digits": (ONE, [10**5000, 1] * 10),
    "ones and zeros in lists": (ONE, [[0, 1], [1, 0]] * 10), "lists without end": (ONE, [[]] * 20),
    "a table of three axes": (ONE, np.zeros((20, 2, 2))), "texts as a number": (5, ["a"]),
    "labels as a number": (ONE, 5), "labels as a text": (ONE, "ab" * 10), "labels as a mapping": (ONE, {"a": 1}),
    "labels as a mapping of lists": (ONE, {"zzz": ["a"] * 20}),
    "texts as a table of numbers": (np.zeros((20, 3)), ["a", "b"] * 10),
    "every row a class": (["t%d" % i for i in range(30)], ["l%d" % i for i in range(30)]),
    "labels True and 'True'": (ONE, [True, "True"] * 10), "labels 1 and '1'": (ONE, [1, "1"] * 10),
    "labels 1 and True": (ONE, [1, True] * 10),
}
GOOD_PAIRS = {
    "empty texts": (["", *many("x")], ["a", "b", "a"] * 7), "spaces": ([" \n\t", "\u3000", *many("x")], ["a",
        "b"] * 11), "zeros": (many("\0" * 5), ["a", "b"] * 10), "control characters": (many("\x1b[31m\x07"), ["a",
        "b"] * 10), "marks of direction": (many("\u202eabc"), ["a", "b"] * 10),
    "brackets": ([*many("x"), "[" * 100_000, "(" * 100_000], ["a", "b"] * 11),
    "a long word": ([*many("y"), "x" * 100_000, "z" * 100_000], ["a", "b"] * 11),
    "emoji": (many("🦜" * 50), ["a", "b"] * 10), "combining marks": (many("a" + "\u0301" * 1000), ["a", "b"] * 10),
    "text as special tokens": (many("[CLS] [SEP] [PAD] [MASK]"), ["a", "b"] * 10),
    "labels of controls": (ONE, ["\x1b]52;c;QQ==\x07", "\u202eb"] * 10), "labels of spaces": (ONE, [" a ", "b"] * 10),
    "labels of Markdown": (ONE, ["<script>x</script>", "](http://x) | `"] * 10),
    "labels of formulas": (ONE, ["=cmd|x", "@b"] * 10), "huge whole numbers": (ONE, [2**63, 2**64 + 1] * 10),
    "negative numbers": (ONE, [-1, -2] * 10), "truth values": (ONE, [True, False] * 10),
    "numbers of NumPy": (ONE, list(np.array([1, 2] * 10))), "labels of 10 000 letters": (ONE, ["a" * 10**4,
        "b" * 10**4] * 10), "brackets for a label": (ONE, ["[" * 1000, "]" * 1000] * 10),
        "labels of other scripts": (ONE, ["日本", "عربي"] * 10),
    "a class with one row": (ONE + ["b"], ["x", "y"] * 10 + ["z"]), "labels called like fields": (ONE, ["label",
        "__class__"] * 10), "null and None as texts": (ONE, ["null", "None"] * 10),
    "dots and slashes": (ONE, ["../a", "/etc/passwd"] * 10), "texts as an array": (np.array(ONE), np.array(["a",
        "b"] * 10)), "series": (pd.Series(ONE), pd.Series(["a", "b"] * 10, index=range(100, 120))),
}


def fitted(world, place, texts, labels):
    "A fit is refused, or is saved, read again and gives the labels that were given."
    clf = Classifier("probe", str(world.tiny), cache=None).fit(texts, labels)
    sound(clf)
    again = Classifier.from_pretrained(clf.save_pretrained(place / "model"))
    assert list(again.classes_) == list(clf.classes_) and set(map(type, again.classes_.tolist())) == set(map(type,
        clf.classes_.tolist()))
    np.testing.assert_array_equal(again.decision_function(TEXTS), clf.decision_function(TEXTS))
    if not isinstance(next(iter(labels)), list):
        strip = lambda label: label.strip() if isinstance(label, str) else label
        assert {strip(label) for label in clf.classes_.tolist()} == {strip(label) for label in labels}, (clf.classes_,
            set(labels))
    clf.evaluate(list(texts)[:8], list(labels)[:8])


@group
def texts_and_labels():
    for name, (texts, labels) in PAIRS.items(): yield name, partial(fitted, texts=texts,
        labels=labels), "sound" if name in ("two rows of two labels", "labels as a text") else "refused"
    for name, (texts, labels) in GOOD_PAIRS.items(): yield name, partial(fitted, texts=texts, labels=labels), "right"
    for name, data in {
        "a mapping of tables": {"train": 5}, "a mapping of a strange part": {"zzz": [("a", "b")]},
        "rows of three": [("a", "b", "c")] * 9, "rows of sets": [{"a", "b"}] * 9, "rows of numbers": [1, 2, 3],
        "an empty table": pd.DataFrame(), "a table of numbers": pd.DataFrame(np.zeros((3, 2))),
        "rows of texts alone": ["a", "b"], "a path that is a letter": "a", "a text": "this is a text",
        "an empty text": "", "a place of a stranger": "http://localhost:1/x.csv", "a number": 5, "bytes": b"helpdesk",
        "a column of dates": pd.DataFrame(dict(text=pd.date_range("2026-01-01", periods=4), label=list("abab"))),
        "columns that are numbers": pd.DataFrame({0: ["a"] * 4, 1: list("abab")}),
        "two columns of one name": pd.DataFrame([["a", "b", "x"]] * 4, columns=["text", "text", "label"]),
        "rows without labels": Rows(["a", "b"]), "rows of unlike lengths": Rows(["a", "b", "c"], ["x", "y"]),
        "rows of no texts": Rows([], []), "rows whose texts are numbers": Rows([1, 2], ["a", "b"]),
    }.items():
        yield f"data: {name}", lambda world, place, data=data: Classifier("probe", str(world.tiny),
            cache=None).fit(data)


# ---- written out again

@group
def answers_in_a_terminal():
    hostile = ["\x1b]52;c;QQ==\x07", "=cmd|'/c calc'!A1", "<script>alert(1)</script>", "\u202eabc", "a\tb", "\x9b2J",
        "\0", "", "-1+1", "@x", "日本"]
    def rows(place):
        (place / "in.jsonl").write_text("".join(json.dumps(dict(text=text, label="good")) + "\n" for text in hostile))
        return place / "in.jsonl"
    def written(end, *more):
        def run(world, place):
            command("predict", world.probe, "--data", rows(place), "--out", place / f"out.{end}", *more)
            assert (place / f"out.{end}").stat().st_size
        return run
    for end in ("csv", "tsv", "jsonl", "parquet"): yield f"predict to {end}", written(end), "right"
    yield "predict to a strange ending", written("xlsx")
    yield "predict to a place below a file", lambda world, place: command("predict", world.probe, "--data",
        rows(place), "--out", place / "in.jsonl/out.csv")
    yield "predict over what it reads", lambda world, place: command("predict", world.probe, "--data", rows(place),
        "--out", place / "in.jsonl"), "sound"
    yield "predict to a folder", lambda world, place: ((place / "out.csv").mkdir(),
        command("predict", world.probe, "--data", rows(place), "--out", place / "out.csv"))
    yield "predict to a full device", lambda world, place: ((place / "out.csv").symlink_to("/dev/full"),
        command("predict", world.probe, "--data", rows(place), "--out", place / "out.csv")), "sound"
    yield "predict shown", lambda world, place: command("predict", world.probe,
        *[text for text in hostile if text and "\0" not in text][:5]), "right"
    yield "evaluate with strange texts", lambda world, place: command("evaluate", world.probe, "--data",
        rows(place)), "right"
    yield "errors with strange texts", lambda world, place: command("errors", world.probe, "--data", rows(place),
        "--folds", "0"), "right"
    yield "explain a strange text", lambda world, place: command("explain", world.probe, hostile[0]), "right"
    yield "evaluate with a strange label", lambda world, place: (
        (place / "a.jsonl").write_text(json.dumps(dict(text="a", label="\x1b[2J"))),
        command("evaluate", world.probe, "--data", place / "a.jsonl"),
    )
    yield "a file of a strange name", lambda world, place: ((place / "a\x1b[2Jb.jsonl").write_text("{"),
        command("evaluate", world.probe, "--data", place / "a\x1b[2Jb.jsonl"))
    yield "a column of a strange name", lambda world, place: (
        (place / "a.csv").write_text("te\x1bxt,\u202elabel\na,b\n"),
        command("evaluate", world.probe, "--data", place / "a.csv"),
    )
