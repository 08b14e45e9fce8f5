"""Every pair of parts of the core and `stc` (other plugins have tests of their own) either works together, or is
refused in one sentence before a weight is loaded.
"""
from itertools import combinations

import numpy as np
import pytest

from clfm_kit import Classifier, Recipe, UserError, load_data
from clfm_kit.builtin.labels import MultiLabel
from clfm_kit.plugins import catalogue
from clfm_kit.recipes import PART_KINDS

QUICK = {
    "sparsify": {"etas": [0.8], "strengths": [0.1]}, "mlp": {"width": 16},
    "plain": {"max_length": 32}, "windows": {"size": 16, "overlap": 4},
}
OURS = {"clfm-kit", "stc"}
ENTRIES = [
    (kind, name) for kind in PART_KINDS for name, entry in sorted(catalogue.entries(kind).items())
    if entry.plugin in OURS
]
PAIRS = [(a, b) for a, b in combinations(ENTRIES, 2) if a[0] != b[0]]
EPOCHS = {"epochs": 1}


@pytest.fixture(scope="module")
def rows():
    data = load_data("helpdesk").train
    few = [
        row for row, label in enumerate(data.labels) if label in ("track_order", "login_problem", "return_item")
    ][:60]
    return data.take(few)


def spec(name): return {"name": name, **QUICK.get(name, {})}


def texts_for(recipe, texts):
    """Texts; pairs of them where the format reads pairs."""
    return [dict(first=text, second=text[::-1]) for text in texts] if recipe.format == {"name": "pair"} else texts


@pytest.mark.parametrize("first, second", PAIRS, ids=lambda part: "=".join(part))
def test_pairs_of_parts(first, second, rows, tiny, tmp_path):
    chosen = {kind: spec(name) for kind, name in (first, second)}
    recipe = Recipe(name="pair", **chosen)
    for _ in range(2):
        try: recipe.parts()
        except UserError as error:
            if "pooler 'keywords'" in str(error): return  # n-grams have no gradient, whatever the head
            if "pooler 'attention'" in str(error): recipe.selector = "top-layers"
            else:
                assert "use head" in str(error) or "selector 'frozen'" in str(error)
                recipe.head = "linear"
    if first == ("format", "pair"):
        with pytest.raises(UserError, match="use it with task 'pair'"): Classifier(recipe, tiny).prepare()
        recipe.task = "pair"
    parts, texts = recipe.parts(), texts_for(recipe, rows.texts)
    if parts["selector"].trains or hasattr(parts["head"], "loss"): recipe.training = EPOCHS
    clf = Classifier(recipe, tiny, cache=None).fit(texts, rows.labels)
    folder = clf.save_pretrained(tmp_path / "model")
    probabilities = clf.predict_proba(texts[:7])
    assert probabilities.shape == (7, 3) and np.allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(
        Classifier.from_pretrained(folder).decision_function(texts[:7]), clf.decision_function(texts[:7])
    )


@pytest.mark.parametrize(
    "head", sorted(name for name, entry in catalogue.entries("head").items() if entry.plugin in OURS)
)
def test_heads_give_several_labels(head, rows, tiny, tmp_path):
    labels = [
        [label, "urgent"] if "!" in text or row % 3 == 0 else [label]
        for row, (text, label) in enumerate(zip(rows.texts, rows.labels))
    ]
    clf = Classifier({"name": "several", "head": spec(head)}, tiny, cache=None)
    if not getattr(catalogue.find("head", head).load(), "needs_rows", True):
        with pytest.raises(UserError, match="fit another recipe on rows"): clf.fit(rows.texts, labels)
        return
    clf.fit(rows.texts, labels)
    assert clf.task().schema == MultiLabel.of(("login_problem", "return_item", "track_order", "urgent"))
    assert all(isinstance(found, list) for found in clf.predict(rows.texts[:5]))
    assert len(clf.task().calibration.thresholds) == 4
    loaded = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert loaded.predict(rows.texts) == clf.predict(rows.texts)


@pytest.mark.parametrize("class_weight", ["balanced", "balanced-sampler", "focal", {"track_order": 3.0}])
@pytest.mark.parametrize("head", ["logistic", "linear"])
def test_rare_classes_count_with_every_kind_of_head(class_weight, head, rows, tiny):
    rare = [row for row, label in enumerate(rows.labels) if label == "track_order"]
    few = rows.take([row for row in range(len(rows)) if row not in rare[4:]])
    plain, weighted = (
        Classifier({"name": "rare", "head": head} | more, tiny, cache=None).fit(few.texts, few.labels)
        for more in ({}, {"class_weight": class_weight})
    )
    logits = [clf.decision_function(rows.texts) for clf in (plain, weighted)]
    assert not np.allclose(*logits)
    if class_weight == "focal": return  # looks at what is hard, not at what is rare
    shares = [np.exp(found) / np.exp(found).sum(1, keepdims=True) for found in logits]
    at = list(weighted.classes_).index("track_order")
    assert shares[1][:, at].mean() > shares[0][:, at].mean()


def test_scikit_learn_takes_it_for_a_classifier(rows, tiny):
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import cross_val_score
    clf = Classifier("probe", tiny, cache=None)
    assert is_classifier(clf) and clone(clf).get_params() == clf.get_params()
    assert cross_val_score(clf, np.array(rows.texts), np.array(rows.labels), cv=3).shape == (3,)
