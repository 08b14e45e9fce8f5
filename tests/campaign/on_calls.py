"""Calls in Python with arguments of any type, and paths that no system has."""
import pathlib


import numpy as np

from clfm_kit import Classifier, Recipe, catalogue, compare, load_data
from clfm_kit.classifier.export import export
from clfm_kit.study.cross_validation import cross_validate
from clfm_kit.study.distilling import distil
from clfm_kit.study.error_analysis import analyse_errors
from clfm_kit.study.merging import merge_models
from clfm_kit.study.plan import plan
from clfm_kit.study.tuning import tune

from .cases import TEXTS, command, group, sound


class Closed:
    "Something that fails at whatever is asked of it."
    def __getattr__(self, name): raise AttributeError(name)
    def __repr__(self): return "Closed()"


WRONG = {
    "None": None, "5": 5, "-1": -1, "0": 0, "0.5": 0.5, "nan": float("nan"), "infinite": float("inf"),
    "10**400": 10**400, "True": True, "''": "", "'zzz'": "zzz", "half a letter": "\ud800", "a zero": "a\0b",
    "bytes": b"x", "[]": [], "[5]": [5], "[None]": [None], "[['a']]": [["a"]], "{}": {}, "{'a': 5}": {"a": 5},
    "{5: 'a'}": {5: "a"}, "a set": {1, 2}, "an array": np.zeros((2, 2)), "a scalar of NumPy": np.float32(0.5),
    "a function": len, "a class": dict, "an object": Closed(), "a path": pathlib.Path("nowhere"), "complex": 1j,
    "a range": range(2), "a list that holds itself": "itself",
}


def value_of(name):
    if name != "a list that holds itself": return WRONG[name]
    found: list = []
    found.append(found)
    return found


def calls(function, argument, right=(), names=WRONG, sound=()):
    """(name, run, expect) of a call with one argument of every kind: refused, but for those in `right`, which work,
    and those in `sound`, which may.
    """
    for name in names:
        expect = "right" if name in right else "sound" if name in sound else "refused"
        yield f"{argument}={name}", lambda world, place, name=name: function(world, place,
            **{argument: value_of(name)}), expect


def called(function, found):
    "Cases under the name of a function."
    for name, *rest in found: yield f"{function}: {name}", *rest


def classifier(world, place, **given):
    clf = Classifier(**(dict(recipe="probe", model=str(world.tiny), cache=None) | given))
    sound(clf.fit(*world.rows))
    clf.save_pretrained(place / "model")


@group
def making_a_classifier():
    yield from calls(classifier, "recipe", right=("{}",))
    yield from calls(classifier, "model", sound=("None",))
    yield from calls(classifier, "settings", right=("[]", "{}"), sound=("None",))
    yield from calls(classifier, "cache", right=("None", "'zzz'", "a path"), sound=("''",))
    yield from calls(classifier, "state_dtype")
    yield from calls(classifier, "reject", right=("None", "0.5"), sound=("{}", "True", "a scalar of NumPy", "5", "0"))
    yield from calls(classifier, "tasks", right=("None",), sound=("{}", "[]", "''", "0"))
    yield from calls(classifier, "trust_remote_code", right=("True",), sound=("None", "0", "5", "[]", "''"))


def fit(world, place, **given):
    data, labels = world.rows
    sound(Classifier("probe", str(world.tiny), cache=None).fit(**(dict(data=data, labels=labels) | given)))


@group
def fitting():
    yield from calls(fit, "data")
    yield from calls(fit, "labels", sound=())
    yield from calls(fit, "validation", right=("None",))
    yield from calls(fit, "checkpoints", right=("None", "a path", "'zzz'"), sound=("''",))
    yield from calls(fit, "sample_weight", right=("None",))
    for weights in ([1] * 59, [-1] * 60, [0] * 60, [float("nan")] * 60, ["a"] * 60, [1e308] * 60, [[1]] * 60,
        [5e-324] * 60):
        yield f"sample_weight of {len(weights)} {weights[0]}", lambda world, place, weights=weights: fit(world, place,
            sample_weight=weights), "sound" if weights[0] in (1e308, 5e-324) else "refused"


def asks(method, **fixed):
    def run(world, place, **given):
        found = getattr(world.model(), method)(**(fixed | given))
        assert found is not None
    return run




