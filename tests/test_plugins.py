"""Strangers' plugins: what `clfm new-plugin` writes, and what a broken one may not do."""
import ast
import inspect
import json
import os
import subprocess
import sys
from keyword import iskeyword

import nbformat
import numpy as np
import pytest
from command import clfm, refused
from fresh import Fresh, build
from hypothesis import given
from hypothesis import strategies as st
from tree import EXAMPLE, ROOT

from clfm_kit import Classifier, Recipe, UserError
from clfm_kit.cli.new_plugin import check_name, new_plugin, plugin_files
from clfm_kit.parts import written_parameters
from clfm_kit.plugins import catalogue, using
from clfm_kit.recipes import PART_KINDS
from clfm_kit.builtin.poolers import Mean
from clfm_kit.testing import check_part

BROKEN = {
    "raises": ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
    "leaves": ("raise SystemExit(3)", "SystemExit: 3"),
    "lacks": ("import no_such_library", "No module named 'no_such_library'"),
    "misspells": (
        "from clfm_kit.hookspecs import hookimpl\n@hookimpl\ndef register_hedas(register): pass", "register_hedas"
    ),
    "asks": (
        "from clfm_kit.hookspecs import hookimpl\n@hookimpl\ndef register_heads(register, colour): pass", "colour"
    ),
    "stumbles": (
        "from clfm_kit.hookspecs import hookimpl\n@hookimpl\ndef register_heads(register): 1 / 0",
        "ZeroDivisionError",
    ),
    "copies": (
        "from clfm_kit.hookspecs import hookimpl\n@hookimpl\n"
            "def register_heads(register): register('logistic', 'a:b')",
        "head 'logistic' is already offered by plugin 'clfm-kit'",
    ),
}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """An environment in which every broken plugin, and one that works, are installed."""
    site = tmp_path_factory.mktemp("site")
    modules = (
        {name: source for name, (source, _) in BROKEN.items()} | {"works": plugin_files("works")["clfm_kit_works.py"]}
    )
    for name, source in modules.items():
        (site / f"stranger_{name}.py").write_text(source)
        facts = site / f"stranger_{name}-1.2.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.2\n")
        (facts / "entry_points.txt").write_text(f"[clfm_kit]\n{name} = stranger_{name}\n")
    return {**os.environ, "PYTHONPATH": str(site)}


def python(environment, *words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)


def test_broken_plugins_are_listed_and_stop_nothing(strangers):
    found = json.loads(python(strangers, "-m", "clfm_kit.cli.main", "plugins", "--json").stdout)
    assert set(BROKEN) <= set(found["failures"]) and found["plugins"]["works"] == "1.2"
    for name, (_, why) in BROKEN.items(): assert why in found["failures"][name], found["failures"][name]
    assert {part["name"] for part in found["parts"]} >= {"works", "logistic", "linear"}
    assert next(part["plugin"] for part in found["parts"] if part["name"] == "logistic") == "clfm-kit"


def test_the_table_says_which_state_a_plugin_is_in(strangers):
    shown = python({**strangers, "COLUMNS": "1500"}, "-m", "clfm_kit.cli.main", "plugins").stdout
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells]
        for line in shown.splitlines() if len(cells := line.split("│")) == 7
    }
    assert rows["works"][2:6] == ["1.2", "head works", "", "loaded"]
    for name, (_, why) in BROKEN.items():
        assert rows[name][5].startswith("could not be used: ") and why in rows[name][5]


def test_plugins_that_are_not_installed_show_what_brings_them(strangers):
    shown = python(
        {**strangers, "CLFM_KIT_PLUGINS": "", "COLUMNS": "1500"}, "-m", "clfm_kit.cli.main", "plugins"
    ).stdout
    assert 'not installed: pip install "clfm-kit[stc]"' in shown


def test_an_unknown_part_is_refused_with_the_broken_plugins_named(strangers):
    done = python(
        strangers, "-m", "clfm_kit.cli.main", "fit", "--recipe", "probe", "--set", "head=wroks",
        "--data", "helpdesk", "--dry-run",
    )
    refused(done, "did you mean 'works'")
    for name, (_, why) in BROKEN.items():
        assert f"Plugin {name!r} could not be used" in done.stderr and why in done.stderr


def test_import_is_unharmed(strangers):
    done = python(strangers, "-c", "import clfm_kit; print(clfm_kit.Recipe.of('probe').name)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "probe\n", "")


def test_the_example_is_what_new_plugin_writes():
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / EXAMPLE).iterdir() if path.is_file()}
    assert there == plugin_files("hello")


