"""The fork server of afresh.py: `python serves.py SOCKET LIBRARY …`.

When it is first asked it loads the libraries, and then it forks for each request. It imports nothing of ours, so that
it runs in any environment.
"""
import atexit
import gc
import json
import os
import runpy
import signal
import socket
import socketserver
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

PATH = os.environ.get("PYTHONPATH", "")  # its folders stand on sys.path from the second place on


class Request(socketserver.BaseRequestHandler):
    "One request, in a process forked for it, which forks the one that is asked for and waits."

    def handle(self):
        _, streams, _, _ = socket.recv_fds(self.request, 1, 3)
        asked = json.loads(self.request.makefile("rb").readline())
        number = os.fork()
        if not number:
            self.request.close()
            begun(asked, streams)
        for stream in streams: os.close(stream)
        self.request.sendall(b"%d\n" % number)
        threading.Thread(target=self.gone, args=(number,), daemon=True).start()
        _, status = os.waitpid(number, 0)
        self.ended = True
        self.request.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def setup(self): self.ended = False

    def gone(self, number):
        "Nobody waits for a process when the one that asked has ended."
        with suppress(ConnectionError): self.request.recv(1)  # nothing comes but the end
        if not self.ended: os.kill(number, signal.SIGKILL)


def begun(asked, streams):
    "What the process that was asked for does; it never returns."
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for target, stream in enumerate(streams): os.dup2(stream, target)
        for stream in {*streams} - {0, 1, 2}: os.close(stream)
        reopened()
        os.chdir(asked["folder"])
        os.environ.clear(), os.environ.update(asked["variables"])
        code = ended(asked["words"])
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
    except BaseException: os.write(2, traceback.format_exc().encode())
    finally: os._exit(code)


def reopened():
    "New objects for the standard streams: those of the server know what it writes to, a file, and where it stands."
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(
            number, "w", buffering=1 if number == 2 or os.isatty(number) else -1, encoding="utf-8",
            errors=getattr(sys, name).errors, closefd=False,
        )
        setattr(sys, name, stream), setattr(sys, f"__{name}__", stream)


def ended(words):
    "Run what a command line of Python says; returns its exit code."
    try: runs(words)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int): return (stop.code or 0) & 255
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def runs(words):
    there, here = (list(filter(None, path.split(os.pathsep))) for path in (os.environ.get("PYTHONPATH", ""), PATH))
    sys.path[1:1 + len(here)] = there
    sys.executable = os.environ.get("CLFM_KIT_PYTHON", sys.executable)
    sys.path[0] = ""
    if words[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        words = words[1:]
    first, *words = words
    if first == "-m":
        sys.argv = [*words]
        return runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    if first == "-c":
        sys.argv, sys.modules["__main__"] = ["-c", *words[1:]], ModuleType("__main__")
        return exec(words[0], vars(sys.modules["__main__"]))
    sys.argv, sys.path[0] = [first, *words], str(Path(first).parent)
    return runpy.run_path(first, run_name="__main__")


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    max_children = 64
    loaded = False

    def process_request(self, request, client):
        if not self.loaded:
            for name in sys.argv[2:]: import_module(name)
            gc.freeze()
            self.loaded = True
        super().process_request(request, client)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # once what it forked has ended
    with Server(f"{sys.argv[1]}-begins", Request) as server:
        os.rename(f"{sys.argv[1]}-begins", sys.argv[1])  # now that it listens
        server.serve_forever()
