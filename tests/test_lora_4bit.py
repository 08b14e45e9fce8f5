"""Decoders, quantised bases and LoRA: every architecture through fit, save and reload, and what must be refused."""
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from command import afresh
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("clfm_kit_lora_4bit")
from clfm_kit import Classifier, UserError, load_data
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.sharing import held_once
from clfm_kit.data.rows import Splits

SIZES = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
LLAMA = dict(**SIZES, intermediate_size=128, num_key_value_heads=2, max_position_embeddings=128)
ARCHITECTURES = {
    "llama": ("LlamaConfig", LLAMA), "mistral": ("MistralConfig", dict(LLAMA, sliding_window=16)),
    "qwen3": ("Qwen3Config", dict(LLAMA, head_dim=16)), "gemma": ("GemmaConfig", dict(LLAMA, head_dim=16)),
    "gpt2": ("GPT2Config", dict(n_embd=64, n_layer=2, n_head=4, n_positions=128)),
    "opt": ("OPTConfig", dict(SIZES, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=128)),
    "phi": ("PhiConfig", dict(SIZES, intermediate_size=128, max_position_embeddings=128)),
    "t5": ("T5Config", dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)),
}
QUICK = ["training.epochs=2", "training.learning_rate=5e-3", "format.max_length=24"]


