"""A classifier among other people's tools: tables, refits, copies, searches, folders and environments."""
import copy
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Forked, clfm
from command import refused as refused_command
from sklearn.exceptions import NotFittedError

from clfm_kit import Classifier, Rows, UserError, load_data
from clfm_kit.backbone.cache import cache_folder
from clfm_kit.paths import part_name
from clfm_kit.classifier.estimator import FAILED_CHECKS
from clfm_kit.data.rows import Splits
from clfm_kit.plugins import using
from clfm_kit.recipes import Recipe, parse_yaml

THINGS = "parcel invoice lamp account password voucher".split()
WORDS = {"glad": "great lovely superb".split(), "cross": "awful broken dreadful".split()}
TEXTS = [f"my {thing} is {word}" for thing in THINGS for words in WORDS.values() for word in words]
LABELS = [name for _ in THINGS for name, words in WORDS.items() for _ in words]
FRAME = pd.DataFrame(dict(number=range(len(TEXTS)), text=TEXTS, label=LABELS))


@pytest.fixture(scope="module")
def clf(tiny): return Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS)


# ---- what is asked about

def held(kind, folder):
    "The texts and labels in one of the forms that `fit` takes."
    if kind == "series": return FRAME["text"]
    if kind == "one column": return FRAME[["text"]]
    if kind == "one column of another name": return FRAME[["text"]].rename(columns={"text": "message"})
    if kind == "array": return np.array(TEXTS, dtype=object).reshape(-1, 1)
    if kind == "table": return FRAME
    if kind == "strange labels": return FRAME.assign(label="unheard-of")
    if kind == "records": return FRAME.to_dict("records")
    if kind == "rows": return Rows(TEXTS, LABELS)
    if kind == "splits": return Splits(train=Rows(TEXTS[:9]), test=Rows(TEXTS))
    if kind == "tables by part": return {"train": FRAME[:9], "test": FRAME}
    if kind == "data set":
        import datasets
        return datasets.Dataset.from_pandas(FRAME.assign(label="unheard-of"))
    path = folder / "new.csv"
    FRAME.to_csv(path, index=False)
    if kind == "folder":
        path.rename(folder / "test.csv")
        return str(folder)
    return {"path": path, "name": str(path)}[kind]


FORMS = [
    "series", "one column", "one column of another name", "array", "table", "strange labels", "records", "rows",
    "splits", "tables by part", "data set", "folder", "path", "name",
]


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_of_texts_gets_the_answers_of_its_texts(kind, clf, tmp_path):
    given = held(kind, tmp_path)
    assert clf.predict(given).tolist() == clf.predict(TEXTS).tolist()
    np.testing.assert_allclose(clf.predict_proba(given), clf.predict_proba(TEXTS), atol=1e-6)
    np.testing.assert_allclose(clf.decision_function(given), clf.decision_function(TEXTS), atol=1e-5)
    assert clf.answer(given)[0].tolist() == clf.answers(given)["label"].labels.tolist()
    assert clf.score(given, LABELS) == clf.score(TEXTS, LABELS)


def test_fit_takes_a_table_of_texts_beside_the_labels(tiny, clf):
    for given in (FRAME[["text"]], FRAME[["number", "text"]], FRAME["text"]):
        other = Classifier("probe", tiny, cache=None).fit(given, LABELS)
        np.testing.assert_allclose(other.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)


