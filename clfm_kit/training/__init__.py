"""Heads and weights that learn, on `transformers.Trainer`."""
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clfm_kit.training import trainer as trainer


def __getattr__(name: str) -> ModuleType:
    """Load `trainer` when it is first used: `transformers.Trainer` takes three seconds to import,
    and most commands train nothing.
    """
    if name != "trainer":
        raise AttributeError(f"module 'clfm_kit.training' has no attribute {name!r}")
    return import_module("clfm_kit.training.trainer")
