"""The `clfm` command, scripts and functions for tests, in processes that begin with the libraries loaded."""
import os
import pickle
import runpy
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from afresh import python


def clfm(*words, cwd=None, env=None) -> subprocess.CompletedProcess:
    """What `clfm WORDS` does: exit code, standard output and standard error.

    The process is forked from this one, as a fresh one would spend seconds on importing torch; one test in
    test_hostile.py starts a fresh one.
    """
    words = ["clfm", *map(str, words)]
    return Forked(lambda: _clfm(words), cwd, env).wait(words)


def script(path, *words):
    "The function that runs a Python file as `python PATH WORDS` would, for `Forked`."
    def run():
        sys.path.insert(0, str(Path(path).parent))
        sys.argv = [str(path), *map(str, words)]
        runpy.run_path(str(path), run_name="__main__")
    return run


AFRESH = """
import pickle, sys
from clfm_kit import Classifier
with open(sys.argv[1], "rb") as file: asked = pickle.load(file)
found = {
    name: getattr(Classifier.from_pretrained(folder), method)(texts) for name, (folder, method, texts) in asked.items()
}
with open(sys.argv[2], "wb") as file: pickle.dump(found, file)
"""


def afresh(asked: dict) -> dict:
    """What saved models say in a fresh process, which has another seed of hashes: {name: answers} from
    {name: (folder, method, texts)}.
    """
    with TemporaryDirectory() as place:
        files = Path(place, "asked"), Path(place, "found")
        files[0].write_bytes(pickle.dumps(asked))
        done = python("-c", AFRESH, *files, env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return pickle.loads(files[1].read_bytes())


class Forked:
    """A process forked from this one, which runs a function and ends.

    It shares what is imported and the seed of hashes with this one: where a test asks whether another process sees
    the same, it needs a fresh one.
    """
    def __init__(self, function, cwd=None, env=None):
        self.out, self.err = TemporaryFile(), TemporaryFile()
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid: _run(function, cwd, env, self.out.fileno(), self.err.fileno())

    def send_signal(self, number): os.kill(self.pid, number)

    def wait(self, words=()) -> subprocess.CompletedProcess:
        "Its exit code, standard output and standard error, once it has ended."
        _, status = os.waitpid(self.pid, 0)
        with self.out, self.err:
            self.out.seek(0), self.err.seek(0)
            return subprocess.CompletedProcess(
                words, os.waitstatus_to_exitcode(status), self.out.read().decode(), self.err.read().decode()
            )


def _run(function, cwd, env, out, err):
    "What the forked process does; it never returns."
    code = 70
    try:
        for target, file in enumerate((out, err), 1): os.dup2(file, target)
        sys.stdin = open(os.devnull, encoding="utf-8")
        encoding = (env or os.environ).get("PYTHONIOENCODING", "utf-8")
        sys.stdout = open(1, "w", encoding=encoding, closefd=False)
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # as Python has it
        if cwd: os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        code = _exit_code(function)
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _exit_code(function):
    import torch
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **more: print(f"warning: {message}", file=sys.stderr)
        try: function()
        except SystemExit as stop:
            if stop.code is None or isinstance(stop.code, int): return stop.code or 0
            print(stop.code, file=sys.stderr)
            return 1
    return 0


def _clfm(words):
    import huggingface_hub.constants as hub

    from clfm_kit.cli.main import main
    hub.HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE") == "1"  # read when the library was imported
    sys.argv = words
    main()


def refused(done, *parts):
    """One sentence on standard error, exit code 2, nothing on standard output, no traceback."""
    assert done.returncode == 2 and done.stdout == "", done
    assert "Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith("clfm: "), done.stderr
    for part in parts: assert part in done.stderr, done.stderr


def said_by(process) -> str:
    "What a process has written to standard error so far."
    return os.pread(process.err.fileno(), 100_000, 0).decode()


def started(*words, until=60.0, env=None):
    "`clfm serve WORDS` in a process of its own, and its port."
    process = Forked(lambda: _clfm(["clfm", "serve", *map(str, words), "--port", "0"]), env=env)
    end = time.monotonic() + until
    while "Ctrl-C ends it" not in said_by(process): assert time.monotonic() < end, said_by(process)
    return process, int(said_by(process).partition("127.0.0.1:")[2].partition(";")[0])
