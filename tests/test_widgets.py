"""Widgets against bad input, without a browser: controls are pressed through their Python side."""
import csv
import json
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clfm_kit import Classifier, UserError, load_data
from clfm_kit.builtin.labels import MultiLabel, SingleLabel
from clfm_kit.classifier.task import Answers, FittedTask
from clfm_kit.data.rows import UNNAMED
from clfm_kit.data.tasks import Task
from clfm_kit.display.html import markup, table
from clfm_kit.plugins import emit, using
from clfm_kit.notebook.error_browser import cells
from clfm_kit.notebook.playground import verdict
from clfm_kit.notebook.token_lens import recorded
from clfm_kit.notebook.widgets import (
    ErrorBrowser, LayerLens, Playground, RecipeBuilder, TokenLens, TrainingMonitor, bar, curves
)

HOSTILE = '<script>alert("clfm")</script><img src=x onerror=alert(1)>&"\''


def safe(view):
    "Nothing of a hostile text is markup, in the stored picture or in the live one."
    view.box
    for page in (view.to_html(), view._body.value, view._told.value):
        assert "<script" not in page and "<img" not in page
    return view.to_html()


@pytest.fixture(scope="module")
def clf(tiny): return Classifier("probe", tiny, reject=0.9, cache=None).fit("helpdesk")


@pytest.fixture(scope="module")
def both(tiny):
    return Classifier(
        "probe", tiny, tasks=dict(intent=dict(label="label", reject="energy"), slots="slots"), cache=None
    ).fit("helpdesk")


