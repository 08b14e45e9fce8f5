"""A saved model is believed in nothing: what was damaged, edited or made up ends in one sentence; and it is written
whole, or kept elsewhere.
"""
import copy
import json
import math
import os
import platform
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import Forked, clfm, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from saved import copied, facts_of, write_facts

from clfm_kit import Classifier, UserError
from clfm_kit.backbone.deltas import Delta
from clfm_kit.backbone.sources import file_hash
from clfm_kit.builtin.heads import Linear, Logistic
from clfm_kit.builtin.poolers import Attention
from clfm_kit.classifier import artifacts, folders
from clfm_kit.classifier.artifacts import read_artifact, set_head_state, set_state
from clfm_kit.classifier.contents import check_contents
from clfm_kit.classifier.folders import DELTA, HEAD, check_folder, fresh_folder, recover
from clfm_kit.evaluation.rejection import CentroidDistance
from clfm_kit.parts import make

TEXTS = ["where is my parcel", "please cancel it", "x"]


@pytest.fixture(scope="module")
def models(tiny, fitted, tmp_path_factory):
    """{name: folder} of a probe with nothing special, of three tasks with a reject option, and of a trained base."""
    home = tmp_path_factory.mktemp("models")
    frame = pd.DataFrame([
        dict(
            text=f"bring item {i} to town", intent="ab"[i % 2], topics=[["x"], ["y", "z"], ["x", "z"]][i % 3],
            rank=i % 4,
        )
        for i in range(80)
    ])
    tasks = dict(intent=dict(label="intent", reject="energy"), topics="topics", rank=dict(label="rank", kind="ordinal"))
    named = Classifier("probe", tiny, cache=None, tasks=tasks).fit(frame).save_pretrained(home / "named")
    recipe = dict(
        name="trained", pooler="attention", selector="top-layers", head="linear",
        training=dict(epochs=1, head_start="random"),
    )
    rows = [f"{word} {i}" for i in range(20) for word in ("good", "bad")], ["g", "b"] * 20
    trained = Classifier(recipe, tiny, cache=None).fit(*rows).save_pretrained(home / "trained")
    return dict(probe=fitted, named=named, trained=trained)


# ---- every field of clfm.json, replaced by everything

REPLACED = (None, -1, 7, 0.5, "zzz", True, math.nan, [], ["a", "a"], {}, {"a": 1})
GONE = object()