@pytest.fixture(scope="session")
def words():
    """A tokenizer with an end token and no padding token, as decoders have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    pieces.train_from_iterator(load_data("helpdesk").train.texts, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    ))
    return PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<end>", model_max_length=128)


@pytest.fixture(scope="session")
def decoder(words, tmp_path_factory):
    """A function that makes the folder of a small model with random weights, once an architecture."""
    import transformers
    folders = {}

    def make(name):
        if name not in folders:
            kind, sizes = ARCHITECTURES[name]
            config = getattr(transformers, kind)(
                vocab_size=len(words), bos_token_id=0, eos_token_id=0, pad_token_id=None, **sizes
            )
            if name == "t5": config.pad_token_id = 0
            torch.manual_seed(0)
            folders[name] = str(tmp_path_factory.mktemp(name))
            (
                transformers.AutoModel.from_config(config).save_pretrained(folders[name]),
                words.save_pretrained(folders[name]),
            )
        return folders[name]

    return make


@pytest.fixture(scope="session")
def rows():
    data = load_data("helpdesk").train
    few = [
        row for row, label in enumerate(data.labels) if label in ("track_order", "login_problem", "return_item")
    ][:72]
    return data.take(few)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_in_4_bits_through_fit_save_and_reload(name, decoder, rows, tmp_path):
    fitted = Classifier(
        "lora-4bit", decoder(name), settings=[*QUICK, "training.epochs=1"], cache=None
    ).fit(rows.texts, rows.labels)
    assert any(p.dtype == torch.uint8 for p in fitted.encoder_.backbone.model.parameters())
    assert all(p.dtype == torch.float32 for p in fitted.task().head.parameters())
    assert fitted.delta_.size == fitted.facts_["training"]["trainable"] > 0
    fitted.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(
        Classifier.from_pretrained(tmp_path / "model").decision_function(rows.texts[:9]),
        fitted.decision_function(rows.texts[:9]),
    )


@pytest.fixture(scope="module")
def tuned(decoder, rows, tmp_path_factory):
    """{pooler: (classifier, its folder, its logits in a fresh process)} of tuned decoders in four bits."""
    place, found = tmp_path_factory.mktemp("tuned"), {}
    for pooler in ("last", "attention"):
        clf = Classifier("lora-4bit", decoder("llama"), settings=[*QUICK, f"pooler={pooler}"], cache=place / "cache")
        found[pooler] = clf.fit(rows.texts, rows.labels), str(clf.save_pretrained(place / pooler))
    there = afresh({pooler: (folder, "decision_function", rows.texts[:9]) for pooler, (_, folder) in found.items()})
    return {pooler: (*both, there[pooler]) for pooler, both in found.items()}


def test_a_fresh_process_gives_the_same_logits(tuned, rows):
    fitted, _, logits = tuned["last"]
    np.testing.assert_array_equal(logits, fitted.decision_function(rows.texts[:9]))


def test_adapters_of_several_models_take_turns_on_one_base(tuned, decoder, rows, tmp_path):
    frozen = Classifier("probe", decoder("llama"), ["quantizer=nf4", "pooler=last"], cache=None)
    frozen = frozen.fit(rows.texts, rows.labels)
    folders = [tuned["last"][1], frozen.save_pretrained(tmp_path / "frozen"), tuned["attention"][1]]
    apart = [tuned["last"][0], frozen, tuned["attention"][0]]
    with held_once(): together = [Classifier.from_pretrained(folder) for folder in folders]
    assert len({id(clf.encoder_.backbone.model) for clf in together}) == 1
    asked = rows.texts[:9]
    expected = [clf.decision_function(asked) for clf in apart]
    for number in (0, 1, 2, 1, 0, 2):
        np.testing.assert_array_equal(together[number].decision_function(asked), expected[number])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: together[turn % 3].decision_function(asked), range(18)))
    for turn, logits in enumerate(found): np.testing.assert_array_equal(logits, expected[turn % 3])
    first = together[0]
    first.delta_.unapply(first.encoder_.backbone)  # the others keep theirs
    np.testing.assert_array_equal(together[2].decision_function(asked), expected[2])
    np.testing.assert_array_equal(together[1].decision_function(asked), expected[1])


@pytest.mark.parametrize(
    "settings",
    [
        ["quantizer=none"], ["quantizer=none", "quantizer.dtype=bfloat16"], ["quantizer=int8"], ["quantizer=fp4"],
        ["quantizer.scales=32-bit"], ["selector.variant=dora"], ["selector.scaling=rank-stabilised"],
        ["selector.initialization=pissa"], ["selector.initialization=loftq"],
        ["selector.targets=['*q_proj', '*v_proj']"], ["selector.layers=1"], ["pooler=mean"], ["pooler.layer=1"],
        ["head=mlp"], ["head=logistic", "pooler.layer=[1, 2]"], ["training.gradient_checkpointing=blocks"],
    ],
    ids=lambda found: found[-1],
)
def test_every_setting_trains_and_comes_back(settings, decoder, rows, tmp_path):
    fitted = Classifier(
        "lora-4bit", decoder("llama"), settings=[*QUICK, "training.epochs=1", *settings], cache=None
    ).fit(rows.texts, rows.labels)
    fitted.save_pretrained(tmp_path / "model")
    loaded = Classifier.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.decision_function(rows.texts[:5]), fitted.decision_function(rows.texts[:5]))
    if "pooler.layer=1" in settings:
        assert loaded.encoder_.backbone.loaded_depth == 1 and max(fitted.delta_.levels.values()) == 0


@pytest.mark.parametrize("quantizer", ["none", "nf4", "int8"])
def test_an_encoder_takes_adapters_and_gives_its_weights_back(quantizer, tiny, rows):
    fitted = Classifier(
        "lora-4bit", tiny,
        settings=[*QUICK, "training.epochs=1", f"quantizer={quantizer}", "pooler=mean"], cache=None,
    ).fit(rows.texts, rows.labels)
    fresh = Backbone.load(tiny, quantizer=fitted.parts_["quantizer"])
    fitted.delta_.unapply(fitted.encoder_.backbone)
    assert fitted.encoder_.backbone.hash == fresh.hash
    found = dict(fitted.encoder_.backbone.model.named_parameters())
    assert found.keys() == dict(fresh.model.named_parameters()).keys() and all(
        torch.equal(found[name], p) for name, p in fresh.model.named_parameters()
    )


def test_a_base_as_it_is_and_in_4_bits_keep_states_apart(tiny, rows, tmp_path):
    score = lambda quantizer: Classifier(
        "probe", tiny, settings=[f"quantizer={quantizer}"], cache=tmp_path
    ).fit(rows.texts, rows.labels).decision_function(rows.texts[:5])
    assert not np.array_equal(score("none"), score("nf4"))


def test_files_already_in_4_bits(decoder, rows, tmp_path):
    from clfm_kit.backbone.sources import load_tokenizer
    from clfm_kit_lora_4bit.quantizers import NF4
    part = NF4()
    Backbone.load(decoder("llama"), quantizer=part).model.save_pretrained(tmp_path / "base")
    load_tokenizer(decoder("llama")).save_pretrained(tmp_path / "base")
    fitted = Classifier(
        "lora-4bit", str(tmp_path / "base"), settings=[*QUICK, "training.epochs=1"], cache=None
    ).fit(rows.texts, rows.labels)
    assert fitted.predict(rows.texts[:3]).shape == (3,)
    for quantizer, message in (
        ("none", "already quantised by bitsandbytes"), ("fp4", "use quantizer 'nf4'"),
        ("int8", "use quantizer 'nf4'"),
    ):
        with pytest.raises(UserError, match=message):
            Classifier(
                "lora-4bit", str(tmp_path / "base"), settings=[f"quantizer={quantizer}"], cache=None
            ).fit(rows.texts, rows.labels)
    with pytest.raises(UserError, match="model's files are quantised"):
        Classifier(
            "lora-4bit", str(tmp_path / "base"), settings=[*QUICK, "selector.initialization=loftq"], cache=None
        ).fit(rows.texts, rows.labels)


def test_several_labels_with_thresholds(decoder):
    data = load_data("abstracts")
    train, held = data.train.take(range(96)), data.validation.take(range(48))
    fitted = Classifier("lora-4bit", decoder("llama"), settings=[*QUICK, "training.epochs=1"], cache=None).fit(
        train.texts, train.labels, held
    )
    task = fitted.task()
    assert not task.schema.exclusive and len(task.calibration.thresholds) == len(task.schema)
    assert all(isinstance(found, list) for found in fitted.predict(held.texts[:4]))
    assert 0 <= fitted.predict_proba(held.texts[:4]).min() <= fitted.predict_proba(held.texts[:4]).max() <= 1


def test_stc_over_a_tuned_decoder_in_4_bits(decoder, rows, tmp_path):
    pytest.importorskip("clfm_kit_stc")
    from clfm_kit_lora_4bit.merging import merge
    tuned = Classifier(
        "lora-4bit", decoder("llama"), settings=[*QUICK, "training.epochs=1"], cache=None
    ).fit(rows.texts, rows.labels)
    merge(tuned, tmp_path / "tuned", rows.texts, rows.labels, tolerance=1.0)
    head = {"name": "sparsify", "etas": [0.8], "strengths": [0.1]}
    stacked = Classifier(
        {"name": "stacked", "quantizer": "nf4", "pooler": "all-layers", "head": head},
        str(tmp_path / "tuned"), cache=None,
    ).fit(rows.texts, rows.labels)
    loaded = Classifier.from_pretrained(stacked.save_pretrained(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.decision_function(rows.texts[:5]), stacked.decision_function(rows.texts[:5]))


def test_attention_pooling_learns_beside_the_adapters(tuned, rows, tmp_path):
    from clfm_kit_lora_4bit.merging import merge
    fitted, folder, logits = tuned["attention"]
    query = fitted.parts_["pooler"].query.detach()
    assert query.abs().max() > 1e-3
    np.testing.assert_array_equal(logits, fitted.decision_function(rows.texts[:9]))
    loaded = Classifier.from_pretrained(folder)
    assert torch.equal(loaded.parts_["pooler"].query, query)
    with torch.no_grad(): loaded.parts_["pooler"].query.zero_()
    assert np.abs(loaded.decision_function(rows.texts[:9]) - fitted.decision_function(rows.texts[:9])).max() > 1e-4
    with pytest.raises(UserError, match="keep the adapter beside the base"):
        merge(fitted, tmp_path / "merged", rows.texts, rows.labels)
    with pytest.raises(UserError, match="use pooler 'mean'"):
        Classifier("lora-4bit", "no-model", settings=["selector=frozen", "pooler=attention"]).fit(
            rows.texts, rows.labels
        )


TAGS = {"slots": {"label": "slots"}, "intent": "label"}


@pytest.mark.parametrize(
    "base, settings",
    [
        ("encoder", ["pooler=mean"]), ("encoder", ["pooler=mean", "quantizer=none"]),
        ("encoder", ["pooler=attention", "quantizer=int8"]),
        ("decoder", ["attention=bidirectional", "pooler=mean"]), ("decoder", []),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, list) else found,
)
def test_words_are_tagged_over_adapters(base, settings, tiny, decoder, tmp_path):
    from clfm_kit.data.tasks import load_tasks, read_tasks
    parts = Splits(**{part: rows.take(range(80)) for part, rows in load_tasks("helpdesk", read_tasks(TAGS)).items()})
    model = tiny if base == "encoder" else decoder("llama")
    fitted = Classifier(
        "lora-4bit", model, tasks=TAGS,
        settings=[*QUICK, "training.epochs=1", "format.max_length=64", *settings], cache=None,
    ).fit(parts)
    texts = parts.test.texts[:12]
    answers, logits = fitted.predict(texts), fitted.decision_function(texts)
    assert (
        fitted.task("slots").schema.unit == "word" and {len(found) for found in answers.values()} == {12}
        and fitted.delta_.size > 0
    )
    assert all(
        text[span["start"]:span["end"]] == span["text"]
        for text, found in zip(texts, answers["slots"]) for span in found
    )
    assert fitted.evaluate(parts.test).tasks["slots"].rows == len(parts.test)
    loaded = Classifier.from_pretrained(fitted.save_pretrained(tmp_path / "model"))
    again = loaded.decision_function(texts)
    assert all(np.array_equal(a, b) for name in TAGS for a, b in zip(logits[name], again[name]))
    assert json.dumps(loaded.predict(texts), default=list) == json.dumps(answers, default=list)


def test_tags_learn_what_stands_after_a_word_only_with_the_mask_lifted(decoder):
    """The last word of a text says what the first one is: a decoder that reads from left to right cannot know."""
    table = [
        dict(text=f"{word} bolt {last}", tokens=[word, "bolt", last], slots=[tag, "O", "O"])
        for word in ("red", "blue", "dark", "old") for last, tag in (("paint", "B-colour"), ("kind", "B-sort"))
    ] * 12
    found = {}
    for attention in ("own", "bidirectional"):
        clf = Classifier(
            "lora-4bit", decoder("llama"), tasks={"slots": "slots"},
            settings=[
                "training.epochs=6", "training.learning_rate=1e-2", f"attention={attention}", "format.max_length=24"
            ],
            cache=None,
        ).fit(table, validation=table)
        found[attention] = clf.evaluate(table).tasks["slots"]["entity_f1"]
    assert found["bidirectional"] > 0.95 > 0.6 > found["own"]


@pytest.fixture(scope="module")
def read(decoder):
    """A function that pools one text's last token under padding of any kind."""
    from clfm_kit.builtin.poolers import Last
    backbone = Backbone.load(decoder("llama"))

    def pooled(ids, left=0, right=0, pad=0):
        found, mask = [], torch.tensor([[0] * left + [1] * len(ids) + [0] * right])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        own = backbone.model.forward
        backbone.model.forward = lambda **given: own(**given, position_ids=positions)
        try:
            with torch.no_grad():
                backbone.read(
                    torch.tensor([[pad] * left + ids + [pad] * right]), mask,
                    {"hidden.2": lambda states: found.append(Last().pool(states, mask)["last"])},
                )
        finally: del backbone.model.forward
        return found[0]

    return pooled


