"""Peak memory of reading texts into the state cache, from 10,000 to 100,000 texts, each in a fresh process.

    python benchmarks/memory.py
"""
import argparse

from common import peak_of, write

MEMORY = """
import sys, tempfile
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.encoder import TextEncoder
from clfm_kit.builtin.formats import Plain
from clfm_kit.builtin.poolers import Mean
texts = [f"message {i} " + "about a parcel that never came " * (i % 2) for i in range(int(sys.argv[1]))]
with tempfile.TemporaryDirectory() as cache:
    TextEncoder(Backbone.load("minilm"), Plain(), Mean(), cache).features(texts)
"""


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    peaks = {rows: peak_of(MEMORY, rows)["peak_mb"] for rows in (10_000, 100_000)}
    few, many = peaks.values()
    write("memory", dict(peak_mb_10k=few, peak_mb_100k=many, peak_growth=many / few - 1),
          [dict(rows=rows, peak_mb=peak) for rows, peak in peaks.items()])


if __name__ == "__main__": main()