def places(value, path=()):
    """The path of every value in JSON; of a list the first two entries stand for the others."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, each in inner: yield from places(each, (*path, name))


def replaced(facts, path, value):
    """A copy of JSON in which the value at a path is another, or gone; only what lies on the path is copied."""
    if not path: return copy.deepcopy(value)
    found, (name, *rest) = copy.copy(facts), path
    if value is GONE and not rest: del found[name]
    else: found[name] = replaced(facts[name], rest, value)
    return found


def at(facts, path):
    """The value at a path."""
    for name in path: facts = facts[name]
    return facts


def damaged(facts, values=REPLACED):
    """(path, JSON) of every single replacement that changes something."""
    for path in places(facts):
        for value in (*values, *[GONE] * bool(path)):
            if value is GONE or json.dumps(value) != json.dumps(at(facts, path)):
                yield path, replaced(facts, path, value)


@pytest.mark.parametrize("name", ["probe", "named", "trained"])
def test_any_edit_of_any_field_is_refused(name, models, tmp_path):
    folder, tried = copied(models[name], tmp_path / "model"), 0
    for path, found in damaged(facts_of(folder)):
        if name != "probe" and len(path) > 1 and path[0] == "reports": continue  # larger, and of the same shape
        (folder / "clfm.json").write_text(json.dumps(found))
        with pytest.raises(UserError) as refusal: artifacts._read_facts(folder)
        said = str(refusal.value)
        assert "\n" not in said and len(said) < 1000 and str(folder) in said, (path, said)
        tried += 1
    assert tried > 500


# Fields that change no answer: what else they might hold instead cannot be known from the file.
TOLD = ("facts", "reports", "versions", "sha256", "format_version")


@pytest.mark.parametrize("name", ["probe", "named", "trained"])
def test_an_edit_by_one_who_knows_of_the_hash_gives_a_sentence_or_the_same_answers(name, models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = copied(models[name], tmp_path / "model")
    facts, tried = facts_of(folder), 0
    ask = lambda clf: [np.asarray(found) for found in _list(clf.decision_function(TEXTS))]
    expected = ask(Classifier.from_pretrained(folder))
    for path, found in damaged(facts, (None, 7, "zzz", {"a": 1})):
        if not path or path[0] in TOLD or path[:2] in (("model", "source"), ("recipe", "name")): continue
        try: check_contents(found, "clfm.json: ")
        except UserError: continue  # as it is told when the file is read
        write_facts(folder, found)
        tried += 1
        try: clf = Classifier.from_pretrained(folder)
        except UserError as error:
            assert "\n" not in str(error), path
            continue
        if path[0] in ("parts", "delta"):  # another number makes another model of the same shape
            assert isinstance(at(found, path), (int, float)), f"{path} was accepted"
            continue
        clf.predict(TEXTS), [str(report) for report in clf.reports_.values()]
        for one, other in zip(expected, ask(clf)): np.testing.assert_array_equal(one, other, str(path))
    assert tried > 20


def _list(found): return list(found.values()) if isinstance(found, dict) else [found]


def test_every_report_that_is_read_can_be_shown(models, tmp_path):
    facts = facts_of(models["named"])
    for path, found in damaged(facts["reports"]):
        whole = facts | dict(reports=found)
        try: check_contents(whole, "clfm.json: ")
        except UserError: continue
        from clfm_kit.evaluation.metrics import Report
        for report in whole["reports"].values(): str(Report.from_dict(report)), Report.from_dict(report).to_dict()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_json_anywhere_is_a_sentence_or_fits(models, data):
    facts = facts_of(models["named"])
    path = data.draw(st.sampled_from(list(places(facts))))
    try: check_contents(replaced(facts, path, data.draw(JSON)), "clfm.json: ")
    except UserError as error: assert str(error).startswith("clfm.json: ")


@pytest.mark.parametrize("text", [
    "", "null", "[]", "3", '"clfm"', "{", "[" * 100_000, '{"format_version": 3, "format_version": 3}', "\ud800",
    "9" * 5000, '{"format_version": NaN}', '{"format_version": 3.0}', '{"format_version": true}',
])
def test_what_is_no_such_json_is_one_sentence(text, fitted, tmp_path):
    folder = copied(fitted, tmp_path / "model")
    (folder / "clfm.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError) as refusal: Classifier.from_pretrained(folder)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000


@pytest.mark.parametrize("change, part", [
    (lambda labels: labels.reverse(), ""),
    (lambda labels: labels.append(labels[0]), "a label twice"),
    (lambda labels: labels.append("one more"), "labels, and the head gives"),
    (lambda labels: labels.pop(), "labels, and the head gives"),
    (lambda labels: labels.__setitem__(0, [labels[0]]), "labels[0] is"),
    (lambda labels: labels.__setitem__(0, 5), "both texts and numbers"),
    (lambda labels: labels.clear(), "labels is empty"),
])
def test_labels_are_compared_with_the_head(change, part, fitted, tmp_path):
    edit = lambda facts: change(facts["tasks"]["label"]["schema"]["labels"])
    folder = copied(fitted, tmp_path / "model", edit)
    if part:
        with pytest.raises(UserError) as refusal: Classifier.from_pretrained(folder)
        assert "tasks.label.schema.labels" in str(refusal.value) and part in str(refusal.value)
    facts = facts_of(fitted)
    edit(facts)
    (folder / "clfm.json").write_text(json.dumps(facts))  # without a new hash
    with pytest.raises(UserError): Classifier.from_pretrained(folder)


@pytest.mark.parametrize("states", [[1e300], [0.0] * 64, [0.1]])
def test_states_of_the_base_are_as_many_as_they_were(states, fitted, tmp_path):
    edit = lambda facts: facts["model"].update(states=states)
    with pytest.raises(UserError, match="gives other states than it did when this classifier was fitted"):
        Classifier.from_pretrained(copied(fitted, tmp_path / "model", edit))


def test_the_tokenizer_is_the_one_of_the_fit(fitted, tmp_path):
    edit = lambda facts: facts["model"].update(tokenizer="0" * 64)
    with pytest.raises(UserError, match="model.tokenizer is the hash of another tokenizer"):
        Classifier.from_pretrained(copied(fitted, tmp_path / "model", edit))


@pytest.mark.parametrize("temperature", [0, -1, 1e-308, 1e308, "NaN", "1"])
def test_a_temperature_is_one_that_a_fit_can_find(temperature, fitted, tmp_path):
    edit = lambda facts: facts["tasks"]["label"]["calibration"].update(temperature=temperature)
    with pytest.raises(UserError, match="tasks.label.calibration.temperature is .*a number from 0.01 to 100 expected"):
        Classifier.from_pretrained(copied(fitted, tmp_path / "model", edit))


def test_a_task_of_another_kind_is_refused(models, tmp_path):
    def edit(facts): facts["tasks"]["topics"]["schema"]["kind"] = "single"
    with pytest.raises(UserError, match="tasks.topics.calibration.thresholds are for several labels"):
        Classifier.from_pretrained(copied(models["named"], tmp_path / "model", edit))
    def edit(facts): facts["tasks"]["intent"]["schema"]["kind"] = "zzz"
    with pytest.raises(UserError, match="clfm.json: unknown task 'zzz'"):
        Classifier.from_pretrained(copied(models["named"], tmp_path / "other", edit))


# ---- tensors, deltas, quantizers

def with_tensors(folder, change, name="head.safetensors"):
    """Change a file of tensors, and its hash."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    facts = facts_of(folder)
    facts["files"][name] = file_hash(folder / name)
    write_facts(folder, facts)
    return folder


