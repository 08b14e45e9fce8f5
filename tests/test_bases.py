"""Bases as people have them: what a load would make up is refused, and what a text gets depends on it alone."""
import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from saved import facts_of, write_facts

from clfm_kit import Classifier, UserError
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.cache import group_key
from clfm_kit.backbone.sources import LFS
from clfm_kit.builtin.formats import Plain

WORDS = {"good": "good great lovely fine superb".split(), "bad": "bad awful broken poor dreadful".split()}
ROWS = [
    (f"the {thing} is {word}", label) for thing in "phone camera router screen battery manual".split()
    for label, words in WORDS.items() for word in words
]
TEXTS, LABELS = map(list, zip(*ROWS))


def other_tensors(change):
    """A change of a base folder: its tensors go through `change`."""
    def apply(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})
    return apply


def other_config(**values):
    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return apply


def changed(tiny, place, change):
    folder = Path(shutil.copytree(tiny, place))
    change(folder)
    return str(folder)


def without(part): return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


# ---- weights that would be made up

@pytest.mark.parametrize("change, named", [
    (
        other_tensors(lambda tensors: {f"other.{name}": value for name, value in tensors.items()}),
        "embeddings.LayerNorm",
    ),
    (other_tensors(without("layer.1.")), "encoder.layer.1."),
    (other_tensors(without("embeddings.word_embeddings")), "embeddings.word_embeddings.weight"),
    (other_config(num_hidden_layers=4), "encoder.layer.3."),
    (other_config(intermediate_size=32), r"is \(64,\) there and \(32,\) by config.json"),
], ids=["another prefix", "a block", "the embeddings", "more blocks", "another shape"])
def test_weights_that_the_files_lack_are_named(change, named, tiny, tmp_path):
    with pytest.raises(UserError, match=named) as refusal:
        Classifier("probe", changed(tiny, tmp_path / "base", change), cache=None).fit(TEXTS, LABELS)
    assert "\n" not in str(refusal.value) and "not in its weight files" in str(refusal.value)


def test_a_pooler_that_nobody_reads_may_be_missing(tiny, tmp_path):
    folder = changed(tiny, tmp_path / "base", other_tensors(without("pooler")))
    clf = Classifier("probe", folder, cache=None).fit(TEXTS, LABELS)
    loaded = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.decision_function(TEXTS), clf.decision_function(TEXTS))


def test_a_base_with_another_configuration_is_another_base(tiny, tmp_path):
    folder = changed(tiny, tmp_path / "base", lambda folder: None)
    saved = Classifier("probe", folder, cache=None).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    other_config(transformers_version="0.0.1")(Path(folder))
    Classifier.from_pretrained(saved)
    other_config(hidden_act="relu")(Path(folder))
    with pytest.raises(UserError, match="has other weights or another configuration"): Classifier.from_pretrained(saved)


@pytest.mark.parametrize("field, value", [("hidden_act", "relu"), ("layer_norm_eps", 0.1)])
def test_states_of_a_base_with_another_configuration_are_read_anew(field, value, tiny, tmp_path):
    folder = changed(tiny, tmp_path / "base", lambda folder: None)
    fit = lambda cache: Classifier("probe", folder, cache=cache).fit(TEXTS, LABELS).decision_function(TEXTS)
    before = fit(tmp_path / "states")
    other_config(**{field: value})(Path(folder))
    after = fit(tmp_path / "states")
    np.testing.assert_array_equal(after, fit(None))
    assert np.abs(after - before).max() > 1e-3


def test_states_are_kept_apart_by_all_that_they_depend_on(tiny, monkeypatch):
    backbone = Backbone.load(tiny)
    key = lambda: group_key(backbone, Plain(), "float16")
    keys = {key()}
    with monkeypatch.context() as patch:
        patch.setattr(backbone.model.config, "_attn_implementation", "eager")
        keys.add(key())
    for library in (torch, transformers):
        with monkeypatch.context() as patch:
            patch.setattr(library, "__version__", "99.1.0")
            keys.add(key())
            patch.setattr(library, "__version__", "99.1.2")
            keys.add(key())
    for binding in (["NF4", "nf4"], ["NF4", "fp4"]):  # how a quantizer holds it, or what a part made of the inputs
        with monkeypatch.context() as patch:
            patch.setattr(backbone, "binding", [binding])
            keys.add(key())
    backbone.model.double()
    keys.add(key())
    assert len(keys) == 7


# ---- tokenizers