@settings(max_examples=25, deadline=None)
@given(ids=st.lists(st.integers(0, 300), min_size=1, max_size=12), left=st.integers(0, 5), right=st.integers(0, 5))
def test_the_last_token_is_the_same_under_any_padding(read, ids, left, right):
    """Id 0 is the end token and the padding token, and texts may hold it."""
    torch.testing.assert_close(read(ids, left, right), read(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings, message", [
    (["selector.rank=65"], "larger than any map"), (["selector.targets='*query'"], "match no linear map"),
    (["selector.targets=*query"], "put it in quotes"), (["selector.rank=0"], "rank is 0"),
    (["quantizer.compute=int4"], "unknown quantizer.compute"),
    (["quantizer=none", "selector.initialization=loftq"], "not quantised"),
    (["selector=full"], "selector that adds weights, such as 'lora'"),
])
def test_settings_that_cannot_work_are_told_in_one_sentence(settings, message, decoder, rows):
    with pytest.raises(UserError, match=message) as caught:
        Classifier(
            "lora-4bit", decoder("llama"), settings=[*QUICK, *settings], cache=None
        ).fit(rows.texts, rows.labels)
    assert "\n" not in str(caught.value)


def test_an_adapter_for_another_base_is_refused(decoder, teacher):
    with pytest.raises(UserError, match="other weights"): Classifier.from_pretrained(teacher, model=decoder("gpt2"))
    with pytest.raises(UserError, match="made for another model"):
        Classifier.from_pretrained(teacher, model=decoder("gpt2"), accept_other_base=True)


