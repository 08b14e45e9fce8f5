"""Long texts in windows: every token is read, short texts are read as ever, and answers are what a fit saw."""
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clfm_kit import Classifier, load_data
from clfm_kit.backbone import batching
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.encoder import TextEncoder
from clfm_kit.builtin.formats import KEEPS, Plain, Windows
from clfm_kit.builtin.poolers import Max, Mean
from clfm_kit.study.plan import plan


class Numbers:
    """A tokenizer for tests: a text is a number of tokens, all different."""
    pad_token_id = 0

    def __call__(self, texts, add_special_tokens=True, **_):
        one = lambda text: [1] * add_special_tokens + [*range(10, 10 + int(text))] + [2] * add_special_tokens
        return {"input_ids": [one(text) for text in texts] if isinstance(texts, list) else one(3)}


lengths = st.integers(0, 300)
shapes = st.tuples(st.integers(4, 60), st.integers(0, 50)).filter(lambda p: p[1] < p[0] - 2)


@given(length=lengths, shape=shapes)
def test_windows_cover_every_token_and_share_what_was_asked(length, shape):
    size, overlap = shape
    found = Windows(size, overlap, most=10**6).encode([str(length)], Numbers(), 512)
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= size for ids in found.ids)
    bare = [ids[1:-1] for ids in found.ids]
    assert bare[0] + [token for ids in bare[1:] for token in ids[overlap:]] == [*range(10, 10 + length)]
    assert all(len(ids) > overlap for ids in bare[1:]) and not found.truncated.any()


@given(length=lengths, shape=shapes, most=st.integers(1, 20), keep=st.sampled_from(KEEPS))
def test_what_is_left_out_is_counted(length, shape, most, keep):
    every = Windows(*shape, most=10**6).encode([str(length)], Numbers(), 512).ids
    found = Windows(*shape, most, keep).encode([str(length), "1"], Numbers(), 512)
    kept = found.ids[:-1]
    assert len(kept) == min(most, len(every)) and found.truncated.tolist() == [len(every) > most, False]
    assert found.rows.tolist() == [0] * len(kept) + [1] and all(ids in every for ids in kept)
    assert kept[0] == every[0] or keep == "tail"
    assert kept[-1] == every[-1] or keep == "head" or most == 1


class Bare(Numbers):
    """The same without special tokens, of which a plan knows nothing."""
    def __call__(self, texts, **_): return super().__call__(texts, add_special_tokens=False)


@given(length=st.integers(1, 3000), shape=shapes, most=st.integers(1, 20), keep=st.sampled_from(KEEPS))
def test_a_plan_counts_the_windows_and_their_tokens(length, shape, most, keep):
    windows = Windows(*shape, most, keep)
    found = windows.encode([str(length)], Bare(), 512).ids
    assert windows.pieces(length, 512) == [*map(len, found)]


@pytest.fixture(scope="module")
def backbone(tiny): return Backbone.load(tiny)


WORDS = sorted({word for text in load_data("helpdesk").train.texts[:50] for word in text.split() if word.isalpha()})
texts = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=0, max_size=120).map(" ".join), min_size=1, max_size=6, unique=True
)
ROUNDED = dict(rtol=2e-3, atol=2e-3)


def states(backbone, given, text_format, pooler=None):
    column = next(iter(TextEncoder(backbone, text_format, pooler or Mean()).widths))
    return np.asarray(TextEncoder(backbone, text_format, pooler or Mean()).features(given)[column])


@settings(max_examples=20, deadline=None)
@given(given=texts, combine=st.sampled_from(batching.COMBINED), keep=st.sampled_from(KEEPS))
def test_a_text_of_one_window_is_read_as_plain_reads_it(backbone, given, combine, keep):
    short = [" ".join(text.split()[:6]) for text in given]
    windows = Windows(size=100, most=2, keep=keep, combine=combine)
    np.testing.assert_array_equal(states(backbone, short, windows), states(backbone, short, Plain()))


@settings(max_examples=20, deadline=None)
@given(given=texts, combine=st.sampled_from(batching.COMBINED), seed=st.integers(0, 9))
def test_neither_order_nor_company_matters(backbone, given, combine, seed):
    windows, order = Windows(size=16, overlap=4, combine=combine), np.random.default_rng(seed).permutation(len(given))
    together = states(backbone, given, windows)
    np.testing.assert_allclose(states(backbone, [given[row] for row in order], windows), together[order], **ROUNDED)
    alone = np.concatenate([states(backbone, [text], windows) for text in given])
    np.testing.assert_allclose(alone, together, **ROUNDED)


