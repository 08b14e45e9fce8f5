#!/usr/bin/env python3
"""Print exact pins of what is installed beside this Python, sorted:
`.venv/bin/python tools/constraints.py > constraints.txt`.

Our own distributions and pip are left out, and so are local version labels (`+cpu`):
the build is the machine's choice.
"""
from importlib.metadata import distributions

from packaging.utils import canonicalize_name

print("# Exact versions that CI and the README commands install. Made by tools/constraints.py.")
found = {canonicalize_name(d.metadata["Name"]): d.version.partition("+")[0] for d in distributions()}
ours = lambda name: name == "pip" or name.startswith("clfm-kit")
print(*sorted(f"{name}=={version}" for name, version in found.items() if not ours(name)), sep="\n")
