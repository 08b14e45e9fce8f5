"""What every benchmark shares: how a result is written, how sides alternate, how memory is read."""
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "clfm-kit", "torch", "transformers", "peft", "bitsandbytes", "scikit-learn", "sentence-transformers", "numpy"
)


def hardware() -> dict:
    """The machine in words: processor, its vector instructions, cores that may be used, memory in GB, accelerator."""
    import torch
    name = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return dict(
        processor=name, vectors=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)), memory_gb=round(memory, 1),
        torch_threads=torch.get_num_threads(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def _lines(path):
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def command() -> str:
    """The command line, with folders of data and results reduced to their names so that no machine's paths are kept.
    """
    short = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *short])


def save(path: Path, text: str):
    """Write a file whole or not at all, in a folder that is made where it is missing."""
    from clfm_kit.paths import fresh_file
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as file: file.write(text + "\n")


def write(name: str, figures: dict, rows: list, **more):
    """Write `results/<name>.json`, beside and renamed: command, date, versions, hardware,
    figures (name to number) and rows. `more` adds fields, or says them otherwise (`command=`).
    """
    found = {}
    for package in PACKAGES:
        try: found[package] = version(package)
        except ImportError: continue
    text = json.dumps(
        dict(
            command=command(), date=time.strftime("%Y-%m-%d"), versions=found, hardware=hardware(),
            figures=figures, rows=rows,
        ) | more,
        indent=1,
    )
    save(RESULTS / f"{name}.json", text)
    print(json.dumps(figures, indent=1))


def alternate(sides: dict, repeats: int) -> dict:
    """Run each side in turn, `repeats` times: {name: [seconds]}.

    Noise on the machine then falls on all sides alike.
    """
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
            print(f"  {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def ratio(seconds: dict, slow: str, fast: str) -> float:
    """Median over repeats of how many times longer `slow` took than `fast` in the same turn."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast]))


def peak_of(code: str, *arguments) -> dict:
    """Run Python code in a fresh process; what it leaves in `facts`, with `peak_mb`, the most resident memory it held.
    """
    # VmHWM starts anew with the process; ru_maxrss would keep the parent's
    wrapped = (
        code + "\nimport json; print(json.dumps(dict(globals().get('facts', {}), peak_mb=next(int(l.split()[1]) "
            "for l in open('/proc/self/status') if l.startswith('VmHWM')) / 1e3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", wrapped, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])