def test_a_model_without_padding_end_or_linear_maps(decoder, rows, tmp_path, words):
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
    from clfm_kit_lora_4bit.adapters import linear_maps
    AutoModel.from_config(AutoConfig.from_pretrained(decoder("llama"))).save_pretrained(tmp_path / "bare")
    PreTrainedTokenizerFast(tokenizer_object=words.backend_tokenizer).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="neither a padding nor an end token"):
        Classifier("lora-4bit", str(tmp_path / "bare"), cache=None).fit(rows.texts, rows.labels)
    with pytest.raises(UserError, match="no linear maps in its blocks"):
        linear_maps(torch.nn.Module(), [torch.nn.LayerNorm(4)])
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no-such-architecture"}')
    words.save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match="does not load"):
        Classifier("lora-4bit", str(tmp_path / "odd"), cache=None).fit(rows.texts, rows.labels)


def test_bitsandbytes_missing_or_without_its_library(monkeypatch):
    from clfm_kit_lora_4bit.quantizers import NF4, bitsandbytes

    class ErrorHandlerMockBNBNativeLibrary: pass
    monkeypatch.setattr(bitsandbytes().cextension, "lib", ErrorHandlerMockBNBNativeLibrary())
    with pytest.raises(UserError, match="without the native library"): NF4().load_kwargs()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r'pip install "clfm-kit\[lora-4bit\]"'): NF4().load_kwargs()


