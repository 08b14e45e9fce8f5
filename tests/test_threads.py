"""One classifier, several threads: nobody is told what belongs to someone else, and a fit beside changes nothing until
it is done. Also two processes on one cache, and copies of what holds a lock. CLFM_KIT_ASKED says how many answers
a kind is asked for; fewer without.
"""
import copy
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from afresh import python
from command import Forked

from clfm_kit import Classifier
from clfm_kit.backbone import upkeep
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.cache import Shard, ShardWriter, shards
from clfm_kit.backbone.encoder import TextEncoder
from clfm_kit.builtin.formats import Plain
from clfm_kit.builtin.poolers import Mean
from clfm_kit.data.rows import Splits
from clfm_kit.data.tasks import load_tasks, read_tasks

ANSWERS = """
import sys
import numpy as np, psutil
from clfm_kit import Classifier, load_data
data, memory = load_data("helpdesk").train, psutil.Process().memory_info
clf = Classifier("probe", sys.argv[1], cache=None).fit(data.texts[:60], data.labels[:60])
before = memory().rss
for size in np.random.default_rng(0).permutation(500): clf.predict_proba(["where " * (int(size) + 1)])
print(memory().rss / before)
"""
THREADS, ASKED = 8, int(os.environ.get("CLFM_KIT_ASKED", 60))
TASKS = {"intent": "label", "slots": "slots"}
QUICK = ["training.epochs=1", "training.learning_rate=1e-3", "format.max_length=48"]
KINDS = {
    "probe": ("probe", "tiny", [], None),
    "stc": ("stc", "tiny", ["head.strengths=[0.1]", "head.mixtures=all"], None),
    "token-sparse": (
        "token-sparse", "tiny", ["training.epochs=1", "selector.calibration=16", "selector.cost=null"], None
    ),
    "lora-4bit": ("lora-4bit", "decoder", QUICK, None),
    "tasks": ("probe", "tiny", [], TASKS),
}


