"""Several tasks in one model: bad input, partial labels, other processes, merging and serving."""
import json
import warnings

import numpy as np
import pytest
import torch
from afresh import python
from command import afresh, clfm
from hypothesis import given, settings
from hypothesis import strategies as st

from clfm_kit import Classifier, UserError
from clfm_kit.cli import model_commands
from clfm_kit.cli.main import main
from clfm_kit.builtin.heads import Logistic
from clfm_kit.display.highlights import Highlighted
from clfm_kit.builtin.tags import Tags, decode_tags
from clfm_kit.data.rows import Rows, Splits
from clfm_kit.data.tasks import load_tasks, read_tasks, rows_to_fit, set_aside
from clfm_kit.data.words import find_words, repair, spans, split_words
from clfm_kit.recipes import Recipe
from clfm_kit.study.merging import merge_models
from clfm_kit.training.batches import Examples
from clfm_kit.training.rounds import Rounds

TASKS = {"intent": "label", "slots": "slots"}
FAST = ["training.epochs=1", "training.learning_rate=1e-3", "training.head_start=random"]


def some(tasks):
    return Splits(**{part: rows.take(range(48)) for part, rows in load_tasks("helpdesk", read_tasks(tasks)).items()})


@pytest.fixture(scope="module")
def parts():
    return some(TASKS)


def row(**changes):
    return dict(
        text="two smart bulbs", tokens=["two", "smart", "bulbs"],
        slots=["B-quantity", "B-product", "I-product"], label="buy",
    ) | changes


def two(**changes):
    return [
        row(),
        row(text="where is it", tokens=["where", "is", "it"], slots=["O", "O", "O"], label="track"), row(**changes),
    ]


def fitted(tiny, parts, tasks=TASKS, **more):
    return Classifier(
        "finetune", tiny, tasks=tasks, settings=[*FAST, *more.pop("settings", [])], cache=None, **more
    ).fit(parts)


# ---- bad input

@pytest.mark.parametrize("slots", [["O"], ["O"] * 4])
def test_slots_longer_or_shorter_than_tokens_are_refused(slots):
    with pytest.raises(UserError, match="row 2: .* tags in 'slots' for 3 tokens"):
        rows_to_fit(two(slots=slots), read_tasks(TASKS))


def test_an_i_tag_without_its_b_is_repaired_and_counted():
    train, _, _ = rows_to_fit(two(slots=["O", "I-product", "I-product"]) * 4, read_tasks(TASKS), validation=two())
    assert train.by_task["slots"][2] == ["O", "B-product", "I-product"] and train.repairs["slots"] == 4


def test_what_is_no_tag_is_refused():
    with pytest.raises(UserError, match="tag 'product'"):
        rows_to_fit(two(slots=["O", "product", "O"]), read_tasks(TASKS))


def test_tokens_of_another_text_are_refused():
    with pytest.raises(UserError, match="token 'lamps' is not in the text"):
        rows_to_fit(two(tokens=["two", "smart", "lamps"]), read_tasks(TASKS))


def test_tags_without_words_are_refused():
    with pytest.raises(UserError, match="no words in 'tokens'"): rows_to_fit(two(tokens=None), read_tasks(TASKS))


def test_a_task_without_rows_is_refused():
    with pytest.raises(UserError, match="task 'mood' has no rows"):
        rows_to_fit(
            [found | {"mood": None} for found in two()], read_tasks(TASKS | {"mood": "mood"}),
            validation=[found | {"mood": None} for found in two()],
        )


def test_a_column_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="task 'intent'"): rows_to_fit(two(), read_tasks({"intent": "lable"}))


@pytest.mark.parametrize("tasks, said", [
    ({}, "a mapping"), ({"a b": "label"}, "letters, digits"), ({"a": 3}, "name of a column"),
    ({"a": {"label": "label", "weight": 0}}, "weight"),
    ({"a": {"label": "slots", "reject": "energy"}}, "whole texts"),
    ({"a": {"label": "slots", "kind": {"name": "tags", "decoding": "crf"}}}, "decoding"),
])
def test_tasks_that_cannot_work_are_refused(tasks, said):
    with pytest.raises(UserError, match=said): read_tasks(tasks)


def test_a_task_with_one_class_is_named(tiny):
    with pytest.raises(UserError, match="task 'intent': there is only one class"):
        Classifier("probe", tiny, tasks={"intent": "label"}, cache=None).fit([row()] * 20)


def test_a_format_that_loses_the_words_is_refused(tiny, parts):
    with pytest.raises(UserError, match="format"):
        Classifier(
            "probe", tiny, tasks={"slots": "slots"}, settings=["format.keep=tail", "format.max_length=8"], cache=None
        ).fit(parts)


