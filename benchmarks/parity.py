"""Does a change of the code change an answer?

Fits every recipe on fixed rows and seeds, and compares with an earlier run.

    parity.py record FOLDER [CASE …]     fit, and keep labels, probabilities, passes, sizes and memory of each case
    parity.py compare OLD NEW [--out NAME]    what differs between two recordings; exit code 1 for more than 1e-6

A case runs in a process of its own, on one thread. Recordings of two kinds of processor differ in their last bits.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import write

HERE = Path(__file__).resolve().parent
TASKS = {"intent": "label", "slots": "slots"}
SHORT = ["training.epochs=1"]
LORA = ["quantizer=none", "selector.rank=4"]
ENCODER = {
    # name: (recipe, data, settings, further arguments of the classifier)
    "probe": ("probe", "single", [], {}),
    "probe-several": ("probe", "several", [], {}),
    "probe-balanced": ("probe", "single", ["class_weight=balanced"], {}),
    "probe-focal": ("probe", "several", ["class_weight=focal"], {}),
    "probe-mlp": ("probe", "single", ["head=mlp", "training.epochs=5"], {}),
    "probe-windows": ("probe", "single", ["format={name: windows, size: 12, overlap: 3}"], {}),
    "probe-layers": ("probe", "single", ["pooler={name: max, layer: [2, -1]}"], {}),
    "probe-energy": ("probe", "single", [], dict(reject="energy")),
    "probe-centroid": ("probe", "single", [], dict(reject={"score": "centroid-distance", "coverage": 0.9})),
    "probe-float32": ("probe", "single", [], dict(state_dtype="float32")),
    "stc": ("stc", "single", ["head.etas=[0.8]", "head.strengths=[0.1]"], {}),
    "stc-several": ("stc", "several", ["head.etas=[0.8]", "head.strengths=[0.1]", "pooler.kinds=[hidden]"], {}),
    "few-shot": ("few-shot", "single", [], {}),
    "few-shot-tuned": ("few-shot-tuned", "single", SHORT, {}),
    "finetune": ("finetune", "single", SHORT, {}),
    "finetune-several": ("finetune", "several", [*SHORT, "class_weight=focal", "training.label_smoothing=0.1"], {}),
    "finetune-sampler": ("finetune", "single", [*SHORT, "class_weight=balanced-sampler"], {}),
    "top-layers-attention": (
        "finetune", "single", ["training.epochs=2", "selector={name: top-layers, layers: 1}", "pooler=attention"], {}
    ),
    "bias-mlp": ("finetune", "single", [*SHORT, "selector=bias", "head=mlp"], {}),
    "token-sparse": ("token-sparse", "single", ["training.epochs=2"], {}),
    "gradient-sparse": ("token-sparse", "several", [*SHORT, "selector=gradient-sparse", "selector.cost=0.5"], {}),
    "tasks-probe": ("probe", "tasks", [], dict(tasks=TASKS)),
    "tasks-alone": ("probe", "tasks", [], dict(tasks={"intent": {"label": "label", "reject": "energy"}})),
    "tasks-mlp": ("probe", "tasks", ["head=mlp", "training.epochs=3"], dict(tasks=TASKS)),
    "tasks-top-layers": ("finetune", "tasks", [*SHORT, "selector=top-layers", "head=logistic"], dict(tasks=TASKS)),
    "tasks-several": (
        "probe", "lists", [],
        dict(tasks={"topics": {"label": "topics", "class_weight": "balanced"}, "intent": "label"}),
    ),
    "multitask-joint": ("multitask-joint", "tasks", SHORT, {}),
    "multitask-mixed": ("multitask-mixed", "tasks", [*SHORT, "merger.weighting=uncertainty"], {}),
}
DECODER = {
    "decoder-probe": ("probe", "single", ["pooler=last", "attention=bidirectional"], {}),
    "decoder-finetune": ("finetune", "single", [*SHORT, "pooler=last"], {}),
    "decoder-lora": ("lora-4bit", "single", [*SHORT, "selector.rank=4"], {}),
    "decoder-dora": ("lora-4bit", "single", [*SHORT, *LORA, "selector.variant=dora"], {}),
    "decoder-zero-shot": ("instruct-zero-shot", "single", [], {}),
    "decoder-instruct": ("instruct", "single", [*SHORT, *LORA], {}),
    "decoder-instruct-several": ("instruct", "several", [*SHORT, *LORA], {}),
    "decoder-lines": ("multitask-lines", "tasks", [*SHORT, *LORA], {}),
    "decoder-stc": ("stc", "single", ["head.etas=[0.8]", "head.strengths=[0.1]", "pooler.kinds=[hidden]"], {}),
    "decoder-tasks": ("multitask-joint", "tasks", [*SHORT, *LORA, "selector=lora", "pooler=last"], {}),
}
FURTHER = ("merged", "distilled", "resumed")
DROPOUT = (
    "several tasks now train as one does: dropout acts from the lowest trained block upwards, and no longer in the "
    "blocks below, which stay as they are"
)
REASONS = {"tasks-top-layers": DROPOUT, "merged": DROPOUT}  # why a case differs by more than 1e-6
COMMAND = (
    "parity.py record OLD (at commit 0ce9596); parity.py record NEW; parity.py compare OLD NEW --out parity.json"
)
CASES = (*ENCODER, *DECODER, *FURTHER)


def table(part, count, kind):
    "Fixed rows of the shipped messages as dicts."
    folder = HERE.parent / "clfm_kit" / "shipped" / "helpdesk"
    rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = sorted({row["label"] for row in rows})[:6]
    rows = [row for row in rows if row["label"] in kept][:count]
    for number, row in enumerate(rows): row["topics"] = [row["label"], "often", "rarely"][:1 + number % 3]
    fields = dict(
        single=("text", "label"), several=("text", "topics"), lists=("text", "label", "topics"),
        tasks=("text", "label", "slots", "tokens"),
    )[kind]
    rename = {"topics": "label"} if kind == "several" else {}
    return [{rename.get(name, name): row[name] for name in fields} for row in rows]


def data(kind):
    return {part: table(part, count, kind) for part, count in (("train", 160), ("validation", 60), ("test", 60))}


def decoder(folder):
    "A decoder with random weights; the tool that the wheels are tried with makes it."
    sys.path.insert(0, str(HERE.parent / "tools"))
    from small_decoder import decoder as make
    return make(folder, [row["text"] for row in table("train", 1 << 30, "single")])


def plain(values):
    return (
        [plain(value) for value in values] if isinstance(values, (list, tuple, np.ndarray))
        else getattr(values, "item", lambda: values)()
    )


def answers(clf, texts):
    "Arrays to compare bit by bit, and labels."
    labels, chances = clf.predict(texts), clf.predict_proba(texts)
    if not isinstance(labels, dict): labels, chances = {"": labels}, {"": chances}
    flat = lambda found: np.concatenate(found) if isinstance(found, list) else found
    return (
        {name: np.asarray(flat(found), dtype=np.float64) for name, found in chances.items()},
        {name: plain(found) for name, found in labels.items()},
    )


def size(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(Path(folder).rglob("*")) if path.suffix in (".safetensors",)
    }


def fitted(spec, model, place):
    from clfm_kit import Classifier
    recipe, kind, settings, more = spec
    return Classifier(recipe, model, settings=settings, cache=str(place / "cache"), **more).fit(data(kind))


def distilled(place):
    from clfm_kit import Classifier
    teacher = fitted(ENCODER["probe"], "minilm", place).save_pretrained(place / "teacher")
    file = lambda part: (place / f"{part}.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in table(part, 160, "single"))
    )
    for part in ("train", "validation", "test"): file(part)
    for name in ("train", "validation", "test"):
        (place / "rows").mkdir(exist_ok=True), (place / f"{name}.jsonl").rename(place / "rows" / f"{name}.jsonl")
    command(
        "distil", str(teacher), "--data", str(place / "rows"), "--out", str(place / "student"),
        "--set", "training.epochs=1",
    )
    return Classifier.from_pretrained(place / "student")


def command(*words):
    subprocess.run(
        [str(Path(sys.executable).parent / "clfm"), *words, "--json"], check=True, stdout=subprocess.DEVNULL
    )


def merged(place):
    from clfm_kit import Classifier
    (place / "rows").mkdir()
    for part, count in (("train", 160), ("validation", 60), ("test", 60)):
        rows = [row | other for row, other in zip(table(part, count, "tasks"), table(part, count, "lists"))]
        (place / "rows" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, label in (("intent", "label"), ("topics", "topics"), ("slots", "slots")):
        settings = [*SHORT, "selector={name: top-layers, layers: 2}", "training.head_start=probe"]
        kind = "tasks" if name == "slots" else "lists"
        Classifier(
            "finetune", "minilm", settings=settings, tasks={name: label}, cache=None
        ).fit(data(kind)).save_pretrained(place / name)
    models = [str(place / name) for name in ("intent", "topics", "slots")]
    command("merge", *models, "--data", str(place / "rows"), "--out", str(place / "merged"), "--method", "ties")
    return Classifier.from_pretrained(place / "merged")


def resumed(place):
    "A fit with checkpoints, taken up again where it had ended."
    from clfm_kit import Classifier
    settings = [*SHORT, "training.save_steps=2", "selector={name: top-layers, layers: 2}"]
    make = lambda: Classifier("finetune", "minilm", settings=settings, cache=None).fit(
        data("single"), checkpoints=str(place / "checkpoints")
    )
    make()
    return make()


def run(name, out):
    "Fit one case and write what came out."
    import warnings
    warnings.simplefilter("ignore")
    import torch
    from clfm_kit.plugins import using
    torch.set_num_threads(1)
    read, started = [], time.process_time()
    def run_event(event):
        if event["kind"] == "states" and event["done"] == event["total"]: read.append(event["total"])
    with tempfile.TemporaryDirectory() as place, using("parity", run_event=run_event):
        place = Path(place)
        os.environ["CLFM_KIT_CACHE"] = str(place / "default")  # states of other runs were read in other batches
        if name in ENCODER: clf = fitted(ENCODER[name], "minilm", place)
        elif name in DECODER: clf = fitted(DECODER[name], decoder(place / "decoder"), place)
        else: clf = {"distilled": distilled, "merged": merged, "resumed": resumed}[name](place)
        seconds, texts = (
            time.process_time() - started, [row["text"] for row in table("test", 60, "single")] + ["", "zzz"]
        )
        arrays, labels = answers(clf, texts)
        folder = clf.save_pretrained(place / "saved")
        from clfm_kit import Classifier
        again, _ = answers(Classifier.from_pretrained(folder, cache=str(place / "other")), texts)
        same = all(np.array_equal(arrays[task], again[task]) for task in arrays)
        facts = dict(
            labels=labels, passes=clf.facts_["backbone_passes"], states_read=read, files=size(folder),
            reload_equal=same, seconds=round(seconds, 1),
            peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            figures=next(iter(clf.reports_.values())).to_dict()["figures"],
        )
    np.savez_compressed(out / f"{name}.npz", **{task or "label": values for task, values in arrays.items()})
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1, default=str), encoding="utf-8")


def record(out, names):
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, name in enumerate(names, 1):
        if (out / f"{name}.json").exists(): continue
        environment = os.environ | dict(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        done = subprocess.run(
            [sys.executable, __file__, "run", name, str(out)], env=environment, capture_output=True, text=True
        )
        print(
            f"{number} of {len(names)}: {name}" + ("" if not done.returncode else f" FAILED\n{done.stderr[-3000:]}"),
            flush=True,
        )
        if done.returncode: failed.append(name)
    return 1 if failed else 0


def compare(old, new, out):
    "A line for each case; the largest difference of a probability, and whatever else is not the same."
    rows = []
    for path in sorted(old.glob("*.json")):
        if not (new / path.name).exists():
            rows.append(dict(case=path.stem, missing=True, largest=float("inf")))
            continue
        before, after = (json.loads((folder / path.name).read_text(encoding="utf-8")) for folder in (old, new))
        first, second = (np.load(folder / f"{path.stem}.npz") for folder in (old, new))
        gaps = [
            float(np.abs(first[task] - second[task]).max()) if first[task].shape == second[task].shape
                else float("inf")
            for task in first.files if task in second.files
        ]
        largest = max(gaps) if set(first.files) == set(second.files) else float("inf")
        row = dict(
            case=path.stem, largest=largest, labels_equal=before["labels"] == after["labels"],
            reload_equal=after["reload_equal"],
        )
        row |= {
            name: [before[name], after[name]]
            for name in ("passes", "states_read", "files") if before[name] != after[name]
        }
        row |= {name: [before[name], after[name]] for name in ("peak_mb", "seconds")}
        if largest > 1e-6: row["reason"] = REASONS.get(path.stem, "none is known")
        rows.append(row)
        told = {name: value for name, value in row.items() if name not in ("case", "largest")}
        print(
            f"{'same' if largest == 0 else 'close' if largest <= 1e-6 else 'OTHER'}  "
            f"{path.stem:24} {largest:.2e}  {told}"
        )
    if out: write(out, summary(rows), rows, title="Answers before and after the house was rebuilt", command=COMMAND)
    return 1 if any(row["largest"] > 1e-6 and row["case"] not in REASONS for row in rows) else 0


def summary(rows):
    "How many cases are the same, and what they took."
    ratio = lambda name: float(np.median([row[name][1] / row[name][0] for row in rows if name in row]))
    return dict(
        cases=len(rows), equal_bits=sum(row["largest"] == 0 for row in rows),
        within_1e_6=sum(0 < row["largest"] <= 1e-6 for row in rows),
        larger_with_a_reason=sum(row["largest"] > 1e-6 and row["case"] in REASONS for row in rows),
        median_ratio_of_processor_seconds=ratio("seconds"), median_ratio_of_peak_memory=ratio("peak_mb"),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=("record", "run", "compare"))
    parser.add_argument("words", nargs="+")
    parser.add_argument("--out")
    given = parser.parse_args()
    if given.verb == "run": run(given.words[0], Path(given.words[1]))
    elif given.verb == "record": sys.exit(record(Path(given.words[0]), given.words[1:] or CASES))
    else: sys.exit(compare(Path(given.words[0]), Path(given.words[1]), given.out))