@pytest.fixture(scope="module")
def rows():
    return Splits(**{
        part: found.take(range(size)) for (part, found), size in
        zip(load_tasks("helpdesk", read_tasks(TASKS)).items(), (96, 48, 200))
    })


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    """{name: folder} of an encoder and a decoder, both small."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel
    folder = tmp_path_factory.mktemp("decoder")
    words = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=128, pad_token_id=0,
    )).save_pretrained(folder)
    words.save_pretrained(folder)
    return dict(tiny=tiny, decoder=str(folder))


@pytest.fixture(scope="module")
def made(bases, rows):
    """A function that fits a kind once, and gives a function that makes a blank one."""
    fitted = {}

    def make(kind):
        recipe, base, settings, tasks = KINDS[kind]
        # float32, as a state on the border between two float16 numbers falls by what it is read beside
        more = dict(settings=settings, tasks=tasks, cache=None, state_dtype="float32")
        blank = lambda: Classifier(recipe, bases[base], **more)
        if kind not in fitted: fitted[kind] = fit(blank(), rows)
        return fitted[kind], blank

    return make


def fit(clf, rows, upside_down=False):
    """Fit on rows with their labels, or with each label in the place of another."""
    if clf.tasks: return clf.fit(rows)
    labels = rows.train.by_task["intent"]
    if upside_down: labels = [dict(zip(sorted(set(labels)), sorted(set(labels))[::-1]))[label] for label in labels]
    return clf.fit(rows.train.texts, labels)


def flat(found):
    """All numbers of an answer in one row, whatever it is."""
    if isinstance(found, dict): return np.concatenate([flat(each) for each in found.values()])
    if isinstance(found, list): return np.concatenate([flat(each) for each in found] or [np.zeros(0)])
    return np.ravel(np.asarray(found, dtype=np.float64))


def questions(texts, seed, number=ASKED):
    """[(name, function of a classifier)]: texts of unlike length, of each kind of question."""
    random, found = np.random.default_rng(seed), []
    reject = ["predict_proba", "decision_function", "explain"]
    for number in range(number):
        size = int(random.integers(1, 4))
        some = [texts[row] for row in random.integers(0, len(texts), size)]
        some[0] = " ".join(some[0].split() * int(random.integers(1, 5)))
        kind = reject[number % 3] if number % 10 == 9 else "predict_proba"
        if kind == "explain":
            short = " ".join(some[0].split()[:6])
            found.append(lambda clf, short=short: [weight for *_, weight in clf.explain(short).words])
        else: found.append(lambda clf, kind=kind, some=some: getattr(clf, kind)(some))
    return found


@pytest.mark.parametrize("kept", [False, True], ids=["read", "cached"])
@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_get_what_one_gets_beside_a_fit(kind, kept, made, rows, tmp_path):
    serial, blank = made(kind)
    folder = serial.save_pretrained(tmp_path / "model")
    clf = Classifier.from_pretrained(folder, cache=tmp_path / "states" if kept else None)
    asked = questions(rows.test.texts, len(kind), ASKED // 2 if kept else ASKED)
    alone = [flat(ask(serial)) for ask in asked]
    with ThreadPoolExecutor(THREADS + 1) as pool:
        beside = pool.submit(fit, blank(), rows)
        together = list(pool.map(lambda ask: flat(ask(clf)), asked))
    # what is kept is float16: a state that the batch changes in its last bit may be rounded the other way
    near = 1e-3 if kept else 1e-5
    for one, other in zip(alone, together): np.testing.assert_allclose(one, other, rtol=0, atol=near)
    texts = rows.test.texts[:20]
    np.testing.assert_allclose(flat(beside.result().predict_proba(texts)), flat(serial.predict_proba(texts)), atol=1e-5)


def test_fits_at_once_give_what_each_gives_alone(bases, rows):
    """Each with its own seed, and dropout, which draws at every step."""
    made = lambda seed: fit(Classifier(
        "finetune", bases["tiny"], settings=["training.epochs=1", f"seed={seed}"], cache=None
    ), rows).decision_function(rows.test.texts[:20])
    alone = [made(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool: together = list(pool.map(made, range(3)))
    for one, other in zip(alone, together): np.testing.assert_array_equal(one, other)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["probe", "token-sparse"])
def test_a_fit_of_the_same_classifier_changes_all_that_is_told_or_nothing(kind, made, rows):
    before, after = fit(made(kind)[1](), rows), fit(made(kind)[1](), rows, upside_down=True)
    asked = questions(rows.test.texts, 1, 24)
    either = [(flat(ask(before)), flat(ask(after))) for ask in asked]
    clf = fit(made(kind)[1](), rows)
    with ThreadPoolExecutor(THREADS + 1) as pool:
        beside, which = pool.submit(fit, clf, rows, True), []
        while not beside.done(): which += pool.map(lambda ask: flat(ask(clf)), asked)
    which += [flat(ask(clf)) for ask in asked]
    seen = {
        "before" if np.allclose(found, either[number % 24][0], atol=1e-5) else
        "after" if np.allclose(found, either[number % 24][1], atol=1e-5) else "neither"
        for number, found in enumerate(which)
    }
    assert seen == {"before", "after"}


def test_models_loaded_at_once_leave_the_process_as_it_was(made, tmp_path):
    """Loading changes PyTorch's default number type and functions of transformers for a while."""
    from transformers import PreTrainedModel
    kinds = {"probe": None, "lora-4bit": None}
    for kind in kinds: kinds[kind] = made(kind)[0].save_pretrained(tmp_path / kind)
    before = torch.get_default_dtype(), torch.linspace, PreTrainedModel.tie_weights, torch.nn.init.kaiming_uniform_
    with ThreadPoolExecutor(THREADS) as pool: found = list(pool.map(Classifier.from_pretrained, [*kinds.values()] * 4))
    after = torch.get_default_dtype(), torch.linspace, PreTrainedModel.tie_weights, torch.nn.init.kaiming_uniform_
    assert before == after
    answer = lambda clf: flat(clf.predict_proba(["where is it"]))
    for one, kind in zip(found, [*kinds] * 4): np.testing.assert_allclose(answer(one), answer(made(kind)[0]), atol=1e-5)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda clf: pickle.loads(pickle.dumps(clf))],
                         ids=["copy", "deepcopy", "pickle"])
def test_what_holds_a_lock_is_copied_while_it_answers(copied, made, rows):
    clf, texts = made("probe")[0], rows.test.texts[:40]
    expected = clf.predict_proba(texts)
    with ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(clf.predict_proba, texts) for _ in range(THREADS)]
        other = copied(clf)
        for each in asked: np.testing.assert_array_equal(each.result(), expected)
    np.testing.assert_allclose(other.predict_proba(texts), expected, atol=1e-6)


# ---- one cache for several