def test_a_weight_merger_in_a_fit_is_refused(tiny, parts):
    with pytest.raises(UserError, match="clfm merge"): fitted(tiny, parts, settings=["merger=ties"])


# ---- words, tags and characters

TAGS = st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=8)


@given(TAGS)
def test_repair_leaves_nothing_to_repair(tags):
    fixed, count = repair(tags)
    assert (
        repair(fixed) == (fixed, 0) and sum(a != b for a, b in zip(tags, fixed)) == count
        and [t[2:] for t in tags] == [t[2:] for t in fixed]
    )


@given(st.integers(0, 9), st.integers(0, 2**31))
def test_the_likeliest_sequence_is_one_that_bio_allows(words, seed):
    schema = Tags.of(("O", "B-a", "B-b", "I-a", "I-b"))
    tags, repairs = decode_tags(np.random.default_rng(seed).dirichlet(np.ones(5), words).reshape(words, 5), schema)
    assert repairs == 0 and repair(tags)[1] == 0 and len(tags) == words


@given(st.text(max_size=40))
def test_words_of_any_text_stand_where_they_are_said_to_stand(text):
    places = split_words(text)
    words = [text[a:b] for a, b in places]
    assert find_words(text, words) == places and all(a[1] <= b[0] for a, b in zip(places, places[1:]))


@given(st.lists(st.sampled_from(["ab", "é", "日本", "x"]), min_size=1, max_size=6), st.data())
def test_spans_cover_the_words_their_tags_say(words, data):
    text, tags = " ".join(words), repair(
        data.draw(st.lists(st.sampled_from(["O", "B-a", "I-a"]), min_size=len(words), max_size=len(words)))
    )[0]
    for span in spans(tags, find_words(text, words), text):
        assert text[span["start"]:span["end"]] == span["text"] and span["text"].strip() == span["text"]


@settings(max_examples=30)
@given(st.text(alphabet="<>&\"'ab ", max_size=20))
def test_a_text_never_becomes_markup(text):
    shown = Highlighted(
        text,
        [dict(slot="<i>", start=0, end=len(text))] if text else [],
        {"intent": "<script>"},
    )._repr_html_()
    assert "<script>" not in shown and "<i>" not in shown and "<a" not in shown and "<b>a" not in shown


# ---- one pass for all tasks

FITTED = ["head=logistic", "pooler.layer=[-2, -1]"]  # a head that cannot follow weights while they train

@pytest.mark.parametrize("selector, head", [("frozen", []), ("full", []), ("top-layers", []), ("top-layers", FITTED)])
def test_saved_and_loaded_in_a_fresh_process_gives_the_same_logits(tiny, parts, tmp_path, selector, head):
    recipe, more = ("probe", []) if selector == "frozen" else ("finetune", [*FAST, f"selector={selector}", *head])
    clf = Classifier(recipe, tiny, tasks=TASKS, settings=more, cache=None).fit(parts)
    clf.save_pretrained(tmp_path / "model")
    texts = parts.test.texts[:5]
    found = (
        afresh({"full": (tmp_path / "model", "decision_function", texts)})["full"] if selector == "full"
        else Classifier.from_pretrained(tmp_path / "model").decision_function(texts)
    )
    numbers = lambda logits: [
        np.concatenate(values).tolist() if isinstance(values, list) else values.tolist() for values in logits.values()
    ]
    assert numbers(found) == numbers(clf.decision_function(texts))


def test_a_head_in_closed_form_reads_the_trained_base(tiny, parts):
    clf = fitted(tiny, parts, settings=["selector=top-layers", "training.prefix_gigabytes=0", *FITTED])
    intent = clf.task("intent")
    assert (
        intent.columns == ["hidden.2/mean", "hidden.3/mean"] and hasattr(intent.head, "weights_")
        and clf.task("slots").columns == ["hidden.3/words"]
    )
    train, validation, schemas = rows_to_fit(parts, clf.specs_)
    set_aside(validation, "intent", intent.schema)
    now = lambda rows: Examples(clf.encoder_, rows, schemas).part(
        "intent", clf.encoder_.features(rows.texts, intent.columns), intent.columns
    )
    again = Logistic()
    again.judged_on = "validation"  # as wherever the base was trained on the rows that the head learns from
    again.fit(*now(train), intent.schema, validation=now(validation), row_weight=None)
    np.testing.assert_allclose(again.weights_, intent.head.weights_, atol=1e-5)