@pytest.mark.parametrize("change, part", [
    (lambda tensors: tensors["label.weights_"].fill_(math.nan), "'label.weights_' holds numbers that are not finite"),
    (lambda tensors: tensors["label.bias_"].fill_(math.inf), "'label.bias_' holds numbers that are not finite"),
    (lambda tensors: tensors.pop("label.bias_"), "tasks.label.head.bias_ is missing"),
    (lambda tensors: tensors.pop("trained_on"), "'trained_on' must be whole numbers"),
    (lambda tensors: tensors.update(trained_on=torch.ones(3)), "'trained_on' must be whole numbers"),
    (lambda tensors: tensors.update(other=torch.ones(3)), "'other' belongs to no task"),
    (lambda tensors: tensors.update({"label.fit": torch.ones(3)}), "head.fit is nothing that Logistic learns"),
    (lambda tensors: tensors.update({"label.C_": torch.ones(3)}), "'C_' as a tensor and as a value"),
    (lambda tensors: tensors.update({"label@reject.centres_": torch.ones(3)}), "reject is null"),
    (lambda tensors: tensors.update({"label.weights_": torch.ones(3)}), "an array [C, F] expected"),
    (lambda tensors: tensors.update({"label.weights_": torch.ones(22, 7)}), "entries along C, and weights_ has 22"),
    *[(
        lambda tensors, kind=kind: tensors.update({"label.weights_": tensors["label.weights_"].to(kind)}),
        "tasks.label.head does not fit: TypeError",
    ) for kind in (torch.bfloat16, torch.float8_e4m3fn)],
])
def test_tensors_are_compared_with_the_rest(change, part, fitted, tmp_path):
    folder = with_tensors(copied(fitted, tmp_path / "model"), change)
    with pytest.raises(UserError) as refusal: Classifier.from_pretrained(folder)
    assert part in str(refusal.value), refusal.value


@pytest.mark.parametrize("change", [
    lambda tensors: tensors.pop(next(iter(tensors))),
    lambda tensors: tensors.update({"other": torch.ones(3)}),
    lambda tensors: tensors.update({next(iter(tensors)): torch.ones(3)}),
    lambda tensors: next(iter(tensors.values())).fill_(math.nan),
])
def test_a_delta_that_does_not_fit_is_refused(change, models, tmp_path):
    folder = with_tensors(copied(models["trained"], tmp_path / "model"), change, "delta.safetensors")
    with pytest.raises(UserError): Classifier.from_pretrained(folder)


def test_a_delta_cannot_be_left_out(models, tmp_path):
    folder = copied(models["trained"], tmp_path / "model", lambda facts: facts.pop("delta"))
    with pytest.raises(UserError, match="files are .*; head.safetensors expected"): Classifier.from_pretrained(folder)
    def files(facts): facts.pop("delta"), facts["files"].pop("delta.safetensors")
    folder = copied(models["trained"], tmp_path / "files", files)
    with pytest.raises(UserError, match="delta.safetensors is not named in clfm.json"):
        Classifier.from_pretrained(folder)
    (folder / "delta.safetensors").unlink()
    with pytest.raises(
        UserError, match="recipe.selector is 'top-layers', which trains the base, and there is no delta"
    ):
        Classifier.from_pretrained(folder)
    facts = facts_of(folder)
    del facts["recipe"]["selector"], facts["recipe"]["pooler"], facts["recipe"]["training"], facts["parts"]["pooler"]
    write_facts(folder, facts)
    with pytest.raises(UserError): Classifier.from_pretrained(folder)


def test_a_delta_that_nothing_names_is_refused(fitted, models, tmp_path):
    folder = copied(fitted, tmp_path / "model")
    shutil.copy(models["trained"] / "delta.safetensors", folder)
    with pytest.raises(UserError, match="delta.safetensors is not named in clfm.json"):
        Classifier.from_pretrained(folder)


def test_a_quantizer_stands_in_two_places(fitted, tmp_path):
    def edit(facts): facts["model"]["quantizer"] = "nf4"
    with pytest.raises(UserError, match="recipe.quantizer is 'none', and the base was held as 'nf4' says"):
        Classifier.from_pretrained(copied(fitted, tmp_path / "model", edit))


@pytest.mark.parametrize("facts", [
    {}, {"changes": 3}, {"changes": [3]}, {"changes": [["a", 0]]}, {"changes": [["a", 5, 0]]}, {"changes": [[1, 0, 0]]},
    {"changes": [], "more": 1},
])
def test_facts_of_a_delta_have_a_shape(facts):
    with pytest.raises(UserError, match="^delta"): Delta.from_state({}, facts)


@pytest.mark.parametrize("facts", [{}, {"low_rank": ["a"]}, {"low_rank": {"a": "0"}}, {"low_rank": {}, "more": 1}])
def test_facts_of_adapters_have_a_shape(facts):
    with pytest.raises(UserError, match="^delta"): make("selector", "lora").restore({}, facts)


# ---- what a part may be told

