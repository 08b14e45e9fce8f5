"""Checkpoints and caches that were harmed: answers are those of a run that nobody disturbed, or there is a sentence."""
import json
import os
import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
from command import Forked

from clfm_kit import Classifier
from clfm_kit.errors import Stopped
from clfm_kit.paths import part_name
from clfm_kit.plugins import using

from .cases import TEXTS, group

RUN = dict(
    name="run", pooler="mean", selector="top-layers", head="linear",
    training=dict(epochs=2, batch_size=16, head_start="random", save_steps=2),
)


@cache
def undisturbed(world):
    return Classifier(RUN, str(world.tiny), cache=None).fit(*world.rows).decision_function(TEXTS)


@cache
def stopped(world):
    "The folder of a run that was stopped at its fifth step."
    folder = world.home / "checkpoints"
    def run_event(event):
        if event["kind"] == "train" and event["done"] == 5: raise KeyboardInterrupt
    with using("stops", run_event=run_event):
        try: Classifier(RUN, str(world.tiny), cache=None).fit(*world.rows, checkpoints=folder)
        except (Stopped, KeyboardInterrupt): pass
    assert len(list(folder.glob("checkpoint-*"))) > 1
    return folder


def resumed(world, place, change):
    folder = Path(shutil.copytree(stopped(world), place / "checkpoints"))
    change(folder)
    clf = Classifier(RUN, str(world.tiny), cache=None).fit(*world.rows, checkpoints=folder)
    np.testing.assert_array_equal(clf.decision_function(TEXTS), undisturbed(world))


def newest(folder): return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def every(name, harm): return lambda folder: [harm(path) for path in folder.glob(f"checkpoint-*/{name}")]


@group
def checkpoints():
    right = {
        "as they are": lambda folder: None,
        "no newest": lambda folder: shutil.rmtree(newest(folder)),
        "an empty folder of a later step": lambda folder: (folder / "checkpoint-900").mkdir(),
        "a later step that is a file": lambda folder: (folder / "checkpoint-900").write_text("x"),
        "a later step that is a link to nowhere": lambda folder: (folder / "checkpoint-900").symlink_to("/no/such"),
        "a copy of a step under a later name": lambda folder: shutil.copytree(newest(folder),
            folder / "checkpoint-900"),
        "a step of a name without a number": lambda folder: (folder / "checkpoint-last").mkdir(),
        "a negative step": lambda folder: (folder / "checkpoint--5").mkdir(),
        "a step of 400 digits": lambda folder: (folder / f"checkpoint-{'9' * 200}").mkdir(),
        "another file beside": lambda folder: (folder / "notes.txt").write_text("mine"),
        "no run.json": lambda folder: (folder / "run.json").unlink(),
        "an empty run.json": lambda folder: (folder / "run.json").write_text(""),
        "a list for run.json": lambda folder: (folder / "run.json").write_text("[1]"),
        "a run.json that is no text": lambda folder: (folder / "run.json").write_bytes(b"\xff\xfe\x00"),
        "a mark that is empty": lambda folder: (newest(folder) / "complete").write_text(""),
        "a mark that is a list": lambda folder: (newest(folder) / "complete").write_text("[]"),
        "a mark of no files": lambda folder: (newest(folder) / "complete").write_text('{"run": 5, "files": []}'),
        "a mark of numbers": lambda folder: (newest(folder) / "complete").write_text('{"files": {"a": 5}}'),
        "a mark of brackets": lambda folder: (newest(folder) / "complete").write_text("[" * 100_000),
        "no marks": every("complete", Path.unlink),
    }
    for name, change in right.items(): yield name, partial(resumed, change=change), "right"
    for file in ("*.safetensors", "*.pt", "*.json", "*.pth"):
        for how, harm in {
            "flipped": flip, "empty": lambda path: path.write_bytes(b""), "gone": Path.unlink,
            "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
        }.items():
            yield f"{file} of the newest {how}", partial(resumed, change=lambda folder, file=file, harm=harm: [
                harm(path) for path in newest(folder).glob(file)
            ]), "right"
    yield "all optimizers gone", partial(resumed, change=every("optimizer.pt", Path.unlink)), "right"
    yield "a mark that names no files", partial(resumed, change=lambda folder: mark(folder, files={})), "sound"
    yield "a mark that leaves out one", partial(resumed, change=lambda folder: mark_less(folder)), "sound"
    yield "a mark that names a file outside", partial(resumed, change=lambda folder: mark(folder,
        files={"../run.json": "0"})), "right"
    yield "another run", partial(resumed, change=lambda folder: (folder / "run.json").write_text('"0000"'))
    yield "a file for a folder", lambda world, place: (
        (place / "c").write_text("x"), Classifier(RUN, str(world.tiny), cache=None).fit(*world.rows,
            checkpoints=place / "c")
    )
    for value in (5, [], "", b"x", True): yield f"checkpoints={value!r}", lambda world, place, value=value: (
        Classifier(RUN, str(world.tiny), cache=None).fit(*world.rows, checkpoints=value)
    )


