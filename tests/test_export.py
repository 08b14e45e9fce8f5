"""Exports answer without the kit as the classifier does: transformers, sentence-transformers, ONNX."""
import json

import pytest
from afresh import python
from architectures import ASKED, LABELS, TEXTS, save_base, tokenizer
from tree import ROOT

from clfm_kit import Classifier, UserError
from clfm_kit.classifier import export as export_module
from clfm_kit.classifier.export import export, reading
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
    def base(kind):
        if kind not in made: made[kind] = save_base(kind, folder / kind, words)
        return made[kind]
    return base


@pytest.mark.parametrize("kind, pooling", [
    (kind, pooling) for kind, place in PLACES.items() for pooling in place.pooled
])
def test_a_class_of_transformers_scores_the_same(kind, pooling, bases, tmp_path):
    clf = fit(bases(kind), settings=[f"pooler={pooling}", "format.max_length=40"])
    found = export(clf, tmp_path / "out", "transformers", LONG)
    assert found["largest_difference"] < 1e-4 and found["share_changed"] == 0


def test_the_page_lists_the_architectures():
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    lines = page.partition("## Which architectures")[2].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"][2:]
    listed = {
        kind: {pooling.strip("`") for pooling in row[1].split(", ")}
        for row in rows for kind in row[0].split(", ")
    }
    assert listed == {kind: set(place.pooled) for kind, place in PLACES.items()}


WITHOUT = """
import json, sys
sys.modules["clfm_kit"] = None
from transformers import pipeline
for folder in sys.argv[2:]:
    ask = pipeline("text-classification", folder, truncation=True, top_k=None)
    print(json.dumps({each["label"]: each["score"] for each in ask([sys.argv[1]])[0]}))
"""
SEVERAL = [[label] * (place % 5 > 0) + ["short"] * (place % 3 == 0) for place, label in enumerate(LABELS)]


def test_a_pipeline_without_the_kit_gives_calibrated_probabilities(tiny, tmp_path):
    made = {}
    for labels, problem in ((LABELS, "single_label_classification"), (SEVERAL, "multi_label_classification")):
        clf = made[tmp_path / problem] = fit(tiny, labels, ["pooler=first", "head.C=0.001"], state_dtype="float32")
        clf.task().calibration.temperature, clf.task().calibration.shifts = 0.7, [0.5, -0.25, 0.1][:len(clf.classes_)]
        export(clf, tmp_path / problem, "transformers", LONG)
        config = json.loads((tmp_path / problem / "config.json").read_text(encoding="utf-8"))
        assert config["problem_type"] == problem and list(config["label2id"]) == list(clf.classes_)
    done = python("-c", WITHOUT, LONG[-1], *made)
    assert done.returncode == 0, done.stderr
    for clf, line in zip(made.values(), done.stdout.splitlines()):
        theirs, ours = json.loads(line), dict(zip(clf.classes_, clf.predict_proba([LONG[-1]])[0]))
        assert theirs.keys() == ours.keys() and all(abs(theirs[label] - ours[label]) < 1e-4 for label in ours)


@pytest.mark.parametrize("selector", ["full", "bias", dict(name="lora", rank=4)], ids=["all", "biases", "lora"])
def test_what_was_trained_is_merged(selector, bases, tmp_path):
    recipe = dict(
        name="train", selector=selector, pooler="first", head="linear",
        training=dict(epochs=2, learning_rate=1e-2),
    )
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
KINDS = dict(
    plain=dict(label="mood"), unsure=dict(label="mood", reject=0.5),
    energy=dict(label="mood", reject=dict(score="energy", coverage=0.5)),
    far=dict(label="mood", reject=dict(score="centroid-distance", coverage=0.5)), costly=dict(label="mood", kind=COSTS),
    rank=dict(label="rank", kind="ordinal"), several=dict(label="several", reject=dict(score="energy", coverage=0.5)),
)
MANY = [*LONG, *TEXTS]


@pytest.fixture(scope="module")
def tasks(tiny, tmp_path_factory):
    """A classifier of every kind of task with every score, and its export."""
    rows = [
        dict(text=text, mood=mood, rank=rank, several=several)
        for text, mood, rank, several in zip(TEXTS, LABELS, RATED, SEVERAL)
    ]
    clf = Classifier(
        PROBE, tiny, ["format={name: plain, max_length: 12, keep: tail}"], cache=None, tasks=KINDS
    ).fit(rows)
    folder = tmp_path_factory.mktemp("export") / "out"
    assert export(clf, folder, texts=MANY)["share_changed"] == 0
    return clf, folder