def test_the_command_line_plans_and_fits(decoder, tmp_path, capsys):
    from clfm_kit.cli.main import main
    data = load_data("helpdesk")
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(
            f'"{text}",{label}\n' for text, label in zip(data.train.texts, data.train.labels)
            if label in ("track_order", "login_problem") and '"' not in text
        )
    )
    main(["plan", "--recipe", "lora-4bit", "--model", decoder("llama"), "--rows", "1000", "--json"])
    planned = json.loads(capsys.readouterr().out)
    assert planned["fits"] and planned["trained"] > 0 and planned["advice"]
    (tmp_path / "recipe.yaml").write_text(
        "name: small\nquantizer: nf4\nselector: {name: lora, rank: 4}\npooler: last\nhead: linear\n"
        "training: {epochs: 1}\n"
    )
    main([
        "fit", "--recipe", str(tmp_path / "recipe.yaml"), "--model", decoder("llama"),
        "--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "model"), "--json",
    ])
    assert json.loads((tmp_path / "model" / "clfm.json").read_text())["facts"]["training"]["rank"] == 4


def test_a_gpu_too_small_is_told_before_loading(decoder):
    from clfm_kit.backbone.sizes import refuse_too_large
    from clfm_kit_lora_4bit.quantizers import NF4
    with pytest.raises(UserError, match="the base does not fit"): refuse_too_large(decoder("llama"), NF4(), 1000)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma", "gpt2", "opt", "phi"])
