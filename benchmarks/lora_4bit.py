"""LoRA on a 4-bit base: speed against the plain script, reload parity, plans, and quality against other recipes.

    python benchmarks/lora_4bit.py speed   --data FOLDER [--model FOLDER] [--shape 512 | 3b] [--rows N] [--length N]
                                           [--device cpu | cuda]
    python benchmarks/lora_4bit.py parity  --data FOLDER --model FOLDER
    python benchmarks/lora_4bit.py plan    --data FOLDER --model FOLDER
    python benchmarks/lora_4bit.py quality --data FOLDER [--data FOLDER …] --model FOLDER
                                           [--sides probe lora-4bit …] [--seeds 3]

One process and one file a cell, so a run that was stopped goes on with what is missing; `results/lora_4bit.json` is
made of all cells there are. `plain` is the script people write: `Trainer`, peft on all linear maps, bitsandbytes,
random batches padded to their longest text, gradient checkpointing off. Its rows and settings are those of the kit's
side. Without --model, `speed` takes a decoder with random weights: `--shape 512` has a hidden size of 512 and 4
blocks, `--shape 3b` the sizes of Llama 3.2 3B, for `--device cuda`.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from common import RESULTS, save, write

CELLS = RESULTS / "lora_4bit"
SHAPES = {
    "512": dict(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4
    ),
    "3b": dict(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128,
    ),
}
SIDES = {
    "probe": ("probe", ["pooler=last"]),
    "lora-4bit": ("lora-4bit", []),
    "minilm finetune": ("finetune", []),
    "minilm lora": ("lora-4bit", ["quantizer=none", "pooler=mean"]),
    "minilm lora nf4": ("lora-4bit", ["pooler=mean"]),
}


def rows_of(folder, limit, seed=0):
    """Training rows, cut to `limit`; validation rows; at most 1,000 test rows."""
    from clfm_kit import load_data
    from clfm_kit.data.splitting import split_off
    data = load_data(folder)
    train, validation, test = data.train, data.validation, data.test
    if limit and limit < len(train): _, train = split_off(train, limit / len(train), seed)
    if validation is None: train, validation = split_off(train, 0.1, seed)
    if len(validation) > 300: validation = validation.take(range(300))
    if len(test) > 1000: test = test.take(range(0, len(test), -(-len(test) // 1000)))
    return train, validation, test


def random_decoder(shape, texts, folder, device):
    """A Llama of this shape with random weights, and a tokenizer trained on the texts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast
    if Path(folder, "model.safetensors.index.json").exists() or Path(folder, "model.safetensors").exists():
        return folder
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel()
    pieces.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<pad>", "<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    ))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="<end>", pad_token="<pad>", model_max_length=1024
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4000 if shape == "512" else 128256, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        max_position_embeddings=1024, **SHAPES[shape],
    )
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=torch.bfloat16 if shape == "3b" else torch.float32)
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return folder


class Clock:
    """Wall and processor seconds between the first and the last step of a run."""

    def __init__(self): self.times = []

    def tick(self): self.times.append((time.perf_counter(), time.process_time()))

    def seconds(self): return dict(zip(("loop", "loop_cpu"), (b - a for a, b in zip(self.times[0], self.times[-1]))))


