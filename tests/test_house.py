"""How the house is built: what core asks of a part, and how code is written; then what several tasks, kinds of task
and threads rest on. What may import what: test_imports.py.
"""
import ast
import builtins
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Protocol

import house
import numpy as np
import pytest
import torch
from imports import core, imports, modules
from tree import ROOT

from clfm_kit import Classifier, Recipe, UserError, parts
from clfm_kit.data.rows import Splits
from clfm_kit.data.tasks import load_tasks, read_tasks
from clfm_kit.hookspecs import KINDS
from clfm_kit.testing import check_part

ENTRY = "clfm_kit.builtin.plugin"  # loaded whenever parts are listed


# ---- what core asks of a part

CALLED = {
    "text_format": "format", "quantizer": "quantizer", "selector": "selector", "pooler": "pooler", "head": "head",
    "merger": "merger", "schema": "task", "part": "part",
}


def kind_of(node):
    """The kind of part that an expression stands for, as far as its words tell; `part` for any kind."""
    if (
        isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value in KINDS
        and "parts" in ast.unparse(node.value)
    ):
        return node.slice.value
    if isinstance(node, (ast.Name, ast.Attribute)):
        return CALLED.get(getattr(node, "id", getattr(node, "attr", "")), "")
    return (
        "task" if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "part"
        else ""
    )


def asked():
    """(kind, attribute, where) of all that core asks of parts, but for a module's own parts,
    whose parameters it knows.
    """
    for name, tree in core().items():
        own = {
            argument.arg for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name == "__init__"
            for argument in function.args.args
        } if name.startswith("clfm_kit.builtin.") else set()
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant)
            ):
                kind, attribute = kind_of(node.args[0]), node.args[1].value
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and kind_of(node.value) != "part":
                kind, attribute = kind_of(node.value), node.attr
            else: continue
            if kind and attribute not in own: yield kind, attribute, f"{name}, line {node.lineno}"


def protocols(kind):
    """The protocols of a kind: what a part must have, and what it may."""
    return [
        thing for name, thing in vars(parts).items() if isinstance(thing, type) and issubclass(thing, Protocol)
            and thing is not Protocol and (name.startswith(("Part", kind.title())) or kind == "part")
    ]


def promised(kind):
    return {
        name for protocol in protocols(kind) for name in (*vars(protocol), *vars(protocol).get("__annotations__", {}))
        if not name.startswith("_")
    }


def test_every_attribute_that_core_asks_of_a_part_stands_in_a_protocol():
    # a head that trains, and a list of columns, are things of others
    foreign = {"head": {*dir(torch.nn.Module), *dir(list)}}
    missing = {
        f"{kind}.{attribute}": where for kind, attribute, where in asked() if attribute not in promised(kind)
            and not hasattr(parts.Part, attribute) and attribute not in foreign.get(kind, ())
    }
    assert not missing, "\n".join(f"{name} ({where})" for name, where in sorted(missing.items()))


def test_every_kind_of_part_has_a_protocol():
    for kind in KINDS:
        if kind not in ("recipe", "command", "tracker"):
            assert [protocol for protocol in protocols(kind) if not protocol.__name__.startswith("Part")], (
                f"clfm_kit.parts has no protocol for a {kind}"
            )


def test_the_hook_reference_names_every_attribute_of_the_protocols():
    prose = re.sub(r"```.*?```", "", (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8"), flags=re.S)
    page = " ".join(re.findall(r"`[^`]+`", prose))
    for name in sorted(set().union(*map(promised, KINDS))):
        assert re.search(rf"\b{name}\b", page), f"docs/hooks.md does not name {name!r}"


def test_every_part_of_the_core_keeps_its_contract():
    from clfm_kit.plugins import catalogue
    for kind in ("task", "command", "recipe"):
        for name, entry in catalogue.entries(kind).items():
            if entry.plugin == "clfm-kit": check_part(kind, name)


# ---- how code is written

def test_methods_stand_in_the_class_body():
    found = []
    for name, tree in modules().items():
        classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} | {
            alias.asname or alias.name for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("clfm_kit"))
            for alias in node.names if alias.name[0].isupper()
        }
        for node in tree.body:
            targets = (
                [one for target in node.targets for one in getattr(target, "elts", [target])]
                if isinstance(node, ast.Assign) else []
            )
            found += [
                f"{name}, line {node.lineno}: {ast.unparse(one)}" for one in targets
                if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in classes
            ]
    assert not found, "\n".join(found)


