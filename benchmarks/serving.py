"""`clfm serve` under 32 clients that ask one text each: dynamic batching beside the same server that answers each request
by itself, in turn; then latency at half of the saturated load beside that of a client alone. Answers are compared with
those of the classifier offline.

    python benchmarks/serving.py --requests 640 --rounds 3
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

from common import write

HEADERS = {"content-type": "application/json"}
LOCAL = threading.local()


def ask(port, text):
    "Seconds, status and answer of one request, over the connection of this thread."
    connections = vars(LOCAL).setdefault("connections", {})
    if port not in connections: connections[port] = HTTPConnection("127.0.0.1", port, timeout=120)
    started = time.perf_counter()
    connections[port].request("POST", "/predict", json.dumps({"text": text}), HEADERS)
    reply = connections[port].getresponse()
    found = json.loads(reply.read())
    return time.perf_counter() - started, reply.status, found


def start(folder, *words):
    "A server, and its port once it listens."
    process = subprocess.Popen(
        ["clfm", "serve", folder, "--port", "0", *words], stderr=subprocess.PIPE, text=True, env=os.environ | {"CLFM_KIT_TOKEN": ""}
    )
    line = process.stderr.readline()
    while "Ctrl-C ends it" not in line:
        if not line: sys.exit("the server did not start")
        line = process.stderr.readline()
    return process, int(line.partition("127.0.0.1:")[2].partition(";")[0])


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=640, help="of one side in one round; 5,000 at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32, help="64 at most")
    parser.add_argument("--recipe", default="probe")
    given = parser.parse_args()
    number, clients = min(given.requests, 5000), min(given.clients, 64)
    from clfm_kit import Classifier, load_data
    rows = load_data("helpdesk").test.texts
    texts = [f"{rows[row % len(rows)][:60]} {row}" for row in range(number)]
    with tempfile.TemporaryDirectory() as home:
        clf = Classifier(given.recipe, cache=None).fit("helpdesk")
        clf.save_pretrained(Path(home, "model"))
        labels, chances = clf.answer(texts)
        sides = {"batching": [], "one by one": ["--batch-tokens", "1", "--wait", "0"]}
        servers = {name: start(str(Path(home, "model")), *words) for name, words in sides.items()}
        rates, wrong, found = {name: [] for name in sides}, 0, []
        try:
            for _, port in servers.values(): saturated(port, texts[:64], clients)
            for turn in range(given.rounds):
                for name, (_, port) in servers.items():
                    rate, replies = saturated(port, texts, clients)
                    rates[name].append(rate)
                    for row, (_, status, reply) in enumerate(replies):
                        answer = reply["answers"][0] if status == 200 else {}
                        sure = answer.get("probabilities", {}).get(str(labels[row]), -1)
                        wrong += answer.get("label") != labels[row] or abs(sure - chances[row].max()) > 1e-3
                    seconds = sorted(reply[0] for reply in replies)
                    found.append(dict(turn=turn, side=name, requests_a_second=rate, p50_ms=1e3 * seconds[len(seconds) // 2]))
                    print(found[-1], flush=True)
            port, rate = servers["batching"][1], statistics.median(rates["batching"]) / 2
            alone = sorted(ask(port, text)[0] for text in texts[:200])
            half = sorted(paced(port, texts, rate, clients))
        finally:
            for process, _ in servers.values(): process.send_signal(signal.SIGTERM)
            ends = [process.wait(60) for process, _ in servers.values()]
    p99 = lambda seconds: 1e3 * seconds[int(0.99 * (len(seconds) - 1))]
    write("serving", dict(
        times_one_by_one=statistics.median(a / b for a, b in zip(*rates.values())), requests_a_second=2 * rate,
        wrong_or_lost=int(wrong), alone_p50_ms=1e3 * alone[len(alone) // 2], half_load_p50_ms=1e3 * half[len(half) // 2],
        half_load_p99_ms=p99(half), p99_of_half_load_over_alone=p99(half) / (1e3 * alone[len(alone) // 2]),
        exit_codes_not_0=sum(map(bool, ends)),
    ), found)


if __name__ == "__main__": main()