@group
def asking():
    for method in ("predict", "predict_proba", "decision_function", "answer", "answers"):
        yield from ((f"{method}: {name}", *rest) for name, *rest in calls(
            asks(method), "texts", right=("[]", "''", "'zzz'", "a zero"), sound=("{}", "{5: 'a'}")
        ))
    yield from called("predict", calls(asks("predict", texts=TEXTS), "thresholds", right=("None",)))
    yield from called("predict", calls(asks("predict", texts=TEXTS), "tokens", right=("None",), sound=tuple(WRONG)))
    yield from called("explain", calls(asks("explain"), "text", right=("''", "'zzz'", "a zero"),
        sound=("{}", "{5: 'a'}")))
    yield from called("explain", calls(asks("explain", text="a"), "label", right=("None",)))
    yield from called("explain", calls(asks("explain", text="a"), "task", right=("None",),
        sound=("''", "0", "[]", "{}")))
    yield from called("explain", calls(asks("explain", text="a"), "features", right=("5", "0"),
        sound=("True", "10**400")))
    yield from called("evaluate", calls(asks("evaluate"), "data"))
    yield from called("evaluate", calls(asks("evaluate", data=TEXTS), "labels"))
    yield from called("evaluate", calls(asks("evaluate", data=TEXTS, labels=["good"] * 5), "out_of_scope",
        right=("None",)))
    yield from called("score", calls(asks("score", texts=TEXTS), "labels"))
    yield from called("score", calls(asks("score", texts=TEXTS, labels=["good"] * 5), "sample_weight", right=("None",)))
    for name in ("predict", "evaluate", "explain", "score", "confidence", "save_pretrained", "predict_proba"):
        yield f"{name} before fitting", lambda world, place, name=name: (
            getattr(Classifier("probe", str(world.tiny)), name)(*[TEXTS] * (2 if name == "score" else 1))
        )
    yield "confidence without a reject option", lambda world, place: world.model().confidence(TEXTS)


@group
def asking_of_several_tasks():
    named = lambda method, **fixed: lambda world, place, **given: getattr(world.model("named"),
        method)(**(fixed | given))
    yield from called("predict", calls(named("predict", texts=TEXTS), "thresholds", right=("None", "{}")))
    yield from called("explain", calls(named("explain", text="a"), "task", right=("None",),
        sound=("''", "0", "[]", "{}")))
    yield from called("evaluate", calls(named("evaluate", data=TEXTS), "labels"))
    yield from called("task", calls(named("task"), "name"))
    for given in ({"topics": [0.5]}, {"topics": [2, 2, 2]}, {"topics": "x"}, {"intent": [0.5, 0.5]}, {"topics": None},
        {"zzz": [1]}, {"topics": [float("nan")] * 3}, {"topics": {"x": 5}}, {"topics": True}):
        yield f"thresholds {given}", lambda world, place, given=given: world.model("named").predict(TEXTS,
            thresholds=given), "sound" if given == {"topics": None} else "refused"


@group
def saving_and_loading():
    yield from calls(lambda world, place, folder: world.model().save_pretrained(folder), "folder",
        right=("'zzz'", "a path"))
    load = lambda world, place, **given: sound(Classifier.from_pretrained(**(dict(source=str(world.probe)) | given)))
    yield from calls(load, "source")
    yield from calls(load, "model", right=("None",), sound=("''", "0", "[]", "{}"))
    yield from calls(load, "cache", right=("None", "'zzz'", "a path"), sound=("''",))
    yield from calls(load, "accept_other_base", right=("True",))
    yield from calls(load, "trust_remote_code", right=("True",), sound=("None", "0", "5", "[]", "''"))
    exported = lambda world, place, folder: export(world.model(), folder)
    yield from called("export", calls(
        exported, "folder", names=("None", "5", "''", "a zero", "[]", "a function", "bytes")
    ))
    written = lambda world, place, **given: export(world.model(), place / "out", **given)
    yield from calls(written, "form", names=("None", "5", "'zzz'", "[]", "{}"))
    yield from calls(written, "texts", names=("5", "[]", "[5]", "'zzz'", "{}", "half a letter", "[None]",
        "an object"), sound=("'zzz'",))
    yield from calls(written, "tolerance", names=("-1", "5", "nan", "'zzz'", "[]", "{}", "complex", "an array"))


STUDY = ("None", "5", "-1", "0", "0.5", "nan", "10**400", "''", "'zzz'", "bytes", "[]", "[5]", "[None]", "{}",
    "{'a': 5}", "a function", "an object", "a set", "True")


def studied(function, **fixed):
    def run(world, place, **given):
        own = {name: value(world) if callable(value) else value for name, value in fixed.items()}
        return function(**(own | given))
    return run


base, rows = (lambda world: str(world.tiny)), (lambda world: list(zip(*world.rows)))