def test_one_pass_answers_every_task(tiny, parts):
    clf = Classifier("probe", tiny, tasks=TASKS | {"again": "label"}, cache=None).fit(
        some(TASKS | {"again": "label"})
    )
    before = clf.encoder_.backbone.passes
    answers = clf.predict(["two smart bulbs, please", ""])
    assert (
        clf.encoder_.backbone.passes - before == 1 and set(answers) == {"intent", "slots", "again"}
        and [len(found) for found in answers.values()] == [2, 2, 2]
    )
    assert list(clf.classes_["intent"]) == list(clf.classes_["again"])  # the same names in two tasks do not meet


def test_rows_with_some_of_the_labels(tiny):
    table = [
        row(slots=None),
        row(label=None),
        row(text="where is it", tokens=["where", "is", "it"], slots=["O", "O", "B-thing"], label="track"),
        row(topics=["home", "light"]),
    ] * 6
    tasks = TASKS | {"topics": "topics"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf = Classifier("finetune", tiny, tasks=tasks, settings=FAST, cache=None).fit(table, validation=table)
    assert {
        name: found["train"] for name, found in clf.facts_["tasks"].items()
    } == {"intent": 18, "slots": 18, "topics": 6}
    report = clf.evaluate(table)
    assert (
        {name: found.rows for name, found in report.tasks.items()} == {"intent": 18, "slots": 18, "topics": 6}
        and not clf.task("topics").schema.exclusive
    )


def test_labels_that_training_never_showed_are_told(tiny, parts):
    clf = Classifier("probe", tiny, tasks={"intent": "label"}, cache=None).fit(parts)
    report = clf.evaluate(
        [dict(text=parts.test.texts[0], label=parts.train.by_task["intent"][0]), dict(text="x", label="never seen")]
    ).tasks["intent"]
    assert report.rows == 1 and any(
        "never showed" in note for note in report.notes
    ) and report["accuracy_with_unseen"] <= 0.5


def test_a_reject_cut_and_thresholds_are_a_tasks_own(tiny, parts, tmp_path, capsys):
    tasks = {
        "intent": {"label": "label", "reject": {"score": "centroid-distance", "coverage": 0.5}}, "plain": "label"
    }
    clf = Classifier("probe", tiny, tasks=tasks, cache=None).fit(some(tasks))
    clf.save_pretrained(tmp_path / "model")
    texts = parts.test.texts
    loaded = Classifier.from_pretrained(tmp_path / "model")
    # before anything else is asked of it
    answers, why = clf.predict(texts), loaded.explain("where is my parcel", task="plain")
    assert (
        None in answers["intent"] and None not in answers["plain"].tolist()
        and loaded.predict(texts)["intent"].tolist() == answers["intent"].tolist()
    )
    assert why.to_dict() == clf.explain("where is my parcel", task="plain").to_dict()
    model_commands.explain(str(tmp_path / "model"), "where is my parcel", task="plain", as_json=True)
    assert json.loads(capsys.readouterr().out)["probability"] == pytest.approx(why.probability)
    with pytest.raises(UserError, match="'nothing' has no answer"):
        model_commands.explain(str(tmp_path / "model"), "where is my parcel", task="nothing")


def test_words_that_are_cut_off_are_counted(tiny, parts):
    clf = Classifier("probe", tiny, tasks=TASKS, settings=["format.max_length=8"], cache=None).fit(parts)
    assert clf.facts_["unread_words"] > 0 and any("cut off" in note for note in clf.evaluate(parts.test).notes)


def test_tasks_of_different_data_sets_are_drawn_by_temperature(tiny, parts):
    records = lambda rows, column, values: [dict(text=t, **{column: v}) for t, v in zip(rows.texts, values)]
    news = records(parts.train, "topic", ["a", "b"] * 24) * 4
    home = [
        dict(text=t, tokens=[t[a:b] for a, b in p], slots=s)
        for t, p, s in zip(parts.train.texts, parts.train.places, parts.train.by_task["slots"])
    ]
    recipe = dict(
        name="x", selector="top-layers", pooler="mean", head="linear",
        merger={"name": "mixed", "temperature": 0, "weighting": "uncertainty"},
        tasks={"topic": "topic", "slots": "slots"},
    )
    clf = Classifier(recipe, tiny, settings=FAST, cache=None).fit({"topic": news, "slots": home})
    assert len(set(clf.facts_["training"]["draws"].values())) == 1


@pytest.mark.parametrize("recipe, class_weight", [
    ("probe", "balanced"), ("probe", "balanced-sampler"), ("probe", "focal"), ("finetune", "balanced"),
    ("finetune", "focal"),
])
def test_rare_classes_count_in_every_kind_of_task(tiny, parts, recipe, class_weight):
    train = parts.train
    rows = [
        dict(
            text=text, tokens=[text[start:end] for start, end in places], slots=slots, label=label,
            topics=[label, "often"][:number % 3],
        )
        for number, (text, places, slots, label) in enumerate(
            zip(train.texts, train.places, train.by_task["slots"], train.by_task["intent"])
        )
    ]
    clf = Classifier(
        recipe, tiny,
        tasks={column: dict(label=column, class_weight=class_weight) for column in ("label", "topics", "slots")},
        settings=FAST if recipe == "finetune" else [], cache=None,
    ).fit(rows)
    assert set(clf.predict(["two smart bulbs"])) == {"label", "topics", "slots"}


def test_weights_that_would_be_passed_over_are_refused(tiny, parts):
    with pytest.raises(UserError, match="class_weight belongs to a task"):
        Classifier("probe", tiny, tasks=TASKS, settings=["class_weight=balanced"], cache=None).fit(parts)
    drawn = TASKS | {"intent": {"label": "label", "class_weight": "balanced-sampler"}}
    with pytest.raises(UserError, match="share their rows"):
        Classifier("multitask-joint", tiny, tasks=drawn, settings=FAST, cache=None).fit(parts)
    with pytest.raises(UserError, match="needs one label"):
        Classifier(
            "probe", tiny, tasks={"topics": {"label": "topics", "reject": "centroid-distance"}}, cache=None
        ).fit([dict(text=f"text {row}", topics=["a", "b"][: row % 3]) for row in range(24)])


def test_rows_read_for_other_tasks_are_refused(tiny, parts):
    with pytest.raises(UserError, match="have none for 'mood'"):
        Classifier("probe", tiny, tasks={"mood": "mood"}, cache=None).fit(parts)


def test_scikit_learn_can_copy_it():
    from sklearn.base import clone
    assert (
        clone(Classifier("probe", tasks=TASKS)).tasks == TASKS
        and clone(Classifier("no such recipe")).recipe == "no such recipe"
    )


# ---- the command line

def test_fit_predict_and_evaluate_from_the_command_line(tiny, parts, tmp_path, capsys):
    for part, rows in parts.items():
        lines = (
            dict(text=t, tokens=[t[a:b] for a, b in p], slots=s, label=l)
            for t, p, s, l in zip(rows.texts, rows.places, rows.by_task["slots"], rows.by_task["intent"])
        )
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fast = [word for setting in FAST for word in ("--set", setting)]
    main([
        "fit", "--recipe", "multitask-joint", "--data", str(tmp_path), "--model", tiny,
        "--out", str(tmp_path / "model"), "--checkpoints", str(tmp_path / "checkpoints"), *fast, "--json",
    ])
    assert list((tmp_path / "checkpoints").iterdir())
    assert "joint_exact_match" in json.loads(capsys.readouterr().out)["reports"]["test"]["figures"]
    main(["predict", str(tmp_path / "model"), "two smart bulbs", "--json"])
    found, = json.loads(capsys.readouterr().out)
    assert found["intent"]["label"] and isinstance(found["slots"], list)
    main(["evaluate", str(tmp_path / "model"), "--data", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["tasks"].keys() == {"intent", "slots"}
    assert "`slots` gives one tag for each word" in (tmp_path / "model" / "README.md").read_text()
    main(["predict", str(tmp_path / "model"), "two smart bulbs"])
    assert "intent" in capsys.readouterr().out
    main(["fit", "--recipe", "multitask-joint", "--data", "helpdesk", "--model", tiny, "--dry-run", "--json"])
    assert json.loads(capsys.readouterr().out)["data"]["slots"]["kind"] == "tags"
    for command, said in (
        (
            [
                "fit", "--recipe", "multitask-joint", "--data", "helpdesk", "--model", tiny,
                "--dry-run", "--coverage", "0",
            ],
            "say label columns and reject options in its tasks",
        ),
        (["predict", str(tmp_path / "model"), "a", "--threshold", "0.5"], "--threshold is for models with one task"),
        (
            ["evaluate", str(tmp_path / "model"), "--data", str(tmp_path), "--label-column", "label"],
            "leave --label-column out",
        ),
    ):
        with pytest.raises(SystemExit): main(command)  # an option that cannot be followed is never passed over
        assert said in capsys.readouterr().err


# ---- merging and serving

@pytest.fixture(scope="module")
def apart(tiny, parts, tmp_path_factory):
    """Folders of an intent model and a slots model of one base, whole and sparse, and a probe."""
    place = tmp_path_factory.mktemp("apart")
    for name, selector in (("whole", "full"), ("rows", {"name": "random-sparse", "weights": 0.1, "cost": None})):
        for task, column in TASKS.items():
            recipe = dict(
                name=name, selector=selector, head="linear",
                training=dict(epochs=1, learning_rate=1e-3, head_start="random"),
            )
            Classifier(recipe, tiny, tasks={task: column}, cache=None).fit(parts).save_pretrained(
                place / f"{name}-{task}"
            )
    Classifier("probe", tiny, tasks={"intent": "label"}, cache=None).fit(parts).save_pretrained(place / "probe")
    return place


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare", "breadcrumbs", "regmean"])
def test_merged_models_keep_their_tasks(apart, parts, tmp_path, method):
    for kind in ("whole", "rows"):
        found = merge_models([apart / f"{kind}-intent", apart / f"{kind}-slots"], method, parts)
        assert {
            (line["task"], line["part"]) for line in found.rows
        } == {(task, part) for task in TASKS for part in ("validation", "test")}
        assert (
            found.interference.pairs[0]["rows_shared"] is None if kind == "whole"
            else 0 <= found.interference.pairs[0]["rows_shared"] <= 1
        )
        found.classifier.save_pretrained(tmp_path / kind)
        texts, again = parts.test.texts[:4], Classifier.from_pretrained(tmp_path / kind)
        assert [
            np.concatenate(a).tolist() if isinstance(a, list) else a.tolist()
            for a in again.decision_function(texts).values()
        ] == [
            np.concatenate(a).tolist() if isinstance(a, list) else a.tolist()
            for a in found.classifier.decision_function(texts).values()
        ]


def test_a_merge_from_the_command_line(apart, tmp_path, capsys):
    main([
        "merge", str(apart / "whole-intent"), str(apart / "whole-slots"), "-o", str(tmp_path / "model"),
        "--data", "helpdesk", "--method", "ties", "--set", "density=0.5", "--set", "coefficient=0.5", "--json",
    ])
    found = json.loads(capsys.readouterr().out)
    assert found["coefficient"] == 0.5 and len(found["rows"]) == 4 and (tmp_path / "model" / "clfm.json").exists()


def test_merges_that_cannot_work_are_refused(apart, tiny, parts, tmp_path):
    merge = lambda *models, **more: merge_models(models, data=parts, **more)
    with pytest.raises(UserError, match="copies of one model"):
        merge(apart / "whole-intent", f"copy={apart / 'whole-intent'}")
    with pytest.raises(UserError, match="its delta is empty"): merge(apart / "whole-intent", apart / "probe")
    with pytest.raises(UserError, match="at least two"): merge(apart / "whole-intent")
    with pytest.raises(UserError, match="training it on all tasks"):
        merge(apart / "whole-intent", apart / "whole-slots", method="joint")
    with pytest.raises(UserError, match="0 data sets"): merge_models([apart / "whole-intent", apart / "whole-slots"])
    from transformers import AutoModel, AutoTokenizer
    other = AutoModel.from_pretrained(tiny)
    with torch.no_grad(): other.embeddings.word_embeddings.weight[5] += 1
    other.save_pretrained(tmp_path / "other"), AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "other")
    Classifier(
        Recipe("x", selector="full", head="linear", training=dict(epochs=1, head_start="random")),
        str(tmp_path / "other"), tasks={"intent": "label"}, cache=None,
    ).fit(parts).save_pretrained(tmp_path / "b")
    with pytest.raises(UserError, match="different bases"): merge(apart / "whole-slots", tmp_path / "b")


def test_one_base_serves_many_changes_row_by_row(apart, parts):
    from clfm_kit_multitask.serving import Serving
    names = ["whole-intent", "whole-slots", "rows-intent", "probe"]
    serving, texts = Serving({name: apart / name for name in names}), parts.test.texts[:12]
    asked = [names[number % 4] for number in range(12)]
    served, alone = (
        serving.answer(texts, asked),
        {name: Classifier.from_pretrained(apart / name).predict(texts) for name in names},
    )
    for number, (name, answer) in enumerate(zip(asked, served)):
        for task, found in answer.items():
            if task == "intent": assert found == alone[name][task][number]
            else:
                assert [
                    (s["slot"], s["start"], s["end"]) for s in found
                ] == [(s["slot"], s["start"], s["end"]) for s in alone[name][task][number]]
    assert len({id(clf.encoder_.backbone) for clf in serving.models.values()}) == 1
    with pytest.raises(UserError, match="unknown model"): serving.answer(texts[:1], "nobody")


def test_a_model_is_served_with_its_changes_and_no_second_base(apart, adapters):
    from clfm_kit_multitask.serving import Product, Serving
    serving = Serving({"a": apart / "whole-intent", "b": adapters / "intent", "c": adapters / "slots"})
    held = {
        parameter.data_ptr()
        for clf in serving.models.values() for parameter in clf.encoder_.backbone.model.parameters()
    }
    assert len(held) == len(list(serving.backbone.model.parameters()))
    kept = [
        change for switched in serving.switched.values() for name in "bc"
        for change in switched.changes.get(name, {}).values()
    ]
    assert kept and all(isinstance(change, Product) for change in kept)  # adapters stay as thin as they are
    assert all(
        change.before is None
        for switched in serving.switched.values() for change in switched.changes.get("a", {}).values()
    )


def test_adapters_answer_row_by_row_as_they_do_alone(apart, adapters, parts):
    from clfm_kit_multitask.serving import Serving
    folders = {"whole": apart / "whole-intent", "adapter": adapters / "intent"}
    texts, asked = parts.test.texts[:8], ["whole", "adapter"] * 4
    served = Serving(folders).answer(texts, asked)
    alone = {name: Classifier.from_pretrained(folder).predict(texts)["intent"] for name, folder in folders.items()}
    assert [answer["intent"] for answer in served] == [alone[name][number] for number, name in enumerate(asked)]


# ---- adapters

@pytest.fixture(scope="module")
def adapters(tiny, parts, tmp_path_factory):
    """Folders of an intent model and a slots model, both LoRA on one base."""
    pytest.importorskip("peft"), pytest.importorskip("clfm_kit_lora_4bit")
    place = tmp_path_factory.mktemp("adapters")
    for task, column in TASKS.items():
        recipe = dict(
            name="lora", selector={"name": "lora", "rank": 2}, head="linear",
            training=dict(epochs=1, learning_rate=1e-2, head_start="random"),
        )
        Classifier(recipe, tiny, tasks={task: column}, cache=None).fit(parts).save_pretrained(place / task)
    return place


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare", "breadcrumbs", "regmean"])
def test_merged_adapters_keep_their_tasks_and_come_back(adapters, parts, tmp_path, method):
    found = merge_models([adapters / "intent", adapters / "slots"], method, parts)
    # a sum of adapters is an adapter
    assert hasattr(found.classifier.delta_, "factors") == (method == "task-arithmetic")
    assert found.interference.pairs[0]["moved_by_both"] > 0.9
    found.classifier.save_pretrained(tmp_path / "model")
    texts, again = parts.test.texts[:4], Classifier.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(
        again.decision_function(texts)["intent"],
        found.classifier.decision_function(texts)["intent"], rtol=0, atol=1e-6,
    )


def test_a_sum_of_adapters_is_what_peft_calls_cat(adapters):
    from peft import LoraConfig, get_peft_model
    one, two = (Classifier.from_pretrained(adapters / task) for task in TASKS)
    for clf in (one, two): clf.delta_.unapply(clf.encoder_.backbone)
    name = next(iter(one.delta_.factors))
    expected = sum(clf.delta_.factors[name].up @ clf.delta_.factors[name].down for clf in (one, two))
    summed = (one.delta_ + two.delta_).factors[name]
    torch.testing.assert_close(summed.up @ summed.down, expected)
    model = get_peft_model(one.encoder_.backbone.model, LoraConfig(r=2, lora_alpha=2, target_modules=[name]), "a")
    model.add_adapter("b", LoraConfig(r=2, lora_alpha=2, target_modules=[name]))
    layer = model.base_model.model.get_submodule(name)
    with torch.no_grad():
        for adapter, clf in (("a", one), ("b", two)):
            (
                layer.lora_A[adapter].weight.copy_(clf.delta_.factors[name].down),
                layer.lora_B[adapter].weight.copy_(clf.delta_.factors[name].up),
            )
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "cat", combination_type="cat")
    torch.testing.assert_close(layer.get_delta_weight("cat"), expected, rtol=1e-4, atol=1e-6)
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "linear", combination_type="linear")
    # factors combined apart give another change
    assert not torch.allclose(layer.get_delta_weight("linear"), expected, atol=1e-4)


