"""Saved models: every file harmed in every way, every field of clfm.json changed, tensors that lie about themselves."""
import json
import os
import shutil
import struct
from functools import partial

import torch
from safetensors.torch import load_file, save_file
from saved import copied, facts_of, write_facts

from clfm_kit import Classifier
from clfm_kit.backbone.sources import file_hash

from .cases import ask, command, group, same

FILES = {
    "probe": ("clfm.json", "head.safetensors", "README.md", "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json"),
    "named": ("clfm.json", "head.safetensors"),
    "trained": ("clfm.json", "head.safetensors", "delta.safetensors"),
}


# ---- harm to a file

def cut(path, share): path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])


def flip(path, share, bit):
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= bit
    path.write_bytes(data)


def link(path, target):
    path.unlink()
    path.symlink_to(target)


def moved(path):
    "The file itself is elsewhere, and a link stands in its place."
    shutil.move(path, os.path.abspath("elsewhere"))
    path.symlink_to(os.path.abspath("elsewhere"))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def directory(path):
    path.unlink()
    path.mkdir()


HARMS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut to a byte": lambda path: path.write_bytes(path.read_bytes()[:1]),
    "cut to a third": partial(cut, share=0.33),
    "cut by its end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer by a zero": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "twice itself": lambda path: path.write_bytes(path.read_bytes() * 2),
    "a bit at the beginning": partial(flip, share=0.0, bit=1),
    "a bit in the middle": partial(flip, share=0.5, bit=16),
    "a bit at the end": partial(flip, share=1.0, bit=128),
    "gone": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a folder": directory,
    "a pipe": pipe,
    "a link to itself": lambda path: link(path, path.name),
    "a link to nowhere": lambda path: link(path, "/no/such/place"),
    "a link to the same file elsewhere": moved,
    "a link to a device": lambda path: link(path, "/dev/zero"),
    "UTF-16": lambda path: path.write_bytes(path.read_bytes().decode("latin1").encode("utf-16")),
    "with a mark of byte order": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "another file of the model": lambda path: path.write_bytes(next(
        other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path
    ).read_bytes()),
}


def harmed(world, place, name, file, harm):
    folder = copied(world.folder(name), place / "model")
    harm(folder / file)
    same(ask(Classifier.from_pretrained(folder)), world.answers(name))


@group
def files_of_a_model():
    for name, files in FILES.items():
        for file in files:
            for how, harm in HARMS.items():
                expect = "right" if file == "README.md" else "refused"
                yield f"{name}, {file}: {how}", partial(harmed, name=name, file=file, harm=harm), expect


@group
def folders_of_a_model():
    def other(change, name="probe"):
        def run(world, place):
            folder = copied(world.folder(name), place / "model")
            found = change(world, folder)
            same(ask(Classifier.from_pretrained(folder if found is None else found)), world.answers(name))
        return run

    yield "files of two models", other(lambda world, folder: shutil.copy(world.trained / "head.safetensors", folder))
    yield "facts of another model", other(lambda world, folder: shutil.copy(world.named / "clfm.json", folder))
    yield "a tokenizer of another base", other(lambda world, folder: (
        (folder / "tokenizer/tokenizer.json").write_text(
            (folder / "tokenizer/tokenizer.json").read_text().replace("the", "teh")
        )
    ))
    yield "no tokenizer", other(lambda world, folder: shutil.rmtree(folder / "tokenizer"))
    yield "a tokenizer that is a link", other(lambda world, folder: (
        shutil.move(folder / "tokenizer", "there"), (folder / "tokenizer").symlink_to(os.path.abspath("there"))
    ) and None)
    yield "a stranger's tensors beside", other(lambda world,
        folder: (folder / "model.safetensors").write_bytes(b"x") and None)
    yield "a pickle beside", other(lambda world,
        folder: (folder / "pytorch_model.bin").write_bytes(b"x") and None), "right"
    yield "Python beside", other(lambda world, folder: (folder / "own.py").write_text("1 / 0") and None), "right"
    yield "a file of Python in the tokenizer", other(lambda world,
        folder: (folder / "tokenizer/own.py").write_text("1 / 0") and None)
    yield "a link to the folder", other(lambda world, folder: link_to(folder)), "right"
    yield "with a slash and dots", other(lambda world, folder: f"{folder.parent}/./model/../model//"), "right"
    yield "a relative path", other(lambda world, folder: "model"), "right"
    yield "its clfm.json given", other(lambda world, folder: folder / "clfm.json")
    yield "its tokenizer given", other(lambda world, folder: folder / "tokenizer")
    yield "a folder in it given", other(lambda world, folder: folder.parent)
    yield "read-only", other(lambda world, folder: os.chmod(folder, 0o555)), "right"
    yield "as predict sees a pipe", lambda world, place: (
        pipe(copied(world.probe, place / "model") / "clfm.json"), command("predict", place / "model", "a text")
    )
    yield "as evaluate sees a cut head", lambda world, place: (
        cut(copied(world.probe, place / "model") / "head.safetensors", 0.9),
        command("evaluate", place / "model", "--data", "helpdesk"),
    )


