"""Model cards: the metadata that programs read of one task, several labels and several tasks, whatever the names are;
and where base and data come from, as far as it is known.
"""
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from clfm_kit import Classifier, load_data
from clfm_kit.data.origin import fingerprint

HOSTILE = 'a: "b"\n---\n# [x](y) \x1b[1m | `c` \'d\' ---'
rows = load_data("helpdesk")


def written(folder, texts, labels, readme=""):
    "A data set of a training and a test part in a folder."
    folder.mkdir(parents=True)
    for part, some in dict(train=slice(0, 60), validation=slice(60, 90), test=slice(90, 120)).items():
        lines = (json.dumps(dict(text=text, **more)) for text, more in zip(texts[some], labels[some]))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if readme: (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def read(clf, folder):
    "Front matter, results and text of a saved classifier's card, as the Hub's library reads them."
    path = clf.save_pretrained(folder) / "README.md"
    card, found = ModelCard.load(path), metadata_load(path)
    name, results = model_index_to_eval_results(found["model-index"])
    assert eval_results_to_model_index(name, results) == found["model-index"]
    assert card.data.to_dict() == found and card.data.eval_results == results
    assert card.text.lstrip().startswith("# ")  # all of the metadata is metadata
    return found, results, card.text


TEXTS = rows.train.texts[:120]
INTENTS = [dict(label="late" if number % 3 else HOSTILE) for number in range(120)]
SEVERAL = [dict(label=["late", HOSTILE] if number % 3 else ["asks"]) for number in range(120)]


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    "A base as the Hub's cache has it, with a card."
    folder = tmp_path_factory.mktemp("hub") / "models--a--b" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(tiny, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, no]\n---\n# b\n", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("labels, task", [(INTENTS, "one"), (SEVERAL, "several")], ids=["one label", "several labels"])
def test_metadata_hold_the_figures_of_the_test_rows_whatever_the_names_are(labels, task, base, tmp_path):
    data = written(tmp_path / HOSTILE, TEXTS, labels, "---\nlicense: cc-by-4.0\nlanguage: en\n---\n")
    clf = Classifier(dict(name=HOSTILE, head="logistic"), base, cache=None).fit(data)
    clf.reports_ |= {"test": clf.evaluate(data), "TF-IDF baseline, test": clf.evaluate(data)}
    found, results, text = read(clf, tmp_path / "model")
    assert found["pipeline_tag"] == "text-classification" and found["language"] == ["en"]
    assert found["base_model_license"] == ["apache-2.0"] and found["data_license"] == ["cc-by-4.0"]
    assert found["base_model_revision"] == "0123456789" * 4
    assert "license" not in found and "base_model" not in found  # a folder of this machine is no model of the Hub
    figures = clf.reports_["test"].figures
    assert {each.metric_type for each in results} >= {"accuracy" if task == "one" else "micro_f1", "macro_f1"}
    for each in results:
        assert each.metric_value == figures[each.metric_type] and each.dataset_split == "test"
        assert each.task_type == "text-classification"
        assert "\n" not in each.dataset_name and "\x1b" not in each.dataset_name and "# [x](y)" in each.dataset_name
    marks = fingerprint(load_data(data).train, load_data(data).validation)
    assert f"90 rows, fingerprint `{marks}`; licence `cc-by-4.0`; language `en`" in text
    assert "revision `0123456789" in text and "licence `apache-2.0`; language `en`, `no`" in text
    assert "\n# [x](y)" not in text and "\x1b" not in text


def test_each_of_several_tasks_has_an_entry_of_its_kind(tiny, tmp_path):
    tasks = {"intent": "label", "many": "topics", "slots": "slots"}
    lines = Path(rows.train.source).read_text(encoding="utf-8").splitlines()[:120]
    given = [json.loads(line) | dict(topics=["x", "y"] if number % 3 else ["z"]) for number, line in enumerate(lines)]
    folder = written(tmp_path / "data set", [row.pop("text") for row in given], given)
    clf = Classifier("probe", tiny, tasks=tasks, cache=None).fit(str(folder))
    clf.reports_["test"] = clf.evaluate(str(folder))
    found, results, text = read(clf, tmp_path / "model")
    by_task = {each.task_name: each for each in results}
    assert by_task.keys() == {"intent", "many", "slots"}
    assert by_task["slots"].task_type == "token-classification"
    assert by_task["intent"].task_type == "text-classification"
    for each in results:
        assert each.metric_value == clf.reports_["test"][f"{each.task_name}.{each.metric_type}"]
        assert each.dataset_config == each.task_name and each.dataset_name == "data set"
    assert not {"language", "base_model_license", "data_license", "base_model_revision"} & found.keys()
    assert text.count("licence unknown; language unknown") == 2


def test_validation_rows_stand_in_where_no_test_rows_were_measured_and_nothing_where_none_were(tiny, tmp_path):
    clf = Classifier("probe", tiny, cache=None).fit(TEXTS, [row["label"] for row in INTENTS])
    found, results, _ = read(clf, tmp_path / "model")
    assert {(each.dataset_name, each.dataset_split) for each in results} == {("data", "validation")}
    clf.reports_ = {}
    assert "model-index" not in metadata_load(clf.save_pretrained(tmp_path / "model") / "README.md")
    named = Classifier("zero-shot", tiny, labels=["late", HOSTILE], cache=None)
    card = ModelCard.load(named.save_pretrained(tmp_path / "named") / "README.md")
    assert "- Base:" in card.text and "fingerprint" not in card.text


def test_the_fingerprint_hangs_on_the_rows_and_not_on_their_order_or_split(tiny):
    mark = lambda order, seed=0: Classifier("probe", tiny, [f"seed={seed}"], cache=None).fit(
        [TEXTS[number] for number in order], [INTENTS[number]["label"] for number in order]
    ).facts_["origin"]["fingerprint"]
    assert mark(range(120)) == mark([*range(119, -1, -1)], seed=1) != mark(range(119))


def test_a_model_that_was_saved_before_it_knew_its_origin_loads_and_is_saved(fitted, tmp_path):
    clf = Classifier.from_pretrained(fitted)
    del clf.facts_["origin"]
    again = Classifier.from_pretrained(clf.save_pretrained(tmp_path / "model"))
    assert "Where it comes from" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert list(again.predict(TEXTS[:5])) == list(clf.predict(TEXTS[:5]))
