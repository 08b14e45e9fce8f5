"""Sphinx settings. Pages under pages/ are made by make.py; nothing here or there reaches for the network."""
import re
from importlib.metadata import version as version_of
from unittest.mock import patch

from docutils import nodes
from fastcore.docments import docments
from sphinx import addnodes

project = "clfm-kit"
version = release = version_of("clfm-kit")
copyright = "the clfm-kit authors"  # noqa: A001, Sphinx asks for this name
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_static_path, html_css_files = ["style"], ["tables.css"]
html_title = f"clfm-kit {version}"
html_copy_source = html_show_sourcelink = html_show_sphinx = False
nb_execution_mode = "off"  # notebooks carry their outputs; tools/check.py is what runs them
nb_output_stderr = "remove"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
suppress_warnings = ["myst.header"]


def plain(line):
    "Docstrings are plain sentences with `code`; escape what reStructuredText would read as markup."
    parts = re.split(r"`([^`]+)`", line)
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([*_|\\])", r"\\\1", part) for i, part in enumerate(parts))


def document(app, what, name, thing, options, lines):
    "Turn the comments beside parameters (docments) into parameter descriptions."
    lines[:] = map(plain, lines)
    if what not in ("class", "function", "method"): return
    notes = [(key, note.docment) for key, note in docments(thing, full=True).items() if note.docment]
    fields = [
        f":returns: {plain(text)}" if key == "return" else f":param {key}: {plain(text)}" for key, text in notes
    ]
    if fields: lines += ["", *fields, ""]


def keep(app, what, name, thing, options, lines):
    "Set aside what is said of a property; napoleon would take words before a colon for its type."
    if what == "property": app.said = list(lines)


def give_back(app, what, name, thing, options, lines):
    "What was set aside."
    if what == "property": lines[:] = app.said


def sign(app, what, name, thing, options, signature, returns):
    """A class that has no constructor of its own shows no signature;
    the bounds of a number stand with its description.
    """
    if what == "class" and signature == "(*args, **kwargs)": return "", returns
    return (
        (re.sub(r"Annotated\[(\w+), '[^']*', <function [^\]]*>\]", r"\1", signature), returns) if signature else None
    )


def keep_to_itself(app, doctree):
    """Let each node belong to its page: those of a reference block belong to a document of the block's own,
    which holds the state of the whole site, and would be stored with each page.
    """
    for node in doctree.findall(): node.document = doctree


def titles(env):
    "The tables of contents of all pages, of which only what leads to other pages is left below a page's title."
    found = {name: toc.deepcopy() for name, toc in env.tocs.items()}
    for toc in found.values():
        for item in list(toc.findall(nodes.list_item)):
            if item.parent is not toc and not any(item.findall(addnodes.toctree)): item.parent.remove(item)
    return found


def navigate(app, page, template, context, doctree):
    """The navigation lists titles, and is made for each page anew out of all tables of contents;
    with the sections in them that takes longer than all else.
    """
    whole = context["toctree"]

    def toctree(**settings):
        if not hasattr(app, "titles"): app.titles = titles(app.env)
        with patch.object(app.env, "tocs", app.titles): return whole(**settings)

    context["toctree"] = toctree


def setup(app):
    # Before napoleon (priority 500): it must find the text already escaped.
    app.connect("autodoc-process-docstring", document, priority=400)
    app.connect("autodoc-process-docstring", keep, priority=450)
    app.connect("autodoc-process-docstring", give_back, priority=550)
    app.connect("autodoc-process-signature", sign)
    app.connect("doctree-read", keep_to_itself)
    app.connect("html-page-context", navigate, priority=400)  # before the theme asks for it