def test_of_the_ways_to_round_the_first_that_keeps_the_answers_is_kept(bases, tmp_path, monkeypatch):
    clf, shares = fit(bases("bert")), iter([0.2, 0.01, 0.5, 0.3, 0.4])
    found = lambda clf, folder, texts: dict(texts=len(texts), share_changed=next(shares), changed=texts[:1])
    monkeypatch.setattr(export_module, "parity", found)
    taken = export(clf, tmp_path / "a", "onnx-int8", MANY)
    assert list(taken["tried"].values()) == [0.2, 0.01] and taken["rounded"] == list(taken["tried"])[1]
    assert (tmp_path / "a" / "model.onnx").exists() and not (tmp_path / "a" / "whole.onnx").exists()
    with pytest.raises(UserError, match="30.0% of .* 1.0% are allowed, so nothing was kept"):
        export(clf, tmp_path / "b", "onnx-int8", MANY)
    assert not (tmp_path / "b").exists()


def test_onnx_and_a_tokenizer_answer_every_kind_of_task_as_predict_does(tasks):
    clf, folder = tasks
    answers, ours = Reader(folder).predict(MANY), clf.answers(MANY)
    for name, found in ours.items():
        wanted = found.labels if isinstance(found.labels, list) else found.labels.tolist()
        cut = found.task.reject and found.task.reject.rejection.cut
        sure = [
            found.confidence is None or abs(found.confidence[row] - cut) > 1e-3 * max(1, abs(cut))
            for row in range(len(MANY))
        ]
        assert [a[name] for a, yes in zip(answers, sure) if yes] == [w for w, yes in zip(wanted, sure) if yes], name
        assert (None in [answer[name] for answer in answers]) == (cut is not None)
    told = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))["outputs"]
    assert told["plain"]["calibration"]["temperature"] == clf.task("plain").calibration.temperature
    assert told["costly"]["decide"] == "cheapest" and told["several"]["thresholds"]


def test_the_program_in_the_folder_runs_where_neither_the_kit_nor_torch_is(tasks):
    ask = (
        "import json, sys; sys.modules.update(dict.fromkeys(['clfm_kit', 'torch', 'transformers'])); "
        "sys.path.insert(0, sys.argv[1]); from predict import Reader; "
        "print(json.dumps(Reader(sys.argv[1]).predict(json.loads(sys.argv[2]))))"
    )
    done = python("-c", ask, tasks[1], json.dumps(MANY))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == Reader(tasks[1]).predict(MANY)
    typed = python(tasks[1] / "predict.py", *TEXTS[:2])
    assert typed.stdout.splitlines() == [*map(str, Reader(tasks[1]).predict(TEXTS[:2]))], typed.stderr
    assert "usage" in python(tasks[1] / "predict.py").stderr


def test_the_maximum_of_windows_goes_along(tiny, tmp_path):
    clf = fit(tiny, settings=["format={name: windows, size: 9, overlap: 2, most: 3, keep: tail, combine: max}"])
    export(clf, tmp_path / "out", texts=MANY)
    assert Reader(tmp_path / "out").predict(MANY) == clf.predict(MANY).tolist()


@pytest.mark.parametrize("keep", ["head", "tail", "head+tail"])
@pytest.mark.parametrize("most", [{}, dict(size=9, overlap=0, most=1), dict(size=9, overlap=3, most=4)], ids=str)
def test_a_text_is_cut_as_the_format_cuts_it(keep, most, tiny):
    given = dict(name="windows", keep=keep, **most) if most else dict(name="plain", keep=keep, max_length=9)
    clf = fit(tiny, settings=[f"format={json.dumps(given)}"])
    asked = object.__new__(Reader)
    asked.about, asked.tokenizer = dict(reading=reading(clf)), clf.encoder_.backbone.tokenizer.backend_tokenizer
    encoded = clf.parts_["format"].encode(MANY, clf.encoder_.backbone.tokenizer, clf.encoder_.backbone.shape.limit)
    assert [ids for text in MANY for ids in asked.sequences(text)] == encoded.ids


def test_what_is_told_of_an_export_is_in_words():
    from clfm_kit.cli.model_commands import told_of
    found = dict(form="onnx", texts=60, largest_difference=6.669331963016223e-05, share_changed=0.0, changed=[])
    plain = dict(told_of(found | dict(rounded="nothing", tried={"nothing": 0.0})))
    assert plain["largest difference of a probability"] == "6.7e-05" and plain["some of them"] == "none"
    assert not any("quantisation" in name for name in plain)
    small = dict(told_of(found | dict(rounded="one scale", tried={"one scale": 0.01})))
    assert small["kept quantisation"] == "one scale" and "one scale: 0.01" in small.values()