def other_words(folder):
    """The same tokens, of which two have changed places."""
    path = Path(folder, "tokenizer.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    one, two = sorted(word for word in words if word in ("the", "my"))
    words[one], words[two] = words[two], words[one]
    path.write_text(json.dumps(told), encoding="utf-8")


def test_states_of_a_base_with_another_tokenizer_are_read_anew(tiny, tmp_path):
    folder = changed(tiny, tmp_path / "base", lambda folder: None)
    texts = ["the my " + text for text in TEXTS]
    fit = lambda cache: Classifier("probe", folder, cache=cache).fit(texts, LABELS).decision_function(texts)
    before = fit(tmp_path / "states")
    other_words(folder)
    after = fit(tmp_path / "states")
    np.testing.assert_array_equal(after, fit(None))
    assert np.abs(after - before).max() > 1e-4


def test_a_saved_model_reads_with_its_own_tokenizer(tiny, tmp_path):
    folder = changed(tiny, tmp_path / "base", lambda folder: None)
    texts = ["the my " + text for text in TEXTS]
    clf = Classifier("probe", folder, cache=None).fit(texts, LABELS)
    saved, before = clf.save_pretrained(tmp_path / "model"), clf.decision_function(texts)
    other_words(folder)
    loaded = Classifier.from_pretrained(saved)
    np.testing.assert_array_equal(loaded.decision_function(texts), before)
    again = Classifier.from_pretrained(loaded.save_pretrained(tmp_path / "again"))
    np.testing.assert_array_equal(again.decision_function(texts), before)


@pytest.mark.parametrize("harm, named", [
    (lambda folder: other_words(folder), "tokenizer.json is not the file"),
    (lambda folder: Path(folder, "tokenizer_config.json").unlink(), "tokenizer_config.json is missing"),
    (lambda folder: Path(folder, "chat_template.jinja").write_text("{{ x }}"), "chat_template.jinja is not the file"),
], ids=["another word", "a file less", "a file more"])
def test_an_edited_tokenizer_of_a_saved_model_is_refused_by_name(harm, named, tiny, tmp_path):
    saved = Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS).save_pretrained(tmp_path / "model")
    harm(saved / "tokenizer")
    with pytest.raises(UserError, match=named): Classifier.from_pretrained(saved)


def test_a_folder_without_tokenizer_files_is_refused(tiny, tmp_path):
    folder = changed(tiny, tmp_path / "base", lambda folder: [path.unlink() for path in folder.glob("tokenizer*")])
    with pytest.raises(UserError, match="has no vocabulary"): Classifier("probe", folder, cache=None).fit(TEXTS, LABELS)


