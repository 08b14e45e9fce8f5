"""Widgets against bad input, without a browser: controls are pressed through their Python side."""
import csv
import json
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clfm_kit import Classifier, UserError
from clfm_kit.display.html import markup, table
from clfm_kit.plugins import emit, using
from clfm_kit.notebook.widgets import ErrorBrowser, LayerLens, Playground, RecipeBuilder, TokenLens, TrainingMonitor, bar, curves

HOSTILE = '<script>alert("clfm")</script><img src=x onerror=alert(1)>&"\''


def safe(view):
    "Nothing of a hostile text is markup, in the stored picture or in the live one."
    view.box
    for page in (view.to_html(), view._body.value, view._told.value): assert "<script" not in page and "<img" not in page
    return view.to_html()


@pytest.fixture(scope="module")
def clf(tiny): return Classifier("probe", tiny, reject=0.9, cache=None).fit("helpdesk")


def test_nothing_of_the_widgets_is_imported_with_the_kit():
    code = "import clfm_kit, sys; clfm_kit.catalogue.entries('head'); print([name for name in sys.modules if 'ipywidgets' in name or name == 'clfm_kit.notebook.widgets'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_controls_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    view = ErrorBrowser(["a"], ["x"], ["y"])
    assert "predicted" in view.to_html()  # the picture needs no ipywidgets
    with pytest.raises(UserError, match=r"clfm-kit\[notebook\]"): view.box


@given(st.text(), st.text(), st.floats(0, 1))
def test_every_text_is_escaped(a, b, share):
    marks = "<p></p><table></table>"
    page = str(markup("<p>{}</p>{}{}", a, table([a], [[b, share]], b), bar(share)) + curves({a: [(0, share), (1, 1)]}, b))
    assert page.count("<") == str(markup("<p>{}</p>{}{}", "x", table(["x"], [["x", share]], "x" if b else ""), bar(share)) + curves({"x": [(0, share), (1, 1)]}, "x")).count("<"), marks


def test_a_message_with_a_script_is_text(clf):
    assert "&lt;script" in safe(TokenLens(clf, HOSTILE + " parcel"))
    assert "&lt;script" in safe(Playground(clf, clf, HOSTILE))
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


def test_many_classes_in_a_playground(clf):
    import numpy as np
    from clfm_kit.classifier.classifier import Answers
    labels = [f"class {number}" for number in range(10_000)]
    wide = SimpleNamespace(schema_=SimpleNamespace(labels=labels, kind="single"), calibration_=SimpleNamespace(thresholds=None), recipe_=SimpleNamespace(name="wide"), facts_={})
    wide.answer_tasks = lambda texts: {"": Answers(wide, wide.schema_, labels[:1], np.full((1, 10_000), 1e-4))}
    assert "and 9,994 more labels" in safe(Playground(wide, text="hello"))


def test_a_playground_for_several_tasks(tiny, clf):
    tasks = dict(intent=dict(label="label", reject="energy"), slots="slots")
    both = Classifier("probe", tiny, tasks=tasks, cache=None).fit("helpdesk")
    text = HOSTILE + " 2 smart bulbs"
    page = safe(Playground(both, clf, text))
    assert "<b>intent</b>" in page and "<b>slots</b>" in page and "energy" in page
    assert page.count("<mark") == len(both.predict([text])["slots"][0])


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_csv_file_holds_no_formula(formula, tmp_path):
    browser = ErrorBrowser([formula, 'with, comma "and" quotes\nand a line'], ["a", formula], ["b", "a"])
    with open(browser.save(tmp_path / "rows.csv"), newline="", encoding="utf-8") as file: found = list(csv.DictReader(file))
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
    monitors = [TrainingMonitor(Classifier("finetune", tiny, [f"seed={seed}", "training.epochs=2"], cache=None)) for seed in (0, 1)]
    for monitor in monitors: monitor.box, monitor.fit("helpdesk")
    with pytest.raises(UserError, match="being fitted"): monitors[0].fit("helpdesk")
    for monitor in monitors:
        monitor.wait()
        steps = [step for step, _ in monitor.losses]
        assert steps == sorted(set(steps)) and steps[-1] == monitor.steps  # each step once
        assert len(monitor.checks) == 2 and "Done" in safe(monitor)


def test_stopping_leaves_a_usable_model(tiny, tmp_path):
    monitor = TrainingMonitor(Classifier("finetune", tiny, ["training.epochs=50", "training.patience=50"], cache=None))
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
    for wrong in (lambda: builder.choose("pooler", "attention"), lambda: builder.choose("head", "nonsense"), lambda: builder.set("head", "C", "many"), lambda: builder.set("head", "nonsense", "1"), lambda: builder.start("nonsense")):
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
