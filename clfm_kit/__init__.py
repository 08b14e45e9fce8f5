"""Text classifiers made out of small language models."""
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # editors and type checkers read this; Python imports each name when it is first used
    from clfm_kit.classifier.classifier import Classifier as Classifier
    from clfm_kit.data.rows import Rows as Rows
    from clfm_kit.data.rows import load_data as load_data
    from clfm_kit.data.schemas import Schema as Schema
    from clfm_kit.errors import UserError as UserError
    from clfm_kit.hookspecs import hookimpl as hookimpl
    from clfm_kit.plugins import catalogue as catalogue
    from clfm_kit.recipes import Recipe as Recipe
    from clfm_kit.study.comparison import compare as compare

__all__ = [
    "Classifier", "Recipe", "Rows", "Schema", "UserError", "catalogue", "compare", "hookimpl", "load_data",
]

# Read by OpenMP when torch is loaded: a thread that has waited a moment gives its core away. Beside other work, threads
# that wait by spinning made the same products take six times as long (`benchmarks/waiting.py`).
if "OMP_WAIT_POLICY" not in os.environ: os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_PUBLIC = {
    "Classifier": "classifier.classifier",
    "Recipe": "recipes",
    "Rows": "data.rows",
    "Schema": "data.schemas",
    "UserError": "errors",
    "catalogue": "plugins",
    "compare": "study.comparison",
    "hookimpl": "hookspecs",
    "load_data": "data.rows",
}


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection inside: torch and transformers make a million objects while they load, none of them
    garbage, and to go through them again and again takes time.
    """
    before = gc.isenabled()
    gc.disable()
    try: yield
    finally:
        if before: gc.enable()


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `import clfm_kit` stays fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'clfm_kit' has no attribute {name!r}")
    with _uncollected(): return getattr(import_module(f"clfm_kit.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
