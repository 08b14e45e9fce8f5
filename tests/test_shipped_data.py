"""The data sets that come with clfm-kit: sizes, labels, tags, and no text that stands twice or crosses a split."""
import re
from collections import Counter
from itertools import combinations

import pytest
from clfm_kit.data.rows import SHIPPED, load_data, shipped
from clfm_kit.data.splitting import normalised
from clfm_kit.data.report import data_report

HELPDESK = ("helpdesk", "helpdesk-out-of-scope")
NEAR = 0.6  # share of their distinct words that two texts may not have in common


def everything(*names, **columns):
    return [
        (f"{name}/{split}", row, rows)
        for name in names for split, rows in load_data(name, **columns).items() for row in range(len(rows))
    ]


def words(text): return frozenset(re.findall(r"\w+", text.casefold()))


def near(one, other):
    # sizes alone rule most pairs out
    smaller, larger = sorted((len(one), len(other)))
    return smaller >= NEAR * larger and len(one & other) >= NEAR * len(one | other)


def test_near_finds_what_it_should():
    assert near(words("Where is my parcel?"), words("where IS my parcel"))
    assert near(words("where is my red parcel"), words("where is my blue parcel"))
    assert not near(words("where is my parcel"), words("where were you"))


def test_names_and_parts():
    assert shipped() == ["abstracts", "helpdesk", "helpdesk-out-of-scope"]
    for name in shipped():
        assert {
            path.name for path in (SHIPPED / name).iterdir()
        } >= {"README.md", "train.jsonl", "validation.jsonl", "test.jsonl"}
        assert [split for split, _ in load_data(name).items()] == ["train", "validation", "test"]


def test_helpdesk_is_as_large_as_promised():
    labels = Counter(rows.labels[row] for _, row, rows in everything("helpdesk"))
    assert labels.total() >= 2000 and len(labels) == 20
    assert max(labels.values()) >= 4 * min(labels.values()), "meant to be imbalanced"
    slots = Counter(
        tag[2:] for _, row, rows in everything("helpdesk", label="slots") for tag in rows.labels[row] if tag[0] == "B"
    )
    assert len(slots) == 12 and min(slots.values()) >= 10
    outside = everything("helpdesk-out-of-scope")
    assert len(outside) >= 160 and {rows.labels[row] for _, row, rows in outside} == {"out_of_scope"}
    assert len(load_data("helpdesk-out-of-scope").test) >= 60, "rejection figures rest on these"


def test_abstracts_are_as_many_as_promised():
    found = everything("abstracts")
    fields = Counter(field for _, row, rows in found for field in rows.labels[row])
    assert len(found) >= 400 and len(fields) >= 10 and min(fields.values()) >= 40
    assert {rows.kind for _, _, rows in found} == {"multi"}
    assert all(rows.labels[row] and rows.labels[row] == sorted(set(rows.labels[row])) for _, row, rows in found)


@pytest.mark.parametrize("name", ["abstracts", "helpdesk"])
def test_every_label_is_in_every_part(name):
    report = data_report(load_data(name))
    assert all(len(parts) == 3 for parts in report.classes.values())
    assert report.warnings == []


@pytest.mark.parametrize("name", HELPDESK)
def test_tags_are_bio_and_tokens_have_offsets(name):
    for place, row, rows in everything(name, label="slots"):
        text, tokens, tags = rows.texts[row], rows.tokens[row], rows.labels[row]
        for before, tag in zip(["O", *tags], tags):
            assert tag[0] != "I" or before[2:] == tag[2:], (place, row, tags)
        start = 0
        for token in tokens:
            found = text.index(token, start)
            assert not text[start:found].strip(), (place, row, token)
            start = found + len(token)
        assert not text[start:].strip(), (place, row)


def test_texts_are_clean():
    for place, row, rows in everything(*shipped()):
        text = rows.texts[row]
        assert text == text.strip() and text.isprintable() and not re.search(r"\]\(|\s\s", text), (place, row, text)


def test_email_addresses_belong_to_nobody():
    for place, row, rows in everything(*shipped()):
        assert all(
            domain.endswith(".example") for domain in re.findall(r"@([\w.-]*\w)", rows.texts[row])
        ), (place, row)


@pytest.mark.parametrize("names", [HELPDESK, ("abstracts",)], ids=["helpdesk", "abstracts"])
def test_no_two_texts_are_near_duplicates(names):
    texts = [(place, row, rows.texts[row]) for place, row, rows in everything(*names)]
    assert len({normalised(re.sub(r"[\W_]+", " ", text)) for _, _, text in texts}) == len(texts)
    bags = [(place, row, words(text)) for place, row, text in texts]
    assert [(a, b) for a, b in combinations(bags, 2) if near(a[2], b[2])] == []


@pytest.mark.parametrize("name", ["abstracts", "helpdesk", "helpdesk-out-of-scope"])
def test_card_says_the_sizes(name):
    sizes = [len(rows) for _, rows in load_data(name).items()]
    card = (SHIPPED / name / "README.md").read_text(encoding="utf-8")
    assert f"| rows | {' | '.join(map(str, sizes))} | {sum(sizes)} |" in card
