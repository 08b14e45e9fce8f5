"""Tracking: what TensorBoard, MLflow and Weights & Biases hold of a fit is what the fit was; their errors end none."""
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
from command import clfm

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.cli.options import tracked
from clfm_kit.data.rows import Splits
from clfm_kit.plugins import catalogue, using
from clfm_kit.settings import Training
from clfm_kit_track.contents import figures_of
from clfm_kit_track.trackers import TensorBoardRecord
from clfm_kit_track.tracking import tracking

VARIABLES = (
    "CLFM_KIT_TRACK", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID",
    "TENSORBOARD_LOGGING_DIR", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR",
)
rows = load_data("helpdesk")
DATA = Splits(rows.train.take(range(80)), rows.validation.take(range(40)), rows.test.take(range(40)), "few rows")


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    "In a folder of its own, as an environment that says nothing of trackers has it."
    for name in VARIABLES: monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finetuned(tiny): return Classifier("finetune", tiny, ["training.epochs=2"], cache=None).fit(DATA)


# ---- TensorBoard

def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(folder)).Reload()


def words(events, name): return events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()


def test_tensorboard_holds_curves_figures_data_card_and_files_of_a_fit(tiny):
    with tracking("tensorboard"):
        clf = finetuned(tiny)
        clf.reports_["test"] = clf.evaluate(DATA)
        saved = clf.save_pretrained("model")
    assert [path.name for path in Path("runs").iterdir()] == ["finetune-1"]
    events = read_events("runs/finetune-1")
    curve = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    steps = [point.step for point in curve["train/loss"]]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 2
    rates = [point.value for point in curve["train/learning_rate"]]
    assert max(rates) == pytest.approx(Training.of(clf.recipe_.training).learning_rate) and len(set(rates)) > 2
    losses = [point.value for point in curve["validate/loss"]]
    assert losses == pytest.approx(clf.facts_["training"]["validation_loss"], rel=1e-5)
    for name, value in figures_of(clf.reports_).items(): assert curve[name][0].value == pytest.approx(value, rel=1e-5)
    assert {"test/accuracy", "test/accuracy_low", "test/accuracy_high"} <= curve.keys()
    assert words(events, "card.md") == (saved / "README.md").read_text(encoding="utf-8")
    assert "head.safetensors" in words(events, "model") and "finished" in words(events, "status")
    assert "| `training.epochs` | `2` |" in words(events, "parameters")
    data = json.loads(words(events, "data.json").strip("`\n"))
    assert data["label"]["parts"]["train"]["rows"] == 80
    assert not any(text in words(events, "data.json") for text in DATA.train.texts)


def test_a_fit_that_is_refused_or_stopped_says_so(tiny):
    def stop(event):
        if event["kind"] == "train": raise KeyboardInterrupt
    with tracking("tensorboard"):
        with using("stop", run_event=stop), pytest.raises(KeyboardInterrupt): finetuned(tiny)
        with pytest.raises(UserError): Classifier("probe", "./nowhere").fit(DATA)
    assert "stopped" in words(read_events("runs/finetune-1"), "status")
    assert "failed" in words(read_events("runs/probe-1"), "status")


def test_a_refit_that_is_refused_leaves_what_was_written_of_the_fit_before(tiny):
    clf = Classifier("probe", tiny, cache=None)
    with tracking("tensorboard"):
        clf.fit(DATA)
        with pytest.raises(UserError): clf.fit("./nowhere.csv")
        clf.save_pretrained("model")
        clf.set_params(model="./nowhere")
        with pytest.raises(UserError): clf.fit(DATA)
        clf.save_pretrained("again")
    first, second = read_events("runs/probe-1"), read_events("runs/probe-2")
    assert "finished" in words(first, "status") and "model/text_summary" in first.Tags()["tensors"]
    assert "failed" in words(second, "status") and "model/text_summary" not in second.Tags()["tensors"]


def test_an_error_at_the_end_of_a_record_is_a_warning(monkeypatch, tiny):
    def close(self): raise OSError("the disk is full")
    monkeypatch.setattr(TensorBoardRecord, "close", close)
    with pytest.warns(UserWarning, match="cannot end what it wrote of a fit: the disk is full"):
        with tracking("tensorboard"): Classifier("probe", tiny, cache=None).fit(DATA)


# ---- MLflow

@pytest.fixture(scope="module")
def chosen(tiny, tmp_path_factory):
    "A fit that tries two recipes, saved and measured, and the client that reads what MLflow holds of it."
    from mlflow import MlflowClient
    before, folder = os.getcwd(), tmp_path_factory.mktemp("mlflow")
    os.chdir(folder)
    try:
        with tracking("mlflow"):
            tries = dict(name="auto", candidates=["keywords", "probe", "instruct"])
            clf = Classifier(tries, tiny, cache=None).fit(DATA)
            clf.save_pretrained("model")
            clf.reports_["TF-IDF baseline, test"] = clf.evaluate(DATA)
            clf.save_pretrained("model")
        yield clf, MlflowClient(f"sqlite:///{folder}/mlflow.db")
    finally: os.chdir(before)


