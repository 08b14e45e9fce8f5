"""Fresh processes without the seconds that imports take.

`served` starts a process that has another seed of hashes. When it is first asked it loads the slow libraries of
jobs.py, and then it forks for each request. A process so begun has seen nothing of the one that asks, nor of the kit.
"""
import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace

from asks import PLACE, SEED, asked, forks
from jobs import LIBRARIES, processor_seconds

TOOLS = Path(__file__).parent


@contextmanager
def served(folder):
    """While inside, `python` asks a server whose socket is in `folder`, and so does the program `program()`. Yields
    what afterwards holds `spent`, the processor seconds of the server and of all that it forked.
    """
    address = Path(folder, "afresh")
    script = Path(f"{address}-python")
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{TOOLS / "asks.py"}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    with server(address, sys.executable, LIBRARIES) as told:
        os.environ[PLACE] = str(address)
        try: yield told
        finally: del os.environ[PLACE]


@contextmanager
def server(address, interpreter, libraries):
    "A fork server of an interpreter, with its socket at `address`; yields what afterwards holds `spent`."
    with open(f"{address}.log", "wb") as log:  # what libraries say while they load
        process = subprocess.Popen(
            [interpreter, TOOLS / "serves.py", address, *libraries], env=os.environ | {"PYTHONHASHSEED": SEED},
            stdout=log, stderr=log,
        )
    while not address.exists() and process.poll() is None: time.sleep(0.01)
    told = SimpleNamespace(spent=0.0)
    try: yield told
    finally:
        before = processor_seconds()
        process.terminate()
        with suppress(subprocess.TimeoutExpired): process.wait(60)
        told.spent = processor_seconds() - before


def program() -> str:
    "What stands for `sys.executable` where processes begin afresh: a program that asks the server, where there is one."
    return f"{os.environ[PLACE]}-python" if PLACE in os.environ else sys.executable


def python(*words, env=None, place=None) -> subprocess.CompletedProcess:
    """What `python WORDS` does afresh, with another seed of hashes: its exit code and what it printed.

    `words` are `-c` with code or `-m` with a module or the path of a file, then arguments. Without a server, and for
    one whose seed is said in `env`, a new interpreter starts. `place` is the socket of another server.
    """
    words, env = [*map(str, words)], {**os.environ, "PYTHONHASHSEED": SEED, **(env or {})}
    if not place and not forks(words, env):
        return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
    with TemporaryFile() as out, TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        code = asked(place or env[PLACE], words, [nothing.fileno(), out.fileno(), err.fileno()], env)
        for file in (out, err): file.seek(0)
        return subprocess.CompletedProcess(words, code, out.read().decode(), err.read().decode())