def test_one_text_is_one_text(clf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lamp").mkdir()
    for text in ("my lamp is broken", "lamp", "I sent you report.csv today", "a/b", "x" * 5000, "nul \0 byte"):
        assert clf.predict(text).tolist() == clf.predict([text]).tolist()
    assert clf.explain("my lamp is broken").text == "my lamp is broken"
    assert clf.explain(FRAME[["text"]][:1]).text == TEXTS[0]


@pytest.mark.parametrize("given, message", [
    ("new.csv", "there is no file of that name; to ask about the text itself, give a list: \\['new.csv'\\]"),
    ("helpdesk", "is the name of a data set; give load_data"), (3, "given as int"),
    (pd.DataFrame(dict(message=["a"], label=["b"])), "unknown text column 'text'"),
    ([["a", "b"]], "row 0: the text is \\['a', 'b'\\]"), ([None], "row 0: the text is None"),
])
def test_what_is_no_text_is_refused(given, message, clf):
    for ask in (clf.predict, clf.predict_proba, clf.decision_function, clf.explain):
        with pytest.raises(UserError, match=message): ask(given)


def test_texts_of_several_columns_are_asked_in_these_columns(tiny, tmp_path):
    rows = [dict(title=text, body="as I said", label=label) for text, label in zip(TEXTS, LABELS)]
    clf = Classifier("probe", tiny, cache=None).fit(load_data(rows, text="title+body"))
    assert clf.facts_["text"] == "title+body"
    again = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    alone = [dict(title=row["title"], body=row["body"]) for row in rows]
    for given in (rows, pd.DataFrame(rows), alone):
        assert again.predict(given).tolist() == clf.predict(alone).tolist()
    assert again.evaluate(rows)["accuracy"] == again.score(alone, LABELS)


# ---- a fit that fails

def stop(run, event):
    if event["kind"] == "states": raise KeyboardInterrupt


NEW = ["no" if label == "cross" else "yes" for label in LABELS]


def refused(clf): clf.fit(TEXTS, NEW, validation=[("my lamp is odd", "unheard-of")])


def stopped(clf):
    with using("stop", run_event=stop): clf.fit([text + "!" for text in TEXTS], NEW)


@pytest.mark.parametrize("fail", [refused, stopped])
def test_a_refit_that_fails_leaves_the_last_good_fit(fail, tiny, tmp_path):
    clf = Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS)
    before, encoder = clf.predict_proba(TEXTS), clf.encoder_
    with pytest.raises((UserError, KeyboardInterrupt)): fail(clf)
    assert clf.encoder_ is encoder and clf.classes_.tolist() == ["cross", "glad"]
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), before)
    again = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    np.testing.assert_allclose(again.predict_proba(TEXTS), before, atol=1e-6)
    blank = Classifier("probe", tiny, cache=None)
    with pytest.raises((UserError, KeyboardInterrupt)): fail(blank)
    with pytest.raises(UserError, match="not fitted"): blank.predict(TEXTS)
    with pytest.raises(UserError, match="not fitted"): blank.save_pretrained(tmp_path / "other")


def test_who_watches_a_fit_is_told_of_the_classifier_itself(tiny):
    seen = []
    clf = Classifier("probe", tiny, cache=None)
    with using("watch", run_event=lambda run, event: seen.append((run is clf, event["kind"]))): clf.fit(TEXTS, LABELS)
    assert all(same for same, _ in seen) and {"load", "states", "end"} <= {kind for _, kind in seen}
    assert clf.encoder_.run is clf


# ---- the state cache

def shards_in(cache): return sorted(path for path in cache.glob("*/*") if path.is_dir())


def test_answering_writes_nothing_unless_asked(tiny, tmp_path):
    cache = tmp_path / "states"
    clf = Classifier("probe", tiny, cache=cache).fit(TEXTS, LABELS)
    kept = shards_in(cache)
    for number in range(5): clf.predict([f"a new message, number {number}"])
    clf.predict_proba("one more"), clf.decision_function("and more"), clf.explain("this one too")
    assert shards_in(cache) == kept != []
    saved = clf.save_pretrained(tmp_path / "model")
    Classifier.from_pretrained(saved).predict(["nobody asked to keep this"])
    assert shards_in(cache) == kept
    asked = Classifier.from_pretrained(saved, cache=cache)
    asked.predict(["this is to be kept"])
    assert len(shards_in(cache)) == len(kept) + 1
    passes = asked.encoder_.backbone.passes
    asked.predict(["this is to be kept"])
    assert asked.encoder_.backbone.passes == passes


def test_shards_stay_few_and_every_state_is_kept(tiny, tmp_path):
    saved = Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    cache, texts = tmp_path / "states", [f"message {number}" for number in range(40)]
    clf = Classifier.from_pretrained(saved, cache=cache)
    one_by_one = np.concatenate([clf.predict_proba([text]) for text in texts])
    assert 1 <= len(shards_in(cache)) <= 10
    passes = clf.encoder_.backbone.passes
    np.testing.assert_allclose(clf.predict_proba(texts), one_by_one, atol=1e-6)
    assert clf.encoder_.backbone.passes == passes, "a merge of shards lost states"