def test_words_that_the_tokenizer_does_not_know_are_counted(tiny):
    strange = [text.replace("the", "ᚠᚢᚦ").replace("is", "ᚨᚱᚲ") for text in TEXTS]
    with pytest.warns(UserWarning, match="of the words of the training texts are unknown to the tokenizer"):
        Classifier("probe", tiny, cache=None).fit(strange, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier("probe", tiny, cache=None).fit(TEXTS, LABELS)


# ---- number types

@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Folder of a small Llama whose weights are kept in bfloat16."""
    return small_llama(tmp_path_factory.mktemp("halves"), torch.bfloat16)


def small_llama(folder, dtype=torch.float32, **more):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel()
    words.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    ))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words.get_vocab_size(), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=512, initializer_range=0.3,
    )
    LlamaModel(config).to(dtype).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", **more).save_pretrained(folder)
    return str(folder)


LONG = [" ".join([text] * 12) for text in TEXTS[:12]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in half precision")
def test_a_processor_holds_half_precision_as_float32_and_says_so(halves, tmp_path):
    with pytest.warns(UserWarning, match="kept as bfloat16 and held as float32"):
        clf = Classifier("probe", halves, cache=None, state_dtype="float32").fit(TEXTS, LABELS)
    assert clf.encoder_.backbone.model.dtype == torch.float32 and "bfloat16" in clf.facts_["base"][0]
    together = clf.decision_function([*TEXTS, *LONG])
    alone = np.concatenate([clf.decision_function([text]) for text in [*TEXTS, *LONG]])
    assert np.abs(together - alone).max() < 1e-3


def test_half_precision_is_kept_where_it_is_asked_for(halves):
    given = dict(name="x", quantizer=dict(name="none", dtype="bfloat16"))
    clf = Classifier(given, halves, cache=None).fit(TEXTS, LABELS)
    assert clf.encoder_.backbone.model.dtype == torch.bfloat16


def test_training_in_half_precision_leaves_buffers_as_they_are(halves, tmp_path):
    given = dict(
        name="x", quantizer=dict(name="none", dtype="bfloat16"), selector="full", head="linear",
        training=dict(epochs=1, learning_rate=1e-3),
    )
    clf = Classifier(given, halves, cache=None).fit(TEXTS, LABELS)
    kept = {name: buffer.dtype for name, buffer in clf.encoder_.backbone.model.named_buffers()}
    assert set(kept.values()) == {torch.float32} and clf.encoder_.backbone.model.dtype == torch.bfloat16
    loaded = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.decision_function(LONG), clf.decision_function(LONG))


# ---- models that ignore the mask

def test_a_model_without_a_mask_is_read_without_padding(tiny, tmp_path):
    from transformers import AutoTokenizer, FNetConfig, FNetModel
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(0)
    FNetModel(FNetConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, intermediate_size=64,
        max_position_embeddings=128,
    )).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="so texts are read of one length only"):
        clf = Classifier("probe", str(tmp_path / "base"), cache=None, state_dtype="float32").fit(TEXTS, LABELS)
    together = clf.decision_function([*TEXTS, *LONG])
    alone = np.concatenate([clf.decision_function([text]) for text in [*TEXTS, *LONG]])
    assert np.abs(together - alone).max() < 1e-3


def test_reading_apart_keeps_gradients_and_order(tiny):
    backbone, found = Backbone.load(tiny), {}
    backbone.model.requires_grad_(True)
    ids = torch.randint(4, 1000, (5, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [9], [6], [4]])).long()
    for way in ("padded", "equal", "alone"):
        backbone.together = way
        backbone.read(ids, mask, {"hidden.2": lambda states: found.__setitem__(way, states)})
    shown = mask.bool()
    for way in ("equal", "alone"):
        torch.testing.assert_close(found[way][shown], found["padded"][shown], rtol=1e-4, atol=1e-5)
    assert found["equal"].requires_grad


# ---- limits

def test_roberta_reads_as_far_as_its_positions_go(tmp_path):
    from transformers import RobertaConfig, RobertaModel
    small_llama(tmp_path)
    for pad in (1, 3):
        RobertaModel(RobertaConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=66, pad_token_id=pad,
        )).save_pretrained(tmp_path)
        clf = Classifier("probe", str(tmp_path), cache=None).fit(TEXTS + LONG, LABELS + LABELS[:12])
        assert clf.encoder_.backbone.shape.limit == 66 - pad - 1


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tiny, tmp_path):
    from transformers import BertConfig, BertModel
    folder = changed(tiny, tmp_path / "base", lambda folder: None)
    BertModel(BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )).save_pretrained(folder)
    with pytest.raises(UserError, match="tokens and the model 100 embeddings"): Backbone.load(folder)


# ---- what is no base

def cut(path):
    path.write_bytes(path.read_bytes()[:200])


class Harm:
    def __reduce__(self): return (open, ("harm-was-done", "w"))


def harmful(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Harm()}, folder / "pytorch_model.bin")


def pieces_alone(folder):
    for path in folder.glob("tokenizer*"): path.unlink()
    (folder / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')


@pytest.mark.parametrize("change, said", [
    (lambda folder: cut(folder / "model.safetensors"), "weight file is damaged"),
    (lambda folder: (folder / "model.safetensors").write_bytes(LFS + b".com/spec/v1\n"), "Git LFS"),
    (harmful, "holds something else than tensors, and nothing of it was run"),
    (other_config(quantization_config={"quant_method": "some-new-method"}), "quantised by 'some-new-method'"),
    (other_config(quantization_config={"quant_method": "gptq", "bits": 4}), "does not load"),
    (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "holds an adapter"),
    (lambda folder: [(folder / "model.gguf").touch(), (folder / "config.json").unlink()], "GGUF"),
    (other_tensors(lambda tensors: {name: value * float("nan") for name, value in tensors.items()}), "are not numbers"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "does not load"),
    pytest.param(pieces_alone, "pip install sentencepiece", marks=pytest.mark.skipif(
        find_spec("sentencepiece") is not None, reason="sentencepiece is installed"
    )),
], ids=[
    "truncated", "LFS pointer", "pickle", "unknown quantisation", "gptq", "adapter", "gguf", "NaN", "tokenizer",
    "sentencepiece",
])
def test_what_is_no_base_is_told_in_a_sentence(change, said, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = changed(tiny, tmp_path / "base", change)
    with pytest.raises(UserError, match=said) as refusal: Classifier("probe", folder, cache=None).fit(TEXTS, LABELS)
    assert "\n" not in str(refusal.value) and not Path("harm-was-done").exists()


# ---- fewer blocks

@pytest.fixture
def below(tiny, tmp_path):
    """Folder of a classifier that reads one of three blocks."""
    given = dict(name="below", pooler=dict(name="mean", layer=1), head="logistic")
    return Classifier(given, tiny, cache=None).fit(TEXTS, LABELS).save_pretrained(tmp_path / "below")


def no_room(config, depth): raise AttributeError("this architecture has no setter")


def otherwise(config, depth):
    config.num_hidden_layers, config.hidden_act = depth, "relu"


@pytest.mark.parametrize("shorten, blocks", [(None, 1), (no_room, 3), (otherwise, 3)])
def test_where_fewer_blocks_do_not_give_the_same_states_the_whole_base_is_read(shorten, blocks, below, monkeypatch):
    if shorten: monkeypatch.setattr("clfm_kit.backbone.loading.shorten", shorten)
    loaded = Classifier.from_pretrained(below)
    assert loaded.encoder_.backbone.loaded_depth == blocks
    told = [note for note in loaded.encoder_.backbone.notes if "all blocks are loaded" in note]
    assert ["this architecture has no setter" in note for note in told] == [True] * (shorten is no_room)
    monkeypatch.undo()
    np.testing.assert_array_equal(loaded.predict(TEXTS), Classifier.from_pretrained(below).predict(TEXTS))


def test_a_base_that_gives_other_states_is_refused(below):
    facts = facts_of(below)
    facts["model"]["states"] = [value + 1 for value in facts["model"]["states"]]
    write_facts(below, facts)
    with pytest.raises(UserError, match="gives other states than it did"): Classifier.from_pretrained(below)
    Classifier.from_pretrained(below, accept_other_base=True)


# ---- kernels, experts

@pytest.mark.parametrize("name", ["longformer", "falcon", "deberta"])
@pytest.mark.parametrize("at_home", [False, True], ids=["the kernel forced on", "and off"])
def test_models_that_change_states_in_place_train(name, at_home, monkeypatch, tmp_path):
    from architectures import LABELS, RECIPES, TEXTS, save_base, tokenizer
    monkeypatch.setattr("clfm_kit.backbone.kernels.mkl_is_at_home", lambda: at_home)
    base = save_base(name, tmp_path, tokenizer())
    for recipe in ("train", "adapters"):
        clf = Classifier(RECIPES[recipe], base, cache=None).fit(list(TEXTS), list(LABELS))
        assert np.isfinite(clf.decision_function(list(TEXTS))).all()


def test_what_four_bits_cannot_hold_is_said(tmp_path):
    from architectures import LABELS, RECIPES, TEXTS, save_base, tokenizer

    from clfm_kit.study.plan import plan
    base = save_base("mixtral", tmp_path, tokenizer())
    with pytest.warns(UserWarning, match="of the weights in blocks are held in 4 bits: .*experts"):
        Classifier(RECIPES["4 bits"], base, cache=None).fit(list(TEXTS), list(LABELS))
    found = plan("lora-4bit", base, speed=1e9, available=10**9)
    assert any("experts that are kept as one tensor" in sentence for sentence in found.advice)


@pytest.mark.parametrize("name, left", [("mamba", "dt_proj"), ("longt5", "wo")])
def test_a_map_whose_weight_is_used_without_a_call_stays_whole_under_four_bits(name, left, tmp_path):
    from architectures import save_base, tokenizer

    from clfm_kit.parts import make
    base, seen = save_base(name, tmp_path, tokenizer()), []
    ids = torch.arange(3, 15).unsqueeze(0)
    for quantizer in (None, make("quantizer", "nf4")):
        backbone = Backbone.load(base, quantizer=quantizer)
        with torch.no_grad(): backbone.read(ids, torch.ones_like(ids), {"hidden.2": seen.append})
    kinds = {key.rpartition(".")[2]: type(module).__name__ for key, module in backbone.model.named_modules()}
    assert kinds[left] == "Linear" and "Linear4bit" in kinds.values()
    plain, small = (states.flatten() for states in seen)
    assert torch.nn.functional.cosine_similarity(plain, small, dim=0) > 0.9
