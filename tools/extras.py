#!/usr/bin/env python3
"""Write `clfm_kit/shipped/extras.json`: which parts each plugin of the kit offers,
so that an error can name the extra to install.

Run it with the Python of the environment that the Makefile made, after a plugin offers something new;
a test compares.
"""
import json

from clfm_kit.hookspecs import KINDS
from clfm_kit.plugins import catalogue
from tree import PLUGINS, ROOT

FILE = ROOT / "clfm_kit" / "shipped" / "extras.json"


def offered() -> dict:
    "{extra: names of the parts that it brings}, of the plugins in this checkout."
    entries = [entry for kind in KINDS for entry in catalogue.entries(kind).values()]
    return {name: sorted({entry.name for entry in entries if entry.plugin == name}) for name in PLUGINS}


if __name__ == "__main__":
    FILE.write_text(json.dumps(offered(), indent=1) + "\n", encoding="utf-8")
    print(FILE.relative_to(ROOT))
