"""How long threads that wait keep their core: as OpenMP has it, and shorter; the kit asks for 1,000 rounds.

    python benchmarks/waiting.py [--repeats 5]

The products of a logistic regression, in fresh processes: alone, and beside as many busy processes as there are cores.
The kit's setting is made when it is imported before torch; `GOMP_SPINCOUNT` or `OMP_WAIT_POLICY` overrules it.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

from common import write

SPINS = "GOMP_SPINCOUNT"
WAYS = {
    "default": {}, "10,000 rounds": {SPINS: "10000"}, "1,000 rounds": {SPINS: "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
WORK = """
import json, time, torch
from clfm_kit.backbone.kernels import product
torch.manual_seed(0)
rows, weights, rest = torch.randn(1444, 1200), torch.randn(1200, 20), torch.randn(1444, 20)
turned = rows.T.contiguous()
product(rows, weights)
wall, processor = time.perf_counter(), time.process_time()
for _ in range(400):
    logits = product(rows, weights)
    product(turned, rest)
    logits.log_softmax(1).exp()
print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]))
"""


def timed(settings: dict) -> list:
    """Seconds and processor seconds of the products in a new process, where torch is loaded before the kit."""
    found = subprocess.run(
        [sys.executable, "-c", WORK], env=os.environ | settings, check=True, capture_output=True, text=True,
    )
    return json.loads(found.stdout)


def alternated(repeats: int) -> dict:  # {way: [[seconds, processor seconds]]}
    """The ways in turn, in as many rounds."""
    found = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, settings in WAYS.items(): found[way].append(timed(settings))
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    given, rows = options.parse_args(), []
    for beside in (0, len(os.sched_getaffinity(0))):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
        try: found = alternated(given.repeats)
        finally:
            for process in busy: process.kill()
        for way, times in found.items():
            seconds, processor = (statistics.median(side) for side in zip(*times))
            rows.append(dict(beside=beside, way=way, seconds=seconds, processor_seconds=processor, times=times))
    figures = {f"{row['way']}, {row['beside']} beside: seconds": round(row["seconds"], 2) for row in rows}
    figures |= {f"{row['way']}, {row['beside']} beside: processor": round(row["processor_seconds"], 2) for row in rows}
    write("waiting", figures, rows)


if __name__ == "__main__":
    main()