LEARNED = {
    "logistic": (Logistic, dict(columns_=["hidden.1/mean"], C_=0.1, weights_=np.ones((2, 3)), bias_=np.ones(2))),
    "attention": (Attention, dict(query_=[0.5, 0.5])),
    "probed": (lambda: make("pooler", "probed"), dict(layers_=[1, 2])),
    "merged": (lambda: make("format", "merged"), dict(groups_=[[1, 2], [3, 4, 5]])),
    "instruction": (
        lambda: make("format", "instruction"),
        dict(template_="{text}", answers_=["a"], examples_=[["text", "a"]], orders_=[[0]]),
    ),
    "lines": (lambda: make("format", "lines"), dict(template_="{text}", longest_=9)),
    "centroid-distance": (CentroidDistance, dict(whitening_=np.ones((2, 2)), centres_=np.ones((2, 2)))),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_part_takes_what_it_learns_and_nothing_else(name):
    part, values = LEARNED[name]
    set_state(part(), values, "part")
    for attribute, value in values.items():
        for wrong in (7.5 if not isinstance(value, float) else "a", "a" if not isinstance(value, str) else 7, {}, None):
            if wrong is None and name == "probed": continue  # it has chosen no layers then
            with pytest.raises(UserError, match=f"part.{attribute}"):
                set_state(part(), values | {attribute: wrong}, "part")
        if name == "probed": continue
        with pytest.raises(UserError, match=f"part.{attribute} is missing"):
            set_state(part(), {each: values[each] for each in values if each != attribute}, "part")
    for stranger in ("__class__", "__dict__", "fit", "logits", "bind", "C", "layer", "learned", "_x_", "a b_", ""):
        with pytest.raises(UserError, match="is nothing that .* learns"):
            set_state(part(), values | {stranger: 1}, "part")


def test_a_module_takes_tensors_alone():
    from clfm_kit.builtin.labels import SingleLabel
    head = Linear()
    head.build({"a": 3}, SingleLabel.of(("x", "y")))
    with pytest.raises(UserError, match="the head.forward is nothing that Linear learns"):
        set_head_state(Linear(), head.state_dict(), {"forward": 1}, {"a": 3}, SingleLabel.of(("x", "y")))
    with pytest.raises(UserError, match="the head does not fit: RuntimeError"):
        set_head_state(Linear(), head.state_dict(), {}, {"a": 4}, SingleLabel.of(("x", "y")))


# ---- files of a folder

@pytest.mark.parametrize("name", [
    "../other/head.safetensors", "/etc/passwd", "clfm.json", "", "more.safetensors", "\0"
])
def test_only_files_that_belong_to_a_model_are_read(name, fitted, tmp_path):
    copied(fitted, tmp_path / "other")
    folder = copied(fitted, tmp_path / "model", lambda facts: facts["files"].update({name: "0" * 64}))
    with pytest.raises(UserError, match="clfm.json: files are "): Classifier.from_pretrained(folder)


@pytest.mark.parametrize("name", ["head.safetensors", "clfm.json"])
def test_a_link_out_of_the_folder_is_refused(name, fitted, tmp_path):
    folder = copied(fitted, tmp_path / "model")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match="is a link to .*, outside the model"): Classifier.from_pretrained(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match="is missing"): read_artifact(folder)