# ---- RegMean and uncertainty

def test_regmean_gives_the_least_squares_map(tiny):
    from clfm_kit.backbone.backbone import Backbone
    from clfm_kit.backbone.deltas import Change, Delta
    from clfm_kit_multitask.weights import RegMean, _grams
    base = Backbone.load(tiny)
    name = next(n for n, p in base.model.named_parameters() if n.endswith(".weight") and p.ndim == 2 and "layer" in n)
    weight = dict(base.model.named_parameters())[name].detach().clone()
    torch.manual_seed(0)
    deltas = [Delta([Change(name, None, 0, 0.1 * torch.randn_like(weight), level=0)]) for _ in range(2)]
    texts = [["two smart bulbs", "where is my order"] * 8, ["cancel it", "a lamp please"] * 8]
    merged = RegMean(shrink=1.0).merge(base, deltas, texts=texts).changes[0].difference
    grams = [_grams(base, delta, some, [name])[name] for delta, some in zip(deltas, texts)]
    def lost(difference):
        return sum(
            float(torch.trace(
                (difference - d.changes[0].difference).double() @ g
                @ (difference - d.changes[0].difference).double().T
            ))
            for d, g in zip(deltas, grams)
        )
    torch.manual_seed(1)
    assert lost(merged) < lost(sum(d.changes[0].difference for d in deltas) / 2)
    for _ in range(5): assert lost(merged) <= lost(merged + 0.01 * torch.randn_like(merged)) + 1e-9
    same = RegMean().merge(base, [deltas[0], deltas[0]], texts=texts).changes[0].difference  # two models of one mind
    full = RegMean().merge(
        base, [deltas[0], deltas[0]], texts=[[" ".join(base.tokenizer.get_vocab())[:400]] * 64] * 2
    ).changes[0].difference
    assert torch.isfinite(same).all() and torch.isfinite(full).all()
    assert (
        lost(same) <= lost(torch.zeros_like(same)) and torch.equal(dict(base.model.named_parameters())[name], weight)
    )


