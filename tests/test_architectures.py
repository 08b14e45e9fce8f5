"""Every recipe on every architecture: it works, the same alone and beside others, and in a fresh process that loads it;
or it is refused in a sentence. `python tests/test_architectures.py` writes the table that this file compares with.
"""
import gc
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from afresh import python
from architectures import ASKED, LABELS, NAMES, RECIPES, TEXTS, save_base, tokenizer

from clfm_kit import Classifier, UserError
from clfm_kit.backbone.loading import load_model

TABLE = Path(__file__).parents[1] / "benchmarks" / "results" / "architectures.md"
FRESH = """
import gc, json, sys, warnings
warnings.filterwarnings("ignore")
import numpy as np
from clfm_kit import Classifier
gc.freeze()
for folder in sys.argv[2:]:
    np.save(folder + ".npy", Classifier.from_pretrained(folder).decision_function(json.loads(sys.argv[1])))
"""


def outcome(name, recipe, base, folder, weights):
    """What came of a recipe on a base: "yes", or the sentence of its refusal. Leaves a classifier and its answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: clf = Classifier(RECIPES[recipe], base, cache=None, state_dtype="float32").fit(list(TEXTS), list(LABELS))
        except UserError as error: return str(error).replace(base, name)
        together = clf.decision_function(ASKED)
        alone = np.concatenate([clf.decision_function([text]) for text in (ASKED if recipe == "read" else ASKED[-2:])])
        size = max(np.abs(together).max(), 1e-3)
        difference = np.abs(together[-len(alone):] - alone).max()
        # products of weights in 4 bits are of half precision where the processor has it
        limit = 1e-2 if recipe == "4 bits" else 1e-3
        assert difference < limit * size, f"{name}, {recipe}: neighbours change the answer"
        clf.save_pretrained(folder)
        np.save(f"{folder}-before.npy", together)
        if clf.delta_ is not None: given_back(clf, weights, name, recipe)
    return "yes"


def given_back(clf, weights, name, recipe):
    """What training changed, taken off again, leaves `weights`, the model as its files hold it, bit for bit."""
    backbone, delta = clf.encoder_.backbone, clf.delta_
    delta.unapply(backbone)
    if recipe == "4 bits": return
    whole = hasattr(delta, "changes")
    moved = [change.name for change in delta.changes] if whole else [f"{key}.weight" for key in delta.levels]
    for key in moved:
        assert backbone.model.get_parameter(key).equal(weights.get_parameter(key)), f"{name}, {recipe}: {key}"


class Tried:
    """What came of every recipe on every architecture so far; `folder` holds what was saved."""

    def __init__(self, folder): self.folder, self.words, self.found = Path(folder), tokenizer(), {}

    def kind(self, name) -> dict:  # {recipe: outcome}
        """All recipes on one architecture."""
        base = save_base(name, self.folder / name, self.words)
        weights = load_model(base)[0]
        gc.freeze()  # each training begins with a collection, which need not go through the module just imported
        place = lambda recipe: str(self.folder / f"{name}-{recipe}".replace(" ", "_"))
        self.found[name] = {recipe: outcome(name, recipe, base, place(recipe), weights) for recipe in RECIPES}
        return self.found[name]

    def reload(self):
        """All that was saved answers the same in one fresh process."""
        saved = sorted(path.parent for path in self.folder.glob("*/clfm.json"))
        done = python("-c", FRESH, json.dumps(ASKED), *saved)
        assert done.returncode == 0, done.stderr
        for folder in saved:
            before, after = (np.load(f"{folder}{end}.npy") for end in ("-before", ""))
            np.testing.assert_array_equal(after, before, err_msg=folder.name)
        return len(saved)


def table(found) -> str:
    """The outcomes as Markdown: a row for each architecture, and below the reasons."""
    reasons = list(dict.fromkeys(word for each in found.values() for word in map(reason, each.values()) if word))
    mark = lambda said: f"[{reasons.index(reason(said)) + 1}]" if reason(said) else said
    row = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([
        "# Architectures", "",
        f"What recipes make of {len(found)} architectures of transformers, tried on tiny random models. Where it says "
        "yes, the fit, its answers alone and beside other texts, saving, and loading in a fresh process were tried, "
        "and what training changed was taken off again, bit for bit. A number names the sentence of the refusal "
        "below. *read*: the last state, frozen; *below*: the state after one block; *train*: all weights; *few rows*: "
        "rows of weights by their gradient; *adapters*: LoRA; *4 bits*: LoRA over nf4; *ask*: a decoder asked for a "
        "label. Made by `python tests/test_architectures.py`.", "",
        row(["architecture", *RECIPES]), "|---" * (len(RECIPES) + 1) + "|",
        *(row([f"`{name}`", *map(mark, each.values())]) for name, each in sorted(found.items())), "",
        *(f"{number}. {word}" for number, word in enumerate(reasons, 1)), "",
    ])


def reason(said) -> str:
    """A refusal without the names and numbers of one model; empty for what works."""
    kinds = {
        "no language-model head": "The model has no language-model head.",
        "reads texts in both directions": "The model reads texts in both directions and cannot be asked for an answer.",
        "block by block": "Its states cannot be read block by block, only the last.",
        "position by position": "A map does not work position by position, so gradients cannot be split by tokens.",
        "no linear maps": "There are no linear maps in blocks that could be chosen, adapted or quantised.",
        "are not in its weight files": "The weight files hold no causal language model.",
        "cannot train over a base in fewer bits": "The model writes to its weights while it trains.",
        "did not move": "A weight that was chosen to train has no influence on a text's scores.",
    }
    if said == "yes": return ""
    return next((sentence for part, sentence in kinds.items() if part in said), said)


@pytest.fixture(scope="module")
def tried(tmp_path_factory): return Tried(tmp_path_factory.mktemp("architectures"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_works_or_is_refused_in_a_sentence(name, tried):
    found = tried.kind(name)
    assert found["read"] == found["train"] == "yes"
    for said in found.values(): assert said and "\n" not in said
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    listed = next(line for line in lines if line.startswith(f"| `{name}` |")).strip("| ").split(" | ")[1:]
    reasons = {line.partition(". ")[0]: line.partition(". ")[2] for line in lines if line[:1].isdigit()}
    assert [reasons.get(cell.strip("[]"), "") for cell in listed] == [reason(said) for said in found.values()], (
        "the table is stale; run: python tests/test_architectures.py"
    )


def test_what_was_saved_loads_in_a_fresh_process(tried):
    assert tried.found, "run the whole file: this test loads what the others have saved"
    assert tried.reload() == sum(said == "yes" for each in tried.found.values() for said in each.values())


def test_the_table_lists_what_is_tried():
    listed = [line.split("`")[1] for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert listed == sorted(NAMES) and len(NAMES) >= 60


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        everything = Tried(place)
        for one in NAMES: everything.kind(one)
        everything.reload()
        TABLE.write_text(table(everything.found), encoding="utf-8")