def test_windows_become_their_mean_by_tokens_or_their_maximum(backbone):
    ids = lambda text: backbone.tokenizer(text)["input_ids"]
    words = [word for word in WORDS if len(ids(word)) == 3][:40]
    whole, alone = " ".join(words), [" ".join(words[start:start + 14]) for start in range(0, 40, 14)]
    every = Windows(size=16, overlap=0).encode([whole], backbone.tokenizer, 128).ids
    assert [*map(ids, alone)] == every and len(every) == 3
    sizes = np.array([*map(len, every)])[:, None]
    plain = states(backbone, alone, Plain())
    mean, largest = (states(backbone, [whole], Windows(16, 0, combine=how))[0] for how in ("mean", "max"))
    np.testing.assert_allclose(mean, (plain * sizes).sum(0) / sizes.sum(), **ROUNDED)
    np.testing.assert_allclose(largest, plain.max(0), **ROUNDED)
    ends = states(backbone, [whole], Windows(16, 0, most=2, keep="head+tail", combine="max"))[0]
    np.testing.assert_allclose(ends, plain[[0, -1]].max(0), **ROUNDED)


def test_a_very_long_text_is_read_in_several_passes(backbone, monkeypatch):
    given, windows = [" ".join(WORDS * 3), "short"], Windows(size=16, overlap=4, most=100)
    whole, read, seen = states(backbone, given, windows, Max()), backbone.read, []
    def noted(ids, *rest):
        seen.append(ids.numel())
        return read(ids, *rest)
    monkeypatch.setattr(backbone, "read", noted, raising=False)
    monkeypatch.setitem(batching.TOKEN_BUDGET, "cpu", 64)
    np.testing.assert_allclose(states(backbone, given, windows, Max()), whole, **ROUNDED)
    assert max(seen) <= 64 and len(seen) > 10


LONG = [f"{text} " * 12 for text in load_data("helpdesk").train.texts[:60]]
LABELS = ["odd" if row % 2 else "even" for row in range(60)]
FORMAT = {"name": "windows", "size": 32, "overlap": 8, "most": 3, "keep": "head+tail", "combine": "max"}


@pytest.mark.parametrize("recipe", [dict(), dict(
    selector="top-layers", head="mlp", training=dict(epochs=1),
)], ids=["probe", "trained"])
def test_a_saved_model_answers_as_the_fit_read(tiny, tmp_path, recipe):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clf = Classifier({**recipe, "format": FORMAT}, tiny, cache=None).fit(LONG, LABELS)
    assert any("training texts are longer than format Windows(size=32" in str(each.message) for each in said)
    before = clf.predict_proba(LONG[:8])
    clf.save_pretrained(tmp_path / "model")
    loaded = Classifier.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(LONG[:8]), before)
    assert loaded.parts_["format"].get_params() == clf.parts_["format"].get_params()
    column = next(iter(clf.encoder_.widths))
    read, again = (np.asarray(each.encoder_.features(LONG[:8], [column])[column]) for each in (clf, loaded))
    np.testing.assert_array_equal(again, read)


def test_a_choice_on_held_out_rows_takes_the_windows_that_serve(tiny):
    """The label stands behind what a text of one window holds."""
    filler = " ".join(WORDS[:200])
    given = [f"{text[:40]} {filler} {('thanks ', 'refund ')[row % 2] * 20}" for row, text in enumerate(LONG)]
    plain = {"name": "cut", "format": "plain"}
    ends = {"name": "ends", "format": {"name": "windows", "size": 32, "most": 2, "overlap": 8, "keep": "head+tail"}}
    clf = Classifier(dict(name="auto", candidates=[plain, ends]), tiny, cache=None).fit(given, LABELS)
    assert clf.choice_.chosen == "ends"


def test_a_plan_tells_what_windows_cost(tiny):
    settings = dict(model=tiny, rows=100, length=1000, speed=1e9, device="cpu")
    cut, whole = plan("probe", **settings), plan("probe", settings=["format=windows", "format.size=64"], **settings)
    assert cut.sequences == 1 and whole.sequences == 16 and whole.training_seconds > 5 * cut.training_seconds
    assert any("cut to 128" in sentence for sentence in cut.advice)