def test_regmean_without_texts_is_refused(tiny):
    from clfm_kit_multitask.weights import RegMean
    with pytest.raises(UserError, match="needs texts"): RegMean().merge(None, [], texts=[[]])


def test_uncertainty_finds_the_weight_that_each_loss_deserves():
    from clfm_kit.training.network import Heads
    heads = Heads({"sure": torch.nn.Linear(1, 1), "unsure": torch.nn.Linear(1, 1)}, "uncertainty")
    losses, optimizer = (
        {"sure": torch.tensor(0.1), "unsure": torch.tensor(2.0)}, torch.optim.Adam([heads.log_variance], lr=0.05)
    )
    for _ in range(600):
        optimizer.zero_grad()
        sum(heads.weighted(name, value, 1.0) for name, value in losses.items()).backward()
        optimizer.step()
    # where the derivative is zero
    torch.testing.assert_close(
        heads.log_variance.detach(), torch.log(2 * torch.stack([*losses.values()])), atol=1e-2, rtol=0
    )


def test_uncertainty_weights_learn_with_the_model(tiny, parts):
    from clfm_kit.training.trainer import TextTrainer
    seen, evaluate = [], TextTrainer.evaluate
    def watch(self, *args, **kwargs):
        seen.append(self.network.heads.log_variance.detach().tolist())
        return evaluate(self, *args, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextTrainer, "evaluate", watch)
        fitted(tiny, parts, settings=["merger=joint", "merger.weighting=uncertainty"])
    assert all(value != 0 for value in seen[-1])


