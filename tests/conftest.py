"""A small model of the kit's own, so that tests need neither a network nor the demo encoder."""
import pytest
from tiny import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a three-block BERT with random weights and a tokenizer of the words of the shipped messages."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def fitted(tiny, tmp_path_factory):
    """Folder of a probe fitted on the tiny model."""
    from clfm_kit import Classifier
    return Classifier("probe", tiny, cache=None).fit("helpdesk").save_pretrained(
        tmp_path_factory.mktemp("fitted") / "model"
    )