def link_to(folder):
    folder.with_name("link").symlink_to(folder)
    return folder.with_name("link")


# ---- fields of clfm.json

DEEP = json.loads("[" * 500 + "]" * 500)
VALUES = {
    "a huge number": 10**400, "a tiny number": 5e-324, "a long text": "x" * 10**6,
    "controls": "\x1b]52;c;QQ==\x07\u202e",
    "half a letter": "\ud800", "brackets": DEEP, "minus zero": -0.0, "a path": "../../../etc/passwd",
    "a list of lists": [[["a"]]], "a million entries": [0] * 10**5, "its own name": None, "2^64": 2**64,
}


def put(facts, path, value):
    *way, last = path
    for name in way: facts = facts[name]
    facts[last] = last if value is None else value


LIKE_PROBE = [  # fields of a probe, known without one, so that cases can be counted before there is a model
    ("format_version",), ("sha256",), ("versions",), ("recipe",), ("recipe", "name"), ("defaults",), ("state_dtype",),
    ("model",),
    ("model", "source"), ("model", "hash"), ("model", "depth"), ("model", "full_depth"), ("model", "quantizer"),
    ("model", "states"), ("model", "states", 0), ("model", "tokenizer"), ("tasks",), ("tasks", "label"),
    ("tasks", "label", "schema"), ("tasks", "label", "schema", "kind"), ("tasks", "label", "schema", "labels"),
    ("tasks", "label", "schema", "labels", 0), ("tasks", "label", "calibration"),
    ("tasks", "label", "calibration", "temperature"), ("tasks", "label", "calibration", "thresholds"),
    ("tasks", "label", "calibration", "rows"), ("tasks", "label", "reject"), ("tasks", "label", "widths"),
    ("tasks", "label", "columns"), ("tasks", "label", "columns", 0), ("tasks", "label", "head"),
    ("facts",), ("facts", "rows"), ("facts", "data"), ("facts", "seconds"), ("facts", "depth"), ("facts", "text"),
    ("reports",), ("reports", "validation"), ("reports", "validation", "figures"), ("reports", "validation", "notes"),
    ("reports", "validation", "curve"), ("reports", "validation", "kind"), ("parts",), ("files",),
    ("files", "head.safetensors"), ("tokenizer",), ("tokenizer", "tokenizer.json"), ("recipe", "tasks"),
    ("recipe", "teacher"), ("recipe", "seed"), ("recipe", "attention"), ("recipe", "class_weight"),
]


def edited(world, place, path, value, hashed):
    folder = copied(world.probe, place / "model")
    facts = facts_of(folder)
    put(facts, path, value)
    if hashed: write_facts(folder, facts)
    else: (folder / "clfm.json").write_text(json.dumps(facts))
    found = ask(Classifier.from_pretrained(folder))
    assert hashed, "an edit was accepted without its hash"
    same(found, world.answers("probe"))


@group
def fields_of_clfm_json():
    for number, path in enumerate(LIKE_PROBE):
        for step in range(3):
            name = list(VALUES)[(number + 4 * step) % len(VALUES)]
            run = partial(edited, path=path, value=VALUES[name], hashed=step > 0)
            yield f"{'.'.join(map(str, path))}: {name}", run, "sound" if step else "refused"


# ---- tensors that lie

def rewritten(path, change):
    "Change the header of a file of tensors, and leave its numbers."
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


def first(header): return next(name for name in header if name.endswith("weights_"))


HEADERS = {
    "a length beyond the file": lambda path: path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:]),
    "a length of nothing": lambda path: path.write_bytes(struct.pack("<Q", 0) + path.read_bytes()[8:]),
    "no mapping": lambda path: rewritten(path, lambda header: b"[1]"),
    "broken JSON": lambda path: rewritten(path, lambda header: b'{"a":'),
    "brackets": lambda path: rewritten(path, lambda header: b"[" * 100_000),
    "an unknown type": lambda path: rewritten(path, lambda header: header[first(header)].update(dtype="F7")),
    "another type of the same size": lambda path: rewritten(path,
        lambda header: header[first(header)].update(dtype="I32")),
    "whole numbers of 64 bits": lambda path: rewritten(path, lambda header: header[first(header)].update(dtype="I64")),
    "the shape turned": lambda path: rewritten(path, lambda header: header[first(header)]["shape"].reverse()),
    "a shape of one": lambda path: rewritten(path, lambda header: header[first(header)].update(
        shape=[header[first(header)]["shape"][0] * header[first(header)]["shape"][1]]
    )),
    "a negative shape": lambda path: rewritten(path, lambda header: header[first(header)].update(shape=[-1, 32])),
    "a huge shape": lambda path: rewritten(path, lambda header: header[first(header)].update(shape=[2**40, 2**40])),
    "places that overlap": lambda path: rewritten(path, lambda header: header["label.bias_"].update(
        data_offsets=header[first(header)]["data_offsets"]
    )),
    "a place beyond the end": lambda path: rewritten(path,
        lambda header: header["label.bias_"].update(data_offsets=[0, 10**9])),
    "a name twice": lambda path: rewritten(path, lambda header: json.dumps(header).replace("label.bias_",
        "label.weights_").encode()),
    "metadata that is no text": lambda path: rewritten(path, lambda header: header.update(__metadata__={"a": 1})),
}


