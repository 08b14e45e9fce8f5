"""What users really feed a program: each is answered, or refused in one sentence that names the row, file or field.
"""
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from command import Forked, clfm, refused
from saved import facts_of, write_facts

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.backbone.encoder import TextEncoder
from clfm_kit.builtin.formats import Plain
from clfm_kit.builtin.poolers import Mean
from clfm_kit.paths import fresh_file

ODD = {
    "empty": "", "spaces": " \t\n ", "emoji": "🙃👩‍👩‍👧‍👦 where??",
    "right to left": "أين طلبي؟ שלום",
    "mixed": "where is заказ 注文 #12", "NUL": "where\x00is it", "long": "my parcel is late " * 5556,
    "one letter": "x", "combining": "e\u0301" * 50, "html": "<script>alert(1)</script>",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_are_answered(name, fitted):
    clf = Classifier.from_pretrained(fitted)
    probabilities = clf.predict_proba([ODD[name], "where is my parcel"])
    assert np.isfinite(probabilities).all() and np.allclose(probabilities.sum(1), 1)
    alone = clf.predict_proba(["where is my parcel"])
    assert np.allclose(probabilities[1], alone[0], atol=1e-3), "a text's answer depends on its neighbours"


def test_odd_texts_can_be_trained_on(tiny):
    texts, labels = [*ODD.values()] * 3, ["a", "b"] * 15
    assert Classifier("probe", tiny, cache=None).fit(texts, labels).predict(texts).shape == (30,)


@pytest.mark.parametrize("texts, labels, message", [
    (["a", None, "c"], ["x", "y", "x"], "row 1"),
    (["a", "b", 3.5], ["x", "y", "x"], "row 2"),
    (["a", "b", "\ud800"], ["x", "y", "x"], "row 2"),
    (["a", "b", "c"], ["x", np.nan, "y"], "row 1"),
    (["a", "b", "c"], ["x", "x", "x"], "only one class"),
    (["a", "b"], ["x"], "2 texts and 1 labels"),
    (["a", "b"], [["x"], "y"], "row 1"),
    ([], [], "no rows"),
])
def test_bad_training_rows_are_named(texts, labels, message, tiny):
    with pytest.raises(UserError, match=message): Classifier("probe", tiny, cache=None).fit(texts, labels)


def test_a_class_with_one_row_is_kept(tiny):
    rows = [(f"text number {i}", "ab"[i % 2]) for i in range(40)] + [("the only one of its kind", "rare")]
    clf = Classifier("probe", tiny, cache=None).fit(*zip(*rows))
    assert (
        list(clf.classes_) == ["a", "b", "rare"]
        and clf.facts_["rows"]["train"] + clf.facts_["rows"]["validation"] == 41
    )


def test_unseen_labels_are_named(fitted):
    clf = Classifier.from_pretrained(fitted)
    report = clf.evaluate(["where is it", "will it rain"], ["track_order", "weather"])
    said = "1 row of data (1) has labels that training never showed ('weather')"
    assert report.rows == 1 and said in " ".join(report.notes)
    assert report.figures["accuracy_with_unseen"] == report.figures["accuracy"] / 2
    with pytest.raises(UserError, match="row 0: label 'weather' was not seen in training"):
        clf.evaluate(["will it rain"], ["weather"])


def test_missing_value_in_a_frame_names_row_and_field(tiny):
    frame = pd.DataFrame({"text": ["a", "b", None], "label": ["x", "y", "x"]})
    with pytest.raises(UserError, match="row 2.*'text'"): Classifier("probe", tiny).fit(frame)
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", np.nan, "y"]})
    with pytest.raises(UserError, match="row 1.*'label'"): Classifier("probe", tiny).fit(frame)


@pytest.mark.parametrize("content, parts", [
    ("text,label\ncaf\xe9,x\n".encode("latin-1"), ("rows.csv", "line 2", "UTF-8")),
    (b"message,label\na,x\nb,y\n", ("message", "text")),
    (b"text,label\na,x\nb,x\n", ("only one class",)),
    (b"", ("rows.csv",)),
    (b"text,label\n", ("no rows",)),
    (b"text\nhello\nbye\n", ("rows.csv", "has no labels")),
    (b"text,text,label\na,b,x\nc,d,y\n", ("rows.csv line 1", "names a column twice")),
    (b"text,label\na,x\n\x81,y\n", ("line 3", "iconv -f latin1", "--encoding latin1")),
    (b"text,category\na,x\nb,y\n", ("rows.csv", "its columns are text, category", "--label-column")),
    (b"text,label\na,\nb,\n", ("rows.csv line 2", "field 'label' is ''")),
])
def test_bad_files_at_the_command_line(content, parts, tiny, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    refused(clfm("fit", "--recipe", "probe", "--model", tiny, "--data", file, "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out").exists()


# eight aliases, each of nine times the one before
BOMB = "{" + ", ".join(
    f"{here}: &{here} [{', '.join([below] * 9)}]"
    for here, below in zip("abcdefgh", ["x", *map("*".__add__, "abcdefg")])
) + "}"


@pytest.mark.parametrize("words, parts", [
    (["fit", "--recipe", "probe"], ["--data"]),
    (["fit", "--recipe", "prove", "--data", "helpdesk", "--out", "x"], ["did you mean 'probe'?"]),
    (["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "head.c=1"], ["did you mean 'C'?"]),
    (["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "head.C"], ["part.parameter=value"]),
    (["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "training=5"], ["a mapping expected"]),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "seed=8589934592"],
        ["seed is 8589934592; a whole number from 0 to 4294967295 expected"],
    ),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", f"head.C={BOMB}"],
        ["stands for more than 10000 values"],
    ),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "head=\x1b]52;c;QQ==\x07\u202e"],
        ["\\x1b]52;c;QQ==\\x07\\u202e"],
    ),
    (["fit", "--recipe", "probe", "--data", "helpdesk"], ["--out"]),
    (["fit", "--recipe", "probe", "--data", "./nowhere.csv", "--out", "x"], ["nowhere.csv"]),
    (["fit", "--recipe", "probe", "--data", "helpdesk", "--model", "./no-model", "--out", "x"], ["no-model"]),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--dry-run", "--set", "pooler.layer=[-1, 99]"],
        ["layer 99 does not exist"],
    ),
    (["fit", "--recipe", "probe", "--data", "helpdesk", "--dry-run", "--model", "./no-model"], ["no-model"]),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "head.C=big"],
        ["head.C is 'big'; a number or null expected"],
    ),
    (
        [
            "fit", "--recipe", "probe", "--data", "helpdesk", "--dry-run", "--set", "head=mlp",
            "--set", "head.width=-3",
        ],
        ["head.width is -3; a whole number above 0 expected"],
    ),
    (
        [
            "fit", "--recipe", "probe", "--data", "helpdesk", "--dry-run", "--set", "head=linear",
            "--set", "head.dropout=2",
        ],
        ["head.dropout is 2; a share from 0 to below 1 expected"],
    ),
    (
        [
            "fit", "--recipe", "probe", "--data", "helpdesk", "--dry-run", "--set", "format=windows",
            "--set", "format.most=0.5",
        ],
        ["format.most is 0.5; a whole number above 0 expected"],
    ),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "seed=abc"],
        ["seed is 'abc'; a whole number from 0 to 4294967295 expected"],
    ),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--out", "x", "--set", "nope=1"],
        ["unknown field of a recipe 'nope'"],
    ),
    (
        ["fit", "--recipe", "probe", "--data", "helpdesk", "--text-column", "x", "--out", "x"],
        ["train.jsonl: unknown text column 'x'"],
    ),
    (["tune", "probe", "--data", "helpdesk", "--rows", "-1"], ["No such option: --rows"]),
    (["predict", "no-model", "a"], ["no-model"]),
    (["frobnicate"], ["frobnicate"]),
])
def test_wrong_words_at_the_command_line(words, parts, tmp_path):
    refused(clfm(*words, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}), *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, content, parts", [
    ("tab.yaml", "name: mine\nhead:\n\tname: logistic\n", ["tab.yaml, line 3 cannot be read as YAML"]),
    ("list.yaml", "- a\n", ["list.yaml must hold a mapping"]),
    ("key.jsonl", '{"text": "a", "label": "x"}\n{"label": "y"}\n', ["key.jsonl line 2: field 'text' is None"]),
    ("junk.parquet", "PAR1junk", ["junk.parquet cannot be read: "]),
])
def test_bad_recipe_and_data_files(name, content, parts, tmp_path):
    (tmp_path / name).write_text(content)
    recipe, data = (name, "helpdesk") if name.endswith("yaml") else ("probe", name)
    refused(clfm("fit", "--recipe", recipe, "--data", data, "--out", "x", cwd=tmp_path), *parts)


