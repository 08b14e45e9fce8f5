"""What the tools share: the projects of this checkout, running a command, a copy of the files git knows."""
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
# each has notebooks and a package made from them
PROJECTS = [Path("."), *(Path("plugins", name) for name in PLUGINS)]
PACKAGES = {
    project: tomllib.loads((ROOT / project / "pyproject.toml").read_text())["tool"]["nbdev"]["lib_path"]
    for project in PROJECTS
}
EXAMPLE = Path("examples", "clfm-kit-hello")
BIN = Path(sys.executable).parent
# of every check; a check needs no network, and huggingface_hub waits half a minute for one where there is none
VARIABLES = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1",
    # programs of oneDNN are for one shape each, which models as small as those here take longer to make than to run
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "4096",
}


def environment() -> dict:
    "The variables of a command that a check runs, with those that the check was given, such as where states are."
    return {**os.environ, **VARIABLES}


class Failed(Exception):
    "A check did not pass; the message is what the reader needs."


def run(*command, cwd=ROOT, variables=None):
    "Run a command quietly and return its standard output. Raises `Failed` with the end of what it printed."
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=variables or environment(), capture_output=True, text=True)
    return told(command, done)


def told(command, done):
    "What a command printed. Raises `Failed` with the end of it where it did not succeed."
    if done.returncode:
        tail = (done.stdout + done.stderr).strip()[-6000:]
        raise Failed(f"{' '.join(map(str, command))}\nexit code {done.returncode}\n{tail}")
    return done.stdout


def copy_tree(target):
    "Copy what git tracks or would track, so that a check can write beside it; returns the copy."
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in listing:
        if not (ROOT / name).is_file(): continue  # deleted, not yet committed
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target
