"""`Scoring` of short rows, as `clfm predict --out` does it: peak memory of few rows against ten times as many,
each in a fresh process, and rows a second beside those of reading the same texts alone, in turn.

    python benchmarks/scoring.py --rows 100000 --recipe keywords

`--base` is the folder of a small model for the runs that measure memory and for the recipe; without one, minilm.
"""
import argparse
import json
import tempfile
from pathlib import Path

from common import alternate, peak_of, ratio, write

MEMORY = """
import sys
from clfm_kit import Classifier
from clfm_kit.classifier.scoring import Scoring
print(Scoring(Classifier.from_pretrained(sys.argv[1]), sys.argv[2], sys.argv[3]).run())
"""


def save_rows(path, rows):
    "Short rows of a seeded kind, as JSON lines."
    from clfm_kit import load_data
    texts = [text[:60] for text in load_data("helpdesk").train.texts]
    with open(path, "w", encoding="utf-8") as file:
        for row in range(rows): print(json.dumps(dict(id=row, text=f"{texts[row % len(texts)]} {row}")), file=file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=100_000, help="of the smaller run; the larger has ten times as many"
    )
    parser.add_argument("--recipe", default="keywords", help="of the runs that measure memory")
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--form", default="parquet", help="what is written")
    parser.add_argument(
        "--read", type=int, default=8192, help="rows of the runs that measure speed, by minilm; 0 for none"
    )
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    from clfm_kit import Classifier
    from clfm_kit.classifier.scoring import Scoring
    figures, found = {}, []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        Classifier(given.recipe, given.base, cache=None).fit("helpdesk").save_pretrained(home / "model")
        for rows in (given.rows, 10 * given.rows):
            save_rows(home / "rows.jsonl", rows)
            peak = peak_of(MEMORY, home / "model", home / "rows.jsonl", home / f"out.{given.form}")["peak_mb"]
            found.append(dict(rows=rows, peak_mb=peak))
            print(found[-1], flush=True)
        figures["peak_ratio"] = found[1]["peak_mb"] / found[0]["peak_mb"]
        if given.read:
            save_rows(home / "rows.jsonl", given.read)
            clf = Classifier("probe", cache=None).fit("helpdesk")
            texts = [json.loads(line)["text"] for line in open(home / "rows.jsonl", encoding="utf-8")]
            reader = clf.encoder_.uncached()
            seconds = alternate(dict(
                scoring=lambda: Scoring(clf, home / "rows.jsonl", home / f"out.{given.form}").run(),
                reading=lambda: reader.features(texts, list(clf.task().columns)),
            ), given.repeats)
            figures["rows_a_second_of_reading"] = 1 / ratio(seconds, "scoring", "reading")
            found += [dict(side=side, rows=given.read, seconds=taken) for side, taken in seconds.items()]
    write("scoring", figures, found)


if __name__ == "__main__": main()
