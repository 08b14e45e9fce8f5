"""The train path where a notebook cannot show it: other processes, killed ones, hostile bases."""
import os
import shutil
import signal
import sys
import textwrap
import time
import warnings
from functools import cache
from pathlib import Path

import afresh
import asks
import numpy as np
import pytest
import torch
from command import Forked, script
from safetensors.torch import load_file

from clfm_kit import Classifier, UserError, load_data

SETTINGS = ["training.epochs=2", "training.learning_rate=1e-3", "training.save_steps=5"]
BUDGETS = [4096, 90]

FIT = textwrap.dedent("""
    import sys, torch
    from clfm_kit import Classifier, load_data
    torch.set_num_threads(1)
    tiny, recipe, out, checkpoints, *settings = sys.argv[1:]
    data = load_data("helpdesk")
    fitted = Classifier(recipe, tiny, settings=settings, cache=None).fit(
        data.train.texts[:224], data.train.labels[:224], data.validation.take(range(60)),
        checkpoints=checkpoints or None,
    )
    fitted.save_pretrained(out)
""")


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A Python file that fits."""
    path = tmp_path_factory.mktemp("script") / "fit.py"
    path.write_text(FIT)
    return path


helpdesk = cache(lambda: load_data("helpdesk"))


def some_rows(rows):
    data = helpdesk()
    return data.train.texts[:rows], data.train.labels[:rows], data.validation.take(range(80))


def tensors(folder):
    return {
        f"{name}:{key}": value
        for name in ("delta", "head") for key, value in load_file(Path(folder, f"{name}.safetensors")).items()
    }


@pytest.fixture(scope="module")
def through(fit, tiny, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("through") / "model"
    done = Forked(script(fit, tiny, "finetune", out, "", *SETTINGS)).wait()
    assert done.returncode == 0, done.stderr
    return out


def test_a_killed_run_goes_on_bit_for_bit(fit, tiny, tmp_path, through):
    """In a fresh process, with another seed of hashes; of 7 steps an epoch, so that no checkpoint ends one."""
    checkpoints = tmp_path / "checkpoints"
    words = [tiny, "finetune", tmp_path / "model", checkpoints, *SETTINGS]
    run = Forked(script(fit, *words))
    while len(list(checkpoints.glob("checkpoint-*/complete"))) < 1: time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait().returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists() and list(checkpoints.glob("checkpoint-*"))
    done = afresh.python(fit, *words, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found, expected = tensors(tmp_path / "model"), tensors(through)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpoints_of_another_run_are_refused(tiny, tmp_path):
    texts, labels, validation = some_rows(64)
    (tmp_path / "run.json").write_text('"another"')
    with pytest.raises(UserError, match="checkpoints of another run"):
        Classifier("finetune", tiny, settings=SETTINGS, cache=None).fit(
            texts, labels, validation, checkpoints=tmp_path
        )


@pytest.mark.parametrize("selector", ["full", "bias", "top-layers"])
def test_saved_and_loaded_gives_the_same_logits(tiny, tmp_path, selector):
    texts, labels, validation = some_rows(64)
    fitted = Classifier(
        "finetune", tiny, settings=[*SETTINGS, f"selector={selector}", "training.epochs=1"], cache=None
    ).fit(texts, labels, validation)
    fitted.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(
        Classifier.from_pretrained(tmp_path / "model").decision_function(texts[:8]),
        fitted.decision_function(texts[:8]),
    )


def test_what_was_not_chosen_keeps_its_bits(tiny):
    from clfm_kit.backbone.backbone import Backbone
    texts, labels, validation = some_rows(64)
    base = {name: p.detach().clone() for name, p in Backbone.load(tiny).model.named_parameters()}
    fitted = Classifier(
        "finetune", tiny, settings=[*SETTINGS, "selector=top-layers", "selector.layers=1"], cache=None
    ).fit(texts, labels, validation)
    moved = {name for name, p in fitted.encoder_.backbone.model.named_parameters() if not torch.equal(p, base[name])}
    assert moved == {change.name for change in fitted.delta_.changes} and all(".layer.2." in name for name in moved)
    fitted.delta_.unapply(fitted.encoder_.backbone)
    assert all(torch.equal(p, base[name]) for name, p in fitted.encoder_.backbone.model.named_parameters())


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory):
    """What one process and what two learn, at each budget, in a folder; `torchrun` starts the two afresh."""
    place = tmp_path_factory.mktemp("processes")
    path = place / "run.py"
    path.write_text(textwrap.dedent("""
        import sys, torch
        from torch.distributed import is_initialized, get_rank
        from transformers import AutoModel, BertConfig
        from clfm_kit.backbone.backbone import Backbone
        from clfm_kit.backbone.deltas import Change, Delta, levels
        from clfm_kit.backbone.encoder import TextEncoder
        from clfm_kit.builtin.formats import Plain
        from clfm_kit.builtin.heads import Linear
        from clfm_kit.builtin.labels import SingleLabel
        from clfm_kit.builtin.poolers import Mean
        from clfm_kit.data.class_weights import learn_class_weights
        from clfm_kit.data.rows import Rows
        from clfm_kit.settings import Training
        from clfm_kit.testing import Words
        from clfm_kit.training.batches import Examples, class_draw
        from clfm_kit.training.network import Heads, Network, Objective
        from clfm_kit.training.trainer import train_delta
        from safetensors.torch import save_file
        place, processes, *budgets = sys.argv[1:]
        small = dict(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
        for budget in budgets:
            torch.set_num_threads(1), torch.manual_seed(0)
            backbone = Backbone(AutoModel.from_config(BertConfig(**small)).eval(), Words())
            schema = SingleLabel.of(("a", "b"))
            rows = Rows(
                ["a bb ccc " * (n % 5 + 1) + "dddd " * (n % 2) for n in range(75)],
                {"one": ["ab"[n % 2] for n in range(75)]},
            )
            encoder = TextEncoder(backbone, Plain(), Mean())
            train, validation = (Examples(encoder, rows, {"one": schema}) for _ in range(2))
            head = Linear(dropout=0.0); head.build({"hidden.2/mean": 16}, schema)
            weights = learn_class_weights({"a": 3}, train.targets["one"], schema)
            network = Network(
                encoder, Heads({"one": head}), {"one": ["hidden.2/mean"]}, {"one": Objective(head, schema, weights)},
                {"one": 1.0},
            )
            delta = Delta([Change(name, level=level) for name, level in levels(backbone, network.sites).items()])
            settings = Training(epochs=2, learning_rate=1e-3, token_budget=int(budget))
            draw = class_draw(weights, train.targets["one"])
            train_delta(network, delta, train, validation, draw=draw, settings=settings)
            assert is_initialized() == (processes == "2")
            if not is_initialized() or get_rank() == 0:
                learned = {c.name: c.difference.contiguous() for c in delta.changes}
                save_file(learned, f"{place}/{processes}-{budget}.safetensors")
    """))
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

    def torchrun():
        from torch.distributed.run import main
        command = sys.executable, asks.__file__, str(path), str(place), "2", *map(str, BUDGETS)
        main(["--standalone", "--nproc_per_node=2", "--no-python", *command])

    for run in (script(path, place, 1, *BUDGETS), torchrun):
        done = Forked(run, env=environment).wait()
        assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("budget", BUDGETS)
def test_two_processes_give_what_one_gives(budget, of_processes):
    """Half of each batch in each of two processes, with 90 tokens at once in unlike numbers of pieces; dropout off,
    because each process draws its own.
    """
    one, two = (load_file(of_processes / f"{n}-{budget}.safetensors") for n in (1, 2))
    for name in one: torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-5, msg=name)


def test_a_class_weight_and_windows_train_too(tiny):
    texts, labels, validation = some_rows(64)
    recipe = dict(
        selector="top-layers", head="mlp", format={"name": "windows", "size": 8, "overlap": 2},
        class_weight="balanced", training=dict(epochs=1, label_smoothing=0.1, layer_decay=0.8),
    )
    assert Classifier(recipe, tiny, cache=None).fit(texts, labels, validation).predict_proba(texts[:3]).shape[0] == 3


def test_a_quantised_base_is_refused(tiny):
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.backbone.deltas import levels
    backbone = Backbone.load(tiny)
    backbone.blocks[0].output.dense.weight = torch.nn.Parameter(
        torch.zeros(4, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(UserError, match="is quantised"): levels(backbone, ["hidden.3"])


def test_rows_of_a_tied_weight_are_refused(tiny):
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.backbone.deltas import Change, Delta
    backbone = Backbone.load(tiny)
    backbone.blocks[1].output.dense.weight = backbone.blocks[2].output.dense.weight
    name = next(name for name, p in backbone.model.named_parameters() if p is backbone.blocks[2].output.dense.weight)
    with pytest.raises(UserError, match="one tied weight"):
        Delta([Change(name, torch.tensor([0]), level=1)]).start(backbone)


@pytest.mark.parametrize("selector", ["token-sparse", "gradient-sparse", "random-sparse"])
def test_sparse_selectors_change_their_rows_only(tiny, selector):
    pytest.importorskip("clfm_kit_token_sparse")
    from clfm_kit.backbone.backbone import Backbone
    texts, labels, validation = some_rows(128)
    base = {name: p.detach().clone() for name, p in Backbone.load(tiny).model.named_parameters()}
    fitted = Classifier(
        "token-sparse", tiny, settings=[f"selector={selector}", "selector.cost=0.5", *SETTINGS], cache=None
    ).fit(texts, labels, validation)
    chosen = {change.name: change for change in fitted.delta_.changes}
    for name, weight in fitted.encoder_.backbone.model.named_parameters():
        rows = (weight != base[name]).reshape(len(weight), -1).any(1).nonzero().flatten().tolist()
        assert rows == (sorted(chosen[name].index.tolist()) if name in chosen else [])


def test_a_patience_that_cannot_stop_anything_is_said(tiny):
    texts, labels, validation = some_rows(60)
    few = Classifier("finetune", tiny, settings=["training.epochs=1", "training.patience=1"], cache=None)
    with pytest.warns(
        UserWarning, match="patience=1 stops nothing here: the 20 validation rows are fewer than the 50"
    ):
        few.fit(texts, labels, validation.take(range(20)))


@pytest.mark.parametrize(
    "falls, validations", [(lambda losses: False, 2), (lambda losses: len(losses) < 4, 4), (bool, 6)]
)
def test_a_training_goes_on_where_the_loss_still_fell(tiny, monkeypatch, falls, validations):
    monkeypatch.setattr("clfm_kit.training.trainer.still_falls", falls)
    texts, labels, validation = some_rows(96)
    settings = ["training.epochs=2", "training.rounds=3", "training.learning_rate=1e-4", "training.patience=6"]
    # a later round goes on only with a loss that is the lowest so far
    monkeypatch.setattr("clfm_kit.training.network.Objective.calibrated_loss", lambda self, *_: -next(counted))
    counted = iter(range(100))
    clf = Classifier("finetune", tiny, settings=settings, cache=None)
    if validations == 6:
        with pytest.warns(UserWarning, match="was still falling when training ended .* training.epochs=12 would go on"):
            clf.fit(texts, labels, validation)
    else: clf.fit(texts, labels, validation)
    assert len(clf.facts_["training"]["validation_loss"]) == validations


def test_a_later_round_ends_with_a_validation_that_is_no_better(tiny, monkeypatch):
    monkeypatch.setattr("clfm_kit.training.trainer.still_falls", bool)
    losses = iter([3.0, 2.0, 2.5, 1.0])
    monkeypatch.setattr("clfm_kit.training.network.Objective.calibrated_loss", lambda self, *_: next(losses))
    texts, labels, validation = some_rows(96)
    settings = ["training.epochs=2", "training.rounds=3", "training.learning_rate=1e-4"]
    clf = Classifier("finetune", tiny, settings=settings, cache=None).fit(texts, labels, validation)
    assert clf.facts_["training"]["validation_loss"] == [3.0, 2.0, 2.5]


# ---- checkpoints that were damaged

HARM = {
    "a flipped byte": lambda folder: flip(folder / "optimizer.pt"),
    "a missing optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "other random numbers": lambda folder: flip(folder / "rng_state.pth"),
    "a mark cut short": lambda folder: (folder / "complete").write_bytes((folder / "complete").read_bytes()[:20]),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


def flip(path):
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


@pytest.fixture(scope="module")
def left(tiny, tmp_path_factory):
    """A function that fits with a folder of checkpoints; the folder that a whole run leaves; its scores."""
    texts, labels, validation = some_rows(96)

    def again(folder):
        settings = ["training.epochs=3", "training.learning_rate=1e-3", "training.save_steps=4"]
        clf = Classifier("finetune", tiny, settings=settings, cache=None)
        return clf.fit(texts, labels, validation, checkpoints=folder).decision_function(validation.texts)

    folder = tmp_path_factory.mktemp("left") / "checkpoints"
    return again, folder, again(folder)


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(harm, left, tmp_path):
    again, whole, expected = left
    shutil.copytree(whole, tmp_path / "kept")
    older, newest = sorted((tmp_path / "kept").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    HARM[harm](newest)
    with pytest.warns(UserWarning, match=f"{newest.name} .* cannot be used; the run goes on from {older.name}"):
        np.testing.assert_array_equal(again(tmp_path / "kept"), expected)
    with warnings.catch_warnings():  # what was damaged has been written anew
        warnings.filterwarnings("error", message=".*cannot be used")
        again(tmp_path / "kept")


def test_where_no_checkpoint_is_whole_the_run_starts_anew(left, tmp_path):
    again, whole, expected = left
    shutil.copytree(whole, tmp_path / "kept")
    for folder in (tmp_path / "kept").glob("checkpoint-*"): flip(folder / "optimizer.pt")
    with pytest.warns(UserWarning, match="optimizer.pt is damaged.*starts anew, as none is whole"):
        np.testing.assert_array_equal(again(tmp_path / "kept"), expected)


def test_what_is_no_checkpoint_is_passed_over(left, tmp_path):
    again, whole, expected = left
    shutil.copytree(whole, tmp_path / "kept")
    (tmp_path / "kept" / "run.json").write_text("")
    for name in ("checkpoint-abc", "checkpoint-99"): (tmp_path / "kept" / name).mkdir()
    with pytest.warns(UserWarning, match=(
        r"run.json \(it is damaged\), checkpoint-abc \(its name tells no step\), checkpoint-99 "
        r"\(it was not written to its end\) cannot be used; the run goes on"
    )): np.testing.assert_array_equal(again(tmp_path / "kept"), expected)


def test_a_checkpoint_of_another_run_is_refused_though_the_note_is_gone(left, tiny, tmp_path):
    shutil.copytree(left[1], tmp_path / "kept")
    (tmp_path / "kept" / "run.json").write_text("")
    with pytest.raises(UserError, match="checkpoints of another run"):
        Classifier("finetune", tiny, settings=SETTINGS, cache=None).fit(*some_rows(96), checkpoints=tmp_path / "kept")
