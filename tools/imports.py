"""What imports what: modules of the core and the plugins, notebooks and tests; and what a change touches."""
import ast
import json
from collections import deque
from functools import cache
from pathlib import Path

from tree import PACKAGES, PROJECTS, ROOT

NOTEBOOKS = [
    (path, ROOT / project) for project in PROJECTS for path in sorted((ROOT / project / "nbs").glob("**/*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
]
TESTS = sorted((ROOT / "tests").glob("test_*.py"))


@cache
def sources():
    """{module: its file}, of the core and of every plugin."""
    folders = [ROOT / project / PACKAGES[project] for project in PROJECTS]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py")) if path.stem != "_modidx"]
    relative = lambda path: path.relative_to(next(folder.parent for folder in folders if path.is_relative_to(folder)))
    return {".".join(relative(path).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def modules():
    """{module: its syntax tree}."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sources().items()}


def core():
    """The modules of the core."""
    return {name: tree for name, tree in modules().items() if name.partition(".")[0] == "clfm_kit"}


def nested(tree):
    """The statements that stand in functions, and those only type checkers read."""
    inside = {
        id(node) for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) for node in ast.walk(function)
    }
    told = {
        id(node) for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test) for node in ast.walk(block)
    }
    return inside, told


def imported(tree, package=()):
    """(module or library, whether in a function) of all that a syntax tree imports; `package` is where it stands."""
    found = []
    inside, told = nested(tree)
    for node in ast.walk(tree):
        if id(node) in told: continue
        if isinstance(node, ast.Import): found += [(alias.name, id(node) in inside) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            start = (
                ".".join([*package[:len(package) - node.level + 1], *([node.module] if node.module else [])])
                if node.level else node.module
            )
            for alias in node.names:
                found.append(
                    (f"{start}.{alias.name}" if f"{start}.{alias.name}" in modules() else start, id(node) in inside)
                )
    return list(dict.fromkeys(found))


@cache
def imports(name):
    """(module or library, whether in a function) of everything that a module imports."""
    package = name.split(".") if any(other.startswith(name + ".") for other in modules()) else name.split(".")[:-1]
    return imported(modules()[name], package)


# ---- what a change touches

@cache
def public():
    """{public name of `clfm_kit`: the module that defines it}."""
    listed = next(
        node.value for node in modules()["clfm_kit"].body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC"
    )
    return {name: f"clfm_kit.{module}" for name, module in ast.literal_eval(listed).items()}


@cache
def code_of(path):
    """The Python of a notebook or file, without magics."""
    if path.suffix != ".ipynb": return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    return "\n".join("pass" if line.startswith(("%", "!")) else line for line in lines)


def used(path):
    """Modules that a notebook or a test imports; of `clfm_kit` itself, those that define the names it takes."""
    tree = ast.parse(code_of(path))
    taken = {
        public()[alias.name] for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "clfm_kit"
        for alias in node.names if alias.name in public()
    }
    return taken | {name for name, _ in imported(tree) if name in modules()}


@cache
def exports(notebook):
    """The module that a notebook exports; empty where it exports none."""
    marks = [
        line.split()[-1] for line in code_of(notebook).splitlines() if line.startswith("#| default_exp ")
    ]
    project = next(project for path, project in NOTEBOOKS if path == notebook)
    return f"{PACKAGES[project.relative_to(ROOT)]}.{marks[0]}" if marks else ""


def distances(changed):
    """{path of a notebook or test: how many imports lie between it and the nearest of the paths `changed`}.

    A path that is no module, notebook or test touches nothing here, but a tool or shared fixture touches every test.
    """
    home = {path: name for name, path in sources().items()}
    home |= {path: exports(path) for path, _ in NOTEBOOKS if exports(path)}
    importers = {name: [] for name in modules()}
    for name in modules():
        for target, _ in imports(name):
            if target in importers: importers[target].append(name)
    far = dict.fromkeys((home[path] for path in changed if path in home), 0)
    queue = deque(far)
    while queue:
        name = queue.popleft()
        for importer in importers.get(name, ()):
            if importer not in far:
                far[importer] = far[name] + 1
                queue.append(importer)
    shared = any(path.parent in (ROOT / "tests", ROOT / "tools") and path not in TESTS for path in changed)
    found = {}
    for path in (*TESTS, *(path for path, _ in NOTEBOOKS)):
        near = [far[name] + 1 for name in used(path) if name in far]
        if path.suffix == ".ipynb" and exports(path) in far: near.append(far[exports(path)])
        if path in changed: near.append(0)
        if shared and path in TESTS: near.append(2)
        if near: found[path] = min(near)
    return found


def paths(names):
    """Absolute paths of names as git prints them."""
    return {Path(ROOT, name) for name in names}