@group
def studies():
    yield from called("load_data", calls(studied(load_data), "source"))
    for argument, sound_ in (("text", ("None", "''", "[]")), ("label", ("None", "''")),
        ("tokens", ("None", "''", "[]", "{}", "0", "a set")), ("separator", ("None", "''", "[]", "{}", "0")),
        ("encoding", ("None", "''", "[]", "{}", "0"))):
        yield from called("load_data", calls(studied(load_data, source="helpdesk"), argument, sound=sound_,
            names=STUDY))
    fast = dict(recipe="probe", data=rows, model=base)
    for argument, right, may in (("recipe", ("{}",), ()), ("data", (), ()), ("model", (), ("None",)),
        ("folds", ("5",), ()), ("seed", ("5", "0"), ("True", "None")), ("cache", ("None",), ("''", "'zzz'")),
        ("settings", ("[]", "{}"), ())):
        yield from called("cross_validate", calls(studied(cross_validate, **(dict(folds=2, cache=None) | fast)),
            argument, right, STUDY, may))
    quick = fast | dict(search=["head.C=[1, 2]"], trials=1, folds=1, cache=None)
    for argument, right, may in (("recipe", ("{}",), ()), ("data", (), ()), ("search", (), ()),
        ("trials", ("5",), ("True",)), ("folds", (), ("True", "5")), ("metric", ("None",), ("''",)),
        ("seed", ("5", "0"), ("True", "None")), ("cache", ("None",), ("''", "'zzz'"))):
        yield from called("tune", calls(studied(tune, **quick), argument, right, STUDY, may))
    for argument, may in (("entries", ()), ("data", ()), ("model", ("None",)), ("seeds", ("[5]", "a set")),
        ("seen", ())):
        yield from called("compare", calls(studied(compare, **dict(entries=["probe"], data=tested, model=base)),
            argument, (), STUDY, may))
    judged = dict(entry=lambda world: world.model(), data=rows, folds=0, most=3)
    for argument, right, may in (("entry", (), ("{}",)), ("data", (), ()),
        ("folds", ("0",), ("5", "True", "None", "''", "[]", "{}")), ("most", ("5", "0"), ()),
        ("task", ("None",), ("''", "0", "[]", "{}"))):
        yield from called("analyse_errors", calls(studied(analyse_errors, **judged), argument, right, STUDY, may))
    planned = dict(recipe="probe", model=base, speed=1e9, available=10**9)
    for argument, right, may in (("recipe", ("{}",), ()), ("model", (), ("None",)), ("settings", ("[]", "{}"), ()),
        ("rows", ("5",), ("0.5", "True", "10**400")), ("length", ("5",), ("0.5", "True", "10**400")),
        ("device", ("None",), ("''", "0", "[]", "{}")), ("speed", ("5", "0.5"), ("None", "0", "''", "[]", "{}",
            "10**400", "True")), ("available", ("5",), ("0.5", "None", "0", "''", "[]", "{}", "10**400", "True",
            "-1"))):
        yield from called("plan", calls(studied(plan, **planned), argument, right, STUDY, may))
    taught = dict(teacher=lambda world: world.model(), data=rows, recipe=dict(name="s", selector="top-layers",
        head="linear", training=dict(epochs=1, head_start="random")), model=base, cache=None)
    for argument, right, may in (("teacher", (), ()), ("data", (), ()), ("recipe", (), ()),
        ("validation", ("None",), ()), ("settings", ("[]", "{}"), ())):
        yield from called("distil", calls(studied(distil, **taught), argument, right, STUDY, may))
    for argument, may in (("models", ()), ("method", ()), ("data", ()), ("model", ())):
        yield from called("merge_models", calls(studied(merge_models, **dict(models=lambda world: [world.trained,
            world.trained])), argument, (), STUDY, may))
    for name in STUDY:
        yield (
            f"Recipe.of: {name}", lambda world, place, name=name: Recipe.of(value_of(name)),
            "sound" if name in ("{}",) else "refused",
        )
    for name in STUDY:
        yield (
            f"with_params: {name}", lambda world, place, name=name: Recipe().with_params(value_of(name)),
            "sound" if name in ("[]", "{}") else "refused",
        )
    for name in STUDY: yield f"set_params: {name}", lambda world, place, name=name: fitted_with(world,
        value_of(name)), "sound"
    for name in STUDY:
        yield f"catalogue.find, kind: {name}", lambda world, place, name=name: catalogue.find(value_of(name), "mean")
    for name in STUDY: yield f"catalogue.find, name: {name}", lambda world, place, name=name: catalogue.find("pooler",
        value_of(name))


def fitted_with(world, value): sound(Classifier("probe", str(world.tiny),
    cache=None).set_params(head__C=value).fit(*world.rows))


def tested(world):
    data, labels = world.rows
    return dict(train=list(zip(data[:40], labels[:40])), validation=list(zip(data[40:50], labels[40:50])),
        test=list(zip(data[50:], labels[50:])))


# ---- paths

