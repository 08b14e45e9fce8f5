"""Recipes and settings: YAML that is none, fields of any type, settings that ask for what cannot be."""
import os
from functools import partial

import numpy as np

from clfm_kit import Classifier, Recipe
from clfm_kit.plugins import catalogue
from clfm_kit.study.plan import plan
from clfm_kit.study.tuning import parse_dimension

from .cases import command, group, sound


def fitted(world, recipe="probe", settings=(), **more):
    clf = Classifier(recipe, str(world.tiny), settings, cache=None, **more).fit(*world.rows)
    sound(clf)
    Recipe.of(clf.recipe_.to_dict())
    return clf


def of_file(world, place, text):
    (place / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    fitted(world, str(place / "own.yaml"))


YAML = {
    "nothing": "", "a comment": "# nothing", "null": "null", "a number": "5", "a text": "probe", "a list": "[probe]",
    "a tab": "head:\n\t- a", "an open bracket": "head: [", "an open quote": 'head: "a',
    "an unknown tag": "head: !!zzz a",
    "a tag of Python": "head: !!python/object/apply:os.system ['touch harm']",
    "a tag of Python's names": "head: !!python/name:os.system",
    "an anchor alone": "head: &a", "an alias to nowhere": "head: *a", "an alias to itself": "head: &a [*a]",
    "a mapping in itself": "&a {head: *a}", "two documents": "name: a\n---\nname: b",
    "a directive": "%YAML 9.9\n---\nname: a",
    "a key that is a list": "? [a]\n: b", "a key that is a mapping": "? {a: b}\n: c", "a number as a key": "5: a",
    "null as a key": "~: a",
    "a merge of nothing": "<<: 5\nname: a", "a merge of itself": "&a\n<<: *a", "a field twice": "name: a\nname: b",
    "a field of another case": "Head: logistic", "brackets": "head: " + "[" * 100_000,
    "braces": "head: " + "{a: " * 20_000,
    "a long number": "seed: " + "9" * 5000, "hexadecimal": "seed: 0x" + "f" * 5000, "sixties": "seed: 1:2:3",
    "octal": "seed: 0o17777777777777",
    "a date as a seed": "seed: 2026-11-28", "bytes": "name: !!binary aGVsbG8=", "a set": "head: !!set {a, b}",
    "an ordered mapping": "head: !!omap [a: b]",
    "pairs": "training: !!pairs [epochs: 3]", "not a number": "seed: .nan", "infinite": "seed: -.inf",
    "latin1": "name: café".encode("latin1"), "UTF-16": "name: a".encode("utf-16"), "zeros": bytes(100),
    "control characters": "name: a\x07b",
    "half a letter": "name: \ud800", "half a letter escaped": 'name: "\\ud800"',
    "an escape sequence": 'head: "\\e]52;c;QQ==\\a"',
    "a wide bomb": "a: &a [" + ",".join("x" * 20_000) + "]\nhead: [*a, *a]",
}
GOOD_YAML = {
    "a text block as a name": "name: |\n  a\n  b", "a date as a name": "name: 2026-11-28", "a true name": "name: yes",
    "a mark of bytes": b"\xef\xbb\xbfname: a",
    "a null name": "name: ~", "Windows lines": "name: a\r\nhead: logistic\r\n", "an alias": "name: &a x\ntask: auto",
}


@group
def recipe_files():
    for name, text in YAML.items():
        expect = "sound" if name in ("a text block as a name", "octal", "sixties", "hexadecimal", "bytes", "UTF-16",
            "half a letter escaped", "half a letter", "an anchor alone") else "refused"
        yield name, partial(of_file, text=text), expect
    for name, text in GOOD_YAML.items(): yield name, partial(of_file, text=text), "right"
    yield "a folder", lambda world, place: ((place / "own.yaml").mkdir(), fitted(world, str(place / "own.yaml")))
    yield "a pipe", lambda world, place: (os.mkfifo(place / "own.yaml"), fitted(world, str(place / "own.yaml")))
    yield "gone", lambda world, place: fitted(world, "gone.yaml")
    yield "a name alone", lambda world, place: fitted(world, ".yaml")
    yield "a megabyte of spaces", lambda world, place: of_file(world, place, " " * 10**6 + "name: a"), "sound"


STRANGE = {
    "None": None, "5": 5, "-1": -1, "nan": float("nan"), "True": True, "[]": [], "{}": {}, "''": "", "'zzz'": "zzz",
    "bytes": b"x",
    "a function": len, "a set": {1}, "a range": range(3), "an object": object(), "[['a']]": [["a"]],
    "{'name': 5}": {"name": 5},
    "{'name': ['a']}": {"name": ["a"]}, "{5: 5}": {5: 5}, "half a letter": "\ud800", "an array": np.zeros((2, 2)),
    "10**400": 10**400,
    "itself": "itself", "{'name': {}}": {"name": {}},
}
FIELDS = ("name", "task", "format", "quantizer", "selector", "pooler", "head", "merger", "tasks", "attention",
    "teacher", "class_weight", "training", "seed")


def strange_field(world, place, field, value):
    if isinstance(value, str) and value == "itself":
        value = {}
        value["name"] = value
    given = {"name": "own", field: value}
    fitted(world, given)


@group
def fields_of_a_recipe():
    for field in FIELDS:
        for name, value in STRANGE.items():
            yield f"{field}={name}", partial(strange_field, field=field, value=value), "sound"


SETTINGS = [
    "", "=", "=5", "head", "head=", ".C=5", "head.=5", "head..C=5", "head.C.x=5", "head.C=", "head.C=[",
    "head.C={a: b}", "head.C=true",
    "head.C=-1", "head.C=.nan", "head.C=.inf", "head.C=1e400", "head.C=abc", "head.C=2026-11-28", "head.__class__=5",
    "head.fit=5",
    "head.C=\x00", "head.C=\ud800", "__class__=5", "seed=-1", "seed=4294967296", "seed=1.5", "seed=true", "seed=null",
    "seed=[1]", "seed=1e3",
    "training.epochs=0", "pooler.layer=99", "pooler.layer=-99", "pooler.layer=x", "pooler.layer=1.5",
    "pooler.layer=[]", "pooler.layer=[[1]]",
    "pooler.layer=true", "pooler.layer=1e12", "format.max_length=0", "format.max_length=-5", "format.max_length=1e12",
    "format.max_length=x",
    "attention=zzz", "attention=5", "attention=bidirectional", "class_weight=zzz", "class_weight={zzz: 1}",
    "class_weight={good: -1, bad: 1}",
    "class_weight={good: .nan, bad: 1}", "class_weight={good: 0, bad: 0}", "class_weight=[1, 2]",
    "class_weight={good: 1e400, bad: 1}", "class_weight=5", "task=zzz",
    "task=tags", "task=multi", "task=ordinal", "task=pair", "task={name: ordinal, order: 5}", "quantizer=zzz",
    "quantizer={name: none, dtype: zzz}",
    "quantizer={name: none, dtype: int8}", "quantizer=nf4", "merger=zzz", "merger=ties", "teacher=./nowhere",
    "teacher=5", "tasks=5", "tasks={a: b}", "tasks={'a b': label}",
    "tasks={label: label, label: text}", "tasks={a: {label: label, weight: -1}}", "tasks={a: {label: label, layer: x}}",
    "tasks={a: {label: label, kind: zzz}}", "tasks={a: {label: label, head: zzz}}", "tasks={a: {label: 5}}",
    "tasks={a: {label: [x]}}", "tasks={a: {}}",
    "tasks={a: {tokens: 5}}", "tasks={a: {label: label, reject: zzz}}", "tasks={a: {label: label, class_weight: 5}}",
    "name=", "name=null", "name=[1]",
]
TRAINING = [
    "epochs=0", "epochs=-1", "epochs=1.5", "epochs=true", "epochs=x", "epochs=1e12", "epochs=.nan", "epochs=[1]",
    "learning_rate=-1", "learning_rate=.nan",
    "learning_rate=.inf", "learning_rate=1e30", "learning_rate=x", "head_learning_rate=1e30", "layer_decay=-1",
    "layer_decay=1e30", "layer_decay=x",
    "batch_size=0", "batch_size=1e12", "batch_size=1.5", "token_budget=0", "token_budget=1", "token_budget=1e12",
    "weight_decay=-1", "weight_decay=1e30",
    "warmup=2", "warmup=-1", "label_smoothing=1", "label_smoothing=-0.1", "max_grad_norm=-1", "max_grad_norm=0",
    "patience=0", "patience=-1",
    "head_start=zzz", "head_start=5", "prefix_gigabytes=-1", "prefix_gigabytes=x", "gradient_checkpointing=zzz",
    "gradient_checkpointing=5",
    "save_steps=0", "save_steps=x", "zzz=5", "__init__=5",
]


def trained(world, place, setting):
    base = dict(name="own", selector="top-layers", head="linear", training=dict(epochs=1, head_start="random"))
    fitted(world, base, [f"training.{setting}"])


PARTS = {
    "format": ("plain", "windows", "instruction", "merged", "lines"), "selector": ("top-layers", "lora", "full",
        "bitfit"),
    "pooler": ("mean", "attention", "last", "first", "probed"), "head": ("logistic", "linear", "mlp", "tags",
        "ordinal"),
}


def every_parameter(world, place, kind, name, value):
    "Each parameter of a part gets one value, in turn."
    from clfm_kit.errors import UserError
    from clfm_kit.parts import parameter_names
    said = []
    for parameter in parameter_names(kind, name):
        recipe = dict(name="own", training=dict(epochs=1, head_start="random")) | {kind: {"name": name,
            parameter: value}}
        if kind == "selector": recipe |= dict(head="linear")
        elif not (kind == "head" and name in ("linear", "mlp")): del recipe["training"]
        try: fitted(world, recipe)
        except UserError as error: said.append(str(error))
    if said: raise UserError(max(said, key=len))


@group
def settings_of_a_recipe():
    for setting in SETTINGS:
        yield repr(setting), lambda world, place, setting=setting: fitted(world, settings=[setting]), "sound"
    for setting in TRAINING:
        yield f"training.{setting}", partial(trained, setting=setting), "sound"
    for kind, names in PARTS.items():
        for name in names:
            if name not in catalogue.entries(kind): continue
            for given, value in {"text": "zzz", "negative": -7, "list": [["a"]], "mapping": {"a": 1}, "huge": 10**30,
                "NaN": float("nan")}.items():
                yield f"{kind} {name}: each parameter is {given}", partial(every_parameter, kind=kind, name=name,
                    value=value), "sound"


@group
def searches():
    for text in (
        "", "head.C", "head.C=", "head.C=1", "head.C=1..", "head.C=..1", "head.C=2..1", "head.C=1..1", "head.C=a..b",
        "head.C=[]", "head.C={}",
        "head.C=.nan...inf", "head.C=1e400..2e400", "head.C=" + "9" * 5000 + ".." + "9" * 5001, "=1..2", "head.C=[",
        "head.C=\x00",
    ): yield repr(text[:40]), lambda world, place, text=text: parse_dimension(text), "refused"
    for name, value in (("None", None), ("5", 5), ("bytes", b"head.C=1..2"), ("a list", ["head.C=1..2"])):
        yield name, lambda world, place, value=value: parse_dimension(value)


@group
def settings_in_a_terminal():
    for words in (
        ["--set", "head.C=\x1b[31m"], ["--set", "training={epochs: 5}"], ["--set", "seed=" + "9" * 5000],
        ["--set", "head=" + "[" * 5000],
        ["--set", "\ud800=5"], ["--set", ""], ["--seed", "x"], ["--recipe", ""], ["--recipe", "\x1b[2J"],
        ["--set", "name=2026-11-28", "--zzz"],
    ):
        yield " ".join(words)[:60].encode("unicode_escape").decode(), lambda world, place, words=words: command(
            "fit", "--recipe", "probe", "--data", "helpdesk", "--model", world.tiny, "--out", place / "out", *words
        )
    yield "a plan of nothing", lambda world, place: plan("probe", str(world.tiny), rows=0, speed=1e9, available=10**9)
