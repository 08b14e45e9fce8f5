"""Run in a fresh environment: offers.py "PLUGINS" "PACKAGES" [PLUGIN] — these plugins and no others are found, every
module imports from there, and the recipes of one plugin run.
"""
import importlib
import pkgutil
import sys
from pathlib import Path

from clfm_kit.plugins import catalogue

wanted, packages = sys.argv[1].split(), sys.argv[2].split()
catalogue.manager  # finds the plugins
for name in packages:
    package = importlib.import_module(name)
    assert Path(package.__file__).is_relative_to(sys.prefix), f"{name} is imported from {package.__file__}"
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if not module.name.endswith("__main__"): importlib.import_module(module.name)
assert not catalogue.failures, f"plugins that fail: {catalogue.failures}"
assert set(catalogue.plugins) == {"clfm-kit", *wanted}, f"plugins found: {sorted(catalogue.plugins)}"
if len(sys.argv) > 3:
    sys.path.append(str(Path(__file__).parent))
    from recipes import recipes_run
    recipes_run(sys.argv[3])
