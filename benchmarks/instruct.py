"""Label scoring in one pass against generating and scoring one by one; training memory; heads and instructions.

    python benchmarks/instruct.py speed --data FOLDER [--data FOLDER …] [--hidden 256] [--rows 32] [--repeats 3]
    python benchmarks/instruct.py speed --data FOLDER --model FOLDER
    python benchmarks/instruct.py memory
    python benchmarks/instruct.py accuracy --model FOLDER --data FOLDER [--data FOLDER …] [--rows 600] [--tests 500]
    python benchmarks/instruct.py quality --model FOLDER --data FOLDER [--data FOLDER …] [--seeds 3] [--rows 600]
        [--tests 500] [--words 60] [--minutes 5]

`speed` builds a decoder with random weights and 32,000 ids, its tokenizer trained on the texts of all `--data`, or
takes the one that is given, and asks it about the labels of the first (77 for BANKING77). Every side has the same
model, prompt and rows; the sides alternate, and figures are medians of ratios. Generating has a cache, is as long as
the longest label needs, is batched (16 texts, padded on the left) and, in a side of its own, not batched (the default
of a Transformers pipeline); its answers are parsed as they usually are. Sides called `repeated` read the whole prompt
for every text. `gigaflops` of a side: multiplications and additions with weights, for one text. `memory` compares
peaks of one training step in processes of their own. `accuracy` asks one tuned decoder both ways: by scoring, and by
generating and parsing. `quality` fits heads and instructions on one base and the same rows. One thread a process,
load in the file.
"""
import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

from common import RESULTS, alternate, peak_of, ratio, save, write

VOCABULARY = 32_000


