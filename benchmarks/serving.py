"""`clfm serve` under 32 clients that ask one text each: dynamic batching beside the same server that answers each
request by itself, a plain FastAPI endpoint and, where it is installed, LitServe, in turn; then latency at half of the
saturated load beside that of a client alone, and seconds from start to ready beside loading in Python. Answers are
compared with those of the classifier offline.

    python benchmarks/serving.py --requests 640 --rounds 3
    python benchmarks/serving.py --soak 100000 --clients 64

With `--soak`, so many short requests instead, 200 malformed ones in between: memory of the server after a tenth, half
and all of them, and what was lost, wrong or not refused.
"""
import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import psutil
from common import write

JSON = "application/json"
LOCAL = threading.local()
BASELINES = Path(__file__).with_name("serving_baselines.py")
PATIENCE = 300  # seconds until a server answers, on a busy machine

MALFORMED = [
    (b"", JSON), (b"{", JSON), (b"[]", JSON), (b"null", JSON), (b'{"texts": []}', JSON), (b'{"text": 3}', JSON),
    (b'{"text": null}', JSON), (b'{"texts": ["a", 3]}', JSON), (b'{"txt": "a"}', JSON), (b'{"text": "\xff"}', JSON),
    (b'{"text": "\\ud800"}', JSON), (b"[" * 3000, JSON), (b'{"texts": ' + b'{"a":' * 2000, JSON),
    (b'{"texts": [NaN]}', JSON),
    (b'{"text": "' + b"a" * 30_000 + b'"}', JSON), (b'{"texts": [' + b'"a",' * 300 + b'"a"]}', JSON),
    (b'{"text": "a"}', "text/plain"), (b'{"text": "a"}', "multipart/form-data"), (b"x" * 100_000, JSON),
    (b'{"text": {}}', JSON),
]


def post(port, body, kind=JSON):
    "Seconds, status and body of one request, over the connection of this thread."
    connections = vars(LOCAL).setdefault("connections", {})
    if port not in connections: connections[port] = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    started = time.perf_counter()
    try:
        connections[port].request("POST", "/predict", body, {"content-type": kind})
        reply = connections[port].getresponse()
        found = json.loads(reply.read())
    except (OSError, ValueError) as error:  # it counts as lost
        connections.pop(port).close()
        return time.perf_counter() - started, 0, {"error": repr(error)}
    if reply.will_close: connections.pop(port).close()
    return time.perf_counter() - started, reply.status, found


def ask(port, text):
    "Seconds, status and answer of a text."
    return post(port, json.dumps({"text": text}))


def free():
    "A port that nobody listens on."
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(*words):
    "`clfm serve WORDS`, and its port once it listens."
    port = free()
    return ready(["clfm", "serve", *map(str, words), "--port", str(port)], port)


def start_baseline(side, folder):
    "A baseline, and its port once it answers."
    port = free()
    return ready([sys.executable, str(BASELINES), side, str(folder), str(port)], port)


def ready(command, port):
    "A process that serves, and its port, once it answers a text."
    environment = os.environ | {"CLFM_KIT_TOKEN": ""}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    end = time.monotonic() + PATIENCE
    while post(port, b'{"text": "a"}')[1] != 200:
        if process.poll() is not None or time.monotonic() > end: sys.exit(f"{command[1]} did not start")
        time.sleep(0.02)
    return process, port


def stop(*processes):
    "End servers and what they have started; their exit codes."
    children = [child for process in processes for child in psutil.Process(process.pid).children(recursive=True)]
    for process in processes: process.send_signal(signal.SIGTERM)
    codes = [process.wait(60) for process in processes]
    for child in psutil.wait_procs(children, 10)[1]: child.kill()
    return codes


def saturated(port, texts, clients):
    "Requests a second of clients that each ask again when they are answered, and what was answered."
    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        found = list(pool.map(lambda text: ask(port, text), texts))
        return len(texts) / (time.perf_counter() - started), found


def paced(port, texts, rate, clients):
    "Seconds of requests that come at a steady rate, from when each was to be sent."
    begin = time.perf_counter() + 0.1
    def one(row):
        wanted = begin + row / rate
        threading.Event().wait(max(wanted - time.perf_counter(), 0))
        ask(port, texts[row])
        return time.perf_counter() - wanted
    with ThreadPoolExecutor(clients) as pool: return list(pool.map(one, range(len(texts))))


def is_right(status, reply, label, chance):
    "Whether a reply is what the classifier says offline; a probability may differ by 0.001."
    answer = reply["answers"][0] if status == 200 else {}
    return answer.get("label") == label and abs(answer["probabilities"][str(label)] - chance) <= 1e-3


def waited(folder, rounds):
    "Seconds from start to the first answer of a server, and of loading and one answer in Python, in turn."
    script = "import sys; from clfm_kit import Classifier; Classifier.from_pretrained(sys.argv[1]).predict(['a'])"
    served, loaded = [], []
    for turn in range(rounds):
        begun = time.perf_counter()
        process, _ = start(folder)
        served.append(time.perf_counter() - begun)
        stop(process)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
        loaded.append(time.perf_counter() - begun)
    return served, loaded


