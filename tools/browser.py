"""A headless Chromium for the browser tests and what drives it, in a cached environment outside the checkout.

`provide()` makes it once: CLFM_KIT_BROWSER names the folder, ~/.cache/clfm-kit/browser unless set. Chromium is the
one that CLFM_KIT_CHROMIUM names, one on the path, Playwright's own, or the one packed for npm,
whichever can be had first.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tree import ROOT

# Playwright drives the browser, brotli unpacks the npm build.
REQUIREMENTS = ("playwright==1.65.2", "brotli")
PACKED = "@sparticuz/chromium@147.0.0"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

UNPACK = """
import brotli, io, sys, tarfile
from pathlib import Path
archive, target = tarfile.open(sys.argv[1]), Path(sys.argv[2])
read = lambda name: brotli.decompress(archive.extractfile(f"package/bin/{name}.br").read())
for name in ("al2023.tar", "fonts.tar", "swiftshader.tar"):
    tarfile.open(fileobj=io.BytesIO(read(name))).extractall(target / name[:-4], filter="data")
(target / "chromium").write_bytes(read("chromium"))
(target / "chromium").chmod(0o755)
"""


class Missing(Exception):
    "No browser can be had here; the message says what was tried."


def folder() -> Path:
    return Path(os.environ.get("CLFM_KIT_BROWSER") or Path.home() / ".cache" / "clfm-kit" / "browser").resolve()


def attempt(*command, **kwargs):
    "Run a command; raises `Missing` with the end of what it said."
    try: done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=400, **kwargs)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        raise Missing(f"{' '.join(map(str, command[1:4]))}: {(done.stdout + done.stderr).strip()[-300:]}")
    return done.stdout


def environment() -> Path:
    "The Python of an environment with Playwright."
    python = folder() / "env" / "bin" / "python"
    wanted = hashlib.sha256(
        "\n".join((*REQUIREMENTS, (ROOT / "constraints.txt").read_text(encoding="utf-8"))).encode()
    ).hexdigest()
    stamp = folder() / "installed"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists(): return python
    folder().mkdir(parents=True, exist_ok=True)
    if not python.exists(): attempt(sys.executable, "-m", "venv", folder() / "env")
    attempt(
        python, "-m", "pip", "install",
        "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", *REQUIREMENTS,
    )
    stamp.write_text(wanted)
    return python


def on_path():
    found = os.environ.get("CLFM_KIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found: raise Missing("no chromium on the path")
    return dict(executable=found)


def downloaded():
    "Playwright's own build."
    home = folder() / "playwright"
    attempt(
        environment(), "-m", "playwright", "install", "chromium-headless-shell",
        env={**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(home)},
    )
    return dict(executable=str(
        next(path for path in home.glob("chromium_headless_shell-*/*/*headless*shell") if os.access(path, os.X_OK))
    ))


def packed():
    "The build packed for npm, with the libraries and the font it brings; npm checks what it fetches."
    target = folder() / "packed"
    if not (target / "chromium").exists():
        target.mkdir(parents=True, exist_ok=True)
        name = attempt("npm", "pack", PACKED, "--silent", cwd=target).split()[-1]
        attempt(environment(), "-c", UNPACK, target / name, target)
        (target / name).unlink()
    fonts = {} if Path("/etc/fonts/fonts.conf").exists() else dict(FONTCONFIG_PATH=str(target / "fonts"))
    return dict(
        executable=str(target / "chromium"), arguments=["--headless=shell"],
        variables=dict(LD_LIBRARY_PATH=str(target / "al2023" / "lib"), **fonts),
    )


def works(browser):
    "Open a page with a browser; raises `Missing` when it does not start."
    script = (
        "import json, sys; from playwright.sync_api import sync_playwright as s\n"
        "b = json.loads(sys.argv[1])\nwith s() as p: p.chromium.launch(executable_path=b['executable'], "
        "args=b.get('arguments', []), env=dict(__import__('os').environ, **b.get('variables', "
        "{}))).new_page().set_content('<p>here</p>')"
    )
    attempt(environment(), "-c", script, json.dumps(browser))
    return browser


def provide() -> dict:
    """The Python that drives and the browser it drives.

    Raises `Missing` when there is no way to one; what was found is remembered.
    """
    python, note, tried = environment(), folder() / "browser.json", []
    if note.is_file():
        found = json.loads(note.read_text())
        if Path(found["executable"]).exists(): return dict(python=str(python), browser=found)
    for way in (on_path, downloaded, packed):
        try: found = works(way())
        except Missing as error: tried.append(f"{way.__name__}: {error}"); continue
        note.write_text(json.dumps(found))
        return dict(python=str(python), browser=found)
    raise Missing("; ".join(tried))


if __name__ == "__main__":
    print(json.dumps(provide(), indent=1))
