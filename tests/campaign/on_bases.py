"""Bases: configurations, weights and tokenizers that are cut, lie, or say what no model can be."""
import json
import os
import resource
import shutil
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from clfm_kit import Classifier

from .cases import group, sound


def based(world, place, change):
    folder = Path(shutil.copytree(world.tiny, place / "base"))
    change(folder)
    with memory(24):
        sound(Classifier("probe", str(folder), cache=None).fit(*world.rows))


class memory:
    "No more gigabytes of addresses than so many, while this lasts: a base may claim any size."
    def __init__(self, gigabytes): self.bytes = int(gigabytes * 1e9)

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (self.bytes, self.before[1]))

    def __exit__(self, *_): resource.setrlimit(resource.RLIMIT_AS, self.before)


def written(name, text): return lambda folder: (folder / name).write_bytes(text if isinstance(text,
    bytes) else text.encode())


def config(name="config.json", **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return change


def dropped(*names):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({key: value for key,
            value in json.loads(path.read_text()).items() if key not in names}))
    return change


@group
def configurations():
    texts = {
        "a list": "[]", "a number": "3", "a text": '"bert"', "null": "null", "nothing": "",
        "a list of mappings": "[{}]",
        "half": '{"model_type": "be', "brackets": "[" * 100_000, "empty": "{}", "latin1": b'{"a": "\xe9"}',
        "zeros": bytes(300), "a long number": '{"model_type": "bert", "hidden_size": ' + "9" * 5000 + "}",
    }
    for name, text in texts.items(): yield name, partial(based, change=written("config.json", text))
    values = dict(
        hidden_size=(0, -32, 33, "32", None, 3.5, [32], 10**9), num_hidden_layers=(0, -1, "3", None, 2.5, 10**5),
        num_attention_heads=(0, -2, 3, "2", 64), intermediate_size=(0, -1, "64"), vocab_size=(0, -1, 10, "x", 10**12),
        max_position_embeddings=(0, -1, 2, "128", 10**12), type_vocab_size=(0, -1, "2"),
        hidden_act=("no such", 5, None, ["gelu"]), layer_norm_eps=("x", None),
        model_type=("zzz", 5, None, "gpt2", "t5", "clip"),
        pad_token_id=(10**6, "x"), dtype=("float99", "int8"), quantization_config=([], "x", {"quant_method": 5}),
        auto_map=("x", [], {"AutoModel": 5}, {"AutoModel": "../own.Own"}, {"AutoConfig": "own.Own"}),
        architectures=(5,), tie_word_embeddings=("x",), hidden_dropout_prob=(-1, "x", 7),
        position_embedding_type=("zzz",),
        attn_implementation=("zzz",), text_config=([], 5), transformers_version=(5,), is_decoder=(True,),
        chunk_size_feed_forward=("x",),
    )
    for field, given in values.items():
        for value in given: yield f"{field}={value!r}", partial(based, change=config(**{field: value})), "sound"
    for field in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        yield f"without {field}", partial(based, change=dropped(field)), "sound"


def tensors(change):
    def rewrite(folder):
        path = folder / "model.safetensors"
        found = load_file(path)
        found = change(found) or found
        save_file(found, path, {"format": "pt"})
    return rewrite


FIRST, BLOCK = "embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.weight"


def index(told):
    "Weights as several files, as an index says."
    def change(folder):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return change


def outside(folder):
    shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(
        metadata={},
        weight_map={name: "../outside.safetensors" for name in load_file(folder.parent / "outside.safetensors")},
    )))