def test_no_model_is_fitted_where_none_can_be_saved(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    for out, part in (("notes/mine.txt", "is a file"), ("notes", "holds no clfm-kit model")):
        refused(
            clfm(
                "fit", "--recipe", "probe", "--data", "helpdesk", "--model", "no-such-model", "--out", out,
                cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"},
            ),
            part,
        )
    refused(clfm("predict", "notes", "hello", cwd=tmp_path), "notes holds no clfm-kit model")


@pytest.mark.parametrize("words", [
    ["merge", "no-model", "nor-this", "--data", "helpdesk"],
    ["distil", "no-model", "--data", "helpdesk"],
    ["export", "no-model"],
], ids=lambda words: words[0])
def test_nothing_is_opened_for_a_model_that_cannot_be_saved(words, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    (tmp_path / "no-model").mkdir()
    (tmp_path / "no-model" / "clfm.json").write_text("what opening it would stumble over")
    for out, part in (("notes/mine.txt", "is a file"), ("notes", "holds no clfm-kit model; choose another folder")):
        refused(clfm(*words, "--out", out, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}), f"{out} ", part)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["clfm.json", "mine.txt", "no-model", "notes"]


@pytest.mark.parametrize("harm, part", [
    (
        lambda folder: (folder / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes()[:-100]),
        "head.safetensors is damaged",
    ),
    (lambda folder: (folder / "head.safetensors").unlink(), "head.safetensors is missing"),
    (
        lambda folder: (folder / "clfm.json").write_text((folder / "clfm.json").read_text()[:-50]),
        "clfm.json is damaged",
    ),
    (
        lambda folder: write_facts(folder, facts_of(folder) | dict(format_version=9)),
        "format version 9",
    ),
    (
        lambda folder: write_facts(
            folder, facts_of(folder) | dict(model=facts_of(folder)["model"] | dict(hash="0" * 64))
        ),
        "other weights",
    ),
    (
        lambda folder: (folder / "clfm.json").write_text(
            (folder / "clfm.json").read_text().replace("float16", "float32")
        ),
        "was edited after it was saved",
    ),
])
def test_a_harmed_artifact_is_named(harm, part, fitted, tmp_path):
    import shutil
    folder = tmp_path / "model"
    shutil.copytree(fitted, folder)
    harm(folder)
    refused(clfm("predict", folder, "hello"), part)


def test_a_folder_that_holds_something_else_is_left_alone(fitted, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no clfm-kit model"):
        Classifier.from_pretrained(fitted).save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_export_does_not_take_the_place_of_a_model(fitted):
    from clfm_kit.classifier.export import export
    with pytest.raises(UserError, match="an export would take its place"):
        export(Classifier.from_pretrained(fitted), fitted)
    assert (fitted / "clfm.json").exists()


def test_two_processes_may_fill_the_same_cache(tiny, tmp_path):
    from clfm_kit.backbone.backbone import Backbone

    def read_states():
        encoder = TextEncoder(Backbone.load(tiny), Plain(), Mean(), tmp_path)
        print(float(np.asarray(encoder.features([f"text {i}" for i in range(200)])["hidden.3/mean"]).sum()))

    both = [worker.wait() for worker in [Forked(read_states) for _ in range(2)]]
    assert [done.returncode for done in both] == [0, 0], both
    assert both[0].stdout == both[1].stdout != "" and not list(tmp_path.rglob(".part*"))


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a small file system, and gives its folder."""
    if os.geteuid(): pytest.skip("needs root, to mount a small file system")
    made = []

    def mount(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a file system")
        made.append(folder)
        return folder

    yield mount
    for folder in made: subprocess.run(["umount", "-l", folder], check=True)  # what was read may be mapped still


def states(cache): return sorted(path for path in cache.rglob("*.npy"))


def test_a_cache_without_room_is_told_in_a_sentence_and_the_fit_goes_on(tiny, tmp_path, disk):
    cache = disk("8k")
    done = clfm(
        "fit", "--recipe", "probe", "--model", tiny, "--data", "helpdesk", "--out", tmp_path / "out",
        env=os.environ | {"CLFM_KIT_CACHE": str(cache)},
    )
    assert done.returncode == 0 and (tmp_path / "out" / "clfm.json").exists(), done.stderr
    said = " ".join(done.stderr.split())
    assert "kept in memory" in said and "the cached states need" in said and "Traceback" not in said
    assert not states(cache) and not list(cache.rglob(".part*"))


def test_a_disk_that_fills_while_states_are_written_leaves_nothing_and_the_fit_goes_on(
    tiny, tmp_path, disk, monkeypatch
):
    cache, texts = disk("16k"), load_data("helpdesk").train.texts[:400]
    monkeypatch.setattr(
        "clfm_kit.backbone.cache.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(*[10**9] * 3)
    )
    labels = load_data("helpdesk").train.labels[:400]
    with pytest.warns(UserWarning, match="kept in memory.*No space left on device; free some space") as caught:
        clf = Classifier("probe", tiny, cache=cache).fit(texts, labels)
    assert sum("kept in memory" in str(each.message) for each in caught) == 1
    assert not states(cache) and not list(cache.rglob(".part*"))
    plain = Classifier("probe", tiny, cache=None).fit(texts, labels)
    np.testing.assert_array_equal(clf.decision_function(texts[:9]), plain.decision_function(texts[:9]))


def test_a_cache_that_may_only_be_read_is_read(tiny, disk):
    cache, data = disk("8m"), load_data("helpdesk")
    fit = lambda: Classifier("probe", tiny, cache=cache).fit(data.train.texts[:200], data.train.labels[:200])
    whole, kept = fit(), states(cache)
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    again = fit()
    assert again.facts_["backbone_passes"] == 0 < whole.facts_["backbone_passes"]
    with pytest.warns(UserWarning, match="kept in memory.*Read-only file system"):
        again.evaluate(data.test.texts[:20], data.test.labels[:20])
    trained = ["training.epochs=1", "selector.cost=null", "selector.lowest=2", "pooler=mean"]
    with pytest.warns(UserWarning, match="Read-only file system; they are computed anew"):
        Classifier("token-sparse", tiny, settings=trained, cache=cache).fit(
            data.train.texts[:96], data.train.labels[:96]
        )
    assert states(cache) == kept


def test_without_memory_either_a_reading_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("clfm_kit.backbone.cache.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(0, 0, 0))
    monkeypatch.setattr(
        "clfm_kit.backbone.encoder.psutil.virtual_memory", lambda: SimpleNamespace(available=0)
    )
    data = load_data("helpdesk").train
    with pytest.raises(UserError, match="the cached states need .* free some space"):
        Classifier("probe", tiny, cache=tmp_path).fit(data.texts[:90], data.labels[:90])


def test_results_are_json_and_nothing_else(fitted):
    """In a fresh process, as a user starts it; test_plugins.py has one that refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "clfm_kit.cli.main", "predict", fitted, "where is my parcel", "--json"],
        capture_output=True, text=True,
    )
    assert json.loads(done.stdout)[0]["text"] == "where is my parcel"
    assert abs(sum(json.loads(done.stdout)[0]["probabilities"].values()) - 1) < 1e-3