# ---- training

def test_the_best_epoch_is_that_of_the_best_mean_quality(tiny, parts):
    from types import SimpleNamespace
    from clfm_kit.training.trainer import GuardCallback
    trainer = SimpleNamespace(
        network=SimpleNamespace(state_dict=lambda: {"number": torch.tensor(float(len(log)))}),
        settings=SimpleNamespace(patience=2), validation=range(50), run=None, rounds=Rounds(100),
    )
    watch, log, control = GuardCallback(trainer), [], SimpleNamespace(should_training_stop=False)
    for loss, quality in ((1.0, 0.5), (1.2, 0.7), (1.1, 0.7), (0.9, 0.6)):
        log.append(dict(eval_loss=loss, eval_quality=quality))
        watch.on_evaluate(None, SimpleNamespace(log_history=log, epoch=1.0, global_step=len(log)), control, log[-1])
    assert float(watch.best["number"]) == 3 and not control.should_training_stop  # the loss decides between equals
    log.append(dict(eval_loss=0.8, eval_quality=0.65))
    watch.on_evaluate(None, SimpleNamespace(log_history=log, epoch=1.0, global_step=len(log)), control, log[-1])
    assert control.should_training_stop


def test_few_validation_rows_do_not_choose_an_epoch():
    from types import SimpleNamespace
    from clfm_kit.training.trainer import GuardCallback
    trainer = SimpleNamespace(
        network=SimpleNamespace(state_dict=lambda: {"number": torch.tensor(float(len(log)))}),
        settings=SimpleNamespace(patience=2), validation=range(49), run=None, rounds=Rounds(100),
    )
    watch, log, control = GuardCallback(trainer), [], SimpleNamespace(should_training_stop=False)
    for loss in (0.5, 0.6, 0.7, 0.8):
        log.append(dict(eval_loss=loss))
        watch.on_evaluate(None, SimpleNamespace(log_history=log, epoch=1.0, global_step=len(log)), control, log[-1])
    assert float(watch.best["number"]) == 4 and not control.should_training_stop


