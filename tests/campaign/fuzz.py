"""Anything in clfm.json, recipes, settings and data files: `python tests/campaign/fuzz.py --minutes 20`.

Each example must end in a `UserError` of one line, or in an answer; what ends otherwise is printed, made small by
hypothesis, and ends the run with code 1.
"""
import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import torch
import yaml
from campaign.cases import TEXTS, Hang, World, ask, limited, same
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from saved import facts_of, write_facts

from clfm_kit import Classifier, Recipe, UserError, load_data
from clfm_kit.classifier.contents import check_contents
from clfm_kit.errors import HIDDEN
from clfm_kit.plugins import catalogue
from clfm_kit.recipes import FIELDS, PART_KINDS
from clfm_kit.settings import Training
from clfm_kit.study.tuning import parse_dimension

COUNTS: Counter = Counter()


def refusal(where, what):
    "Whether something is refused; then in one line. Raises what else it raises, and `AssertionError` when it hangs."
    try:
        with limited(20), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what()
    except UserError as error:
        said = str(error)
        assert "\n" not in said and len(said) <= 2001 and not HIDDEN.search(said), said
        COUNTS[where, "refused"] += 1
        return True
    except Hang as error: raise AssertionError("it hangs") from error
    COUNTS[where, "right"] += 1
    return False


# ---- values

WORDS = st.sampled_from([
    "", "a", "name", "label", "null", "~", "../x", "/etc/passwd", "\x1b[2J", "\ud800", "\0", "1e400", ".nan", "0x1",
    "2026-11-28", "=1+1",
    "mean", "logistic", "linear", "frozen", "full", "auto", "none", "float16", "hidden.1/mean", *PART_KINDS, *FIELDS,
])
NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 32, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-308, 1e308, float("nan"),
    float("inf"), -float("inf")])
PLAIN = st.none() | st.booleans() | st.integers() | NUMBERS | st.floats() | WORDS | st.text(max_size=8)
ANY = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4),
    inner, max_size=4), max_leaves=10)


def places(value, path=()):
    "The path of every value in JSON."
    if path: yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for name, each in inner: yield from places(each, (*path, name))


def put(value, path, change):
    "Change what stands at a path: another value, none, or a field more."
    *way, last = path
    for name in way: value = value[name]
    value[last] = change(value[last])


# ---- what is tried

def of_clfm_json(world):
    "Some fields of a saved model at once, with its hash made right."
    there = {name: world.folder(name) for name in ("probe", "named", "trained")}
    facts = {name: facts_of(folder) for name, folder in there.items()}
    paths = {name: list(places(found)) for name, found in facts.items()}
    told = ("facts", "reports", "versions", "sha256", "format_version")
    folder = world.home / "fuzzed"

    @given(data=st.data())
    def run(data):
        name = data.draw(st.sampled_from(list(there)))
        found = json.loads(json.dumps(facts[name]))
        changed = data.draw(st.lists(st.sampled_from(paths[name]), min_size=1, max_size=3))
        for path in changed:
            try: put(found, path, lambda old: data.draw(near(old) | ANY))
            except (KeyError, IndexError, TypeError): continue  # an earlier change took it away
        if refusal("clfm.json, looked at", lambda: check_contents(found, "clfm.json: ")): return
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(there[name], folder)
        try: write_facts(folder, found)
        except (UnicodeEncodeError, ValueError): return  # no file can hold it
        def load():
            clf = Classifier.from_pretrained(folder)
            logits = ask(clf)
            own = all(path[0] in told or path[:2] == ("recipe", "name") for path in changed)
            if own: same(logits, world.answers(name))
            for task in logits.values(): assert np.isfinite(task).all()
        refusal("clfm.json, loaded", load)
    return run