def longer(rows, length):
    """Texts of about `length` words, made of several; labels of the first."""
    if not length: return rows
    from clfm_kit.data.rows import Rows
    together = [
        " ".join(rows.texts[(n + k) % len(rows)] for k in range(max(1, length // 12))) for n in range(len(rows))
    ]
    return Rows(together, list(rows.labels))


def kit(options, model, train, validation, test):
    from clfm_kit import Classifier
    from clfm_kit.plugins import using
    clock = Clock()
    settings = ["training.epochs=1", "training.learning_rate=2e-4", "quantizer.compute=bfloat16"]
    if options.device == "cuda": settings.append(f"training.token_budget={1 << 20}")
    if options.length: settings.append(f"format.max_length={options.length}")
    with using("clock", run_event=lambda event: clock.tick() if event["kind"] == "train" else None):
        started = time.perf_counter()
        fitted = Classifier("lora-4bit", model, settings=settings, cache=None)
        fitted.fit(train.texts, train.labels, validation)
        whole = time.perf_counter() - started
    started = time.perf_counter()
    found = fitted.predict(test.texts)
    return dict(**clock.seconds(), fit=whole, predict=time.perf_counter() - started,
                accuracy=float((found == test.labels).mean()), moving=fitted.facts_["training"]["trainable"])


def plain(options, model, train, validation, test):
    """The script people write."""
    import numpy as np
    import torch
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig, DataCollatorWithPadding, Trainer,
        TrainerCallback, TrainingArguments, set_seed,
    )
    set_seed(0)
    names = sorted(set(train.labels))
    tokenizer = AutoTokenizer.from_pretrained(model)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["score"],
    )
    network = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(names), quantization_config=quantised
    )
    network.config.pad_token_id = tokenizer.pad_token_id
    network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    network = get_peft_model(
        network, LoraConfig(TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear")
    )
    items = lambda rows: [
        dict(tokenizer(text, truncation=True, max_length=options.length or 512), labels=names.index(label))
        for text, label in zip(rows.texts, rows.labels)
    ]
    clock = Clock()

    class Tick(TrainerCallback):
        def on_step_end(self, *args, **kwargs): clock.tick()

    with tempfile.TemporaryDirectory() as place:
        cuda = torch.cuda.is_available() and options.device == "cuda"
        arguments = TrainingArguments(
            place, num_train_epochs=1, per_device_train_batch_size=32, per_device_eval_batch_size=32,
            learning_rate=2e-4, seed=0, use_cpu=not cuda, bf16=cuda, save_strategy="no", report_to=[],
            disable_tqdm=True, logging_strategy="no",
        )
        started = time.perf_counter()
        run = Trainer(
            network, arguments, train_dataset=items(train),
            data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Tick()],
        )
        run.train()
        whole = time.perf_counter() - started
        # bitsandbytes' kernel for reading stops at widths that are no multiple of 64
        for module in network.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"): module.support_avx512bf16_for_cpu = False
        started = time.perf_counter()
        found = np.argmax(run.predict(items(test)).predictions, 1)
    moving = sum(p.numel() for name, p in network.named_parameters() if p.requires_grad and "lora_" in name)
    return dict(
        **clock.seconds(), fit=whole, predict=time.perf_counter() - started,
        accuracy=float(np.mean([names[n] == label for n, label in zip(found, test.labels)])), moving=moving,
    )