@pytest.mark.parametrize("kind", ["link", "link inside", "fifo", "broken", "tokenizer"])
def test_a_tokenizer_holds_nothing_but_files_and_folders_of_its_own(kind, fitted, tmp_path):
    """Templates in a linked folder would be read, and have no hash; a pipe would be waited for."""
    folder = copied(fitted, tmp_path / "model")
    (folder / "inside").mkdir(), (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.jinja").write_text("{{ x }}")
    entry = folder / "tokenizer" / "additional_chat_templates"
    if kind == "link": entry.symlink_to(tmp_path / "outside")
    if kind == "link inside": entry.symlink_to(folder / "inside")
    if kind == "fifo":
        entry.mkdir()
        os.mkfifo(entry := entry / "a.jinja")
    if kind == "broken": entry.symlink_to(tmp_path / "nowhere")
    if kind == "tokenizer":
        entry = folder / "tokenizer"
        entry.rename(tmp_path / "tokenizer")
        entry.symlink_to(tmp_path / "tokenizer")
    with pytest.raises(UserError, match=f"{entry} is neither a file nor a folder of the model"):
        Classifier.from_pretrained(folder)


@pytest.mark.parametrize("change", ["overwritten", "emptied"])
@pytest.mark.parametrize("file", ["head.safetensors", "delta.safetensors", "model.safetensors"])
def test_a_loaded_model_does_not_change_with_its_files(file, change, tiny, models, tmp_path):
    """As `cp` and `rsync --inplace` write them; a file that is mapped and cut short would end the process."""
    kind = "trained" if file == "delta.safetensors" else "probe"
    folder, base = copied(models[kind], tmp_path / "model"), shutil.copytree(tiny, tmp_path / "base")
    clf = Classifier.from_pretrained(folder, str(base))
    expected, path = clf.predict_proba(TEXTS), (base if file == "model.safetensors" else folder) / file
    def ask():
        with open(path, "r+b") as written:
            if change == "overwritten": written.write(bytes(path.stat().st_size))
            else: written.truncate(0)
        np.testing.assert_array_equal(clf.predict_proba(TEXTS), expected)
    done = Forked(ask).wait()
    assert done.returncode == 0, done


def test_an_edit_whose_time_was_set_back_is_found(fitted, tiny, tmp_path):
    folder, base = copied(fitted, tmp_path / "model"), shutil.copytree(tiny, tmp_path / "base")
    Classifier.from_pretrained(folder, str(base))
    for path in (folder / "head.safetensors", folder / "tokenizer" / "tokenizer.json", base / "model.safetensors"):
        known, data = path.stat(), path.read_bytes()
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
        with pytest.raises(UserError, match="SHA-256 differs|other weights|is damaged"):
            Classifier.from_pretrained(folder, str(base))
        path.write_bytes(data)
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    Classifier.from_pretrained(folder, str(base))


def test_a_folder_of_the_hubs_client_is_read(fitted, tmp_path):
    """Its snapshots are links to files beside them."""
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    copied(fitted, snapshot), blobs.mkdir()
    for name in ("clfm.json", "head.safetensors"):
        (snapshot / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", name))
    assert Classifier.from_pretrained(snapshot).predict(TEXTS).shape == (3,)


def test_all_files_have_the_mode_that_the_process_gives(fitted, tmp_path):
    clf = Classifier.from_pretrained(fitted)
    for mask in (0o022, 0o027, 0o077):
        before = os.umask(mask)
        try: folder = clf.save_pretrained(tmp_path / oct(mask))
        finally: os.umask(before)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(files) >= 4 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


# ---- answers

@pytest.mark.parametrize("what", ["predict", "predict_proba", "decision_function", "confidence"])
def test_no_answer_is_made_of_numbers_that_are_none(what, models, monkeypatch):
    clf = Classifier.from_pretrained(models["named"])
    head = clf.tasks_["intent"].head
    monkeypatch.setattr(head, "weights_", np.full_like(head.weights_, math.nan))
    with pytest.raises(UserError, match="task 'intent': the score of text 0 is not finite, so there is no answer"):
        getattr(clf, what)(TEXTS)


def test_a_confidence_that_is_no_number_answers_nothing(models, monkeypatch):
    clf = Classifier.from_pretrained(models["named"])
    monkeypatch.setattr(clf.tasks_["intent"].reject.score, "confidence", lambda *_: np.array([0.5, math.nan, 0.5]))
    with pytest.raises(UserError, match="the confidence of text 1 is not finite"): clf.predict(TEXTS)


# ---- places

def full(*_): raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')


def no_room(*_, **__): raise OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [full, no_room])
@pytest.mark.parametrize("before", [True, False], ids=["over a model", "anew"])
def test_a_model_that_cannot_be_written_is_kept_elsewhere(error, before, fitted, tmp_path, monkeypatch):
    clf, target = Classifier.from_pretrained(fitted), tmp_path / "disk" / "model"
    if before: copied(fitted, target)
    files = lambda: {path: path.read_bytes() for path in (tmp_path / "disk").rglob("*") if path.is_file()}
    held = files()
    def write(tensors, path): (error if Path(path).is_relative_to(tmp_path / "disk") else save_file)(tensors, path)
    monkeypatch.setattr(artifacts, "save_file", write)
    (tmp_path / "spare").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spare"))
    with pytest.raises(UserError, match="cannot write the model to .*No space left.*the model is kept in") as refusal:
        clf.save_pretrained(target)
    kept, = (tmp_path / "spare").glob("*/model")
    assert str(kept) in str(refusal.value) and "\n" not in str(refusal.value)
    np.testing.assert_array_equal(Classifier.from_pretrained(kept).predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert files() == held and (before or not (tmp_path / "disk").exists())


def test_where_nothing_takes_a_model_that_is_said(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "save_file", no_room)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(UserError, match="no other place takes it either"):
        Classifier.from_pretrained(fitted).save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made, out, part", [
    ("", "n" * 300, "too long for a path"), ("", "deep/" + "n" * 300, "too long for a path"),
    ("file", "file/model", "file is no folder that you may write to"), ("", "a\0b", "a zero character"),
])
def test_a_place_is_tried_before_the_fit(made, out, part, tmp_path):
    if made: (tmp_path / made).write_text("mine")
    with pytest.raises(UserError, match=part): check_folder(tmp_path / out)
    if "\0" not in out:
        refused(clfm(
            "fit", "--recipe", "probe", "--data", "helpdesk", "--model", "no-such-model", "--out", tmp_path / out,
            cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        ), part)
    assert [path.name for path in tmp_path.rglob("*")] == ([made] if made else [])


def test_a_closed_folder_is_found_before_the_fit(tmp_path, monkeypatch):
    """As root may write anywhere, the system call is what refuses."""
    made = Path.mkdir
    def mkdir(self, *args, **kwargs):
        if "closed" in self.parts: raise PermissionError(13, "Permission denied")
        return made(self, *args, **kwargs)
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match="cannot write the model to .*Permission denied"):
        check_folder(tmp_path / "closed" / "m")


