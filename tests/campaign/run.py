"""Run the campaign: `python tests/campaign/run.py [WORDS …]`, with WORDS only cases whose title holds one of them.

The whole of it writes benchmarks/results/campaign.json.
"""
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.pop("CLFM_KIT_CACHE", None)

import common
import torch
from campaign import on_artifacts, on_bases, on_calls, on_data, on_recipes, on_runs  # noqa: F401 (they note groups)
from campaign.cases import FAILED, World, cases, run_case


def main(words):
    torch.set_num_threads(1)
    chosen = [case for case in cases() if not words or any(word in case.title for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLFM_KIT_CACHE"] = f"{folder}/cache"
        before, found, world = os.times(), [], World(Path(folder))
        for number, case in enumerate(chosen):
            found.append(run_case(case, world, Path(folder, f"case-{number}")))
            told(number + 1, len(chosen), found[-1])
        spent = sum(now - then for now, then in zip(os.times()[:4], before[:4]))
    counts = Counter(each["outcome"] for each in found)
    figures = dict(
        cases=len(found), **{name: counts[name] for name in ("refused", "right", *FAILED)},
        processor_seconds=round(spent, 1)
    )
    if words: return print(figures) or figures
    groups = Counter((each["group"], each["outcome"]) for each in found)
    rows = [dict(group=name, outcome=outcome, cases=count) for (name, outcome), count in sorted(groups.items())]
    failed = [each for each in found if each["outcome"] in FAILED]
    common.write("campaign", figures, rows, command="python tests/campaign/run.py", failed=failed)
    return figures


def told(done, total, found):
    "Progress on a line that is written over; what failed stays."
    if found["outcome"] in FAILED:
        print(f"\r\x1b[K{found['outcome']}: {found['group']}: {found['name']}\n  {found['why']}", flush=True)
    elif found["seconds"] > 3: print(f"\r\x1b[K{found['seconds']} s: {found['group']}: {found['name']}", flush=True)
    print(f"\r\x1b[K{done}/{total} {found['group']}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    figures = main(sys.argv[1:])
    sys.exit(any(figures[name] for name in FAILED))
