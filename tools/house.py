#!/usr/bin/env python3
"""The size of the house: statements by package, lines over 120 columns, exported cells that stand in a row.

    tools/house.py [FOLDER]    of this checkout, or of another one, so that two can be compared
"""
import ast
import json
import sys
from collections import Counter
from pathlib import Path

from tree import ROOT

COLUMNS = 120


def modules(root):
    "Paths of all modules, without the index that nbdev writes."
    folders = [root / "clfm_kit", *sorted(root.glob("plugins/*/clfm_kit_*"))]
    return [path for folder in folders for path in sorted(folder.rglob("*.py")) if path.stem != "_modidx"]


def statements(path):
    "How many statements a module holds: nodes of `ast.stmt`, docstrings among them."
    return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def in_a_row(path):
    """The most exported cells of a notebook with a function or class that follow one another
    with nothing run and shown between them.
    """
    most = row = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code" or code.startswith("#| hide"): continue
        if "#| export" not in code: row = 0
        elif any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.parse(code).body): row += 1
        most = max(most, row)
    return most


def notebooks(root):
    "Paths of all notebooks that export a module."
    found = [path for folder in ("nbs", "plugins/*/nbs") for path in sorted(root.glob(f"{folder}/**/*.ipynb"))]
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def main(root):
    counts, lines, long = Counter(), 0, 0
    for path in modules(root):
        parts = path.relative_to(root).parts
        counts["/".join(parts[:2]) if len(parts) > 2 else parts[0]] += statements(path)
        widths = [len(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines, long = lines + len(widths), long + sum(width > COLUMNS for width in widths)
    for name, count in counts.most_common(): print(f"{count:7,}  {name}")
    print(f"{sum(counts.values()):7,}  statements in all")
    print(f"{long:7,}  of {lines:,} lines over {COLUMNS} columns")
    rows = {path.relative_to(root): in_a_row(path) for path in notebooks(root)}
    for path, row in rows.items():
        if row > 3: print(f"{row:7}  exported cells in a row in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