def speed_cell(options, side):
    import torch
    train, validation, test = (longer(rows, options.length) for rows in rows_of(options.data[0], options.rows))
    name = options.model or str(Path(tempfile.gettempdir(), f"clfm-kit-decoder-{options.shape}"))
    model = options.model or random_decoder(options.shape, train.texts, name, options.device)
    if options.device == "cuda": torch.cuda.reset_peak_memory_stats()
    found = dict(kit=kit, plain=plain)[side](options, model, train, validation, test)
    peak = (
        torch.cuda.max_memory_allocated() / 1e6 if options.device == "cuda"
        else next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1e3
    )
    steps = -(-len(train) // 32)
    return dict(
        rows_per_second=round((steps - 1) * 32 / found["loop"], 2),
        rows_per_cpu_second=round((steps - 1) * 32 / found["loop_cpu"], 2), peak_mb=round(peak), rows=len(train),
        load=os.getloadavg()[0], **found,
    )


def named(options, side):
    "A side with the model it is over."
    return side if side.startswith("minilm") else f"{Path(options.model).name} {side}"


def quality_cell(options, folder, side, seed):
    from clfm_kit import Classifier
    train, validation, test = rows_of(folder, options.rows, seed)
    recipe, settings = SIDES[side]
    model = "minilm" if side.startswith("minilm") else options.model
    trained = [f"training.epochs={options.epochs}"] if side != "probe" else []
    rate = [f"training.learning_rate={options.rate}"] if "lora" in side else []
    settings = [*settings, *trained, *rate, f"seed={seed}", "format.max_length=128"]
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        fitted = Classifier(recipe, model, settings=settings, cache=cache).fit(train.texts, train.labels, validation)
        seconds = time.perf_counter() - started
        report = fitted.evaluate(test.texts, test.labels)
    return dict(accuracy=float(report["accuracy"]), macro_f1=float(report["macro_f1"]), fit=round(seconds, 1),
                rows=len(train), epochs=options.epochs, load=os.getloadavg()[0])


PARITY = [
    (quantizer, dtype, selector)
    for quantizer in ("none", "nf4", "int8") for dtype in ("float32", "bfloat16") for selector in ("lora", "frozen")
]
RELOAD = """
import sys, json, numpy, torch, warnings
warnings.filterwarnings("ignore")
from clfm_kit import Classifier
for folder in json.loads(sys.argv[1]):
    numpy.save(folder + ".npy", Classifier.from_pretrained(folder).decision_function(json.loads(sys.argv[2])))
"""


def parity_cell(options):
    """Logits before saving and after loading in a fresh process: the largest difference and the labels that flip.

    The same again of texts that are read one at a time.
    """
    import numpy as np
    from clfm_kit import Classifier
    train, validation, test = rows_of(options.data[0], 128)
    texts, rows = test.texts[:100], []
    with tempfile.TemporaryDirectory() as place:
        kept = {}
        for number, (quantizer, dtype, selector) in enumerate(PARITY):
            settings = [f"quantizer={quantizer}", f"quantizer.dtype={dtype}", f"selector={selector}"]
            settings += ["format.max_length=64"]
            settings += ["training.epochs=1"] if selector == "lora" else ["head=logistic", "training={}"]
            if quantizer == "nf4": settings.append(f"quantizer.compute={dtype}")
            fitted = Classifier("lora-4bit", options.model, settings=settings, cache=None)
            fitted.fit(train.texts, train.labels, validation)
            folder = str(Path(place, str(number)))
            fitted.save_pretrained(folder)
            alone = [fitted.decision_function([text]) for text in texts[:40]]
            kept[folder] = fitted.decision_function(texts), np.concatenate(alone)
            print(*PARITY[number], file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-c", RELOAD, json.dumps(list(kept)), json.dumps(texts)], check=True)
        for (folder, (before, alone)), cell in zip(kept.items(), PARITY):
            after = np.load(folder + ".npy")
            rows.append(dict(
                zip(("quantizer", "dtype", "selector"), cell), difference=float(np.abs(after - before).max()),
                flips=int((after.argmax(1) != before.argmax(1)).sum()),
                alone_difference=float(np.abs(alone - before[:40]).max()),
                alone_flips=int((alone.argmax(1) != before[:40].argmax(1)).sum()), spread=float(before.std()),
            ))
    return dict(texts=len(texts), rows=rows)


PLANS = {
    "random-512 lora-4bit": ("lora-4bit", [], 256, 48), "small decoder lora-4bit": ("lora-4bit", [], 256, 48),
    "minilm finetune": ("finetune", ["training.epochs=1"], 96, 32), "minilm probe": ("probe", [], 512, 32),
}


def work_speed():
    """Operations in a second of processor time, so that other work on the machine makes no difference."""
    import torch
    a, done, started = torch.randn(1024, 1024), 0, time.process_time()
    while time.process_time() - started < 1:
        a @ a
        done += 1
    return done * 2 * 1024**3 / (time.process_time() - started)


def plan_cell(options, name):
    """What `clfm plan` says of a run, and what the run takes: processor seconds of one thread, and memory above what
    Python and its libraries hold.
    """
    from clfm_kit import Classifier
    from clfm_kit.backbone.sources import load_tokenizer, model_source
    from clfm_kit.data.rows import Rows
    from clfm_kit.study.plan import plan
    recipe, settings, count, length = PLANS[name]
    train, _, _ = rows_of(options.data[0], count)
    model = (
        "minilm" if name.startswith("minilm") else options.model if name.startswith("small")
        else random_decoder("512", train.texts, str(Path(tempfile.gettempdir(), "clfm-kit-decoder-512")), "cpu")
    )
    tokenizer = load_tokenizer(model_source(model))
    words = " ".join(train.texts)
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    texts = (
        [tokenizer.decode(ids[start:start + length]) for start in range(0, length * count, length)]
        if len(ids) >= length * count else [tokenizer.decode((ids * 9)[n * 7:n * 7 + length]) for n in range(count)]
    )
    # what is learned makes no difference to what it takes
    labels = ["a" if n % 2 else "b" for n in range(len(texts))]
    settings = [*settings, *(["training.epochs=1"] if recipe == "lora-4bit" else []), f"format.max_length={length}"]
    peak = lambda field: (
        next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1e3
    )
    warm = ["training.epochs=1"] if recipe != "probe" else []
    # what libraries take is there before
    Classifier(recipe, options.model, settings=[*warm, "format.max_length=4"], cache=None).fit(
        texts[:16], labels[:16], Rows(texts[:4], labels[:4])
    )
    speed = work_speed()
    estimate, before = plan(recipe, model, settings, rows=len(texts), length=length, speed=speed), peak("VmRSS")
    started, worked = time.perf_counter(), time.process_time()
    Classifier(recipe, model, settings=settings, cache=None).fit(texts, labels, Rows(texts[:32], labels[:32]))
    seconds = dict(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - worked)
    return dict(
        name=name, rows=len(texts), length=length, **seconds, peak_mb=peak("VmHWM") - before,
        planned_seconds=estimate.training_seconds, planned_mb=estimate.memory / 1e6, speed=speed,
        load=os.getloadavg()[0],
    )


def summary(cells):
    """Numbers by name: medians of ratios over repeats, means over seeds."""
    figures, speed, quality = {}, defaultdict(dict), defaultdict(dict)
    for cell in cells:
        if cell["part"] == "speed": speed[cell["model"], cell["side"]][cell["repeat"]] = cell
        if cell["part"] == "quality": quality[cell["data"], cell["side"]][cell["seed"]] = cell["accuracy"]
        if cell["part"] == "plan":
            for name, planned, taken in (
                ("memory", "planned_mb", "peak_mb"), ("time", "planned_seconds", "cpu_seconds")
            ):
                figures[f"plan {cell['name']} {name}, planned / taken"] = round(cell[planned] / cell[taken], 2)
        if cell["part"] == "parity":
            for row in cell["cells"]:
                figures |= {
                    f"parity {row['quantizer']} {row['dtype']} {row['selector']} {name}": row[name]
                    for name in ("difference", "flips", "alone_difference", "alone_flips")
                }
    for model in sorted({model for model, _ in speed}):
        ours, theirs = speed[model, "kit"], speed[model, "plain"]
        both = sorted(ours.keys() & theirs.keys())
        if not both: continue
        for name in ("rows_per_second", "rows_per_cpu_second"):
            figures[f"speed {model} training {name}, ratio"] = round(
                statistics.median(ours[r][name] / theirs[r][name] for r in both), 2
            )
        for name in ("fit", "predict"):
            figures[f"speed {model} {name}, ratio"] = round(
                statistics.median(theirs[r][name] / ours[r][name] for r in both), 2
            )
        for side, found in (("kit", ours), ("plain", theirs)):
            for name in ("rows_per_second", "rows_per_cpu_second", "peak_mb", "accuracy", "load"):
                figures[f"speed {model} {side} {name}"] = round(statistics.median(found[r][name] for r in both), 3)
    for (data, side), seeds in sorted(quality.items()):
        figures[f"quality {data} {side} accuracy"] = round(statistics.mean(seeds.values()), 4)
        figures[f"quality {data} {side} seeds"] = len(seeds)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "parity", "plan", "quality", "write"])
    parser.add_argument("--data", action="append", default=[], help="folder of a data set; several for quality")
    parser.add_argument("--model", help="folder of a small decoder")
    parser.add_argument("--shape", choices=SHAPES, default="512")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--length", type=int, help="make texts of about so many tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of the adapters in quality")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["probe", "lora-4bit"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cell", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part != "write": (cell if options.cell else run)(options)
    if not options.cell:
        write(
            "lora_4bit",
            summary(found := [json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))]), found,
        )