def test_the_causal_mask_can_be_lifted(name, decoder):
    """The first token's state depends on later ones, in a batch with padding and in one without;
    own attention is as it was.
    """
    backbone = Backbone.load(decoder(name), attention="bidirectional")
    own = Backbone.load(decoder(name))

    def first(backbone, ids, mask):
        found = []
        with torch.no_grad():
            backbone.read(
                torch.tensor(ids), torch.tensor(mask), {"hidden.2": lambda states: found.append(states[0, 0])}
            )
        return found[0]

    for mask in ([[1, 1, 1]], [[1, 1, 1, 0]]):
        texts = [[[5, 6, last] + [0] * (len(mask[0]) - 3)] for last in (7, 8)]
        assert not torch.equal(*(first(backbone, ids, mask) for ids in texts))
        torch.testing.assert_close(*(first(own, ids, mask) for ids in texts))
    torch.testing.assert_close(
        first(backbone, [[5, 6, 7, 0]], [[1, 1, 1, 0]]), first(backbone, [[5, 6, 7]], [[1, 1, 1]]),
        atol=1e-4, rtol=1e-4,
    )


def test_a_recipe_reads_both_ways(decoder, rows, tmp_path):
    fitted = Classifier(
        "lora-4bit", decoder("llama"),
        settings=[*QUICK, "training.epochs=1", "attention=bidirectional", "pooler=mean"], cache=None,
    ).fit(rows.texts, rows.labels)
    loaded = Classifier.from_pretrained(fitted.save_pretrained(tmp_path / "model"))
    assert loaded.recipe_.attention == "bidirectional"
    np.testing.assert_array_equal(loaded.decision_function(rows.texts[:5]), fitted.decision_function(rows.texts[:5]))
    with pytest.raises(UserError, match="unknown attention"):
        Classifier("lora-4bit", decoder("llama"), settings=["attention=both"]).fit(rows.texts, rows.labels)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapters_multiplied_out_are_the_same_change(decoder, rows, name):
    clf = Classifier(
        "lora-4bit", decoder(name), settings=["quantizer=none", *QUICK], cache=None
    ).fit(rows.texts, rows.labels)
    before, base = clf.decision_function(rows.texts[:9]), clf.encoder_.backbone
    clf.delta_.unapply(base)
    without = clf.decision_function(rows.texts[:9])
    clf.delta_.dense(base).apply(base)
    # states are rounded to half precision
    np.testing.assert_allclose(clf.decision_function(rows.texts[:9]), before, atol=2e-3)
    assert np.abs(before - without).max() > 0.01


def test_adapters_over_a_quantised_base_are_not_multiplied_out(tuned):
    clf, _, _ = tuned["last"]
    with pytest.raises(UserError, match="load the models with quantizer 'none'"):
        clf.delta_.dense(clf.encoder_.backbone)


@pytest.fixture(scope="module")
def teacher(tuned):
    """Folder of a tuned decoder in four bits."""
    return tuned["last"][1]


def write_rows(path, rows, labels=True):
    path.write_text("".join(
        json.dumps(dict(text=text, **({"label": label} if labels else {}))) + "\n"
        for text, label in zip(rows.texts, rows.labels)
    ))


def test_a_decoder_teaches_an_encoder_from_the_command_line(teacher, tiny, rows, tmp_path, capsys):
    from clfm_kit.cli.main import main
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "train.jsonl", rows, labels=False)
    write_rows(tmp_path / "data" / "test.jsonl", rows)
    (tmp_path / "student.yaml").write_text(
        "name: student\nselector: full\nhead: linear\ntraining: {epochs: 12, learning_rate: 2e-3}\n"
    )
    main([
        "distil", teacher, "--data", str(tmp_path / "data"), "--recipe", str(tmp_path / "student.yaml"),
        "--model", tiny, "--set", "seed=1", "--out", str(tmp_path / "student"), "--json",
    ])
    found = json.loads(capsys.readouterr().out)
    assert (
        found["kept"] == pytest.approx(found["student_macro_f1"] / found["teacher_macro_f1"]) and found["kept"] > 0.5
    )
    assert (
        found["speed"] == pytest.approx(found["student_rows_per_second"] / found["teacher_rows_per_second"])
        and found["rows"] == len(rows)
    )
    loaded = Classifier.from_pretrained(tmp_path / "student")
    assert (
        loaded.facts_["training"]["teacher"] == "lora-4bit" and loaded.facts_["distilled"]["kept"] == found["kept"]
        and loaded.recipe_.seed == 1
    )
    assert (loaded.predict(rows.texts) == Classifier.from_pretrained(teacher).predict(rows.texts)).mean() > 0.6


