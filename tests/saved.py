"""A saved model whose clfm.json is changed by hand."""
import json
import shutil
from pathlib import Path

from clfm_kit.classifier.contents import digest_of


def facts_of(folder):
    return json.loads(Path(folder, "clfm.json").read_text(encoding="utf-8"))


def write_facts(folder, facts):
    """Write clfm.json as one does who knows of its hash."""
    if isinstance(facts, dict): facts["sha256"] = digest_of(facts)
    Path(folder, "clfm.json").write_text(json.dumps(facts), encoding="utf-8")


def copied(folder, target, change=None):
    """A copy of a saved model; `change` gets its facts to change them."""
    shutil.copytree(folder, target)
    if change is not None:
        facts = facts_of(target)
        change(facts)
        write_facts(target, facts)
    return target