def answers(fitted, out, home):
    (home / "in.csv").write_text("text\nwhere is my parcel\n")
    return clfm("predict", fitted, "--data", home / "in.csv", "--out", out, cwd=home)


def test_a_private_file_of_answers_stays_private_and_a_link_stays_a_link(fitted, tmp_path):
    out, link = tmp_path / "out.csv", tmp_path / "link.csv"
    out.write_text("old")
    out.chmod(0o600), link.symlink_to(out)
    assert answers(fitted, link, tmp_path).returncode == 0
    assert link.is_symlink() and out.stat().st_mode & 0o777 == 0o600 and "where is my parcel" in out.read_text()


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a circle of links"])
def test_what_is_no_file_is_not_replaced_by_answers(kind, fitted, tmp_path):
    out = tmp_path / "out.csv"
    if kind == "a pipe": os.mkfifo(out)
    if kind == "a device": out.symlink_to("/dev/null")
    if kind == "a circle of links": out.symlink_to(out)
    number = out.lstat().st_ino
    refused(answers("no-such-model", out, tmp_path), f"out.csv is {kind}, and a file is expected")
    with pytest.raises(UserError, match=f"is {kind}"), fresh_file(out): pass
    assert out.lstat().st_ino == number and len(os.listdir(tmp_path)) == 2


