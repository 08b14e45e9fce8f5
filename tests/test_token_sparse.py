"""Token-sparse fine-tuning where a notebook cannot show it: every granularity on several architectures, budgets for
any numbers, whole runs, and what must be refused.
"""
import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

pytest.importorskip("clfm_kit_token_sparse")
from clfm_kit import Classifier, UserError, load_data
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.deltas import Change, Delta, levels, locate
from clfm_kit.builtin.formats import Plain
from clfm_kit.plugins import using
from clfm_kit.testing import Words
from clfm_kit_token_sparse.budgets import Budget, caught, moved, price, spend
from clfm_kit_token_sparse.groups import candidates
from clfm_kit_token_sparse.sensitivity import linear_maps
from clfm_kit_token_sparse.units import Units, delta_of, make_units

SMALL = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
ARCHITECTURES = {
    "bert": ("BertConfig", SMALL), "llama": ("LlamaConfig", dict(SMALL, num_key_value_heads=2)),
    "gpt2": ("GPT2Config", dict(vocab_size=50, n_embd=32, n_layer=2, n_head=4)), "gpt-neox": ("GPTNeoXConfig", SMALL),
    "phi3": ("Phi3Config", dict(SMALL, pad_token_id=0)),
}
QUICK = ["training.epochs=2", "training.learning_rate=1e-3", "selector.cost=0.7"]


def model(name):
    import transformers
    kind, sizes = ARCHITECTURES[name]
    torch.manual_seed(0)
    return Backbone(transformers.AutoModel.from_config(getattr(transformers, kind)(**sizes)).eval(), Words())


def weights(backbone):
    return {name: p.detach().clone() for name, p in backbone.model.named_parameters()}