@pytest.mark.parametrize("name", ["x", "two-words", "none", "part", "numpy", "import-all", "v2", "a" * 50])
def test_what_is_written_passes_its_own_test(name):
    files = plugin_files(name)
    module = next(text for path, text in files.items() if path.startswith("clfm_kit_"))
    space = {"__name__": "generated"}
    exec(compile(module, name, "exec"), space)
    with using(
        "generated",
        register_heads=lambda register: space["register_heads"](
            lambda _, *args, **more: register("generated-head", *args, **more)
        ),
    ):
        check_part("head", "generated-head")
    test = next(text for path, text in files.items() if path.startswith("test_"))
    assert f'check_part("head", "{name}")' in test and ast.parse(test)
    nbformat.validate(
        nbformat.reads(next(text for path, text in files.items() if path.endswith(".ipynb")), as_version=4)
    )


@pytest.mark.parametrize("name, message", [
    ("my plugin", "write 'my-plugin'"), ("My_Plugin", "write 'my-plugin'"), ("", "such as 'my-head'"),
    ("-", "such as 'my-head'"), ("../up", "write 'up'"), ("é", "such as 'my-head'"), ("-flag", "write 'flag'"),
    ("1st", "write 'st'"), ("a--b", "write 'a-b'"), ("a\n", "write 'a'"), ("class", "word of the Python language"),
    ("lambda", "word of the Python language"), ("true", "word of the Python language"),
    ("linear", "taken by head 'linear'"), ("stc", "taken by"), ("clfm-kit", "taken by"), ("a" * 51, "at most 50"),
])
def test_a_name_that_cannot_be_is_refused_in_one_sentence(name, message, tmp_path):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as refusal: new_plugin(name, tmp_path)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


@given(st.text(max_size=60))
def test_any_name_is_accepted_or_refused(name):
    try: check_name(name)
    except UserError: return
    assert name.replace("-", "_").isidentifier() and not iskeyword(name) and name == name.lower()


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "clfm-kit-mine").mkdir()
    (tmp_path / "clfm-kit-mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"): new_plugin("mine", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["clfm-kit-mine", "notes.txt"]


def test_nothing_is_half_written(tmp_path, monkeypatch):
    import clfm_kit.cli.new_plugin as module
    monkeypatch.setattr(module, "plugin_files", lambda name: {"one.py": "fine", "two/three.py": "no such folder"})
    with pytest.raises(UserError, match="cannot write"): new_plugin("mine", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match="cannot write into"): new_plugin("mine", place)


def test_the_command_writes_a_package_that_installs_and_passes(tmp_path):
    """A stranger's way: write, and in a fresh environment build, install, list, test."""
    done = clfm("new-plugin", "two-words", "--in", tmp_path, "--json")
    folder = tmp_path / "clfm-kit-two-words"
    assert json.loads(done.stdout) == dict(folder=str(folder), files=sorted(plugin_files("two-words")))
    dist = build(tmp_path / "built", ROOT, folder)
    fresh = Fresh(tmp_path / "fresh", dist, "clfm-kit-two-words[test]")
    assert json.loads(fresh.run("clfm", "plugins", "--json"))["plugins"]["two-words"] == "0.1.0"
    fresh.run("python", "-m", "pytest", "-q", folder)


def test_an_array_that_a_pooler_learns_is_saved(tiny, tmp_path):
    class Centred(Mean):
        def bind(self, context):
            if context.rows is not None: self.centre_ = np.array([1.5, 2.5], dtype=np.float32)

    with using("centring", register_poolers=lambda register: register("centred", Centred)):
        texts, labels = [f"text {n}" for n in range(40)], ["x", "y"] * 20
        clf = Classifier(Recipe(pooler="centred"), tiny, cache=None).fit(texts, labels)
        folder = clf.save_pretrained(tmp_path / "model")
        assert Classifier.from_pretrained(folder).parts_["pooler"].centre_ == [1.5, 2.5]


def test_names_of_parameters_in_source_are_those_of_the_part(monkeypatch):
    entries = [(kind, entry) for kind in (*PART_KINDS, "task", "merger") for entry in catalogue.entries(kind).values()]
    real = {(kind, entry.name): list(inspect.signature(entry.load()).parameters) for kind, entry in entries}
    written = {}
    for kind, entry in entries:
        if callable(entry.factory): continue
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, entry.factory.partition(":")[0])
            written[kind, entry.name] = written_parameters(entry.factory)
    known = {part: names for part, names in written.items() if names is not None}
    assert known == {part: real[part] for part in known}
    assert not [part for part in written.keys() - known.keys() if real[part]]  # all but those that have none
