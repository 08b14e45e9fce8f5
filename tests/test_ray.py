"""Answers of a Ray cluster: those of one process, row by row, with a worker that dies; errors are one sentence."""
import json
import os
import signal
import sys
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec

import psutil
import pyarrow
import pyarrow.parquet
import pytest
from command import clfm

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.builtin.tags import Tags
from clfm_kit.cli.main import main
from clfm_kit.classifier.scoring import Scoring
from clfm_kit.data.words import spans
from clfm_kit_ray import answering, command, files
from clfm_kit_ray.answering import Answers, label_type, predict
from clfm_kit_ray.files import answer_files, cluster

TEXTS = load_data("helpdesk").test.texts[:100]
VARIABLES = "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_BACKEND_LOG_LEVEL", "RAY_ADDRESS"


@pytest.fixture(scope="module")
def ray():
    "A cluster of this machine with two workers' room, as the command starts it."
    if find_spec("ray") is None: pytest.skip('ray is not installed: pip install "clfm-kit-ray[data]"')
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES: patch.setenv(name, ""), patch.delenv(name)  # what it was comes back afterwards
        patch.setattr(files, "STORE", 2**27)
        with cluster(None, 2): yield import_module("ray")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A folder of two files; one has a column more."
    folder = tmp_path_factory.mktemp("data")
    records = [dict(id=row, text=text) | ({"note": [row]} if row >= 60 else {}) for row, text in enumerate(TEXTS)]
    for name, part in (("a", records[:60]), ("b", records[60:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in part))
    return folder


def same(found, expected):
    "Whether two tables hold the same rows in the same order; probabilities depend a little on what is read together."
    assert found.schema.equals(expected.schema)
    chances = [table["probability"].to_pylist() for table in (found, expected)]
    assert chances[0] == pytest.approx(chances[1], abs=1e-4)
    assert found.drop_columns("probability").to_pylist() == expected.drop_columns("probability").to_pylist()


def test_a_worker_that_dies_in_the_middle_costs_no_row_and_doubles_none(ray, fitted, data, tmp_path, monkeypatch):
    Scoring(Classifier.from_pretrained(fitted), data, tmp_path / "one.parquet").run()
    calls = tmp_path / "calls"
    calls.mkdir()

    class Mortal(Answers):
        "One that tells its process of each block, and is killed when it has the row 50 for the first time."
        def __call__(self, rows):
            ids = rows["id"].to_pylist()
            dies = 50 in ids and not any(calls.glob("dead-*"))
            (calls / f"{'dead' if dies else 'done'}-{os.getpid()}-{ids[0]}").touch()
            if dies: os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(rows)

    monkeypatch.setattr(answering, "Answers", Mortal)
    monkeypatch.setattr(files, "FILE", 24)
    found = answer_files(data, fitted, tmp_path / "many", rows=8)
    assert found == files.Answered(100, ["label", "probability", "rejected"], len([*(tmp_path / "many").iterdir()]))
    assert found.files > 1
    parts = [pyarrow.parquet.read_table(path) for path in sorted((tmp_path / "many").iterdir())]
    same(pyarrow.concat_tables(parts), pyarrow.parquet.read_table(tmp_path / "one.parquet"))
    dead, done = ([path.name.split("-")[1:] for path in calls.glob(f"{word}-*")] for word in ("dead", "done"))
    (process, block), = dead
    assert block in [first for _, first in done], "the block of the dead worker was answered by another"
    assert not psutil.pid_exists(int(process)) and {worker for worker, _ in done} - {process}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls", "many", "one.parquet"]


def test_a_data_set_of_ray_keeps_its_columns_and_gets_answers(ray, fitted, tmp_path):
    clf = Classifier.from_pretrained(fitted)
    labels, chances = clf.answer(TEXTS[:20])
    rows = ray.data.from_items([dict(label=row, body=text) for row, text in enumerate(TEXTS[:20])])
    found = sorted(predict(rows, fitted, workers=1, rows=8, text="body").take_all(), key=lambda record: record["label"])
    assert [record["label"] for record in found] == [*range(20)]
    assert [record["body"] for record in found] == list(TEXTS[:20])
    assert [record["predicted_label"] for record in found] == labels.tolist()
    assert [record["predicted_probability"] for record in found] == pytest.approx(chances.max(1).tolist(), abs=1e-4)


def test_the_cluster_listens_on_this_machine_alone_and_sends_no_statistics(ray):
    me = psutil.Process()
    listening = {
        at.laddr.ip.removeprefix("::ffff:") for each in (me, *me.children(recursive=True))
        for at in each.net_connections() if at.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"} and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_an_error_of_a_worker_is_one_sentence_and_nothing_is_kept(ray, fitted, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    for given, words in (
        (dict(data=tmp_path / "rows.jsonl"), r"rows.jsonl.*2.*'text' is None"),
        (dict(data="helpdesk", gpus=0.5), "cluster has 0"),
        (dict(data="helpdesk", workers=3), "3 workers that take 1 CPU each need 3 and one more, and the cluster has 3"),
        (dict(data="helpdesk", base="nowhere"), "'nowhere'"),
    ):
        with pytest.raises(UserError, match=words) as told: answer_files(model=fitted, out=tmp_path / "out", **given)
        assert "Traceback" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_command_says_what_it_wrote(ray, fitted, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "cluster", lambda *_: nullcontext())  # there is one
    command.predict_ray(str(fitted), str(data), str(tmp_path / "out"), workers=1, as_json=True)
    assert json.loads(capsys.readouterr().out) == dict(
        out=str(tmp_path / "out"), rows=100, columns=["label", "probability", "rejected"], files=1
    )


# ---- without Ray

def test_blocks_have_one_layout_whatever_is_answered(tiny, tmp_path):
    texts, labels = list(TEXTS[:20]), [["a"], ["a", "b"], ["b"], []] * 5
    folder = Classifier("probe", tiny, cache=None).fit(texts, labels).save_pretrained(tmp_path / "several")
    for threshold, label in ((0.0, ["a", "b"]), (1.0, [])):
        found = Answers(folder, thresholds=[threshold] * 2)(pyarrow.table(dict(text=texts[:3])))
        assert found["label"].to_pylist() == [label] * 3
        assert found.schema.field("label").type == pyarrow.list_(pyarrow.string())
    found = spans(["O", "B-place"], [(0, 2), (3, 7)], "to Rome", [1.0, 0.5])
    assert pyarrow.array([found, []], label_type(Tags())).to_pylist() == [found, []]


def test_without_ray_the_command_says_what_to_install(fitted, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    for name in VARIABLES: monkeypatch.setenv(name, "0")
    with pytest.raises(UserError, match=r'needs ray.*pip install "clfm-kit-ray\[data\]"'):
        command.predict_ray(str(fitted), str(data), str(tmp_path / "out"))


def test_predict_hands_rows_to_ray(fitted, data, tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(command, "predict_ray", lambda *given, **more: asked.update(given=given, **more))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    words = ["predict", str(fitted), "--data", str(data), "--out", str(tmp_path / "out"), "--engine", "ray"]
    main(words)
    assert asked["given"] == (str(fitted), str(data), str(tmp_path / "out")) and asked["address"] == "auto"
    for more, told in ((["--restart"], "--restart"), (["a text"], "texts"), (["--threshold", "0.5"], "--threshold")):
        with pytest.raises(SystemExit, match="2"): main([*words, *more])
        assert f"leave out {told}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"): main(words[:2] + words[-2:])
    assert "a new folder --out; give both" in capsys.readouterr().err


@pytest.mark.parametrize("given, words", [
    (["--workers", "0"], "workers is 0"), (["--gpus", "1.5"], "whole numbers only"),
    (["--out", "."], "is there already"), (["--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
    (["--engine", "ray"], "unknown engine 'ray'"), (["--data", "no.csv"], "no.csv"),
])
def test_the_command_refuses_before_ray_starts(given, words, fitted, data, tmp_path):
    (tmp_path / "a").touch()
    found = clfm("predict-ray", fitted, "--data", data, "--out", tmp_path / "out", *given, cwd=tmp_path)
    assert found.returncode == 2 and words in found.stderr and "Traceback" not in found.stderr
