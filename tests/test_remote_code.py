"""Python code that a base model brings is run where the user says so, and never because a file does."""
import json
import shutil
import sys

import pytest

from clfm_kit import Classifier, load_data
from clfm_kit.errors import UserError
from command import clfm, refused

CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel
Path({mark!r}).touch()

class OwnConfig(BertConfig): model_type = "own-kind"
class OwnModel(BertModel): config_class = OwnConfig
"""


@pytest.fixture
def base(tiny, tmp_path):
    "The folder of a model whose class is in a Python file beside its weights; `mark` is there once that was run."
    shutil.copytree(tiny, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config |= dict(model_type="own-kind", auto_map=dict(AutoConfig="own.OwnConfig", AutoModel="own.OwnModel"))
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "own.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    return tmp_path / "base"


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    "Where transformers keeps the code that it runs."
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *asked: pytest.fail("something was asked"))
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]: del sys.modules[name]


def test_code_is_refused_without_a_question(base, tmp_path):
    with pytest.raises(UserError, match="brings Python code of its own, which is not run unless you ask for it"):
        Classifier("probe", str(base), cache=None).fit("helpdesk")
    words = "--recipe", "probe", "--data", "helpdesk", "--model", base
    for more in (["--out", tmp_path / "out"], ["--dry-run"]): refused(clfm("fit", *words, *more), "--trust-remote-code")
    assert not (tmp_path / "mark").exists()


def test_code_that_is_trusted_runs_and_a_saved_model_cannot_say_so(base, tmp_path):
    clf = Classifier("probe", str(base), cache=None, trust_remote_code=True).fit("helpdesk")
    assert (tmp_path / "mark").exists()
    folder, texts = clf.save_pretrained(tmp_path / "model"), load_data("helpdesk").test.texts[:5]
    assert "runs Python code of its own" in (folder / "README.md").read_text()
    (tmp_path / "mark").unlink()
    refused(clfm("predict", folder, "a text", env={"PATH": ""} | dict(HOME=str(tmp_path))), "--trust-remote-code")
    with pytest.raises(UserError, match="Python code of its own"): Classifier.from_pretrained(folder)
    assert not (tmp_path / "mark").exists()
    again = Classifier.from_pretrained(folder, trust_remote_code=True)
    assert list(again.predict(texts)) == list(clf.predict(texts))
    (base / "own.py").write_text((base / "own.py").read_text() + "\n# another version\n")
    with pytest.raises(UserError, match="other weights or another configuration"):
        Classifier.from_pretrained(folder, trust_remote_code=True)