def test_mlflow_holds_a_run_of_the_whole_and_one_of_each_candidate_inside(chosen):
    clf, client = chosen
    experiment = client.get_experiment_by_name("clfm-kit")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "auto": "FINISHED", "keywords": "FINISHED", "probe": "FINISHED", "instruct": "FAILED",
    }
    whole = runs.pop("auto")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {whole.info.run_id}
    assert "mlflow.parentRunId" not in whole.data.tags
    assert whole.data.params["chosen"] == clf.recipe_.name and runs["keywords"].data.params["pooler"] == "keywords"
    assert whole.data.params["candidates"] == '["keywords", "probe", "instruct"]'
    for name, value in figures_of(clf.reports_).items(): assert whole.data.metrics[name] == pytest.approx(value), name
    assert "TF-IDF baseline_ test/accuracy_high" in whole.data.metrics
    assert whole.data.metrics["fit/rows.train"] == 80


def test_the_model_that_mlflow_keeps_answers_like_the_one_that_was_fitted(chosen, tmp_path):
    clf, client = chosen
    experiment = client.get_experiment_by_name("clfm-kit").experiment_id
    run, = client.search_runs([experiment], "tags.mlflow.runName = 'auto'")
    folder = client.download_artifacts(run.info.run_id, "model", str(tmp_path))
    texts = DATA.test.texts[:9]
    assert list(Classifier.from_pretrained(folder).predict(texts)) == list(clf.predict(texts))
    kept = {found.path for found in client.list_artifacts(run.info.run_id)}
    assert kept == {"card.md", "choice.json", "model"}


# ---- Weights & Biases

def test_wandb_writes_offline_unless_it_is_told_otherwise(tiny, away):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    with tracking("wandb"): finetuned(tiny).save_pretrained("model")
    wandb.teardown()  # its own process has written everything
    found, = away.glob("wandb/offline-run-*")
    kept = b"".join(path.read_bytes() for path in found.rglob("*") if path.is_file())
    for name in (b"train/learning_rate", b"validation/accuracy_low", b"training.epochs", b"head.safetensors"):
        assert name in kept, name


# ---- what is wrong

def test_an_error_of_a_tracker_is_told_once_and_ends_no_fit(monkeypatch, tiny):
    monkeypatch.setenv("CLFM_KIT_TRACK", "tensorboard")
    Path("runs").write_text("a file")
    with pytest.warns(UserWarning, match="plugin 'track' cannot watch this run, which goes on") as told: finetuned(tiny)
    assert len([each for each in told if "track" in str(each.message)]) == 1
    assert "runs" in catalogue.failures.pop("track")


def test_an_unknown_name_in_the_environment_is_told_with_the_known_ones(monkeypatch, tiny):
    monkeypatch.setenv("CLFM_KIT_TRACK", "mlfow")
    with pytest.warns(UserWarning, match="unknown tracker 'mlfow'.*known: mlflow, tensorboard, wandb"):
        Classifier("probe", tiny, cache=None).fit(DATA)
    catalogue.failures.pop("track")


def test_a_library_that_is_not_there_is_a_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="tracking with wandb needs wandb.*pip install wandb"): tracking("wandb")


def test_without_the_plugin_the_option_names_the_extra():
    plugin = catalogue.manager.unregister(name="track")
    try:
        with pytest.raises(UserError, match=r"unknown tracker 'mlflow'.*pip install \"clfm-kit\[track\]\""):
            tracked("mlflow")
        with pytest.raises(UserError, match="plugin 'track' is not among those that are loaded"):
            tracking("tensorboard")
    finally: catalogue.manager.register(plugin, "track")
    with tracked(None): pass


def test_nothing_is_written_unless_it_is_asked(tiny, away):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Classifier("keywords", cache=None).fit(DATA).save_pretrained("model")
    assert [path.name for path in away.iterdir()] == ["model"]


# ---- the command

@pytest.mark.parametrize("given", [["--track", "tensorboard"], []], ids=["option", "variable"])
def test_the_command_tracks_a_fit_with_its_test_figures(given, tiny, tmp_path):
    found = clfm(
        "fit", "--data", "helpdesk", "--recipe", "probe", "--model", tiny, "--out", tmp_path / "model", *given,
        cwd=tmp_path, env={} if given else dict(CLFM_KIT_TRACK="tensorboard"),
    )
    assert found.returncode == 0, found.stderr
    scalars = read_events(tmp_path / "runs" / "probe-1").Tags()["scalars"]
    assert {"validation/accuracy", "test/accuracy", "test/accuracy_low", "TF-IDF baseline_ test/accuracy"} <= {*scalars}


@pytest.mark.parametrize("command", [
    ["fit", "--data", "helpdesk", "--out", "model"], ["compare", "probe", "--data", "helpdesk"],
    ["tune", "--data", "helpdesk", "--recipe", "probe", "--search", "head.C=1..2"],
], ids=lambda command: command[0])
def test_commands_refuse_an_unknown_tracker_before_anything_runs(command, tmp_path):
    found = clfm(*command, "--track", "tensorbord", cwd=tmp_path)
    assert found.returncode == 2 and "did you mean 'tensorboard'" in found.stderr
    assert not [*tmp_path.iterdir()]
