#!/usr/bin/env python3
"""Build the site without a network: notebooks become pages, Sphinx (MyST-NB, furo) makes HTML of them, warnings are errors.

Exported cells give way to the reference of what they define, taken from the generated module; hidden cells go; the rest
stays with its stored output. Usage: docs/make.py [folder for the HTML, docs/_build/html unless told]
"""
import ast
import inspect
import json
import os
import re
import shutil
import sys
import tomllib
from functools import cached_property
from importlib import import_module
from pathlib import Path

import nbformat
from sphinx.cmd.build import main as sphinx

DOCS = Path(__file__).resolve().parent
ROOT, PAGES = DOCS.parent, DOCS / "pages"
WIDGET = "application/vnd.jupyter.widget-view+json"
TAGS = {"echo: false": "remove-input", "output: false": "remove-output", "include: false": "remove-cell"}


def directives(cell):
    "The nbdev directives of a cell, as written after `#|`."
    return [line.partition("|")[2].strip() for line in cell.source.splitlines() if re.match(r"\s*#\s*\|", line)]


def members(definition):
    "Public methods written in the body of a class, with `__call__`."
    names = [node.name for node in definition.body if isinstance(node, ast.FunctionDef)]
    return ", ".join(name for name in names if name == "__call__" or not name.startswith("_"))


def patched(node):
    "Class a function is added to with fastcore's `@patch`, or None."
    names = [getattr(mark, "id", None) for mark in node.decorator_list]
    return ast.unparse(node.args.args[0].annotation) if "patch" in names else None


def added(module, target):
    "Autodoc's word for what `Class.name = ...` added to a class."
    owner = getattr(import_module(module), ast.unparse(target.value))
    found = inspect.getattr_static(owner, target.attr)
    return "autoproperty" if isinstance(found, property | cached_property) else "automethod"


def reference(source, module):
    "Autodoc directives for what one exported cell defines."
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            listing = f"\n   :members: {members(node)}" if members(node) else ""
            yield f".. autoclass:: {module}.{node.name}{listing}"
        elif isinstance(node, ast.FunctionDef) and patched(node):
            yield f".. automethod:: {module}.{patched(node)}.{node.name}"
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f".. autofunction:: {module}.{node.name}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and not node.targets[0].attr.startswith("_"):
            yield f".. {added(module, node.targets[0])}:: {module}.{ast.unparse(node.targets[0])}"  # Class.method = _function


def shows(source):
    "Whether an exported cell that defines nothing is worth showing: constants are, imports are not."
    targets = [node.targets[0] for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return any(isinstance(target, ast.Name) and not target.id.startswith("_") for target in targets)


def page_cells(notebook, package):
    "Cells of the page made from a notebook."
    marks = [mark for cell in notebook.cells if cell.cell_type == "code" for mark in directives(cell)]
    module = next((f"{package}.{mark.split()[1]}" for mark in marks if mark.startswith("default_exp")), package)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"^> ", "", cell.source, flags=re.M) if number == 0 else cell.source
            yield nbformat.v4.new_markdown_cell(text)
        if cell.cell_type != "code": continue
        words = {mark.split()[0] for mark in directives(cell) if mark}
        cell.source = "\n".join(line for line in cell.source.splitlines() if not re.match(r"\s*#\s*\|", line)).strip()
        if words & {"hide", "default_exp"} or not cell.source: continue
        exported = words & {"export", "exports", "exporti"}
        entries = list(reference(cell.source, module)) if exported else []
        if entries: yield nbformat.v4.new_markdown_cell("```{eval-rst}\n" + "\n\n".join(entries) + "\n```")
        if exported and "exports" not in words and (entries or not shows(cell.source)): continue
        cell.metadata = {"tags": [TAGS[mark] for mark in directives(cell) if mark in TAGS]}
        for output in cell.outputs: output.get("data", {}).pop(WIDGET, None)  # a live view would need scripts from elsewhere
        yield cell


def page(source, folder, package):
    "Write the page for the notebook `source` into `folder`; returns its name for a table of contents."
    notebook = nbformat.read(source, as_version=4)
    made = nbformat.v4.new_notebook(cells=list(page_cells(notebook, package)))
    made.metadata = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, folder / source.name)
    return (folder / source.stem).relative_to(PAGES).as_posix()


def contents(name, title, about, entries):
    "Write a section page that lists the pages `entries`."
    listing = "\n".join(["```{toctree}", ":maxdepth: 1", "", *entries, "```"]) if entries else "None yet."
    (PAGES / f"{name}.md").write_text(f"# {title}\n\n{about}\n\n{listing}\n", encoding="utf-8")


def benchmarks(results):
    "Write the benchmarks page: the `figures` of every result file, the plot beside it, and the command that made them."
    parts = ["# Benchmarks", "Every figure comes from a file in `benchmarks/results/`, with the command and the machine that made it."]
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {result.get('title', path.stem.replace('_', ' ').replace('-', ' '))}")
        if "about" in result: parts.append(result["about"])
        parts.append("\n".join(["| figure | value |", "|---|---:|", *(f"| {name} | {value:,.6g} |" for name, value in result["figures"].items())]))
        for plot in sorted([*results.glob(f"{path.stem}*.png"), *results.glob(f"{path.stem}*.svg")]):
            shutil.copy(plot, PAGES)
            parts.append(f"![{plot.stem}]({plot.name})")
        facts = "\n".join(f"{key}: {json.dumps(result[key], ensure_ascii=False)}" for key in ("command", "versions", "hardware") if key in result)
        parts.append(f"```text\n{facts}\n```")
    if len(parts) == 2: parts.append("None yet.")
    (PAGES / "benchmarks.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def outside(html):
    "Scripts, styles, fonts, images and frames that a page would load from elsewhere."
    for path in sorted(html.rglob("*.html")):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8")):
            if re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", tag) and 'rel="canonical"' not in tag: yield f"{path.relative_to(html)}: {tag}"
    for path in sorted(html.rglob("*.css")):
        for link in re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", path.read_text(encoding="utf-8")): yield f"{path.relative_to(html)}: {link}"


def main(html):
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    core = [page(path, PAGES / "core", "clfm_kit") for path in sorted(ROOT.glob("nbs/*.ipynb"))]
    tutorials = [page(path, PAGES / "tutorials", "clfm_kit") for path in sorted(ROOT.glob("nbs/tutorials/*.ipynb"))]
    plugins = []
    for project in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        package = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["nbdev"]["lib_path"]
        plugins += [page(path, PAGES / "plugins" / project.parent.name, package) for path in sorted(project.parent.glob("nbs/*.ipynb"))]
    contents("tutorials", "Tutorials", "Each tells one story on the shipped data, and is run as a test.", tutorials)
    contents("plugins", "Techniques from plugins", "One distribution each; `pip install \"clfm-kit[NAME]\"` brings it.", plugins)
    contents("core", "Inside the kit", "One notebook, one module, one page, in reading order.", core)
    benchmarks(ROOT / "benchmarks" / "results")
    shutil.rmtree(html, ignore_errors=True)
    failed = sphinx(["-q", "-W", "--keep-going", "-j", "auto", "-d", str(html.parent / "doctrees"), str(DOCS), str(html)])
    loaded = list(outside(html))
    for line in loaded: print("loads from elsewhere:", line, file=sys.stderr)
    if not failed: print(f"{len(list(html.rglob('*.html')))} pages in {os.path.relpath(html)}")
    return 1 if failed or loaded else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DOCS / "_build" / "html"))
