"""The shape of the repository and of what is shipped: extras, notebooks and modules, wheels, nothing of one machine.
"""
import ast
import gc
import json
import re
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import metadata, packages_distributions, requires

import pytest
import yaml
from fresh import build
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tree import EXAMPLE, PACKAGES, PLUGINS, PROJECTS, ROOT, run
from trove_classifiers import classifiers

import clfm_kit
from clfm_kit.cli.new_plugin import PYPROJECT
from clfm_kit.data.origin import origin
from clfm_kit.data.rows import load_data, shipped
from clfm_kit.hookspecs import KINDS
from clfm_kit.plugins import catalogue, extras

SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
EXTRAS_OF_OURS = {"demo", "notebook", "tune", "export", "all", "dev"}
OURS = ["clfm-kit", *(f"clfm-kit-{name}" for name in PLUGINS)]


def requirements(project, extra=""):
    "Names of what a distribution asks for, with one extra."
    found = map(Requirement, requires(project))
    return {canonicalize_name(r.name) for r in found if r.marker is None or r.marker.evaluate({"extra": extra})}


def tracked():
    return [name for name in run("git", "ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]


def imports(path):
    "Top-level names a module imports, wherever in it."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.partition(".")[0]


def test_every_plugin_folder_is_an_extra():
    assert SETTINGS["DEFAULT"]["plugins"].split() == PLUGINS
    assert set(metadata("clfm-kit").get_all("Provides-Extra")) == EXTRAS_OF_OURS | set(PLUGINS)
    for name in PLUGINS: assert requirements("clfm-kit", name) - requirements("clfm-kit") == {f"clfm-kit-{name}"}


def test_every_extra_is_named_for_the_parts_that_it_brings():
    offered = {
        name: {entry.name for kind in KINDS for entry in catalogue.entries(kind).values() if entry.plugin == name}
        for name in PLUGINS
    }
    assert {name: set(parts) for name, parts in extras().items()} == offered


def test_all_is_everything_for_users():
    wanted = set().union(
        *(requirements("clfm-kit", extra) for extra in (*PLUGINS, "demo", "notebook", "tune", "export"))
    )
    assert requirements("clfm-kit", "all") == wanted


@pytest.mark.parametrize("name", PLUGINS)
def test_one_word_names_a_plugin_everywhere(name):
    settings = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text(encoding="utf-8"))
    package = f"clfm_kit_{name.replace('-', '_')}"
    assert settings["project"]["name"] == f"clfm-kit-{name}"
    assert list(settings["project"]["entry-points"]["clfm_kit"]) == [name]
    assert settings["tool"]["nbdev"]["lib_path"] == package
    assert canonicalize_name("clfm-kit") in {
        canonicalize_name(Requirement(r).name) for r in settings["project"]["dependencies"]
    }


def required(text):
    "What a pyproject.toml requires of ours: {distribution: range}."
    found = map(Requirement, tomllib.loads(text)["project"]["dependencies"])
    return {line.name: str(line.specifier) for line in found if line.name.startswith("clfm-kit")}


def test_all_distributions_have_one_version_and_take_each_other_in_its_range():
    version, citation = clfm_kit.__version__, yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {metadata(name).get("Version") for name in OURS} == {version} == {citation["version"]}
    for project in PROJECTS[1:]:
        module = (ROOT / project / PACKAGES[project] / "__init__.py").read_text(encoding="utf-8")
        assert f'__version__ = "{version}"' in module
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    places = [ROOT / project / "pyproject.toml" for project in (*PROJECTS[1:], EXAMPLE)]
    texts = [PYPROJECT.replace("$", ""), *(path.read_text(encoding="utf-8") for path in places)]
    ranges = {value for text in texts for value in required(text).values()}
    wanted = Requirement(f"x{SETTINGS['DEFAULT']['plugin_range']}").specifier
    assert ranges == {str(wanted)} and version in wanted
    major, minor = Version(version).release[:2]
    assert f"{major}.{minor + 1}" not in wanted, "a minor version may change what parts are asked"


@pytest.mark.parametrize("name", OURS)
def test_what_an_index_shows_is_stated(name):
    found = metadata(name)
    assert found["License-Expression"] == "Apache-2.0" and "LICENSE" in found.get_all("License-File")
    given = found.get_all("Classifier")
    assert given == sorted(given) and set(given) <= classifiers
    assert f"Programming Language :: Python :: {SETTINGS['DEFAULT']['min_python']}" in given
    assert found["Author"] and found["Summary"] and found["Keywords"]


def test_each_distribution_carries_the_licence():
    text = (ROOT / "LICENSE").read_bytes()
    for project in PROJECTS: assert (ROOT / project / "LICENSE").read_bytes() == text


@pytest.mark.parametrize("project", PROJECTS, ids=str)
def test_one_notebook_is_one_module(project):
    """In the core a chapter is a package, but for the first, whose modules stand at the top."""
    folder, package = ROOT / project / "nbs", ROOT / project / PACKAGES[project]
    notebooks = [
        path.relative_to(folder)
        for path in folder.rglob("*.ipynb") if not {"tutorials", ".ipynb_checkpoints"} & set(path.parts)
    ]
    assert all(
        re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", part) for path in notebooks for part in path.with_suffix("").parts
    ), "notebooks are numbered in reading order"
    told = [[part.partition("_")[2] for part in path.with_suffix("").parts] for path in notebooks]
    modules = [
        list(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py") if path.stem not in ("__init__", "_modidx")
    ]
    assert sorted(parts[parts[0] == "core":] for parts in told) == sorted(modules)


@pytest.mark.parametrize("project", PROJECTS, ids=str)
def test_imports_are_declared(project):
    name = "clfm-kit" if project.name == "" else f"clfm-kit-{project.name}"
    extras = metadata(name).get_all("Provides-Extra") or []
    declared = requirements(name).union(*(requirements(name, extra) for extra in extras if extra != "dev"))
    used = {module for path in (ROOT / project / PACKAGES[project]).rglob("*.py") for module in imports(path)}
    providers = packages_distributions()
    for module in used - set(sys.stdlib_module_names) - set(PACKAGES.values()):
        assert declared & set(map(canonicalize_name, providers[module])), (
            f"{module} is imported by {name} and not among its requirements"
        )


def test_constraints_pin_what_is_installed_for_users_and_developers():
    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert lines == sorted(lines)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.!]+", line) for line in lines), (
        "exact versions without a build label"
    )
    pinned = {line.partition("=")[0] for line in lines}
    direct = set().union(
        *(requirements("clfm-kit", extra) for extra in ("all", "dev")),
        *(requirements(f"clfm-kit-{name}") for name in PLUGINS),
    )
    assert direct - set(OURS) <= pinned


