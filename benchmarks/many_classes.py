"""What `stc` costs with 160 classes and 15,000 rows, in a fresh process: processor seconds after reading, peak memory.

    python benchmarks/many_classes.py --data BANKING77 --data TREC6

The classes are those of the data sets, rows of the larger set cut at random into two classes each: hard to tell apart,
so no search ends early. Only the cost is measured. `clfm plan` is asked beforehand.
"""
import argparse
import tempfile

from common import peak_of, write

FIT = """
import random, sys, time
from clfm_kit import Classifier, load_data
from clfm_kit.study.plan import plan
step, cache, *folders = sys.argv[1:]
rows = []
for folder in folders:
    data = load_data(folder)
    for part in (data.train, data.test):
        rows += [(text, f"{folder}: {label}") for text, label in zip(part.texts, part.labels)]
rows = list(dict(rows).items())[:15_000]
half = random.Random(0)
texts = [text for text, _ in rows]
labels = [f"{label} {half.randrange(2)}" if label.startswith(folders[0]) else label for _, label in rows]
clf = Classifier("stc", cache=cache)
if step == "read":
    clf.prepare()
    clf.open({}).features(texts)
    told = plan("stc", rows=len(texts), length=16, classes=len(set(labels)))
    facts = dict(rows=len(texts), classes=len(set(labels)), planned_mb=told.memory / 1e6)
else:
    began = time.process_time()
    clf.fit(texts, labels)
    facts = dict(
        processor_seconds=time.process_time() - began, seconds=clf.facts_["seconds"],
        passes=clf.facts_["backbone_passes"],
    )
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        read = peak_of(FIT, "read", cache, *given.data)
        fitted = peak_of(FIT, "fit", cache, *given.data)
    write("many_classes", fitted, [dict(step="read", **read), dict(step="fit", **fitted)])


if __name__ == "__main__": main()