def test_the_cache_keeps_to_its_limit_and_forgets_what_was_unused_for_longest(tiny, tmp_path, monkeypatch):
    cache = tmp_path / "states"
    fit = lambda ending: Classifier("probe", tiny, cache=cache).fit([text + ending for text in TEXTS], LABELS)
    fit("!"), fit("?")
    before = shards_in(cache)
    for age, path in enumerate(before): os.utime(path, (1e9 + age, 1e9 + age))
    assert fit("!").facts_["backbone_passes"] == 0  # which uses those of the first fit
    size = 1.1 * sum(file.stat().st_size for path in before for file in path.iterdir())  # two fits and some
    monkeypatch.setenv("CLFM_KIT_CACHE_GB", str(size / 1e9))
    fit(";")
    assert sum(file.stat().st_size for path in shards_in(cache) for file in path.iterdir()) <= size
    assert fit("!").facts_["backbone_passes"] == 0 and fit("?").facts_["backbone_passes"] > 0
    monkeypatch.setenv("CLFM_KIT_CACHE_GB", "plenty")
    with pytest.raises(UserError, match="CLFM_KIT_CACHE_GB is 'plenty'"): fit("&")


def killed(tiny, cache):
    "A fit whose process is killed while states are written."
    def kill(run, event):
        if event["kind"] == "states": os.kill(os.getpid(), signal.SIGKILL)
    with using("kill", run_event=kill): Classifier("probe", tiny, cache=cache).fit("helpdesk")


def test_a_fit_takes_away_what_a_killed_one_left(tiny, tmp_path):
    cache = tmp_path / "states"
    assert Forked(lambda: killed(tiny, cache)).wait().returncode == -signal.SIGKILL
    unfinished = lambda: list(cache.glob("**/.part*"))
    assert unfinished()
    ours = next(cache.iterdir()) / part_name()
    ours.mkdir()
    Classifier("probe", tiny, cache=cache).fit(TEXTS, LABELS)
    assert unfinished() == [ours], "what this process writes stays, what the killed one wrote goes"


def test_the_command_says_where_states_are_and_clears_them(tiny, tmp_path):
    cache = tmp_path / "states"
    Classifier("probe", tiny, cache=cache).fit(TEXTS, LABELS)
    env = os.environ | {"CLFM_KIT_CACHE": str(cache), "CLFM_KIT_CACHE_GB": "3"}
    facts = json.loads(clfm("cache", "--json", env=env).stdout)
    assert facts["folder"] == str(cache) and facts["limit_bytes"] == 3e9 and facts["bytes"] > 0 < facts["shards"]
    assert str(cache) in clfm("cache", env=env).stdout
    (cache / "mine.txt").write_text("not a shard")
    assert json.loads(clfm("cache", "--clear", "--json", env=env).stdout)["bytes"] == 0
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]


# ---- copies