def test_processes_with_threads_share_a_cache(made, rows, tmp_path):
    serial = made("probe")[0]
    folder, texts = serial.save_pretrained(tmp_path / "model"), rows.test.texts[:60]
    expected = [serial.predict_proba([text]) for text in texts]

    def answer():
        clf = Classifier.from_pretrained(folder, cache=tmp_path / "states")
        with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda text: clf.predict_proba([text]), texts * 2))
        for values, other in zip(found, expected * 2): np.testing.assert_allclose(values, other, rtol=0, atol=1e-5)

    done = [worker.wait() for worker in [Forked(answer) for _ in range(2)]]
    assert [each.returncode for each in done] == [0, 0] and "damaged" not in "".join(each.stderr for each in done), done
    assert not list((tmp_path / "states").rglob(".part*"))


@pytest.mark.parametrize("how", ["merged", "removed"])
def test_a_shard_that_goes_as_soon_as_it_is_written_is_found_or_read_again(how, tiny, tmp_path, monkeypatch):
    encoder, write = TextEncoder(Backbone.load(tiny), Plain(), Mean(), tmp_path), ShardWriter.commit
    texts, left = [f"text {number}" for number in range(12)], iter([1])

    def commit(self):
        write(self)
        folder = self.path.parent
        if how == "merged": upkeep.compact(folder)
        elif next(left, 0): upkeep.remove(self.path)

    monkeypatch.setattr(ShardWriter, "commit", commit)
    monkeypatch.setattr(upkeep, "MANY", 0)
    monkeypatch.setattr(upkeep, "_merge", lambda folder, found: merged(folder, found, monkeypatch, write))
    found = np.concatenate([np.asarray(encoder.features([text])["hidden.3/mean"]) for text in texts])
    again = np.concatenate([np.asarray(encoder.uncached().features([text])["hidden.3/mean"]) for text in texts])
    np.testing.assert_array_equal(found, again)


def merged(folder, found, monkeypatch, write, merge=upkeep._merge):
    """Merging, whose own shard is not merged at once."""
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "commit", write)
        merge(folder, found)


def test_a_shard_that_goes_while_it_is_merged_leaves_nothing_damaged(tiny, tmp_path, monkeypatch):
    encoder = TextEncoder(Backbone.load(tiny), Plain(), Mean(), tmp_path)
    texts = [f"text {number}" for number in range(4)]
    expected = np.concatenate([np.asarray(encoder.features([text])["hidden.3/mean"]) for text in texts])
    folder, = {path.parent.parent for path in tmp_path.rglob("keys.npy")}
    found, keys = [shard for shard, *_ in shards(folder)], Shard.keys

    def going(self):
        read = keys(self)
        if self.path == found[1].path: upkeep.remove(self.path)
        return read

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "keys", going)
        upkeep._merge(folder, found)
    assert len([*shards(folder)]) == 3 and not [*folder.glob(".part*")]
    for shard, stored, arrays in shards(folder):
        assert all(len(values) == len(stored) for values in arrays.values()), shard
    np.testing.assert_array_equal(encoder.features(texts)["hidden.3/mean"], expected)


# ---- memory

def test_five_hundred_lengths_take_no_memory(tiny, tmp_path):
    from transformers import AutoModel, AutoTokenizer, BertConfig
    words = AutoTokenizer.from_pretrained(tiny, model_max_length=512)
    AutoModel.from_config(BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=512,
    )).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)

    # as many programs are kept as anywhere else, and not as many as in other checks; a seed of its own asks for a new
    # interpreter, as the number is read when torch is loaded
    done = python("-c", ANSWERS, tmp_path, env={"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "PYTHONHASHSEED": "1"})
    assert done.returncode == 0 and float(done.stdout) < 1.1, done


def test_a_process_forked_while_a_thread_reads_gives_the_same_answers(fitted):
    """The reading thread is not in the new process, and neither its lock nor its hooks are."""
    clf, reads, go_on = Classifier.from_pretrained(fitted), threading.Event(), threading.Event()
    texts = ["where is my parcel", "please cancel it"]
    expected, backbone = clf.predict_proba(texts), clf.encoder_.backbone
    def wait(states):
        reads.set()
        go_on.wait()
    ids = torch.tensor([[1, 2, 3]])
    reader = threading.Thread(target=lambda: backbone.read(ids, torch.ones_like(ids), {"hidden.1": wait}))
    reader.start()
    reads.wait()
    def ask():
        signal.alarm(60)  # rather than wait for ever
        np.testing.assert_array_equal(clf.predict_proba(texts), expected)
    done = Forked(ask).wait()
    go_on.set(), reader.join()
    assert done.returncode == 0, done
    np.testing.assert_array_equal(clf.predict_proba(texts), expected)