def test_a_circle_of_links_is_no_place(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b"), (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="cannot write the model"): check_folder(tmp_path / "a")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(there, fitted, tmp_path):
    target, link = tmp_path / "disk" / "model", tmp_path / "model"
    if there: copied(fitted, target)
    link.symlink_to(target)
    clf = Classifier.from_pretrained(fitted)
    assert clf.save_pretrained(link) == link and link.is_symlink() and not target.is_symlink()
    np.testing.assert_array_equal(Classifier.from_pretrained(target).predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def write(target, text, extra=()):
    """A model with one line in it, and files beside it."""
    with fresh_folder(target) as part:
        (part / "clfm.json").write_text(f'{{"format_version": 3, "text": "{text}"}}')
        (part / "tokenizer").mkdir()
        (part / "tokenizer" / "words").write_text(text)
        for name in extra: (part / name).write_text(text)


def held(target):
    return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}


def whole(text, extra=()):
    facts = f'{{"format_version": 3, "text": "{text}"}}'
    return {"clfm.json": facts} | dict.fromkeys(["tokenizer/words", *extra], text)


@pytest.mark.parametrize("filled", [True, False])
def test_a_mount_point_is_written_inside(filled, tmp_path, monkeypatch):
    target = tmp_path / "volume"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    (target / "lost+found").mkdir()
    if filled: write(target, "old", [DELTA])
    number = target.stat().st_ino
    write(target, "new")
    assert target.stat().st_ino == number and held(target) == whole("new")
    assert sorted(os.listdir(target)) == ["clfm.json", "lost+found", "tokenizer"] and os.listdir(tmp_path) == ["volume"]


def test_a_folder_that_turns_out_not_to_move_is_written_inside(tmp_path, monkeypatch):
    """A bind mount within one file system does not look like one; renaming it says that it is busy."""
    target = tmp_path / "volume"
    write(target, "old", [DELTA])
    number, rename = target.stat().st_ino, os.rename
    def busy(one, other):
        if target in (Path(one), Path(other)): raise OSError(16, "Device or resource busy")
        rename(one, other)
    monkeypatch.setattr(os, "rename", busy)
    monkeypatch.setattr(folders, "exchange", busy)
    write(target, "new")
    assert target.stat().st_ino == number and held(target) == whole("new") and os.listdir(tmp_path) == ["volume"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount a file system")
def test_a_real_mount_point_and_a_full_disk(fitted, tmp_path, monkeypatch):
    disk, clf = tmp_path / "disk", Classifier.from_pretrained(fitted)
    disk.mkdir(), (tmp_path / "spare").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spare"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        for _ in range(2):
            clf.save_pretrained(disk)
            np.testing.assert_array_equal(
                Classifier.from_pretrained(disk).predict_proba(TEXTS), clf.predict_proba(TEXTS)
            )
        before = facts_of(disk)
        (disk / "lost+found").mkdir()
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "lost+found" / "filler").write_bytes(b" " * (free - 32_768))
        with pytest.raises(UserError, match="the model is kept in"): clf.save_pretrained(disk)
        assert facts_of(disk) == before and [path.name for path in disk.glob(".*")] == []
    finally: subprocess.run(["umount", "-l", disk], check=True)  # what was read is mapped, so it is busy for a while
    kept, = (tmp_path / "spare").glob("*/model")
    np.testing.assert_array_equal(Classifier.from_pretrained(kept).predict_proba(TEXTS), clf.predict_proba(TEXTS))


# ---- kills

def killed(function):
    """Run a function in another process that a signal ends."""
    assert Forked(function).wait().returncode == -signal.SIGKILL


def kill_at(module, name, call):
    """Let a function end the process when it is called for that time."""
    real, calls = getattr(module, name), []
    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == call: os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(module, name, counted)


def unable(*_): raise OSError(38, "Function not implemented")


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_between_two_renames_loses_nothing(call, tmp_path, monkeypatch):
    target = tmp_path / "model"
    write(target, "old")
    monkeypatch.setattr(folders, "exchange", unable)
    def save():
        kill_at(os, "replace", call)
        write(target, "new")
    killed(save)
    assert target.exists() == (call == 1) and len(os.listdir(tmp_path)) == 2
    if call == 2:
        refused(clfm("predict", target, "a text"), "has begun and not ended", "save the model there again")
        assert len(os.listdir(tmp_path)) == 2 and not target.exists(), "loading changes nothing"
        recover(target)
    assert held(target) == whole("old")
    write(target, "newer")
    assert held(target) == whole("newer") and os.listdir(tmp_path) == ["model"]


def test_a_save_puts_back_what_a_killed_one_left(tmp_path, monkeypatch):
    target = tmp_path / "model"
    write(target, "old")
    monkeypatch.setattr(folders, "exchange", unable)
    def save():
        kill_at(os, "replace", 2)
        write(target, "new")
    killed(save)
    with pytest.raises(ZeroDivisionError), fresh_folder(target): 1 / 0
    assert held(target) == whole("old") and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(platform.system() != "Linux", reason="other systems cannot exchange folders in one step")
def test_at_no_moment_is_there_no_model(tmp_path):
    """Every call that changes a name is one after which the process may be killed."""
    target = tmp_path / "model"
    write(target, "old")
    for module, name in ((os, "rename"), (folders, "exchange"), (shutil, "rmtree")):
        for call in (1, 2, 3):
            def save():
                kill_at(module, name, call)
                write(target, "new")
            done = Forked(save).wait().returncode
            assert done in (0, -signal.SIGKILL) and held(target) in (whole("old"), whole("new"))
    write(target, "last")
    assert held(target) == whole("last") and os.listdir(tmp_path) == ["model"]


def interrupted(target, call, monkeypatch):
    """A mount point in which a save of "new" over "old" was killed when it renamed for that time."""
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    write(target, "old", [DELTA])
    def save():
        kill_at(os, "replace", call)
        write(target, "new", [HEAD])
    killed(save)


def everything(home):
    return {path: path.is_file() and path.read_bytes() for path in home.rglob("*")}


@pytest.mark.parametrize("ending", ["recover", "save", "failing save"])
@pytest.mark.parametrize("call", range(1, 8))  # three that make room, one that says so, three that move in
def test_a_kill_while_files_move_into_a_mount_point_is_made_good(call, ending, tmp_path, monkeypatch):
    target = tmp_path / "volume"
    interrupted(target, call, monkeypatch)
    before = everything(tmp_path)
    with pytest.raises(
        UserError, match="a save of the model in .*volume has begun and not ended; if it was killed, save"
    ):
        Classifier.from_pretrained(target)
    assert everything(tmp_path) == before, "loading changes nothing"
    if ending == "recover": recover(target)
    if ending == "save": write(target, "new", [HEAD])
    if ending == "failing save":
        with pytest.raises(ZeroDivisionError), fresh_folder(target): 1 / 0
    assert held(target) == whole("new", [HEAD]) and not [*target.glob(".*")]


def test_a_move_that_fails_is_ended_by_the_next_save(tmp_path, monkeypatch):
    target, replace, calls = tmp_path / "volume", os.replace, []
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    write(target, "old", [DELTA])
    def failing(*given):
        calls.append(given)
        if len(calls) == 6: raise OSError(5, "Input/output error")
        replace(*given)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UserError, match="cannot write the model to .*Input/output error"): write(target, "new")
    with pytest.raises(UserError, match="has begun and not ended"): Classifier.from_pretrained(target)
    write(target, "newer")
    assert held(target) == whole("newer") and not [*target.glob(".*")]


