"""Write tables between markers: of the README, the page docs/benchmarks.md and the READMEs of stc and token-sparse.

    python benchmarks/readme.py
"""
import json
import re
import statistics
from pathlib import Path

from common import RESULTS
from matplotlib import pyplot
from peers import against

from clfm_kit.display.plots import BLUE, GREEN, GREY, MARKS, axes_of, finding
from clfm_kit.evaluation.metrics import Undefined
from clfm_kit.study.comparison import BASELINE

FORMER = (
    "These figures are from before the heads were rebuilt to scale rows, to choose by cross-validation and to take "
    "whole layers too (see `CHANGELOG.md`)."
)
ROOT = Path(__file__).resolve().parents[1]
RECIPES = (
    "tfidf", "embedding", "keywords", "probe", "few-shot", "stc", "stc+keywords", "token-sparse", "few-shot-tuned", "auto",
)
BEGIN, END = "<!-- results: written by benchmarks/readme.py -->", "<!-- end of results -->"


def load(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def percent(value): return f"{100 * value:.1f}"


def defaults():
    """Recipes with their defaults, a row a data set and size; the best of each row in bold."""
    found = load("defaults")
    if not found: return ""
    cells = {(row["data"], row["size"], row["recipe"]): row for row in found["rows"]}
    sets = sorted({(data, size) for data, size, name in cells if name == "auto"})
    recipes = [name for name in RECIPES if any((*one, name) in cells for one in sets)]
    lines = [
        "All recipes with their defaults, on a frozen or trained MiniLM-L6: accuracy in percent (micro-F1 for several "
            "labels) on 1,000 other training rows, mean over the splits. Test rows are not used. `tfidf` is the "
            "keyword baseline; `embedding` is scikit-learn's logistic regression on the model's plain sentence "
            "embedding. `auto` has the time that it has by default, on one core; `few-shot-tuned` was run alone only "
            "with 64 rows per class. With 600 rows `auto` was measured before `few-shot-tuned` became its last candidate; "
            "the default time for it is estimated to be too short there. `stc` and `stc+keywords`, too, were measured with 600 "
            "rows before another candidate had to be further ahead of the upper half of the layers.",
        "",
        f"| set | rows | {' | '.join(recipes)} | splits |",
        "|---" * (len(recipes) + 3) + "|",
    ]
    for data, size in sets:
        here = {name: cells[data, size, name] for name in recipes if (data, size, name) in cells}
        best = max(round(row["score"], 3) for row in here.values())
        bold = lambda text, row: f"**{text}**" if round(row["score"], 3) == best else text
        shown = [bold(percent(here[name]["score"]), here[name]) if name in here else "–" for name in recipes]
        rows, splits = next(iter(here.values()))["train"], max(row["splits"] for row in here.values())
        each = f", {size.replace('-', ' ')}" if "class" in size else ""
        lines.append(f"| {data} | {rows}{each} | {' | '.join(shown)} | {splits} |")
    told = [choosing(cells, sets, name) for name in ("auto", "stc", "probe") if name in recipes]
    return "\n".join([*lines, "", *told])


SHORT = {
    "tfidf": "TF-IDF and logistic regression, the baseline", "probe": "`probe`: the last layer, frozen",
    "stc+keywords": "`stc+keywords`: all layers, frozen, and keywords",
    "token-sparse": "`token-sparse`: few rows of weights, trained",
    "auto": "`auto`, the default: chooses one of them",
}


def whole_sets():
    """The cells {(data set, recipe): row} at 600 rows, and the sets that have all of the short list."""
    cells = {(row["data"], row["recipe"]): row for row in load("defaults")["rows"] if row["size"] == "600"}
    return cells, sorted({data for data, _ in cells if all((data, name) in cells for name in SHORT)})


def summary():
    """Five recipes with their defaults over all sets at 600 rows, a row each."""
    cells, sets = whole_sets()
    best = dict.fromkeys(sets, 0.0)
    for (data, name), row in cells.items():
        if data in best and name not in ("auto", "tfidf"): best[data] = max(best[data], row["score"])
    lines = [
        f"| recipe with its defaults, {len(sets)} data sets, 600 rows each | mean | clearly above TF-IDF | "
            "clearly below TF-IDF | points below each set's best recipe, mean (largest) "
            "| processor seconds, median |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in SHORT.items():
        rows = [cells[data, name] for data in sets]
        gains = [row["against"]["tfidf"] for row in rows if "tfidf" in row["against"]]
        better, worse = sum(gain["low"] > 0 for gain in gains), sum(gain["high"] < 0 for gain in gains)
        below = [100 * (best[row["data"]] - row["score"]) for row in rows]
        counted = lambda count: f"{count} set" if count == 1 else f"{count} sets"
        apart = (counted(better), counted(worse)) if gains else ("–", "–")
        seconds = statistics.median(row["processor_seconds"] for row in rows)
        lines.append(
            f"| {words} | {percent(statistics.mean(row['score'] for row in rows))} | {' | '.join(apart)} | "
            f"{statistics.mean(below):.1f} ({max(below):.1f}) | {seconds:.0f} |"
        )
    splits = sorted({cells[data, "auto"]["splits"] for data in sets})
    drawn = f"{splits[0]} to {splits[-1]} splits" if len(splits) > 1 else f"{splits[0]} splits"
    lines += [
        "",
        "Accuracy in percent (micro-F1 where a text has several labels) on training rows that were set aside, "
        f"{drawn} of each data set; MiniLM-L6, CPU.",
    ]
    return "\n".join(lines)


def frontier():
    """Draw the mean of each recipe over all sets at 600 rows, against processor seconds, into `defaults.png`."""
    cells, sets = whole_sets()
    names = [name for name in RECIPES if all((data, name) in cells for data in sets)]
    axes, scores = axes_of(None, 6.5, 3.6), {}
    for name in names:
        rows = [cells[data, name] for data in sets]
        seconds = statistics.median(row["processor_seconds"] for row in rows)
        scores[name] = score = 100 * statistics.mean(row["score"] for row in rows)
        colour = {"auto": GREEN, "tfidf": GREY}.get(name, BLUE)
        axes.plot(seconds, score, "o", color=colour, markersize=8)
        side = dict(ha="right", xytext=(-8, 4)) if name in ("token-sparse", "stc+keywords") else dict(xytext=(8, -4))
        if name == "tfidf": side = dict(ha="center", xytext=(0, -16))
        words = {"tfidf": "TF-IDF baseline", "auto": "auto, the default"}.get(name, name)
        axes.annotate(words, (seconds, score), textcoords="offset points", **side)
    axes.set(xscale="log", xlabel="processor seconds to fit, median", ylabel="accuracy or micro-F1, mean")
    axes.margins(x=0.25, y=0.15)
    means = f"the default has {scores['auto']:.1f}, TF-IDF {scores['tfidf']:.1f}"
    finding(axes, f"600 rows, {len(sets)} data sets: {means}")
    axes.figure.savefig(RESULTS / "defaults.png", dpi=130)
    return "![Mean accuracy against processor seconds](../benchmarks/results/defaults.png)"


def told_apart(cells, mine, name, other):
    """In how many rows a recipe is clearly better than another, and clearly worse."""
    gains = [cells[*one, name]["against"][other] for one in mine if other in cells[*one, name]["against"]]
    better, worse = sum(gain["low"] > 0 for gain in gains), sum(gain["high"] < 0 for gain in gains)
    what = "the best single recipe" if other == "best" else f"`{other}`"
    return f"clearly better than {what} in {better} of {len(gains)} rows, clearly worse in {worse}"


def choosing(cells, sets, name):
    """How a recipe stands against others, and how far below the best recipe of each row it is."""
    mine = [one for one in sets if (*one, name) in cells]
    single = [key for key in cells if key[2] not in ("auto", "tfidf")]
    others = lambda one: [cells[key]["score"] for key in single if key[:2] == one]
    below = {one: 100 * (max(others(one)) - cells[*one, name]["score"]) for one in mine}
    worst = max(below, key=below.get)
    rivals = dict(auto=("tfidf", "best"), stc=("tfidf", "probe"), probe=("tfidf", "embedding"))[name]
    told = "; ".join(told_apart(cells, mine, name, other) for other in rivals)
    return (
        f"`{name}`: {told} (95 % intervals); {statistics.mean(below.values()):.1f} points below the best single "
        f"recipe of each row on average, at most {below[worst]:.1f} ({worst[0]}).\n"
    )


def layers():
    """One row a data set: baseline, probes, STC, and the difference with its interval."""
    found = load("stc")
    if not found: return ""
    lines = [
        "Test accuracy in percent (micro-F1 for data sets with several labels per text) of a frozen MiniLM-L6. "
            "STC is sparsify-then-classify. Every choice is made on validation rows; test rows that also occur in "
            "training are left out.",
        "",
        f"| data set | {BASELINE} | last layer | best middle layer | STC | STC against last layer (95 %) "
            "| early exit: blocks of 6 | accuracy there |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        main, versus = row["main"], row["versus"]["last-layer probe"]
        sides = (BASELINE, "last-layer probe", "best-mid-layer probe", "STC")
        cells = [percent(row[f"{side}: {main}"]) for side in sides]
        lines.append(
            f"| {row['data']} | " + " | ".join(cells) + f" | {100 * versus['difference']:+.1f} "
                f"({100 * versus['low']:+.1f} … {100 * versus['high']:+.1f}) | {row['exit layer']} | "
                f"{percent(row[f'STC, early exit: {main}'])} |"
        )
    f = found["figures"]
    lines += [
        f"\n`{row['data']}`: settings `{' '.join(row['settings'])}`, chosen by cross-validation of training rows."
        for row in found["rows"] if row["settings"]
    ]
    lines += [
        "",
        f"STC is clearly better than the last-layer probe on {f['clearly better than the last-layer probe']} of "
            f"{f['data sets']} sets and clearly worse on {f['clearly worse than the last-layer probe']}; "
            f"against the best middle layer: {f['clearly better than the best-mid-layer probe']} and "
            f"{f['clearly worse than the best-mid-layer probe']}.",
        "",
        "It loses where long texts are cut and few validation rows decide: `medical_abstracts_small` has 266 of them, "
            "`hallmarks_of_cancer` 185. There keywords do better than any probe of this encoder.",
    ]
    return "\n".join(lines)


def peers():
    """Every technique on every data set: few rows a class, a line for each set; and more rows,
    a line for each technique.
    """
    cells = [json.loads(path.read_text()) for path in sorted((RESULTS / "peers").glob("*.json"))]
    if not cells: return ""
    lines = [
        "Other tools on the same rows: accuracy (micro-F1 for several labels) in percent, mean over seeds, "
        "and seconds of the whole process, while other work ran on the machine. `clfm:` marks recipes of this kit; "
        "the others are used as their documentation says. SetFit with 64 rows per class waited for other work, "
        "so its seconds overstate its cost. `clfm:few-shot` and `-probe` with few rows per class were measured "
        "before the heads were rebuilt. Intervals and plots are on the page of all result files."
    ]
    few, many = [cell for cell in cells if cell["shots"]], [cell for cell in cells if not cell["shots"]]
    if few:
        lines += [
            "", *standing(few), "",
            *crossed(
                few, lambda cell: (cell["data"], cell["shots"]), lambda cell: cell["technique"], "data set",
                lambda key: f"{key[0]}, {key[1]} per class", str,
            ),
        ]
    if many:
        lines += [
            "",
            *crossed(
                many, lambda cell: cell["technique"], lambda cell: (cell["data"], cell["sizes"]["train"]),
                "technique", str, lambda key: f"{key[0]}, {key[1]:,} rows",
            ),
        ]
    return "\n".join(lines)


def standing(cells):
    """Who wins with few rows a class: our recipes against SetFit, by 95 % intervals over splits."""
    tables = {}
    for cell in cells:
        tables.setdefault((cell["data"], cell["shots"]), {}).setdefault(cell["technique"], {})[cell["seed"]] = cell
    names, lines = {"better": "clearly better on", "worse": "clearly worse on", "open": "no clear difference on"}, []
    for technique in sorted({cell["technique"] for cell in cells if cell["technique"].startswith("clfm:")}):
        found = {name: [] for name in names}
        for (data, shots), sides in sorted(tables.items()):
            if technique not in sides or "setfit" not in sides: continue
            _, splits = against(sides[technique], sides["setfit"])
            if isinstance(splits.low, Undefined): continue
            shown = f"{data} {shots} ({100 * splits.low:+.1f} … {100 * splits.high:+.1f})"
            found["better" if splits.low > 0 else "worse" if splits.high < 0 else "open"].append(shown)
        lines.append(
            f"- `{technique}`: "
            + "; ".join(f"{words} {', '.join(found[name])}" for name, words in names.items() if found[name]) + "."
        )
    return [
        "Compared with SetFit on the same splits (data set, rows per class, 95 % interval of the difference in points "
            "over the splits that both have):",
        "", *lines,
    ]


def crossed(cells, row_of, column_of, head, row_name, column_name):
    """A table of the main figure, mean over seeds, with seconds and what was set apart from the defaults."""
    rows, columns = sorted({row_of(cell) for cell in cells}), sorted({column_of(cell) for cell in cells})
    most = max(cell["seed"] for cell in cells) + 1
    at = lambda row, column: [cell for cell in cells if (row_of(cell), column_of(cell)) == (row, column)]
    return [
        f"| {head} | {' | '.join(map(column_name, columns))} |", "|---" * (len(columns) + 1) + "|",
        *(f"| {row_name(row)} | {' | '.join(shown(at(row, column), most) for column in columns)} |" for row in rows),
    ]


def shown(found, most):
    """Mean over seeds; said where there are fewer seeds than the table's `most`."""
    if not found: return "not run"
    notes = [f"{len(found)} of {most} seeds"] * (len(found) < most) + [
        f"{statistics.median(cell['figures']['seconds'] for cell in found):,.0f} s",
        *(f"{name} {value}" for name, value in found[0]["settings"].items()),
    ]
    return f"{percent(statistics.mean(cell['figures'][cell['main']] for cell in found))} ({', '.join(notes)})"


def speed():
    """What extraction costs."""
    found = load("extraction")
    if not found: return ""
    f, lines = found["figures"], [
        "Encoding texts (pooled last layer, CPU), median of paired runs:",
        "",
        "| data set | texts per second | speed, transformers pipeline at its best batch size = 1 | speed, "
            "sentence-transformers' encode = 1 |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['data']} | {row['rows_per_second']['clfm-kit']:,.0f} | {row['times_pipeline']:.2f} | "
            f"{row['times_encode']:.2f} |"
        )
    lines += [
        "",
        f"A second fit on the same texts takes {f['passes_second_fit']} forward passes of the model, because their "
            f"states are cached. `clfm --help` takes {f['help_seconds']:.2f} s.",
    ]
    if memory := load("memory"):
        lines[-1] += (
            f" Peak memory grows by {percent(memory['figures']['peak_growth'])} % from 10,000 to 100,000 texts."
        )
    if grid := load("stc/banking77"):
        lines[-1] += (
            f" STC's whole grid on BANKING77 (9,003 training rows, 77 classes, every layer) "
            f"takes {grid['figures']['STC: seconds after reading']:.0f} s once the texts are encoded."
        )
    if ece := load("calibration"):
        stated = {row["recipe"]: row["calibrated"]["ece"] for row in ece["rows"]}
        lines += [
            "",
            "Expected calibration error (15 bins) on BANKING77's test rows, calibrated on validation rows: "
                + ", ".join(f"`{name}` {value:.3f}" for name, value in stated.items()) + ".",
        ]
    if found := load("comparison"):
        lines += [
            "",
            f"A comparison of five recipes on `helpdesk`, with cached states, "
                f"takes {found['figures']['compare five recipes on helpdesk, seconds']:.0f} s on one core.",
        ]
    return "\n".join(lines)


def vectors_of(found):
    """A machine by its processor and the vector instructions that its results were measured with."""
    return f"{found['hardware']['processor'].split('(')[0].strip()}, {found['hardware'].get('vectors', 'AVX512')}"


def engine_files(): return [found for name in ("engines", "engines_avx2") if (found := load(name))]


def engines():
    """What ONNX Runtime and eight bits bring on each machine."""
    lines = [
        "Texts per processor second on MiniLM-L6, against a loop over plain transformers in batches sorted by length "
        "(`python benchmarks/engines.py`). *Products alone* are the matrix products of the linear layers of those "
        "batches, by PyTorch, and nothing else; the engines make batches with less padding. Eight bits are the export "
        "that is kept, one text at a time, against float32 in the same way; the texts are others than those that chose "
        "it.",
        "",
        "| machine | data set | PyTorch, as this kit reads | ONNX Runtime | products alone "
        "| eight bits, times float32 | answers changed by eight bits |",
        "|" + "---|" * 7,
    ]
    for found in engine_files():
        for row in found["rows"]:
            limit = f"{row['products_times_plain']:.2f}" if "products_times_plain" in row else "–"
            lines.append(
                f"| {vectors_of(found)} | {row['data']} | {row['torch_times_plain']:.2f} | "
                f"{row['onnx_times_plain']:.2f} | {limit} | {row['export_int8_times_float32']:.2f} | "
                f"{percent(row['export_changed'])} % |"
            )
    return "\n".join(lines)


def engines_plot():
    """Draw each way to run a base, speed against answers that change, a panel a machine, into `engines.png`."""
    machines = engine_files()
    figure, panels = pyplot.subplots(
        1, len(machines), figsize=(4 * len(machines), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for found, axes in zip(machines, panels[0]):
        for way, (mark, colour) in zip(SHORT_WAYS, MARKS):
            speeds = [row["texts_per_second"][way] / row["texts_per_second"][PLAIN] for row in found["rows"]]
            changed = [100 * row["changed"][way] for row in found["rows"]]
            axes.plot(speeds, changed, mark, color=colour, label=SHORT_WAYS[way])
        axes.axvline(1, color=GREY, linewidth=1)
        axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
        axes.annotate("1 %", (axes.get_xlim()[1], 1), color=GREY, fontsize=7, ha="right", va="bottom")
        axes.set(title=vectors_of(found), xlabel="speed, plain transformers = 1")
    quick = [(row["texts_per_second"][way] / row["texts_per_second"][PLAIN], 100 * row["changed"][way])
             for found in machines for row in found["rows"] for way in list(SHORT_WAYS)[1:3]]
    (slow, fast), (few, many) = ((min(values), max(values)) for values in zip(*quick))
    figure.suptitle(
        f"In batches, eight bits are {slow:.1f} to {fast:.1f} times as fast "
        f"and change {few:.0f} to {many:.0f} % of answers",
        fontsize=10,
    )
    panels[0][0].set_ylabel("answers changed, %")
    panels[0][-1].legend(fontsize=7)
    figure.savefig(RESULTS / "engines.png", dpi=130)
    said = "Speed of engines against answers that change, a point a data set, in batches"
    return f"![{said}](../benchmarks/results/engines.png)"


PLAIN = "plain transformers, sorted by length"
SHORT_WAYS = {
    "onnx": "float32", "int8, one scale": "eight bits",
    "int8, one scale, maps that narrow left whole": "eight bits, in part",
    "int8, a scale for each 32": "eight bits, a scale for each 32",
}


def served():
    """How a server answers under load, and after many requests."""
    found, long = load("serving"), load("serving_soak")
    if not found: return ""
    f = found["figures"]
    lines = [
        f"32 clients that send one text each, {found['hardware']['cores']} cores of an "
        f"{found['hardware']['processor']}, {found['hardware']['torch_threads']} threads of PyTorch; median of rounds in "
        "which the sides took turns (`python benchmarks/serving.py`):",
        "",
        "| figure | value |", "|---|---|",
        f"| requests per second with dynamic batching | {f['requests_a_second']:.0f} |",
        f"| times the same server that answers each request by itself | {f['times_one_by_one']:.1f} |",
        f"| times a plain FastAPI endpoint | {f['times_fastapi']:.1f} |",
        f"| times LitServe with batches of up to 32 | {f['times_litserve']:.2f} |",
        f"| wrong or lost answers | {f['wrong_or_lost']} |",
        f"| median latency of a client alone | {f['alone_p50_ms']:.0f} ms |",
        f"| median and 99th percentile at half of the full load | {f['half_load_p50_ms']:.0f} and "
        f"{f['half_load_p99_ms']:.0f} ms |",
        f"| from start to the first answer, times loading in Python | {f['start_over_loading']:.2f} |",
    ]
    if long:
        f = long["figures"]
        lines += [
            "", f"{f['requests']:,} requests of short texts, {f['malformed']} malformed ones in between: "
            f"{f['wrong_or_lost']} wrong or lost, {f['malformed_not_refused']} malformed ones not refused. Memory was "
            f"{f['memory_mb_at_10']:.0f} MB after a tenth, {f['memory_mb_at_50']:.0f} MB after half and "
            f"{f['memory_mb_at_100']:.0f} MB at the end.",
        ]
    return "\n".join(lines)


def served_plot():
    """Draw requests per second of each side, a point a round, into `serving.png`."""
    found, names = load("serving"), {
        "one by one": "clfm serve, one by one", "fastapi": "plain FastAPI", "litserve": "LitServe, batches of 32",
        "batching": "clfm serve",
    }
    if not found: return ""
    axes = axes_of(None, 6.5, 2.2)
    for place, name in enumerate(names):
        rates = [row["requests_a_second"] for row in found["rows"] if row["side"] == name]
        color = GREEN if name == "batching" else BLUE
        axes.barh(place, statistics.median(rates), height=0.55, color=color, alpha=0.35)
        axes.plot(rates, [place] * len(rates), "o", color=color, markersize=5)
    axes.set_yticks(range(len(names)), names.values())
    axes.set(xlabel="requests per second, 32 clients")
    finding(axes, f"Batches answer {found['figures']['times_one_by_one']:.1f} times as many requests")
    axes.figure.savefig(RESULTS / "serving.png", dpi=130)
    return "![Requests per second of four servers](../benchmarks/results/serving.png)"


SIDES = {
    "baseline": BASELINE, "trainer": "`Trainer`, all weights", "finetune": "recipe `finetune`, all weights",
    "token-sparse": "`token-sparse`", "gradient-sparse": "control `gradient-sparse`",
    "random-sparse": "control `random-sparse`", "top-three": "`token-sparse`, on the last three layers always",
    "last-layer": "`token-sparse`, on the last layer only",
    "all-blocks": "`token-sparse`, on the last three layers, `lowest=0`, `cost=null`", "top-layers": "top two layers",
    "lora": "peft LoRA", "prefix": "peft prefix", "shira": "peft SHiRA",
}


def sparse():
    """Every side on every data set: accuracy, its deviation over seeds, and processor time beside that of plain
    `Trainer` at the same seeds.
    """
    cells = {}
    for row in load("token_sparse")["rows"]: cells.setdefault((row["side"], row["data"]), {})[row["seed"]] = row
    sets, f = list(dict.fromkeys(data for _, data in cells)), load("token_sparse")["figures"]
    def shown(side, data):
        found = [row["accuracy"] for row in cells.get((side, data), {}).values()]
        if not found: return "not run"
        spread = f" ± {percent(statistics.stdev(found))} ({len(found)})" if len(found) > 1 else ""
        cost = "1" if side == "trainer" else f"{f[f'{data} {side} cpu_seconds against trainer']:.2f}"
        return f"{percent(statistics.mean(found))}{spread}; {cost}"
    return "\n".join([
        f"| accuracy; processor time | {' | '.join(sets)} |",
        "|---" * (len(sets) + 1) + "|",
        *(
            f"| {name} | {' | '.join(shown(side, data) for data in sets)} |"
            for side, name in SIDES.items() if any(key[0] == side for key in cells)
        ),
    ])


ROUNDED = "SmolLM2-135M's weights were rounded to four bits once before they came here."


def interval(gain):
    """A difference in points with its interval; a dash for none."""
    if not gain: return "–"
    return "{:+.1f} ({:+.1f} … {:+.1f})".format(*(100 * gain[end] for end in ("difference", "low", "high")))


def decoder_layers():
    """What the layers of frozen models hold, a row a model and data set."""
    found = load("layers")
    if not found: return ""
    sides = [side for side in found["rows"][0]["scores"] if side != "STC, early exit"]
    middle = "best middle layer, mean"
    lines = [
        f"Percent of test rows right, frozen models, at most 2,000 training rows. {ROUNDED} The interval is that of "
            "one draw of rows; with several draws its ends are means. Made by `python benchmarks/layers.py`.",
        "",
        f"| model | data set | {' | '.join(sides)} | STC above the {middle} | draws | early exit: blocks |",
        "|---" * (len(sides) + 5) + "|",
    ]
    lines += [
        f"| {row['model']} | {row['data']} | {' | '.join(percent(row['scores'][side]) for side in sides)} "
        f"| {interval(row['stc_over'][middle])} | {row['seeds']} | {row['exit_depth']:.0f} of {row['blocks']} |"
        for row in found["rows"]
    ]
    lines += ["", "![Each side above the last token of the last layer](../benchmarks/results/layers.png)"]
    return "\n".join(lines)


def heads():
    """Encoders, a head on a decoder and instructions on equal rows, a row a side."""
    found = load("heads")
    if not found: return ""
    other, by_side = "MiniLM, all weights", {}
    for row in found["rows"]: by_side.setdefault(row["side"], {})[row["data"]] = row
    sets = sorted({row["data"] for row in found["rows"] if row["side"].startswith("SmolLM2, head")})
    lines = [
        "320 rows, a fifth of them for validation, four epochs in batches of 8, texts cut to 60 words, 300 test rows. "
            f"{ROUNDED} The difference is to {other}, paired, with its 95 % interval. "
            "Times were taken while other work ran. Made by `python benchmarks/heads.py`.",
        "",
        f"| side | weights trained | {' | '.join(f'{name} | difference' for name in sets)} | texts a second "
            "| seconds of one core to fit |",
        "|---" * (2 * len(sets) + 4) + "|",
    ]
    for side, found in by_side.items():
        rows = {name: found[name] for name in sets if name in found}
        if not rows: continue
        shown = [
            f"{percent(rows[name]['score'])} | {interval(rows[name]['over'].get(other))}" if name in rows else "– | –"
            for name in sets
        ]
        median = lambda what, rows=rows: statistics.median(row[what] for row in rows.values())
        lines.append(
            f"| {side} | {median('trained_weights'):,.0f} | {' | '.join(shown)} | {median('rows_per_second'):.0f} "
            f"| {median('processor_seconds'):,.0f} |"
        )
    return "\n".join(lines)


def fill(path, text):
    """Put a text between the markers of a file."""
    path.write_text(re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}",
        lambda _: f"{BEGIN}\n\n{text}\n\n{END}", path.read_text(), flags=re.DOTALL,
    ))


def mean_of(name):
    """The mean of a recipe over all sets at 600 rows, in per cent."""
    cells, sets = whole_sets()
    return percent(statistics.mean(cells[data, name]["score"] for data in sets))


def figure(file, name):
    """A figure of a result file."""
    return load(file)["figures"][name]


HWU = "hwu64_slots.{}.{}".format
MEASURED = {  # what the table of techniques says of each, between `<!-- measured: NAME -->` and `<!-- end -->`
    "auto": lambda: (
        f"{mean_of('auto')} % right, mean of {len(whole_sets()[1])} sets of 600 rows; TF-IDF {mean_of('tfidf')}"
    ),
    "probe": lambda: f"those sets: {mean_of('probe')} and {mean_of('keywords')}",
    "stc": lambda: (
        f"those sets: {mean_of('stc')} and {mean_of('stc+keywords')}; on a frozen decoder "
        f"{figure('layers', 'smollm2-135m trec6: STC'):.1f} % of TREC-6, last token "
        f"{figure('layers', 'smollm2-135m trec6: last layer, last token'):.1f}"
    ),
    "few-shot": lambda: f"those sets: {mean_of('few-shot')}",
    "token-sparse": lambda: f"those sets: {mean_of('token-sparse')}",
    "finetune": lambda: f"{figure('heads', 'trec6: MiniLM, all weights'):.1f} % of TREC-6 with 257 rows",
    "lora-4bit": lambda: (
        f"{figure('heads', 'trec6: SmolLM2, head on LoRA in 4 bits'):.1f} % of the same, on SmolLM2-135M"
    ),
    "zero-shot": lambda: (
        f"`instruct` {figure('heads', 'trec6: SmolLM2, instructions, rank 44'):.1f} % of the same; `zero-shot` "
        f"{percent(figure('zero_shot', 'banking77, minilm, three templates, 0 rows'))} % of 77 intents "
        "without a labelled row"
    ),
    "multitask": lambda: (
        f"intents {percent(figure('multitask_hwu64', HWU('joint', 'intent.accuracy')))} %, alone "
        f"{percent(figure('multitask_hwu64', HWU('single', 'intent.accuracy')))}; F1 of slots "
        f"{percent(figure('multitask_hwu64', HWU('joint', 'slots.entity_f1')))}, alone "
        f"{percent(figure('multitask_hwu64', HWU('single', 'slots.entity_f1')))}"
    ),
}


def fill_measured(path):
    """Write what was measured of each technique into its place in a file."""
    path.write_text(re.sub(
        "(<!-- measured: (.*?) -->).*?(<!-- end -->)",
        lambda found: f"{found[1]}{MEASURED[found[2]]()}{found[3]}", path.read_text(),
    ))


QUESTIONS = {
    "How good are the defaults?": (frontier, defaults),
    "Are all layers better than the last one?": (
        lambda: FORMER, layers, lambda: "![STC against the last layer](../benchmarks/results/stc.png)"
    ),
    "And on a decoder?": (decoder_layers,),
    "An encoder, a head on a decoder, or instructions?": (heads,),
    "How does it compare with other tools?": (peers,),
    "What does encoding cost?": (speed,),
    "What do ONNX Runtime and eight bits bring?": (engines, engines_plot),
    "How many requests does a server answer?": (served, served_plot),
}


def questions():
    """The page of benchmarks: a question, and what was measured."""
    parts = []
    for question, answers in QUESTIONS.items():
        parts += [f"## {question}", *filter(None, (answer() for answer in answers))]
    return "\n\n".join(parts)


def main():
    fill(ROOT / "README.md", summary())
    fill_measured(ROOT / "README.md")
    fill(ROOT / "docs" / "benchmarks.md", questions())
    fill(ROOT / "plugins" / "stc" / "README.md", f"{FORMER}\n\n{layers()}")
    fill(ROOT / "plugins" / "token-sparse" / "README.md", sparse())
    fill(ROOT / "plugins" / "serve" / "README.md", served())


if __name__ == "__main__": main()
