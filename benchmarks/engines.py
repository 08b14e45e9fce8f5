"""What runs a base: plain transformers in batches sorted by length, PyTorch as this kit reads, ONNX Runtime in float32
and in eight bits. In turn, on the same texts; processor seconds, labels that change, and which way to round was taken.
Beside them the matrix products of the linear maps alone, in the batches of plain transformers.

    python benchmarks/engines.py --data DIR [--data DIR …] [--texts 512] [--rounds 5] [--out engines]
"""
import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import ratio, write
from transformers import AutoModel, AutoTokenizer

from clfm_kit import Classifier, load_data
from clfm_kit.backbone.sources import model_source
from clfm_kit.classifier.engine import OnnxEncoder, with_engine, written
from clfm_kit.classifier.export import export
from clfm_kit.classifier.reader import Reader
from clfm_kit.classifier.rounding import WAYS, examples_of

PLAIN = "plain transformers, sorted by length"
PRODUCTS = "matrix products alone"
BATCH = 32


def batches(tokenizer, texts):
    """What transformers reads of texts, those of about one length together."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), BATCH):
        some = [texts[row] for row in order[start:start + BATCH]]
        yield tokenizer(some, padding=True, truncation=True, return_tensors="pt")


def plain():
    """Means of the last layer by a loop that a careful user writes, and the products of its linear maps alone."""
    source = model_source("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    maps = [module.weight.detach().T for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)]
    values = {len(weight): torch.randn(BATCH * model.config.max_position_embeddings, len(weight)) for weight in maps}
    def read(texts):
        with torch.inference_mode():
            for batch in batches(tokenizer, texts): model(**batch).last_hidden_state.mean(1).numpy()
    def multiply(texts):
        with torch.inference_mode():
            for batch in batches(tokenizer, texts):
                tokens = batch["input_ids"].numel()
                for weight in maps: values[len(weight)][:tokens] @ weight
    return {PLAIN: read, PRODUCTS: multiply}


def measured(name, count, rounds):
    """Processor seconds of each side in turn."""
    data = load_data(name)
    rows, texts = data.train.take(range(min(1000, len(data.train)))), list(data.test.texts[:count])
    sample = list(data.validation.texts[:300])  # what the eight bits are chosen on; the texts above are others
    with tempfile.TemporaryDirectory() as folder:
        Classifier("probe", cache=None).fit(rows).save_pretrained(Path(folder, "model"))
        clf = Classifier.from_pretrained(Path(folder, "model"))
        made = export(clf, Path(folder, "small"), "onnx-int8", sample)
        export(clf, Path(folder, "whole"), "onnx", sample)
        alone = {form: Reader(Path(folder, form)) for form in ("whole", "small")}
        opened = {
            engine: with_engine(Classifier.from_pretrained(Path(folder, "model")), engine, sample)
            for engine in ("torch", "onnx")
        }
        for number, (name, way) in enumerate(WAYS.items()):
            clf, path = Classifier.from_pretrained(Path(folder, "model")), Path(folder, f"{number}.onnx")
            columns = clf.columns()
            way(written(clf, columns, folder), path, examples_of(clf.encoder_.backbone, sample))
            clf.encoder_ = OnnxEncoder(clf, columns, path, "onnx-int8")
            opened[f"int8, {name}"] = clf
    sides = {f"export, {form}": reader.predict for form, reader in alone.items()}  # one text at a time
    sides |= plain() | {engine: clf.predict for engine, clf in opened.items()}
    for side in sides.values(): side(texts[:64])
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            gc.collect()
            began = time.process_time()
            side(texts)
            seconds[name].append(time.process_time() - began)
    whole = opened["torch"].predict(texts)
    changed = {engine: float(np.mean(clf.predict(texts) != whole)) for engine, clf in opened.items()}
    return dict(
        data=data.name, texts=len(texts), words=statistics.median(len(text.split()) for text in texts), changed=changed,
        tried=made["tried"], export_changed=float(np.mean(np.array(alone["small"].predict(texts)) != whole)),
        export_int8_times_float32=ratio(seconds, "export, whole", "export, small"),
        rounded=made["rounded"], processor_seconds=seconds,
        texts_per_second={name: len(texts) / statistics.median(found) for name, found in seconds.items()},
        onnx_times_plain=ratio(seconds, PLAIN, "onnx"), torch_times_plain=ratio(seconds, PLAIN, "torch"),
        products_times_plain=ratio(seconds, PLAIN, PRODUCTS),
        int8_times_onnx={name: ratio(seconds, "onnx", f"int8, {name}") for name in WAYS},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="engines", help="the name of the file of results, one a machine")
    options = parser.parse_args()
    rows = [measured(name, options.texts, options.rounds) for name in options.data]
    figures = {}
    for row in rows:
        for name in ("onnx_times_plain", "torch_times_plain", "products_times_plain"):
            figures[f"{row['data']} {name}"] = row[name]
        for name in WAYS:
            figures[f"{row['data']} int8, {name}: times onnx"] = row["int8_times_onnx"][name]
            figures[f"{row['data']} int8, {name}: labels that change"] = row["changed"][f"int8, {name}"]
        figures[f"{row['data']} int8 export, one text at a time: times float32"] = row["export_int8_times_float32"]
        figures[f"{row['data']} int8 export, one text at a time: labels that change"] = row["export_changed"]
        figures[f"{row['data']} way that is kept: its place"] = 1 + list(WAYS).index(row["rounded"])
    write(options.out, figures, rows)


if __name__ == "__main__": main()