def test_training_goes_on_while_one_task_still_improves():
    from types import SimpleNamespace
    from clfm_kit.training.trainer import GuardCallback
    watch, log = (
        GuardCallback(SimpleNamespace(
            network=SimpleNamespace(state_dict=dict), settings=SimpleNamespace(patience=2),
            validation=range(50), run=None, rounds=Rounds(100),
        )),
        [],
    )
    control = SimpleNamespace(should_training_stop=False)
    for intent, slots in ((0.8, 0.5), (0.6, 0.6), (0.5, 0.65), (0.5, 0.65)):
        log.append(
            dict(eval_loss=1.0, eval_quality=(intent + slots) / 2, eval_tasks=dict(intent=intent, slots=slots))
        )
        watch.on_evaluate(None, SimpleNamespace(log_history=log, epoch=1.0, global_step=len(log)), control, log[-1])
    # slots were at their best one epoch ago, though the mean was best three ago
    assert not control.should_training_stop
    log.append(log[-1])
    watch.on_evaluate(None, SimpleNamespace(log_history=log, epoch=1.0, global_step=len(log)), control, log[-1])
    assert control.should_training_stop


def test_validation_during_training_reads_the_weights_as_they_are(tiny, parts):
    clf = fitted(tiny, parts, settings=["selector=full", "training.epochs=2"])
    best = max(clf.facts_["training"]["validation_quality"], key=lambda found: np.mean(list(found.values())))
    task, given = clf.tasks_["intent"], parts.validation.by_task["intent"]
    rows = [row for row in parts.validation.known("intent") if given[row] in task.schema.labels]
    # training knows nothing of shifts
    shifts = task.calibration.temperature * np.asarray(task.calibration.shifts or [0.0])
    logits = clf.decision_function(parts.validation.texts)["intent"][rows] - shifts
    targets = task.schema.targets([given[row] for row in rows])
    assert best["intent"] == pytest.approx(np.mean(logits.argmax(1) == targets), abs=0.03)


