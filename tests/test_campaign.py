"""A slice of the campaign; all of it: `python tests/campaign/run.py`. A fuzzer: `python tests/campaign/fuzz.py`."""
from pathlib import Path

import pytest
from campaign import on_artifacts, on_bases, on_calls, on_data, on_recipes, on_runs  # noqa: F401 (they note groups)
from campaign.cases import FAILED, GROUPS, World, cases, run_case

STEP = 16  # every so many


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    found = World(tmp_path_factory.mktemp("campaign"))
    found.tiny = Path(tiny)
    return found


@pytest.fixture(scope="module")
def slices():
    found = {name: [] for name in GROUPS}
    for case in cases()[::STEP]: found[case.group].append(case)
    return found


def test_the_campaign_is_as_large_as_it_says(): assert len(cases()) > 4000


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_wrong_ends_in_a_sentence_or_right(name, slices, world, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CLFM_KIT_CACHE", str(tmp_path / "cache"))
    found = [run_case(case, world, tmp_path / f"case-{number}") for number, case in enumerate(slices[name])]
    failed = [each for each in found if each["outcome"] in FAILED]
    assert not failed, "\n".join(f"{each['outcome']}: {each['name']}\n{each['why']}" for each in failed)


def alone(title, world, tmp_path):
    "What becomes of one case, by its title."
    case, = [case for case in cases() if case.title == title]
    found = run_case(case, world, tmp_path / "case")
    assert found["outcome"] not in FAILED, found["why"]


def test_a_base_without_numbers_in_one_block(world, tmp_path):
    alone("weights: encoder.layer.1.attention.self.query.weight without numbers", world, tmp_path)


def test_a_flipped_bit_in_the_cache(world, tmp_path): alone("caches: a flipped bit", world, tmp_path)


def test_a_bias_of_one_label(world, tmp_path): alone("tensors with the right hash: a bias of one", world, tmp_path)


def test_what_a_killed_run_left(world, tmp_path): alone("caches: what a killed run left, probe", world, tmp_path)