def test_no_file_names_a_machine_or_an_index():
    # Written in two halves, so that this file does not find itself.
    foreign = re.compile("|".join([
        "/ro" "ot/", "/wo" "rk/", "/tm" "p/tmp", "/ho" "me/", "/Us" "ers/", "/opt/" "pypi", "/opt/" "wheels",
        "pypi" r"\.org", "python" r"hosted\.org", "pytorch" r"\.org/whl",
    ]))
    found = []
    for name in tracked():
        try: text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError: continue  # a picture
        found += [
            f"{name}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(text.splitlines(), 1) if foreign.search(line)
        ]
    assert not found, "\n".join(found)


def test_nothing_is_pickled():
    assert not [name for name in tracked() if name.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"))]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "date", "versions", "hardware", "figures", "rows"} <= found.keys()
    assert {"cores", "accelerator"} <= found["hardware"].keys()


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"), PROJECTS[0])


@pytest.fixture(scope="module")
def wheel(dist):
    with zipfile.ZipFile(next(dist.glob("clfm_kit-*.whl"))) as archive: return archive.namelist()


def test_wheel_carries_the_modules_and_the_shipped_data(wheel):
    ours = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("**/*.py", "py.typed", "shipped/extras.json", "shipped/**/*.jsonl", "shipped/**/README.md")
        for path in (ROOT / "clfm_kit").glob(pattern)
    }
    packed = {name for name in wheel if name.startswith("clfm_kit/")}
    assert packed == ours
    for data in ("helpdesk", "abstracts"): assert any(name.startswith(f"clfm_kit/shipped/{data}/") for name in packed)


def test_wheel_says_whose_the_code_and_the_data_are(wheel):
    notices = {name.rpartition("/")[2] for name in wheel if ".dist-info/licenses/" in name}
    assert notices == {"LICENSE", "NOTICE"}
    told = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for name in shipped():
        assert f"clfm_kit/shipped/{name}/README.md" in wheel and name in told
        assert origin(load_data(name).train)["license"] == ["apache-2.0"]


def test_source_holds_what_a_reader_looks_for(dist):
    with tarfile.open(next(dist.glob("clfm_kit-*.tar.gz"))) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert found >= {
        "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "NOTICE", "README.md", "SECURITY.md",
        "constraints.txt",
    }
    assert not [name for name in found if name.startswith(("tests/", "benchmarks/", "plugins/"))]


def test_wheel_holds_no_tests_and_no_notebooks(wheel):
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"clfm_kit"}


def test_public_names_are_what_they_say():
    """A module of the same name would hide a function, whichever is imported first."""
    modules = {
        path.stem for pattern in ("*.py", "*/__init__.py") for path in (ROOT / "clfm_kit").glob(pattern)
    } | {path.parent.name for path in (ROOT / "clfm_kit").glob("*/__init__.py")}
    for name in clfm_kit._PUBLIC: assert name not in modules and getattr(clfm_kit, name)
    assert sorted(clfm_kit.__all__) == sorted(clfm_kit._PUBLIC)


@pytest.mark.parametrize("before", [True, False])
def test_the_first_use_of_a_name_leaves_the_collector_as_it_was(before):
    try:
        gc.enable() if before else gc.disable()
        with clfm_kit._uncollected(): assert not gc.isenabled()
        assert gc.isenabled() == before
    finally: gc.enable()
