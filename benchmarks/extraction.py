"""Pooled states: speed against transformers' pipeline and sentence-transformers; second fits; start-up time.

    python benchmarks/extraction.py --data DIR [--data DIR …] [--rows 2000] [--repeats 5]
"""
import argparse
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from common import alternate, ratio, write
from transformers import AutoModel, AutoTokenizer, pipeline

from clfm_kit import Classifier, load_data
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.encoder import TextEncoder
from clfm_kit.backbone.sources import model_source
from clfm_kit.builtin.formats import Plain
from clfm_kit.builtin.poolers import Mean


def best_batch_size(run, sizes=(1, 8, 16, 32, 64, 128)):
    """The batch size at which `run` is quickest on a part of the texts."""
    seconds = {}
    for size in sizes:
        started = time.perf_counter()
        run(size)
        seconds[size] = time.perf_counter() - started
    return min(seconds, key=seconds.get), seconds


def speed(name, texts, repeats):
    """Rows a second of the three on the same texts, last layer averaged over tokens by each."""
    from sentence_transformers import SentenceTransformer
    source = model_source("minilm")
    ours = TextEncoder(Backbone.load("minilm"), Plain(), Mean())
    extract = pipeline("feature-extraction", model=AutoModel.from_pretrained(source),
                       tokenizer=AutoTokenizer.from_pretrained(source))
    theirs = SentenceTransformer(source, device="cpu")
    theirs.max_seq_length = 512
    encode = lambda some, batch: theirs.encode(some, batch_size=batch, show_progress_bar=False)
    stock = lambda texts, size: [
        np.asarray(found[0]).mean(0) for found in extract(texts, batch_size=size, truncation=True)
    ]
    size, tried = best_batch_size(lambda size: stock(texts[:400], size))
    encode_size, encode_tried = best_batch_size(lambda size: encode(texts[:400], size), (16, 32, 64, 128))
    sides = {"clfm-kit": lambda: ours.features(texts), "transformers pipeline": lambda: stock(texts, size),
             "sentence-transformers encode": lambda: encode(texts, encode_size)}
    for run in sides.values(): run()  # warm up
    seconds = alternate(sides, repeats)
    check(ours, theirs, texts[:64])
    return dict(data=name, texts=len(texts), pipeline_batch_size=size, pipeline_tried=tried,
                encode_batch_size=encode_size, encode_tried=encode_tried,
                rows_per_second={side: len(texts) / statistics.median(found) for side, found in seconds.items()},
                times_pipeline=ratio(seconds, "transformers pipeline", "clfm-kit"),
                times_encode=ratio(seconds, "sentence-transformers encode", "clfm-kit"), seconds=seconds)


def check(ours, theirs, texts):
    """All sides compute the same thing: our means, normalised, are sentence-transformers' embeddings."""
    means = np.asarray(ours.features(texts)["hidden.6/mean"])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(means - theirs.encode(texts)).max() < 2e-3


def second_fit():
    """Backbone batches read by a first and a second fit on the same texts, with another head."""
    with tempfile.TemporaryDirectory() as cache:
        passes = [
            Classifier("probe", settings=settings, cache=cache).fit("helpdesk").facts_["backbone_passes"]
            for settings in ([], ["head.C=0.1"])
        ]
    return passes


def start_up(repeats=7):
    """Seconds of `import clfm_kit` and `clfm --help` in fresh processes, and whether torch was imported."""
    def seconds(*command):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - started
    imported = subprocess.run(
        [sys.executable, "-c", "import clfm_kit, clfm_kit.cli.main, sys; print('torch' in sys.modules)"],
        capture_output=True, text=True,
    ).stdout.strip()
    return dict(
        import_seconds=statistics.median(seconds("-c", "import clfm_kit") for _ in range(repeats)),
        help_seconds=statistics.median(seconds("-m", "clfm_kit.cli.main", "--help") for _ in range(repeats)),
        torch_imported=imported == "True",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = [
        speed(splits.name, splits.train.texts[:options.rows], options.repeats)
        for splits in map(load_data, options.data)
    ]
    first, second = second_fit()
    start = start_up()
    figures = dict(passes_first_fit=first, passes_second_fit=second, **start)
    for row in rows:
        figures |= {
            f"{row['data']}: times pipeline": row["times_pipeline"],
            f"{row['data']}: times sentence-transformers": row["times_encode"],
        }
    write("extraction", figures, rows)


if __name__ == "__main__": main()