PATHS = ("", ".", "..", "/", "a\0b", "\ud800", "n" * 256, "~nobody-here", "/proc/self/mem", "/dev/null", "/dev/zero",
    "/dev/full", "a/../b", "\x1b[2J", "-", "--help", "*", "$HOME", "http://localhost:1/a", "file:///etc/passwd")
# those at which a model can be saved
SAVED = "a/../b", ".", "-", "--help", "*", "$HOME", "\x1b[2J", "http://localhost:1/a", "file:///etc/passwd"


@group
def paths():
    for path in PATHS:
        shown = path[:20].encode("unicode_escape").decode()
        yield f"a model at {shown!r}", lambda world, place, path=path: Classifier.from_pretrained(path)
        yield f"a base at {shown!r}", lambda world, place, path=path: Classifier("probe", path,
            cache=None).fit(*world.rows)
        yield f"data at {shown!r}", lambda world, place, path=path: load_data(path)
        yield (
            f"saved to {shown!r}", lambda world, place, path=path: world.model().save_pretrained(path),
            "sound" if path in SAVED else "refused",
        )
        yield f"a cache at {shown!r}", lambda world, place, path=path: classifier(world, place, cache=path), "sound"
        if "\0" in path or "\ud800" in path or path == "--help": continue
        yield f"predict of {shown!r}", lambda world, place, path=path: command("predict", "--", path, "a text")
        yield f"--out {shown!r}", lambda world, place, path=path: command("fit", "--recipe", "probe", "--data",
            "./nowhere.csv", "--model", world.tiny, f"--out={path}")


@group
def words_in_a_terminal():
    for words in (
        ["predict"], ["predict", "{probe}", "--zzz"], ["predict", "{probe}", "--data"],
        ["predict", "{probe}", "a", "--threshold", "x"], ["evaluate", "{probe}"],
        ["evaluate", "{probe}", "--data", "a", "--data", "b"], 
        ["explain", "{probe}", "a", "--label", "\x1b[2J"], ["errors", "{probe}"],
        ["errors", "{probe}", "--data", "helpdesk", "--most", "x"], ["errors", "{probe}", "--data", "helpdesk",
            "--folds", "-1"], ["errors", "{probe}", "--data", "helpdesk", "--folds", "99999999999999999999"],
        ["compare"], ["compare", "probe"], ["compare", "probe", "--data", "helpdesk", "--seeds", "x"],
        ["compare", "{probe}", "--data", "helpdesk"], ["tune", "probe"],
        ["tune", "probe", "--data", "helpdesk", "--trials", "0", "--search", "head.C=1..2"], ["plan"],
        ["plan", "--recipe", "probe", "--rows", "-1"], ["plan", "--recipe", "zzz"],
        ["export", "{probe}"], ["export", "{probe}", "--out", "out", "--form", "zzz"],
        ["merge", "{probe}", "--out", "out", "--data", "helpdesk"], ["merge", "{probe}", "{probe}", "--out", "out",
            "--data", "helpdesk"], ["merge", "a={trained}", "b={trained}", "--out", "out", "--data", "helpdesk"],
            ["distil", "{probe}", "--out", "out"],
        ["new-plugin"], ["new-plugin", "../x"], ["new-plugin", "class"], ["new-plugin", "\x1b[2J"],
        ["new-plugin", "a" * 300], ["cache", "--zzz"], ["plugins", "x"], ["recipes", "--zzz"],
        ["demo", "--out", "/proc/x"], [""], ["--zzz"], ["fit", "--data", "helpdesk", "--recipe"],
    ):
        yield " ".join(words)[:80].encode("unicode_escape").decode(), lambda world, place, words=words: command(*[
            word.format(probe=world.probe, trained=world.trained if "{trained}" in word else "") for word in words
        ])
    for words in (["plugins"], ["recipes"], ["cache"], ["plugins", "--json"], ["recipes", "--json"],
        ["cache", "--json"], ["--version"], ["--help"], ["fit", "--help"],
        ["plan", "--recipe", "probe", "--model", "{tiny}"]):
        yield (
            " ".join(words),
            lambda world, place, words=words: command(*[word.format(tiny=world.tiny) for word in words]), "right",
        )
    for name, value in (("CLFM_KIT_CACHE", "\x1b[2J"), ("CLFM_KIT_CACHE", "~nobody-here/x"),
        ("CLFM_KIT_CACHE", "n" * 5000), ("CLFM_KIT_CACHE_GB", "x"), ("CLFM_KIT_CACHE_GB", "nan"),
        ("CLFM_KIT_CACHE_GB", "-1"), ("HOME", ""), ("COLUMNS", "-5"), ("COLUMNS", "x"), ("LC_ALL", "zzz"),
        ("PYTHONIOENCODING", "ascii")):
        yield f"cache with {name}={value[:20]!r}", lambda world, place, name=name, value=value: command("cache",
            env={name: value}), "sound"