def test_a_state_cache_is_its_owners_alone(tiny, tmp_path):
    """But a folder that was made for it has the mode that it was made with."""
    (tmp_path / "shared").mkdir(mode=0o755)
    texts, labels = [f"text number {number}" for number in range(20)], ["x", "y"] * 10
    for name in ("own/cache", "shared"): Classifier("probe", tiny, cache=tmp_path / name).fit(texts, labels)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("own/cache", "shared")]
    assert modes == [0o700, 0o755] and [*(tmp_path / "own" / "cache").iterdir()]


@pytest.mark.parametrize("where, said", [
    (">&-", "standard output is closed"),
    pytest.param(
        ">/dev/full", "cannot be written to standard output: No space left on device",
        marks=pytest.mark.skipif(
            not os.path.exists("/dev/full"), reason="this system has no disk that is always full"
        ),
    ),
])
@pytest.mark.parametrize("words", ["recipes", "recipes --json", "--version"])
def test_an_answer_that_cannot_be_written_is_told(where, said, words):
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m clfm_kit.cli.main {words} {where}'], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("clfm: ") and said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_takes_more_memory_than_there_is_is_a_sentence(tmp_path):
    def run():
        from clfm_kit.cli import main
        def much(**_): raise MemoryError
        main.app = much
        main.main([])
    done = Forked(run).wait()
    assert done.returncode == 1 and done.stderr.startswith("clfm: this takes more memory than there is")
