"""A user's script: what an editor and a type checker see of the kit."""
from pathlib import Path

from clfm_kit import Classifier, Recipe, UserError, compare, load_data

recipe = Recipe.of("probe").with_params(["head.C=0.1"])
print(recipe.to_yaml())
data = load_data("helpdesk")
assert data.train is not None and data.test is not None

clf: Classifier = Classifier(recipe, model="minilm", reject="energy")
clf.fit(data)
labels = clf.predict(["where is my parcel?", "cancel it, please"])
chances = clf.predict_proba(["where is my parcel?"])
print(labels[0], chances.shape, clf.classes_[:3])

report = clf.evaluate(data.test)
print(f"accuracy {report['accuracy']:.3f}", report.intervals.get("accuracy"))
print({name: answers.labels for name, answers in clf.answers(["hello"]).items()})

why = clf.explain("where is my parcel?", features=4)
print(why.label, why.probability, why.top_words(3))

folder: Path = clf.save_pretrained("my-model")
again = Classifier.from_pretrained(folder)
print(again.score(data.test.texts, data.test.labels), again.task().schema.labels[0])

found = compare([recipe, folder], data, seeds=[0])
print(found.to_markdown())
try: again.predict([3])
except UserError as error: print(error)