def mark(folder, **values):
    path = newest(folder) / "complete"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def mark_less(folder):
    "The mark names all files but one, which is harmed."
    path = newest(folder) / "complete"
    told = json.loads(path.read_text())
    name = max(told["files"], key=lambda name: (newest(folder) / name).stat().st_size)
    del told["files"][name]
    flip(newest(folder) / name)
    path.write_text(json.dumps(told))


# ---- the cache of states

@cache
def full(world):
    "A cache with what a fit reads."
    folder = world.home / "full-cache"
    Classifier("probe", str(world.tiny), cache=folder).fit(*world.rows)
    assert arrays(folder)
    return folder


@cache
def uncached(world): return Classifier("probe", str(world.tiny), cache=None).fit(*world.rows).decision_function(TEXTS)


def arrays(folder): return sorted(path for path in folder.glob("*/*/*.npy") if path.name != "keys.npy")


def keys(folder): return sorted(folder.glob("*/*/keys.npy"))


def read(world, place, change):
    folder = Path(shutil.copytree(full(world), place / "cache"))
    change(folder)
    found = Classifier("probe", str(world.tiny), cache=folder).fit(*world.rows).decision_function(TEXTS)
    np.testing.assert_allclose(found, uncached(world), atol=1e-5)


def rewritten(change): return lambda folder: [np.save(path, change(np.load(path))) for path in arrays(folder)]


def new_keys(change): return lambda folder: [np.save(path, change(np.load(path))) for path in keys(folder)]


def cut(share):
    return lambda folder: [
        path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)]) for path in arrays(folder)
    ]


def shuffled(values): return np.random.default_rng(0).permutation(values)