def near(value):
    "Values that are almost right."
    if isinstance(value, bool): return st.just(not value)
    if isinstance(value, (int, float)):
        return st.sampled_from([
            value + 1, value - 1, -value, value * 2, str(value), *([float(value)] if abs(value) < 1e300 else [])
        ])
    if isinstance(value, str): return st.sampled_from([value + " ", value[:-1], value.upper(), [value], value * 2])
    if isinstance(value, list): return st.sampled_from([value[:-1], value * 2, value[::-1], [value]])
    if isinstance(value, dict): return st.sampled_from([dict(list(value.items())[1:]), value | {"more": 1},
        list(value)])
    return st.sampled_from([0, "", [], {}])


def of_recipes(world):
    "Recipes as mappings and as YAML, settings, searches."
    names = {kind: list(catalogue.entries(kind)) for kind in PART_KINDS}
    part = lambda kind: st.sampled_from(names[kind]) | st.builds(
        lambda name, more: {"name": name, **more}, st.sampled_from(names[kind]),
        st.dictionaries(WORDS | st.sampled_from(
            ["C", "layer", "layers", "max_length", "size", "width", "dropout", "rank", "template", "words", "columns"]
        ), ANY, max_size=2)
    )
    training = st.dictionaries(st.sampled_from([*Training.__annotations__]) | WORDS, ANY, max_size=3)
    valid = st.fixed_dictionaries({}, optional={kind: part(kind) for kind in PART_KINDS} | dict(training=training))
    strange = st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=1)
    recipe = st.builds(lambda one, other: one | other, valid, strange)
    setting = st.builds("{}={}".format, st.sampled_from([*FIELDS, "head.C", "pooler.layer", "training.epochs",
        "tasks.a", "class_weight.a"]) | st.text(max_size=9), st.one_of(
        ANY.map(lambda value: written(value)), st.text(max_size=30)
    ))

    @given(given=recipe, changes=st.lists(setting, max_size=2),
        text=st.text(max_size=60) | st.text("{}[]&*!|>:-?#%@`'\"\n\t ,a0~<", max_size=60))
    def run(given, changes, text):
        refusal("recipes", lambda: Classifier(given, str(world.tiny), changes, cache=None).prepare())
        refusal("settings", lambda: Recipe().with_params(changes).parts())
        for change in changes: refusal("searches", lambda: parse_dimension(change))
        (world.home / "own.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        refusal("YAML", lambda: Classifier(str(world.home / "own.yaml"), str(world.tiny), cache=None).prepare())
    return run


def written(value):
    try: return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    except (yaml.YAMLError, ValueError): return "x"


def of_data_files(world):
    "Files of every format: text of signs that matter there, bytes, whole files with a piece exchanged."
    signs = st.text(",;\t|\"'\n\r a0é\0\ufeff[]{}:\\=", max_size=80)
    rows = st.lists(st.dictionaries(st.sampled_from(["text", "label", "labels", "tokens", "tags", "slots", "text ",
        "Label", ""]), ANY, max_size=4), max_size=6)
    lines = rows.map(lambda found: "\n".join(json.dumps(row) for row in found).encode("utf-8", "surrogatepass"))
    table = st.builds(lambda head, body: f"{head}\n{body}".encode("utf-8", "surrogatepass"),
        st.sampled_from(["text,label", "text;label", "text\tlabel", "text,label,", '"text","label"']), signs)
    cells = st.lists(st.lists(st.text(' "a,0=é\n', max_size=5), min_size=2, max_size=2), min_size=1, max_size=8)
    plain = cells.map(lambda found: ("text,label\n" + "\n".join(map(",".join, found))).encode())
    content = plain | st.binary(max_size=80) | signs.map(lambda text: text.encode("utf-8",
        "surrogatepass")) | lines | table
    frames = whole_files(world)

    @given(content=content, end=st.sampled_from(["csv", "tsv", "jsonl", "csv.gz", "jsonl.gz", "parquet"]),
        packed=st.booleans(),
           how=st.just({}) | st.fixed_dictionaries({}, optional=dict(
               text=st.sampled_from(["text", "label", "text+label", "x", "tokens"]),
               label=st.sampled_from(["label", "tags", "text", "a+b", "slots"]),
               separator=st.sampled_from([",", ";", "tab", "a", "\ufeff"]),
               encoding=st.sampled_from(["utf-8", "utf-16", "latin1", "cp1252", "utf-7", "punycode"]),
           )), cut=st.tuples(st.floats(0, 1), st.integers(0, 255), st.sampled_from(sorted(frames))))
    def run(content, end, packed, how, cut):
        path = world.home / f"data.{end}"
        path.write_bytes(gzip.compress(content, 1) if packed and end.endswith("gz") else content)
        def read():
            for _, found in load_data(str(path), **how).items():
                assert all(isinstance(text, str) for text in found.texts) and len(found.texts) == len(found)
        refusal(f"data, {end}", read)
        place, byte, name = cut
        whole = bytearray(frames[name])
        whole[int(place * (len(whole) - 1))] = byte
        path = world.home / f"whole.{name}"
        path.write_bytes(whole)
        refusal(f"whole files, {name}", lambda: load_data(str(path)))
    return run


def whole_files(world):
    import io

    import pandas as pd
    frame, file = pd.DataFrame(dict(text=TEXTS * 20, label=list("ababa") * 20)), io.BytesIO()
    frame.to_parquet(file)
    lines = frame.to_json(orient="records", lines=True).encode()
    return {"parquet": file.getvalue(), "jsonl": lines, "csv": frame.to_csv(index=False).encode(),
        "jsonl.gz": gzip.compress(lines)}


def of_rows(world):
    "Texts and labels as Python has them."
    text = st.text(max_size=20) | st.text("\x1b\u202e\0\ud800a ", max_size=9) | ANY
    label = WORDS | st.text(max_size=9) | st.integers() | ANY
    plain = st.lists(st.text(max_size=20), min_size=12, max_size=24, unique=True)

    @given(texts=plain | st.lists(text, min_size=3, max_size=24), labels=st.lists(st.text(min_size=1,
        max_size=9) | st.integers(), min_size=2, max_size=3) | st.lists(label, min_size=1, max_size=4))
    def run(texts, labels):
        def fit():
            clf = Classifier("probe", str(world.tiny), cache=None).fit(texts,
                [labels[row % len(labels)] for row in range(len(texts))])
            ask_ = clf.predict_proba(TEXTS)
            assert np.isfinite(ask_).all()
            folder = clf.save_pretrained(world.home / "rows")
            np.testing.assert_array_equal(Classifier.from_pretrained(folder).predict_proba(TEXTS), ask_)
        refusal("rows", fit)
    return run


TRIED = dict(clfm_json=of_clfm_json, recipes=of_recipes, data_files=of_data_files, rows=of_rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    end, turn, failed = time.monotonic() + 60 * asked.minutes, asked.seed, {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        while time.monotonic() < end:
            for name, make in TRIED.items():
                if time.monotonic() > end: break
                once = settings(max_examples=30, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink))
                try: seed(turn)(once(make(world)))()
                except Exception as error:
                    said = "".join(traceback.format_exception(error))
                    kind = said.strip().splitlines()[-1][:80]
                    if (name, kind) not in failed: print(f"\n---- {name}, seed {turn}\n{said[-4000:]}", flush=True)
                    failed[name, kind] = failed.get((name, kind), 0) + 1
            turn += 1
            left = max(0, (end - time.monotonic()) / 60)
            print(
                f"\rseed {turn}, {sum(COUNTS.values())} tries, {len(failed)} kinds of failure, "
                f"{left:.0f} minutes left ",
                end="", file=sys.stderr, flush=True,
            )
    for (where, what), count in sorted(COUNTS.items()): print(f"{where}: {what} {count}")
    for (name, kind), count in failed.items(): print(f"FAILED {name}: {kind} ({count} seeds)")
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