@group
def weights():
    for share in (0, 0.01, 0.5, 0.99):
        def cut(folder, share=share):
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
        yield f"cut to {share:.0%}", partial(based, change=cut)
    yield "gone", partial(based, change=lambda folder: (folder / "model.safetensors").unlink())
    yield "a folder", partial(based, change=lambda folder: (
        (folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()
    ))
    yield "a link to nowhere", partial(based, change=lambda folder: (
        (folder / "model.safetensors").unlink(), (folder / "model.safetensors").symlink_to("/no/such")
    ))
    yield "a pipe", partial(based, change=lambda folder: (
        (folder / "model.safetensors").unlink(), os.mkfifo(folder / "model.safetensors")
    ))
    yield "text", partial(based, change=written("model.safetensors", "not tensors at all"))
    yield "a web page", partial(based, change=written("model.safetensors", "<!doctype html><html>404</html>"))
    for name in (FIRST, BLOCK, "encoder.layer.2.output.LayerNorm.weight", "embeddings.position_embeddings.weight"):
        yield f"{name} without numbers", partial(based, change=tensors(lambda found,
            name=name: found[name].fill_(float("nan")) is None))
        yield f"{name} infinite", partial(based, change=tensors(lambda found,
            name=name: found[name].fill_(float("inf")) is None))
    yield "one number is none", partial(based,
        change=tensors(lambda found: found[FIRST][7].fill_(float("nan")) is None)), "sound"
    yield "huge", partial(based, change=tensors(lambda found: found[BLOCK].fill_(3e38) is None)), "sound"
    yield "all zero", partial(based, change=tensors(lambda found: {key: torch.zeros_like(value) for key,
        value in found.items()})), "sound"
    yield "whole numbers", partial(based, change=tensors(lambda found: {key: value.int() for key,
        value in found.items()})), "sound"
    yield "doubles", partial(based, change=tensors(lambda found: {key: value.double() for key,
        value in found.items()})), "right"
    yield "a tensor of no size", partial(based, change=tensors(lambda found: found.update({BLOCK: torch.zeros(0)})))
    yield "a tensor transposed", partial(based,
        change=tensors(lambda found: found.update({FIRST: found[FIRST].T.contiguous()})))
    yield "an axis more", partial(based, change=tensors(lambda found: found.update({BLOCK: found[BLOCK][None]})))
    yield "a row less", partial(based, change=tensors(lambda found: found.update({FIRST: found[FIRST][:-1].clone()})))
    yield "a tensor more", partial(based, change=tensors(lambda found: found.update(other=torch.ones(3)))), "right"
    for name, told in {
        "a list": [], "a number": 5, "no map": {}, "a map of numbers": {"metadata": {}, "weight_map": {FIRST: 5}},
        "a file that is not there": {"metadata": {}, "weight_map": {FIRST: "gone.safetensors"}}, "broken": "{",
        "an empty map": {"metadata": {}, "weight_map": {}}, "a text for a map": {"metadata": {},
            "weight_map": "part.safetensors"},
        "one tensor alone": {"metadata": {}, "weight_map": {FIRST: "part.safetensors"}},
    }.items():
        yield f"an index that is {name}", partial(based, change=index(told)), "sound"
    yield "an index that leads out", partial(based, change=outside), "sound"


def tokenizer(change):
    def rewrite(folder):
        path = folder / "tokenizer.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps(change(told) or told))
    return rewrite


@group
def tokenizers():
    for name, text in {
        "nothing": "", "a list": "[]", "null": "null", "a mapping of nothing": "{}", "brackets": "[" * 100_000,
        "half": '{"version"',
        "a number": "7", "binary": bytes(range(256)),
    }.items():
        yield f"tokenizer.json: {name}", partial(based, change=written("tokenizer.json", text))
        yield f"tokenizer_config.json: {name}", partial(based, change=written("tokenizer_config.json", text)), "sound"
    yield "no model", partial(based, change=tokenizer(lambda told: told.pop("model")))
    yield "another model", partial(based, change=tokenizer(lambda told: told["model"].update(type="Zzz")))
    yield "no words", partial(based, change=tokenizer(lambda told: told["model"].update(vocab={}))), "sound"
    yield "numbers beyond the table", partial(based, change=tokenizer(
        lambda told: told["model"]["vocab"].update({word: 10**6 for word in list(told["model"]["vocab"])[-1:]})
    )), "sound"
    yield "a negative number", partial(based, change=tokenizer(
        lambda told: told["model"]["vocab"].update({word: -1 for word in list(told["model"]["vocab"])[-1:]})
    ))
    yield "a number twice", partial(based, change=tokenizer(
        lambda told: told["model"]["vocab"].update({word: 7 for word in list(told["model"]["vocab"])[-1:]})
    )), "sound"
    yield "a hole in the numbers", partial(based, change=tokenizer(
        lambda told: told["model"]["vocab"].pop(list(told["model"]["vocab"])[50]) and None
    )), "sound"
    yield "a pattern that never ends", partial(based, change=tokenizer(lambda told: told.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ))), "sound"
    yield "a broken pattern", partial(based, change=tokenizer(lambda told: told.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}
    )))
    yield "everything is removed", partial(based, change=tokenizer(lambda told: told.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""}
    ))), "sound"
    for field, values in dict(
        model_max_length=(0, -1, 1, 2, "x", None, 10**30, 0.5), pad_token=(None, 5, "", "no such word"),
        padding_side=("zzz", 5),
        truncation_side=("zzz",), tokenizer_class=("Zzz", 5, None, "GPT2Tokenizer"),
        added_tokens_decoder=([], {"x": {}}, {"5": 5}),
        auto_map=({"AutoTokenizer": ["own.Own", None]}, 5), chat_template=("{{ 1 / 0 }}", 5),
        extra_special_tokens=(5, "x"),
        cls_token=(5, {"a": 1}), model_input_names=(5, "x", []),
    ).items():
        for value in values:
            yield f"{field}={value!r}", partial(based, change=config("tokenizer_config.json",
                **{field: value})), "sound"


@group
def folders_of_a_base():
    yield "empty", partial(based, change=lambda folder: [path.unlink() for path in folder.iterdir()])
    yield "a file", lambda world, place: ((place / "base").write_text("x"), sound(
        Classifier("probe", str(place / "base"), cache=None).fit(*world.rows)
    ))
    yield "a circle of links", lambda world, place: ((place / "a").symlink_to("b"), (place / "b").symlink_to("a"),
        sound(
        Classifier("probe", str(place / "a"), cache=None).fit(*world.rows)
    ))
    yield "a saved model", lambda world, place: Classifier("probe", str(world.probe), cache=None).fit(*world.rows)
    yield "a name with spaces and signs", lambda world, place: (
        shutil.copytree(world.tiny, place / "a b'$(x) 🦜"),
        sound(Classifier("probe", str(place / "a b'$(x) 🦜"), cache=None).fit(*world.rows)),
    ), "right"
    yield "broken generation settings", partial(based, change=written("generation_config.json", "[")), "sound"
    yield "broken special tokens", partial(based, change=written("special_tokens_map.json", "[5]")), "sound"
    yield "broken added tokens", partial(based, change=written("added_tokens.json", '{"a": "b"}')), "sound"
    yield "an adapter beside", partial(based, change=written("adapter_config.json", "[]")), "sound"
    yield "an adapter that leads away", partial(based, change=written(
        "adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "/no/such"}'
    )), "sound"
    yield "a chat template that runs", partial(based, change=written("chat_template.jinja",
        "{{ ''.__class__.__mro__ }}")), "sound"