def decoder(folder, texts, hidden, layers):
    """A Llama with random weights and 32,000 ids, and a tokenizer of as many trained on the texts, saved to a folder.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    words.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=2048
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, num_key_value_heads=hidden // 64, max_position_embeddings=2048,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def bound(folder, labels, normalisation="vocabulary", **asking):
    """Parts of the kit bound to the model for these labels; `asking` are settings of the format."""
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.backbone.encoder import Context, bind_parts
    from clfm_kit.builtin.labels import SingleLabel
    from clfm_kit.data.rows import UNNAMED, Rows
    from clfm_kit.parts import make
    parts = dict(format=make("format", {"name": "instruction", **asking}),
                 pooler=make("pooler", {"name": "answers", "normalisation": normalisation}),
                 head=make("head", "verbalizer"))
    rows, schemas = Rows(list(labels), list(labels)), {UNNAMED: SingleLabel.of(labels)}
    context = Context(Backbone.load(folder, language_head=True), schemas, parts, rows)
    bind_parts(context)
    return context


def whole_prompts(context, texts):
    """Prompts as token lists, the instruction included."""
    asks = context.parts["format"]
    (_, space, _), = asks.columns
    return [asks.reader.prefix + asks.ids(space + text) + asks.after for text in texts]


def longest_answer(context):
    return max(len(answer.scored) for answer in context.parts["format"].tokens_of_answers())


def generated(backbone, prompts, labels, longest, batch=16):
    """Greedy generation and parsing; returns labels, None where no label is found."""
    from clfm_kit_instruct.generation import generate
    found = []
    order = sorted(labels, key=len, reverse=True)
    for start in range(0, len(prompts), batch):
        for tokens in generate(backbone, prompts[start:start + batch], longest=longest):
            line = backbone.tokenizer.decode(tokens).strip().partition("\n")[0].strip("\"' ").lower()
            found.append(next((label for label in order if label.lower() in line), None))
    return found


def one_by_one(context, prompts, budget=4096):
    """Each label behind each prompt in a sequence of its own, as an evaluation harness does;
    the logits of answer positions only.
    """
    import numpy as np
    import torch
    from clfm_kit.backbone.batching import batches
    from clfm_kit.backbone.tokens import pad
    answers = [answer.tokens for answer in context.parts["format"].tokens_of_answers()]
    jobs = [
        (row, column, prompt + tokens) for row, prompt in enumerate(prompts) for column, tokens in enumerate(answers)
    ]
    sizes, found = np.array([len(ids) for _, _, ids in jobs]), np.zeros((len(prompts), len(answers)))
    model = context.backbone.language_model
    with torch.inference_mode():
        for batch in batches(sizes, np.ones_like(sizes), budget):
            ids, mask = pad([jobs[n][2] for n in batch], 0)
            states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            for state, number in zip(states, batch):
                row, column, tokens = jobs[number]
                first = len(prompts[row])
                logits = model.get_output_embeddings()(state[first - 1:len(tokens) - 1]).log_softmax(-1)
                found[row, column] = logits[range(len(tokens) - first), tokens[first:]].sum()
    return found


def gigaflops(backbone, tokens, projected):
    """Products with weights for one text: `tokens` pass the blocks, `projected` states meet the vocabulary.

    Attention is left out.
    """
    head = backbone.language_model.get_output_embeddings().weight.numel()
    blocks = sum(p.numel() for p in backbone.blocks.parameters() if p.ndim == 2)
    return 2 * (tokens * blocks + projected * head) / 1e9


def work_of(context, prompts):
    """`gigaflops` of a bound context that reads what stands behind the shared prompt."""
    asks, tree = context.parts["format"], context.parts["pooler"].tree
    tokens = statistics.mean(map(len, prompts)) - asks.reader.shared + len(tree)
    return gigaflops(context.backbone, tokens, len(tree.sources) if tree.normalisation == "vocabulary" else 0)


def speed(options):
    import numpy as np
    import torch
    from clfm_kit import load_data
    from clfm_kit.backbone.backbone import Backbone
    torch.set_num_threads(1)
    data = load_data(options.data[0])
    labels, texts = sorted(set(data.train.labels)), data.test.texts[:options.rows]
    with tempfile.TemporaryDirectory() as place:
        folder = options.model or place
        if not options.model:
            others = [str(text) for more in options.data[1:] for text in load_data(more).train.texts]
            decoder(folder, [*data.train.texts, *labels * 20, *others], options.hidden, options.layers)
        ways = {
            "names": dict(answers="names"),
            "codes": dict(answers="codes"),
            "names, tree": dict(answers="names", normalisation="tree"),
            "codes, tree": dict(answers="codes", normalisation="tree"),
        }
        kits = {name: bound(folder, labels, **settings) for name, settings in ways.items()}
        kits |= {
            f"{name}, repeated": bound(folder, labels, prefix="repeated", **settings)
            for name, settings in ways.items()
        }
        prompts = whole_prompts(kits["names"], texts)
        plain, longest, answers = Backbone.load(folder, language_head=True), longest_answer(kits["names"]), {}
        sides = {
            name: lambda name=name, context=context: answers.__setitem__(
                name, context.read(texts)[f"hidden.{context.backbone.shape.depth}/answers"]
            )
            for name, context in kits.items()
        }
        sides["generate"] = lambda: answers.__setitem__("generate", generated(plain, prompts, labels, longest))
        sides["generate one"] = lambda: generated(plain, prompts, labels, longest, batch=1)
        for run in sides.values(): run()  # warm
        seconds = alternate(sides, options.repeats)
        few = texts[:options.few]
        slow = alternate(
            {
                "one by one": lambda: answers.__setitem__(
                    "one by one", one_by_one(kits["names"], prompts[:options.few])
                ),
                "tree": lambda: kits["names"].read(few),
            },
            1,
        )
    figures = {
        "one_by_one_over_tree": slow["one by one"][0] / slow["tree"][0],
        "largest_difference_from_one_by_one": float(
            np.abs(answers["one by one"] - answers["names"][:options.few]).max()
        ),
        "unparsable_generated": sum(found is None for found in answers["generate"]), "unparsable_scored": 0,
        "labels": len(labels), "prompt_tokens": len(kits["names"].parts["format"].reader.prefix),
    }
    for name in ways:
        key = name.replace(", ", "_")
        figures |= {
            f"rows_per_second_{key}": len(texts) / statistics.median(seconds[name]),
            f"generate_over_{key}": ratio(seconds, "generate", name),
            f"generate_one_over_{key}": ratio(seconds, "generate one", name),
            f"repeated_over_shared_{key}": ratio(seconds, f"{name}, repeated", name),
            f"gigaflops_{key}": work_of(kits[name], whole_prompts(kits[name], texts)),
        }
    for name in ("generate", "generate one"):
        figures[f"rows_per_second_{name.replace(' ', '_')}"] = len(texts) / statistics.median(seconds[name])
    figures["gigaflops_generate"] = gigaflops(plain, statistics.mean(map(len, prompts)) + longest - 1, longest)
    rows = [
        dict(side=name, seconds=found, **(kits[name].parts["pooler"].report if name in kits else {}))
        for name, found in seconds.items()
    ]
    shape, model = plain.shape, Path(options.model).name if options.model else "random"
    write(
        f"instruct_speed_{model}" if options.model else "instruct_speed", figures, rows, load=os.getloadavg(),
        texts=len(texts), hidden=shape.hidden, layers=shape.depth, model=model,
    )


STEP = """
import sys, torch, numpy as np
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1)
side, vocabulary, batch, width = sys.argv[1], 32000, 16, 256
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=vocabulary, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2,
))
ids = torch.randint(3, vocabulary, (batch, width))
if side == "stock":
    labels = ids.clone()
    labels[:, :-4] = -100
    model(ids, labels=labels).loss.backward()
