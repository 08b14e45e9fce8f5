"""Each command that a plugin offers loads; each recipe is fitted, saved, loaded and asked, on a small decoder
with random weights.

A recipe that takes more than one task is fitted by its plugin's own tests; here it must build its parts.
"""
import tempfile
from pathlib import Path

from small_decoder import decoder

from clfm_kit import Classifier, Recipe, UserError, catalogue, load_data


def says_what_to_install(name, model, rows):
    """A recipe for kinds of bases, on one whose recipe another extra brings."""
    try: Classifier(name, model, cache=None).fit(rows.texts, rows.labels)
    except UserError as error:
        assert "pip install" in str(error), error
        print(f"{name}: {error}")
    else: raise AssertionError(f"recipe {name!r} worked without the extra that it needs")


def recipes_run(plugin):
    with tempfile.TemporaryDirectory() as place:
        rows = load_data("helpdesk").train
        intents = "track_order", "return_item", "refund_status"
        kept = [number for number, label in enumerate(rows.labels) if label in intents][:90]
        few, model = rows.take(kept), decoder(Path(place, "decoder"), rows.texts)
        names = [name for name, entry in catalogue.entries("recipe").items() if entry.plugin == plugin]
        others = [
            entry for kind in ("command", "tracker") for entry in catalogue.entries(kind).values()
            if entry.plugin == plugin
        ]
        assert names or others, f"plugin {plugin!r} offers neither a recipe nor a command nor a tracker"
        for other in others: other.load()
        for name in names:
            recipe = Recipe.of(name)
            recipe.parts()
            if recipe.tasks: continue
            if recipe.bases and recipe.bases["decoder"] not in catalogue.entries("recipe"):
                says_what_to_install(name, model, few)
                continue
            short = ["training.epochs=2"] if recipe.training else []
            clf = Classifier(name, model, short, cache=None).fit(
                few.texts[:70], few.labels[:70], few.take(range(70, len(few)))
            )
            again = Classifier.from_pretrained(clf.save_pretrained(Path(place, name)))
            assert (again.decision_function(few.texts[:5]) == clf.decision_function(few.texts[:5])).all(), (
                f"recipe {name!r}: other logits after saving and loading"
            )
            print(f"{name}: {clf.predict(few.texts[:3]).tolist()}")