def by_joblib(clf):
    import joblib
    file = io.BytesIO()
    joblib.dump(clf, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {"pickle": lambda clf: pickle.loads(pickle.dumps(clf)), "joblib": by_joblib, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_answers_and_saves_as_the_classifier(way, clf, tmp_path):
    other = COPIES[way](clf)
    np.testing.assert_array_equal(other.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    assert other.get_params() == clf.get_params() and other.encoder_.run is other
    assert other.evaluate(TEXTS, LABELS).figures == clf.evaluate(TEXTS, LABELS).figures
    saved = Classifier.from_pretrained(other.save_pretrained(tmp_path / "model"))
    np.testing.assert_array_equal(saved.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    blank = COPIES[way](Classifier("stc", settings=["head.C=3"]))
    assert blank.get_params() == Classifier("stc", settings=["head.C=3"]).get_params()
    with pytest.raises(UserError, match="not fitted"): blank.predict(TEXTS)


def test_a_copy_of_trained_weights_and_named_tasks_answers_alike(tiny):
    rows = [dict(text=text, label=label, thing=text.split()[1]) for text, label in zip(TEXTS, LABELS)]
    clf = Classifier(
        "finetune", tiny, ["training.epochs=1", "head.dropout=0"], cache=None, tasks={"mood": "label", "about": "thing"}
    ).fit(rows)
    other = pickle.loads(pickle.dumps(clf))
    for name, found in clf.predict_proba(TEXTS).items():
        np.testing.assert_array_equal(other.predict_proba(TEXTS)[name], found)
    other.delta_.unapply(other.encoder_.backbone)  # a copy has a base of its own
    answers = other.predict_proba(TEXTS)
    for name, found in clf.predict_proba(TEXTS).items(): assert not np.array_equal(answers[name], found)


def test_a_pickle_holds_bytes_and_plain_parameters_and_names_no_code_but_ours(clf):
    named = {
        f"{where}.{name}" for op, where, name in globals_of(pickle.dumps(clf))
    }
    assert named <= {"copyreg.__newobj__", "clfm_kit.classifier.classifier.Classifier"}, named
    state = clf.__getstate__()
    assert {"clfm.json", "head.safetensors"} <= state["files"].keys()
    harmed = state | dict(files=state["files"] | {"head.safetensors": state["files"]["head.safetensors"][:-1]})
    with pytest.raises(UserError, match="damaged|SHA-256"): Classifier().__setstate__(harmed)


def globals_of(content):
    "What a pickle asks Python to import."
    import pickletools
    texts = []
    for op, value, _ in pickletools.genops(content):
        if isinstance(value, str): texts.append(value)
        if op.name == "GLOBAL": yield op.name, *value.split(" ")
        if op.name == "STACK_GLOBAL": yield op.name, *texts[-2:]


def answers_of(clf): return clf.predict(TEXTS).tolist()


def test_a_classifier_goes_to_another_process(clf):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(answers_of, (clf,)) == clf.predict(TEXTS).tolist()


# ---- scikit-learn

def test_a_search_over_a_parameter_of_a_part_refits_and_is_saved(tiny, tmp_path):
    from sklearn.model_selection import GridSearchCV
    search = GridSearchCV(
        Classifier("probe", tiny, cache=None), {"head__C": np.logspace(-2, 1, 2), "seed": [np.int64(1)]}, cv=2
    ).fit(FRAME[["text"]], LABELS)
    best = search.best_estimator_
    assert best.settings == [f"head.C={search.best_params_['head__C']}", "seed=1"]
    assert search.best_params_["head__C"] in (0.01, 10.0)
    again = Classifier.from_pretrained(best.save_pretrained(tmp_path / "model"))
    assert again.predict(TEXTS).tolist() == search.predict(TEXTS).tolist()
    assert pickle.loads(pickle.dumps(search)).predict(TEXTS).tolist() == search.predict(TEXTS).tolist()


def test_parameters_of_parts_are_set_by_name():
    clf = Classifier("probe").set_params(head__C=3, state_dtype="float32")
    clf.set_params(head__C=0.5, class_weight="balanced")
    assert clf.settings == ["head.C=0.5", 'class_weight="balanced"'] and clf.state_dtype == "float32"
    clf.prepare()
    assert clf.parts_["head"].C == 0.5 and clf.recipe_.class_weight == "balanced"
    with pytest.raises(UserError, match="did you mean 'head'"): clf.set_params(haed__C=1)
    with pytest.raises(UserError, match="unknown parameter of a classifier 'C'"): clf.set_params(C=1)


@pytest.mark.parametrize("recipe, settings", [
    ("probe", ["head.C=100"]), ("probe", ["head=linear", "training.epochs=60"]),
    ("finetune", ["training.epochs=20", "training.learning_rate=3e-3"]),
])
def test_rows_count_as_much_as_their_weight(recipe, settings, tiny):
    texts, labels = TEXTS * 2, LABELS + ["cross" if label == "glad" else "glad" for label in LABELS]
    first = [1.0] * len(TEXTS) + [0.01] * len(TEXTS)
    for weights, share, called in ((first, 1.0, labels), (first[::-1], 0.0, labels[len(TEXTS):])):
        held = list(zip(TEXTS, called))
        clf = Classifier(recipe, tiny, settings, cache=None)
        clf.fit(texts, labels, validation=held, sample_weight=weights)
        assert abs(clf.score(TEXTS, LABELS) - share) < 0.25
    halves = clf.score(texts, labels, sample_weight=first), clf.score(texts, labels, sample_weight=first[::-1])
    right = [answer == label for answer, label in zip(clf.predict(texts), labels)]
    assert halves == pytest.approx((np.average(right, weights=first), np.average(right, weights=first[::-1])))
    # a split that is drawn takes the weights along
    even = Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS, sample_weight=[2.0] * len(TEXTS))
    plain = Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS)
    np.testing.assert_allclose(even.decision_function(TEXTS), plain.decision_function(TEXTS), atol=1e-3)


@pytest.mark.parametrize("weights", [[1.0], [-1.0] * len(TEXTS), [0.0] * len(TEXTS), ["a"] * len(TEXTS)])
def test_weights_that_cannot_be_are_refused(weights, clf, tiny):
    with pytest.raises(UserError, match=f"sample_weight must be {len(TEXTS)} numbers"):
        Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS, sample_weight=weights)
    with pytest.raises(UserError, match=f"sample_weight must be {len(TEXTS)} numbers"):
        clf.score(TEXTS, LABELS, sample_weight=weights)


@pytest.mark.parametrize("settings", [["class_weight=balanced-sampler", "head=linear"], ["merger=mixed"]])
def test_weights_of_rows_are_refused_where_something_else_draws_them(settings, tiny):
    tasks = dict(one="label", two="label") if settings == ["merger=mixed"] else None
    recipe = "finetune" if tasks else "probe"
    with pytest.raises(UserError, match="leave one of them out"):
        Classifier(recipe, tiny, settings, cache=None, tasks=tasks).fit(
            [dict(text=text, label=label) for text, label in zip(TEXTS, LABELS)] if tasks else TEXTS,
            None if tasks else LABELS, sample_weight=[1.0] * len(TEXTS),
        )


def test_a_notebook_shows_recipe_labels_and_validation_figures(clf):
    shown = clf._repr_mimebundle_()["text/html"]
    rows = clf.reports_["validation"].rows
    for part in ("probe", "cross, glad", "accuracy", f"on {rows} validation rows"): assert part in shown
    assert "Classifier(" in Classifier("probe")._repr_mimebundle_()["text/html"]


# ---- what is fitted can be saved

@pytest.mark.parametrize("name", ["path", "codes", "names", "number"])
def test_what_a_recipe_was_given_by_other_libraries_is_saved(name, tiny, tmp_path):
    from sklearn.utils.class_weight import compute_class_weight
    codes = np.array([int(label == "glad") for label in LABELS])
    weights = compute_class_weight("balanced", classes=np.unique(codes), y=codes)
    recipe, model, labels = {
        "path": ("probe", Path(tiny), LABELS),
        "codes": ({"class_weight": dict(zip(np.unique(codes), weights))}, tiny, codes),
        "names": ({"class_weight": dict(zip(np.unique(LABELS), (1.0, 2.0)))}, tiny, LABELS),
        "number": ({"head": {"name": "logistic", "C": np.logspace(-2, 0, 3)[1]}, "seed": np.int64(3)}, tiny, LABELS),
    }[name]
    clf = Classifier(recipe, model, cache=None).fit(TEXTS, labels)
    again = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    named = {str(label): weight for label, weight in (clf.recipe_.class_weight or {}).items()} or None
    assert Recipe.of(parse_yaml(clf.recipe_.to_yaml())) == replace(clf.recipe_, class_weight=named)


def test_home_is_meant_by_a_tilde(clf, tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    monkeypatch.setenv("HOME", str(home)), monkeypatch.chdir(here)
    clf.save_pretrained("~/m")
    assert (home / "m" / "clfm.json").exists() and list(here.iterdir()) == []
    assert Classifier.from_pretrained("~/m").predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()


@pytest.mark.parametrize("words, message", [
    (["--out", "."], "is the folder you are in"), (["--out", ".."], "is the folder you are in, or holds it"),
    (["--out", "m", "--checkpoints", "m/kept"], "lies inside m, where the model goes"),
    (["--out", "rows.csv/m"], "is no folder that you may write to"),
])
def test_places_are_tried_before_the_fit(words, message, tiny, tmp_path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    settings = ["--recipe", "finetune", "--model", tiny, "--set", "training.epochs=1", "--data", "rows.csv"]
    done = clfm("fit", *settings, *words, cwd=tmp_path, env=os.environ | {"CLFM_KIT_CACHE": str(tmp_path / "states")})
    refused_command(done, message)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_checkpoints_in_a_place_that_is_none_are_told(tiny, tmp_path):
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir(), file.write_text("")
    (empty / "run.json").write_text("")
    clf = Classifier("finetune", tiny, ["training.epochs=1"], cache=None)
    assert clf.fit(TEXTS, LABELS, checkpoints=empty).predict(TEXTS).shape == (len(TEXTS),)
    with pytest.raises(UserError, match="checkpoints cannot be written"): clf.fit(TEXTS, LABELS, checkpoints=file)
    with pytest.raises(UserError, match="another run"): clf.fit(TEXTS[::-1], LABELS, checkpoints=empty)


# ---- where the base is

def test_a_base_by_a_relative_path_is_found_from_anywhere(tiny, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir(), (tmp_path / "other").mkdir()
    shutil.copytree(tiny, tmp_path / "models" / "small")
    monkeypatch.chdir(tmp_path)
    clf = Classifier("probe", "models/small", cache=None).fit(TEXTS, LABELS)
    saved = clf.save_pretrained(tmp_path / "m")
    facts = json.loads((saved / "clfm.json").read_text())["model"]
    assert facts["source"] == str(tmp_path / "models" / "small") and len(facts["hash"]) == 64
    monkeypatch.chdir(tmp_path / "other")
    assert Classifier.from_pretrained("../m").predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()
    assert pickle.loads(pickle.dumps(clf)).predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()
    (tmp_path / "models").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="was in .*models/small, where there is none now; say where it is"):
        Classifier.from_pretrained("../m")


@pytest.mark.parametrize("words", [
    ["predict", "m", "my lamp is broken"], ["evaluate", "m", "--data", "rows.csv"],
    ["explain", "m", "my lamp is broken"], ["export", "m", "--out", "o", "--data", "rows.csv"],
])
def test_every_command_about_a_saved_model_takes_the_place_of_its_base(words, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "small")
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    Classifier("probe", tmp_path / "small", cache=None).fit(TEXTS, LABELS).save_pretrained(tmp_path / "m")
    (tmp_path / "small").rename(tmp_path / "moved")
    refused_command(clfm(*words, cwd=tmp_path), "where there is none now", "--model")
    done = clfm(*words, "--model", "moved", "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr


# ---- environments

def test_a_fit_leaves_the_callers_generators_and_bars_alone(tiny):
    import random

    import torch
    from transformers.utils import logging
    def drawn(): return random.random(), np.random.rand(), torch.rand(1).item()
    def seeded(): random.seed(5), np.random.seed(5), torch.manual_seed(5)
    seeded()
    want = drawn()
    seeded()
    logging.enable_progress_bar()
    Classifier("finetune", tiny, ["training.epochs=1"], cache=None).fit(TEXTS, LABELS)
    assert drawn() == want and logging.is_progress_bar_enabled()


def test_no_home_folder_is_needed_where_the_cache_has_a_place(tmp_path, monkeypatch):
    def homeless(): raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False), monkeypatch.setenv("CLFM_KIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CLFM_KIT_CACHE")
    with pytest.raises(UserError, match="set CLFM_KIT_CACHE"): cache_folder()


def test_output_that_cannot_show_every_letter_ends_well(tiny, tmp_path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    env = os.environ | {"CLFM_KIT_CACHE": str(tmp_path / "states"), "PYTHONIOENCODING": "ascii"}
    fit = ["fit", "--recipe", "probe", "--model", tiny, "--data", "rows.csv", "--out", "m"]
    done = clfm(*fit, cwd=tmp_path, env=env)
    assert done.returncode == 0 and "rror" not in done.stderr, done.stderr
    done = clfm("predict", "m", "ein kaputtes Gerät …", "--json", cwd=tmp_path, env=env)
    assert json.loads(done.stdout)[0]["text"] == "ein kaputtes Gerät …"


# ---- the checks of scikit-learn

class Insisting(Classifier):
    "Says that it takes tables of numbers, so that no check is passed over."

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_but_for_those_that_are_named(tiny):
    from sklearn.utils import get_tags
    from sklearn.utils.estimator_checks import check_estimator
    tags = get_tags(Classifier("probe"))
    assert tags.estimator_type == "classifier" and tags.input_tags.string and not tags.input_tags.two_d_array
    check_estimator(Classifier("probe", tiny, cache=None))
    found = check_estimator(
        Insisting("probe", tiny, cache=None), on_skip=None, expected_failed_checks=FAILED_CHECKS
    )
    failed = {check["check_name"] for check in found if check["status"] == "xfail"}
    passed = {check["check_name"] for check in found if check["status"] == "passed"}
    assert failed == FAILED_CHECKS.keys() and all(FAILED_CHECKS.values()) and len(passed) > 15
    with pytest.raises(NotFittedError): Classifier("probe").predict(["a text"])


# ---- what is wrong with files and names is told before the slow libraries load

QUICK = """
import json, os, sys
from clfm_kit.cli.main import main
for number, words in enumerate(json.loads(sys.argv[1])):
    if os.fork(): os.wait()
    else:
        for stream, name in (1, "out"), (2, "err"):
            os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        try: main(words)
        except SystemExit as stop: print("exit", stop.code, "torch" in sys.modules, "transformers" in sys.modules)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(0)
"""
WRONG = [
    (["fit", "--recipe", "probe", "--data", "none.csv", "--out", "m"], "none.csv is not a file"),
    (["fit", "--recipe", "probe", "--data", "rows.csv", "--text-column", "txt", "--out", "m"], "did you mean 'text'?"),
    (["fit", "--recipe", "probe", "--data", "broken.csv", "--out", "m"], "broken.csv line 3"),
    (["fit", "--recipe", "prove", "--data", "rows.csv", "--out", "m"], "did you mean 'probe'?"),
    (
        ["fit", "--recipe", "probe", "--set", "head=logistik", "--data", "rows.csv", "--out", "m"],
        "did you mean 'logistic'?",
    ),
    (["fit", "--recipe", "probe", "--set", "head.c=1", "--data", "rows.csv", "--out", "m"], "did you mean 'C'?"),
    (["fit", "--recipe", "probe", "--set", "C=1", "--data", "rows.csv", "--out", "m"], "Here it is head.C."),
    (
        ["fit", "--recipe", "probe", "--set", "head.class_wieght=1", "--data", "rows.csv", "--out", "m"],
        "class_weight is a field of the recipe itself",
    ),
    (["fit", "--recipe", "stc", "--set", "head.eta=1", "--data", "rows.csv", "--out", "m"], "did you mean 'etas'?"),
    (
        ["tune", "--recipe", "probe", "--set", "pooler.layr=1", "--data", "rows.csv", "--search", "head.C=0.1..1"],
        "did you mean 'layer'?",
    ),
    (["plan", "--recipe", "probe", "--set", "head.c=1"], "did you mean 'C'?"),
    (["predict", "m", "--data", "none.csv"], "m holds no clfm-kit model"),
    (["predict", "owner/name", "--data", "none.csv"], "none.csv is not a file"),
    (["evaluate", "owner/name", "--data", "none.csv"], "none.csv is not a file"),
    (["compare", "probe", "--data", "none.csv"], "none.csv is not a file"),
    (["tune", "--recipe", "probe", "--data", "none.csv", "--search", "head.C=0.1..1"], "none.csv is not a file"),
    (["errors", "probe", "--data", "none.csv"], "none.csv is not a file"),
    (["explain", "m", "a text"], "m holds no clfm-kit model"),
    (["export", "m", "--data", "none.csv", "--out", "o"], "none.csv is not a file"),
    (["distil", "owner/name", "--data", "none.csv", "--out", "o"], "none.csv is not a file"),
    (["merge", "a", "b", "--data", "none.csv", "--out", "o"], "none.csv is not a file"),
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    "What each of the commands says on both streams, all forked from one fresh process."
    place = tmp_path_factory.mktemp("quick")
    FRAME.to_csv(place / "rows.csv", index=False)
    (place / "broken.csv").write_text("text,label\na,x\nb\n")
    commands = json.dumps([words for words, _ in WRONG])
    subprocess.run(
        [sys.executable, "-c", QUICK, commands], cwd=place, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    return [[(place / f"{number}.{name}").read_text() for name in ("out", "err")] for number in range(len(WRONG))]


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(words) for words, _ in WRONG])
def test_errors_about_files_and_names_wait_for_no_library(number, quick):
    out, err = quick[number]
    assert WRONG[number][1] in err and out == "exit 2 False False\n", (out, err)


def test_an_explanation_spells_the_ngrams_of_its_text(tiny):
    random, labels = np.random.default_rng(0), ["red", "green"] * 40
    letters = lambda: "".join(random.choice([*"bcdfglmnprst"], 3))
    told = {"red": "xqz", "green": "zqx"}  # the same letters in another order, which mean states hardly tell
    texts = [f"{letters()} {letters()}{told[label]} {letters()}" for label in labels]
    clf = Classifier("probe+keywords", tiny, cache=None).fit(texts, labels)
    found = clf.explain("one xqz apple")
    spelled = [one["ngram"] for one in found.features if "ngram" in one]  # what a text lacks keeps its number
    assert spelled and all(gram in " one xqz apple " for gram in spelled), spelled
    assert spelled[0] in str(found)
    assert json.loads(json.dumps(found.to_dict()))["features"] == found.features