TENSORS = {
    "transposed": lambda tensors: tensors.update({"label.weights_": tensors["label.weights_"].T.contiguous()}),
    "one label less": lambda tensors: tensors.update({"label.weights_": tensors["label.weights_"][:-1].contiguous()}),
    "one label more": lambda tensors: tensors.update({"label.weights_": torch.cat([tensors["label.weights_"]] * 2)}),
    "one number less": lambda tensors: tensors.update({"label.weights_": tensors["label.weights_"][:,
        1:].contiguous()}),
    "an axis more": lambda tensors: tensors.update({"label.weights_": tensors["label.weights_"][None]}),
    "a bias of one": lambda tensors: tensors.update({"label.bias_": torch.zeros(1)}),
    "a bias of two axes": lambda tensors: tensors.update({"label.bias_": tensors["label.bias_"][None]}),
    "a bias without axes": lambda tensors: tensors.update({"label.bias_": torch.tensor(0.0)}),
    "a bias of none": lambda tensors: tensors.update({"label.bias_": torch.zeros(0)}),
    "complex": lambda tensors: tensors.update({"label.weights_": tensors["label.weights_"].to(torch.complex64)}),
    "truth values": lambda tensors: tensors.update({"label.weights_": tensors["label.weights_"] > 0}),
    "huge numbers": lambda tensors: tensors["label.weights_"].fill_(3e38),
    "marks of rows in a table": lambda tensors: tensors.update(trained_on=tensors["trained_on"][None]),
    "marks that are floats": lambda tensors: tensors.update(trained_on=tensors["trained_on"].double()),
    "a tensor of no task": lambda tensors: tensors.update({"other.weights_": torch.ones(1)}),
    "a method by name": lambda tensors: tensors.update({"label.logits": torch.ones(1)}),
    "a private name": lambda tensors: tensors.update({"label.__class__": torch.ones(1)}),
    "an empty name": lambda tensors: tensors.update({"label.": torch.ones(1)}),
}


def retensored(world, place, change):
    "A head whose tensors are others, with the right hashes."
    folder = copied(world.probe, place / "model")
    path = folder / "head.safetensors"
    change(path)
    facts = facts_of(folder)
    facts["files"]["head.safetensors"] = file_hash(path)
    write_facts(folder, facts)
    same(ask(Classifier.from_pretrained(folder)), world.answers("probe"))


@group
def tensors_with_the_right_hash():
    for name, change in HEADERS.items(): yield name, partial(retensored, change=change)
    for name, change in TENSORS.items():
        def rewrite(path, change=change):
            tensors = load_file(path)
            change(tensors)
            save_file(tensors, path)
        yield name, partial(retensored, change=rewrite)


def pickled(world, place, change):
    "A state of `pickle` that was changed."
    state = world.model("probe").__getstate__()
    change(state)
    clf = Classifier.__new__(Classifier)
    clf.__setstate__(state)
    same(ask(clf), world.answers("probe"))


@group
def pickled_classifiers():
    yield "as it was", partial(pickled, change=lambda state: None), "right"
    yield "a file less", partial(pickled, change=lambda state: state["files"].pop("head.safetensors"))
    yield "a file out of the folder", partial(pickled,
        change=lambda state: state["files"].update({"../evil.txt": b"x"}))
    yield "a file of a whole path", lambda world, place: pickled(world, place, lambda state: state["files"].update(
        {str(place / "evil.txt"): b"x"}
    ))
    yield "a file harmed", partial(pickled, change=lambda state: state["files"].update({"head.safetensors": b"x"}))


def merging(world, place, change):
    first, second = (copied(world.trained, place / name) for name in ("a", "b"))
    change(first, second)
    from clfm_kit.study.merging import merge_models
    merge_models([first, second], data=list(zip(*world.rows)))


@group
def models_to_merge():
    yield "copies", partial(merging, change=lambda a, b: None)
    yield "one cut", partial(merging, change=lambda a, b: cut(b / "delta.safetensors", 0.5))
    yield "one gone", partial(merging, change=lambda a, b: shutil.rmtree(b))
    yield "the same folder twice", partial(merging, change=lambda a, b: link(b / "README.md",
        "x") or shutil.rmtree(b) or b.symlink_to(a))
    yield "one that trains nothing", lambda world, place: merging(world, place, lambda a, b: (
        shutil.rmtree(b), shutil.copytree(world.probe, b)
    ))
    yield "swapped deltas", partial(merging, change=lambda a, b: flip(b / "delta.safetensors", 0.9, 1))


