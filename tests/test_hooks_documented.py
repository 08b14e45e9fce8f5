"""Every hook, with its arguments, has a heading in docs/hooks.md; so has nothing else."""
import inspect
import re
from pathlib import Path

import pytest
from clfm_kit.hookspecs import HookSpecs

PAGE = (Path(__file__).parents[1] / "docs" / "hooks.md").read_text(encoding="utf-8")
HOOKS = {name: hook for name, hook in vars(HookSpecs).items() if inspect.isfunction(hook)}


def heading(name):
    arguments = [argument for argument in inspect.signature(HOOKS[name]).parameters if argument != "self"]
    return f"## `{name}({', '.join(arguments)})`"


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_documented(name):
    assert heading(name) in PAGE.splitlines(), f"docs/hooks.md needs the heading {heading(name)}"


def test_no_hook_is_made_up(): assert set(re.findall(r"^## `(\w+)\(", PAGE, flags=re.M)) == set(HOOKS)