# ---- a folder that others ship

OUTSIDE = "../outside", "/", "..", "tokenizer/../../outside"


@pytest.mark.parametrize("kind", ["list", "fifo", "bytes", "links", "part", "former"])
def test_loading_a_folder_of_somebody_else_changes_nothing(kind, fitted, tmp_path):
    """What looks like a save that was killed, in a model's folder, makes no difference to any file."""
    folder, outside = copied(fitted, tmp_path / "model"), tmp_path / "outside"
    outside.mkdir(), (outside / "mine").write_text("mine")
    part = folder / f".model-{2 ** 22 + 1}-{platform.node()}-{folders._key(folder)}-{'0' * 32}"
    if kind == "part": part.symlink_to(outside)
    elif kind == "former":
        former = tmp_path / part.name.replace(".model", ".former")
        shutil.move(folder, former)
        folder = tmp_path / "model"
    else: part.mkdir()
    if kind == "list": (part / ".ready").write_text("\n".join([str(outside), *OUTSIDE]))
    if kind == "fifo": os.mkfifo(part / ".ready")
    if kind == "bytes": (part / ".ready").write_bytes(b"\xff")
    if kind == "links":
        for name in (folders.LEAVING, folders.LEFT): (part / name).symlink_to(outside)
    before = everything(tmp_path) if kind != "fifo" else None
    if kind == "former":
        with pytest.raises(UserError, match="has begun and not ended"): Classifier.from_pretrained(folder)
    else: assert Classifier.from_pretrained(folder).predict(TEXTS).shape == (3,)
    if before: assert everything(tmp_path) == before
    recover(folder)
    assert (outside / "mine").read_text() == "mine" and [*os.listdir(outside)] == ["mine"]


