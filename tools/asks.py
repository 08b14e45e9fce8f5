"""What `python WORDS` does, in a process that afresh.py's server forks: `python asks.py WORDS`.

It imports little, so that it starts at once. Where there is no server, and for options that only a new interpreter
takes, it becomes that interpreter.
"""
import json
import os
import signal
import socket
import sys

PLACE = "CLFM_KIT_AFRESH"  # the variable that names the server's socket
SEED = "5"  # of hashes
FIRST = "-c", "-m", "-u"  # options that a forked process takes, too


def asked(place, words, streams, variables, began=lambda number: None):
    """The exit code of `python WORDS`, forked by the server at `place`; `began` is told its process number.

    It has the three `streams` and these `variables`, and it is killed when the one that asks ends first.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(place))
        socket.send_fds(asking, [b"\n"], streams)
        said = json.dumps(dict(words=[*map(str, words)], folder=os.getcwd(), variables=dict(variables)))
        asking.sendall(said.encode() + b"\n")
        answers = asking.makefile("rb")
        began(int(answers.readline()))
        return int(answers.readline() or -9)  # a server that was killed says no code


def forks(words, variables):
    "Whether a forked process does the same as a new interpreter."
    takes = bool(words) and (words[0] in FIRST or not words[0].startswith("-")) and words[:2] != ["-m", "pip"]
    return takes and PLACE in variables and variables.get("PYTHONHASHSEED", SEED) == SEED


def passed_on(number):
    "What ends this process ends the one that was forked for it."
    for which in (signal.SIGINT, signal.SIGTERM): signal.signal(which, lambda given, _: os.kill(number, given))


def main(words):
    if not forks(words, os.environ): os.execv(sys.executable, [sys.executable, *words])
    code = asked(os.environ[PLACE], words, (0, 1, 2), os.environ, passed_on)
    if code < 0:
        if -code != signal.SIGKILL: signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__": main(sys.argv[1:])
