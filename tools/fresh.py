"""Build our distributions and install the wheels in fresh environments, outside the checkout and without an index."""
import os
import shutil
import sys
from contextlib import chdir, contextmanager
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from afresh import python, server
from jobs import LIBRARIES
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tree import ROOT, VARIABLES, Failed, copy_tree, environment, run, told


def build(folder, *projects):
    """Build `projects` from a copy of the checkout, where no earlier build lies about: source distributions, and wheels
    out of these. Returns the folder of both. What lies ready in the folder CLFM_KIT_WHEELS is not built again.
    """
    tree, ready = copy_tree(folder / "tree"), Path(os.environ.get("CLFM_KIT_WHEELS", ""))
    if (ready / "ready").is_file(): shutil.copytree(ready, folder / "dist")
    for project in projects:
        if (folder / "dist" / "ready").is_file() and (ROOT / project).is_relative_to(ROOT): continue
        run(
            sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", tree / project, cwd=folder,
        )
    return folder / "dist"


def required(names, ours):
    "Distributions not ours that the requirements `names` lead to, from the metadata of what is installed here."
    todo, seen = [Requirement(name) for name in names], set()
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen: continue
        seen.add(key)
        try: lines = ours[key[0]] if key[0] in ours else distribution(key[0]).requires or []
        except PackageNotFoundError as error: raise Failed(f"{key[0]} is required but not installed here") from error
        for inner in map(Requirement, lines):
            if inner.marker is None or any(
                inner.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}
            ):
                todo.append(inner)
    return {name for name, _ in seen} - ours.keys()


def wheel_requirements(dist):
    "Requirements of each wheel in `dist`, by distribution."
    found = {}
    for wheel in dist.glob("*.whl"):
        with ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = message_from_bytes(archive.read(name))
        found[canonicalize_name(metadata["Name"])] = metadata.get_all("Requires-Dist", [])
    return found


class Fresh:
    """An environment outside the checkout: our distributions come from the built wheels,
    theirs are links to what is installed here.

    Only what the requirements lead to is linked, so an undeclared import fails as it would for a stranger, and torch
    is not fetched again.
    """
    def __init__(self, folder, dist, *names):
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.python, self.folder, self.place = folder / "bin" / "python", folder, None
        self.site = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        for name in required(names, wheel_requirements(dist)):
            tops = {
                Path(file).parts[0]
                for file in distribution(name).files or [] if Path(file).parts[0] not in ("..", "__pycache__")
            }
            for top in tops:
                if not (self.site / top).exists(): (self.site / top).symlink_to(distribution(name).locate_file(top))
        self.pip("install", "--no-index", "--find-links", dist, *names)

    def pip(self, *arguments):
        "Run this environment's pip on the fresh one, without any setting that could lead it to an index."
        plain = {
            key: value for key, value in environment().items() if not key.startswith("PIP_")
        } | {"PIP_CONFIG_FILE": os.devnull}
        run(sys.executable, "-m", "pip", "--python", self.python, *arguments, cwd=self.folder, variables=plain)

    def run(self, *command):
        "Run a command of the fresh environment, outside the checkout."
        if self.place is None: return run(self.folder / "bin" / command[0], *command[1:], cwd=self.folder)
        words = command[1:] if command[0] == "python" else [self.folder / "bin" / command[0], *command[1:]]
        with chdir(self.folder): done = python(*words, env=VARIABLES, place=self.place)
        return told(command, done)

    @contextmanager
    def loaded(self):
        "While inside, commands are forked from an interpreter of this environment that has loaded the slow libraries."
        libraries = [name for name in LIBRARIES if (self.site / name.partition(".")[0]).exists()]
        self.place = self.folder / "afresh"
        with server(self.place, self.python, libraries): yield
        self.place = None