def test_what_is_no_model_is_not_overwritten(fitted, tmp_path):
    """A folder is replaced as a whole, so all that is in it has to be of a saved model."""
    clf, folder = Classifier.from_pretrained(fitted), copied(fitted, tmp_path / "model")
    for name in ("train.csv", ".git", "notes.md", ".model-backup"):
        (folder / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds '{name}', which is no part of a saved model"):
            clf.save_pretrained(folder)
        (folder / name).unlink()
    clf.save_pretrained(folder)
    for text in ("{}", "not JSON", '{"format_version": "mine"}', "[" * 100_000):
        other = tmp_path / "project"
        other.mkdir(), (other / "clfm.json").write_text(text)
        with pytest.raises(UserError, match="holds no clfm-kit model; choose another folder"):
            clf.save_pretrained(other)
        assert (other / "clfm.json").read_text() == text
        shutil.rmtree(other)


def test_data_is_not_overwritten_by_its_own_model(fitted, tmp_path):
    folder = copied(fitted, tmp_path / "model")
    rows = "text,label\n" + "".join(f"{word} {number},{word}\n" for number in range(20) for word in ("good", "bad"))
    for place in ("train.csv", "tokenizer/train.csv"):
        (folder / place).write_text(rows)
        done = clfm("fit", "--recipe", "probe", "--data", folder / place, "--model", "no-such-model", "--out", folder)
        refused(done, "train.csv")
        assert "no-such-model" not in done.stderr, "it is told before the fit"
        assert (folder / place).read_text() == rows
        (folder / place).unlink()


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_a_model_that_was_private_stays_private(fitted, tmp_path):
    clf, folder = Classifier.from_pretrained(fitted), copied(fitted, tmp_path / "model")
    for path in (folder, *folder.rglob("*")): path.chmod(0o700 if path.is_dir() else 0o600)
    before = modes(folder)
    clf.save_pretrained(folder)
    assert modes(folder) == before and len(before) > 4
    (tmp_path / "empty").mkdir(mode=0o700)
    assert modes(clf.save_pretrained(tmp_path / "empty"))["empty"] == 0o700


NUMBER = "0" * 32


def test_what_killed_saves_left_is_collected_and_nothing_else(tmp_path):
    target, gone = tmp_path / "model", 2 ** 22 + 1  # more than there are processes
    write(target, "old")
    name = lambda word, process, machine=platform.node(): f".{word}-{process}-{machine}-{folders._key(target)}-{NUMBER}"
    left = [name("model", gone), name("former", gone)]
    kept = [
        name("model", os.getpid()), name("model", gone, "elsewhere"),
        f".former-{gone}-{platform.node()}-000000000000-{NUMBER}", ".model-backup",
    ]
    old = name("model", 5, "elsewhere")
    for each in (*left, *kept, old): (tmp_path / each).mkdir()
    for each in (old, ".model-backup"): os.utime(tmp_path / each, (0, 0))
    write(target, "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "model"]) and held(target) == whole("new")


def test_a_former_model_of_a_running_process_is_left_to_it(tmp_path):
    target = tmp_path / "model"
    former = tmp_path / f".former-{os.getpid()}-{platform.node()}-{folders._key(target)}-{NUMBER}"
    former.mkdir()
    recover(target)
    assert former.exists() and not target.exists()


# ---- earlier versions

STORED = Path(__file__).parent / "stored" / "0.1.0"  # written by that version: a base, two models, and their answers


@pytest.mark.parametrize("name", ["probe", "trained"])
def test_a_model_of_an_earlier_version_answers_as_it_did(name):
    kept = json.loads((STORED / "answers.json").read_text(encoding="utf-8"))
    clf, wanted = Classifier.from_pretrained(STORED / name, model=str(STORED / "base")), kept["answers"][name]
    found = clf.answers(kept["texts"])
    main = "label" if name == "probe" else "intent"
    assert list(found[main].labels) == wanted[main]
    np.testing.assert_allclose(found[main].probabilities, wanted["probabilities"], atol=1e-4)
    if name == "trained":
        spans = [[[span["slot"], span["start"], span["end"]] for span in one] for one in found["slots"].labels]
        assert spans == wanted["slots"]
    assert facts_of(STORED / name)["versions"] == {"clfm-kit": "0.1.0"}


def test_a_default_that_changes_later_changes_no_saved_model(fitted, tmp_path, monkeypatch):
    folder, texts = copied(fitted, tmp_path / "m"), ["where is my parcel?", "cancel the order"]
    before = Classifier.from_pretrained(folder)
    wanted, said = before.predict_proba(texts), facts_of(folder)["defaults"]["head logistic"]
    signature = Logistic.__init__.__defaults__
    place = list(said).index("scale")
    assert said["scale"] == signature[place] == "rows"
    monkeypatch.setattr(Logistic.__init__, "__defaults__", (*signature[:place], "columns", *signature[place + 1:]))
    assert make("head", "logistic").scale == "columns"
    after = Classifier.from_pretrained(folder)
    assert after.recipe_.head == {"name": "logistic", "scale": "rows"}
    np.testing.assert_allclose(after.predict_proba(texts), wanted, atol=1e-6)
    assert facts_of(after.save_pretrained(tmp_path / "again"))["recipe"]["head"]["scale"] == "rows"


def test_a_parameter_that_is_no_more_is_named(fitted, tmp_path):
    folder = copied(fitted, tmp_path / "m")
    facts = facts_of(folder)
    facts["defaults"]["pooler mean"]["sharpness"] = 2
    write_facts(folder, facts)
    with pytest.raises(UserError, match="'sharpness'"): Classifier.from_pretrained(folder)
