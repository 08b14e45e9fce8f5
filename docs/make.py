#!/usr/bin/env python3
"""Build the site without a network: notebooks become pages, Sphinx (MyST-NB, furo) makes HTML of them,
warnings are errors.

Exported cells give way to the reference of what they define, taken from the generated module; hidden cells go; the
rest stays with its stored output. Usage: docs/make.py [folder for the HTML, docs/_build/html unless told]
"""
import argparse
import ast
import inspect
import json
import os
import re
import shutil
import sys
import tomllib
from collections import defaultdict
from importlib import import_module
from importlib.metadata import metadata
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


def reference(source, module):
    "Autodoc directives for what one exported cell defines."
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            listing = f"\n   :members: {members(node)}" if members(node) else ""
            yield f".. autoclass:: {module}.{node.name}{listing}"
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f".. autofunction:: {module}.{node.name}"


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
            text = text.replace("](../../docs/", "](../../")  # notebooks link to pages as they lie in the repository
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
        # a live view would need scripts from elsewhere
        for output in cell.outputs: output.get("data", {}).pop(WIDGET, None)
        yield cell


def page(source, folder, package):
    "Write the page for the notebook `source` into `folder`; returns its name for a table of contents."
    notebook = nbformat.read(source, as_version=4)
    made = nbformat.v4.new_notebook(cells=list(page_cells(notebook, package)))
    made.metadata = {
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        # a warning names the cell as its line; without this, 10,000 lines a cell, which docutils reads one by one
        "source_map": list(range(len(made.cells))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, folder / source.name)
    return (folder / source.stem).relative_to(PAGES).as_posix()


def contents(name, title, about, entries):
    "Write a section page that lists the pages `entries`."
    listing = "\n".join(["```{toctree}", ":maxdepth: 1", "", *entries, "```"]) if entries else "None yet."
    (PAGES / f"{name}.md").write_text(f"# {title}\n\n{about}\n\n{listing}\n", encoding="utf-8")


def table(rows):
    "Markdown of rows, dicts of plain values; the columns are the values that every row has."
    names = [name for name in rows[0] if all(isinstance(row.get(name), str | int | float) for row in rows)]
    show = lambda value: f"{value:,.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
    lines = [names, ["---"] * len(names), *([show(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bars(rows, name, path):
    "Draw the dicts of numbers that every row holds under `name`, one group of bars for each row."
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(
        figsize=(7, 0.6 + 0.35 * sum(len(row[name]) for row in rows)), layout="constrained"
    )
    labels = [f"{key}  ({row.get('data', place)})" for place, row in enumerate(rows) for key in row[name]]
    values = [value for row in rows for value in row[name].values()]
    axes.barh(
        range(len(values)), values,
        color=["#0072B2", "#E69F00", "#009E73", "#CC79A7"][:len(rows[0][name])] * len(rows),
    )
    axes.set_yticks(range(len(values)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(name.replace("_", " "))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def benchmarks(results):
    "Write the benchmarks page: figures, rows and plots of every result file, and the command that made them."
    parts = [
        "# All result files",
        "Every figure comes from a file in `benchmarks/results/`, with the command and the machine that made it. "
            "What has no file there was not measured.",
    ]
    files = sorted(results.glob("*.json"))
    plots = {
        plot: [
            path for path in files
            if f"{plot.stem}_".startswith(f"{path.stem}_") or path.stem.startswith(f"{plot.stem}_")
        ]
        for plot in sorted(results.glob("*")) if plot.suffix in (".png", ".svg")
    }
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {result.get('title', path.stem.replace('_', ' ').replace('-', ' '))}")
        if "about" in result: parts.append(result["about"])
        for plot in (plot for plot, about in plots.items() if path in about[-1:]):
            shutil.copy(plot, PAGES)
            parts.append(f"![{plot.stem.replace('_', ' ')}]({plot.name})")
        rows = result.get("rows") or []
        for name in (
            name for name in (rows[0] if rows else {})
            if name.endswith("per_second") and all(isinstance(row.get(name), dict) for row in rows)
        ):
            bars(rows, name, PAGES / f"{path.stem}-{name}.png")
            parts.append(f"![{name.replace('_', ' ')}]({path.stem}-{name}.png)")
        parts.append("\n".join([
            "| figure | value |", "|---|---:|",
            *(f"| {name} | {value:,.6g} |" for name, value in result["figures"].items()),
        ]))
        if rows: parts.append(table(rows[:40]))
        if len(rows) > 40: parts.append(f"The first 40 of {len(rows)} rows; the rest are in the file.")
        facts = "\n".join(
            f"{key}: {json.dumps(result[key], ensure_ascii=False)}"
            for key in ("command", "date", "versions", "hardware") if key in result
        )
        parts.append(f"```text\n{facts}\n```")
    for path in sorted(results.glob("*.md")):  # tables that a benchmark writes itself
        parts.append(re.sub(r"^#", "##", path.read_text(encoding="utf-8"), flags=re.M))
        for plot in re.findall(r"\]\(([\w.-]+\.(?:png|svg))\)", parts[-1]): shutil.copy(results / plot, PAGES)
    if len(parts) == 2: parts.append("None yet.")
    (PAGES / "benchmarks.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def api(packages):
    "Write the index of all public names, a page for each package: what each is, with a link to its page."
    public, grouped = import_module("clfm_kit")._PUBLIC, defaultdict(list)
    for module, page in packages: grouped[package_of(module)].append((module, page))
    (PAGES / "api").mkdir()
    rows = []
    for package, some in grouped.items():
        about = first_sentence(import_module(package)) or metadata(package.replace("_", "-"))["Summary"]
        text = "\n\n".join([f"# {package}", about, *filter(None, (names(*one) for one in some))])
        (PAGES / "api" / f"{package}.md").write_text(text + "\n", encoding="utf-8")
        rows.append(f"| [{package}](api/{package}.md) | {about} |")
    kit, places = import_module("clfm_kit"), dict(packages)
    here = [
        f"| [{name}]({places[f'clfm_kit.{module}']}.ipynb) | {first_sentence(getattr(kit, name))} |"
        for name, module in sorted(public.items())
    ]
    (PAGES / "api.md").write_text("\n\n".join([
        "# API", "## What you import",
        "From `clfm_kit`; a name leads to its page, with shapes, units, errors and paper.",
        "\n".join(["| name | what it is |", "|---|---|", *here]),
        "## By package", "Every public name of each module, from the lowest level to the highest, then the plugins.",
        "\n".join(["| package | what it is about |", "|---|---|", *rows]),
        "\n".join(["```{toctree}", ":hidden:", "", *(f"api/{package}" for package in grouped), "```"]),
    ]) + "\n", encoding="utf-8")


def package_of(module):
    "The package whose page names a module: one of clfm_kit, or a plugin."
    first, second, *rest = [*module.split("."), ""]
    return f"{first}.{second}" if first == "clfm_kit" and any(rest) else first


def names(module, page):
    "The public names of a module, under its name."
    found = import_module(module)
    shown = [(name, getattr(found, name)) for name in getattr(found, "__all__", [])]
    lines = [
        f"| {{py:obj}}`{name} <{module}.{name}>` | {first_sentence(thing)} |"
        for name, thing in shown if inspect.isclass(thing) or inspect.isfunction(thing)
    ]
    if not lines: return ""
    table = "\n".join(["| name | what it is |", "|---|---|", *lines])
    return f"## [{module}](../{page}.ipynb)\n\n{first_sentence(found)}\n\n{table}"


def first_sentence(thing):
    "The first paragraph of a docstring; a hook implementation has its hook's."
    from clfm_kit.hookspecs import HookSpecs
    words = (
        inspect.getdoc(thing) or inspect.getdoc(getattr(HookSpecs, getattr(thing, "__name__", ""), None)) or ""
    ).partition("\n\n")[0]
    return " ".join(words.split()).replace("|", "\\|").replace("[N", "\\[N").replace("[B", "\\[B")


def plugin(project):
    "Write the page of one plugin, its README and its notebooks; returns its name, and its modules with their pages."
    name, package = (
        project.parent.name, tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["nbdev"]["lib_path"]
    )
    sources = sorted(project.parent.glob("nbs/*.ipynb"))
    pages = [page(path, PAGES / "plugins" / name, package) for path in sources]
    listing = "\n".join([
        "```{toctree}", ":maxdepth: 1", ":caption: Its notebooks", "", *(f"/pages/{entry}" for entry in pages), "```"
    ])
    (PAGES / "plugins" / f"{name}.md").write_text(
        f"```{{include}} ../../../plugins/{name}/README.md\n```\n\n{listing}\n", encoding="utf-8"
    )
    return f"plugins/{name}", modules(sources, pages, package)


def modules(sources, pages, package):
    "The module that each page is about."
    return [(f"{package}.{exported(source)}", entry) for source, entry in zip(sources, pages)]


def exported(source):
    "The module that a notebook exports, under its package."
    return re.search(r"#\| default_exp ([\w.]+)", source.read_text(encoding="utf-8"))[1]


def outside(html):
    "Scripts, styles, fonts, images and frames that a page would load from elsewhere."
    for path in sorted(html.rglob("*.html")):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8")):
            if re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", tag) and 'rel="canonical"' not in tag:
                yield f"{path.relative_to(html)}: {tag}"
    for path in sorted(html.rglob("*.css")):
        for link in re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(html)}: {link}"


def main(html, processes="auto"):
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    sources = sorted(path for path in ROOT.glob("nbs/*/*.ipynb") if path.parent.name != "tutorials")
    core = [page(path, PAGES / "core" / path.parent.name, "clfm_kit") for path in sources]
    tutorials = [page(path, PAGES / "tutorials", "clfm_kit") for path in sorted(ROOT.glob("nbs/tutorials/*.ipynb"))]
    plugins = [plugin(project) for project in sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    contents("tutorials", "Tutorials", "Each tells one story on the shipped data, and is run as a test.", tutorials)
    contents(
        "plugins", "Techniques from plugins", "One distribution each, brought by the extra of its name; see the page on installing.",
        [name for name, _ in plugins],
    )
    contents("core", "Inside the kit", "One notebook, one module, one page, in reading order.", core)
    benchmarks(ROOT / "benchmarks" / "results")
    api([*modules(sources, core, "clfm_kit"), *(pair for _, pairs in plugins for pair in pairs)])
    shutil.rmtree(html, ignore_errors=True)
    failed = sphinx(
        ["-q", "-W", "--keep-going", "-j", processes, "-d", str(html.parent / "doctrees"), str(DOCS), str(html)]
    )
    loaded = list(outside(html))
    for line in loaded: print("loads from elsewhere:", line, file=sys.stderr)
    if not failed: print(f"{len(list(html.rglob('*.html')))} pages in {os.path.relpath(html)}")
    return 1 if failed or loaded else 0


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("html", nargs="?", type=Path, default=DOCS / "_build" / "html", help="a folder for the pages")
    sys.exit(main(options.parse_args().html.resolve()))
