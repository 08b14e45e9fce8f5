"""The site: what its builder makes of notebooks and results, and that a page which loads from elsewhere is found."""
import json
import re
import sys

import nbformat
import pytest
from tree import PLUGINS, ROOT

sys.path.insert(0, str(ROOT / "docs"))
make = pytest.importorskip("make")

SAFE = (
    '<link rel="stylesheet" href="_static/furo.css"><img src="picture.svg"><a href="https://example.org">a '
    'link to follow</a>'
)


@pytest.mark.parametrize("tag", [
    '<script src="https://cdn.example/x.js"></script>', "<link rel=stylesheet href='//fonts.example/a.css'>",
    '<img\nsrc="http://example.org/a.png">', '<iframe src="https://example.org"></iframe>',
    '<source src="https://example.org/a.mp4">',
])
def test_a_page_that_loads_from_elsewhere_is_found(tag, tmp_path):
    (tmp_path / "index.html").write_text(SAFE)
    assert not list(make.outside(tmp_path))
    (tmp_path / "index.html").write_text(SAFE + tag)
    assert len(list(make.outside(tmp_path))) == 1


def test_a_style_that_loads_from_elsewhere_is_found(tmp_path):
    (tmp_path / "a.css").write_text(
        "@font-face { src: url(https://fonts.example/a.woff2) } b { background: url(data:image/png;base64,AA) }"
    )
    assert len(list(make.outside(tmp_path))) == 1


def test_write_a_plugin_is_short():
    lines = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40


def test_every_extra_is_on_the_install_page():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for name in (*PLUGINS, "demo", "notebook", "tune", "all", "dev"):
        assert f"| `{name}` |" in page, f"docs/install.md says nothing about the extra {name}"


def test_tutorials_have_a_picture_and_no_errors():
    """A stored output is what most people read."""
    for path in sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb")):
        outputs = [
            output for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
            for output in cell.outputs
        ]
        assert not [
            output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
        ], f"{path.name} stores an error or a warning"
        assert any(
            "image/png" in output.get("data", {})
                or any(sign in output.get("data", {}).get("text/html", "") for sign in ("<svg", "<mark"))
            for output in outputs
        ), f"{path.name} has no picture"


def test_links_between_notebooks_and_pages_lead_somewhere():
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for target in (
                re.findall(r"\]\((?!https?:|#)([^)#\s]+)", cell.source) if cell.cell_type == "markdown" else ()
            ):
                assert (path.parent / target).exists(), f"{path.name} links to {target}, which does not exist"


def test_the_benchmarks_page_shows_every_result(tmp_path, monkeypatch):
    pages, results = tmp_path / "pages", tmp_path / "results"
    pages.mkdir(), results.mkdir()
    rows = [
        {"data": "one|two", "rows_per_second": {"ours": 3.0, "theirs": 1.0}, "share": 0.5},
        {"data": "three", "rows_per_second": {"ours": 4.0, "theirs": 2.0}, "share": 0.25},
    ]
    (results / "made_up.json").write_text(json.dumps(dict(command="python x.py", figures={"best": 4.0}, rows=rows)))
    (results / "alone.md").write_text("# Alone\n\ntext\n")
    monkeypatch.setattr(make, "PAGES", pages)
    make.benchmarks(results)
    text = (pages / "benchmarks.md").read_text()
    for piece in (
        "## made up", "| best | 4 |", r"| one\|two | 0.5 |", "python x.py", "made_up-rows_per_second.png", "## Alone"
    ):
        assert piece in text, piece
    assert (pages / "made_up-rows_per_second.png").stat().st_size > 1000


def test_every_public_name_has_a_sentence():
    from importlib import import_module
    for path in sorted((ROOT / "clfm_kit").rglob("*.py")):
        if path.stem in ("__init__", "_modidx"): continue
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and getattr(thing, "__module__", "") == module.__name__:
                assert make.first_sentence(thing), f"{module.__name__}.{name} has no docstring"


def test_every_result_and_plot_is_on_the_benchmarks_page(tmp_path, monkeypatch):
    """Files in folders are single cells of a table that is there."""
    results = ROOT / "benchmarks" / "results"
    monkeypatch.setattr(make, "PAGES", tmp_path)
    make.benchmarks(results)
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    for path in results.glob("*.json"):
        assert (
            json.dumps(json.loads(path.read_text(encoding="utf-8"))["command"], ensure_ascii=False) in text
        ), path.name
    for path in (path for path in results.iterdir() if path.suffix in (".png", ".svg")):
        assert text.count(f"({path.name})") == 1 and (tmp_path / path.name).is_file(), path.name