def steps(backbone, delta, seed=0):
    """Three optimizer steps on random ids."""
    delta.start(backbone)
    optimizer = torch.optim.AdamW([values for _, values, _ in delta.parameters()], lr=1e-2)
    ids = torch.randint(1, 50, (4, 6), generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        backbone.read(
            ids, torch.ones_like(ids),
            {"hidden.2": lambda s: (s.square().sum() + s.sin().sum()).mul(0.01).backward()},
        )
        optimizer.step(), optimizer.zero_grad(), delta.write(backbone)
    delta.finish(backbone)
    return delta


def outside(delta, before, after):
    """Whether all that the delta does not name kept its bits."""
    for name, weight in before.items():
        kept = torch.ones_like(weight, dtype=torch.bool)
        for change in (change for change in delta.changes if change.name == name):
            kept.index_fill_(change.axis, change.index, False)
        if not torch.equal(weight[kept], after[name][kept]): return False
    return True


@pytest.mark.parametrize("granularity", ["row", "column", "head", "channel", "head+channel"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_units_train_alone_and_their_deltas_apply_unapply_and_add(name, granularity):
    backbone = model(name)
    maps = linear_maps(backbone, levels(backbone, ["hidden.2"]))
    backbone.model.requires_grad_(False)
    make = lambda start: delta_of(
        [(units, torch.arange(start, len(units), 2)) for units in make_units(backbone, maps, granularity)], maps
    )
    base, found = weights(backbone), []
    for start in (0, 1):
        delta = steps(backbone, make(start), start)
        trained = weights(backbone)
        assert outside(delta, base, trained)
        assert all(not torch.equal(trained[change.name], base[change.name]) for change in delta.changes)
        again = Delta.from_state(*delta.state())
        delta.unapply(backbone)
        assert all(torch.equal(p, base[n]) for n, p in backbone.model.named_parameters())
        again.apply(backbone)
        assert all(torch.equal(p, trained[n]) for n, p in backbone.model.named_parameters())
        again.unapply(backbone)
        found.append(again)
    both = found[0] + found[1]
    both.apply(backbone)
    for change in both.changes:
        expected = base[change.name].clone()
        for part in (c for delta in found for c in delta.changes if c.name == change.name):
            part.put(expected, part.take(expected).float() + part.difference)
        torch.testing.assert_close(locate(backbone.model, change.name)[1], expected, rtol=0, atol=0)


@pytest.mark.parametrize("granularity", ["head", "channel", "column"])
def test_the_gradient_of_units_is_that_of_the_whole_weights(granularity):
    backbone = model("llama")
    maps = linear_maps(backbone, levels(backbone, ["hidden.2"]))
    ids, loss = (
        torch.randint(1, 50, (3, 5)),
        lambda: backbone.read(ids, torch.ones_like(ids), {"hidden.2": lambda s: s.sin().sum().backward()}),
    )
    loss()
    whole = {name: module.weight.grad.clone() for name, (module, _) in maps.items()}
    backbone.model.requires_grad_(False)
    delta = delta_of([(units, torch.tensor([0])) for units in make_units(backbone, maps, granularity)], maps)
    delta.start(backbone)
    loss()
    assert all(change.values.numel() < whole[change.name].numel() for change in delta.changes)  # compact
    for change in delta.changes:
        torch.testing.assert_close(
            change.values.grad, whole[change.name].index_select(change.axis, change.index), rtol=1e-4, atol=1e-5
        )


# Budgets

units = st.builds(
    lambda scores, width, level: (scores, width, level), st.lists(st.floats(0, 10, width=32), min_size=1, max_size=6),
    st.integers(1, 9), st.integers(0, 3),
)


def made(found):
    return [
        Units({f"map {n}": (0, torch.arange(len(scores))[:, None])}, width, level, torch.tensor(scores))
        for n, (scores, width, level) in enumerate(found)
    ]


@given(st.lists(units, min_size=1, max_size=6), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_spending_keeps_within_the_room_and_takes_the_best(found, room):
    found = made(found)
    chosen = spend(found, room)
    assert moved(chosen) <= room
    left = {id(each): set(range(len(each))) for each in found}
    for each, index in chosen: left[id(each)] -= set(index.tolist())
    taken = [float(each.scores[n]) for each, index in chosen for n in index.tolist()]
    out = [float(each.scores[n]) for each in found for n in left[id(each)]]
    assert not taken or not out or min(taken) >= max(out) or moved(chosen) + max(each.width for each in found) > room


@given(st.lists(units, min_size=1, max_size=6), st.floats(0.01, 1), st.floats(0.01, 1.2), st.integers(1, 10))
@settings(max_examples=80, deadline=None)
def test_a_choice_keeps_both_budgets_or_is_refused(found, share, cost, epochs):
    found = made(found)
    blocks = {
        level: sum(len(each) * each.width for each in found if each.level == level)
        for level in sorted({each.level for each in found})
    }
    budget = Budget(blocks, epochs, cost)
    try: chosen = budget.choose(found, share)
    except UserError: return
    assert 0 < moved(chosen) <= share * budget.total + 1e-6
    assert price(min(each.level for each, _ in chosen), blocks, epochs, moved(chosen) / budget.total) <= cost + 1e-6
    assert caught(chosen) >= 0


@given(st.dictionaries(st.integers(0, 8), st.integers(1, 1000), min_size=1), st.integers(1, 20), st.floats(0, 1))
@settings(deadline=None)
def test_deeper_costs_more_and_all_of_it_costs_what_full_finetuning_does(blocks, epochs, share):
    prices = [price(level, blocks, epochs, share) for level in sorted(blocks)]
    assert all(higher <= deeper + 1e-9 for deeper, higher in zip(prices, prices[1:]))
    assert price(-1, blocks, epochs, 1.0) == pytest.approx(1.0)
    assert prices[0] <= 2 / 3 + share / 3 + 1e-9


# Whole runs

helpdesk = cache(lambda: load_data("helpdesk"))


def some_rows(rows=160):
    data = helpdesk()
    return data.train.texts[:rows], data.train.labels[:rows], data.validation.take(range(80))


@pytest.mark.parametrize("granularity", ["head", "channel", "head+channel", "column"])
def test_a_granularity_from_fit_to_a_fresh_load(tiny, tmp_path, granularity):
    texts, labels, validation = some_rows()
    base = weights(Backbone.load(tiny))
    fitted = Classifier(
        "token-sparse", tiny,
        settings=[*QUICK, "selector.weights=0.3", f"selector.granularity={granularity}"], cache=None,
    ).fit(texts, labels, validation)
    assert (
        outside(fitted.delta_, base, weights(fitted.encoder_.backbone))
        and fitted.delta_.size / fitted.facts_["training"]["share_of_weights"] > 0
    )
    fitted.save_pretrained(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "delta.safetensors")
    assert sum(t.numel() for name, t in stored.items() if not name.endswith("#index")) == fitted.delta_.size
    loaded = Classifier.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.decision_function(texts[:9]), fitted.decision_function(texts[:9]))
    loaded.delta_.unapply(loaded.encoder_.backbone)
    assert all(torch.equal(p, base[name]) for name, p in loaded.encoder_.backbone.model.named_parameters())


def test_auto_from_a_yaml_recipe(tiny, tmp_path):
    texts, labels, validation = some_rows()
    (tmp_path / "mine.yaml").write_text(
        "selector: {name: token-sparse, weights: auto, lowest: auto, cost: 0.7, trial_texts: 90}\npooler: mean\n"
        "head: linear\ntraining: {epochs: 2, learning_rate: 1e-3}\n"
    )
    fitted, again = (
        Classifier(str(tmp_path / "mine.yaml"), tiny, cache=None).fit(texts, labels, validation) for _ in range(2)
    )
    facts = fitted.facts_["training"]
    chosen, = (
        trial for trial in facts["trials"]
        if (trial["lowest"], trial["weights"]) == (facts["lowest"], round(facts["share_of_weights"], 4))
    )
    assert (
        chosen["validation_loss"] == min(trial["validation_loss"] for trial in facts["trials"])
        and facts["cost"] <= 0.7 and facts["trials_cost"] > 0
    )
    json.dumps(facts)
    assert facts["trials"] == again.facts_["training"]["trials"]
    np.testing.assert_array_equal(fitted.decision_function(texts[:9]), again.decision_function(texts[:9]))


def test_auto_tries_what_a_teacher_says(tiny):
    texts, labels, validation = some_rows()
    teacher = Classifier("probe", tiny, cache=None).fit(texts, labels, validation)
    student = Classifier(
        "token-sparse", tiny,
        settings=[*QUICK, "selector.weights=auto", "selector.lowest=1", "selector.trial_texts=90"], cache=None,
    )
    student.teacher_ = teacher
    assert len(student.fit(texts, labels, validation).facts_["training"]["trials"]) > 1


def test_auto_is_refused_for_several_tasks(tiny):
    from clfm_kit.data.tasks import load_tasks, read_tasks
    tasks = {"intent": "label", "slots": "slots"}
    parts = {part: rows.take(range(48)) for part, rows in load_tasks("helpdesk", read_tasks(tasks)).items()}
    settings = [
        "selector=random-sparse", "selector.weights=auto", "selector.cost=null", "training.epochs=1",
        "training.head_start=random",
    ]
    with pytest.raises(UserError, match="'auto' tries its choices on one task"):
        Classifier("finetune", tiny, tasks=tasks, settings=settings, cache=None).fit(parts)


def test_embedding_rows_of_groups_move_and_no_others(tiny):
    texts, labels, validation = some_rows()
    base = weights(Backbone.load(tiny))
    fitted = Classifier(
        "token-sparse", tiny,
        settings=[*QUICK, "selector.embeddings=groups", "selector.groups=40", "selector.cost=null"], cache=None,
    ).fit(texts, labels, validation)
    table = next(change for change in fitted.delta_.changes if "word_embeddings" in change.name)
    moving = (fitted.encoder_.backbone.model.get_parameter(table.name) != base[table.name]).any(1).nonzero().flatten()
    assert (
        set(moving.tolist()) <= set(table.index.tolist()) and len(moving) > 0
        and len(table.index) < len(base[table.name]) / 4
    )
    assert (
        outside(fitted.delta_, base, weights(fitted.encoder_.backbone))
        and fitted.facts_["training"]["prefix"] == "computed"
    )


@pytest.mark.parametrize("embeddings", ["frozen", "merged"])
def test_merged_tokens_shorten_texts_and_only_their_rows_are_saved(tiny, tmp_path, embeddings):
    texts, labels, validation = some_rows()
    fitted = Classifier(
        "token-sparse",
        tiny,
        settings=[
            *QUICK, "format=merged", "format.groups=30", f"selector.embeddings={embeddings}", "selector.cost=null"
        ],
        cache=None,
    ).fit(texts, labels, validation)
    merged, backbone = fitted.parts_["format"], fitted.encoder_.backbone
    lengths = [
        sum(map(len, text_format.encode(texts, backbone.tokenizer, 128).ids)) for text_format in (merged, Plain())
    ]
    assert lengths[0] < lengths[1]
    fitted.save_pretrained(tmp_path / "model")
    tables = {
        name: t for name, t in load_file(tmp_path / "model" / "delta.safetensors").items()
        if "word_embeddings" in name
    }
    before = len(Backbone.load(tiny).model.get_input_embeddings().weight)
    if embeddings == "merged":
        index = next(t for name, t in tables.items() if name.endswith("#index"))
        assert index.tolist() == list(range(before, before + len(merged.groups_)))
    else: assert not tables
    np.testing.assert_array_equal(
        Classifier.from_pretrained(tmp_path / "model").decision_function(texts[:9]),
        fitted.decision_function(texts[:9]),
    )
    table = fitted.facts_["training"]["tables"]["Token groups"]
    # merged tokens are shown as the words they stand for
    assert table["head"][:2] == ["label", "group"] and table["rows"] and all(
        label in labels and group.strip() for label, group, *_ in table["rows"]
    )


# What must be refused, before a step is made

def refused(recipe, tiny, settings, match, using_hooks=None):
    """The error of a fit in which no step was made."""
    texts, labels, validation = some_rows(64)
    seen = []
    def run_event(event): seen.append(event["kind"])
    with using(run_event=run_event, **(using_hooks or {})), pytest.raises(UserError, match=match) as caught:
        Classifier(recipe, tiny, settings=settings, cache=None).fit(texts, labels, validation)
    assert "train" not in seen and "\n" not in str(caught.value)


@pytest.mark.parametrize("setting, match", [
    ("selector.weights=1e-6", "fewer than the 32 of one row"), ("selector.cost=0.01", "so raise cost or seconds"),
    ("selector.seconds=1e-9", "so raise cost or seconds"), ("selector.lowest=9", "blocks 0 to 2"),
    ("selector.embeddings=groups", "top block and embeddings"),
    ("selector.embeddings=merged", "use it with format 'merged'"),
    ("selector.granularity=heads", "did you mean 'head'"),
])
def test_budgets_that_move_nothing(tiny, setting, match):
    refused("token-sparse", tiny, ["pooler=mean", setting], match)  # the random model says nothing about where to end


def test_a_quantised_base_is_refused_before_it_is_read():
    from clfm_kit.recipes import Recipe
    pytest.importorskip("clfm_kit_lora_4bit")
    with pytest.raises(UserError, match="the base is quantised"):
        Recipe(quantizer="nf4", selector="token-sparse", head="linear").parts()


@pytest.mark.parametrize("returned, match", [
    (None, "returned None instead of a delta"), ([], "instead of a delta"), (Delta(), "chose no weight to train"),
    (
        Delta([Change("encoder.layer.2.output.dense.weight", torch.tensor([], dtype=torch.long))]),
        "chose no weight to train",
    ),
])
def test_a_selector_of_a_plugin_that_returns_nothing_trainable(tiny, returned, match):
    class Nothing:
        trains = True
        def select(self, backbone, batches): return returned
    def register_selectors(register): register("nothing", Nothing, about="chooses nothing")
    refused("finetune", tiny, ["selector=nothing"], match, dict(register_selectors=register_selectors))


def test_a_model_without_linear_maps(tiny, monkeypatch):
    monkeypatch.setattr(
        "clfm_kit_token_sparse.selectors.levels", lambda backbone, sites: {"embeddings.word_embeddings.weight": -1}
    )
    refused("token-sparse", tiny, [], "has no linear maps")


def test_tied_weights(tiny, monkeypatch):
    load = Backbone.load.__func__
    def tied(cls, *args, **kwargs):
        backbone = load(cls, *args, **kwargs)
        backbone.blocks[1].output.dense.weight = backbone.blocks[2].output.dense.weight
        return backbone
    monkeypatch.setattr(Backbone, "load", classmethod(tied))
    refused("token-sparse", tiny, ["selector.weights=1.0", "selector.cost=null"], "one tied weight")


@pytest.mark.parametrize("how", ["a full disk", "a small budget", "little room"])
def test_without_room_for_the_prefix_it_computes_and_says_so(tiny, monkeypatch, how):
    texts, labels, validation = some_rows(96)
    fit = lambda *more: Classifier(
        "token-sparse", tiny, settings=[*QUICK, "pooler=mean", "selector.lowest=2", *more], cache=None
    ).fit(texts, labels, validation)
    stored = fit()
    assert stored.facts_["training"]["prefix"] == "replayed"
    if how == "a full disk":
        def full(*args, **kwargs): raise OSError(28, "No space left on device")
        monkeypatch.setattr("clfm_kit.backbone.prefix.Prefix.fill", full)
    if how == "little room":
        monkeypatch.setattr(
            "clfm_kit.backbone.prefix.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 0)
        )
    with pytest.warns(UserWarning, match="they are computed anew in every epoch"):
        computed = fit(*["training.prefix_gigabytes=1e-9"] * (how == "a small budget"))
    assert computed.facts_["training"]["prefix"] == "computed"
    np.testing.assert_allclose(computed.decision_function(texts[:9]), stored.decision_function(texts[:9]), atol=0.02)


def test_training_ends_at_the_layer_that_probes_choose(tmp_path):
    train = load_data("helpdesk").train
    texts, labels = train.texts[:240], ["question" if "?" in text else "statement" for text in train.texts[:240]]
    fitted = Classifier("token-sparse", settings=["training.epochs=1"], cache=None).fit(texts, labels)
    top = fitted.parts_["pooler"].layers_[-1]
    assert (
        fitted.depth_ == top < fitted.encoder_.backbone.shape.depth and fitted.delta_.lowest < top
        and {change.level for change in fitted.delta_.changes} <= set(range(top))
    )
    # of finetuning the whole model, blocks that are not read included
    assert fitted.facts_["training"]["cost"] <= 0.33
    loaded = Classifier.from_pretrained(fitted.save_pretrained(tmp_path / "model"), cache=None)
    assert (
        np.array_equal(fitted.predict_proba(texts[:20]), loaded.predict_proba(texts[:20]))
        and loaded.encoder_.backbone.loaded_depth == top
    )


def test_a_group_is_counted_once_for_each_text():
    found = candidates([[7, 7, 7, 7], [1, 2], [1, 2]], least=2)
    assert (7,) not in found and found[1, 2].tolist() == [1, 2]
