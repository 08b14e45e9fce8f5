"""The `clfm` command for tests, in processes that begin with the libraries loaded."""
import os
import subprocess
import sys
import traceback
import warnings
from tempfile import TemporaryFile


def clfm(*words, cwd=None, env=None) -> subprocess.CompletedProcess:
    """What `clfm WORDS` does: exit code, standard output and standard error.

    The process is forked from this one, as a fresh one would spend seconds on importing torch; one test in
    test_hostile.py starts a fresh one.
    """
    words = [str(word) for word in words]
    with TemporaryFile() as out, TemporaryFile() as err:
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if not child: _run(words, cwd, env, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        out.seek(0), err.seek(0)
        return subprocess.CompletedProcess(
            ["clfm", *words], os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()
        )


def _run(words, cwd, env, out, err):
    "What the forked process does; it never returns."
    code = 70
    try:
        for target, file in enumerate((out, err), 1): os.dup2(file, target)
        sys.stdin = open(os.devnull, encoding="utf-8")
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        if cwd: os.chdir(cwd)
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        code = _exit_code(words)
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _exit_code(words):
    import huggingface_hub.constants as hub
    import torch

    from clfm_kit.cli.main import main
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    hub.HF_HUB_OFFLINE = os.environ.get("HF_HUB_OFFLINE") == "1"  # read when the library was imported
    sys.argv = ["clfm", *words]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **more: print(f"warning: {message}", file=sys.stderr)
        try: main()
        except SystemExit as stop: return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    return 0


def refused(done, *parts):
    """One sentence on standard error, exit code 2, nothing on standard output, no traceback."""
    assert done.returncode == 2 and done.stdout == "", done
    assert "Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith("clfm: "), done.stderr
    for part in parts: assert part in done.stderr, done.stderr
