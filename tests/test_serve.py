"""A server: each request gets its own answers, as they are offline; what is malformed or too much is refused
in a sentence.
"""
import asyncio
import json
import logging
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import numpy as np
import pytest
import uvicorn
from command import clfm, refused, started
from fastapi.testclient import TestClient

from clfm_kit import Classifier, load_data
from clfm_kit.backbone.backbone import Backbone
from clfm_kit.backbone.sharing import held_once, load_frozen
from clfm_kit_serve.app import make_app
from clfm_kit_serve.batching import Batcher
from clfm_kit_serve.connections import settings_of
from clfm_kit_serve.recent import Recent
from clfm_kit_serve.requests import Refused
from clfm_kit_serve.settings import Limits

TEXTS = load_data("helpdesk").test.texts[:24]


@pytest.fixture(scope="module")
def clf(fitted): return Classifier.from_pretrained(fitted)


@pytest.fixture(scope="module")
def kinds(tiny):
    "Classifiers of each kind of task."
    rows = load_data("helpdesk").train
    texts, labels = rows.texts[:80], rows.labels[:80]
    fit = lambda labels, *settings, **more: (
        Classifier("probe", tiny, [*settings], cache=None, **more).fit(texts, labels)
    )
    late = ["yes" if "late" in text or "where" in text else "no" for text in texts]
    marks = [row % 4 + 1 for row in range(len(texts))]
    several = [[label, "asks"] if "?" in text else [label] for text, label in zip(texts, labels)]
    tasks = Classifier("probe", tiny, tasks={"intent": "label", "slots": "slots"}, cache=None)
    return dict(
        one=fit(labels, reject="energy"), several=fit(several), marks=fit(marks, "task=ordinal"), late=fit(late),
        tasks=tasks.fit("helpdesk"),
    )


@pytest.fixture(scope="module")
def client(kinds):
    with TestClient(make_app(kinds)) as client: yield client


def near(found, expected):
    "The same answers; numbers may differ as they do for a text that is read beside others."
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items(): near(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected): near(*pair)
    elif isinstance(expected, float): assert np.isclose(found, expected, atol=1e-3)
    else: assert found == expected


@pytest.mark.parametrize("name", ["one", "several", "marks", "late", "tasks"])
def test_a_reply_is_what_the_classifier_says(name, client, kinds):
    reply = client.post(f"/predict/{name}", json=dict(texts=TEXTS))
    assert reply.status_code == 200 and reply.json()["model"] == name and reply.json()["versions"]["clfm-kit"]
    clf, found = kinds[name], reply.json()["answers"]
    for task, answers in clf.answers(TEXTS).items():
        told = [row[task] for row in found] if clf.named else found
        if answers.task.schema.unit == "word":
            near([row["spans"] for row in told], json.loads(json.dumps(answers.labels, default=float)))
            continue
        plain = [each.item() if hasattr(each, "item") else each for each in answers.labels]
        assert [row["label"] for row in told] == plain
        assert np.allclose([[*row["probabilities"].values()] for row in told], answers.probabilities, atol=1e-3)
        assert [row["rejected"] for row in told] == [label is None for label in plain]
        assert ("confidence" in told[0]) == (answers.confidence is not None)


def test_requests_at_once_are_answered_together_and_each_gets_its_own(clf):
    with TestClient(make_app({"m": clf}, Limits(wait=50))) as client:
        def ask(row): return client.post("/predict", json=dict(text=f"{TEXTS[row % 24]} {row}")).json()["answers"][0]
        with ThreadPoolExecutor(16) as pool: found = list(pool.map(ask, range(64)))
        near([row["label"] for row in found], clf.predict([f"{TEXTS[row % 24]} {row}" for row in range(64)]).tolist())
        said = client.get("/metrics").text
    assert 'clfm_batch_texts_sum{model="m"} 64.0' in said
    batches = next(
        float(line.split()[-1]) for line in said.splitlines()
        if line.startswith('clfm_batch_texts_count{model="m"}')
    )
    assert batches < 40 and 'clfm_request_seconds_count{route="/predict",status="200"} 64.0' in said
    assert all(
        f'clfm_drift{{figure="{name}",model="m",task="label"}}' in said
        for name in ("labels", "labels_by_chance", "unsure")
    )