def cell(options):
    """Run one cell in this process and write its file."""
    import warnings
    warnings.filterwarnings("ignore")
    path, kind, *rest = options.cell
    if options.part == "speed":
        model = Path(options.model).name if options.model else f"random-{options.shape}"
        model += f" {options.length}" * bool(options.length) + " cuda" * (options.device == "cuda")
        found = dict(model=model, side=kind, repeat=int(rest[0]), **speed_cell(options, kind))
    elif options.part == "plan": found = plan_cell(options, kind)
    elif options.part == "quality":
        found = dict(
            data=Path(kind).name, side=named(options, rest[0]), seed=int(rest[1]),
            **quality_cell(options, kind, rest[0], int(rest[1])),
        )
    else:
        found = parity_cell(options)
        found = dict(texts=found["texts"], cells=found["rows"])
    save(Path(path), json.dumps(dict(part=options.part, **found), indent=1))


def run(options):
    """Every cell that is missing, each in a process of its own; sides take turns."""
    name = Path(options.model).name if options.model else f"random-{options.shape}"
    if options.part == "speed":
        name += f"-{options.length}" * bool(options.length) + "-cuda" * (options.device == "cuda")
        wanted = [
            (f"speed-{name}-{side}-{repeat}", side, repeat)
            for repeat in range(options.repeats) for side in ("kit", "plain")
        ]
    elif options.part == "quality":
        wanted = [
            (f"quality-{Path(folder).name}-{named(options, side).replace(' ', '-')}-{seed}", folder, side, seed)
            for seed in range(options.seeds) for folder in options.data for side in options.sides
        ]
    elif options.part == "plan": wanted = [(f"plan-{case.replace(' ', '-')}", case) for case in PLANS]
    else: wanted = [(f"parity-{name}", "all")]
    for file, *rest in wanted:
        path = CELLS / f"{file}.json"
        if path.exists(): continue
        print(file, file=sys.stderr, flush=True)
        subprocess.run([sys.executable, *sys.argv, "--cell", str(path), *map(str, rest)], check=True)


if __name__ == "__main__":
    main()