def test_a_teacher_in_a_recipe_gives_its_probabilities_and_not_the_labels(teacher, tiny, rows, tmp_path):
    """Training labels turned round: the student follows its teacher."""
    turned = dict(zip(sorted(set(rows.labels)), [*sorted(set(rows.labels))[1:], sorted(set(rows.labels))[0]]))
    recipe = dict(
        name="student", selector="full", head="linear", teacher=teacher,
        training=dict(epochs=8, learning_rate=3e-3, head_start="random"),
    )
    clf = Classifier(recipe, tiny, cache=None).fit(
        rows.texts, [turned[label] for label in rows.labels], validation=rows, checkpoints=tmp_path / "checkpoints"
    )
    near = lambda labels: (clf.predict(rows.texts) == np.array(labels)).mean()
    assert near(
        Classifier.from_pretrained(teacher).predict(rows.texts)
    ) > 0.6 > near([turned[label] for label in rows.labels])
    assert Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model")).recipe_.teacher == teacher


def test_what_cannot_be_taught_is_told_in_one_sentence(teacher, tiny, rows, fitted, tmp_path):
    from clfm_kit.study.distilling import distil
    from clfm_kit.data.tasks import load_tasks, read_tasks
    for settings, message in (
        (["selector=frozen", "head=logistic", "training={}"], "trains no weights"),
        (["class_weight=balanced"], "leave out class_weight"),
        (["training.label_smoothing=0.1"], "leave out class_weight"),
    ):
        with pytest.raises(UserError, match=message):
            Classifier(
                "finetune", tiny, settings=[*settings, f"teacher={teacher}"], cache=None
            ).fit(rows.texts, rows.labels)
        with pytest.raises(UserError, match=message): distil(teacher, rows.texts, model=tiny, settings=settings)
    with pytest.raises(UserError, match="different labels"):
        Classifier("finetune", tiny, settings=[f"teacher={fitted}"], cache=None).fit(rows.texts, rows.labels)
    with pytest.raises(UserError, match="no clfm.json"): distil(str(tmp_path), rows.texts, model=tiny)
    with pytest.raises(UserError, match="never answers"): distil(teacher, rows.texts[:1] * 12, model=tiny)
    parts = Splits(
        **{part: found.take(range(80)) for part, found in load_tasks("helpdesk", read_tasks(TAGS)).items()}
    )
    with pytest.raises(UserError, match="the teacher has no task"):
        Classifier("finetune", tiny, tasks=TAGS, settings=[f"teacher={teacher}"], cache=None).fit(parts)
    several = Classifier("probe", tiny, tasks=TAGS, cache=None).fit(parts)
    with pytest.raises(UserError, match="the teacher never answers"): distil(several, rows.texts[:1] * 12, model=tiny)


def test_a_teacher_of_several_labels(decoder, tiny):
    from clfm_kit.study.distilling import distil, kept
    data = load_data("abstracts")
    train, held = data.train.take(range(96)), data.validation.take(range(48))
    # thresholds for macro-F1: a teacher that is to teach all labels has to answer them all
    settings = [*QUICK, "training.epochs=1", "task={name: multi, tune_for: macro-f1}"]
    teacher = Classifier("lora-4bit", decoder("llama"), settings=settings, cache=None).fit(
        train.texts, train.labels, held
    )
    student = distil(
        teacher, train.texts, (held.texts, held.labels), model=tiny,
        settings=["training.epochs=1", "format.max_length=24"], cache=None,
    )
    assert student.task().schema.labels == teacher.task().schema.labels and kept(teacher, student, held)["kept"] > 0
