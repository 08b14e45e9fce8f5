"""To the Hub and back, through the Hub's own client, with a stand-in for the Hub on this machine."""
import json

from afresh import python
from hub import TOKEN, hub

CODE = """
import json, os, sys, warnings
warnings.filterwarnings("ignore")
from clfm_kit import Classifier, UserError
tiny, texts = sys.argv[1], ["where is my parcel", "a bill please"]
said = lambda call: next((str(error) for error in [caught(call)] if error), "")
def caught(call):
    try: call()
    except UserError as error: return error
probe = dict(name="read", head=dict(name="logistic", C=1.0))
train = dict(name="train", selector="bias", head="linear", training=dict(epochs=1))
rows = [f"{what} {number}" for number in range(8) for what in ("my parcel", "a bill")]
fit = lambda recipe, labels: Classifier(recipe, tiny, cache=None).fit(rows, labels * 8)
first, second = fit(train, ["parcel", "bill"]), fit(probe, ["post", "money"])
pushed = [each.push_to_hub("me/model", private=True).oid for each in (first, second)]
now, before = (Classifier.from_pretrained("me/model", revision=revision) for revision in (None, pushed[0]))
equal = lambda one, other: (one.predict_proba(texts) == other.predict_proba(texts)).all()
refused = [
    said(lambda: Classifier.from_pretrained("me/model", revision="v9")),
    said(lambda: Classifier.from_pretrained("me/other")),
]
os.environ["HF_TOKEN"] = "hf_other"
print(json.dumps(dict(
    pushed=pushed, classes=[now.classes_.tolist(), before.classes_.tolist()],
    equal=[bool(equal(now, second)), bool(equal(before, first))],
    refused=[*refused, said(lambda: first.push_to_hub("me/third"))],
)))
"""


def ask(server, place, code, *words):
    """Run code in a new interpreter, whose client knows the stand-in alone."""
    given = dict(
        HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0", HF_HOME=str(place), HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1", PYTHONHASHSEED="1", NO_PROXY="127.0.0.1",
    )
    done = python("-c", code, *words, env=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_goes_to_the_hub_and_comes_back_at_each_revision(tiny, tmp_path):
    with hub() as server:
        found = json.loads(ask(server, tmp_path / "home", CODE, tiny).splitlines()[-1])
        files = server.repositories["me/model"]
        assert found["classes"] == [["money", "post"], ["bill", "parcel"]] and found["equal"] == [True, True]
        assert [*files.commits][1:] == found["pushed"]
        former, latest = (set(files.files(sha)) for sha in found["pushed"])
        assert former - latest == {"delta.safetensors"} and ".gitattributes" in latest  # a former delta does not stay
        assert not any(".gitattributes" in path for path in server.asked)  # nor is fetched what is no part of a model
        revision, name, pushed = found["refused"]
        assert "gives no model of that name at revision 'v9'" in revision and "'me/other' is no folder" in name
        assert pushed.startswith("the Hub does not take 'me/third': ") and "401" in pushed
        assert not any("\n" in said for said in found["refused"])
