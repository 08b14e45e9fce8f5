"""Words: spelling, by codespell, and a list of phrases of ours that newcomers stumble over.

Prose is the Markdown files, the Markdown cells of notebooks, and the strings of modules that hold a space: docstrings,
help and errors. A passage is a line with the place where it stands.
"""
import ast
import json
import re
import subprocess
import sys

from house import modules
from tree import ROOT, Failed, told

IGNORED = ROOT / "tools" / "words.txt"  # terms that codespell takes for mistakes, one a line
# {pattern of a phrase: what to say instead}
UNWANTED = {
    r"what moves|what has moved": "what is trained, or what has changed",
    r"(?:weights?|rows|blocks) (?:that |may )?moves?": "trained, trainable", r"nothing moves": "nothing is trained",
    r"texts? (?:is|are|were) read": "encoded", r"h(?:eld|olds?) (?:\w+ ){0,4}against": "compared with",
    r"stands? in for": "replaces", r"floors?": "baseline, or level", r"strangers?": "out of scope, or third party",
    r"(?:how|less|more) familiar": "confidence", r"lessons?": "the teacher's targets",
    r"c[ao]mes? (?:out )?true": "correct", r"mass": "total weight", r"of a special kind": "say which kind",
    r"which it always does": "leave it out", r"far too many": "say how many", r"what is told": "say what",
    # British spelling, as in the options --unlabelled and normalisation
    r"(?:un)?labele[dr]|labeling": "labelled", r"neighbors?": "neighbour", r"behaviors?": "behaviour",
    r"analyzed?": "analyse", r"(?:un)?(?:normal|quant|standard|summar|general|recogn)iz(?:ed?|es|ing|ation)": "-ise",
    r"finetun(?:ed|ing)": "fine-tune, but for the recipe `finetune`",
}
PATTERNS = {
    re.compile(rf"(?<![\w-])(?:{phrase})(?![\w-])", re.IGNORECASE): instead for phrase, instead in UNWANTED.items()
}
PAGES = "README.md", "docs/*.md", "plugins/*/README.md", "nbs/tutorials/*.ipynb"  # what a newcomer reads first
PROSE = *PAGES, "*.md", "nbs/*/*.ipynb", "plugins/*/nbs/*.ipynb", "tools/*.py", "docs/*.py", "benchmarks/*.py"
CODE = re.compile(r"^```.*?^```|`[^`]+`|\]\([^)\s]*\)", re.DOTALL | re.MULTILINE)  # and addresses of links


def files(patterns):
    "Paths that match any of the patterns, once each."
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def passages(path):
    "(place, line) of the prose of a file, without code."
    name, source = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        found = [
            (name, node.lineno, node.value) for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        ]
    elif path.suffix == ".ipynb":
        found = [
            (f"{name}, cell {cell['id']}", 1, "".join(cell["source"])) for cell in json.loads(source)["cells"]
            if cell["cell_type"] == "markdown"
        ]
    else: found = [(name, 1, source)]
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # lines stay where they are
    for place, first, text in found:
        for number, line in enumerate(CODE.sub(blank, text).split("\n"), first): yield f"{place}, line {number}", line


def misspelled(lines):
    "What codespell finds in (place, line): the place, the word and what it may be."
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words", str(IGNORED), "-"]
    text = "\n".join(" ".join(line.split()) for _, line in lines)
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8")
    if done.returncode not in (0, 65): told(command, done)  # 65: it found something
    place = ""
    for line in done.stdout.splitlines():
        if number := re.match(r"(\d+): ", line): place = lines[int(number[1]) - 1][0]
        elif "==>" in line: yield f"{place}: {line.strip()}"


def unwanted(lines):
    "Phrases of the list in (place, line): the place, the phrase and what to say instead."
    for place, line in lines:
        for pattern, instead in PATTERNS.items():
            for found in pattern.finditer(line): yield f"{place}: {found[0]} ==> {instead}"


def check():
    "Raises `Failed` where prose holds a misspelling, or a page that newcomers read a phrase of the list."
    read = lambda paths: [passage for path in paths for passage in passages(path)]
    found = [*misspelled(read([*files(PROSE), *modules(ROOT)])), *unwanted(read(files(PAGES)))]
    if found: raise Failed("\n".join(found))
