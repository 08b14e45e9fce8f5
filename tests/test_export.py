"""Exports answer without the kit as the classifier does: classes of transformers, modules of sentence-transformers, ONNX."""
import json
import sys

import numpy as np
import pytest
from afresh import python
from architectures import ASKED, LABELS, TEXTS, save_base, tokenizer

from clfm_kit import Classifier, UserError
from clfm_kit.classifier.export import export
from clfm_kit.classifier.reader import Reader
from clfm_kit.classifier.stock import PLACES

TEXTS, LABELS = list(TEXTS), list(LABELS)
PROBE = dict(name="read", head=dict(name="logistic", C=1.0, scale="columns"))
LONG = [*ASKED, " ".join(TEXTS * 3)]


def fit(base, labels=LABELS, settings=(), **given):
    return Classifier(given.pop("recipe", PROBE), base, settings, cache=None, **given).fit(TEXTS, labels)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Makes a tiny base of a kind, once."""
    made, words, folder = {}, tokenizer(), tmp_path_factory.mktemp("bases")
    return lambda kind: made.setdefault(kind, None) or made.update({kind: save_base(kind, folder / kind, words)}) or made[kind]


@pytest.mark.parametrize("kind, pooling", [(kind, pooling) for kind, place in PLACES.items() for pooling in place.pooled])
def test_a_class_of_transformers_scores_the_same(kind, pooling, bases, tmp_path):
    clf = fit(bases(kind), settings=[f"pooler={pooling}", "format.max_length=40"])
    found = export(clf, tmp_path / "out", "transformers", LONG)
    assert found["largest_difference"] < 1e-4 and found["share_changed"] == 0


WITHOUT = """
import sys
sys.modules["clfm_kit"] = None
from transformers import pipeline
ask = pipeline("text-classification", sys.argv[1], truncation=True, top_k=None)
print({each["label"]: round(each["score"], 4) for each in ask(sys.argv[2])[:3]})
"""
SEVERAL = [[label] * (place % 5 > 0) + ["short"] * (place % 3 == 0) for place, label in enumerate(LABELS)]


@pytest.mark.parametrize("labels, problem", [(LABELS, "single_label_classification"), (SEVERAL, "multi_label_classification")])
def test_a_pipeline_without_the_kit_gives_calibrated_probabilities(labels, problem, tiny, tmp_path):
    clf = fit(tiny, labels, ["pooler=first"])
    clf.task().calibration.temperature, clf.task().calibration.shifts = 0.7, [0.5, -0.25, 0.1][:len(clf.classes_)]
    export(clf, tmp_path / "out", "transformers", LONG)
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == problem and list(config["label2id"]) == list(clf.classes_)
    done = python("-c", WITHOUT, tmp_path / "out", ASKED[0])
    assert done.returncode == 0, done.stderr
    ours = dict(zip(clf.classes_, clf.predict_proba([ASKED[0]])[0]))
    theirs = json.loads(done.stdout.replace("'", '"'))
    assert theirs.keys() == ours.keys() and all(abs(theirs[label] - ours[label]) < 2e-3 for label in ours)


@pytest.mark.parametrize("selector", ["full", "bias", dict(name="lora", rank=4)], ids=["all", "biases", "lora"])
def test_what_was_trained_is_merged(selector, bases, tmp_path):
    recipe = dict(name="train", selector=selector, pooler="first", head="linear", training=dict(epochs=2, learning_rate=1e-2))
    clf = fit(bases("roberta"), recipe=recipe)
    assert export(clf, tmp_path / "out", "transformers", LONG)["largest_difference"] < 1e-4
    assert export(clf, tmp_path / "modules", "sentence-transformers", LONG)["largest_difference"] < 1e-4
    clf.delta_.unapply(clf.encoder_.backbone)
    with pytest.raises(UserError, match="scores that are up to"): export(clf, tmp_path / "other", "transformers", LONG)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("scale", ["rows", "columns"])
@pytest.mark.parametrize("kind, pooling", [("bert", "mean"), ("bert", "max"), ("bert", "first"), ("llama", "last")])
def test_modules_of_sentence_transformers_score_the_same(kind, pooling, scale, bases, tmp_path):
    clf = fit(bases(kind), settings=[f"pooler={pooling}", f"head.scale={scale}", "format.max_length=40"])
    found = export(clf, tmp_path / "out", "sentence-transformers", LONG)
    assert found["largest_difference"] < 1e-4 and found["share_changed"] == 0
    modules = [each["type"].rpartition(".")[2] for each in json.loads((tmp_path / "out" / "modules.json").read_text())]
    assert modules == ["Transformer", "Pooling", *["Normalize"] * (scale == "rows"), "Dense"]


@pytest.mark.parametrize("given, settings, form, said", [
    ({}, [], "transformers", "no class for a head on pooler 'mean' of bert.*'sentence-transformers'"),
    ({}, ["pooler=first", "head.scale=rows"], "transformers", "rows of one length"),
    ({}, ["format=windows"], "transformers", "does more than cut one end of a text; use form 'onnx'"),
    ({}, ["head=mlp"], "sentence-transformers", "head 'mlp' is no linear map; use form 'onnx'"),
    (dict(recipe="stc"), ["pooler.poolings=[mean]", "head.exit_at=3"], "sentence-transformers", "the head reads"),
    (dict(tasks=dict(one="label", two="label")), [], "transformers", "this model has 2 tasks; use form 'onnx'"),
    ({}, ["pooler=first", "pooler.layer=1"], "sentence-transformerz", "did you mean 'sentence-transformers'"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(given, settings, form, said, tiny, tmp_path):
    clf = Classifier(given.pop("recipe", PROBE), tiny, settings, cache=None, **given)
    rows = [dict(text=text, label=label) for text, label in zip(TEXTS, LABELS)]
    with pytest.raises(UserError, match=said) as refusal: export(clf.fit(rows), tmp_path / "out", form, LONG)
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()


def test_a_decoder_whose_norm_has_no_bias_and_one_cut_below_its_norm_are_refused(bases, tmp_path):
    with pytest.raises(UserError, match="no class for a head on pooler 'last' of llama"):
        export(fit(bases("llama"), settings=["pooler=last"]), tmp_path / "out", "transformers", LONG)
    for form in ("transformers", "sentence-transformers"):
        with pytest.raises(UserError, match="the head reads block 1, and a base cut there may norm"):
            export(fit(bases("gpt2"), settings=["pooler=last", "pooler.layer=1"]), tmp_path / "out", form, LONG)


COSTS = dict(name="single", costs=dict(bad=dict(good=9.0)))
RATED = [number % 3 for number in range(len(TEXTS))]


@pytest.mark.parametrize("labels, settings, reject", [
    (LABELS, [], dict(score="maximum-probability", coverage=0.7)),
    (LABELS, [], dict(score="energy", coverage=0.7)),
    (LABELS, ["pooler=max"], dict(score="centroid-distance", coverage=0.7)),
    (SEVERAL, [], dict(score="energy", coverage=0.7)),
    (LABELS, [f"task={json.dumps(COSTS)}"], None),
    (RATED, ["task=ordinal"], None),
    (LABELS, ["format={name: plain, max_length: 9, keep: tail}"], None),
    (LABELS, ["format={name: plain, max_length: 9, keep: head+tail}"], None),
    (LABELS, ["format={name: windows, size: 9, overlap: 2, most: 3, keep: head+tail, combine: mean}"], 0.7),
    (LABELS, ["format={name: windows, size: 9, overlap: 2, most: 3, keep: tail, combine: max}"], None),
], ids=lambda given: json.dumps(given)[:40])
def test_onnx_and_a_tokenizer_answer_as_predict_does(labels, settings, reject, tiny, tmp_path):
    clf = fit(tiny, labels, settings, reject=reject)
    asked = [*LONG, *TEXTS]
    found = export(clf, tmp_path / "out", "onnx", asked)
    answers = Reader(tmp_path / "out").predict(asked)
    ours = clf.predict(asked)
    assert answers == (ours if isinstance(ours, list) else ours.tolist()) and found["share_changed"] == 0
    if reject: assert None in answers and found["largest_difference"] < 1e-3
    told = json.loads((tmp_path / "out" / "classifier.json").read_text(encoding="utf-8"))["outputs"]["probabilities"]
    assert told["calibration"]["temperature"] == clf.task().calibration.temperature


def test_tasks_with_a_reject_option_each_go_along(tiny, tmp_path):
    rows = [dict(text=text, mood=label, rank=rank) for text, label, rank in zip(TEXTS, LABELS, RATED)]
    tasks = dict(mood=dict(label="mood", reject=0.6), rank=dict(label="rank", kind="ordinal"))
    clf = Classifier(PROBE, tiny, cache=None, tasks=tasks).fit(rows)
    export(clf, tmp_path / "out", texts=TEXTS)
    answers, ours = Reader(tmp_path / "out").predict(TEXTS), clf.predict(TEXTS)
    assert answers == [dict(mood=mood, rank=rank) for mood, rank in zip(*(found.tolist() for found in ours.values()))]
    assert None in [answer["mood"] for answer in answers]


def test_the_program_in_the_folder_is_the_one_that_is_tested(tiny, tmp_path):
    """It runs where neither the kit nor torch is, and gives the same."""
    clf = fit(tiny)
    export(clf, tmp_path / "out", texts=ASKED)
    ask = (
        "import json, sys; sys.modules.update(dict.fromkeys(['clfm_kit', 'torch', 'transformers'])); "
        "sys.path.insert(0, sys.argv[1]); from predict import Reader; "
        "print(json.dumps(Reader(sys.argv[1]).predict(json.loads(sys.argv[2]))))"
    )
    done = python("-c", ask, tmp_path / "out", json.dumps(ASKED))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == clf.predict(ASKED).tolist()
    assert sys.modules["clfm_kit.classifier.reader"].Reader is Reader and np.isfinite(clf.predict_proba(ASKED)).all()