@group
def caches():
    right = {
        "as it is": lambda folder: None,
        "no columns": lambda folder: [path.unlink() for path in arrays(folder)],
        "no keys": lambda folder: [path.unlink() for path in keys(folder)],
        "empty columns": cut(0), "columns cut in their header": cut(0.01), "columns cut to half": cut(0.5),
        "columns cut by their end": lambda folder: [
            path.write_bytes(path.read_bytes()[:-1]) for path in arrays(folder)
        ],
        "a row less": rewritten(lambda values: values[:-1]),
        "a row more": rewritten(lambda values: np.concatenate([values, values[:1]])),
        "a column less": rewritten(lambda values: values[:, :-1]), "one column": rewritten(lambda values: values[:,
            :1]),
        "an axis less": rewritten(lambda values: values[:, 0]), "an axis more": rewritten(lambda values: values[None]),
        "an axis behind": rewritten(lambda values: values[..., None]),
        "turned": rewritten(lambda values: np.asfortranarray(values)),
        "doubles": rewritten(lambda values: values.astype(np.float64)),
        "texts": rewritten(lambda values: values.astype(str)),
        "whole numbers": rewritten(lambda values: values.astype(np.int8)),
        "truth values": rewritten(lambda values: values > 0),
        "complex": rewritten(lambda values: values.astype(complex)),
        "numbers that are none": rewritten(lambda values: values * np.nan),
        "infinite": rewritten(lambda values: values + np.inf),
        "one number that is none": rewritten(lambda values: (
            np.where(np.arange(values.size).reshape(values.shape) == 5, np.nan, values).astype(values.dtype)
        )),
        "one infinite number": rewritten(lambda values: np.where(np.arange(values.size).reshape(values.shape) == 5,
            np.inf, values).astype(values.dtype)),
        "a pickle": lambda folder: [np.save(path, np.array([print], dtype=object),
            allow_pickle=True) for path in arrays(folder)],
        "pickled keys": lambda folder: [np.save(path, np.array([print], dtype=object),
            allow_pickle=True) for path in keys(folder)],
        "text": lambda folder: [path.write_text("x" * 300) for path in arrays(folder)],
        "keys of eight bytes": new_keys(lambda values: values[:, :8].copy()), "keys in one row": new_keys(np.ravel),
        "keys of floats": new_keys(lambda values: values.astype(float)),
        "a key less": new_keys(lambda values: values[:-1]),
        "one key": new_keys(lambda values: values[:1]), "keys of other texts": new_keys(lambda values: values[:,
            ::-1].copy()),
        "a folder for a column": lambda folder: [(path.unlink(), path.mkdir()) for path in arrays(folder)],
        "a file for a shard": lambda folder: [(shutil.rmtree(path),
            path.write_text("x")) for path in {path.parent for path in arrays(folder)}],
        "a link to nowhere": lambda folder: [(path.unlink(), path.symlink_to("/no/such")) for path in arrays(folder)],
        "a stranger's file": lambda folder: (folder / "notes.txt").write_text("x"),
        "a stranger's shard": lambda folder: [
            (path.parent.parent / "zzz").mkdir(exist_ok=True) for path in keys(folder)
        ],
        "read-only": lambda folder: [os.chmod(path, 0o555) for path in (folder, *folder.glob("*"))],
        "a group that is a file": lambda folder: [(shutil.rmtree(path),
            path.write_text("x")) for path in folder.glob("*")],
    }
    for name, change in right.items(): yield name, partial(read, change=change), "right"
    # what was changed within a file, and still is what a file of states may be
    yield "a flipped bit", partial(read, change=lambda folder: [flip(path) for path in arrays(folder)]), "right"
    yield "rows in another order", partial(read, change=rewritten(shuffled)), "right"
    yield "keys in another order", partial(read, change=new_keys(shuffled)), "right"
    yield "zeros", partial(read, change=rewritten(np.zeros_like)), "right"
    for recipe in ("probe", RUN):
        yield f"what a killed run left, {recipe if recipe == 'probe' else 'a run that trains'}", partial(
            left_behind, recipe=recipe
        ), "right"
    yield "a file for the cache", lambda world, place: (
        (place / "cache").write_text("x"), read_from(world, place / "cache")
    ), "right"
    yield "a place below a file", lambda world, place: ((place / "x").write_text("x"),
        read_from(world, place / "x/cache")), "right"
    yield "/proc", lambda world, place: read_from(world, "/proc/clfm"), "right"
    yield "/dev/full", lambda world, place: read_from(world, "/dev/full"), "right"
    for value in (5, b"x", [], True, 0.5): yield f"cache={value!r}", lambda world, place, value=value: (
        Classifier("probe", str(world.tiny), cache=value).fit(*world.rows)
    )


def left_behind(world, place, recipe):
    "A fit that reads all from the cache, or writes nothing there, takes away what others cannot."
    folder = Path(shutil.copytree(full(world), place / "cache"))
    gone = Forked(lambda: None)
    gone.wait()
    name = part_name()
    mine, other = folder / name, folder / name.replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    for part in (mine, other): (part / "prefix").mkdir(parents=True)
    Classifier(recipe, str(world.tiny), cache=folder).fit(*world.rows)
    assert mine.exists() and not other.exists()


def read_from(world, folder):
    found = Classifier("probe", str(world.tiny), cache=folder).fit(*world.rows).decision_function(TEXTS)
    np.testing.assert_allclose(found, uncached(world), atol=1e-5)
