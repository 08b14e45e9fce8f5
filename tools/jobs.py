"""Jobs side by side, each in a process of its own that begins with the slow libraries loaded.

A fork server imports them once; a process forked from it starts in milliseconds, where a fresh one takes seconds.
"""
import gc
import json
import multiprocessing
import multiprocessing.util
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

from tree import VARIABLES, Failed

# with what torch and transformers themselves import late, in most jobs: the model that is shipped, and the trainer
LIBRARIES = [
    "torch", "torch.distributed.tensor", "torch._inductor.compile_fx", "transformers.models.bert.modeling_bert",
    "transformers.models.auto.modeling_auto", "transformers.trainer", "accelerate", "datasets",
    "sklearn.linear_model", "pandas", "matplotlib.pyplot", "nbdev.test", "pytest", "hypothesis.strategies",
]
LIMIT = 1800  # seconds that a job may take
TAIL = 6000  # characters kept of what a failed job said


@dataclass(frozen=True)
class Job:
    """A function of a module, its arguments, and the seconds that it is expected to take: longer ones start first.

    The function returns rows, a list of dictionaries, or nothing. It raises `Failed` where its check does not pass;
    without a message, what it printed says why.
    """
    step: str
    name: str
    function: Callable
    arguments: tuple = ()
    expected: float = 0.0


@dataclass(frozen=True)
class Outcome:
    "What came of a job: wall and processor seconds, its rows, and what a reader needs where it failed."
    step: str
    name: str
    passed: bool
    seconds: float
    processor_seconds: float
    said: str = ""
    rows: list = field(default_factory=list)


def processor_seconds() -> float:
    "Of this process and of the children that it waited for."
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _printed(log):
    "The end of what a job printed."
    return log.read_text(encoding="utf-8", errors="replace")[-TAIL:] if log.exists() else ""


def _work(job, log, result):
    "What the process of a job does: all that it prints goes to the file `log`, its outcome to the file `result`."
    with open(log, "wb") as file:
        for stream in (1, 2): os.dup2(file.fileno(), stream)
    gc.freeze()  # each training begins with a collection, which need not go through the libraries
    start, before, passed, said, rows = time.perf_counter(), processor_seconds(), True, "", []
    try: rows = job.function(*job.arguments) or []
    except Failed as error:
        sys.stdout.flush(), sys.stderr.flush()
        passed, said = False, str(error) or _printed(log)
    outcome = Outcome(
        job.step, job.name, passed, time.perf_counter() - start, processor_seconds() - before, said, rows
    )
    Path(result).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def _outcome(job, log, result, process, seconds):
    if result.exists(): return Outcome(**json.loads(result.read_text(encoding="utf-8")))
    ended = "took too long and was stopped" if process.exitcode == -signal.SIGTERM else f"exit code {process.exitcode}"
    return Outcome(job.step, job.name, False, seconds, 0.0, f"{_printed(log)}\nthe job's process: {ended}")


def _start_server(log):
    "Start the process that others are forked from; what libraries say while they load goes to the file `log`."
    forkserver.set_forkserver_preload(LIBRARIES)
    kept = os.dup(2)
    with open(log, "wb") as file: os.dup2(file.fileno(), 2)
    try: forkserver.ensure_running()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def run_jobs(jobs: list[Job], workers: int = 2) -> Iterator[Outcome]:
    """Yield what comes of each job as it ends, whichever way; `workers` run at a time."""
    context = multiprocessing.get_context("forkserver")
    waiting, running = sorted(jobs, key=lambda job: job.expected), {}
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        _start_server(Path(folder, "server.log"))
        while waiting or running:
            while waiting and len(running) < workers:
                job, number = waiting.pop(), len(waiting)
                files = Path(folder, f"{number}.log"), Path(folder, f"{number}.json")
                process = context.Process(target=_work, args=(job, *files))
                process.start()
                running[process.sentinel] = job, files, process, time.perf_counter()
            ended = wait(running, timeout=5)
            for _, _, process, start in running.values():
                if time.perf_counter() - start > LIMIT: process.terminate()
            for sentinel in ended:
                job, files, process, start = running.pop(sentinel)
                process.join()
                yield _outcome(job, *files, process, time.perf_counter() - start)


@contextmanager
def nothing_left_behind():
    """A temporary folder for all that is written inside; at the end, also after Ctrl-C or SIGTERM, it is gone,
    and so is every process that was started.
    """
    import psutil

    def stopped(number, frame): raise KeyboardInterrupt

    # SIGINT too, which a shell tells the commands that it starts in the background to ignore
    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    multiprocessing.util.get_temp_dir()  # its own, which it removes itself
    with tempfile.TemporaryDirectory(prefix="clfm-kit-check-", ignore_cleanup_errors=True) as folder:
        # states of the shipped data are read once for all jobs, and anew for each run
        os.environ.update(VARIABLES, TMPDIR=folder, CLFM_KIT_CACHE=str(Path(folder, "states")))
        tempfile.tempdir = None  # read the variable anew
        try: yield Path(folder)
        finally:
            left = psutil.Process().children(recursive=True)
            for process in left:
                try: process.kill()
                except psutil.NoSuchProcess: continue
            psutil.wait_procs(left, timeout=10)
            for number, handler in before.items(): signal.signal(number, handler)


