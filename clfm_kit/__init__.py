"""Text classifiers made out of small language models."""

__version__ = "0.1.0"

_PUBLIC = {"Classifier": "classifier.classifier", "Recipe": "recipes", "Schema": "data.schemas", "UserError": "errors", "load_data": "data.rows",
           "compare": "study.comparison", "catalogue": "plugins", "hookimpl": "hookspecs"}


def __getattr__(name):
    """Import the public names when they are first used, so that `import clfm_kit` stays fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'clfm_kit' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"clfm_kit.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])