def public(tree):
    """Functions and methods that others call: their names, and those of their classes,
    do not start with an underscore.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"): yield from public(node)
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield node


def test_no_parameter_is_named_like_a_builtin():
    found = [
        f"{name}, line {function.lineno}: {function.name}({argument.arg})"
        for name, tree in modules().items() for function in public(tree) for argument in (
            *function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs,
            *filter(None, (function.args.vararg, function.args.kwarg)),
        )
        if hasattr(builtins, argument.arg)
    ]
    assert not found, "\n".join(found)


def test_modules_and_lines_are_short():
    lines = [path.read_text(encoding="utf-8").splitlines() for path in house.modules(ROOT)]
    assert max(map(len, lines)) <= 400
    assert sum(len(line) > house.COLUMNS for found in lines for line in found) < 0.01 * sum(map(len, lines))


def test_notebooks_show_something_after_at_most_three_exported_cells():
    assert not [path.name for path in house.notebooks(ROOT) if house.in_a_row(path) > 3]


@pytest.mark.parametrize("module", ["ordinal", "pair"])
def test_a_kind_of_task_is_a_short_module(module):
    lines = Path(import_module(f"clfm_kit.builtin.{module}").__file__).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip() and not line.lstrip().startswith("#")]) <= 80
    for name, tree in core().items():  # and nothing else knows of it, but the entry point that registers it
        if name not in (ENTRY, f"clfm_kit.builtin.{module}"):
            assert f"clfm_kit.builtin.{module}" not in [target for target, _ in imports(name)], name


# ---- threads

TASKS = {"intent": "label", "slots": "slots"}


@pytest.fixture(scope="module")
def rows():
    return Splits(
        **{part: found.take(range(60)) for part, found in load_tasks("helpdesk", read_tasks(TASKS)).items()}
    )


@pytest.mark.parametrize("kept", [False, True], ids=["read", "cached"])
@pytest.mark.parametrize("tasks", [None, TASKS], ids=["one task", "with tags"])
def test_eight_threads_at_once_are_answered_as_one_after_the_other(tasks, kept, rows, tiny, tmp_path):
    data = rows if tasks else (rows.train.texts, rows.train.by_task["intent"])
    clf = Classifier("probe", tiny, tasks=tasks, cache=tmp_path / "states" if kept else None)
    clf.fit(data) if tasks else clf.fit(*data)
    folder = clf.save_pretrained(tmp_path / "model")
    # apart, as who reads a text beside others may round it otherwise
    asked = [rows.test.texts[start:start + 4] for start in range(0, 60, 4)] * 2
    flat = lambda found: [
        np.concatenate([np.ravel(piece) for piece in each])
        for each in (found.values() if isinstance(found, dict) else [found])
    ]
    with ThreadPoolExecutor(8) as pool: together = list(pool.map(clf.predict_proba, asked))
    alone = list(
        map(Classifier.from_pretrained(folder, cache=tmp_path / "other" if kept else None).predict_proba, asked)
    )
    for one, other in zip(alone, together):
        for values, found in zip(flat(one), flat(other)): np.testing.assert_array_equal(values, found)


# ---- artifacts of the former layout

@pytest.mark.parametrize("version", [1, None])
def test_an_artifact_of_the_former_layout_is_refused_with_the_cure(version, fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "clfm.json").read_text(encoding="utf-8"))
    former = {
        name: value for name, value in facts.items() if name != "tasks"
    } | dict(format_version=version, schema=dict(kind="single", labels=["a", "b"]), calibration={})
    (tmp_path / "model" / "clfm.json").write_text(json.dumps(former), encoding="utf-8")
    with pytest.raises(
        UserError, match="format version .*; fit it again, or install the clfm-kit that wrote it"
    ) as refusal:
        Classifier.from_pretrained(tmp_path / "model")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("lost", ["tasks", "recipe", "model", "files", "tokenizer"])
def test_an_artifact_that_lacks_a_piece_is_refused(lost, fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "clfm.json").read_text(encoding="utf-8"))
    (tmp_path / "model" / "clfm.json").write_text(
        json.dumps({name: value for name, value in facts.items() if name != lost}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="clfm.json"): Classifier.from_pretrained(tmp_path / "model")


# ---- two kinds of task

RATINGS = {
    1: "where is my parcel", 2: "please send an invoice", 3: "thank you, it works", 4: "lovely, just what I wanted"
}


def rated(count):
    return (
        [f"{RATINGS[number % 4 + 1]} {'again ' * (number // 4 % 3)}{number}" for number in range(count)],
        [number % 4 + 1 for number in range(count)],
    )


@pytest.mark.parametrize("recipe, more", [("probe", ["head.C=1"]), ("finetune", ["training.epochs=1"])])
def test_ordinal_labels_are_learned_saved_and_judged(recipe, more, tiny, tmp_path):
    texts, labels = rated(80)
    clf = Classifier(recipe, tiny, settings=["task=ordinal", *more], cache=None).fit(texts, labels)
    schema = clf.task().schema
    assert clf.recipe_.task == "ordinal" and schema.kind == "ordinal" and list(clf.classes_) == [1, 2, 3, 4]
    loaded = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert loaded.task().schema == schema
    np.testing.assert_array_equal(loaded.predict_proba(texts[:9]), clf.predict_proba(texts[:9]))
    probabilities, found = clf.predict_proba(texts), clf.predict(texts)
    assert set(found) <= {1, 2, 3, 4} and np.allclose(schema.cumulative(probabilities)[:, -1], 1) and (
        np.diff(schema.cumulative(probabilities)) >= 0
    ).all()
    np.testing.assert_array_equal(np.rint(schema.expected_rank(probabilities)) + 1, found)
    report = clf.evaluate(texts, labels)
    assert (
        report["mean_absolute_error"] == np.abs(np.array(labels) - found).mean()
        and -1 <= report["quadratic_kappa"] <= 1
    )
    assert {"accuracy", "log_loss", "ece"} <= report.figures.keys() and "mean_absolute_error" in report.intervals


def test_an_order_of_names_is_given(tiny, tmp_path):
    texts, labels = rated(60)
    names = [["none", "low", "medium", "high"][label - 1] for label in labels]
    with pytest.raises(UserError, match="no order of their own"):
        Classifier("probe", tiny, settings=["task=ordinal"], cache=None).fit(texts, names)
    with pytest.raises(UserError, match="not in the order"):
        Classifier("probe", tiny, settings=["task=ordinal", "task.order=[low, high]"], cache=None).fit(texts, names)
    clf = Classifier(
        "probe", tiny, settings=["task=ordinal", "task.order=[none, low, medium, high]"], cache=None
    ).fit(texts, names)
    assert list(clf.classes_) == ["none", "low", "medium", "high"]
    assert list(Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model")).classes_) == [
        "none", "low", "medium", "high"
    ]


def test_a_far_miss_costs_an_ordinal_task_more(tiny):
    from clfm_kit.builtin.ordinal import Ordinal
    schema, targets = Ordinal.of((1, 2, 3, 4)), torch.tensor([0])
    near, far = (torch.eye(4)[[column]] * 5 for column in (1, 3))
    assert (
        schema.loss(near, targets) < schema.loss(far, targets)
        and schema.log_loss(near.numpy(), targets.numpy()) < schema.log_loss(far.numpy(), targets.numpy())
    )


def pairs(count):
    """Two questions, and whether they ask the same."""
    texts = [RATINGS[number % 4 + 1] for number in range(count)]
    other = [text if number % 3 else RATINGS[(number + 1) % 4 + 1] for number, text in enumerate(texts)]
    return [
        dict(one=f"{text} {number}", other=second, label="same" if number % 3 else "other")
        for number, (text, second) in enumerate(zip(texts, other))
    ]


@pytest.mark.parametrize("recipe, more", [("probe", ["head.C=1"]), ("finetune", ["training.epochs=1"])])
@pytest.mark.parametrize("symmetric", [False, True])
def test_pairs_of_texts_are_learned_saved_and_judged(symmetric, recipe, more, tiny, tmp_path):
    task = dict(name="pair", columns=["one", "other"], symmetric=symmetric)
    given = Recipe.of(recipe).to_dict() | dict(task=task, format="pair")
    data = pairs(90)
    clf = Classifier(given, tiny, settings=more, cache=None).fit(data)
    loaded = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert clf.task().schema.kind == "pair" and loaded.task().schema == clf.task().schema
    here = clf.predict_proba(data[:9])
    np.testing.assert_array_equal(loaded.predict_proba(data[:9]), here)
    turned = clf.predict_proba([dict(one=row["other"], other=row["one"]) for row in data[:9]])
    assert np.allclose(turned, here, atol=1e-4) == symmetric
    report = clf.evaluate(data)
    assert report.rows == 90 and report.kind == "pair" and {"accuracy", "macro_f1"} <= report.figures.keys()


def test_a_pair_has_the_types_of_its_tokens(tiny):
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.parts import make
    backbone, data = Backbone.load(tiny), pairs(3)
    texts = [
        make("task", dict(name="pair", columns=["one", "other"])).read_text(row, "text", "row 0") for row in data
    ]
    part = make("format", "pair")
    part.columns = ["one", "other"]
    found = part.encode(texts, backbone.tokenizer, 128)
    for row, ids, types in zip(data, found.ids, found.types):
        whole = backbone.tokenizer(row["one"], row["other"], return_token_type_ids=True)
        assert (list(ids), list(types)) == (whole["input_ids"], whole["token_type_ids"]) and set(types) == {0, 1}


@pytest.mark.parametrize("task, more, data, said", [
    (dict(name="pair", columns=["one", "other"]), [], pairs(30), "use format 'pair'"),
    (dict(name="pair", columns=["one"]), ["format=pair"], pairs(30), "must name two columns"),
    (
        dict(name="pair", columns=["one", "second"]), ["format=pair"], pairs(30),
        "column 'second' of the pair is missing",
    ),
    (
        dict(name="pair", columns=["one", "other"]), ["format=pair"],
        [*pairs(29), dict(one="x", other=None, label="same")], "row 29: field 'other' is None",
    ),
])
def test_pairs_that_cannot_be_are_refused(task, more, data, said, tiny):
    with pytest.raises(UserError, match=said) as refusal:
        Classifier(dict(name="x", task=task), tiny, settings=more, cache=None).fit(data)
    assert "\n" not in str(refusal.value)


def test_a_text_that_is_no_pair_is_refused(tiny):
    clf = Classifier(
        dict(name="x", task=dict(name="pair", columns=["one", "other"]), format="pair"), tiny, cache=None
    ).fit(pairs(60))
    with pytest.raises(UserError, match="row 1: a pair is a dict with one and other"):
        clf.predict([pairs(1)[0], "alone"])


# ---- the state cache

def test_a_second_fit_of_several_tasks_reads_nothing(rows, tiny, tmp_path):
    first = Classifier("probe", tiny, tasks=TASKS, cache=tmp_path).fit(rows)
    assert first.facts_["backbone_passes"] > 0
    again = Classifier("probe", tiny, tasks=TASKS, cache=tmp_path, settings=["head.C=1"]).fit(rows)
    assert again.facts_["backbone_passes"] == 0
    np.testing.assert_array_equal(
        again.decision_function(rows.test.texts)["slots"][0], first.decision_function(rows.test.texts)["slots"][0]
    )
    fewer = Classifier("probe", tiny, tasks={"intent": "label"}, cache=tmp_path).fit(
        load_tasks(rows_as_records(rows), read_tasks({"intent": "label"}))
    )
    assert fewer.facts_["backbone_passes"] == 0  # a task alone finds what several have read


def rows_as_records(splits):
    return {
        part: [dict(text=text, label=label) for text, label in zip(found.texts, found.by_task["intent"])]
        for part, found in splits.items()
    }