def soak(folder, texts, expected, number, clients):
    "Figures of `number` requests over `texts`, whose (label, probability) are expected; malformed ones in between."
    process, port = start(folder)
    memory = psutil.Process(process.pid).memory_info
    wrong, unrefused, marks, done, lock = [], [], {}, [0], threading.Lock()
    wanted, gap = {max(number * share // 100, 1): share for share in (10, 50, 100)}, max(number // 200, 1)
    def one(row):
        _, status, reply = ask(port, texts[row % len(texts)])
        if not is_right(status, reply, *expected[row % len(texts)]): wrong.append((row, status))
        if row % gap == 0:
            body, kind = MALFORMED[row // gap % len(MALFORMED)]
            status = post(port, body, kind)[1]
            if not 400 <= status < 500: unrefused.append((row, status))
        with lock:
            done[0] += 1
            if share := wanted.get(done[0]):
                marks[share] = memory().rss / 1e6
                print(f"{share} %: {marks[share]:.0f} MB, {len(wrong)} wrong or lost", flush=True)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(one, range(number)): pass
    seconds = time.perf_counter() - started
    code, = stop(process)
    print(wrong[:5], unrefused[:5])
    return dict(
        requests=number, requests_a_second=number / seconds, wrong_or_lost=len(wrong),
        malformed=len(range(0, number, gap)),
        malformed_not_refused=len(unrefused), **{f"memory_mb_at_{share}": marks[share] for share in (10, 50, 100)},
        growth_from_10_to_100=marks[100] / marks[10] - 1, exit_code=code,
    )


def compared(folder, texts, expected, clients, rounds):
    "Figures and rows of all sides in turn."
    servers, wrong, found = {}, 0, []
    try:
        servers["batching"] = start(folder)
        servers["one by one"] = start(folder, "--batch-tokens", "1", "--wait", "0")
        for side in filter(find_spec, ("fastapi", "litserve")): servers[side] = start_baseline(side, folder)
        rates = {name: [] for name in servers}
        for _, port in servers.values(): saturated(port, texts[:64], clients)
        for turn in range(rounds):
            for name, (_, port) in servers.items():
                rate, replies = saturated(port, texts, clients)
                rates[name].append(rate)
                amiss = sum(not is_right(*reply, *one) for (_, *reply), one in zip(replies, expected))
                if name in ("batching", "one by one"): wrong += amiss
                seconds = sorted(reply[0] for reply in replies)
                found.append(dict(
                    turn=turn, side=name, requests_a_second=rate, p50_ms=1e3 * seconds[len(seconds) // 2], wrong=amiss
                ))
                print(found[-1], flush=True)
        port, rate = servers["batching"][1], statistics.median(rates["batching"]) / 2
        alone = sorted(ask(port, text)[0] for text in texts[:200])
        half = sorted(paced(port, texts, rate, clients))
    finally: codes = stop(*(process for process, _ in servers.values()))
    p99 = lambda seconds: 1e3 * seconds[int(0.99 * (len(seconds) - 1))]
    times = {
        f"times_{name.replace(' ', '_')}": statistics.median(a / b for a, b in zip(rates["batching"], other))
        for name, other in rates.items() if name != "batching"
    }
    return dict(
        **times, requests_a_second=2 * rate, wrong_or_lost=wrong, alone_p50_ms=1e3 * alone[len(alone) // 2],
        half_load_p50_ms=1e3 * half[len(half) // 2], half_load_p99_ms=p99(half),
        p99_of_half_load_over_alone=p99(half) / (1e3 * alone[len(alone) // 2]),
        exit_codes_not_0=sum(map(bool, codes[:2])),
    ), found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=640, help="of one side in one round; 5,000 at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32, help="64 at most")
    parser.add_argument("--recipe", default="probe")
    parser.add_argument("--soak", type=int, default=0, help="so many short requests in the place of the comparison")
    given = parser.parse_args()
    number, clients = min(given.soak or given.requests, 5000), min(given.clients, 64)
    from clfm_kit import Classifier, load_data
    rows = load_data("helpdesk").test.texts
    texts = [f"{rows[row % len(rows)][:60]} {row}" for row in range(number)]
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "model")
        clf = Classifier(given.recipe).fit("helpdesk")
        clf.save_pretrained(folder)
        labels, chances = clf.answer(texts)
        expected = list(zip(labels.tolist(), chances.max(1).tolist()))
        if given.soak:
            return write("serving_soak", soak(folder, texts, expected, given.soak, clients), [])
        figures, found = compared(folder, texts, expected, clients, given.rounds)
        served, loaded = waited(folder, given.rounds)
    figures |= dict(
        start_seconds=statistics.median(served), loading_seconds=statistics.median(loaded),
        start_over_loading=statistics.median(a / b for a, b in zip(served, loaded)),
    )
    write("serving", figures, found)


if __name__ == "__main__": main()