def test_nothing_of_the_widgets_is_imported_with_the_kit():
    code = (
        "import clfm_kit, sys; clfm_kit.catalogue.entries('head'); print([name for name in sys.modules if "
        "'ipywidgets' in name or name == 'clfm_kit.notebook.widgets'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_controls_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    view = ErrorBrowser(["a"], ["x"], ["y"])
    assert "predicted" in view.to_html()  # the picture needs no ipywidgets
    with pytest.raises(UserError, match=r"clfm-kit\[notebook\]"): view.box


MARKED = st.text(alphabet="<>&\"'a ", max_size=8)  # drawn from all characters, a bracket hardly ever comes


@given(MARKED, MARKED, st.floats(0, 1))
def test_every_text_is_escaped(a, b, share):
    page = str(
        markup("<p>{}</p>{}{}", a, table([a], [[b, share]], b), bar(share)) + curves({a: [(0, share), (1, 1)]}, b)
    )
    assert page.count("<") == str(
        markup("<p>{}</p>{}{}", "x", table(["x"], [["x", share]], "x" if b else ""), bar(share))
        + curves({"x": [(0, share), (1, 1)]}, "x")
    ).count("<")


def test_a_message_with_a_script_is_text(clf):
    assert "&lt;script" in safe(TokenLens(clf, HOSTILE + " parcel"))
    assert "&lt;script" in safe(Playground(clf, HOSTILE, other=clf))
    browser = ErrorBrowser([HOSTILE] * 2, [HOSTILE, "a"], ["a", HOSTILE], [0.9, 0.8], name=HOSTILE)
    assert "&lt;script" in safe(browser)
    assert "&lt;script" in safe(TrainingMonitor(SimpleNamespace(recipe=HOSTILE)))


def test_a_label_that_does_not_exist_is_said(clf):
    lens = TokenLens(clf, "my parcel is late")
    with pytest.raises(UserError, match="unknown label"): lens.label = HOSTILE; lens.read()


def test_an_empty_data_set():
    browser = ErrorBrowser([], [], [])
    assert "nothing to browse" in safe(browser)
    assert browser.records("all") == []
    with pytest.raises(UserError, match="no row 0"): browser.relabel(0, "a")
    with pytest.raises(UserError, match="one of each"): ErrorBrowser(["a"], [], [])


def test_an_empty_data_set_in_a_fit(tiny, tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    builder = RecipeBuilder("probe", str(tmp_path), tiny)
    builder.box
    with pytest.raises(UserError, match="no rows"): builder.fit().wait()
    assert "The fit failed" in safe(builder)
    with pytest.raises(UserError, match="nothing has been fitted"): RecipeBuilder().classifier


def test_ten_thousand_classes_and_fifty_thousand_errors():
    rng = random.Random(0)
    names = [f"class {number}" for number in range(10_000)]
    true, called = ([rng.choice(names) for _ in range(50_000)] for _ in range(2))
    browser = ErrorBrowser([f"text {number}" for number in range(50_000)], true, called)
    assert len(browser.order) == len({*true, *called}) and len(browser.box._repr_mimebundle_()) > 0
    assert len(browser.to_html()) < 200_000 and len(browser._body.value) < 50_000
    labels = browser.box.children[2]
    for _ in range(3): labels.children[1].click()
    assert browser.window == 3
    search, menu = browser.box.children[3:5]
    search.value = "class 777"
    assert 1 < len(menu.options) <= 51
    menu.index = 1
    assert "class 777" in " ".join(browser.cell)
    with pytest.raises(UserError, match="there are"): browser.relabel(0, "nowhere")


def test_many_classes_in_a_playground():
    labels = [f"class {number}" for number in range(10_000)]
    task = FittedTask(UNNAMED, Task(UNNAMED), SingleLabel.of(labels), None, {})
    wide = SimpleNamespace(
        named=False, recipe_=SimpleNamespace(name="wide"),
        answers=lambda texts: {UNNAMED: Answers(task, labels[:1], np.full((1, 10_000), 1e-4))},
    )
    assert "and 9,994 more labels" in safe(Playground(wide, text="hello"))


def test_a_playground_for_several_tasks(both, clf):
    text = HOSTILE + " 2 smart bulbs"
    page = safe(Playground(both, text, other=clf))
    assert "<b>intent</b>" in page and "<b>slots</b>" in page and "energy" in page
    assert page.count("<mark") == len(both.predict([text])["slots"][0])


def test_a_playground_of_a_pair(tiny):
    pairs = [
        dict(first=f"where is my {n}", second=f"{word} {n}", label=label)
        for n in range(20) for word, label in (("find", "same"), ("cancel", "different"))
    ]
    clf = Classifier("probe", tiny, ["task=pair", "format=pair"], cache=None).fit(pairs)
    play = Playground(clf, text=dict(first=HOSTILE, second="find it"))
    assert "&lt;script" in safe(play) and "Answer:" in play.to_html()
    with pytest.raises(UserError, match="begins with 'second: '"): play.ask("first: where is it")
    assert "a pair is a dict" in safe(Playground(clf, text=HOSTILE))  # a sentence stands in the place of the answer


def test_labels_are_many_and_none_is_given():
    task = FittedTask("topics", Task("topics"), MultiLabel.of((HOSTILE, "b")), None, {})
    assert (
        "no label" in verdict(task, [], np.array([0.2, 0.1]))
        and "no answer" in verdict(task, None, np.array([0.2, 0.1]))
    )
    assert verdict(task, ["b"], np.array([0.2, 0.9])).count("dashed") == 2  # a threshold each
    assert cells([["a", "b"], []], [None, None]) == {("a", "–"): [0], ("b", "–"): [0]}  # left unanswered


def test_errors_by_task(both):
    found = {name: ErrorBrowser.of(both, "helpdesk", name) for name in ("intent", "slots")}
    assert (
        repr(ErrorBrowser.of(both, "helpdesk")) == repr(found["intent"])
        and found["intent"].name == "helpdesk, intent"
    )
    slots, rows = found["slots"], load_data("helpdesk", label="slots", tokens="tokens").test
    assert (
        set(slots.order) <= {tag[2:] for tag in both.task("slots").schema.labels} and "begin and end" in safe(slots)
    )
    assert slots.labels == [sorted({tag[2:] for tag in tags if tag != "O"}) for tags in rows.labels]
    assert slots.predicted == [
        sorted({span["slot"] for span in spans}) for spans in both.predict(rows.texts, tokens=rows.tokens)["slots"]
    ]
    with pytest.raises(UserError, match="unknown task 'nonsense'"): ErrorBrowser.of(both, "helpdesk", "nonsense")
    with pytest.raises(UserError, match="has no labels"):
        ErrorBrowser.of(both, [dict(text="a", label="b", slots=None, tokens=None)], "slots")


def test_errors_without_some_labels(both):
    rows = [dict(text="where is it", label=None), dict(text="cancel it", label="cancel_order")] * 3
    assert ErrorBrowser.of(
        both, [row | dict(slots=["O"], tokens=[row["text"].split()[0]]) for row in rows], "intent"
    ).texts == ["cancel it"] * 3


def test_a_lens_of_several_tasks(both):
    assert TokenLens(both, "where is it").task.name == "intent"
    with pytest.raises(UserError, match="no answer for a whole text"): TokenLens(both, "where is it", task="slots")
    with pytest.raises(UserError, match="unknown task 'nonsense'"): TokenLens(both, task="nonsense")
    with pytest.raises(UserError, match="not fitted"): TokenLens(Classifier(), "where is it")
    with pytest.raises(UserError, match="recipe 'stc'"): LayerLens(both, task="slots")


def test_tables_of_training_in_a_lens(tiny):
    clf = Classifier("finetune", tiny, ["training.epochs=1"], cache=None).fit("helpdesk")
    assert "recorded no tables" in safe(TokenLens(clf, "my parcel is late"))
    rows = [
        ["track_order", HOSTILE, 3], *([["track_order", f"word {number}", number] for number in range(40)]),
        ["cancel_order", "parcel", 9],
    ]
    clf.facts_["training"]["tables"] = {
        f"of {HOSTILE}": dict(head=["label", "words", "texts"], rows=rows),
        "of blocks": dict(head=["block"], rows=[[1]]),
    }
    page = safe(TokenLens(clf, f"my parcel {HOSTILE} word 7", "track_order"))
    assert "the first 20 of 41 rows" in page and "word 39" not in page and "<summary>of blocks" in page
    assert recorded(clf, "track_order", "word 7")[0][0].rows[0][1:] == ["word 7", 7, "yes"]
    assert recorded(clf, "cancel_order", "")[0][0].rows == [["cancel_order", "parcel", 9]]


def test_a_probe_has_no_tables(clf):
    assert "No weight of the base was trained" in safe(TokenLens(clf, "my parcel is late"))


@pytest.mark.parametrize("formula", ["=1+1", "+1+A1", "-1+A1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_csv_file_holds_no_formula(formula, tmp_path):
    browser = ErrorBrowser([formula, 'with, comma "and" quotes\nand a line'], ["a", formula], ["b", "a"])
    with open(browser.save(tmp_path / "rows.csv"), newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["text"] for row in found] == ["'" + formula, browser.texts[1]] and found[1]["label"] == "'" + formula
    lines = browser.save(tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == browser.texts
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(UserError, match="cannot write"): browser.save(tmp_path / "nowhere" / "rows.csv")


def test_several_labels_a_text():
    browser = ErrorBrowser(["x", "y", "z"], [["a"], [], ["a", "b"]], [["b"], ["a"], ["a", "b"]])
    assert browser.mistakes == [0, 1]
    browser.relabel(0, "b, a")
    assert browser.new == {0: ["b", "a"]}
    browser.relabel(0, None)
    assert browser.new == {}
    safe(browser)


def test_two_monitors_do_not_mix(tiny):
    monitors = [
        TrainingMonitor(Classifier("finetune", tiny, [f"seed={seed}", "training.epochs=2"], cache=None))
        for seed in (0, 1)
    ]
    few = {part: rows.take(range(min(len(rows), 240))) for part, rows in load_data("helpdesk").items()}
    for monitor in monitors: monitor.box, monitor.fit(few)
    with pytest.raises(UserError, match="being fitted"): monitors[0].fit(few)
    for monitor in monitors:
        monitor.wait()
        steps = [step for step, _ in monitor.losses]
        assert steps == sorted(set(steps)) and steps[-1] == monitor.steps  # each step once
        assert len(monitor.checks) == 2 and "Done" in safe(monitor)


def test_stopping_leaves_a_usable_model(tiny, tmp_path):
    monitor = TrainingMonitor(
        Classifier("finetune", tiny, ["training.epochs=50", "training.patience=50"], cache=None)
    )
    button = monitor.box.children[1]
    def press(run, event):
        if event["kind"] == "train" and event["done"] == 4: button.click()
    with using("presser", run_event=press): clf = monitor.fit("helpdesk").wait()
    assert clf.facts_["training"]["steps"] <= 6 and len(monitor.checks) == 1
    assert "on request" in monitor.to_html() and button.disabled
    again = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert list(again.predict(["where is my parcel?"])) == list(clf.predict(["where is my parcel?"]))


def test_an_interrupted_monitor_says_so(clf):
    monitor = TrainingMonitor(clf)
    with pytest.raises(KeyboardInterrupt):
        with monitor.watching(): raise KeyboardInterrupt
    assert "KeyboardInterrupt" in monitor.to_html()
    emit(clf, "train", done=1, total=2, loss=1.0, epoch=0.5, texts=32)
    assert monitor.losses == []  # it listens no longer


def test_a_head_without_layers_is_refused(clf):
    with pytest.raises(UserError, match="recipe 'stc'"): LayerLens(clf)


def test_what_cannot_work_leaves_the_recipe(tiny):
    builder = RecipeBuilder("probe", model=tiny)
    before = builder.recipe
    for wrong in (
        lambda: builder.choose("pooler", "attention"), lambda: builder.choose("head", "nonsense"),
        lambda: builder.set("head", "C", "many"), lambda: builder.set("head", "nonsense", "1"),
        lambda: builder.start("nonsense"),
    ):
        with pytest.raises(UserError): wrong()
    assert builder.recipe is before


def test_every_installed_choice_can_be_pressed(tiny):
    builder = RecipeBuilder("probe", model=tiny)
    menus = builder.box.children[2:7]
    for menu in menus:
        for number, button in enumerate(menu.children[1].children):
            if not button.disabled: button.click()
            builder.recipe.parts()  # whatever is pressed, the recipe works
    safe(builder)