# ---- recipes in all three forms

def test_recipes_from_a_file_and_for_data_sets_apart(tiny, parts, tmp_path, capsys):
    import yaml
    from clfm_kit.recipes import Recipe
    lines = [
        dict(text=t, tokens=[t[a:b] for a, b in p], slots=s)
        for t, p, s in zip(parts.train.texts, parts.train.places, parts.train.by_task["slots"])
    ]
    topics = [dict(text=t, topic="a" if number % 2 else "b") for number, t in enumerate(parts.train.texts)]
    for name, table in (("home", lines), ("news", topics)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, table)))
    recipe = Recipe.of("multitask-mixed").to_dict() | dict(
        tasks={"topic": "topic", "slots": "slots"}, training=dict(epochs=1, learning_rate=1e-3, head_start="random")
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main([
        "fit", "--recipe", str(tmp_path / "recipe.yaml"),
        "--data", f"topic={tmp_path / 'news.jsonl'},slots={tmp_path / 'home.jsonl'}", "--model", tiny,
        "--out", str(tmp_path / "model"), "--json",
    ])
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert set(facts["training"]["draws"]) == {"news.jsonl", "home.jsonl"}
    assert set(Classifier.from_pretrained(tmp_path / "model").predict(["two smart bulbs"])) == {"topic", "slots"}


def test_a_model_loaded_without_the_plugin_says_what_to_install(tiny, parts, tmp_path):
    fitted(tiny, parts, settings=["merger=joint"]).save_pretrained(tmp_path / "model")
    code = (
        "import sys; from clfm_kit import Classifier, UserError\ntry: Classifier.from_pretrained(sys.argv[1])\n"
        "except UserError as error: print('said:', error)\nelse: print('loaded')"
    )
    found = python("-c", code, tmp_path / "model", env={"CLFM_KIT_PLUGINS": "stc"}).stdout
    assert 'pip install "clfm-kit[multitask]"' in found


def test_the_command_shows_the_tags_of_a_task_without_a_name(tiny, tmp_path):
    rows = load_tasks("helpdesk", read_tasks({"slots": "slots"}))
    only = lambda found: Rows(found.texts[:60], found.by_task["slots"][:60], places=found.places[:60])
    clf = Classifier("probe", tiny, cache=None).fit(only(rows.train), validation=only(rows.validation))
    folder = clf.save_pretrained(tmp_path / "model")
    said = json.loads(clfm("predict", folder, "where is my blue kettle", "--json").stdout)
    assert said[0]["text"] == "where is my blue kettle" and isinstance(said[0]["spans"], list)
    shown = clfm("predict", folder, "where is my blue kettle")
    assert shown.returncode == 0 and "kettle" in shown.stdout
