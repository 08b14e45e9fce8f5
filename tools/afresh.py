"""Fresh processes without the seconds that imports take.

`served` starts a process that has another seed of hashes. When it is first asked it loads the slow libraries of
jobs.py, and then it forks for each request. A process so begun has seen nothing of the one that asks, nor of the kit.

    python tools/afresh.py PATH …       what `python PATH …` does, so begun: for those who start a program by its name
"""
import gc
import json
import os
import runpy
import signal
import socket
import socketserver
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType, SimpleNamespace

from jobs import LIBRARIES, processor_seconds

PLACE = "CLFM_KIT_AFRESH"  # the variable that names the server's socket
SEED = "5"  # of hashes


@contextmanager
def served(folder):
    """While inside, `python` asks a server whose socket is in `folder`. Yields what afterwards holds `spent`, the
    processor seconds of the server and of all that it forked.
    """
    address = Path(folder, "afresh")
    with open(f"{address}.log", "wb") as log:  # what libraries say while they load
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", address], env=os.environ | {"PYTHONHASHSEED": SEED}, stdout=log,
            stderr=log,
        )
    while not address.exists() and process.poll() is None: time.sleep(0.01)
    os.environ[PLACE] = str(address)
    told = SimpleNamespace(spent=0.0)
    try: yield told
    finally:
        del os.environ[PLACE]
        before = processor_seconds()
        process.terminate()
        process.wait()
        told.spent = processor_seconds() - before


def python(*words, env=None) -> subprocess.CompletedProcess:
    """What `python WORDS` does afresh, with another seed of hashes: its exit code and what it printed.

    `words` are `-c` with code or `-m` with a module or the path of a file, then arguments. Without a server, and for
    one whose seed is said in `env`, a new interpreter starts.
    """
    words, env = [*map(str, words)], {**os.environ, "PYTHONHASHSEED": SEED, **(env or {})}
    if PLACE not in os.environ or env["PYTHONHASHSEED"] != SEED:
        return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
    with TemporaryFile() as out, TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(os.environ[PLACE])
            socket.send_fds(asking, [b"\n"], [nothing.fileno(), out.fileno(), err.fileno()])
            asking.sendall(json.dumps(dict(words=words, folder=os.getcwd(), variables=env)).encode() + b"\n")
            said = asking.makefile("rb").readline()
        for file in (out, err): file.seek(0)
        return subprocess.CompletedProcess(
            words, int(said) if said else -9, out.read().decode(), err.read().decode()
        )  # one that was killed says no code


class Request(socketserver.BaseRequestHandler):
    "One request, in a process forked for it."

    def handle(self):
        _, streams, _, _ = socket.recv_fds(self.request, 1, 3)
        asked = json.loads(self.request.makefile("rb").readline())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for target, stream in enumerate(streams): os.dup2(stream, target)
        os.chdir(asked["folder"])
        os.environ.clear(), os.environ.update(asked["variables"])
        code = ended(asked["words"])
        sys.stdout.flush(), sys.stderr.flush()
        self.request.sendall(b"%d\n" % code)
        os._exit(code)


def ended(words):
    "Run what a command line of Python says; returns its exit code."
    try: begun(*words)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int): return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def begun(first, *words):
    sys.path[0] = ""
    if first == "-m":
        sys.argv = [*words]
        return runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    if first == "-c":
        sys.argv, sys.modules["__main__"] = ["-c", *words[1:]], ModuleType("__main__")
        return exec(words[0], vars(sys.modules["__main__"]))
    sys.argv = [first, *words]
    sys.path[0] = str(Path(first).parent)
    return runpy.run_path(first, run_name="__main__")


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 8
    loaded = False

    def process_request(self, request, client):
        if not self.loaded:
            for name in LIBRARIES: import_module(name)
            gc.freeze()
            self.loaded = True
        super().process_request(request, client)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # once what it forked has ended
        with Server(sys.argv[2], Request) as server: server.serve_forever()
    done = python(*sys.argv[1:])
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    sys.exit(done.returncode)