def test_drift_is_told_with_intervals_and_no_text_is_kept_unless_asked(clf):
    order = np.argsort(clf.predict_proba(TEXTS).max(1), kind="stable")
    for strangest in (0, 2):
        app = make_app({"m": clf}, Limits(strangest=strangest), "word")
        with TestClient(app, headers={"authorization": "Bearer word"}) as client:
            assert client.get("/drift").json() == {"models": {"m": None}}
            assert client.get("/drift", headers={"authorization": "Bearer other"}).status_code == 401
            client.post("/predict", json=dict(texts=TEXTS))
            found, said = client.get("/drift").json()["models"]["m"], client.get("/metrics").text
        assert found["rows"] == len(TEXTS) and found["remarks"]
        assert [one["text"] for one in found["strangest"]["label"]] == [TEXTS[row] for row in order[:strangest]]
        assert not any(text in said for text in TEXTS)
        numbers = {
            line.split(" ")[0]: float(line.split(" ")[1])
            for line in said.splitlines() if line.startswith("clfm_drift")
        }
        for name in ("probability", "unsure"):
            ends = [
                numbers[f'clfm_drift{end}{{figure="{name}",model="m",task="label"}}']
                for end in ("_low", "", "_high")
            ]
            told = found["figures"][f"label: {name}"]
            assert np.allclose(ends, [told["low"], told["now"] - told["then"], told["high"]]) and ends == sorted(ends)


def test_only_the_last_thousand_texts_count(clf):
    recent = Recent(clf, most=1)
    for text in ("first", *TEXTS[:20]): recent.add([text] * 100, clf.answers([text] * 100))
    assert recent.count == 2100 and recent.seen().rows == 1000
    assert recent.drift().strangest["label"][0]["row"] >= 1100
    recent.add([], clf.answers([]))
    assert recent.count == 2100


MALFORMED = [
    (body, "application/json") for body in (
        b"", b"{", b"[]", b"null", b"3", b'"a"', b"{}", b'{"texts": []}', b'{"texts": {}}', b'{"texts": "a"}',
        b'{"text": 3}', b'{"text": null}', b'{"texts": [null]}', b'{"texts": ["a", 3]}', b'{"texts": [["a"]]}',
        b'{"text": {}}', b'{"text": {"a": 1}}', b'{"txt": "a"}', b'{"text": "a", "texts": ["a"]}',
        b'{"text": "a", "more": 1}', b'{"text": "\xff"}', b"\xff\xfe{", b'{"text": "\\ud800"}', b'{"text": "a"',
        b'{"text": "a"}}', b"{'text': 'a'}", b"[" * 3000, b'{"text": ' + b"[" * 3000,
        b'{"texts": ' + b'{"a":' * 2000, b'{"texts": [' + b'"a",' * 300 + b'"a"]}',
        b'{"text": "' + b"a" * 30_000 + b'"}', b"x" * 500_000, b'{"text": "a"}'.decode().encode("utf-16"), b"%00",
        b'{"texts": [NaN]}', b'{"text": 1e999}',
    )
] + [
    (b'{"text": "a"}', content) for content in (
        "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "/", "é".encode()
    )
]


def test_what_is_malformed_is_refused_in_one_sentence(client):
    number = 0
    for route in ("/predict/one", "/predict/tasks", "/predict/marks", "/v1/systemone", "/predict/nobody"):
        for body, content in MALFORMED:
            if (body, route) == (b'{"text": "a"}', "/v1/systemone") and content == "application/json": continue
            reply = client.post(route, content=body, headers={"content-type": content})
            assert 400 <= reply.status_code < 500, (route, body[:40], reply.status_code)
            said = reply.json()["error"]
            assert said and "\n" not in said and "Traceback" not in said and len(said) < 400
            number += 1
    assert number >= 200
    assert client.post("/predict/one", json=dict(text="a")).status_code == 200


QUOTES = b'\\"' * 1_900_000


