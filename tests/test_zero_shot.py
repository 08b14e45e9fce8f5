"""Labels by their names alone: an encoder compares, a decoder is asked in several orders; the same after saving."""
import json

import numpy as np
import pytest
import small_decoder
from command import afresh, clfm, refused
from transformers import AutoModelForCausalLM

from clfm_kit import Classifier, Recipe, UserError, load_data
from clfm_kit.backbone.loading import kind_of_base
from clfm_kit.plugins import catalogue

LABELS = {"refund": "the money is to come back", "delivery": "a parcel is late or lost", "praise": ""}
TEXTS = ["where is my parcel", "", "I want {my} money \"back\"", "a much longer text " * 40]
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<s>system: be brief\n{% endif %}"
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>answer:{% endif %}"
)
asked = pytest.mark.skipif(
    "verbalizer" not in catalogue.entries("head"), reason="the plugin instruct is not installed"
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Folder of a decoder with random weights that reads 512 tokens."""
    return small_decoder.decoder(tmp_path_factory.mktemp("decoder"), load_data("helpdesk").train.texts)


@pytest.fixture(params=["tiny", pytest.param("decoder", marks=asked)])
def base(request): return request.getfixturevalue(request.param)


def named(model, labels=LABELS, *settings):
    return Classifier("zero-shot", model, settings=settings, cache=None, labels=labels)


def test_names_are_enough(base, tmp_path):
    clf = named(base)
    found = clf.predict_proba(TEXTS)
    assert found.shape == (4, 3) and np.allclose(found.sum(1), 1) and np.isfinite(found).all()
    assert list(clf.classes_) == list(LABELS) and set(clf.predict(TEXTS)) <= set(LABELS)
    clf.save_pretrained(tmp_path / "model")
    again = Classifier.from_pretrained(tmp_path / "model")
    assert np.array_equal(again.predict_proba(TEXTS), found)
    held = json.loads((tmp_path / "model" / "clfm.json").read_text())
    assert held["recipe"]["labels"] == LABELS and held["facts"]["rows"] == dict(train=0, validation=0)
    assert "Made of the names of its labels" in (tmp_path / "model" / "README.md").read_text()


def test_a_fresh_process_gives_the_same(base, tmp_path):
    clf = named(base)
    folder = clf.save_pretrained(tmp_path / "model")
    found = afresh(dict(model=(folder, "predict_proba", TEXTS)))["model"]
    assert np.allclose(found, clf.predict_proba(TEXTS), atol=1e-6)


def test_the_base_says_which_recipe(tiny, decoder):
    assert kind_of_base(tiny) == "encoder" and kind_of_base(decoder) == "decoder"
    clf = named(tiny)
    clf.prepare()
    assert (clf.recipe_.name, clf.recipe_.head, clf.recipe_.bases) == ("zero-shot", "names", {})
    with pytest.raises(UserError, match="unknown kind of base 'encoder'"):
        Classifier(Recipe(bases={"decoder": "probe"}), tiny).fit("helpdesk")


def test_a_setting_reaches_the_recipe_that_is_taken(tiny):
    assert named(tiny, LABELS, "head.sharpness=5").fit().task().head.sharpness == 5
    with pytest.raises(UserError, match="unknown parameter of head 'names' 'sharp'"):
        named(tiny, LABELS, "head.sharp=5").fit()


def test_descriptions_count(tiny):
    plain, told = (named(tiny, labels).fit().task().head.names_ for labels in (list(LABELS), LABELS))
    assert not np.allclose(plain[:2], told[:2]) and np.allclose(plain[2], told[2], atol=1e-6)


def test_rows_are_judged_and_not_learned_from(base):
    rows = load_data("helpdesk").train.take(range(60))
    labels = sorted(set(rows.labels)) + ["a label that no row has"]
    clf, alone = (named(base, labels) for _ in range(2))
    clf.fit(rows)
    assert list(clf.classes_) == labels
    assert clf.task().calibration.rows == 60  # all of them, as none was learned from
    read = lambda found: found.task().logits(found.encoder_.features(TEXTS, found.task().columns))
    assert np.allclose(read(clf), read(alone), atol=1e-4)
    with pytest.raises(UserError, match="of the rows is not one of those given"): named(base, ["one", "two"]).fit(rows)


def test_without_labels_they_are_those_of_the_rows(base):
    clf = Classifier("zero-shot", base, cache=None).fit("helpdesk")
    assert set(clf.classes_) == set(load_data("helpdesk").train.labels)
    with pytest.raises(UserError, match="no data are given, and no labels"): Classifier("zero-shot", base).fit()


@pytest.mark.parametrize("labels, said", [
    (["one"], "two at least"), ("one, two", "a list of names, or a mapping"), (["one", "one"], "stands twice"),
    (["one", ""], "is no name"), ({"one": 1, "two": ""}, "a text expected"), (["one", 2], "mix types"),
])
def test_labels_that_cannot_be_are_refused(labels, said, tiny):
    with pytest.raises(UserError, match=said): named(tiny, labels).predict("a text")


def test_labels_that_read_alike_are_refused(tiny):
    with pytest.raises(UserError, match="read alike"): named(tiny, ["lost_card", "lost card"]).predict("a text")
    clf = named(tiny, {"lost_card": "a card", "lost card": "a postcard"})
    assert set(clf.predict(TEXTS)) <= {"lost_card", "lost card"}


def test_recipes_that_learn_from_rows_refuse_names(tiny):
    with pytest.raises(UserError, match="recipe 'probe' learns from rows"):
        Classifier("probe", tiny, labels=LABELS).predict("a")
    with pytest.raises(UserError, match="recipe 'auto' learns from rows"):
        Classifier("auto", tiny, labels=LABELS).fit("helpdesk")


def test_several_labels_are_refused_by_an_encoder(tiny):
    for task, said in (
        ("multi", "finds the one label that is nearest"), ("tags", "labels by name are for whole texts")
    ):
        with pytest.raises(UserError, match=said): named(tiny, LABELS, f"task={task}").predict("a text")


def test_five_hundred_labels(tiny):
    labels = [f"label number {number}" for number in range(500)]
    assert named(tiny, labels).predict_proba(TEXTS).shape == (4, 500)


@asked
def test_a_decoder_with_labels_that_begin_alike(decoder):
    labels = ["lost", "lost card", "lost card {twice}"]
    found = named(decoder, labels).predict_proba(TEXTS)
    assert np.allclose(found.sum(1), 1) and (found > 0).all()


@asked
def test_more_labels_than_a_decoder_can_be_asked_for_are_refused(decoder):
    labels = [f"label number {number}" for number in range(500)]
    with pytest.raises(UserError, match="the instruction takes .* of 512 that the model reads; use"):
        named(decoder, labels).predict("a text")
    thirty = [f"label {number}" for number in range(30)]
    assert named(decoder, thirty).predict_proba(["word " * 900]).shape == (1, 30)  # the text is cut, not the list


@asked
def test_a_decoder_may_have_several_labels_a_text(decoder):
    clf = named(decoder, LABELS, "task=multi")
    assert all(set(found) <= set(LABELS) for found in clf.predict(TEXTS))


@asked
@pytest.mark.parametrize("answers", ["names", "codes"])
def test_the_order_of_labels_is_averaged_out(answers, decoder):
    settings = f"format.answers={answers}", "format.orders=2"
    one, two = (named(decoder, LABELS, *settings[:count]) for count in (1, 2))
    turned = named(decoder, dict(reversed(LABELS.items())), *settings)
    assert np.allclose(two.predict_proba(TEXTS), turned.predict_proba(TEXTS)[:, ::-1], atol=1e-5)
    reading = lambda clf: clf.task().logits(clf.encoder_.features(TEXTS, clf.task().columns))
    first, last = (
        named(decoder, labels, settings[0], "format.orders=1")
        for labels in (LABELS, dict(reversed(LABELS.items())))
    )
    both = [first.predict_proba(TEXTS), last.predict_proba(TEXTS)[:, ::-1]]
    assert np.allclose(reading(two.ready()), (reading(first) + reading(last)[:, ::-1]) / 2, atol=1e-4)
    swayed = two.answers(TEXTS)["label"].swayed
    assert swayed.tolist() == (both[0].argmax(1) != both[1].argmax(1)).tolist()
    assert first.answers(TEXTS)["label"].swayed is None and one.ready() is one


@asked
def test_prompts_are_cut_alike_in_every_order(decoder):
    shared, repeated = (
        named(decoder, LABELS, f"format.prefix={prefix}", "format.orders=4") for prefix in ("shared", "repeated")
    )
    assert np.allclose(shared.predict_proba(TEXTS), repeated.predict_proba(TEXTS), atol=1e-4)
    assert len(shared.task().columns) == 4


@asked
def test_orders_are_for_models_that_are_not_trained(decoder):
    with pytest.raises(UserError, match="averages over a decoder that is not trained"):
        Classifier("instruct-zero-shot", decoder, settings=["selector=full", "head.calibration=none"]).fit("helpdesk")
    with pytest.raises(UserError, match="orders.* is 3; 1, or an even number"):
        named(decoder, LABELS, "format.orders=3").fit()


@asked
def test_examples_out_of_rows_need_rows(decoder):
    with pytest.raises(UserError, match="shows training rows, and there are none"):
        named(decoder, LABELS, "format.shots=1").fit()


@asked
def test_a_chat_format_with_a_system_turn(decoder, tmp_path):
    from transformers import AutoTokenizer
    plain = named(decoder).fit()
    AutoModelForCausalLM.from_pretrained(decoder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.chat_template = SYSTEM
    tokenizer.save_pretrained(tmp_path)
    clf = named(str(tmp_path)).fit()
    say = lambda found, part: found.encoder_.backbone.tokenizer.decode(getattr(found.parts_["format"], part))
    assert "be brief" in clf.encoder_.backbone.tokenizer.decode(clf.parts_["format"].reader.prefix)
    assert say(clf, "after").endswith("answer:") and say(plain, "after").endswith("Label:")  # without a chat format
    assert np.isfinite(clf.predict_proba(TEXTS)).all()


@asked
def test_a_report_tells_how_many_answers_hang_on_the_order(decoder):
    rows = load_data("helpdesk").test.take(range(30))
    report = named(decoder, sorted(set(load_data("helpdesk").train.labels))).evaluate(rows)
    assert any("of 30 answers would be others" in note for note in report.notes)


def test_the_command(tiny, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    words = "--model", tiny, "--labels", "labels.json", "--json"
    done = clfm("zero-shot", *TEXTS[:1], *words, "--out", "model", cwd=tmp_path)
    found, = json.loads(done.stdout)
    assert found["text"] == TEXTS[0] and set(found["probabilities"]) == set(LABELS)
    assert json.loads(clfm("predict", "model", *TEXTS[:1], "--json", cwd=tmp_path).stdout) == [found]
    rows = ("my money", "refund"), ("my parcel", "delivery"), ("thanks", "praise")
    lines = [f"{text} {n},{label}\n" for n in range(12) for text, label in rows]
    (tmp_path / "few.csv").write_text("text,label\n" + "".join(lines))
    done = clfm("zero-shot", "thank you", *words, "--calibrate", "few.csv", cwd=tmp_path)
    assert json.loads(done.stdout)[0]["label"] in LABELS
    for labels, said in (("one", "two at least"), ("no.yaml", "cannot read the labels")):
        refused(clfm("zero-shot", "a text", "--labels", labels, cwd=tmp_path), said)