elif side == "kit":
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit_instruct.pooler import answer_scores
    from clfm_kit_instruct.reading import Reader
    from clfm_kit_instruct.tree import Answer, AnswerTree
    class Ids: pad_token_id, pad_token, eos_token, model_max_length = 0, "<pad>", "<end>", 2048
    backbone = Backbone(model.base_model, Ids(), language_model=model)
    reader = Reader(backbone, [])
    reader.tree = AnswerTree([Answer([*ids[row, -4:-1].tolist(), 2]) for row in range(batch)][:int(sys.argv[2])])
    ids = torch.cat([ids[:, :-4], torch.from_numpy(reader.tree.tokens).expand(batch, -1)], 1)
    mask, seen = torch.ones_like(ids), []
    backbone.read(ids, mask, {"hidden.4": seen.append}, reader(ids, mask))
    states = reader.node_states(seen[0], mask, reader.tree.sources)
    logits = answer_scores(states, reader.tree, model.get_output_embeddings())
    (-logits[torch.arange(batch), torch.arange(batch) % logits.shape[1]].mean()).backward()
"""


def memory(options):
    sides = {"idle": ("idle",), "stock": ("stock",), "kit, 2 labels": ("kit", 2), "kit, 16 labels": ("kit", 16)}
    peaks = {
        name: [peak_of(STEP, *arguments)["peak_mb"] for _ in range(options.repeats)]
        for name, arguments in sides.items()
    }
    middle = {name: statistics.median(found) for name, found in peaks.items()}
    figures = {f"peak_mb_{name.replace(', ', '_').replace(' ', '_')}": found for name, found in middle.items()}
    for labels in (2, 16):
        figures[f"kit_over_stock_{labels}_labels"] = middle[f"kit, {labels} labels"] / middle["stock"]
    write(
        "instruct_memory", figures, [dict(side=name, peak_mb=found) for name, found in peaks.items()], batch=16,
        tokens=256, vocabulary=VOCABULARY,
    )


def accuracy(options):
    """A decoder tuned on each data set, asked twice: its answers scored, and generated greedily and parsed.

    Above 26 labels answers are codes and the prompt lists no labels.
    """
    import numpy as np
    import torch
    from clfm_kit import Classifier, Recipe, load_data
    from clfm_kit.data.splitting import split_off
    from clfm_kit_instruct.generation import generate, prompts_of
    torch.set_num_threads(1)
    epochs = options.epochs
    training = dict(epochs=epochs, learning_rate=1e-3, head_start="random", batch_size=16, patience=epochs)
    recipe = Recipe(name="instruct", format="instruction", selector="full", pooler="answers", head="verbalizer",
                    training=training)
    figures, rows = {}, []
    for place in options.data:
        data, name = load_data(place), Path(place).name
        rows_of = lambda part, most: part.take(range(min(most, len(part))))
        few = data.train
        if len(few) > options.rows: few = split_off(few, options.rows / len(few), 0)[1]
        validation, test = rows_of(data.validation, 100), rows_of(data.test, options.tests)
        settings = ["format.template='{text}\\nLabel:'"] * (len(set(data.train.labels)) > 26)
        clf = Classifier(recipe, options.model, settings=settings, cache=None).fit(few.texts, few.labels, validation)
        asks, labels, answers, truth = clf.parts_["format"], clf.task().schema.labels, {}, np.array(test.labels)
        words = sorted(zip(map(str.lower, asks.answers_), labels), key=lambda pair: -len(pair[0]))
        longest = max(len(asks.answer_ids(answer)) for answer in asks.answers_) + 1

        def write_and_parse():
            prompts, backbone, found = prompts_of(clf, test.texts), clf.encoder_.backbone, []
            for start in range(0, len(prompts), 16):
                for tokens in generate(backbone, prompts[start:start + 16], longest=longest):
                    line = backbone.tokenizer.decode(tokens).strip().partition("\n")[0].strip("\"' ").lower()
                    found.append(next((label for answer, label in words if line.startswith(answer)), None))
            answers["generated"] = found

        score = lambda: answers.__setitem__("scored", clf.predict(test.texts))
        seconds = alternate({"scored": score, "generated": write_and_parse}, options.repeats)
        figures |= {
            f"{name}: {side}": float(np.mean([a == b for a, b in zip(found, truth)]))
            for side, found in answers.items()
        }
        figures |= {f"{name}: unparsable generated": sum(found is None for found in answers["generated"]),
                    f"{name}: unparsable scored": sum(found not in labels for found in answers["scored"]),
                    f"{name}: generated over scored": ratio(seconds, "generated", "scored")}
        rows.append(dict(data=name, seconds=seconds, codes=asks.coded, **clf.task().head.report_))
    write("instruct_accuracy", figures, rows, load=os.getloadavg(), model=Path(options.model).name,
          train=options.rows, tests=options.tests, epochs=epochs)


def sides_of(options):
    """Recipes to compare: one base, one budget, and what the same prompt gives without training."""
    from clfm_kit import Recipe
    budget = dict(epochs=options.epochs, learning_rate=2e-3, batch_size=16, patience=options.epochs)
    head, asked, unasked = Recipe.of("lora-4bit"), Recipe.of("instruct"), Recipe.of("instruct-zero-shot")
    return {"head, frozen": (Recipe(name="probe", pooler="last"), {}),
            "head, lora-4bit": (head, budget),
            "instruction, zero-shot": (unasked, {}),
            "instruction, few-shot": (unasked, {"format.shots": 1}),
            "instruction, instruct": (asked, budget)}


def quality_row(options, data, name, side, seed):
    """Fit one side on one draw of training rows and measure it on the test rows."""
    from clfm_kit import Classifier
    from clfm_kit.data.splitting import split_off
    recipe, changed = sides_of(options)[side]
    settings = (
        [f"seed={seed}"] + [f"{key if '.' in key else 'training.' + key}={value}" for key, value in changed.items()]
    )
    train = data.train
    if len(train) > options.rows: train = split_off(train, options.rows / len(train), seed)[1]
    sizes = (data.validation, options.tests // 2), (data.test, options.tests)
    validation, test = (part.take(range(min(most, len(part)))) for part, most in sizes)
    short = lambda text: " ".join(text.split()[:options.words])
    for part in (train, validation, test): part.texts = list(map(short, part.texts))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        clf = Classifier(recipe, options.model, settings=settings, cache=cache)
        clf.fit(train.texts, train.labels, validation)
        fitted = time.perf_counter() - started
        report = clf.evaluate(test.texts, test.labels)
    figure = clf.task().main_figure
    return dict(data=name, side=side, seed=seed, figure=figure, value=float(report[figure]),
                macro_f1=float(report["macro_f1"]), fit_seconds=round(fitted, 1), load=round(os.getloadavg()[0], 1))


def quality(options):
    """Rows of an interrupted run are kept beside the results (`.partial`) and not measured again;
    `--minutes` ends a piece early.
    """
    import json
    import numpy as np
    import torch
    from clfm_kit import UserError, load_data
    torch.set_num_threads(1)
    budget = dict(
        model=Path(options.model).name, train=options.rows, tests=options.tests, words=options.words,
        epochs=options.epochs,
    )
    partial, ends = RESULTS / "instruct_quality.partial", time.monotonic() + options.minutes * 60
    kept = json.loads(partial.read_text()) if partial.exists() else {}
    rows = kept["rows"] if kept.get("budget") == budget else []
    for seed in range(options.seeds):
        for place in options.data:
            data, name = load_data(place), Path(place).name
            for side in sides_of(options):
                if any((row["data"], row["side"], row["seed"]) == (name, side, seed) for row in rows): continue
                if time.monotonic() > ends: return print("the piece ends here; run it again to go on")
                try: rows.append(quality_row(options, data, name, side, seed))
                except UserError as error:
                    # examples that do not fit the model
                    rows.append(dict(data=name, side=side, seed=seed, refused=str(error)))
                save(partial, json.dumps(dict(budget=budget, rows=rows)))
                print(rows[-1], flush=True)
    figures = {}
    for row in rows:
        if "value" in row: figures.setdefault(f"{row['data']}: {row['side']}", []).append(row["value"])
    spread = {f"{name}, deviation": float(np.std(found, ddof=1)) for name, found in figures.items() if len(found) > 1}
    write(
        "instruct_quality", {name: float(np.mean(found)) for name, found in figures.items()} | spread, rows, **budget
    )
    partial.unlink()


def plot():
    """Two panels from the results that are there."""
    import json
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    read = lambda name: (
        json.loads((RESULTS / f"{name}.json").read_text()) if (RESULTS / f"{name}.json").exists() else None
    )
    found = {name: read(f"instruct_{name}") for name in ("speed", "quality")}
    there = [name for name, result in found.items() if result]
    figure, axes = plt.subplots(1, len(there), figsize=(6.5 * len(there), 3.6), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], there):
        if name == "speed":
            values = {
                key.removeprefix("rows_per_second_").replace("_", ", "): value
                for key, value in found[name]["figures"].items() if key.startswith("rows_per_second_")
            }
            axis.barh(list(values), list(values.values()))
            axis.set(
                xlabel="rows a second, one thread",
                title=f"{found[name]['figures']['labels']} labels, instruction of "
                    f"{found[name]['figures']['prompt_tokens']} tokens",
            )
        else:
            rows = found[name]["rows"]
            sides, sets = list(dict.fromkeys(r["side"] for r in rows)), list(dict.fromkeys(r["data"] for r in rows))
            for number, side in enumerate(sides):
                values = [
                    [r.get("value", float("nan")) for r in rows if r["side"] == side and r["data"] == one]
                    for one in sets
                ]
                axis.errorbar(
                    [n + 0.12 * (number - len(sides) / 2) for n in range(len(sets))], [np.mean(v) for v in values],
                    [np.std(v) for v in values], fmt="o", label=side,
                )
            axis.set(
                xticks=range(len(sets)), xticklabels=sets,
                title=f"accuracy or micro-F1, {found[name]['model']}", ylim=(0, 1),
            )
            axis.legend(fontsize=7)
    figure.savefig(RESULTS / "instruct.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "accuracy", "quality", "plot"])
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--model")
    for name, default in dict(
        rows=32, few=2, repeats=3, hidden=256, layers=6, seeds=3, tests=500, epochs=4, words=60, minutes=600
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    plot() if options.what == "plot" else globals()[options.what](options)