@pytest.mark.parametrize(
    "body", [b'"' + QUOTES, b'{"text": ["' + QUOTES, b"[]," * 1_200_000, b"[" * 3_900_000],
    ids=["one string", "a string inside", "many lists", "deep"],
)
def test_a_large_body_that_is_no_json_is_refused_after_one_look(body, client):
    reply = client.post("/predict/one", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert "is no JSON" in reply.json()["error"] or "brackets deep" in reply.json()["error"]


@pytest.mark.parametrize("more, said", [
    (dict(model=["one"]), "model must be the name of one"), (dict(model={"one": 1}), "model must be the name of one"),
    (dict(model=3), "model must be the name of one"),
    (dict(), "say which, in the path or as model: one, several"),
    (dict(model="ones"), "did you mean 'one'?"),
    (dict(model="one", questions={"q": {"type": ["choice"]}}), "must have a type"),
    (dict(model="one", questions={"q": {"type": {}}}), "must have a type"),
])
def test_a_decision_that_names_no_model_or_type_is_refused(more, said, client):
    asked = dict(state="a", questions={"q": dict(type="choice", criteria={"a": None, "b": None})})
    reply = client.post("/v1/systemone", json=asked | more)
    assert 400 <= reply.status_code < 500 and said in reply.json()["error"]


def test_who_does_not_ask_or_does_not_listen_is_let_go(clf):
    app = make_app({"m": clf}, limits := Limits(slow=0.5, ending=1))
    server = uvicorn.Server(settings_of(app, limits))
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        ended = pool.submit(server.run, [listening])
        connect = lambda: socket.create_connection(listening.getsockname(), 20)
        try:
            for silent in (b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nhost: a\r\n"):
                with connect() as client:
                    client.sendall(silent)
                    assert client.recv(1000) == b""
            body = json.dumps(dict(texts=["a"] * 250)).encode()
            head = (
                b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n" % len(body)
            )
            with connect() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.settimeout(5)
                try:
                    for _ in range(400): deaf.sendall(head + body)
                except TimeoutError: pass  # the server no longer reads what it cannot answer
                while not any(one.flow.write_paused for one in server.server_state.connections):
                    threading.Event().wait(0.01)
                server.should_exit = True
                ended.result(60)
        finally: server.should_exit = True
    assert app.state.server.cut >= 1


@pytest.mark.parametrize("path, method, status, said", [
    ("/predict", "POST", 404, "this server has several models; say which, in the path or as model: one, several"),
    ("/predict/ones", "POST", 404, "did you mean 'one'?"), ("/nowhere", "GET", 404, "no such route"),
    ("/predict/one", "GET", 405, "another method"), ("/predict/one/", "POST", 404, "no such route"),
    ("/predict/../metrics/x", "POST", 404, "no such route"),
])
def test_what_is_not_there_is_said(path, method, status, said, client):
    reply = client.request(method, path, **(dict(json=dict(text="a")) if method == "POST" else {}))
    assert reply.status_code == status and said in reply.json()["error"]


def test_a_token_opens_what_is_not_open(clf):
    with TestClient(make_app({"m": clf}, token="geheim")) as client:
        for path in ("/", "/healthz", "/readyz", "/openapi.json"): assert client.get(path).status_code == 200
        for headers in (
            {}, {"authorization": "Bearer x"}, {"authorization": "geheim"}, {"authorization": "Bearer é".encode()}
        ):
            reply = client.post("/predict", json=dict(text="a"), headers=headers)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        reply = client.post("/predict", json=dict(text="a"), headers={"authorization": "Bearer geheim"})
        assert reply.status_code == 200
        assert client.get("/metrics", headers={"authorization": "bearer geheim"}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere_and_the_routes_are_described(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http:" not in page.text and "https:" not in page.text and "src=" not in page.text
    assert '"several"' in page.text
    told = client.get("/openapi.json").json()["paths"]
    assert told["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]["one"]["value"]["text"]
    replies = told["/predict/{model}"]["post"]["responses"]
    example = lambda status: replies[status]["content"]["application/json"]["example"]
    real = client.post("/predict/one", json=dict(text="a")).json()
    assert example("200").keys() == real.keys() and example("200")["answers"][0].keys() <= real["answers"][0].keys()
    assert "Retry-After" in replies["429"]["headers"]
    assert len({example(status)["error"] for status in replies if status != "200"}) == 9
    assert client.get("/docs").status_code == 404
    assert client.get("/readyz").json() == dict(ready=True, models=["one", "several", "marks", "late", "tasks"])


def test_what_a_model_raises_is_told_without_its_words(clf, monkeypatch, caplog):
    from clfm_kit_serve.replies import Model
    def fails(self, texts): raise RuntimeError(f"cannot read {texts}")
    monkeypatch.setattr(Model, "answer", fails)
    with caplog.at_level(logging.DEBUG), TestClient(make_app({"m": clf})) as client:
        reply = client.post("/predict", json=dict(text="my secret"))
        assert (reply.status_code, reply.json()) == (500, dict(error="the model gave no answer (RuntimeError)"))
        assert client.get("/healthz").status_code == 200
    assert "secret" not in caplog.text and "RuntimeError" in caplog.text


def test_a_full_queue_refuses_and_what_waits_is_answered():
    begun, go = threading.Event(), threading.Event()
    def slowly(texts):
        begun.set()
        assert go.wait(60)
        return texts
    async def main():
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(slowly, pool, Limits(queue=4, tokens=1, wait=0))
            running = asyncio.create_task(batcher.run())
            first = asyncio.create_task(batcher.ask(["a"]))
            await asyncio.to_thread(begun.wait, 60)
            waiting = [asyncio.create_task(batcher.ask(["b", "c"])) for _ in range(2)]
            gone = waiting.pop()
            await asyncio.sleep(0)
            with pytest.raises(Refused) as told: await asyncio.wait_for(batcher.ask(["d"]), 30)
            assert told.value.status == 429 and told.value.after >= 1
            gone.cancel()
            batcher.close()
            with pytest.raises(Refused) as late: await asyncio.wait_for(batcher.ask(["e"]), 30)
            assert late.value.status == 503
            go.set()
            await running
            return await asyncio.wait_for(asyncio.gather(first, waiting[0]), 30)
    assert asyncio.run(main()) == [["a"], ["b", "c"]]


def test_a_slow_request_is_given_up(clf):
    async def main():
        app, sent = make_app({"m": clf}, Limits(slow=0.01)), []
        pieces = iter([dict(type="http.request", body=b'{"te', more_body=True)])
        async def receive():
            for piece in pieces: return piece
            await asyncio.Event().wait()
        async def send(message): sent.append(message)
        headers = [(b"content-type", b"application/json")]
        await app(dict(
            type="http", method="POST", path="/predict", raw_path=b"/predict", query_string=b"", headers=headers,
            scheme="http", http_version="1.1", server=("a", 1), client=("b", 2), root_path="",
            asgi=dict(version="3.0"),
        ), receive, send)
        return sent[0]["status"]
    assert asyncio.run(main()) == 408


# ---- typed decisions

def decide(client, model, **questions):
    return client.post("/v1/systemone", json=dict(model=model, state=TEXTS[0], questions=questions))


def test_decisions_are_those_of_the_task_whatever_the_order_of_options(client, kinds):
    labels, chances = kinds["one"].answer([TEXTS[0]])
    options = dict(zip(map(str, kinds["one"].classes_), chances[0].tolist()))
    for names in (list(options), list(options)[::-1], list(options)[2:5]):
        reply = decide(client, "one", about=dict(type="choice", instructions="?", criteria=dict.fromkeys(names))).json()
        answer, some = reply["answers"]["about"], {name: options[name] for name in names}
        assert answer["choice"] == max(some, key=some.get) and reply["usage"]["output_tokens"] == 0
        near(answer["probabilities"], {name: value / sum(some.values()) for name, value in some.items()})
    marks = kinds["marks"].predict_proba([TEXTS[0]])[0]
    stars = dict(type="score", instructions="?", criteria=["1", "2", "3", "4"])
    answer = decide(client, "marks", stars=stars).json()["answers"]["stars"]
    assert answer["legend"] == {"0": "1", "1": "2", "2": "3", "3": "4"}
    assert np.isclose(answer["score"], marks @ [0, 1, 2, 3], atol=1e-3)
    late = kinds["late"].predict_proba([TEXTS[0]])[0][list(kinds["late"].classes_).index("yes")]
    answers = decide(client, "late", is_late=dict(type="noul", instructions="?")).json()["answers"]
    near(answers, dict(is_late=dict(type="noul", noul=float(late))))
    asks = decide(client, "several", asks=dict(type="noul", instructions="?")).json()["answers"]["asks"]["noul"]
    expected = kinds["several"].predict_proba([TEXTS[0]])[0][list(kinds["several"].classes_).index("asks")]
    assert np.isclose(asks, expected, atol=1e-3)


def test_options_that_were_not_trained_are_compared_by_name_whatever_their_order(client, kinds):
    told = {"weather": "rain and sun", "track_order": None, "a late parcel": "where it is"}
    zero = Classifier("zero-shot", kinds["one"].model, cache=None, labels=told)
    expected = dict(zip(zero.classes_, zero.predict_proba([TEXTS[0]])[0].tolist()))
    for names in (list(told), list(told)[::-1]):
        asked = dict(type="choice", instructions="?", criteria={name: told[name] for name in names})
        own = dict(type="choice", criteria=dict.fromkeys(map(str, kinds["one"].classes_)))
        found = decide(client, "one", new=asked, own=own).json()["answers"]
        assert found["new"]["trained"] is False and "trained" not in found["own"]
        assert found["new"]["choice"] == max(expected, key=expected.get)
        assert list(found["new"]["probabilities"]) == names
        near(found["new"]["probabilities"], {name: expected[name] for name in names})
    levels = ["calm", "annoyed", "furious"]
    score = decide(client, "one", anger=dict(type="score", criteria=levels)).json()["answers"]["anger"]
    assert score["trained"] is False and score["legend"] == dict(zip("012", levels))
    assert np.isclose(score["score"], sum(int(level) * share for level, share in score["probabilities"].items()))
    turned = decide(client, "one", anger=dict(type="score", criteria=levels[::-1])).json()["answers"]["anger"]
    near(dict(zip(levels, score["probabilities"].values())), dict(zip(levels[::-1], turned["probabilities"].values())))


def test_a_base_that_training_changed_says_why_it_cannot_go_by_names(tiny):
    rows = load_data("helpdesk").train.take(range(60))
    trained = Classifier("finetune", tiny, ["training.epochs=1"], cache=None).fit(rows)
    with TestClient(make_app({"m": trained})) as client:
        reply = decide(client, "m", q=dict(type="choice", criteria={"weather": None, "sports": None}))
        assert reply.status_code == 422
        assert "was not trained on unknown option 'weather'" in reply.json()["error"]
        assert "training changed its base" in reply.json()["error"]


@pytest.mark.parametrize("model, question, said", [
    ("one", dict(type="choice", criteria={"weather": None}), "was not trained on unknown option 'weather'"),
    ("one", dict(type="choice", criteria={"weather": None}), "an answer is chosen out of two at least"),
    ("one", dict(type="choice", criteria={"weather": None, "Weather ": 3}), "a text expected"),
    ("one", dict(type="choice", criteria={"a b": None, "a_b": None}), "read alike"),
    ("one", dict(type="choice", criteria={"a": "x" * 2000, "b": None}), "1000 are read"),
    ("one", dict(type="choice", criteria={str(n): None for n in range(99)}), "99 options given; up to 64 are compared"),
    ("one", dict(type="score", criteria=["low", "low"]), "each once"),
    ("one", dict(type="choice"), "criteria must be an object"),
    ("one", dict(type="noul"), "a noul is for a task with the labels yes and no"),
    ("one", dict(type="box"), "must have a type"), ("one", 3, "must have a type"),
    ("marks", dict(type="score", criteria=["4", "3", "2", "1"]), "names all of them in that order"),
    ("late", dict(type="score", criteria=["no", "yes"]), "a score is for a task whose labels have an order"),
    ("several", dict(type="choice", criteria={"asks": None}), "ask for each label with a noul"),
    ("tasks", dict(type="choice", criteria={"a": None}), "no task has this name"),
])
def test_questions_that_no_task_answers_are_refused(model, question, said, client):
    reply = decide(client, model, q=question)
    assert reply.status_code == 422 and said in reply.json()["error"], reply.json()


# ---- one base for several models

def weights(*classifiers):
    "Numbers in the weights of some classifiers' bases, those that are the same counted once."
    bases = [clf.encoder_.backbone.model for clf in classifiers]
    return sum({p.data_ptr(): p.numel() for base in bases for p in base.parameters()}.values())


def test_models_on_one_base_hold_it_once_and_answer_as_before(fitted, tiny, tmp_path):
    rows = load_data("helpdesk").train.take(range(80))
    other = Classifier("probe", tiny, ["pooler=first"], cache=None).fit(rows).save_pretrained(tmp_path / "other")
    trained = Classifier("finetune", tiny, ["training.epochs=1"], cache=None).fit(rows)
    trained = trained.save_pretrained(tmp_path / "trained")
    folders = fitted, other, trained
    apart = [Classifier.from_pretrained(folder) for folder in folders]
    loads = []
    with held_once(), pytest.MonkeyPatch.context() as patch:
        load = Backbone.load
        patch.setattr(Backbone, "load", lambda *given: loads.append(given) or load(*given))
        first, second, third = together = [Classifier.from_pretrained(folder) for folder in folders]
    assert len(loads) == 2  # the second never was a base of its own, not for a moment
    assert second.encoder_.backbone.model is first.encoder_.backbone.model
    assert third.encoder_.backbone.model is not first.encoder_.backbone.model  # training changed it
    assert weights(*apart) == 3 * weights(first) and weights(*together) == 2 * weights(first)
    for was, now in zip(apart, together): assert np.array_equal(was.predict_proba(TEXTS), now.predict_proba(TEXTS))
    with ThreadPoolExecutor(4) as pool:  # passes over shared weights do not meet
        found = list(pool.map(lambda turn: together[turn % 2].predict_proba(TEXTS), range(12)))
    for turn, chances in enumerate(found): assert np.array_equal(chances, apart[turn % 2].predict_proba(TEXTS))


def test_other_blocks_or_another_tokenizer_are_another_base(tiny, tmp_path):
    other = shutil.copytree(tiny, tmp_path / "base")
    words = json.loads((other / "tokenizer.json").read_text())
    words["normalizer"]["lowercase"] = not words["normalizer"]["lowercase"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with held_once():
        first = load_frozen(tiny)
        others = [load_frozen(tiny, depth=1), load_frozen(str(other)), load_frozen(tiny, attention="bidirectional")]
        assert load_frozen(tiny).model is first.model
    assert all(each.model is not first.model for each in others)


# ---- the process

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_every_accepted_request(number, fitted, clf):
    process, port = started(fitted, "--batch-tokens", 1, "--queue", 10_000)
    expected, body = clf.predict(TEXTS).tolist(), json.dumps(dict(texts=TEXTS))
    open_ = [HTTPConnection("127.0.0.1", port, timeout=120) for _ in range(24)]
    for each in open_: each.request("POST", "/predict", body, {"content-type": "application/json"})
    for _ in range(3):  # those before it have been taken in
        beside = HTTPConnection("127.0.0.1", port, timeout=120)
        beside.request("GET", "/healthz")
        assert beside.getresponse().read() == b'{"alive":true}'
    process.send_signal(number)
    for each in open_:
        reply = each.getresponse()
        assert reply.status == 200 and [row["label"] for row in json.loads(reply.read())["answers"]] == expected
    done = process.wait()
    assert (done.returncode, done.stdout) == (0, "") and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "clfm: no accepted request was cut off"
    assert not any(text in done.stderr for text in TEXTS)
    with pytest.raises(OSError): socket.create_connection(("127.0.0.1", port), 5).close()


def test_a_port_that_is_taken_is_told_in_a_sentence(fitted):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        refused(clfm("serve", fitted, "--port", port), f"port {port} of 127.0.0.1 cannot be had", "give another --port")
    refused(clfm("serve", fitted, fitted), "are both called 'model'")
    refused(clfm("serve", fitted, "--queue", 0), "queue is 0")
